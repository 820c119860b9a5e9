//! One attempt: from one world to another, with something in between.

mod afterwards;

use std::fs;
use std::path::Path;
use std::time::Instant;

use serde_json::Value;

use super::chance::Chance;
use super::disturb::{DEEDS, Deed, FUNCTIONS, Fault, Kind};
use super::node::{Node, STATE, ringfence, text};
use super::snapshot::{Snapshot, difference, take};
use super::world::{LOCK, World};
use crate::support::Run;
use afterwards::{broken_teardown, more, set_again};

/// A promise that was not kept.
#[derive(Debug)]
pub(super) struct Failure {
    pub(super) promise: String,
    /// What was done until then.
    pub(super) story: Vec<String>,
    pub(super) details: Vec<String>,
}

/// A node, and what it was like before ringfence came.
struct Subject {
    node: Node,
    base: Snapshot,
}

impl Subject {
    fn new() -> Self {
        let node = Node::new();
        let base = take(&node);
        Self { node, base }
    }
}

/// The node on which things happen, and one that only sees the last world.
pub(super) struct Nodes {
    main: Subject,
    other: Subject,
}

impl Nodes {
    pub(super) fn new() -> Self {
        Self { main: Subject::new(), other: Subject::new() }
    }
}

/// What happened in an attempt so far.
struct Teller {
    story: Vec<String>,
    begin: Instant,
}

impl Teller {
    fn tell(&mut self, line: impl Into<String>) {
        self.story.push(format!("{:6.2} {}", self.begin.elapsed().as_secs_f32(), line.into()));
    }

    fn fail<T>(&self, promise: impl Into<String>, details: Vec<String>) -> Result<T, Failure> {
        Err(Failure { promise: promise.into(), story: self.story.clone(), details })
    }

    /// Every run: no panic, no hang, and an exit status that is one of ringfence's.
    fn check(&mut self, what: &str, run: &Run) -> Result<(), Failure> {
        let first = run.stderr.lines().next().unwrap_or_default();
        self.tell(format!("{what}: status {}, {first}", run.status));
        let all = vec![run.stdout.clone(), run.stderr.clone()];
        if run.stderr.contains("panicked at") || run.status == 101 {
            return self.fail(format!("{what} panicked"), all);
        }
        if run.status == 124 {
            return self.fail(format!("{what} hung"), all);
        }
        Ok(())
    }
}

/// What a generation's files are for, and where they are.
struct Files {
    directory: String,
    generation: String,
}

/// Compiles a world into `directory`; `None` where it is refused.
fn compile(world: &World, lock: &str, directory: &Path) -> Option<(Files, String)> {
    fs::create_dir_all(directory).unwrap();
    fs::write(directory.join("network.yaml"), world.yaml()).unwrap();
    fs::write(directory.join("ringfence.lock"), lock).unwrap();
    for words in [&["lock", "."][..], &["compile", ".", "-o", "out"]] {
        let run = ringfence(directory, words);
        assert!(!run.stderr.contains("panicked"), "{}: {}", directory.display(), run.stderr);
        if run.status != 0 {
            return None;
        }
    }
    let lock = fs::read_to_string(directory.join("ringfence.lock")).unwrap();
    let files = directory.join("out/node-1");
    let manifest = fs::read_to_string(files.join("manifest.json")).unwrap();
    let manifest: Value = serde_json::from_str(&manifest).unwrap();
    let generation = manifest["generation"].as_str().unwrap().to_owned();
    Some((Files { directory: text(&files).to_owned(), generation }, lock))
}

/// The two worlds of an attempt, compiled.
fn worlds(chance: &mut Chance, directory: &Path, teller: &mut Teller) -> (Files, Files) {
    let (world, a, lock) = loop {
        let world = World::random(chance);
        if let Some((files, lock)) = compile(&world, LOCK, &directory.join("a")) {
            break (world, files, lock);
        }
    };
    let b = loop {
        let mut other = world.clone();
        let mut edits = Vec::new();
        if chance.percent(10) {
            other = World::random(chance);
            edits.push("another world");
        }
        for _ in 0..=chance.below(4) {
            edits.push(other.edit(chance));
        }
        let lock = if chance.percent(85) { &lock } else { LOCK };
        if let Some((files, _)) = compile(&other, lock, &directory.join("b")) {
            teller.tell(format!("from a to b: {}", edits.join(", ")));
            break files;
        }
    };
    (a, b)
}

