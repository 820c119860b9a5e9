//! The command line. Everything that prints is here; one file a command.

mod apply;
mod clock;
mod compile;
mod confirm;
pub mod diff;
mod explain;
mod lab;
mod lock;
mod progress;
pub mod prove;
mod resolve;
mod revision;
mod rollback;
pub mod schema;
mod snapshot;
mod status;
mod teardown;
pub mod test;
mod trial;
mod validate;
pub mod why;

use std::io::{self, IsTerminal as _, Write as _};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use clap::{Args, Parser, Subcommand, ValueEnum};
use rustix::process::Signal;

use crate::diagnostic::{Code, Diagnostic, Report, Sources, github, human, json, sarif};
use crate::driver::load::Loaded;

/// How a run ended. Scripts rely on the numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// All is as it should be.
    Done = 0,
    /// An error; nothing was changed.
    Error = 1,
    /// Something differs, and was only to be checked.
    Differs = 2,
    /// A change failed and was rolled back.
    RolledBack = 3,
    /// Another run is at work.
    Locked = 4,
    /// The command line was wrong.
    Usage = 64,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

/// Compiles a declarative description of multi-tenant networks for Open vSwitch, and applies it.
#[derive(Debug, Parser)]
#[command(name = "ringfence", version, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Check a desired state and report everything that is wrong with it
    Validate(validate::Arguments),
    /// Allocate what the lock file lacks, and write it
    Lock(lock::Arguments),
    /// Ask name servers for the addresses of the names in egress policies, and put them into the
    /// lock file
    Resolve(resolve::Arguments),
    /// Write the files of every node
    Compile(compile::Arguments),
    /// Prove that the files of all nodes do what the desired state says, for every frame
    Prove(prove::Arguments),
    /// Tell whether a packet arrives, which line decides, and its way through every table
    Why(why::Arguments),
    /// Run the tests of the desired state, each of all its packets
    Test(test::Arguments),
    /// Tell what a change of the desired state opens and closes
    Diff(diff::Arguments),
    /// Make this machine match the files of its node
    Apply(apply::Arguments),
    /// Bring an earlier generation back, as it is kept on this machine
    Rollback(rollback::Arguments),
    /// Let a change stay that was applied with --confirm
    Confirm(confirm::Arguments),
    /// Tell which generation is in effect, and how the machine differs from it
    Status(status::Arguments),
    /// List the generations that are kept on this machine
    Generations(status::Arguments),
    /// Write what this machine has into one file for a bug report, without secrets
    Snapshot(snapshot::Arguments),
    /// Remove everything of ringfence's from this machine
    Teardown(teardown::Arguments),
    /// Bring the whole desired state up as a live network on this one machine
    #[command(subcommand)]
    Lab(lab::Command),
    /// Explain a diagnostic code, or tell which object a cookie stands for
    Explain(explain::Arguments),
    /// Print the JSON schema of the desired state, or of what --json prints
    Schema(Schema),
    /// Take a change back in time
    #[command(hide = true)]
    Watch(confirm::Watch),
    /// Answer and send probes in a namespace of the lab
    #[command(hide = true)]
    LabAgent,
}

#[derive(Debug, Args)]
struct Schema {
    /// Of what
    #[arg(value_enum, default_value_t = crate::cli::schema::Subject::DesiredState)]
    subject: crate::cli::schema::Subject,
}

/// Where the desired state is.
#[derive(Debug, Args)]
struct Input {
    /// Files, directories (their *.yaml and *.yml), or - for standard input
    #[arg(default_value = ".", value_name = "PATH")]
    paths: Vec<PathBuf>,
    /// The lock file [default: ringfence.lock beside the desired state]
    #[arg(long, value_name = "FILE")]
    lock: Option<PathBuf>,
    /// Treat warnings as errors
    #[arg(long)]
    deny_warnings: bool,
}

impl Input {
    fn read(&self) -> Loaded {
        let mut loaded = Loaded::read(&self.paths, self.lock.as_deref(), &mut io::stdin());
        if self.deny_warnings {
            loaded.report.deny_warnings();
        }
        loaded
    }
}

/// How diagnostics are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Format {
    /// For people: the source line and a caret
    Human,
    /// One JSON document
    Json,
    /// GitHub workflow commands, which annotate a pull request
    Github,
    /// SARIF 2.1.0
    Sarif,
}

