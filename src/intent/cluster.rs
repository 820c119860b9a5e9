//! What holds for the whole cluster.

use std::net::Ipv4Addr;
use std::ops::RangeInclusive;

use ipnet::Ipv4Net;

use crate::diagnostic::Place;
use crate::spec::{Mode, Platform};
use crate::value::{NameServer, Port, Protocol, TimeSpan};

/// What holds for the whole network.
#[derive(Debug)]
pub struct Cluster {
    /// How projects are kept apart.
    pub mode: Mode,
    /// Where the nodes' subnets come from; never empty.
    pub pod_networks: Vec<PodNetwork>,
    /// Where the services' addresses come from.
    pub service_network: Ipv4Net,
    /// The UDP port of the tunnels.
    pub vxlan_port: Port,
    /// The MTU of the pods, in bytes.
    pub mtu: u32,
    /// What the nodes run on.
    pub platform: Platform,
    /// How names become addresses.
    pub dns: Dns,
    /// What the nodes' own processes take from the pods of their node, beside DNS.
    pub node_access: Vec<NodeAccess>,
    /// Where the section stands, if there is one.
    pub place: Option<Place>,
}

/// Ports of every node that its own pods reach.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeAccess {
    /// The protocol.
    pub protocol: Protocol,
    /// The ports.
    pub ports: RangeInclusive<u16>,
    /// Where it is written.
    pub place: Place,
}

impl NodeAccess {
    /// Whether it is about a port.
    #[must_use]
    pub fn takes(&self, protocol: Protocol, port: Port) -> bool {
        self.protocol == protocol && self.ports.contains(&port.get())
    }
}

/// How names become addresses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dns {
    /// The name servers to ask; empty for those of the machine that asks.
    pub servers: Vec<NameServer>,
    /// How long addresses may be used after the last answer.
    pub max_age: TimeSpan,
    /// How long an address is kept that is no longer answered; at most `max_age`.
    pub keep: TimeSpan,
}

/// A network that is divided among the nodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PodNetwork {
    /// The whole network.
    pub cidr: Ipv4Net,
    /// The prefix length of one node's part, from the network's own to 30.
    pub host_prefix: u8,
}

impl Cluster {
    /// The least MTU of the nodes' network: that of the pods, and what VXLAN over IPv4 adds to a
    /// packet (RFC 7348): 14 bytes of Ethernet, 8 of VXLAN, 8 of UDP, 20 of IP.
    #[must_use]
    pub fn least_mtu(&self) -> u32 {
        const OVERHEAD: u32 = 14 + 8 + 8 + 20;
        self.mtu.saturating_add(OVERHEAD)
    }

    /// Whether an address belongs to pods or services, which egress rules are not about.
    #[must_use]
    pub fn contains(&self, address: Ipv4Addr) -> bool {
        self.networks().any(|network| network.contains(&address))
    }

    /// The pod networks and the service network.
    pub fn networks(&self) -> impl Iterator<Item = Ipv4Net> {
        self.pod_networks.iter().map(|network| network.cidr).chain([self.service_network])
    }
}
