//! What the real tools make of the output: Open vSwitch, nft and sh.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

use crate::lab::{Live, datapath, example};
use crate::support::{root, tree};
use ringfence::diagnostic::Sources;
use ringfence::emit::Renderer;
use ringfence::intent::NodeId;
use ringfence::lower::{ClusterFlows, Plan};
use ringfence::model::{Model, Workload};
use ringfence::pipeline::OfPort;
use ringfence::value::{Datapath, Port, Protocol};
use ringfence::verify::reach::{Destination, Packet, Source, leaves, reach};

/// The golden files with this ending.
fn golden(ending: &str) -> Vec<PathBuf> {
    let golden = root().join("golden");
    let files: Vec<PathBuf> = tree(&golden)
        .into_keys()
        .filter(|path| path.to_string_lossy().ends_with(ending))
        .map(|path| golden.join(path))
        .collect();
    assert!(!files.is_empty());
    files
}

fn run(words: &[&str]) -> std::process::Output {
    duct::cmd(words[0], &words[1..])
        .stdin_null()
        .stdout_capture()
        .stderr_capture()
        .unchecked()
        .run()
        .unwrap_or_else(|error| panic!("{}: {error}", words[0]))
}

/// The flows of a file, as `parse-flows` prints them.
fn expected(path: &Path) -> Vec<String> {
    let text = fs::read_to_string(path).unwrap();
    let flows = text.lines().filter(|line| line.contains("actions="));
    flows
        .map(|line| {
            let line = line.split(" # ").next().unwrap();
            let (cookie, rest) = line.split_once(", ").unwrap();
            let cookie = cookie.replace("cookie=", "cookie:");
            let (table, rest) = rest.split_once(", ").unwrap();
            let table = match table {
                "table=0" => String::new(),
                table => format!("{} ", table.replace('=', ":")),
            };
            let (matches, actions) = rest.split_once(" actions=").unwrap();
            let matches = match matches {
                "priority=0" => "priority=0".to_owned(),
                matches => matches.to_owned(),
            };
            format!("ADD {table}{matches} {cookie} actions={actions}")
        })
        .collect()
}

#[test]
fn open_vswitch_parses_every_golden_flow_without_changing_it() {
    for path in golden("flows.ofctl") {
        let file = path.to_str().unwrap();
        let output = run(&["ovs-ofctl", "-O", "OpenFlow14", "parse-flows", file]);
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!((output.status.code(), stderr.as_ref()), (Some(0), ""), "{file}");
        let stdout = String::from_utf8(output.stdout).unwrap();
        let parsed: Vec<&str> = stdout
            .lines()
            .filter_map(|line| line.split_once("): ").map(|(_, flow)| flow))
            .collect();
        let expected = expected(&path);
        for (parsed, expected) in parsed.iter().zip(&expected) {
            assert_eq!(parsed, expected, "{file}");
        }
        assert_eq!(parsed.len(), expected.len(), "{file}");
    }
}

