//! The `nodes` section.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Labels, ServiceProtocol};
use crate::value::{Address, Cidr, Datapath, InterfaceName, Name, Port};

/// A machine that carries pods.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Node {
    /// Its name, by which pods say where they run.
    pub name: Name,
    /// Its VXLAN endpoint.
    pub address: Address,
    /// Whether it is out of service: egress routers and egress IPs go to other nodes that may
    /// have them, and services lead no new connections to its pods. The pods stay, and its files are
    /// compiled as ever. Default: false.
    #[serde(default)]
    pub unavailable: bool,
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
    /// Its MTU in bytes, to be checked against that of the pods; `apply` checks the real one.
    #[schemars(range(min = 576, max = 65535))]
    pub mtu: Option<u32>,
    /// The gateway bridge, such as br-ex: an Open vSwitch bridge that has the interface as a port
    /// and the node's addresses in its place. Patch ports lead to it from the node's own bridge, for
    /// the outside interfaces of egress routers. Default: none.
    pub bridge: Option<InterfaceName>,
    /// Leave the gateway bridge to whoever configures the host's network, and only check that it
    /// exists and has the interface as a port, and give it its end of the patch. Default: `apply` makes it, and moves the addresses
    /// and routes of the interface to it.
    #[serde(default)]
    pub disable_init: bool,
    /// How the kernel checks source addresses of what comes in there (`rp_filter`). Default: as
    /// the node has it.
    pub rp_filter: Option<RpFilter>,
}

/// How the kernel checks source addresses (RFC 3704).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum RpFilter {
    /// Answers to the source leave by the same interface.
    Strict,
    /// Answers to the source leave by any interface.
    Loose,
}

impl RpFilter {
    /// The value of the kernel's setting.
    #[must_use]
    pub fn value(self) -> u8 {
        match self {
            Self::Strict => 1,
            Self::Loose => 2,
        }
    }
}
