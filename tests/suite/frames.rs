//! Frames that no kernel sends: datagrams cut anywhere, tags, broken headers, odd ethertypes. What is
//! forbidden as a whole arrives in no form, and what is allowed arrives however it is cut.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use crate::lab::{Live, datapath, live};
use crate::support::root;
use ringfence::lab::{Host, Location};
use ringfence::value::Datapath;

/// `only` may send little outside, `logs` nearly everything, and `bank` is somebody else.
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
  - name: only
    pods: [{name: o0, node: node-1}, {name: o1, node: node-1}]
  - name: logs
    pods: [{name: l0, node: node-1}, {name: l1, node: node-2, labels: {app: log}}]
    services:
      - {name: log, clusterIP: 172.30.0.10, type: NodePort, selector: {app: log},
         ports: [{port: 5140, targetPort: 5141, protocol: UDP, nodePort: 30514}]}
  - name: bank
    pods: [{name: core, node: node-2, labels: {app: core}}]
    services:
      - {name: core, clusterIP: 172.30.0.20, type: NodePort, selector: {app: core},
         ports: [{name: u, port: 80, targetPort: 8080, protocol: UDP, nodePort: 30080},
                 {name: t, port: 80, targetPort: 8080, protocol: TCP, nodePort: 30080}]}
egressPolicies:
  - project: only
    rules:
      - allow: {cidr: 203.0.113.0/24, ports: [{port: 514, protocol: udp}, {port: 443}]}
      - deny: {cidr: 0.0.0.0/0}
  - project: logs
    rules:
      - deny: {cidr: 203.0.113.0/24, ports: [{port: 517, protocol: udp}, {port: 25}]}
";

const HOST: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 7);
const NODES: [Ipv4Addr; 2] = [Ipv4Addr::new(192, 168, 12, 11), Ipv4Addr::new(192, 168, 12, 12)];
pub(crate) const UDP: u8 = 17;
pub(crate) const TCP: u8 = 6;
/// The payload of most datagrams, behind the mark.
pub(crate) const SIZE: usize = 64;
/// What a pod's kernel puts into the first of two fragments: the MTU less the header, in eights.
pub(crate) const LARGE: usize = 1424;

pub(crate) fn checksum(parts: &[&[u8]]) -> u16 {
    let bytes: Vec<u8> = parts.concat();
    let words =
        bytes.chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0)));
    let mut sum: u32 = words.sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !u16::try_from(sum).unwrap()
}

/// An IPv4 datagram before it is cut.
#[derive(Clone)]
pub(crate) struct Datagram {
    pub(crate) from: Ipv4Addr,
    pub(crate) to: Ipv4Addr,
    pub(crate) protocol: u8,
    pub(crate) id: u16,
    pub(crate) options: Vec<u8>,
    pub(crate) body: Vec<u8>,
}

impl Datagram {
    /// One with a mark; for TCP, a SYN with data.
    fn new(mark: u16, from: Ipv4Addr, to: (Ipv4Addr, u8, u16), size: usize) -> Self {
        let (to, protocol, port) = to;
        let mut payload = format!("mark:{mark};").into_bytes();
        payload.resize(size, b'.');
        let mut body = [4000_u16 + mark % 1000, port].map(u16::to_be_bytes).concat();
        if protocol == UDP {
            // Without a checksum, as IPv4 permits: what overlaps may be anything.
            body.extend(u16::try_from(8 + size).unwrap().to_be_bytes());
            body.extend([0, 0]);
        } else {
            body.extend([0, 0, 0, 1, 0, 0, 0, 0, 0x50, 0x02, 0xff, 0xff, 0, 0, 0, 0]);
        }
        body.extend(payload);
        let mut datagram = Self { from, to, protocol, id: mark, options: Vec::new(), body };
        if protocol == TCP {
            datagram.sum();
        }
        datagram
    }

    /// Puts the checksum of TCP in.
    fn sum(&mut self) {
        let length = u16::try_from(self.body.len()).unwrap().to_be_bytes();
        let addresses = [self.from.octets(), self.to.octets()].concat();
        let pseudo = [&addresses[..], &[0, self.protocol], &length].concat();
        self.body[16..18].fill(0);
        let sum = checksum(&[&pseudo, &self.body]);
        self.body[16..18].copy_from_slice(&sum.to_be_bytes());
    }

