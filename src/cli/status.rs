//! `ringfence status` and `ringfence generations`.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::PathBuf;

use clap::Args;

use super::apply::fail_as;
use super::{Exit, print};
use crate::apply::{
    Change, Drift, Generations, STATE_DIRECTORY, Status, generations, short_id, status, summary,
};
use crate::diagnostic::{counted, json};
use crate::system::Machine;
use crate::value::Timestamp;

#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// Print one JSON document
    #[arg(long)]
    json: bool,
    /// Tell each difference, however many there are. By default, where there are more than a hundred,
    /// many of the same kind and owner are one line
    #[arg(long)]
    verbose: bool,
    /// Where ringfence keeps what it remembers about this node
    #[arg(long, value_name = "DIR", default_value = STATE_DIRECTORY)]
    state: PathBuf,
}

pub(super) fn run(arguments: &Arguments) -> Exit {
    let mut status = match status(&arguments.state, &Machine) {
        Ok(status) => status,
        Err(diagnostic) => return fail_as(diagnostic, arguments.json),
    };
    let number = status.drift.len();
    if !arguments.verbose {
        status.drift = shorter(std::mem::take(&mut status.drift));
    }
    print(&if arguments.json { json::pretty(&status) } else { human(&status, number) });
    if status.is_settled() { Exit::Done } else { Exit::Differs }
}

/// The differences with fewer lines; those that stay as they are keep their places.
fn shorter(drift: Vec<Drift>) -> Vec<Drift> {
    let changes: Vec<Change> = drift.iter().map(|drift| drift.change.clone()).collect();
    let mut places: BTreeMap<Change, Option<String>> =
        drift.into_iter().map(|drift| (drift.change, drift.place)).collect();
    let summaries = summary(&changes).into_iter();
    summaries.map(|change| Drift { place: places.remove(&change).flatten(), change }).collect()
}

/// For people, where that many differences were found.
fn human(status: &Status, number: usize) -> String {
    let mut text = String::new();
    let mut line = |name: &str, value: &str| {
        let _ = writeln!(text, "{name:<8} {value}");
    };
    let says = |generation: &Option<String>| match generation {
        Some(generation) => short_id(generation).to_owned(),
        None => "no generation".to_owned(),
    };
    line("node", &status.node);
    line("current", &format!("{}, applied {}", short_id(&status.current), date(status.applied)));
    if let Some(pending) = &status.pending {
        line(
            "pending",
            &match status.confirm_within {
                Some(left) => format!("{}, to be confirmed within {left} s", short_id(pending)),
                None => format!("{}, by a run that has not ended", short_id(pending)),
            },
        );
    }
    if let Some(failure) = &status.failure {
        line("failure", failure);
    }
    line("bridge", &says(&status.bridge));
    line("ruleset", &says(&status.ruleset));
    let drift = match number {
        0 => "none".to_owned(),
        number => counted(number, "difference"),
    };
    line("drift", &drift);
    for drift in &status.drift {
        let _ = writeln!(text, "{}", drift.change);
        if let Some(place) = &drift.place {
            let _ = writeln!(text, "  at {place}");
        }
    }
    for finding in &status.findings {
        let _ = writeln!(text, "{finding}");
    }
    text
}

pub(super) fn run_generations(arguments: &Arguments) -> Exit {
    let kept = match generations(&arguments.state, &Machine) {
        Ok(kept) => kept,
        Err(diagnostic) => return fail_as(diagnostic, arguments.json),
    };
    print(&if arguments.json { json::pretty(&kept) } else { list(&kept) });
    Exit::Done
}

fn list(kept: &Generations) -> String {
    let mut text = String::new();
    for kept in &kept.generations {
        let current = if kept.current { "  current" } else { "" };
        let (digits, date) = (short_id(&kept.generation), date(kept.applied));
        let _ = writeln!(text, "{:>3}  {digits}  {date}{current}", kept.number);
    }
    text
}

/// A time in seconds since 1970, as RFC 3339 writes it.
fn date(seconds: u64) -> String {
    Timestamp::from_seconds(seconds).unwrap_or_default().to_string()
}
