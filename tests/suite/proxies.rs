//! The proxies of egress routers on a node: started, told of changes, ended, and repaired.

use std::fs;

use crate::lab::{Live, example, load};
use crate::support::{ringfence, root};
use ringfence::lab;

/// Replaces parts of the text of the example, and compiles every node anew.
fn replace(live: &mut Live, pairs: &[(&str, &str)]) {
    let example = root().join("examples/egress-proxies");
    let mut text = fs::read_to_string(example.join("network.yaml")).unwrap();
    for (old, new) in pairs {
        assert!(text.contains(old), "{old}");
        text = text.replace(old, new);
    }
    let directory = tempfile::tempdir().unwrap();
    fs::write(directory.path().join("network.yaml"), text).unwrap();
    fs::copy(example.join("ringfence.lock"), directory.path().join("ringfence.lock")).unwrap();
    let run = ringfence(directory.path(), &["lock"]);
    assert_eq!(run.status, 0, "{}", run.stderr);
    let (model, sources) = load(directory.path());
    live.lab.replace(model, &sources).unwrap();
}

/// What `apply` says about proxies on a node, by lines.
fn apply(live: &Live, node: &str, more: &[&str]) -> Vec<String> {
    let id = live.node(node);
    let files = live.lab.files(id).to_string_lossy().into_owned();
    let words: Vec<&str> = ["apply", files.as_str()].into_iter().chain(more.to_vec()).collect();
    let output = live.lab.ringfence(id, &words).unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    let check = more.contains(&"--check");
    assert!(output.status.success() || check, "{stderr}");
    let stdout = String::from_utf8(output.stdout).unwrap();
    stdout.lines().filter(|line| line[1..].starts_with(" proxy ")).map(str::to_owned).collect()
}

/// The programs that run in the namespaces of routers, and their process numbers.
fn running(live: &Live, node: &str) -> Vec<(String, String)> {
    let script = "for netns in $(ip netns list | cut -d' ' -f1 | grep ^router_); do \
                  for pid in $(ip netns pids $netns); do \
                  grep -q '^(\\|kid' /proc/$pid/cmdline || \
                  [ $(cut -d' ' -f4 /proc/$pid/stat) != 1 ] || \
                  echo $netns $(cat /proc/$pid/comm) $pid; done; done";
    let lines = live.on(node, script);
    let words = lines.lines().map(|line| line.rsplit_once(' ').unwrap());
    let mut found: Vec<_> = words.map(|(what, pid)| (what.to_owned(), pid.to_owned())).collect();
    found.sort();
    found
}

fn names(running: &[(String, String)]) -> Vec<&str> {
    running.iter().map(|(name, _)| name.as_str()).collect()
}

fn prove(live: &Live) {
    let summary = live.lab.probe(lab::plan(live.lab.model())).unwrap();
    assert_eq!(summary.counts().1, 0, "{}", summary.table());
}

#[test]
fn a_changed_proxy_is_reloaded_and_no_other_is_touched() {
    let mut live = example("egress-proxies");
    live.apply_all();
    let before = (running(&live, "node-1"), running(&live, "node-3"));
    assert_eq!(names(&before.0), ["router_web squid"]);
    assert_eq!(names(&before.1), ["router_browse squid", "router_partners haproxy"]);
    replace(
        &mut live,
        &[
            ("      - deny: \"*.internal.example.com\"\n", ""),
            ("to: db.example.com", "to: data.example.com"),
        ],
    );
    assert_eq!(apply(&live, "node-1", &[]), ["~ proxy router web: configuration"]);
    assert_eq!(apply(&live, "node-3", &[]), ["~ proxy router partners: configuration"]);
    live.apply_all();
    assert_eq!((running(&live, "node-1"), running(&live, "node-3")), before, "they still run");
    prove(&live);
}

