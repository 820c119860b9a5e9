//! What holds for every network: the flows mean what the intent says, and nothing but the input
//! decides about the output.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::Ipv4Addr;

use proptest::prelude::*;

use crate::world::{World, model, worlds};
use ringfence::dataplane::openflow::Action;
use ringfence::diagnostic::Sources;
use ringfence::emit::Renderer;
use ringfence::intent::{NodeId, ServiceId, ServicePort, Verdict};
use ringfence::lower::{ClusterFlows, Plan};
use ringfence::model::{Model, Workload};
use ringfence::pipeline::OfPort;
use ringfence::value::{Datapath, Mac, Port, Protocol};
use ringfence::verify::evaluate::{Body, End, Frame, Piece, walk};
use ringfence::verify::reach::{Destination, Packet, Source, leaves, reach};

/// Where a frame comes out of the network.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Arrival {
    Nowhere,
    Workload(NodeId, OfPort),
    Host(NodeId),
}

pub(crate) struct Fabric<'m> {
    pub(crate) model: &'m Model,
    pub(crate) plans: BTreeMap<NodeId, Plan<'m>>,
}

impl<'m> Fabric<'m> {
    pub(crate) fn new(common: &'m ClusterFlows<'m>) -> Self {
        let model = common.model();
        let nodes = model.intent().nodes();
        let plans = nodes.map(|(id, _)| (id, Plan::of(common, id).unwrap())).collect();
        Self { model, plans }
    }

    /// Sends a frame from a node's bridge through the network to one place at most.
    fn send(&self, node: NodeId, frame: &Frame) -> Arrival {
        let mut arrivals = self.spread(node, frame);
        assert!(arrivals.len() <= 1, "{frame:?} was copied: {arrivals:?}");
        arrivals.pop().unwrap_or(Arrival::Nowhere)
    }

    /// Sends a frame from a node's bridge through the network. Sorted.
    pub(crate) fn spread(&self, node: NodeId, frame: &Frame) -> Vec<Arrival> {
        let mut arrivals = Vec::new();
        let reassembles = self.model.datapath(node) == Datapath::System;
        let frame = &Frame { reassembles, ..frame.clone() };
        let walk = walk(&self.plans[&node].flows, frame);
        for end in walk.ends {
            match end {
                End::Port(OfPort::TUN) => arrivals.push(Arrival::Host(node)),
                End::Port(port) => arrivals.push(Arrival::Workload(node, port)),
                End::Tunnel { to, vni } => {
                    let mut nodes = self.model.intent().nodes();
                    let (other, _) = nodes.find(|(_, node)| node.address == to).unwrap();
                    let from = self.model.intent()[node].address;
                    let tunnel = Some((from, vni));
                    let frame =
                        Frame { in_port: OfPort::VXLAN, tunnel, body: walk.body, ..frame.clone() };
                    let there = self.spread(other, &frame);
                    // A copy to a node that drops it is one too many.
                    arrivals.extend(there.is_empty().then_some(Arrival::Nowhere));
                    arrivals.extend(there);
                }
            }
        }
        arrivals.sort();
        arrivals
    }

    pub(crate) fn workloads(&self) -> Vec<Workload> {
        self.plans.keys().flat_map(|node| self.model.workloads(*node)).collect()
    }
}

pub(crate) fn from_tenant(model: &Model, workload: Workload, body: Body) -> Frame {
    let endpoint = model.endpoint(workload);
    Frame::new(endpoint.port, endpoint.mac, body)
}

pub(crate) fn ip(model: &Model, from: Workload, dst: Ipv4Addr, transport: (Protocol, u16)) -> Body {
    let src = model.endpoint(from).address;
    Body::Ip { src, dst, transport: Some(transport), piece: Piece::Whole }
}

