//! Connections that outlive what they were to: ended when an address or a backend goes.
//!
//! Conntrack keeps a translation as long as packets come, so whoever gets the address of a pod
//! that is gone would get its open connections, and a client of a service would stay with a pod
//! that is no longer behind it. Nothing is remembered of what was there before, but for addresses
//! that have another owner: an entry is stale that leads to an address of this node which nobody
//! has, or from a service to whom the service is not for. So whatever ended an earlier run, the next
//! one that looks finds what is left. A pod that is only not ready keeps its connections.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

use ipnet::Ipv4Net;

use super::artifacts::Artifacts;
use super::flows::{self, TIMEOUT, VERSION, word};
use super::marks::ALIAS;
use super::{Difference, Observed};
use crate::artifact::host::{self, EGRESS_IP_MAP};
use crate::diagnostic::Diagnostic;
use crate::pipeline::{SERVICE_ZONE, Table};
use crate::system::netlink::Network;
use crate::system::{Command, System, Tool, failed};
use crate::value::{Datapath, Protocol};

/// How often stale entries are looked for: a packet that was under way may leave one more.
const ROUNDS: usize = 2;

/// Where to look, since a look costs time where there are many connections.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Look {
    /// In the zone of the services.
    pub(super) services: bool,
    /// In the node's own conntrack.
    pub(super) node: bool,
}

impl Look {
    /// Everywhere.
    pub(super) const ALL: Self = Self { services: true, node: true };

    /// Where a change may leave something behind.
    pub(super) fn after(
        artifacts: &Artifacts,
        observed: &Observed,
        difference: &Difference,
    ) -> Self {
        if observed.flows.as_ref().is_none_or(flows::Live::is_empty) {
            return Self::ALL;
        }
        let services = difference.flows.lose_any() || difference.loses_backends;
        let mut own = observed.links.node.links.iter();
        let leaves = |alias: &str| {
            let mut owners = artifacts.wiring.ports.iter().map(|port| port.owner.as_str());
            alias.strip_prefix(ALIAS).is_some_and(|owner| !owners.any(|other| other == owner))
        };
        let gone = own.any(|(_, link)| link.alias.as_deref().is_some_and(leaves));
        // Who leaves by which address stands in the ruleset.
        let held = observed.links.node.labels.iter().any(|(label, _)| is_egress(label));
        let moved = (held || !artifacts.wiring.egress_ips.is_empty())
            && difference.steps.iter().flat_map(|step| &step.commands).any(|c| c.tool == Tool::Nft);
        Self { services: services || gone, node: services || gone || moved }
    }
}

/// The addresses of this node that have another owner from now on.
pub(super) fn reused(difference: &flows::Difference) -> BTreeSet<Ipv4Addr> {
    let address = |(before, after): (Option<&str>, Option<&str>)| {
        let (before, after) = (before?, after?);
        let other = flows::cookie(before) != flows::cookie(after);
        let (table, address) = (number(after, "table=")?, word(after, "nw_dst=")?);
        (other && table == u16::from(Table::LocalPod.number())).then(|| address.parse().ok())?
    };
    difference.flows().filter_map(address).collect()
}

/// Ends what is stale. The node has to be as it is to be by then.
pub(super) fn end(
    artifacts: &Artifacts,
    node: &Network,
    look: Look,
    reused: &BTreeSet<Ipv4Addr>,
    system: &dyn System,
) -> Result<(), Diagnostic> {
    if look == Look::default() {
        return Ok(());
    }
    let known = Known::new(artifacts, node);
    let mut other_owner = reused.clone();
    if look.services {
        // What the datapath remembers of the flows before would bring entries back.
        system.succeed(&Command::change(Tool::OvsAppctl, ["revalidator/wait"]))?;
    }
    for _ in 0..ROUNDS {
        let mut done = true;
        if look.services {
            let dump = Command::read(Tool::OvsAppctl, dump(artifacts.wiring.bridge.datapath));
            let entries = entries(&system.succeed(&dump)?);
            let stale = known.stale(&entries, &other_owner, Known::stale_service);
            for selector in &stale {
                system.succeed(&selector.of_services(artifacts.wiring.bridge.name.as_str()))?;
            }
            done &= stale.is_empty();
        }
        if look.node {
            let list = Command::read(Tool::Conntrack, ["-L", "-f", "ipv4"]);
            let entries = entries(&system.succeed(&list)?);
            let stale = known.stale(&entries, &other_owner, Known::stale_of_node);
            for selector in &stale {
                delete(&selector.of_node(), system)?;
            }
            done &= stale.is_empty();
        }
        if done {
            break;
        }
        // The new owner may be at work by now.
        other_owner.clear();
    }
    Ok(())
}

