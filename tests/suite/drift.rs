//! Every attribute that `apply` owns, changed by hand: `status` names it, `apply` mends it, and the
//! next run finds nothing.

use std::collections::{BTreeMap, BTreeSet};

use crate::lab::{Live, datapath, live_of};
use ringfence::apply::{Owned, owned};
use ringfence::value::Datapath;

const NETWORK: &str = "\
version: 1
nodes:
  - name: node-1
    address: 192.168.12.11
    uplink: {interface: eth0, subnet: 192.168.12.0/24, gateway: 192.168.12.1}
    reservedAddresses: [192.168.12.100]
projects:
  - name: shop
    pods:
      - {name: web-0, node: node-1, labels: {app: web}}
      - {name: web-1, node: node-1, bandwidth: {ingress: 20M, egress: 10M}}
    services: [{name: web, selector: {app: web}, ports: [{port: 80, targetPort: 8080}]}]
egressRouters:
  - name: supplier
    project: shop
    source: 192.168.12.99
    gateway: 192.168.12.1
    mode: http-proxy
    node: node-1
    rules: [{allow: \"*.example.com\"}]
egressIPs:
  - {project: shop, addresses: [192.168.12.100]}
";

/// What somebody does by hand on the node: the object and its attribute, the command, and what is
/// said of it. POD is the port of a pod, LIMITED that of one whose bandwidth is limited; IN and
/// ROUTER run the rest of the line in the namespace of that pod, and of the router.
type Hand = (&'static str, &'static str, &'static str, &'static str);

const DATABASE: &[Hand] = &[
    ("bridge", "datapath_type", "set Bridge br0 datapath_type=system", "~ bridge br0: datapath"),
    ("bridge", "fail_mode", "set-fail-mode br0 standalone", "~ bridge br0: fail mode"),
    ("bridge", "protocols", "set Bridge br0 protocols=OpenFlow14", "~ bridge br0: protocols"),
    ("bridge", "external_ids", "set Bridge br0 external_ids:ringfence=x", "~ bridge br0: mark"),
    ("bridge", "controller", "set-controller br0 tcp:127.0.0.1:6653", "~ bridge br0: controller"),
    (
        "bridge",
        "other_config",
        "set Bridge br0 other_config:forward-bpdu=true",
        "~ bridge br0: other config",
    ),
    (
        "bridge",
        "auto_attach",
        "set Bridge br0 auto_attach=@a -- --id=@a create AutoAttach system_name=x",
        "~ bridge br0: auto attach",
    ),
    ("bridge", "flood_vlans", "set Bridge br0 flood_vlans=5", "~ bridge br0: flood vlans"),
    (
        "bridge",
        "flow_tables",
        "set Bridge br0 flow_tables:80=@t -- --id=@t create Flow_Table flow_limit=900",
        "~ bridge br0: flow tables",
    ),
    (
        "bridge",
        "ipfix",
        "set Bridge br0 ipfix=@i -- --id=@i create IPFIX targets='\"127.0.0.1:4739\"'",
        "~ bridge br0: ipfix",
    ),
    (
        "bridge",
        "mirrors",
        "set Bridge br0 mirrors=@m -- --id=@m create Mirror name=m select-all=true",
        "~ bridge br0: mirrors",
    ),
    (
        "bridge",
        "netflow",
        "set Bridge br0 netflow=@n -- --id=@n create NetFlow targets='\"127.0.0.1:2055\"'",
        "~ bridge br0: netflow",
    ),
    (
        "bridge",
        "sflow",
        "set Bridge br0 sflow=@s -- --id=@s create sFlow targets='\"127.0.0.1:6343\"'",
        "~ bridge br0: sflow",
    ),
    (
        "bridge",
        "mcast_snooping_enable",
        "set Bridge br0 mcast_snooping_enable=true",
        "~ bridge br0: mcast snooping",
    ),
    ("bridge", "rstp_enable", "set Bridge br0 rstp_enable=true", "~ bridge br0: rstp"),
    ("bridge", "stp_enable", "set Bridge br0 stp_enable=true", "~ bridge br0: stp"),
    ("bridge", "row", "del-br br0", "+ bridge br0: new"),
    ("port", "external_ids", "set Port POD external_ids:ringfence=x", "~ port POD: owner"),
    ("port", "bond_mode", "set Port POD bond_mode=balance-slb", "~ port POD: bond mode"),
    ("port", "cvlans", "set Port POD cvlans=5", "~ port POD: cvlans"),
    ("port", "lacp", "set Port POD lacp=passive", "~ port POD: lacp"),
    ("port", "mac", "set Port POD 'mac=\"02:00:00:00:00:01\"'", "~ port POD: mac"),
    (
        "port",
        "other_config",
        "set Port POD other_config:transient=true",
        "~ port POD: other config",
    ),
    ("port", "tag", "set Port POD tag=7", "~ port POD: tag"),
    ("port", "trunks", "set Port POD trunks=1,2", "~ port POD: trunks"),
    ("port", "vlan_mode", "set Port POD vlan_mode=access", "~ port POD: vlan mode"),
    ("port", "bond_fake_iface", "set Port POD bond_fake_iface=true", "~ port POD: bond fake iface"),
    ("port", "fake_bridge", "set Port POD fake_bridge=true", "~ port POD: fake bridge"),
    ("port", "protected", "set Port POD protected=true", "~ port POD: protected"),
    ("port", "bond_downdelay", "set Port POD bond_downdelay=5", "~ port POD: bond downdelay"),
    ("port", "bond_updelay", "set Port POD bond_updelay=5", "~ port POD: bond updelay"),
    ("port", "row", "del-port POD", "+ port POD: "),
    ("interface", "type", "set Interface vxlan0 type=geneve", "~ port vxlan0: "),
    (
        "interface",
        "options",
        "set Interface vxlan0 options:tos=inherit",
        "~ port vxlan0: option tos",
    ),
    (
        "interface",
        "ofport_request",
        "clear Interface POD ofport_request",
        "~ port POD: requested port number",
    ),
    ("interface", "ofport", "set Interface POD ofport_request=999", "~ port POD: port number 999"),
    (
        "interface",
        "mac",
        "set Interface tun0 'mac=\"02:00:00:00:00:01\"'",
        "~ port tun0: Ethernet address",
    ),
    ("interface", "mtu_request", "set Interface tun0 mtu_request=1300", "~ port tun0: MTU"),
    ("interface", "bfd", "set Interface vxlan0 bfd:enable=true", "~ port vxlan0: bfd"),
    ("interface", "cfm_mpid", "set Interface vxlan0 cfm_mpid=5", "~ port vxlan0: cfm mpid"),
    ("interface", "lldp", "set Interface POD lldp:enable=true", "~ port POD: lldp"),
    (
        "interface",
        "ingress_policing_burst",
        "set Interface POD ingress_policing_burst=10",
        "~ port POD: ingress policing burst",
    ),
    (
        "interface",
        "ingress_policing_kpkts_burst",
        "set Interface POD ingress_policing_kpkts_burst=10",
        "~ port POD: ingress policing kpkts burst",
    ),
    (
        "interface",
        "ingress_policing_kpkts_rate",
        "set Interface POD ingress_policing_kpkts_rate=10",
        "~ port POD: ingress policing kpkts rate",
    ),
    (
        "interface",
        "ingress_policing_rate",
        "set Interface POD ingress_policing_rate=100",
        "~ port POD: ingress policing rate",
    ),
    ("queue discipline", "row", "clear Port LIMITED qos", "+ qos pod shop/web-1: "),
    (
        "queue discipline",
        "other_config",
        "set QoS $(ovs-vsctl get Port LIMITED qos) other_config:max-rate=5",
        "~ qos pod shop/web-1: ",
    ),
];

const OPENFLOW: &[Hand] = &[
    (
        "port of the bridge",
        "receive",
        "mod-port br0 vxlan0 no-receive",
        "~ port vxlan0: no receive",
    ),
    ("port of the bridge", "forward", "mod-port br0 POD no-forward", "~ port POD: no forward"),
    (
        "port of the bridge",
        "packet-in",
        "mod-port br0 tun0 no-packet-in",
        "~ port tun0: no packet-in",
    ),
    ("bridge", "fragment mode", "set-frags br0 drop", "~ bridge br0: fragments drop to nx-match"),
    ("bridge", "flows", "del-flows br0", "+ flows pod shop/web-0: "),
    ("bridge", "groups", "del-groups br0", "+ group "),
    ("bridge", "meters", "del-meters br0", "+ meter "),
];

const LINKS: &[Hand] = &[
    ("veth at the node", "existence", "ip link del POD", "+ link POD: "),
    ("veth at the node", "state", "ip link set POD down", "~ link POD: state"),
    ("veth at the node", "alias", "ip link set POD alias 'ringfence x'", "~ link POD: alias"),
    ("veth at the node", "MTU", "ip link set POD mtu 1400", "~ link POD: MTU"),
    ("veth at the node", "ARP", "ip link set POD arp off", "~ link POD: ARP"),
    ("veth at the node", "multicast", "ip link set POD multicast off", "~ link POD: multicast"),
    (
        "veth at the node",
        "all multicast",
        "ip link set POD allmulticast on",
        "~ link POD: all multicast",
    ),
    (
        "veth at the node",
        "queue length",
        "ip link set POD txqueuelen 5",
        "~ link POD: queue length",
    ),
    ("veth at the node", "master", "BRIDGE ip link set POD master drift0", "~ link POD: master"),
    (
        "veth at the node",
        "address generation",
        "ip link set POD addrgenmode eui64",
        "~ link POD: address generation",
    ),
    ("veth at the node", "checksums", "ethtool -K POD tx on", "~ link POD: checksums"),
    (
        "veth at the node",
        "queue discipline",
        "tc qdisc add dev POD root pfifo limit 1",
        "~ link POD: queue discipline",
    ),
    ("queue discipline", "kernel", "tc qdisc del dev LIMITED root", "~ qos pod shop/web-1: "),
    ("interface of a pod", "state", "IN ip link set eth0 down", "~ link POD: state"),
    (
        "interface of a pod",
        "Ethernet address",
        "IN ip link set eth0 address 02:00:00:00:00:01",
        "~ link POD: Ethernet address",
    ),
    ("interface of a pod", "MTU", "IN ip link set eth0 mtu 1400", "~ link POD: MTU"),
    ("interface of a pod", "ARP", "IN ip link set eth0 arp off", "~ link POD: ARP"),
    (
        "interface of a pod",
        "multicast",
        "IN ip link set eth0 multicast off",
        "~ link POD: multicast",
    ),
    (
        "interface of a pod",
        "all multicast",
        "IN ip link set eth0 allmulticast on",
        "~ link POD: all multicast",
    ),
    (
        "interface of a pod",
        "promiscuous",
        "IN ip link set eth0 promisc on",
        "~ link POD: promiscuous",
    ),
    (
        "interface of a pod",
        "queue length",
        "IN ip link set eth0 txqueuelen 5",
        "~ link POD: queue length",
    ),
    (
        "interface of a pod",
        "master",
        "IN sh -c 'ip link add drift0 type bridge; ip link set eth0 master drift0'",
        "~ link POD: master",
    ),
    ("interface of a pod", "checksums", "IN ethtool -K eth0 tx on", "~ link POD: checksums"),
    (
        "interface of a pod",
        "queue discipline",
        "IN tc qdisc add dev eth0 root pfifo limit 1",
        "~ link POD: queue discipline",
    ),
    (
        "interface of a pod",
        "forwarding",
        "ROUTER sysctl -qw net.ipv4.conf.eth0.forwarding=0",
        "forwarding of router supplier",
    ),
    (
        "interface of a pod",
        "address",
        "IN ip addr add 10.128.0.9/23 dev eth0",
        "~ link POD: address",
    ),
    (
        "interface of a pod",
        "address attributes",
        "IN sh -c 'ip addr change $(ip -br addr show eth0 | grep -o \"10[.][0-9./]*\") dev eth0 \
         valid_lft 3000 preferred_lft 3000'",
        "~ link POD: address",
    ),
    ("interface of a pod", "route", "IN ip route del default", "~ link POD: route"),
    (
        "interface of a pod",
        "route attributes",
        "IN ip route change 10.128.0.0/14 dev eth0 mtu 600",
        "~ link POD: route",
    ),
    ("loopback of a namespace", "state", "IN ip link set lo down", "~ link POD: loopback"),
    ("namespace", "existence", "ip netns del shop.web-0", "+ netns shop.web-0: "),
];

const OTHERS: &[Hand] = &[
    (
        "outside interface of a router",
        "existence",
        "ROUTER ip link del net1",
        "+ link net1 of router supplier: ",
    ),
    (
        "outside interface of a router",
        "Ethernet address",
        "ROUTER ip link set net1 address 02:00:00:00:00:01",
        "~ link net1 of router supplier: recreated",
    ),
    (
        "outside interface of a router",
        "state",
        "ROUTER ip link set net1 down",
        "~ link net1 of router supplier: state",
    ),
    (
        "outside interface of a router",
        "address",
        "ROUTER ip addr add 192.168.12.77/24 dev net1",
        "~ link net1 of router supplier: address",
    ),
    (
        "outside interface of a router",
        "route",
        "ROUTER ip route del default",
        "~ link net1 of router supplier: route",
    ),
    (
        "outside interface of a router",
        "MTU",
        "ROUTER ip link set net1 mtu 900",
        "~ link net1 of router supplier: MTU",
    ),
    (
        "outside interface of a router",
        "ARP",
        "ROUTER ip link set net1 arp off",
        "~ link net1 of router supplier: ARP",
    ),
    (
        "outside interface of a router",
        "multicast",
        "ROUTER ip link set net1 multicast off",
        "~ link net1 of router supplier: multicast",
    ),
    (
        "outside interface of a router",
        "all multicast",
        "ROUTER ip link set net1 allmulticast on",
        "~ link net1 of router supplier: all multicast",
    ),
    (
        "outside interface of a router",
        "promiscuous",
        "ROUTER ip link set net1 promisc on",
        "~ link net1 of router supplier: promiscuous",
    ),
    (
        "outside interface of a router",
        "master",
        "ROUTER sh -c 'ip link add drift0 type bridge; ip link set net1 master drift0'",
        "~ link net1 of router supplier: master",
    ),
    (
        "outside interface of a router",
        "macvlan mode",
        "ROUTER ip link set net1 type macvlan mode bridge",
        "~ link net1 of router supplier: macvlan mode",
    ),
    (
        "outside interface of a router",
        "queue discipline",
        "ROUTER tc qdisc add dev net1 root pfifo limit 1",
        "~ link net1 of router supplier: queue discipline",
    ),
    (
        "outside interface of a router",
        "forwarding",
        "ROUTER sysctl -qw net.ipv4.conf.net1.forwarding=0",
        "~ link net1 of router supplier: forwarding",
    ),
    (
        "router",
        "net.ipv4.ip_forward",
        "ROUTER sysctl -qw net.ipv4.ip_forward=0",
        "~ sysctl net.ipv4.ip_forward of router supplier: 0 to 1",
    ),
    ("tun0", "state", "ip link set tun0 down", "~ link tun0: state"),
    (
        "tun0",
        "Ethernet address",
        "ip link set tun0 address 02:00:00:00:00:02",
        "~ link tun0: Ethernet address",
    ),
    ("tun0", "MTU", "ip link set tun0 mtu 1300", "~ link tun0: MTU"),
    ("tun0", "ARP", "ip link set tun0 arp off", "~ link tun0: ARP"),
    ("tun0", "multicast", "ip link set tun0 multicast off", "~ link tun0: multicast"),
    ("tun0", "all multicast", "ip link set tun0 allmulticast on", "~ link tun0: all multicast"),
    ("tun0", "master", "BRIDGE ip link set tun0 master drift0", "~ link tun0: master"),
    ("tun0", "checksums", "ethtool -K tun0 tx on", "~ link tun0: checksums"),
    (
        "tun0",
        "queue discipline",
        "tc qdisc add dev tun0 root pfifo limit 1",
        "~ link tun0: queue discipline",
    ),
    ("tun0", "forwarding", "sysctl -qw net.ipv4.conf.tun0.forwarding=0", "~ link tun0: forwarding"),
    ("tun0", "address", "ip addr flush dev tun0", "~ link tun0: address"),
    (
        "tun0",
        "address attributes",
        "ip addr change 10.128.0.1/23 dev tun0 valid_lft 3000 preferred_lft 0",
        "~ link tun0: address",
    ),
    ("tun0", "route", "ip route del 10.128.0.0/14 dev tun0", "~ link tun0: route"),
    (
        "tun0",
        "route attributes",
        "ip route change 10.128.0.0/14 dev tun0 src 192.168.12.11",
        "~ link tun0: route",
    ),
    (
        "egress IP",
        "address",
        "ip addr del 192.168.12.100/32 dev lo",
        "+ link lo: address of egress-ip 192.168.12.100",
    ),
    (
        "egress IP",
        "address attributes",
        "ip addr change 192.168.12.100/32 dev lo label lo:ringfence valid_lft 3000 \
         preferred_lft 3000",
        "~ link lo: address of egress-ip 192.168.12.100",
    ),
    (
        "kernel setting",
        "value",
        "sysctl -qw net.ipv4.ip_forward=0",
        "~ sysctl net.ipv4.ip_forward: 0 to 1",
    ),
    (
        "ruleset",
        "tables",
        "nft delete table inet ringfence; nft delete table arp ringfence 2>/dev/null || true",
        "+ ruleset node: not loaded",
    ),
    (
        "ruleset",
        "elements of sets",
        "nft flush set inet ringfence rf_guarded",
        "~ ruleset node: changed by hand",
    ),
    (
        "proxy",
        "files",
        "chmod 0666 /run/ringfence-router-supplier/squid.conf",
        "~ proxy router supplier: mode",
    ),
    (
        // The second would begin beside the first.
        "proxy",
        "process",
        "rm /run/ringfence-router-supplier/pid",
        "~ proxy router supplier: other processes",
    ),
    (
        "proxy",
        "process",
        "kill -KILL $(cat /run/ringfence-router-supplier/pid)",
        "~ proxy router supplier: other processes",
    ),
];

/// A node with all of that, and what the words of the commands stand for.
struct Node {
    live: Live,
    words: BTreeMap<&'static str, String>,
    _directory: tempfile::TempDir,
}

impl Node {
    fn new() -> Self {
        let (directory, live) = live_of(NETWORK);
        live.apply_all();
        let port = |owner: &str| {
            let find = "for port in $(ovs-vsctl list-ports br0); do ovs-vsctl get Port $port \
                        external_ids:ringfence | grep -q OWNER && echo $port; done; true";
            live.on("node-1", &find.replace("OWNER", owner)).trim().to_owned()
        };
        let words = BTreeMap::from([
            ("POD", port("shop/web-0")),
            ("LIMITED", port("shop/web-1")),
            ("IN", "ip netns exec shop.web-0".to_owned()),
            ("ROUTER", "ip netns exec router_supplier".to_owned()),
            ("BRIDGE", "ip link add drift0 type bridge;".to_owned()),
        ]);
        Self { live, words, _directory: directory }
    }

    fn filled(&self, text: &str) -> String {
        self.words.iter().fold(text.to_owned(), |text, (word, means)| text.replace(word, means))
    }

    fn status(&self) -> (String, i32) {
        let output = self.live.lab.ringfence(self.live.node("node-1"), &["status"]).unwrap();
        let said = String::from_utf8(output.stdout).unwrap();
        let errors = String::from_utf8_lossy(&output.stderr).into_owned();
        (said + &errors, output.status.code().unwrap())
    }

    /// Changes something by hand, and has it named and mended. Returns what went wrong.
    fn mends(&self, command: &str, expected: &str) -> Result<(), String> {
        let (command, expected) = (self.filled(command), self.filled(expected));
        let host = self.live.lab.node(self.live.node("node-1")).unwrap();
        let done = host.run(None, &["sh", "-c", &format!("{{ {command}; }} >&2")]);
        done.map_err(|failure| failure.message)?;
        let told = |said: &str| said.lines().any(|line| line.contains(&expected));
        let (said, code) = self.status();
        let mut wrong = Vec::new();
        if code != 2 || !told(&said) {
            wrong.push(format!("status ends with {code} and says {said}"));
        }
        let run = self.live.apply_on("node-1", &[]);
        if run.status != 0 || !told(&run.stdout) {
            wrong.push(format!("apply ends with {}: {}{}", run.status, run.stdout, run.stderr));
        }
        let again = self.live.apply_on("node-1", &["--verbose"]);
        if again.stderr != "node-1: nothing to change\n" {
            wrong.push(format!("again: {}{}", again.stdout, again.stderr));
        }
        self.live.on(
            "node-1",
            "ip link del drift0 2>&1; ip -n shop.web-0 link del drift0 2>&1; \
             ip -n router_supplier link del drift0 2>&1; true",
        );
        if wrong.is_empty() { Ok(()) } else { Err(format!("{command}: {}", wrong.join("\n"))) }
    }

    fn mend_all(&self, prefix: &str, hands: &[Hand]) {
        // In userspace, Open vSwitch sets these of its own tap again by itself, or has none to set.
        let taps = ["Ethernet address", "MTU", "checksums"];
        let hands = hands.iter().filter(|hand| match datapath() {
            Datapath::Netdev => hand.0 != "tun0" || !taps.contains(&hand.1),
            Datapath::System => !["checksums", "datapath_type"].contains(&hand.1),
        });
        let wrong: Vec<String> = hands
            .filter_map(|(_, _, command, expected)| {
                self.mends(&format!("{prefix}{command}"), expected).err()
            })
            .collect();
        assert!(wrong.is_empty(), "{} fail:\n{}", wrong.len(), wrong.join("\n"));
        self.live.prove();
    }
}

#[test]
fn every_attribute_that_apply_owns_is_changed_by_a_test() {
    let key = |owned: &Owned| (owned.object, owned.attribute);
    let all: BTreeSet<_> = owned().iter().map(key).collect();
    assert_eq!(all.len(), owned().len(), "an attribute is owned twice");
    let hands = [DATABASE, OPENFLOW, LINKS, OTHERS].concat();
    let tried: BTreeSet<_> = hands.iter().map(|hand| (hand.0, hand.1)).collect();
    let untried: Vec<_> = all.difference(&tried).collect();
    let unknown: Vec<_> = tried.difference(&all).collect();
    assert!(untried.is_empty(), "nobody changes {untried:?} by hand");
    assert!(unknown.is_empty(), "apply does not own {unknown:?}");
}

#[test]
fn what_is_changed_in_the_database_is_named_and_mended() {
    Node::new().mend_all("ovs-vsctl --timeout=20 ", DATABASE);
}

#[test]
fn what_is_changed_by_openflow_is_named_and_mended() {
    Node::new().mend_all("ovs-ofctl -O OpenFlow15 ", OPENFLOW);
}

#[test]
fn what_is_changed_of_pods_interfaces_is_named_and_mended() {
    Node::new().mend_all("", LINKS);
}

#[test]
fn what_is_changed_of_all_else_is_named_and_mended() {
    Node::new().mend_all("", OTHERS);
}
