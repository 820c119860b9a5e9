//! While nodes are changed one after the other, some run the generation before and some the one
//! after: projects that are separate in both never reach each other.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::net::SocketAddrV4;

use proptest::prelude::*;

use ringfence::diagnostic::Code;
use ringfence::lab::{Expected, Location, Probe};
use ringfence::lock::Lock;
use ringfence::lower::ClusterFlows;
use ringfence::model::{Model, Workload};
use ringfence::value::{Port, Protocol};
use ringfence::verify::evaluate::Body;
use ringfence::verify::reach::{Destination, Packet, Source, reach};

use crate::lab::{live, load};
use crate::properties::{Arrival, Fabric, GROUPS, from_tenant, ip};
use crate::support::ringfence;
use crate::world::{Network, World, fresh, locked, worlds};

/// A change of who shares whose network.
fn changes() -> impl Strategy<Value = (World, World)> {
    let network = prop_oneof![
        3 => Just(Network::Own),
        1 => Just(Network::Global),
        4 => (0..3_usize).prop_map(Network::Joined),
    ];
    (worlds(), prop::collection::vec(network, 5)).prop_map(|(before, networks)| {
        let before = World { subnet_mode: false, ..before };
        let mut after = before.clone();
        for (project, network) in after.projects.iter_mut().zip(networks) {
            project.network = network;
        }
        (before, after)
    })
}

/// Checks one change, with every set of nodes that may already have it.
fn check(before: &Model, after: &Model) -> Result<(), TestCaseError> {
    let (old, new) = (ClusterFlows::new(before).unwrap(), ClusterFlows::new(after).unwrap());
    let nodes: Vec<_> = before.intent().nodes().map(|(id, _)| id).collect();
    for set in 0..1_usize << nodes.len() {
        let mut fabric = Fabric::new(&old);
        let mut changed = Fabric::new(&new).plans;
        for (number, node) in nodes.iter().enumerate() {
            if set & 1 << number != 0 {
                fabric.plans.insert(*node, changed.remove(node).unwrap());
            }
        }
        check_mixture(&fabric, before, after)?;
    }
    Ok(())
}

fn check_mixture(fabric: &Fabric<'_>, before: &Model, after: &Model) -> Result<(), TestCaseError> {
    let workloads = fabric.workloads();
    let places: Vec<Arrival> = workloads
        .iter()
        .map(|to| Arrival::Workload(before.node(*to), before.endpoint(*to).port))
        .collect();
    for &from in &workloads {
        let node = before.node(from);
        let separate = |to: Destination| {
            let port = Port::new(80).unwrap();
            let packet = Packet { from: Source::Workload(from), to, protocol: Protocol::Tcp, port };
            !reach(before, &packet).allowed() && !reach(after, &packet).allowed()
        };
        let forbidden: Vec<(Workload, &Arrival)> = workloads
            .iter()
            .zip(&places)
            .filter(|(to, _)| **to != from && separate(Destination::Workload(**to)))
            .map(|(to, place)| (*to, place))
            .collect();
        let mut bodies: Vec<Body> = GROUPS
            .into_iter()
            .chain(workloads.iter().map(|to| before.endpoint(*to).address))
            .chain(before.services().map(|(_, address)| address))
            .map(|address| ip(before, from, address, (Protocol::Tcp, 80)))
            .collect();
        let (spa, sha) = (before.endpoint(from).address, before.endpoint(from).mac);
        bodies.extend(workloads.iter().map(|to| {
            let tpa = before.endpoint(*to).address;
            Body::Arp { spa, tpa, sha }
        }));
        for body in bodies {
            let arrivals = fabric.spread(node, &from_tenant(before, from, body));
            for (to, place) in &forbidden {
                prop_assert!(!arrivals.contains(place), "{:?} reached {:?}: {:?}", from, to, body);
            }
        }
    }
    Ok(())
}

/// By project, the one whose network it has; `None` for the global one.
fn networks(model: &Model) -> Vec<Option<u32>> {
    let projects = model.intent().projects();
    let numbers = projects.map(|(id, _)| model.vnid(id).get());
    numbers.map(|vnid| (vnid != 0).then_some(vnid)).collect()
}

/// Whether somebody leaves a network that somebody else joins.
fn swaps(before: &[Option<u32>], after: &[Option<u32>]) -> bool {
    let moves = || before.iter().zip(after);
    let left = moves().filter(|(b, a)| b != a).filter_map(|(before, _)| *before);
    left.into_iter().any(|left| moves().any(|(b, a)| b != a && *a == Some(left)))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 192, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn nothing_separate_meets_in_a_mixture_of_generations((before, after) in changes()) {
        let (first, _) = locked(vec![before.yaml()], &fresh(), false);
        let (first, lock) = first.unwrap();
        // As if the names that only the second has had been resolved in between.
        let lock = Lock { resolved_names: fresh().resolved_names, ..lock };
        let (second, _) = locked(vec![after.yaml()], &lock, false);
        match second {
            Ok((second, _)) => check(&first, &second)?,
            Err(report) => {
                prop_assert!(report.sorted().iter().all(|d| d.code == Code::NetworkLeft));
                // The numbers that it would have had without the lock file's memory.
                let forgetful = Lock { memberships: BTreeMap::new(), ..lock };
                let (second, _) = locked(vec![after.yaml()], &forgetful, false);
                let (second, _) = second.unwrap();
                prop_assert!(swaps(&networks(&first), &networks(&second)));
            }
        }
    }
}