/// However a datagram is cut, its parts arrive where it does as a whole; where it doesn't arrive,
/// its beginning doesn't either, and no pod sees the rest. With a tag, nothing arrives.
///
/// In userspace, the rest of what begins a connection to a node port, or is for a port that a service
/// doesn't have, goes where its beginning doesn't: `apart`.
fn check_parts(
    fabric: &Fabric<'_>,
    node: NodeId,
    frame: &Frame,
    apart: bool,
) -> Result<(), TestCaseError> {
    let Body::Ip { src, dst, transport, .. } = frame.body else { return Ok(()) };
    let part = |piece| {
        let body = Body::Ip { src, dst, transport, piece };
        fabric.send(node, &Frame { body, ..frame.clone() })
    };
    let whole = part(Piece::Whole);
    prop_assert_eq!(part(Piece::First), fabric.send(node, frame), "first of {:?}", frame);
    prop_assert_eq!(part(Piece::Portless), Arrival::Nowhere, "without ports: {:?}", frame);
    let tagged = Frame { tagged: true, ..frame.clone() };
    prop_assert_eq!(fabric.send(node, &tagged), Arrival::Nowhere, "{:?}", tagged);
    if apart && fabric.model.datapath(node) == Datapath::Netdev {
        return Ok(());
    }
    let rest = part(Piece::Later);
    let fits = match whole {
        Arrival::Nowhere => !matches!(rest, Arrival::Workload(..)),
        _ => rest == whole,
    };
    prop_assert!(fits, "{:?} arrives as {:?}, the rest of it as {:?}", frame, whole, rest);
    Ok(())
}

/// A group, and one that Ethernet switches never filter.
pub(crate) const GROUPS: [Ipv4Addr; 2] =
    [Ipv4Addr::new(239, 1, 2, 3), Ipv4Addr::new(224, 0, 0, 251)];

/// Addresses and ports on both sides of the borders of every rule that worlds have.
fn outside() -> impl Iterator<Item = (Ipv4Addr, (Protocol, u16))> {
    let addresses = [
        "8.8.8.8",
        "198.51.100.7",
        "198.51.100.8",
        "198.51.100.200",
        "203.0.113.1",
        "192.0.2.127",
        "192.0.2.128",
        "223.255.255.255",
    ];
    let transports = [
        (Protocol::Tcp, 79),
        (Protocol::Tcp, 80),
        (Protocol::Tcp, 90),
        (Protocol::Tcp, 91),
        (Protocol::Tcp, 999),
        (Protocol::Tcp, 1000),
        (Protocol::Tcp, 2000),
        (Protocol::Tcp, 2001),
        (Protocol::Udp, 53),
        (Protocol::Udp, 80),
        (Protocol::Udp, 500),
        (Protocol::Udp, 4789),
        (Protocol::Sctp, 80),
        (Protocol::Sctp, 81),
    ];
    addresses
        .into_iter()
        .flat_map(move |address| transports.map(|transport| (address.parse().unwrap(), transport)))
}

/// The node by which a pod's packets leave.
fn exit(model: &Model, from: Workload) -> NodeId {
    model.leaving(from).map_or_else(|| model.node(from), |leaving| leaving.ip.node)
}

/// A fragment behind the first has no ports: it passes where the first may have passed.
fn fragment_passes(model: &Model, from: Workload, dst: Ipv4Addr, protocol: Protocol) -> bool {
    let rules = model.ranked_rules(model.project(from)).map(|(rule, _, _)| rule);
    let decides = |rule: &&ringfence::intent::EgressRule| {
        let allow = rule.verdict == Verdict::Allow;
        model.networks(rule).iter().any(|network| network.contains(&dst))
            && (rule.ports.is_empty()
                || rule
                    .ports
                    .iter()
                    .any(|ports| ports.protocol == protocol && (allow || ports.range.is_none())))
    };
    rules.into_iter().find(decides).is_none_or(|rule| rule.verdict == Verdict::Allow)
}

