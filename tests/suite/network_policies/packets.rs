//! Real packets for each clause of what policies mean. What has to come of a packet is written down here,
//! not asked of the program; and each clause is broken once in the flows, to see that its packets show it.

use std::collections::BTreeSet;
use std::fs;
use std::net::{Ipv4Addr, SocketAddrV4};

use crate::frames::{Datagram, LARGE, Listener, SIZE, Sender, TCP, UDP, checksum, wait};
use crate::lab::{Live, live_of};
use crate::support::until;
use ringfence::lab::{Expected, Location, Probe};
use ringfence::value::Protocol;

/// Node 1 has a gateway bridge and the egress router, node 2 the egress IP of `bank`. The outside comes to
/// `door` by node 2 only: policies know it by the last address of the node by which it came.
const WORLD: &str = "version: 1
cluster:
  mode: networkpolicy
  serviceNetwork: 172.30.0.0/16
  podNetworks: [{cidr: 10.128.0.0/14, hostPrefix: 24}]
nodes:
  - name: node-1
    address: 192.168.12.11
    podSubnet: 10.128.0.0/24
    uplink: {interface: eth0, subnet: 192.168.12.0/24, gateway: 192.168.12.1, bridge: br-ex}
  - name: node-2
    address: 192.168.12.12
    podSubnet: 10.128.1.0/24
    uplink: {interface: eth0, subnet: 192.168.12.0/24, gateway: 192.168.12.1}
    egressCIDRs: [192.168.12.128/27]
projects:
  - name: shop
    multicast: true
    pods:
      - {name: web-0, node: node-1, labels: {app: web}}
      - {name: web-1, node: node-2, labels: {app: web}}
      - {name: cli-0, node: node-1, labels: {app: cli}}
      - {name: cli-1, node: node-2, labels: {app: cli}}
      - {name: bell-0, node: node-1, labels: {app: bell}}
      - {name: bell-1, node: node-2, labels: {app: bell}}
      - {name: door, node: node-1, labels: {app: door}}
      - {name: free, node: node-1}
    services:
      - {name: web, type: NodePort, clusterIP: 172.30.0.10, selector: {app: web},
         ports: [{port: 80, targetPort: 8080, nodePort: 30080}]}
      - {name: door, type: NodePort, clusterIP: 172.30.0.11, selector: {app: door},
         ports: [{port: 80, targetPort: 8080, nodePort: 30081}]}
      - {name: hosts, clusterIP: 172.30.0.12, endpoints: [203.0.113.7], ports: [{port: 80, targetPort: 9999}]}
  - name: bank
    pods:
      - {name: core-0, node: node-1}
      - {name: core-1, node: node-2}
egressIPs:
  - {project: bank, addresses: [192.168.12.130]}
egressRouters:
  - {name: partner, project: shop, node: node-1, labels: {role: router}, source: 192.168.12.100,
     gateway: 192.168.12.1, destination: 203.0.113.25}
networkPolicies:
  - project: shop
    name: web-in
    podSelector: {matchLabels: {app: web}}
    ingress:
      - from: [{podSelector: {matchLabels: {app: cli}}}]
        ports: [{port: 8080}, {protocol: UDP, port: 8080}, {protocol: SCTP, port: 8080}]
  - project: shop
    name: bell-in
    podSelector: {matchLabels: {app: bell}}
    ingress: [{from: [{podSelector: {matchLabels: {app: cli}}}]}]
  - project: shop
    name: door-in
    podSelector: {matchLabels: {app: door}}
    ingress: [{from: [{ipBlock: {cidr: 10.128.1.254/32}}]}]
  # What a router sends outside is nobody's connection but its own.
  - project: shop
    name: router-in
    podSelector: {matchLabels: {role: router}}
    policyTypes: [Ingress, Egress]
    ingress: [{from: [{podSelector: {matchLabels: {app: cli}}}]}]
  - project: shop
    name: cli-out
    podSelector: {matchLabels: {app: cli}}
    policyTypes: [Egress]
    egress:
      - to: [{podSelector: {matchExpressions: [{key: app, operator: In, values: [web, bell]}]}}]
      - {to: [{podSelector: {matchLabels: {role: router}}}], ports: [{port: 80}]}
      - {to: [{ipBlock: {cidr: 203.0.113.0/24}}], ports: [{port: 9999}]}
  - project: bank
    name: out
    policyTypes: [Egress]
    egress: [{to: [{ipBlock: {cidr: 203.0.113.0/24}}], ports: [{port: 443}]}]
