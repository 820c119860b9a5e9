//! Tables 0 to 25: who may send, and as whom.

use ipnet::Ipv4Net;

use super::common::PerNode;
use super::network_policy::policy_load;
use super::{Builder, arp, host, ip, ip_to};
use crate::dataplane::openflow::{Action, ArpMatch, Flow, IpMatch, Match, Packet};
use crate::dataplane::origin::ObjectRef;
use crate::intent::{Direction, NodeId};
use crate::model::Model;
use crate::pipeline::{OfPort, PASSED_MARK, Register, Table};
use crate::value::Datapath;

pub(super) fn lower(builder: &mut Builder<'_>) {
    classify(builder);
    from_vxlan(builder);
    from_pods(builder);
    from_host(builder);
}

fn classify(builder: &mut Builder<'_>) {
    let cluster = builder.model.cluster_subject();
    let protocols = || [ip(IpMatch::default()), arp(ArpMatch::default())];
    let bridge = builder.model.intent()[builder.node].gateway_bridge();
    let patch = bridge.map(|_| (OfPort::PATCH, Table::FromUplink));
    // Matches on IP and ARP see through a tag, so it would come out again wherever the frame does.
    let tagged = Match { tagged: true, ..Match::default() };
    builder.flow(cluster, Table::Classify, 300, tagged, vec![]);
    let own = [(OfPort::VXLAN, Table::FromVxlan), (OfPort::TUN, Table::FromHost)];
    for (port, table) in own.into_iter().chain(patch) {
        for matches in protocols() {
            let matches = Match { in_port: Some(port), ..matches };
            builder.flow(cluster, Table::Classify, 200, matches, vec![Action::Goto(table)]);
        }
    }
    for matches in protocols() {
        let actions = vec![Action::Goto(Table::FromPod)];
        builder.flow(cluster, Table::Classify, 100, matches, actions);
    }
    builder.default(Table::Classify, vec![]);
}

/// A tunnel's other end is a node that is known.
fn from_vxlan(builder: &mut Builder<'_>) {
    builder.other_nodes(PerNode::FromVxlan);
    builder.default(Table::FromVxlan, vec![]);
}

/// Lets in the tunnel of a node.
pub(super) fn from_node(model: &Model, node: NodeId) -> Flow<'_> {
    let address = model.intent()[node].address;
    Flow {
        table: Table::FromVxlan,
        priority: 100,
        matches: Match { tunnel_source: Some(address), ..Match::default() },
        actions: vec![Action::LoadSourceFromTunnelId, Action::Goto(Table::RouteFromVxlan)],
        subject: model.node_subject(node),
        also: Vec::new(),
    }
}

/// A pod sends with its own port, Ethernet and IP address only.
fn from_pods(builder: &mut Builder<'_>) {
    let model = builder.model;
    for workload in model.workloads(builder.node) {
        let endpoint = model.endpoint(workload);
        let subject = model.workload_subject(workload);
        let vnid = model.vnid(model.project(workload)).get();
        let meter = model.meter(workload);
        let mut actions = Vec::with_capacity(3);
        if vnid != 0 && model.mode().carries_vnids() {
            actions.push(Action::Load(Register::Source, vnid));
        }
        actions.extend(policy_load(Register::Sender, model.selection(workload, Direction::Egress)));
        actions.push(Action::Goto(Table::Route));
        let address = Some(host(endpoint.address));
        for matches in [
            ip(IpMatch { src: address, ..IpMatch::default() }),
            arp(ArpMatch { spa: address, sha: Some(endpoint.mac), ..ArpMatch::default() }),
        ] {
            let matches =
                Match { in_port: Some(endpoint.port), dl_src: Some(endpoint.mac), ..matches };
            // Without ARP, a pod that sends too much would lose its way.
            let metered = matches!(matches.packet, Packet::Ip(_));
            let meter = meter.filter(|_| metered).map(|(id, _)| Action::Meter(id));
            let actions = meter.into_iter().chain(actions.iter().cloned()).collect();
            builder.flow(subject, Table::FromPod, 100, matches, actions);
        }
    }
    builder.default(Table::FromPod, vec![]);
}

/// The host speaks as the gateway; it passes on replies from outside, but nothing that claims to
/// come from a pod. What isn't the host's own has its ruleset's mark, where marks reach the bridge.
fn from_host(builder: &mut Builder<'_>) {
    let model = builder.model;
    let cluster = model.cluster_subject();
    let own = model.node_subject(builder.node);
    let gateway = Some(host(model.gateway(builder.node)));
    let route = || vec![Action::Goto(Table::Route)];
    let matches = arp(ArpMatch { spa: gateway, ..ArpMatch::default() });
    builder.flow(own, Table::FromHost, 300, matches, route());
    let matches = ip(IpMatch { src: gateway, ..IpMatch::default() });
    builder.flow(own, Table::FromHost, 300, matches, routed(model, builder.node));
    for network in &model.intent().cluster().pod_networks {
        let matches = ip(IpMatch { src: Some(network.cidr), ..IpMatch::default() });
        builder.flow(cluster, Table::FromHost, 200, matches, vec![]);
    }
    passed(builder, own, model.subnet(builder.node));
    super::service::arp_from_host(builder);
    builder.default(Table::FromHost, vec![]);
}

/// Table 25: what the host's ruleset let pass to a network.
pub(super) fn passed<'m>(builder: &mut Builder<'m>, subject: &'m ObjectRef, network: Ipv4Net) {
    passed_from(builder, subject, 100, ip_to(network));
}

/// Table 25: some of what the host's ruleset let pass.
pub(super) fn passed_from<'m>(
    builder: &mut Builder<'m>,
    subject: &'m ObjectRef,
    priority: u16,
    matches: Match,
) {
    let system = builder.model.datapath(builder.node) == Datapath::System;
    let mark = system.then_some(PASSED_MARK);
    let matches = Match { mark, ..matches };
    let actions = routed(builder.model, builder.node);
    builder.flow(subject, Table::FromHost, priority, matches, actions);
}

fn routed(model: &Model, node: NodeId) -> Vec<Action> {
    let system = model.datapath(node) == Datapath::System;
    system.then_some(Action::ClearMark).into_iter().chain([Action::Goto(Table::Route)]).collect()
}