/// Something of other people's that is on the node.
struct Foreign {
    /// Whether it is; else it was ringfence's until it lost its mark.
    theirs: bool,
    lines: Snapshot,
    undo: &'static str,
    names: &'static str,
}

/// Makes one attempt, and tells the kinds of what happened with how that ended.
pub(super) fn make(
    seed: u64,
    number: u64,
    nodes: &mut Nodes,
    directory: &Path,
) -> Result<Vec<(String, String)>, Failure> {
    let mut chance = Chance::of(seed, number);
    let chance = &mut chance;
    let mut teller = Teller { story: Vec::new(), begin: Instant::now() };
    let (a, b) = worlds(chance, directory, &mut teller);
    let mut aside = Teller { story: Vec::new(), begin: teller.begin };
    let Nodes { main, other } = nodes;
    let whole = chance.percent(30);
    let (met, fresh) = std::thread::scope(|scope| {
        let fresh = scope.spawn(|| fresh(other, &b, whole, &mut aside));
        let met = meet(&main.node, &a, &b, chance, &mut teller);
        (met, fresh.join().unwrap())
    });
    let Met { kinds, outcome, foreign, mut after, forgot } = met?;
    let mut expected = fresh?;
    if let Some(foreign) = &foreign {
        expected.extend(foreign.lines.iter().cloned());
    }
    if forgot {
        set_again(&main.node, &mut after, &expected);
    }
    let found = difference(&after, &expected);
    if !found.is_empty() {
        return teller.fail("the node is not like one that has only seen the last world", found);
    }
    if let Some(foreign) = foreign.filter(|foreign| foreign.theirs) {
        main.node.shell(&format!("{FUNCTIONS}{}", foreign.undo));
    }
    if chance.percent(30) {
        if chance.percent(60) {
            broken_teardown(&main.node, chance, &mut teller)?;
        }
        teardown(main, true, &mut teller)?;
    }
    Ok(kinds.into_iter().map(|kind| (kind, outcome.clone())).collect())
}

/// What a node has met on its way to the last world, and how it is there.
struct Met {
    kinds: Vec<String>,
    outcome: String,
    foreign: Option<Foreign>,
    after: Snapshot,
    /// Whether ringfence has lost what it remembered.
    forgot: bool,
}

/// Brings a node into the first world, and with disturbances into the last.
fn meet(
    node: &Node,
    a: &Files,
    b: &Files,
    chance: &mut Chance,
    teller: &mut Teller,
) -> Result<Met, Failure> {
    node.plan(None, "");
    settle(node, a, &mut None, teller, 1)?;
    let deed = chosen(chance).or_else(|| chance.percent(60).then(|| *chance.pick(DEEDS)));
    let fault = (deed.is_none() || chance.percent(35)).then(|| Fault::random(chance));
    let mut foreign = None;
    let mut kinds = Vec::new();
    let mut outcome = String::new();
    if let Some(deed) = deed {
        kinds.push(deed.name.to_owned());
        if !commit(node, &deed, chance.below(1000), &mut foreign, teller)? {
            outcome.push_str("nothing to do it to, ");
        }
    }
    if deed.is_some() && chance.percent(20) {
        repair(node, a, teller)?;
    }
    let meanwhile = fault.as_ref().and_then(Fault::deed);
    let forgot = deed.iter().chain(meanwhile).any(Deed::forgets);
    if let Some(fault) = fault {
        kinds.push(fault.name());
        outcome.push_str(&disturbed(node, &fault, a, b, chance, teller)?);
        outcome.push_str(", ");
    }
    outcome.push_str(match settle(node, b, &mut foreign, teller, 3)? {
        1 => "new by the next run",
        2 => "new by the 2nd run",
        _ => "new by the 3rd run",
    });
    settled(node, b, teller)?;
    // A run without anything to do writes nothing, over nothing.
    if a.generation != b.generation {
        no_leftovers(node, teller)?;
    }
    more(node, a, b, chance, teller)?;
    if let Some(theirs) = foreign.take_if(|foreign| foreign.names == "-") {
        node.shell(&format!("{FUNCTIONS}{}", theirs.undo));
        // What it held back may go now.
        settle(node, b, &mut None, teller, 1)?;
        settled(node, b, teller)?;
    }
    Ok(Met { kinds, outcome, foreign, after: take(node), forgot })
}

