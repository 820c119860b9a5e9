//! Tables 110 to 120: multicast, copied to the pods of the sender's network and to nobody else.
//!
//! Nobody has to join a group: all pods of a network whose projects all enable multicast are
//! members of all groups. The sender's node makes the copies for the nodes that have members; these
//! make copies for their own pods only, so that nothing can go round in circles.
//!
//! One flow can't make any number of copies. It has room for 64 KiB of actions, 1,364 tunnels; and
//! what Open vSwitch makes of it for the datapath may have 64 KiB too, or the rest is left out
//! without a word, however many flows it comes from: on a userspace datapath, 780 tunnels (84 bytes
//! each) were the most. So the copies beyond [`PART`] are made by flows of table 121, which are
//! reached through conntrack: the datapath takes the packet up anew for each, with an empty list
//! of actions. Nothing is committed there, so that no connection is remembered.

use std::collections::{BTreeMap, BTreeSet};

use super::{Builder, ip};
use crate::dataplane::openflow::{Action, IpMatch, Match};
use crate::dataplane::origin::ObjectRef;
use crate::intent::{Membership, NodeId};
use crate::model::{Model, Workload};
use crate::pipeline::{MULTICAST_ZONE, OfPort, Register, Table};

/// The most pods, and the most tunnels, that one flow copies to.
const PART: usize = 512;

/// The nodes that have members, of every VNID with multicast.
pub(super) fn members(model: &Model) -> BTreeMap<u32, BTreeSet<NodeId>> {
    let mut members: BTreeMap<u32, BTreeSet<NodeId>> = BTreeMap::new();
    for (_, pod) in model.intent().pods() {
        if model.without_multicast(pod.project).is_none() {
            members.entry(model.wire_vnid(pod.project)).or_default().insert(pod.node);
        }
    }
    members
}

/// A network with members on this node.
struct Network<'m> {
    /// What its flows stand for.
    subject: &'m ObjectRef,
    /// The ports of its pods.
    ports: BTreeSet<OfPort>,
}

pub(super) fn lower(builder: &mut Builder<'_>) {
    let model = builder.model;
    // These have a VNID too, but are no members.
    let from = |port| Match { in_port: Some(port), ..Match::default() };
    builder.flow(model.cluster_subject(), Table::Multicast, 200, from(OfPort::TUN), vec![]);
    for id in model.routers(builder.node) {
        let router = Workload::Router(*id);
        let matches = from(model.endpoint(router).port);
        builder.flow(model.workload_subject(router), Table::Multicast, 200, matches, vec![]);
    }
    for (vnid, network) in networks(builder) {
        copies(builder, vnid, network);
    }
    for table in [Table::Multicast, Table::MulticastPart, Table::MulticastFromVxlan] {
        builder.default(table, vec![]);
    }
}

/// The networks with multicast that pods of this node are in.
fn networks<'m>(builder: &Builder<'m>) -> BTreeMap<u32, Network<'m>> {
    let model = builder.model;
    let mut networks = BTreeMap::new();
    for workload in model.workloads(builder.node) {
        let project = model.project(workload);
        if matches!(workload, Workload::Router(_)) || model.without_multicast(project).is_some() {
            continue;
        }
        let subject = match model.intent()[project].membership {
            Membership::Own if model.mode().carries_vnids() => model.project_subject(project),
            Membership::Joined(root) => model.project_subject(root),
            Membership::Own | Membership::Global => model.cluster_subject(),
        };
        let network = networks.entry(model.wire_vnid(project));
        let network = network.or_insert_with(|| Network { subject, ports: BTreeSet::new() });
        network.ports.insert(model.endpoint(workload).port);
    }
    networks
}

/// The flows that copy for the pods of one network.
fn copies<'m>(builder: &mut Builder<'m>, vnid: u32, network: Network<'m>) {
    let Network { subject, ports } = network;
    let ports: Vec<Action> = ports.into_iter().map(Action::Output).collect();
    let nodes = builder.common.members(vnid).filter(|node| *node != builder.node);
    let nodes: Vec<NodeId> = nodes.collect();
    let model = builder.model;
    let mut local = ports.chunks(PART).map(<[Action]>::to_vec);
    let mut remote = nodes.chunks(PART).map(|nodes| tunnels(model, nodes));

    let mut from_vxlan = local.next().unwrap_or_default();
    let mut from_pods = from_vxlan.clone();
    let tunnels = remote.next().unwrap_or_default();
    let parts = local.map(|part| (part, true)).chain(remote.map(|part| (part, false)));
    let matches = |part| Match { source: Some(vnid), part, ..ip(IpMatch::default()) };
    for ((part, is_local), number) in parts.zip(1..) {
        let table = Table::MulticastPart;
        let copy =
            [Action::Load(Register::Part, number), Action::Recirculate(table, MULTICAST_ZONE)];
        if is_local {
            from_vxlan.extend_from_slice(&copy);
        }
        from_pods.extend_from_slice(&copy);
        builder.flow(subject, table, 100, matches(Some(number)), part);
    }
    from_pods.extend(tunnels);
    for (table, actions) in [(Table::Multicast, from_pods), (Table::MulticastFromVxlan, from_vxlan)]
    {
        builder.flow(subject, table, 100, matches(None), actions);
    }
}

/// Sends a copy through the tunnel of each node.
fn tunnels(model: &Model, nodes: &[NodeId]) -> Vec<Action> {
    let mut actions = vec![Action::SetTunnelId];
    for node in nodes {
        actions.push(Action::SetTunnelDst(model.intent()[*node].address));
        actions.push(Action::Output(OfPort::VXLAN));
    }
    actions
}
