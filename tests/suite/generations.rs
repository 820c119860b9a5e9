//! Generations on real nodes of the lab: kept, listed, brought back, and what a failure leaves.

use std::process::Output;

use crate::apply::changed;
use crate::lab::{Live, example};
use crate::support::Run;
use ringfence::apply::short_id;
use ringfence::cli::schema::{Subject, of};
use ringfence::diagnostic::Sources;
use ringfence::model::Model;

/// A node with the files of two generations on it.
pub(crate) struct Node {
    pub(crate) live: Live,
    pub(crate) old: String,
    pub(crate) new: String,
}

/// Where the node has the files of the two generations.
pub(crate) const OLD: &str = "/run/old";
pub(crate) const NEW: &str = "/run/new";

impl Node {
    pub(crate) fn new() -> Self {
        // One pod goes, one comes, one moves; the router goes with the join.
        let new = changed(&[
            ("{name: log-0, node: node-1}", "{name: log-1, node: node-1}"),
            ("{name: core-0, node: node-1}", "{name: core-0, node: node-2}"),
            ("joins:\n  - {to: shop, projects: [billing]}\n", ""),
            (
                "egressRouters:\n  - name: supplier\n    project: shop\n    source: 192.168.12.99\n    \
                 gateway: 192.168.12.1\n    destination: 203.0.113.25\n    \
                 nodeSelector: {site: springfield-1}\n",
                "",
            ),
        ]);
        Self::between(example("quickstart"), new)
    }

    /// The first node of a lab, with the files of its desired state and those of another.
    pub(crate) fn between(mut live: Live, (model, sources): (Model, Sources)) -> Self {
        let files = live.lab.files(live.node("node-1")).display().to_string();
        let other = "ip netns add theirs; nft add table inet theirs; ovs-vsctl add-br br-theirs -- \
                     set bridge br-theirs datapath_type=netdev";
        live.on("node-1", &format!("cp -r {files} {OLD}; {other}"));
        live.lab.replace(model, &sources).unwrap();
        live.on("node-1", &format!("cp -r {files} {NEW}"));
        let generation = |directory: &str| {
            let text = live.on("node-1", &format!("cat {directory}/manifest.json"));
            let manifest: serde_json::Value = serde_json::from_str(&text).unwrap();
            manifest["generation"].as_str().unwrap().to_owned()
        };
        let (old, new) = (generation(OLD), generation(NEW));
        assert_ne!(old, new);
        Self { live, old, new }
    }

    pub(crate) fn run(&self, words: &[&str]) -> Run {
        self.live.lab.ringfence(self.live.node("node-1"), words).unwrap().into()
    }

    /// Runs what has to end well, and tells what it printed.
    pub(crate) fn done(&self, words: &[&str]) -> String {
        let run = self.run(words);
        assert_eq!(run.status, 0, "{words:?}: {}", run.stderr);
        run.stdout
    }

    pub(crate) fn on(&self, command: &str) -> String {
        self.live.on("node-1", command)
    }

    /// Asserts that the node is wholly in a generation, and that what isn't ours is there still.
    pub(crate) fn is_in(&self, directory: &str) {
        let check = self.run(&["apply", directory, "--check"]);
        assert_eq!((check.status, check.stdout.as_str()), (0, ""), "{}", check.stderr);
        let generation = if directory == OLD { &self.old } else { &self.new };
        let status = self.run(&["status", "--json"]);
        let status: serde_json::Value = serde_json::from_str(&status.stdout).unwrap();
        for key in ["current", "bridge", "ruleset"] {
            assert_eq!(status[key].as_str(), Some(generation.as_str()), "{key}");
        }
        assert_eq!(status["pending"], serde_json::Value::Null);
        let theirs = self.on("ip netns; nft list tables; ovs-vsctl list-br");
        for name in ["theirs\n", "table inet theirs\n", "br-theirs\n"] {
            assert!(theirs.contains(name), "{theirs}");
        }
    }

    /// Puts a shell script before a program.
    pub(crate) fn replace(&self, program: &str, script: &str) {
        let script = format!("#!/bin/sh\n{script}\nexec /run/real/{program} \"$@\"\n");
        let quoted = shlex::try_quote(&script).unwrap().into_owned();
        self.on(&format!(
            "mkdir -p /run/real /run/fake; real=$(readlink -f $(command -v {program})); \
             cp $real /run/real/{program}; printf %s {quoted} >/run/fake/{program}; \
             chmod +x /run/fake/{program}; mount --bind /run/fake/{program} $real"
        ));
    }

