//! What the README and the other documents show is so: every block of commands in them is run.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use crate::lab::{example, live};
use crate::names::Server;
use crate::support::{NOW, PROGRAM, Run, compiled, directories, ringfence, root};
use ringfence::files::write_atomically;

/// Every block of commands, by its document and its first line, with the test that runs it.
const BLOCKS: &[(&str, &str, &str)] = &[
    (
        "README.md",
        "scripts/demo.sh",
        "not run: it builds anew; `lab::quickstart_runs` does the same",
    ),
    ("README.md", "scripts/test.sh", "not run: it runs this"),
    ("README.md", FIRST, "the_first_commands_of_the_readme_work"),
    (
        "README.md",
        "$ ringfence validate tests/diagnostics/RF071-member/network.yaml",
        "the_commands_of_the_readme_print_what_it_says",
    ),
    (
        "README.md",
        "ringfence validate --format github --deny-warnings network/",
        "what_ci_runs_accepts_an_example_and_refuses_what_is_stale",
    ),
    (
        "README.md",
        "for node in node-1 node-2 node-3; do",
        "ansible::the_loop_of_the_readme_reaches_every_node",
    ),
    (
        "README.md",
        "git switch -q main && git pull -q --ff-only",
        "the_timer_of_the_readme_proposes_new_addresses",
    ),
    (
        "README.md",
        "$ ringfence explain 0x26e2d0bc0318827e examples/quickstart",
        "the_commands_of_the_readme_print_what_it_says",
    ),
    (
        "README.md",
        "$ ringfence why bank/core-0 outside:80 examples/quickstart",
        "the_commands_of_the_readme_print_what_it_says",
    ),
    (
        "README.md",
        "$ ringfence test examples/egress-router",
        "the_commands_of_the_readme_print_what_it_says",
    ),
    (
        "README.md",
        "$ ringfence prove examples/flat --out golden/flat",
        "the_commands_of_the_readme_print_what_it_says",
    ),
    (
        "SECURITY.md",
        "for manifest in out/*/manifest.json; do",
        "the_loop_that_signs_signs_every_node",
    ),
    (
        "examples/ansible/README.md",
        ANSIBLE,
        "the_files_for_ansible_are_made_as_it_says; `ansible` runs the playbook on nodes of a lab",
    ),
];

const FIRST: &str = "$ ringfence validate network.yaml         # everything that is wrong, with \
                     file:line:col";
const ANSIBLE: &str =
    "cp inventory.example.yml inventory.yml    # the nodes, by their names in the desired state";

/// What a document uses that need not be on this machine.
const ELSEWHERE: &[(&str, &str)] = &[("gh", "the program of one forge, which is only an example")];

/// The documents that show commands.
fn documents() -> Vec<String> {
    let examples = directories(&root().join("examples")).into_iter();
    let readmes = examples.map(|path| path.join("README.md")).filter(|path| path.exists());
    let readmes = readmes.map(|path| path.strip_prefix(root()).unwrap().display().to_string());
    ["README.md", "SECURITY.md"].map(str::to_owned).into_iter().chain(readmes).collect()
}

/// The blocks of a document in a language.
fn blocks(document: &str, language: &str) -> Vec<String> {
    let text = fs::read_to_string(root().join(document)).unwrap();
    let fence = format!("```{language}\n");
    let blocks = text.split(&fence).skip(1);
    blocks.map(|rest| rest.split("```").next().unwrap().to_owned()).collect()
}

/// The block of commands with this first line.
pub(crate) fn script_of(document: &str, first: &str) -> String {
    let blocks = blocks(document, "sh").into_iter().chain(blocks(document, "console"));
    let mut blocks = blocks.filter(|block| block.lines().next() == Some(first));
    blocks.next().unwrap_or_else(|| panic!("{document} has no block `{first}`"))
}

