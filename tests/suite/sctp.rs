//! SCTP in the lab: real packets, whether or not the kernel has SCTP itself.

use std::collections::BTreeMap;

use crate::lab::live;
use ringfence::lab::{Location, Observed};
use ringfence::value::Protocol;

/// Services with pods, without, and two with the same pods; rules; routers with and without a
/// fallback.
const WORLD: &str = "\
version: 1
cluster: {serviceNetwork: 172.30.0.0/16}
nodes:
  - name: node-1
    address: 192.168.12.11
    uplink: {interface: eth0, subnet: 192.168.12.0/24, gateway: 192.168.12.1}
    nodePortAddresses: [192.168.12.11, 10.20.0.11]
  - name: node-2
    address: 192.168.12.12
    uplink: {interface: eth0, subnet: 192.168.12.0/24, gateway: 192.168.12.1}
projects:
  - name: shop
    pods:
      - {name: a-0, node: node-1, labels: {app: a}}
      - {name: a-1, node: node-2, labels: {app: a}}
      - {name: b-0, node: node-1, labels: {app: b}}
      - {name: c-0, node: node-2, labels: {app: c}}
    services:
      - {name: idle, selector: {app: none}, ports: [{port: 7000, protocol: SCTP}]}
      - {name: one, selector: {app: a}, ports: [{port: 7000, protocol: SCTP}]}
      - name: two
        selector: {app: a}
        ports: [{name: x, port: 7000, protocol: SCTP}, {name: y, port: 7001, protocol: SCTP}]
      - name: out
        type: NodePort
        selector: {app: b}
        ports: [{port: 30700, nodePort: 30700, protocol: SCTP}]
      - name: out-idle
        type: NodePort
        selector: {app: none}
        ports: [{port: 30701, nodePort: 30701, protocol: SCTP}]
      - name: other
        type: NodePort
        selector: {app: c}
        ports: [{port: 7005, nodePort: 30705, protocol: SCTP}]
  - name: bank
    pods:
      - {name: core-0, node: node-1}
      - {name: core-1, node: node-2}
egressPolicies:
  - project: shop
    rules:
      - allow: {cidr: 203.0.113.0/24, ports: [{protocol: sctp, port: 2905, endPort: 2910}]}
      - deny: {cidr: 203.0.113.0/24, ports: [{protocol: sctp}]}
egressRouters:
  - name: listed
    project: shop
    source: 192.168.12.98
    gateway: 192.168.12.1
    node: node-2
    destinations:
      - {port: 3868, protocol: sctp, to: 203.0.113.25}
      - {port: 2905, protocol: sctp, to: 203.0.113.26, toPort: 2906}
  - name: fallback
    project: bank
    source: 192.168.12.97
    gateway: 192.168.12.1
    node: node-1
    destinations: [{port: 2905, protocol: sctp, to: 203.0.113.26}]
    fallback: 203.0.113.27
";

#[test]
fn associations_are_made_refused_and_dropped_as_the_intent_says() {
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("network.yaml"), WORLD).unwrap();
    let live = live(directory.path());
    live.apply_all();
    let summary = live.prove();
    // By what a probe is to, and from where: how many were answered, refused and dropped.
    let mut counts: BTreeMap<&str, [usize; 3]> = BTreeMap::new();
    for (probe, seen) in &summary.results {
        if probe.protocol != Protocol::Sctp {
            continue;
        }
        let title = &probe.title;
        let to =
            [" to router ", " to service ", ", shop/"].into_iter().find(|to| title.contains(to));
        let kind = match (to, probe.from) {
            (Some(" to router "), _) => "router",
            (Some(" to service "), Location::Workload(_)) => "service, from a pod",
            (Some(" to service "), _) => "service, from a node",
            (Some(_), Location::Workload(_)) => "node port, from a pod",
            (Some(_), _) => "node port, from elsewhere",
            (None, _) => "rule",
        };
        let outcome = match seen {
            Observed::Answer { .. } => 0,
            Observed::Refusal => 1,
            _ => 2,
        };
        counts.entry(kind).or_default()[outcome] += 1;
    }
    let expected = BTreeMap::from([
        ("rule", [2, 0, 2]),
        ("router", [6, 4, 10]),
        // `two` is left out: no client can have an association with a pod by it beside that by `one`.
        ("service, from a pod", [4, 4, 14]),
        ("service, from a node", [6, 0, 0]),
        // Conntrack can't change 30705 to 7005 for pods. The kernel can for all others.
        ("node port, from a pod", [2, 4, 24]),
        ("node port, from elsewhere", [16, 8, 0]),
    ]);
    assert_eq!(counts, expected);
}
