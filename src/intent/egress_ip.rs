//! Egress IPs.

use std::net::Ipv4Addr;

use super::{NodeId, ProjectId};
use crate::diagnostic::Place;

/// Fixed source addresses of a project's traffic to the outside.
#[derive(Debug)]
pub struct EgressIps {
    /// The project: in its own network, alone.
    pub project: ProjectId,
    /// The addresses, sorted, at least one.
    pub addresses: Vec<EgressIp>,
}

/// A fixed source address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EgressIp {
    /// The address.
    pub address: Ipv4Addr,
    /// The node that holds it, which has an uplink.
    pub node: NodeId,
    /// Where it is written.
    pub place: Place,
}
