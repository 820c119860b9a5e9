//! Lock and compile at three sizes.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use ringfence::compile::compile;
use ringfence::intent::NodeId;
use ringfence::load::Loaded;
use ringfence::output::Output;

use crate::world::{self, Size};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn size(nodes: usize) -> Size {
    Size { nodes, projects: nodes * 10, pods_per_node: 200, rules: 20 }
}

pub fn run() {
    println!("compile: 200 pods a node, 20 egress rules a project");
    println!(
        "{:>5} {:>8} {:>9} {:>7} {:>6} {:>6} {:>6} {:>6} {:>6} {:>7} {:>7} {:>6} {:>6}",
        "nodes", "projects", "flows", "MB", "files", "lock", "read", "model", "write", "compile",
        "µs/flow", "MiB", "cp -r"
    );
    for nodes in [10, 100, 500] {
        let program = std::env::current_exe().expect("this program");
        // Several processes: the best shows the program, the others the machine.
        let mut lines: Vec<String> = (0..3)
            .map(|_| duct::cmd(&program, ["one", &nodes.to_string()]).read().expect("a run"))
            .collect();
        lines.sort_by_key(|line| {
            let micros = line.split_whitespace().nth(10).unwrap_or_default();
            (micros.parse::<f64>().unwrap_or(f64::MAX) * 1000.0) as u64
        });
        println!("{}", lines[0]);
    }
}

/// Measures one size in this process and prints a line.
pub fn one(nodes: usize) {
    let size = size(nodes);
    let directory = tempfile::tempdir().expect("a directory");
    let state = directory.path().join("state");
    let out = directory.path().join("out");
    world::write(&state, size);

    let begin = Instant::now();
    let mut loaded = Loaded::read(&[state.clone()], None, &mut io::empty());
    let (_, lock) = loaded.allocate(false).expect("numbers");
    fs::write(&loaded.lock_path, lock.render()).expect("the lock file");
    drop((loaded, lock));
    let locking = begin.elapsed();

    let begin = Instant::now();
    let loaded = Loaded::read(&[state], None, &mut io::empty());
    let reading = begin.elapsed();
    let (model, sources, report) = loaded.model().expect("a model");
    assert!(!report.has_errors());
    let modelling = begin.elapsed() - reading;
    let ids: Vec<NodeId> = model.intent().nodes().map(|(id, _)| id).collect();
    let output = Output::open(&out).expect("an output");
    compile(&model, &ids, &sources, &output, false).expect("files");
    let outcome = output.finish(&sources, None, false);
    let compiling = begin.elapsed();
    assert!(outcome.report.is_empty());

    let peak = peak_memory();
    let copying = copy(&out);
    let flows = outcome.statistics.flows;
    println!(
        "{:>5} {:>8} {:>9} {:>7.1} {:>6} {:>6.2} {:>6.2} {:>6.2} {:>6.2} {:>7.2} {:>7.3} {:>6} {:>6.2}",
        size.nodes,
        size.projects,
        flows,
        outcome.statistics.bytes as f64 / 1e6,
        outcome.statistics.files,
        locking.as_secs_f64(),
        reading.as_secs_f64(),
        modelling.as_secs_f64(),
        (compiling - reading - modelling).as_secs_f64(),
        compiling.as_secs_f64(),
        compiling.as_secs_f64() * 1e6 / flows as f64,
        peak >> 20,
        copying.as_secs_f64(),
    );
}

/// The most memory that this process has had, in bytes.
fn peak_memory() -> u64 {
    let status = fs::read_to_string("/proc/self/status").expect("proc(5)");
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("VmHWM");
    let kibibytes: u64 = line.trim().trim_end_matches(" kB").parse().expect("a number");
    kibibytes << 10
}

/// How long `cp -r` needs for the same tree.
fn copy(tree: &Path) -> Duration {
    let copy: PathBuf = tree.with_extension("copy");
    let begin = Instant::now();
    duct::cmd!("cp", "-r", tree, &copy).run().expect("cp");
    begin.elapsed()
}
