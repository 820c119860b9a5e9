//! Network policies on many pods: how many flows a node gets, how long that takes, and what one pod more
//! changes in all files.

use std::fmt::Write as _;
use std::fs;
use std::io;
use std::path::Path;
use std::time::Instant;

use ringfence::driver::compile::compile;
use ringfence::driver::load::Loaded;
use ringfence::emit::output::Output;
use ringfence::intent::NodeId;

use crate::world::mixed;

/// How large a network is.
#[derive(Clone, Copy)]
struct Size {
    nodes: usize,
    pods: usize,
    policies: usize,
}

const SIZES: [Size; 2] = [
    Size { nodes: 100, pods: 10_000, policies: 1_000 },
    Size { nodes: 500, pods: 100_000, policies: 10_000 },
];

/// Pods of a project.
const PODS: usize = 50;

/// Each size in a process of its own, for the memory.
pub fn run() {
    println!("network policies: 50 pods and 5 policies a project; seconds");
    println!(
        "{:>6} {:>7} {:>8} {:>9} {:>11} {:>9} {:>7} {:>6} {:>8} {:>6} {:>14}",
        "nodes",
        "pods",
        "policies",
        "flows",
        "flows/node",
        "most",
        "MB",
        "lock",
        "compile",
        "MiB",
        "1 pod more"
    );
    let directory = tempfile::tempdir().expect("a directory");
    for (number, _) in SIZES.iter().enumerate() {
        let program = std::env::current_exe().expect("this program");
        let at = directory.path().join(number.to_string());
        let words = ["policies-of", &number.to_string(), &at.to_string_lossy()].map(str::to_owned);
        println!("{}", duct::cmd(&program, words).read().expect("a run"));
    }
}

/// Measures one size in this process and prints a line.
pub fn one(number: usize, directory: &Path) {
    let size = SIZES[number];
    let state = directory.join("state");
    write(&state, size, false);
    let begin = Instant::now();
    lock(&state);
    let locking = begin.elapsed();
    let begin = Instant::now();
    let flows = build(&state, &directory.join("out"));
    let compiling = begin.elapsed();
    let peak = crate::compile::peak_memory();
    let bytes: u64 = flows.iter().map(|(_, bytes)| bytes).sum();
    let total: usize = flows.iter().map(|(flows, _)| flows).sum();
    let most = flows.iter().map(|(flows, _)| *flows).max().unwrap_or_default();
    write(&state, size, true);
    lock(&state);
    build(&state, &directory.join("more"));
    let changed = duct::cmd!("diff", "-r", "-U0", directory.join("out"), directory.join("more"))
        .unchecked()
        .read()
        .expect("diff");
    // Without what has the digest of a generation in it.
    let is_line = |line: &&str| {
        (line.starts_with('+') || line.starts_with('-'))
            && !line.starts_with("+++")
            && !line.starts_with("---")
    };
    let lines: Vec<&str> = changed.lines().filter(is_line).collect();
    let in_flows = lines.iter().filter(|line| line[1..].starts_with("cookie=")).count();
    println!(
        "{:>6} {:>7} {:>8} {:>9} {:>11} {:>9} {:>7.1} {:>6.2} {:>8.2} {:>6} {:>6} lines, {} flows",
        size.nodes,
        size.pods,
        size.policies,
        total,
        total / size.nodes,
        most,
        bytes as f64 / 1e6,
        locking.as_secs_f64(),
        compiling.as_secs_f64(),
        peak >> 20,
        lines.len(),
        in_flows,
    );
}

fn lock(state: &Path) {
    let mut loaded = Loaded::read(&[state.to_owned()], None, &mut io::empty());
    let (_, lock) = loaded.allocate(false).expect("numbers");
    fs::write(&loaded.lock_path, lock.render()).expect("the lock file");
}

