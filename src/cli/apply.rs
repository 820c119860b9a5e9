//! `ringfence apply`.

use std::path::PathBuf;

use clap::Args;

use super::{Exit, print, show, tell};
use crate::apply::{Options, Outcome, STATE_DIRECTORY, apply};
use crate::diagnostic::{Code, Diagnostic, counted, json};
use crate::source::Sources;
use crate::system::netlink::Network;
use crate::system::{Command, Machine, Output, System, Tool};
use crate::value::{InterfaceName, NetnsName, StringValue as _};

#[derive(Debug, Args)]
#[expect(clippy::struct_excessive_bools, reason = "each is a flag of the command line")]
pub(super) struct Arguments {
    /// The directory of this node in the output, such as out/node-1
    #[arg(value_name = "DIR")]
    directory: PathBuf,
    /// Change nothing; tell what differs and exit with 2 if anything does
    #[arg(long)]
    check: bool,
    /// Show the flows that differ, as a diff
    #[arg(long)]
    diff: bool,
    /// Print the outcome as one JSON document
    #[arg(long)]
    json: bool,
    /// Take over a bridge, or ports of it, that ringfence did not make. All its flows are replaced
    #[arg(long)]
    adopt: bool,
    /// Use another bridge than br0
    #[arg(long, value_name = "BRIDGE", value_parser = bridge)]
    bridge: Option<InterfaceName>,
    /// Show every command that changes something, before it runs
    #[arg(short, long)]
    verbose: bool,
    /// Exit with 2 instead of 0 where something was changed
    #[arg(long)]
    detailed_exitcode: bool,
    /// Where to keep what ringfence remembers about this node
    #[arg(long, value_name = "DIR", default_value = STATE_DIRECTORY)]
    state: PathBuf,
}

fn bridge(text: &str) -> Result<InterfaceName, String> {
    InterfaceName::parse(text).map_err(|invalid| invalid.message)
}

pub(super) fn run(arguments: &Arguments) -> Exit {
    let options = Options {
        check: arguments.check,
        adopt: arguments.adopt,
        bridge: arguments.bridge.clone(),
        state: arguments.state.clone(),
    };
    let announced = Announced { machine: Machine };
    let system: &dyn System = if arguments.verbose { &announced } else { &Machine };
    match apply(&arguments.directory, &options, system) {
        Ok(outcome) => {
            if arguments.json {
                print(&json::pretty(&outcome));
            } else {
                human(&outcome, arguments.diff);
            }
            let detailed = arguments.check || arguments.detailed_exitcode;
            if outcome.changed && detailed { Exit::Differs } else { Exit::Done }
        }
        Err(diagnostic) => fail(diagnostic),
    }
}

/// Shows why a node could not be changed.
pub(super) fn fail(diagnostic: Diagnostic) -> Exit {
    let locked = diagnostic.code == Code::Locked;
    show(&diagnostic.into(), &Sources::default());
    if locked { Exit::Locked } else { Exit::Error }
}

fn human(outcome: &Outcome, diff: bool) {
    for change in &outcome.changes {
        print(&format!("{change}\n"));
    }
    if diff {
        for line in &outcome.flow_diff {
            print(&format!("{line}\n"));
        }
    }
    let number = counted(outcome.changes.len(), "change");
    tell(&match (outcome.changed, outcome.check) {
        (false, _) => format!("{}: nothing to change", outcome.node),
        (true, true) => format!("{}: {number} pending", outcome.node),
        (true, false) => format!("{}: {number} applied", outcome.node),
    });
}

/// The machine, with every command that changes something shown before it runs.
struct Announced {
    machine: Machine,
}

impl System for Announced {
    fn run(&self, command: &Command) -> Result<Output, Diagnostic> {
        const SHOWN: usize = 20;
        if command.changes {
            tell(&format!("> {command}"));
            let stdin = String::from_utf8_lossy(&command.stdin);
            let mut lines = stdin.lines();
            lines.by_ref().take(SHOWN).for_each(|line| tell(&format!("    {line}")));
            let more = lines.count();
            if more > 0 {
                tell(&format!("    … {}", counted(more, "more line")));
            }
        }
        self.machine.run(command)
    }

    fn has(&self, tool: Tool) -> bool {
        self.machine.has(tool)
    }

    fn is_root(&self) -> bool {
        self.machine.is_root()
    }

    fn netns_names(&self) -> Result<Vec<String>, Diagnostic> {
        self.machine.netns_names()
    }

    fn network(&self) -> Result<Network, Diagnostic> {
        self.machine.network()
    }

    fn networks(&self, names: &[&NetnsName]) -> Result<Vec<Option<Network>>, Diagnostic> {
        self.machine.networks(names)
    }

    fn sysctl(&self, name: &str) -> Option<String> {
        self.machine.sysctl(name)
    }
}
