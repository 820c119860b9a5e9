//! `apply` on real nodes of the lab: idempotence, drift, removal, what is not ours.

use std::process::Output;

use crate::lab::{Live, datapath, example, live};
use crate::support::root;
use ringfence::diagnostic::{Source, Sources};
use ringfence::driver::load::Loaded;
use ringfence::lab;
use ringfence::value::Datapath;

/// What a run of ringfence on a node printed, and its exit status.
pub(crate) struct Run {
    pub(crate) stdout: String,
    pub(crate) stderr: String,
    pub(crate) status: i32,
}

impl From<Output> for Run {
    fn from(output: Output) -> Self {
        Self {
            stdout: String::from_utf8(output.stdout).unwrap(),
            stderr: String::from_utf8(output.stderr).unwrap(),
            status: output.status.code().unwrap(),
        }
    }
}

impl Live {
    /// Runs `ringfence apply` on a node with further arguments.
    pub(crate) fn apply_on(&self, node: &str, arguments: &[&str]) -> Run {
        let id = self.node(node);
        let files = self.lab.files(id).to_string_lossy().into_owned();
        let words: Vec<&str> = ["apply", files.as_str()].iter().chain(arguments).copied().collect();
        self.lab.ringfence(id, &words).unwrap().into()
    }
}

#[test]
fn a_second_run_runs_nothing_that_changes_anything() {
    let live = example("quickstart");
    for node in ["node-1", "node-2", "node-3"] {
        let first = live.apply_on(node, &["--verbose"]);
        assert_eq!(first.status, 0, "{}", first.stderr);
        assert!(
            first.stderr.contains("> ovs-ofctl -O OpenFlow14 --bundle add-flows br0 -"),
            "{}",
            first.stderr
        );
        let second = live.apply_on(node, &["--verbose"]);
        assert_eq!(
            (second.status, second.stdout.as_str(), second.stderr.as_str()),
            (0, "", format!("{node}: nothing to change\n").as_str())
        );
        let check = live.apply_on(node, &["--check"]);
        assert_eq!((check.status, check.stdout.as_str()), (0, ""));
    }
}

#[test]
fn a_check_changes_nothing_and_tells_what_a_run_does() {
    let live = example("quickstart");
    let before = state_of(&live, "node-1");
    let check = live.apply_on("node-1", &["--check", "--diff", "--verbose"]);
    assert_eq!(check.status, 2, "{}", check.stderr);
    assert_eq!(check.stderr, "node-1: 33 changes pending\n");
    assert_eq!(state_of(&live, "node-1"), before);
    let run = live.apply_on("node-1", &["--diff"]);
    assert_eq!(run.stdout, check.stdout);
    assert_eq!(run.stderr, "node-1: 33 changes applied\n");
}

/// Everything that apply may change, as text.
pub(crate) fn state_of(live: &Live, node: &str) -> String {
    live.on(
        node,
        "ovs-vsctl show | tail -n +2; ip -br link; ip netns; ip route; nft list ruleset; \
         sysctl net.ipv4.ip_forward; ls /run/ringfence 2>&1 || true",
    )
}

