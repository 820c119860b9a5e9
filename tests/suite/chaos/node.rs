//! A real node of its own, without the network around it: Open vSwitch, an uplink, and a few things
//! of other people.

use std::path::Path;

use crate::support::{NOW, PROGRAM, Run, until};
use ringfence::lab::{Hold, Host, Role};

/// Where the state is kept: below a file system that can be full or read-only.
pub(super) const STATE: &str = "/var/lib/ringfence";

/// The programs that a wrapper stands before.
const WRAPPED: &str = "ip nft conntrack ovs-vsctl ovs-ofctl ovs-appctl ovsdb-client ethtool sysctl install rm sh-none";

/// Makes a machine a node. What the test itself needs is at `/mnt`, away from all that is compared.
const PREPARE: &str = r#"set -eu
mount -t tmpfs tmpfs /mnt
mkdir -p /mnt/etc /mnt/real /mnt/fake /mnt/chaos/at
mount -t tmpfs -o size=64m tmpfs /var/lib
cp -a --one-file-system /etc/. /mnt/etc/
mount --rbind /etc/openvswitch /mnt/etc/openvswitch
mount --rbind /mnt/etc /etc
rm -rf /etc/ringfence
mkdir -p /etc/netns /var/lib/ringfence-parent
ip netns add wire
ip link add eth0 address 02:00:c0:a8:0c:0b type veth peer name w0 address 02:00:00:00:ff:01 netns wire
ip link set eth0 up
ip -n wire link set w0 up
ethtool -K eth0 tx off >/dev/null
ip address add 192.168.12.11/24 broadcast + dev eth0
ip route add default via 192.168.12.1
# What a node may have beside: it goes with the uplink to its bridge, and back.
ip address add 192.168.12.60/24 dev eth0 label eth0:two
ip route add 198.18.0.0/15 via 192.168.12.1 metric 50 mtu 1400
ip route add default via 192.168.12.1 table 51
ip rule add pref 500 from 192.168.12.60 table 51
if [ -e /proc/sys/net/ipv6 ]; then
	ip -6 address add fd00:12::11/64 dev eth0 nodad
	ip -6 route add default via fd00:12::1 dev eth0
fi
sysctl -qw net.ipv4.ip_forward=1
for n in 0 1; do ip netns add theirs-$n; done
for n in 0 1 2 3; do
	ip netns add vm-$n
	ip link add tap$n mtu 1400 up address 02:00:00:00:aa:0$n type veth peer name eth0 address 02:00:00:00:bb:0$n netns vm-$n
	ip -n vm-$n link set eth0 up
done
ovs-vsctl add-br br-theirs -- set bridge br-theirs datapath_type=netdev fail_mode=secure other_config:hwaddr=02:00:00:00:cc:01
ovs-ofctl add-flow br-theirs cookie=0x7,priority=7,actions=normal
nft 'add table inet theirs; add chain inet theirs c { type filter hook output priority 0; }; add rule inet theirs c counter comment "theirs"'
# Nobody answers on the segment.
printf '#!/bin/sh\nexit 0\n' >/mnt/fake/arping
# Proxies that need no room: they read their configuration and wait.
cat >/mnt/fake/proxy <<'S'
#!/bin/sh
case "$*" in *" -c "*|"-c "*) exit 0;; esac
here=
for word; do case $word in /run/*.cfg|/run/*.conf) here=$word;; esac; done
directory=${here%/*}
setsid /mnt/fake/waits ${0##*/} "$here" </dev/null >/dev/null 2>&1 &
echo $! >"$directory/pid"
S
cat >/mnt/fake/waits <<'S'
#!/bin/sh
trap '' HUP USR2
exec "/mnt/as/$1" -qf "$2"
S
mkdir /mnt/as
for program in squid haproxy; do cp "$(readlink -f "$(command -v tail)")" /mnt/as/$program; done
chmod +x /mnt/fake/*
mount --bind /mnt/fake/arping "$(readlink -f "$(command -v arping)")"
for program in squid haproxy; do mount --bind /mnt/fake/proxy "$(readlink -f "$(command -v $program)")"; done
cat >/mnt/wrapper <<'S'
#!/bin/sh
real=/mnt/real/${0##*/}
[ -e /mnt/chaos/plan ] || exec "$real" "$@"
set -C
n=0
while ! { true >"/mnt/chaos/at/$n"; } 2>/dev/null; do n=$((n + 1)); done
set +C
read -r at way </mnt/chaos/plan
[ "$n" = "$at" ] || exec "$real" "$@"
echo "$0 $*" >/mnt/chaos/fired
case $way in
kill-before) kill -9 $PPID; exit 1;;
kill-after) "$real" "$@"; kill -9 $PPID;;
kill-within) "$real" "$@" <&0 & sleep 0.002; kill -9 $PPID; wait;;
kill-late) kill -9 $PPID; sleep 0.2; exec "$real" "$@";;
interrupt) kill -INT $PPID; sleep 0.02; exec "$real" "$@";;
terminate) kill -TERM $PPID; sleep 0.02; exec "$real" "$@";;
fail) echo refused >&2; exit 1;;
fail-after) "$real" "$@"; echo 'failed after all' >&2; exit 1;;
die) kill -9 $$;;
half) cat >/mnt/chaos/in; lines=$(wc -l </mnt/chaos/in); head -n $((lines / 2)) /mnt/chaos/in | "$real" "$@"; kill -9 $$;;
nothing) exit 0;;
script) sh /mnt/chaos/script >/dev/null 2>&1 </dev/null; exec "$real" "$@";;
esac
S
for program in WRAPPED; do
	there=$(command -v $program) || continue
	there=$(readlink -f "$there")
	cp "$there" /mnt/real/"${there##*/}"
	[ "${there##*/}" = $program ] || ln -sf "${there##*/}" /mnt/real/$program
	cp /mnt/wrapper /mnt/fake/$program
	chmod +x /mnt/fake/$program
	mount --bind /mnt/fake/$program "$there"
