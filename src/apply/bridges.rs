//! What of somebody else's is on a bridge of ringfence's, and how a bridge goes that has nothing.
//!
//! A bridge takes all with it when it goes: ports, flows, and the addresses of its own interface. So
//! one goes only if it has every mark and nothing of others, which its very transaction asks for once
//! more. Otherwise it stays, without what is ringfence's.

use super::change::{Action, Kind, Step};
use super::gateway::UPLINK;
use super::ovsdb::{ADOPTED, Bridge, Database, MARK, Port};
use super::ports::{TIMEOUT, clause};
use super::{flows, groups, qos};
use crate::artifact::host;
use crate::diagnostic::{Code, Diagnostic};
use crate::system::netlink::Network;
use crate::system::{Command, System, Tool};

/// How long a bridge may take to be as it was seen, in seconds: it is, or it won't be.
const AS_SEEN: &str = "--timeout=10";

impl Bridge {
    /// A port that is neither ringfence's nor the bridge's own, nor the uplink of a gateway bridge.
    fn foreign_port(&self, name: &str) -> Option<&str> {
        let uplink = self.external_ids.get(UPLINK);
        let mut ports = self
            .ports
            .iter()
            .filter(|(port, found)| *port != name && Some(*port) != uplink && !found.is_ours());
        ports.next().map(|(port, _)| port.as_str())
    }

    /// What of others is on it, in words.
    pub(super) fn foreign(&self, name: &str) -> Option<String> {
        let port =
            self.foreign_port(name).map(|port| format!("its port `{port}` is somebody else's"));
        port.or_else(|| match self.foreign_flows {
            0 => None,
            1 => Some("one of its flows is somebody else's".to_owned()),
            number => Some(format!("{number} of its flows are somebody else's")),
        })
    }
}

impl Database {
    /// Counts flows of others on gateway bridges of ringfence's that may lose them. All flows of the
    /// bridge of pods are ringfence's.
    pub(super) fn count_foreign_flows(&mut self, wanted: Option<&str>, system: &dyn System) {
        for (name, bridge) in &mut self.bridges {
            let gateway = bridge.external_ids.contains_key(UPLINK);
            let stays = wanted == Some(name.as_str()) && bridge.fail_mode != "secure";
            if gateway && bridge.external_ids.contains_key(MARK) && !stays {
                bridge.foreign_flows = foreign_flows(name, system);
            }
        }
    }
}

/// The flows of a gateway bridge but the one that Open vSwitch makes itself. One that is not open has
/// none.
fn foreign_flows(bridge: &str, system: &dyn System) -> usize {
    const OWN: &str = "priority=0 actions=NORMAL";
    let words = [TIMEOUT, "dump-flows", "--no-stats", bridge];
    let dump = Command::read(Tool::OvsOfctl, flows::VERSION.into_iter().chain(words));
    let Ok(output) = system.run(&dump) else { return 0 };
    let text = String::from_utf8_lossy(&output.stdout);
    let flow = |line: &str| {
        let flow = line.trim();
        let flow = flow.strip_prefix("cookie=0x0, ").unwrap_or(flow).to_owned();
        flow.contains("actions=") && flow != OWN
    };
    text.lines().filter(|line| flow(line)).count()
}

/// RF223: a bridge whose datapath changes is recreated, with what others have on it.
pub(super) fn check_datapath(name: &str, bridge: &Bridge) -> Result<(), Diagnostic> {
    let Some(foreign) = bridge.foreign(name) else { return Ok(()) };
    let message =
        format!("the bridge `{name}` would be recreated with another datapath, and {foreign}");
    Err(Diagnostic::new(Code::ForeignOnBridge, message)
        .help("take it off the bridge, or leave the `datapath` of the node as it is"))
}

/// Removes a bridge, if it has these marks and only the ports that were seen.
pub(super) fn delete(name: &str, bridge: &Bridge, marks: &[&str]) -> Command {
    let mut words = vec![AS_SEEN.to_owned(), "--".to_owned()];
    for mark in marks {
        // Fails where it is missing, and nothing is done.
        let key = format!("external_ids:{mark}");
        words.extend(["get", "Bridge", name, &key, "--"].map(str::to_owned));
    }
    let rows: Vec<&str> = bridge.ports.values().map(|port| port.uuid.as_str()).collect();
    let ports = format!("ports=[{}]", rows.join(","));
    words.extend(["wait-until", "Bridge", name, &ports].map(str::to_owned));
    words.extend(["--", "del-br", name].map(str::to_owned));
    Command::remove(Tool::OvsVsctl, words)
}