/// conntrack(8) fails where there is nothing to delete: it ended by itself.
fn delete(command: &Command, system: &dyn System) -> Result<(), Diagnostic> {
    let output = system.run(command)?;
    let none =
        String::from_utf8_lossy(&output.stderr).contains(" 0 flow entries have been deleted");
    match output.status {
        Some(0) => Ok(()),
        Some(1) if none => Ok(()),
        _ => Err(failed(command, &output)),
    }
}

fn dump(datapath: Datapath) -> [String; 3] {
    let datapath = match datapath {
        Datapath::Netdev => "netdev@ovs-netdev",
        Datapath::System => "system@ovs-system",
    };
    ["dpctl/dump-conntrack".to_owned(), datapath.to_owned(), format!("zone={SERVICE_ZONE}")]
}

fn is_egress(label: &str) -> bool {
    label == host::EGRESS_LABEL
}

/// One direction of a connection. Not all protocols have ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Tuple {
    source: Ipv4Addr,
    destination: Ipv4Addr,
    ports: Option<(u16, u16)>,
}

/// A connection as conntrack has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Entry {
    /// `None` for what has no ports here.
    protocol: Option<Protocol>,
    original: Tuple,
    reply: Tuple,
}

/// The IPv4 entries in what `dpctl/dump-conntrack` or `conntrack -L` prints; of the latter, those
/// outside of any zone.
fn entries(printed: &[u8]) -> Vec<Entry> {
    let printed = String::from_utf8_lossy(printed);
    printed.lines().filter_map(entry).collect()
}

fn entry(line: &str) -> Option<Entry> {
    let of_open_vswitch = line.contains(",orig=(");
    if !of_open_vswitch && line.contains(" zone") {
        return None;
    }
    let mut words = line.split([' ', ',', '(', ')']);
    let protocol = protocol(words.next()?);
    let mut addresses = Vec::with_capacity(4);
    let mut ports = Vec::with_capacity(4);
    for word in words {
        match word.split_once('=') {
            Some(("src" | "dst", address)) => addresses.push(address.parse().ok()?),
            Some(("sport" | "dport", port)) => ports.push(port.parse().ok()?),
            _ => {}
        }
    }
    let &[source, destination, back, again] = addresses.as_slice() else { return None };
    let (there, here) = match ports.as_slice() {
        &[source, destination, back, again] => (Some((source, destination)), Some((back, again))),
        _ => (None, None),
    };
    let original = Tuple { source, destination, ports: there };
    Some(Entry {
        protocol,
        original,
        reply: Tuple { source: back, destination: again, ports: here },
    })
}

fn protocol(word: &str) -> Option<Protocol> {
    [Protocol::Tcp, Protocol::Udp, Protocol::Sctp].into_iter().find(|p| p.as_str() == word)
}

fn number(flow: &str, before: &str) -> Option<u16> {
    word(flow, before)?.parse().ok()
}

/// What is the same in all entries that go for one reason.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
struct Selector {
    protocol: Option<Protocol>,
    original: Half,
    reply: Half,
}

/// What a selector says of one direction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
struct Half {
    source: Option<Ipv4Addr>,
    destination: Option<Ipv4Addr>,
    source_port: Option<u16>,
    destination_port: Option<u16>,
}

impl Selector {
    /// What leads from a port to somebody.
    fn translation(entry: &Entry) -> Self {
        let Entry { protocol, original, reply } = entry;
        Self {
            protocol: *protocol,
            original: Half {
                destination: Some(original.destination),
                destination_port: original.ports.map(|(_, port)| port),
                ..Half::default()
            },
            reply: Half {
                source: Some(reply.source),
                source_port: reply.ports.map(|(port, _)| port),
                ..Half::default()
            },
        }
    }