#[test]
fn every_block_of_commands_is_run() {
    let mut found = Vec::new();
    for document in documents() {
        let all = ["sh", "console"].map(|language| blocks(&document, language)).concat();
        let first = |block: &String| (document.clone(), block.lines().next().unwrap().to_owned());
        found.extend(all.iter().map(first));
    }
    let listed = BLOCKS.iter().map(|(document, first, _)| ((*document).into(), (*first).into()));
    let mut listed: Vec<(String, String)> = listed.collect();
    found.sort();
    listed.sort();
    assert_eq!(found, listed, "each has to be in the list, with the test that runs it");
}

/// The programs that a script calls: the first words of its commands.
fn programs(script: &str) -> Vec<String> {
    let joined = script.replace("\\\n", " ");
    let lines = joined.lines().map(|line| line.trim_start_matches(['$', '#', ' ']));
    let lines = lines.map(|line| line.split_once(" #").map_or(line, |(command, _)| command));
    let parts = lines.flat_map(|line| line.split(['|', ';']).flat_map(|part| part.split("&&")));
    let syntax = ["for", "done", "do", "exit", "break", "[", ""];
    let mut found = Vec::new();
    for part in parts {
        let words = part.trim().trim_start_matches("do ").trim_start();
        let first = words.split_whitespace().next().unwrap_or_default();
        if !syntax.contains(&first) && !first.contains('=') {
            found.push(first.to_owned());
        }
    }
    found
}

#[test]
fn every_program_that_is_called_exists() {
    let mut checked = 0;
    for document in documents() {
        let scripts = blocks(&document, "sh").into_iter();
        let console = blocks(&document, "console").into_iter().map(|block| {
            let typed = block.lines().filter(|l| l.starts_with("$ ") || l.starts_with("# "));
            typed.fold(String::new(), |text, line| text + line + "\n")
        });
        for program in scripts.chain(console).flat_map(|script| programs(&script)) {
            checked += 1;
            if program == "ringfence" || ELSEWHERE.iter().any(|(name, _)| *name == program) {
                continue;
            }
            let found = duct::cmd!("sh", "-c", "command -v \"$1\"", "sh", &program);
            let found = found.dir(root()).stdout_null().unchecked().run().unwrap();
            assert!(found.status.success(), "{document}: there is no `{program}`");
        }
    }
    assert!(checked > 25, "{checked}");
}

#[test]
fn the_desired_state_of_the_readme_is_valid() {
    let [block] = &blocks("README.md", "yaml")[..] else { panic!("one block of YAML") };
    let directory = tempfile::tempdir().unwrap();
    fs::write(directory.path().join("network.yaml"), block).unwrap();
    let run = ringfence(directory.path(), &["validate", "network.yaml"]);
    assert_eq!(
        (run.stderr.as_str(), run.stdout.as_str()),
        ("valid: 2 nodes, 2 projects, 3 pods\n", "")
    );
}

#[test]
fn the_commands_of_the_readme_print_what_it_says() {
    let mut shown = 0;
    for block in blocks("README.md", "console") {
        for session in block.split("$ ringfence ").skip(1) {
            let (command, output) = session.split_once('\n').unwrap();
            if command.contains(" #") {
                continue; // a list of commands, without what they print
            }
            let words: Vec<&str> = command.split_whitespace().collect();
            let run = ringfence(root(), &words);
            assert_eq!(run.stdout + &run.stderr, output, "$ ringfence {command}");
            shown += 1;
        }
    }
    assert_eq!(shown, 5);
}

/// A directory in which scripts of the documents run as they are.
struct Desk {
    directory: tempfile::TempDir,
}

impl Desk {
    fn new() -> Self {
        let desk = Self { directory: tempfile::tempdir().unwrap() };
        desk.program("ringfence", &format!("exec {PROGRAM} \"$@\""));
        fs::create_dir(desk.path().join("work")).unwrap();
        desk
    }

    fn path(&self) -> &Path {
        self.directory.path()
    }

    /// Where the scripts run.
    fn work(&self) -> std::path::PathBuf {
        self.path().join("work")
    }

