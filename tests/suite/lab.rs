//! Real packets: every example as a live network of real Open vSwitch nodes.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::path::Path;

use crate::support::{PROGRAM, Run, directories, ringfence, root, until, written};
use ringfence::diagnostic::Sources;
use ringfence::driver::load::Loaded;
use ringfence::intent::NodeId;
use ringfence::lab::{self, Expected, Hold, Lab, Location, Observed, Probe, Setup, Summary};
use ringfence::model::{Model, Workload};
use ringfence::value::{Datapath, Port, Protocol};
use ringfence::verify::reach::{Destination, Packet, Source, reach};

/// A lab with the directory of its files, which goes with it.
pub(crate) struct Live {
    pub(crate) lab: Lab,
    _directory: tempfile::TempDir,
}

/// The datapath of every lab: in userspace, unless the caller of the tests says otherwise.
pub(crate) fn datapath() -> Datapath {
    let named = std::env::var("RINGFENCE_LAB_DATAPATH");
    named.map_or(Datapath::Netdev, |name| name.parse().unwrap())
}

pub(crate) fn load(path: &Path) -> (Model, Sources) {
    let loaded = Loaded::read(&[path.to_owned()], None, &mut std::io::empty());
    let (model, sources, report) =
        loaded.draft().unwrap_or_else(|(_, report)| panic!("{report:?}"));
    assert!(!report.has_errors(), "{report:?}");
    (model, sources)
}

pub(crate) fn live(path: &Path) -> Live {
    let (model, sources) = load(path);
    Live::up(model, &sources)
}

/// The nodes of a desired state, with its directory.
pub(crate) fn live_of(text: &str) -> (tempfile::TempDir, Live) {
    let directory = written(text);
    let live = live(directory.path());
    (directory, live)
}

pub(crate) fn example(name: &str) -> Live {
    live(&root().join("examples").join(name))
}

impl Live {
    pub(crate) fn up(model: Model, sources: &Sources) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let (hold, program) = (Hold::WithParent, Path::new(PROGRAM));
        let setup = Setup { directory: directory.path(), hold, datapath: datapath(), program };
        let lab = Lab::up(model, sources, setup).unwrap();
        Self { lab, _directory: directory }
    }

    pub(crate) fn nodes(&self) -> Vec<NodeId> {
        self.lab.model().intent().nodes().map(|(id, _)| id).collect()
    }

    pub(crate) fn node(&self, name: &str) -> NodeId {
        let mut nodes = self.lab.model().intent().nodes();
        nodes.find(|(_, node)| node.name.as_str() == name).unwrap().0
    }

    pub(crate) fn workload(&self, name: &str) -> Workload {
        let intent = self.lab.model().intent();
        let pods = intent.pods().map(|(id, _)| (intent.pod_name(id), Workload::Pod(id)));
        let routers = intent.routers().map(|(id, r)| (r.name.to_string(), Workload::Router(id)));
        pods.chain(routers).find(|(other, _)| other == name).unwrap().1
    }

    pub(crate) fn apply_all(&self) -> Vec<bool> {
        self.nodes().into_iter().map(|node| self.lab.apply(node).unwrap().changed).collect()
    }

    /// Runs a shell command on a node.
    pub(crate) fn on(&self, node: &str, command: &str) -> String {
        self.lab.node(self.node(node)).unwrap().run(None, &["sh", "-c", command]).unwrap()
    }

    /// Runs a shell command in a pod.
    pub(crate) fn within(&self, workload: &str, command: &str) -> String {
        let (host, netns) = self.lab.place(Location::Workload(self.workload(workload))).unwrap();
        host.run(netns.as_deref(), &["sh", "-c", command]).unwrap()
    }

    pub(crate) fn address(&self, workload: &str) -> Ipv4Addr {
        self.lab.model().endpoint(self.workload(workload)).address
    }

    /// Sends a few datagrams from a pod and doesn't care for an answer.
    fn datagrams(&self, from: &str, to: Ipv4Addr, source: Option<Ipv4Addr>) {
        let (host, netns) = self.lab.place(Location::Workload(self.workload(from))).unwrap();
        send(host, netns.as_deref(), SocketAddrV4::new(to, 9), source);
    }

    /// How many packets the flow with these words in it has met.
    pub(crate) fn met(&self, node: &str, table: u8, words: &str) -> u64 {
        let dump = format!("ovs-ofctl -O OpenFlow14 dump-flows br0 table={table}");
        let text = self.on(node, &dump);
        let line = text.lines().find(|line| line.contains(words));
        let line = line.unwrap_or_else(|| panic!("no `{words}` in {text}"));
        let number = line.split("n_packets=").nth(1).unwrap().split(',').next().unwrap();
        number.parse().unwrap()
    }

    /// How many datagrams a pod has received, and those to ports where nobody listens.
    pub(crate) fn received(&self, workload: &str) -> u64 {
        let text = self.within(workload, "cat /proc/net/snmp");
        let line = text.lines().filter_map(|line| line.strip_prefix("Udp: ")).nth(1).unwrap();
        line.split_whitespace().take(2).map(|number| number.parse::<u64>().unwrap()).sum()
    }

    /// A connection from a pod to the outside, as the intent has it.
    pub(crate) fn probe_outside(
        &self,
        pod: &str,
        to: SocketAddrV4,
        seen_as: Option<Ipv4Addr>,
    ) -> Probe {
        let from = self.workload(pod);
        let port = Port::new(to.port().into()).unwrap();
        let (protocol, outside) = (Protocol::Tcp, Destination::Outside(*to.ip()));
        let packet = Packet { from: Source::Workload(from), to: outside, protocol, port };
        let reach = reach(self.lab.model(), &packet);
        let want = if reach.allowed() {
            Expected::Answer { seen_as, at: Some(to) }
        } else {
            Expected::Silence
        };
        let (title, from) = (format!("{pod} to {to}"), Location::Workload(from));
        Probe { title, from, to, protocol, fetch: None, want, because: reach.because }
    }

    pub(crate) fn prove(&self) -> Summary {
        let summary = self.lab.probe(lab::plan(self.lab.model())).unwrap();
        assert_eq!(summary.counts().1, 0, "{}", summary.table());
        summary
    }
}

