//! What others do to a node: their networks, their settings of our bridge, their firewalls, their
//! addresses.

use std::fs;

use crate::apply::state_of;
use crate::generations::assert_valid;
use crate::lab::{Live, datapath, live_of};
use crate::support::ringfence;
use ringfence::cli::schema::Subject;
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

fn status(live: &Live) -> (String, i32) {
    let output = live.lab.ringfence(live.node("node-1"), &["status"]).unwrap();
    (String::from_utf8(output.stdout).unwrap(), output.status.code().unwrap())
}

fn drift(live: &Live) -> String {
    let (said, _) = status(live);
    said.split_once("\ndrift ").unwrap_or_else(|| panic!("{said}")).1.to_owned()
}

/// What others have on the node, how it goes again, and what apply says of it.
const NETWORKS: &[(&str, &str, &str)] = &[
    (
        // As Docker does: 172.30.0.0/16 is in its default pool.
        "ip link add docker0 type bridge; ip addr add 172.30.0.1/16 dev docker0; \
         ip link set docker0 up",
        "ip link del docker0",
        "the address 172.30.0.1/16 of `docker0` is inside the service network 172.30.0.0/16, and 1 \
         more like it",
    ),
    (
        "ip link add corp type bridge; ip addr add 10.128.0.200/32 dev corp",
        "ip link del corp",
        "the address 10.128.0.200/32 of `corp` is inside the pod network 10.128.0.0/14",
    ),
    (
        "ip link add corp type bridge; ip link set corp up; ip route add 10.130.0.0/16 dev corp",
        "ip link del corp",
        "the route to 10.130.0.0/16 by `corp` leads away what is in the pod network 10.128.0.0/14",
    ),
    (
        // With the network of ours, and another metric.
        "ip route add 10.128.0.0/14 via 192.168.12.1 metric 50",
        "ip route del 10.128.0.0/14 via 192.168.12.1 metric 50",
        "the route to 10.128.0.0/14 by `UPLINK` leads away what is in the pod network 10.128.0.0/14",
    ),
    (
        "ip route add blackhole 172.30.0.0/16",
        "ip route del blackhole 172.30.0.0/16",
        "the route to 172.30.0.0/16 by no single interface leads away what is in the service \
         network 172.30.0.0/16",
    ),
    (
        "ip route add 10.128.0.0/14 nexthop via 192.168.12.1 dev UPLINK nexthop via 192.168.12.2 \
         dev UPLINK",
        "ip route del 10.128.0.0/14",
        "the route to 10.128.0.0/14 by no single interface leads away what is in the pod network \
         10.128.0.0/14",
    ),
    (
        "ip addr add 192.168.12.100/24 dev UPLINK",
        "ip addr del 192.168.12.100/24 dev UPLINK",
        "the egress IP 192.168.12.100 is an address of `UPLINK`, and ringfence did not put it there",
    ),
    (
        "ip addr add 192.168.12.100/32 dev lo",
        "ip addr del 192.168.12.100/32 dev lo",
        "the egress IP 192.168.12.100 is an address of `lo`, and ringfence did not put it there",
    ),
    (
        "ip addr add 192.168.12.99/32 dev UPLINK",
        "ip addr del 192.168.12.99/32 dev UPLINK",
        "the source 192.168.12.99 of egress router `supplier` is an address of `UPLINK`, and \
         ringfence did not put it there",
    ),
];

