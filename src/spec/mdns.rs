//! The `mdns` section.

use schemars::JsonSchema;
use serde::Deserialize;

use crate::value::{DnsName, Name};

/// A name that a node announces on its own network by multicast DNS (RFC 6762), for a service that
/// is reached at the node's address.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Mdns {
    /// The name: one label and `.local`.
    pub name: DnsName,
    /// The project of the service.
    pub project: Name,
    /// The service.
    pub service: Name,
    /// The node that announces the name, with its address. Default: the first by name that has a
    /// pod behind the service.
    pub node: Option<Name>,
}
