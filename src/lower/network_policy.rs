//! Mode `networkpolicy`: tables 27, 28 and 78 to 86, and what they need of the others.
//!
//! The policies of a pod are applied at its own node, in both directions. Whether any selects a pod, the
//! flows say that it has anyway: in table 20 they load [`Register::Sender`], in table 70
//! [`Register::Receiver`]. Only packets of such pods are tracked, once on each node. A reply and an error
//! about a connection pass by that; every packet in the direction of its connection is held against the
//! policies in force, so that one that closes something closes it at once. A connection is remembered
//! when all checks of the node have let it through, never before: a refused one leaves nothing behind by
//! which an answer could come.
//!
//! ```text
//!  from a pod: 20, 30, also by way of 55 or of 60 and 61 ─→ 27 let out? ─→ 28 route
//!  to a pod:   70 ─→ 78 track ─→ 79 reply? ─→ 80 let in? ─→ 84 remember ─→ 85, 86 service? ─→ output
//! ```
//!
//! What a pod sends to a service is held against its policies when the service's address is translated,
//! and a reply gets that address back when the policies of its receiver have seen the real one.
//!
//! A node reaches its own pods and is reached by them: what it sends comes by `tun0` from an address of
//! its own. What comes from outside by its node ports has another source, which nobody else has
//! ([`Model::node_port_source`]), so policies are asked about it.

mod node_port;
mod rules;

pub(super) use rules::Shared;

use std::net::Ipv4Addr;

use super::{Builder, arp, host, ip, ip_to};
use crate::dataplane::openflow::{
    Action, AddressBits, ArpMatch, CtState, IpMatch, MaskedAddress, Match, PolicyState,
};
use crate::intent::Direction;
use crate::model::{Model, Selection};
use crate::pipeline::{OfPort, Register, Table};
use crate::resolve::last_host;

/// What tells the tables behind that a policy selects a pod.
pub(super) fn policy_load(register: Register, selection: Selection) -> Option<Action> {
    match selection {
        Selection::None => None,
        Selection::Open => Some(Action::Load(register, 1)),
        Selection::Isolated => Some(Action::Load(register, 3)),
    }
}

pub(super) fn lower(builder: &mut Builder<'_>) {
    let model = builder.model;
    node_port::lower(builder);
    let mut workloads = model.workloads(builder.node);
    if workloads.any(|workload| model.is_selected(workload)) {
        senders(builder);
        route(builder);
        receivers(builder);
        rules::lower(builder);
    }
    arp_and_out(builder);
}

/// Tracks the packet for the check of its sender's policies.
fn track() -> Vec<Action> {
    vec![Action::Load(Register::Tracked, 1), Action::TrackForPolicies(Table::PolicyEgress)]
}

fn selected(matches: Match) -> Match {
    Match { policy: Some(PolicyState::SenderSelected), ..matches }
}

/// Tables 30, 55 and 61: what selected pods send is tracked and checked when it is known to whom it
/// goes. What is for the own node, and multicast, isn't.
fn senders(builder: &mut Builder<'_>) {
    let model = builder.model;
    let cluster = model.cluster_subject();
    let own = model.node_subject(builder.node);
    for bits in node_addresses(model) {
        let bits = Some(AddressBits::Destination(bits));
        let matches = selected(ip(IpMatch { bits, ..IpMatch::default() }));
        let actions = [Action::Load(Register::NotPod, 1)].into_iter().chain(track()).collect();
        builder.flow(cluster, Table::Route, 215, matches, actions);
    }
    for network in &model.intent().cluster().pod_networks {
        builder.flow(cluster, Table::Route, 210, selected(ip_to(network.cidr)), track());
    }
    let leave = || vec![Action::Goto(Table::Leave)];
    for address in model.own_addresses(builder.node) {
        builder.flow(own, Table::Route, 25, ip_to(host(address)), leave());
    }
    builder.flow(cluster, Table::Route, 20, selected(ip(IpMatch::default())), track());
    if !model.node_ports().is_empty() {
        for ct in [CtState::Untracked, CtState::New] {
            for address in model.own_addresses(builder.node) {
                let matches = Match { ct: Some(ct), ..ip_to(host(address)) };
                builder.flow(own, Table::NodePort, 25, matches, leave());
            }
            let matches = Match { ct: Some(ct), ..selected(ip(IpMatch::default())) };
            builder.flow(cluster, Table::NodePort, 20, matches, track());
        }
    }
    if model.has_services() {
        let matches = selected(ip(IpMatch::default()));
        builder.flow(cluster, Table::ServicePod, 160, matches, track());
    }
    let state = |ct| Match { ct: Some(ct), ..ip(IpMatch::default()) };
    let passed = || vec![Action::Goto(Table::PolicyRoute)];
    for ct in [CtState::Reply, CtState::Related] {
        builder.flow(cluster, Table::PolicyEgress, 400, state(ct), passed());
    }
    let open = Match { policy: Some(PolicyState::SenderOpen), ..Match::default() };
    builder.flow(cluster, Table::PolicyEgress, 300, open, passed());
    builder.default(Table::PolicyEgress, vec![]);
}

