//! What a machine doesn't give: threads and processes, memory, files, a terminal, space. Each ends in an
//! error with a code, or in a run that the next one mends; never in a panic, a lock that stays or half
//! a file.

use crate::lab::{Live, live_of};
use crate::support::{PROGRAM, ringfence, tree, written};

const NETWORK: &str = "\
version: 1
nodes:
  - name: node-1
    address: 192.168.12.11
    uplink: {interface: eth0, subnet: 192.168.12.0/24, gateway: 192.168.12.1}
projects:
  - name: shop
    pods:
      - {name: web-0, node: node-1, labels: {app: web}}
      - {name: web-1, node: node-1, bandwidth: {ingress: 20M, egress: 10M}}
    services: [{name: web, selector: {app: web}, ports: [{port: 80, targetPort: 8080}]}]
egressPolicies:
  - project: shop
    rules: [{allow: {cidr: 203.0.113.0/24}}, {deny: {cidr: 0.0.0.0/0}}]
";

/// Runs ringfence on the node behind other words of a shell; what it printed, and its status.
fn limited(live: &Live, before: &str, words: &str) -> (String, i32) {
    let line = format!("cd /; {before} {PROGRAM} {words} 2>&1; echo \"status $?\"");
    let said = live.on("node-1", &line);
    let (said, status) = said.trim_end().rsplit_once("status ").unwrap();
    (said.to_owned(), status.parse().unwrap())
}

/// An error with a code, and no panic.
fn assert_refused((said, status): &(String, i32), what: &str) {
    assert!(!said.contains("panicked"), "{what}: {said}");
    assert!(*status != 0 && said.contains("error[RF"), "{what}: {status} {said}");
}

/// The words of `apply` for the node.
fn apply(live: &Live) -> String {
    format!("apply {} --state /run/ringfence", live.lab.files(live.node("node-1")).display())
}

/// The next run without a limit brings the node into its state, and nothing is left to do then.
fn assert_mends(live: &Live, what: &str) {
    let (said, status) = limited(live, "", &apply(live));
    assert_eq!(status, 0, "after {what}: {said}");
    let (said, status) = limited(live, "", &apply(live));
    assert_eq!((said.as_str(), status), ("node-1: nothing to change\n", 0), "after {what}");
}

/// Words of a shell that run the rest with at most so many processes and threads, as a unit with
/// `TasksMax=` would; `None` where this machine has no such control group.
fn tasks(live: &Live, most: usize) -> Option<String> {
    let group = "/sys/fs/cgroup/pids/ringfence-limits-$$";
    let line = format!("test -d /sys/fs/cgroup/pids && mkdir {group} && rmdir {group} && echo yes");
    if live.on("node-1", &format!("{line} || true")).trim() != "yes" {
        return None;
    }
    Some(format!(
        "mkdir {group}; echo {most} >{group}/pids.max; trap 'rmdir {group}' EXIT; \
         enter() {{ sh -c 'echo $$ >'{group}'/cgroup.procs; exec \"$@\"' sh \"$@\"; }}; enter"
    ))
}

#[test]
fn without_threads_or_processes_there_is_an_error_or_a_slower_run() {
    let (_directory, live) = live_of(NETWORK);
    for most in [1, 2, 3, 4, 6, 9, 16] {
        let Some(before) = tasks(&live, most) else { return };
        let run = limited(&live, &before, &apply(&live));
        if run.1 != 0 {
            assert_refused(&run, &format!("{most} tasks"));
        }
        assert_mends(&live, &format!("{most} tasks"));
        for words in ["status", "generations", "snapshot", "teardown"] {
            let state = if words == "snapshot" { "" } else { "--state /run/ringfence" };
            let (said, status) = limited(&live, &before, &format!("{words} {state}"));
            assert!(!said.contains("panicked"), "{words} with {most} tasks: {said}");
            assert!([0, 1, 2].contains(&status), "{words} with {most} tasks: {status} {said}");
        }
    }
    assert_mends(&live, "all of that");
    live.prove();
}

#[test]
fn what_compiles_needs_no_thread_but_its_own() {
    let directory = written(NETWORK);
    assert_eq!(ringfence(directory.path(), &["compile", "-o", "expected"]).status, 0);
    let expected = tree(&directory.path().join("expected"));
    // Somebody whom nobody else is, so that nothing else counts, and who may write here.
    let open = ["-R", "a+rwX", directory.path().to_str().unwrap()];
    duct::cmd("chmod", open).run().unwrap();
    for words in ["validate", "compile -o out", "lock", "schema", "explain RF001"] {
        let line = format!(
            "cd {}; exec setpriv --reuid 54321 --clear-groups prlimit --nproc=1 {PROGRAM} {words}",
            directory.path().display()
        );
        let command = duct::cmd("sh", ["-c", &line]).env("SOURCE_DATE_EPOCH", crate::support::NOW);
        let output = command.stdout_capture().stderr_capture().unchecked().run().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(0), "{words}: {said}");
    }
    assert_eq!(tree(&directory.path().join("out")), expected);
}

