//! What somebody else has on a node, under whatever name and made at whatever moment, is the same
//! before and after every run of `apply`, `rollback` and `teardown`.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::generations::{NEW, OLD};
use crate::lab::{Live, load};
use crate::support::{PROGRAM, Run, ringfence};
use ringfence::apply::{Options, apply, teardown};
use ringfence::diagnostic::Diagnostic;
use ringfence::system::{Command, Intercept, Machine, Output, System};

const NETWORK: &str = "\
version: 1
nodes:
  - name: node-1
    address: 192.168.12.11
    uplink: {interface: eth0, subnet: 192.168.12.0/24, gateway: 192.168.12.1}
    reservedAddresses: [192.168.12.100]
projects:
  - name: shop
    pods:
      - {name: web-0, node: node-1}
      - {name: vm1, node: node-1, netns: vm1}
egressRouters:
  - name: supplier
    project: shop
    source: 192.168.12.99
    gateway: 192.168.12.1
    destination: 203.0.113.25
    node: node-1
egressIPs:
  - {project: shop, addresses: [192.168.12.100]}
";

/// The pod in the namespace `vm1`.
const POD: &str = "      - {name: vm1, node: node-1, netns: vm1}\n";
const UPLINK: &str = "uplink: {interface: eth0, subnet: 192.168.12.0/24, gateway: 192.168.12.1}";
const BRIDGED: &str =
    "uplink: {interface: eth0, subnet: 192.168.12.0/24, gateway: 192.168.12.1, bridge: br-ex}";

/// A node with the files of two desired states in [`OLD`] and [`NEW`].
struct Node {
    live: Live,
}

impl Node {
    fn between(old: &str, new: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("network.yaml");
        let mut live = None;
        for (text, to) in [(old, OLD), (new, NEW)] {
            fs::write(&path, text).unwrap();
            let run = ringfence(directory.path(), &["lock"]);
            assert_eq!(run.status, 0, "{}", run.stderr);
            let (model, sources) = load(directory.path());
            let live = match &mut live {
                None => live.insert(Live::up(model, &sources)),
                Some(live) => {
                    live.lab.replace(model, &sources).unwrap();
                    live
                }
            };
            let files = live.lab.files(live.node("node-1")).display().to_string();
            live.on("node-1", &format!("cp -r {files} {to}"));
        }
        Self { live: live.unwrap() }
    }

    fn on(&self, command: &str) -> String {
        steady(&self.live.on("node-1", command))
    }

    fn run(&self, words: &[&str]) -> Run {
        self.live.lab.ringfence(self.live.node("node-1"), words).unwrap().into()
    }

    fn done(&self, words: &[&str]) -> String {
        let run = self.run(words);
        assert_eq!(run.status, 0, "{words:?}: {}", run.stderr);
        run.stdout
    }

    /// Runs what has to be refused, and tells why.
    fn refused(&self, words: &[&str]) -> String {
        let run = self.run(words);
        assert_eq!(run.status, 1, "{words:?}: {}{}", run.stdout, run.stderr);
        run.stderr
    }

    /// Puts a shell script before a program.
    fn before(&self, program: &str, script: &str) {
        let script = format!("#!/bin/sh\n{script}\nexec /run/real/{program} \"$@\"\n");
        let quoted = shlex::try_quote(&script).unwrap().into_owned();
        self.on(&format!(
            "mkdir -p /run/real /run/fake; real=$(readlink -f $(command -v {program})); \
             [ -e /run/real/{program} ] || cp $real /run/real/{program}; \
             printf %s {quoted} >/run/fake/{program}; chmod +x /run/fake/{program}; \
             mount --bind /run/fake/{program} $real"
        ));
    }

    fn restore(&self, program: &str) {
        self.on(&format!("umount $(readlink -f $(command -v {program}))"));
    }

