//! The `egressRouters` section.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use serde_json::Value;

mod placement;
mod proxies;
mod segment;

use super::outside::{Outside, Taken};
use super::{Context, Nodes, Projects, Wire, unique};
use crate::diagnostic::{Code, Diagnostic, Place};
use crate::input::{Cursor, replicas};
use crate::intent::{Destination, EgressRouter, NodeId, RouterMode};
use crate::spec::{self, Platform};
use crate::value::{Address, Host, Port, Protocol};

/// How many unicast addresses a modest network card filters in hardware (Intel 82540: 15 beside
/// its own); with more it receives everything.
const MAC_FILTERS: usize = 15;

pub(super) fn resolve(
    all: &Wire<'_>,
    nodes: &Nodes<'_>,
    projects: &Projects<'_>,
    outside: &Outside<'_>,
    context: &mut Context,
) -> Vec<EgressRouter> {
    let items = all.items("egressRouters", |state| &state.egress_routers);
    let items = unique("egress router", items, |router| &router.name, context);
    let mut routers = Vec::with_capacity(items.len());
    let mut sources: BTreeMap<Ipv4Addr, Place> = BTreeMap::new();
    let taken = nodes.taken(all);
    for (at, wire) in items {
        let spec::EgressRouter {
            name,
            project,
            labels,
            mode,
            source,
            gateway,
            destination: _,
            destinations: _,
            fallback: _,
            rules: _,
            dns_servers: _,
            node: _,
            nodes: _,
            node_selector: _,
            replicas: count,
        } = wire;
        if outside.cluster.platform == Platform::Aws {
            context.push(
                Diagnostic::new(
                    Code::RouterPlatform,
                    "egress routers don't work on Amazon Web Services",
                )
                .at(at.place())
                .help("its network drops frames of macvlan interfaces; let a NAT gateway of the provider give the traffic its address"),
            );
        }
        if let Some(count) = count
            && *count != 1
        {
            context.push(replicas(&Value::from(*count)).at(at.key("replicas").place()));
        }
        let project_place = at.key("project").place();
        let project = projects.index.get(project).or_else(|| {
            let known = projects.index.names();
            context.unknown(Code::UnknownProject, "project", project, project_place, known);
            None
        });
        let source_place = at.key("source").place();
        let length = source.length;
        let gateway_place = at.key("gateway").place();
        let source = context.host_address(&source.address, source_place);
        let gateway = context.host_address(gateway, gateway_place);
        if let (Some(source), Some(gateway)) = (source, gateway)
            && source == gateway
        {
            gateway_itself(gateway, gateway_place, source_place, context);
        }
        if let Some(source) = source {
            source_twice(source, source_place, &mut sources, context);
            source_taken(source, source_place, wire, &taken, context);
        }
        let node = source.and_then(|source| placement::choose(source, wire, at, nodes, context));
        if let (Some(node), Some(gateway)) = (node, gateway) {
            placement::gateway_outside(gateway, gateway_place, node, nodes, context);
        }
        let segment = source.zip(node).and_then(|(source, node)| {
            segment::of(source, length, source_place, (node, nodes), context)
        });
        proxies::mode_keys(wire, at, context);
        let mode = match mode {
            spec::RouterMode::Redirect => {
                let (destinations, fallback) = resolve_destinations(wire, at, outside, context);
                RouterMode::Redirect { destinations, fallback }
            }
            spec::RouterMode::HttpProxy => RouterMode::HttpProxy {
                rules: proxies::rules(wire, at, outside, context),
                name_servers: proxies::name_servers(wire, at, outside, context),
            },
            spec::RouterMode::DnsProxy => RouterMode::DnsProxy {
                ports: proxies::ports(wire, at, outside, context),
                name_servers: proxies::name_servers(wire, at, outside, context),
            },
        };
        if let (Some(project), Some(source), Some(gateway), Some(node), Some(segment)) =
            (project, source, gateway, node, segment)
        {
            routers.push(EgressRouter {
                name: name.clone(),
                project,
                labels: labels.clone(),
                node,
                source,
                segment,
                gateway,
                mode,
                place: at.place(),
            });
        }
    }
    mac_filter(&routers, nodes, context);
    routers
}