#[test]
fn networks_and_addresses_of_others_are_never_replaced() {
    let (_directory, live) = live_of(NETWORK);
    let uplink =
        live.on("node-1", "ip -o route get 192.168.12.1 | sed 's/.* dev \\([^ ]*\\).*/\\1/'");
    let on = |command: &str| live.on("node-1", &command.replace("UPLINK", uplink.trim()));
    // What has more than ours in it is in nobody's way.
    on("ip route add 172.16.0.0/12 via 192.168.12.1; ip route add 10.0.0.0/8 via 192.168.12.1");
    live.on("node-1", "mkdir -p /run/ringfence; touch /run/ringfence/lock");
    let untouched = state_of(&live, "node-1");
    for (make, undo, expected) in NETWORKS {
        on(make);
        let before = state_of(&live, "node-1");
        let expected = expected.replace("UPLINK", uplink.trim());
        for arguments in [&["--check"][..], &[]] {
            let run = live.apply_on("node-1", arguments);
            let error = format!("error[RF220]: {expected}\n |\n = help: ");
            assert!(run.stderr.starts_with(&error) && run.status == 1, "{}", run.stderr);
            assert_eq!(state_of(&live, "node-1"), before, "after {make}");
        }
        on(undo);
        assert_eq!(state_of(&live, "node-1"), untouched, "`{undo}` doesn't undo `{make}`");
    }
    // The scripts take nothing from others either.
    let files = live.lab.files(live.node("node-1"));
    for (make, undo, expected) in [NETWORKS[0], NETWORKS[2], NETWORKS[3], NETWORKS[4], NETWORKS[7]]
    {
        on(make);
        let before = state_of(&live, "node-1");
        let script = if expected.contains("egress IP") { "links.sh" } else { "ports.sh" };
        let run = format!("cd {}; sh {script} 2>&1 && echo done || true", files.display());
        let said = on(&run);
        assert!(said.contains("of others is in") || said.contains("of somebody else's"), "{said}");
        assert!(!said.contains("done"), "{said}");
        let routes = |state: &str| -> Vec<String> {
            let lines =
                state.lines().filter(|line| line.contains(" dev ") || line.contains("hole"));
            lines.map(str::to_owned).collect()
        };
        assert_eq!(routes(&state_of(&live, "node-1")), routes(&before), "after {make}");
        on(undo);
    }

    live.apply_all();
    assert_eq!(live.apply_all(), [false]);
    assert_eq!(drift(&live), "   none\n");
    for (make, undo, expected) in NETWORKS.iter().take(4) {
        on(make);
        let (said, code) = status(&live);
        let message =
            expected.split(", and 1 more").next().unwrap().replace("UPLINK", uplink.trim());
        assert!(
            said.contains(&format!("! {message}; apply refuses with RF220\n")),
            "{make}: {said}"
        );
        assert_eq!(code, 2, "{said}");
        on(undo);
        assert_eq!(status(&live).1, 0, "`{undo}` doesn't undo `{make}`");
    }
}

/// What somebody sets with `ovs-vsctl`, and what apply says about it; POD is the port of a pod.
const SETTINGS: &[(&str, &str)] = &[
    ("set-controller br0 tcp:127.0.0.1:6653", "~ bridge br0: controller"),
    ("set-fail-mode br0 standalone", "~ bridge br0: fail mode"),
    ("set Bridge br0 protocols=OpenFlow10,OpenFlow14", "~ bridge br0: protocols"),
    (
        "-- set Bridge br0 mirrors=@m -- --id=@m create Mirror name=m select-all=true",
        "~ bridge br0: mirrors",
    ),
    (
        "-- set Bridge br0 flow_tables:80=@t -- --id=@t create Flow_Table flow_limit=1 \
         overflow_policy=evict",
        "~ bridge br0: flow tables",
    ),
    (
        "-- set Bridge br0 sflow=@s -- --id=@s create sFlow targets='\"127.0.0.1:6343\"' \
         -- set Bridge br0 netflow=@n -- --id=@n create NetFlow targets='\"127.0.0.1:2055\"' \
         -- set Bridge br0 ipfix=@i -- --id=@i create IPFIX targets='\"127.0.0.1:4739\"'",
        "~ bridge br0: ipfix, netflow, sflow",
    ),
    (
        "set Bridge br0 other_config:disable-in-band=true other_config:datapath-id=00000000000000aa \
         stp_enable=true mcast_snooping_enable=true",
        "~ bridge br0: other config, mcast snooping, stp",
    ),
    ("set Bridge br0 rstp_enable=true", "~ bridge br0: rstp"),
    (
        "set Port POD tag=7 trunks=1,2 vlan_mode=native-tagged protected=true",
        "~ port POD: tag, trunks, vlan mode, protected of pod shop/web-0",
    ),
    (
        "set Interface POD ingress_policing_rate=100 ingress_policing_burst=10 options:foo=bar",
        "~ port POD: option foo, ingress policing burst, ingress policing rate of pod shop/web-0",
    ),
    (
        "set Interface vxlan0 options:tos=inherit options:gbp=true",
        "~ port vxlan0: option gbp, option tos of node-1",
    ),
    ("set Interface vxlan0 bfd:enable=true", "~ port vxlan0: bfd of node-1"),
    ("set Port tun0 tag=9", "~ port tun0: tag of node-1"),
];

