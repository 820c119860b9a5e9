//! The node's own ruleset: masquerading, and what keeps the kernel from going round the bridge.

use std::net::Ipv4Addr;

use ipnet::Ipv4Net;

use super::node_access;
use super::node_port::{self, Inwards};
use super::wiring::interface;
use crate::artifact::host::{self, GUARDED_SET};
use crate::artifact::node::NodeConfig;
use crate::dataplane::nft::{
    Chain, Choice, Condition, Elements, Family, Hook, Priority, Refusal, Rule, Ruleset, Set,
    Statement, Table,
};
use crate::diagnostic::Diagnostic;
use crate::intent::NodeId;
use crate::model::Model;
use crate::pipeline;
use crate::spec::{Mode, SessionAffinity};
use crate::value::{Datapath, InterfaceName, Protocol};

/// The addresses where nodes take tunnels.
const TUNNELS: &str = "rf_tunnel_addresses";

pub(super) fn lower<'m>(
    model: &'m Model,
    node: NodeId,
    wiring: &NodeConfig,
) -> Result<Ruleset<'m>, Diagnostic> {
    let egress_ips = super::egress_ip::map(model, node);
    let Inwards { mut sets, maps, chains, onwards } = node_port::inwards(model, node)?;
    let mut nodes: Vec<Ipv4Addr> = model.intent().nodes().map(|(_, node)| node.address).collect();
    nodes.sort_unstable();
    sets.insert(0, Set { name: TUNNELS, elements: Elements::Addresses(nodes) });
    let mut inet = Table {
        family: Family::Inet,
        chains: inet_chains(model, node, egress_ips.as_ref().map(|map| map.name), chains, onwards)?,
        sets,
        maps,
        address_maps: egress_ips.into_iter().collect(),
    };
    let mut tables = Vec::new();
    if model.datapath(node) == Datapath::Netdev {
        let uplink = model.intent()[node].uplink.as_ref().map(|uplink| &uplink.interface);
        let pods = wiring.ports.iter().map(|port| &port.interface);
        let mut elements: Vec<InterfaceName> = uplink.into_iter().chain(pods).cloned().collect();
        elements.sort();
        let sets = vec![Set { name: GUARDED_SET, elements: Elements::Interfaces(elements) }];
        inet.sets.splice(0..0, sets.clone());
        inet.chains.insert(0, guard(model, node, Hook::Prerouting, Priority::RAW.plus(-10)));
        let chains = vec![guard(model, node, Hook::Input, Priority::FILTER)];
        tables.push(Table { family: Family::Arp, sets, chains, ..Table::default() });
    }
    tables.insert(0, inet);
    Ok(Ruleset { tables })
}

/// A userspace datapath reads the interfaces of pods and the uplink from the outside, so the
/// kernel sees the same frames. It must not answer or forward them: nothing would check them.
fn guard(model: &Model, node: NodeId, hook: Hook, priority: Priority) -> Chain<'_> {
    let rule = Rule {
        conditions: vec![Condition::IifIn(GUARDED_SET)],
        statement: Statement::Drop,
        subject: model.node_subject(node),
    };
    Chain::filter("rf_guard", hook, priority, vec![rule])
}

