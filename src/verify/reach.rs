//! Who reaches whom, read off the intent alone.
//!
//! This is the meaning that flows and rulesets must have. It knows nothing of them: the lab and
//! the tests compare what it says with what packets do.

mod network_policy;

pub use network_policy::{Other, policies};

use std::net::Ipv4Addr;

use crate::diagnostic::Place;
use crate::intent::{BlockAt, Direction, NodeId, Project, ProjectId, ServiceId, Verdict};
use crate::model::{Model, Workload};
use crate::spec::Mode;
use crate::value::{Port, Protocol};

/// A first packet of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Packet {
    /// Who sends it.
    pub from: Source,
    /// Whom it is for.
    pub to: Destination,
    /// Its protocol.
    pub protocol: Protocol,
    /// Its destination port.
    pub port: Port,
}

/// A sender.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// A pod or egress router.
    Workload(Workload),
    /// A process of a node, by its `tun0`.
    Node(NodeId),
    /// Whoever is neither a pod nor a node.
    Outside,
}

/// A receiver.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Destination {
    /// A pod or egress router.
    Workload(Workload),
    /// A pod or egress router, as one of those that get what is sent to a multicast group.
    Member(Workload),
    /// A node, at the address of its `tun0`.
    Node(NodeId),
    /// A service, at its address.
    Service(ServiceId),
    /// A node at this address of its own, and a port at which it serves a service.
    NodePort(NodeId, Ipv4Addr),
    /// An address that is neither a pod's nor a service's.
    Outside(Ipv4Addr),
}

/// Whether a packet arrives, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reach {
    /// Whether it arrives.
    pub verdict: Verdict,
    /// Whether its sender is told that it doesn't.
    pub refused: bool,
    /// Whether it arrives now and then: some of those behind a service get it. The verdict is that of
    /// one who doesn't.
    pub sometimes: bool,
    /// What decides about it, in words.
    pub because: String,
    /// Where that is written, if it is.
    pub place: Option<Place>,
}

impl Reach {
    fn new(verdict: Verdict, because: impl Into<String>, place: Option<Place>) -> Self {
        Self { verdict, refused: false, sometimes: false, because: because.into(), place }
    }

    fn refused(because: impl Into<String>, place: Option<Place>) -> Self {
        Self { refused: true, ..Self::new(Verdict::Deny, because, place) }
    }

    /// Whether the packet arrives.
    #[must_use]
    pub fn allowed(&self) -> bool {
        self.verdict == Verdict::Allow
    }
}

/// What the intent says about a packet.
#[must_use]
pub fn reach(model: &Model, packet: &Packet) -> Reach {
    match (packet.from, packet.to) {
        (from, Destination::NodePort(node, address)) => {
            to_node_port(model, from, (node, address), packet)
        }
        (from @ (Source::Node(_) | Source::Workload(_)), Destination::Workload(to)) => {
            to_workload(model, from, to, None, packet)
        }
        (Source::Node(from), Destination::Node(to)) if from == to => {
            Reach::new(Verdict::Allow, "nodes reach themselves", None)
        }
        (Source::Node(_), Destination::Node(_)) => Reach::new(Verdict::Deny, OTHER_GATEWAY, None),
        (Source::Node(_), Destination::Outside(_)) => {
            Reach::new(Verdict::Allow, "nodes are not restricted", None)
        }
        (Source::Node(_), Destination::Member(_)) => {
            Reach::new(Verdict::Deny, "nodes take no part in the pods' multicast", None)
        }
        (Source::Workload(from), Destination::Member(to)) => multicast(model, from, to),
        (from, Destination::Service(service)) => to_service(model, from, (service, None), packet),
        (Source::Outside, _) => {
            Reach::new(Verdict::Deny, "the outside reaches node ports only", None)
        }
        (Source::Workload(from), Destination::Node(to)) => {
            if is_vxlan(model, packet) {
                Reach::new(Verdict::Deny, "pods can't send to the VXLAN port", None)
            } else if model.node(from) == to {
                taken(model, packet)
            } else {
                Reach::new(Verdict::Deny, OTHER_GATEWAY, None)
            }
        }
        (Source::Workload(from), Destination::Outside(address)) => {
            outwards(model, from, address, packet)
        }
    }
}

