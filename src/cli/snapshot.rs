//! `ringfence snapshot`.

use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use clap::Args;

use super::apply::fail;
use super::clock::Clock;
use super::{Exit, print, tell};
use crate::apply::{STATE_DIRECTORY, snapshot};
use crate::diagnostic::{Code, Diagnostic, reason};
use crate::system::Machine;

#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// The file to write to [default: standard output]
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Where ringfence keeps what it remembers about this node
    #[arg(long, value_name = "DIR", default_value = STATE_DIRECTORY)]
    state: PathBuf,
    #[command(flatten)]
    clock: Clock,
}

pub(super) fn run(arguments: &Arguments) -> Exit {
    let now = arguments.clock.now();
    let text = match now.and_then(|now| snapshot(&arguments.state, now, &Machine)) {
        Ok(text) => text,
        Err(diagnostic) => return fail(diagnostic),
    };
    let Some(path) = &arguments.output else {
        print(&text);
        return Exit::Done;
    };
    if let Err(error) = write(path, &text) {
        let message = format!("cannot write `{}`: {}", path.display(), reason(&error));
        return fail(Diagnostic::new(Code::OutputUnwritable, message));
    }
    tell(&format!("{}: read it before you send it", path.display()));
    Exit::Done
}

/// Makes the file for its owner alone.
fn write(path: &Path, text: &str) -> io::Result<()> {
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    let mut file = tempfile::NamedTempFile::new_in(directory.unwrap_or(Path::new(".")))?;
    file.write_all(text.as_bytes())?;
    file.persist(path).map(drop).map_err(|error| error.error)
}
