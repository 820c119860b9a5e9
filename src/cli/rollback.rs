//! `ringfence rollback`.

use clap::Args;

use super::Exit;
use super::apply::Shared;
use super::trial::Trial;
use crate::apply::rollback;

#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// Which generation, as `ringfence generations` numbers them [default: the one before the last
    /// change]
    #[arg(value_name = "N")]
    number: Option<usize>,
    #[command(flatten)]
    trial: Trial,
    #[command(flatten)]
    shared: Shared,
}

pub(super) fn run(arguments: &Arguments) -> Exit {
    let Arguments { number, trial, shared } = arguments;
    shared.run(trial, shared.options(), |options, system| rollback(*number, options, system))
}
