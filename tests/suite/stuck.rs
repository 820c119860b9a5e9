//! What used to stop every further run: rows of Open vSwitch that are lost, bridges that speak other
//! versions of OpenFlow, numbers and addresses that others hold, process numbers that come again, and
//! a state that can't be read.

use std::fs;

use crate::apply::Run;
use crate::lab::{Live, datapath, live_of};
use crate::support::{ringfence, written};
use ringfence::value::Datapath;

const NETWORK: &str = "\
version: 1
nodes:
  - name: node-1
    address: 192.168.12.11
    uplink: {interface: eth0, subnet: 192.168.12.0/24, gateway: 192.168.12.1}
    reservedAddresses: [192.168.12.100]
projects:
  - name: shop
    pods: [{name: web-0, node: node-1, labels: {app: web}}]
    services: [{name: web, selector: {app: web}, ports: [{port: 80, targetPort: 8080}]}]
egressIPs:
  - {project: shop, addresses: [192.168.12.100]}
";

/// What a pod of this network has in the lock file.
const PORT: &str = "264";

/// A proxy for the network.
const PROXY: &str = "egressRouters:
  - name: browse
    project: shop
    mode: http-proxy
    source: 192.168.12.98
    gateway: 192.168.12.1
    node: node-1
    rules: [{allow: www.example.com}]
";

fn run(live: &Live, words: &[&str]) -> Run {
    live.lab.ringfence(live.node("node-1"), words).unwrap().into()
}

/// Applies in one run, and changes nothing in the second. Returns what the first said.
fn settles(live: &Live, arguments: &[&str]) -> String {
    let arguments = [&["--take-over"], arguments].concat();
    let run = live.apply_on("node-1", &arguments);
    assert_eq!(run.status, 0, "{}{}", run.stdout, run.stderr);
    let again = live.apply_on("node-1", &[]);
    let expected = (0, "", "node-1: nothing to change\n");
    assert_eq!((again.status, again.stdout.as_str(), again.stderr.as_str()), expected);
    run.stdout
}

#[test]
fn a_kept_file_that_was_damaged_is_kept_again() {
    let (_directory, live) = live_of(NETWORK);
    settles(&live, &[]);
    for file in ["node.json", "flows.ofctl", "ruleset.nft"] {
        live.on("node-1", &format!("truncate -s -1 /run/ringfence/generations/*/{file}"));
        assert_eq!(run(&live, &["status"]).status, 1, "{file}");
        let again = live.apply_on("node-1", &[]);
        assert_eq!(again.status, 0, "{file}: {}", again.stderr);
        let status = run(&live, &["status"]);
        assert_eq!(status.status, 0, "{file}: {}{}", status.stdout, status.stderr);
    }
}

#[test]
fn rows_that_were_lost_are_made_again() {
    let (_directory, live) = live_of(NETWORK);
    settles(&live, &[]);
    // As with a new disk: the database is empty, while the kernel still has the interfaces.
    live.on(
        "node-1",
        "ovs-vsctl get Bridge br-phy datapath_type other_config:hwaddr; \
         kill $(cat /run/openvswitch/ovs-vswitchd.pid) $(cat /run/openvswitch/ovsdb-server.pid); \
         while [ -e /run/openvswitch/ovs-vswitchd.pid ] || [ -e /run/openvswitch/ovsdb-server.pid ]; \
         do sleep 0.05; done; rm /etc/openvswitch/conf.db; \
         ovsdb-tool create /etc/openvswitch/conf.db /usr/share/openvswitch/vswitch.ovsschema; \
         ovsdb-server /etc/openvswitch/conf.db --remote=punix:/run/openvswitch/db.sock \
         --pidfile --detach --no-chdir --log-file -vconsole:off; ovs-vsctl --no-wait init; \
         ovs-vswitchd unix:/run/openvswitch/db.sock \
         --pidfile --detach --no-chdir --log-file -vconsole:off",
    );
    if datapath() == Datapath::Netdev {
        let kind = live.on("node-1", "ip -d -o link show tun0");
        assert!(kind.contains(" tun "), "{kind}");
        let mac = "mac=$(ip -o link show eth0 | sed 's/.*ether \\([^ ]*\\) .*/\\1/')";
        live.on(
            "node-1",
            &format!(
                "{mac}; ovs-vsctl --timeout=60 add-br br-phy -- set bridge br-phy \
                 datapath_type=netdev fail_mode=standalone other-config:hwaddr=$mac -- \
                 add-port br-phy eth0"
            ),
        );
    }
    settles(&live, &[]);
    live.prove();
}

