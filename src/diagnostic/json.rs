//! Diagnostics as one JSON document, for tools.

use serde::Serialize;
use serde_json::{Value, json};

use super::{Report, Severity};
use crate::source::{Place, Sources};

/// Renders the report: `{"diagnostics": [...], "errors": N, "warnings": N}`.
#[must_use]
pub fn render(report: &Report, sources: &Sources) -> String {
    let diagnostics: Vec<Value> = report
        .sorted()
        .into_iter()
        .map(|diagnostic| {
            json!({
                "code": diagnostic.code.to_string(),
                "severity": match diagnostic.severity {
                    Severity::Error => "error",
                    Severity::Warning => "warning",
                },
                "message": diagnostic.message,
                "help": diagnostic.help,
                "place": diagnostic.place.map(|place| position(place, sources)),
                "related": diagnostic.related.iter().map(|related| json!({
                    "label": related.label,
                    "place": position(related.place, sources),
                })).collect::<Vec<_>>(),
            })
        })
        .collect();
    let (errors, warnings) = report.counts();
    pretty(&json!({"diagnostics": diagnostics, "errors": errors, "warnings": warnings}))
}

fn position(place: Place, sources: &Sources) -> Value {
    json!({
        "file": sources.display(place.source),
        "line": place.line,
        "column": place.column,
        "length": place.length,
    })
}

/// Any of our own documents as indented JSON with a final newline.
pub fn pretty(value: &impl Serialize) -> String {
    // Our own documents have string keys and no failing serialisers.
    let mut text = serde_json::to_string_pretty(value).unwrap_or_default();
    text.push('\n');
    text
}
