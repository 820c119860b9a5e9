//! The lab's cables: the nodes' uplinks, the routers between them, and what stands for the
//! interfaces that pods bring themselves.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::net::Ipv4Addr;

use ipnet::Ipv4Net;

use super::{Host, Lab, failed};
use crate::artifact::host;
use crate::diagnostic::Diagnostic;
use crate::intent::{Attachment, BlockAt, Node, NodeId};
use crate::model::Workload;
use crate::value::Datapath;

/// The bridge that holds a node's address: a userspace datapath takes tunnels only there.
pub(super) const UNDERLAY: &str = "br-phy";
/// The uplink of a node whose desired state has none.
const DEFAULT_UPLINK: &str = "eth0";
/// The next hop of such a node (RFC 3927).
const LINK_LOCAL: Ipv4Addr = Ipv4Addr::new(169, 254, 255, 254);

/// The shortest prefix of a segment that is made up.
const SHORTEST: u8 = 12;

/// A segment of the outside network: its subnet, if it has one, and its router's address.
type Segment = (Option<Ipv4Net>, Ipv4Addr);

/// Connects the nodes with the outside.
pub(super) fn connect(lab: &Lab) -> Result<(), Diagnostic> {
    let mut segments: BTreeMap<Segment, Vec<(usize, NodeId)>> = BTreeMap::new();
    for (number, (id, node)) in lab.model.intent().nodes().enumerate() {
        segments.entry(segment(lab, node)).or_default().push((number, id));
    }
    let mut outside = String::new();
    for (number, ((subnet, gateway), members)) in segments.iter().enumerate() {
        let length = subnet.map_or(32, |subnet| subnet.prefix_len());
        let _ = writeln!(outside, "link add lan{number} type bridge");
        let _ = writeln!(outside, "link set lan{number} up");
        let _ = writeln!(outside, "address add {gateway}/{length} dev lan{number}");
        for (port, id) in members {
            let node = &lab.model.intent()[*id];
            cable(lab, *id, *port)?;
            let _ = writeln!(outside, "link set w{port} master lan{number} up");
            if subnet.is_none_or(|subnet| !subnet.contains(&node.address)) {
                let _ = writeln!(outside, "route add {}/32 dev lan{number}", node.address);
            }
        }
    }
    lab.outside.run(None, &["sysctl", "-qw", "net.ipv4.ip_forward=1"])?;
    lab.outside.feed(None, &["ip", "-batch", "-"], outside)?;
    for segment in 0..segments.len() {
        checksums(lab, &lab.outside, None, &format!("lan{segment}"))?;
    }
    for (port, _) in segments.values().flatten() {
        checksums(lab, &lab.outside, None, &format!("w{port}"))?;
    }
    for ((subnet, gateway), members) in &segments {
        for (_, id) in members {
            underlay(lab, *id, *subnet, *gateway)?;
        }
    }
    other_addresses(lab)?;
    plug(lab)
}

/// A userspace datapath takes frames as they are: their checksums must be complete.
fn checksums(
    lab: &Lab,
    host: &Host,
    netns: Option<&str>,
    interface: &str,
) -> Result<(), Diagnostic> {
    if lab.datapath == Datapath::Netdev {
        host.run(netns, &["ethtool", "-K", interface, "tx", "off"])?;
    }
    Ok(())
}

fn segment(lab: &Lab, node: &Node) -> Segment {
    let Some(uplink) = &node.uplink else { return shared(lab) };
    let gateway = uplink.gateway.or_else(|| {
        let routers = lab.model.intent().routers();
        let named = routers.map(|(_, router)| router).find(|r| uplink.subnet.contains(&r.gateway));
        named.map(|router| router.gateway)
    });
    let free = || uplink.subnet.hosts().last().unwrap_or(LINK_LOCAL);
    (Some(uplink.subnet), gateway.unwrap_or_else(free))
}

/// The segment of the nodes that don't say in which they are: the smallest that has them all, and
/// room for a router. A tunnel of Open vSwitch needs an address whose network has the next hop.
fn shared(lab: &Lab) -> Segment {
    let intent = lab.model.intent();
    let nodes = intent.nodes().filter(|(_, node)| node.uplink.is_none());
    let addresses: BTreeSet<Ipv4Addr> = nodes.map(|(_, node)| node.address).collect();
    let first = addresses.first().copied().unwrap_or(LINK_LOCAL);
    let networks = (SHORTEST..=29).rev().filter_map(|length| Ipv4Net::new(first, length).ok());
    let mut networks = networks.map(|network| network.trunc());
    let all = networks.find(|network| addresses.iter().all(|address| network.contains(address)));
    let apart = |network: &Ipv4Net| {
        let cluster = intent.cluster();
        let pods = cluster.pod_networks.iter().map(|pods| pods.cidr);
        let mut others = pods
            .chain([cluster.service_network])
            .chain(intent.nodes().filter_map(|(_, node)| Some(node.uplink.as_ref()?.subnet)));
        !others.any(|other| other.contains(network) || network.contains(&other))
    };
    let free = |network: Ipv4Net| {
        let router = network.hosts().find(|host| !addresses.contains(host))?;
        Some((Some(network), router))
    };
    all.filter(apart).and_then(free).unwrap_or((None, LINK_LOCAL))
}

