//! The `mdns` section.

use std::collections::BTreeMap;

use super::{Context, Nodes, Projects, Wire};
use crate::diagnostic::{Code, Diagnostic, Place};
use crate::intent::{MdnsRecord, NodeId, Service, Workload};
use crate::spec;
use crate::value::{DnsName, Name};

pub(super) fn resolve(
    wire: &Wire<'_>,
    nodes: &Nodes<'_>,
    projects: &Projects<'_>,
    services: &[Service],
    context: &mut Context,
) -> Vec<MdnsRecord> {
    let mut seen: BTreeMap<&DnsName, Place> = BTreeMap::new();
    let mut records = Vec::new();
    for (at, wire) in wire.items("mdns", |state| &state.mdns) {
        let spec::Mdns { name, project, service, node } = wire;
        let place = at.key("name").place();
        not_local(name, place, context);
        node_name(name, place, nodes, context);
        if let Some(first) = seen.insert(name, place) {
            let message = format!("the name `{name}` is announced twice");
            context.push(
                Diagnostic::new(Code::MdnsTwice, message)
                    .at(place)
                    .related(first, "the first")
                    .help("remove one of the two, or choose another name"),
            );
            seen.insert(name, first);
            continue;
        }
        let project_place = at.key("project").place();
        let Some(id) = projects.index.get(project) else {
            let known = projects.index.names();
            context.unknown(Code::UnknownProject, "project", project, project_place, known);
            continue;
        };
        let service_place = at.key("service").place();
        let mut own = services.iter().filter(|service| service.project == id);
        let Some(found) = own.clone().find(|found| found.name == *service) else {
            let known: Vec<&Name> = own.by_ref().map(|service| &service.name).collect();
            context.unknown(
                Code::UnknownService,
                "service",
                service,
                service_place,
                known.into_iter(),
            );
            continue;
        };
        not_served(found, name, service_place, context);
        let node = match node {
            Some(node) => {
                let place = at.key("node").place();
                let found = nodes.index.get(node);
                if found.is_none() {
                    let known = nodes.index.names();
                    context.unknown(Code::UnknownNode, "node", node, place, known);
                }
                found
            }
            None => first_node(found, projects, service_place, context),
        };
        if let Some(node) = node {
            crowded(node, nodes, &records, place, context);
            records.push(MdnsRecord { name: name.clone(), node, place: at.place() });
        }
    }
    records.sort_by(|a, b| a.name.cmp(&b.name));
    records
}

/// RF162: what looks a name up by multicast DNS takes one label and `.local`.
fn not_local(name: &DnsName, place: Place, context: &mut Context) {
    let label = name.as_str().strip_suffix(".local");
    if label.is_none_or(|label| label.contains('.')) {
        let message = format!("`{name}` is not a name of one label and `.local`");
        context.push(
            Diagnostic::new(Code::MdnsName, message)
                .at(place)
                .help("write a name such as web.local; other names belong into the DNS"),
        );
    }
}

/// RF183: a node announces its own name, by which people go to it.
fn node_name(name: &DnsName, place: Place, nodes: &Nodes<'_>, context: &mut Context) {
    let of_node = |node: &&Name| name.as_str().strip_suffix(".local") == Some(node.as_str());
    if let Some((node, at)) =
        nodes.index.by_name.iter().find(|(node, _)| of_node(node)).map(|(node, (_, at))| (node, at))
    {
        context.push(
            Diagnostic::new(Code::MdnsNodeName, format!("`{name}` is the name of node `{node}`"))
                .at(place)
                .related(*at, "the node")
                .help("choose another name for the service"),
        );
    }
}

/// RF167: the name leads to a node, so the service should be there.
fn not_served(service: &Service, name: &DnsName, place: Place, context: &mut Context) {
    if service.kind == spec::ServiceType::ClusterIp {
        let message = format!(
            "`{name}` leads to a node, and no node serves `{}` to the outside",
            service.name
        );
        context.push(
            Diagnostic::new(Code::MdnsNotServed, message)
                .at(place)
                .help("give the service `type: LoadBalancer` or `type: NodePort`"),
        );
    }
}

/// RF166: an address has one name, as avahi sees it.
fn crowded(
    node: NodeId,
    nodes: &Nodes<'_>,
    records: &[MdnsRecord],
    place: Place,
    context: &mut Context,
) {
    if let Some(first) = records.iter().find(|record| record.node == node) {
        let message = format!(
            "the node `{}` already announces {}",
            nodes.list[node.index()].name,
            first.name
        );
        context.push(
            Diagnostic::new(Code::MdnsCrowded, message)
                .at(place)
                .related(first.place, "the other name")
                .help("say with `node` which other node announces this one"),
        );
    }
}

/// RF164: a node for the name. One announces it, since two would contradict each other.
fn first_node(
    service: &Service,
    projects: &Projects<'_>,
    place: Place,
    context: &mut Context,
) -> Option<NodeId> {
    let pods = service.workloads.iter().filter_map(|workload| match workload {
        Workload::Pod(pod) => Some(&projects.pods[pod.index()]),
        Workload::Router(_) => None,
    });
    // One with a pod that is ready, if there is any.
    let node = pods.min_by_key(|pod| (!pod.ready, pod.node)).map(|pod| pod.node);
    if node.is_none() {
        let message = format!("no pod is behind the service `{}`", service.name);
        context.push(
            Diagnostic::new(Code::MdnsNoNode, message)
                .at(place)
                .help("say with `node` who announces the name"),
        );
    }
    node
}