/// What the intent says about a packet to a service that chooses this pod or egress router. `entry` is
/// the node by which it comes from outside.
#[must_use]
pub fn to_workload(
    model: &Model,
    from: Source,
    to: Workload,
    entry: Option<NodeId>,
    packet: &Packet,
) -> Reach {
    match (model.mode(), from) {
        (Mode::Networkpolicy, _) => by_policies(model, from, to, entry, packet),
        (_, Source::Node(_)) => Reach::new(Verdict::Allow, "nodes reach all pods", None),
        (_, Source::Outside) => Reach::new(Verdict::Allow, "nodes serve it to the outside", None),
        (_, Source::Workload(from)) => between(model, model.project(from), model.project(to)),
    }
}

/// Both ends have to allow it.
fn by_policies(
    model: &Model,
    from: Source,
    to: Workload,
    entry: Option<NodeId>,
    packet: &Packet,
) -> Reach {
    let transport = Some((packet.protocol, packet.port));
    let let_in = |other| policies(model, Direction::Ingress, to, other, transport);
    match from {
        Source::Workload(from) if from == to => {
            Reach::new(Verdict::Allow, "a pod reaches itself", None)
        }
        Source::Workload(from) => {
            let way = policies(model, Direction::Egress, from, Other::Workload(to), transport);
            if way.allowed() { let_in(Other::Workload(from)) } else { way }
        }
        Source::Node(node) if node == model.node(to) => {
            Reach::new(Verdict::Allow, "a node reaches its own pods", None)
        }
        Source::Node(node) => let_in(Other::Node(node)),
        Source::Outside => {
            let entry = entry.unwrap_or_else(|| model.node(to));
            let_in(Other::Address(model.node_port_source(entry)))
        }
    }
}

const OTHER_GATEWAY: &str = "the gateway of another node takes only replies";

/// What a node's own processes take from pods.
fn taken(model: &Model, packet: &Packet) -> Reach {
    if is_dns(packet) {
        return Reach::new(Verdict::Allow, "DNS of the pod's own node stays open", None);
    }
    let mut open = model.intent().cluster().node_access.iter();
    match open.find(|access| access.takes(packet.protocol, packet.port)) {
        Some(access) => Reach::new(Verdict::Allow, "`nodeAccess` opens it", Some(access.place)),
        None => Reach::new(Verdict::Deny, "nodes take from pods what `nodeAccess` opens", None),
    }
}

fn is_dns(packet: &Packet) -> bool {
    packet.port == Port::DNS && packet.protocol != Protocol::Sctp
}

fn is_vxlan(model: &Model, packet: &Packet) -> bool {
    packet.protocol == Protocol::Udp && packet.port == model.intent().cluster().vxlan_port
}

/// A service is reached where its pods are, and refuses what none of them takes.
fn to_service(
    model: &Model,
    from: Source,
    (service, entry): (ServiceId, Option<NodeId>),
    packet: &Packet,
) -> Reach {
    let found = &model.intent()[service];
    if model.service_address(service).is_none() {
        let because = format!("{} has no address", found.name);
        return Reach::new(Verdict::Deny, because, Some(found.place));
    }
    let way = match from {
        Source::Workload(_) if model.mode() == Mode::Networkpolicy => {
            Reach::new(Verdict::Allow, "policies decide at the pods behind it", None)
        }
        Source::Workload(from) => between(model, model.project(from), found.project),
        Source::Node(node) if model.node_reaches(node, service) => {
            Reach::new(Verdict::Allow, "nodes reach this service", None)
        }
        Source::Node(_) => {
            let place = model.intent().node_services().map(|declared| declared.place);
            return Reach::refused("`nodeServices` leaves the project out", place);
        }
        Source::Outside => Reach::new(Verdict::Allow, "nodes serve it to the outside", None),
    };
    if !way.allowed() {
        return way;
    }
    let mut ports = found.ports.iter();
    let port = ports.find(|port| port.protocol == packet.protocol && port.port == packet.port);
    match port {
        None => {
            let because = format!("{} has no port {}/{}", found.name, packet.port, packet.protocol);
            Reach::refused(because, Some(found.place))
        }
        Some(port) if port.is_deserted() => {
            Reach::refused(format!("no pod is behind {}", found.name), Some(port.place))
        }
        Some(port) => {
            if model.mode() == Mode::Networkpolicy && !port.backends.is_empty() {
                let to = port.backends.iter().map(|(workload, port)| {
                    to_workload(model, from, *workload, entry, &Packet { port: *port, ..*packet })
                });
                return whoever_is_chosen(to.collect(), way);
            }
            let Source::Workload(from) = from else { return way };
            // Where some of several are forbidden, so is the service, now and then.
            let outside = port.endpoints.iter().map(|(address, port)| {
                outwards(model, from, *address, &Packet { port: *port, ..*packet })
            });
            whoever_is_chosen(outside.collect(), way)
        }
    }
}

