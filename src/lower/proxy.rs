//! Egress routers that are proxies: which program runs, and what it is told.

use std::net::Ipv4Addr;

use crate::artifact::proxy::Proxy;
use crate::intent::{ProxyPort, RouterId, RouterMode, SiteRule};
use crate::model::{Model, Workload};
use crate::value::Port;

/// The program of a router; `None` for one that redirects.
#[must_use]
pub fn program(mode: &RouterMode) -> Option<Proxy> {
    match mode {
        RouterMode::Redirect { .. } => None,
        RouterMode::HttpProxy { .. } => Some(Proxy::Squid),
        RouterMode::DnsProxy { .. } => Some(Proxy::Haproxy),
    }
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
pub struct ProxyConfig<'m> {
    /// Where pods reach it.
    pub address: Ipv4Addr,
    /// The name servers; empty for those of the node.
    pub name_servers: &'m [Ipv4Addr],
    /// What it lets through.
    pub rules_of: ProxyRules<'m>,
}

/// What a proxy lets through.
#[derive(Clone, Copy, Debug)]
pub enum ProxyRules<'m> {
    /// Requests, by rules.
    Sites(&'m [SiteRule]),
    /// Connections, by port.
    Ports(&'m [ProxyPort]),
}

/// What the proxy of a router is told; `None` for one that redirects.
#[must_use]
pub fn config(model: &Model, id: RouterId) -> Option<ProxyConfig<'_>> {
    let address = model.endpoint(Workload::Router(id)).address;
    let (rules_of, name_servers) = match &model.intent()[id].mode {
        RouterMode::Redirect { .. } => return None,
        RouterMode::HttpProxy { rules, name_servers } => (ProxyRules::Sites(rules), name_servers),
        RouterMode::DnsProxy { ports, name_servers } => (ProxyRules::Ports(ports), name_servers),
    };
    Some(ProxyConfig { address, name_servers, rules_of })
}
