//! L6 and L8: services, and node ports as pods see them. Who reaches a service is led to one of its targets, or
//! refused; behind the group, what conntrack has translated is held against what is sent there directly, wherever
//! it leads. Answers of targets pass conntrack, and get the service's address again.

use super::{Cell, Contract, Lemma, Outcome};
use crate::diagnostic::Place;
use crate::proof::engine::cube::{Kept, Seen, Set, Source};
use crate::proof::engine::run::{End, Leaf};
use crate::proof::frame::{Field, Range, frag, kind, proto};
use crate::proof::meaning::services::Led;

/// Who sends to a service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Caller {
    /// Workloads of the node: those of the leaf.
    Workloads,
    /// The node.
    Node,
}

/// What routers tell senders about packets.
const ICMP_ERRORS: [u64; 4] = [3, 4, 11, 12];

impl Contract<'_> {
    /// The Ethernet address of the node's gateway.
    pub(super) fn gateway_mac(&self) -> u64 {
        0x0a58 << 32 | self.node.gateway
    }

    /// The networks of the callers, each with one workload of it.
    fn networks(&self, caller: Caller) -> Vec<(u64, Option<usize>)> {
        if caller == Caller::Node {
            return vec![(0, None)];
        }
        let mut networks: Vec<(u64, Option<usize>)> = Vec::new();
        for &from in &self.known.workloads {
            let vnid = self.meaning.vnid(self.node.workloads[from].project);
            if !networks.iter().any(|(known, _)| *known == vnid) {
                networks.push((vnid, Some(from)));
            }
        }
        networks
    }

    /// What is sent to the service network.
    pub(super) fn check_services(
        &mut self,
        leaf: &Leaf<'_>,
        cell: &Cell<'_>,
        caller: Caller,
        got: Outcome,
    ) {
        let got = self.refusal(leaf, got);
        let memory = leaf.cube.memory;
        for (vnid, from) in self.networks(caller) {
            match memory.seen {
                Seen::Fresh => self.begun(leaf, cell, caller, (vnid, from), got),
                Seen::Not => {
                    let why =
                        |_: &Self| ("what is sent to a service is not tracked".to_owned(), None);
                    self.compare(Lemma::L6, leaf, cell, from, (got, Outcome::Tracked), why);
                }
                // To what is no beginning and belongs to nothing, at most the node answers.
                Seen::Stray if got == Outcome::Refused => self.count(Lemma::L6),
                Seen::Stray | Seen::Known | Seen::Reply => {
                    let why = |_: &Self| ("no connection begins with it".to_owned(), None);
                    self.compare(Lemma::L6, leaf, cell, from, (got, Outcome::Drop), why);
                }
            }
        }
    }

    /// A refusal by the node, which takes only what is for its own Ethernet address.
    fn refusal(&self, leaf: &Leaf<'_>, got: Outcome) -> Outcome {
        let memory = leaf.cube.memory;
        match got {
            Outcome::Port(2)
                if memory.eth_dst == Some(self.gateway_mac()) && memory.source == Source::Own =>
            {
                Outcome::Refused
            }
            Outcome::Port(2) => Outcome::Other,
            _ => got,
        }
    }

    /// A new connection of one network.
    fn begun(
        &mut self,
        leaf: &Leaf<'_>,
        cell: &Cell<'_>,
        caller: Caller,
        (vnid, from): (u64, Option<usize>),
        got: Outcome,
    ) {
        let meaning = self.meaning;
        let services = &meaning.services;
        let everybody = vnid == 0 || !meaning.isolates;
        let mut reached: Vec<u64> = Vec::new();
        if everybody {
            for range in cell.dst.ranges() {
                reached.extend(services.within(range).iter().map(|service| service.address));
            }
            if caller == Caller::Node && !self.has_global {
                reached.retain(|address| {
                    services.at(*address).is_some_and(|service| service.by_nodes)
                });
            }
        } else {
            for network in [0, vnid] {
                let own = services.by_network.get(&network).into_iter().flatten().copied();
                reached.extend(own.filter(|address| cell.dst.contains(*address)));
            }
        }
        for address in &reached {
            let dst = Set::new((*address, *address));
            self.check_service(leaf, &Cell { dst: &dst, ..*cell }, *address, from, got);
        }
        if cell.dst.count() <= reached.len() as u64 {
            return;
        }
        reached.sort_unstable();
        let other = cell.dst.ranges().flat_map(|(first, last)| first..=last);
        let mut other = other.into_iter().filter(|address| reached.binary_search(address).is_err());
        let Some(other) = other.next() else { return };
        let dst = Set::new((other, other));
        let cell = Cell { dst: &dst, ..*cell };
        let want = if everybody { Outcome::Refused } else { Outcome::Drop };
        self.compare(Lemma::L6, leaf, &cell, from, (got, want), |contract| {
            contract.no_service(other, from)
        });
    }

    fn no_service(&self, address: u64, from: Option<usize>) -> (String, Option<Place>) {
        match self.meaning.services.at(address) {
            Some(service) => {
                let who = from.map_or("the node", |from| &self.node.workloads[from].name);
                (format!("{who} does not reach the service {}", service.name), Some(service.place))
            }
            None => ("no service has the address".to_owned(), None),
        }
    }

    /// A new connection to one service.
    fn check_service(
        &mut self,
        leaf: &Leaf<'_>,
        cell: &Cell<'_>,
        address: u64,
        from: Option<usize>,
        got: Outcome,
    ) {
        let Some(service) = self.meaning.services.at(address) else { return };
        let mut bounds: Vec<u64> = Vec::new();
        if cell.has_port() {
            let own = service.ports.iter().filter(|port| port.proto == cell.proto);
            bounds.extend(own.flat_map(|port| [port.port, port.port + 1]));
            bounds.sort_unstable();
        }
        self.by_port(cell, &bounds, |contract, cell| {
            let led = if cell.proto < proto::TCP {
                Led::Refused
            } else if cell.frag == frag::LATER {
                service.leads_later(cell.proto)
            } else {
                service.leads(cell.proto, cell.dst_port.0)
            };
            let want = match led {
                Led::To(list) => Outcome::Group(list),
                Led::Refused => Outcome::Refused,
            };
            contract.compare(Lemma::L6, leaf, cell, from, (got, want), |_| {
                let what = match led {
                    Led::To(_) => "one of the targets of that port",
                    Led::Refused => "nobody: there it is refused",
                };
                (format!("the service {} leads to {what}", service.name), Some(service.place))
            });
        });
    }

    /// What workloads send outside, where nodes serve node ports.
    pub(super) fn check_outside(&mut self, leaf: &Leaf<'_>, cell: &Cell<'_>, got: Outcome) {
        let memory = leaf.cube.memory;
        let services = &self.meaning.services;
        let mut special: Vec<u64> = Vec::new();
        if memory.seen == Seen::Known {
            // By a service, hosts outside are reached like directly; nothing else is in the zone.
            if memory.kept == Kept::Destination {
                special.extend(&services.endpoints);
            }
        } else {
            special.extend(services.node_addresses.keys());
        }
        special.retain(|address| cell.dst.contains(*address));
        let mut rest: Vec<Range> = Vec::new();
        for range in cell.dst.ranges() {
            let own: Vec<Range> = special.iter().map(|address| (*address, *address)).collect();
            rest.extend(crate::proof::frame::without(range, &own));
        }
        for address in special {
            let dst = Set::new((address, address));
            let cell = Cell { dst: &dst, ..*cell };
            if memory.seen == Seen::Known {
                self.leaving(leaf, &cell, got);
            } else {
                self.check_node(leaf, &cell, address, got);
            }
        }
        if !rest.is_empty() {
            let dst = Set::of(rest);
            self.lenient = memory.seen != Seen::Not;
            self.leaving(leaf, &Cell { dst: &dst, ..*cell }, got);
            self.lenient = false;
        }
    }

    /// What workloads send to an address at which nodes serve node ports.
    fn check_node(&mut self, leaf: &Leaf<'_>, cell: &Cell<'_>, address: u64, got: Outcome) {
        let seen = leaf.cube.memory.seen;
        if matches!(seen, Seen::Stray | Seen::Reply) {
            self.lenient = true;
            self.leaving(leaf, cell, got);
            self.lenient = false;
            return;
        }
        if !cell.has_port() {
            return self.leaving(leaf, cell, got);
        }
        let meaning = self.meaning;
        let ports = meaning.services.node_ports.range((cell.proto, 0)..=(cell.proto, 0xffff));
        let bounds: Vec<u64> = ports.flat_map(|((_, port), _)| [*port, *port + 1]).collect();
        let parts = leaf.cube.memory.of_parts;
        self.by_port(cell, &bounds, |contract, cell| {
            let port = cell.dst_port.0;
            let found = meaning.services.node_ports.get(&(cell.proto, port));
            let Some(node_port) = found.filter(|_| cell.dst_port.1 == port) else {
                return contract.leaving(leaf, cell, got);
            };
            if meaning.services.is_blocked(address, cell.proto, port) {
                // Of what comes in parts, the first has left already.
                if !parts {
                    contract.leaving(leaf, cell, got);
                }
                return;
            }
            let service = &meaning.services.all[node_port.service];
            let list = service.ports[node_port.port].list;
            let refused = Some(Outcome::Refused).filter(|_| seen == Seen::Fresh);
            for (vnid, from) in contract.networks(Caller::Workloads) {
                let reached = node_port.served && meaning.reaches_service(vnid, service);
                let want = match (reached, list) {
                    (false, _) => Outcome::Drop,
                    (true, 0) => Outcome::Refused,
                    (true, list) => Outcome::Group(list),
                };
                let shown = match got {
                    Outcome::Port(2) if want == Outcome::Refused => refused
                        .filter(|_| contract.refusal(leaf, got) == Outcome::Refused)
                        .unwrap_or(got),
                    _ => got,
                };
                let kept = leaf.cube.memory.kept;
                let shown = match shown {
                    // A pod that gets itself sees the service's address, but of what came in parts.
                    Outcome::Group(_)
                        if kept != Kept::Number(service.address)
                            && !leaf.cube.memory.put_together
                            && cell.frag == frag::WHOLE =>
                    {
                        Outcome::Other
                    }
                    _ => shown,
                };
                contract.compare(Lemma::L8, leaf, cell, from, (shown, want), |contract| {
                    let who = from.map_or("the node", |from| &contract.node.workloads[from].name);
                    let verb = if reached { "reaches" } else { "does not reach" };
                    let what = format!("{who} {verb} the service {} by a node port", service.name);
                    (what, Some(service.place))
                });
            }
        });
    }

    /// What a workload gets from itself by a service.
    pub(super) fn check_hairpin(
        &mut self,
        leaf: &Leaf<'_>,
        cell: &Cell<'_>,
        who: usize,
        got: Outcome,
    ) {
        let memory = leaf.cube.memory;
        let port = self.node.workloads[who].port;
        let known = memory.seen == Seen::Known && memory.kept != Kept::Nothing;
        let from_service = match memory.seen {
            Seen::Known => memory.source == Source::Kept,
            _ => memory.source == Source::Nat,
        };
        let answer = memory.seen == Seen::Reply && memory.turned && memory.source == Source::Nat;
        let got = match got {
            Outcome::Port(_) if !from_service => Outcome::Other,
            _ => got,
        };
        if known && self.answers[who] || answer {
            let want = Outcome::Port(port);
            self.compare(Lemma::L6, leaf, cell, Some(who), (got, want), |contract| {
                let name = &contract.node.workloads[who].name;
                (format!("{name} gets itself by a service, as from the service"), None)
            });
        }
    }

    /// Whether what comes from a target of a service, and arrives, has not been tracked.
    pub(super) fn untracked(&mut self, leaf: &Leaf<'_>, cell: &Cell<'_>, to: usize, got: Outcome) {
        let meaning = self.meaning;
        if !meaning.features.services
            || cell.kind != kind::IP
            || leaf.cube.memory.seen != Seen::Not
            || !matches!(got, Outcome::Port(_))
        {
            return;
        }
        self.count(Lemma::L6);
        let why = || "what a target of a service sends gets no address of the service".to_owned();
        let target = &self.node.workloads[to];
        if leaf.cube.senders.is_some() || !self.known.workloads.is_empty() {
            let from = self.known.workloads.iter().copied().find(|from| {
                let own = meaning.vnid(self.node.workloads[*from].project);
                *from != to
                    && self.answers[*from]
                    && meaning.reaches(own, meaning.vnid(target.project))
            });
            if from.is_some() {
                self.fault(
                    Lemma::L6,
                    leaf,
                    Some((cell, from)),
                    (got, Outcome::Tracked),
                    why(),
                    None,
                );
            }
            return;
        }
        let vnid = meaning.vnid(target.project);
        let origin = leaf.cube.origin().clone();
        let outside = leaf.cube.get(Field::InPort) == (2, 2);
        if self.answering_within(&origin, vnid, outside) {
            self.fault(Lemma::L6, leaf, Some((cell, None)), (got, Outcome::Tracked), why(), None);
        }
        let errors = outside
            && !meaning.services.endpoints.is_empty()
            && cell.proto == proto::ICMP
            && cell.frag == frag::WHOLE
            && ICMP_ERRORS.iter().any(|kind| (cell.src_port.0..=cell.src_port.1).contains(kind));
        if errors {
            let why = "what a router says of a host outside is not translated".to_owned();
            self.fault(Lemma::L6, leaf, Some((cell, None)), (got, Outcome::Tracked), why, None);
        }
    }

    /// Whether a set of sources has one that answers as a service to a network.
    fn answering_within(&mut self, sources: &Set, vnid: u64, outside: bool) -> bool {
        let key = (sources.identity(), vnid, outside);
        if let Some((found, _)) = self.answered.get(&key) {
            return *found;
        }
        let within = |list: &[u64]| {
            sources.ranges().any(|(first, last)| {
                let at = list.partition_point(|address| *address < first);
                list.get(at).is_some_and(|address| *address <= last)
            })
        };
        let found = if outside {
            let endpoints: Vec<u64> = self.meaning.services.endpoints.iter().copied().collect();
            within(&endpoints)
        } else if vnid == 0 || !self.meaning.isolates {
            self.meaning.answering.values().any(|list| within(list))
        } else {
            let own = [0, vnid].into_iter().filter_map(|vnid| self.meaning.answering.get(&vnid));
            own.into_iter().any(|list| within(list))
        };
        self.answered.insert(key, (found, sources.clone()));
        found
    }

    /// The answer of ARP that a node gets about services.
    pub(super) fn arp_answer(&self, leaf: &Leaf<'_>) -> Outcome {
        let answer = leaf.cube.memory.answer;
        let network = self.meaning.service_network;
        let mac = Some(0x0a58 << 32 | network.0);
        let right = leaf.ends == [End::Back]
            && answer.to_asker
            && answer.target
            && answer.target_address
            && answer.sender_address
            && (answer.eth_src, answer.sender) == (mac, mac)
            && answer.operation == Some(2)
            && !leaf.cube.memory.odd;
        if right { Outcome::Answered } else { Outcome::Other }
    }
}
