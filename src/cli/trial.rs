//! A change on trial: `--confirm` and `--health-check`.

use std::io::{self, BufRead as _, IsTerminal as _, Write as _};
use std::path::Path;
use std::sync::mpsc::{self, Receiver, TryRecvError};
use std::time::Duration;

use clap::Args;

use super::tell;
use crate::apply::{Answer, Confirm, Outcome, Verdict, check_health, reject, short_id, wait};
use crate::diagnostic::{Code, Diagnostic};
use crate::system::Machine;

/// How long a program has that checks, where no time is given.
const WITHIN: Duration = Duration::from_mins(1);

/// Whether a change is to stay, and who says so.
#[derive(Debug, Args)]
pub(super) struct Trial {
    /// Take the change back unless `ringfence confirm`, or Enter on a terminal, says within this
    /// time, such as 90s or 5m, that it is to stay. It comes back even if this command, its shell
    /// or its session ends
    #[arg(long, value_name = "TIME", value_parser = duration)]
    confirm: Option<Duration>,
    /// Run this program after the change and confirm if it succeeds; else take the change back at
    /// once. It is split into words as by a shell, but runs without one, once, and has the time
    /// of --confirm, by default 60s
    #[arg(long, value_name = "CMD", value_parser = words)]
    health_check: Option<Words>,
}

impl Trial {
    /// How the change is to begin; `None` where it simply stays.
    pub(super) fn begin(&self) -> Result<Option<Confirm>, Diagnostic> {
        if self.confirm.is_none() && self.health_check.is_none() {
            return Ok(None);
        }
        let program = std::env::current_exe().map_err(|error| {
            let message = format!("the program can't find itself: {error}");
            Diagnostic::new(Code::CommandFailed, message)
        })?;
        Ok(Some(Confirm { within: self.within(), program }))
    }

    fn within(&self) -> Duration {
        self.confirm.unwrap_or(WITHIN)
    }

    /// Waits until a change that is in effect was confirmed, or was rolled back.
    pub(super) fn settle(&self, outcome: &mut Outcome, state: &Path) -> Result<(), Diagnostic> {
        let generation = outcome.generation.as_str();
        let found = self.health_check.as_ref();
        let verdict = match found.map(|program| check_health(&program.0, self.within())) {
            Some(Err(reason)) => reject(state, generation, reason, &Machine)?,
            Some(Ok(())) => wait(state, generation, &Machine, &mut |_| Answer::Confirm)?,
            None => {
                let mut terminal = Terminal::new(&outcome.node, generation);
                let verdict = wait(state, generation, &Machine, &mut |left| terminal.ask(left));
                terminal.end();
                verdict?
            }
        };
        outcome.awaiting_confirmation = false;
        match verdict {
            Verdict::Confirmed => tell(&format!("{}: confirmed", outcome.node)),
            Verdict::RolledBack(back) => outcome.rolled_back = Some(back),
        }
        Ok(())
    }
}

/// A time such as 60s or 5m; a number alone is of seconds.
fn duration(text: &str) -> Result<Duration, String> {
    const LONGEST: u64 = 24 * 60 * 60;
    let (digits, unit) = match text.strip_suffix('m') {
        Some(digits) => (digits, 60),
        None => (text.strip_suffix('s').unwrap_or(text), 1),
    };
    let seconds = digits.parse::<u64>().ok().and_then(|number| number.checked_mul(unit));
    match seconds {
        Some(seconds @ 1..=LONGEST) => Ok(Duration::from_secs(seconds)),
        _ => Err("give seconds or minutes such as 60s or 5m, up to a day".to_owned()),
    }
}

/// The words of a command line.
#[derive(Clone, Debug)]
struct Words(Vec<String>);

fn words(text: &str) -> Result<Words, String> {
    match shlex::split(text) {
        Some(words) if !words.is_empty() => Ok(Words(words)),
        _ => Err("name a program with its arguments; quotes have to be closed".to_owned()),
    }
}

/// Asks whoever sits at the terminal, if anybody does.
struct Terminal {
    node: String,
    generation: String,
    /// Lines that were entered; `None` without a terminal.
    entered: Option<Receiver<()>>,
    /// What was shown last.
    shown: Option<u64>,
}

impl Terminal {
    fn new(node: &str, generation: &str) -> Self {
        let interactive = io::stdin().is_terminal() && io::stderr().is_terminal();
        let entered = interactive.then(|| {
            let (sender, receiver) = mpsc::channel();
            // What was typed before the change says nothing about it.
            let _ = rustix::termios::tcflush(io::stdin(), rustix::termios::QueueSelector::IFlush);
            // Without a thread nobody is heard here, and `ringfence confirm` remains.
            let _ = std::thread::Builder::new().spawn(move || {
                let mut line = String::new();
                if io::stdin().lock().read_line(&mut line).is_ok_and(|read| read > 0) {
                    let _ = sender.send(());
                }
            });
            receiver
        });
        let (node, generation) = (node.to_owned(), short_id(generation).to_owned());
        Self { node, generation, entered, shown: None }
    }

    fn ask(&mut self, left: u64) -> Answer {
        let Self { node, generation, entered, shown } = self;
        let Some(entered) = entered else {
            if shown.replace(left).is_none() {
                tell(&format!(
                    "{node}: {generation} stays if `ringfence confirm` is run within {left} s"
                ));
            }
            return Answer::Silence;
        };
        if *shown != Some(left) {
            *shown = Some(left);
            let text = format!("\r{node}: press Enter to confirm {generation} within {left} s ");
            let _ = io::stderr().write_all(text.as_bytes());
        }
        match entered.try_recv() {
            Ok(()) => Answer::Confirm,
            Err(TryRecvError::Empty | TryRecvError::Disconnected) => Answer::Silence,
        }
    }

    /// Leaves the line of the countdown.
    fn end(&self) {
        if self.entered.is_some() && self.shown.is_some() {
            tell("");
        }
    }
}
