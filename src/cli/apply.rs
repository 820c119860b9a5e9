//! `ringfence apply`.

use std::path::PathBuf;

use clap::Args;

use super::{Exit, print, show, tell};
use crate::apply::{Options, Outcome, STATE_DIRECTORY, apply};
use crate::diagnostic::{Code, Diagnostic, counted, json};
use crate::source::Sources;
use crate::system::Machine;
use crate::value::{InterfaceName, StringValue as _};

#[derive(Debug, Args)]
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
    match apply(&arguments.directory, &options, &Machine) {
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