    /// Has ringfence killed where it is about to run a program with these words, after a script.
    fn killed_by(&self, program: &str, pattern: &str, script: &str, words: &[&str]) {
        let script = format!(
            "case \"$*\" in {pattern}) {script}\nfor pid in $PPID $(cut -d' ' -f4 \
             /proc/$PPID/stat); do [ $(cat /proc/$pid/comm) != ringfence ] || \
             {{ kill -KILL $pid; exit 1; }}; done;; esac"
        );
        self.before(program, &script);
        let output = self.live.lab.ringfence(self.live.node("node-1"), words).unwrap();
        assert!(!output.status.success(), "nobody was killed");
        self.restore(program);
    }
}

/// Makes a namespace of somebody else's.
fn theirs(name: &str) -> String {
    format!(
        "ip netns add {name}; ip -n {name} link add mine0 type bridge; ip -n {name} link set lo up; \
         ip -n {name} link set mine0 up; ip -n {name} addr add 10.99.0.1/24 dev mine0; \
         ip -n {name} route add default via 10.99.0.9; ip -n {name} link set mine0 alias keep"
    )
}

/// What is in a namespace but the pod's interface.
fn inside(name: &str) -> String {
    format!(
        "readlink /run/netns/{name} || stat -Lc %i /run/netns/{name}; ip -n {name} -d link show lo; \
         ip -n {name} -d link show mine0; ip -n {name} -4 addr show mine0; \
         ip -n {name} route | grep mine0; ip netns exec {name} nft list ruleset"
    )
}

#[test]
fn a_namespace_that_was_about_to_be_made_and_is_somebody_elses_is_not_taken_for_ours() {
    let node = Node::between(NETWORK, &NETWORK.replace(POD, ""));
    // ringfence has written down that it is about to make it, and is killed.
    node.killed_by("unshare", "*", "", &["apply", OLD]);
    assert!(node.on("cat /run/ringfence/state.json").contains("\"vm1\""));
    assert_eq!(node.on("ip netns"), "");
    node.on(&theirs("vm1"));
    let before = node.on(&inside("vm1"));
    // It is used, as any namespace of that name, and never ours.
    let run = node.run(&["apply", OLD]);
    assert_eq!(run.status, 0, "{}", run.stderr);
    let told = "! the namespace `vm1` of pod shop/vm1 is somebody else's, and its route to 0.0.0.0/0 by \
                `mine0` stays\n";
    assert!(run.stdout.contains(told), "{}", run.stdout);
    assert_eq!(node.on(&inside("vm1")), before);
    assert_eq!(node.run(&["status"]).status, 0);
    for words in [&["apply", NEW][..], &["rollback"], &["teardown"]] {
        node.done(words);
        assert_eq!(node.on(&inside("vm1")), before, "{words:?}");
    }
    assert_eq!(node.on("ls /run/netns; ip -n vm1 -br link | grep -c eth0 || true"), "vm1\n0\n");
}

#[test]
fn a_teardown_after_a_kill_leaves_what_others_made_meanwhile() {
    let node = Node::between(NETWORK, &NETWORK.replace(POD, ""));
    node.killed_by("unshare", "*", "", &["apply", OLD]);
    let pod = "rf-0a277568ba88"; // that of web-0
    node.on(&format!(
        "{}; {}; ip link add {pod} type bridge; ip link set {pod} alias mine",
        theirs("vm1"),
        theirs("shop.web-0")
    ));
    let all = format!("{}; {}; ip -d link show {pod}", inside("vm1"), inside("shop.web-0"));
    let before = node.on(&all);
    node.done(&["teardown"]);
    assert_eq!(node.on(&all), before);
    assert_eq!(node.run(&["teardown"]).stderr, "nothing to remove\n");
}

