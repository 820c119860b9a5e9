//! The `egressPolicies` section.

use schemars::JsonSchema;
use serde::Deserialize;

use crate::value::{Cidr, DnsName, Name, Port, Protocol};

/// What the pods of one project may reach outside of the cluster.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct EgressPolicy {
    /// The project.
    pub project: Name,
    /// The rules. The first that matches decides; what none matches is allowed.
    pub rules: Vec<EgressRule>,
}

/// One rule: either `allow` or `deny`.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(extend("oneOf" = [{"required": ["allow"]}, {"required": ["deny"]}]))]
pub struct EgressRule {
    /// Lets the traffic out.
    pub allow: Option<EgressTarget>,
    /// Drops the traffic.
    pub deny: Option<EgressTarget>,
}

/// The traffic that a rule matches: either `cidr` or `dnsName`.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(extend("oneOf" = [{"required": ["cidr"]}, {"required": ["dnsName"]}]))]
pub struct EgressTarget {
    /// Its destination, as a network.
    pub cidr: Option<Cidr>,
    /// Its destination, as the name of a host. Its addresses are those that `ringfence resolve`
    /// found and that stand in the lock file.
    pub dns_name: Option<DnsName>,
    /// Its protocols and ports. Default: all of them.
    #[serde(default)]
    pub ports: Vec<PortRange>,
}

/// Ports of a protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PortRange {
    /// The protocol. Default: tcp.
    #[serde(default = "tcp")]
    pub protocol: Protocol,
    /// The port, or the first of a range. Default: all ports.
    pub port: Option<Port>,
    /// The last of the range. Default: the port alone.
    pub end_port: Option<Port>,
}

pub(super) fn tcp() -> Protocol {
    Protocol::Tcp
}
