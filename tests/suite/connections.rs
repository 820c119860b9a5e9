//! Connections that outlive what they were to, with real packets: they end when an address or a
//! backend goes, and no others do.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, Shutdown, SocketAddrV4, TcpListener, TcpStream, UdpSocket};
use std::time::Duration;

use crate::generations::{NEW, Node, OLD};
use crate::lab::{Live, datapath, live, load};
use crate::support::until;
use ringfence::lab::{Host, Location};
use ringfence::value::Datapath;

/// What one of the processes has to do.
const JOB: &str = "RINGFENCE_CONNECTIONS_JOB";
/// Where hosts outside answer.
const OUTSIDE: Ipv4Addr = Ipv4Addr::new(192, 168, 12, 1);

/// Waits until somebody in a namespace has a port.
fn is_bound(host: &Host, netns: Option<&str>, protocol: &str, port: u16) {
    let words = format!("grep -q ':{port:04X} 00000000:0000' /proc/net/{protocol}");
    until("nobody has the port", || {
        host.output(netns, &["sh", "-c", &words]).unwrap().status.success()
    });
}

/// Not a test: one of the processes of the others. `serve NAME PORT` answers every datagram with a
/// name; `ask FROM TO` prints what comes back to a datagram from this port. `take PORT` tells whoever
/// connects how many bytes came; `push TO BYTES` sends some and prints that.
#[test]
fn process() {
    let Ok(job) = std::env::var(JOB) else { return };
    let words: Vec<&str> = job.split(' ').collect();
    let any = |port: &str| UdpSocket::bind((Ipv4Addr::UNSPECIFIED, port.parse().unwrap())).unwrap();
    let mut buffer = [0; 64];
    match words[..] {
        ["serve", name, port] => {
            let socket = any(port);
            loop {
                let (_, from) = socket.recv_from(&mut buffer).unwrap();
                let _ = socket.send_to(name.as_bytes(), from);
            }
        }
        ["ask", from, to] => {
            let socket = any(from);
            socket.connect(to).unwrap();
            socket.set_read_timeout(Some(Duration::from_millis(700))).unwrap();
            let mut answer = String::new();
            // The first packets through a tunnel may be lost.
            for _ in 0..4 {
                let sent = socket.send(b"?").and_then(|_| socket.recv(&mut buffer));
                if let Ok(length) = sent {
                    answer = String::from_utf8(buffer[..length].to_vec()).unwrap();
                    break;
                }
            }
            println!("\nanswer={answer}");
        }
        ["take", port] => {
            let at = (Ipv4Addr::UNSPECIFIED, port.parse().unwrap());
            for stream in TcpListener::bind(at).unwrap().incoming() {
                let mut stream = stream.unwrap();
                let taken = std::io::copy(&mut stream, &mut std::io::sink());
                let _ = write!(stream, "{}", taken.unwrap_or_default());
            }
        }
        ["push", to, bytes] => {
            let mut stream = TcpStream::connect(to).unwrap();
            stream.set_read_timeout(Some(Duration::from_secs(8))).unwrap();
            stream.write_all(&vec![0; bytes.parse().unwrap()]).unwrap();
            stream.shutdown(Shutdown::Write).unwrap();
            let mut answer = String::new();
            let _ = stream.read_to_string(&mut answer);
            println!("\nanswer={answer}");
        }
        _ => panic!("{job}"),
    }
}

impl Live {
    fn job(&self, place: Location, job: &str) -> duct::Expression {
        let own = std::env::current_exe().unwrap().display().to_string();
        let (host, netns) = self.lab.place(place).unwrap();
        let words = [own.as_str(), "--exact", "connections::process", "--nocapture"];
        host.command(netns.as_deref(), &words).env(JOB, job).stderr_null()
    }

    /// Has a pod answer datagrams with its name, as long as its process lives.
    fn serve(&self, place: Location, name: &str, port: u16) -> duct::Handle {
        let handle = self.job(place, &format!("serve {name} {port}")).stdout_null();
        let handle = handle.unchecked().start().unwrap();
        let (host, netns) = self.lab.place(place).unwrap();
        is_bound(host, netns.as_deref(), "udp", port);
        handle
    }

    /// Who answers a datagram from this port; empty where nobody does.
    fn ask(&self, place: Location, from: u16, to: (Ipv4Addr, u16)) -> String {
        let to = SocketAddrV4::new(to.0, to.1);
        let output = self.job(place, &format!("ask {from} {to}")).read().unwrap();
        let answer = output.lines().find_map(|line| line.strip_prefix("answer="));
        answer.unwrap_or_else(|| panic!("{output}")).to_owned()
    }