/// The chains for IP; `egress_ips` is the map of pods that have one. What node ports need comes
/// before the forwarding; what they have translated meets `onwards`.
fn inet_chains<'m>(
    model: &'m Model,
    node: NodeId,
    egress_ips: Option<&'static str>,
    node_ports: Vec<Chain<'m>>,
    onwards: Option<Vec<Condition>>,
) -> Result<Vec<Chain<'m>>, Diagnostic> {
    let subject = model.cluster_subject();
    let tun = || interface(host::TUN);
    let rule = |conditions, statement| Rule { conditions, statement, subject };
    let networks: Vec<_> = model.intent().cluster().pod_networks.iter().map(|n| n.cidr).collect();
    let mut spoofed = Vec::new();
    let mut escaped = Vec::new();
    let mut masquerade = Vec::new();
    if let Some(onwards) = onwards.clone() {
        if model.mode() == Mode::Networkpolicy {
            // Policies tell what comes from outside from what the node itself sends.
            let own = onwards.iter().cloned().chain([Condition::FromLocal]).collect();
            masquerade.push(rule(own, Statement::Masquerade));
            let source = Statement::Snat(model.node_port_source(node));
            masquerade.push(rule(onwards, source));
        } else {
            masquerade.push(rule(onwards, Statement::Masquerade));
        }
    }
    if let Some(map) = egress_ips {
        let out = vec![Condition::NotOif(tun()?), Condition::NotOif(lo()?)];
        masquerade.push(rule(out, Statement::SnatByMap(map)));
    }
    for network in networks {
        let source = Condition::Source(network);
        let from = vec![Condition::NotIif(tun()?), Condition::NotIif(lo()?), source.clone()];
        spoofed.push(rule(from, Statement::Drop));
        let out = vec![Condition::NotOif(tun()?), Condition::NotOif(lo()?), source];
        masquerade.push(rule(out.clone(), Statement::Masquerade));
        escaped.push(rule(out, Statement::Drop));
    }
    // As from a service: its answer would begin a connection from the node to a pod.
    let services = Condition::Source(model.intent().cluster().service_network);
    let from = vec![Condition::NotIif(tun()?), Condition::NotIif(lo()?), services];
    spoofed.push(rule(from, Statement::Drop));
    // Where the flows look at ports, this sees the whole of what came in fragments.
    let vxlan = Condition::Port(Protocol::Udp, model.intent().cluster().vxlan_port);
    let tunnels = [Condition::DestinationIn(TUNNELS), Condition::ToLocal].map(|there| {
        let conditions = Condition::Iif(interface(host::TUN)?);
        Ok(rule(vec![conditions, there, vxlan.clone()], Statement::Drop))
    });
    let tunnels: Vec<Rule<'_>> = tunnels.into_iter().collect::<Result<_, Diagnostic>>()?;
    // What the bridge let out to the host is not let in again: it would come as the host's.
    let again = vec![Condition::Iif(tun()?), Condition::Oif(tun()?)];
    let mut forward = vec![rule(again, Statement::Drop)];
    forward.extend(onwards.map(|onwards| rule(onwards, Statement::Accept)));
    forward.push(rule(vec![Condition::Oif(tun()?), Condition::CtEstablished], Statement::Accept));
    forward.push(rule(vec![Condition::Oif(tun()?)], Statement::Drop));
    let mut chains = vec![
        Chain::filter("rf_spoofed", Hook::Prerouting, Priority::RAW, spoofed),
        Chain::filter("rf_tunnels", Hook::Prerouting, Priority::RAW, tunnels),
    ];
    if model.has_services() {
        let services = Condition::Destination(model.intent().cluster().service_network);
        let mut refused = Vec::new();
        for (protocol, refusal) in REFUSALS {
            let mut conditions = vec![Condition::Iif(tun()?), services.clone()];
            conditions.extend(protocol.map(Condition::Protocol));
            refused.push(rule(conditions, Statement::Reject(refusal)));
        }
        // Before routing, which would send a packet from the node to itself nowhere.
        chains.push(Chain::filter("rf_refused", Hook::Prerouting, Priority::RAW.plus(10), refused));
    }
    let endpoints = node_to_endpoints(model, node);
    if !endpoints.is_empty() {
        chains.push(Chain::nat("rf_endpoints", Hook::Output, Priority::DSTNAT_OUTPUT, endpoints));
    }
    chains.extend(node_ports);
    chains.push(Chain::filter("rf_forwards", Hook::Forward, Priority::FILTER, forward));
    chains.push(Chain::filter(
        "rf_input",
        Hook::Input,
        Priority::FILTER,
        node_access::rules(model, node)?,
    ));
    if model.datapath(node) == Datapath::System {
        let passed = rule(vec![Condition::Oif(tun()?)], Statement::Mark(pipeline::PASSED_MARK));
        chains.push(Chain::filter("rf_passed", Hook::Postrouting, Priority::MANGLE, vec![passed]));
    }
    chains.push(Chain::nat("rf_source", Hook::Postrouting, Priority::SRCNAT, masquerade));
    // Conntrack translates nothing that it calls invalid, or that somebody told it not to track.
    chains.push(Chain::filter("rf_escaped", Hook::Postrouting, Priority::SRCNAT.plus(10), escaped));
    Ok(chains)
}

/// Services for hosts outside, as the node's own processes reach them. By the bridge, what they
/// send would come back with an address of the node itself, which its kernel takes from nobody.
fn node_to_endpoints(model: &Model, node: NodeId) -> Vec<Rule<'_>> {
    let services = model.services().filter(|(id, _)| model.node_reaches(node, *id));
    let ports = services.flat_map(|(id, address)| {
        model.service_ports(id).map(move |(port, subject, _)| (id, address, port, subject))
    });
    let served = ports.filter(|(_, _, port, _)| !port.endpoints.is_empty());
    served
        .map(|(id, address, port, subject)| Rule {
            conditions: vec![
                Condition::Destination(Ipv4Net::from(address)),
                Condition::Port(port.protocol, port.port),
            ],
            statement: Statement::DnatBalanced(
                port.endpoints.clone(),
                match model.intent()[id].affinity {
                    SessionAffinity::None => Choice::Random,
                    SessionAffinity::ClientIp => Choice::BySource,
                },
            ),
            subject,
        })
        .collect()
}

/// What is told to a sender, by its protocol.
pub(super) const REFUSALS: [(Option<Protocol>, Refusal); 3] = [
    (Some(Protocol::Tcp), Refusal::Reset),
    (Some(Protocol::Sctp), Refusal::Protocol),
    (None, Refusal::Port),
];

pub(super) fn lo() -> Result<InterfaceName, Diagnostic> {
    interface("lo")
}
