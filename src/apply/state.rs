//! What `apply` remembers on a node, and the lock that keeps runs apart.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::net::Ipv4Addr;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use ipnet::Ipv4Net;
use rustix::fs::OFlags;

use serde::{Deserialize, Serialize};

use super::confirm::PendingConfirmation;
use crate::diagnostic::{Code, Diagnostic, json, reason};
use crate::value::InterfaceName;

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
    /// The generation that a run which has not ended was about to bring into effect, or that
    /// nobody has confirmed yet.
    pub(super) pending: Option<String>,
    /// What is to happen if nobody confirms the pending generation.
    pub(super) awaiting_confirmation: Option<PendingConfirmation>,
    /// Why the current generation could not be brought back, if it could not.
    pub(super) failure: Option<String>,
    /// The network namespaces that such a run was about to make. A name of these that leads to no
    /// namespace is what it left; a namespace is ringfence's by its mark alone.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) in_progress: Vec<String>,
    /// The addresses that such a run has given, or was about to give, to another owner.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub(super) reused: BTreeSet<Ipv4Addr>,
    /// Whether services have pods that are not ready and keep their connections.
    #[serde(default, skip_serializing_if = "is_false")]
    pub(super) draining: bool,
    /// The generations that are kept. The one that was in effect last comes first, so the current
    /// one leads.
    pub(super) kept: Vec<GenerationRecord>,
    /// The rulesets that were loaded: the node's under the empty name, egress routers' under
    /// theirs.
    pub(super) rulesets: BTreeMap<String, Loaded>,
    /// Kernel settings that were changed, with what they are to be again when they are no longer
    /// ringfence's.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(super) sysctls: BTreeMap<String, Replaced>,
    /// The networks to which the generations that are kept had routes, where the node has routes that
    /// bear no mark: those of builds that gave none.
    #[serde(skip)]
    pub(super) former: BTreeSet<Ipv4Net>,
}

/// A kernel setting that was changed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Replaced {
    /// What it was before.
    pub(super) before: String,
    /// What it was set to. Whoever has set it to something else since then is to have it so.
    pub(super) set: String,
}

/// A generation whose files are kept.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct GenerationRecord {
    /// The generation.
    pub(super) generation: String,
    /// The bridge that it was applied to, where that was not the one of its plan.
    pub(super) bridge: Option<InterfaceName>,
    /// When it was last brought into effect, in seconds since 1970.
    pub(super) applied: u64,
}

impl State {
    /// What is kept of a generation.
    pub(super) fn find(&self, generation: &str) -> Option<&GenerationRecord> {
        self.kept.iter().find(|kept| kept.generation == generation)
    }

    /// What is kept of the current generation.
    pub(super) fn current(&self) -> Option<&GenerationRecord> {
        self.find(self.current.as_deref()?)
    }

