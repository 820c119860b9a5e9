//! The output tree: written so that it is whole, or compared with what is there.
//!
//! A file is ours if the manifests of the last run list it. Ours are replaced atomically and only
//! where they differ, those that are no longer made are removed, and all others are left alone.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use serde::{Deserialize, Serialize};

use crate::artifact::layout::{MANIFEST, SIGNATURE};
use crate::artifact::manifest::Manifest;
use crate::diagnostic::Sources;
use crate::diagnostic::{Code, Diagnostic, Report, json, reason};
use crate::emit::NodeFiles;
use crate::files::write_atomically;

/// `manifest.json` of the whole tree.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct TreeManifest {
    /// The version of this format.
    version: u32,
    /// The version of ringfence that wrote the tree.
    ringfence: String,
    /// The digest of every input, by its path from the root of the desired state.
    inputs: BTreeMap<String, String>,
    /// The digest of every node's manifest.
    nodes: BTreeMap<String, String>,
}

impl TreeManifest {
    const VERSION: u32 = 1;
}

/// A tree that is being written or compared.
#[derive(Debug)]
pub struct Output {
    root: PathBuf,
    /// Files that an earlier run wrote.
    ours: BTreeSet<PathBuf>,
    /// Nodes that an earlier run wrote, with the digests of their manifests.
    old_nodes: BTreeMap<String, String>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    nodes: BTreeMap<String, String>,
    made: BTreeSet<PathBuf>,
    changes: BTreeMap<PathBuf, Change>,
    report: Report,
    statistics: Statistics,
}

/// What a run made, for people and benchmarks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Statistics {
    /// Flows of all nodes.
    pub flows: usize,
    /// Bytes of all files.
    pub bytes: usize,
    /// Files.
    pub files: usize,
}

/// How a file differs from what it should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// It is there and shouldn't be.
    Stale,
    /// It is missing or differs; its new content.
    New(Vec<u8>),
}

/// What a finished run did.
#[derive(Debug)]
pub struct Outcome {
    /// The files that differed, by their paths from the root.
    pub changes: BTreeMap<PathBuf, Change>,
    /// Warnings, and errors of writing.
    pub report: Report,
    /// What was made.
    pub statistics: Statistics,
}

impl Output {
    /// Looks at the tree at `root`, which may not exist yet.
    pub fn open(root: &Path) -> Result<Self, Diagnostic> {
        let mut output = Self {
            root: root.to_owned(),
            ours: BTreeSet::new(),
            old_nodes: BTreeMap::new(),
            state: Mutex::default(),
        };
        let Some(tree) = output.read_manifest::<TreeManifest>(Path::new(MANIFEST))? else {
            return Ok(output);
        };
        output.ours.insert(MANIFEST.into());
        for node in tree.nodes.keys() {
            let path = Path::new(node).join(MANIFEST);
            if let Some(manifest) = output.read_manifest::<Manifest>(&path)? {
                let files = manifest.files.keys().map(|file| Path::new(node).join(file));
                output.ours.extend(files.filter(|file| is_plain(file)));
                output.ours.insert(path);
            }
        }
        output.old_nodes = tree.nodes;
        Ok(output)
    }

