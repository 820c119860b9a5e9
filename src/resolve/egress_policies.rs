//! The `egressPolicies` section.

use std::collections::BTreeMap;

use ipnet::Ipv4Net;

use super::{Context, Projects, Wire};
use crate::diagnostic::{Code, Diagnostic, Place, counted};
use crate::input::{Cursor, rule_destination, rule_verdict};
use crate::intent::{
    Addresses, Cluster, EgressPolicy, EgressRule, Ports, ProjectId, Target, Verdict,
};
use crate::spec;
use crate::value::{Name, ipv4};

/// The most rules of a policy, as in openshift-sdn.
const MAX_RULES: usize = 1000;

pub(super) fn resolve(
    wire: &Wire<'_>,
    projects: &Projects<'_>,
    cluster: &Cluster,
    context: &mut Context,
) -> Vec<EgressPolicy> {
    let mut policies: BTreeMap<ProjectId, (EgressPolicy, Place)> = BTreeMap::new();
    for (at, wire) in wire.items("egressPolicies", |state| &state.egress_policies) {
        let spec::EgressPolicy { project: name, rules } = wire;
        let place = at.key("project").place();
        policy_length(rules.len(), at, context);
        let rules = resolve_rules(rules, at, cluster, context);
        let Some(project) = projects.index.get(name) else {
            let known = projects.index.names();
            context.unknown(Code::UnknownProject, "project", name, place, known);
            continue;
        };
        policy_global(project, name, place, projects, context);
        policy_joined(project, name, place, projects, context);
        if let Some((_, first)) = policies.get(&project) {
            context.push(
                Diagnostic::new(
                    Code::PolicyTwice,
                    format!("the project `{name}` has two egress policies"),
                )
                .at(place)
                .related(*first, "the first")
                .help("put all rules into one policy, in the order in which they count"),
            );
            continue;
        }
        policies.insert(project, (EgressPolicy { project, rules, place: at.place() }, place));
    }
    policies.into_values().map(|(policy, _)| policy).collect()
}

/// RF074 and RF075: a policy has 1 to 1,000 rules.
fn policy_length(rules: usize, at: Cursor<'_>, context: &mut Context) {
    if rules == 0 {
        context.push(
            Diagnostic::new(Code::PolicyEmpty, "the egress policy has no rules")
                .at(at.key("rules").place())
                .help("add rules, or remove the policy: without one everything is allowed"),
        );
    } else if rules > MAX_RULES {
        let message = format!("the egress policy has {}", counted(rules, "rule"));
        context.push(
            Diagnostic::new(Code::PolicyTooLong, message)
                .at(at.key("rules").key_place())
                .help(format!("{MAX_RULES} is the most; unite neighbouring networks")),
        );
    }
}

/// RF070: the rules of a global project would be those of all global projects.
fn policy_global(
    project: ProjectId,
    name: &Name,
    place: Place,
    projects: &Projects<'_>,
    context: &mut Context,
) {
    if let Some(&global) = projects.global.get(&project) {
        context.push(
            Diagnostic::new(
                Code::PolicyGlobal,
                format!("the global project `{name}` can't have an egress policy"),
            )
            .at(place)
            .related(global, "made global here")
            .help("move the pods that it is meant for into a project of their own"),
        );
    }
}

/// RF071: the rules of a joined project would be those of all projects of the join.
fn policy_joined(
    project: ProjectId,
    name: &Name,
    place: Place,
    projects: &Projects<'_>,
    context: &mut Context,
) {
    if let Some(&joined) = projects.joins.get(&project) {
        context.push(
            Diagnostic::new(
                Code::PolicyJoined,
                format!("the joined project `{name}` can't have an egress policy"),
            )
            .at(place)
            .related(joined, "joined here")
            .help("take the project out of the join, or remove the policy"),
        );
    }
}

fn resolve_rules(
    rules: &[spec::EgressRule],
    at: Cursor<'_>,
    cluster: &Cluster,
    context: &mut Context,
) -> Vec<EgressRule> {
    let mut resolved: Vec<EgressRule> = Vec::with_capacity(rules.len());
    for (rule, at) in rules.iter().zip(at.find("rules").into_iter().flat_map(Cursor::children)) {
        let spec::EgressRule { allow, deny } = rule;
        let (verdict, target, target_at) = match (allow, deny) {
            (Some(target), None) => (Verdict::Allow, target, at.key("allow")),
            (None, Some(target)) => (Verdict::Deny, target, at.key("deny")),
            _ => {
                context.push(rule_verdict().at(at.place()));
                continue;
            }
        };
        let Some(to) = resolve_target(target, target_at, cluster, context) else { continue };
        let ports = resolve_ports(&target.ports, target_at, context);
        let rule = EgressRule { verdict, to, ports, place: target_at.key_place() };
        never_matches(&rule, &resolved, context);
        resolved.push(rule);
    }
    resolved
}