fn check_meaning(world: &World) -> Result<(), TestCaseError> {
    let (model, _) = model(vec![world.yaml()]);
    let common = ClusterFlows::new(&model).unwrap();
    let fabric = Fabric::new(&common);
    let workloads = fabric.workloads();
    let number = |workload: Workload| -> usize {
        let name = model.intent()[model.project(workload)].name.as_str();
        name.strip_prefix("project-").unwrap().parse().unwrap()
    };
    for (node, _) in model.intent().nodes() {
        let source = Mac::of_ipv4(model.gateway(node));
        for group in GROUPS {
            let (src, transport) = (model.gateway(node), Some((Protocol::Udp, 5000)));
            let body = Body::Ip { src, dst: group, transport, piece: Piece::Whole };
            let frame = Frame::new(OfPort::TUN, source, body);
            prop_assert_eq!(fabric.send(node, &frame), Arrival::Nowhere, "a node to {}", group);
        }
    }
    for &from in &workloads {
        let node = model.node(from);
        let expect = |to: Destination, (protocol, port): (Protocol, u16)| {
            let port = Port::new(port.into()).unwrap();
            reach(&model, &Packet { from: Source::Workload(from), to, protocol, port }).allowed()
        };
        for &to in workloads.iter().filter(|to| **to != from) {
            let endpoint = model.endpoint(to);
            let there = Arrival::Workload(model.node(to), endpoint.port);
            let allowed = expect(Destination::Workload(to), (Protocol::Tcp, 80));
            let arp = Body::Arp {
                spa: model.endpoint(from).address,
                tpa: endpoint.address,
                sha: model.endpoint(from).mac,
            };
            for body in [ip(&model, from, endpoint.address, (Protocol::Tcp, 80)), arp] {
                let arrival = fabric.send(node, &from_tenant(&model, from, body));
                let expected = if allowed { &there } else { &Arrival::Nowhere };
                prop_assert_eq!(&arrival, expected, "{:?} to {:?}: {:?}", from, to, body);
                let tagged = Frame { tagged: true, ..from_tenant(&model, from, body) };
                prop_assert_eq!(fabric.send(node, &tagged), Arrival::Nowhere, "{:?}", tagged);
            }
        }
        for (address, transport) in outside().chain([
            (model.intent()[node].address, (Protocol::Udp, 53)),
            (model.intent()[node].address, (Protocol::Tcp, 53)),
            (model.intent()[node].address, (Protocol::Tcp, 22)),
            (model.intent()[node].address, (Protocol::Udp, 4789)),
        ]) {
            let body = ip(&model, from, address, transport);
            let arrival = fabric.send(node, &from_tenant(&model, from, body));
            // What is for the pod's own node, its kernel decides behind the bridge.
            let (protocol, port) = (transport.0, Port::new(transport.1.into()).unwrap());
            let (sender, to) = (Source::Workload(from), Destination::Outside(address));
            let packet = Packet { from: sender, to, protocol, port };
            let allowed = leaves(&model, from, address, &packet).allowed();
            let near = address == model.intent()[node].address;
            let by = if near { node } else { exit(&model, from) };
            let expected = if allowed { Arrival::Host(by) } else { Arrival::Nowhere };
            prop_assert_eq!(arrival, expected, "{:?} to {} {:?}", from, address, transport);
            check_parts(&fabric, node, &from_tenant(&model, from, body), false)?;
            let taken = allowed && (!near || port == Port::DNS);
            prop_assert_eq!(expect(to, transport), taken, "{:?} to {}", from, address);
        }
        for (dst, transport) in outside().filter(|(_, transport)| transport.1 == 80) {
            let src = model.endpoint(from).address;
            let body = Body::Ip { src, dst, transport: Some(transport), piece: Piece::Later };
            let arrival = fabric.send(node, &from_tenant(&model, from, body));
            let allowed = fragment_passes(&model, from, dst, transport.0);
            let by = exit(&model, from);
            let expected = if allowed { Arrival::Host(by) } else { Arrival::Nowhere };
            prop_assert_eq!(
                arrival,
                expected,
                "fragment from {:?} to {} {:?}",
                from,
                dst,
                transport
            );
        }
        for group in GROUPS {
            let body = ip(&model, from, group, (Protocol::Udp, 5000));
            let arrivals = fabric.spread(node, &from_tenant(&model, from, body));
            let members = workloads
                .iter()
                .filter(|to| expect(Destination::Member(**to), (Protocol::Udp, 5000)));
            let place =
                |to: &Workload| Arrival::Workload(model.node(*to), model.endpoint(*to).port);
            let mut expected: Vec<Arrival> = members.map(place).collect();
            expected.sort();
            prop_assert_eq!(&arrivals, &expected, "{:?} to {}", from, group);
            let agree = |to: &&Workload| world.multicasts(number(from), number(**to));
            let pods = workloads.iter().filter(|to| matches!(to, Workload::Pod(_)) && **to != from);
            let agreed = pods.filter(agree).filter(|_| matches!(from, Workload::Pod(_)));
            prop_assert_eq!(arrivals.len(), agreed.count(), "{:?} to {}", from, group);
        }
        check_services(&fabric, from)?;
        check_gateways(&fabric, from)?;
    }
    Ok(())
}