    /// The packet with these bytes of the body, followed by more or not.
    pub(crate) fn packet(&self, bytes: std::ops::Range<usize>, more: bool) -> Vec<u8> {
        let body = &self.body[bytes.clone()];
        let header = 20 + self.options.len();
        let offset = u16::try_from(bytes.start / 8).unwrap() | if more { 0x2000 } else { 0 };
        let mut packet = vec![0x40 | u8::try_from(header / 4).unwrap(), 0];
        packet.extend(u16::try_from(header + body.len()).unwrap().to_be_bytes());
        packet.extend(self.id.to_be_bytes());
        packet.extend(offset.to_be_bytes());
        packet.extend([64, self.protocol, 0, 0]);
        packet.extend(self.from.octets());
        packet.extend(self.to.octets());
        packet.extend(&self.options);
        let sum = checksum(&[&packet]);
        packet[10..12].copy_from_slice(&sum.to_be_bytes());
        packet.extend(body);
        packet
    }

    pub(crate) fn whole(&self) -> Vec<u8> {
        self.packet(0..self.body.len(), false)
    }

    /// In two parts, the second from this byte on.
    pub(crate) fn cut(&self, at: usize) -> Vec<Vec<u8>> {
        vec![self.packet(0..at, true), self.packet(at..self.body.len(), false)]
    }
}

/// Makes frames of one pod, each datagram with a mark of its own.
pub(crate) struct Sender<'l> {
    live: &'l Live,
    pod: &'static str,
    address: Ipv4Addr,
    /// The Ethernet address that the frames are for: the gateway's, unless somebody is to answer.
    pub(crate) towards: [u8; 6],
    marks: &'l mut u16,
    frames: Vec<Vec<u8>>,
}

impl<'l> Sender<'l> {
    pub(crate) fn new(live: &'l Live, pod: &'static str, marks: &'l mut u16) -> Self {
        let towards = [0x0a, 0x58, 10, 128, 0, 1];
        Self { live, pod, address: live.address(pod), towards, marks, frames: Vec::new() }
    }

    pub(crate) fn datagram(&mut self, to: (Ipv4Addr, u8, u16), size: usize) -> Datagram {
        *self.marks += 1;
        Datagram::new(*self.marks, self.address, to, size)
    }

    /// Takes packets as frames with this ethertype or tag before the address of IP.
    fn push(&mut self, between: &[u8], packets: impl IntoIterator<Item = Vec<u8>>) {
        let mac = self.live.lab.model().endpoint(self.live.workload(self.pod)).mac;
        for packet in packets {
            self.frames.push([&self.towards[..], &mac.bytes(), between, &packet].concat());
        }
    }

    pub(crate) fn ip(&mut self, packets: impl IntoIterator<Item = Vec<u8>>) {
        self.push(&[0x08, 0x00], packets);
    }

    /// A datagram in every way in which it can be cut and still is whole in the end.
    pub(crate) fn cuts(&mut self, to: (Ipv4Addr, u8, u16)) -> Vec<u16> {
        let mut marks = Vec::new();
        let length = 8 + SIZE;
        for at in (8..length).step_by(8) {
            for way in 0..4 {
                let mut datagram = self.datagram(to, SIZE);
                if way == 3 {
                    datagram.options = vec![1; 8];
                }
                let mut parts = datagram.cut(at);
                match way {
                    1 => parts.reverse(),
                    2 if at > 8 => {
                        let middle = datagram.packet(8..at, true);
                        parts[0] = datagram.packet(0..8, true);
                        parts.insert(1, middle);
                    }
                    _ => {}
                }
                self.ip(parts);
                marks.push(datagram.id);
            }
        }
        marks
    }