/// RF085: a router is not its own gateway.
fn gateway_itself(gateway: Ipv4Addr, place: Place, source: Place, context: &mut Context) {
    let message = format!("the gateway {gateway} is the router's own source address");
    context.push(
        Diagnostic::new(Code::RouterGatewayIsSource, message)
            .at(place)
            .related(source, "the source")
            .help("the gateway is the next hop, usually the one of the node's uplink"),
    );
}

/// RF081: a source address belongs to one router.
fn source_twice(
    source: Ipv4Addr,
    place: Place,
    sources: &mut BTreeMap<Ipv4Addr, Place>,
    context: &mut Context,
) {
    if let Some(first) = sources.get(&source) {
        context.push(
            Diagnostic::new(
                Code::RouterSourceTwice,
                format!("two egress routers have the source address {source}"),
            )
            .at(place)
            .related(*first, "the other")
            .help("give each router an address of its own"),
        );
    } else {
        sources.insert(source, place);
    }
}

/// RF082: a source address belongs to no node, no gateway and no name server.
fn source_taken(
    source: Ipv4Addr,
    place: Place,
    wire: &spec::EgressRouter,
    taken: &Taken,
    context: &mut Context,
) {
    // RF085 and RF182 speak about the router's own.
    let own = wire.dns_servers.iter().flatten().chain([&wire.gateway]);
    if own.into_iter().any(|own| own.0 == source) {
        return;
    }
    if let Some((what, first)) = taken.get(&source) {
        context.push(
            Diagnostic::new(Code::RouterSourceTaken, format!("{source} is {what}"))
                .at(place)
                .related(*first, "used here")
                .help("give the router an address that nothing else has"),
        );
    }
}

