//! Diagnostics for people: the source line, a caret, help, and a closing count.

use annotate_snippets::{AnnotationKind, Level, Renderer, Snippet};

use super::{Diagnostic, Report, Severity, counted};
use crate::source::{Place, Sources};

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
        diagnostic.place.map(|place| snippet(place, None, AnnotationKind::Primary, sources)),
    );
    for related in &diagnostic.related {
        let label = Some(related.label.as_str());
        group =
            group.element(snippet(related.place, label, AnnotationKind::Context, sources));
    }
    if let Some(help) = &diagnostic.help {
        group = group.element(Level::HELP.message(help.as_str()));
    }
    renderer.render(&[group])
}

fn snippet<'a>(
    place: Place,
    label: Option<&'a str>,
    kind: AnnotationKind,
    sources: &'a Sources,
) -> Snippet<'a, annotate_snippets::Annotation<'a>> {
    let line = sources.line(place);
    let start = byte_offset(line, place.column.saturating_sub(1) as usize);
    let end = start + byte_offset(&line[start..], (place.length as usize).max(1));
    Snippet::source(line)
        .path(sources.display(place.source))
        .line_start(place.line as usize)
        .annotation(kind.span(start..end).label(label))
}

/// The byte at which the character numbered `chars` begins, or the end.
fn byte_offset(text: &str, chars: usize) -> usize {
    text.char_indices().nth(chars).map_or(text.len(), |(offset, _)| offset)
}
