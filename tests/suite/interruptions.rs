//! Every external command of a change goes wrong in turn, in every way that a command can.
//!
//! The change is that of a real node of the lab from one generation to another. The tests run
//! themselves once more inside that node, where [`Faulty`] stands between `apply` and the machine;
//! for each way and each command, the node starts in the old generation, and afterwards has to be
//! wholly in the old or the new one, or the next run has to bring it wholly into the new one.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use crate::apply::changed_example;
use crate::generations::{NEW, Node, OLD};
use crate::lab::example;
use crate::support::root;
use ringfence::apply::{Options, apply, status};
use ringfence::diagnostic::{Code, Diagnostic};
use ringfence::system::{Command, Intercept, Machine, Output, System};

/// What the tests are to do inside a node.
const INSIDE: &str = "RINGFENCE_TEST_INSIDE";
/// The variable that has every way tried at every command.
const ALL_POINTS: &str = "RINGFENCE_POINTS";
const STATE: &str = "/run/ringfence";

/// How a command goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Way {
    /// It does nothing and fails.
    Refused,
    /// It does what it should, and fails.
    FailedAfter,
    /// It is killed after half of what it reads.
    Halved,
    /// It hangs until its time is over, and did nothing.
    Hung,
    /// It and all that follow it fail.
    AllRefused,
    /// ringfence is killed before it.
    KilledBefore,
    /// ringfence is killed while it runs.
    KilledWithin,
    /// Open vSwitch restarts before it.
    Restarted,
    /// The state directory can't be written any more from then on.
    ReadOnly,
}

/// Drives a node through every way in which its commands can go wrong, each in a test of its own, so
/// that they share the machine's processors: the name of their module, and how the node is made.
macro_rules! whatever_goes_wrong {
    ($name:ident, $node:expr) => {
        mod $name {
            $crate::interruptions::whatever_goes_wrong! {
                @each $node;
                commands_that_are_refused = Refused,
                commands_that_fail_after_all = FailedAfter,
                commands_that_end_half_way = Halved,
                commands_that_hang = Hung,
                commands_that_are_refused_from_then_on = AllRefused,
                a_kill_before_a_command = KilledBefore,
                a_kill_within_a_command = KilledWithin,
                a_restart_of_open_vswitch = Restarted,
                a_state_that_cannot_be_written = ReadOnly,
            }
        }
    };
    (@each $node:expr; $($test:ident = $way:ident,)*) => {
        $(
            #[test]
            fn $test() {
                $crate::interruptions::drive($crate::interruptions::Way::$way, &$node);
            }
        )*

        /// Every way has its test: a new one does not compile without.
        #[allow(dead_code, reason = "it only has to compile")]
        fn all(way: $crate::interruptions::Way) {
            match way {
                $($crate::interruptions::Way::$way => {})*
            }
        }
    };
}
pub(crate) use whatever_goes_wrong;

impl Way {
    /// Whether it makes a difference for commands that only read.
    fn concerns(self, command: &Command) -> bool {
        command.changes
            || matches!(self, Self::Refused | Self::Hung | Self::AllRefused | Self::KilledBefore)
    }

    fn named(name: &str) -> Self {
        let all = [
            Self::Refused,
            Self::FailedAfter,
            Self::Halved,
            Self::Hung,
            Self::AllRefused,
            Self::KilledBefore,
            Self::KilledWithin,
            Self::Restarted,
            Self::ReadOnly,
        ];
        all.into_iter().find(|way| format!("{way:?}") == name).unwrap()
    }

    fn kills(self) -> bool {
        matches!(self, Self::KilledBefore | Self::KilledWithin)
    }
}

/// A machine on which one command goes wrong.
struct Faulty {
    way: Way,
    /// Which of the commands that the way concerns, from 0.
    point: usize,
    met: AtomicUsize,
}

impl Faulty {
    fn new(way: Way, point: usize) -> Self {
        Self { way, point, met: AtomicUsize::new(0) }
    }
}

fn kill_ourselves() -> ! {
    let own = rustix::process::getpid();
    rustix::process::kill_process(own, rustix::process::Signal::KILL).unwrap();
    loop {
        std::thread::park();
    }
}

