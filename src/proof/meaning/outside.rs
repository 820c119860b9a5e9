//! Egress IPs and egress routers as they are meant.
//!
//! - The pods of a project with egress IPs leave by one of them each, translated where it is held, by
//!   exactly one node that may hold it. Their own node's address they reach from their own node.
//! - An egress router sends the ports that it redirects to their destinations, other TCP and UDP ports
//!   to its fallback, and nothing else, from its source alone. Nobody begins a connection to it from
//!   outside.

use std::collections::BTreeMap;

use crate::diagnostic::Place;

/// The egress IPs of a project.
#[derive(Clone, Debug)]
pub struct EgressIps {
    /// Each with the nodes that may hold it.
    pub addresses: BTreeMap<u64, Vec<usize>>,
    /// Where they stand.
    pub place: Place,
}

/// An egress router.
#[derive(Clone, Debug)]
pub struct Router {
    /// Its name.
    pub name: String,
    /// The node that it runs on.
    pub node: usize,
    /// The address that the outside sees.
    pub source: u64,
    /// Its next hop.
    pub gateway: u64,
    /// What it redirects; a proxy does not.
    pub redirect: Option<Redirect>,
    /// The port of its outside interface, at a gateway bridge.
    pub port: Option<u64>,
}

/// What an egress router redirects.
#[derive(Clone, Debug)]
pub struct Redirect {
    /// By protocol and port: address and port.
    pub ports: BTreeMap<(u64, u64), (u64, u64)>,
    /// Where other ports of TCP and UDP lead.
    pub fallback: Option<u64>,
}