/// Compiles, and counts the flows and bytes of every node.
fn build(state: &Path, out: &Path) -> Vec<(usize, u64)> {
    let loaded = Loaded::read(&[state.to_owned()], None, &mut io::empty());
    let (model, sources, report) = loaded.model().expect("a model");
    assert!(!report.has_errors());
    let ids: Vec<NodeId> = model.intent().nodes().map(|(id, _)| id).collect();
    let output = Output::open(out).expect("an output");
    compile(&model, &ids, &sources, &output, false, &|_| {}).expect("files");
    let outcome = output.finish(&sources, None, false);
    assert!(outcome.report.is_empty());
    let nodes = model.intent().nodes().map(|(_, node)| out.join(node.name.as_str()));
    nodes
        .map(|node| {
            let text = fs::read(node.join("flows.ofctl")).expect("flows");
            let flows =
                text.split(|byte| *byte == b'\n').filter(|line| line.starts_with(b"cookie="));
            let files = fs::read_dir(node).expect("files").flatten();
            let bytes = files.map(|file| file.metadata().map_or(0, |data| data.len())).sum();
            (flows.count(), bytes)
        })
        .collect()
}

/// Writes a network as a directory: the nodes in one file, a hundred projects in each other.
fn write(directory: &Path, size: Size, one_more: bool) {
    fs::create_dir_all(directory).expect("a directory");
    let mut text =
        "version: 1\ncluster:\n  mode: networkpolicy\n  podNetworks: [{cidr: 10.0.0.0/9, \
                    hostPrefix: 22}]\nnodes:\n"
            .to_owned();
    for node in 0..size.nodes {
        let (a, b) = (node / 250, node % 250 + 1);
        let _ = writeln!(text, "  - {{name: node-{node}, address: 192.168.{a}.{b}}}");
    }
    fs::write(directory.join("nodes.yaml"), text).expect("nodes.yaml");
    let projects = size.pods / PODS;
    for part in 0..projects.div_ceil(100) {
        let mut text = "projects:\n".to_owned();
        let mut policies = "networkPolicies:\n".to_owned();
        for project in part * 100..projects.min(part * 100 + 100) {
            let _ = writeln!(
                text,
                "  - name: p-{project}\n    labels: {{team: t{}}}\n    pods:",
                project % 20
            );
            let extra = usize::from(one_more && project == 7);
            for pod in 0..PODS + extra {
                let node = mixed((project * 1000 + pod) as u64) as usize % size.nodes;
                let app = ["front", "back", "data"][pod % 3];
                let _ = writeln!(
                    text,
                    "      - {{name: pod-{pod}, node: node-{node}, labels: {{app: {app}}}}}"
                );
            }
            for policy in 0..size.policies / projects {
                let _ = writeln!(
                    policies,
                    "  - {{project: p-{project}, name: np-{policy}{}}}",
                    one_policy(project, policy)
                );
            }
        }
        text.push_str(&policies);
        fs::write(directory.join(format!("projects-{part}.yaml")), text).expect("projects");
    }
}

/// One of five common policies.
fn one_policy(project: usize, policy: usize) -> String {
    match policy % 5 {
        0 => ", podSelector: {}, ingress: [{from: [{podSelector: {}}]}]".to_owned(),
        1 => ", podSelector: {matchLabels: {app: front}}, ingress: [{ports: [{port: 80}, {port: 443}]}]"
            .to_owned(),
        2 => ", podSelector: {matchLabels: {app: back}}, ingress: [{from: [{podSelector: {matchLabels: {app: \
              front}}}], ports: [{port: 8080, endPort: 8090}]}]"
            .to_owned(),
        3 => ", podSelector: {matchLabels: {app: data}}, ingress: [{from: [{podSelector: {matchLabels: {app: \
              back}}}], ports: [{port: 5432}]}], egress: [{to: [{podSelector: {}}]}]"
            .to_owned(),
        _ => format!(
            ", podSelector: {{matchLabels: {{app: back}}}}, ingress: [{{from: [{{namespaceSelector: \
             {{matchLabels: {{team: t{}}}}}}}], ports: [{{port: 9100}}]}}]",
            project % 20
        ),
    }
}