";

const NODE_1: Ipv4Addr = Ipv4Addr::new(192, 168, 12, 11);
const NODE_2: Ipv4Addr = Ipv4Addr::new(192, 168, 12, 12);
const BEHIND_ROUTER: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(203, 0, 113, 25), 80);
const HOST: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 7);

/// The clause, who sends, to whom, by what, and whether it is answered; and if so, to whom, where that is
/// somebody else.
type Line = (&'static str, &'static str, SocketAddrV4, Protocol, Option<Observed>);
type Observed = Option<Ipv4Addr>;

#[expect(clippy::unnecessary_wraps, reason = "stands beside `None` in the table")]
fn yes() -> Option<Observed> {
    Some(None)
}

#[expect(clippy::unnecessary_wraps, reason = "stands beside `None` in the table")]
fn seen_as(last: [u8; 4]) -> Option<Observed> {
    Some(Some(Ipv4Addr::from(last)))
}

fn lines(live: &Live) -> Vec<Line> {
    use Protocol::{Sctp, Tcp, Udp};
    let at = |address: Ipv4Addr, port| SocketAddrV4::new(address, port);
    let pod = |name: &str, port| at(live.address(name), port);
    let service = |last, port| at(Ipv4Addr::new(172, 30, 0, last), port);
    let [web_0, web_1] = ["shop/web-0", "shop/web-1"];
    vec![
        ("pods", "shop/cli-0", pod(web_0, 8080), Tcp, yes()),
        ("pods", "shop/cli-0", pod(web_1, 8080), Tcp, yes()),
        ("pods", "shop/cli-1", pod(web_0, 8080), Udp, yes()),
        ("pods", "shop/cli-0", pod(web_0, 8081), Tcp, None),
        ("pods", "shop/free", pod(web_0, 8080), Tcp, None),
        ("pods", "shop/free", pod(web_1, 8080), Udp, None),
        ("pods", "shop/web-0", pod("shop/free", 8080), Tcp, yes()),
        ("pods", "bank/core-0", pod("shop/free", 8080), Tcp, None),
        // In userspace, whoever has one association with a pod has all of them: each pair has one here.
        ("sctp", "shop/cli-0", pod(web_0, 8080), Sctp, yes()),
        ("sctp", "shop/cli-0", pod(web_1, 8080), Sctp, yes()),
        ("sctp", "shop/cli-1", pod(web_1, 8081), Sctp, None),
        ("sctp", "shop/free", pod(web_0, 8080), Sctp, None),
        ("sctp", "shop/free", pod(web_1, 8080), Sctp, None),
        ("services", "shop/cli-0", service(10, 80), Tcp, yes()),
        ("services", "shop/free", service(10, 80), Tcp, None),
        ("services", "bank/core-1", service(10, 80), Tcp, None),
        ("services", "shop/cli-0", service(11, 80), Tcp, None),
        // What a policy sees is the port of the host, not that of the service.
        ("services for hosts", "shop/cli-0", service(12, 80), Tcp, yes()),
        ("services for hosts", "shop/free", service(12, 80), Tcp, yes()),
        ("services for hosts", "bank/core-0", service(12, 80), Tcp, None),
        ("services for hosts", "shop/cli-1", at(HOST, 80), Tcp, None),
        ("egress IPs", "bank/core-0", at(HOST, 443), Tcp, seen_as([192, 168, 12, 130])),
        ("egress IPs", "bank/core-1", at(HOST, 443), Tcp, seen_as([192, 168, 12, 130])),
        ("egress IPs", "bank/core-0", at(HOST, 444), Tcp, None),
        ("egress IPs", "bank/core-1", at(HOST, 443), Udp, None),
        ("routers", "shop/cli-0", pod("partner", 80), Tcp, seen_as([192, 168, 12, 100])),
        ("routers", "shop/cli-1", pod("partner", 80), Tcp, seen_as([192, 168, 12, 100])),
        ("routers", "shop/free", pod("partner", 80), Tcp, None),
        ("routers", "shop/web-1", pod("partner", 80), Tcp, None),
        ("routers", "shop/cli-0", pod("partner", 81), Tcp, None),
        ("node ports", "outside", at(NODE_1, 30080), Tcp, None),
        ("node ports", "outside", at(NODE_2, 30080), Tcp, None),
        ("node ports", "outside", at(NODE_1, 30081), Tcp, None),
        ("node ports", "outside", at(NODE_2, 30081), Tcp, seen_as([10, 128, 1, 254])),
        ("node ports", "shop/cli-0", at(NODE_2, 30080), Tcp, yes()),
        ("node ports", "shop/cli-1", at(NODE_1, 30080), Tcp, yes()),
        ("node ports", "shop/free", at(NODE_2, 30080), Tcp, None),
        ("node ports", "shop/free", at(NODE_1, 30081), Tcp, None),
        ("nodes", "node-1", pod(web_0, 8080), Tcp, seen_as([10, 128, 0, 1])),
        ("nodes", "node-2", pod(web_1, 8081), Tcp, seen_as([10, 128, 1, 1])),
        ("nodes", "node-1", pod(web_1, 8080), Tcp, None),
        ("nodes", "node-2", pod("shop/bell-0", 8080), Udp, None),
    ]
}

