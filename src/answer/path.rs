//! The way of a packet and of its answer through the tables of every bridge on it, and through the
//! rulesets of the nodes at its ends.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use super::question::{OUTSIDE, Question, Target, router_leads_to};
use crate::dataplane::openflow::{Action, CtState, Flow};
use crate::dataplane::origin::ObjectRef;
use crate::diagnostic::{Diagnostic, Place};
use crate::intent::{NodeId, Workload};
use crate::lower::{ClusterFlows, Plan};
use crate::model::Model;
use crate::pipeline::OfPort;
use crate::value::{Datapath, Mac, Port, Protocol};
use crate::verify::evaluate::{Body, End, Frame, Piece, walk};
use crate::verify::reach::{Destination, Reach, Source};

/// Of a packet that has begun a connection, the answer goes to a port like this one.
const CLIENT_PORT: u16 = 40_000;

/// One step of a packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// The node.
    pub node: NodeId,
    /// Where on it: `table 80 Isolation`, `ruleset`, `tunnel`.
    pub at: String,
    /// The object that decides there.
    pub object: String,
    /// Where that is defined.
    pub place: Option<Place>,
    /// What happens, where it is more than going on.
    pub effect: Option<String>,
    /// The flow.
    pub flow: Option<String>,
}

/// A way through the network.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Way {
    /// The steps.
    pub steps: Vec<Step>,
    /// Who gets it, with the address and port that it has then.
    pub arrival: Option<Arrival>,
}

/// Where a way ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Arrival {
    /// The node.
    pub node: NodeId,
    /// The pod or egress router; `None` for the node's own network stack.
    pub workload: Option<Workload>,
    /// The destination.
    pub address: Ipv4Addr,
    /// The port, where it has one.
    pub port: Option<u16>,
}

/// The bridges of all nodes, made when a packet comes to them.
#[derive(Debug)]
pub struct Fabric<'m> {
    common: &'m ClusterFlows<'m>,
    plans: BTreeMap<NodeId, Plan<'m>>,
}

impl<'m> Fabric<'m> {
    /// The bridges of a model.
    #[must_use]
    pub fn new(common: &'m ClusterFlows<'m>) -> Self {
        Self { common, plans: BTreeMap::new() }
    }

