//! Egress routers that are proxies: what they let through, and which keys go with which mode.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use ipnet::Ipv4Net;

use super::{destination_inside, port_twice};
use crate::diagnostic::{Code, Diagnostic, Place};
use crate::input::{Cursor, rule_verdict};
use crate::intent::{ProxyPort, Site, SiteRule, Upstream, Verdict};
use crate::resolve::Context;
use crate::resolve::outside::Outside;
use crate::spec::{self, RouterMode};
use crate::value::{self, Host, Port, Protocol, ipv4};

/// RF174: each mode has keys of its own.
pub(super) fn mode_keys(wire: &spec::EgressRouter, at: Cursor<'_>, context: &mut Context) {
    let spec::EgressRouter {
        mode, destination, destinations, fallback, rules, dns_servers, ..
    } = wire;
    let keys = [
        ("destination", destination.is_some(), &[RouterMode::Redirect][..]),
        ("fallback", fallback.is_some(), &[RouterMode::Redirect]),
        ("destinations", !destinations.is_empty(), &[RouterMode::Redirect, RouterMode::DnsProxy]),
        ("rules", rules.is_some(), &[RouterMode::HttpProxy]),
        ("dnsServers", dns_servers.is_some(), &[RouterMode::HttpProxy, RouterMode::DnsProxy]),
    ];
    for (key, there, modes) in keys {
        if !there || modes.contains(mode) {
            continue;
        }
        let takes: Vec<String> = modes.iter().map(|mode| format!("`{}`", mode.as_str())).collect();
        let message = format!("an egress router of mode `{}` takes no `{key}`", mode.as_str());
        let diagnostic = Diagnostic::new(Code::RouterModeKey, message).at(at.key(key).key_place());
        let diagnostic = match at.find("mode") {
            Some(said) => diagnostic.related(said.place(), "the mode"),
            None => diagnostic,
        };
        context.push(diagnostic.help(format!(
            "the key goes with `mode` {}: remove it, or change the mode",
            takes.join(" or ")
        )));
    }
}

/// The rules of an HTTP proxy.
pub(super) fn rules(
    wire: &spec::EgressRouter,
    at: Cursor<'_>,
    outside: &Outside<'_>,
    context: &mut Context,
) -> Vec<SiteRule> {
    let rules = wire.rules.as_deref().unwrap_or_default();
    if rules.is_empty() {
        let message = format!("the egress router `{}` lets nothing through", wire.name);
        context.push(
            Diagnostic::new(Code::RouterRules, message)
                .at(at.find("rules").map_or_else(|| at.place(), Cursor::place))
                .help("add `rules`, such as `- allow: \"*.example.com\"`; `*` is everything"),
        );
    }
    let items = at.find("rules").into_iter().flat_map(Cursor::children);
    let mut resolved: Vec<SiteRule> = Vec::with_capacity(rules.len());
    for (number, (rule, at)) in rules.iter().zip(items).enumerate() {
        let spec::ProxyRule { allow, deny } = rule;
        let (verdict, site, at) = match (allow, deny) {
            (Some(site), None) => (Verdict::Allow, site, at.key("allow")),
            (None, Some(site)) => (Verdict::Deny, site, at.key("deny")),
            _ => {
                context.push(rule_verdict().at(at.place()));
                continue;
            }
        };
        let place = at.place();
        let site = match site {
            value::Site::Any => Site::Any,
            value::Site::Domain(domain) => Site::Domain(domain.clone()),
            value::Site::Name(name) => Site::Name(name.clone()),
            value::Site::Address(address) => {
                let Some(address) = context.host_address(address, place) else { continue };
                Site::Network(Ipv4Net::from(address))
            }
            value::Site::Network(network) => {
                let Some(network) = context.take(ipv4(network), place) else { continue };
                Site::Network(network)
            }
        };
        if site == Site::Any && number + 1 != rules.len() {
            context.push(
                Diagnostic::new(Code::RouterAnyLast, "the rule for `*` is not the last")
                    .at(place)
                    .help("it decides about everything: put it at the end of the list"),
            );
            continue;
        }
        let rule = SiteRule { verdict, site, place };
        inside_cluster(&rule, outside, context);
        if let Some(covering) = resolved.iter().find(|earlier| earlier.site.covers(&rule.site)) {
            let message =
                format!("the rule for {} never matches: an earlier one covers it", rule.site);
            context.push(
                Diagnostic::new(Code::RouterRuleNeverMatches, message)
                    .at(place)
                    .related(covering.place, "this rule decides first")
                    .help("the first match decides: put the narrower rule first, or remove it"),
            );
        }
        resolved.push(rule);
    }
    resolved
}

