//! The files of a node, read once and checked against their manifest before anything else.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read as _};
use std::path::{Component, Path};
use std::sync::OnceLock;

use rustix::fs::{Mode, OFlags};

use super::signature::Signers;
use crate::artifact::generation::{names, with_generation, with_note};
use crate::artifact::layout::{
    self, FLOWS, GROUPS, MANIFEST, NODE, PLACES, PLACES_SIGNATURE, RULESET, SIGNATURE,
};
use crate::artifact::manifest::Manifest;
use crate::artifact::node::{NodeConfig, Router};
use crate::artifact::places::Places;
use crate::dataplane::origin::Cookie;
use crate::diagnostic::{Code, Diagnostic, quoted, reason};

/// The most bytes of one file.
const MAX_BYTES: u64 = 1 << 30;

/// What a node is to become. Everything is in memory: what was checked is what is used.
#[derive(Clone, Debug)]
pub(super) struct Artifacts {
    /// The manifest.
    pub(super) manifest: Manifest,
    /// `node.json`.
    pub(super) wiring: NodeConfig,
    /// `flows.ofctl`, and behind it the flow that tells the generation.
    pub(super) flows: String,
    /// `groups.ofctl`; empty where there are no services.
    pub(super) groups: String,
    /// The rulesets: that of the node under the empty name, with the generation, and those of
    /// egress routers under theirs.
    pub(super) rulesets: BTreeMap<String, Vec<u8>>,
    /// The names of the objects by their cookies, once somebody has asked for them.
    objects: OnceLock<BTreeMap<Cookie, String>>,
    /// Where the objects are defined, where that came along.
    places: Option<Places>,
    /// How much of the flows is their file.
    flows_file: usize,
    /// All files but the flows as they were read, those that were parsed among them.
    others: BTreeMap<String, Vec<u8>>,
}

/// The path of a ruleset, by the name under which [`Artifacts::rulesets`] has it.
fn ruleset_path(name: &str) -> String {
    if name.is_empty() { RULESET.to_owned() } else { format!("{}/{RULESET}", layout::router(name)) }
}

impl Artifacts {
    /// Reads the directory of one node. With `signers`, nothing of it is looked at before one of
    /// them has signed it.
    pub(super) fn read(directory: &Path, signers: Option<&Signers>) -> Result<Self, Diagnostic> {
        let bytes = read(directory, MANIFEST)?;
        if let Some(signers) = signers {
            let there = fs::symlink_metadata(directory.join(SIGNATURE)).is_ok();
            let signature = there.then(|| read(directory, SIGNATURE)).transpose()?;
            signers.verify(&bytes, signature.as_deref())?;
        }
        let manifest: Manifest = json(&bytes, MANIFEST)?;
        if manifest.version != Manifest::VERSION {
            return Err(version(MANIFEST, manifest.version));
        }
        let generation = blake3::Hash::from_hex(&manifest.generation);
        let Some(generation) = generation.ok().filter(|_| is_digest(&manifest.generation)) else {
            let message =
                format!("{} is not the digest of a generation", quoted(&manifest.generation));
            return Err(Diagnostic::new(Code::NotOutputDirectory, message)
                .help("compile with the version of ringfence that applies"));
        };
        let mut files = BTreeMap::from([(MANIFEST.to_owned(), bytes)]);
        for (path, digest) in &manifest.files {
            let bytes = read(directory, path)?;
            if blake3::hash(&bytes).to_hex().as_str() != digest {
                let message = format!("`{path}` is not the file that the manifest names");
                return Err(Diagnostic::new(Code::Tampered, message).help(
                    "it was changed or copied in part: copy the whole directory again, or compile",
                ));
            }
            files.insert(path.clone(), bytes);
        }
        let wiring: NodeConfig = json(listed(files.get(NODE), NODE)?, NODE)?;
        if wiring.version != NodeConfig::VERSION {
            return Err(version(NODE, wiring.version));
        }
        let flows = text(listed(files.remove(FLOWS), FLOWS)?, FLOWS)?;
        let flows_file = flows.len();
        let flows = with_note(&flows, &generation);
        let groups = text(files.get(GROUPS).cloned().unwrap_or_default(), GROUPS)?;
        let mut rulesets = BTreeMap::new();
        let names = wiring.routers.iter().map(|router| router.name.to_string());
        for name in [String::new()].into_iter().chain(names) {
            let path = ruleset_path(&name);
            let file = listed(files.get(&path), &path)?;
            let loaded = match name.as_str() {
                "" => with_generation(file, &manifest.generation),
                _ => file.clone(),
            };
            rulesets.insert(name, loaded);
        }
        let places = places(directory, signers);
        let known = places.as_deref().and_then(|file| Places::parse(file, &manifest.generation));
        files.extend(places.filter(|_| known.is_some()).map(|file| (PLACES.to_owned(), file)));
        Ok(Self {
            manifest,
            wiring,
            flows,
            groups,
            rulesets,
            objects: OnceLock::new(),
            places: known,
            flows_file,
            others: files,
        })
    }

    /// The names of the objects by their cookies.
    pub(super) fn objects(&self) -> &BTreeMap<Cookie, String> {
        let owned = |(cookie, name): (Cookie, &str)| (cookie, name.to_owned());
        self.objects.get_or_init(|| names(&self.flows).into_iter().map(owned).collect())
    }

    /// Where an object is defined: `file:line:column`, if that came along.
    pub(super) fn place(&self, object: &str) -> Option<&str> {
        self.places.as_ref()?.get(object)
    }