    pub(crate) fn restore(&self, program: &str) {
        self.on(&format!("umount $(readlink -f $(command -v {program}))"));
    }
}

impl From<Output> for Run {
    fn from(output: Output) -> Self {
        Self {
            stdout: String::from_utf8(output.stdout).unwrap(),
            stderr: String::from_utf8(output.stderr).unwrap(),
            status: output.status.code().unwrap(),
        }
    }
}

/// A text with times of day as `TIME`.
fn timeless(text: &str) -> String {
    let words = text.split_inclusive([' ', '\n']);
    let time = |word: &str| word.len() >= 20 && word.as_bytes()[10] == b'T';
    words
        .map(|word| if time(word) { word.replace(word.trim(), "TIME") } else { word.into() })
        .collect()
}

#[test]
fn generations_are_kept_listed_and_brought_back() {
    let node = Node::new();
    let none = node.run(&["status"]);
    assert_eq!(
        (none.status, none.stderr.as_str()),
        (
            1,
            "error[RF215]: no generation is kept on this node\n |\n = help: apply one with \
             `ringfence apply DIR`; another --state has others\n\n1 error\n"
        )
    );
    assert_eq!(node.done(&["generations"]), "");
    node.done(&["apply", OLD]);
    node.is_in(OLD);
    assert_eq!(
        node.run(&["rollback"]).stderr,
        "error[RF215]: no other generation is kept\n |\n = help: only what was applied on this \
         node can come back\n\n1 error\n"
    );
    node.done(&["apply", NEW]);
    let (old, new) = (short_id(&node.old), short_id(&node.new));
    assert_eq!(
        timeless(&node.done(&["generations"])),
        format!("  0  {new}  TIME  current\n  1  {old}  TIME\n")
    );
    let check = node.run(&["rollback", "--check"]);
    assert_eq!(check.status, 2);
    node.is_in(NEW);
    let back = node.run(&["rollback"]);
    assert_eq!((back.status, &back.stdout), (0, &check.stdout), "{}", back.stderr);
    node.is_in(OLD);
    // The generation before the last change: there and back.
    node.done(&["rollback"]);
    node.is_in(NEW);
    assert_eq!(
        node.run(&["rollback", "2"]).stderr,
        "error[RF215]: there is no generation 2: 2 are kept\n |\n = help: list them with \
         `ringfence generations`\n\n1 error\n"
    );
    let document: serde_json::Value =
        serde_json::from_str(&node.done(&["generations", "--json"])).unwrap();
    assert_valid(Subject::Generations, &document);
    let files = document["generations"][1]["files"].as_str().unwrap();
    assert_eq!(node.on(&format!("diff -r {files} {OLD}")), "");
    // The repair of the current generation, and one that is already in effect, keep their place.
    node.done(&["apply", "--current"]);
    node.on("ovs-ofctl -O OpenFlow14 del-flows br0");
    node.done(&["apply", "--current"]);
    node.is_in(NEW);
    node.done(&["apply", OLD, "--keep", "1"]);
    assert_eq!(timeless(&node.done(&["generations"])), format!("  0  {old}  TIME  current\n"));
    assert_eq!(node.on("ls -A /run/ringfence/generations"), format!("{}\n", node.old));
}

#[test]
fn a_generation_keeps_the_newest_places_of_its_objects() {
    let node = Node::new();
    node.done(&["apply", OLD]);
    node.on(&format!(
        "cd {OLD}; old=$(sha256sum places.json); sed -i s/network.yaml:30/network.yaml:99/ \
         places.json; [ \"$old\" != \"$(sha256sum places.json)\" ]"
    ));
    let run = node.run(&["apply", OLD]);
    assert_eq!((run.status, run.stderr.as_str()), (0, "node-1: nothing to change\n"));
    node.on("ip netns del shop.web-0");
    let status = node.run(&["status"]);
    assert!(status.stdout.contains("\n  at network.yaml:99:9\n"), "{}", status.stdout);
    assert_eq!(node.on("ls -A /run/ringfence/generations"), format!("{}\n", node.old));
}

pub(crate) fn assert_valid(subject: Subject, document: &serde_json::Value) {
    let validator = jsonschema::validator_for(&of(subject)).unwrap();
    let errors: Vec<String> =
        validator.iter_errors(document).map(|error| error.to_string()).collect();
    assert_eq!(errors, Vec::<String>::new());
}

