//! `ringfence validate`.

use clap::Args;

use super::{Exit, Format, Input, render, tell};
use crate::diagnostic::counted;

#[derive(Debug, Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    input: Input,
    /// How to write the findings
    #[arg(long, value_enum, default_value = "human")]
    format: Format,
}

pub(super) fn run(arguments: &Arguments) -> Exit {
    let mut loaded = arguments.input.read();
    // Whether there is room for everything shows only when it is allocated.
    loaded.allocate(false);
    render(arguments.format, &loaded.report, &loaded.sources);
    if loaded.report.has_errors() {
        return Exit::Error;
    }
    if let (Format::Human, Some(intent)) = (arguments.format, &loaded.intent) {
        tell(&format!(
            "valid: {}, {}, {}",
            counted(intent.nodes().len(), "node"),
            counted(intent.projects().len(), "project"),
            counted(intent.pods().len(), "pod"),
        ));
    }
    Exit::Done
}