#[test]
fn a_veth_that_was_about_to_be_made_and_is_somebody_elses_is_not_taken_for_ours() {
    let node = Node::between(NETWORK, &NETWORK.replace(POD, ""));
    // The namespaces are made, the veths are not.
    node.killed_by(
        "ip",
        "'-batch -'",
        "[ $(cat /proc/$PPID/comm) = ringfence ] || exec \\
                    /run/real/ip \"$@\"",
        &["apply", OLD],
    );
    assert!(node.on("ip netns").contains("shop.web-0"));
    let pod = "rf-0a277568ba88";
    node.on(&format!("ip link add {pod} type veth peer name peer0; ip link set {pod} up"));
    let all = format!("ip -d link show {pod}; ip -d link show peer0");
    let before = node.on(&all);
    let told = node.refused(&["apply", OLD]);
    assert!(
        told.starts_with(
            "error[RF206]: the interface `rf-0a277568ba88` of pod shop/web-0 exists and is not \
             ringfence's\n"
        ),
        "{told}"
    );
    assert_eq!(node.on(&all), before);
    node.done(&["teardown"]);
    assert_eq!(node.on(&all), before);
}

#[test]
fn names_without_a_namespace_are_healed_and_those_of_others_stay() {
    let node = Node::between(NETWORK, &NETWORK.replace(POD, ""));
    // As a kill of `ip netns add` leaves them.
    node.on("mkdir -p /run/netns; touch /run/netns/vm1 /run/netns/theirs; chmod 0 /run/netns/*");
    node.done(&["apply", OLD]);
    assert_eq!(node.run(&["status"]).status, 0);
    assert!(node.on("ip -n vm1 addr show eth0").contains("10.128."));
    // In the middle of a run, and then nobody wants it any more.
    node.done(&["apply", NEW]);
    node.killed_by("unshare", "*", "touch /run/netns/vm1", &["apply", OLD]);
    assert_eq!(node.on("stat -c %s /run/netns/vm1"), "0\n");
    let said = node.done(&["apply", NEW]);
    assert!(said.contains("- netns vm1: of an interrupted run\n"), "{said}");
    assert_eq!(node.on("ls /run/netns | grep -e vm1 -e theirs"), "theirs\n");
    node.done(&["teardown"]);
    assert_eq!(node.on("ls /run/netns"), "theirs\n");
}

#[test]
fn a_second_name_of_a_namespace_and_links_with_an_alias_like_ours_stay() {
    let node = Node::between(NETWORK, &NETWORK.replace(POD, ""));
    node.done(&["apply", OLD]);
    node.on(
        "ln -s /run/netns/vm1 /run/netns/ln; touch /run/netns/second; \
         mount --bind /run/netns/vm1 /run/netns/second; \
         ip link add mine0 type bridge; ip link set mine0 alias 'ringfence test bed'; \
         ip link add mine1 type veth peer name mine2; ip link set mine1 alias 'ringfence pod a/b'; \
         ip addr add 192.168.12.100/32 dev mine0 label mine0:ringfence; \
         ip addr del 192.168.12.100/32 dev mine0; ip addr add 192.0.2.1/32 dev lo label lo:ring; \
         nft add table inet ringfence2; nft add table ip ringfences; mkdir /run/ringfence-router-my",
    );
    let all = "ls /run/netns/ln /run/netns/second; ip -d link show mine0; ip -d link show mine1; \
               ip addr show lo | grep ring$; nft list tables | grep ringfence[2s]; \
               ls -d /run/ringfence-router-my";
    let before = node.on(all);
    for words in [&["apply", NEW][..], &["rollback"], &["teardown"]] {
        node.done(words);
        assert_eq!(node.on(all), before, "{words:?}");
    }
}

#[test]
fn a_directory_that_only_has_our_name_stays_and_so_does_what_others_put_into_ours() {
    let node = Node::between(NETWORK, &NETWORK.replace(POD, ""));
    node.on(
        "cd /run; mkdir ringfence-router-old ringfence-router-new ringfence-router-mixed; \
         echo theirs >ringfence-router-old/squid.conf; echo theirs >ringfence-router-old/proxy.sh; \
         echo theirs >ringfence-router-new/notes; cd ringfence-router-mixed; \
         echo '# Made by ringfence: egress router mixed' >haproxy.cfg; echo 1 >loaded; echo x >notes",
    );
    let all =
        "cd /run; grep -r . ringfence-router-old ringfence-router-new ringfence-router-*/notes";
    let before = node.on(all);
    let said = node.done(&["apply", OLD]);
    assert!(said.contains("- proxy router mixed: with its files, but `notes` stays\n"), "{said}");
    assert_eq!(node.on("ls /run/ringfence-router-mixed"), "notes\n");
    node.done(&["apply", NEW]);
    node.done(&["teardown"]);
    assert_eq!(node.on(all), before);
}

