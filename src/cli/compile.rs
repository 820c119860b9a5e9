//! `ringfence compile`.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::PathBuf;

use clap::Args;

use super::clock::Clock;
use super::progress::Progress;
use super::{Exit, Input, print, show, tell};
use crate::diagnostic::{Code, Diagnostic, counted, nearest};
use crate::driver::compile::compile;
use crate::emit::output::{Change, Count, Output};
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
    /// With --check, show how many files, flows and lines of each node differ, instead of the lines
    #[arg(long, requires = "check")]
    stat: bool,
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
    let mut outcome = output.finish(arguments.node.as_deref(), arguments.check);
    if arguments.input.deny_warnings {
        outcome.report.deny_warnings();
    }
    show(&outcome.report, &sources);
    if outcome.report.has_errors() {
        return Exit::Error;
    }
    if arguments.check && !outcome.changes.is_empty() {
        print(&if arguments.stat { table(&outcome.changes) } else { diff(&outcome.changes) });
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

/// The changes as one unified diff.
fn diff(changes: &BTreeMap<PathBuf, Change>) -> String {
    let text = |change: &Change| match change {
        Change::Pending(diff) => diff.text.clone(),
        Change::Done => String::new(),
    };
    changes.values().map(text).collect()
}

/// The changes as a table with a line for each node.
fn table(changes: &BTreeMap<PathBuf, Change>) -> String {
    let mut nodes: BTreeMap<String, Row> = BTreeMap::new();
    let mut total = Row::default();
    for (path, change) in changes {
        let Change::Pending(diff) = change else { continue };
        let node = path.iter().next().unwrap_or_default().to_string_lossy().into_owned();
        for row in [nodes.entry(node).or_default(), &mut total] {
            row.files += 1;
            row.flows += diff.flows;
            row.lines += diff.lines;
        }
    }
    let width = nodes.keys().map(String::len).chain(["total".len()]).max().unwrap_or_default();
    let mut text = String::new();
    let _ = writeln!(
        text,
        "{:<width$} {:>6} {:>8} {:>8} {:>8} {:>8}",
        "node", "files", "flows +", "flows -", "lines +", "lines -"
    );
    for (name, row) in
        nodes.iter().map(|(name, row)| (name.as_str(), row)).chain([("total", &total)])
    {
        let _ = writeln!(
            text,
            "{name:<width$} {:>6} {:>8} {:>8} {:>8} {:>8}",
            row.files, row.flows.added, row.flows.removed, row.lines.added, row.lines.removed
        );
    }
    text
}

/// What differs of one node.
#[derive(Default)]
struct Row {
    files: usize,
    flows: Count,
    lines: Count,
}
