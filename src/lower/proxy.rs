//! Egress routers that are proxies: which program runs, what it is told, and where it is kept.

use std::net::Ipv4Addr;

use serde::{Deserialize, Serialize};

use crate::dataplane::origin::Cookie;
use crate::intent::{ProxyPort, RouterId, RouterMode, SiteRule};
use crate::model::{Model, Tenant};
use crate::pipeline;
use crate::value::{Name, Port};

/// The program of a proxying egress router.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Proxy {
    /// An HTTP proxy.
    Squid,
    /// A TCP proxy that resolves names.
    Haproxy,
}

impl Proxy {
    /// The program of a router; `None` for one that redirects.
    #[must_use]
    pub fn of(mode: &RouterMode) -> Option<Self> {
        match mode {
            RouterMode::Redirect { .. } => None,
            RouterMode::HttpProxy { .. } => Some(Self::Squid),
            RouterMode::DnsProxy { .. } => Some(Self::Haproxy),
        }
    }

    /// The name of the executable.
    #[must_use]
    pub fn program(self) -> &'static str {
        match self {
            Self::Squid => "squid",
            Self::Haproxy => "haproxy",
        }
    }

    /// The name of its configuration, in the output and on the node.
    #[must_use]
    pub fn config(self) -> &'static str {
        match self {
            Self::Squid => "squid.conf",
            Self::Haproxy => "haproxy.cfg",
        }
    }
}

/// Where a router's proxy has its files on the node. They go with a reboot, as its namespace does.
#[must_use]
pub fn run_directory(router: &Name) -> String {
    format!("{}/{}{router}", pipeline::RUN, pipeline::ROUTER_SERVICE_PREFIX)
}

/// The name of the systemd unit of a router.
#[must_use]
pub fn unit(router: &Name) -> String {
    format!("{}{router}.service", pipeline::ROUTER_SERVICE_PREFIX)
}

/// The name by which several squids on one machine tell their shared memory apart: letters and
/// digits only.
#[must_use]
pub fn squid_name(cookie: Cookie) -> String {
    format!("rf{:016x}", cookie.get())
}

/// The ports at which pods reach the proxy of a router.
#[must_use]
pub fn ports(mode: &RouterMode) -> Vec<Port> {
    match mode {
        RouterMode::Redirect { .. } => Vec::new(),
        RouterMode::HttpProxy { .. } => vec![Port::HTTP_PROXY],
        RouterMode::DnsProxy { ports, .. } => ports.iter().map(|port| port.port).collect(),
    }
}

/// What a proxy is told.
#[derive(Clone, Debug)]
pub struct Config<'m> {
    /// Where pods reach it.
    pub address: Ipv4Addr,
    /// The name servers; empty for those of the node.
    pub name_servers: &'m [Ipv4Addr],
    /// What it lets through.
    pub lets: Lets<'m>,
}

/// What a proxy lets through.
#[derive(Clone, Copy, Debug)]
pub enum Lets<'m> {
    /// Requests, by rules.
    Sites(&'m [SiteRule]),
    /// Connections, by port.
    Ports(&'m [ProxyPort]),
}

/// What the proxy of a router is told; `None` for one that redirects.
#[must_use]
pub fn config(model: &Model, id: RouterId) -> Option<Config<'_>> {
    let address = model.endpoint(Tenant::Router(id)).address;
    let (lets, name_servers) = match &model.intent()[id].mode {
        RouterMode::Redirect { .. } => return None,
        RouterMode::HttpProxy { rules, name_servers } => (Lets::Sites(rules), name_servers),
        RouterMode::DnsProxy { ports, name_servers } => (Lets::Ports(ports), name_servers),
    };
    Some(Config { address, name_servers, lets })
}
