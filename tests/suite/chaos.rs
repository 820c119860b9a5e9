//! Random networks of every feature, and random things that happen to a node meanwhile.
//!
//! An attempt brings a node into one world, does something to it or to the run that brings it into
//! another, and lets it run on undisturbed. Whatever happened, ringfence has to tell the truth,
//! leave other people's things as they are, and end with a node that is no different from one that
//! has never seen anything but the last world. The whole of both nodes is compared, line by line.
//!
//! There are [`ATTEMPTS`] by default, the same ones each time; with `RINGFENCE_CHAOS_SECONDS` it goes on for
//! as long as that says. `RINGFENCE_CHAOS_SEED` says which attempts it makes, and `RINGFENCE_CHAOS_ONLY` repeats
//! one of them, or several as in `17-19`: an attempt begins where the one before it has ended.
//! `RINGFENCE_CHAOS_PROGRAM` names another ringfence to be tried, `RINGFENCE_CHAOS_DEEDS` words of what is done by
//! hand in each attempt, and `RINGFENCE_CHAOS_KNOWN` words of lines that don't count, with `|` between them.

mod attempt;
mod chance;
mod disturb;
mod node;
mod snapshot;
mod world;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use crate::support::root;
use attempt::{Failure, Nodes};

/// How many are made by default: about what two minutes are enough for on two processors.
const ATTEMPTS: u64 = 24;

fn variable<T: std::str::FromStr>(name: &str) -> Option<T> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name} is not a number")))
}

/// The numbers of the attempts to make, and how long that may take.
fn attempts() -> (std::ops::RangeInclusive<u64>, Duration) {
    match std::env::var("RINGFENCE_CHAOS_ONLY") {
        Ok(text) => {
            let (first, last) = text.split_once('-').unwrap_or((&text, &text));
            (first.parse().unwrap()..=last.parse().unwrap(), Duration::MAX)
        }
        Err(_) => match variable("RINGFENCE_CHAOS_SECONDS") {
            Some(seconds) => (0..=u64::MAX, Duration::from_secs(seconds)),
            None => (0..=ATTEMPTS - 1, Duration::MAX),
        },
    }
}

#[test]
fn whatever_happens_a_node_becomes_what_it_is_to_be() {
    let seed = variable("RINGFENCE_CHAOS_SEED").unwrap_or(1);
    let (numbers, patience) = attempts();
    let keep = root().join("target/chaos");
    let begin = Instant::now();
    let mut nodes = Nodes::new();
    let mut table: BTreeMap<(String, String), usize> = BTreeMap::new();
    let mut failures: Vec<String> = Vec::new();
    let mut made = 0;
    for number in numbers {
        if begin.elapsed() > patience {
            break;
        }
        made += 1;
        let directory = keep.join(format!("{seed}-{number}"));
        let _ = fs::remove_dir_all(&directory);
        fs::create_dir_all(&directory).unwrap();
        match attempt::make(seed, number, &mut nodes, &directory) {
            Ok(outcomes) => {
                for outcome in outcomes {
                    *table.entry(outcome).or_default() += 1;
                }
                fs::remove_dir_all(&directory).unwrap();
            }
            Err(failure) => {
                let told = report(seed, number, &directory, &failure);
                println!("{told}");
                fs::write(directory.join("report"), &told).unwrap();
                failures.push(told);
                nodes = Nodes::new();
            }
        }
    }
    println!("{}", figures(&table, made, begin.elapsed()));
    assert!(failures.is_empty(), "{} of {made} attempts failed", failures.len());
}

fn report(seed: u64, number: u64, directory: &Path, failure: &Failure) -> String {
    let Failure { promise, story, details } = failure;
    let directory = directory.display();
    let shown: Vec<&str> = details.iter().map(String::as_str).take(60).collect();
    format!(
        "seed {seed}, attempt {number}: {promise}\n  {}\n  worlds: {directory}/a/network.yaml, \
         {directory}/b/network.yaml\n  again: RINGFENCE_CHAOS_SEED={seed} RINGFENCE_CHAOS_ONLY={number} \
         cargo test --test suite -- chaos:: --nocapture\n    {}\n",
        story.join("\n  "),
        shown.join("\n    ").replace('\n', "\n    ")
    )
}

/// How often each kind of disturbance ended how.
fn figures(table: &BTreeMap<(String, String), usize>, made: usize, took: Duration) -> String {
    let lines =
        table.iter().map(|((kind, outcome), number)| format!("{number:6}  {kind:45}  {outcome}"));
    let lines: Vec<String> = lines.collect();
    format!("{}\n{made} attempts in {} s", lines.join("\n"), took.as_secs())
}
