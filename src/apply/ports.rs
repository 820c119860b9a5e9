//! The bridge and its ports: one transaction of what differs.

use std::collections::{BTreeMap, BTreeSet};

use super::change::{Action, Kind, Step};
use super::columns::{self, Difference, Effect, Goal, Goals, Row};
use super::links::LinkSteps;
use super::ovsdb::{ADOPTED, Bridge, Database, MARK, Port};
use super::{bridges, gateway, qos};
use crate::artifact::host::{self, PROTOCOLS};
use crate::artifact::node::NodeConfig;
use crate::diagnostic::{Code, Diagnostic};
use crate::pipeline::OfPort;
use crate::system::netlink::Network;
use crate::system::{Command, Tool};
use crate::value::Mac;

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

impl Wanted {
    /// What is to be in the columns of the port, and in those of its interface.
    fn goals(&self) -> [Goals; 2] {
        let Self { owner, kind, options, ofport, mac, mtu, .. } = self;
        let mac = mac.clone().map(|mac| ("mac", Goal::Text(mac)));
        let mtu = mtu.map(|mtu| ("mtu_request", Goal::Number(mtu.into())));
        let always = [
            ("type", Goal::Text((*kind).to_owned())),
            ("options", Goal::Pairs(options.clone())),
            ("ofport_request", Goal::Number(ofport.get().into())),
        ];
        let port = Goals::from([("external_ids", Goal::Pair(MARK, owner.clone()))]);
        [port, always.into_iter().chain(mac).chain(mtu).collect()]
    }
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
    wiring: &NodeConfig,
    database: &Database,
    (links, node): (&LinkSteps, &Network),
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
    if let Some(live) = live.filter(|live| !live.has_datapath(wiring.bridge.datapath)) {
        bridges::check_datapath(name, live)?;
    }
    let lost = live.is_none() || !opened;
    let mut ports = Ports { flows_lost: lost, datapath_lost: lost, ..Ports::default() };
    let mut words: Vec<String> = Vec::new();
    bridge(wiring, database, opened, &mut ports, &mut words);
    let wanted = wanted(wiring);
    let empty = BTreeMap::new();
    let have = live.map_or(&empty, |live| &live.ports);
    foreign_ports(name, &wanted, database, adopt)?;
    other_bridges(name, &wanted, database, node, &mut ports);
    let numbers: Vec<i64> = wanted.values().map(|port| port.ofport.get().into()).collect();
    let mut after: Vec<String> = Vec::new();
    let mut unplug: Vec<String> = Vec::new();
    give_way(have, &wanted, &mut ports.before);
    let (mut unlimit, mut unlimit_after) = (Vec::new(), Vec::new());
    for (old, port) in have {
        if wanted.contains_key(old.as_str()) || !port.external_ids.contains_key(MARK) {
            continue;
        }
        let owner = port.external_ids.get(MARK).cloned().unwrap_or_default();
        // A number that is wanted again must be free first.
        let in_the_way = port.ofport.is_some_and(|number| numbers.contains(&number));
        let (step, words, unlimit) = if in_the_way {
            (&mut ports.before, &mut unplug, &mut unlimit)
        } else {
            (&mut ports.after, &mut after, &mut unlimit_after)
        };
        unlimit.push((old, port));
        step.change(Action::Remove, Kind::Port, old, format!("of {owner}"));
        bridges::unplug(words, name, old, port.external_ids.contains_key(ADOPTED));
    }
    let mut limited: BTreeSet<&str> = BTreeSet::new();
    for port in wanted.values() {
        let have = have.get(&port.name);
        let again = have.and_then(|have| again(port, have, links));
        if again.is_some() {
            clause(&mut unplug, &["--if-exists", "del-port", name, &port.name]);
            // One that is unplugged carries nothing anyway.
            if !links.needs_port.contains(&port.name) {
                let effect = "its port is recreated: packets are lost meanwhile";
                ports.before.disrupt(&port.owner, effect);
            }
        }
        let fresh = again.is_some();
        want(name, port, have, again, &mut ports.before, &mut words);
        let have = have.filter(|_| !fresh);
        let lost = links.unlimited.contains(&port.name);
        if have.is_some_and(|have| have.qos.is_some()) && port.ingress.is_some() && lost {
            // Open vSwitch takes what it has set for what there is.
            clause(&mut unplug, &["clear", "Port", &port.name, "qos"]);
        }
        if limit(port, have, lost, database, &mut ports.before, &mut words) {
            limited.insert(port.name.as_str());
        }
    }
    ports.sweep = qos::sweep(database, Some(name), &limited);
    // Within one transaction, Open vSwitch would keep the port as it is.
    let before = &mut ports.before;
    let with_timeout = |words| [TIMEOUT.to_owned()].into_iter().chain::<Vec<String>>(words);
    before.commands.extend(qos::unlimit(database, unlimit));
    if !unplug.is_empty() {
        before.commands.push(Command::remove(Tool::OvsVsctl, with_timeout(unplug)));
    }
    if !words.is_empty() {
        before.commands.push(Command::change(Tool::OvsVsctl, with_timeout(words)));
    }
    ports.after.commands.extend(qos::unlimit(database, unlimit_after));
    if !after.is_empty() {
        ports.after.commands.push(Command::remove(Tool::OvsVsctl, with_timeout(after)));
    }
    Ok(ports)
}

