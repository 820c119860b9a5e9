//! The `egressRouters` section.

use schemars::JsonSchema;
use serde::Deserialize;

use super::egress_policy::tcp;
use super::{Labels, Selector};
use crate::value::{Address, Host, HostAddress, Name, Port, Protocol, Site};

/// A pod with a second interface on its node's uplink, which leads what its project's pods send to
/// it outside, from a fixed source address.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct EgressRouter {
    /// Its name, unique among the routers of all projects.
    pub name: Name,
    /// The project that may use it.
    pub project: Name,
    /// For selectors of the project's services. Without labels, no selector means it.
    #[serde(default)]
    pub labels: Labels,
    /// How it leads outside. Default: redirect.
    #[serde(default)]
    pub mode: RouterMode,
    /// The address that the outside sees, in the subnet of the node's uplink. With a prefix length,
    /// such as 192.168.12.99/24, hosts of that network are reached directly, and all others by the
    /// gateway; /32 is nobody. Default: the length of the uplink's subnet.
    pub source: HostAddress,
    /// The next hop, in the same subnet.
    pub gateway: Address,
    /// Where all TCP and UDP ports lead. Instead of `destinations`.
    pub destination: Option<Address>,
    /// Where single ports lead. Instead of `destination`. In the mode `dns-proxy`, TCP ports only,
    /// which may lead to host names.
    #[serde(default)]
    pub destinations: Vec<Destination>,
    /// Where the ports that `destinations` doesn't list lead. Default: nowhere.
    pub fallback: Option<Address>,
    /// In the mode `http-proxy`: the hosts that may be reached through it. The first rule that
    /// matches decides; what none matches is denied. `*.example.com` is that domain with itself,
    /// `*` everything. A name is compared with what the client asks for, a network with the
    /// addresses that this has.
    pub rules: Option<Vec<ProxyRule>>,
    /// In the proxy modes: the name servers, which are asked from `source`. Default: those of the
    /// node's `/etc/resolv.conf`, which can't be loopback addresses or nodes' then.
    pub dns_servers: Option<Vec<Address>>,
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
    /// The outside address; in the mode `dns-proxy`, an address or a host name.
    pub to: Host,
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

/// How an egress router leads outside.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum RouterMode {
    /// Packets are redirected to fixed addresses.
    #[default]
    Redirect,
    /// An HTTP proxy (squid) at port 8080 lets clients reach listed hosts.
    HttpProxy,
    /// TCP ports (haproxy) lead to hosts by name, which are resolved again and again.
    DnsProxy,
}

impl RouterMode {
    /// The name in YAML.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Redirect => "redirect",
            Self::HttpProxy => "http-proxy",
            Self::DnsProxy => "dns-proxy",
        }
    }
}

/// One rule of an HTTP proxy: either `allow` or `deny`.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(extend("oneOf" = [{"required": ["allow"]}, {"required": ["deny"]}]))]
pub struct ProxyRule {
    /// Lets requests to these hosts pass.
    pub allow: Option<Site>,
    /// Refuses them.
    pub deny: Option<Site>,
}