fn place(live: &Live, name: &str) -> Location {
    match name {
        "outside" => Location::Outside,
        node if node.starts_with("node-") => Location::Node(live.node(node)),
        workload => Location::Workload(live.workload(workload)),
    }
}

/// The packets of a clause, or of all; to a group, where everybody of the project but the sender gets a copy.
fn probes(live: &Live, clause: Option<&str>) -> Vec<Probe> {
    let is_asked = |name: &str| clause.is_none_or(|clause| clause == name);
    let lines = lines(live).into_iter().filter(|line| is_asked(line.0));
    let mut probes: Vec<Probe> = lines
        .map(|(clause, from, to, protocol, seen)| Probe {
            title: format!("{clause}: {from} to {to}/{protocol}"),
            from: place(live, from),
            to,
            protocol,
            fetch: None,
            // What the router translates arrives somewhere else.
            want: seen.map_or(Expected::Silence, |seen_as| Expected::Answer {
                seen_as,
                at: (clause == "routers").then_some(BEHIND_ROUTER),
            }),
            because: "it is written so".to_owned(),
        })
        .collect();
    if is_asked("multicast") {
        let shop = ["web-0", "web-1", "cli-0", "cli-1", "bell-0", "bell-1", "door", "free"];
        let shop: Vec<String> = shop.iter().map(|name| format!("shop/{name}")).collect();
        for (number, sender) in ["shop/web-0", "shop/cli-1"].into_iter().enumerate() {
            let others = shop.iter().filter(|name| *name != sender).cloned();
            let last = u8::try_from(number).unwrap();
            probes.push(Probe {
                title: format!("multicast: {sender}"),
                from: place(live, sender),
                to: SocketAddrV4::new(Ipv4Addr::new(239, 255, 9, last), 5000),
                protocol: Protocol::Udp,
                fetch: None,
                // Routers take no part.
                want: Expected::Copies(others.collect()),
                because: "policies say nothing of groups".to_owned(),
            });
        }
    }
    probes
}

/// How many packets fared otherwise than they should.
fn wrong(live: &Live, clause: Option<&str>) -> (usize, String) {
    let summary = live.lab.probe(probes(live, clause)).unwrap();
    (summary.counts().1, summary.table())
}

#[test]
fn every_clause_holds_for_real_packets() {
    let (_directory, live) = live_of(WORLD);
    live.apply_all();
    let (wrong, table) = wrong(&live, None);
    assert_eq!(wrong, 0, "{table}");
    // What the program itself expects of them, and many more.
    live.prove();
}

const LET_IN: &str = "mod-flows br0 table=80,ip,actions=goto_table:84";
const LET_OUT: &str = "mod-flows br0 table=27,ip,actions=goto_table:28";

