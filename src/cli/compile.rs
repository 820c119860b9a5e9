//! `ringfence compile`.

use std::path::PathBuf;

use clap::Args;

use super::progress::Progress;
use super::{Exit, Input, print, show, tell};
use crate::compile::compile;
use crate::diagnostic::{Code, Diagnostic, counted, nearest};
use crate::intent::NodeId;
use crate::output::{Output, unified_diff};

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
}

pub(super) fn run(arguments: &Arguments) -> Exit {
    let (model, sources, report) = match arguments.input.read().model() {
        Ok(model) => model,
        Err((sources, report)) => {
            show(&report, &sources);
            return Exit::Error;
        }
    };
    show(&report, &sources);
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
