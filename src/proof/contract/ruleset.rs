//! L10: the node's own ruleset: it lets nobody speak as a pod, forwards to pods replies alone, takes from pods
//! what is open, and lets no pod's address out.
//!
//! Every condition of a rule speaks of one field. So the numbers of a field fall into few classes
//! of which no condition tells two apart, and one packet for each combination is all packets.

use std::collections::{BTreeMap, BTreeSet};

use super::{Contract, Fault, Lemma};
use crate::proof::frame::{Range, address, proto};
use crate::proof::read::Unread;
use crate::proof::read::nft::{Chain, Condition, Element, Ruleset, Statement, Table};

/// The mark of what may pass to the bridge.
const PASSED: u64 = 0x7266_6e66;
/// The priority at which the sources of known connections are translated.
const SRCNAT: i32 = 100;

/// What conntrack of the kernel calls a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    New,
    Established,
    Related,
    Invalid,
    Untracked,
}

const STATES: [State; 5] =
    [State::New, State::Established, State::Related, State::Invalid, State::Untracked];

/// A packet on its way through the node.
#[derive(Clone, Copy, Debug)]
struct Packet<'n> {
    iif: &'n str,
    oif: &'n str,
    /// Source and destination; none for IPv6.
    addresses: Option<(u64, u64)>,
    local: bool,
    proto: u64,
    port: u64,
    state: State,
}

/// Which hooks a packet passes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    Forward,
    Input,
    Output,
}

/// What becomes of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Drop,
    Pass { marked: bool, masqueraded: bool },
}