/// What comes of a packet that gets to one of several, by what comes of it at each.
fn whoever_is_chosen(each: Vec<Reach>, way: Reach) -> Reach {
    let some = each.iter().any(Reach::allowed);
    let all = each.iter().all(Reach::allowed);
    if all {
        return each.into_iter().next().unwrap_or(way);
    }
    let denied = each.into_iter().find(|reach| !reach.allowed());
    denied.map_or(way, |reach| Reach { sometimes: some, ..reach })
}

/// A port of a node is one of the service's for pods, and open to all else.
fn to_node_port(
    model: &Model,
    from: Source,
    (node, address): (NodeId, Ipv4Addr),
    packet: &Packet,
) -> Reach {
    let mut ports = model.node_ports().iter();
    let found = ports.find(|p| p.protocol == packet.protocol && p.port == packet.port);
    let Some(found) = found else {
        let because = format!("no service has the node port {}/{}", packet.port, packet.protocol);
        return match from {
            Source::Workload(from) => outwards(model, from, address, packet),
            _ => Reach::new(Verdict::Deny, because, None),
        };
    };
    let blocked = model.intent()[node].blocks.iter().find(|block| {
        block.at == BlockAt::Address(address) && block.covers(packet.protocol, packet.port)
    });
    if let Some(block) = blocked.filter(|_| from != Source::Node(node)) {
        let because = format!("{address} does not serve {}/{}", packet.port, packet.protocol);
        return Reach::new(Verdict::Deny, because, Some(block.place));
    }
    let (port, ..) = model.service_port_of(found);
    if matches!(from, Source::Workload(_))
        && packet.protocol == Protocol::Sctp
        && port.port != packet.port
    {
        let because = "conntrack of Open vSwitch can't change the port of SCTP";
        return Reach::new(Verdict::Deny, because, Some(port.place));
    }
    let onwards = Packet { to: Destination::Service(found.service), port: port.port, ..*packet };
    // Who comes to another node stands behind that node's address for the outside.
    let from = match from {
        Source::Node(other) if other != node && model.mode() == Mode::Networkpolicy => {
            Source::Outside
        }
        _ => from,
    };
    to_service(model, from, (found.service, Some(node)), &onwards)
}

fn between(model: &Model, source: ProjectId, destination: ProjectId) -> Reach {
    if !model.mode().compares_vnids() {
        return Reach::new(Verdict::Allow, "the network is flat", None);
    }
    let intent = model.intent();
    let (from, to) = (model.vnid(source), model.vnid(destination));
    let (source, destination) = (&intent[source], &intent[destination]);
    if from.get() == 0 {
        Reach::new(Verdict::Allow, format!("{} is global", source.name), Some(source.place))
    } else if to.get() == 0 {
        let because = format!("{} is global", destination.name);
        Reach::new(Verdict::Allow, because, Some(destination.place))
    } else if from == to {
        Reach::new(Verdict::Allow, format!("both have VNID {from}"), Some(source.place))
    } else {
        let because = apart([(source, from.get()), (destination, to.get())]);
        Reach::new(Verdict::Deny, because, Some(destination.place))
    }
}