/// One of the deeds that `RINGFENCE_CHAOS_DEEDS` names.
fn chosen(chance: &mut Chance) -> Option<Deed> {
    let words = std::env::var("RINGFENCE_CHAOS_DEEDS").ok()?;
    let named = |deed: &&Deed| words.split('|').any(|words| deed.name.contains(words));
    let named: Vec<Deed> = DEEDS.iter().filter(named).copied().collect();
    (!named.is_empty()).then(|| *chance.pick(&named))
}

/// Nothing is left of files that were being written.
fn no_leftovers(node: &Node, teller: &mut Teller) -> Result<(), Failure> {
    let left = node.shell(&format!("ls -A {STATE} {STATE}/generations")).0;
    if left.contains(".new") {
        return teller.fail("a temporary file is left in the state directory", vec![left]);
    }
    Ok(())
}

/// What the unit does at boot: the current generation once more, as far as that is known.
fn repair(node: &Node, a: &Files, teller: &mut Teller) -> Result<(), Failure> {
    let run = node.ringfence(&[], &["apply", "--current"]);
    teller.check("apply --current", &run)?;
    if run.status == 0 { settled(node, a, teller) } else { Ok(()) }
}

/// Does something to the node by hand; false where there is nothing to do it to.
fn commit(
    node: &Node,
    deed: &Deed,
    luck: usize,
    foreign: &mut Option<Foreign>,
    teller: &mut Teller,
) -> Result<bool, Failure> {
    let foreigners = matches!(deed.kind, Kind::Theirs { .. });
    let before = if foreigners { take(node) } else { Snapshot::new() };
    let (said, status) = node.shell(&format!("R={luck}\n{FUNCTIONS}{}", deed.script));
    if status != 0 {
        if status != 9 {
            teller.tell(format!("{} failed: {said}", deed.name));
        }
        return Ok(false);
    }
    teller.tell(format!("by hand: {} ({luck})", deed.name));
    match deed.kind {
        Kind::Silent => {}
        Kind::Ours | Kind::Disowned { .. } | Kind::Unreadable => {
            let run = node.ringfence(&[], &["status", "--json"]);
            teller.check("status", &run)?;
            if run.status == 0 {
                return teller.fail("status says nothing of it", vec![run.stdout]);
            }
            let blocks = match deed.kind {
                Kind::Disowned { undo } => Some((undo, "is not ringfence's")),
                Kind::Unreadable => Some(("rm $state/state.json", "cannot use `/var/lib")),
                _ => None,
            };
            if let Some((undo, names)) = blocks {
                *foreign = Some(Foreign { theirs: false, lines: Snapshot::new(), undo, names });
            }
        }
        Kind::Theirs { undo, names } => {
            let lines = take(node).difference(&before).cloned().collect();
            *foreign = Some(Foreign { theirs: true, lines, undo, names });
        }
    }
    Ok(true)
}