/// The gateways of all nodes get what pods send them, but for what a tunnel would take.
fn check_gateways(fabric: &Fabric<'_>, from: Workload) -> Result<(), TestCaseError> {
    let (model, node) = (fabric.model, fabric.model.node(from));
    let expect = |to: NodeId, (protocol, port): (Protocol, u16)| {
        let (from, to, port) =
            (Source::Workload(from), Destination::Node(to), Port::new(port.into()).unwrap());
        reach(model, &Packet { from, to, protocol, port }).allowed()
    };
    for (other, _) in model.intent().nodes() {
        for (transport, expected) in
            [((Protocol::Tcp, 22), Arrival::Host(other)), ((Protocol::Udp, 4789), Arrival::Nowhere)]
        {
            let body = ip(model, from, model.gateway(other), transport);
            let frame = from_tenant(model, from, body);
            let arrival = fabric.send(node, &frame);
            // Its kernel knows what is a reply, and takes nothing else.
            prop_assert_eq!(arrival, expected, "{:?} to a gateway {:?}", from, transport);
            check_parts(fabric, node, &frame, false)?;
        }
        prop_assert!(!expect(other, (Protocol::Tcp, 22)), "{:?} to a gateway", from);
        let dns = expect(other, (Protocol::Udp, 53));
        prop_assert_eq!(dns, other == node, "{:?} to DNS", from);
    }
    Ok(())
}

/// Every choice of a service's group leads to one of its pods, and all of them to every pod.
fn check_services(fabric: &Fabric<'_>, from: Workload) -> Result<(), TestCaseError> {
    let model = fabric.model;
    for (id, address) in model.services() {
        for (protocol, number) in
            [(Protocol::Tcp, 80), (Protocol::Udp, 80), (Protocol::Sctp, 9), (Protocol::Tcp, 81)]
        {
            let port = Port::new(number).unwrap();
            let ports = &model.intent()[id].ports;
            let found = ports.iter().find(|p| p.protocol == protocol && p.port == port);
            let pods = found.map(|port| port.backends.as_slice()).unwrap_or_default();
            let to = (Destination::Service(id), address, protocol, port);
            match found.filter(|port| !port.endpoints.is_empty()) {
                Some(port) => check_endpoints(fabric, from, (id, address), port)?,
                None => check_balanced(fabric, from, to, pods)?,
            }
        }
    }
    for (id, found) in model.intent().nodes() {
        for port in model.node_ports() {
            let to =
                (Destination::NodePort(id, found.address), found.address, port.protocol, port.port);
            check_balanced(fabric, from, to, &model.service_port_of(port).0.backends)?;
        }
    }
    Ok(())
}

/// Every choice leads to a host outside by the egress policy, as if it had been asked for directly.
fn check_endpoints(
    fabric: &Fabric<'_>,
    from: Workload,
    (service, address): (ServiceId, Ipv4Addr),
    port: &ServicePort,
) -> Result<(), TestCaseError> {
    let model = fabric.model;
    let vnid = |project| model.vnid(project).get();
    let (own, theirs) = (vnid(model.project(from)), vnid(model.intent()[service].project));
    let near = !model.mode().compares_vnids() || own == theirs || own == 0 || theirs == 0;
    let (node, protocol) = (model.node(from), port.protocol);
    let frame = from_tenant(model, from, ip(model, from, address, (protocol, port.port.get())));
    let choices = 0..port.endpoints.len();
    let arrival = |choice| fabric.send(node, &Frame { choice, ..frame.clone() });
    check_parts(fabric, node, &frame, false)?;
    let mut arrivals: Vec<Arrival> = choices.map(arrival).collect();
    let expected = port.endpoints.iter().map(|(host, to)| {
        let packet = Packet {
            from: Source::Workload(from),
            to: Destination::Outside(*host),
            protocol,
            port: *to,
        };
        if near && reach(model, &packet).allowed() {
            Arrival::Host(exit(model, from))
        } else {
            Arrival::Nowhere
        }
    });
    let mut expected: Vec<Arrival> = expected.collect();
    expected.sort();
    arrivals.sort();
    prop_assert_eq!(&arrivals, &expected, "{:?} to {}", from, address);
    // What the intent says of the service is what holds for all of them.
    let to = Destination::Service(service);
    let packet = Packet { from: Source::Workload(from), to, protocol, port: port.port };
    let all = !expected.contains(&Arrival::Nowhere);
    prop_assert_eq!(reach(model, &packet).allowed(), all, "{:?} to {}", from, address);
    Ok(())
}

