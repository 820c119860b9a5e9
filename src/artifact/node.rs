//! `node.json`: everything on a node that isn't a flow or a ruleset. Compiling writes it, `apply` reads it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

use ipnet::Ipv4Net;
use serde::de::{Deserializer, Error as _};
use serde::{Deserialize, Serialize};

use super::host;
use super::proxy::Proxy;
use crate::dataplane::origin::Cookie;
use crate::diagnostic::quoted;
use crate::pipeline::OfPort;
use crate::value::{Bandwidth, Datapath, InterfaceName, Mac, Name, NetnsName};

/// Everything on a node that isn't a flow or a ruleset.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct NodeConfig {
    /// The version of this format.
    pub version: u32,
    /// The node's name.
    pub node: Name,
    /// Its VXLAN endpoint, by which `apply` knows the node.
    pub address: Ipv4Addr,
    /// The MTU of the pods and of `tun0`, in bytes.
    pub mtu: u32,
    /// The pod networks, which `tun0` and every pod reach directly.
    pub pod_networks: Vec<Ipv4Net>,
    /// The bridge and its tunnel port.
    pub bridge: Bridge,
    /// The node's own port.
    pub tun: Tun,
    /// The ports of pods and egress routers, by port number.
    pub ports: Vec<Port>,
    /// The network namespaces of pods and egress routers, by name.
    pub netns: Vec<Netns>,
    /// The egress routers, by name.
    pub routers: Vec<Router>,
    /// The egress IPs that the node holds, sorted.
    pub egress_ips: Vec<EgressIp>,
    /// By the addresses of services, those of pods that are not ready and keep their connections.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub draining: BTreeMap<Ipv4Addr, Vec<Ipv4Addr>>,
    /// The uplink, where the desired state says more of it than its name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uplink: Option<Uplink>,
    /// Kernel settings of the node, by name.
    #[serde(deserialize_with = "settings")]
    pub sysctls: BTreeMap<String, String>,
}

/// The interface to the outside, with its gateway bridge.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Uplink {
    /// The interface.
    pub interface: InterfaceName,
    /// The bridge that has it as a port.
    pub bridge: Option<InterfaceName>,
    /// Whether that bridge is made by others.
    pub disable_init: bool,
    /// The MTU of the pods, in bytes.
    pub pod_mtu: u32,
    /// The MTU that the uplink must have at least.
    pub least_mtu: u32,
}

/// A veth between a namespace and the bridge.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Veth<'a> {
    /// The namespace.
    pub netns: &'a NetnsName,
    /// Its end on the node's side.
    pub host: &'a InterfaceName,
    /// The name of its other end.
    pub inside: &'static str,
    /// The Ethernet address of that.
    pub mac: Mac,
    /// Whose it is.
    pub owner: String,
}

impl Netns {
    /// Its veth on the pod network.
    #[must_use]
    pub fn veth(&self) -> Veth<'_> {
        let Self { name: netns, host, mac, owner, .. } = self;
        let owner = owner.clone();
        Veth { netns, host, inside: host::POD_INTERFACE, mac: *mac, owner }
    }
}

impl Router {
    /// Its name among those that own something.
    #[must_use]
    pub fn owner(&self) -> String {
        format!("router {}", self.name)
    }

    /// Its outside address, with the length of the network that it reaches directly.
    #[must_use]
    pub fn source(&self) -> Ipv4Net {
        let ExternalInterface { source, segment, .. } = self.outside;
        segment.map_or_else(|| Ipv4Net::from(source), |segment| with_length(source, segment))
    }

    /// The route to its gateway, unless that is in the network that it reaches directly.
    #[must_use]
    pub fn to_gateway(&self) -> Option<Ipv4Net> {
        let gateway = self.outside.gateway;
        (!self.source().contains(&gateway)).then(|| Ipv4Net::from(gateway))
    }

    /// Its veth to the outside, where it has one.
    #[must_use]
    pub fn outside_veth(&self) -> Option<Veth<'_>> {
        let UplinkAttachment::Veth { host, .. } = &self.outside.via else { return None };
        let (netns, inside) = (&self.netns, host::ROUTER_INTERFACE);
        Some(Veth { netns, host, inside, mac: self.outside.mac, owner: self.owner() })
    }
}

impl NodeConfig {
    /// The gateway bridge, with the uplink that is a port of it.
    #[must_use]
    pub fn gateway(&self) -> Option<(&InterfaceName, &Uplink)> {
        self.uplink.as_ref().and_then(|uplink| Some((uplink.bridge.as_ref()?, uplink)))
    }

    /// The networks to which its interfaces have routes without a next hop.
    #[must_use]
    pub fn direct_networks(&self) -> BTreeSet<Ipv4Net> {
        let gateways = self.routers.iter().filter_map(Router::to_gateway);
        let segments = self.routers.iter().filter_map(|router| router.outside.segment);
        let own = self.pod_networks.iter().chain(&self.tun.services).copied();
        own.chain(gateways).chain(segments).collect()
    }

    /// All veths, those on the pod network first.
    pub fn veths(&self) -> impl Iterator<Item = Veth<'_>> {
        let outside = self.routers.iter().filter_map(Router::outside_veth);
        self.netns.iter().map(Netns::veth).chain(outside)
    }
}

/// The bridge.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Bridge {
    /// Its name.
    pub name: InterfaceName,
    /// Its datapath.
    pub datapath: Datapath,
    /// The UDP port of its tunnels.
    pub vxlan_port: u16,
}

/// The node's own port on the bridge.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Tun {
    /// Its Ethernet address, fixed so that pods keep it in their ARP tables.
    pub mac: Mac,
    /// Its address with the length of the node's subnet.
    pub address: Ipv4Net,
    /// The network of the services, where there are any: the node's processes reach it here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub services: Option<Ipv4Net>,
}