pub(crate) fn send(
    host: &lab::Host,
    netns: Option<&str>,
    to: SocketAddrV4,
    source: Option<Ipv4Addr>,
) {
    let source = source.map_or_else(|| "null".to_owned(), |source| format!("\"{source}\""));
    let request = format!(
        "{{\"Probe\":{{\"id\":0,\"transport\":\"Udp\",\"to\":\"{to}\",\"milliseconds\":900,\
         \"source\":{source}}}}}\n"
    );
    let output = host
        .command(netns, &[PROGRAM, "lab-agent"])
        .stdin_bytes(request)
        .stdout_capture()
        .run()
        .unwrap();
    let answer = String::from_utf8(output.stdout).unwrap();
    assert!(!answer.contains("Answered"), "{answer}");
}

/// Brings an example up, applies it twice and proves it.
fn prove_example(name: &str) -> Summary {
    let live = example(name);
    assert!(live.apply_all().iter().all(|changed| *changed), "the first run changes every node");
    assert!(live.apply_all().iter().all(|changed| !changed), "the second changes none");
    live.prove()
}

macro_rules! examples {
    ($($name:ident = $directory:literal,)*) => {
        const EXAMPLES: &[&str] = &[$($directory,)*];

        $(
            #[test]
            fn $name() {
                prove_example($directory);
            }
        )*
    };
}

examples! {
    allow_then_deny_runs = "allow-then-deny",
    bandwidth_runs = "bandwidth",
    deny_then_allow_runs = "deny-then-allow",
    dns_names_run = "dns-names",
    egress_ips_run = "egress-ips",
    egress_proxies_run = "egress-proxies",
    egress_router_runs = "egress-router",
    flat_runs = "flat",
    gateway_bridge_runs = "gateway-bridge",
    gitops_runs = "gitops",
    multicast_runs = "multicast",
    network_policies_run = "network-policies",
    node_ports_run = "node-ports",
    quickstart_runs = "quickstart",
    router_service_runs = "router-service",
    services_run = "services",
}

#[test]
fn every_example_is_run() {
    let names = directories(&root().join("examples"))
        .into_iter()
        .filter(|path| path.join("ringfence.lock").exists())
        .map(|path| path.file_name().unwrap().to_str().unwrap().to_owned())
        .collect::<Vec<_>>();
    assert_eq!(names, EXAMPLES);
}

