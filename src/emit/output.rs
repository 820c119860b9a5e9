//! The output tree: written so that it is whole, or compared with what is there.
//!
//! A file is ours if it stands in the directory of a node and has the name of one that ringfence
//! writes: nothing lists them, so a merge has no list to break. Ours are replaced atomically and
//! only where they differ, those that are no longer made are removed, and all others are left alone.

mod diff;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

pub use diff::{Count, FileDiff};

use crate::artifact::layout::{
    MANIFEST, NODE, PLACES_SIGNATURE, SIGNATURE, is_of_a_node, is_reviewed,
};
use crate::diagnostic::{Code, Diagnostic, Report, reason};
use crate::emit::NodeFiles;
use crate::files::write_atomically;

/// How the files at the top of the tree begin that are for Git.
const FOR_GIT: &str = "# Written by ringfence.";

/// The files at the top of the tree that are for Git.
const GIT_FILES: [(&str, &str); 2] = [
    (
        ".gitattributes",
        "# Written by ringfence. Reviews fold what says the same as the scripts, for machines.\n\
         node.json linguist-generated gitlab-generated\n",
    ),
    (
        ".gitignore",
        "# Written by ringfence. These follow from the other files and from where the input says\n\
         # what; `ringfence compile` makes them for the way to the nodes.\n\
         /*/manifest.json\n/*/manifest.json.sig\n/*/places.json\n/*/places.json.sig\n",
    ),
];