/// Table 28: where what was let out goes, as table 30 has it. A connection to another node or to the
/// outside is remembered here; one to a pod of this node, when its policies have let it in.
fn route(builder: &mut Builder<'_>) {
    let model = builder.model;
    let cluster = model.cluster_subject();
    let table = Table::PolicyRoute;
    let subnet = ip_to(model.subnet(builder.node));
    let own = model.node_subject(builder.node);
    builder.flow(own, table, 200, subnet, vec![Action::Goto(Table::LocalPod)]);
    let begins = |matches| Match { ct: Some(CtState::New), ..matches };
    let remembered = |to| vec![Action::CommitForPolicies, Action::Goto(to)];
    for network in &model.intent().cluster().pod_networks {
        let to = || ip_to(network.cidr);
        builder.flow(cluster, table, 110, begins(to()), remembered(Table::RemotePod));
        builder.flow(cluster, table, 100, to(), vec![Action::Goto(Table::RemotePod)]);
    }
    let any = || ip(IpMatch::default());
    builder.flow(cluster, table, 20, begins(any()), remembered(Table::Leave));
    builder.flow(cluster, table, 10, any(), vec![Action::Goto(Table::Leave)]);
    builder.default(table, vec![]);
}

/// Tables 78 and 79: what selected pods get is tracked, unless their own node sends it or it was tracked
/// when it was sent. A reply is let in, and an error.
fn receivers(builder: &mut Builder<'_>) {
    let model = builder.model;
    let cluster = model.cluster_subject();
    let own = model.node_subject(builder.node);
    let table = Table::PolicyTrack;
    let let_in = || vec![Action::Goto(Table::PolicyCommit)];
    let from_node = |network| {
        let from = ip(IpMatch { src: Some(network), ..IpMatch::default() });
        Match { in_port: Some(OfPort::TUN), ..from }
    };
    let gateway = model.gateway(builder.node);
    for address in [gateway].into_iter().chain(model.own_addresses(builder.node)) {
        builder.flow(own, table, 300, from_node(host(address)), let_in());
    }
    if model.has_services() {
        // The host refuses in the name of services that nobody is behind.
        let services = from_node(model.intent().cluster().service_network);
        builder.flow(cluster, table, 300, services, let_in());
    }
    let tracked = Match { policy: Some(PolicyState::Tracked), ..Match::default() };
    builder.flow(cluster, table, 200, tracked, vec![Action::Goto(Table::PolicyReply)]);
    let actions =
        vec![Action::Load(Register::Tracked, 1), Action::TrackForPolicies(Table::PolicyReply)];
    builder.flow(cluster, table, 100, ip(IpMatch::default()), actions);
    builder.default(table, vec![]);
    let table = Table::PolicyReply;
    for ct in [CtState::Reply, CtState::Related] {
        let matches = Match { ct: Some(ct), ..ip(IpMatch::default()) };
        builder.flow(cluster, table, 400, matches, let_in());
    }
    let open = Match { policy: Some(PolicyState::ReceiverOpen), ..Match::default() };
    builder.flow(cluster, table, 300, open, let_in());
    for bits in node_addresses(model) {
        let matches = ip(IpMatch { bits: Some(AddressBits::Source(bits)), ..IpMatch::default() });
        let actions = vec![Action::Load(Register::NotPod, 1), Action::Goto(Table::Isolation)];
        builder.flow(cluster, table, 200, matches, actions);
    }
    builder.default(table, vec![Action::Goto(Table::Isolation)]);
}

/// Tables 80, for ARP, and 84 to 86.
fn arp_and_out(builder: &mut Builder<'_>) {
    let model = builder.model;
    let cluster = model.cluster_subject();
    let output = || vec![Action::OutputRegister];
    builder.flow(cluster, Table::Isolation, 300, arp(ArpMatch::default()), output());
    builder.default(Table::Isolation, vec![]);
    // What comes from the node may have been tracked by the node itself.
    let begins = Match {
        ct: Some(CtState::New),
        policy: Some(PolicyState::Tracked),
        ..ip(IpMatch::default())
    };
    let next = if model.has_services() { Table::PolicyServiceReply } else { Table::PolicyOut };
    let remembered = vec![Action::CommitForPolicies, Action::Goto(next)];
    builder.flow(cluster, Table::PolicyCommit, 100, begins, remembered);
    builder.default(Table::PolicyCommit, vec![Action::Goto(next)]);
    if model.has_services() {
        builder.default(Table::PolicyServiceReply, vec![Action::Goto(Table::PolicyOut)]);
    }
    builder.default(Table::PolicyOut, output());
}

/// The addresses on the pod network that are nodes' own: the gateways, and, where there are node ports,
/// the sources of what comes by them. In a pod network that is divided evenly, they have the same place
/// in the part of each node, so that one match is enough for all.
fn node_addresses(model: &Model) -> Vec<MaskedAddress> {
    let intent = model.intent();
    let mut found = Vec::new();
    let ends = |subnet| {
        let last = (!model.node_ports().is_empty()).then(|| last_host(subnet));
        subnet.hosts().next().into_iter().chain(last)
    };
    for network in &intent.cluster().pod_networks {
        let subnets: Vec<ipnet::Ipv4Net> = intent
            .nodes()
            .map(|(id, _)| model.subnet(id))
            .filter(|subnet| network.cidr.contains(subnet))
            .collect();
        if subnets.iter().any(|subnet| subnet.prefix_len() != network.host_prefix) {
            found.extend(subnets.into_iter().flat_map(ends).map(MaskedAddress::exact));
            continue;
        }
        let Some(first) = subnets.first() else { continue };
        let in_part = !u32::from(first.netmask());
        let mask = Ipv4Addr::from(u32::from(network.cidr.netmask()) | in_part);
        let patterns = ends(*first).map(|address| MaskedAddress { value: address & mask, mask });
        found.extend(patterns);
    }
    found.sort_unstable();
    found
}

/// The directions in which a pod or egress router is isolated.
fn isolated(
    model: &Model,
    workload: crate::model::Workload,
) -> impl Iterator<Item = Direction> + use<'_> {
    let isolates =
        move |direction: &Direction| model.selection(workload, *direction) == Selection::Isolated;
    Direction::BOTH.into_iter().filter(isolates)
}