/// What somebody does by hand on node-1, and what apply says about it.
const DRIFT: &[(&str, &[&str])] = &[
    (
        "ovs-ofctl -O OpenFlow14 --strict del-flows br0 \
         table=70,priority=100,ip,nw_dst=10.128.0.254",
        &["+ flows pod shop/web-0: 1 added"],
    ),
    (
        "ovs-ofctl -O OpenFlow14 add-flow br0 cookie=0x77,table=80,priority=900,actions=normal",
        &["- flows cookie 0x77: 1 removed"],
    ),
    (
        "ovs-ofctl -O OpenFlow14 --strict mod-flows br0 table=80,priority=0,actions=normal",
        &["~ flows cluster: 1 changed"],
    ),
    ("ovs-vsctl del-port rf-0a277568ba88", &["+ port rf-0a277568ba88: 264 of pod shop/web-0"]),
    (
        "ovs-vsctl set interface vxlan0 options:dst_port=8472",
        &[
            "! tunnels: change their settings: packets to other nodes are lost meanwhile",
            "~ port vxlan0: dst_port of node-1",
        ],
    ),
    (
        // The routes of an interface go with its state.
        "ovs-vsctl set interface tun0 'mac=\"02:00:00:00:00:01\"'; ip link set tun0 down; \
         ip link set tun0 up",
        &[
            "! tun0: its Ethernet address changes: pods have to ask for it again",
            "~ link tun0: Ethernet address, route",
            "~ port tun0: Ethernet address of node-1",
        ],
    ),
    ("ip addr flush dev tun0", &["~ link tun0: address, route"]),
    ("ip route del 10.128.0.0/14 dev tun0", &["~ link tun0: route"]),
    ("ip link set tun0 down", &["~ link tun0: state, route"]),
    ("nft flush chain inet ringfence rf_forwards", &["~ ruleset node: changed by hand"]),
    // That of the family arp is there on a datapath in userspace alone.
    (
        "nft delete table inet ringfence; nft delete table arp ringfence 2>/dev/null || true",
        &["+ ruleset node: not loaded"],
    ),
    (
        "ip -n shop.web-0 addr add 10.128.0.9/23 dev eth0",
        &[
            "! pod shop/web-0: its addresses change: connections of those that go break",
            "~ link rf-0a277568ba88: address, route of pod shop/web-0",
        ],
    ),
    ("ip -n shop.web-0 route del default", &["~ link rf-0a277568ba88: route of pod shop/web-0"]),
    (
        "ip -n shop.web-0 link set eth0 mtu 1400 address 02:00:00:00:00:02",
        &[
            "! pod shop/web-0: its addresses change: connections of those that go break",
            "~ link rf-0a277568ba88: Ethernet address, MTU of pod shop/web-0",
        ],
    ),
    ("ip link set rf-0a277568ba88 down", &["~ link rf-0a277568ba88: state of pod shop/web-0"]),
    (
        "ip link del rf-0a277568ba88",
        &[
            "+ link rf-0a277568ba88: of pod shop/web-0",
            "~ port rf-0a277568ba88: unplugged of pod shop/web-0",
        ],
    ),
    (
        "ip netns del shop.web-0; while ip link show dev rf-0a277568ba88 2>/dev/null; do sleep 0.05; done",
        &[
            "+ link rf-0a277568ba88: of pod shop/web-0",
            "+ netns shop.web-0: of pod shop/web-0",
            "~ port rf-0a277568ba88: unplugged of pod shop/web-0",
        ],
    ),
    (
        // Another takes the place of the pod's end.
        "ip -n shop.web-0 link set eth0 down; ip -n shop.web-0 link set eth0 name old; \
         ip -n shop.web-0 link add eth0 type bridge",
        &[
            "! pod shop/web-0: its interface is recreated: its connections break",
            "+ link rf-0a277568ba88: of pod shop/web-0",
            "~ port rf-0a277568ba88: unplugged of pod shop/web-0",
        ],
    ),
    ("ip -n router_supplier link del net1", &["+ link net1 of router supplier: macvlan on eth0"]),
    (
        "ip netns exec router_supplier sysctl -qw net.ipv4.ip_forward=0",
        &[
            // The kernel sets all interfaces with it.
            "~ link net1 of router supplier: forwarding",
            "~ link rf-0aca381595cf: forwarding of router supplier",
            "~ sysctl net.ipv4.ip_forward of router supplier: 0 to 1",
        ],
    ),
    ("ip netns exec router_supplier nft flush ruleset", &["+ ruleset router supplier: not loaded"]),
    (
        "sysctl -qw net.ipv4.ip_forward=0",
        &["~ link tun0: forwarding", "~ sysctl net.ipv4.ip_forward: 0 to 1"],
    ),
    // As a restart of ovs-vswitchd leaves it.
    (
        "ovs-ofctl -O OpenFlow14 set-frags br0 normal",
        &["~ bridge br0: fragments normal to nx-match"],
    ),
];

