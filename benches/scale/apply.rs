//! Apply on one node of a large network, against what Open vSwitch itself needs.

use std::fs;
use std::io;
use std::path::Path;
use std::time::Instant;

use ringfence::diagnostic::Sources;
use ringfence::driver::load::Loaded;
use ringfence::emit::Renderer;
use ringfence::lab::{Hold, Host, Role};
use ringfence::lower::{ClusterFlows, Plan};
use ringfence::model::Model;
use ringfence::value::Datapath;

use crate::world::{self, Services, Size};

/// A node with 17,000 flows: 200 pods of as many projects, of which each has a policy.
const SIZE: Size =
    Size { nodes: 500, projects: 200, pods_per_node: 200, rules: 88, services: Services::None };
/// A node whose processes reach 5,000 services of two ports: 10,000 groups.
const GROUPS: Size = Size {
    nodes: 50,
    projects: 5_000,
    pods_per_node: 200,
    rules: 2,
    services: Services::OfProjectsAndNodes,
};
const NODE: &str = "node-0";
const ROUNDS: usize = 7;

/// What a command took, in milliseconds.
#[derive(Clone, Copy, Debug)]
struct Cost {
    /// By the clock, less what it takes to enter the node.
    time: f64,
    /// The processor time of it and of all that it ran.
    processor: f64,
}

impl Cost {
    const MOST: Self = Self { time: f64::MAX, processor: f64::MAX };

    fn min(self, other: Self) -> Self {
        let Self { time, processor } = other;
        Self { time: self.time.min(time), processor: self.processor.min(processor) }
    }
}

pub fn run() {
    let directory = tempfile::tempdir().expect("a directory");
    let state = directory.path().join("state");
    world::write(&state, SIZE);
    let small = write_node(&state, &directory.path().join("small"));
    world::write_project(&state, SIZE);
    let large = write_node(&state, &directory.path().join("large"));

    let node = Node::start(directory.path());
    let file = small.join("flows.ofctl").to_string_lossy().into_owned();
    println!("\napply: {} flows, 200 pods; milliseconds, the best of {ROUNDS}", flows(&file));
    println!("{:<56} {:>8} {:>10}", "", "clock", "processor");
    show("first apply on an empty node, 200 namespaces included", node.cost(&apply(&small)));

    let compare = || node.cost(&ofctl(&["diff-flows", "br0", &file]));
    let (diff_flows, unchanged) = best(compare, || node.cost(&apply(&small)));
    show("floor: ovs-ofctl diff-flows, nothing changed", diff_flows);
    ratio("apply, nothing changed", unchanged, diff_flows, 1.0);

    let emptied = |words: &[String]| {
        node.run_all(&ofctl(&["del-flows", "br0"]));
        node.cost(words)
    };
    let replace = ofctl(&["--bundle", "replace-flows", "br0", &file]);
    let (floor, full) = best(|| emptied(&replace), || emptied(&apply(&small)));
    show("floor: ovs-ofctl --bundle replace-flows, empty bridge", floor);
    ratio("apply, all flows missing", full, floor, 1.2);

    let (diff_flows, one_more) = best(compare, || {
        let cost = node.cost(&apply(&large));
        node.run_all(&apply(&small));
        cost
    });
    ratio("apply, one project with a policy and a pod added", one_more, diff_flows, 1.5);
    drop(node);
    groups(&directory.path().join("groups"));
}

/// A node with many groups, of which none differs.
fn groups(directory: &Path) {
    let state = directory.join("state");
    world::write(&state, GROUPS);
    let files = write_node(&state, &directory.join("out"));
    let node = Node::start(directory);
    let file = files.join("flows.ofctl").to_string_lossy().into_owned();
    let text = fs::read_to_string(files.join("groups.ofctl")).expect("groups");
    let number = text.lines().filter(|line| line.contains("group_id=")).count();
    println!("\napply: {number} groups and {} flows", flows(&file));
    node.run_all(&apply(&files));
    let (floor, unchanged) =
        best(|| node.cost(&ofctl(&["diff-flows", "br0", &file])), || node.cost(&apply(&files)));
    show("floor: ovs-ofctl diff-flows, nothing changed", floor);
    show("apply, nothing changed", unchanged);
}

