//! `ringfence diff`.

use std::fmt::Write as _;
use std::path::PathBuf;

use clap::{Args, ValueEnum};
use schemars::JsonSchema;
use serde::Serialize;

use super::revision::{files, range};
use super::{Exit, fail, print};
use crate::answer::diff::flows::{Touched, touched};
use crate::answer::diff::{Effect, Row, Side, diff};
use crate::diagnostic::{Code, Diagnostic, Report, Sources, counted, json};
use crate::driver::load::Loaded;
use crate::model::Model;

#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// The state before: a directory, a file, or a revision of Git; or both states as OLD..NEW
    old: String,
    /// The state after
    new: Option<String>,
    /// The directory or file in the repository, where the states are revisions
    #[arg(long, default_value = ".", value_name = "PATH")]
    path: PathBuf,
    /// How the differences are written
    #[arg(long, value_enum, default_value_t = DiffFormat::Text)]
    format: DiffFormat,
    /// Compile both, and count the flows that differ on each node
    #[arg(long)]
    flows: bool,
    /// Exit with status 2 only where traffic is opened or closed
    #[arg(long, value_enum, value_name = "EFFECT")]
    fail_on: Vec<FailOn>,
}

/// How the differences are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum DiffFormat {
    /// A line each
    Text,
    /// Tables for the comment of a pull request
    Markdown,
    /// One JSON document
    Json,
}

/// What a change may not do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum FailOn {
    /// Open anything
    Opened,
    /// Close anything
    Closed,
}

/// What `diff` prints with --format json.
#[derive(Debug, Serialize, JsonSchema)]
pub struct Difference {
    /// What is opened, closed, changed or renumbered.
    rows: Vec<DifferenceRow>,
    /// The nodes with flows that differ, with --flows.
    nodes: Option<Vec<DifferenceNode>>,
}

/// One difference.
#[derive(Debug, Serialize, JsonSchema)]
pub struct DifferenceRow {
    /// `opens`, `closes`, `changes` or `renumbers`.
    effect: String,
    /// Who sends, or the object that is another.
    from: String,
    /// To whom; empty where nobody is meant.
    to: String,
    /// Whether it is so in both directions.
    both: bool,
    /// The ports, or what is another; empty for all.
    what: String,
    /// Why.
    because: String,
    /// Where that is written.
    place: Option<String>,
    /// In which state that is: `old` or `new`.
    state: Option<String>,
}

/// The flows of a node that differ.
#[derive(Debug, Serialize, JsonSchema)]
pub struct DifferenceNode {
    /// The node.
    node: String,
    /// Flows that it gets.
    added: usize,
    /// Flows that it loses.
    removed: usize,
    /// How many it has then.
    total: usize,
}

pub(super) fn run(arguments: &Arguments) -> Exit {
    let sides = match (&arguments.new, range(&arguments.old)) {
        (Some(new), _) => (arguments.old.as_str(), new.as_str()),
        (None, Some(both)) => both,
        (None, None) => {
            let message = "there is nothing to compare with";
            let found = Diagnostic::new(Code::BadRevision, message)
                .help("name two states: `ringfence diff OLD NEW` or `ringfence diff main..HEAD`");
            return fail(arguments.format == DiffFormat::Json, &found.into(), &Sources::default());
        }
    };
    let (old, new) = match (read(arguments, sides.0), read(arguments, sides.1)) {
        (Ok(old), Ok(new)) => (old, new),
        (Err((sources, report)), _) | (_, Err((sources, report))) => {
            return fail(arguments.format == DiffFormat::Json, &report, &sources);
        }
    };
    let rows = diff(&old.0, &new.0);
    let nodes = match arguments.flows.then(|| touched(&old.0, &new.0)).transpose() {
        Ok(nodes) => nodes,
        Err(found) => return fail(arguments.format == DiffFormat::Json, &found.into(), &new.1),
    };
    let sources = [&old.1, &new.1];
    match arguments.format {
        DiffFormat::Text => print(&text(&rows, nodes.as_deref(), sources)),
        DiffFormat::Markdown => print(&markdown(&rows, nodes.as_deref(), sources, sides)),
        DiffFormat::Json => print(&json::pretty(&printed(&rows, nodes.as_deref(), sources))),
    }
    exit(arguments, &rows)
}

fn exit(arguments: &Arguments, rows: &[Row]) -> Exit {
    let fails = |row: &Row| {
        arguments.fail_on.is_empty()
            || arguments.fail_on.iter().any(|fail| match fail {
                FailOn::Opened => row.effect == Effect::Opens,
                FailOn::Closed => row.effect == Effect::Closes,
            })
    };
    if rows.iter().any(fails) { Exit::Differs } else { Exit::Done }
}

