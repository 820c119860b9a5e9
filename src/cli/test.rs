//! `ringfence test`.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use clap::Args;
use schemars::JsonSchema;
use serde::Serialize;

use super::{Exit, Input, fail, print, show};
use crate::answer::policy_test::{self, Outcome};
use crate::diagnostic::{Code, Diagnostic, Report, Sources, counted, json, reason};
use crate::files::write_atomically;
use crate::model::Model;

#[derive(Debug, Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    input: Input,
    /// Write the results as `JUnit` XML, which most systems for CI show
    #[arg(long, value_name = "FILE")]
    junit: Option<PathBuf>,
    /// Print the results as JSON
    #[arg(long)]
    json: bool,
}

/// What `test` prints with --json.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Tests {
    /// How many tests passed.
    passed: usize,
    /// How many failed.
    failed: usize,
    /// Each test, in the order in which they are written.
    #[serde(rename = "tests")]
    each: Vec<TestResult>,
}

/// How a test went.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct TestResult {
    /// Its name.
    name: String,
    /// Where it is written.
    place: String,
    /// Whether it passed.
    passed: bool,
    /// How many packets were tried; those that are alike count once.
    packets: u64,
    /// Why it failed: a packet, and what decides about it.
    failure: Option<String>,
    /// Where that is written.
    decides: Option<String>,
}

pub(super) fn run(arguments: &Arguments) -> Exit {
    let loaded = arguments.input.read();
    let (model, sources, mut report) = match loaded.draft() {
        Ok(loaded) => loaded,
        Err((sources, report)) => return fail(arguments.json, &report, &sources),
    };
    if arguments.input.deny_warnings {
        report.deny_warnings();
        if report.has_errors() {
            return fail(arguments.json, &report, &sources);
        }
    }
    if model.intent().tests().is_empty() {
        let found = Diagnostic::new(Code::NoTests, "the desired state has no tests")
            .help("write some under `tests`, or give the paths of all files");
        return fail(arguments.json, &found.into(), &sources);
    }
    let outcomes = policy_test::run(&model);
    if let Some(file) = &arguments.junit
        && let Err(found) = write(file, &junit(&model, &outcomes, &sources))
    {
        return fail(arguments.json, &found.into(), &sources);
    }
    let results = results(&model, &outcomes, &sources);
    if arguments.json {
        print(&json::pretty(&results));
    } else {
        human(&results, &outcomes, &sources);
    }
    if results.failed > 0 { Exit::Differs } else { Exit::Done }
}

fn write(file: &Path, text: &str) -> Result<(), Diagnostic> {
    write_atomically(file, text.as_bytes()).map_err(|error| {
        let message = format!("`{}` cannot be written: {}", file.display(), reason(&error));
        Diagnostic::new(Code::OutputUnwritable, message)
            .help("check the directory and its free space")
    })
}

fn results(model: &Model, outcomes: &[Outcome], sources: &Sources) -> Tests {
    let tests = model.intent().tests().iter().zip(outcomes);
    let tests: Vec<TestResult> = tests
        .map(|(test, outcome)| {
            let related = outcome.failure.iter().flat_map(|failure| &failure.related);
            TestResult {
                name: test.name.clone(),
                place: sources.position(test.place),
                passed: outcome.failure.is_none(),
                packets: outcome.packets,
                failure: outcome.failure.as_ref().map(|failure| failure.message.clone()),
                decides: related.map(|related| sources.position(related.place)).next(),
            }
        })
        .collect();
    let passed = tests.iter().filter(|test| test.passed).count();
    Tests { passed, failed: tests.len() - passed, each: tests }
}

fn human(results: &Tests, outcomes: &[Outcome], sources: &Sources) {
    let mut text = String::new();
    for test in &results.each {
        let word = if test.passed { "passed" } else { "FAILED" };
        let packets = usize::try_from(test.packets).unwrap_or(usize::MAX);
        let _ = writeln!(text, "{word}  {} ({})", test.name, counted(packets, "packet"));
    }
    let _ = writeln!(
        text,
        "{}: {} passed, {} failed",
        counted(results.each.len(), "test"),
        results.passed,
        results.failed
    );
    print(&text);
    let mut report = Report::new();
    outcomes.iter().filter_map(|o| o.failure.clone()).for_each(|failure| report.push(failure));
    show(&report, sources);
}

/// The results as `JUnit` XML. It has no times: the same desired state gives the same file.
fn junit(model: &Model, outcomes: &[Outcome], sources: &Sources) -> String {
    let results = results(model, outcomes, sources);
    let mut text = String::from("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n");
    let total = results.each.len();
    let failed = results.failed;
    let _ = writeln!(text, "<testsuites tests=\"{total}\" failures=\"{failed}\">");
    let _ =
        writeln!(text, "  <testsuite name=\"ringfence\" tests=\"{total}\" failures=\"{failed}\">");
    for test in &results.each {
        let mut place = test.place.splitn(3, ':');
        let (file, line) = (place.next().unwrap_or_default(), place.next().unwrap_or_default());
        let _ = write!(
            text,
            "    <testcase classname=\"ringfence\" name=\"{}\" file=\"{}\" line=\"{}\"",
            escaped(&test.name),
            escaped(file),
            escaped(line)
        );
        let Some(failure) = &test.failure else {
            text.push_str("/>\n");
            continue;
        };
        let decides = test.decides.as_deref().map(|at| format!("decided at {at}"));
        let _ = writeln!(
            text,
            ">\n      <failure message=\"{}\">{}</failure>\n    </testcase>",
            escaped(failure),
            escaped(&decides.unwrap_or_default())
        );
    }
    text.push_str("  </testsuite>\n</testsuites>\n");
    text
}

/// Text as XML takes it, in attributes too.
fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&apos;"),
            // XML 1.0 has no other control characters.
            c if c.is_control() && c != '\t' => out.push(' '),
            c => out.push(c),
        }
    }
    out
}
