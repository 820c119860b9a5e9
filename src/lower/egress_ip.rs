//! Egress IPs: a pod's packets go to the node that holds its address, and leave by its uplink.
//!
//! The pod's own node has applied the egress policy. The holder takes the packets of just those
//! pods from the tunnel, hands them to its kernel, which translates their source by one map, and
//! lets the replies through to the pods' nodes.

use super::{Builder, host, ip, ip_to};
use crate::artifact::host::EGRESS_IP_MAP;
use crate::artifact::node::EgressIp;
use crate::dataplane::nft::AddressMap;
use crate::dataplane::openflow::{Action, IpMatch, Match};
use crate::intent::NodeId;
use crate::model::{Model, Workload};
use crate::pipeline::{OfPort, Table};
use crate::value::Mac;

pub(super) fn lower(builder: &mut Builder<'_>) {
    to_holders(builder);
    hold(builder);
}

/// Table 101: pods of this node whose address another node holds.
fn to_holders(builder: &mut Builder<'_>) {
    let model = builder.model;
    let mut any = false;
    for workload in model.workloads(builder.node) {
        let Some(leaving) = model.leaving(workload) else { continue };
        if leaving.ip.node == builder.node {
            continue;
        }
        any = true;
        let source = Some(host(model.endpoint(workload).address));
        let actions = vec![
            Action::SetTunnelId,
            Action::SetTunnelDst(model.intent()[leaving.ip.node].address),
            Action::Output(OfPort::VXLAN),
        ];
        let matches = ip(IpMatch { src: source, ..IpMatch::default() });
        let subject = model.egress_ip_subject(leaving);
        builder.flow(subject, Table::EgressOut, 100, matches, actions);
    }
    if any {
        // The pods' own node is near, whatever address they have for the outside.
        let own = ip_to(host(model.intent()[builder.node].address));
        let subject = model.node_subject(builder.node);
        builder.flow(subject, Table::EgressOut, 200, own, vec![Action::Output(OfPort::TUN)]);
    }
}

/// Table 31: what pods of other nodes send out by this one. Table 25: the replies to them.
fn hold(builder: &mut Builder<'_>) {
    let model = builder.model;
    let mac = Mac::of_ipv4(model.gateway(builder.node));
    let mut any = false;
    for (workload, leaving) in model.workloads_egressing_via(builder.node) {
        if model.node(workload) == builder.node {
            continue;
        }
        any = true;
        let address = host(model.endpoint(workload).address);
        let vnid = model.vnid(model.project(workload)).get();
        let matches = Match {
            source: Some(vnid),
            ..ip(IpMatch { src: Some(address), ..IpMatch::default() })
        };
        let subject = model.egress_ip_subject(leaving);
        let actions = vec![Action::SetEthDst(mac), Action::Output(OfPort::TUN)];
        builder.flow(subject, Table::RouteFromVxlan, 100, matches, actions);
        super::entry::passed(builder, subject, address);
    }
    if any {
        let cluster = model.cluster_subject();
        for network in model.intent().cluster().networks() {
            builder.flow(cluster, Table::RouteFromVxlan, 150, ip_to(network), vec![]);
        }
    }
}

/// The addresses that a node holds.
pub(super) fn wiring(model: &Model, node: NodeId) -> Vec<EgressIp> {
    let Some(uplink) = &model.intent()[node].uplink else { return Vec::new() };
    let mut held: Vec<EgressIp> = model
        .egress_ips_on(node)
        .map(|(ip, subject)| EgressIp {
            address: ip.address,
            uplink: uplink.subnet,
            cookie: subject.cookie,
        })
        .collect();
    held.sort_by_key(|ip| ip.address);
    held
}

/// Which pods get which address, where the node holds any.
pub(super) fn map(model: &Model, node: NodeId) -> Option<AddressMap> {
    let element = |(workload, leaving): (Workload, crate::model::EgressAssignment)| {
        (model.endpoint(workload).address, leaving.ip.address)
    };
    let mut elements: Vec<_> = model.workloads_egressing_via(node).map(element).collect();
    elements.sort_unstable();
    (!elements.is_empty()).then_some(AddressMap { name: EGRESS_IP_MAP, elements })
}
