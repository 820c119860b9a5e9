//! What `apply` would do or did, for people and for scripts.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use schemars::JsonSchema;
use serde::Serialize;

use super::disruption::Disruption;
use crate::system::Command;

/// One difference between a node and its plan.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, JsonSchema)]
pub struct Change {
    /// What happens to the object.
    pub action: Action,
    /// What kind of object it is.
    pub kind: Kind,
    /// Which object.
    pub object: String,
    /// In which respect, in words.
    pub detail: String,
}

/// What happens to an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Action {
    /// It is made.
    Add,
    /// It is changed.
    Change,
    /// It is removed.
    Remove,
}

/// A kind of object on a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// A kernel setting.
    Sysctl,
    /// A network namespace.
    Netns,
    /// An interface with its addresses and routes.
    Link,
    /// The bridge.
    Bridge,
    /// A port of the bridge.
    Port,
    /// The flows of an object.
    Flows,
    /// A group.
    Group,
    /// A meter.
    Meter,
    /// A queue discipline of a port.
    Qos,
    /// An nft ruleset.
    Ruleset,
    /// The proxy of an egress router.
    Proxy,
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sign = match self.action {
            Action::Add => '+',
            Action::Change => '~',
            Action::Remove => '-',
        };
        let kind = match self.kind {
            Kind::Sysctl => "sysctl",
            Kind::Netns => "netns",
            Kind::Link => "link",
            Kind::Bridge => "bridge",
            Kind::Port => "port",
            Kind::Flows => "flows",
            Kind::Group => "group",
            Kind::Meter => "meter",
            Kind::Qos => "qos",
            Kind::Ruleset => "ruleset",
            Kind::Proxy => "proxy",
        };
        write!(f, "{sign} {kind} {}: {}", self.object, self.detail)
    }
}

/// The same changes with fewer lines: where there are many, those of the same kind whose objects
/// have the same beginning, such as the rules of a project, are one.
#[must_use]
pub fn summary(changes: &[Change]) -> Vec<Change> {
    /// So many are read by people, one by one.
    const FEW: usize = 100;
    /// Of the same kind.
    const ALIKE: usize = 5;
    if changes.len() <= FEW {
        return changes.to_vec();
    }
    let key = |change: &Change| {
        let head = change.object.split([':', '/']).next().unwrap_or_default();
        // Names of interfaces say nothing of whose they are; their details do.
        let named = change.object.len() > head.len();
        let detail = format!(" {}", change.detail);
        let owner = detail.rsplit_once(" of ").map_or("", |(_, owner)| owner);
        let owner = owner.split([':', '/']).next().unwrap_or_default();
        let head = if named || owner.is_empty() { head } else { owner };
        (change.action, change.kind, head.to_owned())
    };
    let mut alike: BTreeMap<_, Vec<&Change>> = BTreeMap::new();
    for change in changes {
        alike.entry(key(change)).or_default().push(change);
    }
    let mut told = BTreeSet::new();
    let mut short = Vec::new();
    for change in changes {
        let key = key(change);
        let all = alike.get(&key).map_or(&[][..], Vec::as_slice);
        if all.len() <= ALIKE {
            short.push(change.clone());
        } else if told.insert(key.clone()) {
            let (action, kind, object) = key;
            let flows = if kind == Kind::Flows { total(all) } else { String::new() };
            let detail = format!("{} objects{flows}", all.len());
            short.push(Change { action, kind, object, detail });
        }
    }
    short
}

/// How many flows that are, in the words of each.
fn total(changes: &[&Change]) -> String {
    let mut totals: BTreeMap<&str, usize> = BTreeMap::new();
    for part in changes.iter().flat_map(|change| change.detail.split(", ")) {
        if let Some((number, what)) = part.split_once(' ') {
            *totals.entry(what).or_default() += number.parse::<usize>().unwrap_or(0);
        }
    }
    let parts = totals.iter().map(|(what, number)| format!(", {number} {what}"));
    parts.collect::<Vec<_>>().concat()
}

/// Part of the way from what a node is to what it is to be: what changes, and the commands that
/// do it.
#[derive(Clone, Debug, Default)]
pub struct Step {
    /// What changes, in words.
    pub changes: Vec<Change>,
    /// What that disrupts.
    pub disruptions: Vec<Disruption>,
    /// The commands, in order.
    pub commands: Vec<Command>,
}

impl Step {
    /// Notes a change.
    pub fn change(
        &mut self,
        action: Action,
        kind: Kind,
        object: impl Into<String>,
        detail: impl Into<String>,
    ) {
        let (object, detail) = (object.into(), detail.into());
        self.changes.push(Change { action, kind, object, detail });
    }

    /// Notes what a change disrupts.
    pub fn disrupt(&mut self, object: impl Into<String>, effect: &str) {
        self.disruptions.push(Disruption::new(object, effect));
    }
}