#[test]
fn status_tells_drift_with_its_place_and_what_the_bridge_says() {
    let node = Node::new();
    node.done(&["apply", OLD]);
    let old = short_id(&node.old);
    assert_eq!(
        timeless(&node.done(&["status"])),
        format!(
            "node     node-1\ncurrent  {old}, applied TIME\nbridge   {old}\nruleset  {old}\n\
             drift    none\n"
        )
    );
    node.on(
        "ovs-vsctl set interface vxlan0 options:dst_port=8472; ip -n shop.web-0 route del default; \
         ovs-ofctl -O OpenFlow14 --strict del-flows br0 table=70,priority=100,ip,nw_dst=10.128.0.254; \
         ovs-ofctl -O OpenFlow14 add-flow br0 cookie=0x77,table=80,priority=900,actions=normal; \
         ovs-ofctl -O OpenFlow14 del-flows br0 table=253; \
         ip netns exec router_supplier nft flush ruleset; nft delete table inet ringfence; \
         nft delete table arp ringfence 2>/dev/null || true",
    );
    let drift = node.run(&["status"]);
    assert_eq!(drift.status, 2);
    assert_eq!(
        timeless(&drift.stdout),
        format!(
            "node     node-1\ncurrent  {old}, applied TIME\nbridge   no generation\n\
             ruleset  no generation\ndrift    7 differences\n\
             + ruleset node: not loaded\n  at network.yaml:12:5\n\
             ~ link rf-0a277568ba88: route of pod shop/web-0\n  at network.yaml:30:9\n\
             ~ port vxlan0: dst_port of node-1\n  at network.yaml:12:5\n\
             + flows cluster: 1 added\n  at network.yaml:7:3\n\
             - flows cookie 0x77: 1 removed\n\
             + flows pod shop/web-0: 1 added\n  at network.yaml:30:9\n\
             + ruleset router supplier: not loaded\n  at network.yaml:69:5\n"
        )
    );
    let run = node.run(&["status", "--json"]);
    let document: serde_json::Value = serde_json::from_str(&run.stdout).unwrap();
    assert_eq!(run.status, 2);
    assert_valid(Subject::Status, &document);
    let expected = serde_json::json!({
        "action": "change", "kind": "port", "object": "vxlan0",
        "detail": "dst_port of node-1", "place": "network.yaml:12:5",
    });
    assert!(document["drift"].as_array().unwrap().contains(&expected), "{}", run.stdout);
    node.done(&["apply", "--current"]);
    assert_eq!(node.run(&["status"]).status, 0);
    node.is_in(OLD);
}

/// Fails once with the words of a command, after `/run/armed` was made.
fn once(pattern: &str) -> String {
    format!(
        "case $* in {pattern}) if [ -e /run/armed ]; then rm /run/armed; cat >/dev/null; \
         echo boom >&2; exit 7; fi;; esac"
    )
}

#[test]
fn a_failed_change_is_taken_back_as_a_whole() {
    let node = Node::new();
    node.done(&["apply", OLD]);
    let (old, new) = (short_id(&node.old), short_id(&node.new));
    let cases = [
        ("nft", "'-f -'", "`nft -f -`"),
        ("ovs-vsctl", "*add-port*", "`ovs-vsctl "),
        ("ovs-ofctl", "*bundle*", "`ovs-ofctl -O OpenFlow14 bundle br0 -`"),
        ("ovs-vsctl", "*del-port*", "`ovs-vsctl "),
        ("ip", "-batch*", "`ip -batch -`"),
    ];
    for (program, pattern, shown) in cases {
        node.replace(program, &once(pattern));
        node.on("touch /run/armed");
        let run = node.run(&["apply", NEW]);
        assert_eq!(run.status, 3, "{pattern}: {}", run.stderr);
        let (reason, rest) = run.stderr.split_once("\n\n").unwrap();
        assert!(reason.starts_with(&format!("error[RF208]: {shown}")), "{reason}");
        assert!(reason.ends_with(" failed with status 7: boom"), "{reason}");
        assert_eq!(
            rest,
            format!(
                "error[RF213]: the generation {new} was rolled back; {old} is in effect again\n\n\
                 2 errors\n"
            )
        );
        node.is_in(OLD);
        node.restore(program);
    }
    // The same for scripts.
    node.replace("ovs-ofctl", &once("*bundle*"));
    node.on("touch /run/armed");
    let run = node.run(&["apply", NEW, "--json"]);
    let document: serde_json::Value = serde_json::from_str(&run.stdout).unwrap();
    assert_eq!(run.status, 3);
    assert_valid(Subject::Apply, &document);
    assert_eq!(document["rolledBack"]["generation"], node.old.as_str());
    assert_eq!(document["rolledBack"]["code"], "RF208");
    node.restore("ovs-ofctl");
    // A command that says it did what it didn't.
    node.replace(
        "ovs-ofctl",
        "case $* in *bundle*) [ -e /run/armed ] && { cat >/dev/null; exit 0; };; esac; \
                               case $* in *dump-flows*) :;; esac",
    );
    node.on("touch /run/armed");
    let run = node.run(&["apply", NEW]);
    assert_eq!(run.status, 3, "{}", run.stderr);
    assert!(
        run.stderr.starts_with("error[RF209]: the node still differs after 3 attempts: "),
        "{}",
        run.stderr
    );
    node.is_in(OLD);
    node.restore("ovs-ofctl");
    node.done(&["apply", NEW]);
    node.is_in(NEW);
}