fn check_balanced(
    fabric: &Fabric<'_>,
    from: Workload,
    (to, address, protocol, port): (Destination, Ipv4Addr, Protocol, Port),
    workloads: &[(Workload, Port)],
) -> Result<(), TestCaseError> {
    let model = fabric.model;
    let node = model.node(from);
    let reach = reach(model, &Packet { from: Source::Workload(from), to, protocol, port });
    let body = ip(model, from, address, (protocol, port.get()));
    let frame = from_tenant(model, from, body);
    let arrivals = |choice| fabric.send(node, &Frame { choice, ..frame.clone() });
    check_parts(fabric, node, &frame, matches!(to, Destination::NodePort(..)) || reach.refused)?;
    if !reach.allowed() {
        let expected = if reach.refused { Arrival::Host(node) } else { Arrival::Nowhere };
        prop_assert_eq!(arrivals(0), expected, "{:?} to {}:{}", from, address, port);
        return Ok(());
    }
    let mut seen: Vec<Arrival> = (0..workloads.len()).map(arrivals).collect();
    for &(workload, _) in workloads {
        let there = Arrival::Workload(model.node(workload), model.endpoint(workload).port);
        let place = seen.iter().position(|seen| *seen == there);
        prop_assert!(place.is_some(), "{:?} to {}:{}: {:?}", from, address, port, there);
        seen.remove(place.unwrap());
    }
    prop_assert_eq!(seen, Vec::new());
    Ok(())
}

fn check_spoofing(world: &World) -> Result<(), TestCaseError> {
    let (model, _) = model(vec![world.yaml()]);
    let common = ClusterFlows::new(&model).unwrap();
    let fabric = Fabric::new(&common);
    let workloads = fabric.workloads();
    let other_mac = Mac::of_ipv4(Ipv4Addr::new(10, 9, 8, 7));
    for &from in &workloads {
        let node = model.node(from);
        let addresses = workloads.iter().map(|to| model.endpoint(*to).address);
        for to in addresses.chain(GROUPS) {
            let honest = from_tenant(&model, from, ip(&model, from, to, (Protocol::Udp, 80)));
            let Body::Ip { dst, transport, piece, .. } = honest.body else { unreachable!() };
            let forged_source =
                |src| Frame { body: Body::Ip { src, dst, transport, piece }, ..honest.clone() };
            let forged_arp =
                |spa, sha| Frame { body: Body::Arp { spa, tpa: dst, sha }, ..honest.clone() };
            let own = model.endpoint(from);
            let mut frames = vec![
                forged_source(Ipv4Addr::new(203, 0, 113, 1)),
                forged_source(model.gateway(node)),
                Frame { source: other_mac, ..honest.clone() },
                Frame { in_port: OfPort::pod(60000).unwrap(), ..honest.clone() },
                forged_arp(own.address, other_mac),
                forged_arp(model.gateway(node), own.mac),
                // Nobody else's tunnel, whatever it carries.
                Frame {
                    in_port: OfPort::VXLAN,
                    tunnel: Some((Ipv4Addr::new(192, 168, 12, 200), 0)),
                    ..honest.clone()
                },
            ];
            for other in workloads.iter().filter(|other| **other != from) {
                let other = model.endpoint(*other);
                frames.push(forged_source(other.address));
                frames.push(forged_arp(other.address, own.mac));
            }
            for frame in frames {
                prop_assert_eq!(fabric.send(node, &frame), Arrival::Nowhere, "{:?}", frame);
            }
        }
    }
    Ok(())
}

