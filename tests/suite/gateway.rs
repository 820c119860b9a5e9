//! The gateway bridge on real nodes of the lab: made, left alone, given back, and never half.

use std::net::{Ipv4Addr, SocketAddrV4};

use crate::apply::{changed_example, repairs};
use crate::generations::{NEW, Node, OLD};
use crate::interruptions::whatever_goes_wrong;
use crate::lab::{Live, datapath, example, send};
use crate::support::until;
use ringfence::value::Datapath;

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
    let outside = || node.on("ip -n router_partner -d link show dev net1");
    assert!(outside().contains(" veth "), "{}", outside());
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
    assert!(!node.on("ovs-vsctl list-ports br0").contains("patch"));
    assert!(outside().contains(" macvlan mode private "), "{}", outside());
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
    node.on("ip link set eth0 down && ip link set eth0 name eth9");
    refused("error[RF161]: the uplink `eth0` is not an interface of this node\n");
}

#[test]
fn a_bridge_of_ours_can_be_left_to_others_and_taken_back() {
    let theirs = (
        "      bridge: br-ex\n      rpFilter",
        "      bridge: br-ex\n      disableInit: true\n      rpFilter",
    );
    let node = Node::between(example(EXAMPLE), changed_example(EXAMPLE, &[theirs]));
    node.done(&["apply", OLD]);
    let run = node.done(&["apply", NEW]);
    let told = "~ bridge br-ex: left to whoever configures the host's network\n";
    assert!(run.contains(told), "{run}");
    node.is_in(NEW);
    let has_uplink = |ports: &str| {
        assert_eq!(node.on("ovs-vsctl list-ports br-ex"), ports);
        assert!(node.on("ip -4 -br address show dev br-ex").contains("192.168.12.11/24"));
    };
    has_uplink("eth0\npatch-br0\n");
    node.done(&["rollback"]);
    node.is_in(OLD);
    has_uplink("eth0\npatch-br0\n");
    node.done(&["apply", NEW]);
    node.done(&["teardown"]);
    has_uplink("eth0\n");
}

/// Applies the files of node-2, whose gateway bridge is somebody else's.
fn apply_second(live: &Live, more: &[&str]) -> (i32, String) {
    let second = live.node("node-2");
    let files = live.lab.files(second).display().to_string();
    let output = live.lab.ringfence(second, &[&["apply", &files], more].concat()).unwrap();
    let text = [output.stdout, output.stderr].concat();
    (output.status.code().unwrap(), String::from_utf8(text).unwrap())
}

#[test]
fn a_bridge_of_others_is_only_looked_at() {
    let live = example(EXAMPLE);
    let refused = |message: &str| {
        let (status, text) = apply_second(&live, &[]);
        assert_eq!(status, 1);
        assert!(text.starts_with(message), "{text}");
        assert_eq!(live.on("node-2", "ovs-vsctl --if-exists list Bridge br0"), "");
    };
    live.on("node-2", "ovs-vsctl del-port br-ex eth0");
    refused("error[RF161]: the gateway bridge `br-ex` has no port `eth0`\n");
    live.on("node-2", "ovs-vsctl add-port br-ex eth0 -- add-port br-ex patch-br0");
    refused("error[RF206]: the port `patch-br0` of the bridge `br-ex` is not ringfence's\n");
    live.on("node-2", "ovs-vsctl del-port br-ex patch-br0");
    assert_eq!(apply_second(&live, &[]).0, 0);
    live.on("node-2", "ovs-vsctl del-br br0");
    let other = match datapath() {
        Datapath::Netdev => "system",
        Datapath::System => "netdev",
    };
    live.on(
        "node-2",
        &format!(
            "ip address add 192.168.12.12/24 dev eth0; \
             ovs-vsctl --no-wait set Bridge br-ex datapath_type={other}"
        ),
    );
    refused("error[RF161]: the gateway bridge `br-ex` has another datapath than the node\n");
    live.on("node-2", "ovs-vsctl del-br br-ex");
    refused("error[RF161]: the gateway bridge `br-ex` does not exist\n");
}