impl Contract<'_> {
    /// Compares a ruleset with what is meant.
    pub fn ruleset(&mut self, file: &str, ruleset: &Ruleset, interfaces: &[&str]) -> Vec<Unread> {
        let kernel = self.node.kernel;
        let mut guarded: BTreeSet<&str> = BTreeSet::new();
        if !kernel {
            guarded.extend(interfaces);
            guarded.extend(self.node.uplink.as_deref());
        }
        let families: Vec<&str> = ruleset.keys().map(String::as_str).collect();
        let wanted: &[&str] = if kernel { &["inet"] } else { &["arp", "inet"] };
        if families != wanted {
            return vec![Unread::new(file, 0, format!("its tables are of {families:?}"))];
        }
        let mut unread = Vec::new();
        for (family, table) in ruleset {
            for chain in &table.chains {
                let last = chain.rules.len().saturating_sub(1);
                let marks = |(at, rule): (usize, &crate::proof::read::nft::Rule)| {
                    matches!(rule.statement, Statement::Mark(_)) && at != last
                };
                if chain.rules.iter().enumerate().any(marks) {
                    let line = usize::try_from(chain.line).unwrap_or(0);
                    unread.push(Unread::new(file, line, "a rule behind one that sets a mark"));
                }
            }
            let classes = Classes::new(self, table, &guarded);
            match family.as_str() {
                "inet" => self.inet(file, table, &classes, &guarded),
                _ => self.arp(file, table, &classes, &guarded),
            }
        }
        unread
    }

    fn inet(&mut self, file: &str, table: &Table, classes: &Classes<'_>, guarded: &BTreeSet<&str>) {
        let chains = Hooks::new(table);
        for way in [Way::Forward, Way::Input, Way::Output] {
            let nowhere = [""];
            let none = &nowhere[..];
            let iifs = if way == Way::Output { none } else { &classes.interfaces[..] };
            let oifs = if way == Way::Input { none } else { &classes.interfaces[..] };
            let locals: &[bool] = match way {
                Way::Forward => &[false],
                _ => &[false, true],
            };
            for &iif in iifs {
                for &oif in oifs {
                    // What comes by `lo` is for the machine.
                    if way == Way::Forward && (iif == "lo" || oif == "lo") {
                        continue;
                    }
                    for &addresses in &classes.addresses {
                        for &(proto, port) in &classes.ports {
                            for &local in locals {
                                for state in STATES {
                                    let packet =
                                        Packet { iif, oif, addresses, local, proto, port, state };
                                    self.packet(file, &chains, table, way, &packet, guarded);
                                }
                            }
                        }
                    }
                }
            }
        }
    }

    fn packet(
        &mut self,
        file: &str,
        chains: &Hooks<'_>,
        table: &Table,
        way: Way,
        packet: &Packet<'_>,
        guarded: &BTreeSet<&str>,
    ) {
        let (got, lines) =
            chains.fate(table, way, packet, |source| self.is_pods(source), self.node.address);
        let want = self.meant(way, packet, guarded);
        self.count(Lemma::L10);
        if got != want {
            self.refute(file, way, packet, (got, want), &lines);
        }
    }

    /// What is meant to become of a packet.
    fn meant(&self, way: Way, packet: &Packet<'_>, guarded: &BTreeSet<&str>) -> Fate {
        let Packet { iif, oif, addresses, local, proto, port, state } = *packet;
        let known = matches!(state, State::Established | State::Related);
        let within = |range: &Range, number: u64| (range.0..=range.1).contains(&number);
        if way != Way::Output {
            let meaning = self.meaning;
            let spoofed = iif != "tun0" && iif != "lo";
            let from_inside = addresses.is_some_and(|(source, _)| {
                self.is_pods(source) || within(&meaning.service_network, source)
            });
            let to_node =
                addresses.is_some_and(|(_, to)| meaning.tunnel_ends.binary_search(&to).is_ok());
            let tunnel = iif == "tun0"
                && (proto, port) == (proto::UDP, meaning.vxlan_port)
                && (local || to_node);
            if spoofed && from_inside || tunnel || guarded.contains(iif) {
                return Fate::Drop;
            }
        }
        let to_pods = way == Way::Forward && oif == "tun0";
        if to_pods && (iif == "tun0" || !known) {
            return Fate::Drop;
        }
        if way == Way::Input && iif == "tun0" && !known && !self.takes(packet) {
            return Fate::Drop;
        }
        let marked = way != Way::Input && oif == "tun0" && self.node.kernel;
        let outside = way != Way::Input && oif != "tun0" && oif != "lo";
        let pods = addresses.is_some_and(|(source, _)| self.is_pods(source));
        if outside && pods && matches!(state, State::Invalid | State::Untracked) {
            return Fate::Drop;
        }
        Fate::Pass { marked, masqueraded: outside && pods && state == State::New }
    }

    /// Whether the node's processes take what comes from its pods.
    fn takes(&self, packet: &Packet<'_>) -> bool {
        const ECHO_REQUEST: u64 = 8;
        let subnet = self.node.subnet;
        let strange = packet.addresses.is_some_and(|(source, to)| {
            to == self.node.gateway && !(subnet.0..=subnet.1).contains(&source)
        });
        let dns = matches!(packet.proto, proto::TCP | proto::UDP) && packet.port == 53;
        let declared = self.meaning.node_access.iter().any(|(protocol, (first, last))| {
            *protocol == packet.proto && (*first..=*last).contains(&packet.port)
        });
        let ping = packet.addresses.is_some()
            && (packet.proto, packet.port) == (proto::ICMP, ECHO_REQUEST);
        !strange && (ping || dns || declared)
    }

    fn is_pods(&self, source: u64) -> bool {
        self.meaning.pod_networks.iter().any(|net| (net.0..=net.1).contains(&source))
    }

    /// On a userspace datapath the kernel answers ARP of no interface that the bridge reads.
    fn arp(&mut self, file: &str, table: &Table, classes: &Classes<'_>, guarded: &BTreeSet<&str>) {
        let chains = Hooks::new(table);
        for &iif in &classes.interfaces {
            let packet = Packet {
                iif,
                oif: "",
                addresses: None,
                local: false,
                proto: proto::OTHER,
                port: 0,
                state: State::Untracked,
            };
            let (got, lines) = chains.fate(table, Way::Input, &packet, |_| false, 0);
            let want = if guarded.contains(iif) {
                Fate::Drop
            } else {
                Fate::Pass { marked: false, masqueraded: false }
            };
            self.count(Lemma::L10);
            if got != want {
                self.refute(file, Way::Input, &packet, (got, want), &lines);
            }
        }
    }

    fn refute(
        &mut self,
        file: &str,
        way: Way,
        packet: &Packet<'_>,
        (got, want): (Fate, Fate),
        lines: &[u32],
    ) {
        let shown = |fate: Fate| match fate {
            Fate::Drop => "dropped",
            Fate::Pass { masqueraded: true, .. } => "passed with an address of the node",
            Fate::Pass { marked: true, .. } => "passed with the mark for the bridge",
            Fate::Pass { .. } => "passed as it is",
        };
        let Packet { iif, oif, addresses, proto, port, state, .. } = *packet;
        let from_to = addresses.map_or("an IPv6 packet".to_owned(), |(source, to)| {
            format!("{} -> {}", address(source), address(to))
        });
        let protocol = proto::NAMES[usize::try_from(proto).unwrap_or(0)];
        let lines: Vec<String> = lines.iter().map(ToString::to_string).collect();
        let way = match way {
            Way::Forward => format!("forwarded from {iif} to {oif}"),
            Way::Input => format!("for the node itself, by {iif}"),
            Way::Output => format!("from the node itself, by {oif}"),
        };
        let why = format!(
            "{from_to}, {protocol} {port}, {state:?}, {way}, is {} and must be {} (rules in {file}: {})",
            shown(got),
            shown(want),
            if lines.is_empty() { "none".to_owned() } else { lines.join(", ") }
        );
        if self.is_full(Lemma::L10) {
            self.more += 1;
            return;
        }
        self.faults.push(Fault::plain(Lemma::L10, why, self.node.place));
    }
}

