//! Continuous traffic while nodes are changed: what is lost, how long nothing arrives, and whether
//! connections stay.
//!
//! Numbered datagrams and TCP echoes go between two pods of one node, between two nodes, through
//! an egress router and from an egress IP, while the nodes are changed for other projects. Every
//! path has processes of its own: this very program in the pods' namespaces.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs;
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddrV4, TcpListener, TcpStream, UdpSocket};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use crate::lab::{Live, datapath};
use crate::support::until;
use ringfence::diagnostic::{Source, Sources};
use ringfence::driver::load::Loaded;
use ringfence::lab::Location;
use ringfence::model::Model;
use ringfence::value::Datapath;

/// What one of the processes has to do.
const JOB: &str = "RINGFENCE_TRAFFIC_JOB";
/// Its port.
const PORT_OF: &str = "RINGFENCE_TRAFFIC_PORT";
/// Datagrams a second on each path, unless the environment says otherwise.
const RATE: u64 = 2500;
const PORT: u16 = 9000;
const ROUTED: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 25);
const FIXED: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 7);

/// Nanoseconds since the machine started: the same clock in all processes.
fn now() -> u64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    u64::try_from(time.tv_sec).unwrap() * 1_000_000_000 + u64::try_from(time.tv_nsec).unwrap()
}

fn write_numbers(path: &str, rows: &[[u64; 2]]) {
    let text = rows.iter().fold(String::new(), |mut text, [a, b]| {
        let _ = writeln!(text, "{a} {b}");
        text
    });
    fs::write(path, text).unwrap();
}

fn read_numbers(path: &Path) -> Vec<[u64; 2]> {
    let text = fs::read_to_string(path).unwrap();
    let row = |line: &str| {
        let (a, b) = line.split_once(' ').unwrap();
        [a.parse().unwrap(), b.parse().unwrap()]
    };
    text.lines().map(row).collect()
}

/// Not a test: one of the processes of the others.
#[test]
fn process() {
    let Ok(job) = std::env::var(JOB) else { return };
    let words: Vec<&str> = job.split(' ').collect();
    match words[..] {
        ["send", to, rate, out, stop] => send(to, rate.parse().unwrap(), out, stop),
        ["take", out, stop] => take(out, stop),
        ["echo"] => echo(),
        ["ping", to, out, stop] => ping(to, out, stop),
        _ => panic!("{job}"),
    }
}

/// Sends numbered datagrams at a steady rate; writes the number and the time of each.
fn send(to: &str, rate: u64, out: &str, stop: &str) {
    const PAUSE: Duration = Duration::from_micros(500);
    // What the machine held up is left out rather than sent in one burst.
    const BURST: u64 = 32;
    let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
    socket.connect(to).unwrap();
    let (mut sent, mut begin, mut number) = (Vec::new(), now(), 0_u64);
    while !Path::new(stop).exists() {
        let due = (now() - begin) * rate / 1_000_000_000;
        if due > BURST {
            begin = now() - BURST * 1_000_000_000 / rate;
        }
        for _ in 0..due.min(BURST) {
            let at = now();
            let mut datagram = [0; 64];
            datagram[..8].copy_from_slice(&number.to_be_bytes());
            if socket.send(&datagram).is_ok() {
                sent.push([number, at]);
            }
            number += 1;
            begin += 1_000_000_000 / rate;
        }
        thread::sleep(PAUSE);
    }
    write_numbers(out, &sent);
}

/// The file that says that whoever is to write another has begun.
fn ready(out: &str) -> String {
    format!("{out}.ready")
}

/// Takes datagrams; writes the number and the time of each.
fn take(out: &str, stop: &str) {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, port())).unwrap();
    // This end is not what is measured.
    rustix::net::sockopt::set_socket_recv_buffer_size_force(&socket, 16 << 20).unwrap();
    fs::write(ready(out), "").unwrap();
    socket.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
    let (mut taken, mut buffer) = (Vec::new(), [0; 64]);
    loop {
        match socket.recv(&mut buffer) {
            Ok(_) => {
                let number = u64::from_be_bytes(buffer[..8].try_into().unwrap());
                taken.push([number, now()]);
            }
            Err(_) if Path::new(stop).exists() => break,
            Err(_) => {}
        }
    }
    write_numbers(out, &taken);
}

fn port() -> u16 {
    std::env::var(PORT_OF).unwrap().parse().unwrap()
}

