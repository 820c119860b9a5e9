//! The section `projects`; which of them share a network is told by [`memberships`].

mod memberships;

use std::collections::BTreeMap;

use super::{Context, Index, Nodes, Projects, Wire, defined_twice, unique};
use crate::artifact::host;
use crate::diagnostic::{Code, Diagnostic, Place, listed};
use crate::input::Cursor;
use crate::intent::{Attachment, BlockAt, Fixed, Membership, Pod, Project, ProjectId};
use crate::spec::{self, Mode};
use crate::value::{Name, NetnsName, StringValue, ipv4};
use memberships::Memberships;

/// The project that is global by itself, as openshift-sdn has it.
const DEFAULT_PROJECT: &str = "default";

pub(super) fn resolve<'a>(
    wire: &Wire<'a>,
    nodes: &Nodes<'_>,
    mode: Mode,
    context: &mut Context,
) -> Projects<'a> {
    let items = wire.items("projects", |state| &state.projects);
    let items = unique("project", items, |project| &project.name, context);
    let mut projects = Projects {
        list: Vec::with_capacity(items.len()),
        index: Index { by_name: BTreeMap::new() },
        pods: Vec::new(),
        wire: items.clone(),
        wire_pods: Vec::new(),
        joins: BTreeMap::new(),
        global: BTreeMap::new(),
        node_services: None,
    };
    for (at, wire) in &items {
        let spec::Project { name, labels, vnid, multicast, pods, services: _ } = wire;
        let id = ProjectId::new(projects.list.len());
        projects.index.by_name.insert(name, (id, at.place()));
        projects.list.push(Project {
            name: name.clone(),
            labels: labels.clone(),
            fixed_vnid: vnid.map(|value| Fixed { value, place: at.key("vnid").place() }),
            multicast: *multicast,
            membership: Membership::Own,
            place: at.place(),
        });
        let pods = at.find("pods").into_iter().flat_map(Cursor::children).zip(pods);
        resolve_pods((id, name), pods, nodes, &mut projects, context);
    }
    taken_twice(&projects.pods, &projects.list, nodes, context);
    interface_reserved(&projects.pods, nodes, context);
    Memberships::resolve(wire, &mut projects, context);
    if mode == Mode::Networkpolicy {
        super::network_policies::name_projects(&mut projects, context);
    }
    vnid_twice(&projects, context);
    partial_multicast(&items, &projects, mode, context);
    projects
}