/// Whether a bridge is ringfence's own, and no gateway bridge.
fn is_own(bridge: &Bridge) -> bool {
    bridge.external_ids.contains_key(MARK) && !bridge.external_ids.contains_key(gateway::UPLINK)
}

/// Bridges of ours under other names give their ports to this one, and go, unless something of others
/// keeps them.
fn other_bridges(
    name: &str,
    wanted: &BTreeMap<String, Wanted>,
    database: &Database,
    node: &Network,
    ports: &mut Ports,
) {
    for (other, bridge) in &database.bridges {
        if other == name || !is_own(bridge) {
            continue;
        }
        ports.before.disrupt(format!("bridge {other}"), "gives way to another: its flows are lost");
        let step = bridges::remove(other, bridge, database, node);
        if !bridges::stays(other, bridge, node) {
            ports.before.changes.extend(step.changes);
            ports.before.commands.extend(step.commands);
            continue;
        }
        let mut words: Vec<String> = Vec::new();
        for (port, found) in bridges::own_ports(bridge) {
            let adopted = found.external_ids.contains_key(ADOPTED);
            bridges::unplug(&mut words, other, port, adopted && !wanted.contains_key(port));
        }
        ports.before.commands.extend(qos::unlimit(database, bridges::own_ports(bridge)));
        if !words.is_empty() {
            let words = [TIMEOUT.to_owned()].into_iter().chain(words);
            ports.before.commands.push(Command::remove(Tool::OvsVsctl, words));
        }
        // Its marks stay until all else is done, so that the way back finds them.
        ports.after.changes.extend(step.changes);
        ports.after.commands.extend(bridges::leave(other, bridge));
    }
}