#[test]
fn without_memory_nothing_is_left_that_the_next_run_does_not_mend() {
    let (_directory, live) = live_of(NETWORK);
    for megabytes in [1, 20, 60, 100, 200, 400, 1200] {
        let before = format!("prlimit --as={} --", megabytes << 20);
        let (said, status) = limited(&live, &before, &apply(&live));
        assert!(status == 0 || !said.contains("Ringfence's own"), "{megabytes}: {said}");
        assert_mends(&live, &format!("{megabytes} MB"));
        limited(&live, "", "teardown --state /run/ringfence");
    }
}

#[test]
fn sixty_four_files_are_enough_and_few_are_an_error() {
    let (_directory, live) = live_of(NETWORK);
    let (said, status) = limited(&live, "prlimit --nofile=64 --", &apply(&live));
    assert_eq!(status, 0, "{said}");
    limited(&live, "", "teardown --state /run/ringfence");
    for files in [5, 8, 11] {
        let run = limited(&live, &format!("prlimit --nofile={files} --"), &apply(&live));
        if run.1 != 0 {
            assert_refused(&run, &format!("{files} files"));
        }
        assert_mends(&live, &format!("{files} files"));
        limited(&live, "", "teardown --state /run/ringfence");
    }
}

#[test]
fn a_closed_terminal_ends_no_change() {
    let (_directory, live) = live_of(NETWORK);
    // Nobody reads, or there is nothing to write to.
    for rest in [">&- 2>&-", "<&- >&- 2>&-", ">/dev/full 2>/dev/full", "| true"] {
        let line = format!("cd /; {PROGRAM} {} {rest}; echo \"status $?\"", apply(&live));
        assert_eq!(live.on("node-1", &line).trim(), "status 0", "{rest}");
        let (said, status) = limited(&live, "", &apply(&live));
        assert_eq!((said.as_str(), status), ("node-1: nothing to change\n", 0), "{rest}");
        limited(&live, "", "teardown --state /run/ringfence");
    }
    // The connection ends, maybe by the change itself. A program that hears of it ends.
    let line = format!(
        "cd /; {PROGRAM} {} >/run/said 2>&1 & pid=$!; kill -HUP $pid; sleep 0.05; \
         kill -HUP $pid 2>/dev/null; wait $pid; echo \"status $?\"",
        apply(&live)
    );
    let said = live.on("node-1", &line);
    let early = said.contains("status 129"); // before it began
    assert!(early || said.trim() == "status 0", "{said} {}", live.on("node-1", "cat /run/said"));
    assert_mends(&live, "a closed terminal");
}

#[test]
fn output_that_cannot_be_written_is_an_error() {
    for words in ["schema", "explain RF001"] {
        let line = format!("{PROGRAM} {words} >/dev/full");
        let output = duct::cmd("sh", ["-c", &line]).stderr_capture().unchecked().run().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(said.starts_with("error[RF"), "{words}: {said}");
        assert_eq!(output.status.code(), Some(1), "{words}");
        // A reader that has read enough is none.
        let line = format!("{PROGRAM} {words} | head -c 5");
        let output = duct::cmd("sh", ["-c", &line]).stderr_capture().stdout_null().run().unwrap();
        assert_eq!(String::from_utf8_lossy(&output.stderr), "", "{words}");
    }
}

