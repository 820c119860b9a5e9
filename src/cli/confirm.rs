//! `ringfence confirm`, and the process that waits for it.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;

use super::apply::fail;
use super::{Exit, tell};
use crate::apply::{STATE_DIRECTORY, confirm, short_id, watch};
use crate::system::Machine;

#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// Where ringfence keeps what it remembers about this node
    #[arg(long, value_name = "DIR", default_value = STATE_DIRECTORY)]
    state: PathBuf,
}

pub(super) fn run(arguments: &Arguments) -> Exit {
    match confirm(&arguments.state, &Machine) {
        Ok(generation) => {
            tell(&format!("{} is confirmed", short_id(&generation)));
            Exit::Done
        }
        Err(diagnostic) => fail(diagnostic),
    }
}

#[derive(Debug, Args)]
pub(super) struct Watch {
    /// What to wait for
    id: String,
    /// How long
    #[arg(long)]
    seconds: u64,
    /// Where ringfence keeps what it remembers about this node
    #[arg(long, value_name = "DIR", default_value = STATE_DIRECTORY)]
    state: PathBuf,
}

pub(super) fn run_watch(arguments: &Watch) -> Exit {
    let Watch { id, seconds, state } = arguments;
    match watch(state, id, Duration::from_secs(*seconds), &Machine) {
        Ok(true) => Exit::RolledBack,
        Ok(false) => Exit::Done,
        Err(diagnostic) => fail(diagnostic),
    }
}
