//! Flows: compared as text, changed by one bundle that holds only the difference.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::io::Write as _;

use super::change::{Action, Kind, Step};
use crate::diagnostic::{Code, Diagnostic};
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

/// The flows that a bridge has.
#[derive(Debug)]
pub(super) enum Live {
    /// All of them, as Open vSwitch prints them.
    All(String),
    /// How many there are, and all of some objects and those that belong together with them.
    Touched { count: usize, groups: BTreeSet<Cookie>, flows: String },
}

impl Live {
    /// Reads all flows; `None` where there is no such bridge.
    pub(super) fn read(system: &dyn System, bridge: &str) -> Result<Option<Self>, Diagnostic> {
        let output = system.run(&dump(bridge, None))?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        Ok((output.status == Some(0)).then_some(Self::All(text)))
    }

    /// Reads back what a change touched, where that is less work than all.
    pub(super) fn touched(
        system: &dyn System,
        bridge: &str,
        difference: &Difference,
    ) -> Result<Option<Self>, Diagnostic> {
        const MOST: usize = 8;
        let flows = difference.add.values().chain(difference.delete.values());
        let groups: BTreeSet<Cookie> =
            flows.filter_map(|flow| Some(cookie(flow)?.group())).collect();
        if groups.len() > MOST {
            return Self::read(system, bridge);
        }
        let aggregate =
            Command::read(Tool::OvsOfctl, VERSION.into_iter().chain(["dump-aggregate", bridge]));
        let output = system.run(&aggregate)?;
        let Some(count) = flow_count(&String::from_utf8_lossy(&output.stdout)) else {
            return Self::read(system, bridge);
        };
        let mut flows = String::new();
        for group in &groups {
            let live = system.succeed(&dump(bridge, Some(*group)))?;
            flows.push_str(&String::from_utf8_lossy(&live));
        }
        Ok(Some(Self::Touched { count, groups, flows }))
    }
}

fn dump(bridge: &str, group: Option<Cookie>) -> Command {
    let words = ["dump-flows", "--no-stats", "--no-names", bridge];
    let only = group.map(|group| format!("cookie={group}/{:#x}", Cookie::GROUP));
    let words = VERSION.into_iter().chain(words).map(str::to_owned);
    Command::read(Tool::OvsOfctl, words.chain(only))
}

/// The number of flows in what `dump-aggregate` prints.
fn flow_count(text: &str) -> Option<usize> {
    text.split("flow_count=").nth(1)?.split_whitespace().next()?.parse().ok()
}

/// How the bridge differs from `wanted`, the text of `flows.ofctl`. `live` is `None` where the
/// bridge has no flows, or won't have when this is used.
pub(super) fn compare(
    system: &dyn System,
    bridge: &str,
    wanted: &str,
    live: Option<&Live>,
) -> Result<Difference, Diagnostic> {
    // Open vSwitch doesn't print table 0.
    let wanted = wanted.replace(", table=0, ", ", ");
    let wanted = normalised(&wanted);
    match live {
        None => Ok(all(&wanted)),
        Some(Live::All(live)) => different(system, &normalised(live), &wanted),
        Some(Live::Touched { count, groups, flows }) => {
            let touched = |flow: &&str| cookie(flow).is_some_and(|c| groups.contains(&c.group()));
            let expected: Vec<&str> = wanted.iter().copied().filter(touched).collect();
            let difference = different(system, &normalised(flows), &expected)?;
            if *count == wanted.len() && difference.is_empty() {
                return Ok(difference);
            }
            let live = system.succeed(&dump(bridge, None))?;
            different(system, &normalised(&String::from_utf8_lossy(&live)), &wanted)
        }
    }
}

/// Compares two sorted lists of flows.
fn different(
    system: &dyn System,
    live: &[&str],
    wanted: &[&str],
) -> Result<Difference, Diagnostic> {
    let missing = |flows: &[&str], among: &[&str]| -> Vec<String> {
        let lacks = |flow: &&&str| among.binary_search(flow).is_err();
        flows.iter().filter(lacks).map(|flow| (*flow).to_owned()).collect()
    };
    let extra = missing(live, wanted);
    let lacking = missing(wanted, live);
    if extra.is_empty() && lacking.is_empty() {
        return Ok(Difference::default());
    }
    if live.is_empty() {
        return Ok(all(wanted));
    }
    // Another version of Open vSwitch may print a flow in another way: let it compare the rest.
    let unusable = |error: std::io::Error| {
        Diagnostic::new(Code::CommandFailed, format!("could not write a temporary file: {error}"))
    };
    let mut file = tempfile::NamedTempFile::new().map_err(unusable)?;
    file.write_all((extra.join("\n") + "\n").as_bytes()).map_err(unusable)?;
    let path = file.path().to_string_lossy();
    let compare = Command::read(
        Tool::OvsOfctl,
        VERSION.into_iter().chain(["diff-flows", &path, "/dev/stdin"]),
    );
    let output = system.run(&compare.clone().stdin(lacking.join("\n") + "\n"))?;
    match output.status {
        Some(0 | 2) => Ok(parse(&String::from_utf8_lossy(&output.stdout))),
        _ => Err(failed(&compare, &output)),
    }
}

fn all(wanted: &[&str]) -> Difference {
    let flows = wanted.iter();
    let add = flows.enumerate().map(|(n, flow)| (format!("{n:08}"), (*flow).to_owned())).collect();
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
    match cookie(flow) {
        Some(cookie) => objects.get(&cookie).cloned().unwrap_or_else(|| format!("cookie {cookie}")),
        None => "without cookie".to_owned(),
    }
}

fn cookie(flow: &str) -> Option<Cookie> {
    let text = flow.split("cookie=").nth(1)?;
    Cookie::parse(text.split([',', ' ']).next()?)
}
