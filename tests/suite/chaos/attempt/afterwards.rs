//! What is done to a node that is as it is to be: back and forth, with runs of other commands that
//! something happens to.

use serde_json::Value;

use super::{Failure, Files, Teller, settle, settled};
use crate::chaos::chance::Chance;
use crate::chaos::disturb::Fault;
use crate::chaos::node::{Node, STATE, program};
use crate::chaos::snapshot::Snapshot;

/// Some of it, and the last generation again in the end.
pub(super) fn more(
    node: &Node,
    a: &Files,
    b: &Files,
    chance: &mut Chance,
    teller: &mut Teller,
) -> Result<(), Failure> {
    if chance.percent(10) {
        there_and_back(node, a, b, teller)?;
    }
    if chance.percent(12) {
        broken_rollback(node, chance, teller)?;
        settle(node, b, &mut None, teller, 3)?;
        settled(node, b, teller)?;
    }
    if chance.percent(8) {
        confirmed(node, a, chance, teller)?;
        settle(node, b, &mut None, teller, 3)?;
        settled(node, b, teller)?;
    }
    Ok(())
}

/// Back to the generation before, where one is kept, and to the new one again.
fn there_and_back(node: &Node, a: &Files, b: &Files, teller: &mut Teller) -> Result<(), Failure> {
    let run = node.ringfence(&[], &["rollback", "--json"]);
    teller.check("rollback", &run)?;
    let told: Value = serde_json::from_str(&run.stdout).unwrap_or(Value::Null);
    if run.status == 0 && told["generation"] == a.generation.as_str() {
        settled(node, a, teller)?;
    }
    settle(node, b, &mut None, teller, 1)?;
    settled(node, b, teller)
}

/// A rollback of which a command goes wrong.
fn broken_rollback(node: &Node, chance: &mut Chance, teller: &mut Teller) -> Result<(), Failure> {
    disturbed(node, "rollback", chance, teller)
}

/// A teardown of which a command goes wrong.
pub(super) fn broken_teardown(
    node: &Node,
    chance: &mut Chance,
    teller: &mut Teller,
) -> Result<(), Failure> {
    disturbed(node, "teardown", chance, teller)
}

fn disturbed(
    node: &Node,
    word: &str,
    chance: &mut Chance,
    teller: &mut Teller,
) -> Result<(), Failure> {
    let fault = Fault::of_teardown(chance);
    teller.tell(format!("a {word} with {fault:?}"));
    let Fault::Command(at, way) = fault else { return Ok(()) };
    node.plan(Some((at, way)), "");
    let run = node.ringfence(&[], &[word]);
    node.quiet();
    teller.tell(format!("  at: {}", node.fired().trim()));
    node.plan(None, "");
    teller.check(word, &run)
}

/// A change that somebody confirms, with a confirmation that is killed before.
fn confirmed(
    node: &Node,
    files: &Files,
    chance: &mut Chance,
    teller: &mut Teller,
) -> Result<(), Failure> {
    let (program, directory) = (program(), &files.directory);
    let milliseconds = 1 + chance.below(40);
    let said = node.shell(&format!(
        "{program} apply {directory} --confirm 90s --state {STATE} >/mnt/said 2>&1 & all=$!
         until {program} status --state {STATE} --json | grep -q '\"confirmWithin\": [0-9]'; do
             kill -0 $all 2>/dev/null || break
             sleep 0.05
         done
         timeout -s KILL 0.{milliseconds:03} {program} confirm --state {STATE}
         {program} confirm --state {STATE}; wait $all; echo \"status $?\"; cat /mnt/said; rm /mnt/said"
    ));
    let said = said.0;
    teller.tell(format!("a change that is confirmed: {}", said.replace('\n', " | ")));
    if said.contains("panicked at") || !said.contains("status ") {
        return teller.fail("a change that is confirmed", vec![said]);
    }
    node.quiet();
    if said.contains("status 0\n") {
        return settled(node, files, teller);
    }
    if said.contains("error[RF") {
        return Ok(());
    }
    teller.fail("a change that is confirmed does not come into effect", vec![said])
}

/// Sets kernel settings as they are to be, where ringfence could not know what they were before.
pub(super) fn set_again(node: &Node, after: &mut Snapshot, expected: &Snapshot) {
    let setting = |line: &&String| line.starts_with("node: sysctl: ");
    let name = |line: &str| line.rsplit_once(':').unwrap().0.to_owned();
    for line in expected.difference(&after.clone()).filter(setting) {
        let (name, value) = (name(line), line.rsplit_once(':').unwrap().1);
        let path = name.trim_start_matches("node: sysctl: ");
        if node.shell(&format!("echo {value} >{path}")).1 == 0 {
            after.retain(|other| !other.starts_with(&format!("{name}:")));
            after.insert(line.clone());
        }
    }
}