/// A port of a pod or egress router.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Port {
    /// The interface.
    pub interface: InterfaceName,
    /// Its port number.
    #[serde(deserialize_with = "pod_port")]
    pub ofport: OfPort,
    /// Whose it is: `pod shop/web-0`.
    #[serde(deserialize_with = "owner")]
    pub owner: String,
    /// The owner's cookie.
    pub cookie: Cookie,
    /// The most that the owner receives, in bits a second.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ingress: Option<u64>,
    /// The meter of what the owner sends.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub meter: Option<Meter>,
}

/// A meter of the bridge.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Meter {
    /// Its number.
    pub id: u32,
    /// What passes, in kilobits a second.
    pub rate: u32,
    /// What passes at once, in kilobits.
    pub burst: u32,
}

impl Meter {
    /// A segment of 64 KiB as a kernel hands it over, which must pass in one piece.
    const SEGMENT: u32 = 600;

    /// The meter with this number for a bandwidth: a tenth of a second may pass at once.
    #[must_use]
    pub fn new(id: u32, bandwidth: Bandwidth) -> Self {
        let rate = u32::try_from(bandwidth.get() / 1000).unwrap_or(u32::MAX);
        Self { id, rate, burst: (rate / 10).max(Self::SEGMENT) }
    }
}

impl std::fmt::Display for Meter {
    /// As `ovs-ofctl` takes it.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { id, rate, burst } = self;
        write!(f, "meter={id},kbps,burst,stats,band=type=drop,rate={rate},burst_size={burst}")
    }
}

/// A network namespace with a veth on the bridge.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Netns {
    /// Its name.
    pub name: NetnsName,
    /// The veth on the node's side.
    pub host: InterfaceName,
    /// The Ethernet address on the inside.
    pub mac: Mac,
    /// The address on the inside, with the length of the node's subnet.
    pub address: Ipv4Net,
    /// The default route, which an egress router doesn't have on the pod network.
    pub gateway: Option<Ipv4Addr>,
    /// Whose it is: `pod shop/web-0`.
    #[serde(deserialize_with = "owner")]
    pub owner: String,
    /// The owner's cookie.
    pub cookie: Cookie,
}

/// An egress router: a namespace with a second interface.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Router {
    /// Its name, and that of its directory in the output.
    pub name: Name,
    /// Its namespace, one of the node's.
    pub netns: NetnsName,
    /// Its second interface.
    pub outside: ExternalInterface,
    /// The program that runs in it, where it is a proxy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub proxy: Option<Proxy>,
    /// The router's cookie.
    pub cookie: Cookie,
}

/// An egress router's interface to the segment of the node's uplink.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ExternalInterface {
    /// What it is.
    pub via: UplinkAttachment,
    /// Its Ethernet address.
    pub mac: Mac,
    /// Its address, which the outside sees.
    pub source: Ipv4Addr,
    /// The network whose hosts it reaches directly, if there are any but the gateway.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub segment: Option<Ipv4Net>,
    /// The next hop to everywhere else.
    pub gateway: Ipv4Addr,
}

/// How an egress router's outside interface is connected with the uplink.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub enum UplinkAttachment {
    /// It is a macvlan interface, mode private.
    Macvlan {
        /// The uplink.
        parent: InterfaceName,
    },
    /// It is a veth on the node's bridge, from which patch ports lead to the gateway bridge.
    Veth {
        /// The end on the node's side.
        host: InterfaceName,
        /// The uplink, whose MTU it has.
        uplink: InterfaceName,
    },
}

/// An egress IP: an address of the node beside its own, on `lo`, since the kernel answers for it
/// on every interface.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct EgressIp {
    /// The address.
    pub address: Ipv4Addr,
    /// The subnet of the uplink, where the address is announced.
    pub uplink: Ipv4Net,
    /// The egress IP's cookie.
    pub cookie: Cookie,
}

/// A port number that a pod can have.
fn pod_port<'de, D: Deserializer<'de>>(deserializer: D) -> Result<OfPort, D::Error> {
    let number = u16::deserialize(deserializer)?;
    OfPort::pod(number).ok_or_else(|| D::Error::custom(format!("no pod has the port {number}")))
}

/// The name of an owner. It goes into aliases and marks, so nothing in it may end those.
fn owner<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    let name = String::deserialize(deserializer)?;
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b" -./".contains(&byte);
    if name.bytes().all(plain) {
        return Ok(name);
    }
    Err(D::Error::custom(format!("{} is not the name of an owner", quoted(&name))))
}

/// Settings of the network, each a number.
fn settings<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<BTreeMap<String, String>, D::Error> {
    let settings = BTreeMap::<String, String>::deserialize(deserializer)?;
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._-/".contains(&byte);
    for (name, value) in &settings {
        // A dot and a slash stand for each other, so both must not lead upwards.
        let upwards = name.replace('/', ".").contains("..");
        let known = name.starts_with("net.") && !upwards && name.bytes().all(plain);
        if !known || value.parse::<u32>().is_err() {
            let setting = quoted(&format!("{name}={value}"));
            return Err(D::Error::custom(format!("{setting} is no setting of the network")));
        }
    }
    Ok(settings)
}

impl NodeConfig {
    /// The version of the format that this ringfence writes and reads.
    pub const VERSION: u32 = 1;
}

/// An address with the prefix length of its network.
#[must_use]
pub fn with_length(address: Ipv4Addr, network: Ipv4Net) -> Ipv4Net {
    Ipv4Net::new(address, network.prefix_len()).unwrap_or_else(|_| Ipv4Net::from(address))
}