/// RF176 and RF179: a proxy leads out of the cluster, and to no node of it.
fn inside_cluster(rule: &SiteRule, outside: &Outside<'_>, context: &mut Context) {
    let Site::Network(inner) = &rule.site else { return };
    if let Some(network) = outside.cluster.networks().find(|network| network.contains(inner)) {
        let message = format!("{} is inside of the cluster network {network}", rule.site);
        context.push(
            Diagnostic::new(Code::RouterRuleInsideCluster, message)
                .at(rule.place)
                .help("a proxy leads outside, whatever its rules say; remove the rule"),
        );
    }
    let single = (inner.prefix_len() == 32 && rule.verdict == Verdict::Allow).then(|| inner.addr());
    if let Some((address, inside)) = single.and_then(|one| Some((one, outside.inside(one)?))) {
        let message = format!("a proxy can't lead to {address}, which {}", inside.what);
        let diagnostic = Diagnostic::new(Code::RouterRuleNode, message).at(rule.place);
        let diagnostic = match inside.place {
            Some(said) => diagnostic.related(said, "said here"),
            None => diagnostic,
        };
        context.push(diagnostic.help("name a host outside, or remove the rule"));
    }
}

/// The ports of a TCP proxy.
pub(super) fn ports(
    wire: &spec::EgressRouter,
    at: Cursor<'_>,
    outside: &Outside<'_>,
    context: &mut Context,
) -> Vec<ProxyPort> {
    if wire.destinations.is_empty() {
        context.push(
            Diagnostic::new(
                Code::RouterDestination,
                format!("the egress router `{}` has no destination", wire.name),
            )
            .at(at.find("destinations").map_or_else(|| at.place(), Cursor::place))
            .help("add `destinations`, such as `- {port: 80, to: www.example.com}`"),
        );
    }
    let router_at = at;
    let items = at.find("destinations").into_iter().flat_map(Cursor::children);
    let mut ports: BTreeMap<Port, (ProxyPort, Place)> = BTreeMap::new();
    for (item, at) in wire.destinations.iter().zip(items) {
        let spec::Destination { port, protocol, to, to_port } = item;
        let to_place = at.key("to").place();
        if let Some(protocol) = protocol.filter(|protocol| *protocol != Protocol::Tcp) {
            let message = format!("a proxy leads TCP on, and no {protocol}");
            context.push(
                Diagnostic::new(Code::RouterProtocol, message)
                    .at(at.key("protocol").place())
                    .help("leave `protocol` out, or use a router of mode `redirect` for it"),
            );
            continue;
        }
        let Some(port) = *port else {
            context.push(
                Diagnostic::new(Code::MissingKey, "the destination has no `port`")
                    .at(at.place())
                    .help("name the port that pods connect to; a proxy has no fallback"),
            );
            continue;
        };
        let to = match to {
            Host::Address(address) => {
                let Some(address) = context.host_address(address, to_place) else { continue };
                destination_inside(address, to_place, (wire, router_at), outside, context);
                Upstream::Address(address)
            }
            Host::Name(name) if !name.is_qualified() => {
                context.push(
                    Diagnostic::new(Code::BadHost, format!("`{name}` is not a full host name"))
                        .at(to_place)
                        .help("write the name with its domain: name servers know no other"),
                );
                continue;
            }
            Host::Name(name) => Upstream::Name(name.clone()),
        };
        let place = at.key("port").place();
        if let Some((_, first)) = ports.get(&port) {
            port_twice(Protocol::Tcp, port, place, *first, context);
            continue;
        }
        ports.insert(port, (ProxyPort { port, to, to_port: to_port.unwrap_or(port) }, place));
    }
    ports.into_values().map(|(port, _)| port).collect()
}

/// RF182: name servers are outside, where the proxy reaches them.
pub(super) fn name_servers(
    wire: &spec::EgressRouter,
    at: Cursor<'_>,
    outside: &Outside<'_>,
    context: &mut Context,
) -> Vec<Ipv4Addr> {
    let Some(servers) = &wire.dns_servers else { return Vec::new() };
    let at = at.key("dnsServers");
    if servers.is_empty() {
        context.push(
            Diagnostic::new(Code::BadValue, "`dnsServers` takes at least one address")
                .at(at.place())
                .help("without the key, the node's own name servers are asked"),
        );
    }
    let mut found = Vec::with_capacity(servers.len());
    for (server, at) in servers.iter().zip(at.children()) {
        let place = at.place();
        let Some(address) = context.host_address(server, place) else { continue };
        let inside = outside.cluster.networks().find(|network| network.contains(&address));
        let wrong = match inside {
            Some(network) => Some(format!("is inside of the cluster network {network}")),
            None if wire.source.address.0 == address => {
                Some("is the router's own source".to_owned())
            }
            None if found.contains(&address) => Some("is a duplicate".to_owned()),
            None => outside.inside(address).map(|inside| inside.what),
        };
        if let Some(wrong) = wrong {
            let message = format!("the name server {address} {wrong}");
            context.push(
                Diagnostic::new(Code::RouterNameServer, message)
                    .at(place)
                    .help("write the address of a name server outside"),
            );
            continue;
        }
        found.push(address);
    }
    found
}
