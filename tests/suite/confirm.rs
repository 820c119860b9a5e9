//! `apply --confirm` on real nodes of the lab: confirmed, late, cut off, checked by a program.

use std::time::{Duration, Instant};

use crate::generations::{NEW, Node, OLD};
use crate::support::PROGRAM;
use ringfence::apply::short_id;

/// How long what has to come is waited for: a machine with other things to do takes its time.
const PATIENCE: Duration = Duration::from_mins(5);

impl Node {
    fn on_old() -> Self {
        let node = Self::new();
        node.done(&["apply", OLD]);
        node
    }

    /// Runs ringfence in the background of a shell of its own session, and returns the number of
    /// that.
    fn in_a_session(&self, words: &str) -> String {
        self.on(&format!(
            "setsid sh -c 'echo $$ >/run/session; {PROGRAM} {words} --state /run/ringfence \
             </dev/null >/run/out 2>&1; echo $? >>/run/out' >/dev/null 2>&1 &"
        ));
        self.until("the session runs", |node| node.on("cat /run/session || true").ends_with('\n'));
        self.on("cat /run/session").trim().to_owned()
    }

    fn until(&self, what: &str, mut ready: impl FnMut(&Self) -> bool) {
        let begin = Instant::now();
        while !ready(self) {
            assert!(begin.elapsed() < PATIENCE, "{what}: {}", self.on("cat /run/out"));
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    fn until_pending(&self) {
        self.until("nothing is pending", |node| {
            let status = node.run(&["status", "--json"]).stdout;
            let status = serde_json::from_str::<serde_json::Value>(&status);
            status.is_ok_and(|status| status["confirmWithin"].is_u64())
        });
    }

    fn watches(&self) -> String {
        // The dead are never buried on a machine of the lab.
        self.on("pgrep -r D,R,S -f '[r]ingfence watch' || true")
    }
}

#[test]
fn a_confirmed_change_stays_and_an_unconfirmed_one_comes_back() {
    let node = Node::on_old();
    let (old, new) = (short_id(&node.old), short_id(&node.new));
    assert_eq!(
        node.run(&["confirm"]).stderr,
        "error[RF216]: no change waits to be confirmed\n |\n = help: see `ringfence status` for \
         what is in effect\n\n1 error\n"
    );
    // Late.
    let run = node.run(&["apply", NEW, "--confirm", "1s"]);
    assert_eq!(run.status, 3);
    let lines: Vec<&str> = run.stderr.lines().collect();
    assert_eq!(
        lines[2..],
        [
            format!("error[RF211]: nobody confirmed the generation {new} within 1 second").as_str(),
            " |",
            " = help: if the node could be reached all the time, apply again with a longer --confirm",
            "",
            &format!(
                "error[RF213]: the generation {new} was rolled back; {old} is in effect again"
            ),
            "",
            "2 errors"
        ]
    );
    node.is_in(OLD);
    // In time. Meanwhile, no other change is begun.
    node.in_a_session(&format!("apply {NEW} --confirm 600s"));
    node.until_pending();
    let status = node.run(&["status"]);
    assert_eq!(status.status, 2);
    assert!(status.stdout.contains(&format!("\npending  {new}, to be confirmed within ")));
    assert!(status.stdout.contains(&format!("\nbridge   {new}\n")), "{}", status.stdout);
    let other = node.run(&["apply", OLD]);
    assert_eq!(
        (other.status, other.stderr.as_str()),
        (
            4,
            format!(
                "error[RF207]: the generation {new} waits to be confirmed\n |\n = help: run \
                 `ringfence confirm`, or `ringfence rollback` to take it back at once\n\n1 error\n"
            )
            .as_str()
        )
    );
    let confirm = node.run(&["confirm"]);
    assert_eq!((confirm.status, confirm.stderr), (0, format!("{new} is confirmed\n")));
    node.until("it did not end", |node| node.on("cat /run/out").ends_with("\n0\n"));
    node.until("the watch is still there", |node| node.watches().is_empty());
    node.is_in(NEW);
    // What changes nothing needs nobody.
    assert_eq!(node.run(&["apply", NEW, "--confirm", "5m"]).stderr, "node-1: nothing to change\n");
    // Taken back at once.
    node.in_a_session(&format!("apply {OLD} --confirm 600s"));
    node.until_pending();
    node.done(&["rollback"]);
    node.until("it did not end", |node| node.on("cat /run/out").ends_with("\n3\n"));
    assert!(node.on("cat /run/out").contains("was rolled back before it was confirmed"));
    node.is_in(NEW);
}

#[test]
fn a_rollback_can_be_on_trial_too() {
    let node = Node::on_old();
    node.done(&["apply", NEW]);
    let (old, new) = (short_id(&node.old), short_id(&node.new));
    let run = node.run(&["rollback", "--confirm", "1s"]);
    let expected = format!("the generation {old} was rolled back; {new} is in effect again");
    assert_eq!((run.status, run.stderr.contains(&expected)), (3, true), "{}", run.stderr);
    node.is_in(NEW);
    node.done(&["rollback", "--health-check", "true"]);
    node.is_in(OLD);
    // What takes a change on trial back at once is not on trial itself.
    node.in_a_session(&format!("apply {NEW} --confirm 600s"));
    node.until_pending();
    node.done(&["rollback", "--confirm", "1s"]);
    node.is_in(OLD);
    node.until("the watch is still there", |node| node.watches().is_empty());
}

#[test]
fn the_way_back_survives_the_shell_and_the_session() {
    let node = Node::on_old();
    // The watch goes no further than to its first command until it is let: however long the rest
    // of this takes, it is still at work.
    node.replace(
        "ovsdb-client",
        "! grep -q watch /proc/$PPID/cmdline || until [ -e /run/go ]; do sleep 0.05; done",
    );
    for signal in ["HUP", "KILL"] {
        let session = node.in_a_session(&format!("apply {NEW} --confirm 1s"));
        node.until_pending();
        // As sshd and the kernel do when a terminal goes away: every process of the session.
        let hang_up = format!("pkill -{signal} -r D,R,S -s {session}");
        if signal == "KILL" {
            // One that was only just begun may be missed.
            node.on(&format!("rm /run/session; while {hang_up}; do sleep 0.05; done"));
            assert_eq!(node.on(&format!("pgrep -r D,R,S -s {session} || true")), "");
        } else {
            // A run outlasts this; its shell does not.
            node.on(&format!("rm /run/session; {hang_up}; sleep 0.2; {hang_up} || true"));
        }
        assert_ne!(node.watches(), "", "the watch died with its session");
        assert!(node.run(&["status"]).stdout.contains("\npending  "));
        node.on("touch /run/go");
        node.until("nobody took it back", |node| node.run(&["status"]).status == 0);
        node.is_in(OLD);
        node.until("the watch is still there", |node| node.watches().is_empty());
        node.on("rm /run/go");
    }
}

#[test]
fn a_change_whose_watch_died_with_the_node_is_not_current() {
    let node = Node::on_old();
    let session = node.in_a_session(&format!("apply {NEW} --confirm 600s"));
    node.until_pending();
    node.on(&format!("pkill -KILL -s {session}; pkill -KILL -f '[r]ingfence watch'"));
    node.until("the watch is still there", |node| node.watches().is_empty());
    // What a unit at boot does.
    node.done(&["apply", "--current"]);
    node.is_in(OLD);
    assert_eq!(node.run(&["confirm"]).status, 1);
}

#[test]
fn without_a_generation_to_come_back_to_nothing_is_begun() {
    let node = Node::new();
    let run = node.run(&["apply", OLD, "--confirm", "600s"]);
    assert_eq!(
        (run.status, run.stderr.as_str()),
        (
            1,
            "error[RF215]: there is no generation to come back to yet\n |\n = help: apply the first \
             one without --confirm\n\n1 error\n"
        )
    );
    assert_eq!(node.on("ovs-vsctl br-exists br0 || ls /run/ringfence"), "lock\n");
}

#[test]
fn a_health_check_confirms_or_takes_back() {
    let node = Node::on_old();
    let (old, new) = (short_id(&node.old), short_id(&node.new));
    let checks: [(&str, &str); 4] = [
        ("false", "`false` failed with status 1"),
        // Words, without a shell: nothing is expanded, and `;` is a word.
        (
            "sh -c 'echo \"$0; it is $1\"; exit 7' '$HOME' ;",
            "`sh -c echo \"$0; it is $1\"; exit 7 $HOME ;` failed with status 7: $HOME; it is ;",
        ),
        (
            "/nowhere/check",
            "`/nowhere/check` could not run: No such file or directory (os error 2)",
        ),
        ("no-such-program", "`no-such-program` could not run: there is no such program"),
    ];
    for (check, expected) in checks {
        let run = node.run(&["apply", NEW, "--health-check", check]);
        assert_eq!(run.status, 3, "{}", run.stderr);
        let told =
            format!("error[RF212]: the health check {expected}\n |\n = help: run it by hand");
        assert!(run.stderr.contains(&told), "{}", run.stderr);
        let told =
            format!("error[RF213]: the generation {new} was rolled back; {old} is in effect");
        assert!(run.stderr.contains(&told), "{}", run.stderr);
        node.is_in(OLD);
    }
    let slow = node.run(&["apply", NEW, "--health-check", "sleep 30", "--confirm", "1s"]);
    assert_eq!(slow.status, 3, "{}", slow.stderr);
    assert!(slow.stderr.contains("took longer than 1 s"), "{}", slow.stderr);
    node.is_in(OLD);
    let good =
        node.run(&["apply", NEW, "--health-check", "ip netns exec shop.web-0 true", "--json"]);
    assert_eq!(good.status, 0, "{}", good.stderr);
    assert!(
        good.stdout.contains("\"awaitingConfirmation\": false,\n  \"rolledBack\": null"),
        "{}",
        good.stdout
    );
    node.is_in(NEW);
    let wrong = node.run(&["apply", NEW, "--health-check", "'"]);
    assert_eq!(wrong.status, 64);
}

#[test]
fn where_systemd_runs_the_watch_is_a_unit_of_its_own() {
    let node = Node::on_old();
    // Without it, nothing is begun.
    node.on("mkdir -p /run/systemd/system");
    node.replace("systemd-run", "echo 'Failed to connect to bus' >&2; exit 1");
    let run = node.run(&["apply", NEW, "--confirm", "600s"]);
    assert_eq!(run.status, 1);
    assert!(
        run.stderr.contains("` failed with status 1: Failed to connect to bus\n"),
        "{}",
        run.stderr
    );
    node.is_in(OLD);
    // What an interrupted run has left to be done is not forgotten.
    let pending = format!("\"pending\": \"{}\"", node.new);
    node.on(&format!("sed -i 's/\"pending\": null/{pending}/' /run/ringfence/state.json"));
    assert_eq!(node.run(&["apply", NEW, "--confirm", "600s"]).status, 1);
    let status = node.run(&["status", "--json"]).stdout;
    assert!(status.contains(&pending), "{status}");
    node.restore("systemd-run");
    node.replace(
        "systemd-run",
        "echo \"$*\" | sed 's/[0-9][0-9]*-[0-9][0-9]* /ID /g' >/run/asked; while [ $1 != -- ]; do shift; done; \
         shift; setsid \"$@\" </dev/null >/dev/null 2>&1 & exit 0",
    );
    let run = node.run(&["apply", NEW, "--confirm", "1s"]);
    assert_eq!(run.status, 3, "{}", run.stderr);
    assert_eq!(
        node.on("cat /run/asked"),
        format!(
            "--quiet --collect --unit=ringfence-watch-ID -- {PROGRAM} watch ID --seconds 1 --state \
             /run/ringfence\n"
        )
    );
    node.is_in(OLD);
}

#[test]
fn a_key_on_the_terminal_confirms() {
    let node = Node::on_old();
    // script(1) gives it a terminal, and lasts as long as something may still be typed.
    let run = |keys: &str, within: &str| {
        node.on(&format!(
            "shown() {{ until grep -q \"$1\" /run/shown; do sleep 0.1; done; }}; \
             rm -f /run/shown; touch /run/shown; ({keys}; shown COMMAND_EXIT_CODE) | \
             script -qefc '{PROGRAM} apply {NEW} --confirm {within} --state /run/ringfence' \
             /run/shown 2>&1; echo $?"
        ))
    };
    let new = short_id(&node.new);
    let asked = format!("\rnode-1: press Enter to confirm {new} within ");
    // What is typed before the change does not count.
    let late = run("echo", "3s");
    assert!(late.ends_with("\n3\n"), "{late}");
    assert!(late.contains(&asked), "{late}");
    node.is_in(OLD);
    let entered = run("shown 'press Enter'; echo", "600s");
    assert!(entered.contains(&asked), "{entered}");
    assert!(entered.contains("\r\nnode-1: confirmed\r\n"), "{entered}");
    assert!(entered.ends_with("\n0\n"), "{entered}");
    node.is_in(NEW);
}
