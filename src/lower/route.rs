//! Tables 30 to 70 and 90: where a packet goes.

use std::net::Ipv4Addr;

use ipnet::Ipv4Net;

use super::common::PerNode;
use super::network_policy::policy_load;
use super::{Builder, arp_to, host, ip, ip_to};
use crate::dataplane::openflow::{Action, Flow, Fragment, IpMatch, L4, MaskedPort};
use crate::intent::{Direction, NodeId};
use crate::model::Model;
use crate::pipeline::{OfPort, Register, Table};
use crate::spec::Mode;
use crate::value::Protocol;

/// RFC 1112.
const MULTICAST: Ipv4Net = Ipv4Net::new_assert(Ipv4Addr::new(224, 0, 0, 0), 4);

pub(super) fn lower(builder: &mut Builder<'_>) {
    to_this_node(builder, Table::Route);
    onwards(builder);
    builder.default(Table::Route, vec![]);
    // Nothing that another node sends may leave this one again.
    to_this_node(builder, Table::RouteFromVxlan);
    let cluster = builder.model.cluster_subject();
    let groups = vec![Action::Goto(Table::MulticastFromVxlan)];
    builder.flow(cluster, Table::RouteFromVxlan, 160, ip_to(MULTICAST), groups);
    builder.default(Table::RouteFromVxlan, vec![]);
    local_pods(builder);
    other_nodes(builder);
}

fn to_this_node(builder: &mut Builder<'_>, table: Table) {
    let model = builder.model;
    let cluster = model.cluster_subject();
    let own = model.node_subject(builder.node);
    let gateway = host(model.gateway(builder.node));
    let subnet = model.subnet(builder.node);
    let vxlan = MaskedPort::exact(model.intent().cluster().vxlan_port.get());
    let tun = || vec![Action::Output(OfPort::TUN)];
    // What comes from the pods of services meets conntrack first.
    let replies = model.has_services().then_some(Table::ServiceReply);
    let to_gateway = replies.map_or_else(tun, |table| vec![Action::Goto(table)]);
    // With network policies, what is for pods does so behind them.
    let before = replies.filter(|_| model.mode() != Mode::Networkpolicy);
    let to_pod = vec![Action::Goto(before.unwrap_or(Table::LocalPod))];
    // Whoever puts its fragments together finds ports that nothing here has seen.
    for protocol in Protocol::ALL {
        let fragment = Some(Fragment::Portless);
        let matches = IpMatch { l4: L4::of(protocol, None), fragment, ..IpMatch::default() };
        builder.flow(cluster, table, 400, ip(matches), vec![]);
    }
    builder.flow(own, table, 300, arp_to(gateway), tun());
    builder.flow(own, table, 200, arp_to(subnet), vec![Action::Goto(Table::ArpLocal)]);
    // Encapsulated by a pod, a frame would come out of the node's tunnel as anybody's.
    let matches = IpMatch { dst: Some(gateway), l4: L4::Udp(Some(vxlan)), ..IpMatch::default() };
    builder.flow(cluster, table, 310, ip(matches), vec![]);
    builder.flow(own, table, 300, ip_to(gateway), to_gateway);
    builder.flow(own, table, 200, ip_to(subnet), to_pod);
}

fn onwards(builder: &mut Builder<'_>) {
    let cluster = builder.model.cluster_subject();
    let intent = builder.model.intent();
    let table = Table::Route;
    for network in &intent.cluster().pod_networks {
        let actions = vec![Action::Goto(Table::ArpRemote)];
        builder.flow(cluster, table, 100, arp_to(network.cidr), actions);
    }
    let service = intent.cluster().service_network;
    // Tracked here, whatever it was before: what the node's own processes send comes with the
    // state of the node's own conntrack on the kernel's datapath.
    let to_services = if builder.model.has_services() {
        vec![Action::SaveIpDst, Action::Track(Table::Service)]
    } else {
        vec![Action::Goto(Table::Service)]
    };
    builder.flow(cluster, table, 150, ip_to(service), to_services);
    for network in &intent.cluster().pod_networks {
        let actions = vec![Action::Goto(Table::RemotePod)];
        builder.flow(cluster, table, 100, ip_to(network.cidr), actions);
    }
    builder.flow(cluster, table, 50, ip_to(MULTICAST), vec![Action::Goto(Table::Multicast)]);
    builder.flow(cluster, table, 10, ip(IpMatch::default()), vec![Action::Goto(Table::Leave)]);
}

fn local_pods(builder: &mut Builder<'_>) {
    let model = builder.model;
    if model.has_services() {
        let own = model.node_subject(builder.node);
        let gateway = ip_to(host(model.gateway(builder.node)));
        builder.flow(own, Table::LocalPod, 300, gateway, vec![Action::Output(OfPort::TUN)]);
    }
    for table in [Table::ArpLocal, Table::LocalPod] {
        let to = if table == Table::ArpLocal { arp_to } else { ip_to };
        for workload in model.workloads(builder.node) {
            let endpoint = model.endpoint(workload);
            let vnid = model.vnid(model.project(workload)).get();
            let mut actions = Vec::with_capacity(5);
            if table == Table::LocalPod && model.is_service_backend(workload) {
                // It may have been sent to a service.
                actions.push(Action::SetEthDst(endpoint.mac));
            }
            if vnid != 0 && model.mode().carries_vnids() {
                actions.push(Action::Load(Register::Destination, vnid));
            }
            actions.push(Action::Load(Register::Port, endpoint.port.get().into()));
            actions.extend(match (table, model.mode()) {
                (Table::LocalPod, Mode::Networkpolicy) => {
                    let selection = model.selection(workload, Direction::Ingress);
                    let load = policy_load(Register::Receiver, selection);
                    let next =
                        if load.is_some() { Table::PolicyTrack } else { Table::PolicyCommit };
                    load.into_iter().chain([Action::Goto(next)]).collect::<Vec<_>>()
                }
                _ => vec![Action::Goto(Table::Isolation)],
            });
            let subject = model.workload_subject(workload);
            builder.flow(subject, table, 100, to(host(endpoint.address)), actions);
        }
        builder.default(table, vec![]);
    }
}

fn other_nodes(builder: &mut Builder<'_>) {
    for (table, per_node) in
        [(Table::ArpRemote, PerNode::ArpRemote), (Table::RemotePod, PerNode::RemotePod)]
    {
        builder.other_nodes(per_node);
        builder.default(table, vec![]);
    }
}

/// Sends what is for the pods of a node through its tunnel.
pub(super) fn to_node(model: &Model, node: NodeId, table: Table) -> Flow<'_> {
    let to = if table == Table::ArpRemote { arp_to } else { ip_to };
    Flow {
        table,
        priority: 100,
        matches: to(model.subnet(node)),
        actions: vec![
            Action::SetTunnelId,
            Action::SetTunnelDst(model.intent()[node].address),
            Action::Output(OfPort::VXLAN),
        ],
        subject: model.node_subject(node),
        also: Vec::new(),
    }
}
