//! The flows mean what the policies say, in generated clusters.

use std::net::Ipv4Addr;

use super::worlds;
use crate::properties::{Arrival, Fabric};
use ringfence::dataplane::openflow::CtState;
use ringfence::intent::{Direction, NodeId};
use ringfence::lower::ClusterFlows;
use ringfence::model::{Model, Workload};
use ringfence::pipeline::OfPort;
use ringfence::value::{Datapath, Mac, Port, Protocol};
use ringfence::verify::evaluate::{Body, Frame, Piece};
use ringfence::verify::reach::{
    Destination, Other, Packet, Source, leaves, let_out, policies, reach, to_workload,
};

/// What packets begin with: on both sides of the borders of every rule that clusters have, and what has
/// no ports.
const TRANSPORTS: [Option<(Protocol, u16)>; 15] = [
    None,
    Some((Protocol::Tcp, 78)),
    Some((Protocol::Tcp, 79)),
    Some((Protocol::Tcp, 80)),
    Some((Protocol::Tcp, 8079)),
    Some((Protocol::Tcp, 8080)),
    Some((Protocol::Tcp, 8081)),
    Some((Protocol::Tcp, 8090)),
    Some((Protocol::Tcp, 8091)),
    Some((Protocol::Tcp, 65535)),
    Some((Protocol::Udp, 53)),
    Some((Protocol::Udp, 54)),
    Some((Protocol::Udp, 8080)),
    Some((Protocol::Sctp, 8080)),
    Some((Protocol::Sctp, 8081)),
];

/// A packet with all the places at which it may arrive.
pub(super) struct Try {
    pub(super) what: String,
    pub(super) node: NodeId,
    /// The VNID that it carries through tunnels.
    pub(super) vni: u32,
    pub(super) frame: Frame,
    pub(super) expected: Vec<Arrival>,
}

fn port(number: u16) -> Port {
    Port::new(number.into()).unwrap()
}

pub(super) fn allowed_at_sender(
    model: &Model,
    from: Workload,
    to: Workload,
    transport: Option<(Protocol, u16)>,
) -> bool {
    let transport = transport.map(|(protocol, number)| (protocol, port(number)));
    policies(model, Direction::Egress, from, Other::Workload(to), transport).allowed()
}

pub(super) fn allowed_at_receiver(
    model: &Model,
    from: Workload,
    to: Workload,
    transport: Option<(Protocol, u16)>,
) -> bool {
    let transport = transport.map(|(protocol, number)| (protocol, port(number)));
    policies(model, Direction::Ingress, to, Other::Workload(from), transport).allowed()
}

/// A packet from a pod to another, and where it is to arrive.
pub(super) type Pair = (Workload, Workload, Option<(Protocol, u16)>, Frame, Arrival);

/// Packets between every two pods: two with ports, and one without.
pub(super) fn pairs(model: &Model) -> Vec<Pair> {
    let nodes: Vec<NodeId> = model.intent().nodes().map(|(id, _)| id).collect();
    let workloads: Vec<Workload> = nodes.iter().flat_map(|node| model.workloads(*node)).collect();
    let mut all = Vec::new();
    for &from in &workloads {
        for &to in workloads.iter().filter(|to| **to != from) {
            for transport in [TRANSPORTS[0], TRANSPORTS[5], TRANSPORTS[10]] {
                let own = model.endpoint(from);
                let body = body(own.address, model.endpoint(to).address, transport);
                let frame = Frame::new(own.port, own.mac, body);
                all.push((from, to, transport, frame, place(model, to)));
            }
        }
    }
    all
}

fn allowed_between(
    model: &Model,
    from: Workload,
    to: Workload,
    transport: Option<(Protocol, u16)>,
) -> bool {
    allowed_at_sender(model, from, to, transport) && allowed_at_receiver(model, from, to, transport)
}

fn place(model: &Model, workload: Workload) -> Arrival {
    Arrival::Workload(model.node(workload), model.endpoint(workload).port)
}

fn when(allowed: bool, there: Arrival) -> Vec<Arrival> {
    vec![if allowed { there } else { Arrival::Nowhere }]
}

fn body(src: Ipv4Addr, dst: Ipv4Addr, transport: Option<(Protocol, u16)>) -> Body {
    Body::Ip { src, dst, transport, piece: Piece::Whole }
}

