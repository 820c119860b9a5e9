//! `ringfence prove`.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use clap::Args;
use schemars::JsonSchema;
use serde::Serialize;

use super::{Exit, Input, fail, print, show};
use crate::diagnostic::{Code, Diagnostic, Report, Sources, counted, json};
use crate::input;
use crate::proof::contract::Lemma;
use crate::proof::meaning::Meaning;
use crate::proof::verdict::{Finding, Summary, Verdict, prove};

#[derive(Debug, Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    input: Input,
    /// The directory that `compile` wrote
    #[arg(short, long, default_value = "out", value_name = "DIR")]
    out: PathBuf,
    /// Print the verdict as JSON
    #[arg(long)]
    json: bool,
}

/// What `prove` prints with --json.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Proof {
    /// Whether the files do what the desired state says, for every frame.
    verdict: ProofVerdict,
    /// The lemmas, each with what it has compared.
    lemmas: Vec<ProofLemma>,
    /// What is refuted, the first ten kinds.
    findings: Vec<ProofFinding>,
    /// How many more there are.
    more: u64,
    /// What is not proven, and why.
    not_proven: Vec<ProofGap>,
    /// What could not be read.
    unread: Vec<ProofUnread>,
    /// How many nodes were looked at.
    nodes: usize,
    /// How many flows they have.
    flows: u64,
    /// How many of these no frame meets.
    unmet_flows: u64,
    /// How many parts all frames were cut into.
    parts: u64,
}

/// How a proof ended.
#[derive(Clone, Copy, Debug, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum ProofVerdict {
    /// Everything holds.
    Proven,
    /// Something could not be read, or no lemma speaks of it yet.
    NotProven,
    /// Something does not hold.
    Refuted,
}

/// A lemma.
#[derive(Debug, Serialize, JsonSchema)]
pub struct ProofLemma {
    /// `L0` to `L11`.
    lemma: String,
    /// What it says.
    title: String,
    /// How many cells it has compared.
    checked: u64,
}

/// What is refuted.
#[derive(Debug, Serialize, JsonSchema)]
pub struct ProofFinding {
    /// The lemma.
    lemma: String,
    /// The first node with it.
    node: String,
    /// How many nodes have it.
    nodes: usize,
    /// A frame that shows it.
    frame: Option<String>,
    /// What the files do with the frame.
    got: String,
    /// What the desired state says.
    want: String,
    /// Why.
    why: String,
    /// Where that stands, as `file:line:column`.
    place: Option<String>,
    /// The flows on the way, as `file:line`.
    flows: Vec<String>,
    /// Whether a plain evaluation of this one frame shows the same.
    confirmed: bool,
}

/// What is not proven.
#[derive(Debug, Serialize, JsonSchema)]
pub struct ProofGap {
    /// The lemma that would speak of it.
    lemma: String,
    /// What it is.
    what: String,
}

/// What could not be read.
#[derive(Debug, Serialize, JsonSchema)]
pub struct ProofUnread {
    /// The file.
    file: String,
    /// The line; 0 for all of it.
    line: u32,
    /// Why.
    why: String,
}

pub(super) fn run(arguments: &Arguments) -> Exit {
    let loaded = arguments.input.read();
    let lock_path = loaded.lock_path.clone();
    // Only what is valid has a meaning; what it is, the proof reads itself.
    let (sources, mut report) = match loaded.model() {
        Ok((_, sources, report)) => (sources, report),
        Err((sources, report)) => return fail(arguments.json, &report, &sources),
    };
    if arguments.input.deny_warnings {
        report.deny_warnings();
    }
    if report.has_errors() {
        return fail(arguments.json, &report, &sources);
    }
    let (documents, _) = input::parse(&desired(&sources));
    let lock = sources.iter().last().map_or("", |source| source.text());
    let meaning = match Meaning::read(&documents, lock) {
        Ok(meaning) => meaning,
        Err(why) => {
            let message = format!("the desired state has no meaning for the proof: {why}");
            let help = format!("look at `{}`, and run `ringfence lock`", lock_path.display());
            let diagnostic = Diagnostic::new(Code::NoMeaning, message).help(help);
            return fail(arguments.json, &diagnostic.into(), &sources);
        }
    };
    let summary = prove(&meaning, &arguments.out);
    if arguments.json {
        print(&json::pretty(&printed(&summary, &sources)));
    } else {
        show(&report, &sources);
        human(&summary, &arguments.out, &sources);
    }
    match summary.verdict {
        Verdict::Proven => Exit::Done,
        Verdict::NotProven => Exit::Error,
        Verdict::Refuted => Exit::Differs,
    }
}

