//! The bridge and its ports: one transaction of what differs.

use std::collections::{BTreeMap, BTreeSet};

use super::change::{Action, Kind, Step};
use super::links::LinkSteps;
use super::ovsdb::{ADOPTED, Database, MARK, Port};
use super::{qos, settings};
use crate::artifact::host;
use crate::artifact::host::PROTOCOLS;
use crate::artifact::node::Wiring;
use crate::diagnostic::{Code, Diagnostic};
use crate::pipeline::OfPort;
use crate::system::netlink::Network;
use crate::system::{Command, Tool};

/// How long ovs-vsctl waits for ovs-vswitchd, in seconds.
pub(super) const TIMEOUT: &str = "--timeout=60";

/// A port as it is to be.
struct Wanted {
    name: String,
    owner: String,
    kind: &'static str,
    options: BTreeMap<String, String>,
    ofport: OfPort,
    mac: Option<String>,
    mtu: Option<u32>,
    ingress: Option<u64>,
}

/// What to do about the bridge and its ports.
#[derive(Debug, Default)]
pub(super) struct Ports {
    /// Before the flows: the bridge, new and changed ports, and old ones in their way.
    pub(super) before: Step,
    /// After the flows: old ports.
    pub(super) after: Step,
    /// Whether the bridge is new or loses its flows by a change.
    pub(super) flows_lost: bool,
    /// Whether the bridge is new or changes its datapath, which loses all else that it has.
    pub(super) datapath_lost: bool,
    /// After all of that: queue disciplines that no port has any more.
    pub(super) sweep: Step,
}

pub(super) fn compare(
    wiring: &Wiring,
    database: &Database,
    links: &LinkSteps,
    opened: bool,
    adopt: bool,
) -> Result<Ports, Diagnostic> {
    let name = wiring.bridge.name.as_str();
    let live = database.bridges.get(name);
    if let Some(live) = live
        && !live.external_ids.contains_key(MARK)
        && !adopt
    {
        let message = format!("the bridge `{name}` exists and is not ringfence's");
        return Err(Diagnostic::new(Code::NotOurs, message)
            .help("choose another with --bridge, or take it over, flows and all, with --adopt"));
    }
    let lost = live.is_none() || !opened;
    let mut ports = Ports { flows_lost: lost, datapath_lost: lost, ..Ports::default() };
    let mut words: Vec<String> = Vec::new();
    bridge(wiring, database, opened, &mut ports, &mut words);
    let wanted = wanted(wiring);
    let empty = BTreeMap::new();
    let have = live.map_or(&empty, |live| &live.ports);
    foreign_ports(name, &wanted, database, adopt)?;
    let numbers: Vec<i64> = wanted.values().map(|port| port.ofport.get().into()).collect();
    let mut after: Vec<String> = Vec::new();
    // With its port, Open vSwitch would leave the discipline to the interface.
    let (mut unlimit, mut unlimit_after): (Vec<String>, Vec<String>) = Default::default();
    for (old, port) in have {
        if wanted.contains_key(old.as_str()) || !port.external_ids.contains_key(MARK) {
            continue;
        }
        let owner = port.external_ids.get(MARK).cloned().unwrap_or_default();
        // A number that is wanted again must be free first.
        let in_the_way = port.ofport.is_some_and(|number| numbers.contains(&number));
        let (step, words, unlimit) = if in_the_way {
            (&mut ports.before, &mut words, &mut unlimit)
        } else {
            (&mut ports.after, &mut after, &mut unlimit_after)
        };
        if qos::is_ours(database, port) {
            clause(unlimit, &["--if-exists", "clear", "Port", old, "qos"]);
        }
        step.change(Action::Remove, Kind::Port, old, format!("of {owner}"));
        clause(words, &["--if-exists", "del-port", name, old]);
    }
    let mut unplug: Vec<String> = Vec::new();
    let mut limited: BTreeSet<&str> = BTreeSet::new();
    for port in wanted.values() {
        let have = have.get(&port.name);
        let again = have.and_then(|have| again(port, have, links));
        if again.is_some() {
            clause(&mut unplug, &["--if-exists", "del-port", name, &port.name]);
            // One that is unplugged carries nothing anyway.
            if !links.unplugged.contains(&port.name) {
                let effect = "its port is made anew: packets are lost meanwhile";
                ports.before.disturb(&port.owner, effect);
            }
        }
        let fresh = again.is_some();
        want(name, port, have, again, &mut ports.before, &mut words);
        let have = have.filter(|_| !fresh);
        if limit(port, have, database, &mut ports.before, &mut words) {
            limited.insert(port.name.as_str());
        }
    }
    ports.sweep = qos::sweep(database, Some(name), &limited);
    // Within one transaction, Open vSwitch would keep the port as it is.
    let before = &mut ports.before;
    for words in [unlimit, unplug, words].into_iter().filter(|words| !words.is_empty()) {
        let arguments = [TIMEOUT.to_owned()].into_iter().chain(words);
        before.commands.push(Command::change(Tool::OvsVsctl, arguments));
    }
    for words in [unlimit_after, after].into_iter().filter(|words| !words.is_empty()) {
        let arguments = [TIMEOUT.to_owned()].into_iter().chain(words);
        ports.after.commands.push(Command::change(Tool::OvsVsctl, arguments));
    }
    Ok(ports)
}