#[test]
fn without_the_memory_of_the_lock_file_two_would_meet() {
    // What RF105 forbids really happens: the check above can fail.
    let text = |join: &str| {
        format!(
            "version: 1\nnodes:\n  - {{name: node-1, address: 192.168.12.11}}\n  - {{name: node-2, \
             address: 192.168.12.12}}\nprojects:\n  - {{name: bank, pods: [{{name: a, node: \
             node-1}}]}}\n  - {{name: shop, pods: [{{name: a, node: node-1}}]}}\n  - {{name: \
             stock, pods: [{{name: a, node: node-2}}]}}\njoins:\n  - {{to: shop, projects: \
             [{join}]}}\n"
        )
    };
    let (first, _) = locked(vec![text("bank")], &fresh(), false);
    let (first, lock) = first.unwrap();
    let (refused, _) = locked(vec![text("stock")], &lock, false);
    let codes: Vec<Code> = refused.unwrap_err().sorted().iter().map(|d| d.code).collect();
    assert_eq!(codes, [Code::NetworkLeft]);
    let forgetful = Lock { memberships: BTreeMap::new(), ..lock };
    let (second, _) = locked(vec![text("stock")], &forgetful, false);
    let (second, _) = second.unwrap();
    let met = check(&first, &second).unwrap_err().to_string();
    assert!(met.contains("reached"), "{met}");
}

/// Four projects with a pod on each of three nodes, and their joins.
fn network(joins: &str) -> String {
    let mut text = "version: 1\nnodes:\n".to_owned();
    for node in 1..4 {
        let _ = writeln!(text, "  - {{name: node-{node}, address: 192.168.12.1{node}}}");
    }
    text.push_str("projects:\n");
    for project in ["audit", "billing", "shop", "stock"] {
        let _ = writeln!(text, "  - name: {project}\n    pods:");
        for node in 1..4 {
            let _ = writeln!(text, "      - {{name: pod-{node}, node: node-{node}}}");
        }
    }
    format!("{text}joins:\n{joins}")
}

#[test]
fn a_rolling_change_of_joins_lets_nothing_through_in_between() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("network.yaml");
    let lock = |joins: &str, words: &[&str]| {
        fs::write(&path, network(joins)).unwrap();
        ringfence(directory.path(), words)
    };
    let together = "  - {to: shop, projects: [billing, stock]}\n";
    let apart = "  - {to: shop, projects: [stock]}\n  - {to: audit, projects: [billing]}\n";
    let swapped = "  - {to: shop, projects: [audit, stock]}\n";
    assert_eq!(lock(together, &["lock", "."]).status, 0);
    let (before, _) = load(directory.path());
    let mut live = live(directory.path());
    live.apply_all();
    // What would let billing reach audit in between is refused.
    let refused = lock(swapped, &["lock", "."]);
    assert!(refused.stderr.starts_with("error[RF105]: "), "{}", refused.stderr);
    assert_eq!(lock(apart, &["lock", "."]).status, 0);
    let (after, sources) = load(directory.path());
    let probes = constant(&before, &after);
    let count = |want: &Expected| probes.iter().filter(|probe| probe.want == *want).count();
    assert_eq!((count(&Expected::Silence), count(&ANSWER)), (36, 36));
    live.lab.replace(after, &sources).unwrap();
    for node in live.nodes() {
        assert!(live.lab.apply(node).unwrap().changed);
        let summary = live.lab.probe(probes.clone()).unwrap();
        assert_eq!(summary.counts().1, 0, "{}", summary.table());
    }
}

const ANSWER: Expected = Expected::Answer { seen_as: None, at: None };

/// From each pod to each other: what is the same before and after a change.
fn constant(before: &Model, after: &Model) -> Vec<Probe> {
    let pods: Vec<_> = before.intent().pods().map(|(id, _)| id).collect();
    let mut probes = Vec::new();
    for &from in &pods {
        for &to in pods.iter().filter(|to| **to != from) {
            let port = Port::new(8080).unwrap();
            let packet = Packet {
                from: Source::Workload(Workload::Pod(from)),
                to: Destination::Workload(Workload::Pod(to)),
                protocol: Protocol::Tcp,
                port,
            };
            let [then, now] = [before, after].map(|model| reach(model, &packet));
            // The pods of a project that gets another VNID miss each other for a while.
            let vnid = |model: &Model| model.vnid(model.project(Workload::Pod(from)));
            let renumbered = then.allowed() && vnid(before) != vnid(after);
            if then.allowed() == now.allowed() && !renumbered {
                let intent = before.intent();
                probes.push(Probe {
                    title: format!("{} to {}", intent.pod_name(from), intent.pod_name(to)),
                    from: Location::Workload(Workload::Pod(from)),
                    to: SocketAddrV4::new(before.endpoint(Workload::Pod(to)).address, port.get()),
                    protocol: Protocol::Tcp,
                    want: if then.allowed() { ANSWER } else { Expected::Silence },
                    because: now.because,
                    fetch: None,
                });
            }
        }
    }
    probes
}
