//! Diagnostics for people: the source line, a caret, help, and a closing count.

use annotate_snippets::{Annotation, AnnotationKind, Level, Renderer, Snippet};

use super::{Diagnostic, Related, Report, Severity, counted};
use crate::diagnostic::{Place, Sources};

/// Renders the whole report, with colour where `styled`.
#[must_use]
pub fn render(report: &Report, sources: &Sources, styled: bool) -> String {
    let renderer = if styled { Renderer::styled() } else { Renderer::plain() };
    let mut out = String::new();
    for diagnostic in report.sorted() {
        out.push_str(&one(&renderer, diagnostic, sources));
        out.push_str("\n\n");
    }
    out.push_str(&closing(report));
    out.push('\n');
    out
}

/// `2 errors, 1 warning`.
#[must_use]
pub fn closing(report: &Report) -> String {
    match report.counts() {
        (0, 0) => "no errors, no warnings".to_owned(),
        (errors, 0) => counted(errors, "error"),
        (0, warnings) => counted(warnings, "warning"),
        (errors, warnings) => {
            format!("{}, {}", counted(errors, "error"), counted(warnings, "warning"))
        }
    }
}

fn one(renderer: &Renderer, diagnostic: &Diagnostic, sources: &Sources) -> String {
    let level = match diagnostic.severity {
        Severity::Error => Level::ERROR,
        Severity::Warning => Level::WARNING,
    };
    let code = diagnostic.code.to_string();
    let mut group = level.primary_title(diagnostic.message.as_str()).id(code).elements(
        // Related places of the same line stand below it together.
        diagnostic.place.map(|place| {
            let beside = diagnostic.related.iter().filter(|related| same_line(related, place));
            beside.fold(
                snippet(place, sources).annotation(annotation(place, None, sources)),
                |snippet, related| {
                    let label = Some(related.label.as_str());
                    snippet.annotation(annotation(related.place, label, sources))
                },
            )
        }),
    );
    let elsewhere = diagnostic
        .related
        .iter()
        .filter(|related| diagnostic.place.is_none_or(|place| !same_line(related, place)));
    for related in elsewhere {
        let label = Some(related.label.as_str());
        group = group.element(snippet(related.place, sources).annotation(annotation(
            related.place,
            label,
            sources,
        )));
    }
    if let Some(help) = &diagnostic.help {
        group = group.element(Level::HELP.message(help.as_str()));
    }
    renderer.render(&[group])
}

fn same_line(related: &Related, place: Place) -> bool {
    (related.place.source, related.place.line) == (place.source, place.line)
}

fn snippet(place: Place, sources: &Sources) -> Snippet<'_, Annotation<'_>> {
    Snippet::source(sources.line(place))
        .path(sources.display(place.source))
        .line_start(place.line as usize)
}

/// The mark below the line: with a label for a related place.
fn annotation<'a>(place: Place, label: Option<&'a str>, sources: &'a Sources) -> Annotation<'a> {
    let line = sources.line(place);
    let start = byte_offset(line, place.column.saturating_sub(1) as usize);
    let end = start + byte_offset(&line[start..], (place.length as usize).max(1));
    let kind = if label.is_some() { AnnotationKind::Context } else { AnnotationKind::Primary };
    kind.span(start..end).label(label)
}

/// The byte at which the character numbered `chars` begins, or the end.
fn byte_offset(text: &str, chars: usize) -> usize {
    text.char_indices().nth(chars).map_or(text.len(), |(offset, _)| offset)
}
