//! Nodes.

use std::net::Ipv4Addr;

use ipnet::Ipv4Net;

use super::Fixed;
use crate::diagnostic::Place;
use crate::spec::{Labels, RpFilter};
use crate::value::{Datapath, InterfaceName, Name, Port, Protocol};

/// A machine that carries pods.
#[derive(Debug)]
pub struct Node {
    /// Its name.
    pub name: Name,
    /// Its VXLAN endpoint.
    pub address: Ipv4Addr,
    /// Whether egress routers and egress IPs go to other nodes.
    pub unavailable: bool,
    /// The datapath of its bridge.
    pub datapath: Datapath,
    /// For selectors.
    pub labels: Labels,
    /// Its part of the pod network, where the desired state says it.
    pub fixed_subnet: Option<Fixed<Ipv4Net>>,
    /// Its interface to the outside.
    pub uplink: Option<Uplink>,
    /// The addresses at which it serves node ports and load balancers, sorted, at least one.
    pub node_port_addresses: Vec<Ipv4Addr>,
    /// What of that it doesn't serve.
    pub blocks: Vec<NodePortBlock>,
    /// Where it is defined.
    pub place: Place,
}

impl Node {
    /// The gateway bridge, where the uplink is a port of one.
    #[must_use]
    pub fn gateway_bridge(&self) -> Option<&InterfaceName> {
        self.uplink.as_ref()?.bridge.as_ref()
    }
}

/// Ports of services that a node doesn't serve to the outside.
#[derive(Clone, Debug)]
pub struct NodePortBlock {
    /// The port; `None` for all.
    pub port: Option<Port>,
    /// The protocol; `None` for all.
    pub protocol: Option<Protocol>,
    /// Where it isn't served.
    pub at: BlockAt,
    /// Where that is written.
    pub place: Place,
}

impl NodePortBlock {
    /// Whether it is about a port.
    #[must_use]
    pub fn covers(&self, protocol: Protocol, port: Port) -> bool {
        self.protocol.is_none_or(|own| own == protocol) && self.port.is_none_or(|own| own == port)
    }
}

/// Where a node doesn't serve ports of services.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BlockAt {
    /// To what comes in by this interface.
    Interface(InterfaceName),
    /// At this address, one of its own.
    Address(Ipv4Addr),
}

/// A node's interface to the outside.
#[derive(Clone, Debug)]
pub struct Uplink {
    /// Its name.
    pub interface: InterfaceName,
    /// The network it is in.
    pub subnet: Ipv4Net,
    /// The next hop to everywhere else.
    pub gateway: Option<Ipv4Addr>,
    /// Its MTU in bytes, where the desired state says it: enough for the pods' and VXLAN.
    pub mtu: Option<u32>,
    /// The bridge that has it as a port.
    pub bridge: Option<InterfaceName>,
    /// Whether that bridge is made by others.
    pub disable_init: bool,
    /// How the kernel checks source addresses there, where the desired state says it.
    pub rp_filter: Option<RpFilter>,
}

impl Uplink {
    /// The interface that has the node's addresses.
    #[must_use]
    pub fn addressed(&self) -> &InterfaceName {
        self.bridge.as_ref().unwrap_or(&self.interface)
    }
}
