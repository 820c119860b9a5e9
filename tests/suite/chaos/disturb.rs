//! What happens to a node: by hand, by other people, and to the commands of a run.

use super::chance::Chance;

/// Something that is done to a node before a run.
#[derive(Clone, Copy, Debug)]
pub(super) struct Deed {
    pub(super) name: &'static str,
    /// A shell script; it ends with 9 where there is nothing to do it to.
    pub(super) script: &'static str,
    pub(super) kind: Kind,
}

impl Deed {
    /// Whether ringfence can't remember any more what kernel settings were before.
    pub(super) fn forgets(&self) -> bool {
        matches!(self.kind, Kind::Unreadable)
            || ["the state is lost", "the state directory is lost"].contains(&self.name)
    }
}

/// What a deed is about.
#[derive(Clone, Copy, Debug)]
pub(super) enum Kind {
    /// Something of ringfence's changes: `status` has to name something.
    Ours,
    /// Something of ringfence's loses its mark: from then on it may be somebody else's, and in the
    /// way until it is removed.
    Disowned {
        /// How it goes.
        undo: &'static str,
    },
    /// What ringfence remembers can't be read any more: an error says what to do.
    Unreadable,
    /// What may change nothing, or nothing that is looked at.
    Silent,
    /// Something of other people's comes: it stays as it is, and may be named as what is in the way.
    Theirs {
        /// How it goes again.
        undo: &'static str,
        /// What an error that it causes has in it; empty where it is in nobody's way. With `-`, it
        /// is part of something that may change or go, and is not looked at any more.
        names: &'static str,
    },
}

/// Shell functions of all scripts. `R` is a random number.
pub(super) const FUNCTIONS: &str = r#"
pick() { found=$(cat); [ -n "$found" ] || exit 9; number=$(printf '%s\n' "$found" | wc -l); printf '%s\n' "$found" | sed -n "$((R % number + 1))p"; }
links() { ip -o link show | sed -n 's/^[0-9]*: \(rf-[0-9a-f]*\)[@:].*/\1/p'; }
spaces() { for netns in $(ls /run/netns); do ip -n $netns link show lo 2>/dev/null | grep -q 'alias ringfence' && echo $netns; done; true; }
routers() { spaces | grep '^router' || true; }
flows() { ovs-ofctl -O OpenFlow14 dump-flows br0 --no-stats | grep cookie=0x | sed 's/.*cookie=\(0x[0-9a-f]*\).*/\1/' | sort -u; }
state=/var/lib/ringfence
restart() { pkill -KILL -x ovs-vswitchd; until ovs-vswitchd unix:/run/openvswitch/db.sock --pidfile --detach --no-chdir --log-file -vconsole:off 2>/dev/null; do sleep 0.05; done; ovs-ofctl add-flow br-theirs cookie=0x7,priority=7,actions=normal; }
"#;

const fn ours(name: &'static str, script: &'static str) -> Deed {
    Deed { name, script, kind: Kind::Ours }
}

const fn unreadable(name: &'static str, script: &'static str) -> Deed {
    Deed { name, script, kind: Kind::Unreadable }
}

const fn disowned(name: &'static str, script: &'static str, undo: &'static str) -> Deed {
    Deed { name, script, kind: Kind::Disowned { undo } }
}

const fn silent(name: &'static str, script: &'static str) -> Deed {
    Deed { name, script, kind: Kind::Silent }
}

const fn theirs(
    name: &'static str,
    script: &'static str,
    undo: &'static str,
    names: &'static str,
) -> Deed {
    Deed { name, script, kind: Kind::Theirs { undo, names } }
}