#[test]
fn forged_packets_are_dropped_where_they_enter() {
    let live = example("quickstart");
    live.apply_all();
    live.prove();
    let (shop, bank) = ("shop/web-0", "bank/core-0");
    let bank_address = live.address(bank);
    let shop_mac = live.lab.model().endpoint(live.workload(shop)).mac;

    // Another pod's address, the gateway's, one from outside.
    let peer = live.address("shop/web-1");
    for source in [bank_address, "10.128.0.1".parse().unwrap(), "203.0.113.9".parse().unwrap()] {
        let (before, arrived) = (live.met("node-1", 20, "priority=0"), live.received("shop/web-1"));
        live.within(shop, &format!("ip addr add {source}/32 dev eth0"));
        live.datagrams(shop, peer, Some(source));
        live.within(shop, &format!("ip addr del {source}/32 dev eth0"));
        until(&format!("{source} was not dropped"), || {
            live.met("node-1", 20, "priority=0") > before
        });
        assert_eq!(live.received("shop/web-1"), arrived, "{source} got through");
    }

    // Another Ethernet address.
    let before = live.met("node-1", 20, "priority=0");
    live.within(shop, "ip link set eth0 address 02:00:00:00:00:01");
    live.datagrams(shop, peer, None);
    live.within(shop, &format!("ip link set eth0 address {shop_mac}"));
    until("the forged MAC was not dropped", || live.met("node-1", 20, "priority=0") > before);

    // A tunnel from where no node is, with the VNI of the pod that it is for.
    let vnid = live.lab.model().vnid(live.lab.model().project(live.workload(bank)));
    let mac = live.lab.model().endpoint(live.workload(bank)).mac;
    let (before, arrived) = (live.met("node-1", 10, "priority=0"), live.received(bank));
    let outside = live.lab.outside();
    let forge = format!(
        "ip link add vx0 type vxlan id {vnid} remote 192.168.12.11 local 192.168.12.1 dstport 4789 \
         && ip addr add 10.128.5.242/32 dev vx0 && ip link set vx0 up \
         && ip route add {bank_address}/32 dev vx0 src 10.128.5.242 \
         && ip neigh add {bank_address} lladdr {mac} dev vx0 && ethtool -K vx0 tx off"
    );
    outside.run(None, &["sh", "-c", &forge]).unwrap();
    let to = SocketAddrV4::new(bank_address, 9);
    send(outside, None, to, Some("10.128.5.242".parse().unwrap()));
    until("the forged tunnel was not dropped", || live.met("node-1", 10, "priority=0") > before);
    assert_eq!(live.received(bank), arrived, "the forged tunnel got through");

    // A tunnel that a pod sends to another node: it would come from the pod's own node.
    let dropped = || live.met("node-1", 99, "nw_dst=192.168.12.13,tp_dst=4789");
    let before = dropped();
    let target = live.address("bank/core-1");
    let target_mac = live.lab.model().endpoint(live.workload("bank/core-1")).mac;
    let forge = format!(
        "ip link add vx0 type vxlan id {vnid} remote 192.168.12.13 dstport 4789 dev eth0 \
         && ip addr add 10.128.1.1/32 dev vx0 && ip link set vx0 up \
         && ip route add {target}/32 dev vx0 && ip neigh add {target} lladdr {target_mac} dev vx0"
    );
    live.within(shop, &forge);
    let arrived = live.received("bank/core-1");
    live.datagrams(shop, target, Some("10.128.1.1".parse().unwrap()));
    until("the pod's tunnel was not dropped", || dropped() > before);
    assert_eq!(live.received("bank/core-1"), arrived, "the pod's tunnel got through");
}

#[test]
fn the_outside_sees_the_router_and_not_the_pod() {
    let live = example("quickstart");
    live.apply_all();
    let summary = live.prove();
    let source = "192.168.12.99";
    let through: Vec<_> = summary
        .results
        .iter()
        .filter(|(probe, _)| {
            let joined = ["shop/", "billing/"].iter().any(|name| probe.title.starts_with(name));
            joined && probe.title.contains(" router ")
        })
        .collect();
    assert_eq!(through.len(), 6, "from three nodes, by TCP and UDP");
    for (probe, seen) in through {
        let at = format!("203.0.113.25:{}", probe.to.port());
        assert_eq!(*seen, Observed::Answer { seen_as: source.to_owned(), at });
    }
}

