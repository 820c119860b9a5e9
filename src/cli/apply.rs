//! `ringfence apply`.

use std::path::PathBuf;

use clap::Args;

use super::progress::Progress;
use super::trial::Trial;
use super::{Exit, print, show, tell};
use crate::apply::{
    KEEP, Options, Outcome, STATE_DIRECTORY, apply, apply_current, short_id, summary,
};
use crate::diagnostic::{Code, Diagnostic, Report, Sources, counted, json};
use crate::system::{Command, Intercept, Machine, Output, Stage, System};
use crate::value::{InterfaceName, StringValue as _};

#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// The directory of this node in the output, such as out/node-1
    #[arg(value_name = "DIR", required_unless_present = "current")]
    directory: Option<PathBuf>,
    /// Apply the current generation again, as it is kept on this node: after a reboot
    #[arg(long, conflicts_with_all = ["directory", "adopt", "bridge", "confirm", "health_check"])]
    current: bool,
    /// Take over a bridge, or ports of it, that ringfence did not make. All its flows are replaced
    #[arg(long)]
    adopt: bool,
    /// Use another bridge than br0
    #[arg(long, value_name = "BRIDGE", value_parser = bridge)]
    bridge: Option<InterfaceName>,
    /// Apply only what a key in this file has signed: one public key a line, as in OpenSSH's
    /// `authorized_keys`. Default: /etc/ringfence/signers, if it is there
    #[arg(long, value_name = "FILE", conflicts_with = "current")]
    signers: Option<PathBuf>,
    #[command(flatten)]
    trial: Trial,
    #[command(flatten)]
    shared: Shared,
}

/// The options of every command that brings a generation into effect.
#[derive(Debug, Args)]
#[expect(clippy::struct_excessive_bools, reason = "each is a flag of the command line")]
pub(super) struct Shared {
    /// Change nothing; tell what differs and exit with 2 if anything does
    #[arg(long)]
    check: bool,
    /// Show the flows that differ, as a diff
    #[arg(long)]
    diff: bool,
    /// Print the outcome as one JSON document
    #[arg(long)]
    json: bool,
    /// Show every command that changes something, before it runs, and every change by itself
    /// however many there are
    #[arg(short, long)]
    verbose: bool,
    /// Exit with 2 instead of 0 where something was changed
    #[arg(long)]
    detailed_exitcode: bool,
    /// Take egress IPs and sources of egress routers even where somebody still answers for them
    #[arg(long)]
    take_over: bool,
    /// How many generations to keep on this node, the current one included
    #[arg(long, value_name = "NUMBER", default_value_t = KEEP as u64,
          value_parser = clap::value_parser!(u64).range(1..=1000))]
    keep: u64,
    /// Where to keep what ringfence remembers about this node
    #[arg(long, value_name = "DIR", default_value = STATE_DIRECTORY)]
    state: PathBuf,
}

impl Shared {
    pub(super) fn options(&self) -> Options {
        let keep = usize::try_from(self.keep).unwrap_or(KEEP);
        Options {
            check: self.check,
            diff: self.diff,
            take_over: self.take_over,
            keep,
            state: self.state.clone(),
            ..Options::default()
        }
    }

    /// Runs what brings a generation into effect, waits until it is to stay, and shows how it went.
    pub(super) fn run(
        &self,
        trial: &Trial,
        mut options: Options,
        activate: impl FnOnce(&Options, &dyn System) -> Result<Outcome, Diagnostic>,
    ) -> Exit {
        options.confirm = match trial.begin() {
            Ok(confirm) => confirm,
            Err(diagnostic) => return fail_as(diagnostic, self.json),
        };
        let progress = if self.verbose { Progress::none() } else { Progress::new(None) };
        let tells = !self.json;
        let shown = Shown { verbose: self.verbose, tells, progress };
        let brought = activate(&options, &shown);
        shown.progress.end();
        let mut outcome = match brought {
            Ok(outcome) => outcome,
            Err(diagnostic) => return fail_as(diagnostic, self.json),
        };
        let number = outcome.changes.len();
        if !self.verbose {
            outcome.changes = summary(&outcome.changes);
        }
        if !self.json {
            Self::human(&outcome, number);
        }
        if outcome.awaiting_confirmation
            && let Err(diagnostic) = trial.settle(&mut outcome, &options.state)
        {
            return fail_as(diagnostic, self.json);
        }
        if self.json {
            print(&json::pretty(&outcome));
        }
        if let Some(back) = outcome.rolled_back {
            let mut report = Report::new();
            back.cause.into_iter().for_each(|cause| report.push(cause));
            let (old, new) = (short_id(&back.generation), short_id(&outcome.generation));
            let message = format!("the generation {new} was rolled back; {old} is in effect again");
            report.push(Diagnostic::new(Code::RolledBack, message));
            show(&report, &Sources::default());
            return Exit::RolledBack;
        }
        let detailed = self.check || self.detailed_exitcode;
        if outcome.changed && detailed { Exit::Differs } else { Exit::Done }
    }

