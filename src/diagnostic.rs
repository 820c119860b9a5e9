//! What ringfence says about an input or a node: a stable code, a place, a sentence, a way out.
//!
//! Every stage collects its [`Diagnostic`]s in a [`Report`] and goes on as far as it can, so that
//! one run shows all there is to mend. The renderings stand in one file each: [`human`],
//! [`json`], [`github`] and [`sarif`].

mod code;
pub mod github;
pub mod human;
pub mod json;
pub mod sarif;
mod source;

pub use code::{Code, Severity};
pub use source::{Place, Source, Sources};

/// One finding.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Diagnostic {
    /// The kind of finding; people quote it and ask `ringfence explain` about it.
    pub code: Code,
    /// Whether it stops the run. Starts as the code's own severity.
    pub severity: Severity,
    /// Where in the input, if it is about the input at all.
    pub place: Option<Place>,
    /// One lowercase sentence without a full stop that names the thing.
    pub message: String,
    /// What to do about it.
    pub help: Option<String>,
    /// Other places that matter, such as the first definition of a duplicate.
    pub related: Vec<Related>,
}

/// A second place that a [`Diagnostic`] speaks of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Related {
    /// Where it is.
    pub place: Place,
    /// What is there, as a label of a few words.
    pub label: String,
}

impl Diagnostic {
    /// A finding with the severity that its code has.
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        Self {
            code,
            severity: code.severity(),
            place: None,
            message: message.into(),
            help: None,
            related: Vec::new(),
        }
    }

    /// The same, at a place in the input.
    #[must_use]
    pub fn at(mut self, place: Place) -> Self {
        self.place = Some(place);
        self
    }

    /// The same, with what to do about it.
    #[must_use]
    pub fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }

    /// The same, with one more place.
    #[must_use]
    pub fn related(mut self, place: Place, label: impl Into<String>) -> Self {
        self.related.push(Related { place, label: label.into() });
        self
    }

    /// Whether it stops the run.
    #[must_use]
    pub fn is_error(&self) -> bool {
        self.severity == Severity::Error
    }
}

/// The findings of a run.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    diagnostics: Vec<Diagnostic>,
}

impl Report {
    /// An empty report.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds one finding.
    pub fn push(&mut self, diagnostic: Diagnostic) {
        self.diagnostics.push(diagnostic);
    }

    /// Adds the findings of a later stage.
    pub fn extend(&mut self, other: Self) {
        self.diagnostics.extend(other.diagnostics);
    }

    /// Whether anything in it stops the run.
    #[must_use]
    pub fn has_errors(&self) -> bool {
        self.diagnostics.iter().any(Diagnostic::is_error)
    }

    /// Whether nothing was found.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.diagnostics.is_empty()
    }

    /// How many errors there are, and how many warnings.
    #[must_use]
    pub fn counts(&self) -> (usize, usize) {
        let shown = self.sorted();
        let errors = shown.iter().filter(|diagnostic| diagnostic.is_error()).count();
        (errors, shown.len() - errors)
    }

    /// Turns every warning into an error, for `--deny-warnings`.
    pub fn deny_warnings(&mut self) {
        for diagnostic in &mut self.diagnostics {
            diagnostic.severity = Severity::Error;
        }
    }

    /// The findings by position, those without one first, each once.
    #[must_use]
    pub fn sorted(&self) -> Vec<&Diagnostic> {
        let mut sorted: Vec<&Diagnostic> = self.diagnostics.iter().collect();
        sorted.sort_by(|a, b| (a.place, a.code, &a.message).cmp(&(b.place, b.code, &b.message)));
        sorted.dedup();
        sorted
    }
}

impl From<Diagnostic> for Report {
    fn from(diagnostic: Diagnostic) -> Self {
        Self { diagnostics: vec![diagnostic] }
    }
}

/// Text of the user's, fit for a message: in backquotes, control characters escaped, cut at 60
/// characters.
#[must_use]
pub fn quoted(text: &str) -> String {
    const LIMIT: usize = 60;
    let mut out = String::from("`");
    for (n, c) in text.chars().enumerate() {
        if n == LIMIT {
            out.push('…');
            break;
        }
        if c.is_control() {
            out.extend(c.escape_default());
        } else {
            out.push(c);
        }
    }
    out.push('`');
    out
}

/// The one of `candidates` that `word` is most likely a misspelling of.
#[must_use]
pub fn nearest<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    if word.len() > 100 {
        return None;
    }
    let lower = word.to_lowercase();
    candidates
        .into_iter()
        .map(|candidate| {
            (strsim::damerau_levenshtein(&lower, &candidate.to_lowercase()), candidate)
        })
        .filter(|(distance, candidate)| *distance <= candidate.len().max(word.len()) / 3)
        .min_by_key(|(distance, candidate)| (*distance, *candidate))
        .map(|(_, candidate)| candidate)
}

/// Names in backquotes, the first four of them.
#[must_use]
pub fn listed<T: std::fmt::Display>(names: &[T]) -> String {
    const SHOWN: usize = 4;
    let shown: Vec<String> = names.iter().take(SHOWN).map(|name| format!("`{name}`")).collect();
    match names.len().saturating_sub(SHOWN) {
        0 => shown.join(", "),
        more => format!("{} and {more} more", shown.join(", ")),
    }
}

/// Why something with a file went wrong, in the system's words without its number.
#[must_use]
pub fn reason(error: &std::io::Error) -> String {
    let text = error.to_string();
    let plain = text.split(" (os error").next().unwrap_or(&text);
    plain.chars().take(1).flat_map(char::to_lowercase).chain(plain.chars().skip(1)).collect()
}

/// `1 error`, `2 errors`, `2 addresses`: a number with its noun.
#[must_use]
pub fn counted(number: usize, noun: &str) -> String {
    let plural = match number {
        1 => "",
        _ if noun.ends_with('s') => "es",
        _ => "s",
    };
    format!("{number} {noun}{plural}")
}