fn read(arguments: &Arguments, side: &str) -> Result<(Model, Sources), (Sources, Report)> {
    let files = files(side, &arguments.path).map_err(|found| (Sources::default(), found.into()))?;
    let loaded = Loaded::read(&[files.path], None, &mut std::io::empty());
    let (model, sources, _) = loaded.draft()?;
    Ok((model, sources))
}

/// `network.yaml:12:5`, in front of which stands that it is there no longer.
fn position(row: &Row, sources: [&Sources; 2]) -> Option<String> {
    let (side, place) = row.place?;
    let position = sources[side as usize].position(place);
    Some(match side {
        Side::Old => format!("was {position}"),
        Side::New => position,
    })
}

fn text(rows: &[Row], nodes: Option<&[Touched]>, sources: [&Sources; 2]) -> String {
    let mut text = String::new();
    for row in rows {
        let Row { effect, from, arrow, to, what, because, .. } = row;
        let _ = write!(text, "{:<9}  {from}", effect.as_str());
        if !to.is_empty() {
            let _ = write!(text, " {arrow} {to}");
        }
        if !what.is_empty() {
            let _ = write!(text, ": {what}");
        }
        let position = position(row, sources);
        let why = match (because.is_empty(), position) {
            (false, Some(position)) => format!(" ({because}, {position})"),
            (false, None) => format!(" ({because})"),
            (true, Some(position)) => format!(" ({position})"),
            (true, None) => String::new(),
        };
        let _ = writeln!(text, "{why}");
    }
    if rows.is_empty() {
        text.push_str("both states mean the same\n");
    }
    if let Some(nodes) = nodes {
        let _ = writeln!(text, "\n{} with other flows", counted(nodes.len(), "node"));
        for node in nodes {
            let Touched { node, added, removed, total } = node;
            let _ = writeln!(text, "  {node}: +{added} -{removed} of {total}");
        }
    }
    text
}

/// Text that stands in a cell of a table of Markdown.
fn cell(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '|' | '\\' | '`' | '*' | '_' | '[' | ']' | '#' => {
                out.push('\\');
                out.push(c);
            }
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '@' => out.push_str("&#64;"),
            c if c.is_control() => out.push(' '),
            c => out.push(c),
        }
    }
    out
}

fn markdown(
    rows: &[Row],
    nodes: Option<&[Touched]>,
    sources: [&Sources; 2],
    sides: (&str, &str),
) -> String {
    let mut text = format!("### Network: {} to {}\n\n", cell(sides.0), cell(sides.1));
    if rows.is_empty() {
        text.push_str("Both states mean the same.\n");
    } else {
        text.push_str("| | From | | To | What | Why |\n| --- | --- | --- | --- | --- | --- |\n");
    }
    for row in rows {
        let Row { effect, from, arrow, to, what, because, .. } = row;
        let effect = match effect {
            Effect::Opens => "**opens**",
            Effect::Closes => "**closes**",
            other => other.as_str(),
        };
        let position = position(row, sources).map(|at| cell(&at)).unwrap_or_default();
        let why = match because.as_str() {
            "" => position,
            because => format!("{}, {position}", cell(because)),
        };
        let (from, to, what) = (cell(from), cell(to), cell(what));
        let _ = writeln!(text, "| {effect} | {from} | {} | {to} | {what} | {why} |", cell(arrow));
    }
    if let Some(nodes) = nodes {
        text.push_str("\n| Node | Flows added | removed | of |\n| --- | --- | --- | --- |\n");
        for node in nodes {
            let Touched { node, added, removed, total } = node;
            let _ = writeln!(text, "| {} | {added} | {removed} | {total} |", cell(node));
        }
    }
    text
}

fn printed(rows: &[Row], nodes: Option<&[Touched]>, sources: [&Sources; 2]) -> Difference {
    let row = |row: &Row| DifferenceRow {
        effect: row.effect.as_str().to_owned(),
        from: row.from.clone(),
        to: row.to.clone(),
        both: row.arrow == "<->",
        what: row.what.clone(),
        because: row.because.clone(),
        place: row.place.map(|(side, place)| sources[side as usize].position(place)),
        state: row.place.map(|(side, _)| match side {
            Side::Old => "old".to_owned(),
            Side::New => "new".to_owned(),
        }),
    };
    let node = |node: &Touched| DifferenceNode {
        node: node.node.clone(),
        added: node.added,
        removed: node.removed,
        total: node.total,
    };
    Difference {
        rows: rows.iter().map(row).collect(),
        nodes: nodes.map(|nodes| nodes.iter().map(node).collect()),
    }
}
