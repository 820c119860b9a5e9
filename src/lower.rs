//! What one node gets, as types: flows, ports, links, rulesets.
//!
//! [`Plan::of`] lowers the [`Model`] for one node. One file a feature; each adds its own flows and
//! wiring and knows nothing of the others.

mod common;
mod egress;
mod egress_ip;
mod entry;
mod guard;
mod isolation;
mod multicast;
mod network_policy;
mod node_access;
mod node_port;
mod patch;
pub mod proxy;
mod route;
mod router;
mod service;
mod wiring;

pub use common::ClusterFlows;

use std::net::Ipv4Addr;

use ipnet::Ipv4Net;

use crate::artifact::node::NodeConfig;
use crate::dataplane::nft::Ruleset;
use crate::dataplane::openflow::{ArpMatch, Flow, FlowTable, InvalidFlow, IpMatch, Match, Packet};
use crate::dataplane::origin::ObjectRef;
use crate::diagnostic::{Code, Diagnostic};
use crate::intent::NodeId;
use crate::model::Model;
use crate::pipeline::Table;

/// What one node gets.
#[derive(Debug)]
pub struct Plan<'m> {
    /// The flows of its bridge, without the note of the generation.
    pub flows: FlowTable<'m>,
    /// Its ports, links and addresses.
    pub wiring: NodeConfig,
    /// Its own nft ruleset.
    pub ruleset: Ruleset<'m>,
    /// The nft ruleset of each egress router on it, in the order of the wiring.
    pub router_rulesets: Vec<Ruleset<'m>>,
}

impl<'m> Plan<'m> {
    /// The plan of a node. An error is a fault in ringfence, never in the input.
    pub fn of(common: &'m ClusterFlows<'_>, node: NodeId) -> Result<Self, Diagnostic> {
        let model = common.model();
        let mut builder = Builder { model, common, node, flows: FlowTable::default() };
        entry::lower(&mut builder);
        patch::lower(&mut builder);
        route::lower(&mut builder);
        node_port::flows(&mut builder);
        service::lower(&mut builder);
        isolation::lower(&mut builder);
        egress::lower(&mut builder);
        egress_ip::lower(&mut builder);
        multicast::lower(&mut builder);
        builder.flows.finish().map_err(|error| refused(&error.0, error.1))?;
        let draining = common.services().draining(model, node);
        let wiring = wiring::lower(model, node, draining)?;
        let routers = model.routers(node).iter();
        Ok(Self {
            flows: builder.flows,
            ruleset: guard::lower(model, node, &wiring)?,
            wiring,
            router_rulesets: routers
                .map(|id| router::ruleset(model, *id))
                .collect::<Result<_, _>>()?,
        })
    }
}

fn refused(flow: &Flow<'_>, why: InvalidFlow) -> Diagnostic {
    let mut text = Vec::new();
    flow.write(&mut text);
    let text = String::from_utf8_lossy(&text).into_owned();
    Diagnostic::new(Code::Internal, format!("the flow `{text}` was refused: {why:?}"))
}

/// Collects the flows of one node.
struct Builder<'m> {
    model: &'m Model,
    common: &'m ClusterFlows<'m>,
    node: NodeId,
    flows: FlowTable<'m>,
}

impl<'m> Builder<'m> {
    fn flow(
        &mut self,
        subject: &'m ObjectRef,
        table: Table,
        priority: u16,
        matches: Match,
        actions: Vec<crate::dataplane::openflow::Action>,
    ) {
        self.flows.push(Flow { table, priority, matches, actions, subject, also: Vec::new() });
    }

    /// The flows of a table about all other nodes.
    fn other_nodes(&mut self, table: common::PerNode) {
        for slice in self.common.other_nodes(table, self.node) {
            self.flows.push_shared(slice);
        }
    }

    /// What happens in a table to packets that nothing else matched.
    fn default(&mut self, table: Table, actions: Vec<crate::dataplane::openflow::Action>) {
        let subject = self.model.cluster_subject();
        self.flow(subject, table, 0, Match::default(), actions);
    }
}

fn host(address: Ipv4Addr) -> Ipv4Net {
    Ipv4Net::from(address)
}

/// IP packets to a network.
fn ip_to(network: Ipv4Net) -> Match {
    ip(IpMatch { dst: Some(network), ..IpMatch::default() })
}

/// IP packets.
fn ip(conditions: IpMatch) -> Match {
    Match { packet: Packet::Ip(conditions), ..Match::default() }
}

/// ARP packets that ask a network, or answer it.
fn arp_to(network: Ipv4Net) -> Match {
    arp(ArpMatch { tpa: Some(network), ..ArpMatch::default() })
}

/// ARP packets.
fn arp(conditions: ArpMatch) -> Match {
    Match { packet: Packet::Arp(conditions), ..Match::default() }
}