fn shell(script: &str) {
    duct::cmd!("sh", "-c", script).stdin_null().stdout_null().run().unwrap();
}

impl Intercept for Faulty {
    fn pass(&self, command: &Command) -> Result<Output, Diagnostic> {
        if !self.way.concerns(command) {
            return Machine.run(command);
        }
        let met = self.met.fetch_add(1, Ordering::SeqCst);
        let beyond = self.way == Way::AllRefused && met > self.point;
        if met != self.point && !beyond {
            return Machine.run(command);
        }
        let ended = |status, stderr: &str| {
            Ok(Output { status, stdout: Vec::new(), stderr: stderr.as_bytes().to_vec() })
        };
        match self.way {
            Way::Refused | Way::AllRefused => ended(Some(1), "refused"),
            Way::FailedAfter => {
                Machine.run(command)?;
                ended(Some(1), "failed after all")
            }
            Way::Halved => {
                let lines: Vec<&[u8]> =
                    command.stdin.split_inclusive(|byte| *byte == b'\n').collect();
                let half = lines[..lines.len() / 2].concat();
                if !half.is_empty() {
                    Machine.run(&command.clone().stdin(half))?;
                }
                ended(None, "")
            }
            Way::Hung => {
                let message = format!("`{command}` took longer than 120 seconds");
                Err(Diagnostic::new(Code::CommandFailed, message))
            }
            Way::KilledBefore => kill_ourselves(),
            Way::KilledWithin => std::thread::scope(|scope| {
                scope.spawn(|| Machine.run(command));
                std::thread::sleep(Duration::from_micros(1500));
                kill_ourselves()
            }),
            Way::Restarted => {
                shell(
                    "pkill -KILL -x ovs-vswitchd; until ovs-vswitchd \
                     unix:/run/openvswitch/db.sock --pidfile --detach --no-chdir --log-file \
                     -vconsole:off 2>/dev/null; do sleep 0.05; done",
                );
                Machine.run(command)
            }
            Way::ReadOnly => {
                shell(&format!("mount --bind {STATE} {STATE}; mount -o remount,bind,ro {STATE}"));
                Machine.run(command)
            }
        }
    }
}

fn options() -> Options {
    Options { state: STATE.into(), ..Options::default() }
}

/// Applies a generation with one fault, and tells how that ended in one word.
fn attempt(way: Way, point: usize) -> String {
    match apply(Path::new(NEW), &options(), &Faulty::new(way, point)) {
        Ok(outcome) if outcome.rolled_back.is_some() => "taken back".to_owned(),
        Ok(_) => "applied".to_owned(),
        Err(diagnostic) => format!("{}", diagnostic.code),
    }
}

/// Whether the node is wholly in a generation, and says so.
fn is_in(directory: &str) -> bool {
    let check = Options { check: true, ..options() };
    let outcome = apply(Path::new(directory), &check, &Machine);
    let same = outcome.is_ok_and(|outcome| !outcome.changed);
    same && status(Path::new(STATE), &Machine).is_ok_and(|status| status.is_settled())
}

/// How often the change can go wrong in a way.
fn points(way: Way) -> usize {
    let counting = Faulty::new(way, usize::MAX);
    apply(Path::new(NEW), &options(), &counting).unwrap();
    counting.met.into_inner()
}

/// The tests inside a node: all points of a way, or one of them, whose process may be killed.
#[test]
fn inside_a_node() {
    let Ok(task) = std::env::var(INSIDE) else { return };
    let (name, point) = task.split_once(' ').unwrap_or((&task, ""));
    let way = Way::named(name);
    if let Ok(point) = point.parse() {
        attempt(way, point);
        return;
    }
    reset();
    let points = points(way);
    let mut outcomes: BTreeMap<String, usize> = BTreeMap::new();
    // Each way takes every other point by default, and half of the ways the others.
    let (first, step) = if all_points() { (0, 1) } else { (way as usize % 2, 2) };
    for point in (first..points).step_by(step) {
        reset();
        let outcome = go_wrong(way, point);
        *outcomes.entry(outcome).or_default() += 1;
    }
    let outcomes: Vec<String> =
        outcomes.iter().map(|(outcome, number)| format!("{outcome}: {number}")).collect();
    let report = format!("{way:?}: {points} points; {}", outcomes.join(", "));
    std::fs::write("/run/report", report).unwrap();
}