/// RF076 and RF159: what a rule is about.
fn resolve_target(
    target: &spec::EgressTarget,
    at: Cursor<'_>,
    cluster: &Cluster,
    context: &mut Context,
) -> Option<Target> {
    let spec::EgressTarget { cidr, dns_name, ports: _ } = target;
    let cidr = match (cidr, dns_name) {
        (Some(cidr), None) => cidr,
        (None, Some(name)) => return Some(Target::Name(name.clone())),
        _ => {
            context.push(rule_destination().at(at.place()));
            return None;
        }
    };
    let place = at.key("cidr").place();
    let cidr = context.take(ipv4(cidr), place)?;
    if cidr.prefix_len() == 32 && cidr.addr().is_unspecified() {
        context.push(
            Diagnostic::new(Code::PolicyZeroHost, "`0.0.0.0/32` matches no traffic")
                .at(place)
                .help("everything is 0.0.0.0/0"),
        );
        return None;
    }
    inside_cluster(cidr, place, cluster, context);
    Some(Target::Network(cidr))
}

fn resolve_ports(ports: &[spec::PortRange], at: Cursor<'_>, context: &mut Context) -> Vec<Ports> {
    if let Some(at) = at.find("ports").filter(|_| ports.is_empty()) {
        context.push(
            Diagnostic::new(Code::BadValue, "`ports` takes at least one entry")
                .at(at.place())
                .help("list the ports; without the key, the rule is for all of them"),
        );
    }
    let mut resolved = Vec::with_capacity(ports.len());
    for (range, at) in ports.iter().zip(at.find("ports").into_iter().flat_map(Cursor::children)) {
        if at.children().next().is_none() {
            context.push(
                Diagnostic::new(Code::MissingKey, "the entry has neither `port` nor `protocol`")
                    .at(at.place())
                    .help("add a `port`; `protocol: tcp` alone means all ports of TCP"),
            );
        }
        let spec::PortRange { protocol, port, end_port } = *range;
        if end_port.is_some_and(|last| port.is_none_or(|first| last < first)) {
            let message = match port {
                Some(first) => {
                    format!("the port range from {first} goes backwards")
                }
                None => "the port range has no first port".to_owned(),
            };
            context.push(
                Diagnostic::new(Code::PortRange, message)
                    .at(at.key("endPort").place())
                    .help("`port` is the first of a range and `endPort` the last"),
            );
            continue;
        }
        let range = port.map(|first| first.get()..=end_port.map_or(first, |last| last).get());
        resolved.push(Ports { protocol, range: range.filter(|range| *range != (1..=u16::MAX)) });
    }
    resolved
}

/// RF078: traffic to pods and services never meets an egress policy.
fn inside_cluster(cidr: Ipv4Net, place: Place, cluster: &Cluster, context: &mut Context) {
    if let Some(network) = cluster.networks().find(|network| network.contains(&cidr)) {
        let message = format!("the rule never matches: {cidr} is in the cluster network {network}");
        context.push(
            Diagnostic::new(Code::RuleInsideCluster, message)
                .at(place)
                .help("egress policies are about traffic that leaves the cluster; remove the rule"),
        );
    }
}

/// RF077: all that the rule is about is decided before.
pub(crate) fn covered_by(rule: &EgressRule, covering: &EgressRule) -> Diagnostic {
    let message = format!("the rule for {} never matches: an earlier one covers it", rule.to);
    Diagnostic::new(Code::RuleNeverMatches, message)
        .at(rule.place)
        .related(covering.place, "this rule decides first")
        .help("the first match decides: put the narrower rule first, or remove it")
}

/// RF077: an earlier rule leaves something to match.
fn never_matches(rule: &EgressRule, earlier: &[EgressRule], context: &mut Context) {
    let names = Addresses::new();
    if let Some(covering) = earlier.iter().find(|earlier| earlier.covers(rule, &names)) {
        context.push(covered_by(rule, covering));
    }
}