done
rm -rf /var/lib/ringfence-parent
"#;

/// The ringfence that is tried: the one that was built with the tests, or one that is named.
pub(super) fn program() -> String {
    std::env::var("RINGFENCE_CHAOS_PROGRAM").unwrap_or_else(|_| PROGRAM.to_owned())
}

/// Runs it on this machine, in a directory.
pub(super) fn ringfence(directory: &Path, words: &[&str]) -> Run {
    let command = duct::cmd(program(), words).dir(directory).env("SOURCE_DATE_EPOCH", NOW);
    let output = command.stdin_null().stdout_capture().stderr_capture().unchecked().run();
    output.unwrap().into()
}

/// A node.
pub(super) struct Node {
    host: Host,
    _directory: tempfile::TempDir,
}

impl Node {
    pub(super) fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let starting = Host::start("node-1", Role::Node, Hold::WithParent, directory.path());
        let host = starting.unwrap().ready().unwrap();
        let node = Self { host, _directory: directory };
        let (said, status) = node.shell(&PREPARE.replace("WRAPPED", WRAPPED));
        assert_eq!(status, 0, "{said}");
        node
    }

    /// Runs a shell script and tells what it printed, errors too, and its status.
    pub(super) fn shell(&self, script: &str) -> (String, i32) {
        // Not by the wrappers: a plan is for ringfence.
        let script = format!("PATH=/mnt/real:$PATH\n{script}");
        let output = self.host.output(None, &["timeout", "-k", "5", "120", "sh", "-c", &script]);
        let output = output.unwrap();
        let mut text = String::from_utf8_lossy(&output.stdout).into_owned();
        text.push_str(&String::from_utf8_lossy(&output.stderr));
        (text, output.status.code().unwrap_or(-1))
    }

    /// Runs a shell script that has to end well, and tells what it printed.
    pub(super) fn done(&self, script: &str) -> String {
        let (said, status) = self.shell(script);
        assert_eq!(status, 0, "{script}\n{said}");
        said
    }

    /// Runs ringfence, after `before`: words such as those of prlimit(1).
    pub(super) fn ringfence(&self, before: &[&str], words: &[&str]) -> Run {
        // Nothing here takes long, but each command may hang for two minutes.
        let limit = ["timeout", "-k", "5", "400"];
        let mut all = if before.is_empty() { limit.to_vec() } else { before.to_vec() };
        let program = program();
        all.push(&program);
        all.extend(words);
        all.extend(["--state", STATE]);
        let output = self.host.output(None, &all).unwrap();
        Run {
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
            status: output.status.code().unwrap_or(-1),
        }
    }

    /// Makes the command with this number go wrong, and all go well without one.
    pub(super) fn plan(&self, plan: Option<(usize, &str)>, script: &str) {
        let quoted = shlex::try_quote(script).unwrap().into_owned();
        let write = plan.map_or_else(String::new, |(at, way)| {
            format!("printf %s {quoted} >/mnt/chaos/script; echo {at} {way} >/mnt/chaos/plan")
        });
        self.done(&format!("rm -rf /mnt/chaos; mkdir -p /mnt/chaos/at; {write}"));
    }

    /// The command that went wrong, if any did.
    pub(super) fn fired(&self) -> String {
        self.shell("cat /mnt/chaos/fired 2>/dev/null").0
    }

    /// Waits until nothing runs any more that a killed ringfence has left behind.
    pub(super) fn quiet(&self) {
        let busy = "pgrep -x 'ringfence|ip|nft|ovs-vsctl|ovs-ofctl|ovs-appctl|ovsdb-client|ethtool|sysctl|\
                    install|rm|arping|conntrack' -r D,R,S >/dev/null || [ -e /mnt/chaos/busy ]";
        until("what a killed run left behind has ended", || self.shell(busy).1 != 0);
    }
}

/// The path of a directory as text.
pub(super) fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}