#[test]
fn a_proxy_ends_where_its_router_is_no_longer() {
    let mut live = example("egress-proxies");
    live.apply_all();
    // One moves, one becomes another program, one redirects from now on.
    replace(
        &mut live,
        &[
            ("address: 192.168.12.11\n", "address: 192.168.12.11\n    unavailable: true\n"),
            (
                "mode: http-proxy\n    source: 192.168.12.98",
                "mode: redirect\n    source: 192.168.12.98",
            ),
            (
                "    rules:\n      - deny: 192.168.12.0/24\n      - allow: \"*\"\n",
                "    destination: 203.0.113.25\n",
            ),
            (
                "mode: dns-proxy\n    source: 192.168.12.97",
                "mode: http-proxy\n    source: 192.168.12.97",
            ),
            (
                "    destinations:\n      - {port: 80, to: 203.0.113.25}\n      \
                 - {port: 5432, to: db.example.com}\n      \
                 - {port: 8443, to: api.example.net, toPort: 443}\n",
                "    rules:\n      - allow: \"*.example.org\"\n",
            ),
        ],
    );
    assert_eq!(apply(&live, "node-1", &[]), ["- proxy router web: with its process"]);
    assert_eq!(
        live.on(
            "node-1",
            "ls /run | grep ringfence-router || true; ip netns pids router_web 2>/dev/null || true"
        ),
        ""
    );
    assert_eq!(
        apply(&live, "node-3", &[]),
        [
            "+ proxy router partners: squid in router_partners",
            "- proxy router browse: with its process"
        ]
    );
    live.apply_all();
    assert!(live.apply_all().iter().all(|changed| !changed));
    assert_eq!(names(&running(&live, "node-1")), Vec::<&str>::new());
    assert_eq!(names(&running(&live, "node-2")), ["router_web squid"]);
    assert_eq!(names(&running(&live, "node-3")), ["router_partners squid"]);
    assert_eq!(
        live.on("node-3", "ls /run/ringfence-router-partners"),
        "loaded\npid\nproxy.sh\nsquid.conf\n"
    );
    prove(&live);
    let output = live.lab.ringfence(live.node("node-3"), &["teardown"]).unwrap();
    let stdout = String::from_utf8(output.stdout).unwrap();
    assert!(stdout.contains("- proxy router partners: with its process\n"), "{stdout}");
    let left = "ls /run | grep ringfence-router; pidof squid; ip netns; true";
    assert_eq!(live.on("node-3", left), "");
}

/// What is done by hand on node-3, and what `apply` then does.
const DRIFT: &[(&str, &[&str])] = &[
    (
        "pid=$(cat /run/ringfence-router-partners/pid); kill -KILL $pid; \
         while [ -n \"$(tr -d '\\0' </proc/$pid/cmdline)\" ]; do sleep 0.05; done",
        &["+ proxy router partners: haproxy in router_partners"],
    ),
    (
        "sh /run/ringfence-router-browse/proxy.sh stop",
        &["+ proxy router browse: squid in router_browse"],
    ),
    (
        "sed -i '/^http_access/s/deny/allow/' /run/ringfence-router-browse/squid.conf",
        &["~ proxy router browse: configuration"],
    ),
    (
        // As if a run had been interrupted before the proxy heard of the change.
        "rm /run/ringfence-router-partners/loaded",
        &["~ proxy router partners: configuration"],
    ),
    ("echo exit >>/run/ringfence-router-browse/proxy.sh", &["~ proxy router browse: script"]),
    ("ip netns del router_browse", &["~ proxy router browse: namespace"]),
    // What belongs to nobody any more.
    (
        "mkdir /run/ringfence-router-old && \
         echo '# Made by ringfence: x' >/run/ringfence-router-old/squid.conf",
        &["- proxy router old: with its files"],
    ),
];

#[test]
fn what_was_done_to_proxies_by_hand_is_repaired() {
    let live = example("egress-proxies");
    live.apply_all();
    for (command, expected) in DRIFT {
        live.on("node-3", command);
        assert_eq!(apply(&live, "node-3", &["--check"]), *expected, "after `{command}`");
        assert_eq!(apply(&live, "node-3", &[]), *expected, "after `{command}`");
        let again = live.lab.apply(live.node("node-3")).unwrap();
        assert!(!again.changed, "after `{command}`: {:?}", again.changes);
    }
    let found = running(&live, "node-3");
    assert_eq!(names(&found), ["router_browse squid", "router_partners haproxy"]);
    prove(&live);
}

#[test]
fn a_proxy_opens_connections_to_the_outside_only() {
    let live = example("egress-proxies");
    live.apply_all();
    prove(&live);
    let proxy = live.address("browse");
    let gateway = live.lab.model().gateway(live.node("node-3"));
    // A pod of its own project, the node, itself, what it tells about itself.
    let inside = [
        format!("{}:8080", live.address("bank/core-1")),
        format!("{gateway}:8080"),
        "127.0.0.1:8080".to_owned(),
        format!("{proxy}:8080"),
        "192.168.12.98:8080".to_owned(),
        format!("{proxy}:8080/squid-internal-mgr/info"),
    ];
    for target in inside {
        let (host, page) = target.split_once('/').unwrap_or((&target, ""));
        let ask = format!(
            "curl -s -m 8 -o /dev/null -w '%{{http_code}}' -x http://{proxy}:8080 \
             http://{host}/{page} || true"
        );
        let status = live.within("bank/core-1", &ask);
        assert!(["403", "503"].contains(&status.as_str()), "{target}: {status}");
    }
}

