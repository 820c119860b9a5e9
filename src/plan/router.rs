//! Egress routers: a macvlan on the uplink, destination and source translation.

use ipnet::Ipv4Net;

use super::proxy::{self, Proxy};
use super::wiring::{Macvlan, Router, interface, internal, namespace};
use crate::diagnostic::Diagnostic;
use crate::intent::{NodeId, RouterId, RouterMode};
use crate::model::{Model, Tenant};
use crate::nft::{Chain, Condition, Family, PortMap, Refusal, Rule, Ruleset, Statement, Table};
use crate::pipeline;
use crate::spec::{Datapath, Protocol};
use crate::value::{InterfaceName, Mac};

const MAP: &str = "rf_destinations";

/// The second interfaces of the routers of a node.
pub(super) fn wiring(model: &Model, node: NodeId) -> Result<Vec<Router>, Diagnostic> {
    let uplink = model.intent()[node].uplink.as_ref();
    let routers = model.routers(node).iter().map(|id| {
        let router = &model.intent()[*id];
        let uplink = uplink.ok_or_else(|| internal("an egress router without an uplink"))?;
        let tenant = Tenant::Router(*id);
        Ok(Router {
            name: router.name.clone(),
            netns: namespace(model, tenant)?.ok_or_else(|| internal("a router without netns"))?,
            macvlan: Macvlan {
                // The kernel's datapath leaves no room for a macvlan on a port of its own.
                parent: match model.datapath(node) {
                    Datapath::System => uplink.addressed().clone(),
                    Datapath::Netdev => uplink.interface.clone(),
                },
                mac: Mac::of_ipv4(router.source),
                source: router.source,
                gateway: router.gateway,
            },
            proxy: Proxy::of(&router.mode),
            cookie: model.tenant_subject(tenant).cookie,
        })
    });
    routers.collect()
}

/// The ruleset of a router's namespace.
pub(super) fn ruleset(model: &Model, id: RouterId) -> Result<Ruleset<'_>, Diagnostic> {
    let router = &model.intent()[id];
    let subject = model.tenant_subject(Tenant::Router(id));
    let inside: InterfaceName = interface(pipeline::POD_INTERFACE)?;
    let outside: InterfaceName = interface(pipeline::ROUTER_INTERFACE)?;
    let rule = |conditions, statement| Rule { conditions, statement, subject };
    let source = rule(vec![Condition::Oif(outside.clone())], Statement::Snat(router.source));
    let source = Chain::new("rf_source", "nat", "postrouting", "srcnat", vec![source]);
    let mut maps = Vec::new();
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
                Chain::new("rf_redirect", "nat", "prerouting", "dstnat", redirect),
                source,
                Chain::new("rf_forwards", "filter", "forward", "filter", forwards).strict(),
                Chain::new("rf_inward", "filter", "input", "filter", inward),
            ]
        }
        RouterMode::HttpProxy { .. } | RouterMode::DnsProxy { .. } => {
            let known = || rule(vec![Condition::CtKnown], Statement::Accept);
            let ports = Condition::TcpPorts(proxy::ports(&router.mode));
            let inward =
                vec![known(), rule(vec![Condition::Iif(inside), ports], Statement::Accept)];
            // It opens connections from the source to the outside, and to nobody inside: pods
            // would be seen there as the router, and the router's own ports as nobody.
            let from_source = Condition::Source(Ipv4Net::from(router.source));
            let outward = vec![
                known(),
                rule(vec![Condition::Oif(outside), from_source], Statement::Accept),
                rule(vec![Condition::Protocol(Protocol::Tcp)], Statement::Refuse(Refusal::Reset)),
            ];
            vec![
                source,
                Chain::new("rf_forwards", "filter", "forward", "filter", Vec::new()).strict(),
                Chain::new("rf_inward", "filter", "input", "filter", inward).strict(),
                Chain::new("rf_outward", "filter", "output", "filter", outward).strict(),
            ]
        }
    };
    Ok(Ruleset { tables: vec![Table { family: Family::Inet, maps, chains, ..Table::default() }] })
}