/// A tree that is being written or compared.
#[derive(Debug)]
pub struct Output {
    root: PathBuf,
    /// Files that an earlier run wrote.
    ours: BTreeSet<PathBuf>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
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
    /// It was written or removed.
    Done,
    /// It is only to be checked.
    Pending(FileDiff),
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
        if fs::metadata(root).is_ok_and(|metadata| !metadata.is_dir()) {
            return Err(unwritable(root, &io::ErrorKind::NotADirectory.into()));
        }
        let mut found = Vec::new();
        list(root, Path::new(""), &mut found);
        let mut directories: BTreeMap<PathBuf, bool> = BTreeMap::new();
        let mut ours = |path: &Path| {
            let Some(directory) = path.iter().next().map(PathBuf::from) else { return false };
            let Ok(below) = path.strip_prefix(&directory) else { return false };
            let asked = directories.entry(directory.clone());
            is_of_a_node(below) && *asked.or_insert_with(|| is_node(root, &directory))
        };
        let mut files: BTreeSet<PathBuf> = found.into_iter().filter(|path| ours(path)).collect();
        if is_old_manifest(&root.join(MANIFEST)) {
            files.insert(MANIFEST.into());
        }
        Ok(Self { root: root.to_owned(), ours: files, state: Mutex::default() })
    }

    /// Takes the files of one node: writes what differs, or with `check` only remembers how.
    pub fn node(&self, name: &str, node: NodeFiles, check: bool) {
        let directory = Path::new(name);
        let mut statistics = Statistics { flows: node.flows, ..Statistics::default() };
        let mut made = Vec::with_capacity(node.files.len());
        let mut changes = Vec::new();
        let mut report = Report::new();
        // The description makes the directory that of a node, so it comes first.
        let mut files = node.files;
        let description = files.remove_entry(NODE);
        for (path, bytes) in description.into_iter().chain(files) {
            let path = directory.join(path);
            statistics.files += 1;
            statistics.bytes += bytes.len();
            let reviewed = is_reviewed(&path);
            // What is not reviewed follows from the rest, and is not there in a fresh clone.
            if reviewed || !check {
                match self.put(&path, &bytes, check) {
                    Ok(change) => changes
                        .extend(change.filter(|_| reviewed).map(|change| (path.clone(), change))),
                    Err(diagnostic) => report.push(diagnostic),
                }
            }
            made.push(path);
        }
        let Ok(mut state) = self.state.lock() else { return };
        state.made.extend(made);
        state.changes.extend(changes);
        state.report.extend(report);
        state.statistics.flows += statistics.flows;
        state.statistics.bytes += statistics.bytes;
        state.statistics.files += statistics.files;
    }

    /// Puts one file into place and tells whether it differed.
    fn put(&self, path: &Path, bytes: &[u8], check: bool) -> Result<Option<Change>, Diagnostic> {
        let full = self.root.join(path);
        self.no_way_out(path)?;
        let mut old = Vec::new();
        match fs::symlink_metadata(&full) {
            Ok(metadata) => {
                let same_length = metadata.len() == bytes.len() as u64;
                if metadata.is_file() && (check || same_length) {
                    old = fs::read(&full).map_err(|error| unwritable(&full, &error))?;
                    if old == bytes {
                        return Ok(None);
                    }
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
        if check {
            let name = path.to_string_lossy();
            return Ok(Some(Change::Pending(FileDiff::between(&name, &old, bytes))));
        }
        write_atomically(&full, bytes).map_err(|error| unwritable(&full, &error))?;
        Ok(Some(Change::Done))
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

    /// Removes stale files and looks for foreign ones. `only` names the one node that was made,
    /// where not all were.
    pub fn finish(self, only: Option<&str>, check: bool) -> Outcome {
        let mut state = self.state.into_inner().unwrap_or_default();
        let this = Self { state: Mutex::default(), ..self };
        if !state.report.has_errors() {
            if !check {
                this.write_git_files(&mut state.report);
            }
            this.sweep(only, check, &mut state);
        }
        Outcome { changes: state.changes, report: state.report, statistics: state.statistics }
    }

    /// Writes the files for Git where there are none, or those of an earlier version.
    fn write_git_files(&self, report: &mut Report) {
        for (name, text) in GIT_FILES {
            let path = self.root.join(name);
            let there = fs::symlink_metadata(&path).is_ok();
            let ours = || fs::read_to_string(&path).is_ok_and(|old| old.starts_with(FOR_GIT));
            if there && !ours() || fs::read_to_string(&path).is_ok_and(|old| old == text) {
                continue;
            }
            if let Err(error) = write_atomically(&path, text.as_bytes()) {
                report.push(unwritable(&path, &error));
            }
        }
    }

    /// Removes files of ours that are no longer made, and reports others.
    fn sweep(&self, only: Option<&str>, check: bool, state: &mut State) {
        let mut found = Vec::new();
        list(&self.root, Path::new(""), &mut found);
        // As it made the directory that of a node, a description goes last.
        found.sort_by_key(|path| path.ends_with(NODE));
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
            let change = if check {
                let old = fs::read(&full).unwrap_or_default();
                Change::Pending(FileDiff::between(&path.to_string_lossy(), &old, b""))
            } else {
                if let Err(error) = fs::remove_file(&full) {
                    state.report.push(unwritable(&full, &error));
                    continue;
                }
                remove_empty_parents(&self.root, &path);
                Change::Done
            };
            if is_reviewed(&path) {
                state.changes.insert(path, change);
            }
        }
        // Signatures are made after compiling, and go to the nodes.
        let signed = [SIGNATURE, PLACES_SIGNATURE];
        foreign.retain(|path| {
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            let for_git = GIT_FILES.iter().any(|(name, _)| path == Path::new(name));
            !for_git && !signed.contains(&name)
        });
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

/// Whether a directory is that of a node: its description names it, whatever a merge has left
/// around that line.
fn is_node(root: &Path, directory: &Path) -> bool {
    let Some(name) = directory.to_str() else { return false };
    let line = format!("\"node\": \"{name}\",");
    let text = fs::read(root.join(directory).join(NODE)).unwrap_or_default();
    String::from_utf8_lossy(&text).lines().any(|other| other.trim_start() == line)
}

/// Whether a file is the manifest of a whole tree, which earlier versions wrote.
fn is_old_manifest(path: &Path) -> bool {
    let value: Option<serde_json::Value> =
        fs::read(path).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok());
    value.is_some_and(|value| value.get("ringfence").is_some() && value.get("nodes").is_some())
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
