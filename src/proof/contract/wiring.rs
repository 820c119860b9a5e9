//! L0: the files that wire the node agree with each other and with the desired state: port i is the
//! interface of workload p, with its namespace, address and Ethernet address.

use std::collections::{BTreeMap, BTreeSet};

use super::{Contract, Fault, Lemma};
use crate::diagnostic::Place;
use crate::proof::frame::{address, mac};
use crate::proof::meaning::{Attachment, Workload};
use crate::proof::read::Unread;
use crate::proof::read::node::NodeFile;
use crate::proof::read::shell::Command;

/// The files that wire a node.
#[derive(Debug)]
pub struct Files {
    /// `node.json`.
    pub node: NodeFile,
    /// `ports.sh`.
    pub ports: Vec<Command>,
    /// `links.sh`.
    pub links: Vec<Command>,
    /// `sysctl.conf`.
    pub settings: Vec<Command>,
}

/// Commands of the scripts that are the same whatever is on the node, in functions and guards. Words
/// in angle brackets stand for any one word.
const PORTS: &[&str] = &[
    "set -eu",
    "for network in <…>; do",
    "taken=$(",
    "ip route show root \"$network\" | grep -Ev ' dev tun0( |$)' || true",
    "ip -o -4 address show to \"$network\" | grep -Ev '^[0-9]+: tun0 ' || true",
    ")",
    "if [ -n \"$taken\" ]; then",
    "printf 'something of others is in %s:\\n%s\\n' \"$network\" \"$taken\" >&2",
    "exit 1",
    "fi",
    "done",
    "port() {",
    "ovs-vsctl -- --may-exist add-port br0 \"$1\" -- set Port \"$1\" \"external_ids:ringfence=\\\"$3\\\"\" -- set Interface \"$1\" \"ofport_request=$2\"",
    "}",
    "limit() {",
    "old=$(ovs-vsctl get Port \"$1\" qos)",
    "if [ \"$old\" != '[]' ] && [ \"$(ovs-vsctl get QoS \"$old\" other_config:max-rate)\" = \"\\\"$2\\\"\" ]; then",
    "return",
    "ovs-vsctl -- set Port \"$1\" qos=@qos -- --id=@qos create QoS type=linux-htb \"other_config:max-rate=$2\" queues:0=@queue \"external_ids:ringfence=\\\"$3\\\"\" -- --id=@queue create Queue \"other_config:max-rate=$2\" \"external_ids:ringfence=\\\"$3\\\"\" >/dev/null",
    "limit <…>",
    "ethtool -K tun0 tx off >/dev/null",
];

const LINKS: &[&str] = &[
    "set -eu",
    "attach() {",
    "outside() {",
    "netns=$2 host=$3",
    "if [ ! -e \"/run/netns/$netns\" ]; then",
    "ip netns add \"$netns\"",
    "ip -n \"$netns\" link set lo up alias \"ringfence $netns\"",
    "fi",
    "if ! ip link show dev \"$host\" >/dev/null 2>&1; then",
    "ip link add \"$host\" type veth peer name eth0 netns \"$netns\"",
    "[ ! -e /proc/sys/net/ipv6 ] || ip link set dev \"$host\" addrgenmode none",
    "ethtool -K \"$host\" tx off >/dev/null",
    "ip netns exec \"$netns\" ethtool -K eth0 tx off >/dev/null",
    "ip -n \"$netns\" address replace \"$5\" dev eth0",
    "if [ \"$6\" != none ]; then",
    "ip -n \"$netns\" route replace default via \"$6\" dev eth0 proto 82",
    "}",
];