/// A port of others that has the number of one of ours gets another: the numbers of the bridge are in
/// its flows, and those of ports that ringfence doesn't know lead nowhere.
fn give_way(have: &BTreeMap<String, Port>, wanted: &BTreeMap<String, Wanted>, step: &mut Step) {
    let numbers: BTreeSet<i64> = wanted.values().map(|port| port.ofport.get().into()).collect();
    let mut taken: BTreeSet<i64> = have.values().filter_map(|port| port.ofport).collect();
    let between = i64::from(OfPort::PATCH.get()) + 1..i64::from(OfPort::FIRST_POD);
    let last = (i64::from(OfPort::FIRST_POD)..=i64::from(OfPort::LAST)).rev();
    let mut free = between.chain(last);
    for (name, port) in have {
        let foreign = !wanted.contains_key(name) && !port.external_ids.contains_key(MARK);
        let Some(number) = port.ofport.filter(|number| foreign && numbers.contains(number)) else {
            continue;
        };
        let Some(other) = free.find(|n| !numbers.contains(n) && !taken.contains(n)) else { return };
        taken.insert(other);
        let detail = format!("number {number} to {other}: {number} is that of a port of ringfence");
        step.change(Action::Change, Kind::Port, name, detail);
        step.disrupt(format!("port {name}"), "gets another number on the bridge");
        let request = format!("ofport_request={other}");
        let words = [TIMEOUT, "--if-exists", "set", "Interface", name, &request];
        step.commands.push(Command::change(Tool::OvsVsctl, words));
    }
}

