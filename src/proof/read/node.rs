//! `node.json`, as far as the proof needs it. What it needs not is named too, so that nothing new
//! goes by unseen.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde::de::IgnoredAny;

use super::Unread;

/// The file.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[allow(missing_docs, reason = "the names are those of the file")]
pub struct NodeFile {
    pub version: u32,
    pub node: String,
    pub address: String,
    pub mtu: u64,
    pub pod_networks: Vec<String>,
    pub bridge: Bridge,
    pub tun: Tun,
    pub ports: Vec<Port>,
    pub netns: Vec<Netns>,
    pub routers: Vec<IgnoredAny>,
    pub egress_ips: Vec<EgressIp>,
    #[serde(default)]
    pub draining: IgnoredAny,
    #[serde(default)]
    pub uplink: IgnoredAny,
    pub sysctls: BTreeMap<String, String>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[allow(missing_docs, reason = "the names are those of the file")]
pub struct EgressIp {
    pub address: std::net::Ipv4Addr,
    pub uplink: IgnoredAny,
    pub cookie: IgnoredAny,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[allow(missing_docs, reason = "the names are those of the file")]
pub struct Bridge {
    pub name: String,
    pub datapath: String,
    pub vxlan_port: u64,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[allow(missing_docs, reason = "the names are those of the file")]
pub struct Tun {
    pub mac: String,
    pub address: String,
    #[serde(default)]
    pub services: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[allow(missing_docs, reason = "the names are those of the file")]
pub struct Port {
    pub interface: String,
    pub ofport: u64,
    pub owner: String,
    pub cookie: IgnoredAny,
    #[serde(default)]
    pub ingress: IgnoredAny,
    #[serde(default)]
    pub meter: IgnoredAny,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[allow(missing_docs, reason = "the names are those of the file")]
pub struct Netns {
    pub name: String,
    pub host: String,
    pub mac: String,
    pub address: String,
    pub gateway: Option<String>,
    pub owner: String,
    pub cookie: IgnoredAny,
}

/// Reads the file.
pub fn read(file: &str, text: &[u8]) -> Result<NodeFile, Unread> {
    serde_json::from_slice(text)
        .map_err(|error| Unread::new(file, error.line(), format!("not as expected: {error}")))
}