    fn pod(&self, name: &str) -> Location {
        Location::Workload(self.workload(name))
    }

    fn service(&self, name: &str) -> Ipv4Addr {
        let model = self.lab.model();
        let mut services = model.services();
        let found = services.find(|(id, _)| model.intent().service_name(*id) == name);
        found.unwrap().1
    }

    /// The connections to services on a node.
    fn to_services(&self, node: &str) -> String {
        self.on(node, "ovs-appctl dpctl/dump-conntrack zone=60")
    }

    /// The connections of a node itself.
    fn of_node(&self, node: &str) -> String {
        self.on(node, "conntrack -L 2>/dev/null | grep -v zone || true")
    }
}

/// A desired state in a directory of its own, which can be changed.
struct World(tempfile::TempDir, String);

impl World {
    fn new(text: &str) -> Self {
        let world = Self(tempfile::tempdir().unwrap(), text.to_owned());
        world.write();
        world
    }

    fn write(&self) {
        fs::write(self.0.path().join("network.yaml"), &self.1).unwrap();
        let run = crate::support::ringfence(self.0.path(), &["lock", "network.yaml"]);
        assert_eq!(run.status, 0, "{}", run.stderr);
    }

    fn change(&mut self, pairs: &[(&str, &str)]) {
        for (old, new) in pairs {
            assert!(self.1.contains(old), "{old}");
            self.1 = self.1.replace(old, new);
        }
        self.write();
    }

    /// Changes the desired state and applies it to all nodes.
    fn roll(&mut self, live: &mut Live, pairs: &[(&str, &str)]) {
        self.change(pairs);
        let (model, sources) = load(self.0.path());
        live.lab.replace(model, &sources).unwrap();
        live.apply_all();
    }
}

/// Clients are on node-1 and outside; pods of services are on both nodes.
const WORLD: &str = "\
version: 1
nodes:
  - name: node-1
    address: 192.168.12.11
    uplink: {interface: eth0, subnet: 192.168.12.0/24, gateway: 192.168.12.1}
  - name: node-2
    address: 192.168.12.12
    uplink: {interface: eth0, subnet: 192.168.12.0/24, gateway: 192.168.12.1}
projects:
  - name: other
    pods: [{name: client, node: node-1}, {name: names, node: node-2, labels: {app: names}}]
    services:
      - {name: names, selector: {app: names}, ports: [{port: 53, protocol: UDP}]}
  - name: stats
    pods:
      - {name: client, node: node-1}
      - {name: old, node: node-2, labels: {app: statsd}}
      - {name: new, node: node-1, labels: {app: next}}
    services:
      - name: statsd
        type: NodePort
        selector: {app: statsd}
        ports: [{port: 8125, protocol: UDP, nodePort: 30125}]
";

const REPLACE: [(&str, &str); 2] = [
    ("      - {name: old, node: node-2, labels: {app: statsd}}\n", ""),
    (
        "{name: new, node: node-1, labels: {app: next}}",
        "{name: new, node: node-1, labels: {app: statsd}}",
    ),
];

#[test]
fn clients_of_a_service_follow_it_when_its_pod_goes() {
    let mut world = World::new(WORLD);
    let mut live = live(world.0.path());
    live.apply_all();
    let servers = [
        live.serve(live.pod("stats/old"), "old", 8125),
        live.serve(live.pod("stats/new"), "new", 8125),
        live.serve(live.pod("other/names"), "names", 53),
        live.serve(Location::Outside, "outside", 9000),
    ];
    let (statsd, names) = (live.service("stats/statsd"), live.service("other/names"));
    let nodes = [Ipv4Addr::new(192, 168, 12, 11), Ipv4Addr::new(192, 168, 12, 12)];
    let clients = |live: &Live| {
        let pod = live.ask(live.pod("stats/client"), 7001, (statsd, 8125));
        let by_node = live.ask(live.pod("stats/client"), 7002, (nodes[1], 30125));
        let outside = nodes.map(|node| live.ask(Location::Outside, 7003, (node, 30125)));
        let [one, two] = outside;
        [pod, by_node, one, two]
    };
    let others = |live: &Live| {
        [
            live.ask(live.pod("other/client"), 7004, (names, 53)),
            live.ask(live.pod("stats/client"), 7005, (OUTSIDE, 9000)),
        ]
    };
    assert_eq!(clients(&live), ["old"; 4]);
    assert_eq!(others(&live), ["names", "outside"]);
    // What the pod itself has begun goes with it.
    assert_eq!(live.ask(live.pod("stats/old"), 7006, (OUTSIDE, 9000)), "outside");
    let old = format!("={} ", live.address("stats/old"));
    assert!(live.of_node("node-2").contains(&old));

    world.roll(&mut live, &REPLACE);
    assert_eq!(live.of_node("node-2").matches(&old).count(), 0);
    // Nothing was sent meanwhile: these entries have outlasted the change.
    let (node, zone) = (live.of_node("node-1"), live.to_services("node-1"));
    assert!(node.contains("sport=7005 "), "{node}");
    assert!(zone.contains("sport=7004,"), "{zone}");
    assert_eq!(clients(&live), ["new"; 4]);
    assert_eq!(others(&live), ["names", "outside"]);
    assert_eq!(live.apply_all(), [false, false]);
    drop(servers);
}

