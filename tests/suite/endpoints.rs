//! Services for hosts outside, with real packets.

use std::collections::BTreeMap;

use crate::lab::live;
use ringfence::lab::Observed;

/// The pod of bank leaves by the other node. `pair` has two hosts, and keeps clients at one.
const WORLD: &str = "\
version: 1
nodes:
  - name: node-1
    address: 192.168.12.11
    uplink: {interface: eth0, subnet: 192.168.12.0/24, gateway: 192.168.12.1}
  - name: node-2
    address: 192.168.12.12
    uplink: {interface: eth0, subnet: 192.168.12.0/24, gateway: 192.168.12.1}
    egressCIDRs: [192.168.12.128/27]
projects:
  - name: bank
    pods: [{name: core, node: node-1}]
    services:
      - name: one
        clusterIP: 172.30.0.10
        endpoints: [203.0.113.40]
        ports:
          - {name: https, port: 443, targetPort: 8443}
          - {name: names, protocol: UDP, port: 5353}
          - {name: diameter, protocol: SCTP, port: 3868}
      - name: pair
        clusterIP: 172.30.0.11
        endpoints: [203.0.113.50, 203.0.113.51]
        sessionAffinity: ClientIP
        ports: [{port: 80, targetPort: 8080}]
  - name: shop
    pods: [{name: web, node: node-1}]
egressIPs:
  - {project: bank, addresses: [192.168.12.130]}
egressPolicies:
  - project: bank
    rules:
      - allow: {cidr: 203.0.113.0/24}
      - deny: {cidr: 0.0.0.0/0}
";

#[test]
fn hosts_outside_see_clients_of_a_service_as_if_they_came_directly() {
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("network.yaml"), WORLD).unwrap();
    let live = live(directory.path());
    live.apply_all();
    assert_eq!(live.apply_all(), [false, false]);
    let summary = live.prove();
    let found: BTreeMap<&str, &Observed> =
        summary.results.iter().map(|(probe, seen)| (probe.title.as_str(), seen)).collect();
    let answer = |seen_as: &str, at: &str| Observed::Answer {
        seen_as: seen_as.to_owned(),
        at: at.to_owned(),
    };
    for (client, seen_as) in
        [("bank/core", "192.168.12.130"), ("node-1", "192.168.12.11"), ("node-2", "192.168.12.12")]
    {
        for (port, at) in [("443/tcp", 8443), ("5353/udp", 5353), ("3868/sctp", 3868)] {
            let title = format!("{client} to service bank/one:{port}");
            let expected = answer(seen_as, &format!("203.0.113.40:{at}"));
            assert_eq!(*found[title.as_str()], expected, "{title}");
        }
    }
    assert_eq!(*found["shop/web to service bank/one:443/tcp"], Observed::Silence);
    assert_eq!(*found["bank/core to service bank/one:40007/tcp"], Observed::Refusal);

    // Whom a client gets, it gets again.
    let at = |summary: &ringfence::lab::Summary, client: &str| {
        let title = format!("{client} to service bank/pair:80/tcp");
        let mut results = summary.results.iter();
        let (_, seen) = results.find(|(probe, _)| probe.title == title).unwrap();
        let Observed::Answer { at, .. } = seen else { panic!("{title}: {seen:?}") };
        assert!(["203.0.113.50:8080", "203.0.113.51:8080"].contains(&at.as_str()), "{at}");
        at.clone()
    };
    let clients = ["bank/core", "node-1", "node-2"];
    let first = clients.map(|client| at(&summary, client));
    for _ in 0..3 {
        let again = live.prove();
        assert_eq!(clients.map(|client| at(&again, client)), first);
    }
}