/// What can only be done to a datapath in userspace, or comes otherwise there.
const USERSPACE_DRIFT: &[(&str, &[&str])] = &[
    (
        "ovs-vsctl set interface tun0 'mac=\"02:00:00:00:00:01\"'",
        // Open vSwitch takes the interface down to change it, and its routes go.
        &[
            "! tun0: its Ethernet address changes: pods have to ask for it again",
            "~ link tun0: Ethernet address, route",
            "~ port tun0: Ethernet address of node-1",
        ],
    ),
    // The table of the family arp stays.
    ("nft delete table inet ringfence", &["~ ruleset node: changed by hand"]),
    (
        // By its name it seems to be there, but Open vSwitch has the old one still.
        "ip link del rf-0a277568ba88; \
         while ovs-vsctl get interface rf-0a277568ba88 ifindex | grep -q '[1-9]'; do sleep 0.05; done; \
         ip link add rf-0a277568ba88 mtu 1450 type veth \
         peer eth0 address 0a:58:0a:80:00:fe mtu 1450 netns shop.web-0; \
         ip link set rf-0a277568ba88 addrgenmode none up alias 'ringfence pod shop/web-0'; \
         ip -n shop.web-0 link set eth0 up; ip -n shop.web-0 addr add 10.128.0.254/23 dev eth0; \
         ip -n shop.web-0 route add 10.128.0.0/14 dev eth0; \
         ip -n shop.web-0 route add default via 10.128.0.1; \
         ethtool -K rf-0a277568ba88 tx off; ip netns exec shop.web-0 ethtool -K eth0 tx off",
        &["~ port rf-0a277568ba88: unplugged of pod shop/web-0"],
    ),
];

#[test]
fn what_was_changed_by_hand_is_found_told_and_repaired() {
    let live = example("quickstart");
    live.apply_all();
    repairs(&live, DRIFT);
    if datapath() == Datapath::Netdev {
        repairs(&live, USERSPACE_DRIFT);
    }
    let summary = live.lab.probe(lab::plan(live.lab.model())).unwrap();
    assert_eq!(summary.counts().1, 0, "{}", summary.table());
}

/// Does on node-1 what somebody does by hand, and has it repaired.
pub(crate) fn repairs(live: &Live, drift: &[(&str, &[&str])]) {
    for (command, expected) in drift {
        live.on("node-1", command);
        let check = live.apply_on("node-1", &["--check"]);
        let lines = check.stdout.lines().filter(|line| !line.starts_with(&format!("! {PLUGS}")));
        // The kernel's datapath tells Open vSwitch that an interface is gone.
        let mut told: Vec<String> = lines
            .map(|line| match line.split_once("port number -1, not ") {
                Some((before, after)) if datapath() == Datapath::System => {
                    format!("{before}unplugged{}", after.trim_start_matches(char::is_numeric))
                }
                _ => line.to_owned(),
            })
            .collect();
        told.sort_unstable();
        let told: Vec<&str> = told.iter().map(String::as_str).collect();
        assert_eq!((check.status, told.as_slice()), (2, *expected), "after `{command}`");
        let run = live.apply_on("node-1", &[]);
        assert_eq!(run.status, 0, "after `{command}`: {}", run.stderr);
        let again = live.apply_on("node-1", &["--check"]);
        assert_eq!((again.status, again.stdout.as_str()), (0, ""), "after `{command}`");
    }
}

/// The egress router of the quickstart.
const ROUTER: &str = "egressRouters:\n  - name: supplier\n    project: shop\n    \
                      source: 192.168.12.99\n    gateway: 192.168.12.1\n    \
                      destination: 203.0.113.25\n    nodeSelector: {site: springfield-1}\n";

#[test]
fn a_router_that_goes_leaves_its_address_at_once() {
    let mut live = example("quickstart");
    live.apply_all();
    // Its namespace lives as long as a process in it does.
    live.on(
        "node-1",
        "setsid ip netns exec router_supplier sleep 600 >/dev/null 2>&1 & \
             until [ -n \"$(ip netns pids router_supplier)\" ]; do sleep 0.05; done",
    );
    // An answer is waited for as long as it takes, and silence for as long as one would take.
    let answers = |live: &Live, seconds| {
        let words = ["arping", "-q", "-c", "1", "-w", seconds, "-I", "lan0", "192.168.12.99"];
        live.lab.outside().output(None, &words).unwrap().status.success()
    };
    assert!(answers(&live, "60"), "the router is there");
    let (model, sources) = changed(&[(ROUTER, "")]);
    live.lab.replace(model, &sources).unwrap();
    assert_eq!(live.apply_on("node-1", &[]).status, 0);
    assert!(!answers(&live, "2"), "the router is gone, and its address is not");
    let (model, sources) = changed(&[]);
    live.lab.replace(model, &sources).unwrap();
    let run = live.apply_on("node-1", &[]);
    assert_eq!(run.status, 0, "{}", run.stderr);
    assert!(answers(&live, "60"), "the router is there again");
    live.on("node-1", "pkill -x sleep");
}