    fn model(&self) -> &'m Model {
        self.common.model()
    }

    /// The way of a packet about which the intent says `reach`.
    pub fn request(&mut self, question: &Question, reach: &Reach) -> Result<Way, Diagnostic> {
        let model = self.model();
        let mut way = Way::default();
        if let Some((node, frame)) = entry(model, question, &mut way) {
            self.follow(node, &frame, &mut way)?;
        }
        last_steps(model, question, reach, &mut way);
        Ok(way)
    }

    /// The way of the answer to a packet that went this way.
    pub fn reply(&mut self, question: &Question, request: &Way) -> Result<Option<Way>, Diagnostic> {
        let model = self.model();
        let Some(arrival) = request.arrival else { return Ok(None) };
        let mut way = Way::default();
        let to = match question.from {
            // Who reaches itself by a service sees the service's address as the sender's.
            Source::Workload(workload) if arrival.workload == Some(workload) => {
                service_behind(model, question).unwrap_or(question.address)
            }
            Source::Workload(workload) => model.endpoint(workload).address,
            Source::Node(node) => model.gateway(node),
            Source::Outside => match question.to {
                Target::One(Destination::NodePort(node, _)) => model.node_port_source(node),
                _ => return Ok(None),
            },
        };
        let (in_port, mac, src) = match arrival.workload {
            Some(workload) => {
                let own = model.endpoint(workload);
                (own.port, own.mac, own.address)
            }
            None if matches!(question.from, Source::Node(_)) => return Ok(None),
            None => {
                let from = model.gateway(arrival.node);
                if matches!(
                    question.to,
                    Target::One(Destination::Outside(_) | Destination::Service(_))
                ) {
                    let effect = format!("knows the connection, and leads it back to {to}");
                    way.steps.push(host(model, arrival.node, "ruleset", &effect));
                }
                (OfPort::TUN, Mac::of_ipv4(from), arrival.address)
            }
        };
        let transport = Some((question.protocol, CLIENT_PORT));
        let body = Body::Ip { src, dst: to, transport, piece: Piece::Whole };
        let frame = Frame {
            connection: CtState::Reply,
            service_connection: CtState::Reply,
            ..Frame::new(in_port, mac, body)
        };
        self.follow(arrival.node, &frame, &mut way)?;
        if let (Some(at), Source::Outside) = (way.arrival, question.from) {
            let effect = "gives the answer the node's address again, and lets it out";
            way.steps.push(host(model, at.node, "ruleset", effect));
        }
        Ok(Some(way))
    }

    /// Adds the steps of a frame from a node's bridge on.
    fn follow(&mut self, node: NodeId, frame: &Frame, way: &mut Way) -> Result<(), Diagnostic> {
        let model = self.model();
        if !self.plans.contains_key(&node) {
            self.plans.insert(node, Plan::of(self.common, node)?);
        }
        let reassembles = model.datapath(node) == Datapath::System;
        let frame = Frame { reassembles, ..frame.clone() };
        let walked = walk(&self.plans[&node].flows, &frame);
        for flow in &walked.flows {
            let group = self.plans[&node].flows.groups();
            let effect = effect(model, flow, &|id| {
                let found = group.iter().find(|printed| printed.group.id == id)?;
                let buckets = found.group.buckets.iter();
                let to = buckets.map(|bucket| match bucket.port {
                    Some(port) => format!("{}:{port}", bucket.to),
                    None => bucket.to.to_string(),
                });
                Some(to.collect::<Vec<_>>())
            });
            way.steps.push(step(node, flow, effect));
        }
        let (dst, port) = match walked.body {
            Body::Ip { dst, transport, .. } => (dst, transport.map(|(_, port)| port)),
            Body::Arp { tpa, .. } => (tpa, None),
        };
        let end = walked.ends.first();
        let tunnelled = match end {
            None => {
                if let Some(last) = way.steps.last_mut() {
                    last.effect = Some("drop".to_owned());
                }
                None
            }
            Some(End::Port(port_number)) => {
                let mut workloads = model.workloads(node);
                let workload = workloads.find(|who| model.endpoint(*who).port == *port_number);
                way.arrival = Some(Arrival { node, workload, address: dst, port });
                let out = match workload {
                    Some(who) => {
                        format!("out of port {} to {}", port_number.get(), named(model, who))
                    }
                    None if *port_number == OfPort::TUN => "out of tun0 to the node".to_owned(),
                    None => format!("out of port {}", port_number.get()),
                };
                if let Some(last) = way.steps.last_mut() {
                    last.effect = Some(out);
                }
                None
            }
            Some(End::Tunnel { to, vni }) => {
                let mut nodes = model.intent().nodes();
                nodes.find(|(_, other)| other.address == *to).map(|(id, _)| (id, *vni))
            }
        };
        let body = walked.body;
        let Some((other, vni)) = tunnelled else { return Ok(()) };
        let from = &model.intent()[node];
        if let Some(last) = way.steps.last_mut() {
            let to = &model.intent()[other];
            let effect = format!("through the tunnel to {} ({}), VNI {vni}", to.name, to.address);
            last.effect = Some(effect);
        }
        let tunnel = Some((from.address, vni));
        let frame = Frame { in_port: OfPort::VXLAN, tunnel, body, ..frame };
        self.follow(other, &frame, way)
    }
}

