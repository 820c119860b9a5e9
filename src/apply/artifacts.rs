//! The files of a node, read once and checked against their manifest before anything else.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Component, Path};

use crate::diagnostic::{Code, Diagnostic, quoted, reason};
use crate::output::MANIFEST;
use crate::plan::Wiring;
use crate::render::Manifest;
use crate::subject::Cookie;

/// The most bytes of one file.
const MAX_BYTES: u64 = 1 << 30;

/// What a node is to become. Everything is in memory: what was checked is what is used.
#[derive(Clone, Debug)]
pub(super) struct Artifacts {
    /// The manifest.
    pub(super) manifest: Manifest,
    /// `node.json`.
    pub(super) wiring: Wiring,
    /// `flows.ofctl`.
    pub(super) flows: String,
    /// `groups.ofctl`; empty where there are no services.
    pub(super) groups: String,
    /// The rulesets: that of the node under the empty name, those of egress routers under theirs.
    pub(super) rulesets: BTreeMap<String, Vec<u8>>,
    /// The names of the objects by their cookies.
    pub(super) objects: BTreeMap<Cookie, String>,
}

impl Artifacts {
    /// Reads the directory of one node.
    pub(super) fn read(directory: &Path) -> Result<Self, Diagnostic> {
        let manifest: Manifest = json(&read(directory, MANIFEST)?, MANIFEST)?;
        if manifest.version != Manifest::VERSION {
            return Err(version(MANIFEST, manifest.version));
        }
        let mut files = BTreeMap::new();
        for (path, digest) in &manifest.files {
            let bytes = read(directory, path)?;
            if blake3::hash(&bytes).to_hex().as_str() != digest {
                let message = format!("`{path}` is not the file that the manifest names");
                return Err(Diagnostic::new(Code::Tampered, message).help(
                    "it was changed or copied in part: copy the whole directory again, or compile",
                ));
            }
            files.insert(path.as_str(), bytes);
        }
        let groups = files.remove("groups.ofctl").unwrap_or_default();
        let groups = text(groups, "groups.ofctl")?;
        let mut take = |path: &str| {
            files.remove(path).ok_or_else(|| {
                let message = format!("the manifest doesn't list `{path}`");
                Diagnostic::new(Code::NotOutputDirectory, message)
                    .help("compile with the version of ringfence that applies")
            })
        };
        let wiring: Wiring = json(&take("node.json")?, "node.json")?;
        if wiring.version != Wiring::VERSION {
            return Err(version("node.json", wiring.version));
        }
        let flows = text(take("flows.ofctl")?, "flows.ofctl")?;
        let mut rulesets = BTreeMap::from([(String::new(), take("ruleset.nft")?)]);
        for router in &wiring.routers {
            let path = format!("routers/{}/ruleset.nft", router.name);
            rulesets.insert(router.name.to_string(), take(&path)?);
        }
        let objects: BTreeMap<Cookie, (String, String)> =
            json(&take("sourcemap.json")?, "sourcemap.json")?;
        let objects = objects.into_iter().map(|(cookie, (object, _))| (cookie, object)).collect();
        Ok(Self { manifest, wiring, flows, groups, rulesets, objects })
    }
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
    let bytes = fs::metadata(&full).and_then(|metadata| match metadata.len() {
        // A pipe or device would never end.
        _ if !metadata.is_file() => Err(io::Error::other("not a regular file")),
        MAX_BYTES.. => Err(io::Error::other("too large to be a file of ringfence")),
        _ => fs::read(&full),
    });
    bytes.map_err(|error| {
        let message = format!("cannot read `{}`: {}", full.display(), reason(&error));
        let code = if path == MANIFEST { Code::NotOutputDirectory } else { Code::Tampered };
        Diagnostic::new(code, message)
            .help("name the directory of one node in the output, such as out/node-1")
    })
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