#[test]
fn a_state_directory_with_files_of_others_keeps_them_and_its_mode() {
    let node = Node::between(NETWORK, &NETWORK.replace(POD, ""));
    node.on("mkdir -m 0755 /run/app; echo x >/run/app/data");
    let told = node.on(&format!("{PROGRAM} apply {OLD} --state /run/app 2>&1 || true"));
    assert!(
        told.starts_with(
            "error[RF210]: cannot use `/run/app/lock`: there is `data` of somebody else's\n"
        ),
        "{told}"
    );
    assert_eq!(node.on("stat -c %a /run/app; ls -A /run/app"), "755\ndata\n");
    node.on("chmod 0700 /run/app; mkdir -p /run/app/generations/old");
    for words in [format!("apply {OLD}"), format!("apply {NEW} --keep 1"), "teardown".to_owned()] {
        node.on(&format!("{PROGRAM} {words} --state /run/app"));
    }
    assert_eq!(
        node.on("cd /run/app; find . | sort"),
        ".\n./data\n./generations\n./generations/old\n"
    );
}

#[test]
fn a_teardown_never_takes_a_bridge_with_something_of_others() {
    let bridged = NETWORK.replace(UPLINK, BRIDGED);
    let node = Node::between(&bridged, &bridged.replace(POD, ""));
    let network = "ip -4 addr show br-ex | grep inet; ip route show default";
    for lost in ["ringfence", "ringfence-uplink"] {
        node.done(&["apply", OLD]);
        let before = node.on(network);
        node.on(&format!("ovs-vsctl remove Bridge br-ex external_ids {lost}"));
        node.done(&["teardown"]);
        assert_eq!(node.on(network), before, "without {lost}");
        assert!(node.on("ovs-vsctl list-ports br-ex").starts_with("eth0\n"), "without {lost}");
        assert_eq!(
            node.on("arping -q -c 1 -w 60 -I br-ex 192.168.12.1 && echo reached"),
            "reached\n"
        );
        assert_eq!(node.run(&["teardown"]).stderr, "nothing to remove\n");
        node.on("ovs-vsctl set Bridge br-ex external_ids:ringfence=node-1 \
                 external_ids:ringfence-uplink=eth0");
    }
    // A port on either bridge, a flow on the gateway bridge.
    node.on("ovs-vsctl set Bridge br-ex external_ids:ringfence=node-1 \
             external_ids:ringfence-uplink=eth0");
    node.done(&["apply", OLD]);
    let port = |bridge: &str, name: &str| {
        format!("ovs-vsctl add-port {bridge} {name} -- set interface {name} type=internal")
    };
    node.on(&format!("{}; {}", port("br0", "mine0"), port("br-ex", "mine1")));
    node.on(
        "ovs-ofctl -O OpenFlow14 add-flow br-ex cookie=0x7,priority=9,udp,tp_dst=7,actions=drop",
    );
    let all = format!(
        "{network}; ovs-vsctl list-ports br-ex | grep -v patch; ovs-vsctl port-to-br mine0; \
         ovs-ofctl -O OpenFlow14 dump-flows br-ex --no-stats | sort"
    );
    let before = node.on(&all);
    for words in [&["apply", NEW][..], &["rollback"], &["teardown", "--check"], &["teardown"]] {
        let run = node.run(words);
        assert!(run.status == 0 || words.contains(&"--check"), "{words:?}: {}", run.stderr);
        assert_eq!(node.on(&all), before, "{words:?}");
        if words.contains(&"teardown") {
            for told in [
                "~ bridge br-ex: stays with the uplink eth0, since its port `mine1` is somebody else's\n",
                "~ bridge br0: stays, since its port `mine0` is somebody else's: only ports and flows \
                 are removed\n",
            ] {
                assert!(run.stdout.contains(told), "{}", run.stdout);
            }
        }
    }
    assert_eq!(
        node.on("ovs-vsctl list-ports br0; ovs-vsctl list-ports br-ex"),
        "mine0\neth0\nmine1\n"
    );
    assert_eq!(node.run(&["teardown"]).stderr, "nothing to remove\n");
}

