//! Tables 99 to 101: what leaves the cluster.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;

use ipnet::Ipv4Net;

use super::{Builder, host, ip, ip_to};
use crate::dataplane::openflow::{
    Action, Flow, Fragment, IpMatch, L4, MaskedPort, Match, port_masks,
};
use crate::intent::{EgressRule, NodeId, ProjectId, Verdict};
use crate::model::Model;
use crate::pipeline::{OfPort, Table};
use crate::value::{Port, Protocol};

/// RFC 1112, section 4, with the limited broadcast address of RFC 919.
const RESERVED: Ipv4Net = Ipv4Net::new_assert(Ipv4Addr::new(240, 0, 0, 0), 4);

pub(super) fn lower(builder: &mut Builder<'_>) {
    leave(builder);
    policies(builder);
    builder.default(Table::EgressOut, vec![Action::Output(OfPort::TUN)]);
}

/// What no policy can open or close.
fn leave(builder: &mut Builder<'_>) {
    let model = builder.model;
    let cluster = model.cluster_subject();
    let own = model.node_subject(builder.node);
    builder.flows.push_shared(builder.common.tunnels());
    builder.flow(cluster, Table::Leave, 200, ip_to(RESERVED), vec![]);
    let dns = Some(MaskedPort::exact(Port::DNS.get()));
    let dst = Some(host(model.intent()[builder.node].address));
    for protocol in [Protocol::Tcp, Protocol::Udp] {
        for (ports, fragment) in [(dns, None), (None, Some(Fragment::Later))] {
            let l4 = L4::of(protocol, ports);
            let matches = ip(IpMatch { dst, l4, fragment, ..IpMatch::default() });
            builder.flow(own, Table::Leave, 100, matches, vec![Action::Goto(Table::EgressOut)]);
        }
    }
    builder.default(Table::Leave, vec![Action::Goto(Table::EgressPolicy)]);
}

/// Drops what a node would take for a tunnel's: from a pod, it carries the address of its own node.
/// Only where nodes take it: a match on a port makes Open vSwitch look at that of every datagram.
pub(super) fn to_tunnel(model: &Model, node: NodeId) -> Flow<'_> {
    let vxlan = MaskedPort::exact(model.intent().cluster().vxlan_port.get());
    let dst = Some(host(model.intent()[node].address));
    Flow {
        table: Table::Leave,
        priority: 300,
        matches: ip(IpMatch { dst, l4: L4::Udp(Some(vxlan)), ..IpMatch::default() }),
        actions: vec![],
        subject: model.node_subject(node),
        also: Vec::new(),
    }
}

/// The policies of the projects that have pods on this node.
fn policies(builder: &mut Builder<'_>) {
    let model = builder.model;
    let workloads = model.workloads(builder.node);
    let projects: BTreeSet<_> = workloads.map(|workload| model.project(workload)).collect();
    for project in projects {
        builder.flows.push_shared(builder.common.policy(project));
    }
    builder.default(Table::EgressPolicy, vec![Action::Goto(Table::EgressOut)]);
}

/// The flows of the policy of one project.
pub(super) fn policy(model: &Model, project: ProjectId) -> Vec<Flow<'_>> {
    let vnid = model.vnid(project).get();
    // Rules of one protocol let the same fragments pass; the first of them is enough.
    let mut fragments = BTreeSet::new();
    let mut flows = Vec::new();
    for (rule, subject, rank) in model.ranked_rules(project) {
        for conditions in rule_matches(rule, model.networks(rule)) {
            let fragment = conditions.fragment.is_some();
            if fragment && !fragments.insert((rank, conditions.clone())) {
                continue;
            }
            flows.push(Flow {
                table: Table::EgressPolicy,
                priority: rank,
                matches: Match { source: Some(vnid), ..ip(conditions) },
                actions: match rule.verdict {
                    Verdict::Allow => vec![Action::Goto(Table::EgressOut)],
                    Verdict::Deny => vec![],
                },
                subject,
                also: Vec::new(),
            });
        }
    }
    flows
}

/// The packets that a rule is about. Fragments behind the first have no ports: they pass where
/// an allowed first one may have gone, and are useless to anybody who never got a first.
fn rule_matches(rule: &EgressRule, networks: &[Ipv4Net]) -> Vec<IpMatch> {
    networks.iter().flat_map(|network| matches_to(rule, *network)).collect()
}

fn matches_to(rule: &EgressRule, network: Ipv4Net) -> Vec<IpMatch> {
    let dst = Some(network).filter(|cidr| cidr.prefix_len() > 0);
    let any = IpMatch { dst, ..IpMatch::default() };
    if rule.ports.is_empty() {
        return vec![any];
    }
    // A set, since the ranges that a user lists may meet.
    let mut matches = BTreeSet::new();
    for ports in &rule.ports {
        let l4 = |port| L4::of(ports.protocol, port);
        let Some(range) = &ports.range else {
            matches.insert(IpMatch { l4: l4(None), ..any.clone() });
            continue;
        };
        for mask in port_masks(range) {
            matches.insert(IpMatch { l4: l4(Some(mask)), ..any.clone() });
        }
        if rule.verdict == Verdict::Allow {
            let fragment = Some(Fragment::Later);
            matches.insert(IpMatch { l4: l4(None), fragment, ..any.clone() });
        }
    }
    matches.into_iter().collect()
}