fn uplink(node: &Node) -> &str {
    node.uplink.as_ref().map_or(DEFAULT_UPLINK, |uplink| uplink.interface.as_str())
}

/// The veth of a node's uplink.
fn cable(lab: &Lab, id: NodeId, port: usize) -> Result<(), Diagnostic> {
    let node = &lab.model.intent()[id];
    veth(lab, id, uplink(node), &["address", &mac(node.address)], &format!("w{port}"))
}

/// A veth between a node and the outside.
fn veth(
    lab: &Lab,
    id: NodeId,
    interface: &str,
    address: &[&str],
    peer: &str,
) -> Result<(), Diagnostic> {
    // Asked for in the network of the outside, but among the processes of this machine: Linux 6.1
    // refuses a name that exists where whoever asks is, such as eth0.
    let network = format!("--net=/proc/{}/ns/net", lab.outside.pid());
    let inside = lab.node(id)?.pid().to_string();
    let words = [
        &[&network, "ip", "link", "add", peer, "type", "veth", "peer", "name", interface],
        address,
        &["netns", &inside],
    ];
    let output = duct::cmd("nsenter", words.concat()).stderr_capture().unchecked().run();
    let output = output.map_err(|error| failed(&error.to_string()))?;
    if output.status.success() {
        return Ok(());
    }
    Err(failed(&format!("a cable: {}", String::from_utf8_lossy(&output.stderr).trim())))
}

fn mac(address: Ipv4Addr) -> String {
    let [a, b, c, d] = address.octets();
    format!("02:00:{a:02x}:{b:02x}:{c:02x}:{d:02x}")
}

/// What the owner of a real machine prepares: with a userspace datapath, a bridge for the uplink.
fn underlay(
    lab: &Lab,
    id: NodeId,
    subnet: Option<Ipv4Net>,
    gateway: Ipv4Addr,
) -> Result<(), Diagnostic> {
    let node = &lab.model.intent()[id];
    let host = lab.node(id)?;
    let uplink = uplink(node);
    checksums(lab, host, None, uplink)?;
    host.run(None, &["ip", "link", "set", uplink, "up"])?;
    let bridge = owners_bridge(lab, node);
    if let Some(bridge) = bridge {
        underlay_bridge(lab, host, node, bridge)?;
    }
    let holder = bridge.unwrap_or(uplink);
    let length =
        subnet.filter(|subnet| subnet.contains(&node.address)).map_or(32, |s| s.prefix_len());
    let mut lines = format!("address add {}/{length} dev {holder}\n", node.address);
    let _ = writeln!(lines, "link set {holder} up");
    if length == 32 {
        let _ = writeln!(lines, "route add {gateway}/32 dev {holder}");
    }
    let _ = writeln!(lines, "route add default via {gateway} dev {holder}");
    host.feed(None, &["ip", "-batch", "-"], lines)
}

/// The bridge that takes the uplink before the first apply, if any: ringfence makes its own.
fn owners_bridge<'n>(lab: &Lab, node: &'n Node) -> Option<&'n str> {
    match node.uplink.as_ref().and_then(|uplink| Some((uplink, uplink.bridge.as_ref()?))) {
        Some((uplink, bridge)) => uplink.disable_init.then_some(bridge.as_str()),
        None => (lab.datapath == Datapath::Netdev).then_some(UNDERLAY),
    }
}

/// Makes that bridge, with the uplink as its port.
fn underlay_bridge(lab: &Lab, host: &Host, node: &Node, bridge: &str) -> Result<(), Diagnostic> {
    let hwaddr = format!("other-config:hwaddr={}", mac(node.address));
    host.run(
        None,
        &[
            "ovs-vsctl",
            "--timeout=120",
            "add-br",
            bridge,
            "--",
            "set",
            "Bridge",
            bridge,
            &format!("datapath_type={}", lab.datapath.as_str()),
            "fail_mode=standalone",
            &hwaddr,
            "--",
            "add-port",
            bridge,
            uplink(node),
        ],
    )?;
    Ok(())
}