impl Contract<'_> {
    /// Compares the files. What can't be understood is returned: then nothing is proven.
    pub fn wiring(&mut self, directory: &str, files: &Files) -> Vec<Unread> {
        self.node_file(&files.node);
        let mut unread =
            self.script(&format!("{directory}/ports.sh"), &files.ports, PORTS, self.ports(files));
        // What wires egress routers and egress IPs is the business of their lemmas.
        let others = &[
            "outside",
            "mtu=$(",
            "ip link add \"$host\" type veth peer name net1",
            "[ ! -e /proc/sys/net/ipv6 ] || [ ",
            "ip link set dev \"$host\" mtu \"$mtu\"",
            "ip -n \"$netns\" link set dev net1",
            "ip netns exec \"$netns\" ethtool -K net1",
        ];
        let features = self.meaning.features;
        let links: Vec<Command> = files
            .links
            .iter()
            .filter(|command| {
                let router = others.iter().any(|start| command.text.starts_with(start));
                !(router && features.gateway_bridges)
            })
            .take_while(|command| {
                !(features.egress_ips && command.text.starts_with("for address in "))
            })
            .cloned()
            .collect();
        unread.extend(self.script(
            &format!("{directory}/links.sh"),
            &links,
            LINKS,
            self.links(files),
        ));
        let mut settings: BTreeSet<&str> =
            files.settings.iter().map(|command| command.text.as_str()).collect();
        self.agree(settings.remove("net.ipv4.ip_forward = 1"), || {
            "sysctl.conf does not let the node forward".to_owned()
        });
        if !features.egress_ips && settings.iter().any(|text| !text.contains(".rp_filter = ")) {
            let file = format!("{directory}/sysctl.conf");
            unread.push(Unread::new(&file, 0, "a setting that has no meaning here"));
        }
        unread
    }

    /// What must hold, or is a fault.
    fn agree(&mut self, holds: bool, why: impl FnOnce() -> String) {
        self.agree_at(holds, self.node.place, why);
    }

    fn agree_at(&mut self, holds: bool, place: Place, why: impl FnOnce() -> String) {
        self.count(Lemma::L0);
        if !holds {
            self.faults.push(Fault::plain(Lemma::L0, why(), place));
        }
    }

    /// `node.json` against the desired state.
    fn node_file(&mut self, file: &NodeFile) {
        let (meaning, node) = (self.meaning, self.node);
        let length = format!("{}/{}", address(node.gateway), node.prefix);
        let networks: Vec<String> =
            meaning.pod_networks.iter().map(|range| shown(*range)).collect();
        let mut own_networks = file.pod_networks.clone();
        own_networks.sort();
        let mut sorted = networks.clone();
        sorted.sort();
        let services = meaning.features.services.then(|| shown(meaning.service_network));
        for (what, holds) in [
            ("its name", file.node == node.name),
            ("its address", file.address == address(node.address).to_string()),
            ("the MTU", file.mtu == meaning.mtu),
            ("the pod networks", own_networks == sorted),
            ("the bridge", file.bridge.name == "br0"),
            ("the datapath", (file.bridge.datapath == "system") == node.kernel),
            ("the port of the tunnels", file.bridge.vxlan_port == meaning.vxlan_port),
            ("the address of tun0", file.tun.address == length),
            ("the service network", file.tun.services == services),
            ("the Ethernet address of tun0", file.tun.mac == mac(0x0a58_0000_0000 | node.gateway)),
            ("forwarding", file.sysctls.get("net.ipv4.ip_forward").is_some_and(|v| v == "1")),
        ] {
            self.agree(holds, || format!("node.json has not {what} of node {}", node.name));
        }
        let mut interfaces = BTreeSet::new();
        for port in &file.ports {
            self.agree(interfaces.insert(port.interface.as_str()), || {
                format!("two ports are the interface {}", port.interface)
            });
        }
        let ports: BTreeMap<u64, _> = file.ports.iter().map(|port| (port.ofport, port)).collect();
        let netns: BTreeMap<&str, _> = file.netns.iter().map(|n| (n.owner.as_str(), n)).collect();
        let outside = file.ports.len() - node.workloads.len().min(file.ports.len());
        self.agree(ports.len() == file.ports.len(), || "two ports have one number".to_owned());
        self.agree(outside == 0 || node.gateway_bridge, || {
            format!(
                "node.json has {} ports, the node {} workloads",
                file.ports.len(),
                node.workloads.len()
            )
        });
        let veths = node.workloads.iter().filter(|w| matches!(w.attachment, Attachment::Netns(_)));
        self.agree(file.netns.len() == veths.count(), || {
            "node.json has other namespaces than the workloads of the node".to_owned()
        });
        for workload in &node.workloads {
            let port = ports.get(&workload.port).filter(|port| port.owner == workload.name);
            self.agree_at(port.is_some(), workload.place, || {
                format!("port {} is not that of {}", workload.port, workload.name)
            });
            let Some(port) = port else { continue };
            match &workload.attachment {
                Attachment::Interface(name) => {
                    self.agree_at(port.interface == *name, workload.place, || {
                        format!("the port of {} is not {name}", workload.name)
                    });
                }
                Attachment::Netns(name) => {
                    let found = netns.get(workload.name.as_str()).filter(|netns| {
                        netns.name == *name
                            && netns.host == port.interface
                            && netns.mac == mac(workload.mac)
                            && netns.address
                                == format!("{}/{}", address(workload.address), node.prefix)
                            && netns.gateway == gateway(workload, node.gateway)
                    });
                    self.agree_at(found.is_some(), workload.place, || {
                        format!("the namespace of {} is not as it should be", workload.name)
                    });
                }
            }
        }
    }

    /// What `ports.sh` must do, beside what it always does.
    fn ports(&self, files: &Files) -> Vec<(String, Option<Place>)> {
        let (meaning, node) = (self.meaning, self.node);
        let name = &node.name;
        let datapath = if node.kernel { "system" } else { "netdev" };
        let mut must = vec![
            format!(
                "ovs-vsctl -- --may-exist add-br br0 -- set Bridge br0 datapath_type={datapath} \
                 fail_mode=secure protocols=OpenFlow13,OpenFlow14,OpenFlow15 \
                 'external_ids:ringfence=\"{name}\"'"
            ),
            "ovs-ofctl -O OpenFlow14 set-frags br0 nx-match".to_owned(),
            format!(
                "ovs-vsctl -- --may-exist add-port br0 vxlan0 -- set Port vxlan0 \
                 'external_ids:ringfence=\"{name}\"' -- set Interface vxlan0 type=vxlan \
                 options:remote_ip=flow options:key=flow options:local_ip={} options:dst_port={} \
                 ofport_request=1",
                address(node.address),
                meaning.vxlan_port
            ),
            format!(
                "ovs-vsctl -- --may-exist add-port br0 tun0 -- set Port tun0 \
                 'external_ids:ringfence=\"{name}\"' -- set Interface tun0 type=internal \
                 'mac=\"{}\"' ofport_request=2 mtu_request={}",
                mac(0x0a58_0000_0000 | node.gateway),
                meaning.mtu
            ),
            "ip link set dev tun0 up".to_owned(),
            format!("ip address replace {}/{} dev tun0", address(node.gateway), node.prefix),
        ];
        let services = meaning.features.services.then_some(meaning.service_network);
        for network in meaning.pod_networks.iter().copied().chain(services) {
            must.push(format!("ip route replace {} dev tun0 proto 82", shown(network)));
        }
        let mut must: Vec<(String, Option<Place>)> =
            must.into_iter().map(|text| (text, None)).collect();
        let places = self.places();
        for port in &files.node.ports {
            let text = format!("port {} {} '{}'", port.interface, port.ofport, port.owner);
            must.push((text, places.get(port.owner.as_str()).copied()));
        }
        must
    }

    fn places(&self) -> BTreeMap<&str, Place> {
        self.node.workloads.iter().map(|w| (w.name.as_str(), w.place)).collect()
    }

    /// What `links.sh` must do, beside what it always does.
    fn links(&self, files: &Files) -> Vec<(String, Option<Place>)> {
        let mtu = self.meaning.mtu;
        let mut must = vec![
            format!("ip link set dev \"$host\" mtu {mtu} alias \"ringfence $1\" up"),
            format!("ip -n \"$netns\" link set dev eth0 address \"$4\" mtu {mtu} up"),
        ];
        for network in &self.meaning.pod_networks {
            must.push(format!(
                "ip -n \"$netns\" route replace {} dev eth0 proto 82",
                shown(*network)
            ));
        }
        let mut must: Vec<(String, Option<Place>)> =
            must.into_iter().map(|text| (text, None)).collect();
        let places = self.places();
        for netns in &files.node.netns {
            let text = format!(
                "attach '{}' {} {} {} {} {}",
                netns.owner,
                netns.name,
                netns.host,
                netns.mac,
                netns.address,
                netns.gateway.as_deref().unwrap_or("none")
            );
            must.push((text, places.get(netns.owner.as_str()).copied()));
        }
        must
    }

    /// A script does all that it must, each once, and nothing that has no meaning.
    fn script(
        &mut self,
        file: &str,
        commands: &[Command],
        always: &[&str],
        must: Vec<(String, Option<Place>)>,
    ) -> Vec<Unread> {
        let mut found: BTreeMap<&str, usize> = BTreeMap::new();
        for command in commands {
            *found.entry(command.text.as_str()).or_default() += 1;
        }
        let mut known: BTreeSet<String> = BTreeSet::new();
        let own = self.node.place;
        for (text, place) in must {
            let times = found.get(text.as_str()).copied().unwrap_or(0);
            self.agree_at(times == 1, place.unwrap_or(own), || {
                format!("{file} has {times} times `{text}`")
            });
            known.insert(text);
        }
        let bridges = self.meaning.features.gateway_bridges;
        let unknown = |command: &&Command| {
            let text = command.text.as_str();
            let same = |form: &&str| match form.strip_suffix("<…>") {
                Some(start) => text.starts_with(start),
                None => match form.split_once("<…>") {
                    Some((start, end)) => text.starts_with(start) && text.ends_with(end),
                    None => text == *form,
                },
            };
            // The patch to the gateway bridge is the business of another lemma.
            let patch = bridges && text.contains("patch-uplink");
            !known.contains(text) && !always.iter().any(same) && !patch
        };
        let refuse = |command: &Command| {
            Unread::new(file, command.line, "a command that has no meaning here")
        };
        commands.iter().filter(unknown).map(refuse).collect()
    }
}

/// The default route of a workload: an egress router has none on the pod network.
fn gateway(workload: &Workload, gateway: u64) -> Option<String> {
    (!workload.router).then(|| address(gateway).to_string())
}

/// A network in CIDR notation.
fn shown((first, last): (u64, u64)) -> String {
    format!("{}/{}", address(first), 32 - (last - first + 1).trailing_zeros())
}