#[test]
fn a_bridge_that_was_loaded_by_hand_has_no_difference() {
    let live = example("quickstart");
    let host = live.lab.node(live.nodes()[0]).unwrap();
    live.on(
        "node-1",
        "ovs-vsctl add-br br0 -- set bridge br0 datapath_type=netdev fail_mode=secure \
         protocols=OpenFlow13,OpenFlow14,OpenFlow15",
    );
    for path in golden("flows.ofctl") {
        let file = path.to_str().unwrap();
        let ofctl = |words: &[&str]| {
            let words: Vec<&str> =
                ["ovs-ofctl", "-O", "OpenFlow14"].iter().chain(words).copied().collect();
            host.output(None, &words).unwrap()
        };
        let groups = path.with_file_name("groups.ofctl");
        let groups = groups.exists().then(|| groups.to_str().unwrap().to_owned());
        if let Some(file) = &groups {
            // Twice: a file that was loaded already changes nothing.
            for _ in 0..2 {
                live.on("node-1", &format!("ovs-ofctl -O OpenFlow15 add-groups br0 {file}"));
            }
        }
        let meters = path.with_file_name("meters.sh");
        if meters.exists() {
            live.on("node-1", &format!("sh {0} && sh {0}", meters.display()));
        }
        let output = ofctl(&["--bundle", "replace-flows", "br0", file]);
        assert!(output.status.success(), "{file}: {}", String::from_utf8_lossy(&output.stderr));
        let output = ofctl(&["diff-flows", "br0", file]);
        let difference = String::from_utf8_lossy(&output.stdout);
        assert_eq!((output.status.code(), difference.as_ref()), (Some(0), ""), "{file}");
        if let Some(file) = &groups {
            let text = fs::read_to_string(file).unwrap();
            let wanted = text.lines().filter_map(|line| line.strip_prefix("add_or_mod "));
            let mut wanted: Vec<&str> = wanted.map(|g| g.split(" # ").next().unwrap()).collect();
            let live = live.on("node-1", "ovs-ofctl -O OpenFlow15 dump-groups br0");
            let mut live: Vec<&str> = live.lines().skip(1).map(str::trim).collect();
            wanted.sort_unstable();
            live.sort_unstable();
            assert_eq!(live, wanted, "{file}");
        }
        live.on(
            "node-1",
            "ovs-ofctl -O OpenFlow15 del-groups br0; ovs-ofctl -O OpenFlow14 del-meters br0",
        );
    }
}

#[test]
fn nft_accepts_every_golden_ruleset() {
    for path in golden("ruleset.nft") {
        let file = path.to_str().unwrap();
        let output = run(&["unshare", "--net", "nft", "-c", "-f", file]);
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!((output.status.code(), stderr.as_ref()), (Some(0), ""), "{file}");
    }
}

#[test]
fn squid_and_haproxy_accept_every_golden_configuration() {
    for (ending, words) in [
        ("squid.conf", &["squid", "-k", "parse", "-f"][..]),
        ("haproxy.cfg", &["haproxy", "-c", "-f"]),
    ] {
        for path in golden(ending) {
            let file = path.to_str().unwrap();
            let output = run(&[words, &[file]].concat());
            let stderr = String::from_utf8_lossy(&output.stderr);
            assert_eq!(output.status.code(), Some(0), "{file}: {stderr}");
            for word in ["WARNING", "ERROR", "warning"] {
                assert!(!stderr.contains(word), "{file}: {stderr}");
            }
        }
    }
}

#[test]
fn sh_parses_every_golden_script() {
    for path in golden(".sh") {
        let output = run(&["sh", "-n", path.to_str().unwrap()]);
        assert!(output.status.success(), "{}", path.display());
    }
}

/// The first node, with its files.
pub(crate) fn first_node(model: &Model, sources: &Sources) -> (NodeId, BTreeMap<String, Vec<u8>>) {
    let common = ClusterFlows::new(model).unwrap();
    let (node, _) = model.intent().nodes().next().unwrap();
    let plan = Plan::of(&common, node).unwrap();
    (node, Renderer::new(model, sources).unwrap().node(node, &plan).unwrap().files)
}

