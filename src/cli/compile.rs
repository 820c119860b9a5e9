//! `ringfence compile`.

use std::path::PathBuf;

use clap::Args;

use super::clock::Clock;
use super::progress::Progress;
use super::{Exit, Input, print, show, tell};
use crate::diagnostic::{Code, Diagnostic, counted, nearest};
use crate::driver::compile::compile;
use crate::emit::output::{Output, unified_diff};
use crate::intent::NodeId;

#[derive(Debug, Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    input: Input,
    /// The directory to write to
    #[arg(short, long, default_value = "out", value_name = "DIR")]
    out: PathBuf,
    /// Write nothing; show how the directory differs and exit with 2 if it does
    #[arg(long)]
    check: bool,
    /// Only this node
    #[arg(long, value_name = "NODE")]
    node: Option<String>,
    #[command(flatten)]
    clock: Clock,
}

pub(super) fn run(arguments: &Arguments) -> Exit {
    let mut loaded = arguments.input.read();
    let ages = match arguments.clock.now() {
        Ok(now) => loaded.check_age(now),
        Err(diagnostic) => {
            loaded.report.push(diagnostic);
            None
        }
    };
    let (model, sources, mut report) = match loaded.model() {
        Ok(model) => model,
        Err((sources, report)) => {
            show(&report, &sources);
            return Exit::Error;
        }
    };
    if arguments.input.deny_warnings {
        report.deny_warnings();
    }
    show(&report, &sources);
    if report.has_errors() {
        return Exit::Error;
    }
    let nodes: Vec<NodeId> = model
        .intent()
        .nodes()
        .filter(|(_, node)| arguments.node.as_deref().is_none_or(|name| name == node.name.as_str()))
        .map(|(id, _)| id)
        .collect();
    if let (true, Some(name)) = (nodes.is_empty(), &arguments.node) {
        let known = model.intent().nodes().map(|(_, node)| node.name.as_str());
        let diagnostic = Diagnostic::new(Code::UnknownNode, format!("there is no node `{name}`"));
        let diagnostic = match nearest(name, known) {
            Some(meant) => diagnostic.help(format!("did you mean `{meant}`?")),
            None => diagnostic,
        };
        show(&diagnostic.into(), &sources);
        return Exit::Error;
    }
    let output = match Output::open(&arguments.out) {
        Ok(output) => output,
        Err(diagnostic) => {
            show(&diagnostic.into(), &sources);
            return Exit::Error;
        }
    };
    let progress = Progress::new(Some(nodes.len()));
    let compiled =
        compile(&model, &nodes, &sources, &output, arguments.check, &|node| progress.done(node));
    progress.end();
    if let Err(report) = compiled {
        show(&report, &sources);
        return Exit::Error;
    }
    let mut outcome = output.finish(&sources, arguments.node.as_deref(), arguments.check);
    if arguments.input.deny_warnings {
        outcome.report.deny_warnings();
    }
    show(&outcome.report, &sources);
    if outcome.report.has_errors() {
        return Exit::Error;
    }
    if arguments.check && !outcome.changes.is_empty() {
        print(&unified_diff(&arguments.out, &outcome.changes));
        return Exit::Differs;
    }
    if let Some(ages) = ages {
        tell(&ages);
    }
    tell(&format!(
        "{}: {}, {}, {}",
        arguments.out.display(),
        counted(nodes.len(), "node"),
        counted(outcome.statistics.flows, "flow"),
        match outcome.changes.len() {
            0 => "nothing changed".to_owned(),
            changed => format!("{} changed", counted(changed, "file")),
        },
    ));
    Exit::Done
}