#[test]
fn a_disk_that_is_full_or_read_only_is_an_error_and_keeps_no_lock() {
    let (_directory, live) = live_of(NETWORK);
    let files = live.lab.files(live.node("node-1")).display().to_string();
    for (what, options, after) in [
        ("full", "size=4k", "mount -o remount,size=1m /run/disk"),
        ("without inodes", "nr_inodes=2", "mount -o remount,nr_inodes=999 /run/disk"),
        ("read-only", "ro", "mount -o remount,rw /run/disk"),
    ] {
        live.on(
            "node-1",
            &format!("mkdir -p /run/disk; mount -t tmpfs -o {options} tmpfs /run/disk"),
        );
        let words = format!("apply {files} --state /run/disk/state");
        let run = limited(&live, "", &words);
        assert_refused(&run, what);
        assert!(run.0.starts_with("error[RF210]: cannot use `/run/disk/"), "{what}: {}", run.0);
        live.on("node-1", after);
        let (said, status) = limited(&live, "", &words);
        assert_eq!(status, 0, "{what}: {said}");
        let (said, status) = limited(&live, "", &words);
        assert_eq!((said.as_str(), status), ("node-1: nothing to change\n", 0), "{what}");
        // It gets full or read-only later: what is right stays right, and can be told.
        live.on("node-1", "mount -o remount,ro /run/disk");
        let (said, status) = limited(&live, "", "status --state /run/disk/state");
        assert_eq!(status, 0, "{what}: {said}");
        limited(&live, "", "teardown --state /run/disk/state");
        live.on("node-1", "mount -o remount,rw /run/disk");
        let (said, status) = limited(&live, "", "teardown --state /run/disk/state");
        assert_eq!(status, 0, "{what}: {said}");
        live.on("node-1", "umount /run/disk");
    }
    let before = "unshare --mount sh -c 'mount --bind /run /run; mount -o remount,bind,ro /run; \
                  exec \"$@\"' sh";
    let run = limited(&live, before, &apply(&live));
    assert_refused(&run, "/run is read-only");
    assert_mends(&live, "a read-only /run");
}

#[test]
fn a_tree_on_a_full_disk_is_an_error_and_whole_afterwards() {
    let (directory, live) = live_of(NETWORK);
    let path = directory.path().display().to_string();
    live.on("node-1", "mkdir -p /run/disk; mount -t tmpfs -o size=12k tmpfs /run/disk");
    let words = format!("compile {path} -o /run/disk/out");
    let run = limited(&live, "", &words);
    assert_refused(&run, "a full disk");
    live.on("node-1", "mount -o remount,size=9m /run/disk");
    let (said, status) = limited(&live, "", &words);
    assert_eq!(status, 0, "{said}");
    let (said, status) = limited(&live, "", &format!("{words} --check"));
    assert_eq!(status, 0, "{said}");
    let left = live.on(
        "node-1",
        "find /run/disk -name '*.new' -o -name '*.tmp' -o -name '.*' ! -name '.git*'",
    );
    assert_eq!(left, "");
}

#[test]
fn many_changes_are_told_by_kind_and_owner() {
    let pods: Vec<String> =
        (0..60).map(|number| format!("      - {{name: p-{number}, node: node-1}}\n")).collect();
    let rules: Vec<String> =
        (0..150).map(|number| format!("      - allow: {{cidr: 203.0.{number}.0/24}}\n")).collect();
    let (pods, rules) = (pods.concat(), rules.concat());
    let text = NETWORK
        .replace("    pods:\n", &format!("    pods:\n{pods}"))
        .replace("    rules: [{allow: {cidr: 203.0.113.0/24}}, ", &format!("    rules:\n{rules}"))
        .replace("{deny: {cidr: 0.0.0.0/0}}]", "      - deny: {cidr: 0.0.0.0/0}");
    let (_directory, live) = live_of(&text);
    let all = limited(&live, "", &format!("{} --check --verbose", apply(&live))).0;
    let short = limited(&live, "", &format!("{} --check", apply(&live))).0;
    assert!(all.lines().count() > 300, "{all}");
    assert!(short.lines().count() < 60, "{short}");
    assert!(short.contains("+ flows rule shop: 151 objects, "), "{short}");
    assert!(short.contains("+ netns pod shop: "), "{short}");
    let last = |text: &str| text.lines().last().unwrap().to_owned();
    assert_eq!(last(&all), last(&short), "both tell how many there are");
    let json = limited(&live, "", &format!("{} --check --json", apply(&live))).0;
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert!(json["changes"].as_array().unwrap().len() < 60, "{json}");
    let diff = limited(&live, "", &format!("{} --check --diff", apply(&live))).0;
    assert!(diff.lines().filter(|line| line.starts_with("+cookie=")).count() > 300);
    let (said, status) = limited(&live, "", &apply(&live));
    assert_eq!(status, 0, "{said}");
    live.on("node-1", "ovs-ofctl -O OpenFlow14 del-flows br0");
    let (all, _) = limited(&live, "", "status --state /run/ringfence --verbose");
    let (short, status) = limited(&live, "", "status --state /run/ringfence");
    assert_eq!(status, 2, "{short}");
    assert!(all.lines().count() > 300, "{all}");
    assert!(short.lines().count() < 60, "{short}");
    assert!(short.contains("+ flows rule shop: 151 objects, "), "{short}");
    let total =
        |text: &str| text.lines().find(|line| line.starts_with("drift ")).map(str::to_owned);
    assert_eq!(total(&all), total(&short), "both tell how many there are");
}
