//! What the nodes' own processes take, and what is closed where the node's ruleset is gone.

use std::collections::BTreeMap;
use std::fs;
use std::net::SocketAddrV4;

use crate::lab::{Live, datapath, example, live, load};
use crate::ovs::first_node;
use crate::support::root;
use ringfence::lab::{Expected, Location, Observed, Probe};
use ringfence::value::{Datapath, Protocol};

/// `away` leaves by the other node; `strict` may reach nothing outside.
const WORLD: &str = "\
version: 1
cluster:
  nodeAccess: [{port: 9100}, {port: 8000, endPort: 8010}, {protocol: udp, port: 1230}]
nodes:
  - name: node-1
    address: 192.168.12.11
    podSubnet: 10.128.0.0/23
    uplink: {interface: eth0, subnet: 192.168.12.0/24, gateway: 192.168.12.1}
  - name: node-2
    address: 192.168.12.12
    podSubnet: 10.128.2.0/23
    uplink: {interface: eth0, subnet: 192.168.12.0/24, gateway: 192.168.12.1}
    egressCIDRs: [192.168.12.128/27]
projects:
  - name: away
    pods: [{name: a0, node: node-1}]
  - name: free
    pods: [{name: f0, node: node-1}, {name: f1, node: node-2}]
  - name: strict
    pods: [{name: s0, node: node-1}]
egressIPs:
  - {project: away, addresses: [192.168.12.130]}
egressPolicies:
  - {project: strict, rules: [{deny: {cidr: 0.0.0.0/0}}]}
";

fn probe(live: &Live, from: &str, to: &str, protocol: Protocol, arrives: bool) -> Probe {
    let nodes = live.lab.model().intent().nodes();
    let node = nodes.map(|(id, node)| (node.name.to_string(), id)).find(|(name, _)| name == from);
    let place = match node {
        Some((_, id)) => Location::Node(id),
        None if from == "outside" => Location::Outside,
        None => Location::Workload(live.workload(from)),
    };
    let to: SocketAddrV4 = to.parse().unwrap();
    let want =
        if arrives { Expected::Answer { seen_as: None, at: None } } else { Expected::Silence };
    let title = format!("{from} to {to}/{protocol}");
    Probe { title, from: place, to, protocol, fetch: None, want, because: String::new() }
}

#[test]
fn nodes_take_from_pods_what_is_declared() {
    let directory = tempfile::tempdir().unwrap();
    fs::write(directory.path().join("network.yaml"), WORLD).unwrap();
    let live = live(directory.path());
    live.apply_all();
    assert_eq!(live.apply_all(), [false, false]);
    let summary = live.prove();
    let own: BTreeMap<&str, bool> = summary
        .results
        .iter()
        .filter(|(probe, _)| probe.title.contains(" itself, "))
        .map(|(probe, seen)| (probe.title.as_str(), matches!(seen, Observed::Answer { .. })))
        .collect();
    for (title, answered) in [
        ("away/a0 to node-1 itself, 10.128.0.1:53/udp", true),
        ("away/a0 to node-1 itself, 10.128.0.1:53/tcp", true),
        ("away/a0 to node-2 itself, 10.128.2.1:53/udp", false),
        ("away/a0 to node-1 itself, 10.128.0.1:1230/udp", true),
        ("away/a0 to node-1 itself, 10.128.0.1:8080/tcp", false),
        ("away/a0 to node-1 itself, 192.168.12.11:8080/tcp", false),
        ("away/a0 to node-1 itself, 192.168.12.11:9100/tcp", true),
    ] {
        assert_eq!(own.get(title), Some(&answered), "{title}: {own:?}");
    }

    let pod = format!("{}:8080", live.address("free/f1"));
    let probes = [
        // No egress policy is about the gateway, and none opens more of it.
        ("strict/s0", "10.128.0.1:8080", false),
        ("strict/s0", "10.128.0.1:9100", true),
        ("strict/s0", "10.128.0.1:8000", true),
        ("strict/s0", "10.128.2.1:9100", false),
        ("strict/s0", "192.168.12.11:9100", false),
        ("free/f0", "192.168.12.11:8080", false),
        // Another node's own address is outside.
        ("free/f0", "192.168.12.12:8080", true),
        // What leaves by another node comes to it by its bridge.
        ("away/a0", "192.168.12.12:8080", false),
        ("away/a0", "192.168.12.12:9100", true),
        // An egress IP is nobody's for what pods didn't begin.
        ("outside", "192.168.12.130:8080", false),
        ("free/f0", "192.168.12.130:8080", false),
        ("node-1", "192.168.12.130:8080", false),
        ("outside", "192.168.12.12:8080", true),
        // Nodes reach pods and get their answers, and no other node by the tunnel.
        ("node-1", &pod, true),
        ("node-1", "10.128.2.1:8080", false),
    ];
    let probes = probes.map(|(from, to, ok)| probe(&live, from, to, Protocol::Tcp, ok));
    let summary = live.lab.probe(probes.to_vec()).unwrap();
    assert_eq!(summary.counts().1, 0, "{}", summary.table());
}

