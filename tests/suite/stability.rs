//! An edit changes what it is about, in the lock file and in the output, and nothing else.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use proptest::collection::vec;
use proptest::prelude::*;

use ringfence::diagnostic::Sources;
use ringfence::lock::{Lock, parse};
use ringfence::model::Model;

use crate::properties::effective;
use crate::world::locked;

/// A network of projects that have nothing to do with each other.
#[derive(Clone, Debug)]
struct World {
    nodes: usize,
    /// By the number of each project, the nodes of its pods, taken modulo the number of nodes.
    projects: BTreeMap<usize, Vec<usize>>,
}

fn worlds() -> impl Strategy<Value = World> {
    let projects = prop::collection::btree_map(0..500_usize, vec(0..8_usize, 0..4), 3..12);
    (1..5_usize, projects).prop_map(|(nodes, projects)| World { nodes, projects })
}

impl World {
    /// Each project with a pod, a service, an egress policy and a router, in the given order.
    fn yaml(&self, order: &[usize]) -> String {
        let mut text = "version: 1\nnodes:\n".to_owned();
        for node in 0..self.nodes {
            let _ = writeln!(
                text,
                "  - {{name: node-{node}, address: 192.168.12.{}, uplink: {{interface: eth0, \
                 subnet: 192.168.0.0/16, gateway: 192.168.0.1}}}}",
                node + 11
            );
        }
        let mut numbers: Vec<usize> = self.projects.keys().copied().collect();
        numbers.sort_by_key(|number| order[number % order.len()]);
        text.push_str("projects:\n");
        for number in &numbers {
            let _ = writeln!(text, "  - name: project-{number}");
            text.push_str(
                "    services: [{name: web, selector: {app: web}, ports: [{port: 80}]}]\n",
            );
            text.push_str("    pods:\n");
            for (pod, node) in self.projects[number].iter().enumerate() {
                let node = node % self.nodes;
                let _ = writeln!(text, "      - {{name: pod-{pod}, node: node-{node}}}");
            }
            let _ = writeln!(text, "      - {{name: last, node: node-0, labels: {{app: web}}}}");
        }
        text.push_str("egressPolicies:\n");
        for number in &numbers {
            let _ = writeln!(
                text,
                "  - {{project: project-{number}, rules: [{{deny: {{cidr: 198.51.100.0/24}}}}]}}"
            );
        }
        text.push_str("egressRouters:\n");
        for number in &numbers {
            let _ = writeln!(
                text,
                "  - {{name: router-{number}, project: project-{number}, node: node-{}, source: \
                 192.168.{}.{}, gateway: 192.168.0.1, destination: 203.0.113.25}}",
                number % self.nodes,
                100 + number / 200,
                1 + number % 200
            );
        }
        text
    }

    fn without(&self, number: usize) -> Self {
        let mut world = self.clone();
        world.projects.remove(&number);
        world
    }
}

/// The model of a text with what a lock file says, and the lock file after it.
fn lock(text: &str, before: &Lock, prune: bool) -> (Model, Lock, Sources) {
    let (locked, sources) = locked(vec![text.to_owned()], before, prune);
    let (model, lock) = locked.unwrap();
    (model, lock, sources)
}

/// The lines of `new` that `old` doesn't have, and those of `old` that are gone.
fn changed<'a>(old: &'a str, new: &'a str) -> (Vec<&'a str>, Vec<&'a str>) {
    let lines = |a: &'a str, b: &'a str| {
        let there: std::collections::BTreeSet<&str> = b.lines().collect();
        a.lines().filter(|line| !there.contains(line)).collect()
    };
    (lines(new, old), lines(old, new))
}

/// Whether a line is of this project, or of its router.
fn is_of(line: &str, number: usize) -> bool {
    let names = [format!("project-{number}"), format!("router-{number}")];
    let words: Vec<&str> = line.split([' ', '/', ':', '"', ',', '`']).collect();
    names.iter().any(|name| words.contains(&name.as_str()))
}

/// The text of every file that has an effect.
fn texts(model: &Model, sources: &Sources) -> BTreeMap<String, String> {
    let mut files = effective(model, sources);
    // Prose has no lines of its own for each object.
    files.retain(|path, _| !path.ends_with("/notes.md"));
    files.into_iter().map(|(path, bytes)| (path, String::from_utf8(bytes).unwrap())).collect()
}

