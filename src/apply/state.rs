//! What `apply` remembers on a node, and the lock that keeps runs apart.

use std::collections::BTreeMap;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::diagnostic::{Code, Diagnostic, json, reason};

/// Where it is kept, unless `--state` says otherwise.
pub const DIRECTORY: &str = "/var/lib/ringfence";

const STATE: &str = "state.json";
const LOCK: &str = "lock";

/// What `apply` remembers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct State {
    /// The version of this format.
    pub(super) version: u32,
    /// The generation that is in effect, as far as is known.
    pub(super) current: Option<String>,
    /// The generation that a run which has not ended was about to bring into effect.
    pub(super) pending: Option<String>,
    /// The network namespaces that such a run was about to make: they may lack their mark.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) half_made: Vec<String>,
    /// The rulesets that were loaded: the node's under the empty name, egress routers' under
    /// theirs.
    pub(super) rulesets: BTreeMap<String, Loaded>,
}

/// A ruleset that was loaded, as the digests of its file and of what nft printed of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Loaded {
    file: String,
    listing: String,
}

impl Loaded {
    /// Remembers a ruleset.
    #[must_use]
    pub(super) fn new(file: &[u8], listing: &[u8]) -> Self {
        Self { file: digest(file), listing: digest(listing) }
    }

    /// Whether this file was loaded and still prints so.
    #[must_use]
    pub(super) fn is(&self, file: &[u8], listing: &[u8]) -> bool {
        self.is_file(file) && self.listing == digest(listing)
    }

    /// Whether this file was loaded.
    #[must_use]
    pub(super) fn is_file(&self, file: &[u8]) -> bool {
        self.file == digest(file)
    }
}

fn digest(bytes: &[u8]) -> String {
    blake3::hash(bytes).to_hex().to_string()
}

/// The state directory.
#[derive(Debug)]
pub(super) struct Store {
    directory: PathBuf,
    /// Held as long as the run lasts; the kernel lets go of it however the process ends.
    lock: Option<File>,
}

impl Store {
    /// The directory at `path`, without touching it.
    #[must_use]
    pub(super) fn at(path: &Path) -> Self {
        Self { directory: path.to_owned(), lock: None }
    }

    /// Makes the directory and takes the lock, or fails where another run has it.
    pub(super) fn lock(&mut self) -> Result<(), Diagnostic> {
        let path = self.directory.join(LOCK);
        let open = || {
            DirBuilder::new().recursive(true).mode(0o700).create(&self.directory)?;
            OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(&path)
        };
        let file = open().map_err(|error| unusable(&path, &error))?;
        match file.try_lock() {
            Ok(()) => {
                self.lock = Some(file);
                Ok(())
            }
            Err(fs::TryLockError::WouldBlock) => {
                let message = "another run of ringfence is at work on this node";
                Err(Diagnostic::new(Code::Locked, message)
                    .help(format!("wait for it; it holds `{}`", path.display())))
            }
            Err(fs::TryLockError::Error(error)) => Err(unusable(&path, &error)),
        }
    }

    /// What was remembered; nothing where nothing is, or it is from another version.
    #[must_use]
    pub(super) fn read(&self) -> State {
        let bytes = fs::read(self.directory.join(STATE)).unwrap_or_default();
        let state: State = serde_json::from_slice(&bytes).unwrap_or_default();
        if state.version == VERSION { state } else { State::default() }
    }

    /// Remembers.
    pub(super) fn write(&self, state: &State) -> Result<(), Diagnostic> {
        let path = self.directory.join(STATE);
        let state = State { version: VERSION, ..state.clone() };
        write_durably(&path, json::pretty(&state).as_bytes())
            .map_err(|error| unusable(&path, &error))
    }

    /// Forgets everything, and lets go of the lock.
    pub(super) fn remove(mut self) -> Result<(), Diagnostic> {
        self.lock = None;
        match fs::remove_dir_all(&self.directory) {
            Ok(()) => Ok(()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(unusable(&self.directory, &error)),
        }
    }
}

const VERSION: u32 = 1;

/// Replaces a file so that after a crash it has the old or the new content.
fn write_durably(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let directory = path.parent().unwrap_or(Path::new("/"));
    let mut file = tempfile::Builder::new().prefix(".state-").tempfile_in(directory)?;
    file.write_all(bytes)?;
    file.as_file().sync_all()?;
    file.persist(path).map_err(|error| error.error)?;
    File::open(directory)?.sync_all()
}

fn unusable(path: &Path, error: &io::Error) -> Diagnostic {
    Diagnostic::new(
        Code::StateUnusable,
        format!("cannot use `{}`: {}", path.display(), reason(error)),
    )
    .help("check the free space and that the file system is writable, or use --state")
}