fn resolve_destinations(
    wire: &spec::EgressRouter,
    at: Cursor<'_>,
    outside: &Outside<'_>,
    context: &mut Context,
) -> (Vec<Destination>, Option<Ipv4Addr>) {
    let checked = |address: &Address, place: Place, context: &mut Context| {
        let address = context.host_address(address, place)?;
        destination_inside(address, place, (wire, at), outside, context);
        Some(address)
    };
    let single = wire.destination.as_ref();
    let single = single.and_then(|to| checked(to, at.key("destination").place(), context));
    let explicit = wire.fallback.as_ref();
    let explicit = explicit.and_then(|to| checked(to, at.key("fallback").place(), context));
    one_form(wire, at, context);
    let items: Vec<(Cursor<'_>, &spec::Destination)> = at
        .find("destinations")
        .into_iter()
        .flat_map(Cursor::children)
        .zip(&wire.destinations)
        .collect();
    let mut destinations: BTreeMap<_, (Destination, Place)> = BTreeMap::new();
    let mut listed_fallback = None;
    let router_at = at;
    for (number, &(at, item)) in items.iter().enumerate() {
        let spec::Destination { port, protocol, to, to_port } = item;
        let to_place = at.key("to").place();
        let to = match to {
            Host::Address(to) => checked(to, to_place, context),
            Host::Name(name) => {
                let message =
                    format!("a redirecting egress router can't lead to the name `{name}`");
                context.push(
                    Diagnostic::new(Code::RouterHostName, message)
                        .at(to_place)
                        .help("write an address, or let a router of mode `dns-proxy` resolve it"),
                );
                None
            }
        };
        let Some(to) = to else { continue };
        let Some(port) = *port else {
            if protocol.is_some() || to_port.is_some() {
                context.push(
                    Diagnostic::new(Code::MissingKey, "the destination has no `port`")
                        .at(at.place())
                        .help("name the port that pods connect to; only a fallback has none"),
                );
            } else if number + 1 != items.len() {
                context.push(
                    Diagnostic::new(
                        Code::RouterFallbackLast,
                        format!("the fallback {to} is not the last destination"),
                    )
                    .at(at.place())
                    .help("it takes all ports that are left: put it at the end of the list"),
                );
            } else if wire.fallback.is_some() {
                context.push(
                    Diagnostic::new(Code::ConflictingKeys, "the router has two fallbacks")
                        .at(at.place())
                        .related(router_at.key("fallback").key_place(), "the other")
                        .help("keep `fallback`, or the destination without a port"),
                );
            } else {
                listed_fallback = Some(to);
            }
            continue;
        };
        let protocol = item.protocol();
        let key = (protocol, port);
        if let Some((_, first)) = destinations.get(&key) {
            port_twice(protocol, port, at.key("port").place(), *first, context);
            continue;
        }
        let to_port = to_port.unwrap_or(port);
        let place = at.key("port").place();
        destinations.insert(key, (Destination { protocol, port, to, to_port }, place));
    }
    let destinations = destinations.into_values().map(|(destination, _)| destination).collect();
    (destinations, single.or(explicit).or(listed_fallback))
}

/// RF090: a port leads to one destination.
fn port_twice(protocol: Protocol, port: Port, place: Place, first: Place, context: &mut Context) {
    context.push(
        Diagnostic::new(
            Code::RouterPortTwice,
            format!("the port {port}/{protocol} leads to two destinations"),
        )
        .at(place)
        .related(first, "the other")
        .help("keep one of the two, or let pods connect to another port"),
    );
}

/// RF091 and RF035: a router has either `destination` or `destinations`.
fn one_form(wire: &spec::EgressRouter, at: Cursor<'_>, context: &mut Context) {
    if wire.destination.is_none() && wire.destinations.is_empty() {
        context.push(
            Diagnostic::new(
                Code::RouterDestination,
                format!("the egress router `{}` has no destination", wire.name),
            )
            .at(at.place())
            .help("add `destination` for all ports, or `destinations` for single ones"),
        );
    }
    let second = if wire.destinations.is_empty() { "fallback" } else { "destinations" };
    if wire.destination.is_some() && (wire.fallback.is_some() || !wire.destinations.is_empty()) {
        context.push(
            Diagnostic::new(
                Code::ConflictingKeys,
                format!("the router has both `destination` and `{second}`"),
            )
            .at(at.key(second).key_place())
            .related(at.key("destination").key_place(), "the other")
            .help(
                "`destination` takes all ports; with `destinations`, use `fallback` for the rest",
            ),
        );
    }
}

/// RF091: an egress router leads out of the cluster, and to nobody of it: neither to itself, nor to a
/// node.
fn destination_inside(
    to: Ipv4Addr,
    place: Place,
    (wire, at): (&spec::EgressRouter, Cursor<'_>),
    outside: &Outside<'_>,
    context: &mut Context,
) {
    if let Some(network) = outside.cluster.networks().find(|network| network.contains(&to)) {
        context.push(
            Diagnostic::new(
                Code::RouterDestination,
                format!("the destination {to} is inside of the cluster network {network}"),
            )
            .at(place)
            .help("an egress router leads outside; pods reach each other without it"),
        );
    } else if wire.source.address.0 == to {
        context.push(
            Diagnostic::new(
                Code::RouterDestination,
                format!("the destination {to} is the router's own source address"),
            )
            .at(place)
            .related(at.key("source").place(), "the source")
            .help("write the address of the outside host that the pods are to reach"),
        );
    } else if let Some(inside) = outside.inside(to) {
        let message = format!("the destination {to} {}", inside.what);
        let diagnostic = Diagnostic::new(Code::RouterDestination, message).at(place);
        let diagnostic = match inside.place {
            Some(said) => diagnostic.related(said, "said here"),
            None => diagnostic,
        };
        context.push(diagnostic.help(
            "an egress router leads to hosts outside; what nodes serve, pods reach without it",
        ));
    }
}

/// RF092: network cards filter a few Ethernet addresses in hardware.
fn mac_filter(routers: &[EgressRouter], nodes: &Nodes<'_>, context: &mut Context) {
    let mut per_node: BTreeMap<NodeId, Vec<&EgressRouter>> = BTreeMap::new();
    for router in routers {
        per_node.entry(router.node).or_default().push(router);
    }
    for (node, routers) in per_node {
        if let Some(first_over) = routers.get(MAC_FILTERS) {
            let message = format!(
                "{} egress routers share the uplink of node `{}`",
                routers.len(),
                nodes.list[node.index()].name
            );
            context.push(
                Diagnostic::new(Code::RouterMacFilter, message).at(first_over.place).help(
                    "with more addresses than its filters hold, a network card receives all \
                         frames of the segment; spread the routers, or check the card's limit",
                ),
            );
        }
    }
}
