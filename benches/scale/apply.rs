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

/// A node with 20,000 flows: 200 pods of as many projects, of which each has a policy.
const SIZE: Size =
    Size { nodes: 500, projects: 200, pods_per_node: 200, rules: 88, services: Services::None };
const NODE: &str = "node-0";
const ROUNDS: usize = 7;

pub fn run() {
    let directory = tempfile::tempdir().expect("a directory");
    let state = directory.path().join("state");
    world::write(&state, SIZE);
    let small = write_node(&state, &directory.path().join("small"));
    world::write_project(&state, SIZE);
    let large = write_node(&state, &directory.path().join("large"));

    let node = Node {
        host: Host::start(NODE, Role::Node, Hold::WithParent, directory.path())
            .and_then(ringfence::lab::Starting::ready)
            .expect("a node"),
    };
    node.run(&["ip", "address", "add", "192.168.0.1/16", "dev", "lo"]);
    let file = small.join("flows.ofctl").to_string_lossy().into_owned();

    println!("\napply: {} flows, 200 pods; milliseconds, the best of {ROUNDS}", flows(&file));
    let first = node.time(&apply(&small));
    println!("{:<60} {first:>8.1}", "first apply on an empty node, 200 namespaces included");

    let compare = || node.time(&ofctl(&["diff-flows", "br0", &file]));
    let (diff_flows, unchanged) = best(compare, || node.time(&apply(&small)));
    println!("{:<60} {diff_flows:>8.1}", "floor: ovs-ofctl diff-flows, nothing changed");
    ratio("apply, nothing changed", unchanged, diff_flows, 1.5);

    let emptied = |words: &[String]| {
        node.run_all(&ofctl(&["del-flows", "br0"]));
        node.time(words)
    };
    let replace = ofctl(&["--bundle", "replace-flows", "br0", &file]);
    let (floor, full) = best(|| emptied(&replace), || emptied(&apply(&small)));
    println!("{:<60} {floor:>8.1}", "floor: ovs-ofctl --bundle replace-flows, empty bridge");
    ratio("apply, all flows missing", full, floor, 1.3);

    let (diff_flows, one_more) = best(compare, || {
        let time = node.time(&apply(&large));
        node.run_all(&apply(&small));
        time
    });
    ratio("apply, one project with a policy and a pod added", one_more, diff_flows, 2.0);
}

fn ratio(what: &str, time: f64, floor: f64, bound: f64) {
    println!("{what:<60} {time:>8.1}  {:.2} times the floor (aim: {bound})", time / floor);
}

/// The best of two measurements that take turns, since the machine is not always as fast.
fn best(one: impl Fn() -> f64, other: impl Fn() -> f64) -> (f64, f64) {
    (0..ROUNDS)
        .map(|_| (one(), other()))
        .fold((f64::MAX, f64::MAX), |best, now| (best.0.min(now.0), best.1.min(now.1)))
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
    fn run(&self, words: &[&str]) {
        self.host.run(None, words).expect("a command");
    }

    fn run_all(&self, words: &[String]) {
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        self.run(&words);
    }

    /// How long a command takes, less what it takes to enter the node.
    fn time(&self, words: &[String]) -> f64 {
        let milliseconds = |words: &[String]| {
            let begin = Instant::now();
            self.run_all(words);
            begin.elapsed().as_secs_f64() * 1e3
        };
        let nothing = milliseconds(&["true".to_owned()]);
        milliseconds(words) - nothing
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