    fn human(outcome: &Outcome, number: usize) {
        // A run has said so before it changed anything.
        for disruption in outcome.disruptions.iter().filter(|_| outcome.check) {
            print(&format!("{disruption}\n"));
        }
        for finding in &outcome.findings {
            print(&format!("{finding}\n"));
        }
        for change in &outcome.changes {
            print(&format!("{change}\n"));
        }
        for line in &outcome.flow_diff {
            print(&format!("{line}\n"));
        }
        let number = counted(number, "change");
        match (outcome.changed, outcome.check) {
            _ if outcome.rolled_back.is_some() => {}
            (false, _) => tell(&format!("{}: nothing to change", outcome.node)),
            (true, true) => tell(&format!("{}: {number} pending", outcome.node)),
            (true, false) => tell(&format!("{}: {number} applied", outcome.node)),
        }
    }
}

fn bridge(text: &str) -> Result<InterfaceName, String> {
    InterfaceName::parse(text).map_err(|invalid| invalid.message)
}

pub(super) fn run(arguments: &Arguments) -> Exit {
    let mut options = arguments.shared.options();
    options.adopt = arguments.adopt;
    options.bridge.clone_from(&arguments.bridge);
    options.signers.clone_from(&arguments.signers);
    arguments.shared.run(&arguments.trial, options, |options, system| match &arguments.directory {
        Some(directory) => apply(directory, options, system),
        None => apply_current(options, system),
    })
}

/// Shows why a command failed.
pub(super) fn fail(diagnostic: Diagnostic) -> Exit {
    fail_as(diagnostic, false)
}

/// The same, also as JSON where the command was to print that.
pub(super) fn fail_as(diagnostic: Diagnostic, as_json: bool) -> Exit {
    let locked = diagnostic.code == Code::Locked;
    let report = diagnostic.into();
    if as_json {
        print(&json::render(&report, &Sources::default()));
    }
    show(&report, &Sources::default());
    if locked { Exit::Locked } else { Exit::Error }
}

/// The machine, with what is done to it shown.
struct Shown {
    /// Whether every command that changes something is shown before it runs.
    verbose: bool,
    /// Whether people read what is printed.
    tells: bool,
    progress: Progress,
}

impl Intercept for Shown {
    fn hear(&self, stage: Stage<'_>) {
        match stage {
            Stage::Reading => self.progress.busy("reading the node"),
            Stage::Changing { number, of, command } => {
                self.progress.step(number, of, &command.to_string());
            }
            Stage::Disrupting(disruptions) if self.tells => self.progress.aside(|| {
                for disruption in disruptions {
                    print(&format!("{disruption}\n"));
                }
            }),
            Stage::Disrupting(_) => {}
            Stage::ReadingBack => self.progress.busy("reading back"),
        }
    }

    fn pass(&self, command: &Command) -> Result<Output, Diagnostic> {
        const SHOWN: usize = 20;
        if self.verbose && command.changes {
            tell(&format!("> {command}"));
            let stdin = String::from_utf8_lossy(&command.stdin);
            let mut lines = stdin.lines();
            lines.by_ref().take(SHOWN).for_each(|line| tell(&format!("    {line}")));
            let more = lines.count();
            if more > 0 {
                tell(&format!("    … {}", counted(more, "more line")));
            }
        }
        Machine.run(command)
    }
}