#[test]
fn a_thousand_pods_are_behind_a_service() {
    const PODS: usize = 1000;
    let mut text =
        "version: 1\ncluster: {podNetworks: [{cidr: 10.0.0.0/9, hostPrefix: 20}]}\nnodes: \
                    [{name: node-1, address: 192.168.12.11}]\nprojects:\n  - name: wide\n    \
                    services:\n      - {name: any, selector: {app: x}, ports: [{port: 80, \
                    targetPort: 8080}]}\n      - {name: same, selector: {app: x}, sessionAffinity: \
                    ClientIP, ports: [{port: 80, targetPort: 8080}]}\n    pods:\n"
            .to_owned();
    for pod in 0..PODS {
        let _ = writeln!(text, "      - {{name: pod-{pod}, node: node-1, labels: {{app: x}}}}");
    }
    let (model, sources) = crate::world::model(vec![text]);
    let (_, files) = first_node(&model, &sources);
    let live = example("flat");
    live.apply_all();
    let file = live.lab.files(live.nodes()[0]).join("wide.ofctl");
    fs::write(&file, &files["groups.ofctl"]).unwrap();
    let host = live.lab.node(live.nodes()[0]).unwrap();
    let ofctl = |words: &[&str]| {
        host.run(None, &[&["ovs-ofctl", "-O", "OpenFlow15"][..], words].concat()).unwrap()
    };
    ofctl(&["add-groups", "br0", file.to_str().unwrap()]);
    let groups = ofctl(&["dump-groups", "br0"]);
    let sizes: Vec<usize> = groups
        .lines()
        .filter(|line| line.contains("group_id="))
        .map(|line| line.matches("nat(dst=").count())
        .collect();
    assert_eq!(sizes, [PODS, PODS]);
}

/// Where a traced packet comes out.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Traced {
    Dropped,
    Port(u16),
    Tunnel(Ipv4Addr),
}

fn trace(live: &Live, node: NodeId, packet: &str) -> Traced {
    let mut copies = trace_copies(live, node, packet);
    assert!(copies.len() <= 1, "{packet}: {copies:?}");
    copies.pop().unwrap_or(Traced::Dropped)
}

/// Where the copies of a traced packet come out, sorted.
fn trace_copies(live: &Live, node: NodeId, packet: &str) -> Vec<Traced> {
    let host = live.lab.node(node).unwrap();
    let text = host.run(None, &["ovs-appctl", "ofproto/trace", "br0", packet]).unwrap();
    let verdict = text.lines().rfind(|line| line.starts_with("Datapath actions: ")).unwrap();
    if verdict == "Datapath actions: drop" {
        return Vec::new();
    }
    let mut copies = Vec::new();
    let mut lines = text.lines().map(str::trim).peekable();
    let mut towards = "";
    while let Some(line) = lines.next() {
        let tunnel = line.strip_prefix("set_field:").and_then(|set| set.strip_suffix("->tun_dst"));
        towards = tunnel.unwrap_or(towards);
        // In userspace with more about the next hop.
        if line.starts_with("-> tunneling to ") || line == "-> output to kernel tunnel" {
            copies.push(Traced::Tunnel(towards.parse().unwrap()));
        }
        let port = line.strip_prefix("-> output port is ").or(line.strip_prefix("output:"));
        let skipped = lines.peek().is_some_and(|next| next.contains("skipping output to input"));
        if let Some(port) = port.and_then(|port| port.parse().ok()).filter(|_| !skipped)
            && port != OfPort::VXLAN.get()
        {
            copies.push(Traced::Port(port));
        }
    }
    assert!(!copies.is_empty(), "no output in {text}");
    copies.sort();
    copies
}

/// Traces a packet of a pod through the bridges that it crosses.
fn follow(
    live: &Live,
    from: Workload,
    to: Ipv4Addr,
    protocol: Protocol,
    port: u16,
) -> (NodeId, Traced) {
    let model = live.lab.model();
    let endpoint = model.endpoint(from);
    let node = model.node(from);
    let packet =
        format!("{protocol},nw_src={},nw_dst={to},{protocol}_dst={port}", endpoint.address);
    let first = trace(
        live,
        node,
        &format!("in_port={},dl_src={},{packet}", endpoint.port.get(), endpoint.mac),
    );
    let Traced::Tunnel(address) = first else { return (node, first) };
    let mut nodes = model.intent().nodes();
    let (other, _) = nodes.find(|(_, node)| node.address == address).unwrap();
    let vni = model.vnid(model.project(from));
    let source = model.intent()[node].address;
    let tunnel = format!("in_port={},tun_id={vni},tun_src={source}", OfPort::VXLAN.get());
    (other, trace(live, other, &format!("{tunnel},{packet}")))
}