/// How a packet comes to the first bridge; `None` where it comes to none.
fn entry(model: &Model, question: &Question, way: &mut Way) -> Option<(NodeId, Frame)> {
    let Question { from, to, address, protocol, port } = *question;
    let transport = Some((protocol, port.get()));
    let frame = |in_port, mac, src, dst, port: Port| {
        let transport = transport.map(|(protocol, _)| (protocol, port.get()));
        Frame::new(in_port, mac, Body::Ip { src, dst, transport, piece: Piece::Whole })
    };
    match (from, to) {
        (Source::Workload(workload), _) => {
            let own = model.endpoint(workload);
            Some((model.node(workload), frame(own.port, own.mac, own.address, address, port)))
        }
        (Source::Node(node), Target::One(Destination::NodePort(by, _))) if node != by => {
            let out = format!("sends it from {} to {address}", model.intent()[node].address);
            way.steps.push(host(model, node, "kernel", &out));
            let found = served(model, protocol, port)?;
            let src = model.node_port_source(by);
            way.steps.push(host(model, by, "ruleset", &translated(model, &found, Some(src))));
            let mac = Mac::of_ipv4(model.gateway(by));
            Some((by, frame(OfPort::TUN, mac, src, found.1, found.2)))
        }
        (Source::Node(node), Target::One(Destination::NodePort(..))) => {
            let found = served(model, protocol, port)?;
            let src = model.gateway(node);
            way.steps.push(host(model, node, "ruleset", &translated(model, &found, None)));
            let mac = Mac::of_ipv4(src);
            Some((node, frame(OfPort::TUN, mac, src, found.1, found.2)))
        }
        (
            Source::Node(node),
            Target::One(Destination::Workload(_) | Destination::Service(_)) | Target::Nobody,
        ) => {
            let src = model.gateway(node);
            Some((node, frame(OfPort::TUN, Mac::of_ipv4(src), src, address, port)))
        }
        (Source::Node(node), _) => {
            way.steps.push(host(model, node, "kernel", &format!("sends it to {address}")));
            None
        }
        (Source::Outside, Target::One(Destination::NodePort(node, _))) => {
            let found = served(model, protocol, port)?;
            let src = model.node_port_source(node);
            way.steps.push(host(model, node, "ruleset", &translated(model, &found, Some(src))));
            let mac = Mac::of_ipv4(model.gateway(node));
            Some((node, frame(OfPort::TUN, mac, src, found.1, found.2)))
        }
        (Source::Outside, Target::One(to)) => {
            let node = match to {
                Destination::Workload(workload) | Destination::Member(workload) => {
                    model.node(workload)
                }
                Destination::Node(node) | Destination::NodePort(node, _) => node,
                Destination::Service(_) | Destination::Outside(_) => return None,
            };
            let effect = "drops what comes from outside and answers nothing";
            way.steps.push(host(model, node, "ruleset", effect));
            None
        }
        (Source::Outside, _) => None,
    }
}

/// The service that is served at a port of every node: its name, address and port.
fn served(model: &Model, protocol: Protocol, port: Port) -> Option<(String, Ipv4Addr, Port)> {
    let mut ports = model.node_ports().iter();
    let found = ports.find(|served| served.protocol == protocol && served.port == port)?;
    let address = model.service_address(found.service)?;
    Some((model.intent().service_name(found.service), address, model.service_port_of(found).0.port))
}

fn translated(
    model: &Model,
    (name, address, port): &(String, Ipv4Addr, Port),
    source: Option<Ipv4Addr>,
) -> String {
    let _ = model;
    let mut text = format!("translates it to service {name} ({address}:{port})");
    if let Some(source) = source {
        text = format!("{text}, from {source}");
    }
    text
}