#[test]
fn groups_that_were_changed_by_hand_are_found_and_repaired() {
    const OFCTL: &str = "ovs-ofctl -O OpenFlow15";
    let live = example("services");
    live.apply_all();
    let group = live.on("node-1", &format!("{OFCTL} dump-groups br0 | grep -o 'group_id=[0-9]*'"));
    let group = group.lines().next().unwrap();
    for command in [
        // The flows that name them go too.
        format!("{OFCTL} del-groups br0"),
        format!("{OFCTL} mod-group br0 {group},type=select,bucket=actions=drop"),
        format!("{OFCTL} add-group br0 group_id=77,type=all,bucket=actions=drop"),
    ] {
        live.on("node-1", &command);
        let check = live.apply_on("node-1", &["--check"]);
        assert_eq!(check.status, 2, "after `{command}`: {}", check.stderr);
        let groups = check.stdout.lines().filter(|line| line[2..].starts_with("group "));
        assert!(groups.count() > 0, "after `{command}`: {}", check.stdout);
        assert_eq!(live.apply_on("node-1", &[]).status, 0, "after `{command}`");
        let again = live.apply_on("node-1", &["--check"]);
        assert_eq!((again.status, again.stdout.as_str()), (0, ""), "after `{command}`");
    }
    live.prove();
}

#[test]
fn a_restart_of_open_vswitch_is_repaired() {
    let live = example("quickstart");
    live.apply_all();
    live.on(
        "node-1",
        "ovs-appctl exit; while pidof ovs-vswitchd >/dev/null; do sleep 0.05; done; \
         ovs-vswitchd unix:/run/openvswitch/db.sock --pidfile --detach --no-chdir --log-file \
         -vconsole:off",
    );
    let run = live.apply_on("node-1", &[]);
    assert_eq!(run.status, 0, "{}", run.stderr);
    assert!(run.stdout.contains("+ flows pod shop/web-0: "), "{}", run.stdout);
    let summary = live.lab.probe(lab::plan(live.lab.model())).unwrap();
    assert_eq!(summary.counts().1, 0, "{}", summary.table());
}

#[test]
fn a_changed_fail_mode_takes_the_flows_with_it_and_is_repaired() {
    let live = example("quickstart");
    live.apply_all();
    live.on("node-1", "ovs-vsctl set-fail-mode br0 standalone");
    let run = live.apply_on("node-1", &[]);
    assert_eq!(run.status, 0, "{}", run.stderr);
    let told = "! bridge br0: loses its flows: it forwards nothing until it has the new ones\n\
                ~ bridge br0: fail mode\n+ flows cluster: ";
    assert!(run.stdout.contains(told), "{}", run.stdout);
    let again = live.apply_on("node-1", &["--check"]);
    assert_eq!((again.status, again.stdout.as_str()), (0, ""));
}

#[test]
fn the_scripts_work_by_hand_and_leave_apply_nothing_but_to_note_the_generation() {
    by_hand("quickstart");
}

#[test]
fn proxies_are_started_by_hand_as_apply_does() {
    by_hand("egress-proxies");
}

#[test]
fn a_gateway_bridge_is_made_by_hand_as_apply_does() {
    by_hand("gateway-bridge");
}

/// The commands in a part of the notes.
fn indented(text: &str) -> Vec<&str> {
    text.lines().filter_map(|line| line.strip_prefix("    ")).collect()
}