/// A run that something happens to, and how it ended.
fn disturbed(
    node: &Node,
    fault: &Fault,
    a: &Files,
    b: &Files,
    chance: &mut Chance,
    teller: &mut Teller,
) -> Result<String, Failure> {
    teller.tell(format!("a run with {fault:?}"));
    let mut before: Vec<String> = Vec::new();
    let mut words = vec!["apply", &b.directory, "--json"];
    match fault {
        Fault::Command(at, way) => node.plan(Some((*at, way)), ""),
        Fault::Unconfirmed(at, way) => {
            node.plan(Some((*at, way)), "");
            words.extend(["--confirm", "1s"]);
        }
        Fault::Meanwhile(at, deed) => {
            let script = format!("R={}\n{FUNCTIONS}{}", chance.below(1000), deed.script);
            node.plan(Some((*at, "script")), &script);
        }
        Fault::Full(at) => node
            .plan(Some((*at, "script")), "dd if=/dev/zero of=/var/lib/filler bs=64k 2>/dev/null"),
        Fault::Killed(milliseconds) => {
            let after = format!("0.{milliseconds:03}");
            before = ["timeout", "-s", "KILL", &after].map(str::to_owned).to_vec();
        }
        Fault::Limited(limit) => before = vec!["prlimit".to_owned(), limit.clone()],
        Fault::State("read-only") => {
            node.done(&format!("mount --bind {STATE} {STATE}; mount -o remount,bind,ro {STATE}"));
        }
        Fault::State(_) => {
            node.done(&format!(
                "rm -rf /mnt/kept; cp -a {STATE} /mnt/kept; mount -t tmpfs -o size=8m,mode=0700 tmpfs {STATE}; \
                 cp -a /mnt/kept/. {STATE}; dd if=/dev/zero of={STATE}/filler bs=4k 2>/dev/null || true"
            ));
        }
    }
    let before: Vec<&str> = before.iter().map(String::as_str).collect();
    let run = node.ringfence(&before, &words);
    node.quiet();
    node.shell("rm -f /var/lib/filler");
    if let Fault::State(how) = fault {
        let keep = if *how == "full" {
            format!(
                "rm {STATE}/filler; rm -rf /mnt/kept; cp -a {STATE} /mnt/kept; umount {STATE}; \
                     rm -rf {STATE}; cp -a /mnt/kept {STATE}"
            )
        } else {
            format!("umount {STATE}")
        };
        node.done(&keep);
    }
    let fired = node.fired();
    let commands = node.shell("ls /mnt/chaos/at | wc -l").0;
    teller.tell(format!("  at, of {} commands: {}", commands.trim(), fired.trim()));
    node.plan(None, "");
    // Where whoever runs the tests ignores an interrupt, nsenter(1) does, and ends with 1.
    let interrupted = matches!(fault, Fault::Command(_, "interrupt")) && run.stderr.is_empty();
    let killed = interrupted || [-1, 137, 130, 143, 134, 152, 153].contains(&run.status);
    if matches!(fault, Fault::Killed(_)) && run.status == 124 {
        return Ok("killed".to_owned());
    }
    teller.check("apply", &run)?;
    let planned = !matches!(fault, Fault::Killed(..) | Fault::Limited(..) | Fault::State(..));
    let reached = !planned || !fired.is_empty();
    let told: Value = serde_json::from_str(&run.stdout).unwrap_or(Value::Null);
    match run.status {
        _ if killed => Ok("killed".to_owned()),
        0 => {
            if told["generation"] != b.generation.as_str() || !told["changed"].is_boolean() {
                return teller.fail("a run that succeeds does not say so", vec![run.stdout]);
            }
            // What happened after the read-back is not the run's to know.
            if !matches!(fault, Fault::Meanwhile(..)) {
                settled(node, b, teller)?;
            }
            Ok(if reached { "applied" } else { "not reached" }.to_owned())
        }
        3 => {
            if told["rolledBack"]["generation"] != a.generation.as_str() {
                return teller.fail("what is in effect again is not what was", vec![run.stdout]);
            }
            if !matches!(fault, Fault::Meanwhile(..)) {
                settled(node, a, teller)?;
            }
            Ok("taken back".to_owned())
        }
        1 | 4 => {
            if !told["diagnostics"].is_array() || !run.stderr.contains("error[RF") {
                return teller
                    .fail("a run that fails does not say why", vec![run.stdout, run.stderr]);
            }
            let code = run.stderr.split(['[', ']']).nth(1).unwrap_or_default().to_owned();
            Ok(code)
        }
        other => teller.fail(format!("the exit status {other} means nothing"), vec![run.stderr]),
    }
}

