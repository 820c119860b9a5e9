//! Node ports stay where they are, whatever else changes. The lab shows who reaches them.

use std::collections::BTreeMap;
use std::fs;

use crate::apply::changed_example;
use crate::lab::example;
use crate::support::ringfence;

/// The node ports in the lock file that a desired state with these services gets.
fn locked(directory: &std::path::Path, services: &str) -> BTreeMap<String, String> {
    let text = format!(
        "version: 1\nnodes: [{{name: node-1, address: 192.168.12.11}}]\nprojects:\n  - name: shop\n    \
         pods: [{{name: web-0, node: node-1, labels: {{app: web}}}}]\n    services:\n{services}"
    );
    fs::write(directory.join("network.yaml"), text).unwrap();
    let run = ringfence(directory, &["lock", "network.yaml"]);
    assert_eq!(run.status, 0, "{}", run.stderr);
    let lock = fs::read_to_string(directory.join("ringfence.lock")).unwrap();
    let ports = lock.split("nodePorts:\n").nth(1).unwrap_or_default().lines();
    ports
        .map(|line| line.trim().split_once(": ").unwrap())
        .map(|(key, port)| (key.to_owned(), port.to_owned()))
        .collect()
}

#[test]
fn allocated_node_ports_move_for_nobody_but_who_fixes_them() {
    let service = |name: &str, ports: &str| {
        format!(
            "      - {{name: {name}, type: NodePort, selector: {{app: web}}, ports: [{ports}]}}\n"
        )
    };
    let directory = tempfile::tempdir().unwrap();
    let web = service("web", "{port: 80}");
    let first = locked(directory.path(), &web);
    let port = first["shop/web/80/tcp"].clone();
    // Others come before and behind it, in the order of names.
    let all = [service("a", "{port: 80}"), web.clone(), service("z", "{port: 80}")].concat();
    let more = locked(directory.path(), &all);
    assert_eq!((more.len(), &more["shop/web/80/tcp"]), (3, &port));
    // Without the lock file, names alone decide.
    fs::remove_file(directory.path().join("ringfence.lock")).unwrap();
    assert_eq!(locked(directory.path(), &all), more);
    // The same number of another protocol is another port.
    let udp = service("dns", &format!("{{port: 53, protocol: UDP, nodePort: {port}}}"));
    assert_eq!(locked(directory.path(), &[web.clone(), udp].concat())["shop/web/80/tcp"], port);
    // Who fixes a number has it.
    let thief = service("thief", &format!("{{port: 80, nodePort: {port}}}"));
    let after = locked(directory.path(), &[web, thief].concat());
    assert_eq!(after["shop/thief/80/tcp"], port);
    assert_ne!(after["shop/web/80/tcp"], port);
    // Who is gone leaves nothing behind.
    assert_eq!(locked(directory.path(), "      []\n"), BTreeMap::new());
}

#[test]
fn a_service_that_the_cluster_keeps_to_itself_again_is_closed() {
    let mut live = example("node-ports");
    live.apply_all();
    let pairs = [
        ("type: NodePort\n", "type: ClusterIP\n"),
        ("type: LoadBalancer\n", "type: ClusterIP\n"),
        (", nodePort: 30080", ""),
        (", nodePort: 30443", ""),
        (", nodePort: 30090", ""),
        (", nodePort: 30700", ""),
    ];
    let (model, sources) = changed_example("node-ports", &pairs);
    live.lab.replace(model, &sources).unwrap();
    live.apply_all();
    assert!(!live.on("node-1", "nft list table inet ringfence").contains("dnat"));
    let flows = live.on("node-1", "ovs-ofctl -O OpenFlow14 dump-flows br0 table=55");
    assert!(!flows.contains("table=55"), "{flows}");
    assert!(live.apply_all().iter().all(|changed| !changed));
    live.prove();
}