const ORDERS: [&[usize]; 3] = [&[0], &[5, 1, 4, 2, 3], &[2, 9, 4, 7, 0, 1, 8]];

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_project_more_or_less_changes_its_own_lines_of_the_lock(
        world in worlds(),
        pick in any::<prop::sample::Index>(),
        orders in any::<[prop::sample::Index; 3]>(),
    ) {
        let order = |n: usize| ORDERS[orders[n].index(ORDERS.len())];
        let numbers: Vec<usize> = world.projects.keys().copied().collect();
        let number = numbers[pick.index(numbers.len())];
        let (_, whole, _) = lock(&world.yaml(order(0)), &Lock::default(), false);
        let whole_text = whole.render();

        // What is written is what is read.
        prop_assert_eq!(parse(&whole_text), Ok(whole.clone()));
        // Locked once, it stays, in any order of the input.
        let (_, again, _) = lock(&world.yaml(order(1)), &whole, false);
        prop_assert_eq!(again.render(), whole_text.clone());

        let smaller = world.without(number);
        let (_, less, _) = lock(&smaller.yaml(order(1)), &whole, false);
        let less_text = less.render();
        let (added, removed) = changed(&whole_text, &less_text);
        prop_assert!(removed.iter().all(|line| is_of(line, number)), "{:?}", removed);
        // Its VNID is retired, with the one line that says so.
        let own = whole.vnids[&format!("project-{number}")];
        prop_assert_eq!(less.retired_vnids.get(&own), Some(&format!("project-{number}")));
        let mut retired = vec![format!("  {own}: project-{number}")];
        // So are its addresses, and no others.
        let addresses = less.retired_addresses.iter();
        retired.extend(addresses.map(|(address, owner)| format!("  {address}: {owner}")));
        let mine = whole.pods.iter().chain(&whole.routers).map(|(key, e)| (key, e.address));
        let mine = mine.chain(whole.services.iter().map(|(key, address)| (key, *address)));
        let mine: BTreeSet<_> =
            mine.filter(|(key, _)| is_of(key, number)).map(|(_, address)| address).collect();
        prop_assert_eq!(less.retired_addresses.keys().copied().collect::<BTreeSet<_>>(), mine);
        let added: Vec<_> = added.into_iter().filter(|l| !l.starts_with(['#', 'r'])).collect();
        prop_assert_eq!(added, retired.iter().map(String::as_str).collect::<Vec<_>>());

        // A project that comes back gets what it had: its VNID was nobody else's meanwhile.
        let (_, back, _) = lock(&world.yaml(order(2)), &less, false);
        prop_assert_eq!(back.render(), whole_text.clone());

        // Pruned, nothing of it is left, and the rest is as it was.
        let (_, pruned, _) = lock(&smaller.yaml(order(2)), &less, true);
        let pruned_text = pruned.render();
        let (added, removed) = changed(&less_text, &pruned_text);
        let removed: Vec<_> = removed.into_iter().filter(|l| !l.starts_with(['#', 'r'])).collect();
        let retired: Vec<&str> = retired.iter().map(String::as_str).collect();
        prop_assert_eq!((added, removed), (Vec::new(), retired));

        // A new project takes nothing from those that are there, nor a retired VNID.
        let (_, more, _) = lock(&world.yaml(order(0)), &pruned, false);
        let more_text = more.render();
        let (added, removed) = changed(&pruned_text, &more_text);
        prop_assert_eq!(removed, Vec::<&str>::new());
        prop_assert!(added.iter().all(|line| is_of(line, number)), "{:?}", added);
    }

    #[test]
    fn two_branches_merge_without_conflict_in_numbers(
        world in worlds(),
        picks in any::<[prop::sample::Index; 2]>(),
    ) {
        // Two people add a project each; git keeps the lines of both.
        let numbers: Vec<usize> = world.projects.keys().copied().collect();
        let [a, b] = picks.map(|pick| numbers[pick.index(numbers.len())]);
        prop_assume!(a != b);
        let base = lock(&world.without(a).without(b).yaml(ORDERS[0]), &Lock::default(), false).1;
        let ours = lock(&world.without(b).yaml(ORDERS[0]), &base, false).1;
        let theirs = lock(&world.without(a).yaml(ORDERS[0]), &base, false).1;
        let mut merged = ours.clone();
        merged.vnids.extend(theirs.vnids);
        merged.pods.extend(theirs.pods);
        merged.routers.extend(theirs.routers);
        merged.services.extend(theirs.services);
        // A number that both took is the one thing that may clash, and is said so; then one of
        // the two is given another, and nothing else moves.
        if let Ok((_, after)) = locked(vec![world.yaml(ORDERS[1])], &merged, false).0 {
            prop_assert_eq!(after.render(), merged.render());
        } else {
            let mut taken = merged.clone();
            taken.vnids.remove(&format!("project-{b}"));
            taken.pods.retain(|key, _| !is_of(key, b));
            taken.routers.retain(|key, _| !is_of(key, b));
            taken.services.retain(|key, _| !is_of(key, b));
            let after = lock(&world.yaml(ORDERS[1]), &taken, false).1.render();
            let taken = taken.render();
            let (added, removed) = changed(&taken, &after);
            prop_assert_eq!(removed, Vec::<&str>::new());
            prop_assert!(added.iter().all(|line| is_of(line, b)), "{:?}", added);
        }
    }

    #[test]
    fn a_project_more_changes_its_own_flows_and_links(
        world in worlds(),
        pick in any::<prop::sample::Index>(),
    ) {
        let numbers: Vec<usize> = world.projects.keys().copied().collect();
        let number = numbers[pick.index(numbers.len())];
        let (large, after, sources) = lock(&world.yaml(ORDERS[0]), &Lock::default(), false);
        let cookies = cookies(&large, number);
        let large = texts(&large, &sources);
        let (small, _, sources) = lock(&world.without(number).yaml(ORDERS[1]), &after, false);
        let small = texts(&small, &sources);
        for (path, new) in &large {
            // A file of its own router may come with it.
            if is_of(path, number) {
                continue;
            }
            let old = &small[path];
            // The last of several objects has no comma behind it in JSON.
            let bare = |text: &str| text.replace(",\n", "\n");
            let (old, new) = (bare(old), bare(new));
            let (added, removed) = changed(&old, &new);
            // The digest of all, and the sets of the node's interfaces, which stand in one line.
            let own = |line: &&str| {
                is_of(line, number)
                    || cookies.iter().any(|cookie| line.contains(cookie))
                    || line.contains("note:")
                    || line.contains("generation")
                    // The brackets of a list that was empty.
                    || line.ends_with(['[', ']'])
            };
            let stray: Vec<&&str> = added.iter().chain(&removed).filter(|l| !own(l)).collect();
            prop_assert!(stray.is_empty(), "{}: {:?}", path, stray);
        }
        let gone: Vec<&String> =
            small.keys().filter(|path| !large.contains_key(*path)).collect();
        prop_assert_eq!(gone, Vec::<&String>::new());
    }
}

