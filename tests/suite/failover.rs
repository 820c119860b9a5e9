//! Egress routers and egress IPs go to another node when theirs is unavailable.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use crate::lab::{Live, live, load};
use ringfence::diagnostic::Sources;
use ringfence::intent::NodeId;
use ringfence::lab::{self, Observed};
use ringfence::model::{Model, Workload};
use ringfence::value::Mac;

/// A network whose router prefers node-2, and whose egress IP may be held by two nodes, with more
/// lines for the entry of one node.
fn network(node: &str, more: &str) -> (tempfile::TempDir, Model, Sources) {
    let mut text = String::from("version: 1\nnodes:\n");
    for number in 1..=3 {
        let name = format!("node-{number}");
        let _ = write!(
            text,
            "  - name: {name}\n    address: 192.168.12.1{number}\n    uplink: {{interface: eth0, \
             subnet: 192.168.12.0/24, gateway: 192.168.12.1}}\n"
        );
        if name == node {
            text += more;
        }
        if number != 1 {
            text += "    egressCIDRs: [192.168.12.96/28]\n";
        }
    }
    text += "projects:\n  - name: shop\n    pods: [{name: web-0, node: node-1}]\n  \
             - name: bank\n    pods: [{name: core-0, node: node-1}]\n\
             egressRouters:\n  - name: supplier\n    project: shop\n    source: 192.168.12.99\n    \
             gateway: 192.168.12.1\n    destination: 203.0.113.25\n    nodes: [node-2, node-3]\n\
             egressIPs:\n  - {project: bank, addresses: [192.168.12.100]}\n";
    let directory = crate::support::written(&text);
    let (model, sources) = load(directory.path());
    (directory, model, sources)
}

/// The nodes of the router and of the egress IP.
fn places(model: &Model) -> (String, String) {
    let intent = model.intent();
    let (_, router) = intent.routers().next().unwrap();
    let name = |node: NodeId| intent[node].name.to_string();
    (name(router.node), name(intent.egress_ips()[0].addresses[0].node))
}

#[test]
fn an_unavailable_node_hosts_no_router_and_holds_no_egress_ip() {
    let (_, model, _) = network("", "");
    let (router, holder) = places(&model);
    assert_eq!(router, "node-2");
    let other = if holder == "node-2" { "node-3" } else { "node-2" };

    let (_, model, _) = network("node-2", "    unavailable: true\n");
    assert_eq!(places(&model), ("node-3".to_owned(), "node-3".to_owned()));
    let (_, model, _) = network(&holder, "    unavailable: true\n");
    assert_eq!(places(&model).1, other);

    // One that has the address set aside goes before those with a range, if it is available.
    let aside = "    reservedAddresses: [192.168.12.100]\n";
    let (_, model, _) = network("node-1", aside);
    assert_eq!(places(&model).1, "node-1");
    let (_, model, _) = network("node-1", &format!("    unavailable: true\n{aside}"));
    assert_eq!(places(&model).1, holder);

    // It doesn't matter to what isn't there.
    let (_, model, _) = network("node-1", "    unavailable: true\n");
    assert_eq!(places(&model), ("node-2".to_owned(), holder));
}

#[test]
fn a_router_moves_and_the_outside_sees_the_same_source() {
    let (directory, ..) = network("", "");
    let mut live = live(directory.path());
    live.apply_all();
    live.prove();
    // The switch outside knows the cable that leads to the router.
    let cable = |live: &Live| {
        let table = live.lab.outside().run(None, &["bridge", "fdb", "show", "br", "lan0"]).unwrap();
        let mac = Mac::of_ipv4("192.168.12.99".parse().unwrap()).to_string();
        let line = table.lines().find(|line| line.starts_with(&mac));
        line.unwrap_or_else(|| panic!("{table}")).split(' ').nth(2).unwrap().to_owned()
    };
    assert_eq!(cable(&live), "w1");
    assert!(live.on("node-2", "ip netns").contains("router_supplier"));

    let (_directory, model, sources) = network("node-2", "    unavailable: true\n");
    live.lab.replace(model, &sources).unwrap();
    assert!(live.lab.apply(live.node("node-2")).unwrap().changed);
    assert_eq!(live.on("node-2", "ip netns; ip -d link show type macvlan"), "");
    assert_eq!(cable(&live), "w1");
    assert!(live.lab.apply(live.node("node-3")).unwrap().changed);
    assert_eq!(cable(&live), "w2", "the new node's announcement moves it, before any traffic");
    assert!(live.on("node-3", "ip netns").contains("router_supplier"));
    live.apply_all();
    assert!(live.apply_all().iter().all(|changed| !changed));

    let summary = live.prove();
    let through = |(probe, seen): &&(lab::Probe, Observed)| {
        let expected = Observed::Answer {
            seen_as: "192.168.12.99".to_owned(),
            at: format!("203.0.113.25:{}", probe.to.port()),
        };
        probe.title.starts_with("shop/web-0 to router supplier") && *seen == expected
    };
    assert_eq!(summary.results.iter().filter(through).count(), 2, "{}", summary.table());
}

