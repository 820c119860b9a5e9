//! `ringfence status` and `ringfence generations`.

use std::fmt::Write as _;
use std::path::PathBuf;

use clap::Args;

use super::apply::fail;
use super::{Exit, print};
use crate::apply::{Generations, STATE_DIRECTORY, Status, generations, short, status};
use crate::diagnostic::{counted, json};
use crate::system::Machine;

#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// Print one JSON document
    #[arg(long)]
    json: bool,
    /// Where ringfence keeps what it remembers about this node
    #[arg(long, value_name = "DIR", default_value = STATE_DIRECTORY)]
    state: PathBuf,
}

pub(super) fn run(arguments: &Arguments) -> Exit {
    let status = match status(&arguments.state, &Machine) {
        Ok(status) => status,
        Err(diagnostic) => return fail(diagnostic),
    };
    print(&if arguments.json { json::pretty(&status) } else { human(&status) });
    if status.is_settled() { Exit::Done } else { Exit::Differs }
}

fn human(status: &Status) -> String {
    let mut text = String::new();
    let mut line = |name: &str, value: &str| {
        let _ = writeln!(text, "{name:<8} {value}");
    };
    let says = |generation: &Option<String>| match generation {
        Some(generation) => short(generation).to_owned(),
        None => "no generation".to_owned(),
    };
    line("node", &status.node);
    line("current", &format!("{}, applied {}", short(&status.current), date(status.applied)));
    if let Some(pending) = &status.pending {
        line(
            "pending",
            &match status.confirm_within {
                Some(left) => format!("{}, to be confirmed within {left} s", short(pending)),
                None => format!("{}, by a run that has not ended", short(pending)),
            },
        );
    }
    if let Some(failure) = &status.failure {
        line("failure", failure);
    }
    line("bridge", &says(&status.bridge));
    line("ruleset", &says(&status.ruleset));
    let drift = match status.drift.len() {
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
    text
}

pub(super) fn run_generations(arguments: &Arguments) -> Exit {
    let kept = match generations(&arguments.state, &Machine) {
        Ok(kept) => kept,
        Err(diagnostic) => return fail(diagnostic),
    };
    print(&if arguments.json { json::pretty(&kept) } else { list(&kept) });
    Exit::Done
}

fn list(kept: &Generations) -> String {
    let mut text = String::new();
    for kept in &kept.generations {
        let current = if kept.current { "  current" } else { "" };
        let (digits, date) = (short(&kept.generation), date(kept.applied));
        let _ = writeln!(text, "{:>3}  {digits}  {date}{current}", kept.number);
    }
    text
}

/// A time in seconds since 1970 as the date and time of day in UTC, as RFC 3339 writes them.
fn date(seconds: u64) -> String {
    const DAY: u64 = 24 * 60 * 60;
    // Days from 1 March of the year 0, so that a leap day is the last of its year; the eras of 400
    // years have the same number of days each.
    let days = seconds / DAY + 719_468;
    let (era, day) = (days / 146_097, days % 146_097);
    let year = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let day = day - (153 * month + 2) / 5 + 1;
    let year = year + era * 400 + u64::from(month >= 10);
    let month = if month < 10 { month + 3 } else { month - 9 };
    let time = seconds % DAY;
    let (hour, minute, second) = (time / 3600, time / 60 % 60, time % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
}

#[cfg(test)]
mod tests {
    use super::date;

    #[test]
    fn dates_are_those_of_the_calendar() {
        for (seconds, expected) in [
            (0, "1970-01-01T00:00:00Z"),
            (951_782_399, "2000-02-28T23:59:59Z"),
            (951_782_400, "2000-02-29T00:00:00Z"),
            (1_709_251_199, "2024-02-29T23:59:59Z"),
            (1_767_225_599, "2025-12-31T23:59:59Z"),
            (4_107_542_400, "2100-03-01T00:00:00Z"),
        ] {
            assert_eq!(date(seconds), expected);
        }
    }
}
