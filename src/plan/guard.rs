//! The node's own ruleset: masquerading, and what keeps the kernel from going round the bridge.

use super::wiring::{Wiring, interface};
use crate::diagnostic::Diagnostic;
use crate::intent::NodeId;
use crate::model::Model;
use crate::nft::{Chain, Condition, Family, Hook, Rule, Ruleset, Statement, Table};
use crate::pipeline;
use crate::spec::Datapath;
use crate::value::InterfaceName;

pub(super) fn lower<'m>(
    model: &'m Model,
    node: NodeId,
    wiring: &Wiring,
) -> Result<Ruleset<'m>, Diagnostic> {
    let mut inet = Table { family: Family::Inet, maps: vec![], chains: vec![] };
    let userspace = model.datapath(node) == Datapath::Netdev;
    let uplink = model.intent()[node].uplink.as_ref().map(|uplink| &uplink.interface);
    let mut tables = Vec::new();
    if userspace {
        tables.extend(pods_guard(wiring));
        if let Some(uplink) = uplink {
            let rule = Rule {
                conditions: vec![Condition::Iif(uplink.clone())],
                statement: Statement::Drop,
                subject: model.node_subject(node),
            };
            let chain = |name, hook, priority| Chain {
                name,
                kind: "filter",
                hook: Hook::Stack(hook),
                priority,
                policy: "accept",
                rules: vec![rule.clone()],
            };
            inet.chains.push(chain("rf_uplink", "prerouting", "raw - 10"));
            let chains = vec![chain("rf_uplink", "input", "filter")];
            tables.push(Table { family: Family::Arp, maps: vec![], chains });
        }
    }
    inet.chains.extend(inet_chains(model)?);
    tables.insert(0, inet);
    Ok(Ruleset { tables })
}

fn inet_chains(model: &Model) -> Result<Vec<Chain<'_>>, Diagnostic> {
    let subject = model.cluster_subject();
    let tun = || interface(pipeline::TUN);
    let rule = |conditions, statement| Rule { conditions, statement, subject };
    let networks: Vec<_> = model.intent().cluster().pod_networks.iter().map(|n| n.cidr).collect();
    let mut spoofed = Vec::new();
    let mut masquerade = Vec::new();
    for network in networks {
        let source = Condition::Source(network);
        let from = vec![Condition::NotIif(tun()?), Condition::NotIif(lo()?), source.clone()];
        spoofed.push(rule(from, Statement::Drop));
        let out = vec![Condition::NotOif(tun()?), Condition::NotOif(lo()?), source];
        masquerade.push(rule(out, Statement::Masquerade));
    }
    let forward = vec![
        // What the bridge let out to the host is not let in again: it would come as the host's.
        rule(vec![Condition::Iif(tun()?), Condition::Oif(tun()?)], Statement::Drop),
        rule(vec![Condition::Oif(tun()?), Condition::CtKnown], Statement::Accept),
        rule(vec![Condition::Oif(tun()?)], Statement::Drop),
    ];
    let chain = |name, kind, hook, priority, rules| Chain {
        name,
        kind,
        hook: Hook::Stack(hook),
        priority,
        policy: "accept",
        rules,
    };
    Ok(vec![
        chain("rf_spoofed", "filter", "prerouting", "raw", spoofed),
        chain("rf_forwards", "filter", "forward", "filter", forward),
        chain("rf_source", "nat", "postrouting", "srcnat", masquerade),
    ])
}

fn lo() -> Result<InterfaceName, Diagnostic> {
    interface("lo")
}

/// A userspace datapath reads the pods' interfaces from the outside, so the kernel sees the same
/// frames. It must not answer or forward them: nothing would check them.
fn pods_guard<'m>(wiring: &Wiring) -> Option<Table<'m>> {
    let devices: Vec<InterfaceName> =
        wiring.ports.iter().map(|port| port.interface.clone()).collect();
    if devices.is_empty() {
        return None;
    }
    let chain = Chain {
        name: "rf_pods",
        kind: "filter",
        hook: Hook::Ingress(devices),
        priority: "-500",
        policy: "drop",
        rules: vec![],
    };
    Some(Table { family: Family::Netdev, maps: vec![], chains: vec![chain] })
}