fn by_hand(name: &str) {
    let live = example(name);
    for id in live.nodes() {
        let files = live.lab.files(id);
        let notes = std::fs::read_to_string(files.join("notes.md")).unwrap();
        let mut sections = notes.split("\n## ");
        let commands = indented(sections.next().unwrap());
        assert!(commands.len() >= 5, "{notes}");
        let script = format!("cd {} && {}", files.display(), commands.join(" && "));
        let name = live.lab.model().intent()[id].name.to_string();
        if let Some(gateway) = sections.find(|section| section.starts_with("Gateway bridge ")) {
            live.on(&name, &indented(gateway).join(" && "));
        }
        for _ in 0..2 {
            live.on(&name, &script);
        }
        let check = live.apply_on(&name, &["--check"]);
        let rest: Vec<&str> =
            check.stdout.lines().filter(|line| !line.starts_with("~ ruleset ")).collect();
        assert_eq!(rest, ["+ flows cluster: 1 added"]);
    }
    let summary = live.lab.probe(lab::plan(live.lab.model())).unwrap();
    assert_eq!(summary.counts().1, 0, "{}", summary.table());
}

/// The quickstart with some of its text replaced.
pub(crate) fn changed(pairs: &[(&str, &str)]) -> (ringfence::model::Model, Sources) {
    changed_example("quickstart", pairs)
}

/// An example with some of its text replaced.
pub(crate) fn changed_example(
    name: &str,
    pairs: &[(&str, &str)],
) -> (ringfence::model::Model, Sources) {
    let directory = root().join("examples").join(name);
    let mut text = std::fs::read_to_string(directory.join("network.yaml")).unwrap();
    for (old, new) in pairs {
        assert!(text.contains(old), "{old}");
        text = text.replace(old, new);
    }
    let temporary = tempfile::tempdir().unwrap();
    std::fs::write(temporary.path().join("network.yaml"), &text).unwrap();
    std::fs::copy(directory.join("ringfence.lock"), temporary.path().join("ringfence.lock"))
        .unwrap();
    let loaded = Loaded::read(&[temporary.path().to_owned()], None, &mut std::io::empty());
    let (model, _, _) = loaded.draft().unwrap_or_else(|(_, report)| panic!("{report:?}"));
    (model, Sources::from_texts(vec![Source::new("network.yaml", "network.yaml", text)]))
}

#[test]
fn what_is_no_longer_wanted_is_removed_and_nothing_else() {
    let mut live = example("quickstart");
    live.apply_all();
    // Somebody else's things on the same node.
    live.on(
        "node-1",
        "ip netns add theirs && ip link add dummy7 type bridge && ip link set dummy7 alias mine && \
         ovs-vsctl add-br br-theirs -- set bridge br-theirs datapath_type=netdev -- \
         add-port br0 theirs0 -- set interface theirs0 type=internal && \
         nft add table inet theirs && nft add chain inet theirs c",
    );
    // One pod goes, one moves to another node, the router goes with the join.
    let (model, sources) = changed(&[
        ("    pods:\n      - {name: log-0, node: node-1}\n", "    pods: []\n"),
        ("{name: core-0, node: node-1}", "{name: core-0, node: node-2}"),
        ("joins:\n  - {to: shop, projects: [billing]}\n", ""),
        (ROUTER, ""),
    ]);
    live.lab.replace(model, &sources).unwrap();
    let run = live.apply_on("node-1", &[]);
    assert_eq!(run.status, 0, "{}", run.stderr);
    for expected in [
        "- port rf-6df86f2f746f: of pod audit/log-0\n",
        "- link rf-6df86f2f746f: of pod audit/log-0\n",
        "- netns audit.log-0: no longer wanted\n",
        "- netns bank.core-0: no longer wanted\n",
        "- netns router_supplier: no longer wanted\n",
        "- flows cookie 0x1afb0aca381595cf: 5 removed\n",
    ] {
        assert!(run.stdout.contains(expected), "no {expected:?} in\n{}", run.stdout);
    }
    live.apply_all();
    let state =
        live.on("node-1", "ip netns; ip -br link; ovs-vsctl list-ports br0; ovs-vsctl list-br");
    for gone in ["audit.log-0", "bank.core-0", "router_supplier", "rf-6df86f2f746f"] {
        assert!(!state.contains(gone), "{gone} is still in\n{state}");
    }
    for theirs in ["theirs", "dummy7", "theirs0", "br-theirs"] {
        assert!(state.contains(theirs), "{theirs} is not in\n{state}");
    }
    assert!(live.on("node-1", "nft list tables").contains("table inet theirs"));
    let summary = live.lab.probe(lab::plan(live.lab.model())).unwrap();
    assert_eq!(summary.counts().1, 0, "{}", summary.table());
}

