//! Roll-outs over SSH: the example's playbook and the README's loop, with real `ansible-playbook`
//! and real `sshd`, one in each node of a lab. Nothing of it listens outside the lab.

use std::fmt::Write as _;
use std::fs;
use std::process::Output;

use crate::apply::{changed, state_of};
use crate::lab::{Live, example};
use crate::readme::script_of;
use crate::support::{PROGRAM, root};
use ringfence::lab;

const NODES: [&str; 3] = ["node-1", "node-2", "node-3"];

/// What makes a node one that SSH reaches: its home is what the lab gives every node for itself.
const SERVER: &str = r#"
umask 077
mkdir -p /run/sshd /run/ssh
mkdir -m 0755 /run/bin
cp "$KEYS/host" /run/ssh/host
cp "$KEYS/user.pub" /run/ssh/authorized
cat >/run/ssh/config <<END
ListenAddress $ADDRESS:2222
HostKey /run/ssh/host
AuthorizedKeysFile /run/ssh/authorized
AuthenticationMethods publickey
PermitRootLogin prohibit-password
UsePAM no
PidFile /run/ssh/pid
SetEnv PATH=/run/bin:/usr/sbin:/usr/bin:/sbin:/bin
Subsystem sftp internal-sftp
END
# /var/lib is the same on all nodes of a lab.
cat >/run/bin/ringfence <<END
#!/bin/sh
case " \$* " in
*" --state "*) exec $PROGRAM "\$@" ;;
*) exec $PROGRAM "\$@" --state /run/ringfence ;;
esac
END
chmod 0755 /run/bin/ringfence
/usr/sbin/sshd -f /run/ssh/config -E /run/ssh/log
"#;

/// A lab whose nodes are reached by SSH from its outside.
struct Fleet {
    live: Live,
    /// Keys, the client's configuration and the inventory.
    home: tempfile::TempDir,
}

/// One run of something that reaches several nodes.
struct Rollout {
    text: String,
    status: i32,
}

impl From<Output> for Rollout {
    fn from(output: Output) -> Self {
        let text = [output.stdout, output.stderr].concat();
        Self { text: String::from_utf8(text).unwrap(), status: output.status.code().unwrap() }
    }
}

impl Rollout {
    /// How many tasks of a node had this outcome; `None` for a node that was not reached.
    fn count(&self, node: &str, outcome: &str) -> Option<u32> {
        let recap = self.text.split("PLAY RECAP").nth(1).unwrap_or_else(|| panic!("{}", self.text));
        let line = recap.lines().find(|line| line.starts_with(node))?;
        let number = line.split(&format!(" {outcome}=")).nth(1)?;
        number.split_whitespace().next()?.parse().ok()
    }

    /// Which nodes changed; `None` for those that were not reached.
    fn changed(&self) -> [Option<u32>; 3] {
        NODES.map(|node| self.count(node, "changed"))
    }
}

/// Applies the quickstart, if that is asked for, and starts the servers.
fn fleet(applied: bool) -> Fleet {
    let live = example("quickstart");
    if applied {
        live.apply_all();
    }
    let home = tempfile::tempdir().unwrap();
    let path = home.path().display();
    for key in ["host", "user"] {
        let file = home.path().join(key);
        duct::cmd!("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", file).run().unwrap();
    }
    let key = fs::read_to_string(home.path().join("host.pub")).unwrap();
    fs::write(home.path().join("known_hosts"), format!("lab {key}")).unwrap();
    let mut client = String::new();
    let mut inventory = "ringfence:\n  hosts:\n".to_owned();
    for (_, node) in live.lab.model().intent().nodes() {
        let (name, address) = (&node.name, node.address);
        let _ = write!(client, "Host {name}\n\tHostName {address}\n");
        let _ = writeln!(inventory, "    {name}:");
        let settings = format!("KEYS='{path}' ADDRESS={address} PROGRAM='{PROGRAM}'\n");
        live.on(name.as_str(), &(settings + SERVER));
    }
    let _ = write!(
        client,
        "Host *\n\tPort 2222\n\tUser root\n\tHostKeyAlias lab\n\tIdentityFile {path}/user\n\t\
         IdentitiesOnly yes\n\tStrictHostKeyChecking yes\n\tUserKnownHostsFile {path}/known_hosts\n"
    );
    fs::write(home.path().join("ssh_config"), client).unwrap();
    let out = live.lab.files(live.node("node-1"));
    let _ = write!(
        inventory,
        "  vars:\n    ansible_ssh_common_args: -F {path}/ssh_config\n    ringfence_out: {}\n    \
         ringfence_state: /run/ringfence\n    ringfence_staging: /run\n    ansible_python_interpreter: \
         /usr/bin/python3\n",
        out.parent().unwrap().display()
    );
    fs::write(home.path().join("inventory.yml"), inventory).unwrap();
    Fleet { live, home }
}

