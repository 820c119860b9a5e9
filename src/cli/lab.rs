//! `ringfence lab`.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::apply::fail;
use super::progress::Progress;
use super::{Exit, Input, print, show, tell};
use crate::diagnostic::{Code, Diagnostic, Sources, counted};
use crate::lab::{self, Hold, Lab, Setup};
use crate::model::Model;
use crate::value::Datapath;

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Bring it up, apply, send real packets for every rule, print a table, take it down
    Run(Run),
    /// Bring it up, apply, and leave it
    Up(Up),
    /// Run a command at a node, a pod, an egress router or the outside of a lab that is up
    Exec(Exec),
    /// Take it down
    Down(Down),
}

#[derive(Debug, Args)]
pub(super) struct Run {
    #[command(flatten)]
    input: Input,
    #[command(flatten)]
    bridges: Bridges,
}

#[derive(Debug, Args)]
pub(super) struct Up {
    #[command(flatten)]
    input: Input,
    #[command(flatten)]
    bridges: Bridges,
    #[command(flatten)]
    name: Name,
}

#[derive(Debug, Args)]
pub(super) struct Exec {
    #[command(flatten)]
    name: Name,
    /// A node, a pod as project/pod, an egress router, or `outside`
    target: String,
    /// The command with its arguments
    #[arg(required = true, trailing_var_arg = true, value_name = "COMMAND")]
    words: Vec<String>,
}

#[derive(Debug, Args)]
pub(super) struct Down {
    #[command(flatten)]
    name: Name,
}

#[derive(Debug, Args)]
struct Bridges {
    /// The datapath of all bridges: in userspace (netdev), or the kernel's module (system)
    #[arg(long, default_value = "netdev")]
    #[arg(env = "RINGFENCE_LAB_DATAPATH", hide_env_values = true)]
    datapath: Datapath,
}

#[derive(Debug, Args)]
struct Name {
    /// Which lab, where several are up
    #[arg(long = "name", default_value = "default", value_parser = label)]
    name: String,
}

impl Name {
    fn directory(&self) -> PathBuf {
        lab::directory_of(&self.name)
    }
}

fn label(text: &str) -> Result<String, String> {
    use crate::value::StringValue as _;
    crate::value::Name::parse(text).map(|name| name.to_string()).map_err(|invalid| invalid.message)
}

pub(super) fn run(command: &Command) -> Exit {
    let result = match command {
        Command::Run(arguments) => {
            load(&arguments.input).map(|loaded| prove(loaded, &arguments.bridges))
        }
        Command::Up(arguments) => load(&arguments.input).map(|loaded| up(loaded, arguments)),
        Command::Exec(arguments) => return exec(arguments),
        Command::Down(arguments) => Ok(lab::down(&arguments.name.directory()).map(|()| Exit::Done)),
    };
    match result {
        Ok(Ok(exit)) | Err(exit) => exit,
        Ok(Err(diagnostic)) => fail(diagnostic),
    }
}

fn load(input: &Input) -> Result<(Model, Sources), Exit> {
    match input.read().draft() {
        Ok((model, sources, report)) => {
            show(&report, &sources);
            Ok((model, sources))
        }
        Err((sources, report)) => {
            show(&report, &sources);
            Err(Exit::Error)
        }
    }
}

/// Applies every node's files and prints what that did.
fn apply(lab: &Lab, title: &str, progress: &Progress) -> Result<(), Diagnostic> {
    let of = lab.model().intent().nodes().count();
    for (number, (id, node)) in (1..).zip(lab.model().intent().nodes()) {
        progress.step(number, of, &format!("{title} {}", node.name));
        let applied = lab.apply(id)?;
        let text = format!(
            "{title} {}: changed: {}{}\n",
            node.name,
            applied.changed,
            if applied.changed {
                format!(" ({})", counted(applied.changes.len(), "change"))
            } else {
                String::new()
            },
        );
        progress.aside(|| print(&text));
    }
    Ok(())
}

/// This very program, for the nodes of the lab to run.
fn program() -> Result<PathBuf, Diagnostic> {
    std::env::current_exe().map_err(|error| {
        Diagnostic::new(Code::LabSetup, format!("the program can't find itself: {error}"))
    })
}

fn prove((model, sources): (Model, Sources), bridges: &Bridges) -> Result<Exit, Diagnostic> {
    let directory = tempfile::Builder::new().prefix("ringfence-lab-").tempdir();
    let directory = directory.map_err(|error| {
        Diagnostic::new(Code::LabSetup, format!("no directory for the lab: {error}"))
    })?;
    tell("bringing up the lab");
    let progress = Progress::new(None);
    progress.busy("starting Open vSwitch for every node");
    let program = program()?;
    let setup = Setup {
        directory: directory.path(),
        hold: Hold::WithParent,
        datapath: bridges.datapath,
        program: &program,
    };
    let lab = Lab::up(model, &sources, setup)?;
    apply(&lab, "apply", &progress)?;
    apply(&lab, "apply again", &progress)?;
    progress.aside(|| tell("sending packets"));
    let probes = lab::plan(lab.model());
    let of = probes.len();
    let summary = lab.probe_telling(probes, &mut |number, probe| {
        progress.step(number, of, &probe.title);
    })?;
    progress.end();
    print(&format!("\n{}\n", summary.table()));
    let (good, wrong) = summary.counts();
    let total = counted(good + wrong, "probe");
    if wrong > 0 {
        return Err(Diagnostic::new(
            Code::LabDiffers,
            format!("{wrong} of {total} did not do what the desired state says"),
        ));
    }
    print(&format!("{total}, all as the desired state says\n"));
    Ok(Exit::Done)
}

fn up((model, sources): (Model, Sources), arguments: &Up) -> Result<Exit, Diagnostic> {
    let Up { input: _, bridges, name } = arguments;
    let directory = name.directory();
    if lab::is_up(&directory) {
        let message = format!("the lab `{}` is up already", name.name);
        return Err(Diagnostic::new(Code::LabSetup, message)
            .help("take it down with `ringfence lab down`, or give this one another --name"));
    }
    let program = program()?;
    let setup = Setup {
        directory: &directory,
        hold: Hold::Forever,
        datapath: bridges.datapath,
        program: &program,
    };
    let progress = Progress::new(None);
    progress.busy("starting Open vSwitch for every node");
    let result = Lab::up(model, &sources, setup).and_then(|lab| {
        apply(&lab, "apply", &progress)?;
        lab.keep();
        Ok(())
    });
    progress.end();
    if let Err(diagnostic) = result {
        let _ = lab::remove(&directory);
        return Err(diagnostic);
    }
    tell("the lab is up; try `ringfence lab exec`, end it with `ringfence lab down`");
    Ok(Exit::Done)
}

fn exec(arguments: &Exec) -> Exit {
    let words: Vec<&str> = arguments.words.iter().map(String::as_str).collect();
    let command = match lab::enter(&arguments.name.directory(), &arguments.target, &words) {
        Ok(command) => command,
        Err(diagnostic) => return fail(diagnostic),
    };
    match command.unchecked().run() {
        Ok(output) if output.status.success() => Exit::Done,
        Ok(_) => Exit::Error,
        Err(error) => fail(Diagnostic::new(Code::LabSetup, format!("nsenter: {error}"))),
    }
}