#[test]
fn each_destination_of_a_router_sees_its_source() {
    let live = example("egress-router");
    live.apply_all();
    let summary = live.prove();
    let arrivals = |title: &str| -> Vec<(String, Observed)> {
        let probes = summary.results.iter().filter(|(probe, _)| probe.title.starts_with(title));
        probes
            .map(|(probe, seen)| (format!("{}/{}", probe.to.port(), probe.protocol), seen.clone()))
            .collect()
    };
    let expected = |source: &str, ports: &[(&str, &str)]| -> Vec<(String, Observed)> {
        let seen = |at: &str| Observed::Answer { seen_as: source.to_owned(), at: at.to_owned() };
        ports.iter().map(|(port, at)| ((*port).to_owned(), seen(at))).collect()
    };
    let any = [("40007/tcp", "203.0.113.25:40007"), ("40007/udp", "203.0.113.25:40007")];
    for pod in ["web-0", "web-1"] {
        let title = format!("shop/{pod} to router supplier");
        assert_eq!(arrivals(&title), expected("192.168.12.99", &any), "{title}");
    }
    let listed = [
        ("80/tcp", "203.0.113.25:80"),
        ("8080/tcp", "203.0.113.26:80"),
        ("8443/tcp", "203.0.113.26:443"),
        ("514/udp", "198.51.100.14:514"),
        ("3868/sctp", "198.51.100.15:3868"),
        ("40007/tcp", "203.0.113.27:40007"),
        ("40007/udp", "203.0.113.27:40007"),
    ];
    for pod in ["api-0", "api-1"] {
        let title = format!("billing/{pod} to router partners");
        let mut all = expected("192.168.12.98", &listed);
        // The fallback takes TCP and UDP.
        all.push(("40007/sctp".to_owned(), Observed::Refusal));
        assert_eq!(arrivals(&title), all, "{title}");
    }
    // The router of another project is out of reach.
    for title in ["shop/web-0 to router partners", "billing/api-0 to router supplier"] {
        let seen = arrivals(title);
        assert!(!seen.is_empty(), "{title}");
        assert!(seen.iter().all(|(_, seen)| *seen == Observed::Silence), "{title}: {seen:?}");
    }
}

#[test]
fn a_sender_without_igmp_reaches_the_members_and_no_other_node() {
    let live = example("multicast");
    live.apply_all();
    let cast = |pod: &str| {
        let title = format!("{pod} to group ");
        let mut probes = lab::plan(live.lab.model());
        probes.retain(|probe| probe.title.starts_with(&title));
        assert_eq!(probes.len(), 1, "{title}");
        let (probe, seen) = live.lab.probe(probes).unwrap().results.pop().unwrap();
        assert!(seen.is(&probe.want), "{title}: {seen:?}");
        seen
    };
    let copies =
        |names: &[&str]| Observed::Copies(names.iter().map(|&name| name.to_owned()).collect());

    let pod = "cluster-db/db-0";
    let model = live.lab.model();
    let vnid = model.vnid(model.project(live.workload(pod)));
    let entered = || live.met("node-1", 110, &format!("reg0={:#x}", vnid.get()));
    let (before, stray) = (entered(), live.met("node-3", 120, "priority=0"));
    assert_eq!(cast(pod), copies(&["cluster-db/db-1", "cluster-db/db-2"]));
    // All of them once more where the machine was too busy for the first.
    let whole = |more: u64| more > 0 && more.is_multiple_of(4);
    until("the sender sent its datagrams and something else", || whole(entered() - before));
    assert_eq!(live.met("node-3", 120, "priority=0"), stray, "a copy went where nobody is");

    let feed = ["prices/feed-1", "traders/desk-0", "traders/desk-1"];
    assert_eq!(cast("prices/feed-0"), copies(&feed));
    assert_eq!(cast("monitoring/prometheus-0"), copies(&["monitoring/prometheus-1"]));

    let before = live.met("node-1", 110, "priority=0");
    assert_eq!(cast("shop/web-0"), copies(&[]));
    let dropped = || live.met("node-1", 110, "priority=0");
    until("the drop is not counted", || dropped() >= before + 4);
}

#[test]
fn reversed_rules_block() {
    let to: SocketAddrV4 = "1.2.3.4:80".parse().unwrap();
    for (name, open) in [("allow-then-deny", true), ("deny-then-allow", false)] {
        let live = example(name);
        live.apply_all();
        let probe = |(pod, node): (&str, &str)| {
            let address = live.lab.model().intent()[live.node(node)].address;
            live.probe_outside(pod, to, Some(address))
        };
        // The pods of tools have no policy: they show that 1.2.3.4 is there all the while.
        let pods = [
            ("shop/web-0", "node-1"),
            ("shop/web-1", "node-2"),
            ("tools/mirror-0", "node-1"),
            ("tools/mirror-1", "node-2"),
        ];
        let summary = live.lab.probe(pods.map(probe).to_vec()).unwrap();
        assert_eq!(summary.results.len(), pods.len());
        for (probe, seen) in &summary.results {
            let answered = open || probe.title.starts_with("tools/");
            assert_eq!(
                matches!(probe.want, Expected::Answer { .. }),
                answered,
                "{name}: {probe:?}"
            );
            assert_eq!(
                matches!(seen, Observed::Answer { .. }),
                answered,
                "{name}: {}",
                probe.title
            );
            assert!(seen.is(&probe.want), "{name}: {}: {seen:?}", probe.title);
        }
        // The packets were sent, and it is the policy that decided.
        for node in ["node-1", "node-2"] {
            let met = |words| live.met(node, 100, words) > 0;
            let decided = || (met("nw_dst=1.2.3.0/24"), met("actions=drop"));
            until(&format!("{name}: {node}"), || decided() == (open, !open));
        }
    }
}