/// Sends back what comes by TCP.
fn echo() {
    let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, port())).unwrap();
    for mut stream in listener.incoming().flatten() {
        thread::spawn(move || {
            stream.set_nodelay(true).unwrap();
            let mut buffer = [0; 16];
            while stream.read_exact(&mut buffer).is_ok() && stream.write_all(&buffer).is_ok() {}
        });
    }
}

/// Keeps one connection busy; writes the time of each echo and how long it took. A connection
/// that breaks ends with a time of 0.
fn ping(to: &str, out: &str, stop: &str) {
    let stream = loop {
        match TcpStream::connect(to) {
            Ok(stream) => break stream,
            Err(_) if Path::new(stop).exists() => return write_numbers(out, &[]),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(_) => thread::sleep(Duration::from_millis(100)),
        }
    };
    stream.set_nodelay(true).unwrap();
    stream.set_read_timeout(Some(Duration::from_mins(1))).unwrap();
    fs::write(ready(out), "").unwrap();
    let (mut echoes, mut buffer) = (Vec::new(), [7; 16]);
    while !Path::new(stop).exists() {
        let at = now();
        let back = (&stream).write_all(&buffer).and_then(|()| (&stream).read_exact(&mut buffer));
        if back.is_err() {
            echoes.push([0, 0]);
            break;
        }
        echoes.push([at, now() - at]);
        thread::sleep(Duration::from_millis(10));
    }
    write_numbers(out, &echoes);
}

/// The network of the paths, with other projects beside them.
#[derive(Clone, Debug, Default)]
struct World {
    /// Egress rules of each of the projects that are always there.
    rules: usize,
    /// What is there beside them.
    extra: BTreeSet<&'static str>,
}

impl World {
    fn yaml(&self) -> String {
        let has = |what| self.extra.contains(what);
        let mut text = "version: 1\nnodes:\n".to_owned();
        for (node, more) in [(1, ""), (2, ", egressCIDRs: [192.168.12.128/28]"), (3, "")] {
            let _ = writeln!(
                text,
                "  - {{name: node-{node}, address: 192.168.12.1{node}, uplink: {{interface: eth0, \
                 subnet: 192.168.12.0/24, gateway: 192.168.12.1}}{more}}}"
            );
        }
        text.push_str(
            "projects:\n  - name: plain\n    pods: [{name: a, node: node-1}, {name: b, node: \
             node-1}, {name: c, node: node-2}]\n  - name: routed\n    pods: [{name: a, node: \
             node-2}]\n  - name: fixed\n    pods: [{name: a, node: node-3}]\n",
        );
        let mut others = vec!["other-0", "other-1", "other-2", "other-3"];
        others.extend(has("project").then_some("added"));
        for other in &others {
            let _ = writeln!(text, "  - name: {other}\n    pods:");
            for node in 1..=3 {
                let _ = writeln!(
                    text,
                    "      - {{name: p-{node}, node: node-{node}, labels: {{app: x}}}}"
                );
            }
            if has("services") {
                text.push_str(
                    "    services: [{name: web, selector: {app: x}, ports: [{port: 80}]}]\n",
                );
            }
        }
        if has("join") {
            text.push_str("joins: [{to: other-2, projects: [other-3]}]\n");
        }
        text.push_str("egressIPs:\n  - {project: fixed, addresses: [192.168.12.130]}\n");
        if has("egress") {
            text.push_str("  - {project: other-1, addresses: [192.168.12.131]}\n");
        }
        text.push_str(
            "egressRouters:\n  - {name: path, project: routed, source: 192.168.12.99, gateway: \
             192.168.12.1, destination: 203.0.113.25, node: node-1}\n",
        );
        if has("egress") {
            text.push_str(
                "  - {name: more, project: other-2, source: 192.168.12.98, gateway: \
                 192.168.12.1, destination: 203.0.113.26, node: node-1}\n",
            );
        }
        text.push_str("egressPolicies:\n");
        for project in ["other-0", "other-1"] {
            let _ = writeln!(text, "  - project: {project}\n    rules:");
            for rule in 0..self.rules {
                let changed = usize::from(has("rule") && rule == 3) * 100;
                let (high, low) = (rule / 250 + changed, rule % 250);
                let _ = writeln!(text, "      - allow: {{cidr: 100.{high}.{low}.0/24}}");
            }
            text.push_str("      - deny: {cidr: 0.0.0.0/0}\n");
        }
        text
    }

    fn draft(&self) -> (Model, Sources) {
        drafted(self.yaml())
    }
}

