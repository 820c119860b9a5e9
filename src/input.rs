//! From text to typed documents: YAML, structure, positions.
//!
//! The fast way reads the text twice at the same time, once into [`DesiredState`] and once for
//! [`Positions`]. Only where the types refuse it is it read a third time, into a JSON value, so
//! that the schema can name every structural error at once.

mod positions;
mod read;
mod structure;

use rayon::prelude::*;
use serde::Deserialize;

pub use positions::{Cursor, Positions};
pub use read::{MAX_TOTAL_BYTES, read};
pub(crate) use structure::{replicas, rule_destination, rule_verdict, unsupported_version};

use crate::diagnostic::{Code, Diagnostic, Place, Report, Sources};
use crate::spec::DesiredState;

/// All documents of one text.
#[derive(Debug)]
pub struct Documents {
    states: Vec<Option<DesiredState>>,
    positions: Positions,
}

impl Documents {
    /// Each document with its top, empty ones left out.
    pub fn iter(&self) -> impl Iterator<Item = (Cursor<'_>, &DesiredState)> {
        self.positions
            .documents()
            .zip(&self.states)
            .filter_map(|(at, state)| state.as_ref().map(|state| (at, state)))
    }
}

/// Parses every text, all of them even where one has errors.
///
/// What an error spoils is left out of the documents and the rest kept, so that the later stages
/// can look for theirs: with errors in the report, the documents are incomplete.
#[must_use]
pub fn parse(sources: &Sources) -> (Vec<Documents>, Report) {
    let texts: Vec<(u32, &str)> =
        (0..).zip(sources.iter()).map(|(number, source)| (number, source.text())).collect();
    let parsed: Vec<(Option<Documents>, Report)> =
        texts.into_par_iter().map(|(source, text)| parse_text(source, text)).collect();
    let mut report = Report::new();
    let mut all = Vec::with_capacity(parsed.len());
    for (documents, found) in parsed {
        all.extend(documents);
        report.extend(found);
    }
    (all, report)
}

fn parse_text(source: u32, text: &str) -> (Option<Documents>, Report) {
    if separators(text) > positions::MAX_NODES {
        let message = format!("more than {} nodes", positions::MAX_NODES);
        let place = Place { source, line: 1, column: 1, length: 0 };
        return (None, Diagnostic::new(Code::TooLarge, message).at(place).into());
    }
    let (positions, states) = if text.contains('*') {
        // Aliases can stand for much more than is written: let `Positions` count first.
        match Positions::read(source, text) {
            Ok(positions) => (Ok(positions), read_states(text)),
            Err(report) => return (None, report),
        }
    } else {
        rayon::join(|| Positions::read(source, text), || read_states(text))
    };
    match (positions, states) {
        (Ok(positions), Ok(states)) if positions.has_nulls() => {
            match structure::explain(source, text, positions, None) {
                (Some(read), report) if report.is_empty() => {
                    (Some(Documents { states, ..read }), report)
                }
                explained => explained,
            }
        }
        (Ok(positions), Ok(states)) => (Some(Documents { states, positions }), Report::new()),
        (Ok(positions), Err(error)) => structure::explain(source, text, positions, Some(&error)),
        (Err(report), _) => (None, report),
    }
}

/// How many nodes a text has at most, but for a few: each begins behind one of these.
fn separators(text: &str) -> usize {
    let next = text.bytes().skip(1).chain([b' ']);
    let separates = |(byte, next): &(u8, u8)| match byte {
        b'\n' | b',' | b'[' | b'{' => true,
        b'\r' => *next != b'\n',
        b'-' | b'?' => next.is_ascii_whitespace(),
        _ => false,
    };
    text.bytes().zip(next).filter(separates).count()
}

fn read_states(text: &str) -> Result<Vec<Option<DesiredState>>, serde_yaml::Error> {
    if text.trim().is_empty() {
        return Ok(Vec::new());
    }
    serde_yaml::Deserializer::from_str(text).map(Option::deserialize).collect()
}