#[test]
fn a_bridge_of_others_has_our_patch_as_long_as_it_is_declared() {
    let mut live = example(EXAMPLE);
    let ports = |live: &Live| live.on("node-2", "ovs-vsctl list-ports br-ex");
    let patched = "eth0\npatch-br0\n";
    assert_eq!(apply_second(&live, &[]).0, 0);
    assert_eq!(ports(&live), patched);
    for (harm, told) in [
        ("ovs-vsctl del-port br-ex patch-br0", "+ port patch-br0: of br-ex, to patch-uplink\n"),
        (
            "ovs-vsctl set interface patch-br0 options:peer=nobody",
            "~ port patch-br0: of br-ex, to patch-uplink\n",
        ),
        // The bridge's own port is in a VLAN, and what the patch carries has to be in the same.
        ("ovs-vsctl set port br-ex tag=7", "~ port patch-br0: of br-ex, to patch-uplink\n"),
        ("ovs-vsctl clear port br-ex tag", "~ port patch-br0: of br-ex, to patch-uplink\n"),
        ("ovs-vsctl del-port br0 patch-uplink", "+ port patch-uplink: 3 of node-2\n"),
        (
            "ovs-vsctl set interface patch-uplink options:peer=nobody",
            "~ port patch-uplink: peer of node-2\n",
        ),
    ] {
        live.on("node-2", harm);
        let (status, text) = apply_second(&live, &["--check"]);
        assert_eq!((status, text.contains(told)), (2, true), "{harm}: {text}");
        assert_eq!(apply_second(&live, &[]).0, 0, "{harm}");
        assert_eq!(apply_second(&live, &["--check"]).0, 0, "{harm}");
        let tag = |port| live.on("node-2", &format!("ovs-vsctl get port {port} tag"));
        assert_eq!(tag("patch-br0"), tag("br-ex"), "{harm}");
    }
    let parts = [("      bridge: br-ex\n      disableInit: true\n", "")];
    let (model, sources) = changed_example(EXAMPLE, &parts);
    live.lab.replace(model, &sources).unwrap();
    let (status, text) = apply_second(&live, &[]);
    assert_eq!(status, 0, "{text}");
    assert!(text.contains("- port patch-br0: of br-ex\n"), "{text}");
    assert_eq!(ports(&live), "eth0\n");
    assert!(!live.on("node-2", "ovs-vsctl list-ports br0").contains("patch"));

    let (model, sources) = changed_example(EXAMPLE, &[]);
    live.lab.replace(model, &sources).unwrap();
    assert_eq!(apply_second(&live, &[]).0, 0);
    assert_eq!(ports(&live), patched);
    let teardown = live.lab.ringfence(live.node("node-2"), &["teardown"]).unwrap();
    assert!(teardown.status.success());
    assert_eq!(ports(&live), "eth0\n");
}

/// What somebody does by hand to the way of an egress router, and what apply says about it.
const DRIFT: &[(&str, &[&str])] = &[
    (
        "ip -n router_partner link del net1",
        &[
            "+ link net1 of router partner: rf-530581651ad8 on the bridge",
            "~ port rf-530581651ad8: unplugged of router partner",
        ],
    ),
    (
        "ip -n router_partner link del net1; \
         while ovs-vsctl get interface rf-530581651ad8 ifindex | grep -q '[1-9]'; do sleep 0.05; done; \
         ip link add link br-ex name net1 netns router_partner type macvlan mode private",
        &[
            "! router partner: its outside interface changes: its connections break",
            "~ link net1 of router partner: recreated",
            "~ port rf-530581651ad8: unplugged of router partner",
        ],
    ),
    (
        "ip -n router_partner link set net1 down; ip -n router_partner link set net1 name old; \
         ip -n router_partner link add net1 type bridge",
        &[
            "! router partner: its outside interface changes: its connections break",
            "~ link net1 of router partner: recreated",
            "~ port rf-530581651ad8: unplugged of router partner",
        ],
    ),
    (
        "ip -n router_partner link set net1 address 02:00:00:00:00:02",
        &["~ link net1 of router partner: Ethernet address"],
    ),
    // What the segment takes, the router's interface does.
    ("ip link set eth0 mtu 1600", &["~ link net1 of router partner: MTU"]),
    ("ip link set rf-530581651ad8 down", &["~ link rf-530581651ad8: state of router partner"]),
    ("ovs-vsctl del-port rf-530581651ad8", &["+ port rf-530581651ad8: 48915 of router partner"]),
    ("ovs-vsctl del-port patch-br0", &["+ port patch-br0: of br-ex, to patch-uplink"]),
];

