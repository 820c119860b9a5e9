//! The `nodes` section.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Labels, ServiceProtocol};
use crate::value::{Address, Cidr, InterfaceName, Name, Port};

/// A machine that carries pods.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Node {
    /// Its name, by which pods say where they run.
    pub name: Name,
    /// Its VXLAN endpoint.
    pub address: Address,
    /// Which datapath its bridge has. Default: system.
    #[serde(default)]
    pub datapath: Datapath,
    /// For selectors.
    #[serde(default)]
    pub labels: Labels,
    /// Its part of the pod network. Default: allocated, and kept in the lock file.
    pub pod_subnet: Option<Cidr>,
    /// Its interface to the outside, which egress routers need.
    pub uplink: Option<Uplink>,
    /// Addresses of the uplink's subnet that are set aside for egress on this node.
    #[serde(default)]
    pub reserved_addresses: Vec<Address>,
    /// Parts of the uplink's subnet from which this node may hold egress IPs.
    #[serde(default, rename = "egressCIDRs")]
    pub egress_cidrs: Vec<Cidr>,
    /// The addresses at which it serves node ports and load balancers. Default: its `address`.
    #[serde(default)]
    pub node_port_addresses: Vec<Address>,
    /// What of that it doesn't serve.
    #[serde(default)]
    pub block_node_ports: Vec<NodePortBlock>,
}

/// Ports of services that a node doesn't serve to the outside: by an interface, or at one of its
/// addresses. The node's own processes still reach them.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct NodePortBlock {
    /// The node port, or the port of a load balancer. Default: all.
    pub port: Option<Port>,
    /// Its protocol. Default: all.
    pub protocol: Option<ServiceProtocol>,
    /// What comes in by this interface is dropped. What pods send comes by none.
    pub interface: Option<InterfaceName>,
    /// What comes for this address is dropped, also from pods.
    pub address: Option<Address>,
}

/// Which Open vSwitch datapath a bridge has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Datapath {
    /// The kernel module.
    #[default]
    System,
    /// Userspace: the uplink must be a port of an Open vSwitch bridge that holds its address.
    Netdev,
}

impl Datapath {
    /// The name in YAML and in Open vSwitch's database.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::System => "system",
            Self::Netdev => "netdev",
        }
    }
}

/// A node's interface to the outside.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Uplink {
    /// Its name.
    pub interface: InterfaceName,
    /// The network it is in.
    pub subnet: Cidr,
    /// The next hop to everywhere else.
    pub gateway: Option<Address>,
}
