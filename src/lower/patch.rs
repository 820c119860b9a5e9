//! Tables 15 and 20: what passes by the patch between the outside interfaces of egress routers and the
//! gateway bridge.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

use super::router::outside_port;
use super::{Builder, arp, arp_to, host, ip, ip_to};
use crate::dataplane::openflow::{Action, ArpMatch, IpMatch, Match};
use crate::intent::{EgressRouter, RouterMode, Site, Upstream};
use crate::model::Workload;
use crate::pipeline::{OfPort, Table};
use crate::value::Mac;

pub(super) fn lower(builder: &mut Builder<'_>) {
    let model = builder.model;
    let intent = model.intent();
    if intent[builder.node].gateway_bridge().is_none() {
        return;
    }
    let mut by_neighbour: BTreeMap<Ipv4Addr, BTreeSet<OfPort>> = BTreeMap::new();
    for id in model.routers(builder.node) {
        let Some(port) = outside_port(model, *id) else { continue };
        let router = &intent[*id];
        let subject = model.workload_subject(Workload::Router(*id));
        let (mac, source) = (Mac::of_ipv4(router.source), host(router.source));
        for neighbour in neighbours(router) {
            by_neighbour.entry(neighbour).or_default().insert(port);
        }
        for matches in [ip_to(source), arp_to(source)] {
            builder.flow(subject, Table::FromUplink, 100, matches, vec![Action::Output(port)]);
        }
        for matches in [
            ip(IpMatch { src: Some(source), ..IpMatch::default() }),
            arp(ArpMatch { spa: Some(source), sha: Some(mac), ..ArpMatch::default() }),
        ] {
            let matches = Match { in_port: Some(port), dl_src: Some(mac), ..matches };
            let actions = vec![Action::Output(OfPort::PATCH)];
            builder.flow(subject, Table::FromPod, 100, matches, actions);
        }
    }
    // Another router of this node does not move.
    for id in model.routers(builder.node) {
        by_neighbour.remove(&intent[*id].source);
    }
    // A host that moves to another Ethernet address says so to everybody (RFC 5227, section 3).
    for (neighbour, ports) in by_neighbour {
        let neighbour = Some(host(neighbour));
        let matches = arp(ArpMatch { spa: neighbour, tpa: neighbour, ..ArpMatch::default() });
        let actions = ports.into_iter().map(Action::Output).collect();
        let subject = model.node_subject(builder.node);
        builder.flow(subject, Table::FromUplink, 100, matches, actions);
    }
    builder.default(Table::FromUplink, vec![]);
}

/// Whom a router sends to directly, as far as that is known by address: its gateway, and those on its
/// segment that it leads to. Another that moves is found again when it no longer answers.
fn neighbours(router: &EgressRouter) -> BTreeSet<Ipv4Addr> {
    let mut leads_to: Vec<Ipv4Addr> = Vec::new();
    match &router.mode {
        RouterMode::Redirect { destinations, fallback } => {
            leads_to.extend(destinations.iter().map(|destination| destination.to));
            leads_to.extend(fallback);
        }
        RouterMode::HttpProxy { rules, name_servers } => {
            leads_to.extend(rules.iter().filter_map(|rule| match &rule.site {
                Site::Network(network) if network.prefix_len() == 32 => Some(network.addr()),
                _ => None,
            }));
            leads_to.extend(name_servers);
        }
        RouterMode::DnsProxy { ports, name_servers } => {
            leads_to.extend(ports.iter().filter_map(|port| match &port.to {
                Upstream::Address(address) => Some(*address),
                Upstream::Name(_) => None,
            }));
            leads_to.extend(name_servers);
        }
    }
    leads_to.retain(|address| router.segment.contains(address));
    leads_to.into_iter().chain([router.gateway]).collect()
}