impl Fleet {
    /// Runs a program where the nodes can be reached.
    fn outside(&self, words: &[&str]) -> Rollout {
        let home = self.home.path().display();
        let environment = [
            format!("HOME={home}"),
            "LC_ALL=C.UTF-8".to_owned(),
            "ANSIBLE_NOCOLOR=1".to_owned(),
            // The nodes share the machine's files, except these.
            "ANSIBLE_REMOTE_TMP=/run/ansible".to_owned(),
            "ANSIBLE_ASYNC_DIR=/run/ansible-async".to_owned(),
            format!("ANSIBLE_CONFIG={}", root().join("examples/ansible/ansible.cfg").display()),
        ];
        let environment = environment.iter().map(String::as_str);
        let words: Vec<&str> =
            ["env"].into_iter().chain(environment).chain(words.iter().copied()).collect();
        self.live.lab.outside().output(None, &words).unwrap().into()
    }

    fn playbook(&self, arguments: &[&str]) -> Rollout {
        let inventory = self.home.path().join("inventory.yml");
        let playbook = root().join("examples/ansible/playbook.yml");
        let words =
            ["ansible-playbook", "-i", inventory.to_str().unwrap(), playbook.to_str().unwrap()];
        let words: Vec<&str> = words.into_iter().chain(arguments.iter().copied()).collect();
        self.outside(&words)
    }

    /// The generation that a node is in, as its bridge tells.
    fn generation(&self, node: &str) -> String {
        self.live.on(node, "ovs-ofctl -O OpenFlow14 dump-flows br0 table=253 --no-stats")
    }

    fn generations(&self) -> [String; 3] {
        NODES.map(|node| self.generation(node))
    }

    /// Asks for another network, which differs on every node.
    fn want_another(&mut self) {
        let (model, sources) = changed(&[
            ("{name: log-0, node: node-1}", "{name: log-0, node: node-2}"),
            ("allow: {cidr: 198.51.100.0/24", "allow: {cidr: 198.51.100.0/25"),
        ]);
        self.live.lab.replace(model, &sources).unwrap();
    }

    fn prove(&self) {
        let summary = self.live.lab.probe(lab::plan(self.live.lab.model())).unwrap();
        assert_eq!(summary.counts().1, 0, "{}", summary.table());
    }

    fn nothing_is_left_behind(&self) {
        for node in NODES {
            let left = self.live.on(node, "ls -d /run/ringfence.* 2>/dev/null || true");
            assert_eq!(left, "", "{node}");
        }
    }
}

#[test]
fn a_playbook_changes_every_node_once() {
    let fleet = fleet(false);
    let first = fleet.playbook(&[]);
    assert_eq!(first.status, 0, "{}", first.text);
    assert_eq!(first.changed(), [Some(1), Some(1), Some(1)], "{}", first.text);
    fleet.prove();
    // Port 2222 in hexadecimal: no server listens in the machine's own network.
    let own = fs::read_to_string("/proc/net/tcp").unwrap();
    assert!(!own.contains(":08AE "), "{own}");
    let second = fleet.playbook(&["--diff"]);
    assert_eq!(second.status, 0, "{}", second.text);
    assert_eq!(second.changed(), [Some(0), Some(0), Some(0)], "{}", second.text);
    fleet.nothing_is_left_behind();
}

#[test]
fn a_check_shows_what_a_run_would_do_and_changes_nothing() {
    let mut fleet = fleet(true);
    fleet.want_another();
    let state = |fleet: &Fleet| {
        let flows = "ovs-ofctl -O OpenFlow14 dump-flows br0 --no-stats | sort; \
                     md5sum /run/ringfence/state.json; ls /run/ringfence/generations";
        (state_of(&fleet.live, "node-1"), fleet.live.on("node-1", flows))
    };
    let before = state(&fleet);
    let check = fleet.playbook(&["--check", "--diff", "--limit", "node-1"]);
    assert_eq!((check.status, check.count("node-1", "changed")), (0, Some(1)), "{}", check.text);
    for expected in ["- netns audit.log-0: no longer wanted", "-table=70 priority=100,ip,nw_dst="] {
        assert!(check.text.contains(expected), "no {expected:?} in {}", check.text);
    }
    assert_eq!(state(&fleet), before);
    fleet.nothing_is_left_behind();
    let quiet = fleet.playbook(&["--check", "--limit", "node-1"]);
    assert_eq!(quiet.count("node-1", "changed"), Some(1), "{}", quiet.text);
    assert!(!quiet.text.contains("no longer wanted"), "{}", quiet.text);
    assert!(quiet.text.contains("pod audit/log-0: goes from this node"), "{}", quiet.text);
}

