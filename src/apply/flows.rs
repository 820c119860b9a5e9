//! Flows: compared as text, changed by one bundle that holds only the difference.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use super::change::{Action, Kind, Step};
use crate::diagnostic::Diagnostic;
use crate::subject::Cookie;
use crate::system::{Command, System, Tool, failed};

/// What ringfence speaks: the first version with bundles.
const VERSION: [&str; 2] = ["-O", "OpenFlow14"];

/// A difference between the flows of a bridge and those that it is to have.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Difference {
    /// Flows that are to be there, by what identifies them, as `ovs-ofctl` takes them.
    add: BTreeMap<String, String>,
    /// Flows that are to go, by what identifies them.
    delete: BTreeMap<String, String>,
}

impl Difference {
    pub(super) fn is_empty(&self) -> bool {
        self.add.is_empty() && self.delete.is_empty()
    }

    /// The lines of a unified diff without its header, sorted.
    pub(super) fn lines(&self) -> Vec<String> {
        let deleted = self.delete.iter().map(|(key, flow)| (key, '-', flow));
        let added = self.add.iter().map(|(key, flow)| (key, '+', flow));
        let mut lines: Vec<_> = deleted.chain(added).collect();
        lines.sort();
        lines.into_iter().map(|(_, sign, flow)| format!("{sign}{flow}")).collect()
    }
}

/// Flows as Open vSwitch prints them, without comments, sorted.
fn normalised(text: &str) -> Vec<&str> {
    let mut flows: Vec<&str> = text
        .lines()
        .map(|line| line.split(" # ").next().unwrap_or(line).trim())
        .filter(|line| line.contains("actions="))
        .collect();
    flows.sort_unstable();
    flows
}

/// How the bridge differs from `wanted`, the text of `flows.ofctl`. `lost` tells that the bridge
/// has no flows, or won't have when this is used.
pub(super) fn compare(
    system: &dyn System,
    bridge: &str,
    wanted: &str,
    lost: bool,
) -> Result<Difference, Diagnostic> {
    // Open vSwitch doesn't print table 0.
    let wanted = wanted.replace(", table=0, ", ", ");
    if lost {
        return Ok(all(&wanted));
    }
    let dump = Command::read(
        Tool::OvsOfctl,
        VERSION.into_iter().chain(["dump-flows", "--no-stats", "--no-names", bridge]),
    );
    let live = system.succeed(&dump)?;
    let live = String::from_utf8_lossy(&live);
    let live = normalised(&live);
    if live == normalised(&wanted) {
        return Ok(Difference::default());
    }
    if live.is_empty() {
        return Ok(all(&wanted));
    }
    // Another version may print some flow in another way: let it compare them itself.
    let compare = Command::read(
        Tool::OvsOfctl,
        VERSION.into_iter().chain(["diff-flows", bridge, "/dev/stdin"]),
    );
    let output = system.run(&compare.clone().stdin(wanted))?;
    match output.status {
        Some(0 | 2) => Ok(parse(&String::from_utf8_lossy(&output.stdout))),
        _ => Err(failed(&compare, &output)),
    }
}

fn all(wanted: &str) -> Difference {
    let flows = normalised(wanted).into_iter();
    let add = flows.enumerate().map(|(n, flow)| (format!("{n:08}"), flow.to_owned())).collect();
    Difference { add, delete: BTreeMap::new() }
}

/// Reads what `diff-flows` prints: a sign, table, priority and match, then cookie and actions.
fn parse(text: &str) -> Difference {
    let mut difference = Difference::default();
    for line in text.lines() {
        let Some((sign, flow)) = line.split_at_checked(1) else { continue };
        let key = flow.split(" cookie=").next().unwrap_or(flow);
        let key = key.split(" actions=").next().unwrap_or(key);
        let key =
            key.trim().replacen(' ', ",", usize::from(key.trim_start().starts_with("table=")));
        let flow = flow.to_owned();
        match sign {
            "+" => difference.add.insert(key, flow),
            "-" => difference.delete.insert(key, flow),
            _ => None,
        };
    }
    difference
}

/// The changes of a difference object by object, and the bundle that makes them.
pub(super) fn step(
    bridge: &str,
    difference: &Difference,
    objects: &BTreeMap<Cookie, String>,
) -> Step {
    let mut step = Step::default();
    if difference.is_empty() {
        return step;
    }
    let mut counts: BTreeMap<String, [usize; 3]> = BTreeMap::new();
    let mut bundle = String::new();
    for (key, flow) in &difference.delete {
        if difference.add.contains_key(key) {
            continue; // replaced in place, with its counters kept
        }
        let _ = writeln!(bundle, "flow delete_strict {key}");
        counts.entry(object(flow, objects)).or_default()[2] += 1;
    }
    for (key, flow) in &difference.add {
        let _ = writeln!(bundle, "flow add {flow}");
        let replaced = usize::from(difference.delete.contains_key(key));
        counts.entry(object(flow, objects)).or_default()[replaced] += 1;
    }
    for (object, [added, changed, removed]) in counts {
        let action = match (added, changed, removed) {
            (_, 0, 0) => Action::Add,
            (0, 0, _) => Action::Remove,
            _ => Action::Change,
        };
        let parts = [(added, "added"), (changed, "changed"), (removed, "removed")];
        let parts: Vec<String> = parts
            .iter()
            .filter(|(number, _)| *number > 0)
            .map(|(number, what)| format!("{number} {what}"))
            .collect();
        step.change(action, Kind::Flows, object, parts.join(", "));
    }
    let arguments = VERSION.into_iter().chain(["bundle", bridge, "-"]);
    step.commands.push(Command::change(Tool::OvsOfctl, arguments).stdin(bundle));
    step
}

/// The object that a flow stands for, or its cookie where the plan has none by that.
fn object(flow: &str, objects: &BTreeMap<Cookie, String>) -> String {
    let cookie = flow.split("cookie=").nth(1).map(|rest| {
        let end = rest.find([',', ' ']).unwrap_or(rest.len());
        &rest[..end]
    });
    match cookie {
        Some(text) => match Cookie::parse(text).and_then(|cookie| objects.get(&cookie)) {
            Some(name) => name.clone(),
            None => format!("cookie {text}"),
        },
        None => "without cookie".to_owned(),
    }
}