fn show(what: &str, cost: Cost) {
    println!("{what:<56} {:>8.1} {:>10.1}", cost.time, cost.processor);
}

fn ratio(what: &str, cost: Cost, floor: Cost, bound: f64) {
    let (time, processor) = (cost.time / floor.time, cost.processor / floor.processor);
    println!(
        "{what:<56} {:>8.1} {:>10.1}  {time:.2} and {processor:.2} times the floor (aim: {bound})",
        cost.time, cost.processor
    );
}

/// The best of two measurements that take turns, since the machine is not always as fast.
fn best(one: impl Fn() -> Cost, other: impl Fn() -> Cost) -> (Cost, Cost) {
    (0..ROUNDS)
        .map(|_| (one(), other()))
        .fold((Cost::MOST, Cost::MOST), |best, now| (best.0.min(now.0), best.1.min(now.1)))
}

fn flows(file: &str) -> usize {
    let text = fs::read_to_string(file).expect("flows");
    text.lines().filter(|line| line.contains("actions=")).count()
}

fn ofctl(words: &[&str]) -> Vec<String> {
    ["ovs-ofctl", "-O", "OpenFlow14"].iter().chain(words).map(|word| (*word).to_owned()).collect()
}

struct Node {
    host: Host,
}

impl Node {
    fn start(directory: &Path) -> Self {
        let host = Host::start(NODE, Role::Node, Hold::WithParent, directory)
            .and_then(ringfence::lab::Starting::ready)
            .expect("a node");
        let node = Self { host };
        node.run(&["ip", "address", "add", "192.168.0.1/16", "dev", "lo"]);
        node
    }

    fn run(&self, words: &[&str]) {
        self.host.run(None, words).expect("a command");
    }

    fn run_all(&self, words: &[String]) {
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        self.run(&words);
    }

    /// What a command takes.
    fn cost(&self, words: &[String]) -> Cost {
        // The shell tells the processor time of its children by the microsecond.
        const TELL: &str = "TIMEFORMAT='%3U %3S'; time \"$@\" > /dev/null";
        let measured = |words: &[String]| {
            let shell = ["bash", "-c", TELL, "cost"].into_iter();
            let all: Vec<&str> = shell.chain(words.iter().map(String::as_str)).collect();
            let begin = Instant::now();
            let output = self.host.output(None, &all).expect("a command");
            let time = begin.elapsed().as_secs_f64() * 1e3;
            let told = String::from_utf8_lossy(&output.stderr);
            // The generation's note, which no file has, is a difference to `diff-flows`.
            assert!(matches!(output.status.code(), Some(0 | 2)), "{words:?}: {told}");
            let seconds = told.lines().last().unwrap_or_default().split(' ');
            let processor: f64 = seconds.filter_map(|word| word.parse::<f64>().ok()).sum();
            Cost { time, processor: processor * 1e3 }
        };
        let nothing = measured(&["true".to_owned()]);
        let Cost { time, processor } = measured(words);
        Cost { time: time - nothing.time, processor }
    }
}

fn apply(files: &Path) -> Vec<String> {
    let files = files.to_string_lossy();
    [env!("CARGO_BIN_EXE_ringfence"), "apply", &files, "--state", "/run/ringfence"]
        .map(str::to_owned)
        .to_vec()
}

/// Writes the files of one node and returns their directory.
fn write_node(state: &Path, out: &Path) -> std::path::PathBuf {
    let mut loaded = Loaded::read(&[state.to_owned()], None, &mut io::empty());
    let (_, lock) = loaded.allocate(false).expect("numbers");
    fs::write(&loaded.lock_path, lock.render()).expect("a lock file");
    let (model, sources, _): (Model, Sources, _) = loaded.draft().expect("a model");
    let model = model.with_datapath(Datapath::Netdev);
    let common = ClusterFlows::new(&model).expect("common flows");
    let renderer = Renderer::new(&model, &sources).expect("templates");
    let (id, _) = model.intent().nodes().find(|(_, n)| n.name.as_str() == NODE).expect("a node");
    let plan = Plan::of(&common, id).expect("a plan");
    for (path, bytes) in renderer.node(id, &plan).expect("files").files {
        ringfence::files::write_atomically(&out.join(path), &bytes).expect("a file");
    }
    out.to_owned()
}
