//! Real packets between real nodes.

use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{Ipv4Addr, SocketAddrV4, TcpListener, TcpStream, UdpSocket};
use std::path::Path;
use std::time::Duration;

use crate::lab::{Live, live, load};
use crate::support::{Run, ringfence, until};
use ringfence::lab::Location;

/// What one of the processes has to do.
const JOB: &str = "RINGFENCE_POLICIES_JOB";

const NETWORK: &str = "version: 1
cluster: {mode: networkpolicy}
nodes:
  - {name: node-1, address: 192.168.12.11, uplink: {interface: eth0, subnet: 192.168.12.0/24, gateway: 192.168.12.1}}
  - {name: node-2, address: 192.168.12.12, uplink: {interface: eth0, subnet: 192.168.12.0/24, gateway: 192.168.12.1}}
projects:
  - name: shop
    pods:
      - {name: web-0, node: node-1, labels: {app: web}}
      - {name: web-1, node: node-2, labels: {app: web}}
      - {name: cli, node: node-1, labels: {app: cli}}
      - {name: free, node: node-1}
    services:
      - {name: web, type: NodePort, selector: {app: web}, ports: [{port: 80, targetPort: 8080, nodePort: 30080}]}
networkPolicies:
";

/// Lets `cli` and nobody else in.
const CLI: &str = "  - {project: shop, name: web-in, podSelector: {matchLabels: {app: web}}, ingress: [{from: \
                   [{podSelector: {matchLabels: {app: cli}}}]}]}\n";
/// Lets nobody in.
const NOBODY: &str =
    "  - {project: shop, name: web-in, podSelector: {matchLabels: {app: web}}, ingress: []}\n";
/// Lets everybody in, the outside too.
const EVERYBODY: &str =
    "  - {project: shop, name: web-in, podSelector: {matchLabels: {app: web}}, ingress: [{}]}\n";
/// Lets `cli` in by another rule, and selects it itself.
const CLI_AGAIN: &str = "  - {project: shop, name: web-in, podSelector: {matchLabels: {app: web}}, ingress: \
                         [{from: [{podSelector: {matchExpressions: [{key: app, operator: In, values: [cli, \
                         other]}]}}], ports: [{port: 1, endPort: 60000}]}]}\n  - {project: shop, name: \
                         cli-out, podSelector: {matchLabels: {app: cli}}, policyTypes: [Egress], egress: \
                         [{to: [{podSelector: {}}]}]}\n";

struct World {
    directory: tempfile::TempDir,
}

impl World {
    fn new(policies: &str) -> Self {
        let world = Self { directory: tempfile::tempdir().unwrap() };
        world.write(policies);
        world
    }

    fn path(&self) -> &Path {
        self.directory.path()
    }

    fn write(&self, policies: &str) {
        fs::write(self.path().join("network.yaml"), format!("{NETWORK}{policies}")).unwrap();
        let run = ringfence(self.path(), &["lock", "network.yaml"]);
        assert_eq!(run.status, 0, "{}", run.stderr);
    }

    /// Applies other policies on all nodes.
    fn roll(&self, live: &mut Live, policies: &str) {
        self.write(policies);
        let (model, sources) = load(self.path());
        live.lab.replace(model, &sources).unwrap();
        live.apply_all();
    }
}

/// Not a test: one of the processes of the others. `echo PORT` gives back every line of a connection;
/// `beat TO FILE` sends a line after the other and writes down how many came back. `length PORT` tells the
/// length of every datagram, `datagram TO BYTES` sends one and prints that.
#[test]
fn process() {
    let Ok(job) = std::env::var(JOB) else { return };
    let words: Vec<&str> = job.split(' ').collect();
    match words[..] {
        ["echo", port] => {
            let at = (Ipv4Addr::UNSPECIFIED, port.parse().unwrap());
            for stream in TcpListener::bind(at).unwrap().incoming() {
                std::thread::spawn(|| {
                    let mut stream = stream.unwrap();
                    let lines = BufReader::new(stream.try_clone().unwrap()).lines();
                    for line in lines.map_while(Result::ok) {
                        let _ = writeln!(stream, "{line}");
                    }
                });
            }
        }
        ["beat", to, file] => {
            let mut stream = TcpStream::connect(to).unwrap();
            stream.set_nodelay(true).unwrap();
            let mut lines = BufReader::new(stream.try_clone().unwrap()).lines();
            for number in 1_u64.. {
                writeln!(stream, "{number}").unwrap();
                assert_eq!(lines.next().unwrap().unwrap(), number.to_string());
                fs::write(file, number.to_string()).unwrap();
                std::thread::sleep(Duration::from_millis(20));
            }
        }
        ["length", port] => {
            let at = (Ipv4Addr::UNSPECIFIED, port.parse().unwrap());
            let socket = UdpSocket::bind(at).unwrap();
            let mut buffer = vec![0; 65_536];
            loop {
                let (length, from) = socket.recv_from(&mut buffer).unwrap();
                let _ = socket.send_to(length.to_string().as_bytes(), from);
            }
        }
        ["datagram", to, bytes] => {
            let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).unwrap();
            socket.connect(to).unwrap();
            socket.set_read_timeout(Some(Duration::from_millis(700))).unwrap();
            let mut buffer = [0; 64];
            let mut answer = String::new();
            // The first packets through a tunnel may be lost.
            for _ in 0..4 {
                let sent = socket.send(&vec![0; bytes.parse().unwrap()]);
                if let Ok(length) = sent.and_then(|_| socket.recv(&mut buffer)) {
                    answer = String::from_utf8(buffer[..length].to_vec()).unwrap();
                    break;
                }
            }
            println!("\nanswer={answer}");
        }
        _ => panic!("{job}"),
    }
}

