//! The proof of compiled networks at three sizes.

use std::fs;
use std::io;
use std::path::Path;
use std::time::Instant;

use ringfence::diagnostic::{Source, Sources};
use ringfence::driver::compile::compile;
use ringfence::driver::load::Loaded;
use ringfence::emit::output::Output;
use ringfence::input;
use ringfence::intent::NodeId;
use ringfence::proof::meaning::Meaning;
use ringfence::proof::verdict::prove;

use crate::compile::{peak_memory, size};
use crate::world::{self, Services};

/// Each size in processes of its own: one compiles, one proves, for the memory.
pub fn run() {
    println!("\nprove: 200 pods a node, 20 egress rules a project; seconds");
    println!(
        "{:>5} {:>9} {:>10} {:>11} {:>7} {:>7} {:>7} {:>6}  verdict",
        "nodes", "flows", "parts", "compared", "meaning", "proof", "CPU", "MiB"
    );
    let directory = tempfile::tempdir().expect("a directory");
    for nodes in [10, 100, 500] {
        let program = std::env::current_exe().expect("this program");
        let at = directory.path().join(nodes.to_string()).to_string_lossy().into_owned();
        let nodes = nodes.to_string();
        duct::cmd(&program, ["compiled", &nodes, &at]).run().expect("a compiled network");
        print!("{}", duct::cmd(&program, ["proven", &nodes, &at]).read().expect("a proof") + "\n");
        fs::remove_dir_all(&at).expect("an end");
    }
}

/// Compiles one size.
pub fn compiled(nodes: usize, directory: &Path) {
    let state = directory.join("state");
    world::write(&state, size(nodes, Services::None));
    let mut loaded = Loaded::read(std::slice::from_ref(&state), None, &mut io::empty());
    let (_, lock) = loaded.allocate(false).expect("numbers");
    fs::write(&loaded.lock_path, lock.render()).expect("the lock file");
    let (model, sources, _) =
        Loaded::read(&[state], None, &mut io::empty()).model().expect("a model");
    let ids: Vec<NodeId> = model.intent().nodes().map(|(id, _)| id).collect();
    let output = Output::open(&directory.join("out")).expect("an output");
    compile(&model, &ids, &sources, &output, false, &|_| {}).expect("files");
    assert!(output.finish(None, false).report.is_empty());
}

/// Proves one size in this process and prints a line.
pub fn proven(nodes: usize, directory: &Path) {
    let begin = Instant::now();
    let state = directory.join("state");
    let (sources, report) = input::read(std::slice::from_ref(&state), &mut io::empty());
    assert!(!report.has_errors());
    let sources: Vec<Source> = sources
        .iter()
        .map(|source| Source::new(source.name(), source.name(), source.text().to_owned()))
        .collect();
    let (documents, _) = input::parse(&Sources::from_texts(sources));
    let lock = fs::read_to_string(state.join("ringfence.lock")).expect("the lock file");
    let meaning = Meaning::read(&documents, &lock).expect("a meaning");
    let read = begin.elapsed();
    let summary = prove(&meaning, &directory.join("out"));
    let all = begin.elapsed();
    let compared: u64 = summary.checked.iter().sum();
    println!(
        "{:>5} {:>9} {:>10} {:>11} {:>7.2} {:>7.2} {:>7.2} {:>6}  {:?}",
        nodes,
        summary.flows,
        summary.leaves,
        compared,
        read.as_secs_f64(),
        all.saturating_sub(read).as_secs_f64(),
        processor_seconds(),
        peak_memory() >> 20,
        summary.verdict,
    );
}

/// The processor time of this process, of all its threads.
fn processor_seconds() -> f64 {
    let stat = fs::read_to_string("/proc/self/stat").expect("proc(5)");
    let behind = stat.rsplit_once(") ").expect("a name").1;
    let ticks: Vec<u64> =
        behind.split(' ').skip(11).take(2).map(|word| word.parse().expect("ticks")).collect();
    // Linux counts these in hundredths of a second on every architecture.
    (ticks[0] + ticks[1]) as f64 / 100.0
}