#[test]
fn what_cannot_be_taken_back_stays_pending_until_the_next_run() {
    let node = Node::new();
    // There is nothing to come back to.
    node.replace("ovs-ofctl", "case $* in *bundle*) cat >/dev/null; echo boom >&2; exit 7;; esac");
    let first = node.run(&["apply", OLD]);
    assert_eq!(
        (first.status, first.stderr.as_str()),
        (
            1,
            "error[RF208]: `ovs-ofctl -O OpenFlow14 --bundle add-flows br0 -` failed with status \
             7: boom\n\n1 error\n"
        )
    );
    node.restore("ovs-ofctl");
    node.done(&["apply", OLD]);
    node.is_in(OLD);
    // The way back is barred too.
    let old = short_id(&node.old);
    node.replace("nft", "case $* in '-f -') cat >/dev/null; echo boom >&2; exit 7;; esac");
    node.replace("ovs-ofctl", "case $* in *bundle*) nft -f - </dev/null; \
                               ovs-vsctl set-fail-mode br0 standalone;  cat >/dev/null; echo bang >&2; exit 8;; esac");
    node.restore("nft");
    let run = node.run(&["apply", NEW]);
    assert_eq!(
        (run.status, run.stderr.as_str()),
        (
            1,
            format!(
                "error[RF214]: `ovs-ofctl -O OpenFlow14 bundle br0 -` failed with status 8: bang; \
                 then the generation {old} could not be brought back: `ovs-ofctl -O OpenFlow14 \
                 --bundle add-flows br0 -` failed with status 8: bang\n |\n = help: remove the \
                 cause, then run `ringfence rollback`, or apply a generation that works\n\n\
                 1 error\n"
            )
            .as_str()
        )
    );
    node.restore("ovs-ofctl");
    let status = node.run(&["status"]);
    let pending =
        format!("\npending  {}, by a run that has not ended\nfailure  `ovs", short_id(&node.new));
    assert_eq!(status.status, 2);
    assert!(status.stdout.contains(&pending), "{}", status.stdout);
    node.done(&["rollback"]);
    node.is_in(OLD);
}

#[test]
fn the_state_is_roots_alone() {
    let node = Node::new();
    node.on("mkdir -m 0755 /run/ringfence");
    node.done(&["apply", OLD]);
    node.done(&["apply", NEW]);
    assert_eq!(
        node.on(
            "cd /run/ringfence; find . -type d -not -perm 0700; find . -type f -not -perm 0600; \
                 find . -not -user root; ls"
        ),
        "generations\nlock\nstate.json\n"
    );
    // What others could have put there is not followed, and nothing is written through it.
    node.on("cd /run/ringfence; mv state.json /run/kept; ln -s /run/kept state.json");
    let run = node.run(&["apply", NEW]);
    assert_eq!(
        (run.status, run.stderr.as_str()),
        (
            1,
            "error[RF210]: cannot use `/run/ringfence/state.json`: too many levels of symbolic \
             links\n |\n = help: check the free space and that the file system is \
             writable, or use --state\n\n1 error\n"
        )
    );
    node.on("cd /run/ringfence; mv /run/kept state.json; chown nobody .");
    let run = node.run(&["apply", NEW]);
    assert_eq!(
        (run.status, run.stderr.as_str()),
        (
            1,
            "error[RF210]: cannot use `/run/ringfence/lock`: it belongs to another user\n |\n = \
             help: check the free space and that the file system is writable, or use --state\n\n\
             1 error\n"
        )
    );
}