/// Stands in for `systemctl`: does what its unit file says, with nothing but the node's own `/run`.
/// A real systemd would take the whole machine for its own, whose files the lab shares.
const SYSTEMCTL: &str = r#"#!/bin/sh
set -eu
echo "$*" >>/run/systemctl.log
verb=$1
for unit; do :; done
file=/run/systemd/system/$unit
key() { sed -n "s|^$1=||p" "$file"; }
pid() { cat "/run/main.$unit" 2>/dev/null || echo 0; }
# Nobody here collects processes that have ended.
runs() { [ "$(pid)" != 0 ] && [ -n "$(tr -d '\0' <"/proc/$(pid)/cmdline" 2>/dev/null)" ]; }
stop() {
	! runs || kill -TERM "$(pid)"
	while runs; do sleep 0.1; done
	rm -f "/run/main.$unit"
}
case $verb in
	daemon-reload) ;;
	show)
		if runs; then echo ActiveState=active; else echo ActiveState=inactive; fi
		if runs; then echo "MainPID=$(pid)"; else echo MainPID=0; fi ;;
	stop) stop ;;
	restart)
		stop
		netns=$(basename "$(key NetworkNamespacePath)")
		# The words of the command are split on purpose.
		setsid ip netns exec "$netns" $(key ExecStart) </dev/null >/dev/null 2>&1 &
		echo $! >"/run/main.$unit"
		sleep 1
		runs ;;
	reload) key ExecReload | MAINPID=$(pid) sh -e ;;
	*) exit 1 ;;
esac
"#;

#[test]
fn systemd_runs_proxies_where_it_is_there() {
    let mut live = example("egress-proxies");
    let systemctl = shlex::try_quote(SYSTEMCTL).unwrap().into_owned();
    live.on(
        "node-3",
        &format!(
            "mkdir -p /run/systemd/system && printf %s {systemctl} >/run/systemctl && \
             chmod +x /run/systemctl && mount --bind /run/systemctl $(readlink -f $(command -v \
             systemctl))"
        ),
    );
    let units = |live: &Live| live.on("node-3", "cat /run/main.ringfence-router-*");
    let log =
        |live: &Live| live.on("node-3", "grep -v ^show /run/systemctl.log; rm /run/systemctl.log");
    live.lab.apply(live.node("node-1")).unwrap();
    live.lab.apply(live.node("node-2")).unwrap();
    let first = [
        "+ proxy router browse: squid in router_browse",
        "+ proxy router partners: haproxy in router_partners",
    ];
    assert_eq!(apply(&live, "node-3", &[]), first);
    assert!(apply(&live, "node-3", &["--check"]).is_empty());
    assert_eq!(
        log(&live),
        "daemon-reload\nrestart ringfence-router-browse.service\n\
         daemon-reload\nrestart ringfence-router-partners.service\n"
    );
    prove(&live);
    let before = units(&live);
    assert_eq!(before.lines().count(), 2, "{before}");

    // A change is a reload, of that one alone.
    replace(&mut live, &[("to: db.example.com", "to: data.example.com")]);
    assert_eq!(apply(&live, "node-3", &[]), ["~ proxy router partners: configuration"]);
    assert!(apply(&live, "node-3", &["--check"]).is_empty());
    assert_eq!(log(&live), "reload ringfence-router-partners.service\n");
    assert_eq!(units(&live), before, "they still run");
    prove(&live);

    for (command, expected) in [
        (
            "systemctl stop ringfence-router-browse.service",
            "+ proxy router browse: squid in router_browse",
        ),
        (
            "echo '# more' >>/run/systemd/system/ringfence-router-partners.service",
            "~ proxy router partners: unit",
        ),
        (
            "sed -i /http_access/d /run/ringfence-router-browse/squid.conf",
            "~ proxy router browse: configuration",
        ),
        ("ip netns del router_browse", "~ proxy router browse: namespace"),
    ] {
        live.on("node-3", command);
        assert_eq!(apply(&live, "node-3", &[]), [expected], "after `{command}`");
        assert!(apply(&live, "node-3", &["--check"]).is_empty(), "after `{command}`");
    }
    prove(&live);

    // A unit of that name which somebody else wrote is left alone.
    let theirs = "/run/systemd/system/ringfence-router-theirs.service";
    live.on("node-3", &format!("echo '[Unit]' >{theirs}"));

    // The routers go elsewhere.
    replace(
        &mut live,
        &[
            ("address: 192.168.12.13\n", "address: 192.168.12.13\n    unavailable: true\n"),
            ("node: node-3", "node: node-2"),
        ],
    );
    assert_eq!(
        apply(&live, "node-3", &[]),
        ["- proxy router browse: with its process", "- proxy router partners: with its process"]
    );
    let left = "ls /run /run/systemd/system | grep ringfence-router; pidof squid haproxy; true";
    assert_eq!(live.on("node-3", left), "ringfence-router-theirs.service\n");
    live.lab.apply(live.node("node-2")).unwrap();
    prove(&live);
}