    /// A datagram in ways in which only somebody who wants to deceive cuts it.
    pub(crate) fn deceptions(&mut self, to: (Ipv4Addr, u8, u16), allowed: u16) {
        let length = 8 + SIZE;
        for at in (8..length).step_by(8) {
            // The parts overlap.
            let datagram = self.datagram(to, SIZE);
            self.ip([
                datagram.packet(0..at, true),
                datagram.packet(at - 8..datagram.body.len(), false),
            ]);
            // A beginning with another port, before, behind and after the real one.
            for order in 0..3 {
                let datagram = self.datagram(to, SIZE);
                let mut other = datagram.clone();
                other.body[2..4].copy_from_slice(&allowed.to_be_bytes());
                let mut parts = datagram.cut(at);
                parts.insert(order, other.packet(0..at, true));
                self.ip(parts);
            }
        }
        // Nothing at the beginning, and a beginning that goes on for ever.
        let datagram = self.datagram(to, SIZE);
        self.ip([datagram.packet(0..0, true), datagram.packet(0..datagram.body.len(), true)]);
        self.ip([datagram.packet(8..datagram.body.len(), false)]);
    }

    /// Broken headers: lengths, checksums, versions, and frames that end in the middle.
    fn broken(&mut self, to: (Ipv4Addr, u8, u16)) {
        for (byte, value) in [
            (0, 0x44),
            (0, 0x4f),
            (0, 0x65),
            (0, 0x05),
            (2, 0xff),
            (3, 0x10),
            (10, 0xde),
            (9, 0xff),
            (9, 0x84),
            (24, 0xff),
            (25, 0x01),
            (32, 0xf0),
            (6, 0x80),
            (6, 0x40),
        ] {
            let mut packet = self.datagram(to, SIZE).whole();
            packet[byte] = value;
            self.ip([packet]);
        }
        for length in (0..60).step_by(4) {
            let packet = self.datagram(to, SIZE).whole();
            self.ip([packet[..length].to_vec()]);
        }
    }

    /// Whole datagrams in frames with tags, and with ethertypes that hide them.
    fn tagged(&mut self, to: (Ipv4Addr, u8, u16)) {
        for between in [
            &[0x81, 0x00, 0x00, 0x00, 0x08, 0x00][..],
            &[0x81, 0x00, 0x00, 0x01, 0x08, 0x00],
            &[0x81, 0x00, 0xe0, 0x00, 0x08, 0x00],
            &[0x81, 0x00, 0x10, 0x64, 0x08, 0x00],
            &[0x81, 0x00, 0x0f, 0xff, 0x08, 0x00],
            &[0x88, 0xa8, 0x00, 0x64, 0x08, 0x00],
            &[0x91, 0x00, 0x00, 0x64, 0x08, 0x00],
            &[0x81, 0x00, 0x00, 0x64, 0x81, 0x00, 0x00, 0x65, 0x08, 0x00],
            &[0x88, 0xa8, 0x00, 0x64, 0x81, 0x00, 0x00, 0x65, 0x08, 0x00],
            // MPLS, IPv6, LLDP, PPPoE, loopback, LLC with SNAP.
            &[0x88, 0x47, 0x00, 0x01, 0x01, 0x40],
            &[0x86, 0xdd],
            &[0x88, 0xcc],
            &[0x88, 0x64, 0x11, 0x00, 0x00, 0x01, 0x00, 0x60, 0x00, 0x21],
            &[0x90, 0x00],
            &[0x00, 0x64, 0xaa, 0xaa, 0x03, 0x00, 0x00, 0x00, 0x08, 0x06],
        ] {
            let packet = self.datagram(to, SIZE).whole();
            self.push(between, [packet]);
        }
    }

    /// Segments that belong to no connection, nor begin one.
    fn invalid(&mut self, to: (Ipv4Addr, u8, u16)) {
        // No flags, SYN with FIN or RST, all of them; and a wrong checksum.
        for flags in [0x00, 0x03, 0x06, 0x3f, 0x02] {
            let mut datagram = self.datagram(to, SIZE);
            datagram.body[13] = flags;
            datagram.sum();
            if flags == 0x02 {
                datagram.body[16] ^= 0xff;
            }
            self.ip([datagram.whole()]);
        }
    }

    pub(crate) fn send(&mut self) {
        let (host, netns) =
            self.live.lab.place(Location::Workload(self.live.workload(self.pod))).unwrap();
        transmit(host, netns.as_deref(), "eth0", self.frames.drain(..));
    }
}