#[test]
fn a_pod_that_is_not_ready_keeps_its_connections_until_it_goes() {
    // A node that has no pods.
    let third = "  - name: node-3
    address: 192.168.12.13
    uplink: {interface: eth0, subnet: 192.168.12.0/24, gateway: 192.168.12.1}
projects:
";
    let mut world = World::new(&WORLD.replace("projects:\n", third));
    let mut live = live(world.0.path());
    live.apply_all();
    let servers = [
        live.serve(live.pod("stats/old"), "old", 8125),
        live.serve(live.pod("stats/new"), "new", 8125),
    ];
    let statsd = live.service("stats/statsd");
    let clients = |live: &Live| {
        let pod = live.ask(live.pod("stats/client"), 7001, (statsd, 8125));
        let nodes = [1, 2, 3].map(|node| Ipv4Addr::new(192, 168, 12, 10 + node));
        let [one, two, three] = nodes.map(|node| live.ask(Location::Outside, 7003, (node, 30125)));
        [pod, one, two, three]
    };
    assert_eq!(clients(&live), ["old"; 4]);
    let ready = "{name: old, node: node-2, labels: {app: statsd}}";
    let drained = "{name: old, node: node-2, labels: {app: statsd}, ready: false}";
    world.roll(&mut live, &[(ready, drained), REPLACE[1]]);
    assert_eq!(clients(&live), ["old"; 4]);
    assert_eq!(live.ask(live.pod("stats/client"), 7002, (statsd, 8125)), "new");
    // No longer of the service, though it lives on.
    world.roll(&mut live, &[(drained, "{name: old, node: node-2}")]);
    assert_eq!(clients(&live), ["new"; 4]);
    drop(servers);
}

#[test]
fn who_gets_an_address_gets_none_of_its_connections() {
    let text = WORLD.replace(
        "{name: new, node: node-1, labels: {app: next}}",
        "{name: first, node: node-1, address: 10.128.0.50}",
    );
    let text = text.replacen("    address", "    podSubnet: 10.128.0.0/23\n    address", 1);
    let mut world = World::new(&text);
    let mut live = live(world.0.path());
    live.apply_all();
    let servers = [
        live.serve(Location::Outside, "outside", 9000),
        live.serve(live.pod("stats/old"), "old", 8125),
    ];
    let statsd = live.service("stats/statsd");
    assert_eq!(live.ask(live.pod("stats/first"), 7001, (OUTSIDE, 9000)), "outside");
    assert_eq!(live.ask(live.pod("stats/first"), 7002, (statsd, 8125)), "old");
    assert!(live.of_node("node-1").contains("=10.128.0.50 "));
    assert!(live.to_services("node-1").contains("=10.128.0.50,"));
    // Of another project.
    world.roll(
        &mut live,
        &[
            ("      - {name: first, node: node-1, address: 10.128.0.50}\n", ""),
            (
                "pods: [{name: client, node: node-1},",
                "pods: [{name: client, node: node-1}, {name: second, node: node-1, address: \
                 10.128.0.50},",
            ),
        ],
    );
    assert_eq!(live.of_node("node-1").matches("=10.128.0.50 ").count(), 0);
    assert_eq!(live.to_services("node-1").matches("=10.128.0.50,").count(), 0);
    drop(servers);
}