#[test]
fn the_way_of_an_egress_router_is_repaired() {
    let live = example(EXAMPLE);
    live.apply_all();
    repairs(&live, DRIFT);
    live.prove();
}

#[test]
fn what_an_egress_router_sends_has_its_source_and_what_it_gets_is_for_that() {
    let live = example(EXAMPLE);
    live.apply_all();
    live.prove();
    let (own, forged) = ("192.168.12.99", "192.168.12.77");
    let outside = live.lab.outside();
    for source in [own, forged] {
        let rules = format!(
            "add table ip from; add counter ip from s{0}; add chain ip from c {{ type filter hook \
             prerouting priority -300; }}; add rule ip from c ip saddr {source} counter name s{0}",
            source.replace('.', "_")
        );
        outside.run(None, &["nft", &rules]).unwrap();
    }
    let seen = |source: &str| -> u64 {
        let name = format!("s{}", source.replace('.', "_"));
        let text = outside.run(None, &["nft", "list", "counter", "ip", "from", &name]).unwrap();
        text.split("packets ").nth(1).unwrap().split(' ').next().unwrap().parse().unwrap()
    };
    // Whatever becomes of the router's own ruleset, which gives all that leaves its source.
    let within =
        |command: &str| live.on("node-1", &format!("ip netns exec router_partner {command}"));
    within("nft delete table inet ringfence");
    within(&format!("ip address add {forged}/32 dev net1"));
    let node = live.lab.node(live.node("node-1")).unwrap();
    let to = SocketAddrV4::new(Ipv4Addr::new(203, 0, 113, 25), 9);
    let datagram = |source: &str| {
        send(node, Some("router_partner"), to, Some(source.parse().unwrap()));
    };
    datagram(own);
    until("nothing was counted", || seen(own) > 0);
    let before = live.met("node-1", 20, "priority=0");
    datagram(forged);
    let dropped = || live.met("node-1", 20, "priority=0");
    until("the forged source was not dropped", || dropped() > before);
    assert_eq!(seen(forged), 0, "the forged source got out");
    within("arping -q -c 1 -w 60 -I net1 -s 192.168.12.99 192.168.12.1");
    let before = dropped();
    within("arping -q -U -c 1 -I net1 -s 192.168.12.77 192.168.12.77");
    until("the forged ARP was not dropped", || dropped() > before);

    // Somebody on the segment sends a packet for a pod there.
    let address = live.address("partner");
    let arrived = live.received("partner");
    let before = live.met("node-1", 15, "priority=0");
    outside.run(None, &["ip", "route", "add", &format!("{address}/32"), "via", own]).unwrap();
    send(outside, None, SocketAddrV4::new(address, 9), None);
    let by_patch = || live.met("node-1", 15, "priority=0");
    until("the packet did not come by the patch", || by_patch() > before);
    assert_eq!(live.received("partner"), arrived, "the packet for a pod came in");
    // To the router's source the same datagram comes, so that would have been seen.
    send(outside, None, SocketAddrV4::new(own.parse().unwrap(), 9), None);
    until("nothing comes in", || live.received("partner") > arrived);

    assert_eq!(live.apply_all(), [true, false]);
    live.prove();
}

whatever_goes_wrong!(
    whatever_goes_wrong_when_the_bridge_goes_the_uplink_has_the_addresses_or_the_bridge,
    crate::gateway::node()
);

whatever_goes_wrong!(
    whatever_goes_wrong_when_the_bridge_comes_the_uplink_has_the_addresses_or_the_bridge,
    crate::gateway::turned()
);

/// The same the other way round.
fn turned() -> Node {
    let mut node = node();
    node.on(&format!("mv {OLD} /run/other; mv {NEW} {OLD}; mv /run/other {NEW}"));
    std::mem::swap(&mut node.old, &mut node.new);
    node
}
