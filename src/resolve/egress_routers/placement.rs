//! On which node an egress router runs.

use std::net::Ipv4Addr;

use crate::diagnostic::{Code, Diagnostic, Place};
use crate::input::Cursor;
use crate::intent::NodeId;
use crate::resolve::nodes::is_host_of;
use crate::resolve::{Context, Nodes};
use crate::spec;
use crate::value::Name;

/// The node that the router runs on.
pub(super) fn choose(
    source: Ipv4Addr,
    wire: &spec::EgressRouter,
    at: Cursor<'_>,
    nodes: &Nodes<'_>,
    context: &mut Context,
) -> Option<NodeId> {
    let spec::EgressRouter { node, nodes: several, node_selector, .. } = wire;
    let said = [
        ("node", node.is_some()),
        ("nodes", several.is_some()),
        ("nodeSelector", node_selector.is_some()),
    ];
    let said: Vec<&str> = said.into_iter().filter(|(_, is)| *is).map(|(key, _)| key).collect();
    if let [first, second, ..] = said[..] {
        let message = format!("the router has both `{first}` and `{second}`");
        context.push(
            Diagnostic::new(Code::ConflictingKeys, message)
                .at(at.key(second).key_place())
                .related(at.key(first).key_place(), "the other")
                .help("keep one of the two"),
        );
        return None;
    }
    match several {
        Some(names) => by_preference(source, wire, names, at, nodes, context),
        None => only(source, wire, at, nodes, context),
    }
}

/// The first of a list of nodes that isn't unavailable. All of them have to fit.
fn by_preference(
    source: Ipv4Addr,
    wire: &spec::EgressRouter,
    names: &[Name],
    at: Cursor<'_>,
    nodes: &Nodes<'_>,
    context: &mut Context,
) -> Option<NodeId> {
    let source_place = at.key("source").place();
    let at = at.key("nodes");
    if names.is_empty() {
        context.push(
            Diagnostic::new(Code::BadValue, "`nodes` takes at least one node")
                .at(at.place())
                .help("list the nodes that may host the router, the preferred one first"),
        );
        return None;
    }
    let mut found: Vec<(NodeId, Place)> = Vec::with_capacity(names.len());
    let mut good = true;
    for (name, at) in names.iter().zip(at.children()) {
        let place = at.place();
        let Some(node) = nodes.index.get(name) else {
            context.unknown(Code::UnknownNode, "node", name, place, nodes.index.names());
            good = false;
            continue;
        };
        if let Some((_, first)) = found.iter().find(|(other, _)| *other == node) {
            context.push(
                Diagnostic::new(
                    Code::RouterNodeTwice,
                    format!("egress router `{}` lists node `{name}` twice", wire.name),
                )
                .at(place)
                .related(*first, "first here")
                .help("the order is that of preference: keep the earlier one"),
            );
            continue;
        }
        if !hosts(source, node, nodes) {
            source_outside(source, source_place, node, nodes, context);
            good = false;
        }
        found.push((node, place));
    }
    if !good {
        return None;
    }
    let listed = |node: NodeId| found.iter().any(|(other, _)| *other == node);
    if let Some(node) = reserving(source, nodes).filter(|node| !listed(*node)) {
        set_aside_elsewhere(source, source_place, node, nodes, context);
        return None;
    }
    let available = found.iter().find(|(node, _)| !nodes.list[node.index()].unavailable);
    if available.is_none() {
        let all: Vec<NodeId> = found.iter().map(|(node, _)| *node).collect();
        unavailable(&all, wire, at.place(), nodes, context);
    }
    available.map(|(node, _)| *node)
}

/// Whether a node has the source address on its uplink.
fn hosts(source: Ipv4Addr, node: NodeId, nodes: &Nodes<'_>) -> bool {
    let uplink = nodes.list[node.index()].uplink.as_ref();
    uplink.is_some_and(|uplink| is_host_of(source, uplink.subnet))
}

/// The node that has an address set aside.
fn reserving(source: Ipv4Addr, nodes: &Nodes<'_>) -> Option<NodeId> {
    let reserves =
        |node: &NodeId| nodes.reserved[node.index()].iter().any(|(address, _)| *address == source);
    (0..nodes.list.len()).map(NodeId::new).find(reserves)
}

/// RF171: a node that may host the router is available.
fn unavailable(
    all: &[NodeId],
    wire: &spec::EgressRouter,
    place: Place,
    nodes: &Nodes<'_>,
    context: &mut Context,
) {
    let message = match all {
        [node] => format!(
            "node `{}`, which hosts the egress router `{}`, is unavailable",
            nodes.list[node.index()].name,
            wire.name
        ),
        _ => format!("all nodes that may host the egress router `{}` are unavailable", wire.name),
    };
    let mut diagnostic = Diagnostic::new(Code::RouterUnavailable, message)
        .at(place)
        .help("list a node with `nodes` that can take over, or remove the router");
    for node in all.iter().take(SHOWN) {
        let (at, _) = nodes.wire[node.index()];
        diagnostic = diagnostic.related(at.key("unavailable").place(), "said here");
    }
    context.push(diagnostic);
}

/// How many nodes a message names.
const SHOWN: usize = 4;