fn resolve_pods<'a>(
    (project, project_name): (ProjectId, &Name),
    items: impl Iterator<Item = (Cursor<'a>, &'a spec::Pod)>,
    nodes: &Nodes<'_>,
    projects: &mut Projects<'a>,
    context: &mut Context,
) {
    let mut sorted: Vec<(Cursor<'a>, &'a spec::Pod)> = items.collect();
    sorted.sort_by(|(_, a), (_, b)| a.name.cmp(&b.name));
    let mut previous: Option<(Cursor<'_>, &Name)> = None;
    for (at, wire) in sorted {
        let spec::Pod {
            name,
            node,
            netns,
            interface,
            address,
            mac,
            labels,
            ports,
            bandwidth,
            ready,
        } = wire;
        if let Some((first, _)) = previous.filter(|(_, previous)| *previous == name) {
            context.push(defined_twice("pod", name.as_str(), at, first));
            continue;
        }
        previous = Some((at, name));
        if let (Some(_), Some(_)) = (netns, interface) {
            context.push(
                Diagnostic::new(
                    Code::ConflictingKeys,
                    format!("the pod `{name}` has both `netns` and `interface`"),
                )
                .at(at.key("interface").key_place())
                .related(at.key("netns").key_place(), "the other")
                .help("keep `netns` for a new veth, or `interface` for one that exists"),
            );
        }
        let Some(node_id) = nodes.index.get(node) else {
            let place = at.key("node").place();
            context.unknown(Code::UnknownNode, "node", node, place, nodes.index.names());
            continue;
        };
        let address_place = at.key("address").place();
        let fixed_address =
            address.as_ref().and_then(|address| context.take(ipv4(address), address_place));
        let fixed_address = fixed_address.map(|value| Fixed { value, place: address_place });
        let (ingress, egress) = bandwidth.as_ref().map_or((None, None), |wire| {
            let spec::PodBandwidth { ingress, egress } = wire;
            if ingress.is_none() && egress.is_none() {
                context.push(
                    Diagnostic::new(
                        Code::MissingKey,
                        format!("the bandwidth of the pod `{name}` limits nothing"),
                    )
                    .at(at.key("bandwidth").place())
                    .help("add `ingress`, `egress` or both, or remove `bandwidth`"),
                );
            }
            (*ingress, *egress)
        });
        let fixed_mac = mac.map(|value| Fixed { value, place: at.key("mac").place() });
        let attachment_key = if interface.is_some() { "interface" } else { "netns" };
        let pod = Pod {
            project,
            name: name.clone(),
            node: node_id,
            attachment: match (netns, interface) {
                (_, Some(interface)) => Attachment::Interface(interface.clone()),
                (Some(netns), None) => Attachment::Netns(netns.clone()),
                // A dot can't be in either name, so no two pods have the same default.
                (None, None) => {
                    match NetnsName::parse(&format!("{project_name}.{name}")) {
                        Ok(netns) => Attachment::Netns(netns),
                        Err(_) => continue, // two labels of 63 and a dot always fit
                    }
                }
            },
            attachment_place: at.key(attachment_key).place(),
            fixed_address,
            fixed_mac,
            ingress,
            egress,
            ready: ready.unwrap_or(true) && !nodes.list[node_id.index()].unavailable,
            labels: labels.clone(),
            ports: ports
                .iter()
                .map(|wire| (wire.name.clone(), wire.protocol.into(), wire.port))
                .collect(),
            place: at.place(),
        };
        projects.pods.push(pod);
        projects.wire_pods.push((at, wire));
    }
}

/// RF051 and RF053: the pods of a node have interfaces and namespaces of their own.
fn taken_twice(pods: &[Pod], projects: &[Project], nodes: &Nodes<'_>, context: &mut Context) {
    let mut taken: BTreeMap<(usize, &str, bool), &Pod> = BTreeMap::new();
    for pod in pods {
        let (name, is_netns) = match &pod.attachment {
            Attachment::Netns(netns) => (netns.as_str(), true),
            Attachment::Interface(interface) => (interface.as_str(), false),
        };
        let key = (pod.node.index(), name, is_netns);
        let Some(first) = taken.get(&key) else {
            taken.insert(key, pod);
            continue;
        };
        let (code, what, help) = if is_netns {
            let help = "give each pod one of its own; without `netns` it is <project>.<pod>";
            (Code::NetnsTwice, "network namespace", help)
        } else {
            (Code::InterfaceTwice, "interface", "give each pod an interface of its own")
        };
        let node = &nodes.list[pod.node.index()].name;
        let message = format!("two pods of node `{node}` have the {what} `{name}`");
        let of = &projects[first.project.index()].name;
        context.push(
            Diagnostic::new(code, message)
                .at(pod.attachment_place)
                .related(first.attachment_place, format!("pod `{}` of project `{of}`", first.name))
                .help(help),
        );
    }
}

/// RF052: a pod's interface or namespace is none that ringfence makes, nor the node's uplink.
fn interface_reserved(pods: &[Pod], nodes: &Nodes<'_>, context: &mut Context) {
    for pod in pods {
        let interface = match &pod.attachment {
            Attachment::Interface(interface) => interface,
            Attachment::Netns(netns) => {
                if netns.as_str().starts_with(host::ROUTER_NETNS_PREFIX) {
                    let message =
                        format!("the name `{netns}` is kept for the namespace of an egress router");
                    context.push(
                        Diagnostic::new(Code::InterfaceReserved, message)
                            .at(pod.attachment_place)
                            .help("choose another name for the pod's namespace"),
                    );
                }
                continue;
            }
        };
        let node = &nodes.list[pod.node.index()];
        let uplink = node.uplink.as_ref().is_some_and(|uplink| {
            uplink.interface == *interface || uplink.bridge.as_ref() == Some(interface)
        });
        let outside = BlockAt::Interface(interface.clone());
        let what = if uplink {
            format!("the uplink of node `{}`", node.name)
        } else if node.blocks.iter().any(|block| block.at == outside) {
            format!("one by which the outside comes to node `{}`", node.name)
        } else if host::is_reserved_interface(interface.as_str()) {
            "reserved on every node".to_owned()
        } else if host::is_host_bridge(interface.as_str()) {
            "named like a bridge of the host".to_owned()
        } else {
            continue;
        };
        context.push(
            Diagnostic::new(
                Code::InterfaceReserved,
                format!("the interface `{interface}` is {what}"),
            )
            .at(pod.attachment_place)
            .help("name the interface of the workload, such as a tap"),
        );
    }
}

/// RF060: projects that are not joined have different VNIDs.
fn vnid_twice(projects: &Projects<'_>, context: &mut Context) {
    let mut taken: BTreeMap<_, (ProjectId, Place)> = BTreeMap::new();
    for (index, project) in projects.list.iter().enumerate() {
        let Some(Fixed { value: vnid, place }) = project.fixed_vnid else { continue };
        let id = ProjectId::new(index);
        let Some(&(other, first)) = taken.get(&vnid) else {
            taken.insert(vnid, (id, place));
            continue;
        };
        if network_of(projects, id) == network_of(projects, other) {
            continue;
        }
        let message = format!(
            "the projects `{}` and `{}` have the same VNID {vnid} without a join",
            projects.list[other.index()].name,
            project.name
        );
        context.push(
            Diagnostic::new(Code::VnidTwice, message)
                .at(place)
                .related(first, "the other")
                .help("give each its own, or leave one out to be allocated"),
        );
    }
}

/// The project whose network a project is in; a global one stands for itself.
fn network_of(projects: &Projects<'_>, project: ProjectId) -> ProjectId {
    match projects.list[project.index()].membership {
        Membership::Joined(root) => root,
        Membership::Own | Membership::Global => project,
    }
}

/// RF068: multicast works only where every project of the network enables it.
fn partial_multicast(
    items: &[(Cursor<'_>, &spec::Project)],
    projects: &Projects<'_>,
    mode: Mode,
    context: &mut Context,
) {
    let mut networks: BTreeMap<Option<ProjectId>, Vec<ProjectId>> = BTreeMap::new();
    for (index, project) in projects.list.iter().enumerate() {
        let id = ProjectId::new(index);
        let network = match project.membership {
            Membership::Global => None,
            // A flat network is one network.
            _ if mode == Mode::Subnet => None,
            _ => Some(network_of(projects, id)),
        };
        networks.entry(network).or_default().push(id);
    }
    for members in networks.values() {
        let project = |id: &ProjectId| &projects.list[id.index()];
        let Some(first) = members.iter().find(|id| project(id).multicast) else { continue };
        let missing = members.iter().map(project).filter(|project| !project.multicast);
        let missing: Vec<&Name> = missing.map(|project| &project.name).collect();
        if missing.is_empty() {
            continue;
        }
        let message = format!(
            "multicast of `{}` stays off: {} of the same network {} not enable it",
            project(first).name,
            listed(&missing),
            if missing.len() == 1 { "does" } else { "do" }
        );
        context.push(
            Diagnostic::new(Code::PartialMulticast, message)
                .at(items[first.index()].0.key("multicast").place())
                .help("set `multicast: true` in every project that shares the VNID"),
        );
    }
}