/// The chains of each hook, in the order in which packets meet them.
struct Hooks<'t>(BTreeMap<&'t str, Vec<&'t Chain>>);

impl<'t> Hooks<'t> {
    fn new(table: &'t Table) -> Self {
        let mut hooks: BTreeMap<&str, Vec<&Chain>> = BTreeMap::new();
        for chain in &table.chains {
            hooks.entry(chain.hook.as_str()).or_default().push(chain);
        }
        for chains in hooks.values_mut() {
            chains.sort_by_key(|chain| chain.priority);
        }
        Self(hooks)
    }

    /// What becomes of a packet, and the lines of the rules that decided.
    fn fate(
        &self,
        table: &Table,
        way: Way,
        packet: &Packet<'_>,
        is_pods: impl Fn(u64) -> bool,
        own: u64,
    ) -> (Fate, Vec<u32>) {
        let hooks: &[&str] = match way {
            Way::Forward => &["prerouting", "forward", "postrouting"],
            Way::Input => &["prerouting", "input"],
            Way::Output => &["output", "postrouting"],
        };
        let mut packet = *packet;
        let (mut marked, mut masqueraded) = (false, false);
        let mut lines = Vec::new();
        for hook in hooks {
            for chain in self.0.get(hook).into_iter().flatten() {
                let known = matches!(packet.state, State::Established | State::Related);
                let outside = packet.oif != "tun0" && packet.oif != "lo";
                if *hook == "postrouting" && chain.priority > SRCNAT && known && outside {
                    // The connection's source was translated when it began.
                    if let Some((source, _)) = &mut packet.addresses
                        && is_pods(*source)
                    {
                        *source = own;
                    }
                }
                if chain.kind == "nat" && packet.state != State::New {
                    continue;
                }
                // Before routing, it is not known where it leaves.
                let oif = if *hook == "prerouting" { "" } else { packet.oif };
                let view = Packet { oif, ..packet };
                let found = chain.rules.iter().find(|rule| {
                    rule.conditions.iter().all(|condition| holds(condition, &view, table))
                });
                lines.extend(found.map(|rule| rule.line));
                match found.map(|rule| rule.statement) {
                    Some(Statement::Drop) => return (Fate::Drop, lines),
                    None if !chain.accepts => return (Fate::Drop, lines),
                    Some(Statement::Mark(mark)) => marked = mark == PASSED,
                    Some(Statement::Masquerade) => {
                        masqueraded = true;
                        if let Some((source, _)) = &mut packet.addresses {
                            *source = own;
                        }
                    }
                    Some(Statement::Accept) | None => {}
                }
            }
        }
        (Fate::Pass { marked, masqueraded }, lines)
    }
}

fn holds(condition: &Condition, packet: &Packet<'_>, table: &Table) -> bool {
    let within = |range: &Range, number: u64| (range.0..=range.1).contains(&number);
    let in_set = |name: &String, element: &Element| {
        table.sets.get(name).is_some_and(|set| set.contains(element))
    };
    match condition {
        Condition::Iif(equal, name) => (packet.iif == name) == *equal,
        Condition::IifIn(set) => in_set(set, &Element::Interface(packet.iif.to_owned())),
        Condition::Oif(equal, name) => (packet.oif == name) == *equal,
        Condition::Source(equal, range) => {
            packet.addresses.is_some_and(|(source, _)| within(range, source) == *equal)
        }
        Condition::Destination(equal, range) => {
            packet.addresses.is_some_and(|(_, to)| within(range, to) == *equal)
        }
        Condition::DestinationIn(set) => {
            packet.addresses.is_some_and(|(_, to)| in_set(set, &Element::Address(to)))
        }
        Condition::ToLocal => packet.local,
        Condition::Ports(proto, ports) => {
            *proto == packet.proto && ports.iter().any(|range| within(range, packet.port))
        }
        Condition::Known => matches!(packet.state, State::Established | State::Related),
        Condition::EchoRequest => {
            packet.addresses.is_some() && (packet.proto, packet.port) == (proto::ICMP, 8)
        }
    }
}

/// One number for each class that rules or meanings tell apart.
struct Classes<'n> {
    interfaces: Vec<&'n str>,
    addresses: Vec<Option<(u64, u64)>>,
    ports: Vec<(u64, u64)>,
}

