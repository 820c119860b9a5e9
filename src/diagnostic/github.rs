//! Diagnostics as GitHub workflow commands, which annotate the changed lines of a pull request.

use std::fmt::Write as _;

use super::{Report, Severity};
use crate::diagnostic::Sources;

/// Renders the report, one workflow command a line.
#[must_use]
pub fn render(report: &Report, sources: &Sources) -> String {
    let mut out = String::new();
    for diagnostic in report.sorted() {
        out.push_str(match diagnostic.severity {
            Severity::Error => "::error ",
            Severity::Warning => "::warning ",
        });
        if let Some(place) = diagnostic.place {
            let file = property(sources.display(place.source));
            let _ = write!(out, "file={file},line={},col={},", place.line, place.column);
            if place.length > 1 {
                let _ = write!(out, "endColumn={},", place.column + place.length);
            }
        }
        let mut message = diagnostic.message.clone();
        if let Some(help) = &diagnostic.help {
            let _ = write!(message, "\nhelp: {help}");
        }
        let _ = writeln!(out, "title={}::{}", diagnostic.code, data(&message));
    }
    out
}

fn data(text: &str) -> String {
    text.replace('%', "%25").replace('\r', "%0D").replace('\n', "%0A")
}

fn property(text: &str) -> String {
    data(text).replace(':', "%3A").replace(',', "%2C")
}
