//! Services in front of egress routers, with real packets: their addresses outlive those of the
//! routers, which change with the node.

use std::collections::BTreeMap;
use std::path::Path;

use crate::lab::{Live, live, load};
use crate::support::ringfence;
use ringfence::lab::Observed;

/// Services of shop in front of a router by name, and of two proxies by their labels. The pod of
/// billing shares the network, that of bank doesn't.
fn world(unavailable: bool) -> String {
    format!(
        "\
version: 1
nodes:
  - name: node-1
    address: 192.168.12.11
    unavailable: {unavailable}
    uplink: {{interface: eth0, subnet: 192.168.12.0/24, gateway: 192.168.12.1}}
  - name: node-2
    address: 192.168.12.12
    uplink: {{interface: eth0, subnet: 192.168.12.0/24, gateway: 192.168.12.1}}
  - name: node-3
    address: 192.168.12.13
    uplink: {{interface: eth0, subnet: 192.168.12.0/24, gateway: 192.168.12.1}}
projects:
  - name: shop
    pods: [{{name: web, node: node-3}}]
    services:
      - name: supplier
        egressRouter: supplier
        ports:
          - {{name: https, port: 443, targetPort: 8443}}
          - {{name: log, protocol: UDP, port: 514}}
      - name: signals
        egressRouter: signals
        ports: [{{protocol: SCTP, port: 3868}}]
      - name: proxy
        selector: {{role: browse}}
        ports: [{{port: 3128, targetPort: 8080}}]
      - name: partner
        selector: {{role: partner}}
        ports: [{{port: 443}}]
  - name: billing
    pods: [{{name: api, node: node-2}}]
  - name: bank
    pods: [{{name: core, node: node-3}}]
joins:
  - {{to: shop, projects: [billing]}}
egressRouters:
  - name: supplier
    project: shop
    source: 192.168.12.99
    gateway: 192.168.12.1
    nodes: [node-1, node-2]
    destinations:
      - {{port: 8443, to: 203.0.113.25, toPort: 443}}
      - {{port: 514, protocol: udp, to: 203.0.113.26}}
  - name: signals
    project: shop
    source: 192.168.12.96
    gateway: 192.168.12.1
    node: node-2
    destinations: [{{port: 3868, protocol: sctp, to: 203.0.113.27}}]
  - name: browse
    project: shop
    labels: {{role: browse}}
    mode: http-proxy
    source: 192.168.12.98
    gateway: 192.168.12.1
    nodes: [node-1, node-2]
    dnsServers: [192.0.2.53]
    rules: [{{allow: \"*.example.com\"}}]
  - name: partner
    project: shop
    labels: {{role: partner}}
    mode: dns-proxy
    source: 192.168.12.97
    gateway: 192.168.12.1
    nodes: [node-2]
    dnsServers: [192.0.2.53]
    destinations: [{{port: 443, to: 203.0.113.28, toPort: 8443}}]
"
    )
}

fn write(directory: &Path, unavailable: bool) {
    std::fs::write(directory.join("network.yaml"), world(unavailable)).unwrap();
    let run = ringfence(directory, &["lock"]);
    assert_eq!(run.status, 0, "{}", run.stderr);
}

/// Proves the network, and that the services lead outside for whoever may use them.
fn prove(live: &Live) {
    let summary = live.prove();
    let found: BTreeMap<&str, &Observed> =
        summary.results.iter().map(|(probe, seen)| (probe.title.as_str(), seen)).collect();
    for client in ["shop/web", "billing/api", "node-1"] {
        for (service, source, at) in [
            ("supplier:443/tcp", "192.168.12.99", "203.0.113.25:443"),
            ("supplier:514/udp", "192.168.12.99", "203.0.113.26:514"),
            ("partner:443/tcp", "192.168.12.97", "203.0.113.28:8443"),
        ] {
            let title = format!("{client} to service shop/{service}");
            let expected = Observed::Answer { seen_as: source.to_owned(), at: at.to_owned() };
            assert_eq!(*found[title.as_str()], expected, "{title}");
        }
        let title = format!("{client} to service shop/proxy:3128/tcp");
        let Observed::Answer { seen_as, at } = found[title.as_str()] else { panic!("{title}") };
        assert!(seen_as == "192.168.12.98" && at.ends_with(":80"), "{title}: {seen_as} {at}");
    }
    // Pods have shown it without the service, and conntrack in userspace takes both for one.
    let sctp = Observed::Answer {
        seen_as: "192.168.12.96".to_owned(),
        at: "203.0.113.27:3868".to_owned(),
    };
    assert_eq!(*found["node-1 to service shop/signals:3868/sctp"], sctp);
    for service in ["supplier:443/tcp", "partner:443/tcp", "proxy:3128/tcp"] {
        let title = format!("bank/core to service shop/{service}");
        assert_eq!(*found[title.as_str()], Observed::Silence, "{title}");
    }
    assert_eq!(*found["shop/web to service shop/supplier:40007/tcp"], Observed::Refusal);
}

#[test]
fn the_address_of_a_service_stays_when_its_router_moves() {
    let directory = tempfile::tempdir().unwrap();
    write(directory.path(), false);
    let mut live = live(directory.path());
    live.apply_all();
    assert_eq!(live.apply_all(), [false; 3]);
    prove(&live);
    let addresses = |live: &Live| {
        let services = live.lab.model().services();
        services.map(|(_, address)| address).collect::<Vec<_>>()
    };
    let (services, router) = (addresses(&live), live.address("supplier"));

    write(directory.path(), true);
    let (model, sources) = load(directory.path());
    live.lab.replace(model, &sources).unwrap();
    assert_eq!(live.apply_all(), [true; 3]);
    assert_eq!(live.apply_all(), [false; 3]);
    assert_eq!(addresses(&live), services);
    assert_ne!(live.address("supplier"), router);
    assert!(live.on("node-2", "ip netns").contains("router_supplier"));
    prove(&live);
}