    /// The same after a generation has come into effect, with at most `keep` generations.
    pub(super) fn committed(self, kept: &GenerationRecord, keep: usize) -> Self {
        let current = Some(kept.generation.clone());
        let others = self.kept.into_iter().filter(|other| other.generation != kept.generation);
        let all = [kept.clone()].into_iter().chain(others).take(keep.max(1)).collect();
        Self {
            current,
            pending: None,
            awaiting_confirmation: None,
            failure: None,
            in_progress: Vec::new(),
            reused: BTreeSet::new(),
            kept: all,
            ..self
        }
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes it so")]
fn is_false(value: &bool) -> bool {
    !value
}

/// Seconds since 1970.
#[expect(clippy::disallowed_types, reason = "for people only: nothing is decided by it")]
pub(super) fn now() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since.unwrap_or(Duration::ZERO).as_secs()
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

/// The state directory, for root alone.
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

    /// Where it is.
    pub(super) fn directory(&self) -> &Path {
        &self.directory
    }

    /// Makes the directory and takes the lock, or fails where another run has it.
    pub(super) fn lock(&mut self) -> Result<(), Diagnostic> {
        let path = self.directory.join(LOCK);
        self.lock = self.hold(LOCK)?;
        if self.lock.is_some() {
            return Ok(());
        }
        let message = "another run of ringfence is at work on this node";
        Err(Diagnostic::new(Code::Locked, message)
            .help(format!("wait for it; it holds `{}`", path.display())))
    }

    /// Takes the lock on a file of the directory; `None` where another process has it.
    pub(super) fn hold(&self, name: &str) -> Result<Option<File>, Diagnostic> {
        let path = self.directory.join(name);
        let wrong = |error: io::Error| unusable(&path, &error);
        self.make().map_err(wrong)?;
        loop {
            let mut options = OpenOptions::new();
            options.create(true).truncate(false).write(true).mode(0o600).custom_flags(NO_FOLLOW);
            let file = options.open(&path).map_err(wrong)?;
            match file.try_lock() {
                Ok(()) => {}
                Err(fs::TryLockError::WouldBlock) => return Ok(None),
                Err(fs::TryLockError::Error(error)) => return Err(wrong(error)),
            }
            // A teardown may have removed the file since it was opened.
            let ours = file.metadata().map_err(wrong)?;
            if fs::symlink_metadata(&path).is_ok_and(|there| there.ino() == ours.ino()) {
                return Ok(Some(file));
            }
        }
    }

    /// Makes the directory, and sees to it that it is root's alone.
    fn make(&self) -> io::Result<()> {
        DirBuilder::new().recursive(true).mode(0o700).create(&self.directory)?;
        let metadata = fs::symlink_metadata(&self.directory)?;
        if !metadata.is_dir() {
            return Err(io::Error::other("not a directory"));
        }
        if metadata.uid() != rustix::process::geteuid().as_raw() {
            return Err(io::Error::other("it belongs to another user"));
        }
        if metadata.mode() & 0o7777 != 0o700 {
            // One of somebody else's must not be closed to them.
            if let Some(name) = self.foreign()? {
                return Err(io::Error::other(format!("there is `{name}` of somebody else's")));
            }
            fs::set_permissions(&self.directory, fs::Permissions::from_mode(0o700))?;
        }
        Ok(())
    }

    /// What was remembered; the generations that are kept where nothing else is. What can't be read is
    /// never taken for nothing: it would be overwritten, and what it names would be lost.
    pub(super) fn read(&self) -> Result<State, Diagnostic> {
        let path = self.directory.join(STATE);
        let bytes = self.bytes().map_err(|error| unusable(&path, &error))?;
        self.state_in(bytes)
    }

    /// The same for a check, which keeps nothing, and so can do where nothing can be kept.
    pub(super) fn read_for_check(&self) -> Result<State, Diagnostic> {
        self.bytes().map_or_else(|_| Ok(State::default()), |bytes| self.state_in(bytes))
    }

    fn state_in(&self, bytes: Option<Vec<u8>>) -> Result<State, Diagnostic> {
        let Some(bytes) = bytes else {
            return Ok(State { kept: self.kept_files(), ..State::default() });
        };
        parse(&bytes).map_err(|what| unreadable(&self.directory.join(STATE), &what))
    }

    /// The state file; `None` where there is none.
    fn bytes(&self) -> io::Result<Option<Vec<u8>>> {
        let path = self.directory.join(STATE);
        let mut bytes = Vec::new();
        let open = OpenOptions::new().read(true).custom_flags(NO_FOLLOW).open(path);
        match open.and_then(|mut file| file.read_to_end(&mut bytes)) {
            Ok(_) => Ok(Some(bytes)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Remembers.
    pub(super) fn write(&self, state: &State) -> Result<(), Diagnostic> {
        let path = self.directory.join(STATE);
        let state = State { version: VERSION, ..state.clone() };
        write_durably(&path, json::pretty(&state).as_bytes())
            .map_err(|error| unusable(&path, &error))
    }

    /// Something in the directory that ringfence did not put there.
    fn foreign(&self) -> io::Result<Option<String>> {
        for entry in fs::read_dir(&self.directory)? {
            let name = entry?.file_name().to_string_lossy().into_owned();
            if !FILES.contains(&name.as_str()) && name != super::generations::DIRECTORY {
                return Ok(Some(name));
            }
        }
        Ok(None)
    }

    /// Forgets everything, and lets go of the lock. What others put there stays.
    pub(super) fn remove(self) -> Result<(), Diagnostic> {
        let wrong = |error: io::Error| unusable(&self.directory, &error);
        self.remove_generations().map_err(wrong)?;
        for name in FILES {
            missing_is_fine(fs::remove_file(self.directory.join(name))).map_err(wrong)?;
        }
        remove_if_empty(&self.directory).map_err(wrong)
    }
}

const VERSION: u32 = 2;

/// The files of the directory; the lock goes last.
const FILES: [&str; 4] = [STATE, "state.new", super::confirm::WATCH, LOCK];

fn missing_is_fine(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result,
    }
}

/// Removes a directory that has nothing in it.
pub(super) fn remove_if_empty(path: &Path) -> io::Result<()> {
    match fs::remove_dir(path) {
        Err(error) if error.kind() == io::ErrorKind::DirectoryNotEmpty => Ok(()),
        result => missing_is_fine(result),
    }
}

/// The state in a file, or what is wrong with it.
fn parse(bytes: &[u8]) -> Result<State, String> {
    #[derive(Deserialize)]
    struct Versioned {
        version: u32,
    }
    if bytes.is_empty() {
        return Err("it is empty".to_owned());
    }
    let other = |error: serde_json::Error| format!("it is not as ringfence writes it: {error}");
    let Versioned { version } = serde_json::from_slice(bytes).map_err(other)?;
    if version != VERSION {
        return Err(format!(
            "it has version {version}, and this ringfence reads version {VERSION}"
        ));
    }
    serde_json::from_slice(bytes).map_err(other)
}

fn unreadable(path: &Path, what: &str) -> Diagnostic {
    let message = format!("cannot use `{}`: {what}", path.display());
    Diagnostic::new(Code::StateUnusable, message).help(format!(
        "use the version of ringfence that wrote it, or put it aside with `mv {path} \
         {path}.unreadable` and apply the node's directory again: the generations that are kept \
         stay, and what is on the node is known by its marks",
        path = path.display()
    ))
}

/// For open(2): fails where the last part of the path is a symbolic link.
const NO_FOLLOW: i32 = OFlags::NOFOLLOW.bits().cast_signed();

/// Replaces a file so that after a crash it has the old or the new content. It is root's alone.
/// Only whoever holds the lock writes, so what an interrupted write left is overwritten.
fn write_durably(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let directory = path.parent().unwrap_or(Path::new("/"));
    let new = path.with_extension("new");
    let mut options = OpenOptions::new();
    options.create(true).truncate(true).write(true).mode(0o600).custom_flags(NO_FOLLOW);
    let mut file = options.open(&new)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&new, path)?;
    File::open(directory)?.sync_all()
}

pub(super) fn unusable(path: &Path, error: &io::Error) -> Diagnostic {
    Diagnostic::new(
        Code::StateUnusable,
        format!("cannot use `{}`: {}", path.display(), reason(error)),
    )
    .help("check the free space and that the file system is writable, or use --state")
}