    /// The command that removes the entries of services on a bridge.
    fn of_services(&self, bridge: &str) -> Command {
        let zone = format!("zone={SERVICE_ZONE}");
        let halves = [self.original, self.reply].map(|half| half.of_open_vswitch(self.protocol));
        let words = [TIMEOUT, "ct-flush", bridge, &zone, &halves[0], &halves[1]];
        Command::change(Tool::OvsOfctl, VERSION.into_iter().chain(words))
    }

    /// The command that removes the entries of the node outside of any zone.
    fn of_node(&self) -> Command {
        let mut words: Vec<String> = ["-D", "-f", "ipv4", "-w", "0"].map(str::to_owned).into();
        let mut word = |option: &str, value: Option<String>| {
            words.extend(value.into_iter().flat_map(|value| [option.to_owned(), value]));
        };
        let address = |address: Option<Ipv4Addr>| address.map(|address| address.to_string());
        let port = |port: Option<u16>| port.map(|port| port.to_string());
        word("-p", self.protocol.map(|protocol| protocol.to_string()));
        word("--orig-src", address(self.original.source));
        word("--orig-dst", address(self.original.destination));
        word("--orig-port-src", port(self.original.source_port));
        word("--orig-port-dst", port(self.original.destination_port));
        word("--reply-src", address(self.reply.source));
        word("--reply-dst", address(self.reply.destination));
        word("--reply-port-src", port(self.reply.source_port));
        word("--reply-port-dst", port(self.reply.destination_port));
        Command::change(Tool::Conntrack, words)
    }
}

impl Half {
    fn of_open_vswitch(self, protocol: Option<Protocol>) -> String {
        let Self { source, destination, source_port, destination_port } = self;
        if self == Self::default() {
            return String::new();
        }
        let address = |name: &str, address: Option<Ipv4Addr>| {
            address.map(|address| format!("ct_nw_{name}={address}"))
        };
        let port = |name: &str, port: Option<u16>| port.map(|port| format!("ct_tp_{name}={port}"));
        let protocol = protocol.map(|protocol| {
            let number = match protocol {
                Protocol::Tcp => 6,
                Protocol::Udp => 17,
                Protocol::Sctp => 132,
            };
            format!("ct_nw_proto={number}")
        });
        let words = [
            address("src", source),
            address("dst", destination),
            protocol,
            port("src", source_port),
            port("dst", destination_port),
        ];
        words.into_iter().flatten().collect::<Vec<_>>().join(",")
    }
}

/// Who has which address, and what leads where.
#[derive(Debug)]
struct Known {
    subnet: Ipv4Net,
    gateway: Ipv4Addr,
    pod_networks: Vec<Ipv4Net>,
    services: Option<Ipv4Net>,
    /// The addresses of the pods and egress routers of this node.
    here: BTreeSet<Ipv4Addr>,
    /// Those of other nodes that leave the cluster by this one.
    leaving: BTreeSet<Ipv4Addr>,
    /// The addresses from which pods leave, where they have one of their own.
    egress: BTreeMap<Ipv4Addr, Ipv4Addr>,
    /// The addresses of the node itself.
    own: BTreeSet<Ipv4Addr>,
    /// The group of each port of each service.
    ports: BTreeMap<(Protocol, Ipv4Addr, u16), u32>,
    /// The services behind the nodes' ports; `None` where a bridge can't lead there.
    node_ports: BTreeMap<(Protocol, u16), Option<Ipv4Addr>>,
    /// The groups behind the nodes' ports.
    node_groups: BTreeMap<(Protocol, u16), u32>,
    /// Whom each group leads to. Not all protocols have ports.
    groups: BTreeMap<u32, BTreeSet<(Ipv4Addr, Option<u16>)>>,
    /// The pods of each service that are not ready.
    draining: BTreeMap<Ipv4Addr, Vec<Ipv4Addr>>,
}

