//! nft rulesets: replaced as one transaction each where they are not in effect.
//!
//! nft prints a ruleset in its own way, which differs from version to version, so the text of a
//! file says nothing about what is loaded. What nft prints after a load is remembered instead: the
//! ruleset is in effect as long as it prints the same.

use std::collections::BTreeSet;

use super::change::{Action, Kind, Step};
use super::firewall::{self, Chain};
use super::state::Loaded;
use crate::artifact::host::{GUARDED_SET, TABLE_MARK};
use crate::dataplane::nft::{Family, TABLE};
use crate::diagnostic::{Code, Diagnostic};
use crate::system::{Command, System, Tool};
use crate::value::{InterfaceName, NetnsName};

/// A ruleset and where it belongs.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place<'a> {
    /// What it is called in changes.
    pub(super) object: &'a str,
    /// The namespace; `None` for the node's own.
    pub(super) netns: Option<&'a NetnsName>,
}

/// What nft prints of the tables of ours, `None` where there are none, and the hooks of others.
pub(super) fn listing(
    system: &dyn System,
    netns: Option<&NetnsName>,
) -> Result<(Option<Vec<u8>>, Vec<Chain>), Diagnostic> {
    // This tells all tables too, and doesn't read their rules.
    let tables = system.succeed(&Command::read(Tool::Nft, ["list", "chains"]).within(netns))?;
    let tables = String::from_utf8_lossy(&tables);
    let mut listing = Vec::new();
    for family in Family::ALL {
        if has_table(&tables, family) {
            // One at a time: nft 1.0.6 doesn't find tables of several families in one go.
            let list = ["-s", "list", "table", family.as_str(), TABLE];
            listing.extend(system.succeed(&Command::read(Tool::Nft, list).within(netns))?);
        }
    }
    Ok(((!listing.is_empty()).then_some(listing), firewall::chains(&tables)))
}

/// The line of `nft list tables` for the table of ours in a family; `list chains` adds a brace.
pub(super) fn line(family: Family) -> String {
    format!("table {} {TABLE}", family.as_str())
}

/// Whether what nft prints of all tables or chains has the table of ours in a family.
pub(super) fn has_table(tables: &str, family: Family) -> bool {
    let line = line(family);
    tables.lines().any(|other| other.trim_end_matches(" {").trim() == line)
}

/// What has to be done for `file` to be in effect.
pub(super) fn step(
    place: Place<'_>,
    file: &[u8],
    listing: Option<&[u8]>,
    remembered: Option<&Loaded>,
) -> Step {
    let mut step = Step::default();
    let in_effect =
        listing.zip(remembered).is_some_and(|(listing, remembered)| remembered.is(file, listing));
    if in_effect {
        return step;
    }
    let same_file = remembered.is_some_and(|remembered| remembered.is_file(file));
    let (action, detail) = match listing {
        None => (Action::Add, "not loaded"),
        Some(_) if same_file => (Action::Change, "changed by hand"),
        Some(_) => (Action::Change, "of another generation"),
    };
    step.change(action, Kind::Ruleset, place.object, detail);
    step.commands.push(Command::change(Tool::Nft, ["-f", "-"]).within(place.netns).stdin(file));
    step
}

/// Keeps the guard on interfaces that go with this change, which the ruleset that is about to be
/// loaded no longer has: the kernel would take their frames until they are gone. Returns what ends
/// that.
pub(super) fn guard_until_gone(load: &mut Step, leaving: &BTreeSet<InterfaceName>) -> Step {
    let mut after = Step::default();
    let Some(command) = load.commands.first_mut().filter(|_| !leaving.is_empty()) else {
        return after;
    };
    let names: Vec<String> = leaving.iter().map(|name| format!("\"{name}\"")).collect();
    let names = names.join(", ");
    let elements = |verb: &str| {
        let families = [Family::Inet, Family::Arp].map(Family::as_str);
        let line =
            |family| format!("{verb} element {family} {TABLE} {GUARDED_SET} {{ {names} }}\n");
        families.map(line).concat()
    };
    command.stdin.extend(elements("add").into_bytes());
    after.commands.push(Command::change(Tool::Nft, ["-f", "-"]).stdin(elements("delete")));
    after
}

/// The families whose table of our name has our mark, the generation or what stands in its place in
/// the file, and those where it lacks it.
fn families(listing: &[u8]) -> (Vec<Family>, Vec<Family>) {
    let text = String::from_utf8_lossy(listing);
    let lines: Vec<&str> = text.lines().map(str::trim).collect();
    let begins = |family: &Family| {
        let head = format!("{} {{", line(*family));
        lines.iter().position(|line| *line == head)
    };
    let all = Family::ALL.into_iter().filter(|family| begins(family).is_some());
    all.partition(|family| {
        let next = begins(family).and_then(|at| lines.get(at + 1));
        let by_hand = format!("comment \"{TABLE_MARK}\"");
        next.is_some_and(|line| line.starts_with("comment \"generation ") || *line == by_hand)
    })
}

/// RF206: a table of our name that lacks our mark is somebody else's.
pub(super) fn check(listing: Option<&[u8]>) -> Result<(), Diagnostic> {
    let (_, foreign) = listing.map(families).unwrap_or_default();
    let Some(family) = foreign.first() else { return Ok(()) };
    let table = line(*family);
    let message = format!("the nft {table} exists and is not ringfence's");
    Err(Diagnostic::new(Code::NotOurs, message)
        .help(format!("remove it with `nft delete {table}`, if nothing else needs it")))
}

/// Removes the tables of ours, for `teardown`.
pub(super) fn remove(listing: Option<&[u8]>) -> Step {
    let mut step = Step::default();
    let (ours, _) = listing.map(families).unwrap_or_default();
    if !ours.is_empty() {
        step.change(Action::Remove, Kind::Ruleset, "node", "all tables of ringfence");
        let commands = ours
            .into_iter()
            .map(Family::as_str)
            .map(|family| format!("table {family} {TABLE}\ndelete table {family} {TABLE}\n"));
        let commands = commands.collect::<String>();
        step.commands.push(Command::change(Tool::Nft, ["-f", "-"]).stdin(commands));
    }
    step
}