/// Applies undisturbed until that succeeds, at most `limit` times, and tells how often it took.
fn settle(
    node: &Node,
    files: &Files,
    foreign: &mut Option<Foreign>,
    teller: &mut Teller,
    limit: usize,
) -> Result<usize, Failure> {
    let mut said = Vec::new();
    let mut runs = 0;
    let check = node.ringfence(&[], &["apply", &files.directory, "--json", "--check"]);
    teller.check("check", &check)?;
    while runs < limit {
        runs += 1;
        let run = node.ringfence(&[], &["apply", &files.directory, "--json"]);
        teller.check("apply, undisturbed", &run)?;
        if run.status == 0 {
            if runs == 1 {
                foretold(&check, &run, teller)?;
            }
            return Ok(runs);
        }
        said.push(run.stderr.clone());
        let blocks = foreign
            .as_ref()
            .is_some_and(|foreign| !foreign.names.is_empty() && run.stderr.contains(foreign.names));
        if blocks && let Some(theirs) = foreign.take() {
            teller.tell("what is in the way goes");
            node.done(&format!("{FUNCTIONS}{}", theirs.undo));
            runs = limit - 1;
        }
    }
    teller.fail(format!("an undisturbed run fails, {runs} times"), said)
}

/// A check says what the run after it does.
fn foretold(check: &Run, run: &Run, teller: &mut Teller) -> Result<(), Failure> {
    let of = |run: &Run| -> Value { serde_json::from_str(&run.stdout).unwrap_or(Value::Null) };
    let (said, done) = (of(check), of(run));
    let pending = said["changed"] == true;
    if said["changes"] == done["changes"] && check.status == if pending { 2 } else { 0 } {
        return Ok(());
    }
    let texts = vec![check.stdout.clone(), check.stderr.clone(), run.stdout.clone()];
    teller.fail("a check does not say what the run after it does", texts)
}

/// After success: nothing to change, nothing to say.
fn settled(node: &Node, files: &Files, teller: &mut Teller) -> Result<(), Failure> {
    let run = node.ringfence(&[], &["apply", &files.directory, "--verbose"]);
    teller.check("apply once more", &run)?;
    if run.status != 0
        || !run.stderr.ends_with(": nothing to change\n")
        || run.stderr.contains("> ")
    {
        return teller.fail(
            "a run directly after one that succeeded changes something",
            vec![run.stdout, run.stderr],
        );
    }
    let run = node.ringfence(&[], &["status", "--json"]);
    teller.check("status", &run)?;
    let told: Value = serde_json::from_str(&run.stdout).unwrap_or(Value::Null);
    let good = told["current"] == files.generation.as_str()
        && told["bridge"] == files.generation.as_str()
        && told["pending"].is_null()
        && told["drift"].as_array().is_some_and(Vec::is_empty);
    if run.status != 0 || !good {
        return teller.fail(
            "status is not content after a run that succeeded",
            vec![run.stdout, run.stderr],
        );
    }
    Ok(())
}

/// What a node is like that has only seen these files. The state directory is its own.
fn fresh(
    subject: &Subject,
    files: &Files,
    whole: bool,
    teller: &mut Teller,
) -> Result<Snapshot, Failure> {
    teller.tell("on the other node:");
    teardown(subject, whole, teller)?;
    settle(&subject.node, files, &mut None, teller, 1)?;
    Ok(take(&subject.node))
}

/// Takes all down: what is left is what was there before, as far as it is looked at.
fn teardown(subject: &Subject, whole: bool, teller: &mut Teller) -> Result<(), Failure> {
    let run = subject.node.ringfence(&[], &["teardown"]);
    teller.check("teardown", &run)?;
    if run.status != 0 {
        return teller.fail("a teardown fails", vec![run.stderr]);
    }
    if !whole {
        return Ok(());
    }
    // Kernel settings stay as they are.
    let left = take(&subject.node);
    let left = difference(&left, &subject.base);
    let left: Vec<String> = left.into_iter().filter(|line| !line.contains("rp_filter")).collect();
    if left.is_empty() { Ok(()) } else { teller.fail("a teardown leaves something", left) }
}
