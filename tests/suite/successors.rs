//! What one generation leaves to the next: a source under another name, an interface without its
//! limit.

use std::fs;

use crate::generations::{NEW, Node, OLD};
use crate::lab::{live, load};

/// A virtual machine's tap with a limit, and an egress router.
const NETWORK: &str = "\
version: 1
nodes:
  - name: node-1
    address: 192.168.12.11
    uplink: {interface: eth0, subnet: 192.168.12.0/24, gateway: 192.168.12.1}
projects:
  - name: shop
    pods:
      - {name: web-0, node: node-1}
      - {name: vm-0, node: node-1, interface: tap7, bandwidth: {ingress: 8M}}
egressRouters:
  - name: supplier
    project: shop
    source: 192.168.12.99
    gateway: 192.168.12.1
    destination: 203.0.113.25
    node: node-1
";

/// The node of that network, on the way to one where the router has another name and the tap
/// belongs to nobody.
fn node() -> Node {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("network.yaml");
    fs::write(&path, NETWORK).unwrap();
    let before = live(directory.path());
    let vm = "      - {name: vm-0, node: node-1, interface: tap7, bandwidth: {ingress: 8M}}\n";
    fs::write(&path, NETWORK.replace("supplier", "partner").replace(vm, "")).unwrap();
    Node::between(before, load(directory.path()))
}

#[test]
fn a_router_takes_the_source_of_one_that_goes() {
    // The Ethernet address of its outside interface comes from the source.
    let node = node();
    for directory in [OLD, NEW, OLD] {
        node.done(&["apply", directory]);
        node.is_in(directory);
    }
}

#[test]
fn an_interface_that_stays_loses_its_limit() {
    let node = node();
    let limited = || node.on("tc qdisc show dev tap7").contains("htb");
    for ends in [&["apply", NEW][..], &["teardown"]] {
        node.done(&["apply", OLD]);
        assert!(limited());
        node.done(ends);
        assert!(!limited(), "after {ends:?}");
    }
}

#[test]
fn the_route_of_an_address_is_made_again() {
    let node = node();
    node.done(&["apply", OLD]);
    for (command, shown) in
        [("ip", "~ link tun0: route\n"), ("ip -n shop.web-0", ": route of pod shop/web-0\n")]
    {
        let kernel = format!("{command} route show proto kernel scope link | grep ^10.128");
        let before = node.on(&kernel);
        node.on(&format!("{command} route del {}", before.split(' ').next().unwrap()));
        let status = node.run(&["status"]);
        assert_eq!(status.status, 2, "{}", status.stdout);
        assert!(status.stdout.contains(shown), "{}", status.stdout);
        node.done(&["apply", OLD]);
        assert_eq!(node.on(&kernel), before);
        node.is_in(OLD);
    }
}