/// Every pair of pods, every node and pod, the outside by node ports, services, addresses outside.
pub(super) fn tries(model: &Model) -> Vec<Try> {
    let mut all = Vec::new();
    let nodes: Vec<NodeId> = model.intent().nodes().map(|(id, _)| id).collect();
    let workloads: Vec<Workload> = nodes.iter().flat_map(|node| model.workloads(*node)).collect();
    for &from in &workloads {
        let own = model.endpoint(from);
        let send = |what: &str, dst, transport, expected| Try {
            what: format!("{from:?} to {what} {dst} {transport:?}"),
            node: model.node(from),
            vni: model.wire_vnid(model.project(from)),
            frame: Frame::new(own.port, own.mac, body(own.address, dst, transport)),
            expected,
        };
        for &to in workloads.iter().filter(|to| **to != from) {
            for transport in TRANSPORTS {
                let expected = when(allowed_between(model, from, to, transport), place(model, to));
                all.push(send("pod", model.endpoint(to).address, transport, expected));
            }
        }
        outside(model, from, &nodes, &send, &mut all);
        services(model, from, &send, &mut all);
    }
    for &node in &nodes {
        from_node(model, node, &workloads, &mut all);
    }
    all
}

fn outside(
    model: &Model,
    from: Workload,
    nodes: &[NodeId],
    send: &impl Fn(&str, Ipv4Addr, Option<(Protocol, u16)>, Vec<Arrival>) -> Try,
    all: &mut Vec<Try>,
) {
    let own = model.node(from);
    let exit = model.leaving(from).map_or(own, |leaving| leaving.ip.node);
    let others = ["203.0.113.7", "203.0.113.8", "198.51.100.1", "192.168.12.99"];
    let others = others.map(|address| address.parse::<Ipv4Addr>().unwrap());
    let of_nodes = nodes.iter().map(|node| model.intent()[*node].address);
    for address in others.into_iter().chain(of_nodes) {
        for (protocol, number) in TRANSPORTS.into_iter().flatten() {
            let packet = Packet {
                from: Source::Workload(from),
                to: Destination::Outside(address),
                protocol,
                port: port(number),
            };
            let way = let_out(model, from, address, &packet).allowed()
                && leaves(model, from, address, &packet).allowed();
            let near = model.intent()[own].address == address;
            let there = Arrival::Host(if near { own } else { exit });
            all.push(send("outside", address, Some((protocol, number)), when(way, there)));
        }
    }
    for &node in nodes {
        for transport in TRANSPORTS {
            let asked = transport.map(|(protocol, number)| (protocol, port(number)));
            // Its kernel decides what it takes.
            let way = node == own
                || policies(model, Direction::Egress, from, Other::Node(node), asked).allowed();
            let expected = when(way, Arrival::Host(node));
            all.push(send("gateway", model.gateway(node), transport, expected));
        }
    }
}

/// To a service and to node ports, whoever behind them is chosen.
fn services(
    model: &Model,
    from: Workload,
    send: &impl Fn(&str, Ipv4Addr, Option<(Protocol, u16)>, Vec<Arrival>) -> Try,
    all: &mut Vec<Try>,
) {
    let own = model.node(from);
    let exit = model.leaving(from).map_or(own, |leaving| leaving.ip.node);
    for (id, address) in model.services() {
        for found in &model.intent()[id].ports {
            let protocol = found.protocol;
            let to = |address, port| {
                let to = Destination::Outside(address);
                Packet { from: Source::Workload(from), to, protocol, port }
            };
            let mut expected: Vec<Arrival> = found
                .backends
                .iter()
                .map(|(workload, port)| {
                    let packet = to(Ipv4Addr::UNSPECIFIED, *port);
                    let reach =
                        to_workload(model, Source::Workload(from), *workload, None, &packet);
                    if reach.allowed() { place(model, *workload) } else { Arrival::Nowhere }
                })
                .collect();
            expected.extend(found.endpoints.iter().map(|(address, port)| {
                let packet = to(*address, *port);
                let way = let_out(model, from, *address, &packet).allowed()
                    && leaves(model, from, *address, &packet).allowed();
                if way { Arrival::Host(exit) } else { Arrival::Nowhere }
            }));
            if expected.is_empty() {
                expected.push(Arrival::Host(own));
            }
            let transport = Some((protocol, found.port.get()));
            all.push(send("service", address, transport, expected));
        }
    }
    for found in model.node_ports() {
        for (_, node) in model.intent().nodes() {
            let (behind, ..) = model.service_port_of(found);
            let mut expected: Vec<Arrival> = behind
                .backends
                .iter()
                .map(|(workload, port)| {
                    let (from, to, protocol) =
                        (Source::Workload(from), Destination::Workload(*workload), found.protocol);
                    let packet = Packet { from, to, protocol, port: *port };
                    let reach = to_workload(model, from, *workload, None, &packet);
                    if reach.allowed() { place(model, *workload) } else { Arrival::Nowhere }
                })
                .collect();
            if expected.is_empty() {
                expected.push(Arrival::Host(own));
            }
            let transport = Some((found.protocol, found.port.get()));
            all.push(send("node port", node.address, transport, expected));
        }
    }
}