    fn read_manifest<T: for<'de> Deserialize<'de>>(
        &self,
        path: &Path,
    ) -> Result<Option<T>, Diagnostic> {
        let path = self.root.join(path);
        let bytes = match fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(unwritable(&path, &error)),
        };
        serde_json::from_slice(&bytes).map(Some).map_err(|error| {
            let message = format!("`{}` is no manifest of ringfence: {error}", path.display());
            Diagnostic::new(Code::OutputForeign, message)
                .help("write to an empty directory, or remove the file if the tree may be lost")
        })
    }

    /// Takes the files of one node: writes what differs, or with `check` only remembers it.
    pub fn node(&self, name: &str, node: NodeFiles, check: bool) {
        let directory = Path::new(name);
        let mut statistics = Statistics { flows: node.flows, ..Statistics::default() };
        let mut made = Vec::with_capacity(node.files.len());
        let mut changes = Vec::new();
        let mut report = Report::new();
        let mut digest = String::new();
        for (path, bytes) in node.files {
            statistics.files += 1;
            statistics.bytes += bytes.len();
            let path = directory.join(path);
            if path.ends_with(MANIFEST) {
                digest = blake3::hash(&bytes).to_hex().to_string();
            }
            match self.put(&path, bytes, check) {
                Ok(change) => changes.extend(change.map(|change| (path.clone(), change))),
                Err(diagnostic) => report.push(diagnostic),
            }
            made.push(path);
        }
        let Ok(mut state) = self.state.lock() else { return };
        state.nodes.insert(name.to_owned(), digest);
        state.made.extend(made);
        state.changes.extend(changes);
        state.report.extend(report);
        state.statistics.flows += statistics.flows;
        state.statistics.bytes += statistics.bytes;
        state.statistics.files += statistics.files;
    }

    /// Puts one file into place and tells whether it differed.
    fn put(&self, path: &Path, bytes: Vec<u8>, check: bool) -> Result<Option<Change>, Diagnostic> {
        let full = self.root.join(path);
        self.no_way_out(path)?;
        match fs::symlink_metadata(&full) {
            Ok(metadata) => {
                if metadata.is_file()
                    && metadata.len() == bytes.len() as u64
                    && fs::read(&full).is_ok_and(|old| old == bytes)
                {
                    return Ok(None);
                }
                if !self.ours.contains(path) {
                    let message = format!("`{}` is not a file of ringfence", full.display());
                    return Err(Diagnostic::new(Code::OutputForeign, message)
                        .help("write to another directory, or move the file away"));
                }
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(unwritable(&full, &error)),
        }
        if !check {
            write_atomically(&full, &bytes).map_err(|error| unwritable(&full, &error))?;
        }
        // The new content is for a diff; what was written need not be kept.
        Ok(Some(Change::New(if check { bytes } else { Vec::new() })))
    }

    /// RF217: no directory on the way to a file is a symbolic link. A file that is one is
    /// replaced, not followed.
    fn no_way_out(&self, path: &Path) -> Result<(), Diagnostic> {
        for parent in path.ancestors().skip(1).filter(|parent| !parent.as_os_str().is_empty()) {
            let full = self.root.join(parent);
            if fs::symlink_metadata(&full).is_ok_and(|metadata| metadata.is_symlink()) {
                let message = format!("`{}` is a symbolic link", full.display());
                return Err(Diagnostic::new(Code::SymbolicLink, message)
                    .help("name the directory that it leads to with --out"));
            }
        }
        Ok(())
    }

    /// Writes the manifest of the tree, removes stale files and looks for foreign ones. `only`
    /// names the one node that was made, where not all were.
    pub fn finish(self, sources: &Sources, only: Option<&str>, check: bool) -> Outcome {
        let mut state = self.state.into_inner().unwrap_or_default();
        let mut nodes = std::mem::take(&mut state.nodes);
        if only.is_some() {
            for (node, digest) in &self.old_nodes {
                nodes.entry(node.clone()).or_insert_with(|| digest.clone());
            }
        }
        let manifest = TreeManifest {
            version: TreeManifest::VERSION,
            ringfence: env!("CARGO_PKG_VERSION").to_owned(),
            inputs: sources
                .iter()
                .map(|source| {
                    let digest = blake3::hash(source.text().as_bytes());
                    (source.name().to_owned(), digest.to_hex().to_string())
                })
                .collect(),
            nodes,
        };
        let this = Self { state: Mutex::default(), ..self };
        if !state.report.has_errors() {
            let path = PathBuf::from(MANIFEST);
            match this.put(&path, json::pretty(&manifest).into_bytes(), check) {
                Ok(change) => state.changes.extend(change.map(|change| (path.clone(), change))),
                Err(diagnostic) => state.report.push(diagnostic),
            }
            state.made.insert(path);
            this.sweep(only, check, &mut state);
        }
        Outcome { changes: state.changes, report: state.report, statistics: state.statistics }
    }

    /// Removes files of ours that are no longer made, and reports others.
    fn sweep(&self, only: Option<&str>, check: bool, state: &mut State) {
        let mut found = Vec::new();
        list(&self.root, Path::new(""), &mut found);
        let mut foreign = Vec::new();
        for path in found {
            let elsewhere = only.is_some_and(|node| !path.starts_with(node));
            if state.made.contains(&path) || elsewhere {
                continue;
            }
            if !self.ours.contains(&path) {
                foreign.push(path);
                continue;
            }
            let full = self.root.join(&path);
            if !check {
                if let Err(error) = fs::remove_file(&full) {
                    state.report.push(unwritable(&full, &error));
                    continue;
                }
                remove_empty_parents(&self.root, &path);
            }
            state.changes.insert(path, Change::Stale);
        }
        // Signatures are made after compiling, and go to the nodes.
        foreign.retain(|path| path.file_name().is_none_or(|name| name != SIGNATURE));
        for path in foreign {
            let message =
                format!("`{}` is not a file of ringfence", self.root.join(path).display());
            state.report.push(
                Diagnostic::new(Code::OutputLeftover, message)
                    .help("it is left alone; nodes don't get it"),
            );
        }
    }
}

/// Whether a path of a manifest stays below the directory that it is for.
fn is_plain(path: &Path) -> bool {
    path.components().all(|part| matches!(part, std::path::Component::Normal(_)))
}

fn list(root: &Path, below: &Path, found: &mut Vec<PathBuf>) {
    let Ok(entries) = fs::read_dir(root.join(below)) else { return };
    let mut entries: Vec<_> = entries.flatten().collect();
    entries.sort_by_key(fs::DirEntry::file_name);
    for entry in entries {
        let path = below.join(entry.file_name());
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            list(root, &path, found);
        } else {
            found.push(path);
        }
    }
}

fn remove_empty_parents(root: &Path, path: &Path) {
    let parents = path.ancestors().skip(1).take_while(|parent| !parent.as_os_str().is_empty());
    for parent in parents {
        if fs::remove_dir(root.join(parent)).is_err() {
            break;
        }
    }
}

fn unwritable(path: &Path, error: &io::Error) -> Diagnostic {
    let message = format!("cannot use `{}`: {}", path.display(), reason(error));
    Diagnostic::new(Code::OutputUnwritable, message)
        .help("check the directory, its owner and the free space")
}

/// The changes as a unified diff against the tree at `root`.
#[must_use]
pub fn unified_diff(root: &Path, changes: &BTreeMap<PathBuf, Change>) -> String {
    let mut out = String::new();
    for (path, change) in changes {
        let old = fs::read(root.join(path)).unwrap_or_default();
        let new = match change {
            Change::Stale => Vec::new(),
            Change::New(bytes) => bytes.clone(),
        };
        let (old, new) = (String::from_utf8_lossy(&old), String::from_utf8_lossy(&new));
        let name = path.display();
        let diff = similar::TextDiff::from_lines(old.as_ref(), new.as_ref());
        let header = (format!("a/{name}"), format!("b/{name}"));
        out.push_str(
            &diff.unified_diff().context_radius(3).header(&header.0, &header.1).to_string(),
        );
    }
    out
}