#[test]
fn a_node_that_fails_stops_the_roll_out() {
    let mut fleet = fleet(true);
    let before = fleet.generations();
    fleet.want_another();
    let flows = fleet.live.lab.files(fleet.live.node("node-2")).join("flows.ofctl");
    let intact = fs::read(&flows).unwrap();
    fs::write(&flows, [&intact[..], b"priority=1, actions=normal\n"].concat()).unwrap();
    let tampered = fleet.playbook(&[]);
    assert_eq!(tampered.status, 2, "{}", tampered.text);
    assert_eq!(tampered.changed(), [Some(1), Some(0), None], "{}", tampered.text);
    assert!(
        tampered.text.contains("error[RF203]: `flows.ofctl` is not the file that the manifest"),
        "{}",
        tampered.text
    );
    let after = fleet.generations();
    assert_ne!(after[0], before[0]);
    assert_eq!(after[1..], before[1..]);
    fs::write(&flows, intact).unwrap();

    // Taken back by the node itself.
    let unhealthy = ["-e", "ringfence_health_check=/bin/false", "--limit", "node-2,node-3"];
    let unhealthy = fleet.playbook(&unhealthy);
    assert_eq!(unhealthy.status, 2, "{}", unhealthy.text);
    assert_eq!(unhealthy.count("node-3", "ok"), None, "{}", unhealthy.text);
    let told = "the change was rolled back; the generation before is in effect again: ";
    assert!(unhealthy.text.contains(told), "{}", unhealthy.text);
    assert_eq!(fleet.generations(), after);

    // Somebody else is at work.
    let hold = "touch /run/held; exec 9>/run/ringfence/lock; flock 9; \
                while [ -e /run/held ]; do sleep 0.1; done";
    let host = fleet.live.lab.node(fleet.live.node("node-2")).unwrap();
    let holder = host.command(None, &["sh", "-c", hold]).start().unwrap();
    let locked = fleet.playbook(&["--limit", "node-2,node-3"]);
    fleet.live.on("node-2", "rm /run/held");
    holder.wait().unwrap();
    assert_eq!(locked.status, 2, "{}", locked.text);
    assert!(locked.text.contains("another run of ringfence is at work"), "{}", locked.text);
    assert_eq!(fleet.generations(), after);
    fleet.nothing_is_left_behind();
}

#[test]
fn a_change_is_confirmed_by_a_new_connection() {
    let mut fleet = fleet(true);
    let before = fleet.generation("node-1");
    fleet.want_another();
    let confirmed = ["-e", "ringfence_confirm=600s", "--limit", "node-1"];
    let run = fleet.playbook(&confirmed);
    assert_eq!((run.status, run.count("node-1", "changed")), (0, Some(1)), "{}", run.text);
    let after = fleet.generation("node-1");
    assert_ne!(after, before);
    let again = fleet.playbook(&confirmed);
    assert_eq!((again.status, again.count("node-1", "changed")), (0, Some(0)), "{}", again.text);
    assert_eq!(fleet.generation("node-1"), after);
    fleet.nothing_is_left_behind();
}

#[test]
fn the_loop_of_the_readme_reaches_every_node() {
    let fleet = fleet(false);
    let script = script_of("README.md", "for node in node-1 node-2 node-3; do");
    // The nodes share the machine's files, except those in /run.
    assert_eq!(script.matches("/srv/ringfence").count(), 2);
    let script = script.replace("/srv/ringfence", "/run/files");
    let home = fleet.home.path();
    // The client's configuration is where a person has it.
    let ssh = format!("#!/bin/sh\nexec /usr/bin/ssh -F {}/ssh_config \"$@\"\n", home.display());
    fs::create_dir(home.join("bin")).unwrap();
    ringfence::files::write_atomically(&home.join("bin/ssh"), ssh.as_bytes()).unwrap();
    let out = fleet.live.lab.files(fleet.live.node("node-1"));
    let script = format!(
        "chmod 0755 {home}/bin/ssh; PATH={home}/bin:$PATH; cd {}/..\n{script}",
        out.parent().unwrap().display(),
        home = home.display()
    );
    let run = fleet.outside(&["sh", "-c", &script]);
    assert_eq!(run.status, 0, "{}", run.text);
    for node in NODES {
        assert!(run.text.contains(&format!("{node}: ")), "{}", run.text);
    }
    fleet.prove();
    let again = fleet.outside(&["sh", "-c", &script]);
    for node in NODES {
        assert!(again.text.contains(&format!("{node}: nothing to change")), "{}", again.text);
    }
}