fn bridge(
    wiring: &Wiring,
    database: &Database,
    opened: bool,
    ports: &mut Ports,
    words: &mut Vec<String>,
) {
    let name = wiring.bridge.name.as_str();
    let live = database.bridges.get(name);
    if live.is_none() {
        clause(words, &["--may-exist", "add-br", name]);
        ports.before.change(Action::Add, Kind::Bridge, name, "new");
    }
    let have = live.cloned().unwrap_or_default();
    let datapath = wiring.bridge.datapath.as_str();
    let same_datapath = have.has_datapath(wiring.bridge.datapath);
    let mut protocols: Vec<&str> = PROTOCOLS.split(',').collect();
    protocols.sort_unstable();
    let mut differing: Vec<String> = Vec::new();
    let mut settings = Vec::new();
    if !same_datapath {
        ports.flows_lost = true;
        ports.datapath_lost = true;
        differing.push("datapath".to_owned());
        settings.push(format!("datapath_type={datapath}"));
    } else if live.is_some() && !opened {
        // Open vSwitch tries again with every change, and ovs-vsctl waits for it.
        differing.push("not open".to_owned());
        settings.push(format!("datapath_type={datapath}"));
    }
    if have.fail_mode != "secure" {
        // Open vSwitch drops all flows when the mode changes.
        ports.flows_lost = true;
        differing.push("fail mode".to_owned());
        settings.push("fail_mode=secure".to_owned());
    }
    if have.protocols != protocols {
        differing.push("protocols".to_owned());
        settings.push(format!("protocols={PROTOCOLS}"));
    }
    if have.external_ids.get(MARK).map(String::as_str) != Some(wiring.node.as_str()) {
        differing.push("mark".to_owned());
        settings.push(format!("external_ids:{MARK}=\"{}\"", wiring.node));
        if live.is_some() && !have.external_ids.contains_key(MARK) {
            settings.push(format!("external_ids:{ADOPTED}=true"));
        }
    }
    for setting in &have.astray {
        // Open vSwitch drops all flows when the last controller goes.
        ports.flows_lost |= *setting == settings::CONTROLLER;
        differing.push(setting.words());
        extend(words, setting.clause("Bridge", name).into_iter());
    }
    if !settings.is_empty() {
        let head = ["set", "Bridge", name].map(str::to_owned);
        extend(words, head.into_iter().chain(settings));
    }
    if !differing.is_empty() && live.is_some() {
        if ports.flows_lost && opened {
            let effect = "loses its flows: it forwards nothing until it has the new ones";
            ports.before.disturb(format!("bridge {name}"), effect);
        }
        ports.before.change(Action::Change, Kind::Bridge, name, differing.join(", "));
    }
}

/// RF206: ports of ours are nobody else's.
fn foreign_ports(
    bridge: &str,
    wanted: &BTreeMap<String, Wanted>,
    database: &Database,
    adopt: bool,
) -> Result<(), Diagnostic> {
    for (other, live) in &database.bridges {
        for (name, port) in &live.ports {
            let Some(wanted) = wanted.get(name.as_str()) else { continue };
            let message = if other != bridge {
                format!("the port `{name}` of {} is on the bridge `{other}`", wanted.owner)
            } else if !port.external_ids.contains_key(MARK) && !adopt {
                format!("the port `{name}` of {} exists and is not ringfence's", wanted.owner)
            } else {
                continue;
            };
            return Err(not_ours(message, other, name));
        }
    }
    Ok(())
}