/// RF082: an address that is set aside is so on a node that may host the router.
fn set_aside_elsewhere(
    source: Ipv4Addr,
    place: Place,
    node: NodeId,
    nodes: &Nodes<'_>,
    context: &mut Context,
) {
    let reserved = nodes.reserved[node.index()].iter().find(|(a, _)| *a == source);
    let name = &nodes.list[node.index()].name;
    let message = format!("{source} is set aside on node `{name}`, which can't host it");
    let diagnostic = Diagnostic::new(Code::RouterSourceTaken, message)
        .at(place)
        .help("move the address to `reservedAddresses` of the node that hosts the router");
    context.push(match reserved {
        Some((_, place)) => diagnostic.related(*place, "set aside here"),
        None => diagnostic,
    });
}

/// The one node that can host the router.
fn only(
    source: Ipv4Addr,
    wire: &spec::EgressRouter,
    at: Cursor<'_>,
    nodes: &Nodes<'_>,
    context: &mut Context,
) -> Option<NodeId> {
    let source_place = at.key("source").place();
    let all = (0..nodes.list.len()).map(NodeId::new);
    let (candidates, place): (Vec<NodeId>, Place) = if let Some(name) = &wire.node {
        let place = at.key("node").place();
        let Some(node) = nodes.index.get(name) else {
            context.unknown(Code::UnknownNode, "node", name, place, nodes.index.names());
            return None;
        };
        (vec![node], place)
    } else if let Some(selector) = &wire.node_selector {
        let selector_at = at.key("nodeSelector");
        if !context.check_selector(selector, selector_at) {
            return None;
        }
        let matching = all.filter(|node| selector.matches(&nodes.list[node.index()].labels));
        (matching.collect(), selector_at.place())
    } else {
        (all.filter(|node| hosts(source, *node, nodes)).collect(), source_place)
    };
    if candidates.is_empty() {
        let (message, help) = if wire.node_selector.is_some() {
            (
                format!("no node matches the selector of egress router `{}`", wire.name),
                "compare it with the labels of the nodes".to_owned(),
            )
        } else {
            (
                format!("no node can host the egress router `{}`", wire.name),
                format!("{source} must be in the subnet of a node's uplink"),
            )
        };
        context.push(Diagnostic::new(Code::RouterNoNode, message).at(place).help(help));
        return None;
    }
    let unfit: Vec<NodeId> =
        candidates.iter().copied().filter(|node| !hosts(source, *node, nodes)).collect();
    for node in &unfit {
        source_outside(source, source_place, *node, nodes, context);
    }
    if !unfit.is_empty() {
        return None;
    }
    let chosen = match (candidates.as_slice(), reserving(source, nodes)) {
        (&[only], None) => only,
        // Several may host it, and one of them has the address set aside.
        (several, Some(node)) if several.contains(&node) => node,
        (_, Some(node)) => {
            set_aside_elsewhere(source, source_place, node, nodes, context);
            return None;
        }
        (several, None) => {
            let names: Vec<String> = several
                .iter()
                .take(SHOWN)
                .map(|node| format!("`{}`", nodes.list[node.index()].name))
                .chain((several.len() > SHOWN).then(|| "…".to_owned()))
                .collect();
            let message = format!(
                "{} nodes can host the egress router `{}`: {}",
                several.len(),
                wire.name,
                names.join(", ")
            );
            context.push(Diagnostic::new(Code::RouterManyNodes, message).at(place).help(
                "list them by preference with `nodes`, name one with `node`, or set the source \
                 aside in its `reservedAddresses`",
            ));
            return None;
        }
    };
    if nodes.list[chosen.index()].unavailable {
        unavailable(&[chosen], wire, place, nodes, context);
        return None;
    }
    Some(chosen)
}

/// RF083: the source is a host of the uplink's subnet of every node that may host the router.
fn source_outside(
    source: Ipv4Addr,
    place: Place,
    node: NodeId,
    nodes: &Nodes<'_>,
    context: &mut Context,
) {
    let (at, _) = nodes.wire[node.index()];
    let node = &nodes.list[node.index()];
    let (message, related) = match &node.uplink {
        Some(uplink) => (
            format!(
                "{source} is not a host of {}, the uplink's subnet of node `{}`",
                uplink.subnet, node.name
            ),
            at.key("uplink").key("subnet").place(),
        ),
        None => (
            format!("node `{}` has no uplink for the source address {source}", node.name),
            at.key("name").place(),
        ),
    };
    context.push(
        Diagnostic::new(Code::RouterSourceOutside, message)
            .at(place)
            .related(related, "the node that may host the router")
            .help("choose a free address of the uplink's subnet, or another node"),
    );
}

/// RF084: the gateway is a host of the uplink's subnet. Nodes that have the source on their uplinks
/// have the same subnet there, so one stands for all.
pub(super) fn gateway_outside(
    gateway: Ipv4Addr,
    place: Place,
    node: NodeId,
    nodes: &Nodes<'_>,
    context: &mut Context,
) {
    let (at, _) = nodes.wire[node.index()];
    let Some(uplink) = &nodes.list[node.index()].uplink else { return };
    if !is_host_of(gateway, uplink.subnet) {
        context.push(
            Diagnostic::new(
                Code::RouterGatewayOutside,
                format!("the gateway {gateway} is not a host of {}", uplink.subnet),
            )
            .at(place)
            .related(at.key("uplink").key("subnet").place(), "the uplink's subnet")
            .help("the router reaches its gateway directly: both are in the uplink's subnet"),
        );
    }
}