/// The model of a text without a lock file.
fn drafted(text: String) -> (Model, Sources) {
    let directory = tempfile::tempdir().unwrap();
    fs::write(directory.path().join("network.yaml"), &text).unwrap();
    let loaded = Loaded::read(&[directory.path().to_owned()], None, &mut std::io::empty());
    let (model, _, _) = loaded.draft().unwrap_or_else(|(_, report)| panic!("{report:?}"));
    (model, Sources::from_texts(vec![Source::new("network.yaml", "network.yaml", text)]))
}

/// The paths: a name, who sends, who takes, and the address that is sent to.
const PATHS: [(&str, &str, Option<&str>); 4] = [
    ("one node", "plain/a", Some("plain/b")),
    ("two nodes", "plain/a", Some("plain/c")),
    ("router", "routed/a", None),
    ("egress IP", "fixed/a", None),
];

/// A phase of the run: what is done, and when it began.
type Phase = (&'static str, u64);

struct Traffic {
    live: Live,
    directory: PathBuf,
    /// The processes, by what they do.
    handles: BTreeMap<String, Vec<duct::Handle>>,
}

impl Traffic {
    fn start(live: Live, rate: u64, directory: &Path) -> Self {
        let mut traffic = Self { live, directory: directory.to_owned(), handles: BTreeMap::new() };
        let routes = format!(
            "ip route replace local {ROUTED}/32 dev lo; \
                              ip route replace local {FIXED}/32 dev lo"
        );
        traffic.live.lab.outside().run(None, &["sh", "-c", &routes]).unwrap();
        // The two paths that leave the cluster end in one place, told apart by their addresses.
        for (number, (_, from, to)) in PATHS.iter().enumerate() {
            let target = match (to, *from) {
                (Some(pod), _) => traffic.live.address(pod),
                (None, "routed/a") => traffic.live.address("path"),
                (None, _) => FIXED,
            };
            let port = PORT + u16::try_from(number).unwrap();
            let address = SocketAddrV4::new(target, port);
            let file =
                |what: &str| directory.join(format!("{number}.{what}")).display().to_string();
            let (stop, end) = (file_of(directory, "stop"), file_of(directory, "end"));
            let taker =
                to.map_or(Location::Outside, |to| Location::Workload(traffic.live.workload(to)));
            traffic.run(taker, port, &format!("take {} {end}", file("taken")));
            traffic.run(taker, port, "echo");
            let sender = Location::Workload(traffic.live.workload(from));
            traffic.run(sender, port, &format!("ping {address} {} {stop}", file("echoes")));
            until("nobody is there to send to", || {
                ["taken", "echoes"].iter().all(|what| Path::new(&ready(&file(what))).exists())
            });
            let job = format!("send {address} {rate} {} {stop}", file("sent"));
            traffic.run(sender, port, &job);
        }
        traffic
    }

    fn run(&mut self, place: Location, port: u16, job: &str) {
        let (host, netns) = self.live.lab.place(place).unwrap();
        let own = std::env::current_exe().unwrap().display().to_string();
        let words = [own.as_str(), "traffic::process", "--exact", "--nocapture"];
        let command = host.command(netns.as_deref(), &words).env(JOB, job);
        let command = command.env(PORT_OF, port.to_string()).stdin_null().stdout_null();
        let what = job.split(' ').next().unwrap().to_owned();
        self.handles.entry(what).or_default().push(command.unchecked().start().unwrap());
    }

    /// Asks for another network and changes node after node.
    fn change(&mut self, world: &World, millis: &mut Vec<u128>) {
        let (model, sources) = world.draft();
        self.live.lab.replace(model, &sources).unwrap();
        for node in self.live.nodes() {
            let begin = std::time::Instant::now();
            self.live.lab.apply(node).unwrap();
            millis.push(begin.elapsed().as_millis());
        }
    }

    fn stop(mut self) -> PathBuf {
        fs::write(self.directory.join("stop"), "").unwrap();
        self.wait_for(&["send", "ping"]);
        // What is still on its way.
        thread::sleep(Duration::from_secs(2));
        fs::write(self.directory.join("end"), "").unwrap();
        self.wait_for(&["take"]);
        let Self { live, directory, handles } = self;
        drop(live);
        for handle in handles.into_values().flatten() {
            let _ = handle.wait();
        }
        directory
    }

    fn wait_for(&mut self, jobs: &[&str]) {
        for handle in jobs.iter().flat_map(|job| self.handles.remove(*job).unwrap_or_default()) {
            handle.wait().unwrap();
        }
    }
}

fn file_of(directory: &Path, name: &str) -> String {
    directory.join(name).display().to_string()
}

#[test]
fn a_connection_to_a_service_outlives_the_pods_that_come_to_it_and_the_end_of_its_own_readiness() {
    let text = |first: &str, second: &str| {
        format!(
            "version: 1\nnodes:\n  - {{name: node-1, address: 192.168.12.11}}\n  - {{name: node-2, \
             address: 192.168.12.12}}\nprojects:\n  - name: shop\n    pods:\n      - {{name: client, \
             node: node-1}}\n      - {{name: first, node: node-2, labels: {{app: x}}{first}}}\n      - {{name: \
             second, node: node-1{second}}}\n    services: [{{name: web, selector: {{app: x}}, \
             clusterIP: 172.30.0.10, ports: [{{port: {PORT}}}]}}]\n"
        )
    };
    let directory = tempfile::tempdir().unwrap();
    let (model, sources) = drafted(text("", ""));
    let live = Live::up(model, &sources);
    live.apply_all();
    let workload = |live: &Live, name| Location::Workload(live.workload(name));
    let mut traffic =
        Traffic { live, directory: directory.path().to_owned(), handles: BTreeMap::new() };
    for pod in ["shop/first", "shop/second"] {
        let place = workload(&traffic.live, pod);
        traffic.run(place, PORT, "echo");
    }
    let (out, stop) = (file_of(directory.path(), "echoes"), file_of(directory.path(), "stop"));
    let client = workload(&traffic.live, "shop/client");
    traffic.run(client, PORT, &format!("ping 172.30.0.10:{PORT} {out} {stop}"));
    until("nobody answers", || Path::new(&ready(&out)).exists());
    let mut times = Vec::new();
    for first in ["", ", ready: false"] {
        thread::sleep(Duration::from_secs(2));
        let (model, sources) = drafted(text(first, ", labels: {app: x}"));
        traffic.live.lab.replace(model, &sources).unwrap();
        assert_eq!(traffic.live.apply_all(), [true, true]);
        times.push(now());
    }
    // Now only the second gets new connections.
    let group = traffic.live.on("node-1", "ovs-ofctl -O OpenFlow15 dump-groups br0");
    assert_eq!(group.matches("nat(dst=").count(), 1, "{group}");
    thread::sleep(Duration::from_secs(2));
    traffic.stop();
    let echoes = read_numbers(Path::new(&out));
    assert!(!echoes.contains(&[0, 0]), "the connection broke");
    // There are two seconds after each change; what a busy machine makes of them doesn't matter.
    for time in times {
        let after = echoes.iter().filter(|[at, _]| (time..time + 2_000_000_000).contains(at));
        let after = after.count();
        assert!(after >= 2, "{after} of {} echoes", echoes.len());
    }
}

/// What happened on one path in one phase.
#[derive(Clone, Copy, Debug, Default)]
struct Observed {
    sent: usize,
    lost: usize,
    /// The longest time in which nothing arrived, in microseconds.
    gap: u64,
    echoes: usize,
    /// The slowest echo, in microseconds.
    slowest: u64,
    broken: bool,
}

fn milliseconds(microseconds: u64) -> f64 {
    Duration::from_micros(microseconds).as_secs_f64() * 1000.0
}

fn seen(directory: &Path, path: usize, begin: u64, end: u64) -> Observed {
    let rows = |what: &str| read_numbers(&directory.join(format!("{path}.{what}")));
    let within = |at: u64| (begin..end).contains(&at);
    let taken = rows("taken");
    let numbers: BTreeSet<u64> = taken.iter().map(|[number, _]| *number).collect();
    let sent = rows("sent");
    let sent: Vec<u64> = sent.iter().filter(|row| within(row[1])).map(|row| row[0]).collect();
    let lost = sent.iter().filter(|number| !numbers.contains(number)).count();
    let mut times: Vec<u64> = taken.iter().map(|row| row[1]).filter(|at| within(*at)).collect();
    times.sort_unstable();
    let gap = times.windows(2).map(|pair| (pair[1] - pair[0]) / 1000).max().unwrap_or(u64::MAX);
    let echoes = rows("echoes");
    let broken = echoes.iter().any(|row| row[0] == 0);
    let echoes: Vec<u64> = echoes.iter().filter(|row| within(row[0])).map(|row| row[1]).collect();
    let slowest = echoes.iter().max().map_or(u64::MAX, |time| time / 1000);
    Observed { sent: sent.len(), lost, gap, echoes: echoes.len(), slowest, broken }
}

#[test]
fn other_projects_come_and_go_and_no_connection_breaks() {
    let rate = number("RINGFENCE_TRAFFIC_RATE", RATE);
    // The kernel loses nothing. In userspace, Open vSwitch does while it reads interfaces and
    // routes anew, or is kept from its processor for longer than its socket buffers last;
    // ARCHITECTURE.md has figures. On a machine that is too busy for the rate, a tenth of it has to
    // come through: there the buffers last for a second.
    let rates = match datapath() {
        Datapath::System => vec![(rate, 0)],
        Datapath::Netdev => vec![(rate, rate / 4), (rate / 10, rate / 20)],
    };
    let mut lost = String::new();
    for (rate, most) in rates {
        let (table, all) = come_and_go(rate);
        println!("{table}");
        let place = |phase: &Phase, path: usize| format!("{}, {}", phase.0, PATHS[path].0);
        for (phase, path, seen) in &all {
            let whole = !seen.broken && seen.echoes > 0;
            assert!(whole, "a connection broke: {}:\n{table}", place(phase, *path));
        }
        let more = all.iter().find(|(.., seen)| u64::try_from(seen.lost).unwrap() > most);
        let Some((phase, path, _)) = more else { return };
        lost = format!("{}:\n{table}", place(phase, *path));
    }
    panic!("{lost}");
}

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |text| text.parse().unwrap())
}