/// Only the outside interfaces of egress routers meet the gateway bridge: with their own source to
/// anybody there, and from there with that source as the destination.
fn check_patches(world: &World) -> Result<(), TestCaseError> {
    let (model, _) = model(vec![world.yaml()]);
    let intent = model.intent();
    let common = ClusterFlows::new(&model).unwrap();
    let fabric = Fabric::new(&common);
    let workloads = fabric.workloads();
    let other_mac = Mac::of_ipv4(Ipv4Addr::new(10, 9, 8, 7));
    let ip = |src, dst| {
        let transport = Some((Protocol::Tcp, 80));
        Body::Ip { src, dst, transport, piece: Piece::Whole }
    };
    let gateway = Ipv4Addr::new(192, 168, 12, 1);
    let sources = intent.routers().map(|(_, router)| router.source);
    let own = workloads.iter().map(|workload| model.endpoint(*workload).address);
    let nodes = intent.nodes().flat_map(|(id, node)| [node.address, model.gateway(id)]);
    let services = model.services().map(|(_, address)| address);
    let rest = [gateway, Ipv4Addr::BROADCAST, Ipv4Addr::new(203, 0, 113, 25)];
    let everybody: Vec<Ipv4Addr> =
        sources.chain(own).chain(nodes).chain(services).chain(GROUPS).chain(rest).collect();
    for (node, _) in intent.nodes() {
        let bridge = intent[node].uplink.as_ref().and_then(|uplink| uplink.bridge.as_ref());
        let outside = |id| model.endpoint(Workload::Router(id)).outside;
        let here: Vec<(OfPort, Ipv4Addr)> = model
            .routers(node)
            .iter()
            .filter_map(|id| Some((outside(*id)?, intent[*id].source)))
            .collect();
        let expected = if bridge.is_some() { model.routers(node).len() } else { 0 };
        prop_assert_eq!(here.len(), expected);
        let from_uplink = |body| {
            let in_port = OfPort::PATCH;
            fabric.spread(node, &Frame::new(in_port, other_mac, body))
        };
        let ports = |of: &dyn Fn(Ipv4Addr) -> bool| {
            let found = here.iter().filter(|(_, source)| of(*source));
            let mut ports: Vec<_> = found.map(|(port, _)| Arrival::Workload(node, *port)).collect();
            ports.sort();
            ports
        };
        for &to in &everybody {
            for from in [gateway, to, Ipv4Addr::new(203, 0, 113, 25)] {
                prop_assert_eq!(from_uplink(ip(from, to)), ports(&|source| source == to));
                let arp = Body::Arp { spa: from, tpa: to, sha: other_mac };
                // Who takes the gateway's address over says so to all who use it.
                let told = from == gateway && to == gateway;
                prop_assert_eq!(from_uplink(arp), ports(&|source| source == to || told));
            }
        }
        for &(port, own) in &here {
            let mac = Mac::of_ipv4(own);
            let honest = |body| Frame::new(port, mac, body);
            for &to in &everybody {
                let out = vec![Arrival::Workload(node, OfPort::PATCH)];
                let arp = |spa, sha| Body::Arp { spa, tpa: to, sha };
                for body in [ip(own, to), arp(own, mac)] {
                    prop_assert_eq!(&fabric.spread(node, &honest(body)), &out);
                }
                let mut forged = vec![
                    honest(arp(own, other_mac)),
                    Frame { source: other_mac, ..honest(ip(own, to)) },
                    Frame { source: other_mac, ..honest(arp(own, mac)) },
                ];
                for &other in everybody.iter().filter(|other| **other != own) {
                    forged.extend([honest(ip(other, to)), honest(arp(other, mac))]);
                }
                for frame in forged {
                    prop_assert_eq!(fabric.spread(node, &frame), Vec::new(), "{:?}", frame);
                }
            }
        }
        // Nobody else's frame goes there, whatever it says.
        let others = model.workloads(node).map(|workload| {
            let endpoint = model.endpoint(workload);
            (endpoint.port, endpoint.mac, endpoint.address, None)
        });
        let host = (OfPort::TUN, Mac::of_ipv4(model.gateway(node)), model.gateway(node), None);
        let tunnels = intent.nodes().filter(|(other, _)| *other != node).map(|(_, other)| {
            (OfPort::VXLAN, other_mac, Ipv4Addr::new(10, 128, 0, 9), Some((other.address, 0)))
        });
        for (in_port, source, address, tunnel) in others.chain([host]).chain(tunnels) {
            for &to in &everybody {
                let sources = here.iter().map(|(_, source)| *source);
                for src in sources.chain([address]) {
                    for body in [ip(src, to), Body::Arp { spa: src, tpa: to, sha: source }] {
                        let frame = Frame { tunnel, ..Frame::new(in_port, source, body) };
                        let arrivals = fabric.spread(node, &frame);
                        let outside = |arrival: &Arrival| {
                            let Arrival::Workload(_, port) = arrival else { return false };
                            *port == OfPort::PATCH || here.iter().any(|(own, _)| own == port)
                        };
                        prop_assert!(!arrivals.iter().any(outside), "{:?}: {:?}", frame, arrivals);
                    }
                }
            }
        }
    }
    Ok(())
}

