//! The `cluster` section.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::NodePortBlock;
use crate::value::{Cidr, NameServer, Port, Protocol, TimeSpan};

/// What holds for the whole network. Everything has a default.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Cluster {
    /// How projects are kept apart. Default: multitenant.
    pub mode: Option<Mode>,
    /// Where the pods' addresses come from. Default: 10.128.0.0/14 with hostPrefix 23.
    #[serde(default)]
    pub pod_networks: Vec<PodNetwork>,
    /// Where the services' cluster addresses come from. Default: 172.30.0.0/16.
    pub service_network: Option<Cidr>,
    /// The UDP port of the VXLAN tunnels between nodes. Default: 4789.
    pub vxlan_port: Option<Port>,
    /// The MTU of the pods, in bytes: the underlay's less 50 for VXLAN. Default: 1450.
    #[schemars(range(min = 576, max = 65485))]
    pub mtu: Option<u32>,
    /// What the nodes run on, which decides about egress routers. Default: baremetal.
    pub platform: Option<Platform>,
    /// How the names in egress policies become addresses.
    pub dns: Option<Dns>,
    /// What of node ports and load balancers the nodes don't serve.
    #[serde(default)]
    pub block_node_ports: Vec<NodePortBlock>,
    /// What the nodes' own processes take from the pods of their node, beside DNS. Default: nothing.
    #[serde(default)]
    pub node_access: Vec<NodeAccess>,
}

/// Ports of every node that its own pods reach.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct NodeAccess {
    /// The protocol. Default: tcp.
    #[serde(default = "super::egress_policy::tcp")]
    pub protocol: Protocol,
    /// The port, or the first of a range.
    pub port: Port,
    /// The last of the range. Default: the port alone.
    pub end_port: Option<Port>,
}

/// How the names in egress policies become addresses. Everything has a default.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Dns {
    /// The name servers that `ringfence resolve` asks: those that the pods use, so that both get
    /// the same answers. Default: those of `/etc/resolv.conf`.
    #[serde(default)]
    pub servers: Vec<NameServer>,
    /// How long addresses may be used after the last answer; `compile` fails afterwards.
    /// Default: 1d.
    pub max_age: Option<TimeSpan>,
    /// How long an address is kept that no longer is in the answers, for pools that rotate.
    /// Default: 6h.
    pub keep: Option<TimeSpan>,
}

/// How projects are kept apart.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// Not at all: one flat network.
    Subnet,
    /// By VNID: a project reaches itself, what it is joined with, and global projects.
    #[default]
    Multitenant,
    /// By Kubernetes network policies.
    Networkpolicy,
}

impl Mode {
    /// Whether packets carry the VNID of their sender's project.
    #[must_use]
    pub fn carries_vnids(self) -> bool {
        match self {
            Self::Subnet => false,
            Self::Multitenant | Self::Networkpolicy => true,
        }
    }

    /// Whether a project is reached only from its own VNID and from the global one.
    #[must_use]
    pub fn compares_vnids(self) -> bool {
        match self {
            Self::Subnet | Self::Networkpolicy => false,
            Self::Multitenant => true,
        }
    }

    /// The name in YAML.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Subnet => "subnet",
            Self::Multitenant => "multitenant",
            Self::Networkpolicy => "networkpolicy",
        }
    }
}

/// A network that is divided among the nodes.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PodNetwork {
    /// The whole network.
    pub cidr: Cidr,
    /// The prefix length of the part that one node gets.
    #[schemars(range(min = 1, max = 30))]
    pub host_prefix: u8,
}

/// What the nodes run on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Platform {
    /// Machines or virtual machines whose network takes any source address.
    #[default]
    Baremetal,
    /// OpenStack: port security must allow an egress router's addresses.
    Openstack,
    /// Red Hat Virtualization: the vNIC profile must not filter.
    Rhv,
    /// VMware vSphere: the port group must accept forged transmits.
    Vsphere,
    /// Amazon Web Services: no macvlan, so no egress routers.
    Aws,
}