    /// Puts a shell script among the programs. A process of its own writes it: what another thread
    /// starts meanwhile would hold it open, and it could not be run.
    fn program(&self, name: &str, script: &str) {
        let write = "mkdir -p \"$1\"; cat >\"$1/$2\"; chmod 0755 \"$1/$2\"";
        let write = duct::cmd!("sh", "-euc", write, "sh", self.path().join("bin"), name);
        write.stdin_bytes(format!("#!/bin/sh\n{script}\n")).run().unwrap();
    }

    fn write(&self, path: &str, text: &str) {
        write_atomically(&self.work().join(path), text.as_bytes()).unwrap();
    }

    /// Runs a script, whose commands all have to succeed.
    fn run(&self, script: &str) -> Run {
        let path = std::env::var("PATH").unwrap();
        let command = duct::cmd!("sh", "-euc", script).dir(self.work()).stdin_null();
        let command = command
            .env("PATH", format!("{}:{path}", self.path().join("bin").display()))
            .env("HOME", self.path())
            .env("SOURCE_DATE_EPOCH", NOW);
        command.stdout_capture().stderr_capture().unchecked().run().unwrap().into()
    }

    fn done(&self, script: &str) -> String {
        let run = self.run(script);
        assert_eq!(run.status, 0, "{script}\n{}{}", run.stdout, run.stderr);
        run.stdout + &run.stderr
    }
}

#[test]
fn the_first_commands_of_the_readme_work() {
    let desk = Desk::new();
    desk.write("network.yaml", &blocks("README.md", "yaml")[0]);
    let block = script_of("README.md", FIRST);
    let (mut here, mut on_the_node) = (Vec::new(), Vec::new());
    for line in block.lines() {
        match line.split_at(2) {
            ("$ ", command) => here.push(command),
            ("# ", command) => on_the_node.push(command),
            _ => panic!("{line}"),
        }
    }
    assert_eq!((here.len(), on_the_node.len()), (4, 1));
    for command in here {
        desk.done(command);
    }
    // On a node of a lab, which compiles for another datapath.
    let live = live(&desk.work());
    let out = live.lab.files(live.node("node-1"));
    let above = out.parent().unwrap().parent().unwrap().display();
    let (command, _) = on_the_node[0].split_once('#').unwrap();
    let command = command.trim().replace("ringfence", PROGRAM) + " --state /run/ringfence";
    let first = live.on("node-1", &format!("cd {above}; {command} 2>&1"));
    assert!(first.contains("node-1: ") && first.contains(" changes applied\n"), "{first}");
    let second = live.on("node-1", &format!("cd {above}; {command} 2>&1"));
    assert_eq!(second, "node-1: nothing to change\n");
}

#[test]
fn what_ci_runs_accepts_an_example_and_refuses_what_is_stale() {
    let desk = Desk::new();
    let script =
        script_of("README.md", "ringfence validate --format github --deny-warnings network/");
    let gitops = root().join("examples/gitops").display().to_string();
    desk.done(&format!("cp -r {gitops} network; ringfence compile network/ -o out"));
    desk.done(&script);
    desk.done("echo '# changed by hand' >>out/$(ls out | grep -v manifest | head -1)/flows.ofctl");
    assert_eq!(desk.run(&script).status, 2);
}

#[test]
fn the_timer_of_the_readme_proposes_new_addresses() {
    let desk = Desk::new();
    let server = Server::start();
    server.has("api.example.com", &["198.51.100.7"]);
    // The name server of the test, and a forge that only listens.
    desk.program(
        "ringfence",
        &format!(
            "[ \"$1\" != resolve ] || set -- \"$@\" --server {}\nexec {PROGRAM} \"$@\"",
            server.address
        ),
    );
    desk.program("gh", "echo \"$*\" >>../asked");
    let state = "version: 1\nnodes: [{name: node-1, address: 192.168.12.11}]\nprojects:\n  - {name: \
                 bank, pods: [{name: core-0, node: node-1}]}\negressPolicies:\n  - project: bank\n    \
                 rules:\n      - allow: {dnsName: api.example.com}\n      - deny: {cidr: 0.0.0.0/0}\n";
    desk.write("network/network.yaml", state);
    desk.done(
        "export GIT_CONFIG_NOSYSTEM=1
         git config --global user.name Somebody; git config --global user.email s@example.com
         git init -q --bare -b main ../origin.git; git init -q -b main .
         git remote add origin ../origin.git
         ringfence lock network/; ringfence resolve network/; ringfence compile network/ -o out
         git add .; git commit -qm Begin; git push -qu origin main",
    );
    let script = script_of("README.md", "git switch -q main && git pull -q --ff-only");
    // Nothing is due, and nothing is asked for.
    desk.done(&script);
    assert!(!desk.path().join("asked").exists());
    server.has("api.example.com", &["198.51.100.7", "198.51.100.8"]);
    desk.done(&script);
    let asked = fs::read_to_string(desk.path().join("asked")).unwrap();
    assert_eq!(asked, "pr create --fill --base main --head names\n");
    let changed = desk.done("git diff --name-only main origin/names");
    assert!(changed.contains("network/ringfence.lock\n"), "{changed}");
    assert!(changed.contains("out/node-1/flows.ofctl\n"), "{changed}");
}