impl Known {
    fn new(artifacts: &Artifacts, node: &Network) -> Self {
        let wiring = &artifacts.wiring;
        let held = |address: &Ipv4Net| {
            node.labels.iter().any(|(label, other)| is_egress(label) && other == address)
        };
        let own = node.addresses.values().flatten().filter(|address| !held(address));
        let mut known = Self {
            subnet: wiring.tun.address.trunc(),
            gateway: wiring.tun.address.addr(),
            pod_networks: wiring.pod_networks.clone(),
            services: wiring.tun.services,
            here: BTreeSet::new(),
            leaving: BTreeSet::new(),
            egress: BTreeMap::new(),
            own: own.map(Ipv4Net::addr).collect(),
            ports: BTreeMap::new(),
            node_ports: BTreeMap::new(),
            node_groups: BTreeMap::new(),
            groups: BTreeMap::new(),
            draining: wiring.draining.clone(),
        };
        for line in artifacts.flows.lines() {
            known.learn(line.split(" # ").next().unwrap_or(line));
        }
        for line in artifacts.groups.lines() {
            known.learn_group(line);
        }
        let ruleset = artifacts.rulesets.get("").map_or(&[][..], Vec::as_slice);
        known.egress = egress(&String::from_utf8_lossy(ruleset));
        known
    }

    fn learn(&mut self, flow: &str) {
        let Some(table) = number(flow, "table=") else { return };
        let is = |other: Table| table == u16::from(other.number());
        let address = |before| word(flow, before).and_then(|text| text.parse::<Ipv4Addr>().ok());
        let port = || {
            let protocol = flow.split([',', ' ']).find_map(protocol)?;
            Some((protocol, number(flow, "tp_dst=")?))
        };
        let group = || flow.split("actions=group:").nth(1)?.trim().parse::<u32>().ok();
        if is(Table::LocalPod) {
            self.here.extend(address("nw_dst="));
        } else if is(Table::RouteFromVxlan) {
            self.leaving.extend(address("nw_src="));
        } else if is(Table::Service) {
            if let (Some(service), Some((protocol, port)), Some(group)) =
                (address("nw_dst="), port(), group())
            {
                self.ports.insert((protocol, service, port), group);
            }
        } else if is(Table::NodePort)
            && let Some(port) = port()
        {
            if let Some(group) = group() {
                self.node_groups.insert(port, group);
            }
            let service = word(flow, "set_field:0x").filter(|_| flow.contains("->reg3"));
            if let Some(service) = service.and_then(|text| u32::from_str_radix(text, 16).ok()) {
                self.node_ports.insert(port, Some(service.into()));
            } else {
                self.node_ports.entry(port).or_insert(None);
            }
        }
    }

    fn learn_group(&mut self, group: &str) {
        let id = word(group, "group_id=").and_then(|id| id.parse().ok());
        let Some(id) = id else { return };
        let pods = group.split("nat(dst=").skip(1).filter_map(|rest| {
            let to = rest.split(')').next()?;
            Some(match to.split_once(':') {
                Some((address, port)) => (address.parse().ok()?, Some(port.parse().ok()?)),
                None => (to.parse().ok()?, None),
            })
        });
        self.groups.entry(id).or_default().extend(pods);
    }

    /// What selects the stale ones of some entries.
    fn stale(
        &self,
        entries: &[Entry],
        other_owner: &BTreeSet<Ipv4Addr>,
        translated: impl Fn(&Self, &Entry) -> Option<Selector>,
    ) -> BTreeSet<Selector> {
        let gone = |address: Ipv4Addr| {
            other_owner.contains(&address)
                || (self.subnet.contains(&address)
                    && address != self.gateway
                    && !self.here.contains(&address))
        };
        let mut found = BTreeSet::new();
        for entry in entries {
            let Entry { original, reply, .. } = entry;
            let half = |tuple: &Tuple| {
                let source = Some(tuple.source).filter(|address| gone(*address));
                let destination = Some(tuple.destination).filter(|address| gone(*address));
                match (source, destination) {
                    (Some(_), _) => Half { source, ..Half::default() },
                    _ => Half { destination, ..Half::default() },
                }
            };
            let by_original = Selector { original: half(original), ..Selector::default() };
            let by_reply = Selector { reply: half(reply), ..Selector::default() };
            if by_original != Selector::default() {
                found.insert(by_original);
            } else if by_reply != Selector::default() {
                found.insert(by_reply);
            } else {
                found.extend(translated(self, entry));
            }
        }
        found
    }