#[test]
fn a_run_that_was_killed_before_it_ended_connections_leaves_them_to_the_next() {
    let mut world = World::new(WORLD);
    let live = live(world.0.path());
    world.change(&REPLACE);
    let node = Node::between(live, load(world.0.path()));
    node.done(&["apply", OLD]);
    // The pod on the other node never answers.
    let live = &node.live;
    let server = live.serve(live.pod("stats/new"), "new", 8125);
    let ask = || live.ask(live.pod("stats/client"), 7001, (live.service("stats/statsd"), 8125));
    assert_eq!(ask(), "");
    assert!(live.to_services("node-1").contains("sport=7001,"));
    node.replace("ovs-appctl", "kill -KILL $PPID; exit 1");
    let killed = live.lab.ringfence(live.node("node-1"), &["apply", NEW]).unwrap();
    assert_eq!(killed.status.code(), None);
    node.restore("ovs-appctl");
    assert!(live.to_services("node-1").contains("sport=7001,"));
    let next = node.run(&["apply", NEW]);
    assert_eq!(next.status, 0, "{}", next.stderr);
    assert_eq!(ask(), "new");
    drop(server);
}

#[test]
fn a_pod_that_goes_is_guarded_until_it_is_gone() {
    if datapath() != Datapath::Netdev {
        return;
    }
    let mut world = World::new(WORLD);
    let live = live(world.0.path());
    world.change(&[("      - {name: client, node: node-1}\n", "")]);
    let node = Node::between(live, load(world.0.path()));
    node.done(&["apply", OLD]);
    let veth = node.on("ip -o link show | grep 'ringfence pod stats/client' | cut -d' ' -f2");
    let veth = veth.trim().split('@').next().unwrap().to_owned();
    assert!(veth.starts_with("rf-"), "{veth}");
    // What the kernel guards when the veth is about to leave the bridge, and when it is gone.
    let sets = "nft list set inet ringfence rf_guarded; nft list set arp ringfence rf_guarded";
    node.replace("ovs-vsctl", &format!("case \"$*\" in *del-port*) ({sets}) >/run/guarded;; esac"));
    node.done(&["apply", NEW]);
    node.restore("ovs-vsctl");
    let between = node.on("cat /run/guarded");
    assert_eq!(between.matches(&veth).count(), 2, "{between}");
    let after = node.on(sets);
    assert_eq!(after.matches(&veth).count(), 0, "{after}");
    node.is_in(NEW);
}

#[test]
fn a_router_on_the_way_to_a_host_outside_is_heard() {
    let world = World::new(
        "version: 1
nodes:
  - name: node-1
    address: 192.168.12.11
    uplink: {interface: eth0, subnet: 192.168.12.0/24, gateway: 192.168.12.1}
projects:
  - name: bank
    pods: [{name: core, node: node-1}]
    services:
      - {name: one, endpoints: [203.0.113.40], ports: [{port: 443, targetPort: 8443}]}
",
    );
    let live = live(world.0.path());
    live.apply_all();
    // The host is behind a router, by a link that takes less than pods send.
    let outside = live.lab.outside();
    let far = "for dev in $(ip -o addr show to 203.0.113.40 | cut -d' ' -f2); do \
               ip addr del 203.0.113.40/32 dev $dev; done; ip netns add far; \
               ip link add n0 type veth peer name n1 netns far; ip addr add 10.99.0.1/30 dev n0; \
               ip link set n0 mtu 1200 up; ip -n far link set lo up; \
               ip -n far addr add 10.99.0.2/30 dev n1; ip -n far addr add 203.0.113.40/32 dev lo; \
               ip -n far link set n1 up; ip -n far route add default via 10.99.0.1; \
               ip route add 203.0.113.40/32 via 10.99.0.2; sysctl -qw net.ipv4.ip_forward=1";
    outside.run(None, &["sh", "-c", far]).unwrap();
    let own = std::env::current_exe().unwrap().display().to_string();
    let words = [own.as_str(), "--exact", "connections::process", "--nocapture"];
    let server = outside.command(Some("far"), &words).env(JOB, "take 8443");
    let server = server.stderr_null().stdout_null().unchecked().start().unwrap();
    is_bound(outside, Some("far"), "tcp", 8443);
    let push = |to: (Ipv4Addr, u16)| {
        let job = format!("push {} 100000", SocketAddrV4::new(to.0, to.1));
        let output = live.job(live.pod("bank/core"), &job).read().unwrap();
        output.lines().find_map(|line| line.strip_prefix("answer=")).unwrap().to_owned()
    };
    // By the service first: the kernel remembers what a path takes.
    assert_eq!(push((live.service("bank/one"), 443)), "100000");
    assert_eq!(push(("203.0.113.40".parse().unwrap(), 8443)), "100000");
    drop(server);
}