#[test]
fn the_loop_that_signs_signs_every_node() {
    let desk = Desk::new();
    let compiled = compiled("quickstart");
    let from = compiled.path().display();
    desk.done(&format!(
        "cp -r {from} out; mkdir ~/.ssh; ssh-keygen -q -t ed25519 -N '' -f ~/.ssh/id_ed25519"
    ));
    desk.done(&script_of("SECURITY.md", "for manifest in out/*/manifest.json; do"));
    for node in directories(&desk.work().join("out")) {
        let verify = format!(
            "ssh-keygen -Y check-novalidate -n ringfence -s {0}/manifest.json.sig <{0}/manifest.json",
            node.display()
        );
        assert!(desk.done(&verify).starts_with("Good \"ringfence\" signature"), "{verify}");
    }
}

#[test]
fn the_files_for_ansible_are_made_as_it_says() {
    let desk = Desk::new();
    let (from, example) = (root().join("examples/ansible"), root().join("examples/quickstart"));
    desk.done(&format!("cp -r {}/. .; cp {}/* .", from.display(), example.display()));
    let script = script_of("examples/ansible/README.md", ANSIBLE);
    let (here, plays): (Vec<&str>, Vec<&str>) =
        script.lines().partition(|line| !line.starts_with("ansible-playbook "));
    desk.done(&here.join("\n"));
    assert_eq!(plays.len(), 2);
    // Nobody answers at the addresses of the inventory: the rest needs a fleet.
    for play in plays {
        let text = desk.done(&format!("{play} --syntax-check"));
        assert!(text.contains("playbook: playbook.yml"), "{text}");
    }
}

#[test]
fn a_mask_finds_all_flows_of_one_project() {
    let readme = fs::read_to_string(root().join("README.md")).unwrap();
    let command = readme.split('`').find(|text| text.starts_with("ovs-ofctl ")).unwrap();
    let live = example("quickstart");
    live.apply_all();
    let found = live.on("node-1", command);
    let flows: Vec<&str> = found.lines().filter(|line| line.contains("cookie=")).collect();
    assert!(flows.iter().any(|flow| flow.contains("table=100")), "{found}");
    assert!(flows.iter().all(|flow| flow.contains("cookie=0x26e2d0")), "{found}");
    let all = live.on("node-1", "ovs-ofctl -O OpenFlow14 dump-flows br0");
    assert_eq!(flows.len(), all.matches("cookie=0x26e2d0").count());
}

#[test]
fn the_scripts_of_the_readme_can_be_run() {
    let text = fs::read_to_string(root().join("README.md")).unwrap();
    let words = text.split(|c: char| c.is_whitespace() || c == '`');
    let mut scripts: Vec<&str> = words.filter(|word| word.starts_with("scripts/")).collect();
    scripts.sort_unstable();
    scripts.dedup();
    assert_eq!(scripts, ["scripts/demo.sh", "scripts/kernel.sh", "scripts/test.sh"]);
    for script in scripts {
        let mode = root().join(script).metadata().unwrap().permissions().mode();
        assert_eq!(mode & 0o111, 0o111, "{script}");
    }
}