impl<'n> Classes<'n> {
    fn new(contract: &Contract<'_>, table: &'n Table, guarded: &BTreeSet<&'n str>) -> Self {
        let conditions: Vec<&Condition> = table
            .chains
            .iter()
            .flat_map(|chain| chain.rules.iter().flat_map(|rule| &rule.conditions))
            .collect();
        Self {
            interfaces: interfaces(table, &conditions, guarded),
            addresses: addresses(contract, table, &conditions),
            ports: ports(contract, &conditions),
        }
    }
}

/// Interfaces, of which one stands for all that are in the same sets.
fn interfaces<'n>(
    table: &'n Table,
    conditions: &[&'n Condition],
    guarded: &BTreeSet<&'n str>,
) -> Vec<&'n str> {
    let mut names: BTreeSet<&str> = BTreeSet::from(["tun0", "lo", "another"]);
    for condition in conditions {
        if let Condition::Iif(_, name) | Condition::Oif(_, name) = condition {
            names.insert(name);
        }
    }
    let mut signatures: BTreeSet<(bool, Vec<bool>)> = BTreeSet::new();
    let elements = table.sets.values().flatten().filter_map(|element| match element {
        Element::Interface(name) => Some(name.as_str()),
        Element::Address(_) => None,
    });
    let listed: BTreeSet<&str> = elements.chain(guarded.iter().copied()).collect();
    for name in listed {
        let element = Element::Interface(name.to_owned());
        let sets = table.sets.values().map(|set| set.contains(&element)).collect();
        if signatures.insert((guarded.contains(name), sets)) {
            names.insert(name);
        }
    }
    names.into_iter().collect()
}

/// Pairs of addresses, of which one stands for all that are in the same networks and sets.
fn addresses(
    contract: &Contract<'_>,
    table: &Table,
    conditions: &[&Condition],
) -> Vec<Option<(u64, u64)>> {
    let meaning = contract.meaning;
    let mut sources: Vec<Range> = meaning.pod_networks.clone();
    sources.extend([meaning.service_network, contract.node.subnet]);
    let gateway = contract.node.gateway;
    let mut networks: Vec<Range> = vec![(gateway, gateway)];
    let mut sets: Vec<BTreeSet<u64>> = vec![meaning.tunnel_ends.iter().copied().collect()];
    for condition in conditions {
        match condition {
            Condition::Source(_, range) => sources.push(*range),
            Condition::Destination(_, range) => networks.push(*range),
            Condition::DestinationIn(name) => {
                let elements = table.sets.get(name).into_iter().flatten();
                let addresses = elements.filter_map(|element| match element {
                    Element::Address(address) => Some(*address),
                    Element::Interface(_) => None,
                });
                sets.push(addresses.collect());
            }
            _ => {}
        }
    }
    let bounds = |ranges: &[Range]| {
        let ends = ranges.iter().flat_map(|range| [range.0, range.1 + 1]);
        let mut bounds: Vec<u64> = ends.chain([0]).filter(|at| *at <= 0xffff_ffff).collect();
        bounds.sort_unstable();
        bounds.dedup();
        bounds
    };
    let sources = bounds(&sources);
    let single = |address: &u64| [*address, address + 1];
    let mut candidates = bounds(&networks);
    candidates.extend(sets.iter().flatten().flat_map(single));
    candidates.retain(|address| *address <= 0xffff_ffff);
    let mut signatures = BTreeSet::new();
    candidates.retain(|address| {
        let networks = networks.iter().map(|range| (range.0..=range.1).contains(address));
        let sets = sets.iter().map(|set| set.contains(address));
        signatures.insert(networks.chain(sets).collect::<Vec<bool>>())
    });
    let pairs = sources.iter().flat_map(|source| candidates.iter().map(|to| Some((*source, *to))));
    pairs.chain([None]).collect()
}

/// Protocols with ports, where something may change.
fn ports(contract: &Contract<'_>, conditions: &[&Condition]) -> Vec<(u64, u64)> {
    let mut all: BTreeSet<(u64, u64)> =
        BTreeSet::from([(proto::OTHER, 0), (proto::ICMP, 0), (proto::ICMP, 8), (proto::ICMP, 9)]);
    let vxlan = contract.meaning.vxlan_port;
    let mut ranges: Vec<(u64, Range)> = vec![(proto::UDP, (vxlan, vxlan))];
    ranges.extend([(proto::TCP, (53, 53)), (proto::UDP, (53, 53))]);
    ranges.extend(contract.meaning.node_access.iter().copied());
    for condition in conditions {
        if let Condition::Ports(proto, ports) = condition {
            ranges.extend(ports.iter().map(|range| (*proto, *range)));
        }
    }
    for protocol in [proto::TCP, proto::UDP, proto::SCTP] {
        all.insert((protocol, 0));
    }
    for (protocol, (first, last)) in ranges {
        all.extend([(protocol, first), (protocol, last + 1)]);
    }
    all.retain(|(_, port)| *port <= 0xffff);
    all.into_iter().collect()
}
