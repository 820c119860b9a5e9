//! A change that comes back unless somebody confirms it: the way out of a change that cuts off
//! whoever made it.
//!
//! The change stays pending until then, so that whatever dies in between, the generation before
//! it is still the current one. Before the first command a process is started that outlasts the
//! shell and the session: a transient unit where systemd runs, a process in a session of its own
//! elsewhere. It holds a lock for as long as it lives, waits, and takes the change back. After a
//! reboot it is gone, and `ringfence apply --current` brings the generation before the change.

use std::ffi::OsString;
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::state::{GenerationRecord, State, Store, now};
use super::{RolledBack, require_root, roll_back, short_id};
use crate::diagnostic::{Code, Diagnostic, counted};
use crate::system::{Command, DIRECTORIES, System, Tool, find, missing};

/// The lock of the process that takes the change back.
pub(super) const WATCH: &str = "watch";
/// How often the state is looked at.
const PAUSE: Duration = Duration::from_millis(100);
/// How long that process may take to start, or to get the node after its time.
const PATIENCE: Duration = Duration::from_mins(1);
/// Where systemd shows that it runs; `sd_booted(3)`.
const SYSTEMD: &str = "/run/systemd/system";

/// How to ask for a confirmation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Confirm {
    /// How long to wait for it.
    pub within: Duration,
    /// The `ringfence` program, which waits in the background.
    pub program: PathBuf,
}

/// A pending generation that somebody is to confirm.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct PendingConfirmation {
    /// What tells this wait from others.
    id: String,
    /// What is to be kept of it.
    kept: GenerationRecord,
    /// How many generations are to be kept with it.
    keep: usize,
    /// How long it is waited for, in seconds.
    seconds: u64,
    /// Until when about, in seconds since 1970.
    pub(super) until: u64,
    /// Whether it is in effect by now.
    pub(super) applied: bool,
}

impl PendingConfirmation {
    /// The time begins: the generation is in effect.
    pub(super) fn begin(&mut self) {
        self.applied = true;
        self.until = now().saturating_add(self.seconds);
    }
}

impl Confirm {
    pub(super) fn awaiting_confirmation(
        &self,
        kept: &GenerationRecord,
        keep: usize,
    ) -> PendingConfirmation {
        let (now, seconds) = (now(), self.within.as_secs());
        PendingConfirmation {
            id: format!("{now}-{}", std::process::id()),
            kept: kept.clone(),
            keep,
            seconds,
            until: now.saturating_add(seconds),
            applied: false,
        }
    }

    /// Starts the process that takes the change back, or forgets about the change.
    pub(super) fn begin(
        &self,
        state: &State,
        before: &State,
        store: &Store,
        system: &dyn System,
    ) -> Result<(), Diagnostic> {
        let Some(waiting) = &state.awaiting_confirmation else { return Ok(()) };
        self.start(waiting, store, system).inspect_err(|_| {
            // Nothing of the node was changed, and what an interrupted run left is still there.
            let _ = store.write(before);
        })
    }

    fn start(
        &self,
        waiting: &PendingConfirmation,
        store: &Store,
        system: &dyn System,
    ) -> Result<(), Diagnostic> {
        let broken = |error: std::io::Error| not_started(&error.to_string());
        let directory = std::path::absolute(store.directory()).map_err(broken)?;
        let words: Vec<OsString> = vec![
            "watch".into(),
            waiting.id.clone().into(),
            "--seconds".into(),
            waiting.seconds.to_string().into(),
            "--state".into(),
            directory.into_os_string(),
        ];
        if Path::new(SYSTEMD).is_dir() {
            if !system.has(Tool::SystemdRun) {
                return Err(missing(Tool::SystemdRun));
            }
            let unit = format!("--unit=ringfence-watch-{}", waiting.id);
            let head = ["--quiet", "--collect", &unit, "--"].map(str::to_owned);
            let words = words.iter().map(|word| word.to_string_lossy().into_owned());
            let program = self.program.to_string_lossy().into_owned();
            let all = head.into_iter().chain([program]).chain(words);
            system.succeed(&Command::change(Tool::SystemdRun, all))?;
        } else {
            let process = duct::cmd(&self.program, words).dir("/").stdin_null().stdout_null();
            process.stderr_null().unchecked().start().map_err(broken)?;
        }
        let begin = Instant::now();
        while !watched(store, Some(waiting))? {
            if begin.elapsed() > PATIENCE {
                return Err(not_started("it did not get ready"));
            }
            std::thread::sleep(PAUSE / 4);
        }
        Ok(())
    }
}

fn not_started(reason: &str) -> Diagnostic {
    let message = format!("the process that takes the change back could not start: {reason}");
    Diagnostic::new(Code::CommandFailed, message).help("nothing was changed")
}