/// What happens behind the last bridge, or where a ruleset decides.
fn last_steps(model: &Model, question: &Question, reach: &Reach, way: &mut Way) {
    let Some(arrival) = way.arrival else {
        if let (false, Some(last)) = (reach.allowed(), way.steps.last_mut()) {
            last.effect.get_or_insert_with(|| "drop".to_owned());
        }
        return;
    };
    let (protocol, port) = (question.protocol, question.port);
    match arrival.workload {
        Some(Workload::Router(id)) => {
            let router = &model.intent()[id];
            let port = arrival.port.and_then(|port| Port::new(port.into()).ok()).unwrap_or(port);
            let effect = if router.mode.takes(protocol, port) {
                let to = router_leads_to(model, id, (protocol, port));
                format!("leads to {to}, seen there as {}", router.source)
            } else {
                "refuses it: it has no such port".to_owned()
            };
            way.steps.push(Step {
                node: arrival.node,
                at: "router".to_owned(),
                object: format!("router {}", router.name),
                place: Some(router.place),
                effect: Some(effect),
                flow: None,
            });
        }
        Some(Workload::Pod(_)) => {}
        None if reach.refused => {
            let effect = "refuses it, and tells the sender";
            way.steps.push(host(model, arrival.node, "ruleset", effect));
        }
        None if !reach.allowed() => {
            way.steps.push(host(model, arrival.node, "ruleset", "drop"));
        }
        None => {
            let own = model.own_addresses(arrival.node).contains(&arrival.address)
                || model.gateway(arrival.node) == arrival.address;
            let effect = match question.from {
                Source::Workload(workload) if !own => {
                    let seen = model.external_source(workload);
                    format!("lets it out to {}, seen there as {seen}", arrival.address)
                }
                _ => "takes it".to_owned(),
            };
            way.steps.push(host(model, arrival.node, "ruleset", &effect));
        }
    }
}

fn host(model: &Model, node: NodeId, at: &str, effect: &str) -> Step {
    let subject = model.node_subject(node);
    Step {
        node,
        at: at.to_owned(),
        object: subject.name.to_string(),
        place: subject.place,
        effect: Some(effect.to_owned()),
        flow: None,
    }
}

fn step(node: NodeId, flow: &Flow<'_>, effect: Option<String>) -> Step {
    let ObjectRef { name, place, .. } = flow.subject;
    let mut text = Vec::new();
    flow.write(&mut text);
    Step {
        node,
        at: format!("table {} {:?}", flow.table.number(), flow.table),
        object: name.to_string(),
        place: *place,
        effect,
        flow: Some(String::from_utf8_lossy(&text).into_owned()),
    }
}

/// The address of the service behind a node port, where one is asked for.
fn service_behind(model: &Model, question: &Question) -> Option<Ipv4Addr> {
    let Target::One(Destination::NodePort(..)) = question.to else { return None };
    let asked = (question.protocol, question.port);
    let port = model.node_ports().iter().find(|port| (port.protocol, port.port) == asked)?;
    model.service_address(port.service)
}

/// What a flow does that is more than going on.
fn effect(
    model: &Model,
    flow: &Flow<'_>,
    group: &dyn Fn(u32) -> Option<Vec<String>>,
) -> Option<String> {
    const SHOWN: usize = 4;
    let _ = model;
    flow.actions.iter().find_map(|action| match action {
        Action::Group(id) => {
            let all = group(*id)?;
            let more = match all.len().saturating_sub(SHOWN) {
                0 => String::new(),
                more => format!(" and {more} more"),
            };
            let shown = all.iter().take(SHOWN).cloned().collect::<Vec<_>>().join(", ");
            let one = if all.len() > 1 { "one of " } else { "" };
            Some(format!("translates it to {one}{shown}{more}"))
        }
        _ => None,
    })
}

/// A pod or egress router, as objects of flows are named.
fn named(model: &Model, workload: Workload) -> String {
    model.workload_subject(workload).name.to_string()
}

/// The source of a question's packet, as its first bridge or node has it.
#[must_use]
pub fn source(model: &Model, from: Source) -> Ipv4Addr {
    match from {
        Source::Workload(workload) => model.endpoint(workload).address,
        Source::Node(node) => model.gateway(node),
        Source::Outside => OUTSIDE,
    }
}