#[test]
fn traces_agree_with_the_intent() {
    let live = example("quickstart");
    live.apply_all();
    live.lab.probe(Vec::new()).unwrap(); // brings the tunnels up
    let model = live.lab.model();
    let intent = model.intent();
    let workloads: Vec<Workload> =
        live.nodes().iter().flat_map(|node| model.workloads(*node)).collect();
    let mut traced = 0;
    for &from in &workloads {
        let node = model.node(from);
        let allowed = |to: Destination, protocol, port: u16| {
            let port = Port::new(port.into()).unwrap();
            reach(model, &Packet { from: Source::Workload(from), to, protocol, port }).allowed()
        };
        for &to in workloads.iter().filter(|to| **to != from) {
            let endpoint = model.endpoint(to);
            let arrival = follow(&live, from, endpoint.address, Protocol::Tcp, 80);
            let expected = if allowed(Destination::Workload(to), Protocol::Tcp, 80) {
                Traced::Port(endpoint.port.get())
            } else {
                Traced::Dropped
            };
            assert_eq!(arrival, (model.node(to), expected), "{from:?} to {to:?}");
            traced += 1;
        }
        for (address, protocol, port) in [
            (Ipv4Addr::new(8, 8, 8, 8), Protocol::Tcp, 80),
            (Ipv4Addr::new(198, 51, 100, 9), Protocol::Tcp, 443),
            (Ipv4Addr::new(198, 51, 100, 9), Protocol::Tcp, 80),
            (Ipv4Addr::new(198, 51, 100, 9), Protocol::Udp, 443),
            (Ipv4Addr::new(203, 0, 113, 25), Protocol::Udp, 4789),
            (Ipv4Addr::BROADCAST, Protocol::Udp, 67),
            (Ipv4Addr::new(239, 1, 2, 3), Protocol::Udp, 5000),
            (intent[node].address, Protocol::Udp, 53),
            (intent[node].address, Protocol::Tcp, 53),
            (intent[node].address, Protocol::Tcp, 22),
        ] {
            let arrival = follow(&live, from, address, protocol, port);
            let number = Port::new(port.into()).unwrap();
            let (sender, to) = (Source::Workload(from), Destination::Outside(address));
            let packet = Packet { from: sender, to, protocol, port: number };
            let expected = if leaves(model, from, address, &packet).allowed() {
                Traced::Port(OfPort::TUN.get())
            } else {
                Traced::Dropped
            };
            assert_eq!(arrival, (node, expected), "{from:?} to {address}:{port}/{protocol}");
            traced += 1;
        }
    }
    assert_eq!(traced, 9 * 8 + 9 * 10);
}

#[test]
fn traces_of_multicast_agree_with_the_intent() {
    let live = example("multicast");
    live.apply_all();
    live.lab.probe(Vec::new()).unwrap(); // brings the tunnels up
    let model = live.lab.model();
    let workloads: Vec<Workload> =
        live.nodes().iter().flat_map(|node| model.workloads(*node)).collect();
    let port = Port::new(5000).unwrap();
    let mut copied = 0;
    for &from in &workloads {
        let (node, endpoint) = (model.node(from), model.endpoint(from));
        let packet = format!(
            "udp,dl_dst=01:00:5e:01:02:03,nw_src={},nw_dst=239.1.2.3,udp_dst=5000,dl_src={}",
            endpoint.address, endpoint.mac
        );
        let mut arrivals = Vec::new();
        let entry = format!("in_port={},{packet}", endpoint.port.get());
        for copy in trace_copies(&live, node, &entry) {
            let Traced::Tunnel(address) = copy else {
                arrivals.push((node, copy));
                continue;
            };
            let mut nodes = model.intent().nodes();
            let (other, _) = nodes.find(|(_, node)| node.address == address).unwrap();
            let (vni, source) = (model.vnid(model.project(from)), model.intent()[node].address);
            let tunnel = format!("in_port={},tun_id={vni},tun_src={source}", OfPort::VXLAN.get());
            let there = trace_copies(&live, other, &format!("{tunnel},{packet}"));
            assert!(!there.is_empty(), "{from:?}: a copy that nobody needs");
            arrivals.extend(there.into_iter().map(|copy| (other, copy)));
        }
        arrivals.sort();
        let members = workloads.iter().filter(|to| {
            let (from, to) = (Source::Workload(from), Destination::Member(**to));
            reach(model, &Packet { from, to, protocol: Protocol::Udp, port }).allowed()
        });
        let place = |to: &Workload| (model.node(*to), Traced::Port(model.endpoint(*to).port.get()));
        let mut expected: Vec<_> = members.map(place).collect();
        expected.sort();
        assert_eq!(arrivals, expected, "{from:?}");
        copied += arrivals.len();
    }
    // Three of one project, four of two that are joined, two of the global one.
    assert_eq!(copied, 3 * 2 + 4 * 3 + 2);
}

