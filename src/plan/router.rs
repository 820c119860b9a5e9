//! Egress routers: a macvlan on the uplink, destination and source translation.

use super::wiring::{Macvlan, Router, interface, internal, namespace};
use crate::diagnostic::Diagnostic;
use crate::intent::{NodeId, RouterId};
use crate::model::{Model, Tenant};
use crate::nft::{Chain, Condition, Family, PortMap, Rule, Ruleset, Statement, Table};
use crate::pipeline;
use crate::spec::Datapath;
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
            cookie: model.tenant_subject(tenant).cookie,
        })
    });
    routers.collect()
}

/// The ruleset of a router's namespace.
pub(super) fn ruleset(model: &Model, id: RouterId) -> Result<Ruleset<'_>, Diagnostic> {
    let router = &model.intent()[id];
    let subject = model.tenant_subject(Tenant::Router(id));
    let inside = || interface(pipeline::POD_INTERFACE).map(Condition::Iif);
    let outside: InterfaceName = interface(pipeline::ROUTER_INTERFACE)?;
    let rule = |conditions, statement| Rule { conditions, statement, subject };

    let mut redirect = Vec::new();
    let mut maps = Vec::new();
    if !router.destinations.is_empty() {
        let elements = router.destinations.iter();
        maps.push(PortMap {
            name: MAP,
            elements: elements.map(|d| ((d.protocol, d.port), (d.to, d.to_port))).collect(),
        });
        redirect.push(rule(vec![inside()?], Statement::DnatByMap(MAP)));
    }
    if let Some(to) = router.fallback {
        redirect.push(rule(vec![inside()?, Condition::TcpOrUdp], Statement::Dnat(to)));
    }
    let chain = |name, kind, hook, priority, policy, rules| Chain {
        name,
        kind,
        hook,
        priority,
        policy,
        rules,
    };
    let source = rule(vec![Condition::Oif(outside.clone())], Statement::Snat(router.source));
    let from_outside = vec![Condition::Iif(outside), Condition::CtNew];
    let chains = vec![
        chain("rf_redirect", "nat", "prerouting", "dstnat", "accept", redirect),
        chain("rf_source", "nat", "postrouting", "srcnat", "accept", vec![source]),
        // It forwards what it redirects, and the replies, and nothing else.
        chain(
            "rf_forwards",
            "filter",
            "forward",
            "filter",
            "drop",
            vec![rule(vec![Condition::CtDnat], Statement::Accept)],
        ),
        chain(
            "rf_inward",
            "filter",
            "input",
            "filter",
            "accept",
            vec![rule(from_outside, Statement::Drop)],
        ),
    ];
    Ok(Ruleset { tables: vec![Table { family: Family::Inet, maps, chains, ..Table::default() }] })
}
