//! Limits of what pods send and receive: repaired, changed and removed. The lab measures them.

use crate::apply::{Run, changed_example};
use crate::lab::{Live, example};

/// The interface of shop/backup-0, whose meter is 3062791.
const BACKUP: &str = "rf-0a55e16ecb39";

/// How many rows the tables of queue disciplines have, and how many meters the bridge has.
fn rows(live: &Live) -> [usize; 3] {
    let count =
        |command| live.on("node-1", command).lines().filter(|line| !line.is_empty()).count();
    [
        count("ovs-vsctl --columns=_uuid --format=csv --no-headings list QoS"),
        count("ovs-vsctl --columns=_uuid --format=csv --no-headings list Queue"),
        count("ovs-ofctl -O OpenFlow14 dump-meters br0 | grep meter= || true"),
    ]
}

#[test]
fn limits_that_were_changed_by_hand_are_repaired() {
    let live = example("bandwidth");
    live.apply_all();
    assert_eq!(rows(&live), [1, 1, 2]);
    let port = |words: &str| words.replace("PORT", BACKUP);
    let drift: [(String, &[&str]); 7] = [
        (
            port("ovs-vsctl clear port PORT qos"),
            &[
                "+ qos pod shop/backup-0: 8000000 bit/s to PORT",
                "- qos pod shop/backup-0: no longer in use",
            ],
        ),
        (
            port("ovs-vsctl set qos $(ovs-vsctl get port PORT qos) other_config:max-rate=9000000"),
            &[
                "- qos pod shop/backup-0: no longer in use",
                "~ qos pod shop/backup-0: 8000000 bit/s to PORT",
            ],
        ),
        (
            "ovs-vsctl set queue $(ovs-vsctl --bare --columns=_uuid list queue) \
             other_config:max-rate=9000000"
                .to_owned(),
            &[
                "- qos pod shop/backup-0: no longer in use",
                "~ qos pod shop/backup-0: 8000000 bit/s to PORT",
            ],
        ),
        (
            port("ovs-vsctl --all destroy qos -- --all destroy queue -- clear port PORT qos"),
            &["+ qos pod shop/backup-0: 8000000 bit/s to PORT"],
        ),
        (
            "ovs-ofctl -O OpenFlow14 mod-meter br0 meter=3062791,kbps,band=type=drop,rate=9000"
                .to_owned(),
            &["~ meter 3062791: 5000 kbit/s from pod shop/backup-0"],
        ),
        (
            // It takes the flows that name it with it.
            "ovs-ofctl -O OpenFlow14 del-meter br0 meter=3062791".to_owned(),
            &[
                "+ flows pod shop/backup-0: 1 added",
                "+ meter 3062791: 5000 kbit/s from pod shop/backup-0",
            ],
        ),
        (
            "ovs-ofctl -O OpenFlow14 add-meter br0 meter=7,kbps,band=type=drop,rate=9000"
                .to_owned(),
            &["- meter 7: no longer wanted"],
        ),
    ];
    for (command, expected) in drift {
        live.on("node-1", &command);
        let check = live.apply_on("node-1", &["--check"]);
        let mut told: Vec<&str> = check.stdout.lines().collect();
        told.sort_unstable();
        let expected: Vec<String> = expected.iter().map(|words| port(words)).collect();
        assert_eq!(
            (check.status, told),
            (2, expected.iter().map(String::as_str).collect()),
            "{command}"
        );
        let run = live.apply_on("node-1", &[]);
        assert_eq!(run.status, 0, "after `{command}`: {}", run.stderr);
        assert_eq!(live.apply_on("node-1", &["--check"]).status, 0, "after `{command}`");
        assert_eq!(rows(&live), [1, 1, 2], "after `{command}`");
    }
    // A new port begins without a discipline.
    live.on("node-1", &port("ovs-vsctl del-port PORT"));
    assert_eq!(live.apply_on("node-1", &[]).status, 0);
    assert_eq!(live.apply_on("node-1", &["--check"]).status, 0);
    assert_eq!(rows(&live), [1, 1, 2]);
    live.on(
        "node-1",
        "ovs-appctl exit; while pidof ovs-vswitchd >/dev/null; do sleep 0.05; done; \
         ovs-vswitchd unix:/run/openvswitch/db.sock --pidfile --detach --no-chdir --log-file \
         -vconsole:off",
    );
    assert_eq!(live.apply_on("node-1", &[]).status, 0);
    assert_eq!(rows(&live), [1, 1, 2]);
    live.prove();
}

#[test]
fn limits_are_changed_and_go_with_their_pods_and_nothing_else_does() {
    let mut live = example("bandwidth");
    live.apply_all();
    live.on(
        "node-1",
        "ovs-vsctl create qos type=linux-htb -- create queue other_config:max-rate=1000000",
    );
    let (model, sources) =
        changed_example("bandwidth", &[("{egress: 5M, ingress: 8M}", "{egress: 6M, ingress: 7M}")]);
    live.lab.replace(model, &sources).unwrap();
    let run = live.apply_on("node-1", &[]);
    assert_eq!(
        (run.status, run.stdout.as_str()),
        (
            0,
            "~ ruleset node: of another generation\n\
             ~ qos pod shop/backup-0: 7000000 bit/s to rf-0a55e16ecb39\n\
             ~ meter 3062791: 6000 kbit/s from pod shop/backup-0\n\
             ~ flows cluster: 1 changed\n\
             - qos pod shop/backup-0: no longer in use\n"
        ),
        "{}",
        run.stderr
    );
    live.apply_all();
    live.prove();
    let (model, sources) = changed_example(
        "bandwidth",
        &[
            (", bandwidth: {egress: 5M, ingress: 8M}", ""),
            ("      - {name: batch-0, node: node-1, bandwidth: {egress: 3000000}}\n", ""),
        ],
    );
    live.lab.replace(model, &sources).unwrap();
    let run = live.apply_on("node-1", &[]);
    assert_eq!(run.status, 0, "{}", run.stderr);
    for expected in
        ["- qos pod shop/backup-0: no longer in use\n", "- meter 3062791: no longer wanted\n"]
    {
        assert!(run.stdout.contains(expected), "no {expected:?} in\n{}", run.stdout);
    }
    assert_eq!(rows(&live), [1, 1, 0], "somebody else's are still there");
    assert_eq!(live.apply_on("node-1", &["--check"]).status, 0);
}

#[test]
fn the_scripts_set_the_same_limits_and_teardown_removes_them() {
    let live = example("bandwidth");
    let id = live.node("node-1");
    let files = live.lab.files(id).to_string_lossy().into_owned();
    for _ in 0..2 {
        live.on(
            "node-1",
            &format!(
                "cd {files} && sysctl -qp sysctl.conf && sh links.sh && sh ports.sh && sh meters.sh && \
                 ovs-ofctl -O OpenFlow14 --bundle replace-flows br0 flows.ofctl && nft -f ruleset.nft"
            ),
        );
        assert_eq!(rows(&live), [1, 1, 2]);
    }
    let check = live.apply_on("node-1", &["--check"]);
    // The files don't say of which generation they are.
    let expected = "~ ruleset node: of another generation\n+ flows cluster: 1 added\n";
    assert_eq!(check.stdout, expected);
    let run: Run = live.lab.ringfence(id, &["teardown"]).unwrap().into();
    assert_eq!(run.status, 0, "{}", run.stderr);
    assert!(run.stdout.contains("- qos pod shop/backup-0: no longer in use\n"), "{}", run.stdout);
    assert_eq!(live.on("node-1", "ovs-vsctl list qos; ovs-vsctl list queue"), "");
}
