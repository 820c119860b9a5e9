//! `ringfence rollback`.

use clap::Args;

use super::Exit;
use super::apply::Shared;
use crate::apply::rollback;

#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// Which generation, as `ringfence generations` numbers them [default: the one before the last
    /// change]
    #[arg(value_name = "N")]
    number: Option<usize>,
    #[command(flatten)]
    shared: Shared,
}

pub(super) fn run(arguments: &Arguments) -> Exit {
    let options = arguments.shared.options();
    arguments.shared.run(|system| rollback(arguments.number, &options, system), |_| Ok(()))
}