/// RF215: an unconfirmed change needs something to come back to.
pub(super) fn no_rollback_target() -> Diagnostic {
    Diagnostic::new(Code::NoGeneration, "there is no generation to come back to yet")
        .help("apply the first one without --confirm")
}

/// Whether a process waits to take a change back; with `waiting`, this change.
fn watched(store: &Store, waiting: Option<&PendingConfirmation>) -> Result<bool, Diagnostic> {
    let alive = store.hold(WATCH)?.is_none();
    let id = || fs::read_to_string(store.directory().join(WATCH)).unwrap_or_default();
    Ok(alive && waiting.is_none_or(|waiting| id() == waiting.id))
}

/// RF207: no other change waits to be confirmed.
pub(super) fn ensure_none_pending(store: &Store) -> Result<(), Diagnostic> {
    let state = store.read()?;
    let Some(waiting) = &state.awaiting_confirmation else { return Ok(()) };
    if !watched(store, Some(waiting))? {
        return Ok(());
    }
    let generation = short_id(&waiting.kept.generation);
    let message = format!("the generation {generation} waits to be confirmed");
    Err(Diagnostic::new(Code::Locked, message)
        .help("run `ringfence confirm`, or `ringfence rollback` to take it back at once"))
}

/// The process that waits, and takes the change back if its time is over before it is confirmed.
/// Returns whether it did.
pub fn watch(
    state: &Path,
    id: &str,
    within: Duration,
    system: &dyn System,
) -> Result<bool, Diagnostic> {
    let mut begin = Instant::now();
    let mut applied = false;
    require_root(system)?;
    // Away from the terminal and the job of whoever applied, whose signals would end it.
    let _ = rustix::process::setsid();
    let mut store = Store::at(state);
    let mut alive = loop {
        match store.hold(WATCH)? {
            Some(file) => break file,
            None if begin.elapsed() > PATIENCE => return Ok(false),
            None => std::thread::sleep(PAUSE / 4),
        }
    };
    let named = alive.set_len(0).and_then(|()| alive.write_all(id.as_bytes()));
    named.map_err(|error| super::state::unusable(&state.join(WATCH), &error))?;
    loop {
        let state = store.read()?;
        let Some(waiting) = state.awaiting_confirmation.filter(|waiting| waiting.id == id) else {
            return Ok(false);
        };
        if waiting.applied && !applied {
            // The time is for looking at the change, however long that took.
            (applied, begin) = (true, Instant::now());
        }
        if begin.elapsed() < within {
            std::thread::sleep(PAUSE);
            continue;
        }
        match store.lock() {
            Ok(()) => {}
            Err(busy) if busy.code == Code::Locked => {
                std::thread::sleep(PAUSE);
                continue;
            }
            Err(error) => return Err(error),
        }
        let state = store.read()?;
        if state.awaiting_confirmation.as_ref().is_some_and(|waiting| waiting.id == id) {
            return roll_back(unconfirmed(&waiting), state, &store, system).map(|_| true);
        }
        return Ok(false);
    }
}

/// RF211: why the change came back.
fn unconfirmed(waiting: &PendingConfirmation) -> Diagnostic {
    let generation = short_id(&waiting.kept.generation);
    let seconds = usize::try_from(waiting.seconds).unwrap_or(usize::MAX);
    let seconds = counted(seconds, "second");
    let message = format!("nobody confirmed the generation {generation} within {seconds}");
    Diagnostic::new(Code::NotConfirmed, message)
        .help("if the node could be reached all the time, apply again with a longer --confirm")
}

/// RF211: somebody didn't wait.
fn taken_back(waiting: &PendingConfirmation) -> Diagnostic {
    let generation = short_id(&waiting.kept.generation);
    let message = format!("the generation {generation} was rolled back before it was confirmed");
    Diagnostic::new(Code::NotConfirmed, message).help("it was not this run that did it")
}

/// Confirms the generation that waits for it, and returns it.
pub fn confirm(state: &Path, system: &dyn System) -> Result<String, Diagnostic> {
    require_root(system)?;
    let mut store = Store::at(state);
    store.lock()?;
    let state = store.read()?;
    let Some(waiting) = state.awaiting_confirmation.clone() else {
        return Err(Diagnostic::new(Code::NothingToConfirm, "no change waits to be confirmed")
            .help("see `ringfence status` for what is in effect"));
    };
    let generation = waiting.kept.generation.clone();
    if !waiting.applied {
        let message =
            format!("the change to the generation {} was interrupted", short_id(&generation));
        return Err(Diagnostic::new(Code::NothingToConfirm, message)
            .help("apply it again, or take it back with `ringfence rollback`"));
    }
    let state = state.committed(&waiting.kept, waiting.keep);
    store.write(&state)?;
    store.prune(&state);
    Ok(generation)
}

/// What somebody who was asked to confirm has said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// Nothing yet.
    Silence,
    /// It is to stay.
    Confirm,
}

