//! Egress routers: an interface to the uplink, destination and source translation.
//!
//! That interface is a macvlan on the uplink, or, where the uplink is a port of a gateway bridge, a
//! port of the node's own bridge, which lets nothing out but what has the router's source.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;

use ipnet::Ipv4Net;

use super::proxy;
use super::wiring::{interface, internal, namespace};
use crate::artifact::host;
use crate::artifact::node::{ExternalInterface, Router, UplinkAttachment};
use crate::dataplane::nft::{
    Chain, Condition, Elements, Family, Hook, PortMap, Priority, Refusal, Rule, Ruleset, Set,
    Statement, Table,
};
use crate::dataplane::origin::Cookie;
use crate::diagnostic::Diagnostic;
use crate::intent::{NodeId, RouterId, RouterMode};
use crate::model::{Model, Workload, veth_name};
use crate::pipeline::OfPort;
use crate::resolve::link_local;
use crate::value::{InterfaceName, Mac, Protocol};

const MAP: &str = "rf_destinations";
const NODES: &str = "rf_node_addresses";

/// The second interfaces of the routers of a node.
pub(super) fn wiring(model: &Model, node: NodeId) -> Result<Vec<Router>, Diagnostic> {
    let uplink = model.intent()[node].uplink.as_ref();
    let routers = model.routers(node).iter().map(|id| {
        let router = &model.intent()[*id];
        let uplink = uplink.ok_or_else(|| internal("an egress router without an uplink"))?;
        let workload = Workload::Router(*id);
        Ok(Router {
            name: router.name.clone(),
            netns: namespace(model, workload)?.ok_or_else(|| internal("a router without netns"))?,
            outside: ExternalInterface {
                via: match outside_port(model, *id) {
                    Some(_) => UplinkAttachment::Veth {
                        host: outside_veth(model, *id)?,
                        uplink: uplink.interface.clone(),
                    },
                    None => UplinkAttachment::Macvlan { parent: uplink.interface.clone() },
                },
                mac: Mac::of_ipv4(router.source),
                source: router.source,
                segment: Some(router.segment).filter(|segment| segment.prefix_len() < 32),
                gateway: router.gateway,
            },
            proxy: proxy::program(&router.mode),
            cookie: model.workload_subject(workload).cookie,
        })
    });
    routers.collect()
}

/// The port of a router's outside interface, where it is one of the node's bridge.
pub(super) fn outside_port(model: &Model, id: RouterId) -> Option<OfPort> {
    model.endpoint(Workload::Router(id)).outside
}

/// The veth of that interface on the node's side.
pub(super) fn outside_veth(model: &Model, id: RouterId) -> Result<InterfaceName, Diagnostic> {
    let cookie = Cookie::of("outside", &format!("outside/{}", model.intent()[id].name));
    veth_name(cookie).ok_or_else(|| internal("a veth without a name"))
}

/// The ruleset of a router's namespace.
pub(super) fn ruleset(model: &Model, id: RouterId) -> Result<Ruleset<'_>, Diagnostic> {
    let router = &model.intent()[id];
    let subject = model.workload_subject(Workload::Router(id));
    let inside: InterfaceName = interface(host::POD_INTERFACE)?;
    let outside: InterfaceName = interface(host::ROUTER_INTERFACE)?;
    let rule = |conditions, statement| Rule { conditions, statement, subject };
    let source = rule(vec![Condition::Oif(outside.clone())], Statement::Snat(router.source));
    let source = Chain::nat("rf_source", Hook::Postrouting, Priority::SRCNAT, vec![source]);
    let mut maps = Vec::new();
    let mut sets = Vec::new();
    let chains = match &router.mode {
        RouterMode::Redirect { destinations, fallback } => {
            let mut redirect = Vec::new();
            if !destinations.is_empty() {
                let elements = destinations.iter();
                maps.push(PortMap {
                    name: MAP,
                    elements: elements.map(|d| ((d.protocol, d.port), (d.to, d.to_port))).collect(),
                });
                let conditions = vec![Condition::Iif(inside.clone())];
                redirect.push(rule(conditions, Statement::DnatByMap(MAP)));
            }
            if let Some(to) = fallback {
                let conditions = vec![Condition::Iif(inside), Condition::TcpOrUdp];
                redirect.push(rule(conditions, Statement::Dnat(*to)));
            }
            // It forwards what it redirects, and the replies, and nothing else.
            let forwards = vec![rule(vec![Condition::CtDnat], Statement::Accept)];
            let from_outside = vec![Condition::Iif(outside), Condition::CtNew];
            let inward = vec![rule(from_outside, Statement::Drop)];
            vec![
                Chain::nat("rf_redirect", Hook::Prerouting, Priority::DSTNAT, redirect),
                source,
                Chain::filter("rf_forwards", Hook::Forward, Priority::FILTER, forwards)
                    .default_drop(),
                Chain::filter("rf_inward", Hook::Input, Priority::FILTER, inward),
            ]
        }
        RouterMode::HttpProxy { .. } | RouterMode::DnsProxy { .. } => {
            let known = || rule(vec![Condition::CtEstablished], Statement::Accept);
            let ports = Condition::TcpPorts(proxy::ports(&router.mode));
            let inward =
                vec![known(), rule(vec![Condition::Iif(inside), ports], Statement::Accept)];
            // It opens connections from the source to the outside, and to nobody inside: pods
            // would be seen there as the router, and the router's own ports as nobody. Whatever a
            // name leads to, it is no node: there, the services of others would take the router for
            // a client from outside. Nor is it what hosts ask on their own segment alone.
            sets.push(Set { name: NODES, elements: Elements::Addresses(node_addresses(model)) });
            let to_outside = vec![
                Condition::Oif(outside),
                Condition::Source(Ipv4Net::from(router.source)),
                Condition::DestinationNotIn(NODES),
                Condition::DestinationOutside(link_local()),
            ];
            let outward = vec![
                known(),
                rule(to_outside, Statement::Accept),
                rule(vec![Condition::Protocol(Protocol::Tcp)], Statement::Reject(Refusal::Reset)),
            ];
            vec![
                source,
                Chain::filter("rf_forwards", Hook::Forward, Priority::FILTER, Vec::new())
                    .default_drop(),
                Chain::filter("rf_inward", Hook::Input, Priority::FILTER, inward).default_drop(),
                Chain::filter("rf_outward", Hook::Output, Priority::FILTER, outward).default_drop(),
            ]
        }
    };
    Ok(Ruleset {
        tables: vec![Table { family: Family::Inet, sets, maps, chains, ..Table::default() }],
    })
}

/// The addresses of all nodes: their own, those of node ports, and egress IPs.
fn node_addresses(model: &Model) -> Vec<Ipv4Addr> {
    let intent = model.intent();
    let nodes = intent
        .nodes()
        .flat_map(|(_, node)| node.node_port_addresses.iter().copied().chain([node.address]));
    let egress_ips = intent.egress_ips().iter().flat_map(|list| &list.addresses);
    let all: BTreeSet<Ipv4Addr> = nodes.chain(egress_ips.map(|ip| ip.address)).collect();
    all.into_iter().collect()
}