pub(crate) fn transmit(
    host: &Host,
    netns: Option<&str>,
    interface: &str,
    frames: impl Iterator<Item = Vec<u8>>,
) {
    let line = |frame: Vec<u8>| {
        frame.iter().map(|byte| format!("{byte:02x}")).chain(["\n".to_owned()]).collect::<String>()
    };
    let lines: String = frames.map(line).collect();
    let script = script();
    let words = ["/usr/bin/python3", script.to_str().unwrap(), "send", interface];
    host.command(netns, &words).stdin_bytes(lines).run().unwrap();
}

fn script() -> PathBuf {
    root().join("tests/suite/frames.py")
}

/// Somebody who notes the marks that arrive.
pub(crate) struct Listener {
    pub(crate) handle: duct::Handle,
    output: PathBuf,
}

impl Listener {
    pub(crate) fn start(
        host: &Host,
        netns: Option<&str>,
        words: &[&str],
        directory: &tempfile::TempDir,
    ) -> Self {
        let name = format!("{}-{}", netns.unwrap_or("node"), words.join("-"));
        let output = directory.path().join(format!("{}-{}", host.pid(), name.replace('/', "_")));
        let stop = directory.path().join("stop");
        let script = script();
        let words =
            [&["/usr/bin/python3", script.to_str().unwrap()], words, &[stop.to_str().unwrap()]];
        let handle = host.command(netns, &words.concat()).stdout_path(&output).start().unwrap();
        let listener = Self { handle, output };
        let ready = || listener.text().starts_with("ready");
        wait(&name, || (!ready()).then_some("start").into_iter().collect());
        listener
    }

    fn text(&self) -> String {
        std::fs::read_to_string(&self.output).unwrap_or_default()
    }

    pub(crate) fn marks(&self) -> BTreeSet<u16> {
        self.text().lines().filter_map(|line| line.parse().ok()).collect()
    }
}