#[test]
fn what_others_set_on_our_bridge_is_told_and_mended() {
    let (_directory, live) = live_of(NETWORK);
    live.apply_all();
    let pod = live.on("node-1", "ip -br link | grep -o '^rf-[0-9a-f]*' | head -1; true");
    let owner = live.on("node-1", &format!("ip link show {}", pod.trim()));
    assert!(owner.contains("alias ringfence"), "{owner}");
    let pod = live.on(
        "node-1",
        "for port in $(ovs-vsctl list-ports br0); do ovs-vsctl get Port $port \
         external_ids:ringfence | grep -q web-0 && echo $port; done; true",
    );
    for (command, expected) in SETTINGS {
        let expected = expected.replace("POD", pod.trim());
        live.on(
            "node-1",
            &format!("ovs-vsctl --timeout=20 {}", command.replace("POD", pod.trim())),
        );
        let said = drift(&live);
        assert!(said.lines().any(|line| line == expected), "{command}: {said}");
        let run = live.apply_on("node-1", &[]);
        assert_eq!(run.status, 0, "{command}: {}", run.stderr);
        assert!(run.stdout.lines().any(|line| line == expected), "{command}: {}", run.stdout);
        assert_eq!(drift(&live), "   none\n", "{command}");
        assert!(!live.lab.apply(live.node("node-1")).unwrap().changed, "{command}");
    }
    // What Open vSwitch doesn't read is somebody's note.
    live.on("node-1", "ovs-vsctl set Bridge br0 other_config:note=mine external_ids:owner=me");
    assert_eq!(drift(&live), "   none\n");
    live.prove();
}

#[test]
fn a_datapath_is_tried_before_and_a_bridge_that_is_not_open_is_mended() {
    let (directory, live) = live_of(NETWORK);
    live.apply_all();
    let lacks = "ovs-appctl dpctl/show system@ovs-system 2>&1 | grep -c 'No such file' || true";
    if datapath() == Datapath::System || live.on("node-1", lacks).trim() == "0" {
        return; // Open vSwitch can open everything here.
    }
    // Somebody changes the type by hand; Open vSwitch has no bridge then, but its database has.
    live.on("node-1", "ovs-vsctl --timeout=20 set Bridge br0 datapath_type=system 2>&1");
    assert!(drift(&live).contains("~ bridge br0: datapath\n"), "{}", drift(&live));
    let run = live.apply_on("node-1", &[]);
    assert_eq!(run.status, 0, "{}", run.stderr);
    assert_eq!(drift(&live), "   none\n");

    // The desired state does, which is refused before anything is changed.
    let path = directory.path().join("network.yaml");
    let text = NETWORK.replace(
        "    address: 192.168.12.11\n",
        "    address: 192.168.12.11\n    datapath: system\n",
    );
    fs::write(&path, text).unwrap();
    let run = ringfence(directory.path(), &["compile", ".", "-o", "out"]);
    assert_eq!(run.status, 0, "{}", run.stderr);
    let files = directory.path().join("out/node-1").display().to_string();
    let before = state_of(&live, "node-1");
    for words in [&["apply", &files, "--check"][..], &["apply", &files]] {
        let output = live.lab.ringfence(live.node("node-1"), words).unwrap();
        assert_eq!(
            String::from_utf8_lossy(&output.stderr),
            "error[RF222]: Open vSwitch can't open a bridge with `datapath: system` here: the kernel \
             module `openvswitch` is not loaded\n |\n = help: run `modprobe openvswitch`, then restart \
             Open vSwitch; or set `datapath: netdev` for the node\n\n1 error\n"
        );
        assert_eq!(state_of(&live, "node-1"), before);
    }
    live.prove();
    // A node that was left so by an earlier version gets out of it too.
    live.on("node-1", "ovs-vsctl --timeout=20 set Bridge br0 datapath_type=system 2>&1");
    let output = live.lab.ringfence(live.node("node-1"), &["apply", &files]).unwrap();
    assert!(String::from_utf8_lossy(&output.stderr).starts_with("error[RF222]: "));
    assert_eq!(live.apply_all(), [true]);
    live.prove();
}

/// What others' rules are, and what is said of them.
const RULES: &[(&str, Option<&str>)] = &[
    (
        // As Docker has it.
        "add table ip filter; add chain ip filter FORWARD { type filter hook forward priority 0; \
         policy drop; }",
        Some(
            "the chain FORWARD of table ip filter drops what no rule of its own lets pass: it has to \
             let pass what comes from `tun0` and what goes to it",
        ),
    ),
    (
        "add rule ip filter FORWARD iifname \"tun0\" accept; \
         add rule ip filter FORWARD oifname \"tun0\" accept",
        None,
    ),
    (
        // As firewalld has it.
        "delete table ip filter; add table inet firewalld; add chain inet firewalld filter_FORWARD \
         { type filter hook forward priority 10; policy accept; }; add rule inet firewalld \
         filter_FORWARD ct state established,related accept; add rule inet firewalld \
         filter_FORWARD reject with icmpx type admin-prohibited",
        Some(
            "the chain filter_FORWARD of table inet firewalld drops what no rule of its own lets \
             pass: it has to let pass what comes from `tun0` and what goes to it",
        ),
    ),
    (
        "delete table inet firewalld; add table inet mine; add chain inet mine in \
         { type filter hook input priority 0; policy drop; }; add rule inet mine in tcp dport 22 \
         accept",
        Some(
            "the chain in of table inet mine drops what no rule of its own lets pass: it has to let \
             pass UDP port 4789 between the nodes, and what comes from `tun0`",
        ),
    ),
    ("add rule inet mine in udp dport 4789 accept", None),
    ("delete table inet mine", None),
];