/// The texts of the desired state: all but the lock file, which is the last.
fn desired(sources: &Sources) -> Sources {
    let all = sources.iter().count().saturating_sub(1);
    let texts = sources
        .iter()
        .take(all)
        .map(|source| crate::diagnostic::Source::new("", source.name(), source.text().to_owned()));
    Sources::below(sources.root().to_owned(), texts.collect())
}

fn printed(summary: &Summary, sources: &Sources) -> Proof {
    let lemma = |lemma: Lemma| format!("{lemma:?}");
    let finding = |finding: &Finding| ProofFinding {
        lemma: lemma(finding.lemma),
        node: finding.node.clone(),
        nodes: finding.nodes,
        frame: finding.frame.clone(),
        got: finding.got.clone(),
        want: finding.want.clone(),
        why: finding.why.clone(),
        place: finding.place.map(|place| sources.position(place)),
        flows: finding
            .flows
            .iter()
            .map(|(line, _)| format!("{}/flows.ofctl:{line}", finding.node))
            .collect(),
        confirmed: finding.confirmed,
    };
    let lemmas = Lemma::ALL.into_iter().zip(summary.checked);
    Proof {
        verdict: match summary.verdict {
            Verdict::Proven => ProofVerdict::Proven,
            Verdict::NotProven => ProofVerdict::NotProven,
            Verdict::Refuted => ProofVerdict::Refuted,
        },
        lemmas: lemmas
            .map(|(name, checked)| ProofLemma {
                lemma: lemma(name),
                title: name.title().to_owned(),
                checked,
            })
            .collect(),
        findings: summary.findings.iter().map(finding).collect(),
        more: summary.more,
        not_proven: summary
            .not_proven
            .iter()
            .map(|(name, what)| ProofGap { lemma: lemma(*name), what: what.clone() })
            .collect(),
        unread: summary
            .unread
            .iter()
            .map(|unread| ProofUnread {
                file: unread.file.clone(),
                line: unread.line,
                why: unread.why.clone(),
            })
            .collect(),
        nodes: summary.nodes,
        flows: summary.flows,
        unmet_flows: summary.unmet,
        parts: summary.leaves,
    }
}

/// The findings as diagnostics, at the objects of the desired state that they are about.
fn report(summary: &Summary, out: &Path) -> Report {
    let mut report = Report::new();
    for finding in &summary.findings {
        let mut message =
            format!("{:?}, {}: {}", finding.lemma, finding.lemma.title(), finding.why);
        if let Some(frame) = &finding.frame {
            message = format!(
                "{message}; on node {}, {frame}: it {}, and by the desired state it {}",
                finding.node, finding.got, finding.want
            );
        }
        let mut help = String::new();
        for (line, table) in &finding.flows {
            let file = out.join(&finding.node).join("flows.ofctl");
            let separator = if help.is_empty() { "it meets " } else { ", " };
            help = format!("{help}{separator}{}:{line} (table {table})", file.display());
        }
        if !finding.confirmed {
            help.push_str("; a plain evaluation of this frame does not show it: report this as a fault of the proof");
        }
        let mut diagnostic = Diagnostic::new(Code::Refuted, message);
        diagnostic.place = finding.place;
        diagnostic.help = Some(help).filter(|help| !help.is_empty());
        report.push(diagnostic);
    }
    for unread in &summary.unread {
        let file = out.join(&unread.file);
        let at = if unread.line == 0 { String::new() } else { format!(":{}", unread.line) };
        let message = format!("{}{at}: {}", file.display(), unread.why);
        let help = "compile the desired state again, and look at what differs";
        report.push(Diagnostic::new(Code::NotUnderstood, message).help(help));
    }
    report
}

fn human(summary: &Summary, out: &Path, sources: &Sources) {
    show(&report(summary, out), sources);
    let mut text = String::new();
    for (lemma, checked) in Lemma::ALL.into_iter().zip(summary.checked) {
        if checked > 0 {
            let name = format!("{lemma:?}");
            let title = lemma.title();
            let _ = writeln!(text, "{name:<4} {title:<28} {checked:>12} cells compared");
        }
    }
    for (lemma, what) in &summary.not_proven {
        let _ = writeln!(text, "not proven: {what} ({lemma:?})");
    }
    if summary.more > 0 {
        let _ = writeln!(text, "{}", counted_more(summary.more));
    }
    let size = format!(
        "{}, {}, {} parts of all frames",
        counted(summary.nodes, "node"),
        counted(usize::try_from(summary.flows).unwrap_or(usize::MAX), "flow"),
        summary.leaves
    );
    let verdict = match summary.verdict {
        Verdict::Proven => "proven",
        Verdict::NotProven => "not proven",
        Verdict::Refuted => "refuted",
    };
    let _ = writeln!(text, "{verdict}: {size}");
    print(&text);
}

fn counted_more(more: u64) -> String {
    format!("and {}", counted(usize::try_from(more).unwrap_or(usize::MAX), "more finding"))
}