#[test]
fn a_bridge_that_speaks_other_versions_is_taken_all_the_same() {
    let (_directory, live) = live_of(NETWORK);
    // As openshift-sdn makes it, with flows, ports and a group of its own.
    let kind = datapath().as_str();
    live.on(
        "node-1",
        &format!(
            "ovs-vsctl --timeout=20 add-br br0 -- set Bridge br0 fail_mode=secure \
             protocols=OpenFlow13 datapath_type={kind} -- add-port br0 vxlan0 -- set Interface \
             vxlan0 type=vxlan options:remote_ip=flow options:key=flow ofport_request=1 -- \
             add-port br0 tun0 -- set Interface tun0 type=internal mtu_request=1450 \
             ofport_request=2; \
             ovs-ofctl -O OpenFlow13 add-group br0 group_id=7,type=all,bucket=output:1; \
             ovs-ofctl -O OpenFlow13 add-flow br0 table=30,priority=77,ip,actions=group:7"
        ),
    );
    let refused = live.apply_on("node-1", &["--take-over"]);
    assert!(
        refused.stderr.starts_with("error[RF206]: the bridge `br0` exists"),
        "{}",
        refused.stderr
    );
    settles(&live, &["--adopt"]);
    live.prove();
    for protocols in ["OpenFlow13", "OpenFlow10", "OpenFlow10,OpenFlow14", "[]"] {
        live.on("node-1", &format!("ovs-vsctl --timeout=20 set Bridge br0 protocols={protocols}"));
        let said = settles(&live, &[]);
        assert!(said.contains("~ bridge br0: "), "{protocols}: {said}");
    }
    live.prove();
    let dump = live.on("node-1", "ovs-ofctl -O OpenFlow15 dump-groups br0");
    assert!(!dump.contains("group_id=7,"), "{dump}");
}

#[test]
fn an_egress_ip_that_lo_has_already_is_adopted() {
    let (_directory, live) = live_of(NETWORK);
    for address in ["192.168.12.100/32", "192.168.12.100/24"] {
        live.on("node-1", &format!("ip address add {address} dev lo"));
        let refused = live.apply_on("node-1", &[]);
        assert_eq!(
            refused.stderr,
            format!(
                "error[RF220]: the egress IP 192.168.12.100 is an address of `lo`, and ringfence did \
                 not put it there\n |\n = help: remove it with `ip address del {address} dev lo`, if \
                 nothing needs it, or take it over with --adopt\n\n1 error\n"
            )
        );
        settles(&live, &["--adopt"]);
        let lo = live.on("node-1", "ip -o -4 address show dev lo to 192.168.12.100");
        assert_eq!(lo.matches("192.168.12.100/32 scope global lo:ringfence").count(), 1, "{lo}");
        live.on("node-1", "ip address del 192.168.12.100/32 dev lo");
    }
}

#[test]
fn a_port_of_others_with_the_number_of_a_pod_gives_way() {
    let (_directory, live) = live_of(NETWORK);
    settles(&live, &[]);
    let port =
        live.on("node-1", &format!("ovs-vsctl --bare --columns=name find Interface ofport={PORT}"));
    let port = port.trim();
    live.on(
        "node-1",
        &format!(
            "ovs-vsctl --timeout=20 del-port {port}; ovs-vsctl --timeout=20 add-port br0 theirs0 -- \
             set Interface theirs0 type=internal ofport_request={PORT}; \
             [ $(ovs-vsctl get Interface theirs0 ofport) = {PORT} ]"
        ),
    );
    let said = settles(&live, &[]);
    assert!(said.contains("port theirs0: "), "{said}");
    assert_eq!(live.on("node-1", &format!("ovs-vsctl get Interface {port} ofport")).trim(), PORT);
    let theirs = live.on("node-1", "ovs-vsctl get Interface theirs0 ofport");
    assert!(
        theirs.trim().parse::<u16>().is_ok_and(|number| number.to_string() != PORT),
        "{theirs}"
    );
    live.prove();
}

#[test]
fn a_process_that_has_the_number_of_a_proxy_is_left_alone() {
    let (_directory, mut live) = live_of(&format!("{NETWORK}{PROXY}"));
    settles(&live, &[]);
    let other = |live: &Live| {
        live.on(
            "node-1",
            "kill -KILL $(cat /run/ringfence-router-browse/pid); \
             while [ -n \"$(ip netns pids router_browse)\" ]; do \
             kill -KILL $(ip netns pids router_browse) 2>/dev/null; sleep 0.1; done; \
             setsid tail -f /run/ringfence-router-browse/squid.conf >/dev/null 2>&1 & \
             echo $! >/run/ringfence-router-browse/pid; echo $!",
        )
    };
    let number = other(&live);
    let said = settles(&live, &[]);
    assert!(said.contains("+ proxy router browse: squid in router_browse\n"), "{said}");
    let alive = format!("kill -0 {}", number.trim());
    live.on("node-1", &alive);
    // The scripts know it from their own, too.
    let number = other(&live);
    let alive = format!("kill -0 {}", number.trim());
    live.on("node-1", "sh /run/ringfence-router-browse/proxy.sh stop");
    live.on("node-1", &alive);
    live.on("node-1", "sh /run/ringfence-router-browse/proxy.sh");
    live.on("node-1", &alive);
    settles(&live, &[]);
    let number = other(&live);
    let alive = format!("kill -0 {}", number.trim());
    let directory = written(NETWORK);
    let (model, sources) = crate::lab::load(directory.path());
    live.lab.replace(model, &sources).unwrap();
    settles(&live, &[]);
    live.on("node-1", &alive);
}