fn bridge(
    wiring: &NodeConfig,
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
    let mut differing: Vec<String> = Vec::new();
    let goals = Goals::from([
        ("datapath_type", Goal::Text(datapath.to_owned())),
        ("fail_mode", Goal::Text("secure".to_owned())),
        ("protocols", Goal::Words(PROTOCOLS)),
        ("external_ids", Goal::Pair(MARK, wiring.node.to_string())),
    ]);
    let mut differences = columns::differences(&have.row, &columns::BRIDGE, &goals);
    for Difference { column, details, settings, .. } in &mut differences {
        ports.datapath_lost |= column.effect == Effect::LosesDatapath;
        ports.flows_lost |= matches!(column.effect, Effect::LosesDatapath | Effect::LosesFlows);
        let adopts = live.is_some() && !have.external_ids.contains_key(MARK);
        if column.name == "external_ids" && adopts {
            settings.push(format!("external_ids:{ADOPTED}=true"));
        }
        differing.append(details);
    }
    if live.is_some() && !opened && have.has_datapath(wiring.bridge.datapath) {
        // Open vSwitch tries again with every change, and ovs-vsctl waits for it.
        differing.insert(0, "not open".to_owned());
        let setting = format!("datapath_type={datapath}");
        extend(words, ["set", "Bridge", name, &setting].map(str::to_owned).into_iter());
    }
    Difference::clauses(&differences, "Bridge", name, words);
    if !differing.is_empty() && live.is_some() {
        if ports.flows_lost && opened {
            let effect = "loses its flows: it forwards nothing until it has the new ones";
            ports.before.disrupt(format!("bridge {name}"), effect);
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
            let message = if other != bridge && is_own(live) && port.external_ids.contains_key(MARK)
            {
                continue; // it comes over from there
            } else if other != bridge {
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
/// One in userspace outlasts the rows of the database that it was made for, and is known by its
/// Ethernet address, which follows from its IP address.
pub(super) fn check_tun(
    wiring: &NodeConfig,
    database: &Database,
    node: &Network,
) -> Result<(), Diagnostic> {
    let name = host::TUN;
    let Some(link) = node.links.get(name) else { return Ok(()) };
    let mut ports = database.bridges.values().filter_map(|bridge| bridge.ports.get(name));
    let made = ports.any(|port| port.kind == "internal" && port.ofport.is_some_and(|n| n > 0));
    let addresses = node.addresses(link).iter().map(|address| Mac::of_ipv4(address.addr()));
    let mut macs = addresses.chain([wiring.tun.mac]);
    let left = link.kind.as_deref() == Some("tun") && macs.any(|mac| link.mac == mac.bytes());
    if made || left || link.kind.as_deref() == Some("openvswitch") {
        return Ok(());
    }
    let message = format!("the interface `{name}` of the node exists and is not ringfence's");
    Err(Diagnostic::new(Code::NotOurs, message)
        .help("give the program that made it another name for it: ringfence needs this one"))
}

fn wanted(wiring: &NodeConfig) -> BTreeMap<String, Wanted> {
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

/// Why a port has to be recreated, if it has to.
fn again(wanted: &Wanted, have: &Port, links: &LinkSteps) -> Option<String> {
    if links.missing.contains(&wanted.name) {
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
    } else if links.needs_port.contains(&wanted.name) {
        Some("unplugged".to_owned())
    } else {
        None
    }
}

/// The clauses that make a port what it is to be; `again` tells why it is recreated.
fn want(
    bridge: &str,
    wanted: &Wanted,
    have: Option<&Port>,
    again: Option<String>,
    step: &mut Step,
    words: &mut Vec<String>,
) {
    let Wanted { name, owner, kind, options: _, ofport, mac: _, mtu: _, ingress: _ } = wanted;
    let number = i64::from(ofport.get());
    let fresh = have.is_none();
    let adopted = have.is_some_and(|have| !have.is_ours());
    let have = have.filter(|_| again.is_none());
    if have.is_none() {
        clause(words, &["add-port", bridge, name]);
    }
    let [of_port, of_interface] = wanted.goals();
    let new = Row::new();
    let (port, interface) = have.map_or((&new, &new), |have| (&have.row, &have.interface));
    if adopted && have.is_none_or(|have| have.external_ids.get(MARK) != Some(owner)) {
        clause(words, &["set", "Port", name, &format!("external_ids:{ADOPTED}=true")]);
    }
    let mut differing: Vec<String> = again.into_iter().collect();
    let anew = !differing.is_empty();
    let tables = [
        ("Port", port, &columns::PORT[..], of_port),
        ("Interface", interface, &columns::INTERFACE, of_interface),
    ];
    for (table, row, columns, goals) in tables {
        let mut differences = columns::differences(row, columns, &goals);
        Difference::clauses(&differences, table, name, words);
        if anew || fresh {
            continue;
        }
        for Difference { column, details, .. } in &mut differences {
            match column.effect {
                Effect::Peer if *kind == "patch" => step.disrupt(
                    "the patch to the uplink",
                    "changes its peer: packets of egress routers are lost",
                ),
                Effect::Peer if *kind == "vxlan" => step.disrupt(
                    "tunnels",
                    "change their settings: packets to other nodes are lost meanwhile",
                ),
                Effect::Address if wanted.mac.is_some() => step
                    .disrupt(name, "its Ethernet address changes: pods have to ask for it again"),
                _ => {}
            }
            differing.append(details);
        }
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
    lost: bool,
    database: &Database,
    step: &mut Step,
    words: &mut Vec<String>,
) -> bool {
    let Wanted { name, owner, ofport, ingress, .. } = wanted;
    let old = have.and_then(|port| port.qos.as_ref());
    let ours = have.is_some_and(|port| qos::is_ours(database, port));
    match ingress {
        Some(rate) if !lost && have.is_some_and(|have| qos::is(database, have, owner, *rate)) => {
            true
        }
        Some(rate) => {
            for clause in qos::set(name, owner, *rate, ofport.get().into()) {
                extend(words, clause.into_iter());
            }
            let action = if old.is_some() { Action::Change } else { Action::Add };
            step.change(action, Kind::Qos, owner, format!("{rate} bit/s to {name}"));
            false
        }
        None => {
            if old.is_some() {
                clause(words, &["clear", "Port", name, "qos"]);
                if !ours {
                    // What is ours is told where its rows go.
                    step.change(Action::Remove, Kind::Qos, owner, format!("of others, at {name}"));
                }
            }
            false
        }
    }
}

/// Adds a clause of `ovs-vsctl`.
pub(super) fn clause(words: &mut Vec<String>, clause: &[&str]) {
    extend(words, clause.iter().map(|word| (*word).to_owned()));
}

fn extend(words: &mut Vec<String>, clause: impl Iterator<Item = String>) {
    words.push("--".to_owned());
    words.extend(clause);
}