/// What somebody does to what is ringfence's.
pub(super) const DEEDS: &[Deed] = &[
    ours("a link is removed", "ip link del $(links | pick)"),
    ours("a link loses its mark", "ip link set $(links | pick) alias ''"),
    ours("a link goes down", "ip link set $(links | pick) down"),
    ours("a link gets another MTU", "ip link set $(links | pick) mtu 1300"),
    ours("a pod's interface goes down", "ip -n $(spaces | pick) link set eth0 down"),
    ours("a pod's address goes", "ip -n $(spaces | pick) address flush dev eth0"),
    ours("a pod gets a second address", "ip -n $(spaces | pick) address add 10.77.0.1/32 dev eth0"),
    ours("a pod's routes go", "ip -n $(spaces | pick) route flush dev eth0"),
    ours(
        "a pod gets another Ethernet address",
        "ip -n $(spaces | pick) link set eth0 address 02:00:00:00:00:99",
    ),
    ours(
        "a pod's interface is renamed",
        "n=$(spaces | pick); ip -n $n link set eth0 down; ip -n $n link set eth0 name eth9; ip -n $n link set eth9 up",
    ),
    ours("a namespace is removed", "ip netns del $(spaces | pick)"),
    ours(
        "a name of a namespace is hollow",
        "n=$(spaces | pick); umount /run/netns/$n; ip link show >/dev/null",
    ),
    // It is somebody else's from then on, whom the plan names.
    theirs(
        "a namespace loses its mark",
        "n=$(spaces | pick); ip -n $n link set lo alias ''; echo $n >/mnt/unmarked",
        "n=$(cat /mnt/unmarked); ip -n $n link set lo alias \"ringfence $n\"",
        "-",
    ),
    ours(
        "a router's macvlan goes",
        "n=$(routers | pick); ip -n $n link show net1 >/dev/null 2>&1 || exit 9; ip -n $n link del net1",
    ),
    ours("a router's ruleset is flushed", "ip netns exec $(routers | pick) nft flush ruleset"),
    ours(
        "a router does not forward",
        "ip netns exec $(routers | pick) sysctl -qw net.ipv4.ip_forward=0",
    ),
    ours(
        "a proxy's process is killed",
        "f=$(ls /run/ringfence-router-*/pid 2>/dev/null | pick) && kill -9 $(cat $f) && sleep 0.05",
    ),
    ours(
        "a proxy's configuration changes",
        "f=$(ls /run/ringfence-router-*/*.c* 2>/dev/null | pick) && echo '# x' >>$f",
    ),
    ours(
        "a proxy's pid file goes",
        "f=$(ls /run/ringfence-router-*/pid 2>/dev/null | pick) && rm $f",
    ),
    ours(
        "a proxy's directory goes",
        "f=$(ls -d /run/ringfence-router-* 2>/dev/null | pick) && rm -r $f",
    ),
    ours("the gateway's address goes", "ip address flush dev tun0"),
    ours("the gateway gets a second address", "ip address add 10.77.0.2/32 dev tun0"),
    ours(
        "a proxy's pid file has the number of another process",
        "f=$(ls /run/ringfence-router-*/pid 2>/dev/null | pick) && echo 1 >$f",
    ),
    ours("the gateway's routes go", "ip route flush dev tun0"),
    ours("the gateway goes down", "ip link set tun0 down"),
    ours(
        "an egress IP goes",
        "a=$(ip -4 -o address show dev lo label lo:ringfence 2>/dev/null | sed 's/.* inet \\([^ ]*\\).*/\\1/' | pick); ip address del $a dev lo",
    ),
    // It is somebody else's from then on, unless the plan has it.
    theirs(
        "an egress IP loses its label",
        "a=$(ip -4 -o address show dev lo label lo:ringfence 2>/dev/null | sed 's/.* inet \\([^ ]*\\).*/\\1/' | pick); ip address del $a dev lo; ip address add $a dev lo",
        "for a in $(ip -4 -o address show dev lo | grep -v ringfence | sed 's/.* inet \\([^ ]*\\).*/\\1/' | grep ^192.168.12.2); do ip address del $a dev lo; done",
        "-",
    ),
    ours(
        "the node's ruleset is flushed",
        "nft flush ruleset; nft 'add table inet theirs; add chain inet theirs c { type filter hook output priority 0; }; add rule inet theirs c counter comment \"theirs\"'",
    ),
    ours("the node's table is gone", "nft delete table inet ringfence"),
    ours(
        "a rule is added",
        "nft add chain inet ringfence mine; nft add rule inet ringfence mine accept",
    ),
    ours("a flow is removed", "ovs-ofctl -O OpenFlow14 del-flows br0 cookie=$(flows | pick)/-1"),
    ours(
        "a flow is added",
        "ovs-ofctl -O OpenFlow14 add-flow br0 cookie=0x77,table=80,priority=900,ip,actions=drop",
    ),
    ours("all flows are removed", "ovs-ofctl -O OpenFlow14 del-flows br0"),
    ours(
        "all groups are removed",
        "ovs-ofctl -O OpenFlow15 dump-groups br0 | grep -q group_id || exit 9; ovs-ofctl -O OpenFlow15 del-groups br0",
    ),
    ours(
        "a group is added",
        "ovs-ofctl -O OpenFlow15 add-group br0 group_id=99,type=all,bucket=drop",
    ),
    ours(
        "all meters are removed",
        "ovs-ofctl -O OpenFlow14 dump-meters br0 | grep -q meter= || exit 9; ovs-ofctl -O OpenFlow14 del-meters br0",
    ),
    ours(
        "a meter is added",
        "ovs-ofctl -O OpenFlow14 add-meter br0 meter=999,kbps,band=type=drop,rate=9",
    ),
    ours("the frag mode", "ovs-ofctl set-frags br0 normal"),
    ours("a port is removed", "ovs-vsctl del-port br0 $(ovs-vsctl list-ports br0 | pick)"),
    disowned(
        "a port loses its mark",
        "ovs-vsctl clear Port $(ovs-vsctl list-ports br0 | pick) external_ids",
        "for p in $(ovs-vsctl list-ports br0); do ovs-vsctl get Port $p external_ids:ringfence \
         2>/dev/null || ovs-vsctl del-port br0 $p; done",
    ),
    ours("a port gets a tag", "ovs-vsctl set Port $(ovs-vsctl list-ports br0 | pick) tag=7"),
    ours(
        "a port gets another number",
        "ovs-vsctl set Interface $(ovs-vsctl list-ports br0 | grep rf- | pick) ofport_request=999",
    ),
    ours("the tunnel has another port", "ovs-vsctl set Interface vxlan0 options:dst_port=8472"),
    ours("the bridge goes", "ovs-vsctl del-br br0"),
    ours("the bridge forwards by itself", "ovs-vsctl set-fail-mode br0 standalone"),
    ours("the bridge gets a controller", "ovs-vsctl set-controller br0 tcp:127.0.0.1:6653"),
    disowned(
        "the bridge loses its mark",
        "ovs-vsctl clear Bridge br0 external_ids",
        "ovs-vsctl --if-exists del-br br0",
    ),
    ours("the bridge speaks other versions", "ovs-vsctl set Bridge br0 protocols=OpenFlow10"),
    ours(
        "queues are lost",
        "ovs-vsctl -- --all destroy QoS | true; ovs-vsctl find Port qos!=[] | grep -q . || exit 9; for p in $(ovs-vsctl --bare --columns=name find Port qos!=[]); do ovs-vsctl clear Port $p qos; done",
    ),
    ours("the node does not forward", "sysctl -qw net.ipv4.ip_forward=0"),
    ours("Open vSwitch is restarted", "restart"),
    ours("the state is lost", "rm $state/state.json"),
    unreadable(
        "the state is cut",
        "[ -s $state/state.json ] || exit 9; truncate -s 50 $state/state.json",
    ),
    unreadable(
        "the state is of another version",
        "[ -s $state/state.json ] || exit 9; \
         sed -i 's/\"version\": [0-9]*/\"version\": 99/' $state/state.json",
    ),
    ours("the generations are lost", "rm -r $state/generations"),
    ours(
        "a file of a generation is cut",
        "now=$(sed -n 's/.*\"current\": \"\\([0-9a-f]*\\)\".*/\\1/p' $state/state.json); [ -n \"$now\" ] && \
         truncate -s 10 $state/generations/$now/node.json",
    ),
    ours("the state directory is lost", "rm -r $state"),
    ours(
        "the reboot of the node",
        "for n in $(spaces); do for p in $(ip netns pids $n); do kill -9 $p; done; ip netns del $n; done; rm -rf /run/ringfence-router-*; nft flush ruleset; nft 'add table inet theirs; add chain inet theirs c { type filter hook output priority 0; }; add rule inet theirs c counter comment \"theirs\"'; for l in $(links); do ip link del $l; done; restart",
    ),
    ours(
        "the names of all namespaces are lost",
        "[ -n \"$(spaces)\" ] || exit 9; for n in $(spaces); do umount /run/netns/$n; rm /run/netns/$n; done",
    ),
    silent("the state directory is open to all", "chmod 755 $state"),
    silent(
        "files of an interrupted write",
        "mkdir -p $state/generations/.new/x; echo x >$state/state.new; echo y >$state/generations/.new/x/y",
    ),
    silent(
        "the clock is far ahead",
        "f=$state/state.json; sed -i 's/\"applied\": [0-9]*/\"applied\": 99999999999/' $f",
    ),
    theirs(
        "a directory among the generations",
        "mkdir -p $state/generations/1234; echo x >$state/generations/1234/x",
        "rm -rf $state/generations/1234",
        "",
    ),
    theirs(
        "a namespace",
        "ip netns add theirs-9; ip -n theirs-9 link set lo up",
        "ip netns del theirs-9",
        "",
    ),
    theirs(
        "a veth with addresses and routes",
        "ip link add theirs-v address 02:00:00:00:dd:01 type veth peer name theirs-w address 02:00:00:00:dd:02; ip link set theirs-v up; ip address add 10.99.0.1/24 dev theirs-v; ip route add 10.98.0.0/16 via 10.99.0.2",
        "ip link del theirs-v",
        "",
    ),
    theirs(
        "a link with a name of ringfence's",
        "ip link add rf-000000000001 address 02:00:00:00:dd:03 type bridge; ip link set rf-000000000001 alias mine",
        "ip link del rf-000000000001",
        "",
    ),
    theirs(
        "a route to a part of the pod network",
        "ip route add 10.128.1.0/24 via 192.168.12.1 2>/dev/null || exit 9",
        "ip route del 10.128.1.0/24 via 192.168.12.1",
        "10.128.1.0/24",
    ),
    theirs(
        "a blackhole in the service network",
        "ip route add blackhole 172.30.9.0/24",
        "ip route del blackhole 172.30.9.0/24",
        "172.30.9.0/24",
    ),
    theirs(
        "an address of an egress IP",
        "a=192.168.12.$((200 + R % 12)); ip -4 -o address show dev lo | grep -q $a/ && exit 9; ip address add $a/32 dev lo",
        "for a in $(ip -4 -o address show dev lo | grep -v ringfence | sed 's/.* inet \\([^ ]*\\).*/\\1/' | grep ^192.168.12.2); do ip address del $a dev lo; done",
        "192.168.12.2",
    ),
    theirs(
        "a rule and a table of routes",
        "ip rule add pref 100 from 10.9.0.0/16 table 77; ip route add 10.9.0.0/16 dev lo table 77",
        "ip rule del pref 100; ip route flush table 77",
        "",
    ),
    theirs(
        "a neighbour",
        "ip link show br-ex >/dev/null 2>&1 && exit 9; ip neigh add 192.168.12.77 lladdr 02:00:00:00:00:77 dev eth0 nud permanent",
        "ip neigh del 192.168.12.77 dev eth0",
        "-",
    ),
    theirs(
        "a table of nft",
        "nft 'add table ip nat2; add chain ip nat2 post { type nat hook postrouting priority 100; }; add rule ip nat2 post ip saddr 10.99.0.0/24 masquerade'",
        "nft delete table ip nat2",
        "",
    ),
    theirs(
        "a table of nft with ringfence's name",
        "nft list table inet ringfence >/dev/null 2>&1 && nft delete table inet ringfence; nft 'add \
         table inet ringfence; add chain inet ringfence mine; add rule inet ringfence mine accept'",
        "nft delete table inet ringfence",
        "table inet ringfence",
    ),
    theirs(
        "an interface in a pod's namespace",
        "n=$(spaces | pick); ip -n $n link add mine0 type bridge; ip -n $n link set mine0 up; \
         ip -n $n address add 10.99.0.1/24 dev mine0; ip -n $n route add 10.98.0.0/16 via 10.99.0.2",
        "for n in $(ls /run/netns); do ip -n $n link del mine0 2>/dev/null; done",
        "-",
    ),
    theirs(
        "a table of nft in a pod's namespace",
        "ip netns exec $(spaces | pick) nft 'add table inet mine; add chain inet mine c { type filter \
         hook output priority 0; }'",
        "for n in $(ls /run/netns); do ip netns exec $n nft delete table inet mine 2>/dev/null; done",
        "-",
    ),
    theirs(
        "a process in a pod's namespace",
        "ip netns exec $(spaces | pick) setsid tail -f /dev/null >/dev/null 2>&1 </dev/null & \
         echo $! >/mnt/theirs.pid; sleep 0.05",
        "kill $(cat /mnt/theirs.pid)",
        "-",
    ),
    theirs(
        "a flow on the gateway bridge",
        "ovs-vsctl br-exists br-ex || exit 9; ovs-ofctl add-flow br-ex \
         cookie=0x9,priority=5,udp,tp_dst=9,actions=drop",
        "ovs-ofctl del-flows br-ex cookie=0x9/-1",
        "-",
    ),
    theirs(
        "addresses, routes and rules of the uplink",
        "d=eth0; ip link show br-ex >/dev/null 2>&1 && d=br-ex; ip address add 192.168.12.61/24 dev $d; \
         ip address add 10.7.0.1 peer 10.7.0.2/32 dev $d; ip -6 address add fd00:13::1/64 dev $d nodad; \
         ip route add 198.51.99.0/24 via 192.168.12.1 metric 30; ip route add 198.51.98.0/24 via \
         192.168.12.1 dev $d onlink table 52; ip rule add pref 600 iif $d table 52; ip -6 route add \
         fd00:98::/64 via fd00:13::2",
        "d=eth0; ip link show br-ex >/dev/null 2>&1 && d=br-ex; ip route del 198.51.99.0/24; ip route \
         flush table 52; ip rule del pref 600; ip -6 route del fd00:98::/64; ip address del \
         192.168.12.61/24 dev $d; ip address del 10.7.0.1 peer 10.7.0.2/32 dev $d; ip -6 address del \
         fd00:13::1/64 dev $d",
        "-",
    ),
    theirs(
        "a bridge with a port and queues",
        "ovs-vsctl add-br br-more -- set bridge br-more datapath_type=netdev fail_mode=secure \
         other_config:hwaddr=02:00:00:00:cc:02 -- add-port br-more more0 -- set interface more0 \
         type=internal mac='\"02:00:00:00:cc:03\"' -- set port more0 qos=@q -- --id=@q create qos \
         type=linux-htb queues:1=@k external_ids:theirs=x -- --id=@k create queue \
         other_config:max-rate=1000000 external_ids:theirs=x; ovs-ofctl add-flow br-more \
         priority=3,actions=drop",
        "ovs-vsctl --if-exists del-br br-more; for table in qos queue; do for row in $(ovs-vsctl \
         --bare --columns=_uuid find $table external_ids:theirs=x); do ovs-vsctl destroy $table \
         $row; done; done",
        "",
    ),
    theirs(
        "a port on the bridge",
        "ovs-vsctl add-port br0 more1 -- set interface more1 type=internal mac='\"02:00:00:00:cc:04\"'",
        "ovs-vsctl --if-exists del-port more1",
        "-",
    ),
    theirs(
        "a directory beside those of proxies",
        "mkdir -p /run/ringfence-router-mine; echo x >/run/ringfence-router-mine/x",
        "rm -rf /run/ringfence-router-mine",
        "",
    ),
    theirs(
        "files for namespaces",
        "mkdir -p /etc/netns/shop.web-0; echo nameserver 192.0.2.1 >/etc/netns/shop.web-0/resolv.conf",
        "rm -r /etc/netns/shop.web-0",
        "",
    ),
    theirs(
        "a file where namespaces are named",
        "touch /run/netns/not-a-namespace",
        "rm /run/netns/not-a-namespace",
        "",
    ),
    theirs(
        "a process of somebody's",
        "setsid tail -f /dev/null >/dev/null 2>&1 </dev/null & echo $! >/mnt/theirs.pid",
        "kill $(cat /mnt/theirs.pid)",
        "",
    ),
];