impl Live {
    fn policy_job(&self, pod: &str, job: &str) -> duct::Expression {
        let own = std::env::current_exe().unwrap().display().to_string();
        let (host, netns) = self.lab.place(Location::Workload(self.workload(pod))).unwrap();
        let words = [own.as_str(), "--exact", "network_policies::live::process", "--nocapture"];
        host.command(netns.as_deref(), &words).env(JOB, job).stderr_null()
    }

    /// Starts a process in a pod and waits until it has its port.
    fn serves(&self, pod: &str, job: &str, protocol: &str, port: u16) -> duct::Handle {
        let handle = self.policy_job(pod, &format!("{job} {port}")).stdout_null().unchecked();
        let handle = handle.start().unwrap();
        let (host, netns) = self.lab.place(Location::Workload(self.workload(pod))).unwrap();
        let words = format!("grep -q ':{port:04X} 00000000:0000' /proc/net/{protocol}");
        until("nobody has the port", || {
            host.output(netns.as_deref(), &["sh", "-c", &words]).unwrap().status.success()
        });
        handle
    }

    fn assert_proven(&self, what: &str) -> usize {
        let summary = self.lab.probe(ringfence::lab::plan(self.lab.model())).unwrap();
        let (good, wrong) = summary.counts();
        assert_eq!(wrong, 0, "{what}\n{}", summary.table());
        good
    }
}

fn count(path: &Path) -> u64 {
    fs::read_to_string(path).ok().and_then(|text| text.parse().ok()).unwrap_or(0)
}

/// One of the policies that let nobody in, somebody, and everybody, with all that the lab shows of them:
/// every peer, every node, services, node ports from outside and from pods.
#[test]
fn policies_that_change_hold_for_everybody() {
    let world = World::new(CLI);
    let mut live = live(world.path());
    live.apply_all();
    live.assert_proven("cli");
    for (what, policies) in [("everybody", EVERYBODY), ("nobody", NOBODY), ("again", CLI_AGAIN)] {
        world.roll(&mut live, policies);
        live.assert_proven(what);
    }
}

/// An open connection that other policies close is closed at once; one that both allow goes on.
#[test]
fn connections_live_as_long_as_policies_allow_them() {
    let world = World::new(CLI);
    let mut live = live(world.path());
    live.apply_all();
    let _servers = ["shop/web-0", "shop/web-1"].map(|pod| live.serves(pod, "echo", "tcp", 7000));
    let files = ["web-0", "web-1"].map(|name| world.path().join(name));
    let clients: Vec<duct::Handle> = ["shop/web-0", "shop/web-1"]
        .iter()
        .zip(&files)
        .map(|(pod, file)| {
            let to = SocketAddrV4::new(live.address(pod), 7000);
            let job = live.policy_job("shop/cli", &format!("beat {to} {}", file.display()));
            job.stdout_null().unchecked().start().unwrap()
        })
        .collect();
    let goes_on = |what: &str| {
        for file in &files {
            let before = count(file);
            until(what, || count(file) > before + 5);
        }
    };
    goes_on("connections begin");
    // Another rule allows the same, and the client is selected from now on.
    world.roll(&mut live, CLI_AGAIN);
    goes_on("connections that both allow go on");
    world.roll(&mut live, NOBODY);
    // What is sent again is dropped, and counted.
    let dropped = |node: &str| live.met(node, 80, "priority=10,ip,reg1");
    let before = files.each_ref().map(|file| count(file));
    for node in ["node-1", "node-2"] {
        until("what the client sends is dropped", || dropped(node) > 0);
    }
    let after = files.each_ref().map(|file| count(file));
    // One line may have been under way.
    for (before, after) in before.into_iter().zip(after) {
        assert!(after <= before + 1, "{before} {after}");
    }
    world.roll(&mut live, EVERYBODY);
    goes_on("connections go on where they are allowed again");
    for client in clients {
        assert!(client.try_wait().unwrap().is_none());
        client.kill().unwrap();
    }
}

