//! Long work tells a terminal how far it is, and nobody else.

use crate::lab::example;
use crate::support::{PROGRAM, ringfence, root};

/// What a command writes where its output is a terminal.
fn on_a_terminal(command: &str) -> String {
    let output = duct::cmd!("script", "-qec", command, "/dev/null").dir(root());
    output.env("TERM", "xterm").stdin_null().read().unwrap()
}

#[test]
fn compile_counts_nodes_on_a_terminal_only() {
    let directory = tempfile::tempdir().unwrap();
    let out = directory.path().display();
    let shown = on_a_terminal(&format!("{PROGRAM} compile examples/quickstart -o {out}"));
    assert!(shown.contains("[3/3] node-"), "{shown}");
    assert!(shown.trim_end().ends_with("files changed"), "{shown}");
    let words = ["compile", "examples/quickstart", "-o", &out.to_string()];
    let quiet = ringfence(root(), &words);
    assert_eq!(quiet.stderr, format!("{out}: 3 nodes, 253 flows, nothing changed\n"));
}

#[test]
fn apply_tells_its_steps_on_a_terminal_only() {
    let live = example("flat");
    let files = live.lab.files(live.nodes()[0]).display().to_string();
    let node = live.lab.model().intent().nodes().next().unwrap().1.name.to_string();
    let command = format!("{PROGRAM} apply {files} --state /run/ringfence");
    let shown = live.on(&node, &format!("TERM=xterm script -qec '{command}' /dev/null </dev/null"));
    for expected in ["reading the node", "[1/"] {
        assert!(shown.contains(expected), "no {expected:?} in {shown}");
    }
    let quiet = live.on(&node, &format!("{command} 2>&1"));
    assert_eq!(quiet, format!("{node}: nothing to change\n"));
}

#[test]
fn a_lab_counts_its_probes_on_a_terminal_only() {
    let shown = on_a_terminal(&format!("{PROGRAM} lab run examples/flat"));
    for expected in ["starting Open vSwitch", "[1/2] apply node-1", "[1/"] {
        assert!(shown.contains(expected), "no {expected:?} in {shown}");
    }
    let quiet = ringfence(root(), &["lab", "run", "examples/flat"]);
    assert_eq!(quiet.stderr, "bringing up the lab\nsending packets\n");
}