/// A project with an address in each of two places, one of which is out of service.
const TWO_PLACES: &str = "\
version: 1
nodes:
  - name: dc1
    address: 172.20.220.90
    uplink: {interface: eth0, subnet: 172.20.220.0/24, gateway: 172.20.220.1}
    egressCIDRs: [172.20.220.128/25]
  - name: dc2
    address: 172.20.221.30
    unavailable: true
    uplink: {interface: eth0, subnet: 172.20.221.0/24, gateway: 172.20.221.1}
    egressCIDRs: [172.20.221.128/25]
projects:
  - name: test
    pods: [{name: a, node: dc1}, {name: b, node: dc1}, {name: c, node: dc1}, {name: d, node: dc2}]
egressIPs:
  - {project: test, addresses: [172.20.220.150, 172.20.221.150]}
";

fn write(text: &str) -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("network.yaml"), text).unwrap();
    directory
}

#[test]
fn pods_leave_by_the_address_whose_node_is_available() {
    let directory = write(TWO_PLACES);
    let run = crate::support::ringfence(directory.path(), &["validate", "--deny-warnings"]);
    assert_eq!(run.status, 0, "{}", run.stderr);
    let live = live(directory.path());
    live.apply_all();
    let summary = live.prove();
    let outwards = summary.results.iter().filter(|(probe, _)| probe.title.contains("no policy"));
    let seen: Vec<&Observed> = outwards.map(|(_, seen)| seen).collect();
    assert_eq!(seen.len(), 2, "{}", summary.table());
    for seen in seen {
        let Observed::Answer { seen_as, .. } = seen else { panic!("{seen:?}") };
        assert_eq!(seen_as, "172.20.220.150");
    }
    assert!(!live.on("dc2", "ip address show dev lo").contains("172.20.221.150"));
    assert!(live.on("dc1", "ip address show dev lo").contains("172.20.220.150"));
}

#[test]
fn only_what_an_unavailable_node_held_moves() {
    let text = |unavailable: Option<usize>| {
        let mut text = String::from("version: 1\nnodes:\n");
        for number in 1..=5 {
            let _ = writeln!(
                text,
                "  - {{name: node-{number}, address: 192.168.12.1{number}, unavailable: {}, \
                 egressCIDRs: [192.168.12.128/27], uplink: {{interface: eth0, subnet: \
                 192.168.12.0/24, gateway: 192.168.12.1}}}}",
                unavailable == Some(number)
            );
        }
        // Of two that one node alone may hold, one goes when it is unavailable.
        text += "  - {name: other, address: 192.168.13.11, egressCIDRs: [192.168.13.128/27], uplink: \
                 {interface: eth0, subnet: 192.168.13.0/24, gateway: 192.168.13.1}";
        let _ = writeln!(text, ", unavailable: {}}}", unavailable == Some(6));
        text += "projects:\n";
        for number in 0..4 {
            let pods = (0..12).map(|pod| format!("{{name: pod-{pod}, node: node-1}}"));
            let pods = pods.collect::<Vec<_>>().join(", ");
            let _ = writeln!(text, "  - {{name: project-{number}, pods: [{pods}]}}");
        }
        text += "egressIPs:\n";
        for number in 0..4 {
            let first = 129 + 3 * number;
            let _ = writeln!(
                text,
                "  - {{project: project-{number}, addresses: [192.168.12.{first}, 192.168.12.{}, \
                 192.168.12.{}, 192.168.13.{first}]}}",
                first + 1,
                first + 2
            );
        }
        text
    };
    let places = |unavailable: Option<usize>| {
        let directory = write(&text(unavailable));
        let (model, _) = load(directory.path());
        let intent = model.intent();
        let lists = intent.egress_ips().iter().flat_map(|list| &list.addresses);
        let holders: BTreeMap<_, String> =
            lists.map(|ip| (ip.address, intent[ip.node].name.to_string())).collect();
        let pods: BTreeMap<_, _> = intent
            .pods()
            .map(|(id, _)| {
                let leaving = model.leaving(Workload::Pod(id)).unwrap();
                (intent.pod_name(id), leaving.ip.address)
            })
            .collect();
        (holders, pods)
    };
    let (holders, pods) = places(None);
    for number in 1..=6 {
        let name = if number == 6 { "other".to_owned() } else { format!("node-{number}") };
        let (now, leave) = places(Some(number));
        assert!(now.values().all(|node| *node != name), "{now:?}");
        for (address, node) in holders.iter().filter(|(_, node)| **node != name) {
            assert_eq!(now.get(address), Some(node), "{address} with {name} unavailable");
        }
        for (pod, address) in pods.iter().filter(|(_, address)| now.contains_key(*address)) {
            assert_eq!(leave[pod], *address, "{pod} with {name} unavailable");
        }
    }
}