/// Datagrams in fragments arrive at the port that is open, within a node and between two, and nothing of
/// them at another.
#[test]
fn datagrams_in_fragments_are_held_to_the_ports_of_their_beginning() {
    let policy = "  - {project: shop, name: web-in, podSelector: {matchLabels: {app: web}}, ingress: [{from: \
                  [{podSelector: {matchLabels: {app: cli}}}], ports: [{protocol: UDP, port: 7001}]}]}\n  - \
                  {project: shop, name: cli-out, podSelector: {matchLabels: {app: cli}}, policyTypes: \
                  [Egress], egress: [{ports: [{protocol: UDP, port: 7000, endPort: 7003}]}]}\n";
    let world = World::new(policy);
    let live = live(world.path());
    live.apply_all();
    for pod in ["shop/web-0", "shop/web-1"] {
        let _servers = [7001, 7002].map(|port| live.serves(pod, "length", "udp", port));
        let answer = |port: u16, bytes: usize| {
            let to = SocketAddrV4::new(live.address(pod), port);
            let job = live.policy_job("shop/cli", &format!("datagram {to} {bytes}"));
            let output = job.read().unwrap();
            output.lines().find_map(|line| line.strip_prefix("answer=")).unwrap().to_owned()
        };
        for bytes in [10, 4000] {
            assert_eq!(answer(7001, bytes), bytes.to_string(), "{pod}");
            assert_eq!(answer(7002, bytes), "", "{pod}");
        }
    }
}

/// What somebody changes of a conjunction is seen and mended; what is as it should be stays.
#[test]
fn conjunctions_are_repaired() {
    let world = World::new(CLI);
    let live = live(world.path());
    live.apply_all();
    assert_eq!(live.apply_all(), [false, false]);
    let flows = || live.on("node-1", "ovs-ofctl -O OpenFlow14 dump-flows --no-stats br0 table=80");
    let sorted = |text: String| {
        let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
        lines.sort();
        lines
    };
    let good = sorted(flows());
    let id = good.iter().find_map(|line| line.split("conj_id=").nth(1)?.split(',').next());
    let id = id.unwrap().to_owned();
    let vnid = good.iter().find_map(|line| line.split("reg1=").nth(1)?.split([',', ' ']).next());
    let vnid = vnid.unwrap().to_owned();
    for damage in [
        format!("--strict del-flows br0 'table=80,priority=100,conj_id={id},ip,reg1={vnid}'"),
        format!("add-flow br0 'table=80,priority=100,conj_id={id},ip,reg1={vnid},actions=drop'"),
        format!(
            "add-flow br0 'table=80,priority=100,udp,reg1={vnid},actions=conjunction({id},1/2)'"
        ),
        "del-flows br0 table=80".to_owned(),
    ] {
        live.on("node-1", &format!("ovs-ofctl -O OpenFlow14 {damage}"));
        assert_ne!(sorted(flows()), good, "{damage}");
        assert_eq!(live.apply_all(), [true, false], "{damage}");
        assert_eq!(sorted(flows()), good, "{damage}");
    }
    live.assert_proven("repaired");
}

/// What closes something is said before it happens, and nothing else.
#[test]
fn only_what_closes_something_is_told() {
    let world = World::new(NOBODY);
    let mut live = live(world.path());
    live.apply_all();
    let check = |live: &mut Live, policies: &str| {
        world.write(policies);
        let (model, sources) = load(world.path());
        live.lab.replace(model, &sources).unwrap();
        let node = live.node("node-1");
        let files = live.lab.files(node).display().to_string();
        let run: Run = live.lab.ringfence(node, &["apply", &files, "--check"]).unwrap().into();
        assert_eq!(run.status, 2, "{}", run.stderr);
        let told = format!("{}{}", run.stdout, run.stderr);
        told.contains("! policies of shop: they change: what they no longer allow ends at once")
    };
    for (policies, closes) in
        [(CLI, false), (CLI_AGAIN, true), (NOBODY, true), (EVERYBODY, false), (CLI, true)]
    {
        assert_eq!(check(&mut live, policies), closes, "{policies}");
        live.apply_all();
    }
}
