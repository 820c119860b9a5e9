//! The `egressIPs` section.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

use super::nodes::is_host_of;
use super::outside::Taken;
use super::{Context, Nodes, Projects, Wire};
use crate::dataplane::origin::hash;
use crate::diagnostic::{Code, Diagnostic, Place};
use crate::intent::{self, EgressIp, EgressIps, EgressRouter, NodeId, ProjectId};
use crate::spec;
use crate::value::Name;

pub(super) fn resolve(
    wire: &Wire<'_>,
    nodes: &Nodes<'_>,
    projects: &Projects<'_>,
    routers: &[EgressRouter],
    context: &mut Context,
) -> Vec<EgressIps> {
    let mut lists: BTreeMap<ProjectId, (EgressIps, Place)> = BTreeMap::new();
    let mut seen: BTreeMap<Ipv4Addr, Place> = BTreeMap::new();
    let mut taken = nodes.taken(wire);
    for router in routers {
        let what = format!("the source of egress router `{}`", router.name);
        taken.entry(router.source).or_insert((what, router.place));
    }
    for (at, wire) in wire.items("egressIPs", |state| &state.egress_ips) {
        let spec::EgressIps { project: name, addresses } = wire;
        let place = at.key("project").place();
        if addresses.is_empty() {
            let message = "`addresses` takes at least one address";
            context.push(
                Diagnostic::new(Code::BadValue, message)
                    .at(at.key("addresses").place())
                    .help("add an address, or remove the entry: without one, nodes lend theirs"),
            );
        }
        let mut hosted = Vec::new();
        for (address, at) in addresses.iter().zip(at.key("addresses").children()) {
            let place = at.place();
            let Some(address) = context.host_address(address, place) else { continue };
            if !twice(address, place, &mut seen, context) {
                clash(address, place, &taken, context);
                hosted.extend(candidates(address, place, nodes, context));
            }
        }
        let Some(project) = projects.index.get(name) else {
            let known = projects.index.names();
            context.unknown(Code::UnknownProject, "project", name, place, known);
            continue;
        };
        shared(project, name, place, projects, context);
        if let Some((_, first)) = lists.get(&project) {
            let message = format!("the project `{name}` has two lists of egress IPs");
            context.push(
                Diagnostic::new(Code::EgressIpsTwice, message)
                    .at(place)
                    .related(*first, "the first")
                    .help("put all addresses into one list"),
            );
            continue;
        }
        let addresses = spread(&served(hosted, nodes, context), nodes);
        lists.insert(project, (EgressIps { project, addresses }, place));
    }
    lists.into_values().map(|(list, _)| list).collect()
}

/// An address with the nodes that may hold it.
struct Hosted {
    address: Ipv4Addr,
    place: Place,
    /// Those that set it aside, or else those with a range: never none.
    preferred: Vec<NodeId>,
    /// The same among those that are available.
    available: Vec<NodeId>,
}

/// The addresses that some node can hold now. The pods of a project leave by those, as long as
/// there are any; else by the others, as if their nodes were there.
fn served(mut hosted: Vec<Hosted>, nodes: &Nodes<'_>, context: &mut Context) -> Vec<Hosted> {
    if hosted.iter().any(|ip| !ip.available.is_empty()) {
        hosted.retain(|ip| !ip.available.is_empty());
    } else {
        for ip in &hosted {
            unavailable(ip, nodes, context);
        }
    }
    hosted
}

/// Gives each address to one node: to another for each as long as there are others. Which one
/// follows from the names alone, so that another node or address moves few. Where a node is out of
/// service, others take over what it would hold, and nothing else moves.
fn spread(hosted: &[Hosted], nodes: &Nodes<'_>) -> Vec<EgressIp> {
    let sorted: BTreeMap<Ipv4Addr, &Hosted> = hosted.iter().map(|ip| (ip.address, ip)).collect();
    let choose = |ip: &Hosted, from: &[NodeId], used: &BTreeSet<NodeId>| {
        let name = |node: &NodeId| &nodes.list[node.index()].name;
        let weight = |node: &NodeId| hash(&format!("{}/{}", ip.address, name(node)));
        from.iter().copied().max_by_key(|node| (!used.contains(node), weight(node)))
    };
    let mut usual: BTreeMap<Ipv4Addr, NodeId> = BTreeMap::new();
    let mut used = BTreeSet::new();
    for (address, ip) in &sorted {
        if let Some(node) = choose(ip, &ip.preferred, &used) {
            used.insert(node);
            usual.insert(*address, node);
        }
    }
    used.retain(|node| !nodes.list[node.index()].unavailable);
    for (address, ip) in &sorted {
        let stays = usual.get(address).is_some_and(|node| !nodes.list[node.index()].unavailable);
        let other = if stays { None } else { choose(ip, &ip.available, &used) };
        if let Some(node) = other {
            used.insert(node);
            usual.insert(*address, node);
        }
    }
    let chosen = usual.into_iter().filter_map(|(address, node)| {
        Some(EgressIp { address, node, place: sorted.get(&address)?.place })
    });
    chosen.collect()
}