/// How commands go wrong, by the words of the wrapper.
const WAYS: [&str; 11] = [
    "kill-before",
    "kill-after",
    "kill-within",
    "kill-late",
    "interrupt",
    "terminate",
    "fail",
    "fail-after",
    "die",
    "half",
    "nothing",
];

/// What happens to a run.
#[derive(Clone, Debug)]
pub(super) enum Fault {
    /// The command with this number goes wrong.
    Command(usize, &'static str),
    /// While a run is at the command with this number, somebody does something.
    Meanwhile(usize, Deed),
    /// It is killed after so many milliseconds.
    Killed(usize),
    /// It is run with a limit of prlimit(1).
    Limited(String),
    /// The state directory is full, or can't be written.
    State(&'static str),
    /// While it is at the command with this number, the disk gets full.
    Full(usize),
    /// It waits for a confirmation that never comes, and the command with this number goes wrong.
    Unconfirmed(usize, &'static str),
}

impl Fault {
    /// One command of a teardown that goes wrong.
    pub(super) fn of_teardown(chance: &mut Chance) -> Self {
        Self::Command(chance.below(25), WAYS[chance.below(WAYS.len())])
    }

    pub(super) fn random(chance: &mut Chance) -> Self {
        // More commands come at the beginning of every run than in the middle of a long one.
        let at = if chance.percent(70) { chance.below(45) } else { chance.below(120) };
        match chance.below(20) {
            0 => Self::Killed(1 + chance.below(900)),
            1 => {
                let limit = match chance.below(2) {
                    0 => format!("--nofile={}", 4 + chance.below(60)),
                    _ => format!("--fsize={}", chance.below(40_000)),
                };
                Self::Limited(limit)
            }
            2 => Self::State(["full", "read-only"][chance.below(2)]),
            7 => Self::Full(at),
            6 => Self::Unconfirmed(at, WAYS[chance.below(WAYS.len())]),
            3..=5 => {
                let ours: Vec<Deed> = DEEDS
                    .iter()
                    .filter(|deed| matches!(deed.kind, Kind::Ours | Kind::Silent))
                    .copied()
                    .collect();
                Self::Meanwhile(at, *chance.pick(&ours))
            }
            _ => Self::Command(at, WAYS[chance.below(WAYS.len())]),
        }
    }

    /// What somebody does meanwhile.
    pub(super) fn deed(&self) -> Option<&Deed> {
        if let Self::Meanwhile(_, deed) = self { Some(deed) } else { None }
    }

    pub(super) fn name(&self) -> String {
        match self {
            Self::Command(_, way) => format!("a command: {way}"),
            Self::Meanwhile(..) => "during a run, somebody's deed".to_owned(),
            Self::Full(_) => "the disk gets full during a run".to_owned(),
            Self::Killed(_) => "killed at some time".to_owned(),
            Self::Limited(limit) => format!("limited: {}", limit.split('=').next().unwrap()),
            Self::State(how) => format!("the state directory is {how}"),
            Self::Unconfirmed(..) => "never confirmed".to_owned(),
        }
    }
}