#[test]
fn a_gateway_bridge_that_is_no_longer_wanted_stays_with_flows_of_others() {
    let bridged = NETWORK.replace(UPLINK, BRIDGED);
    let node = Node::between(&bridged, NETWORK);
    node.done(&["apply", OLD]);
    node.on(
        "ovs-ofctl -O OpenFlow14 add-flow br-ex cookie=0x7,priority=9,udp,tp_dst=7,actions=drop",
    );
    let all = "ip -4 addr show br-ex | grep inet; ip route show default; ovs-vsctl port-to-br eth0; \
               ovs-ofctl -O OpenFlow14 dump-flows br-ex --no-stats | sort";
    let before = node.on(all);
    if crate::lab::datapath() == ringfence::value::Datapath::System {
        let told = node.refused(&["apply", NEW]);
        assert!(told.starts_with("error[RF223]: egress router `supplier` needs `eth0`"), "{told}");
        assert_eq!(node.on(all), before);
        return;
    }
    let said = node.done(&["apply", NEW]);
    let told =
        "~ bridge br-ex: stays with the uplink eth0, since one of its flows is somebody else's\n";
    assert!(said.contains(told), "{said}");
    assert_eq!(node.on(all), before);
    assert_eq!(node.run(&["status"]).status, 0);
    node.done(&["apply", OLD]);
    assert_eq!(node.on(all), before);
    // Somebody wants the bridge secure, with flows of their own.
    node.on("ovs-vsctl set-fail-mode br-ex secure; \
             ovs-ofctl -O OpenFlow14 add-flow br-ex cookie=0x7,priority=1,actions=normal");
    let before = node.on(all);
    node.run(&["apply", OLD]);
    assert_eq!(node.on(all), before);
}

#[test]
fn a_bridge_with_ports_of_others_is_not_made_anew_with_another_datapath() {
    let other = match crate::lab::datapath() {
        ringfence::value::Datapath::System => "netdev",
        ringfence::value::Datapath::Netdev => "system",
    };
    let node = Node::between(NETWORK, &NETWORK.replace(POD, ""));
    node.done(&["apply", OLD]);
    node.on(&format!(
        "ovs-vsctl add-port br0 mine0 -- set interface mine0 type=internal; \
         ovs-vsctl --no-wait set Bridge br0 datapath_type={other}"
    ));
    let told = node.refused(&["apply", NEW]);
    assert!(
        told.starts_with(
            "error[RF223]: the bridge `br0` would be recreated with another datapath, and its port \
             `mine0` is somebody else's\n"
        ),
        "{told}"
    );
}

#[test]
fn a_port_that_was_adopted_stays_where_it_was() {
    let tap = "      - {name: vm-0, node: node-1, interface: tap7}\n";
    let network = NETWORK.replace(POD, tap);
    let node = Node::between(&network, &NETWORK.replace(POD, ""));
    node.on("ovs-vsctl add-br br0 -- set bridge br0 datapath_type=netdev; \
         ip link show dev tap7 >/dev/null 2>&1 || ip link add tap7 type veth peer name tap7p; \
         ovs-vsctl add-port br0 tap7");
    assert_eq!(node.refused(&["apply", OLD]).lines().count(), 5);
    node.done(&["apply", OLD, "--adopt"]);
    node.done(&["apply", NEW]);
    assert_eq!(
        node.on("ovs-vsctl port-to-br tap7; ovs-vsctl get port tap7 external_ids"),
        "br0\n{}\n"
    );
    node.done(&["apply", OLD, "--adopt"]);
    node.done(&["teardown"]);
    assert_eq!(
        node.on("ovs-vsctl list-ports br0; ovs-vsctl get port tap7 external_ids"),
        "tap7\n{}\n"
    );
}

