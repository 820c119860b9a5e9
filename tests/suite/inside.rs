//! What a project writes leads to no node, and so to nobody's node ports, whatever names say.

use std::collections::BTreeMap;
use std::fs;

use crate::lab::{Live, live};
use crate::support::ringfence;
use ringfence::lab::Location;

/// `bank` serves a node port; `shop` has proxies, on another node.
const WORLD: &str = "\
version: 1
nodes:
  - name: node-1
    address: 192.168.12.11
    uplink: {interface: eth0, subnet: 192.168.12.0/24, gateway: 192.168.12.1}
    egressCIDRs: [192.168.12.128/27]
  - name: node-2
    address: 192.168.12.12
    uplink: {interface: eth0, subnet: 192.168.12.0/24, gateway: 192.168.12.1}
projects:
  - name: bank
    pods: [{name: core, node: node-2, labels: {app: core}}]
    services:
      - name: core
        type: NodePort
        selector: {app: core}
        ports: [{port: 80, targetPort: 8080, nodePort: 30080}]
  - name: shop
    pods: [{name: web, node: node-1}]
egressIPs:
  - {project: bank, addresses: [192.168.12.130]}
egressRouters:
  - name: browse
    project: shop
    mode: http-proxy
    source: 192.168.12.98
    gateway: 192.168.12.1
    node: node-1
    dnsServers: [192.168.12.1]
    rules:
      - allow: \"*\"
  - name: names
    project: shop
    mode: dns-proxy
    source: 192.168.12.97
    gateway: 192.168.12.1
    node: node-1
    dnsServers: [192.168.12.1]
    destinations:
      - {port: 80, to: inside.example.com, toPort: 30080}
      - {port: 81, to: outside.example.com, toPort: 8000}
";

/// A name server whose owner says what he likes, and a page outside.
const OUTSIDE: &str = r"
import http.server, socket, threading
def names():
    s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    s.bind(('192.168.12.1', 53))
    while True:
        query, client = s.recvfrom(4096)
        to = '192.168.12.12' if b'inside' in query else '192.168.12.1'
        end = query.index(b'\0', 12) + 5
        is_a = query[end - 3] == 1
        answer = query[:2] + b'\x85\x80\0\1' + bytes([0, is_a]) + b'\0\0\0\0' + query[12:end]
        if is_a:
            answer += b'\xc0\x0c\0\1\0\1\0\0\0\x3c\0\4' + socket.inet_aton(to)
        s.sendto(answer, client)
threading.Thread(target=names, daemon=True).start()
http.server.ThreadingHTTPServer(('192.168.12.1', 8000), http.server.SimpleHTTPRequestHandler).serve_forever()
";

/// What a request of the client gets: a status of HTTP, or 000 where there was no answer.
fn status(live: &Live, curl: &str) -> String {
    let ask = format!("curl -s -m 8 -o /dev/null -w '%{{http_code}}' {curl} || true");
    live.within("shop/web", &ask)
}

#[test]
fn proxies_lead_to_no_node_port_whatever_names_say() {
    let directory = tempfile::tempdir().unwrap();
    fs::write(directory.path().join("network.yaml"), WORLD).unwrap();
    let live = live(directory.path());
    live.apply_all();
    let script = directory.path().join("outside.py");
    fs::write(&script, OUTSIDE).unwrap();
    let (outside, _) = live.lab.place(Location::Outside).unwrap();
    let serve = format!("setsid python3 {} >/dev/null 2>&1 </dev/null &", script.display());
    outside.run(None, &["sh", "-c", &serve]).unwrap();
    live.within(
        "bank/core",
        "cd /run && setsid python3 -m http.server 8080 >/dev/null 2>&1 </dev/null &",
    );
    // What is served is served, to the outside, and what leads outside leads there.
    let served = "for n in 1 2 3 4 5 6 7 8 9; do curl -s -m 3 -o /dev/null \
                  http://192.168.12.12:30080/ && echo yes && break; sleep 0.5; done";
    assert_eq!(outside.run(None, &["sh", "-c", served]).unwrap(), "yes\n");
    let (browse, names) = (live.address("browse"), live.address("names"));
    let proxy = format!("-x http://{browse}:8080");
    let patient = |request: &str| {
        // The proxies check names and hosts every few seconds.
        (0..20).map(|_| status(&live, request)).find(|status| status == "200").is_some()
    };
    assert!(patient(&format!("{proxy} http://outside.example.com:8000/")));
    assert!(patient(&format!("http://{names}:81/")));

    for (request, expected) in [
        (format!("{proxy} http://inside.example.com:30080/"), "503"),
        (format!("{proxy} http://192.168.12.12:30080/"), "503"),
        (format!("{proxy} http://192.168.12.130:30080/"), "503"),
        (format!("{proxy} http://169.254.169.254/"), "503"),
        (format!("http://{names}:80/"), "000"),
    ] {
        assert_eq!(status(&live, &request), expected, "{request}");
    }
    // As before, no way leads there without a proxy.
    assert_eq!(status(&live, "http://192.168.12.12:30080/"), "000");
}