fn all_points() -> bool {
    std::env::var_os(ALL_POINTS).is_some_and(|points| points == "all")
}

/// Brings the node into the old generation.
fn reset() {
    apply(Path::new(OLD), &options(), &Machine).unwrap();
}

/// Where there are network policies, what went wrong leaves the flows of a generation, or none at all:
/// so no pod is open that is closed in both.
fn policies_are_of_one_generation(way: Way, point: usize) {
    let conjunctions = |directory: &str| {
        let text = std::fs::read_to_string(format!("{directory}/flows.ofctl")).unwrap();
        text.contains("conj_id=")
    };
    if !conjunctions(OLD) || !conjunctions(NEW) {
        return;
    }
    let is = |script: String| {
        let output = duct::cmd!("sh", "-c", script).stdout_null().stderr_null().unchecked().run();
        output.unwrap().status.success()
    };
    let same = |directory: &str| {
        // The files don't have the flow that tells the generation.
        is(format!(
            "! ovs-ofctl -O OpenFlow14 diff-flows br0 {directory}/flows.ofctl | grep -v actions=note:"
        ))
    };
    let none =
        || !is("ovs-ofctl -O OpenFlow14 dump-flows --no-stats br0 | grep actions=".to_owned());
    assert!(none() || same(OLD) || same(NEW), "{way:?} {point}: flows of no generation");
}

fn go_wrong(way: Way, point: usize) -> String {
    let told = if way.kills() {
        let own = std::env::current_exe().unwrap();
        let child = duct::cmd!("setsid", own, "--exact", "interruptions::inside_a_node");
        let child = child.env(INSIDE, format!("{way:?} {point}"));
        let child = child.stdout_null().stderr_null().unchecked().start().unwrap();
        let session = child.pids()[0];
        assert!(!child.wait().unwrap().status.success(), "{way:?} {point} killed nobody");
        // What it had started may still be at work.
        shell(&format!("while pgrep -r D,R,S -s {session}; do sleep 0.01; done"));
        "killed".to_owned()
    } else {
        attempt(way, point)
    };
    if way == Way::ReadOnly {
        shell(&format!("umount {STATE}"));
    }
    // A command that is cut short has no half of a bundle; this way stands for one that has.
    if way != Way::Halved {
        policies_are_of_one_generation(way, point);
    }
    let found = match (is_in(OLD), is_in(NEW)) {
        (true, false) => "old",
        (false, true) => "new",
        _ => {
            assert!(!matches!(told.as_str(), "applied" | "taken back"), "{way:?} {point}: {told}");
            let next = apply(Path::new(NEW), &options(), &Machine);
            assert!(next.is_ok(), "{way:?} {point}: {next:?}");
            assert!(is_in(NEW), "{way:?} {point} was not repaired");
            "new by the next run"
        }
    };
    let output = duct::cmd!("ip", "route", "show", "default").read().unwrap();
    assert_eq!(output.lines().count(), 1, "{way:?} {point}: {output}");
    assert_ne!((told.as_str(), found), ("applied", "old"), "{way:?} {point}");
    assert_ne!((told.as_str(), found), ("taken back", "new"), "{way:?} {point}");
    format!("{told}, {found}")
}

whatever_goes_wrong!(
    whatever_goes_wrong_a_node_is_in_one_generation_or_the_next_run_makes_it_so,
    crate::generations::Node::new()
);

whatever_goes_wrong!(
    whatever_goes_wrong_with_limits_is_repaired_too,
    crate::interruptions::limits()
);

whatever_goes_wrong!(
    whatever_goes_wrong_network_policies_are_those_of_a_generation,
    crate::interruptions::policies()
);