/// What a project's lines are known by: its cookies, and the names of its interfaces.
#[test]
fn the_outside_port_of_a_router_is_its_own_as_long_as_it_stays() {
    let text = |pods: &str, node: &str, bridge: &str| {
        let uplink = "uplink: {interface: eth0, subnet: 192.168.12.0/24, gateway: 192.168.12.1";
        format!(
            "version: 1
nodes:
  - {{name: node-0, address: 192.168.12.10, {uplink}{bridge}}}}}
  - {{name: node-1, address: 192.168.12.11, {uplink}{bridge}}}}}
projects:
  - {{name: shop, pods: [{pods}]}}
egressRouters:
  - {{name: out, project: shop, source: 192.168.12.99, gateway: 192.168.12.1, \
     destination: 203.0.113.25, node: {node}}}
"
        )
    };
    let (bridge, pod) = (", bridge: br-ex", "{name: web-0, node: node-0}");
    let fresh = crate::world::fresh();
    let (_, without, _) = lock(&text(pod, "node-0", ""), &fresh, false);
    assert!(!without.render().contains("outsidePorts"), "{}", without.render());
    // With the bridge come lines that are about it alone.
    let (_, first, _) = lock(&text(pod, "node-0", bridge), &without, false);
    let port = first.outside_ports["out"].ofport;
    let rendered = (without.render(), first.render());
    let (new, gone) = changed(&rendered.0, &rendered.1);
    let line = format!("  out: node-0 {port}");
    let comment = "# egress router at a gateway bridge: node ofport";
    assert_eq!((gone, new), (vec![], vec![comment, "outsidePorts:", &line]));
    // More pods leave it its number, also where the lock file says that one of them has it.
    let two = format!("{pod}, {{name: web-1, node: node-0}}");
    let (_, more, _) = lock(&text(&two, "node-0", bridge), &first, false);
    assert_eq!(more.outside_ports, first.outside_ports);
    let mut merged = more.clone();
    merged.pods.get_mut("shop/web-1").unwrap().ofport = port;
    let (model, settled, _) = lock(&text(&two, "node-0", bridge), &merged, false);
    assert_eq!(settled.pods["shop/web-1"].ofport, port);
    assert_ne!(settled.outside_ports["out"].ofport, port);
    assert_eq!(model.intent().routers().len(), 1);
    // On another node, it has another.
    let (_, moved, _) = lock(&text(pod, "node-1", bridge), &first, false);
    assert_eq!(moved.outside_ports["out"].node.as_str(), "node-1");
    let (_, back, _) = lock(&text(pod, "node-0", ""), &first, false);
    assert_eq!(back, without);
}

fn cookies(model: &Model, number: usize) -> Vec<String> {
    let intent = model.intent();
    let (id, _) =
        intent.projects().find(|(_, p)| p.name.as_str() == format!("project-{number}")).unwrap();
    let mut cookies = vec![model.project_subject(id).cookie];
    for (node, _) in intent.nodes() {
        let workloads = model.workloads(node).filter(|workload| model.project(*workload) == id);
        cookies.extend(workloads.map(|workload| model.workload_subject(workload).cookie));
    }
    for (service, _) in model.services() {
        if intent[service].project == id {
            cookies.push(model.service_subject(service).cookie);
            cookies.extend(model.service_ports(service).map(|(_, subject, _)| subject.cookie));
        }
    }
    cookies.extend(model.ranked_rules(id).map(|(_, subject, _)| subject.cookie));
    let full = cookies.iter().map(|cookie| format!("{:x}", cookie.get()));
    let names = cookies.iter().map(|cookie| format!("rf-{:012x}", cookie.get() & 0xffff_ffff_ffff));
    full.chain(names).collect()
}