/// What may be in the state file that is no state, and what is said of it.
const STATES: &[(&str, &str)] = &[
    ("", "it is empty"),
    ("{\"version\": 2, \"current\":", "it is not as ringfence writes it: "),
    ("no JSON", "it is not as ringfence writes it: "),
    ("[]", "it is not as ringfence writes it: "),
    ("{\"version\": 99, \"later\": true}", "it has version 99, and this ringfence reads version 2"),
    ("{\"version\": 1, \"rulesets\": {}}", "it has version 1, and this ringfence reads version 2"),
];

#[test]
fn a_state_that_cannot_be_read_is_never_taken_for_none() {
    let (_directory, live) = live_of(NETWORK);
    settles(&live, &[]);
    live.on("node-1", "cp /run/ringfence/state.json /run/good");
    let files = live.lab.files(live.node("node-1")).to_string_lossy().into_owned();
    for (text, what) in STATES {
        let quoted = shlex::try_quote(text).unwrap().into_owned();
        live.on("node-1", &format!("printf %s {quoted} >/run/ringfence/state.json"));
        let before = live.on("node-1", "find /run/ringfence -type f | sort | xargs md5sum");
        let commands: [&[&str]; 7] = [
            &["apply", &files],
            &["apply", &files, "--check"],
            &["apply", "--current"],
            &["rollback"],
            &["generations"],
            &["status"],
            &["confirm"],
        ];
        for words in commands {
            let run = run(&live, words);
            let expected = format!("error[RF210]: cannot use `/run/ringfence/state.json`: {what}");
            assert!(run.stderr.starts_with(&expected), "{words:?}: {}", run.stderr);
            assert!(run.stderr.contains("\n = help: "), "{}", run.stderr);
            assert_eq!(run.status, 1);
            let after = live.on("node-1", "find /run/ringfence -type f | sort | xargs md5sum");
            assert_eq!(before, after, "{words:?}");
        }
        // What is said to be done helps: it is put aside, and nothing kept is lost by it.
        live.on("node-1", "mv /run/ringfence/state.json /run/ringfence/state.json.unreadable");
        let run = live.apply_on("node-1", &[]);
        assert_eq!(run.status, 0, "{}", run.stderr);
        live.on("node-1", "rm /run/ringfence/state.json.unreadable");
    }
    // What is on the node is known by its marks: it is removed, and the state is left to be looked at.
    live.on("node-1", "echo no JSON >/run/ringfence/state.json");
    let gone = run(&live, &["teardown"]);
    assert!(gone.stdout.contains("- bridge br0: "), "{}{}", gone.stdout, gone.stderr);
    assert!(gone.stderr.starts_with("error[RF210]: "), "{}", gone.stderr);
    assert_eq!(gone.status, 1);
    assert_eq!(live.on("node-1", "cat /run/ringfence/state.json; ip netns"), "no JSON\n");
}

#[test]
fn routes_of_builds_that_marked_none_go_too() {
    let second = NETWORK.replace(
        "nodes:\n",
        "cluster: {podNetworks: [{cidr: 10.128.0.0/14, hostPrefix: 23}, {cidr: 10.200.0.0/16, \
         hostPrefix: 24}]}\nnodes:\n",
    );
    let (directory, mut live) = live_of(&second);
    settles(&live, &[]);
    let pod = "ip -n shop.web-0";
    live.on(
        "node-1",
        &format!(
            "for net in 10.128.0.0/14 10.200.0.0/16 172.30.0.0/16; do ip route del $net dev tun0; \
             ip route add $net dev tun0; done; for net in 10.128.0.0/14 10.200.0.0/16; do \
             {pod} route del $net dev eth0; {pod} route add $net dev eth0; done; \
             ip route add 10.77.0.0/16 dev tun0; {pod} route add 10.77.0.0/16 dev eth0"
        ),
    );
    let text = NETWORK.replace("    services: [{name: web, selector: {app: web}, ports: [{port: 80, targetPort: 8080}]}]\n", "");
    fs::write(directory.path().join("network.yaml"), text).unwrap();
    assert_eq!(ringfence(directory.path(), &["lock"]).status, 0);
    let (model, sources) = crate::lab::load(directory.path());
    live.lab.replace(model, &sources).unwrap();
    settles(&live, &[]);
    let routes = live.on("node-1", &format!("ip route; {pod} route"));
    for gone in ["10.200.0.0/16", "172.30.0.0/16"] {
        assert!(!routes.contains(gone), "{routes}");
    }
    assert_eq!(routes.matches("10.128.0.0/14 dev ").count(), 2, "{routes}");
    assert_eq!(routes.matches(" proto 82 ").count(), 1, "{routes}");
    // What nobody of ours has made stays.
    assert_eq!(routes.matches("10.77.0.0/16 dev ").count(), 2, "{routes}");
}