#[test]
fn a_lab_can_be_left_up_entered_and_taken_down() {
    let name = format!("test-{}", std::process::id());
    let lab = |words: &[&str]| ringfence(root(), words);
    let up = lab(&["lab", "up", "examples/quickstart", "--name", &name]);
    assert_eq!(up.status, 0, "{}", up.stderr);
    let again = lab(&["lab", "up", "examples/quickstart", "--name", &name]);
    assert_eq!(again.status, 1);
    assert!(again.stderr.starts_with("error[RF230]: the lab `"), "{}", again.stderr);
    let inside = lab(&["lab", "exec", "--name", &name, "shop/web-0", "ip", "-br", "addr"]);
    assert!(inside.stdout.contains("10.128.0.254/23"), "{}", inside.stdout);
    let bridge = lab(&["lab", "exec", "--name", &name, "node-2", "ovs-vsctl", "br-exists", "br0"]);
    assert_eq!(bridge.status, 0, "{}", bridge.stderr);
    let nobody = lab(&["lab", "exec", "--name", &name, "shop/web-9", "true"]);
    assert_eq!(
        nobody.stderr,
        "error[RF232]: the lab has no `shop/web-9`\n |\n = help: did you mean `shop/web-0`?\n\n1 error\n"
    );
    let down = lab(&["lab", "down", "--name", &name]);
    assert_eq!(down.status, 0, "{}", down.stderr);
    let gone = lab(&["lab", "exec", "--name", &name, "node-1", "true"]);
    assert!(gone.stderr.starts_with("error[RF232]: no lab is up"), "{}", gone.stderr);
    assert!(!lab::directory_of(&name).exists());
}

#[test]
fn the_machine_may_have_interfaces_of_the_same_names() {
    let script = "for name in eth0 w0 lan0 br0 tun0; do ip link add $name type bridge; done; \
                  exec \"$0\" lab run examples/flat";
    let run = duct::cmd!("unshare", "--net", "--", "sh", "-ec", script, PROGRAM);
    let run: Run =
        run.dir(root()).stdout_capture().stderr_capture().unchecked().run().unwrap().into();
    assert_eq!(run.status, 0, "{}", run.stderr);
}

#[test]
fn packets_follow_the_addresses_of_a_name() {
    let mut live = example("dns-names");
    let (old, new) = ("198.51.100.8", "198.51.100.9");
    let reached = |live: &Live| -> Vec<bool> {
        // bank may reach api.example.com and nothing else, office everything else.
        let pods = ["bank/teller-0", "bank/teller-1", "office/desk-0"];
        let probes = pods.into_iter().flat_map(|pod| [old, new].map(|address| (pod, address)));
        let probes = probes.map(|(pod, address)| {
            live.probe_outside(pod, SocketAddrV4::new(address.parse().unwrap(), 443), None)
        });
        let summary = live.lab.probe(probes.collect()).unwrap();
        assert_eq!(summary.counts().1, 0, "{}", summary.table());
        summary.results.iter().map(|(_, seen)| matches!(seen, Observed::Answer { .. })).collect()
    };
    live.apply_all();
    assert_eq!(reached(&live), [true, false, true, false, false, true]);
    // As `ringfence resolve` writes it when the name has another address.
    let directory = tempfile::tempdir().unwrap();
    let from = root().join("examples/dns-names");
    for file in ["network.yaml", "ringfence.lock"] {
        let text = std::fs::read_to_string(from.join(file)).unwrap().replace(old, new);
        std::fs::write(directory.path().join(file), text).unwrap();
    }
    let (model, sources) = load(directory.path());
    live.lab.replace(model, &sources).unwrap();
    assert_eq!(live.apply_all(), [true, true]);
    assert_eq!(reached(&live), [false, true, false, true, true, false]);
    assert_eq!(live.apply_all(), [false, false]);
}