#[test]
fn what_goes_by_itself_while_it_is_removed_fails_no_run() {
    let node = Node::between(NETWORK, &NETWORK.replace(POD, ""));
    for words in [&["apply", NEW][..], &["teardown"]] {
        node.done(&["apply", OLD]);
        // Between the look and the removal, somebody removes it; and the kernel takes its time for a
        // veth whose namespace has gone.
        let gone = "/run/real/ip netns del vm1; for link in $(/run/real/ip -br link | \
                    grep -o '^rf-[0-9a-f]*'); do /run/real/ip link show dev $link | grep -q shop/vm1 \
                    && /run/real/ip link del $link; done";
        node.before("ip", &format!("case \"$*\" in *-force*) {gone};; esac"));
        let run = node.run(words);
        assert_eq!(run.status, 0, "{words:?}: {}", run.stderr);
        node.restore("ip");
    }
    assert_eq!(node.on("ip netns; ip -br link | grep ^rf- || true"), "");
}

/// What the test is to do inside a node: the directory to start from and the one to go to.
const INSIDE: &str = "RINGFENCE_TEST_MEDDLE";

/// What a careless administrator does in a moment: takes names of ours for something of their own,
/// and names that are like ours. The veth of the pod in `vm1` is named in a file.
const MEDDLE: &str = "\
veth=$(cat /run/veth)
ip netns del vm1 2>/dev/null; rm -f /run/netns/vm1
ip link del $veth 2>/dev/null; while ip link show dev $veth >/dev/null 2>&1; do sleep 0.02; done
set -e
THEIRS
ip link add $veth type bridge; ip link set $veth alias mine
ip link add mine0 type bridge; ip link set mine0 alias 'ringfence mine'; ip link set mine0 up
ip addr add 10.77.0.1/24 dev mine0; ip route add 10.78.0.0/16 via 10.77.0.9
ip addr add 192.0.2.7/32 dev lo label lo:ring
! ovs-vsctl br-exists br0 || \
    ovs-vsctl add-port br0 mine1 -- set interface mine1 type=internal external_ids:mine=1
nft add table inet ringfence2
mkdir /run/ringfence-router-mine; echo mine >/run/ringfence-router-mine/squid.conf
touch /run/netns/mine";

/// All of that as it is.
const THINGS: &str = "\
INSIDE
ip -d link show $(cat /run/veth); ip -d link show mine0; ip -4 addr show mine0 | grep inet
ip route | grep mine0; ip addr show lo | grep ring$; nft list tables | grep ringfence2
ovs-vsctl get interface mine1 external_ids; ovs-vsctl port-to-br mine1; ls -l /run/netns/mine
cat /run/ringfence-router-mine/squid.conf";

/// All of that goes again.
const CLEAN: &str = "\
ip netns del vm1 2>/dev/null; ip link del $(cat /run/veth) 2>/dev/null; ip link del mine0
ip addr del 192.0.2.7/32 dev lo label lo:ring; ovs-vsctl --if-exists del-br br0
nft delete table inet ringfence2; rm -r /run/ringfence-router-mine /run/netns/mine
while ip link show dev $(cat /run/veth) >/dev/null 2>&1; do sleep 0.02; done; true";

fn shell(script: &str) -> String {
    let output = duct::cmd!("sh", "-c", script).stdin_null().stderr_to_stdout().unchecked();
    output.read().unwrap()
}

fn things() -> String {
    steady(&shell(&THINGS.replace("INSIDE", &inside("vm1"))))
}

/// What is printed of links without what runs by itself.
fn steady(text: &str) -> String {
    let words = text.split_inclusive([' ', '\n']);
    let mut timer = false;
    let kept = words.filter(|word| {
        let skip = timer && (word.trim().is_empty() || word.trim().parse::<f64>().is_ok());
        timer = skip && word.trim().is_empty() || word.trim_end().ends_with("_timer");
        !skip
    });
    kept.collect()
}

/// A machine on which somebody meddles before one of the commands that change it.
struct Meddled {
    point: usize,
    met: AtomicUsize,
    before: Mutex<Option<(String, String)>>,
}

