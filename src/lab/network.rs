//! The lab's cables: the nodes' uplinks, the routers between them, and what stands for the
//! interfaces that pods bring themselves.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::Ipv4Addr;

use ipnet::Ipv4Net;

use super::{Host, Lab, failed};
use crate::diagnostic::Diagnostic;
use crate::intent::{Attachment, Node, NodeId};
use crate::model::Tenant;
use crate::pipeline;
use crate::value::InterfaceName;

/// The bridge that holds a node's address: a userspace datapath takes tunnels only there.
const UNDERLAY: &str = "br-phy";
/// The uplink of a node whose desired state has none.
const DEFAULT_UPLINK: &str = "eth0";
/// The next hop of such a node (RFC 3927).
const LINK_LOCAL: Ipv4Addr = Ipv4Addr::new(169, 254, 255, 254);

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
    // What the outside sends is read by userspace datapaths: its checksums must be complete.
    for segment in 0..segments.len() {
        lab.outside.run(None, &["ethtool", "-K", &format!("lan{segment}"), "tx", "off"])?;
    }
    for (port, _) in segments.values().flatten() {
        lab.outside.run(None, &["ethtool", "-K", &format!("w{port}"), "tx", "off"])?;
    }
    for ((subnet, gateway), members) in &segments {
        for (_, id) in members {
            underlay(lab, *id, *subnet, *gateway)?;
        }
    }
    plug(lab)
}

fn segment(lab: &Lab, node: &Node) -> Segment {
    let Some(uplink) = &node.uplink else { return (None, LINK_LOCAL) };
    let gateway = uplink.gateway.or_else(|| {
        let routers = lab.model.intent().routers();
        let named = routers.map(|(_, router)| router).find(|r| uplink.subnet.contains(&r.gateway));
        named.map(|router| router.gateway)
    });
    let free = || uplink.subnet.hosts().last().unwrap_or(LINK_LOCAL);
    (Some(uplink.subnet), gateway.unwrap_or_else(free))
}

fn uplink(node: &Node) -> &str {
    node.uplink.as_ref().map_or(DEFAULT_UPLINK, |uplink| uplink.interface.as_str())
}

/// A veth between a node and the outside.
fn cable(lab: &Lab, id: NodeId, port: usize) -> Result<(), Diagnostic> {
    let node = &lab.model.intent()[id];
    let (inside, outside) = (lab.node(id)?.pid().to_string(), lab.outside.pid().to_string());
    let (mac, peer) = (mac(node.address), format!("w{port}"));
    let words = [
        "link",
        "add",
        uplink(node),
        "address",
        &mac,
        "netns",
        &inside,
        "type",
        "veth",
        "peer",
        "name",
        &peer,
        "netns",
        &outside,
    ];
    let output = duct::cmd("ip", words).stderr_capture().unchecked().run();
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

/// What the owner of a real machine with a userspace datapath prepares.
fn underlay(
    lab: &Lab,
    id: NodeId,
    subnet: Option<Ipv4Net>,
    gateway: Ipv4Addr,
) -> Result<(), Diagnostic> {
    let node = &lab.model.intent()[id];
    let host = lab.node(id)?;
    let declared = node.uplink.as_ref();
    let bridge = declared.and_then(|uplink| uplink.bridge.as_ref()).map(InterfaceName::as_str);
    // A gateway bridge that ringfence makes comes with the first apply.
    let makes = bridge.is_some() && declared.is_some_and(|uplink| !uplink.disable_init);
    let uplink = uplink(node);
    host.run(None, &["ethtool", "-K", uplink, "tx", "off"])?;
    host.run(None, &["ip", "link", "set", uplink, "up"])?;
    let holder = if makes { uplink } else { bridge.unwrap_or(UNDERLAY) };
    if !makes {
        underlay_bridge(host, node, holder, uplink)?;
    }
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

/// The bridge that holds a node's address.
fn underlay_bridge(host: &Host, node: &Node, bridge: &str, uplink: &str) -> Result<(), Diagnostic> {
    let hwaddr = format!("other-config:hwaddr={}", mac(node.address));
    host.run(
        None,
        &[
            "ovs-vsctl",
            "--timeout=30",
            "add-br",
            bridge,
            "--",
            "set",
            "Bridge",
            bridge,
            "datapath_type=netdev",
            "fail_mode=standalone",
            &hwaddr,
            "--",
            "add-port",
            bridge,
            uplink,
        ],
    )?;
    Ok(())
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
        let endpoint = model.endpoint(Tenant::Pod(id));
        let eth = pipeline::POD_INTERFACE;
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
        host.run(None, &["ethtool", "-K", interface.as_str(), "tx", "off"])?;
        host.run(Some(&netns), &["ethtool", "-K", eth, "tx", "off"])?;
    }
    Ok(())
}