/// What a change says that it disrupts on a node, in a check and before it runs.
fn disturbed(live: &Live, node: &str) -> Vec<String> {
    let said = |text: &str| -> Vec<String> {
        let lines = text.lines().filter_map(|line| line.strip_prefix("! "));
        lines.map(|line| line.split(": ").take(2).collect::<Vec<_>>().join(": ")).collect()
    };
    let check = live.apply_on(node, &["--check"]);
    let json = live.apply_on(node, &["--check", "--json"]);
    let json: serde_json::Value = serde_json::from_str(&json.stdout).unwrap();
    let run = live.apply_on(node, &[]);
    assert_eq!(run.status, 0, "{}", run.stderr);
    assert_eq!(run.stdout, check.stdout);
    assert_eq!(json["disruptions"].as_array().unwrap().len(), said(&check.stdout).len());
    let begin = check.stdout.lines().take_while(|line| line.starts_with("! ")).count();
    assert_eq!(begin, said(&check.stdout).len(), "first what it disrupts: {}", check.stdout);
    said(&check.stdout)
}

/// What is said where interfaces come and go: something on a datapath in userspace alone.
fn plugs() -> Vec<String> {
    (datapath() == Datapath::Netdev).then(|| PLUGS.to_owned()).into_iter().collect()
}

const PLUGS: &str = "bridge br0: its datapath is in userspace";

#[test]
fn a_change_says_what_it_disrupts_before_it_happens() {
    let mut live = example("quickstart");
    for node in ["node-1", "node-2", "node-3"] {
        assert_eq!(disturbed(&live, node), Vec::<String>::new(), "nothing was there on {node}");
        assert_eq!(disturbed(&live, node), Vec::<String>::new());
    }
    let change = |live: &mut Live, pairs: &[(&str, &str)]| {
        let (model, sources) = changed(pairs);
        live.lab.replace(model, &sources).unwrap();
        ["node-1", "node-2", "node-3"].map(|node| disturbed(live, node))
    };
    let none = Vec::<String>::new;
    // A new project and a new pod of an old one: nobody notices but the datapath.
    let more = (
        "  - name: monitoring\n",
        "  - name: more\n    pods: [{name: a, node: node-1}]\n  - name: monitoring\n",
    );
    let rule = (
        "egressPolicies:\n",
        "egressPolicies:\n  - project: more\n    rules: [{deny: {cidr: 192.0.2.0/24}}]\n",
    );
    assert_eq!(change(&mut live, &[more, rule]), [plugs(), none(), none()]);
    // They go again.
    let gone = "pod more/a: goes from this node".to_owned();
    assert_eq!(change(&mut live, &[]), [[plugs(), vec![gone]].concat(), none(), none()]);
    // A permission more disrupts nobody; one less does.
    let port = "ports: [{port: 443}]";
    let wider = "ports: [{port: 443}, {port: 80}]";
    assert_eq!(change(&mut live, &[(port, wider)]), [none(), none(), none()]);
    let policy = || vec!["project bank: its egress policy changes".to_owned()];
    assert_eq!(change(&mut live, &[]), [policy(), none(), policy()]);
    // A pod changes its network where it is.
    let join = "joins:\n  - {to: shop, projects: [billing]}\n";
    let moves = vec!["pod billing/api-0: moves to another network".to_owned()];
    assert_eq!(change(&mut live, &[(join, "")]), [none(), moves, none()]);
    // Another bridge mode, an interface made anew, a router's address.
    live.on("node-1", "ovs-vsctl set-fail-mode br0 standalone");
    live.on("node-1", "ip -n router_supplier address add 192.168.12.77/32 dev net1");
    live.on("node-1", "ip -n shop.web-0 link set eth0 address 02:00:00:00:00:02");
    let rest = [
        "bridge br0: loses its flows",
        "pod shop/web-0: its addresses change",
        "router supplier: its outside interface changes",
    ];
    assert_eq!(disturbed(&live, "node-1"), [plugs(), rest.map(str::to_owned).to_vec()].concat());
}