/// The node's own processes, at each of their addresses, and the outside by a node port.
fn from_node(model: &Model, node: NodeId, workloads: &[Workload], all: &mut Vec<Try>) {
    let mac = Mac::of_ipv4(model.gateway(node));
    let mut push = |what: String, src, dst, transport, expected| {
        let frame = Frame::new(OfPort::TUN, mac, body(src, dst, transport));
        all.push(Try { what, node, vni: 0, frame, expected });
    };
    for &to in workloads {
        let address = model.endpoint(to).address;
        for transport in TRANSPORTS {
            let near = model.node(to) == node;
            let asked = transport.map(|(protocol, number)| (protocol, port(number)));
            let let_in = |other| policies(model, Direction::Ingress, to, other, asked).allowed();
            let what = format!("{node:?} to {to:?} {transport:?}");
            let expected = when(near || let_in(Other::Node(node)), place(model, to));
            push(what.clone(), model.gateway(node), address, transport, expected);
            if near {
                let own = model.intent()[node].address;
                push(what.clone(), own, address, transport, vec![place(model, to)]);
            }
        }
    }
    for found in model.node_ports() {
        let (behind, ..) = model.service_port_of(found);
        let source = model.node_port_source(node);
        let service = model.service_address(found.service).unwrap();
        let expected: Vec<Arrival> = behind
            .backends
            .iter()
            .map(|(workload, port)| {
                let (from, to, protocol) =
                    (Source::Outside, Destination::Workload(*workload), found.protocol);
                let packet = Packet { from, to, protocol, port: *port };
                let reach = to_workload(model, from, *workload, Some(node), &packet);
                if reach.allowed() { place(model, *workload) } else { Arrival::Nowhere }
            })
            .collect();
        if !expected.is_empty() {
            let transport = Some((found.protocol, behind.port.get()));
            push(
                format!("outside by a node port of {node:?}"),
                source,
                service,
                transport,
                expected,
            );
        }
    }
}

fn arrive(fabric: &Fabric<'_>, attempt: &Try, frame: &Frame) -> Arrival {
    let mut arrivals = fabric.spread(attempt.node, frame);
    assert!(arrivals.len() <= 1, "{} was copied: {arrivals:?}", attempt.what);
    arrivals.pop().unwrap_or(Arrival::Nowhere)
}

/// What is wrong with what becomes of a packet, its fragments and its replies.
pub(super) fn wrong(fabric: &Fabric<'_>, attempt: &Try) -> Option<String> {
    let mut seen: Vec<Arrival> = (0..attempt.expected.len())
        .map(|choice| arrive(fabric, attempt, &Frame { choice, ..attempt.frame.clone() }))
        .collect();
    let mut expected: Vec<&Arrival> = attempt.expected.iter().collect();
    seen.sort();
    expected.sort();
    if seen.iter().ne(expected.iter().copied()) {
        return Some(format!("{}: {seen:?} instead of {expected:?}", attempt.what));
    }
    let [only] = &attempt.expected[..] else { return None };
    let Body::Ip { src, dst, transport: Some(transport), .. } = attempt.frame.body else {
        return None;
    };
    let part = |piece| {
        let body = Body::Ip { src, dst, transport: Some(transport), piece };
        arrive(fabric, attempt, &Frame { body, ..attempt.frame.clone() })
    };
    if part(Piece::First) != *only {
        return Some(format!("first fragment of {}", attempt.what));
    }
    let passes = *only != Arrival::Nowhere;
    let direct = !attempt.what.contains("service") && !attempt.what.contains("node port");
    if passes && direct && part(Piece::Later) != *only {
        return Some(format!("later fragment of {}", attempt.what));
    }
    None
}

fn check(seed: u64) -> usize {
    let model = worlds::cluster(seed);
    let common = ClusterFlows::new(&model).unwrap();
    let fabric = Fabric::new(&common);
    let tries = tries(&model);
    for attempt in &tries {
        if let Some(wrong) = wrong(&fabric, attempt) {
            panic!("cluster {seed}: {wrong}\n{}", worlds::yaml(seed));
        }
    }
    if let Some(wrong) = wrong_replies(&fabric) {
        panic!("cluster {seed}: {wrong}\n{}", worlds::yaml(seed));
    }
    check_arp(&fabric, seed);
    tries.len()
}

