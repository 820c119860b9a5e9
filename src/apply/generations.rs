//! The files of the generations that were applied, kept in the state directory by their digests.
//!
//! A generation is written in full before it gets its name, and before anything of the node is
//! changed for it, so that whatever happens then there are whole generations to go back to.

use std::collections::BTreeSet;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use ipnet::Ipv4Net;
use rustix::fs::{CWD, RenameFlags};
use schemars::JsonSchema;
use serde::Serialize;

use super::artifacts::{Artifacts, is_digest};
use super::links::Links;
use super::require_root;
use super::state::{GenerationRecord, State, Store, remove_if_empty, unusable};
use crate::diagnostic::{Code, Diagnostic};
use crate::system::System;

pub(super) const DIRECTORY: &str = "generations";
/// Where the next one is written.
const NEW: &str = ".new";

/// How many generations are kept, unless `--keep` says otherwise.
pub const KEEP: usize = 5;

/// What `ringfence generations` tells.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Generations {
    /// Those that are kept; the one that was in effect last comes first.
    pub generations: Vec<Generation>,
}

/// A generation that is kept.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Generation {
    /// What `ringfence rollback` knows it by: how many came into effect after it.
    pub number: usize,
    /// Its digest, as 64 hexadecimal digits.
    pub generation: String,
    /// When it was last brought into effect, in seconds since 1970.
    pub applied: u64,
    /// Whether it is in effect, as far as is known.
    pub current: bool,
    /// Where its files are.
    pub files: PathBuf,
}

/// The generations that are kept on this node.
pub fn generations(state: &Path, system: &dyn System) -> Result<Generations, Diagnostic> {
    require_root(system)?;
    let store = Store::at(state);
    let state = store.read()?;
    let current = state.current.as_deref();
    let generation = |(number, kept): (usize, &GenerationRecord)| Generation {
        number,
        generation: kept.generation.clone(),
        applied: kept.applied,
        current: current == Some(kept.generation.as_str()),
        files: store.path(&kept.generation),
    };
    Ok(Generations { generations: state.kept.iter().enumerate().map(generation).collect() })
}

impl State {
    /// The generation that came into effect `number` changes ago; 0 is the current one.
    pub(super) fn back(&self, number: usize) -> Result<&GenerationRecord, Diagnostic> {
        self.kept.get(number).ok_or_else(|| match self.kept.len() {
            0 => nothing_kept(),
            1 => Diagnostic::new(Code::NoGeneration, "no other generation is kept")
                .help("only what was applied on this node can come back"),
            more => Diagnostic::new(
                Code::NoGeneration,
                format!("there is no generation {number}: {more} are kept"),
            )
            .help("list them with `ringfence generations`"),
        })
    }
}

/// RF215: nothing was applied yet.
pub(super) fn nothing_kept() -> Diagnostic {
    Diagnostic::new(Code::NoGeneration, "no generation is kept on this node")
        .help("apply one with `ringfence apply DIR`; another --state has others")
}

impl Store {
    fn path(&self, generation: &str) -> PathBuf {
        self.directory().join(DIRECTORY).join(generation)
    }

    /// Whether exactly these files are kept.
    pub(super) fn keeps(&self, artifacts: &Artifacts) -> bool {
        artifacts.are_in(&self.path(artifacts.generation()))
    }

    /// Keeps the files of a generation.
    pub(super) fn keep(&self, artifacts: &Artifacts) -> Result<(), Diagnostic> {
        if self.keeps(artifacts) {
            return Ok(());
        }
        let path = self.path(artifacts.generation());
        let all = self.directory().join(DIRECTORY);
        self.write_files(&path, artifacts).map_err(|error| unusable(&all, &error))
    }

    fn write_files(&self, path: &Path, artifacts: &Artifacts) -> io::Result<()> {
        let parent = self.directory().join(DIRECTORY);
        let new = parent.join(NEW);
        remove(&new)?;
        let mut directories = DirBuilder::new();
        directories.recursive(true).mode(0o700).create(&new)?;
        for (name, bytes) in artifacts.files() {
            let file = new.join(name);
            directories.create(file.parent().unwrap_or(&new))?;
            let mut file =
                OpenOptions::new().create_new(true).write(true).mode(0o600).open(file)?;
            file.write_all(bytes)?;
            file.sync_all()?;
        }
        File::open(&new)?.sync_all()?;
        if fs::symlink_metadata(path).is_ok() {
            // Of the same generation, with other comments, or other places beside it.
            let swap = RenameFlags::EXCHANGE;
            if rustix::fs::renameat_with(CWD, &new, CWD, path, swap).is_err() {
                remove(path)?;
                fs::rename(&new, path)?;
            }
            remove(&new)?;
        } else {
            fs::rename(&new, path)?;
        }
        File::open(&parent)?.sync_all()
    }

    /// The files of a generation that is kept, checked anew.
    pub(super) fn open(&self, kept: &GenerationRecord) -> Result<Artifacts, Diagnostic> {
        let mut artifacts = Artifacts::read(&self.path(&kept.generation), None)?;
        if let Some(bridge) = &kept.bridge {
            artifacts.wiring.bridge.name = bridge.clone();
        }
        Ok(artifacts)
    }

    /// Removes the files of all generations.
    pub(super) fn remove_generations(&self) -> io::Result<()> {
        let directory = self.directory().join(DIRECTORY);
        for entry in self.entries() {
            remove(&entry?.1.path())?;
        }
        remove_if_empty(&directory)
    }

    /// The directories of generations, and of one that is being written, by their names.
    fn entries(&self) -> impl Iterator<Item = io::Result<(String, fs::DirEntry)>> {
        let entries = fs::read_dir(self.directory().join(DIRECTORY)).into_iter().flatten();
        entries.filter_map(|entry| {
            let named = entry.map(|entry| Some((entry.file_name().into_string().ok()?, entry)));
            let ours = |(name, _): &(String, _)| is_digest(name) || name == NEW;
            named.map(|named| named.filter(ours)).transpose()
        })
    }

    /// The networks to which generations that are kept have routes by interfaces of ours. They matter
    /// only where there are routes that bear no mark, as builds made them that gave none.
    pub(super) fn former_networks(&self, state: &State, links: &Links) -> BTreeSet<Ipv4Net> {
        if !links.have_unmarked_routes() {
            return BTreeSet::new();
        }
        let pending = state.pending.iter();
        let names = pending.chain(state.kept.iter().map(|kept| &kept.generation));
        let plans = names.filter_map(|name| Artifacts::read(&self.path(name), None).ok());
        plans.flat_map(|plan| plan.wiring.direct_networks()).collect()
    }

    /// The generations whose files are there, the newest first: all that is known of them where the
    /// state is gone.
    pub(super) fn kept_files(&self) -> Vec<GenerationRecord> {
        let entries = self.entries().flatten().filter(|(name, _)| name != NEW);
        let mut kept: Vec<GenerationRecord> = entries
            .filter_map(|(generation, entry)| {
                let applied = u64::try_from(entry.metadata().ok()?.mtime()).ok()?;
                Some(GenerationRecord { generation, bridge: None, applied })
            })
            .collect();
        kept.sort_by(|a, b| (b.applied, &b.generation).cmp(&(a.applied, &a.generation)));
        kept
    }

    /// Removes the files of all generations that the state doesn't name.
    pub(super) fn prune(&self, state: &State) {
        for (name, entry) in self.entries().flatten() {
            if state.find(&name).is_none() && state.pending.as_ref() != Some(&name) {
                // What stays now goes with the next run.
                let _ = remove(&entry.path());
            }
        }
    }
}

fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}
