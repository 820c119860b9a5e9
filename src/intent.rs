//! What the desired state means: names resolved, every restriction met, nothing allocated yet.
//!
//! Only `resolve` builds an [`Intent`], so whoever holds one may rely on it. Objects are sorted
//! by name and refer to each other by index, whatever order they were written in.

mod cluster;
mod egress_ip;
mod egress_policy;
mod egress_router;
mod endpoint;
mod mdns;
mod network_policy;
mod node;
mod policy_test;
mod project;
mod service;

pub use cluster::{Cluster, Dns, NodeAccess, PodNetwork};
pub use egress_ip::{EgressIp, EgressIps};
pub use egress_policy::{Addresses, EgressPolicy, EgressRule, Ports, Target, Verdict};
pub use egress_router::{
    Destination, EgressRouter, ProxyPort, RouterMode, Site, SiteRule, Upstream,
};
pub use endpoint::Endpoint;
pub use mdns::MdnsRecord;
pub use network_policy::{Direction, NetworkPolicy, Peer, PolicyPorts, PolicyRule, PortSet};
pub(crate) use network_policy::{is_empty, selector_name};
pub use node::{BlockAt, Node, NodePortBlock, Uplink};
pub use policy_test::{PodSet, PolicyTest, TestEnd, Via};
pub use project::{Attachment, Membership, Pod, Project, Workload};
pub use service::{NodeServices, Service, ServiceAddress, ServicePort};

use std::collections::BTreeMap;

use crate::diagnostic::Place;
use crate::value::DnsName;

/// The whole of it.
#[derive(Debug)]
pub struct Intent {
    pub(crate) cluster: Cluster,
    pub(crate) nodes: Vec<Node>,
    pub(crate) projects: Vec<Project>,
    pub(crate) pods: Vec<Pod>,
    pub(crate) policies: Vec<EgressPolicy>,
    pub(crate) network_policies: Vec<NetworkPolicy>,
    pub(crate) routers: Vec<EgressRouter>,
    pub(crate) egress_ips: Vec<EgressIps>,
    pub(crate) services: Vec<Service>,
    pub(crate) mdns: Vec<MdnsRecord>,
    pub(crate) node_services: Option<NodeServices>,
    pub(crate) tests: Vec<PolicyTest>,
}

macro_rules! ids {
    ($($(#[$doc:meta])* $id:ident indexes $list:ident: $type:ident;)*) => {
        $(
            $(#[$doc])*
            #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
            pub struct $id(u32);

            impl $id {
                pub(crate) fn new(index: usize) -> Self {
                    // An input of 256 MiB has fewer objects than that.
                    Self(u32::try_from(index).unwrap_or(u32::MAX))
                }

                pub(crate) fn index(self) -> usize {
                    self.0 as usize
                }
            }

            impl std::ops::Index<$id> for Intent {
                type Output = $type;

                fn index(&self, id: $id) -> &$type {
                    &self.$list[id.0 as usize]
                }
            }
        )*
    };
}

ids! {
    /// A node of an [`Intent`].
    NodeId indexes nodes: Node;
    /// A project of an [`Intent`].
    ProjectId indexes projects: Project;
    /// A pod of an [`Intent`].
    PodId indexes pods: Pod;
    /// An egress router of an [`Intent`].
    RouterId indexes routers: EgressRouter;
    /// A service of an [`Intent`].
    ServiceId indexes services: Service;
}

impl Intent {
    /// Whose services the nodes' own processes reach; all where it isn't said.
    #[must_use]
    pub fn node_services(&self) -> Option<&NodeServices> {
        self.node_services.as_ref()
    }

    /// What `ringfence test` checks, in the order in which it is written. Nothing else depends on it.
    #[must_use]
    pub fn tests(&self) -> &[PolicyTest] {
        &self.tests
    }

    /// What holds for the whole network.
    #[must_use]
    pub fn cluster(&self) -> &Cluster {
        &self.cluster
    }

    /// The nodes by name.
    #[must_use]
    pub fn nodes(&self) -> impl ExactSizeIterator<Item = (NodeId, &Node)> {
        self.nodes.iter().enumerate().map(|(index, node)| (NodeId::new(index), node))
    }

    /// The projects by name.
    #[must_use]
    pub fn projects(&self) -> impl ExactSizeIterator<Item = (ProjectId, &Project)> {
        self.projects.iter().enumerate().map(|(index, project)| (ProjectId::new(index), project))
    }

    /// The pods by project and name.
    #[must_use]
    pub fn pods(&self) -> impl ExactSizeIterator<Item = (PodId, &Pod)> {
        self.pods.iter().enumerate().map(|(index, pod)| (PodId::new(index), pod))
    }

    /// The egress policies by project.
    #[must_use]
    pub fn policies(&self) -> &[EgressPolicy] {
        &self.policies
    }

    /// The network policies by project and name.
    #[must_use]
    pub fn network_policies(&self) -> &[NetworkPolicy] {
        &self.network_policies
    }

    /// The rules for names, by name, each name with all of its rules.
    #[must_use]
    pub fn named_rules(&self) -> BTreeMap<&DnsName, Vec<&EgressRule>> {
        let mut names: BTreeMap<&DnsName, Vec<&EgressRule>> = BTreeMap::new();
        for rule in self.policies.iter().flat_map(|policy| &policy.rules) {
            if let Target::Name(name) = &rule.to {
                names.entry(name).or_default().push(rule);
            }
        }
        names
    }

    /// The policy of a project.
    #[must_use]
    pub fn policy(&self, project: ProjectId) -> Option<&EgressPolicy> {
        let found = self.policies.binary_search_by_key(&project, |policy| policy.project);
        found.ok().map(|index| &self.policies[index])
    }

    /// The egress routers by name.
    #[must_use]
    pub fn routers(&self) -> impl ExactSizeIterator<Item = (RouterId, &EgressRouter)> {
        self.routers.iter().enumerate().map(|(index, router)| (RouterId::new(index), router))
    }

    /// The egress IPs by project.
    #[must_use]
    pub fn egress_ips(&self) -> &[EgressIps] {
        &self.egress_ips
    }

    /// The services by project and name.
    #[must_use]
    pub fn services(&self) -> impl ExactSizeIterator<Item = (ServiceId, &Service)> {
        self.services.iter().enumerate().map(|(index, service)| (ServiceId::new(index), service))
    }

    /// The names that a node announces by multicast DNS, sorted.
    pub fn mdns(&self, node: NodeId) -> impl Iterator<Item = &MdnsRecord> {
        self.mdns.iter().filter(move |record| record.node == node)
    }

    /// `project/service`, as comments and the lock file have it.
    #[must_use]
    pub fn service_name(&self, service: ServiceId) -> String {
        let service = &self[service];
        format!("{}/{}", self[service.project].name, service.name)
    }

    /// `project/service/80/tcp`, as the lock file has a port of a service.
    #[must_use]
    pub fn service_port_key(&self, service: ServiceId, port: &ServicePort) -> String {
        format!("{}/{}/{}", self.service_name(service), port.port, port.protocol)
    }

    /// `project/pod`, as diagnostics, comments and the lock file have it.
    #[must_use]
    pub fn pod_name(&self, pod: PodId) -> String {
        let pod = &self[pod];
        format!("{}/{}", self[pod.project].name, pod.name)
    }
}

/// A value that the desired state says itself, instead of leaving it to the lock file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fixed<T> {
    /// The value.
    pub value: T,
    /// Where it is written.
    pub place: Place,
}
