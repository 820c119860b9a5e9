//! The wire shape of the desired state, version 1: what people write in YAML.
//!
//! Types without logic: serde reads them, schemars derives `schemas/desired-state.schema.json`
//! from them, and `resolve` gives them meaning. Every struct refuses keys that it doesn't know.

mod cluster;
mod egress_ip;
mod egress_policy;
mod egress_router;
mod mdns;
mod network_policy;
mod node;
mod policy_test;
mod project;
pub mod schema;
mod selector;
mod service;

use schemars::JsonSchema;
use serde::Deserialize;

pub use cluster::{Cluster, Dns, Mode, NodeAccess, Platform, PodNetwork};
pub use egress_ip::EgressIps;
pub use egress_policy::{EgressPolicy, EgressRule, EgressTarget, PortRange};
pub use egress_router::{Destination, EgressRouter, ProxyRule, RouterMode};
pub use mdns::Mdns;
pub use network_policy::{
    IpBlock, NetworkPolicy, NetworkPolicyEgressRule, NetworkPolicyIngressRule, NetworkPolicyPeer,
    NetworkPolicyPort, PolicyPort, PolicyType,
};
pub use node::{Node, NodePortBlock, RpFilter, Uplink};
pub use policy_test::{Expectation, PolicyTest, TestEnd, TestEnds, TestPods};
pub use project::{Join, Pod, PodBandwidth, Project, ProjectSet};
pub use selector::{Expression, Labels, Operator, Selector};
pub use service::{
    PodPort, Service, ServicePort, ServiceProtocol, ServiceType, SessionAffinity, TargetPort,
};

/// The version of the desired state that this ringfence reads.
pub const VERSION: u64 = 1;

/// One YAML document: all of the desired state, or a part of it.
///
/// Documents are merged: the keys of `cluster` unite, lists are joined, and an object that is
/// defined twice is an error.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(title = "ringfence desired state")]
pub struct DesiredState {
    /// The version of this format. At least one document says it.
    #[schemars(extend("const" = VERSION))]
    pub version: Option<u64>,
    /// What holds for the whole network.
    pub cluster: Option<Cluster>,
    /// The machines that carry the network.
    #[serde(default)]
    pub nodes: Vec<Node>,
    /// The tenants, each with its pods.
    #[serde(default)]
    pub projects: Vec<Project>,
    /// Projects that share the network of another.
    #[serde(default)]
    pub joins: Vec<Join>,
    /// Projects that are never joined or global, whatever a selector says.
    pub isolate: Option<ProjectSet>,
    /// Projects that reach all others and are reached by them.
    pub global: Option<ProjectSet>,
    /// Projects whose services the nodes' own processes reach, beside those of global projects and
    /// those that nodes serve at node ports. Default: all, which gives every node all services.
    pub node_services: Option<ProjectSet>,
    /// What the pods of a project may reach outside of the cluster.
    #[serde(default)]
    pub egress_policies: Vec<EgressPolicy>,
    /// What the pods of a project take and send, as Kubernetes' network policies say it.
    #[serde(default)]
    pub network_policies: Vec<NetworkPolicy>,
    /// Fixed source addresses of a project's traffic to the outside.
    #[serde(default, rename = "egressIPs")]
    pub egress_ips: Vec<EgressIps>,
    /// Pods that forward to a fixed outside address from a fixed source address.
    #[serde(default)]
    pub egress_routers: Vec<EgressRouter>,
    /// Names that nodes announce on their own network by multicast DNS, for services.
    #[serde(default)]
    pub mdns: Vec<Mdns>,
    /// What the network must do with some packets, for `ringfence test`.
    #[serde(default)]
    pub tests: Vec<PolicyTest>,
}
