//! `places.json` of a node: where each of its objects is defined, one line an object.

use std::collections::{BTreeMap, BTreeSet};

use rayon::prelude::*;

use crate::artifact::manifest::Manifest;
use crate::artifact::places::{Inputs, Places};
use crate::dataplane::origin::ObjectRef;
use crate::diagnostic::Sources;
use crate::intent::{Membership, NodeId, ProjectId, ServiceId};
use crate::model::Model;

/// The lines that several nodes have, made once.
#[derive(Debug)]
pub(super) struct NodePlaces<'m> {
    model: &'m Model,
    sources: &'m Sources,
    inputs: Inputs,
    nodes: Vec<u8>,
    /// Of each project, itself.
    projects: Vec<Vec<u8>>,
    /// Of each project, the rules of its egress policy.
    rules: Vec<Vec<u8>>,
    /// Of each project, its network policies and their rules.
    network_policies: Vec<Vec<u8>>,
    /// The services that have an address, each with its ports.
    services: BTreeMap<ServiceId, Vec<u8>>,
}

impl<'m> NodePlaces<'m> {
    pub(super) fn new(model: &'m Model, sources: &'m Sources) -> Self {
        let mut nodes = Vec::new();
        for (id, _) in model.intent().nodes() {
            line(&mut nodes, model.node_subject(id), sources);
        }
        let projects: Vec<ProjectId> = model.intent().projects().map(|(id, _)| id).collect();
        let lines = |subjects: &mut dyn Iterator<Item = &ObjectRef>| {
            let mut lines = Vec::new();
            subjects.for_each(|subject| line(&mut lines, subject, sources));
            lines
        };
        let rules = projects
            .par_iter()
            .map(|id| lines(&mut model.ranked_rules(*id).map(|(_, subject, _)| subject)));
        let own =
            projects.par_iter().map(|id| lines(&mut [model.project_subject(*id)].into_iter()));
        let services = model.services().map(|(id, _)| {
            let ports = model.service_ports(id).map(|(_, subject, _)| subject);
            (id, lines(&mut [model.service_subject(id)].into_iter().chain(ports)))
        });
        let network_policies = projects.par_iter().map(|id| {
            let subjects = model.policies_subject(*id).into_iter();
            let subjects = subjects.chain(model.network_policies(*id).map(|(_, subject)| subject));
            let rules = model.allowances(*id).iter().map(|rule| &rule.subject);
            lines(&mut subjects.chain(rules))
        });
        let network_policies = network_policies.collect();
        let (projects, rules, services) = (own.collect(), rules.collect(), services.collect());
        let inputs = sources.digests();
        Self { model, sources, inputs, nodes, projects, rules, network_policies, services }
    }

    /// The file of one node.
    pub(super) fn render(&self, node: NodeId, manifest: &Manifest) -> Vec<u8> {
        const LINE: usize = 90;
        let model = self.model;
        let mut networks = BTreeSet::new();
        let mut projects = BTreeSet::new();
        let mut selected = BTreeSet::new();
        let mut egress_ips = BTreeMap::new();
        let mut workloads = Vec::new();
        for workload in model.workloads(node) {
            line(&mut workloads, model.workload_subject(workload), self.sources);
            let project = model.project(workload);
            projects.insert(project);
            if model.is_selected(workload) {
                selected.insert(project);
            }
            if let Some(leaving) = model.leaving(workload) {
                egress_ips.insert(leaving.ip.address, model.egress_ip_subject(leaving));
            }
            networks.insert(match model.intent()[project].membership {
                Membership::Joined(root) => root,
                Membership::Own | Membership::Global => project,
            });
        }
        // Those of other nodes by which pods of this one leave, and those that it holds.
        egress_ips.extend(model.egress_ips_on(node).map(|(ip, subject)| (ip.address, subject)));
        let mut held = Vec::new();
        for subject in egress_ips.values() {
            line(&mut held, subject, self.sources);
        }
        let rules = projects.iter().map(|project| &self.rules[project.index()]);
        let policies = selected.iter().map(|project| &self.network_policies[project.index()]);
        let networks = networks.iter().map(|project| &self.projects[project.index()]);
        let parts =
            [&self.nodes, &workloads].into_iter().chain(networks).chain(rules).chain(policies);
        let services = model.services_for(node);
        let services = services.iter().filter_map(|id| self.services.get(id));
        let parts: Vec<&Vec<u8>> = parts.chain([&held]).chain(services).collect();
        let size: usize = parts.iter().map(|part| part.len()).sum();
        let head = Places::head(manifest, &self.inputs);
        let mut out = Vec::with_capacity(head.len() + size + LINE);
        out.extend_from_slice(head.as_bytes());
        for part in parts {
            out.extend_from_slice(part);
        }
        // The last line has no comma, so it is one that is always there.
        line(&mut out, model.cluster_subject(), self.sources);
        out.truncate(out.len() - b",\n".len());
        out.extend_from_slice(b"\n}\n}\n");
        out
    }
}

fn line(out: &mut Vec<u8>, subject: &ObjectRef, sources: &Sources) {
    // A path may hold any character.
    let quoted = |text: &str| serde_json::Value::from(text).to_string();
    out.extend_from_slice(quoted(&subject.name).as_bytes());
    out.extend_from_slice(b": ");
    out.extend_from_slice(quoted(&subject.position(sources)).as_bytes());
    out.extend_from_slice(b",\n");
}
