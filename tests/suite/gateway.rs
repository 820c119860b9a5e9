//! The gateway bridge on real nodes of the lab: made, left alone, given back, and never half.

use crate::apply::changed_example;
use crate::generations::{NEW, Node, OLD};
use crate::interruptions::drive;
use crate::lab::example;

const EXAMPLE: &str = "gateway-bridge";

/// A node whose old generation has a gateway bridge, and whose new one has none.
fn node() -> Node {
    let parts = [
        ("      mtu: 1500 # what is declared is checked at once; apply checks the real one\n", ""),
        ("      bridge: br-ex\n      rpFilter: loose\n", ""),
    ];
    Node::between(example(EXAMPLE), changed_example(EXAMPLE, &parts))
}

#[test]
fn the_bridge_comes_into_the_place_of_the_uplink_and_leaves_it_again() {
    let node = node();
    // A second address and a route with a metric move as well.
    node.on("ip address add 192.168.12.50/32 dev eth0; \
             ip route add 198.18.0.0/15 via 192.168.12.1 dev eth0 metric 70; \
             ip route add 100.64.0.0/16 dev eth0");
    let check = node.run(&["apply", OLD, "--check"]);
    assert_eq!(check.status, 2);
    assert!(
        check.stdout.contains("+ bridge br-ex: takes the uplink eth0 as port\n"),
        "{}",
        check.stdout
    );
    assert!(
        check.stdout.contains("~ link br-ex: 192.168.12.11/24 and 1 more move here from eth0\n"),
        "{}",
        check.stdout
    );
    node.done(&["apply", OLD]);
    node.is_in(OLD);
    let routes = |node: &Node, dev: &str| {
        node.on(&format!(
            "ip -4 route show dev {dev}; ip -4 -br address show dev {dev} | tr -s ' ' | cut -d' ' -f3-"
        ))
    };
    let all = "default via 192.168.12.1 \n100.64.0.0/16 scope link \n192.168.12.0/24 proto kernel \
               scope link src 192.168.12.11 \n198.18.0.0/15 via 192.168.12.1 metric 70 \n\
               192.168.12.11/24 192.168.12.50/32 \n";
    assert_eq!(routes(&node, "br-ex"), all);
    assert_eq!(routes(&node, "eth0").trim(), "");
    assert_eq!(node.on("ovs-vsctl port-to-br eth0"), "br-ex\n");
    assert_eq!(node.on("cat /proc/sys/net/ipv4/conf/br-ex/rp_filter"), "2\n");
    let mac = |dev| node.on(&format!("ip -br link show dev {dev} | tr -s ' ' | cut -d' ' -f3"));
    assert_eq!(mac("br-ex"), mac("eth0"));
    // Somebody puts an address onto the uplink, as a DHCP client does.
    node.on("ip address add 192.168.12.11/24 dev eth0");
    assert_eq!(node.run(&["status"]).status, 2);
    node.done(&["apply", OLD]);
    assert_eq!(routes(&node, "br-ex"), all);
    node.done(&["apply", NEW]);
    node.is_in(NEW);
    assert_eq!(routes(&node, "eth0"), all);
    assert!(!node.on("ovs-vsctl list-br").contains("br-ex"));
    // And with all the rest.
    node.done(&["apply", OLD]);
    node.done(&["teardown"]);
    assert_eq!(routes(&node, "eth0"), all);
    assert_eq!(node.on("ovs-vsctl list-br"), "br-theirs\n");
}

#[test]
fn an_uplink_that_is_not_as_declared_stops_apply_before_anything_changes() {
    let node = node();
    let refused = |message: &str| {
        let before = node.on("ip -4 address; ip route; ovs-vsctl show; nft list ruleset");
        let run = node.run(&["apply", OLD]);
        assert_eq!(run.status, 1);
        assert!(run.stderr.starts_with(message), "{}", run.stderr);
        let after = node.on("ip -4 address; ip route; ovs-vsctl show; nft list ruleset");
        assert_eq!(after, before);
    };
    node.on("ip link set eth0 mtu 1499");
    refused(
        "error[RF160]: the uplink `eth0` has an MTU of 1499, but 1450 for pods and VXLAN take 1500\n",
    );
    node.on("ip link set eth0 mtu 1500");
    let bridge = "set bridge br-ex datapath_type=netdev";
    node.on(&format!("ovs-vsctl add-br br-ex -- {bridge}"));
    refused("error[RF161]: the bridge `br-ex` exists and is not ringfence's for `eth0`\n");
    node.on("ovs-vsctl del-br br-ex; ovs-vsctl add-port br-theirs eth0");
    refused("error[RF161]: the uplink `eth0` is a port of the bridge `br-theirs`\n");
    node.on("ovs-vsctl del-port br-theirs eth0; ip link add br-ex type bridge");
    refused("error[RF161]: the interface `br-ex` exists and is no bridge of Open vSwitch\n");
    node.on("ip link del br-ex");
    node.on("ip link set eth0 name eth9");
    refused("error[RF161]: the uplink `eth0` is not an interface of this node\n");
}

#[test]
fn a_bridge_of_others_is_only_looked_at() {
    let live = example(EXAMPLE);
    let second = live.node("node-2");
    let files = live.lab.files(second).display().to_string();
    let apply = || live.lab.ringfence(second, &["apply", &files]).unwrap();
    let refused = |message: &str| {
        let output = apply();
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert!(stderr.starts_with(message), "{stderr}");
        assert_eq!(live.on("node-2", "ovs-vsctl --if-exists list Bridge br0"), "");
    };
    live.on("node-2", "ovs-vsctl del-port br-ex eth0");
    refused("error[RF161]: the gateway bridge `br-ex` has no port `eth0`\n");
    live.on("node-2", "ovs-vsctl add-port br-ex eth0");
    assert!(apply().status.success());
    live.on("node-2", "ovs-vsctl del-br br0");
    live.on("node-2", "ip address add 192.168.12.12/24 dev eth0; ovs-vsctl del-br br-ex");
    refused("error[RF161]: the gateway bridge `br-ex` does not exist\n");
}

#[test]
fn whatever_goes_wrong_when_the_bridge_goes_the_uplink_has_the_addresses_or_the_bridge() {
    println!("{}", drive(&node()));
}

#[test]
fn whatever_goes_wrong_when_the_bridge_comes_the_uplink_has_the_addresses_or_the_bridge() {
    let mut node = node();
    node.on(&format!("mv {OLD} /run/other; mv {NEW} {OLD}; mv /run/other {NEW}"));
    std::mem::swap(&mut node.old, &mut node.new);
    println!("{}", drive(&node));
}
