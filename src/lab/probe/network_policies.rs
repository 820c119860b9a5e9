//! Probes of network policies: every policy, every rule, every peer, and what none of them allows.

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, SocketAddrV4};

use super::egress::{OUTSIDE_EXAMPLE, samples};
use super::{Expected, Location, ODD_PORT, POD_PORT, Planner, Probe, port};
use crate::intent::{Direction, NodeId, Peer, PolicyRule, PortSet};
use crate::lab::Lab;
use crate::model::Workload;
use crate::value::{Port, Protocol};
use crate::verify::reach::{Destination, Packet, Source, reach, to_workload};

/// How many of the ports of a rule are tried with each peer.
const PORTS_SHOWN: usize = 3;

/// The other end of a probe.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum End {
    Workload(Workload),
    Node(NodeId),
    Outside(Ipv4Addr),
}

impl Planner<'_> {
    /// For each policy: of each rule, an example of each peer at some of its ports and at one that no
    /// rule lists; pods that no rule is about; the pod's own node and another.
    pub(super) fn network_policies(&mut self) {
        let model = self.model;
        let intent = model.intent();
        let mut done: BTreeSet<(Workload, Direction, End, Protocol, u16)> = BTreeSet::new();
        for policy in intent.network_policies() {
            let title = format!("policy {}/{}", intent[policy.project].name, policy.name);
            for subject in self.subjects(policy) {
                for direction in Direction::BOTH {
                    let Some(rules) = policy.rules(direction) else { continue };
                    let mut tries: BTreeSet<(End, Protocol, u16)> = BTreeSet::new();
                    for rule in rules {
                        for end in self.ends(subject, direction, rule) {
                            let ports = self.ports_of(rule, subject, direction, end);
                            tries.extend(ports.iter().map(|(protocol, p)| (end, *protocol, *p)));
                        }
                    }
                    let odd = (Protocol::Tcp, port(ODD_PORT));
                    let first_ends: BTreeSet<End> = tries.iter().map(|(end, ..)| *end).collect();
                    tries.extend(first_ends.into_iter().map(|end| (end, odd.0, odd.1)));
                    let usual = (Protocol::Tcp, port(POD_PORT));
                    let others = self.strangers(subject, direction);
                    tries.extend(others.into_iter().map(|end| (end, usual.0, usual.1)));
                    for (end, protocol, number) in tries {
                        if done.insert((subject, direction, end, protocol, number)) {
                            self.policy_probe(&title, subject, direction, end, (protocol, number));
                        }
                    }
                }
            }
        }
    }

    /// The first pod of a policy on each of two nodes.
    fn subjects(&self, policy: &crate::intent::NetworkPolicy) -> Vec<Workload> {
        let model = self.model;
        let intent = model.intent();
        let mut nodes: BTreeSet<NodeId> = BTreeSet::new();
        let pods = intent.pods().filter(|(_, pod)| {
            pod.project == policy.project && policy.selector.matches(&pod.labels)
        });
        let first = pods.filter(|(_, pod)| nodes.insert(pod.node)).map(|(id, _)| Workload::Pod(id));
        first.take(2).collect()
    }

    /// An example of each peer of a rule.
    fn ends(&self, subject: Workload, direction: Direction, rule: &PolicyRule) -> Vec<End> {
        let model = self.model;
        let intent = model.intent();
        let Some(peers) = &rule.peers else { return self.strangers(subject, direction) };
        let own = model.project(subject);
        let is_other = |workload: &Workload| *workload != subject;
        let mut found = Vec::new();
        for peer in peers {
            match peer {
                Peer::Pods { projects, pods } => {
                    let meant = intent.pods().filter(|(_, pod)| {
                        let project = &intent[pod.project];
                        let near = projects.as_ref().map_or(pod.project == own, |selector| {
                            selector.matches(&project.labels)
                        });
                        near && pods.matches(&pod.labels)
                    });
                    let mut meant = meant.map(|(id, _)| Workload::Pod(id));
                    found.extend(meant.find(is_other).map(End::Workload));
                }
                Peer::Block { cidr, except } => {
                    let inside = |address: Ipv4Addr| {
                        cidr.contains(&address) && !except.iter().any(|e| e.contains(&address))
                    };
                    let mut pods = intent.pods().map(|(id, _)| Workload::Pod(id));
                    let pod =
                        pods.find(|pod| is_other(pod) && inside(model.endpoint(*pod).address));
                    found.extend(pod.map(End::Workload));
                    if direction == Direction::Egress {
                        let outside = |network: ipnet::Ipv4Net| {
                            samples(network).find(|address| self.can_be_outside(*address))
                        };
                        let let_out = samples(*cidr)
                            .find(|address| inside(*address) && self.can_be_outside(*address));
                        found.extend(let_out.map(End::Outside));
                        found.extend(except.iter().filter_map(|e| outside(*e)).map(End::Outside));
                    }
                }
            }
        }
        found
    }

    /// Ports that a rule lists, as the destination has them; one that is usual, where it lists none.
    fn ports_of(
        &self,
        rule: &PolicyRule,
        subject: Workload,
        direction: Direction,
        end: End,
    ) -> Vec<(Protocol, u16)> {
        let usual = vec![(Protocol::Tcp, port(POD_PORT))];
        let destination = match (direction, end) {
            (Direction::Ingress, _) => Some(subject),
            (Direction::Egress, End::Workload(workload)) => Some(workload),
            (Direction::Egress, _) => None,
        };
        let Some(ports) = &rule.ports else { return usual };
        let number = |ports: &crate::intent::PolicyPorts| match &ports.ports {
            PortSet::All => Some(port(POD_PORT)),
            PortSet::Range(first, _) => Some(*first),
            PortSet::Named(name) => {
                let Some(Workload::Pod(pod)) = destination else { return None };
                let mut own = self.model.intent()[pod].ports.iter();
                let found = own.find(|(own, protocol, _)| {
                    own.as_str() == name.as_str() && *protocol == ports.protocol
                });
                found.map(|(_, _, port)| port.get())
            }
        };
        let numbers = ports.iter().filter_map(|p| Some((p.protocol, number(p)?)));
        numbers.take(PORTS_SHOWN).collect()
    }

    /// Whoever else could be a peer: a pod of the own project and one of another, the own node and
    /// another, the outside.
    fn strangers(&self, subject: Workload, direction: Direction) -> Vec<End> {
        let model = self.model;
        let intent = model.intent();
        let pods = || intent.pods().map(|(id, pod)| (Workload::Pod(id), pod.project));
        let own = model.project(subject);
        let near = pods().find(|(pod, project)| *project == own && *pod != subject);
        let far = pods().find(|(_, project)| *project != own);
        let mut found: Vec<End> =
            near.into_iter().chain(far).map(|(workload, _)| End::Workload(workload)).collect();
        match direction {
            Direction::Ingress => {
                let node = model.node(subject);
                found.push(End::Node(node));
                let mut nodes = intent.nodes().map(|(id, _)| id);
                found.extend(nodes.find(|id| *id != node).map(End::Node));
            }
            Direction::Egress => found.push(End::Outside(OUTSIDE_EXAMPLE)),
        }
        found
    }

    fn policy_probe(
        &mut self,
        title: &str,
        subject: Workload,
        direction: Direction,
        end: End,
        (protocol, number): (Protocol, u16),
    ) {
        let model = self.model;
        let Ok(wanted) = Port::new(number.into()) else { return };
        let (from, place, source) = match (direction, end) {
            (Direction::Ingress, End::Workload(workload)) => (
                Source::Workload(workload),
                Location::Workload(workload),
                model.endpoint(workload).address,
            ),
            (Direction::Ingress, End::Node(node)) => {
                (Source::Node(node), Location::Node(node), model.gateway(node))
            }
            (Direction::Egress, _) => (
                Source::Workload(subject),
                Location::Workload(subject),
                model.endpoint(subject).address,
            ),
            (Direction::Ingress, End::Outside(_)) => return,
        };
        let (to, address) = match (direction, end) {
            (Direction::Ingress, _) => {
                (Destination::Workload(subject), model.endpoint(subject).address)
            }
            (Direction::Egress, End::Workload(workload)) => {
                (Destination::Workload(workload), model.endpoint(workload).address)
            }
            (Direction::Egress, End::Outside(address)) => (Destination::Outside(address), address),
            (Direction::Egress, End::Node(_)) => return,
        };
        let address = SocketAddrV4::new(address, number);
        let receiver = match to {
            Destination::Workload(workload) => vec![(workload, wanted)],
            _ => Vec::new(),
        };
        if protocol == Protocol::Sctp && !self.associates(source, address, &receiver) {
            return;
        }
        let reach = reach(model, &Packet { from, to, protocol, port: wanted });
        let seen_as = match to {
            Destination::Outside(_) => model.external_source(subject),
            _ => source,
        };
        let at = Some(address).filter(|_| protocol != Protocol::Udp);
        let want = if reach.allowed() {
            Expected::Answer { seen_as: Some(seen_as), at }
        } else {
            Expected::Silence
        };
        let sender = match from {
            Source::Workload(workload) => self.name(workload),
            Source::Node(node) => model.intent()[node].name.to_string(),
            Source::Outside => return,
        };
        let receiver = match to {
            Destination::Workload(workload) => self.name(workload),
            _ => address.ip().to_string(),
        };
        self.probes.push(Probe {
            title: format!("{title}: {sender} to {receiver}:{number}/{protocol}"),
            from: place,
            to: address,
            protocol,
            fetch: None,
            want,
            because: reach.because,
        });
    }
}