/// Sends on every path while other projects come and go. Returns what happened in each phase on
/// each path, and all of it as a table.
fn come_and_go(rate: u64) -> (String, Vec<(Phase, usize, Observed)>) {
    let rules = usize::try_from(number("RINGFENCE_TRAFFIC_RULES", 100)).unwrap();
    let mut world = World { rules, extra: BTreeSet::new() };
    let (model, sources) = world.draft();
    let live = Live::up(model, &sources);
    live.apply_all();
    live.prove();
    let files = tempfile::tempdir().unwrap();
    let mut traffic = Traffic::start(live, rate, files.path());
    thread::sleep(Duration::from_secs(2));
    let mut phases: Vec<Phase> = Vec::new();
    let mut millis: Vec<Vec<u128>> = Vec::new();
    let pause = || thread::sleep(Duration::from_secs(2));
    phases.push(("nothing is done", now()));
    millis.push(Vec::new());
    thread::sleep(Duration::from_secs(6));
    let toggles: [(&'static str, &'static str); 10] = [
        ("nothing differs", ""),
        ("a project comes", "project"),
        ("a rule changes", "rule"),
        ("two projects join", "join"),
        ("services come", "services"),
        ("egress IP and router come", "egress"),
        ("egress IP and router go", "egress"),
        ("services go", "services"),
        ("two projects part", "join"),
        ("a project goes", "project"),
    ];
    for (what, toggle) in toggles {
        if !toggle.is_empty() && !world.extra.remove(toggle) {
            world.extra.insert(toggle);
        }
        phases.push((what, now()));
        let mut times = Vec::new();
        traffic.change(&world, &mut times);
        millis.push(times);
        pause();
    }
    let end = now();
    let directory = traffic.stop();
    let mut table = format!(
        "{:<28}{:<11}{:>8}{:>8}{:>6}{:>10}{:>8}{:>12}\n",
        "", "path", "sent", "arrived", "lost", "gap ms", "echoes", "slowest ms"
    );
    let mut all: Vec<(Phase, usize, Observed)> = Vec::new();
    for (n, phase) in phases.iter().enumerate() {
        let until = phases.get(n + 1).map_or(end, |next| next.1);
        for (path, (name, ..)) in PATHS.iter().enumerate() {
            let s = seen(&directory, path, phase.1, until);
            let _ = writeln!(
                table,
                "{:<28}{:<11}{:>8}{:>8}{:>6}{:>10.1}{:>8}{:>12.1}{}",
                if path == 0 { phase.0 } else { "" },
                name,
                s.sent,
                s.sent - s.lost,
                s.lost,
                milliseconds(s.gap),
                s.echoes,
                milliseconds(s.slowest),
                if path == 0 { format!("  {:?} ms", millis[n]) } else { String::new() },
            );
            all.push((*phase, path, s));
        }
    }
    (table, all)
}
