//! The objects of the network as subjects: what flows and rules are for, with the names that people know.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use rayon::prelude::*;

use crate::dataplane::openflow::{free_number, group_number};
use crate::dataplane::origin::{Cookie, ObjectRef};
use crate::diagnostic::Place;
use crate::intent::{Addresses, EgressPolicy, EgressRule, Intent, PodId, ProjectId, Verdict};

/// Every object as a subject, by its index.
#[derive(Debug)]
pub(super) struct Subjects {
    pub(super) cluster: ObjectRef,
    pub(super) nodes: Vec<ObjectRef>,
    pub(super) projects: Vec<ObjectRef>,
    pub(super) pods: Vec<ObjectRef>,
    pub(super) routers: Vec<ObjectRef>,
    pub(super) services: Vec<ObjectRef>,
    pub(super) egress_ips: Vec<ObjectRef>,
}

impl Subjects {
    pub(super) fn of(intent: &Intent) -> Self {
        let named = |kind: &str, name: &str, project: Option<&str>, place: Place| {
            ObjectRef::new(kind, name, name, project, Some(place))
        };
        let project = |id: ProjectId| Some(intent[id].name.as_str());
        let cluster = ObjectRef {
            cookie: Cookie::of("cluster", "cluster"),
            name: "cluster".into(),
            place: intent.cluster.place,
        };
        let nodes =
            intent.nodes().map(|(_, node)| named("node", node.name.as_str(), None, node.place));
        let projects =
            intent.projects().map(|(_, p)| named("project", p.name.as_str(), None, p.place));
        let pods = intent.pods.par_iter().enumerate().map(|(index, pod)| {
            named("pod", &intent.pod_name(PodId::new(index)), project(pod.project), pod.place)
        });
        let routers = intent
            .routers()
            .map(|(_, r)| named("router", r.name.as_str(), project(r.project), r.place));
        let egress_ips = intent
            .egress_ips
            .iter()
            .flat_map(|list| list.addresses.iter().map(move |ip| (list.project, ip)));
        let egress_ips = egress_ips
            .map(|(id, ip)| named("egress-ip", &ip.address.to_string(), project(id), ip.place));
        let services = intent.services().map(|(id, service)| {
            named("service", &intent.service_name(id), project(service.project), service.place)
        });
        Self {
            services: services.collect(),
            cluster,
            nodes: nodes.collect(),
            projects: projects.collect(),
            pods: pods.collect(),
            routers: routers.collect(),
            egress_ips: egress_ips.collect(),
        }
    }
}

/// The ports of each service as subjects, with the numbers of their groups: the end of the cookie,
/// or the next that is free.
pub(super) fn service_ports(intent: &Intent) -> Vec<Vec<(ObjectRef, u32)>> {
    let mut taken = BTreeSet::new();
    let mut all = Vec::with_capacity(intent.services().len());
    for (id, service) in intent.services() {
        let name = intent.service_name(id);
        let project = intent[service.project].name.as_str();
        let ports = service.ports.iter().map(|port| {
            let name = format!("{name}:{}/{}", port.port, port.protocol);
            let subject = ObjectRef::new("service", &name, &name, Some(project), Some(port.place));
            let group = match group_number(subject.cookie) {
                number if taken.contains(&number) => free_number(number.into(), &taken),
                number => number,
            };
            taken.insert(group);
            (subject, group)
        });
        all.push(ports.collect());
    }
    all
}

/// A rule as comments of flows show it: `deny 0.0.0.0/0 tcp/1-1023`.
#[must_use]
pub fn rule_name(rule: &EgressRule) -> String {
    let verdict = match rule.verdict {
        Verdict::Allow => "allow",
        Verdict::Deny => "deny",
    };
    let mut name = format!("{verdict} {}", rule.to);
    for ports in &rule.ports {
        name.push(' ');
        name.push_str(ports.protocol.as_str());
        if let Some(range) = &ports.range {
            let _ = write!(name, "/{}", range.start());
            if range.end() != range.start() {
                let _ = write!(name, "-{}", range.end());
            }
        }
    }
    name
}

/// The rules of a policy as subjects, each with its rank.
pub(super) fn ranked(
    intent: &Intent,
    policy: &EgressPolicy,
    addresses: &Addresses,
) -> Vec<(ObjectRef, u16)> {
    let project = intent[policy.project].name.as_str();
    let rules = &policy.rules;
    let names: Vec<String> = rules.iter().map(rule_name).collect();
    let mut ranks = vec![1; rules.len()];
    for earlier in (0..rules.len()).rev() {
        let later = earlier + 1..rules.len();
        let overlapping = later.filter(|later| rules[earlier].overlaps(&rules[*later], addresses));
        if let Some(rank) = overlapping.map(|later| ranks[later]).max() {
            ranks[earlier] = rank + 1;
        }
    }
    let subject = |(index, name): (usize, &String)| {
        // A rule is named by what it says, so that others may come and go around it.
        let same = names[..index].iter().filter(|earlier| *earlier == name).count();
        let key = match same {
            0 => format!("{project}/{name}"),
            again => format!("{project}/{name}/{again}"),
        };
        ObjectRef::new(
            "rule",
            &key,
            &format!("{project}: {name}"),
            Some(project),
            Some(rules[index].place),
        )
    };
    names.iter().enumerate().map(subject).zip(ranks).collect()
}