/// Two sites whose names in squid would be the same by 32 bits of a hash.
fn twins() -> (String, String) {
    let mut seen: BTreeMap<[u8; 4], String> = BTreeMap::new();
    for number in 0_u32.. {
        let name = format!("n{number}.example.com");
        let hash = blake3::hash(name.as_bytes());
        let first: [u8; 4] = hash.as_bytes()[..4].try_into().unwrap();
        if let Some(other) = seen.insert(first, name.clone()) {
            return (other, name);
        }
    }
    unreachable!()
}

#[test]
fn sites_that_somebody_chose_void_no_rule_of_a_proxy() {
    let (first, second) = twins();
    let world = format!(
        "version: 1\nnodes:\n  - name: node-1\n    address: 192.168.12.11\n    uplink: \
         {{interface: eth0, subnet: 192.168.12.0/24, gateway: 192.168.12.1}}\nprojects:\n  - name: \
         shop\n    pods: [{{name: web, node: node-1}}]\negressRouters:\n  - name: browse\n    \
         project: shop\n    mode: http-proxy\n    source: 192.168.12.98\n    gateway: \
         192.168.12.1\n    rules:\n      - allow: {first}\n      - deny: {second}\n      \
         - allow: \"*\"\n"
    );
    let directory = tempfile::tempdir().unwrap();
    fs::write(directory.path().join("network.yaml"), world).unwrap();
    let live = live(directory.path());
    live.apply_all();
    let summary = live.prove();
    let denied = format!("shop/web to egress router browse: {second}");
    let (probe, seen) = summary
        .results
        .iter()
        .find(|(probe, _)| probe.title.contains(&second))
        .unwrap_or_else(|| panic!("no `{denied}` in {}", summary.table()));
    assert!(!matches!(seen, ringfence::lab::Observed::Answer { .. }), "{}: {seen:?}", probe.title);
}

#[test]
fn load_balancers_at_addresses_of_their_own_take_no_port_of_the_nodes() {
    let case = crate::support::root().join("tests/diagnostics/RF136-processes/network.yaml");
    let text = fs::read_to_string(case).unwrap();
    let directory = tempfile::tempdir().unwrap();
    let own = text.replace("192.168.12.11}", "192.168.12.11, nodePortAddresses: [192.168.12.60]}");
    assert_ne!(own, text);
    fs::write(directory.path().join("network.yaml"), own).unwrap();
    let run = ringfence(directory.path(), &["validate", "network.yaml"]);
    assert_eq!((run.status, run.stderr.contains("RF136")), (0, false), "{}", run.stderr);
}

#[test]
fn an_interface_that_is_the_nodes_own_becomes_no_port_of_a_pod() {
    let world = "\
version: 1
nodes:
  - name: node-1
    address: 192.168.12.11
    uplink: {interface: eth0, subnet: 192.168.12.0/24, gateway: 192.168.12.1}
projects:
  - name: shop
    pods:
      - {name: vm-0, node: node-1, interface: storage0}
      - {name: vm-1, node: node-1, interface: tap1}
";
    let directory = tempfile::tempdir().unwrap();
    fs::write(directory.path().join("network.yaml"), world).unwrap();
    let live = live(directory.path());
    // The lab made a tap for a workload; this one is the node's.
    live.on("node-1", "ip addr add 10.9.8.7/24 dev storage0");
    let files = live.lab.files(live.node("node-1")).to_string_lossy().into_owned();
    let output = live.lab.ringfence(live.node("node-1"), &["apply", files.as_str()]).unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success(), "{stderr}");
    let said = "error[RF206]: the interface `storage0` of pod shop/vm-0 is the node's own: it has \
                the address 10.9.8.7";
    assert!(stderr.contains(said), "{stderr}");
    assert_eq!(live.on("node-1", "ovs-vsctl list-br | grep -x br0 || true"), "");
    live.on("node-1", "ip link del storage0 && ip link add storage0 type bridge");
    let output = live.lab.ringfence(live.node("node-1"), &["apply", files.as_str()]).unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(stderr.contains("is the node's own: it is of the kind `bridge`"), "{stderr}");
    live.on("node-1", "ip link del storage0");
    live.apply_all();
}
