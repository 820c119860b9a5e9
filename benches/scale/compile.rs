//! Lock and compile at three sizes.

use std::fs;
use std::io;
use std::path::Path;
use std::time::{Duration, Instant};

use ringfence::driver::compile::compile;
use ringfence::driver::load::Loaded;
use ringfence::emit::output::Output;
use ringfence::intent::NodeId;

use crate::world::{self, Services, Size};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

pub fn size(nodes: usize, services: Services) -> Size {
    Size { nodes, projects: nodes * 10, pods_per_node: 200, rules: 20, services }
}

/// The services that a word stands for.
pub fn services(word: &str) -> Services {
    match word {
        "projects" => Services::OfProjects,
        "nodes" => Services::OfProjectsAndNodes,
        _ => Services::None,
    }
}

/// Each size in three processes of its own; the best shows the program, the others the machine.
pub fn run() {
    println!("compile: 200 pods a node, 20 egress rules a project; seconds");
    println!(
        "{:>5} {:>8} {:>9} {:>7} {:>6} {:>6} {:>6} {:>6} {:>6} {:>7} {:>7} {:>6} {:>6}",
        "nodes",
        "projects",
        "flows",
        "MB",
        "files",
        "lock",
        "read",
        "model",
        "write",
        "compile",
        "µs/flow",
        "MiB",
        "cp -r"
    );
    // Removed at the end: ext4 is slow to make files where others were just removed.
    let directory = tempfile::tempdir().expect("a directory");
    let worlds = [(10, "none"), (100, "none"), (500, "none"), (100, "projects"), (500, "projects")];
    for (nodes, services) in worlds {
        let program = std::env::current_exe().expect("this program");
        let mut lines: Vec<String> = (0..3)
            .map(|run| {
                let at = directory.path().join(format!("{nodes}-{services}-{run}"));
                let words = ["one", &nodes.to_string(), services, &at.to_string_lossy()];
                let words = words.map(str::to_owned);
                duct::cmd(&program, words).read().expect("a run")
            })
            .collect();
        lines.sort_by(|a, b| micros(a).total_cmp(&micros(b)));
        println!("{} services: {services}", lines[0]);
    }
}

fn micros(line: &str) -> f64 {
    line.split_whitespace().nth(10).and_then(|word| word.parse().ok()).unwrap_or(f64::MAX)
}

/// Measures one size in this process and prints a line.
pub fn one(nodes: usize, services: Services, directory: &Path) {
    let size = size(nodes, services);
    let state = directory.join("state");
    let out = directory.join("out");
    world::write(&state, size);

    let begin = Instant::now();
    let mut loaded = Loaded::read(std::slice::from_ref(&state), None, &mut io::empty());
    let (_, lock) = loaded.allocate(false).expect("numbers");
    fs::write(&loaded.lock_path, lock.render()).expect("the lock file");
    drop((loaded, lock));
    let locking = begin.elapsed();

    let begin = Instant::now();
    let loaded = Loaded::read(&[state], None, &mut io::empty());
    let read = begin.elapsed();
    let (model, sources, report) = loaded.model().expect("a model");
    assert!(!report.has_errors());
    let modelled = begin.elapsed();
    let ids: Vec<NodeId> = model.intent().nodes().map(|(id, _)| id).collect();
    let output = Output::open(&out).expect("an output");
    compile(&model, &ids, &sources, &output, false, &|_| {}).expect("files");
    let outcome = output.finish(None, false);
    let compiled = begin.elapsed();
    assert!(outcome.report.is_empty());

    let peak = peak_memory();
    let copying = copy(&out);
    let flows = outcome.statistics.flows;
    let seconds = |from: Duration, to: Duration| to.as_secs_f64() - from.as_secs_f64();
    println!(
        "{:>5} {:>8} {:>9} {:>7.1} {:>6} {:>6.2} {:>6.2} {:>6.2} {:>6.2} {:>7.2} {:>7.3} {:>6} {:>6.2}",
        size.nodes,
        size.projects,
        flows,
        outcome.statistics.bytes as f64 / 1e6,
        outcome.statistics.files,
        locking.as_secs_f64(),
        read.as_secs_f64(),
        seconds(read, modelled),
        seconds(modelled, compiled),
        compiled.as_secs_f64(),
        compiled.as_secs_f64() * 1e6 / flows as f64,
        peak >> 20,
        copying.as_secs_f64(),
    );
}

/// The most memory that this process has had, in bytes.
pub fn peak_memory() -> u64 {
    let status = fs::read_to_string("/proc/self/status").expect("proc(5)");
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("VmHWM");
    let kibibytes: u64 = line.trim().trim_end_matches(" kB").parse().expect("a number");
    kibibytes << 10
}

/// How long `cp -r` needs for the same tree.
fn copy(tree: &Path) -> Duration {
    let copy = tree.with_extension("copy");
    let begin = Instant::now();
    duct::cmd!("cp", "-r", tree, &copy).run().expect("cp");
    begin.elapsed()
}