impl Intercept for Meddled {
    fn pass(&self, command: &Command) -> Result<Output, Diagnostic> {
        if command.changes && self.met.fetch_add(1, Ordering::SeqCst) == self.point {
            let said = shell(&MEDDLE.replace("THEIRS", &theirs("vm1")));
            assert_eq!(said, "", "meddling before `{command}`");
            *self.before.lock().unwrap() = Some((command.to_string(), things()));
        }
        Machine.run(command)
    }
}

#[test]
fn inside_a_node() {
    let Ok(task) = std::env::var(INSIDE) else { return };
    let (from, to) = task.split_once(' ').unwrap();
    let state = Path::new("/run/ringfence");
    let options = Options { state: state.into(), take_over: true, ..Options::default() };
    let mut report = String::new();
    for point in 0.. {
        apply(Path::new(from), &options, &Machine).unwrap();
        let system = Meddled { point, met: AtomicUsize::new(0), before: Mutex::new(None) };
        let outcome = if to == "teardown" {
            teardown(state, false, &system).map(|_| ()).map_err(|error| error.message)
        } else {
            let outcome = apply(Path::new(to), &options, &system);
            let outcome = outcome.map(|outcome| outcome.rolled_back.map(|back| back.reason));
            outcome.map_err(|error| error.message).and_then(|back| back.map_or(Ok(()), Err))
        };
        let Some((command, before)) = system.before.into_inner().unwrap() else {
            assert!(point > 3, "{outcome:?}");
            break;
        };
        let _ = writeln!(report, "{point}: before `{command}`: {outcome:?}");
        assert_eq!(things(), before, "{point}, before `{command}`: {outcome:?}");
        for again in [to, from] {
            if again == "teardown" {
                continue;
            }
            // Names that are others' now may stop it, and it says so.
            let outcome = apply(Path::new(again), &options, &Machine);
            assert_eq!(things(), before, "{point}, before `{command}`, then {again}: {outcome:?}");
        }
        let outcome = teardown(state, false, &Machine);
        assert_eq!(things(), before, "{point}, before `{command}`, then teardown: {outcome:?}");
        assert!(outcome.is_ok(), "{point}, before `{command}`, then teardown: {outcome:?}");
        let left = shell(
            "ls /run/netns | grep -v -e ^vm1 -e ^mine; ip -br link | grep ^rf- | \
                          grep -v $(cat /run/veth); ip addr show lo | grep ringfence",
        );
        assert_eq!(left, "", "{point}, before `{command}`: {outcome:?}");
        shell(CLEAN);
    }
    fs::write("/run/report", report).unwrap();
}

/// Somebody meddles before each command of a change in turn.
#[expect(clippy::print_stdout, reason = "what becomes of each is worth to be seen")]
fn meddle(from: &str, to: &str) {
    let node = Node::between(NETWORK, &NETWORK.replace(POD, ""));
    node.done(&["apply", OLD]);
    node.on(
        "ip -o link | grep 'ringfence pod shop/vm1' | grep -o 'rf-[0-9a-f]*' | head -1 >/run/veth; \
             grep -q rf- /run/veth",
    );
    node.done(&["teardown"]);
    // It waits for two seconds each time, and nobody listens.
    node.before("arping", "exit 0");
    let own = std::env::current_exe().unwrap();
    let command = format!(
        "{INSIDE}='{from} {to}' {} --exact foreign_objects::inside_a_node >/run/log 2>&1 || cat /run/log",
        own.display()
    );
    assert_eq!(node.on(&command), "");
    println!("{}", node.on("cat /run/report"));
}

#[test]
fn whatever_others_make_while_a_pod_goes_is_the_same_after_it() {
    meddle(OLD, NEW);
}

#[test]
fn whatever_others_make_while_a_pod_comes_is_the_same_after_it() {
    meddle(NEW, OLD);
}

#[test]
fn whatever_others_make_during_a_teardown_is_the_same_after_it() {
    meddle(OLD, "teardown");
}
