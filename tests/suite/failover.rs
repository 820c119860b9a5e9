//! Egress routers and egress IPs go to another node when theirs is unavailable.

use std::fmt::Write as _;

use crate::lab::{Live, live, load};
use ringfence::intent::NodeId;
use ringfence::lab::{self, Seen};
use ringfence::model::Model;
use ringfence::source::Sources;
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
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("network.yaml"), text).unwrap();
    let run = crate::support::ringfence(directory.path(), &["lock"]);
    assert_eq!(run.status, 0, "{}", run.stderr);
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
    let through = |(probe, seen): &&(lab::Probe, Seen)| {
        let expected = Seen::Answer {
            seen_as: "192.168.12.99".to_owned(),
            at: format!("203.0.113.25:{}", probe.to.port()),
        };
        probe.title.starts_with("shop/web-0 to router supplier") && *seen == expected
    };
    assert_eq!(summary.results.iter().filter(through).count(), 2, "{}", summary.table());
}