/// RF093: an egress IP belongs to one project, and stands once.
fn twice(
    address: Ipv4Addr,
    place: Place,
    seen: &mut BTreeMap<Ipv4Addr, Place>,
    context: &mut Context,
) -> bool {
    let Some(first) = seen.get(&address) else {
        seen.insert(address, place);
        return false;
    };
    context.push(
        Diagnostic::new(Code::EgressIpTwice, format!("duplicate egress IP {address}"))
            .at(place)
            .related(*first, "first here")
            .help("the outside tells projects apart by it: give each its own"),
    );
    true
}

/// RF094: nobody else has the address.
fn clash(address: Ipv4Addr, place: Place, taken: &Taken, context: &mut Context) {
    if let Some((what, other)) = taken.get(&address) {
        context.push(
            Diagnostic::new(Code::EgressIpTaken, format!("the egress IP {address} is {what}"))
                .at(place)
                .related(*other, "the other")
                .help("choose an address that nothing else has"),
        );
    }
}

/// RF095: a node holds the address. One that sets it aside goes before those with a
/// range, and any that is available before those that aren't.
fn candidates(
    address: Ipv4Addr,
    place: Place,
    nodes: &Nodes<'_>,
    context: &mut Context,
) -> Option<Hosted> {
    let all = || (0..nodes.list.len()).map(NodeId::new);
    let on_uplink = |node: &NodeId| {
        let uplink = nodes.list[node.index()].uplink.as_ref();
        uplink.is_some_and(|uplink| is_host_of(address, uplink.subnet))
    };
    let reserves = |node: &NodeId| nodes.reserved[node.index()].iter().any(|(a, _)| *a == address);
    let serves = |node: &NodeId| {
        nodes.egress_ranges[node.index()].iter().any(|range| range.contains(&address))
    };
    let is_available = |node: &NodeId| !nodes.list[node.index()].unavailable;
    let reserving: Vec<NodeId> = all().filter(on_uplink).filter(reserves).collect();
    let serving: Vec<NodeId> = all().filter(on_uplink).filter(serves).collect();
    let available = |list: &[NodeId]| list.iter().copied().filter(is_available).collect();
    let first = |choices: [Vec<NodeId>; 2]| {
        choices.into_iter().find(|choice| !choice.is_empty()).unwrap_or_default()
    };
    let available = first([available(&reserving), available(&serving)]);
    let preferred = first([reserving, serving]);
    if preferred.is_empty() {
        let message = format!("no node holds the egress IP {address}");
        context.push(
            Diagnostic::new(Code::EgressIpNoNode, message).at(place).help(
                "add it to `reservedAddresses` of a node, or a range with it to `egressCIDRs`",
            ),
        );
        return None;
    }
    Some(Hosted { address, place, preferred, available })
}

/// RF172: a project has an address left to leave by.
fn unavailable(ip: &Hosted, nodes: &Nodes<'_>, context: &mut Context) {
    let Hosted { address, place, preferred, available: _ } = ip;
    let Some(node) = preferred.first() else { return };
    let (at, wire) = nodes.wire[node.index()];
    let message =
        format!("the egress IP {address} stays on node `{}`, which is unavailable", wire.name);
    // Only a node that has the address on its uplink can hold it.
    let on_uplink = |other: &&intent::Node| {
        let uplink = other.uplink.as_ref();
        !other.unavailable && uplink.is_some_and(|uplink| is_host_of(*address, uplink.subnet))
    };
    let help = match nodes.list.iter().find(on_uplink) {
        Some(other) => format!(
            "let node `{}` hold it too: add a range with it to its `egressCIDRs`",
            other.name
        ),
        None => "no available node has it on its uplink: give the project a second address, of a \
                 node that is available"
            .to_owned(),
    };
    context.push(
        Diagnostic::new(Code::EgressIpUnavailable, message)
            .at(*place)
            .related(at.key("unavailable").place(), "said here")
            .help(help),
    );
}

/// RF096: the project is alone in its network.
fn shared(
    project: ProjectId,
    name: &Name,
    place: Place,
    projects: &Projects<'_>,
    context: &mut Context,
) {
    let global = projects.global.get(&project).map(|at| (*at, "global"));
    let joined = projects.joins.get(&project).map(|at| (*at, "joined"));
    if let Some((said, what)) = global.or(joined) {
        context.push(
            Diagnostic::new(
                Code::EgressIpShared,
                format!("the {what} project `{name}` can't have egress IPs"),
            )
            .at(place)
            .related(said, format!("{what} here"))
            .help("an egress IP stands for one project: move its pods into one of their own"),
        );
    }
}