#[test]
fn chains_of_others_that_drop_are_named_by_apply_check_and_status() {
    let (_directory, live) = live_of(NETWORK);
    live.apply_all();
    let reaches = || {
        let to = "203.0.113.80:80".parse().unwrap();
        let probe = live.probe_outside("shop/web-0", to, Some("192.168.12.100".parse().unwrap()));
        live.lab.probe(vec![probe]).unwrap().counts().1 == 0
    };
    assert!(reaches());
    for (rules, expected) in RULES {
        live.on("node-1", &format!("nft -f - <<'E'\n{}\nE", rules.replace("; add", "\nadd")));
        let line = expected.map(|message| format!("! {message}\n")).unwrap_or_default();
        for arguments in [&["--check"][..], &[]] {
            let run = live.apply_on("node-1", arguments);
            assert_eq!((run.status, run.stdout.as_str()), (0, line.as_str()), "{rules}");
        }
        let (said, code) = status(&live);
        assert_eq!((drift(&live), code), (format!("   none\n{line}"), 0), "{rules}: {said}");
        for (words, subject) in [
            (["apply", "--json", "--check"].as_slice(), Subject::Apply),
            (&["status", "--json"], Subject::Status),
        ] {
            let files = live.lab.files(live.node("node-1")).display().to_string();
            let words: Vec<&str> = if subject == Subject::Apply {
                [words, &[&files]].concat()
            } else {
                words.to_vec()
            };
            let output = live.lab.ringfence(live.node("node-1"), &words).unwrap();
            let document: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
            assert_valid(subject, &document);
            let found = document["findings"].as_array().unwrap();
            assert_eq!(found.len(), usize::from(expected.is_some()), "{document}");
        }
        // What is said of forwarding is so, as packets show.
        let forward = expected.is_some_and(|message| message.contains("FORWARD"));
        assert_eq!(reaches(), !forward, "{rules}");
    }
}

#[test]
fn an_address_that_answers_is_not_taken_unless_that_is_wanted() {
    let (_directory, live) = live_of(NETWORK);
    let outside = |words: &str| {
        let words: Vec<&str> = words.split(' ').collect();
        live.lab.outside().run(None, &words).unwrap()
    };
    let mac = outside("ip -br link show lan0").split_whitespace().nth(2).unwrap().to_owned();
    live.on("node-1", "mkdir -p /run/ringfence; touch /run/ringfence/lock");
    let untouched = state_of(&live, "node-1");
    for (what, address) in [
        ("the egress IP 192.168.12.100", "192.168.12.100"),
        ("the source 192.168.12.99 of egress router `supplier`", "192.168.12.99"),
    ] {
        outside(&format!("ip addr add {address}/32 dev lan0"));
        let run = live.apply_on("node-1", &[]);
        let expected =
            format!("error[RF221]: {what} is not free: {mac} answers for {address} on `");
        assert!(run.stderr.starts_with(&expected) && run.status == 1, "{}", run.stderr);
        assert_eq!(state_of(&live, "node-1"), untouched);
        // By the time of the change it may be free, so a check only says it.
        let check = live.apply_on("node-1", &["--check"]);
        assert!(
            check.stdout.contains(&format!("! {what} is not free: {mac} answers for ")),
            "{}",
            check.stdout
        );
        assert_eq!((check.status, state_of(&live, "node-1")), (2, untouched.clone()));
        outside(&format!("ip addr del {address}/32 dev lan0"));
    }
    live.apply_all();
    live.prove();
    // What the node has is its own, whoever else comes.
    outside("ip addr add 192.168.12.100/32 dev lan0");
    let run = live.apply_on("node-1", &["--verbose"]);
    assert_eq!((run.status, run.stderr.as_str()), (0, "node-1: nothing to change\n"));
    live.lab.ringfence(live.node("node-1"), &["teardown"]).unwrap();
    assert_eq!(live.apply_on("node-1", &[]).status, 1);
    assert_eq!(live.apply_on("node-1", &["--take-over"]).status, 0);
    assert!(live.on("node-1", "ip addr show lo").contains("192.168.12.100"));
}