    /// The generation.
    pub(super) fn generation(&self) -> &str {
        &self.manifest.generation
    }

    /// A file of an egress router.
    pub(super) fn router_file(&self, router: &Router, name: &str) -> Result<&[u8], Diagnostic> {
        let path = format!("{}/{name}", layout::router(router.name.as_str()));
        listed(self.others.get(&path).map(Vec::as_slice), &path)
    }

    /// All files as they were read, by their paths.
    pub(super) fn files(&self) -> impl Iterator<Item = (&str, &[u8])> {
        let flows = [(FLOWS, &self.flows.as_bytes()[..self.flows_file])];
        self.others.iter().map(|(path, bytes)| (path.as_str(), &bytes[..])).chain(flows)
    }

    /// Whether `directory` has the same files. All are compared: one that was damaged there would be
    /// noticed only when it is needed.
    pub(super) fn are_in(&self, directory: &Path) -> bool {
        let mut files = self.files();
        files.all(|(name, bytes)| read(directory, name).is_ok_and(|there| there == bytes))
    }
}

/// The file with the places, if there is one that may be believed: where files are signed, it has
/// to be signed too.
fn places(directory: &Path, signers: Option<&Signers>) -> Option<Vec<u8>> {
    fs::symlink_metadata(directory.join(PLACES)).ok()?;
    let file = read(directory, PLACES).ok()?;
    match signers {
        None => Some(file),
        Some(signers) => {
            let signature = read(directory, PLACES_SIGNATURE).ok()?;
            signers.verify(&file, Some(&signature)).ok().map(|()| file)
        }
    }
}

/// Whether a text is the digest of a generation; then it is safe as the name of a directory.
pub(super) fn is_digest(text: &str) -> bool {
    text.len() == 2 * blake3::OUT_LEN && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

fn listed<T>(file: Option<T>, path: &str) -> Result<T, Diagnostic> {
    file.ok_or_else(|| {
        let message = format!("the manifest doesn't list `{path}`");
        Diagnostic::new(Code::NotOutputDirectory, message)
            .help("compile with the version of ringfence that applies")
    })
}

fn text(bytes: Vec<u8>, name: &str) -> Result<String, Diagnostic> {
    String::from_utf8(bytes)
        .map_err(|_| Diagnostic::new(Code::NotOutputDirectory, format!("`{name}` is not UTF-8")))
}

fn read(directory: &Path, path: &str) -> Result<Vec<u8>, Diagnostic> {
    let plain = Path::new(path).components().all(|part| matches!(part, Component::Normal(_)));
    if !plain || path.contains(char::is_control) {
        let message =
            format!("the manifest lists {}, which leads nowhere in the directory", quoted(path));
        return Err(Diagnostic::new(Code::Tampered, message));
    }
    let full = directory.join(path);
    let bytes = open(directory, Path::new(path)).and_then(|mut file| {
        let metadata = file.metadata()?;
        match metadata.len() {
            // A pipe or device would never end.
            _ if !metadata.is_file() => Err(io::Error::other("not a regular file")),
            MAX_BYTES.. => Err(io::Error::other("too large to be a file of ringfence")),
            _ => {
                let mut bytes = Vec::new();
                file.read_to_end(&mut bytes).map(|_| bytes)
            }
        }
    });
    bytes.map_err(|error| {
        if let Some(link) = symbolic_link(directory, Path::new(path)) {
            return link;
        }
        let message = format!("cannot read `{}`: {}", full.display(), reason(&error));
        let code = if path == MANIFEST { Code::NotOutputDirectory } else { Code::Tampered };
        let help = if path == MANIFEST && full.with_file_name(NODE).exists() {
            "manifests are not kept in Git: run `ringfence compile` where you copy the files from"
        } else {
            "name the directory of one node in the output, such as out/node-1"
        };
        Diagnostic::new(code, message).help(help)
    })
}

/// Opens a file below a directory without following symbolic links on the way down.
fn open(directory: &Path, path: &Path) -> io::Result<File> {
    let parent = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    // A pipe without a writer would never open.
    let file = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let mut at = rustix::fs::open(directory, parent, Mode::empty())?;
    let mut parts = path.components().peekable();
    while let Some(part) = parts.next() {
        let flags = if parts.peek().is_some() { parent | OFlags::NOFOLLOW } else { file };
        at = rustix::fs::openat(&at, part.as_os_str(), flags, Mode::empty())?;
    }
    Ok(at.into())
}

/// RF217: the files of a node are files, not ways to others.
fn symbolic_link(directory: &Path, path: &Path) -> Option<Diagnostic> {
    let mut at = directory.to_owned();
    for part in path.components() {
        at.push(part);
        if fs::symlink_metadata(&at).is_ok_and(|metadata| metadata.is_symlink()) {
            let message = format!("`{}` is a symbolic link", at.display());
            return Some(
                Diagnostic::new(Code::SymbolicLink, message)
                    .help("copy the files themselves, for example with `rsync --copy-links`"),
            );
        }
    }
    None
}

fn json<T: for<'de> serde::Deserialize<'de>>(bytes: &[u8], name: &str) -> Result<T, Diagnostic> {
    serde_json::from_slice(bytes).map_err(|error| {
        let message = format!("`{name}` is not as ringfence writes it: {error}");
        Diagnostic::new(Code::NotOutputDirectory, message)
            .help("compile with the version of ringfence that applies")
    })
}

fn version(name: &str, found: u32) -> Diagnostic {
    Diagnostic::new(Code::NotOutputDirectory, format!("`{name}` has the unknown version {found}"))
        .help("compile with the version of ringfence that applies")
}