/// What became of a change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It stays.
    Confirmed,
    /// It was rolled back.
    RolledBack(RolledBack),
}

/// Waits until somebody confirms the change to `generation`, or until it is rolled back. `ask` is
/// told how many seconds are left; it may block for a moment.
pub fn wait(
    state: &Path,
    generation: &str,
    system: &dyn System,
    ask: &mut dyn FnMut(u64) -> Answer,
) -> Result<Verdict, Diagnostic> {
    let store = Store::at(state);
    let begin = Instant::now();
    let mut reason = None;
    loop {
        let now_state = store.read()?;
        let waiting = now_state.awaiting_confirmation.as_ref();
        let Some(waiting) = waiting.filter(|waiting| waiting.kept.generation == generation) else {
            return verdict(&now_state, generation, reason);
        };
        let left = waiting.until.saturating_sub(now());
        reason = Some(if left > 1 { taken_back(waiting) } else { unconfirmed(waiting) });
        if ask(left) == Answer::Confirm {
            match confirm(state, system) {
                Ok(_) => {}
                // It is being rolled back at this moment, or is already.
                Err(late) if matches!(late.code, Code::Locked | Code::NothingToConfirm) => {}
                Err(error) => return Err(error),
            }
        }
        let over = begin.elapsed() > Duration::from_secs(waiting.seconds) + PATIENCE;
        if over && !watched(&store, Some(waiting))? {
            return reject(state, generation, unconfirmed(waiting), system);
        }
        std::thread::sleep(PAUSE / 4);
    }
}

/// Takes the change to `generation` back at once, if it still waits.
pub fn reject(
    state: &Path,
    generation: &str,
    reason: Diagnostic,
    system: &dyn System,
) -> Result<Verdict, Diagnostic> {
    require_root(system)?;
    let mut store = Store::at(state);
    let begin = Instant::now();
    while let Err(error) = store.lock() {
        if error.code != Code::Locked || begin.elapsed() > PATIENCE {
            return Err(error);
        }
        std::thread::sleep(PAUSE);
    }
    let state = store.read()?;
    let waits = |waiting: &PendingConfirmation| waiting.kept.generation == generation;
    if state.awaiting_confirmation.as_ref().is_some_and(waits) {
        return roll_back(reason, state, &store, system).map(Verdict::RolledBack);
    }
    verdict(&state, generation, Some(reason))
}

/// What the state says of a change that nobody waits for any more.
fn verdict(
    state: &State,
    generation: &str,
    reason: Option<Diagnostic>,
) -> Result<Verdict, Diagnostic> {
    if let Some(failure) = &state.failure {
        return Err(Diagnostic::new(Code::RollbackFailed, failure)
            .help("remove the cause, then run `ringfence rollback`"));
    }
    match (&state.current, reason) {
        (Some(current), _) if current == generation => Ok(Verdict::Confirmed),
        (Some(current), Some(reason)) => {
            Ok(Verdict::RolledBack(RolledBack::new(current.clone(), reason)))
        }
        _ => Err(Diagnostic::new(Code::NothingToConfirm, "no change waits to be confirmed")),
    }
}

/// RF212: runs a program that tells by its exit status whether the node does what it is for. It
/// is run once, without a shell, as root in `/`, with nothing to read, and with the usual system
/// directories as its PATH.
pub fn check_health(words: &[String], within: Duration) -> Result<(), Diagnostic> {
    const SHOWN: usize = 600;
    let shown = words.join(" ");
    let failed = |what: &str| {
        let message = format!("the health check `{shown}` {what}");
        Diagnostic::new(Code::HealthCheck, message).help("run it by hand to see what it finds")
    };
    let broken = |error: std::io::Error| failed(&format!("could not run: {error}"));
    let Some((program, arguments)) = words.split_first() else {
        return Err(failed("names no program"));
    };
    let program = if program.contains('/') {
        PathBuf::from(program)
    } else {
        find(program).ok_or_else(|| failed("could not run: there is no such program"))?
    };
    let environment = [("PATH", DIRECTORIES.join(":")), ("LC_ALL", "C".to_owned())];
    let command = duct::cmd(program, arguments).full_env(environment).dir("/").stdin_null();
    let handle = command.stderr_to_stdout().stdout_capture().unchecked().start().map_err(broken)?;
    let Some(output) = handle.wait_timeout(within).map_err(broken)? else {
        handle.kill().map_err(broken)?;
        return Err(failed(&format!("took longer than {} s", within.as_secs())));
    };
    if output.status.success() {
        return Ok(());
    }
    let status = output
        .status
        .code()
        .map_or_else(|| "was killed".to_owned(), |status| format!("failed with status {status}"));
    let printed = String::from_utf8_lossy(&output.stdout);
    let printed: String = printed.trim().chars().take(SHOWN).collect();
    Err(failed(&if printed.is_empty() { status } else { format!("{status}: {printed}") }))
}
