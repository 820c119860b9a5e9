//! What `apply` would do or did, for people and for scripts.

use std::fmt;

use schemars::JsonSchema;
use serde::Serialize;

use super::disturbance::Disturbance;
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

/// Part of the way from what a node is to what it is to be: what changes, and the commands that
/// do it.
#[derive(Clone, Debug, Default)]
pub struct Step {
    /// What changes, in words.
    pub changes: Vec<Change>,
    /// What that disturbs.
    pub disturbs: Vec<Disturbance>,
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

    /// Notes what a change disturbs.
    pub fn disturb(&mut self, object: impl Into<String>, effect: &str) {
        self.disturbs.push(Disturbance::new(object, effect));
    }
}