/// Spoils the flows of both nodes.
fn damage(live: &Live, damage: &str) {
    for node in ["node-1", "node-2"] {
        live.on(node, &format!("ovs-ofctl -O OpenFlow14 {damage}"));
    }
}

/// A flow that is wrong on both nodes, and the clause whose packets show it.
#[test]
fn every_clause_notices_what_breaks_it() {
    let (_directory, live) = live_of(WORLD);
    live.apply_all();
    for (clause, spoilt) in [
        ("pods", LET_IN),
        ("pods", LET_OUT),
        ("sctp", "mod-flows br0 table=80,sctp,actions=goto_table:84"),
        ("services", LET_IN),
        ("services for hosts", LET_OUT),
        ("egress IPs", LET_OUT),
        ("routers", LET_IN),
        ("node ports", LET_IN),
        ("nodes", LET_IN),
        ("nodes", "del-flows br0 table=78,ip,in_port=2"),
        ("multicast", "mod-flows br0 table=30,ip,nw_dst=224.0.0.0/4,actions=drop"),
    ] {
        damage(&live, spoilt);
        let (wrong, table) = wrong(&live, Some(clause));
        assert!(wrong > 0, "{clause} does not notice `{spoilt}`\n{table}");
        live.apply_all();
    }
    let (wrong, table) = wrong(&live, None);
    assert_eq!(wrong, 0, "{table}");
}

/// An echo request with a mark, which comes back with the reply.
fn ping(live: &Live, sender: &mut Sender<'_>, from: &'static str, to: &str) -> u16 {
    sender.towards = live.lab.model().endpoint(live.workload(to)).mac.bytes();
    let mut datagram = sender.datagram((live.address(to), 1, 0), SIZE);
    let mut body = vec![8, 0, 0, 0, 0, 7];
    body.extend(datagram.id.to_be_bytes());
    body.extend(format!("mark:{};", datagram.id).into_bytes());
    let sum = checksum(&[&body]);
    body[2..4].copy_from_slice(&sum.to_be_bytes());
    datagram = Datagram { from: live.address(from), body, ..datagram };
    sender.ip([datagram.whole()]);
    datagram.id
}

fn listen(live: &Live, pod: &str, words: &[&str], directory: &tempfile::TempDir) -> Listener {
    let (host, netns) = live.lab.place(Location::Workload(live.workload(pod))).unwrap();
    Listener::start(host, netns.as_deref(), words, directory)
}

/// What has no ports passes rules without ports only, with its replies.
#[test]
fn echoes_pass_where_no_ports_are_listed() {
    let (_directory, live) = live_of(WORLD);
    live.apply_all();
    live.prove();
    let directory = tempfile::tempdir().unwrap();
    let pods =
        ["shop/cli-0", "shop/free", "shop/bell-0", "shop/bell-1", "shop/web-0", "shop/web-1"];
    let listeners = pods.map(|pod| listen(&live, pod, &["sniff", "eth0"], &directory));
    let marks_at = |pod: &str| listeners[pods.iter().position(|p| *p == pod).unwrap()].marks();
    let mut marks = 0;
    let mut closed = BTreeSet::new();
    for (from, to) in [
        ("shop/free", "shop/bell-0"),
        ("shop/free", "shop/bell-1"),
        ("shop/free", "shop/web-0"),
        ("shop/free", "shop/web-1"),
        ("shop/cli-0", "shop/web-0"),
        ("shop/cli-0", "shop/web-1"),
        ("shop/cli-0", "shop/free"),
    ] {
        let mut sender = Sender::new(&live, from, &mut marks);
        closed.insert(ping(&live, &mut sender, from, to));
        sender.send();
    }
    for (from, to) in
        [("shop/cli-0", "shop/bell-0"), ("shop/cli-0", "shop/bell-1"), ("shop/web-0", "shop/free")]
    {
        let mut sender = Sender::new(&live, from, &mut marks);
        let mark = ping(&live, &mut sender, from, to);
        sender.send();
        for pod in [from, to] {
            wait(pod, || BTreeSet::from([mark]).difference(&marks_at(pod)).copied().collect());
        }
    }
    // Where the flows are wrong, the same would come.
    damage(&live, LET_IN);
    for to in ["shop/bell-0", "shop/bell-1"] {
        let mut sender = Sender::new(&live, "shop/free", &mut marks);
        let mark = ping(&live, &mut sender, "shop/free", to);
        sender.send();
        wait(to, || BTreeSet::from([mark]).difference(&marks_at(to)).copied().collect());
    }
    fs::write(directory.path().join("stop"), "").unwrap();
    for (pod, listener) in pods.iter().zip(&listeners) {
        listener.handle.wait().unwrap();
        let arrived: Vec<u16> = listener.marks().intersection(&closed).copied().collect();
        assert_eq!(arrived, Vec::<u16>::new(), "at {pod}");
    }
}

