//! Diagnostics as one JSON document, for tools.

use schemars::JsonSchema;
use serde::Serialize;

use super::{Report, Severity};
use crate::diagnostic::{Place, Sources};

/// What a command found, or why it failed.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "Report")]
pub struct Findings {
    /// In the order of their places.
    diagnostics: Vec<Finding>,
    /// How many of them are errors.
    errors: usize,
    /// How many of them are warnings.
    warnings: usize,
}

#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "Diagnostic")]
struct Finding {
    /// Such as RF071, for `ringfence explain`.
    code: String,
    severity: &'static str,
    /// What is wrong.
    message: String,
    /// What to do.
    help: Option<String>,
    /// Where; `null` where it is about no line of a file.
    place: Option<Position>,
    /// Other places that have to do with it.
    related: Vec<Related>,
}

#[derive(Debug, Serialize, JsonSchema)]
struct Related {
    label: String,
    place: Position,
}

#[derive(Debug, Serialize, JsonSchema)]
struct Position {
    file: String,
    /// Counted from 1.
    line: u32,
    /// Counted from 1, in characters.
    column: u32,
    /// In characters.
    length: u32,
}

/// Renders the report: `{"diagnostics": [...], "errors": N, "warnings": N}`.
#[must_use]
pub fn render(report: &Report, sources: &Sources) -> String {
    let finding = |diagnostic: &super::Diagnostic| Finding {
        code: diagnostic.code.to_string(),
        severity: match diagnostic.severity {
            Severity::Error => "error",
            Severity::Warning => "warning",
        },
        message: diagnostic.message.clone(),
        help: diagnostic.help.clone(),
        place: diagnostic.place.map(|place| position(place, sources)),
        related: diagnostic
            .related
            .iter()
            .map(|related| Related {
                label: related.label.clone(),
                place: position(related.place, sources),
            })
            .collect(),
    };
    let diagnostics = report.sorted().into_iter().map(finding).collect();
    let (errors, warnings) = report.counts();
    pretty(&Findings { diagnostics, errors, warnings })
}

fn position(place: Place, sources: &Sources) -> Position {
    Position {
        file: sources.display(place.source).to_string(),
        line: place.line,
        column: place.column,
        length: place.length,
    }
}

/// Any of our own documents as indented JSON with a final newline.
pub fn pretty(value: &impl Serialize) -> String {
    // Our own documents have string keys and no failing serialisers.
    let mut text = serde_json::to_string_pretty(value).unwrap_or_default();
    text.push('\n');
    text
}
