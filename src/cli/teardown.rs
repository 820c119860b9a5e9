//! `ringfence teardown`.

use std::path::PathBuf;

use clap::Args;

use super::apply::fail;
use super::{Exit, print, tell};
use crate::apply::{STATE_DIRECTORY, teardown};
use crate::diagnostic::counted;
use crate::system::Machine;

#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// Remove nothing; tell what is there and exit with 2 if anything is
    #[arg(long)]
    check: bool,
    /// Where ringfence keeps what it remembers about this node
    #[arg(long, value_name = "DIR", default_value = STATE_DIRECTORY)]
    state: PathBuf,
}

pub(super) fn run(arguments: &Arguments) -> Exit {
    let (changes, unreadable) = match teardown(&arguments.state, arguments.check, &Machine) {
        Ok(done) => done,
        Err(diagnostic) => return fail(diagnostic),
    };
    for change in &changes {
        print(&format!("{change}\n"));
    }
    if let Some(diagnostic) = unreadable {
        return fail(diagnostic);
    }
    if changes.is_empty() {
        tell("nothing to remove");
        return Exit::Done;
    }
    let number = counted(changes.len(), "change");
    tell(&format!("{number} {}", if arguments.check { "pending" } else { "applied" }));
    if arguments.check { Exit::Differs } else { Exit::Done }
}
