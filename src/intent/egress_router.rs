//! Egress routers.

use std::fmt;
use std::net::Ipv4Addr;

use ipnet::Ipv4Net;

use super::{Intent, NodeId, ProjectId, Verdict};
use crate::diagnostic::Place;
use crate::spec::Labels;
use crate::value::{HostName, Name, Port, Protocol};

/// A pod that leads outside from a fixed source address.
#[derive(Debug)]
pub struct EgressRouter {
    /// Its name.
    pub name: Name,
    /// The project that may use it.
    pub project: ProjectId,
    /// For selectors of services.
    pub labels: Labels,
    /// The node that it runs on, which has an uplink.
    pub node: NodeId,
    /// The address that the outside sees, in the uplink's subnet.
    pub source: Ipv4Addr,
    /// The network whose hosts it reaches directly: the uplink's subnet, a part of that, or the
    /// source alone.
    pub segment: Ipv4Net,
    /// The next hop, in the uplink's subnet.
    pub gateway: Ipv4Addr,
    /// How it leads there.
    pub mode: RouterMode,
    /// Where it is defined.
    pub place: Place,
}

impl EgressRouter {
    /// Whether its outside interface is a port of the node's bridge, since the uplink is one of a
    /// gateway bridge, to which patch ports lead.
    #[must_use]
    pub fn at_bridge(&self, intent: &Intent) -> bool {
        intent[self.node].gateway_bridge().is_some()
    }
}

/// How an egress router leads outside.
#[derive(Debug)]
pub enum RouterMode {
    /// By translating destinations.
    Redirect {
        /// Where single ports lead, by protocol and port.
        destinations: Vec<Destination>,
        /// Where all other TCP and UDP ports lead.
        fallback: Option<Ipv4Addr>,
    },
    /// By an HTTP proxy.
    HttpProxy {
        /// Its rules; the first that matches decides, and what none matches is denied.
        rules: Vec<SiteRule>,
        /// Its name servers; empty for those of the node.
        name_servers: Vec<Ipv4Addr>,
    },
    /// By a TCP proxy.
    DnsProxy {
        /// Its ports, sorted; at least one.
        ports: Vec<ProxyPort>,
        /// Its name servers; empty for those of the node.
        name_servers: Vec<Ipv4Addr>,
    },
}

impl RouterMode {
    /// The single ports that it takes of a protocol, sorted.
    #[must_use]
    pub fn ports(&self, protocol: Protocol) -> Vec<Port> {
        let of_tcp = |ports: Vec<Port>| if protocol == Protocol::Tcp { ports } else { Vec::new() };
        match self {
            Self::Redirect { destinations, .. } => {
                let listed = destinations.iter().filter(|d| d.protocol == protocol);
                listed.map(|destination| destination.port).collect()
            }
            Self::HttpProxy { .. } => of_tcp(vec![Port::HTTP_PROXY]),
            Self::DnsProxy { ports, .. } => of_tcp(ports.iter().map(|port| port.port).collect()),
        }
    }

    /// Whether it takes what comes to a port.
    #[must_use]
    pub fn takes(&self, protocol: Protocol, port: Port) -> bool {
        let all = matches!(self, Self::Redirect { fallback: Some(_), .. });
        (all && protocol != Protocol::Sctp) || self.ports(protocol).contains(&port)
    }
}

/// One rule of an HTTP proxy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SiteRule {
    /// What happens to the request.
    pub verdict: Verdict,
    /// The hosts that it is for.
    pub site: Site,
    /// Where it is defined.
    pub place: Place,
}

/// Hosts, as a rule of an HTTP proxy has them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Site {
    /// All.
    Any,
    /// A domain and all names below it.
    Domain(HostName),
    /// One name.
    Name(HostName),
    /// What has an address of this network.
    Network(Ipv4Net),
}

impl Site {
    /// Whether every request that `other` matches is matched by this too.
    #[must_use]
    pub fn covers(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Any, _) => true,
            (Self::Domain(domain), Self::Domain(inner) | Self::Name(inner)) => inner.is_in(domain),
            (Self::Name(name), Self::Name(other)) => name == other,
            (Self::Network(network), Self::Network(inner)) => network.contains(inner),
            _ => false,
        }
    }

    /// Whether it matches a request for a host, by its name if it has one, and its address.
    #[must_use]
    pub fn matches(&self, name: Option<&HostName>, address: Ipv4Addr) -> bool {
        match self {
            Self::Any => true,
            Self::Domain(domain) => name.is_some_and(|name| name.is_in(domain)),
            Self::Name(own) => name == Some(own),
            Self::Network(network) => network.contains(&address),
        }
    }
}

impl fmt::Display for Site {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Any => f.write_str("*"),
            Self::Domain(domain) => write!(f, "*.{domain}"),
            Self::Name(name) => name.fmt(f),
            Self::Network(network) if network.prefix_len() == 32 => network.addr().fmt(f),
            Self::Network(network) => network.fmt(f),
        }
    }
}

/// A port of a TCP proxy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProxyPort {
    /// The port that the pods connect to.
    pub port: Port,
    /// Where it leads.
    pub to: Upstream,
    /// The outside port.
    pub to_port: Port,
}

/// Where a port of a TCP proxy leads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Upstream {
    /// To an address.
    Address(Ipv4Addr),
    /// To whatever address the name has at the time.
    Name(HostName),
}

impl fmt::Display for Upstream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(address) => address.fmt(f),
            Self::Name(name) => name.fmt(f),
        }
    }
}

/// Where one port of an egress router leads.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Destination {
    /// The protocol.
    pub protocol: Protocol,
    /// The port that the pods connect to.
    pub port: Port,
    /// The outside address.
    pub to: Ipv4Addr,
    /// The outside port.
    pub to_port: Port,
}
