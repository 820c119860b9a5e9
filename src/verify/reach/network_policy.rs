//! What network policies say, straight from their specification: labels are compared one by one, and
//! nothing is looked up, united or taken apart that the flows are made from.

use std::net::Ipv4Addr;

use super::Reach;
use crate::intent::{
    Direction, NetworkPolicy, NodeId, Peer, PolicyRule, ProjectId, Verdict, Workload,
};
use crate::model::Model;
use crate::spec::Labels;
use crate::value::{Port, PortName, Protocol};

/// The other end of a connection, as the policies of a pod see it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Other {
    /// A pod or egress router, behind a service or not.
    Workload(Workload),
    /// A process of a node, by the node's `tun0`.
    Node(NodeId),
    /// Whoever has this address.
    Address(Ipv4Addr),
}

/// What the policies that select a pod say about the first packet of a connection in a direction.
/// `transport` is the protocol with the port of the destination, `None` for what has no ports.
#[must_use]
pub fn policies(
    model: &Model,
    direction: Direction,
    subject: Workload,
    other: Other,
    transport: Option<(Protocol, Port)>,
) -> Reach {
    let intent = model.intent();
    let project = model.project(subject);
    // They are sorted by project.
    let all = intent.network_policies();
    let own = &all[all.partition_point(|policy| policy.project < project)..];
    let own = own.iter().take_while(|policy| policy.project == project);
    let selecting = own.filter(|policy| policy.selector.matches(labels(model, subject)));
    let isolating: Vec<&NetworkPolicy> =
        selecting.filter(|policy| policy.rules(direction).is_some()).collect();
    let Some(first) = isolating.first() else {
        let because =
            format!("no policy isolates the {} of {}", direction.as_str(), name(model, subject));
        return Reach::new(Verdict::Allow, because, None);
    };
    let destination = match (direction, other) {
        (Direction::Ingress, _) => Some(subject),
        (Direction::Egress, Other::Workload(workload)) => Some(workload),
        (Direction::Egress, _) => None,
    };
    for policy in &isolating {
        for rule in policy.rules(direction).into_iter().flatten() {
            if is_peer(model, project, rule, other) && takes(model, rule, destination, transport) {
                let because = format!(
                    "{} of policy {}/{} allows it",
                    direction.as_str(),
                    intent[project].name,
                    policy.name
                );
                return Reach::new(Verdict::Allow, because, Some(rule.place));
            }
        }
    }
    let names: Vec<String> = isolating.iter().map(|policy| policy.name.to_string()).collect();
    let because = format!(
        "the {} of {} is isolated by {}",
        direction.as_str(),
        name(model, subject),
        names.join(", ")
    );
    Reach::new(Verdict::Deny, because, Some(first.place))
}

fn name(model: &Model, workload: Workload) -> String {
    match workload {
        Workload::Pod(id) => model.intent().pod_name(id),
        Workload::Router(id) => model.intent()[id].name.to_string(),
    }
}

fn labels(model: &Model, workload: Workload) -> &Labels {
    match workload {
        Workload::Pod(id) => &model.intent()[id].labels,
        Workload::Router(id) => &model.intent()[id].labels,
    }
}

fn is_peer(model: &Model, own: ProjectId, rule: &PolicyRule, other: Other) -> bool {
    let Some(peers) = &rule.peers else { return true };
    let address = match other {
        Other::Workload(workload) => model.endpoint(workload).address,
        Other::Node(node) => model.gateway(node),
        Other::Address(address) => address,
    };
    peers.iter().any(|peer| match (peer, other) {
        (Peer::Block { cidr, except }, _) => {
            cidr.contains(&address) && !except.iter().any(|part| part.contains(&address))
        }
        (Peer::Pods { projects, pods }, Other::Workload(workload)) => {
            let project = model.project(workload);
            let near = match projects {
                None => project == own,
                Some(selector) => selector.matches(&model.intent()[project].labels),
            };
            near && pods.matches(labels(model, workload))
        }
        (Peer::Pods { .. }, Other::Node(_) | Other::Address(_)) => false,
    })
}

fn takes(
    model: &Model,
    rule: &PolicyRule,
    destination: Option<Workload>,
    transport: Option<(Protocol, Port)>,
) -> bool {
    let Some(ports) = &rule.ports else { return true };
    let Some((protocol, port)) = transport else { return false };
    let named = |protocol: Protocol, name: &PortName| {
        let Some(Workload::Pod(pod)) = destination else { return None };
        let mut own = model.intent()[pod].ports.iter();
        let found = own.find(|(own, of, _)| own.as_str() == name.as_str() && *of == protocol);
        found.map(|(_, _, port)| *port)
    };
    ports.iter().any(|ports| ports.take(protocol, port, named))
}