#[test]
fn three_thousand_nodes_get_copies() {
    const NODES: usize = 3001;
    let (model, sources) = crate::world::model(vec![crate::properties::wide(NODES, 2)]);
    let (first, files) = first_node(&model, &sources);
    let live = example("flat");
    live.apply_all();
    let host = live.lab.node(live.nodes()[0]).unwrap();
    let file = live.lab.files(live.nodes()[0]).join("wide.ofctl");
    fs::write(&file, &files["flows.ofctl"]).unwrap();
    let file = file.to_str().unwrap();
    for words in
        [["--bundle", "replace-flows", "br0", file], ["diff-flows", "--names", "br0", file]]
    {
        let words = [&["ovs-ofctl", "-O", "OpenFlow14"][..], &words].concat();
        let output = host.output(None, &words).unwrap();
        let stdout = String::from_utf8_lossy(&output.stdout);
        assert_eq!((output.status.code(), stdout.as_ref()), (Some(0), ""), "{words:?}");
    }
    let mut workloads = model.workloads(first).map(|workload| model.endpoint(workload));
    let (from, to) = (workloads.next().unwrap(), workloads.next().unwrap());
    for port in [from.port.get(), to.port.get()] {
        let add = format!(
            "ovs-vsctl add-port br0 p{port} -- set interface p{port} type=internal \
             ofport_request={port}"
        );
        host.run(None, &["sh", "-c", &add]).unwrap();
    }
    if datapath() == Datapath::Netdev {
        // The next hop of all tunnels: what isn't known is not copied to.
        let mac = "02:00:00:00:00:01";
        host.run(None, &["ovs-appctl", "tnl/neigh/set", "br-phy", "192.168.12.1", mac]).unwrap();
    }
    let packet = format!(
        "in_port={},udp,dl_src={},dl_dst=01:00:5e:01:02:03,nw_src={},nw_dst=239.1.2.3,udp_dst=5000",
        from.port.get(),
        from.mac,
        from.address
    );
    let text = host.run(None, &["ovs-appctl", "ofproto/trace", "br0", &packet]).unwrap();
    assert!(!text.contains("yielded over"), "translation was cut short");
    let lines = text.lines().filter(|line| line.starts_with("Datapath actions: "));
    let copy = match datapath() {
        Datapath::Netdev => ",ipv4(src=",
        Datapath::System => "set(tunnel(",
    };
    let copies = lines.flat_map(|line| line.split(copy).skip(1));
    let mut to: Vec<&str> = copies
        .map(|copy| copy.split(',').find(|field| field.starts_with("dst=")).unwrap())
        .collect();
    let mut expected: Vec<String> = model
        .intent()
        .nodes()
        .filter(|(id, _)| *id != first)
        .map(|(_, node)| format!("dst={}", node.address))
        .collect();
    expected.sort();
    to.sort_unstable();
    assert_eq!(to, expected);
}