/// Waits until nothing is lacking.
pub(crate) fn wait<T: std::fmt::Debug>(what: &str, lacking: impl Fn() -> BTreeSet<T>) {
    let end = Instant::now() + Duration::from_mins(1);
    loop {
        let lacking = lacking();
        if lacking.is_empty() {
            return;
        }
        assert!(Instant::now() < end, "{what} lacks {lacking:?}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// Sends all that may arrive nowhere, and tells the last mark.
fn send_forbidden(live: &Live) -> u16 {
    let mut marks = 0;
    let forbidden_to_only =
        [(HOST, UDP, 515), (HOST, TCP, 80), (NODES[1], UDP, 30080), (NODES[1], UDP, 4789)];
    let bank = live.address("bank/core");
    let forbidden_to_logs = [
        (HOST, UDP, 517),
        (HOST, TCP, 25),
        (NODES[0], UDP, 30080),
        (NODES[1], UDP, 30080),
        (NODES[1], TCP, 30080),
        (NODES[1], UDP, 4789),
        (Ipv4Addr::new(172, 30, 0, 20), UDP, 80),
        (bank, UDP, 8080),
        (bank, TCP, 8080),
    ];
    for (name, forbidden) in
        [("only/o0", &forbidden_to_only[..]), ("logs/l0", &forbidden_to_logs[..])]
    {
        let mut sender = Sender::new(live, name, &mut marks);
        for to in forbidden {
            let whole = sender.datagram(*to, SIZE).whole();
            sender.ip([whole]);
            sender.cuts(*to);
            // As these they may arrive, and the listeners there pass over them.
            sender.deceptions(*to, if name == "only/o0" { 514 } else { 516 });
            sender.broken(*to);
            sender.tagged(*to);
        }
        sender.send();
    }
    // What may be sent, but not with a tag.
    let neighbour = live.address("only/o1");
    let mut sender = Sender::new(live, "only/o0", &mut marks);
    sender.tagged((neighbour, UDP, 514));
    sender.tagged((HOST, UDP, 514));
    sender.send();
    // Nor what conntrack would not translate on its way out.
    let mut sender = Sender::new(live, "logs/l0", &mut marks);
    sender.invalid((HOST, TCP, 80));
    sender.send();
    // From outside, as a service or a pod: a process of the node would answer into the network.
    let sources = [Ipv4Addr::new(172, 30, 0, 20), bank, neighbour];
    let from_outside = sources.map(|source| {
        marks += 1;
        let datagram = Datagram::new(marks, source, (NODES[0], UDP, 53), SIZE);
        let node = [2, 0, 192, 168, 12, 11];
        [&node[..], &[2, 0, 0, 0, 0, 1, 0x08, 0x00], &datagram.whole()].concat()
    });
    transmit(live.lab.outside(), None, "lan0", from_outside.into_iter());
    marks
}

#[test]
fn no_frame_gets_round_a_rule_and_what_is_allowed_comes_in_fragments_too() {
    let files = tempfile::tempdir().unwrap();
    std::fs::write(files.path().join("network.yaml"), WORLD).unwrap();
    let live = live(files.path());
    live.apply_all();
    live.prove();
    live.on("node-1", "ip link set lo up");
    live.lab
        .outside()
        .run(None, &["ip", "address", "replace", "203.0.113.7/32", "dev", "lo"])
        .unwrap();
    let directory = tempfile::tempdir().unwrap();
    let listen = |host: &Host, netns: Option<&str>, words: &[&str]| {
        Listener::start(host, netns, words, &directory)
    };
    let pod = |name: &str, words: &[&str]| {
        let (host, netns) = live.lab.place(Location::Workload(live.workload(name))).unwrap();
        listen(host, netns.as_deref(), words)
    };
    let node =
        |name: &str, words: &[&str]| listen(live.lab.node(live.node(name)).unwrap(), None, words);
    let nobody = BTreeMap::from([
        ("bank/core", pod("bank/core", &["sniff", "eth0"])),
        ("only/o1", pod("only/o1", &["sniff", "eth0"])),
        ("node-2", node("node-2", &["sniff", "eth0", "514", "516"])),
        ("outside", listen(live.lab.outside(), None, &["sniff", "lan0", "514", "516"])),
    ]);
    let host = listen(live.lab.outside(), None, &["serve", "203.0.113.7", "514"]);
    let service = pod("logs/l1", &["serve", "0.0.0.0", "5141"]);
    let names = node("node-1", &["serve", "192.168.12.11", "53"]);

    let forbidden = send_forbidden(&live);
    let mut marks = forbidden;

    // Controls: what is allowed comes, and comes after all the rest.
    let mut wanted: BTreeMap<&str, Vec<u16>> = BTreeMap::new();
    let mut sender = Sender::new(&live, "only/o0", &mut marks);
    wanted.insert("host", sender.cuts((HOST, UDP, 514)));
    sender.send();
    // Conntrack in userspace takes no first fragment below 1,200 bytes, and where there are node ports,
    // it puts together what is for a node.
    // What goes to a node port gets there only where conntrack hands on the whole.
    let mut large = vec![
        ("names", "only/o0", (NODES[0], UDP, 53)),
        ("service", "logs/l0", (Ipv4Addr::new(172, 30, 0, 10), UDP, 5140)),
    ];
    if datapath() == Datapath::System {
        large.extend(NODES.map(|node| ("service", "logs/l0", (node, UDP, 30514))));
    }
    for (name, from, to) in large {
        let mut sender = Sender::new(&live, from, &mut marks);
        for reverse in [false, true] {
            let datagram = sender.datagram(to, LARGE + 16);
            let mut parts = datagram.cut(LARGE);
            if reverse {
                parts.reverse();
            }
            sender.ip(parts);
            wanted.entry(name).or_default().push(datagram.id);
        }
        sender.send();
    }
    for (name, listener) in [("host", &host), ("names", &names), ("service", &service)] {
        let wanted: BTreeSet<u16> = wanted[name].iter().copied().collect();
        wait(name, || wanted.difference(&listener.marks()).copied().collect());
    }
    std::fs::write(directory.path().join("stop"), "").unwrap();
    for listener in nobody.values().chain([&host, &service, &names]) {
        listener.handle.wait().unwrap();
    }
    for (name, listener) in &nobody {
        let arrived: Vec<u16> =
            listener.marks().into_iter().filter(|mark| *mark <= forbidden).collect();
        assert_eq!(arrived, Vec::<u16>::new(), "at {name}");
    }
    // The host may have got what began with a port that is allowed.
    for listener in [&service, &names] {
        assert!(listener.marks().iter().all(|mark| *mark > forbidden));
    }
}