/// RF206: a port that ringfence would make, on this bridge, is somebody else's.
pub(super) fn not_ours(message: String, bridge: &str, port: &str) -> Diagnostic {
    Diagnostic::new(Code::NotOurs, message).help(format!(
        "remove it with `ovs-vsctl del-port {bridge} {port}`, if nothing else needs it"
    ))
}

/// RF206: an interface `tun0` that Open vSwitch did not make is somebody's tunnel.
pub(super) fn check_tun(database: &Database, node: &Network) -> Result<(), Diagnostic> {
    let name = host::TUN;
    let Some(link) = node.links.get(name) else { return Ok(()) };
    let mut ports = database.bridges.values().filter_map(|bridge| bridge.ports.get(name));
    let made = ports.any(|port| port.kind == "internal" && port.ofport.is_some_and(|n| n > 0));
    if made || link.kind.as_deref() == Some("openvswitch") {
        return Ok(());
    }
    let message = format!("the interface `{name}` of the node exists and is not ringfence's");
    Err(Diagnostic::new(Code::NotOurs, message)
        .help("give the program that made it another name for it: ringfence needs this one"))
}

fn wanted(wiring: &Wiring) -> BTreeMap<String, Wanted> {
    let node = wiring.node.to_string();
    let text = |pairs: &[(&str, String)]| {
        pairs.iter().map(|(key, value)| ((*key).to_owned(), value.clone())).collect()
    };
    let vxlan = Wanted {
        name: host::VXLAN.to_owned(),
        owner: node.clone(),
        kind: "vxlan",
        options: text(&[
            ("dst_port", wiring.bridge.vxlan_port.to_string()),
            ("key", "flow".to_owned()),
            ("local_ip", wiring.address.to_string()),
            ("remote_ip", "flow".to_owned()),
        ]),
        ofport: OfPort::VXLAN,
        mac: None,
        mtu: None,
        ingress: None,
    };
    let tun = Wanted {
        name: host::TUN.to_owned(),
        owner: node,
        kind: "internal",
        options: BTreeMap::new(),
        ofport: OfPort::TUN,
        mac: Some(wiring.tun.mac.to_string()),
        mtu: Some(wiring.mtu),
        ingress: None,
    };
    let pods = wiring.ports.iter().map(|port| Wanted {
        name: port.interface.to_string(),
        owner: port.owner.clone(),
        kind: "",
        options: BTreeMap::new(),
        ofport: port.ofport,
        mac: None,
        mtu: None,
        ingress: port.ingress,
    });
    let patch = wiring.gateway().map(|_| Wanted {
        name: host::PATCH.to_owned(),
        owner: wiring.node.to_string(),
        kind: "patch",
        options: text(&[("peer", host::UPLINK_PATCH.to_owned())]),
        ofport: OfPort::PATCH,
        mac: None,
        mtu: None,
        ingress: None,
    });
    [vxlan, tun]
        .into_iter()
        .chain(patch)
        .chain(pods)
        .map(|port| (port.name.clone(), port))
        .collect()
}

/// Why a port has to be made anew, if it has to.
fn again(wanted: &Wanted, have: &Port, links: &LinkSteps) -> Option<String> {
    if links.absent.contains(&wanted.name) {
        // Open vSwitch takes it in when it appears.
        return None;
    }
    let number = i64::from(wanted.ofport.get());
    if have.ofport != Some(number) {
        let other = have.ofport.map_or_else(|| "none".to_owned(), |number| number.to_string());
        Some(format!("port number {other}, not {number}"))
    } else if have.kind != wanted.kind {
        Some("type".to_owned())
    } else if have.interfaces > 1 {
        Some("bond".to_owned())
    } else if links.unplugged.contains(&wanted.name) {
        Some("unplugged".to_owned())
    } else {
        None
    }
}