impl Planner<'_> {
    /// What should happen where policies let in only some of those behind a service.
    pub(super) fn among(
        &self,
        from: Source,
        entry: Option<NodeId>,
        protocol: Protocol,
        backends: &[(Workload, Port)],
    ) -> Expected {
        let allowed = backends.iter().filter(|(workload, port)| {
            let packet =
                Packet { from, to: Destination::Workload(*workload), protocol, port: *port };
            to_workload(self.model, from, *workload, entry, &packet).allowed()
        });
        let address = |(workload, port): &(Workload, Port)| {
            SocketAddrV4::new(self.model.endpoint(*workload).address, port.get())
        };
        Expected::Among(allowed.map(address).collect())
    }
}

impl Lab {
    /// Who may send from a node to whom on another.
    pub(super) fn across(&self, from: NodeId, to: NodeId) -> Option<(Location, Workload)> {
        let model = &self.model;
        let Ok(number) = Port::new(POD_PORT) else { return None };
        let pods_on = |node: NodeId| {
            let pods = model.intent().pods().filter(move |(_, pod)| pod.node == node);
            pods.map(|(id, _)| Workload::Pod(id))
        };
        let senders = [(Source::Node(from), Location::Node(from))].into_iter();
        let senders = senders
            .chain(pods_on(from).map(|pod| (Source::Workload(pod), Location::Workload(pod))));
        let pairs = senders.flat_map(|sender| pods_on(to).map(move |pod| (sender, pod)));
        let allowed = |((sender, _), pod): &((Source, Location), Workload)| {
            let to = Destination::Workload(*pod);
            let packet = Packet { from: *sender, to, protocol: Protocol::Tcp, port: number };
            reach(model, &packet).allowed()
        };
        pairs.into_iter().find(allowed).map(|((_, place), pod)| (place, pod))
    }
}
