//! The `networkPolicies` section.

mod hints;
mod instead;

pub(super) use instead::instead_of;

use std::collections::BTreeMap;

use ipnet::Ipv4Net;

use super::{Context, Projects, Wire};
use crate::diagnostic::{Code, Diagnostic};
use crate::input::Cursor;
use crate::intent::{
    Cluster, EgressRouter, NetworkPolicy, Peer, PolicyPorts, PolicyRule, PortSet, ProjectId,
    Service,
};
use crate::spec::{self, Mode, NetworkPolicyPeer, PolicyPort, PolicyType};
use crate::value::{LabelKey, LabelValue, StringValue as _, SubdomainName, ipv4};

/// The label by which selectors call projects by their names, as in Kubernetes.
pub(super) const METADATA_NAME: &str = "kubernetes.io/metadata.name";

pub(super) fn resolve(
    wire: &Wire<'_>,
    projects: &Projects<'_>,
    cluster: &Cluster,
    routers: &[EgressRouter],
    services: &[Service],
    context: &mut Context,
) -> Vec<NetworkPolicy> {
    let mut policies: BTreeMap<(ProjectId, &SubdomainName), (NetworkPolicy, Cursor<'_>)> =
        BTreeMap::new();
    if cluster.mode != Mode::Networkpolicy {
        return Vec::new();
    }
    for (at, wire) in wire.items("networkPolicies", |state| &state.network_policies) {
        let spec::NetworkPolicy { project, name, pod_selector, policy_types, ingress, egress } =
            wire;
        if let Some(at) = at.find("podSelector") {
            context.check_selector(pod_selector, at);
        }
        let ingress_rules = ingress.iter().map(|rule| (&rule.from, &rule.ports));
        let ingress_rules = rules(ingress_rules, at, ("ingress", "from"), context);
        let egress_rules = egress.iter().map(|rule| (&rule.to, &rule.ports));
        let egress_rules = rules(egress_rules, at, ("egress", "to"), context);
        let [isolates_ingress, isolates_egress] = directions(policy_types, !egress.is_empty());
        for (isolates, written, key) in [
            (isolates_ingress, !ingress.is_empty(), "ingress"),
            (isolates_egress, !egress.is_empty(), "egress"),
        ] {
            if written && !isolates {
                type_unused(key, at, context);
            }
        }
        let Some(id) = projects.index.get(project) else {
            let (known, place) = (projects.index.names(), at.key("project").place());
            context.unknown(Code::UnknownProject, "project", project, place, known);
            continue;
        };
        if let Some((_, first)) = policies.get(&(id, name)) {
            let message = format!("the network policy `{project}/{name}` is defined twice");
            context.push(
                Diagnostic::new(Code::DefinedTwice, message)
                    .at(at.key("name").place())
                    .related(first.key("name").place(), "first defined here")
                    .help("remove one of the two, or rename it: policies of a project add up"),
            );
            continue;
        }
        let policy = NetworkPolicy {
            project: id,
            name: name.clone(),
            selector: pod_selector.clone(),
            ingress: isolates_ingress.then_some(ingress_rules),
            egress: isolates_egress.then_some(egress_rules),
            place: at.place(),
        };
        policies.insert((id, name), (policy, at));
    }
    hints::check(policies.values(), projects, cluster, routers, services, context);
    policies.into_values().map(|(policy, _)| policy).collect()
}

/// Whether a policy speaks of what its pods take, and of what they send.
fn directions(types: &[PolicyType], has_egress: bool) -> [bool; 2] {
    if types.is_empty() {
        return [true, has_egress];
    }
    [PolicyType::Ingress, PolicyType::Egress].map(|direction| types.contains(&direction))
}

/// RF267: rules for a direction that the policy doesn't speak of.
fn type_unused(key: &str, at: Cursor<'_>, context: &mut Context) {
    let name = if key == "ingress" { "Ingress" } else { "Egress" };
    context.push(
        Diagnostic::new(
            Code::PolicyTypeUnused,
            format!("the rules under `{key}` have no effect: `policyTypes` doesn't list `{name}`"),
        )
        .at(at.key(key).key_place())
        .related(at.key("policyTypes").key_place(), "the types")
        .help(format!("add `{name}` to `policyTypes`, or remove the rules")),
    );
}

fn rules<'w>(
    rules: impl Iterator<Item = (&'w Vec<NetworkPolicyPeer>, &'w Vec<spec::NetworkPolicyPort>)>,
    at: Cursor<'_>,
    (key, peers_key): (&str, &str),
    context: &mut Context,
) -> Vec<PolicyRule> {
    let mut resolved = Vec::new();
    for ((wire, ports), at) in rules.zip(at.find(key).into_iter().flat_map(Cursor::children)) {
        let places = at.find(peers_key).into_iter().flat_map(Cursor::children);
        let peers = wire.iter().zip(places).filter_map(|(wire, at)| peer(wire, at, context));
        let peers = (!wire.is_empty()).then(|| peers.collect());
        let ports = resolve_ports(ports, at, context);
        resolved.push(PolicyRule { peers, ports, place: at.place() });
    }
    resolved
}