/// Adds the clauses that take a port of ringfence's from its bridge, if it still is; one that was
/// adopted only loses its marks.
pub(super) fn unplug(words: &mut Vec<String>, bridge: &str, port: &str, adopted: bool) {
    clause(words, &["get", "Port", port, &format!("external_ids:{MARK}")]);
    if adopted {
        clause(words, &["remove", "Port", port, "external_ids", MARK, ADOPTED]);
    } else {
        clause(words, &["--if-exists", "del-port", bridge, port]);
    }
}

/// For `teardown`: the bridge of pods goes, or stays without what is ringfence's.
pub(super) fn remove(name: &str, bridge: &Bridge, database: &Database, node: &Network) -> Step {
    let mut step = Step::default();
    step.commands.extend(qos::unlimit(database, own_ports(bridge)));
    let Some(detail) = reason_to_stay(name, bridge, node) else {
        step.change(Action::Remove, Kind::Bridge, name, "with its ports and flows");
        step.commands.push(delete(name, bridge, &[MARK]));
        return step;
    };
    step.change(Action::Change, Kind::Bridge, name, detail);
    let mut words = vec![TIMEOUT.to_owned()];
    for (port, found) in own_ports(bridge) {
        unplug(&mut words, name, port, found.external_ids.contains_key(ADOPTED));
    }
    let mut leave = leave(name, bridge);
    if let Some(unmark) = leave.last_mut() {
        words.extend(unmark.arguments.drain(1..));
        unmark.arguments = words;
    }
    step.commands.extend(leave);
    step
}

/// The ports of a bridge that are ringfence's.
pub(super) fn own_ports(bridge: &Bridge) -> impl Iterator<Item = (&String, &Port)> {
    bridge.ports.iter().filter(|(_, port)| port.external_ids.contains_key(MARK))
}

/// Whether a bridge of ringfence's stays for the sake of others when it is no longer wanted.
pub(super) fn stays(name: &str, bridge: &Bridge, node: &Network) -> bool {
    reason_to_stay(name, bridge, node).is_some()
}

/// Takes flows and marks of ringfence's from a bridge that stays; the marks with the last command.
pub(super) fn leave(name: &str, bridge: &Bridge) -> Vec<Command> {
    let mut commands = Vec::new();
    if is_of_pods(bridge) {
        for (version, verb) in [
            (flows::VERSION, "del-flows"),
            (groups::VERSION, "del-groups"),
            (flows::VERSION, "del-meters"),
        ] {
            let words = version.into_iter().chain([verb, name]);
            commands.push(Command::remove(Tool::OvsOfctl, words));
        }
    }
    let unmark = [TIMEOUT, "--", "remove", "Bridge", name, "external_ids", MARK, ADOPTED];
    commands.push(Command::remove(Tool::OvsVsctl, unmark));
    commands
}

/// Why a bridge with a mark of ringfence's must not go, in words.
fn reason_to_stay(name: &str, bridge: &Bridge, node: &Network) -> Option<String> {
    const LEFT: &str = "only ports and flows are removed";
    if bridge.external_ids.contains_key(ADOPTED) {
        return Some(format!("adopted: {LEFT}"));
    }
    if let Some(foreign) = bridge.foreign(name) {
        return Some(format!("stays, since {foreign}: {LEFT}"));
    }
    let link = node.links.get(name)?;
    let address = node.addresses(link).first();
    if let Some(address) = address {
        return Some(format!("stays, since the node has {address} on it: {LEFT}"));
    }
    let route = node.routes.iter().find(|route| route.link == link.index);
    route.map(|route| format!("stays, since a route to {} leads to it: {LEFT}", route.destination))
}

/// Whether a bridge is surely the one of the pods, whose flows are all ringfence's: one that has lost
/// the mark of its uplink is not.
fn is_of_pods(bridge: &Bridge) -> bool {
    let own = [host::TUN, host::VXLAN];
    own.iter().any(|name| {
        bridge.ports.get(*name).is_some_and(|port| port.external_ids.contains_key(MARK))
    })
}