fn multicast(model: &Model, from: Workload, to: Workload) -> Reach {
    let intent = model.intent();
    if from == to {
        return Reach::new(Verdict::Deny, "nobody gets what it sends itself", None);
    }
    if let Some(Workload::Router(id)) =
        [from, to].into_iter().find(|workload| matches!(workload, Workload::Router(_)))
    {
        let because = "egress routers take no part in multicast";
        return Reach::new(Verdict::Deny, because, Some(intent[id].place));
    }
    let (source, destination) = (model.project(from), model.project(to));
    if let Some(off) = model.without_multicast(source) {
        let off = &intent[off];
        let because = format!("{} does not enable multicast", off.name);
        return Reach::new(Verdict::Deny, because, Some(off.place));
    }
    // Nobody is global here: what all projects got would be everybody's business.
    let (from, to) = (model.wire_vnid(source), model.wire_vnid(destination));
    let place = Some(intent[source].place);
    if from == to {
        Reach::new(Verdict::Allow, format!("both have VNID {from} and multicast"), place)
    } else {
        let because = apart([(&intent[source], from), (&intent[destination], to)]);
        Reach::new(Verdict::Deny, because, place)
    }
}

/// Why projects with these VNIDs don't reach each other.
fn apart(projects: [(&Project, u32); 2]) -> String {
    let [from, to] = projects.map(|(project, vnid)| format!("{} (VNID {vnid})", project.name));
    format!("the projects {from} and {to} are in different networks")
}

/// What the egress policy lets leave, and whoever has the address takes.
fn outwards(model: &Model, from: Workload, address: Ipv4Addr, packet: &Packet) -> Reach {
    let way = let_out(model, from, address, packet);
    if !way.allowed() {
        return way;
    }
    let way = leaves(model, from, address, packet);
    if !way.allowed() {
        return way;
    }
    let intent = model.intent();
    let mut held = intent.egress_ips().iter().flat_map(|list| &list.addresses);
    if held.any(|ip| ip.address == address) {
        return Reach::new(Verdict::Deny, "an egress IP takes only replies", None);
    }
    let own = model.node(from);
    let exit = model.leaving(from).map_or(own, |leaving| leaving.ip.node);
    // Delivered by the kernel that it leaves the bridge to.
    let here = address == intent[own].address
        || address == intent[exit].address
        || intent[exit].node_port_addresses.contains(&address);
    if here { taken(model, packet) } else { way }
}

/// What network policies let out to an address outside. A pod's own node is always near.
#[must_use]
pub fn let_out(model: &Model, from: Workload, address: Ipv4Addr, packet: &Packet) -> Reach {
    if model.own_addresses(model.node(from)).contains(&address) {
        return Reach::new(Verdict::Allow, "a pod reaches its own node", None);
    }
    let transport = Some((packet.protocol, packet.port));
    policies(model, Direction::Egress, from, Other::Address(address), transport)
}

/// What the bridge lets leave: the egress policy, and what none can change.
#[must_use]
pub fn leaves(model: &Model, from: Workload, address: Ipv4Addr, packet: &Packet) -> Reach {
    let tunnels = || model.intent().nodes().any(|(_, node)| node.address == address);
    if is_vxlan(model, packet) && tunnels() {
        return Reach::new(Verdict::Deny, "pods can't send to the VXLAN port of nodes", None);
    }
    if address.octets()[0] >= 224 {
        return Reach::new(Verdict::Deny, "groups and reserved addresses are not outside", None);
    }
    if is_dns(packet) && address == model.intent()[model.node(from)].address {
        return Reach::new(Verdict::Allow, "DNS of the pod's own node stays open", None);
    }
    for (rule, subject, _) in model.ranked_rules(model.project(from)) {
        let there = model.networks(rule).iter().any(|network| network.contains(&address));
        if there && rule.takes(packet.protocol, packet.port) {
            return Reach::new(rule.verdict, subject.name.as_ref(), Some(rule.place));
        }
    }
    Reach::new(Verdict::Allow, "no rule matches", None)
}