fn peer(wire: &NetworkPolicyPeer, at: Cursor<'_>, context: &mut Context) -> Option<Peer> {
    let NetworkPolicyPeer { pod_selector, namespace_selector, ip_block } = wire;
    for (selector, key) in
        [(pod_selector, "podSelector"), (namespace_selector, "namespaceSelector")]
    {
        if let (Some(selector), Some(at)) = (selector, at.find(key)) {
            context.check_selector(selector, at);
        }
    }
    match (pod_selector, namespace_selector, ip_block) {
        (None, None, None) => {
            context.push(
                Diagnostic::new(Code::NetworkPolicyPeer, "the peer means nobody")
                    .at(at.place())
                    .help(
                        "add `podSelector`, `namespaceSelector` or `ipBlock`; for everybody, leave \
                         the list out",
                    ),
            );
            None
        }
        (None, None, Some(block)) => resolve_block(block, at.key("ipBlock"), context),
        (pods, projects, None) => {
            Some(Peer::Pods { projects: projects.clone(), pods: pods.clone().unwrap_or_default() })
        }
        (pods, _, Some(_)) => {
            let other = if pods.is_some() { "podSelector" } else { "namespaceSelector" };
            context.push(
                Diagnostic::new(
                    Code::ConflictingKeys,
                    format!("the peer has both `ipBlock` and `{other}`"),
                )
                .at(at.key("ipBlock").key_place())
                .related(at.key(other).key_place(), "the other")
                .help("make two peers of it, one with the block and one with the selectors"),
            );
            None
        }
    }
}

/// RF261: what a block leaves out is a part of it, and not all of it.
fn resolve_block(wire: &spec::IpBlock, at: Cursor<'_>, context: &mut Context) -> Option<Peer> {
    let spec::IpBlock { cidr, except } = wire;
    let cidr = context.take(ipv4(cidr), at.key("cidr").place());
    let mut parts = Vec::with_capacity(except.len());
    let places = at.find("except").into_iter().flat_map(Cursor::children);
    for (part, part_at) in except.iter().zip(places) {
        let Some(part) = context.take(ipv4(part), part_at.place()) else { continue };
        let Some(cidr) = cidr else { continue };
        if !cidr.contains(&part) || cidr == part {
            let message = if cidr == part {
                format!("the exception {part} is all of the block")
            } else {
                format!("the exception {part} is not in the block {cidr}")
            };
            context.push(
                Diagnostic::new(Code::NetworkPolicyExcept, message)
                    .at(part_at.place())
                    .related(at.key("cidr").place(), "the block")
                    .help("an exception is a smaller part of its block"),
            );
            continue;
        }
        parts.push(part);
    }
    let cidr = cidr?;
    if parts.len() == except.len() && without(cidr, &parts).is_empty() {
        context.push(
            Diagnostic::new(
                Code::IpBlockEmpty,
                format!("the exceptions leave nothing of the block {cidr}"),
            )
            .at(at.key("except").key_place())
            .help("remove some of them, or the peer"),
        );
    }
    Some(Peer::Block { cidr, except: parts })
}

/// A network without some parts of it, as the fewest networks, sorted.
pub(crate) fn without(network: Ipv4Net, parts: &[Ipv4Net]) -> Vec<Ipv4Net> {
    if parts.iter().any(|part| part.contains(&network)) {
        return Vec::new();
    }
    if !parts.iter().any(|part| network.contains(part)) {
        return vec![network];
    }
    let halves = network.subnets(network.prefix_len() + 1).into_iter().flatten();
    halves.flat_map(|half| without(half, parts)).collect()
}

/// RF262: a range has a first port, by number, and doesn't go backwards.
fn resolve_ports(
    ports: &[spec::NetworkPolicyPort],
    at: Cursor<'_>,
    context: &mut Context,
) -> Option<Vec<PolicyPorts>> {
    if ports.is_empty() {
        return None;
    }
    let places = at.find("ports").into_iter().flat_map(Cursor::children);
    let resolve = |(wire, at): (&spec::NetworkPolicyPort, Cursor<'_>)| {
        let spec::NetworkPolicyPort { protocol, port, end_port } = wire;
        let ports = match (port, end_port) {
            (None, None) => PortSet::All,
            (Some(PolicyPort::Number(first)), None) => PortSet::Range(first.get(), first.get()),
            (Some(PolicyPort::Number(first)), Some(last)) if first <= last => {
                PortSet::Range(first.get(), last.get())
            }
            (Some(PolicyPort::Named(name)), None) => PortSet::Named(name.clone()),
            (first, Some(last)) => {
                let message = match first {
                    Some(PolicyPort::Number(first)) => {
                        format!("the port range from {first} to {last} goes backwards")
                    }
                    Some(PolicyPort::Named(name)) => {
                        format!(
                            "a range can't begin at the port `{name}`, which has no number here"
                        )
                    }
                    None => "the port range has no first port".to_owned(),
                };
                context.push(
                    Diagnostic::new(Code::NetworkPolicyPort, message)
                        .at(at.key("endPort").place())
                        .help("`port` is the first of a range, by number, and `endPort` the last"),
                );
                return None;
            }
        };
        // The same set, so that nothing depends on how it is written.
        let ports = if ports == PortSet::Range(1, u16::MAX) { PortSet::All } else { ports };
        Some(PolicyPorts { protocol: (*protocol).into(), ports })
    };
    Some(ports.iter().zip(places).filter_map(resolve).collect())
}

/// RF265: gives every project the label with its name.
pub(super) fn name_projects(projects: &mut Projects<'_>, context: &mut Context) {
    let Ok(key) = LabelKey::parse(METADATA_NAME) else { return };
    for (project, (at, _)) in projects.list.iter_mut().zip(&projects.wire) {
        let Ok(name) = LabelValue::parse(project.name.as_str()) else { continue };
        if let Some(other) = project.labels.0.insert(key.clone(), name.clone())
            && other != name
        {
            let message = format!("the label `{METADATA_NAME}` of project `{name}` says `{other}`");
            context.push(
                Diagnostic::new(Code::MetadataName, message)
                    .at(at.key("labels").key(METADATA_NAME).place())
                    .help("leave it out: every project has it, with its own name"),
            );
        }
    }
}