/// The clauses that make a port what it is to be; `again` tells why it is made anew.
fn want(
    bridge: &str,
    wanted: &Wanted,
    have: Option<&Port>,
    again: Option<String>,
    step: &mut Step,
    words: &mut Vec<String>,
) {
    let Wanted { name, owner, kind, options, ofport, mac, mtu, ingress: _ } = wanted;
    let number = i64::from(ofport.get());
    let fresh = have.is_none();
    let have = have.filter(|_| again.is_none()).cloned();
    let mut differing: Vec<String> = again.into_iter().collect();
    if have.is_none() {
        clause(words, &["add-port", bridge, name]);
    }
    let have = have.unwrap_or_default();
    if have.external_ids.get(MARK) != Some(owner) {
        clause(words, &["set", "Port", name, &format!("external_ids:{MARK}=\"{owner}\"")]);
        if differing.is_empty() {
            differing.push("owner".to_owned());
        }
    }
    let mut settings = Vec::new();
    if have.kind != *kind {
        settings.push(format!("type={kind}"));
    }
    let foreign = have.options.keys().filter(|key| !options.contains_key(*key));
    let foreign: Vec<&String> = foreign.collect();
    if !foreign.is_empty() {
        // Those of ours come with the same transaction, so the interface only loses this.
        clause(words, &["clear", "Interface", name, "options"]);
    }
    let has = |key: &String, value: &String| have.options.get(key) == Some(value);
    let other = !foreign.is_empty() || options.iter().any(|(key, value)| !has(key, value));
    if other && !options.is_empty() && !fresh && differing.is_empty() {
        let (whose, effect) = if *kind == "patch" {
            ("the patch to the uplink", "changes its peer: packets of egress routers are lost")
        } else {
            ("tunnels", "change their settings: packets to other nodes are lost meanwhile")
        };
        step.disturb(whose, effect);
    }
    for (key, value) in options {
        if !has(key, value) {
            differing.push(key.clone());
        }
        if !has(key, value) || !foreign.is_empty() {
            settings.push(format!("options:{key}={value}"));
        }
    }
    differing.extend(foreign.iter().map(|key| format!("option {key}")));
    if have.ofport_request != Some(number) {
        settings.push(format!("ofport_request={number}"));
    }
    if let Some(mac) = mac
        && have.mac.as_ref() != Some(mac)
    {
        if !fresh && differing.is_empty() {
            step.disturb(name, "its Ethernet address changes: pods have to ask for it again");
        }
        differing.push("Ethernet address".to_owned());
        settings.push(format!("mac=\"{mac}\""));
    }
    if let Some(mtu) = mtu
        && have.mtu_request != Some(i64::from(*mtu))
    {
        differing.push("MTU".to_owned());
        settings.push(format!("mtu_request={mtu}"));
    }
    for (table, astray) in [("Port", &have.astray), ("Interface", &have.interface_astray)] {
        for setting in astray {
            differing.push(setting.words());
            extend(words, setting.clause(table, name).into_iter());
        }
    }
    for (asked, column) in [
        (mac.is_none() && have.mac.is_some(), "mac"),
        (mtu.is_none() && have.mtu_request.is_some(), "mtu_request"),
    ] {
        if asked {
            differing.push(column.replace('_', " "));
            clause(words, &["clear", "Interface", name, column]);
        }
    }
    if !settings.is_empty() {
        let head = ["set", "Interface", name].map(str::to_owned);
        extend(words, head.into_iter().chain(settings));
    }
    if fresh {
        step.change(Action::Add, Kind::Port, name, format!("{number} of {owner}"));
    } else if !differing.is_empty() {
        step.change(
            Action::Change,
            Kind::Port,
            name,
            format!("{} of {owner}", differing.join(", ")),
        );
    }
}

/// The clauses that limit what a port's owner receives, or no longer limit it. Tells whether the
/// port has just the discipline that it is to have.
fn limit(
    wanted: &Wanted,
    have: Option<&Port>,
    database: &Database,
    step: &mut Step,
    words: &mut Vec<String>,
) -> bool {
    let Wanted { name, owner, ofport, ingress, .. } = wanted;
    let old = have.and_then(|port| port.qos.as_ref());
    let ours = have.is_some_and(|port| qos::is_ours(database, port));
    match ingress {
        Some(rate) if have.is_some_and(|have| qos::is(database, have, owner, *rate)) => true,
        Some(rate) => {
            for clause in qos::set(name, owner, *rate, ofport.get().into()) {
                extend(words, clause.into_iter());
            }
            let action = if old.is_some() { Action::Change } else { Action::Add };
            step.change(action, Kind::Qos, owner, format!("{rate} bit/s to {name}"));
            false
        }
        None => {
            if ours {
                clause(words, &["clear", "Port", name, "qos"]);
            }
            false
        }
    }
}

fn clause(words: &mut Vec<String>, clause: &[&str]) {
    extend(words, clause.iter().map(|word| (*word).to_owned()));
}

fn extend(words: &mut Vec<String>, clause: impl Iterator<Item = String>) {
    words.push("--".to_owned());
    words.extend(clause);
}
