//! What the plans of several nodes have alike: made once, and shared.
//!
//! A network of 500 nodes repeats the flows to each node 499 times, and those of an egress policy
//! on every node that has pods of its project. They are most of all flows.

use std::collections::{BTreeMap, BTreeSet};

use rayon::prelude::*;

use super::{egress, entry, multicast, network_policy, node_port, refused, route, service};
use crate::dataplane::openflow::{Flow, SharedFlows, SharedSlice};
use crate::diagnostic::Diagnostic;
use crate::intent::{NodeId, ProjectId};
use crate::model::Model;
use crate::pipeline::Table;

/// Flows that several nodes have.
#[derive(Debug)]
pub struct ClusterFlows<'m> {
    model: &'m Model,
    /// Of each table about other nodes, one flow a node.
    nodes: [SharedFlows<'m>; 3],
    /// Table 99: what is for the tunnel of a node.
    tunnels: SharedFlows<'m>,
    /// Of each project, its egress policy.
    policies: Vec<SharedFlows<'m>>,
    /// Of each VNID with multicast, the nodes that have members.
    members: BTreeMap<u32, BTreeSet<NodeId>>,
    services: service::Shared<'m>,
    node_ports: node_port::Shared<'m>,
    network_policies: network_policy::Shared<'m>,
}

/// A table with one flow for every other node.
#[derive(Clone, Copy, Debug)]
pub(super) enum PerNode {
    FromVxlan,
    ArpRemote,
    RemotePod,
}

impl<'m> ClusterFlows<'m> {
    /// Makes everything that plans of this model share.
    pub fn new(model: &'m Model) -> Result<Self, Diagnostic> {
        let intent = model.intent();
        let section = |flows: Vec<Flow<'m>>| {
            SharedFlows::new(flows).map_err(|error| refused(&error.0, error.1))
        };
        let nodes = || intent.nodes().map(|(id, _)| id);
        let nodes = [
            section(nodes().map(|id| entry::from_node(model, id)).collect())?,
            section(nodes().map(|id| route::to_node(model, id, Table::ArpRemote)).collect())?,
            section(nodes().map(|id| route::to_node(model, id, Table::RemotePod)).collect())?,
        ];
        let tunnels = intent.nodes().map(|(id, _)| egress::to_tunnel(model, id));
        let tunnels = section(tunnels.collect())?;
        let projects: Vec<ProjectId> = intent.projects().map(|(id, _)| id).collect();
        let policies = projects.par_iter().map(|id| section(egress::policy(model, *id)));
        let policies = policies.collect::<Result<_, _>>()?;
        let services = service::Shared::new(model, section)?;
        let node_ports = node_port::Shared::new(model, section)?;
        let network_policies = network_policy::Shared::new(model, section)?;
        let members = multicast::members(model);
        Ok(Self {
            model,
            nodes,
            tunnels,
            policies,
            members,
            services,
            node_ports,
            network_policies,
        })
    }

    /// The model that the plans are made from.
    #[must_use]
    pub fn model(&self) -> &'m Model {
        self.model
    }

    /// The flows of a table about every node but one.
    pub(super) fn other_nodes(&self, table: PerNode, node: NodeId) -> [SharedSlice<'_>; 2] {
        self.nodes[table as usize].around(node.index())
    }

    /// The drops of what is for the tunnels of nodes.
    pub(super) fn tunnels(&self) -> SharedSlice<'_> {
        self.tunnels.all()
    }

    /// The nodes that have members of a network with multicast.
    pub(super) fn members(&self, vnid: u32) -> impl Iterator<Item = NodeId> {
        self.members.get(&vnid).into_iter().flatten().copied()
    }

    /// The flows and groups of the services.
    pub(super) fn services(&self) -> &service::Shared<'m> {
        &self.services
    }

    /// The flows of the node ports.
    pub(super) fn node_ports(&self) -> &node_port::Shared<'m> {
        &self.node_ports
    }

    /// The flows of the network policies.
    pub(super) fn network_policies(&self) -> &network_policy::Shared<'m> {
        &self.network_policies
    }

    /// The flows of a project's egress policy.
    pub(super) fn policy(&self, project: ProjectId) -> SharedSlice<'_> {
        self.policies[project.index()].all()
    }
}
