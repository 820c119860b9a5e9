//! Addresses that the desired state fixes: no two alike, each where it belongs.

use std::collections::BTreeMap;
use std::fmt;
use std::net::Ipv4Addr;

use ipnet::Ipv4Net;

use super::{Context, Nodes, Projects};
use crate::diagnostic::{Code, Diagnostic, Place};
use crate::intent::{Cluster, Fixed, Pod};
use crate::spec::Mode;

pub(super) fn check(
    cluster: &Cluster,
    nodes: &Nodes<'_>,
    projects: &Projects<'_>,
    context: &mut Context,
) {
    subnets_overlap(nodes, context);
    pod_outside_subnet(cluster, nodes, &projects.pods, context);
    let help = "give each its own address, or leave one out to be allocated";
    twice(Code::AddressTwice, "address", help, projects, |pod| pod.fixed_address, context);
    let help = "give each its own, or leave one out: it follows from the IP address";
    twice(Code::MacTwice, "Ethernet address", help, projects, |pod| pod.fixed_mac, context);
}

/// RF043: the subnets of nodes are disjoint.
fn subnets_overlap(nodes: &Nodes<'_>, context: &mut Context) {
    let fixed = |(index, node): (usize, &crate::intent::Node)| {
        node.fixed_subnet.map(|fixed| (fixed.value, fixed.place, index))
    };
    let mut subnets: Vec<(Ipv4Net, Place, usize)> =
        nodes.list.iter().enumerate().filter_map(fixed).collect();
    subnets.sort();
    // Networks that overlap contain each other, and sort right behind the one that contains them.
    let mut widest: Option<(Ipv4Net, Place, usize)> = None;
    for (subnet, place, index) in subnets {
        match widest {
            Some((outer, first, other)) if outer.contains(&subnet) => context.push(
                Diagnostic::new(
                    Code::SubnetsOverlap,
                    format!(
                        "the subnet {subnet} of node `{}` overlaps {outer} of node `{}`",
                        nodes.list[index].name, nodes.list[other].name
                    ),
                )
                .at(place)
                .related(first, "the other subnet")
                .help("give each node a part of the pod network of its own"),
            ),
            _ => widest = Some((subnet, place, index)),
        }
    }
}

/// RF046 and RF047 as far as they don't depend on the lock file: where the node's subnet is
/// allocated, the address must at least be in a pod network.
fn pod_outside_subnet(cluster: &Cluster, nodes: &Nodes<'_>, pods: &[Pod], context: &mut Context) {
    for pod in pods {
        let Some(Fixed { value: address, place }) = pod.fixed_address else { continue };
        let node = &nodes.list[pod.node.index()];
        if let Some(subnet) = node.fixed_subnet {
            let name = node.name.as_str();
            let outside = outside_subnet(address, subnet.value, name, cluster.mode);
            if let Some(diagnostic) = outside {
                context.push(diagnostic.at(place));
            }
        } else if !cluster.pod_networks.iter().any(|network| network.cidr.contains(&address)) {
            let message = format!("the pod address {address} is outside of the pod networks");
            context.push(Diagnostic::new(Code::PodOutsideSubnet, message).at(place).help(format!(
                "leave `address` out, or choose one of {}",
                networks(cluster).join(" or ")
            )));
        }
    }
}

/// The pod networks in words.
pub(super) fn networks(cluster: &Cluster) -> Vec<String> {
    cluster.pod_networks.iter().map(|network| network.cidr.to_string()).collect()
}

/// What is wrong with a pod's address on a node with this subnet, if anything.
pub(crate) fn outside_subnet(
    address: Ipv4Addr,
    subnet: Ipv4Net,
    node: &str,
    mode: Mode,
) -> Option<Diagnostic> {
    if !subnet.contains(&address) {
        return Some(
            Diagnostic::new(
                Code::PodOutsideSubnet,
                format!("the pod address {address} is outside of {subnet}, the subnet of `{node}`"),
            )
            .help("leave `address` out, choose one of the node's subnet, or move the pod"),
        );
    }
    let what = if address == subnet.network() {
        "network address"
    } else if address == subnet.broadcast() {
        "broadcast address"
    } else if Some(address) == subnet.hosts().next() {
        "gateway"
    } else if mode == Mode::Networkpolicy && address == last_host(subnet) {
        return Some(node_port_source(&format!("the pod address {address}"), node));
    } else {
        return None;
    };
    Some(
        Diagnostic::new(
            Code::PodReservedAddress,
            format!("the pod address {address} is the {what} of {subnet}"),
        )
        .help("choose another address of the subnet"),
    )
}

/// The last address of a subnet that a host can have.
pub(crate) fn last_host(subnet: Ipv4Net) -> Ipv4Addr {
    subnet.hosts().next_back().unwrap_or(subnet.broadcast())
}

/// RF271: the last address of a subnet stands for the outside where policies have to tell it from the
/// node.
pub(crate) fn node_port_source(what: &str, node: &str) -> Diagnostic {
    Diagnostic::new(
        Code::NodePortSource,
        format!("{what} is the one from which the outside comes by node ports of `{node}`"),
    )
    .help("choose another address of the subnet")
}

/// RF048 and RF050: what the desired state fixes for pods, it fixes for one pod.
fn twice<T: Ord + fmt::Display>(
    code: Code,
    what: &str,
    help: &str,
    projects: &Projects<'_>,
    fixed: impl Fn(&Pod) -> Option<Fixed<T>>,
    context: &mut Context,
) {
    let name = |pod: &Pod| format!("`{}/{}`", projects.list[pod.project.index()].name, pod.name);
    let mut taken: BTreeMap<T, (&Pod, Place)> = BTreeMap::new();
    for pod in &projects.pods {
        let Some(Fixed { value, place }) = fixed(pod) else { continue };
        if let Some((first, first_place)) = taken.get(&value) {
            let message =
                format!("the pods {} and {} have the {what} {value}", name(first), name(pod));
            context.push(
                Diagnostic::new(code, message)
                    .at(place)
                    .related(*first_place, "the other")
                    .help(help),
            );
        } else {
            taken.insert(value, (pod, place));
        }
    }
}
