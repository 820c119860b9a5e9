//! Tables 15 and 20: what passes by the patch between the outside interfaces of egress routers and the
//! gateway bridge.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use super::router::outside_port;
use super::{Builder, arp, arp_to, host, ip, ip_to};
use crate::flow::{Action, ArpMatch, IpMatch, Match};
use crate::model::Tenant;
use crate::pipeline::{OfPort, Table};
use crate::value::Mac;

pub(super) fn lower(builder: &mut Builder<'_>) {
    let model = builder.model;
    let intent = model.intent();
    if intent[builder.node].gateway_bridge().is_none() {
        return;
    }
    let mut by_gateway: BTreeMap<Ipv4Addr, Vec<OfPort>> = BTreeMap::new();
    for id in model.routers(builder.node) {
        let Some(port) = outside_port(model, *id) else { continue };
        let router = &intent[*id];
        let subject = model.tenant_subject(Tenant::Router(*id));
        let (mac, source) = (Mac::of_ipv4(router.source), host(router.source));
        by_gateway.entry(router.gateway).or_default().push(port);
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
    // A gateway that moves to another Ethernet address says so to everybody (RFC 5227, section 3).
    for (gateway, ports) in by_gateway {
        let gateway = Some(host(gateway));
        let matches = arp(ArpMatch { spa: gateway, tpa: gateway, ..ArpMatch::default() });
        let actions = ports.into_iter().map(Action::Output).collect();
        let subject = model.node_subject(builder.node);
        builder.flow(subject, Table::FromUplink, 100, matches, actions);
    }
    builder.default(Table::FromUplink, vec![]);
}