/// However a datagram to a closed port is cut, and whatever its parts pretend, nobody gets it; of whoever
/// is no peer, no part comes at all. What is open arrives in parts.
#[test]
fn no_fragment_gets_round_a_policy() {
    let (_directory, live) = live_of(WORLD);
    live.apply_all();
    live.prove();
    let directory = tempfile::tempdir().unwrap();
    let pods = ["shop/web-0", "shop/web-1"];
    let listen = |words: &[&str]| pods.map(|pod| listen(&live, pod, words, &directory));
    let (all, closed) = (listen(&["sniff", "eth0"]), listen(&["serve", "0.0.0.0", "8081"]));
    let open = listen(&["serve", "0.0.0.0", "8080"]);
    let tiny = || live.met("node-1", 30, "tcp,nw_frag=first");
    let (mut marks, dropped) = (0, tiny());
    for pod in pods {
        let to = live.address(pod);
        let mut sender = Sender::new(&live, "shop/cli-0", &mut marks);
        sender.towards = live.lab.model().endpoint(live.workload(pod)).mac.bytes();
        sender.cuts((to, UDP, 8081));
        sender.deceptions((to, UDP, 8081), 8080);
        // Too short for the ports of TCP.
        let parts = sender.datagram((to, TCP, 8080), SIZE).cut(8);
        sender.ip(parts);
        sender.send();
    }
    let of_peers = marks;
    for pod in pods {
        let to = live.address(pod);
        let mut sender = Sender::new(&live, "shop/free", &mut marks);
        sender.cuts((to, UDP, 8080));
        sender.deceptions((to, UDP, 8081), 8080);
        sender.send();
    }
    let of_others = marks;
    for (pod, listener) in pods.iter().zip(&open) {
        let mut sender = Sender::new(&live, "shop/cli-0", &mut marks);
        sender.towards = live.lab.model().endpoint(live.workload(pod)).mac.bytes();
        let datagram = sender.datagram((live.address(pod), UDP, 8080), LARGE + 16);
        sender.ip(datagram.cut(LARGE));
        sender.send();
        wait(pod, || {
            BTreeSet::from([datagram.id]).difference(&listener.marks()).copied().collect()
        });
    }
    until("nobody drops beginnings without ports", || tiny() >= dropped + 2);
    // Where the flows are wrong, the same would come.
    damage(&live, LET_IN);
    for (pod, listener) in pods.iter().zip(&closed) {
        let mut sender = Sender::new(&live, "shop/free", &mut marks);
        sender.towards = live.lab.model().endpoint(live.workload(pod)).mac.bytes();
        let datagram = sender.datagram((live.address(pod), UDP, 8081), LARGE + 16);
        sender.ip(datagram.cut(LARGE));
        sender.send();
        wait(pod, || {
            BTreeSet::from([datagram.id]).difference(&listener.marks()).copied().collect()
        });
    }
    fs::write(directory.path().join("stop"), "").unwrap();
    for listener in all.iter().chain(&closed).chain(&open) {
        listener.handle.wait().unwrap();
    }
    for ((pod, all), closed) in pods.iter().zip(&all).zip(&closed) {
        let taken: Vec<u16> = closed.marks().range(..=of_others).copied().collect();
        assert_eq!(taken, Vec::<u16>::new(), "at the closed port of {pod}");
        let others: Vec<u16> = all.marks().range(of_peers + 1..=of_others).copied().collect();
        assert_eq!(others, Vec::<u16>::new(), "at {pod}");
    }
}