/// Replies and errors about connections come back, whoever sends and gets them.
pub(super) fn wrong_replies(fabric: &Fabric<'_>) -> Option<String> {
    let model = fabric.model;
    for from in fabric.workloads() {
        for to in fabric.workloads().into_iter().filter(|to| *to != from) {
            for connection in [CtState::Reply, CtState::Related] {
                let (own, dst) = (model.endpoint(from), model.endpoint(to).address);
                let body = body(own.address, dst, Some((Protocol::Tcp, 40_000)));
                let frame = Frame { connection, ..Frame::new(own.port, own.mac, body) };
                let arrivals = fabric.spread(model.node(from), &frame);
                if arrivals != [place(model, to)] {
                    return Some(format!("{connection:?} of {from:?} to {to:?}: {arrivals:?}"));
                }
            }
        }
    }
    None
}

fn check_arp(fabric: &Fabric<'_>, seed: u64) {
    let model = fabric.model;
    for from in fabric.workloads() {
        for to in fabric.workloads().into_iter().filter(|to| *to != from) {
            let (own, tpa) = (model.endpoint(from), model.endpoint(to).address);
            let body = Body::Arp { spa: own.address, tpa, sha: own.mac };
            let arrivals = fabric.spread(model.node(from), &Frame::new(own.port, own.mac, body));
            assert_eq!(arrivals, [place(model, to)], "cluster {seed}: ARP of {from:?} for {to:?}");
        }
    }
}

/// How many generated clusters are tried, in so many tests: `RINGFENCE_CLUSTERS` says otherwise.
pub(super) fn clusters(usual: u64) -> u64 {
    let number = std::env::var("RINGFENCE_CLUSTERS");
    number.map_or(usual, |number| number.parse().unwrap())
}

macro_rules! generated {
    ($($name:ident = $part:literal,)*) => {$(
        #[test]
        fn $name() {
            const PARTS: u64 = 4;
            let all = clusters(600);
            let tried: usize = (0..all).filter(|seed| seed % PARTS == $part).map(check).sum();
            assert!(tried > 1000 * usize::try_from(all / 600).unwrap(), "{tried}");
        }
    )*};
}

generated! {
    generated_policies_mean_what_they_say_1 = 0,
    generated_policies_mean_what_they_say_2 = 1,
    generated_policies_mean_what_they_say_3 = 2,
    generated_policies_mean_what_they_say_4 = 3,
}

/// `reach` as a whole, which the lab and people ask, agrees with what it is made of.
#[test]
fn a_service_is_reached_always_never_or_now_and_then() {
    let (mut always, mut never, mut sometimes) = (0, 0, 0);
    for seed in 0..100 {
        let model = worlds::cluster(seed);
        for (pod, _) in model.intent().pods() {
            let from = Source::Workload(Workload::Pod(pod));
            for (id, _) in model.services() {
                for port in model.intent()[id].ports.iter().filter(|p| !p.backends.is_empty()) {
                    let to = Destination::Service(id);
                    let packet = Packet { from, to, protocol: port.protocol, port: port.port };
                    let whole = reach(&model, &packet);
                    let each = port.backends.iter().map(|(workload, port)| {
                        to_workload(
                            &model,
                            from,
                            *workload,
                            None,
                            &Packet { port: *port, ..packet },
                        )
                    });
                    let each: Vec<bool> = each.map(|reach| reach.allowed()).collect();
                    let all = each.iter().all(|allowed| *allowed);
                    let some = each.iter().any(|allowed| *allowed);
                    assert_eq!((whole.allowed(), whole.sometimes), (all, some && !all));
                    *(if all {
                        &mut always
                    } else if some {
                        &mut sometimes
                    } else {
                        &mut never
                    }) += 1;
                }
            }
        }
    }
    assert!(always > 10 && never > 10 && sometimes > 2, "{always} {never} {sometimes}");
}

#[test]
fn kernels_and_userspace_both_occur() {
    let datapaths: Vec<Datapath> = (0..20)
        .flat_map(|seed| {
            let model = worlds::cluster(seed);
            let nodes: Vec<NodeId> = model.intent().nodes().map(|(id, _)| id).collect();
            nodes.into_iter().map(|node| model.datapath(node)).collect::<Vec<_>>()
        })
        .collect();
    assert!(datapaths.contains(&Datapath::System) && datapaths.contains(&Datapath::Netdev));
}