#[test]
fn without_the_ruleset_the_segment_reaches_no_pod() {
    let live = example("quickstart");
    live.apply_all();
    live.prove();
    let pod = live.address("shop/web-0");
    live.lab
        .outside()
        .run(None, &["ip", "route", "add", "10.128.0.0/23", "via", "192.168.12.11"])
        .unwrap();
    let to = format!("{pod}:8080");
    let try_it = |arrives| {
        let probe = probe(&live, "outside", &to, Protocol::Tcp, arrives);
        let summary = live.lab.probe(vec![probe]).unwrap();
        assert_eq!(summary.counts().1, 0, "{}", summary.table());
    };
    try_it(false);
    live.on("node-1", "nft flush ruleset");
    // Marks don't reach a userspace datapath.
    if datapath() == Datapath::System {
        try_it(false);
        // That it is the mark which is missing.
        let flow = format!("table=25,priority=101,ip,nw_dst={pod},actions=goto_table:30");
        live.on("node-1", &format!("ovs-ofctl -O OpenFlow14 add-flow br0 {flow}"));
        try_it(true);
    }
    let node = live.node("node-1");
    assert!(live.lab.apply(node).unwrap().changed, "a ruleset that is gone is drift");
    assert!(!live.lab.apply(node).unwrap().changed);
    try_it(false);
    live.prove();
}

#[test]
fn the_bridge_takes_from_the_host_what_its_ruleset_has_marked() {
    let (model, sources) = load(&root().join("examples/quickstart"));
    let (node, files) = first_node(&model, &sources);
    let live = example("quickstart");
    live.apply_all();
    let host = live.lab.node(node).unwrap();
    let file = live.lab.files(node).join("kernel.ofctl");
    fs::write(&file, &files["flows.ofctl"]).unwrap();
    let load = "ovs-ofctl -O OpenFlow14 --bundle replace-flows br0";
    host.run(None, &["sh", "-c", &format!("{load} {}", file.display())]).unwrap();
    let pod = live.address("shop/web-0");
    let port = live.lab.model().endpoint(live.workload("shop/web-0")).port.get();
    let verdict = |source: &str, mark: &str| {
        let packet = format!("in_port=2,tcp,nw_src={source},nw_dst={pod},tcp_dst=80{mark}");
        let text = host.run(None, &["ovs-appctl", "ofproto/trace", "br0", &packet]).unwrap();
        text.contains(&format!("-> output port is {port}"))
    };
    let mark = ",pkt_mark=0x72666e66";
    assert!(!verdict("203.0.113.9", ""), "without a mark");
    assert!(!verdict("203.0.113.9", ",pkt_mark=0x1"), "with somebody else's");
    assert!(verdict("203.0.113.9", mark));
    assert!(verdict("10.128.0.1", ""), "the node itself");
    assert!(!verdict("10.128.0.9", mark), "a pod's address");
}