/// The bytes of every file that has an effect.
pub(crate) fn effective(model: &Model, sources: &Sources) -> BTreeMap<String, Vec<u8>> {
    let common = ClusterFlows::new(model).unwrap();
    let renderer = Renderer::new(model, sources).unwrap();
    let mut all = BTreeMap::new();
    for (id, node) in model.intent().nodes() {
        for (path, bytes) in renderer.node(id, &Plan::of(&common, id).unwrap()).unwrap().files {
            if ringfence::artifact::layout::is_reviewed(path.as_ref()) {
                all.insert(format!("{}/{path}", node.name), bytes);
            }
        }
    }
    all
}

/// A network whose one project with multicast has pods on all nodes, most of them on the first.
pub(crate) fn wide(nodes: usize, pods: usize) -> String {
    let mut text =
        "version: 1\ncluster: {podNetworks: [{cidr: 10.0.0.0/9, hostPrefix: 21}]}\n".to_owned();
    text.push_str("nodes:\n");
    for n in 0..nodes {
        let _ = writeln!(
            text,
            "  - {{name: node-{n:04}, address: 172.20.{}.{}}}",
            n / 250,
            1 + n % 250
        );
    }
    text.push_str("projects:\n  - name: wide\n    multicast: true\n    pods:\n");
    let here = (0..pods).map(|_| 0);
    for (pod, node) in here.chain(1..nodes).enumerate() {
        let _ = writeln!(text, "      - {{name: pod-{pod}, node: node-{node:04}}}");
    }
    text
}

#[test]
fn copies_are_split_where_one_flow_cannot_make_them() {
    let (model, _) = model(vec![wide(600, 600)]);
    let common = ClusterFlows::new(&model).unwrap();
    let fabric = Fabric::new(&common);
    let workloads = fabric.workloads();
    let copies = |actions: &[Action]| {
        actions.iter().filter(|action| matches!(action, Action::Output(_))).count()
    };
    let flows = &fabric.plans[&model.node(workloads[0])].flows;
    assert!(flows.iter().all(|flow| copies(&flow.actions) <= 1024));
    // From the node with many pods, and to it.
    for from in [workloads[0], workloads[workloads.len() - 1]] {
        let body = ip(&model, from, GROUPS[0], (Protocol::Udp, 5000));
        let arrivals = fabric.spread(model.node(from), &from_tenant(&model, from, body));
        let others = workloads.iter().filter(|to| **to != from);
        let mut expected: Vec<Arrival> =
            others.map(|to| Arrival::Workload(model.node(*to), model.endpoint(*to).port)).collect();
        expected.sort();
        assert_eq!(arrivals, expected);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 192, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn flows_mean_what_the_intent_says(world in worlds()) {
        check_meaning(&world)?;
    }

    #[test]
    fn forged_frames_go_nowhere(world in worlds()) {
        check_spoofing(&world)?;
    }

    #[test]
    fn only_egress_routers_meet_the_gateway_bridge(world in worlds()) {
        check_patches(&world)?;
    }

    #[test]
    fn order_files_and_threads_leave_no_trace(
        world in worlds(),
        order in prop::collection::vec(any::<usize>(), 64),
        threads in 1..5_usize,
    ) {
        let (first, sources) = model(vec![world.yaml()]);
        let expected = effective(&first, &sources);
        let mut order = order.into_iter().cycle();
        let texts = world.shuffled(|| order.next().unwrap());
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        let made = pool.install(|| {
            let (second, sources) = model(texts);
            effective(&second, &sources)
        });
        prop_assert_eq!(expected.keys().collect::<Vec<_>>(), made.keys().collect::<Vec<_>>());
        for (path, bytes) in &expected {
            prop_assert_eq!(
                String::from_utf8_lossy(bytes), String::from_utf8_lossy(&made[path]), "{}", path
            );
        }
    }
}
