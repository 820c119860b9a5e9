//! Diagnostics as SARIF 2.1.0, the OASIS format that code-scanning services read.

use std::collections::BTreeSet;

use percent_encoding::{AsciiSet, CONTROLS};
use serde_json::{Value, json};

use super::{Code, Report, Severity, json::pretty};
use crate::diagnostic::{Place, Sources};

/// Renders the report as one SARIF log with one run.
#[must_use]
pub fn render(report: &Report, sources: &Sources) -> String {
    let sorted = report.sorted();
    let codes: BTreeSet<Code> = sorted.iter().map(|diagnostic| diagnostic.code).collect();
    let rules: Vec<Value> = codes
        .iter()
        .map(|code| {
            json!({
                "id": code.to_string(),
                "shortDescription": {"text": code.title()},
                "help": {"text": code.explanation(), "markdown": code.explanation()},
            })
        })
        .collect();
    let results: Vec<Value> = sorted
        .iter()
        .map(|diagnostic| {
            let text = match &diagnostic.help {
                Some(help) => format!("{}; {help}", diagnostic.message),
                None => diagnostic.message.clone(),
            };
            json!({
                "ruleId": diagnostic.code.to_string(),
                "level": match diagnostic.severity {
                    Severity::Error => "error",
                    Severity::Warning => "warning",
                },
                "message": {"text": text},
                "locations": diagnostic.place.iter()
                    .map(|place| location(*place, None, sources)).collect::<Vec<_>>(),
                "relatedLocations": diagnostic.related.iter()
                    .map(|related| location(related.place, Some(&related.label), sources))
                    .collect::<Vec<_>>(),
            })
        })
        .collect();
    pretty(&json!({
        "$schema": "https://json.schemastore.org/sarif-2.1.0.json",
        "version": "2.1.0",
        "runs": [{
            "tool": {"driver": {
                "name": "ringfence",
                "version": env!("CARGO_PKG_VERSION"),
                "rules": rules,
            }},
            "columnKind": "unicodeCodePoints",
            "results": results,
        }],
    }))
}

/// A path as a relative reference (RFC 3986).
fn uri(path: &str) -> String {
    const PATH: &AsciiSet = &CONTROLS
        .add(b' ')
        .add(b'"')
        .add(b'#')
        .add(b'%')
        .add(b'<')
        .add(b'>')
        .add(b'?')
        .add(b'[')
        .add(b']')
        .add(b'^')
        .add(b'`')
        .add(b'{')
        .add(b'|')
        .add(b'}')
        .add(b':');
    percent_encoding::utf8_percent_encode(path, PATH).to_string()
}

fn location(place: Place, label: Option<&str>, sources: &Sources) -> Value {
    let mut location = json!({
        "physicalLocation": {
            "artifactLocation": {"uri": uri(sources.display(place.source))},
            "region": {
                "startLine": place.line,
                "startColumn": place.column,
                "endColumn": place.column + place.length.max(1),
            },
        },
    });
    if let Some(label) = label {
        location["message"] = json!({"text": label});
    }
    location
}