/// Runs the command of this process.
#[must_use]
pub fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            let _ = error.print();
            let exit = if error.use_stderr() { Exit::Usage } else { Exit::Done };
            return exit.into();
        }
    };
    if let Err(diagnostic) = crate::system::threads::start() {
        show(&diagnostic.into(), &Sources::default());
        return Exit::Error.into();
    }
    let changes = changes_node(&cli.command);
    if changes {
        outlast_terminal();
    }
    let exit = match cli.command {
        Command::Validate(arguments) => validate::run(&arguments),
        Command::Lock(arguments) => lock::run(&arguments),
        Command::Resolve(arguments) => resolve::run(&arguments),
        Command::Compile(arguments) => compile::run(&arguments),
        Command::Prove(arguments) => prove::run(&arguments),
        Command::Test(arguments) => test::run(&arguments),
        Command::Diff(arguments) => diff::run(&arguments),
        Command::Why(arguments) => why::run(&arguments),
        Command::Apply(arguments) => apply::run(&arguments),
        Command::Rollback(arguments) => rollback::run(&arguments),
        Command::Confirm(arguments) => confirm::run(&arguments),
        Command::Status(arguments) => status::run(&arguments),
        Command::Generations(arguments) => status::run_generations(&arguments),
        Command::Watch(arguments) => confirm::run_watch(&arguments),
        Command::Snapshot(arguments) => snapshot::run(&arguments),
        Command::Teardown(arguments) => teardown::run(&arguments),
        Command::Lab(command) => lab::run(&command),
        Command::LabAgent => {
            crate::lab::run_agent();
            Exit::Done
        }
        Command::Explain(arguments) => explain::run(&arguments),
        Command::Schema(Schema { subject }) => {
            print(&json::pretty(&crate::cli::schema::of(subject)));
            Exit::Done
        }
    };
    told(exit, changes).into()
}

/// Whether a command changes the node, or takes a change of it back.
fn changes_node(command: &Command) -> bool {
    matches!(
        command,
        Command::Apply(_)
            | Command::Rollback(_)
            | Command::Confirm(_)
            | Command::Teardown(_)
            | Command::Watch(_)
    )
}

/// Has this process go on when its terminal is closed. A connection may end because of the very
/// change.
fn outlast_terminal() {
    // Nobody asks whether it came. Programs that are run end by it as ever.
    let heard = Arc::new(AtomicBool::new(false));
    let _ = signal_hook::flag::register(Signal::HUP.as_raw(), heard);
}

/// Whether something could not be written to standard output, and somebody would have read it.
static LOST: AtomicBool = AtomicBool::new(false);

/// Writes to standard output. A reader that went away is no error.
fn print(text: &str) {
    let mut stdout = io::stdout();
    let written = stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush());
    if written.is_err_and(|error| error.kind() != io::ErrorKind::BrokenPipe) {
        LOST.store(true, Ordering::Relaxed);
    }
}

/// The same end, unless what it printed got lost. What was changed stays changed, and says so by its
/// status.
fn told(exit: Exit, changes: bool) -> Exit {
    if !LOST.load(Ordering::Relaxed) || changes || exit != Exit::Done {
        return exit;
    }
    let lost = Diagnostic::new(Code::OutputUnwritable, "standard output cannot be written");
    show(&lost.help("check the free space").into(), &Sources::default());
    Exit::Error
}

/// Writes diagnostics for people to standard error, without the closing count where there are
/// none.
fn show(report: &Report, sources: &Sources) {
    if !report.is_empty() {
        let styled = io::stderr().is_terminal();
        let _ = anstream::stderr().write_all(human::render(report, sources, styled).as_bytes());
    }
}

/// Tells why a command failed, as JSON where the command was to print that.
fn fail(as_json: bool, report: &Report, sources: &Sources) -> Exit {
    if as_json {
        print(&json::render(report, sources));
    } else {
        show(report, sources);
    }
    Exit::Error
}

/// Writes a line for people to standard error.
fn tell(line: &str) {
    let _ = writeln!(io::stderr(), "{line}");
}

fn render(format: Format, report: &Report, sources: &Sources) {
    match format {
        Format::Human => show(report, sources),
        Format::Json => print(&json::render(report, sources)),
        Format::Github => print(&github::render(report, sources)),
        Format::Sarif => print(&sarif::render(report, sources)),
    }
}
