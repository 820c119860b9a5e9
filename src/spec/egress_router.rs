//! The `egressRouters` section.

use schemars::JsonSchema;
use serde::Deserialize;

use super::egress_policy::tcp;
use super::{Protocol, Selector};
use crate::value::{Address, Name, Port};

/// A pod with a second interface on its node's uplink, which forwards what its project's pods
/// send to it to fixed destinations, from a fixed source address.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct EgressRouter {
    /// Its name, unique among the routers of all projects.
    pub name: Name,
    /// The project that may use it.
    pub project: Name,
    /// The address that the outside sees, in the subnet of the node's uplink.
    pub source: Address,
    /// The next hop, in the same subnet.
    pub gateway: Address,
    /// Where all TCP and UDP ports lead. Instead of `destinations`.
    pub destination: Option<Address>,
    /// Where single ports lead. Instead of `destination`.
    #[serde(default)]
    pub destinations: Vec<Destination>,
    /// Where the ports that `destinations` doesn't list lead. Default: nowhere.
    pub fallback: Option<Address>,
    /// The node that it runs on.
    pub node: Option<Name>,
    /// The nodes that it may run on, in order of preference: it runs on the first that isn't
    /// `unavailable`.
    pub nodes: Option<Vec<Name>>,
    /// The nodes that it may run on. Exactly one must be eligible.
    pub node_selector: Option<Selector>,
    /// How many there are. One: the source address can't be in two places.
    #[schemars(extend("const" = 1))]
    pub replicas: Option<u64>,
}

/// Where one port leads. An entry that has only `to` is the fallback, and must be the last.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Destination {
    /// The port that the pods connect to.
    pub port: Option<Port>,
    /// The protocol. Default: tcp.
    pub protocol: Option<Protocol>,
    /// The outside address.
    pub to: Address,
    /// The outside port. Default: the same port.
    pub to_port: Option<Port>,
}

impl Destination {
    /// The protocol, with its default.
    #[must_use]
    pub fn protocol(&self) -> Protocol {
        self.protocol.unwrap_or_else(tcp)
    }
}