    fn is_pod(&self, address: Ipv4Addr) -> bool {
        self.pod_networks.iter().any(|network| network.contains(&address))
    }

    fn is_service(&self, address: Ipv4Addr) -> bool {
        self.services.is_some_and(|network| network.contains(&address))
    }

    /// A connection to a service, or to a port of a node, that leads to whom it no longer should.
    fn stale_service(&self, entry: &Entry) -> Option<Selector> {
        let Entry { protocol, original, reply } = entry;
        if reply.source == original.destination {
            return None;
        }
        let port = original.ports.map(|(_, port)| port);
        let key = (*protocol).zip(port);
        let (service, groups) = if self.is_service(original.destination) {
            let service = original.destination;
            (Some(service), self.groups_of(*protocol, service, port))
        } else if self.is_pod(reply.source) {
            let service = key.and_then(|key| *self.node_ports.get(&key)?);
            let group = key.and_then(|key| self.node_groups.get(&key));
            (service, group.into_iter().collect())
        } else {
            return None;
        };
        let to = reply.ports.map(|(port, _)| port);
        let is_behind = |group: &u32| {
            let mut pods = self.groups.get(group).into_iter().flatten();
            pods.any(|(address, port)| {
                *address == reply.source && (port.is_none() || to.is_none() || *port == to)
            })
        };
        let drains = service.and_then(|service| self.draining.get(&service));
        let keeps = drains.is_some_and(|pods| pods.contains(&reply.source));
        let stale = !keeps && !groups.into_iter().any(is_behind);
        stale.then(|| Selector::translation(entry))
    }

    /// The groups that a packet to a service may meet.
    fn groups_of(
        &self,
        protocol: Option<Protocol>,
        service: Ipv4Addr,
        port: Option<u16>,
    ) -> Vec<&u32> {
        let ports = self.ports.iter().filter(|((of, address, number), _)| {
            Some(*of) == protocol && *address == service && port.is_none_or(|port| port == *number)
        });
        ports.map(|(_, group)| group).collect()
    }

    /// A connection that the node translates as it no longer should.
    fn stale_of_node(&self, entry: &Entry) -> Option<Selector> {
        let Entry { protocol, original, reply } = entry;
        let inside = |address| self.is_pod(address) || self.is_service(address);
        if self.is_service(original.destination) {
            return self.stale_service(entry);
        }
        if self.is_service(reply.source) {
            let (_, port) = original.ports?;
            let key = ((*protocol)?, port);
            let good = self
                .node_ports
                .get(&key)
                .is_some_and(|service| service.is_none_or(|service| service == reply.source));
            let group = self.node_groups.get(&key);
            let to = (*protocol, reply.source, reply.ports.map(|(port, _)| port));
            let same = group.is_none_or(|group| self.groups_of(to.0, to.1, to.2).contains(&group));
            return (!good || !same).then(|| Selector::translation(entry));
        }
        // What leaves the cluster with another source.
        let source = original.source;
        if !self.is_pod(source) || inside(original.destination) || reply.destination == source {
            return None;
        }
        let by_this = self.here.contains(&source) || self.leaving.contains(&source);
        let address = self.egress.get(&source) == Some(&reply.destination)
            || self.own.contains(&reply.destination);
        let original = Half { source: Some(source), ..Half::default() };
        let reply = Half { destination: Some(reply.destination), ..Half::default() };
        (!by_this || !address).then(|| Selector { original, reply, ..Selector::default() })
    }
}

/// The pods that have an address of their own outside, from the ruleset of a node.
fn egress(ruleset: &str) -> BTreeMap<Ipv4Addr, Ipv4Addr> {
    let map = format!("map {EGRESS_IP_MAP} {{");
    let Some((_, map)) = ruleset.split_once(&map) else { return BTreeMap::new() };
    let lines = map.lines().take_while(|line| *line != "\t}");
    lines
        .filter_map(|line| {
            let (pod, address) = line.trim().trim_end_matches(',').split_once(" : ")?;
            Some((pod.parse().ok()?, address.parse().ok()?))
        })
        .collect()
}