/// A policy goes, one comes, one allows less, and a pod comes that it is about.
fn policies() -> Node {
    let new = changed_example(
        "network-policies",
        &[
            ("    name: metrics\n", "    name: metrics-of-all\n"),
            (
                "        ports: [{port: 5432}, {port: 5433, endPort: 5439}]",
                "        ports: [{port: 5432}]",
            ),
            (
                "      - {name: db-0, node: node-1, labels: {tier: data}}\n",
                "      - {name: db-0, node: node-1, labels: {tier: data}}\n      - {name: db-1, node: \
                 node-1, labels: {tier: data}}\n",
            ),
        ],
    );
    Node::between(example("network-policies"), new)
}

/// One limit is added, one is changed, one is removed, of what pods send and of what they receive.
fn limits() -> Node {
    let new = changed_example(
        "bandwidth",
        &[
            ("{egress: 5M, ingress: 8M}", "{egress: 6M, ingress: 7M}"),
            ("bandwidth: {egress: 3000000}", "bandwidth: {ingress: 3M}"),
            (
                "{name: core-0, node: node-1}",
                "{name: core-0, node: node-1, bandwidth: {egress: 9M}}",
            ),
        ],
    );
    Node::between(example("bandwidth"), new)
}

/// Makes every command go wrong in one way as a node goes from its old generation to the new one.
#[expect(clippy::print_stdout, reason = "the figures are worth to be seen")]
pub(crate) fn drive(way: Way, node: &Node) {
    // It waits for two seconds each time, and nobody listens.
    node.replace("arping", "exit 0");
    let own = std::env::current_exe().unwrap();
    let begin = std::time::Instant::now();
    let command = format!(
        "{INSIDE}={way:?} {ALL_POINTS}={} {} --exact interruptions::inside_a_node >/run/log 2>&1 || cat \
         /run/log",
        if all_points() { "all" } else { "" },
        own.display()
    );
    assert_eq!(node.on(&command), "");
    println!("{}, {:?}", node.on("cat /run/report"), begin.elapsed());
    node.done(&["apply", NEW]);
    node.is_in(NEW);
}

#[test]
fn nothing_is_begun_where_the_state_cannot_be_kept() {
    let node = Node::new();
    node.done(&["apply", OLD]);
    // Room for the lock, but not for the files of a generation.
    node.on(&format!(
        "cp -a {STATE} /run/kept; mount -t tmpfs -o size=96k,mode=0700 tmpfs {STATE}; \
         cp -a /run/kept/. {STATE}; dd if=/dev/zero of={STATE}/filler bs=4k 2>/dev/null || true"
    ));
    let full = node.run(&["apply", NEW]);
    assert_eq!(full.status, 1);
    let told = format!("error[RF210]: cannot use `{STATE}/generations`: no space left on device\n");
    assert!(full.stderr.starts_with(&told), "{}", full.stderr);
    node.is_in(OLD);
    node.on(&format!("rm {STATE}/filler; mount -o remount,ro {STATE}"));
    let fixed = node.run(&["apply", NEW]);
    assert_eq!(fixed.status, 1);
    assert!(fixed.stderr.contains("read-only file system"), "{}", fixed.stderr);
    node.is_in(OLD);
    node.on(&format!("umount {STATE}"));
    node.done(&["apply", NEW]);
    node.is_in(NEW);
}

#[test]
fn after_a_reboot_the_unit_brings_the_current_generation_back() {
    let unit = std::fs::read_to_string(root().join("systemd/ringfence.service")).unwrap();
    let start = unit.lines().find_map(|line| line.strip_prefix("ExecStart=")).unwrap();
    let words: Vec<&str> = start.split_whitespace().skip(1).collect();
    let node = Node::new();
    node.done(&["apply", OLD]);
    // What a reboot leaves: the database of Open vSwitch, and the state.
    node.on("for netns in $(ip netns list | cut -d' ' -f1); do ip netns del $netns; done; \
         nft flush ruleset; sysctl -qw net.ipv4.ip_forward=0; ovs-appctl exit; \
         until ovs-vswitchd unix:/run/openvswitch/db.sock --pidfile --detach --no-chdir \
         --log-file -vconsole:off 2>/dev/null; do sleep 0.05; done; \
         ip netns add theirs; nft add table inet theirs");
    assert_eq!(node.run(&["status"]).status, 2);
    node.done(&words);
    node.is_in(OLD);
}