/// The interfaces of a node beside its uplink: those that blocks of node ports name.
fn others(node: &Node) -> Vec<&str> {
    let mut interfaces: Vec<&str> = node
        .blocks
        .iter()
        .filter_map(|block| match &block.at {
            BlockAt::Interface(name) => Some(name.as_str()).filter(|name| *name != uplink(node)),
            BlockAt::Address(_) => None,
        })
        .collect();
    interfaces.sort_unstable();
    interfaces.dedup();
    interfaces
}

/// The interface by which the outside reaches an address of a node's: its own by the uplink, the
/// others at which it serves node ports by its other interfaces in turn, if it has any.
pub(super) fn comes_by(node: &Node, address: Ipv4Addr) -> &str {
    let interfaces = others(node);
    let mut rest = node.node_port_addresses.iter().filter(|other| **other != node.address);
    match rest.position(|other| *other == address) {
        Some(index) if !interfaces.is_empty() => interfaces[index % interfaces.len()],
        _ => uplink(node),
    }
}

/// Gives the nodes their other interfaces, and the addresses beside their own.
fn other_addresses(lab: &Lab) -> Result<(), Diagnostic> {
    let (mut outside, mut clients) = (String::new(), 0_u8);
    for (number, (id, node)) in lab.model.intent().nodes().enumerate() {
        let mut inside = String::new();
        let peer = |interface: &str| {
            let index = others(node).iter().position(|other| *other == interface);
            format!("x{number}-{}", index.unwrap_or_default())
        };
        for interface in others(node) {
            veth(lab, id, interface, &[], &peer(interface))?;
            // Who asks by it is told by it, at an address that no other has.
            let client = Ipv4Addr::new(169, 254, 253, clients);
            clients = clients.saturating_add(1);
            let peer = peer(interface);
            let _ = writeln!(outside, "link set {peer} up\naddress add {client}/32 dev {peer}");
            let _ = writeln!(inside, "link set {interface} up");
            let _ = writeln!(inside, "route add {client}/32 dev {interface}");
        }
        for address in node.node_port_addresses.iter().filter(|other| **other != node.address) {
            let by = comes_by(node, *address);
            if by == uplink(node) {
                let holder = owners_bridge(lab, node).unwrap_or(by);
                let _ = writeln!(inside, "address add {address}/32 dev {holder}");
                let _ = writeln!(outside, "route replace {address}/32 via {}", node.address);
            } else {
                let _ = writeln!(inside, "address add {address}/32 dev {by}");
                let _ = writeln!(outside, "route replace {address}/32 dev {}", peer(by));
            }
        }
        lab.node(id)?.feed(None, &["ip", "-batch", "-"], inside)?;
    }
    lab.outside.feed(None, &["ip", "-batch", "-"], outside)
}

/// The namespace that stands for the workload behind an interface that exists already.
pub(super) fn stand_in(interface: &str) -> String {
    format!("lab_{interface}")
}

/// Makes the interfaces that pods bring themselves, each with a workload behind it.
pub(super) fn plug(lab: &Lab) -> Result<(), Diagnostic> {
    let model = &lab.model;
    let intent = model.intent();
    for (id, pod) in intent.pods() {
        let Attachment::Interface(interface) = &pod.attachment else { continue };
        let host = lab.node(pod.node)?;
        if host.output(None, &["ip", "link", "show", "dev", interface.as_str()])?.status.success() {
            continue;
        }
        let netns = stand_in(interface.as_str());
        let endpoint = model.endpoint(Workload::Pod(id));
        let eth = host::POD_INTERFACE;
        let mtu = intent.cluster().mtu;
        let lines = format!(
            "netns add {netns}\nlink add {interface} mtu {mtu} up type veth peer name {eth} \
             address {} mtu {mtu} netns {netns}\n",
            endpoint.mac
        );
        host.feed(None, &["ip", "-batch", "-"], lines)?;
        let mut lines = format!("link set lo up\nlink set {eth} up\n");
        let length = model.subnet(pod.node).prefix_len();
        let _ = writeln!(lines, "address add {}/{length} dev {eth}", endpoint.address);
        for network in &intent.cluster().pod_networks {
            let _ = writeln!(lines, "route replace {} dev {eth}", network.cidr);
        }
        let _ = writeln!(lines, "route add default via {} dev {eth}", model.gateway(pod.node));
        host.feed(None, &["ip", "-n", &netns, "-batch", "-"], lines)?;
        checksums(lab, host, None, interface.as_str())?;
        checksums(lab, host, Some(&netns), eth)?;
    }
    Ok(())
}