#[test]
fn an_egress_ip_that_moves_says_whom_it_disrupts() {
    let mut live = example("egress-ips");
    live.apply_all();
    let held = "    egressCIDRs: [192.168.12.128/27]\n  - name: node-3";
    let (model, sources) = changed_example("egress-ips", &[(held, "  - name: node-3")]);
    live.lab.replace(model, &sources).unwrap();
    let said = ["node-1", "node-2", "node-3"].map(|node| disturbed(&live, node)).concat();
    assert!(said.iter().any(|line| line.starts_with("egress-ip 192.168.12.13")), "{said:?}");
    let leaves =
        said.iter().filter(|line| line.contains("its traffic leaves the cluster at another"));
    assert!(leaves.count() > 0, "{said:?}");
}

#[test]
fn a_service_that_loses_a_pod_says_so() {
    let mut live = example("services");
    live.apply_all();
    let pod = "      - {name: web-1, node: node-2, labels: {app: web}, ports: [{name: http, port: 8081}]}\n";
    let (model, sources) = changed_example("services", &[(pod, "")]);
    live.lab.replace(model, &sources).unwrap();
    let said = disturbed(&live, "node-1");
    assert_eq!(said, ["service shop/web:80/tcp: leads to fewer pods or hosts"], "{said:?}");
    let said = disturbed(&live, "node-2");
    assert!(said.contains(&"pod shop/web-1: goes from this node".to_owned()), "{said:?}");
}

#[test]
fn teardown_removes_what_is_ours_and_nothing_else() {
    let live = example("quickstart");
    let id = live.node("node-1");
    let before = state_of(&live, "node-1");
    live.on("node-1", "ip netns add theirs && nft add table inet theirs");
    live.apply_all();
    let teardown = |words: &[&str]| -> Run { live.lab.ringfence(id, words).unwrap().into() };
    let check = teardown(&["teardown", "--check"]);
    assert_eq!(check.status, 2, "{}", check.stderr);
    assert_eq!(live.apply_on("node-1", &["--check"]).status, 0, "the check removed something");
    let run = teardown(&["teardown"]);
    assert_eq!((run.status, &run.stdout), (0, &check.stdout), "{}", run.stderr);
    let again = teardown(&["teardown"]);
    assert_eq!((again.status, again.stderr.as_str()), (0, "nothing to remove\n"));
    live.on("node-1", "ip netns del theirs && nft delete table inet theirs");
    live.on("node-1", "sysctl -qw net.ipv4.ip_forward=0");
    assert_eq!(state_of(&live, "node-1"), before);
}

#[test]
fn a_bridge_of_others_is_adopted_only_on_demand_and_survives_teardown() {
    let live = live(&root().join("examples/quickstart"));
    let id = live.node("node-1");
    live.on("node-1", "ovs-vsctl add-br br0 -- set bridge br0 datapath_type=netdev");
    let refused = live.apply_on("node-1", &[]);
    assert_eq!(
        (refused.status, refused.stderr.as_str()),
        (
            1,
            "error[RF206]: the bridge `br0` exists and is not ringfence's\n |\n = help: choose \
             another with --bridge, or take it over, flows and all, with --adopt\n\n1 error\n"
        )
    );
    assert_eq!(live.apply_on("node-1", &["--adopt"]).status, 0);
    assert_eq!(live.apply_on("node-1", &["--check"]).status, 0);
    let run: Run = live.lab.ringfence(id, &["teardown"]).unwrap().into();
    assert_eq!(run.status, 0, "{}", run.stderr);
    assert_eq!(live.on("node-1", "ovs-vsctl br-exists br0 && ovs-vsctl list-ports br0"), "");
    assert_eq!(live.on("node-1", "ovs-vsctl get bridge br0 external_ids"), "{}\n");
    let flows = live.on("node-1", "ovs-ofctl -O OpenFlow14 dump-flows br0 --no-stats");
    assert_eq!(flows.trim(), "");
}

#[test]
fn another_bridge_can_be_named() {
    let live = example("quickstart");
    assert_eq!(live.apply_on("node-2", &["--bridge", "br-rf"]).status, 0);
    assert_eq!(live.apply_on("node-2", &["--bridge", "br-rf", "--check"]).status, 0);
    assert_eq!(live.on("node-2", "ovs-vsctl list-br | grep -v br-phy"), "br-rf\n");
}
