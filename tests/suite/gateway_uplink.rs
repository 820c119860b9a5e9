//! All that hangs on an uplink moves to its gateway bridge and back, or nothing is changed.

use std::fmt::Write as _;

use serde_json::Value;

use crate::generations::{NEW, Node, OLD};
use crate::lab::{datapath, live, load};
use crate::support::{until, written};
use ringfence::value::Datapath;

/// One node; the old generation has the gateway bridge, the new one has none.
const NETWORK: &str = "\
version: 1
nodes:
  - name: node-1
    address: 192.168.12.11
    uplink: {interface: eth0, subnet: 192.168.12.0/24, gateway: 192.168.12.1, bridge: br-ex}
    reservedAddresses: [192.168.12.100]
projects:
  - name: shop
    pods: [{name: web-0, node: node-1}]
";
const BRIDGE: &str = ", bridge: br-ex";
const EGRESS_IP: &str = "egressIPs:\n  - {project: shop, addresses: [192.168.12.100]}\n";
const ROUTER: &str = "\
egressRouters:
  - {name: partner, project: shop, source: 192.168.12.99, gateway: 192.168.12.1,
     destination: 203.0.113.25, node: node-1}
";

/// A node that has no gateway bridge, but the files of one.
fn node() -> Node {
    let (with, without) = (written(NETWORK), written(&NETWORK.replace(BRIDGE, "")));
    let node = Node::between(live(with.path()), load(without.path()));
    // Addresses of IPv6 are there at once, and link-local ones are there by now.
    node.on("for at in all default eth0; do sysctl -qw net.ipv6.conf.$at.accept_dad=0; done");
    until("an address is looked for", || !node.on("ip -6 addr").contains("tentative"));
    node.done(&["apply", NEW]);
    node
}

/// What the kernel has, without indexes of interfaces and what counts down.
fn state(node: &Node) -> String {
    let mut all = String::new();
    for words in [
        "addr",
        "-4 route show table all",
        "-6 route show table all",
        "-4 rule",
        "-6 rule",
        "neigh show nud permanent",
        "neigh show proxy",
    ] {
        let text = node.on(&format!("ip -j {words}"));
        let mut value: Value = serde_json::from_str(&text).unwrap_or_default();
        for item in value.as_array_mut().into_iter().flatten() {
            steady(item);
            let _ = writeln!(all, "{item}");
        }
    }
    all
}

fn steady(item: &mut Value) {
    if let Some(fields) = item.as_object_mut() {
        fields.retain(|key, _| {
            !matches!(key.as_str(), "ifindex" | "link_index" | "expires" | "tentative")
        });
        for (key, value) in fields {
            if key.ends_with("_life_time") && value.as_u64() != Some(u64::from(u32::MAX)) {
                *value = "limited".into();
            }
            steady(value);
        }
    } else if let Some(items) = item.as_array_mut() {
        items.iter_mut().for_each(steady);
    }
}

fn same(before: &str, after: &str, when: &str) {
    let diff = similar::TextDiff::from_lines(before, after);
    assert!(before == after, "{when}:\n{}", diff.unified_diff().context_radius(0));
}

/// Asserts that the outside is reached: where nobody listens, it refuses at once.
///
/// A datapath in userspace takes frames only at a bridge, and the ruleset drops those at the uplink.
fn reaches(node: &Node, when: &str) {
    let bridge = node.on("ovs-vsctl list-br").contains("br-ex");
    if !bridge && datapath() == Datapath::Netdev {
        return;
    }
    let said = node.on("timeout 60 bash -c '</dev/tcp/192.168.12.1/9' 2>&1 || true");
    let refused = said.contains("Connection refused");
    assert!(
        refused,
        "{when}: {said}{}",
        node.on("ip route; ip addr; ip neigh; ip -6 rule; ip rule")
    );
}

/// Puts things on the uplink; what the kernel refuses stays out.
fn hang(node: &Node, lines: &[String]) {
    let text = shlex::try_quote(&lines.join("\n")).unwrap().into_owned();
    node.on(&format!(
        "printf '%s\\n' {text} | while read -r line; do ip $line 2>/dev/null || true; done"
    ));
}

/// Leaves the uplink with its own address and its default route.
fn clear(node: &Node) {
    node.on("ip -4 rule flush; ip -4 rule add priority 32766 lookup main; \
         ip -4 rule add priority 32767 lookup default; \
         ip -6 rule show | grep -E 'iif|oif|fwmark' | cut -d: -f1 | \
         while read p; do ip -6 rule del priority $p; done; \
         ip -6 route flush proto 17; ip -6 route flush table 100; \
         ip nexthop flush >/dev/null 2>&1; ip -6 addr flush dev eth0 scope global; \
         ip -6 route flush root 2001:db8::/32 dev eth0; \
         ip neigh flush nud permanent dev eth0; \
         ip neigh show proxy | while read a rest; do ip neigh del proxy $a dev eth0; done; \
         ip -4 addr flush dev eth0; ip -4 route flush table 100; \
         ip addr add 192.168.12.11/24 dev eth0; ip route add default via 192.168.12.1 dev eth0");
}

/// The bridge comes and goes, or is refused, and why.
fn there_and_back(node: &Node, what: &str) -> Result<(), String> {
    let before = state(node);
    let leads = node.on("ip route get 192.168.12.1 2>&1 || true").contains("192.168.12.1 dev eth0");
    let run = node.run(&["apply", OLD]);
    if run.status == 1 && run.stderr.starts_with("error[RF227]") {
        same(&before, &state(node), &format!("{what}, refused: {}", run.stderr));
        return Err(run.stderr);
    }
    if run.status == 3 && run.stderr.contains("Nexthop has invalid gateway") {
        // Somebody's rule or route keeps the kernel from finding next hops at all.
        same(&before, &state(node), &format!("{what}, taken back: {}", run.stderr));
        return Err(run.stderr);
    }
    assert_eq!(run.status, 0, "{what}: {}{}", run.stdout, run.stderr);
    let check = node.run(&["apply", OLD, "--check"]);
    assert_eq!((check.status, check.stdout.as_str()), (0, ""), "{what}: {}", check.stderr);
    let left = node.on("ip -4 -br addr show dev eth0; ip -4 route show table all dev eth0; \
                        ip -6 addr show dev eth0 scope global; ip rule | grep eth0 || true");
    assert!(!left.contains("192.168") && !left.contains("eth0\n"), "{what}: {left}");
    if leads {
        reaches(node, what);
    }
    node.done(&["apply", NEW]);
    same(&before, &state(node), what);
    Ok(())
}

/// What hangs on an uplink and has to move.
const MOVES: &[&str] = &[
    "addr add 192.168.12.20/24 dev eth0\naddr add 192.168.12.21/24 dev eth0\n\
     addr add 192.168.12.50/32 dev eth0",
    "addr add 10.77.0.1 peer 10.77.0.2/32 dev eth0\nroute add 10.77.9.0/24 via 10.77.0.2 dev eth0",
    "addr add 10.78.0.1/24 broadcast + label eth0:lab dev eth0\n\
     addr add 10.79.0.1/24 broadcast 10.79.0.99 metric 70 proto 99 dev eth0\n\
     addr add 10.80.0.1/24 noprefixroute valid_lft 5000 preferred_lft 4000 dev eth0\n\
     addr add 10.81.0.1/24 scope link dev eth0",
    "route append default table 100 proto static nexthop via 192.168.12.1 dev eth0 weight 3 \
     nexthop via 192.168.12.2 dev eth0 onlink\n\
     route add 198.18.1.0/24 via 203.0.113.9 dev eth0 onlink metric 7 src 192.168.12.11\n\
     route add 198.18.2.0/24 dev eth0 mtu lock 1300 advmss 1200 initcwnd 20 rto_min 50ms\n\
     route add 198.18.3.0/24 via 192.168.12.1 dev eth0 tos 0x10 proto bgp table 100000 \
     features ecn window 9000 hoplimit 9 quickack 1\n\
     route add 198.18.4.0/24 via 192.168.12.1 dev eth0\n\
     route append 198.18.4.0/24 via 192.168.12.3 dev eth0 proto 17\n\
     route append 192.168.12.0/24 via 192.168.12.3 dev eth0 proto 17\n\
     route add local 198.18.5.0/24 dev eth0\nroute add 198.18.6.0/24 via inet6 fe80::1 dev eth0",
    "rule add iif eth0 lookup 100 priority 90\nrule add not fwmark 0x7/0xf iif eth0 lookup 100 \
     priority 91\nrule add from 192.168.12.11 lookup 100 priority 92\n\
     rule add oif eth0 ipproto tcp dport 443-444 prohibit priority 93\n\
     route add 198.18.1.0/24 via 192.168.12.1 dev eth0 table 100",
    "neigh add 192.168.12.77 lladdr 02:00:00:00:00:77 dev eth0 nud permanent\n\
     neigh add proxy 192.168.12.78 dev eth0\n\
     neigh add 2001:db8::77 lladdr 02:00:00:00:00:77 dev eth0 nud permanent router",
    "addr add 2001:db8::11/64 dev eth0\naddr add 2001:db8::12/64 home nodad dev eth0\n\
     addr add 2001:db8:1::11/64 noprefixroute valid_lft 5000 preferred_lft 4000 dev eth0\n\
     addr add 2001:db8:2::1 peer 2001:db8:3::1/64 metric 70 dev eth0\n\
     -6 route add 2001:db8:9::/48 via 2001:db8::1 dev eth0 metric 5 proto 17 mtu 1400 pref high\n\
     -6 route add 2001:db8:a::/48 dev eth0 table 100 proto 17 expires 5000\n\
     -6 route add default nexthop via fe80::1 dev eth0 nexthop via fe80::2 dev eth0 proto 17\n\
     -6 rule add iif eth0 lookup 100 priority 94",
];

#[test]
fn everything_on_the_uplink_moves_to_the_bridge_and_back() {
    let node = node();
    for lines in MOVES {
        let lines: Vec<String> = lines.lines().map(str::to_owned).collect();
        let before = state(&node);
        hang(&node, &lines);
        assert!(state(&node) != before, "nothing was put there: {lines:?}");
        there_and_back(&node, &lines.join("\n")).unwrap();
        clear(&node);
    }
    // And all of it at once.
    let lines: Vec<String> =
        MOVES.iter().flat_map(|lines| lines.lines()).map(str::to_owned).collect();
    hang(&node, &lines);
    there_and_back(&node, "all at once").unwrap();
    let before = state(&node);
    node.done(&["apply", OLD]);
    node.done(&["rollback"]);
    same(&before, &state(&node), "rollback");
}

/// What can't be moved, how it goes again, and what apply says of it.
const REFUSED: &[(&str, &str, &str)] = &[
    (
        "ip nexthop add id 9 via 192.168.12.1 dev eth0; ip route add 198.18.1.0/24 nhid 9",
        "ip route del 198.18.1.0/24; ip nexthop del id 9",
        "RF227]: the route to 198.18.1.0/24 of `eth0` can't be moved to `br-ex`: ringfence can't \
         move the nexthop object that it uses",
    ),
    (
        "ip route del 192.168.12.0/24 dev eth0",
        "ip route add 192.168.12.0/24 dev eth0 proto kernel scope link src 192.168.12.11",
        "RF227]: the address 192.168.12.11/24 of `eth0` can't be moved to `br-ex`: the kernel's \
         route to 192.168.12.0/24 was removed, and would come again",
    ),
    (
        "ip addr add 10.9.0.1/24 label eth0:1234567890 dev eth0",
        "ip addr del 10.9.0.1/24 dev eth0",
        "RF227]: the address 10.9.0.1/24 of `eth0` can't be moved to `br-ex`: its label \
         `eth0:1234567890` would be `br-ex:1234567890`",
    ),
    (
        "ip link add x type bridge; ip link set x up; ip addr add 192.168.12.9/24 dev x",
        "ip link del x",
        "RF227]: the route to 192.168.12.0/24 of `eth0` can't be moved to `br-ex`: another route \
         leads there with the same metric, and would come before it",
    ),
    (
        "ip rule add iif eth0 lookup 100 priority 9; ip rule add fwmark 1 lookup 100 priority 9",
        "ip rule del priority 9; ip rule del priority 9",
        "RF227]: the rule 9 of `eth0` can't be moved to `br-ex`: another rule has the same \
         priority, and would come before it",
    ),
    (
        "ip link add x type bridge; ip link set eth0 master x",
        "ip link del x",
        "RF228]: the uplink `eth0` is a part of the bridge `x`",
    ),
    (
        "ip link add x type vxlan id 9 dstport 9999 dev eth0 remote 192.168.12.1",
        "ip link del x",
        "RF228]: the vxlan `x` sits on the uplink `eth0`",
    ),
];

#[test]
fn what_cannot_be_moved_is_refused_before_anything_changes() {
    let node = node();
    let untouched = state(&node);
    for (make, undo, said) in REFUSED {
        node.on(make);
        let before = state(&node);
        for more in [&["apply", OLD, "--check"][..], &["apply", OLD]] {
            let run = node.run(more);
            assert!(
                run.status == 1
                    && run.stderr.replace(['\n'], " ").starts_with(&format!("error[{said}")),
                "{make}: {}{}",
                run.stdout,
                run.stderr
            );
            same(&before, &state(&node), make);
        }
        node.on(undo);
        same(&untouched, &state(&node), undo);
    }
    // And on the way back, what came to the bridge since.
    node.done(&["apply", OLD]);
    node.on("ip nexthop add id 9 via 192.168.12.1 dev br-ex; ip route add 198.18.1.0/24 nhid 9");
    for words in [&["apply", NEW][..], &["teardown"]] {
        let run = node.run(words);
        assert!(run.status == 1 && run.stderr.starts_with("error[RF227]"), "{}", run.stderr);
    }
    node.on("ip route del 198.18.1.0/24; ip nexthop del id 9; ip link add link br-ex name x type macvlan");
    let run = node.run(&["apply", NEW]);
    let said = "error[RF228]: the macvlan `x` sits on the bridge `br-ex`, and would go with it\n";
    assert!(run.stderr.starts_with(said), "{}", run.stderr);
    node.on("ip link del x");
    node.done(&["teardown"]);
    let after = state(&node);
    let eth0 = |state: &str| -> Vec<String> {
        state.lines().filter(|line| line.contains("eth0")).map(str::to_owned).collect()
    };
    assert_eq!(eth0(&after), eth0(&untouched));
}

/// A uplink of many things, of which each stands for a kind.
const CUT: &str = "addr add 192.168.12.20/24 dev eth0\naddr add 10.77.0.1 peer 10.77.0.2/32 dev eth0\n\
    addr add 2001:db8::11/64 dev eth0\naddr add 2001:db8::12/64 dev eth0\n\
    route add 198.18.1.0/24 via 192.168.12.1 dev eth0 src 192.168.12.20\n\
    route append 198.18.1.0/24 via 192.168.12.3 dev eth0\n\
    -6 route add 2001:db8:9::/48 via 2001:db8::1 dev eth0 proto 17\n\
    rule add iif eth0 lookup 100 priority 90\n\
    neigh add 192.168.12.77 lladdr 02:00:00:00:00:77 dev eth0 nud permanent";

/// Ends `ip` after as many lines of its batches as `/run/cut` has, and with `/run/kill` ringfence too.
const SCISSORS: &str = "\
case $* in
*'-batch -')
  if [ -e /run/cut ]; then
    text=$(cat); lines=$(printf '%s\\n' \"$text\" | wc -l); left=$(cat /run/cut)
    if [ $left -lt $lines ]; then
      rm /run/cut; touch /run/was-cut; 
      printf '%s\\n' \"$text\" | sed -n $((left + 1))p >/run/cut-line
      [ $left -gt 0 ] && printf '%s\\n' \"$text\" | head -n $left | /run/real/ip \"$@\"
      [ -e /run/kill ] && kill -KILL $PPID
      echo cut >&2; exit 1
    fi
    echo $((left - lines)) >/run/cut
    printf '%s\\n' \"$text\" | /run/real/ip \"$@\"; exit $?
  fi ;;
esac";

/// Cuts the way from one generation to the other after every line of `ip`.
fn cut(from: &str, to: &str) {
    let node = node();
    hang(&node, &CUT.lines().map(str::to_owned).collect::<Vec<_>>());
    let before = state(&node);
    let kept = |when: &str| {
        node.done(&["apply", NEW]);
        same(&before, &state(&node), when);
    };
    node.replace("ip", SCISSORS);
    node.done(&["apply", from]);
    for number in 0.. {
        let kill = number % 2 == 1;
        let arm = if kill { "touch /run/kill" } else { "true" };
        node.on(&format!("rm -f /run/was-cut /run/kill; echo {number} >/run/cut; {arm}"));
        let when = format!("to {to}, after {number} lines, killed: {kill}");
        let output = node.live.lab.ringfence(node.live.node("node-1"), &["apply", to]).unwrap();
        let was_cut = !node.on("ls /run/was-cut 2>/dev/null || true").is_empty();
        node.on("rm -f /run/cut");
        if !was_cut {
            assert!(output.status.success(), "{when}: {output:?}");
            assert!(number > 3, "nothing was cut");
            return kept(&when);
        }
        if !kill {
            let line = node.on("cat /run/cut-line");
            if output.status.success() {
                // A removal that fails is looked at again, and what is left of it is done.
                assert!(line.contains(" del "), "{when}: {output:?} {line}");
                reaches(&node, &when);
            } else {
                // It was rolled back at once.
                assert_eq!(output.status.code(), Some(3), "{when}: {output:?} {line}");
                if from == NEW {
                    same(&before, &state(&node), &when);
                }
            }
        } else if number % 4 == 1 {
            node.done(&["apply", to]);
            reaches(&node, &when);
            if to == NEW {
                same(&before, &state(&node), &when);
            }
        }
        node.done(&["apply", from]);
        if from == NEW {
            same(&before, &state(&node), &when);
        }
        reaches(&node, &when);
    }
}

#[test]
fn a_cut_after_any_line_as_the_bridge_comes_leaves_all_to_go_on_or_back() {
    cut(NEW, OLD);
}

#[test]
fn a_cut_after_any_line_as_the_bridge_goes_leaves_all_to_go_on_or_back() {
    cut(OLD, NEW);
}

#[test]
fn an_uplink_that_open_vswitch_cannot_open_keeps_its_addresses() {
    let node = node();
    let before = state(&node);
    // As where the kernel has given it to somebody else.
    node.replace(
        "ovs-vsctl",
        "case $* in *'add-port br-ex eth0') \
         exec /run/real/ovs-vsctl \"$@\" -- set Interface eth0 type=nonsense;; esac",
    );
    let run = node.run(&["apply", OLD]);
    assert_eq!(run.status, 3, "{}", run.stderr);
    same(&before, &state(&node), "after the failure");
}

#[test]
fn the_bridge_has_the_settings_of_the_uplink_and_leaves_what_sits_on_it() {
    let node = node();
    node.on("sysctl -qw net.ipv4.conf.eth0.arp_announce=2 net.ipv4.conf.eth0.rp_filter=2 \
         net.ipv4.conf.eth0.proxy_arp=1 net.ipv6.conf.eth0.accept_ra=0 \
         net.ipv4.neigh.eth0.gc_stale_time=77; ip link set eth0 mtu 9000 txqueuelen 77");
    // Some kernels have no VLANs.
    let tagged = node.on("ip link add link eth0 name eth0.7 type vlan id 7 2>/dev/null && \
         ip addr add 10.7.0.1/24 dev eth0.7 && ip link set eth0.7 up && \
         ip route add 10.7.9.0/24 via 10.7.0.9 && echo yes || true");
    let before = state(&node);
    node.done(&["apply", OLD]);
    let settings =
        node.on("sysctl -n net.ipv4.conf.br-ex.arp_announce net.ipv4.conf.br-ex.rp_filter \
         net.ipv4.conf.br-ex.proxy_arp net.ipv6.conf.br-ex.accept_ra \
         net.ipv4.neigh.br-ex.gc_stale_time; ip link show dev br-ex | grep -o 'mtu [0-9]*'");
    assert_eq!(settings, "2\n2\n1\n0\n77\nmtu 9000\n");
    if !tagged.is_empty() {
        assert!(node.on("ip -d link show dev eth0.7").contains("vlan protocol 802.1Q id 7"));
        assert!(node.on("ip route show dev eth0.7").contains("10.7.9.0/24 via 10.7.0.9"));
    }
    node.done(&["apply", NEW]);
    same(&before, &state(&node), "settings");
}

#[test]
fn bridge_egress_ip_and_router_come_and_go_together() {
    let parts = [
        ("b", "", ""),
        ("e", EGRESS_IP, BRIDGE),
        ("be", EGRESS_IP, ""),
        ("", "", BRIDGE),
        ("br", ROUTER, ""),
        ("er", EGRESS_IP, BRIDGE),
    ];
    let text = |(name, more, without): (&str, &str, &str)| {
        let router = if name == "er" { ROUTER } else { "" };
        NETWORK.replacen(without, "", usize::from(!without.is_empty())) + more + router
    };
    let first = written(&text(parts[0]));
    let mut node = Node::between(live(first.path()), load(written(&text(parts[1])).path()));
    for (index, part) in parts.into_iter().enumerate() {
        let directory = written(&text(part));
        let (model, sources) = load(directory.path());
        node.live.lab.replace(model, &sources).unwrap();
        let files = node.live.lab.files(node.live.node("node-1")).display().to_string();
        node.on(&format!("cp -r {files} /run/part{index}"));
    }
    let [b, e, be, none, br, er] = [0, 1, 2, 3, 4, 5];
    let order = [b, e, be, none, br, e, br, er, b, er, be];
    let mut last = none;
    for part in order {
        let run = node.run(&["apply", &format!("/run/part{part}")]);
        assert_eq!(run.status, 0, "from {last} to {part}: {}{}", run.stdout, run.stderr);
        reaches(&node, &format!("from {last} to {part}"));
        last = part;
    }
}

/// Numbers that are the same in every run.
struct Allocations(u64);

impl Allocations {
    fn below(&mut self, most: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % most
    }

    fn one<'a>(&mut self, of: &[&'a str]) -> &'a str {
        of[usize::try_from(self.below(of.len() as u64)).unwrap()]
    }

    fn some(&mut self, of: &[&str], in_ten: u64) -> String {
        let words: Vec<&str> = of.iter().filter(|_| self.below(10) < in_ten).copied().collect();
        words.join(" ")
    }
}

/// An uplink with anything on it.
fn anything(numbers: &mut Allocations) -> Vec<String> {
    [addresses(numbers), routes(numbers), rules_and_neighbours(numbers)].concat()
}

fn addresses(numbers: &mut Allocations) -> Vec<String> {
    let mut lines = Vec::new();
    for number in 0..numbers.below(6) {
        let length = numbers.one(&["24", "32", "30", "25"]);
        let address = match numbers.below(4) {
            0 => format!("192.168.12.{}/{length}", 20 + number),
            1 => format!("10.77.{number}.1 peer 10.77.{number}.2/{length}"),
            2 => format!("10.78.0.{}/{length}", 10 + number),
            _ => format!("10.79.{number}.1/{length}"),
        };
        let label = format!("label eth0:{number}");
        let words = [
            "broadcast +",
            label.as_str(),
            "noprefixroute",
            "metric 70",
            "scope link",
            "proto 99",
            "valid_lft 9000 preferred_lft 8000",
        ];
        lines.push(format!("addr add {address} {} dev eth0", numbers.some(&words, 2)));
    }
    for number in 0..numbers.below(4) {
        let words = [
            "noprefixroute",
            "metric 70",
            "home",
            "nodad",
            "proto 99",
            "valid_lft 9000 preferred_lft 8000",
        ];
        let peer = numbers.one(&["", " peer 2001:db8:77::1"]);
        let length = numbers.one(&["64", "128", "48"]);
        let words = numbers.some(&words, 2);
        lines.push(format!("addr add 2001:db8:{number}::1{peer}/{length} {words} dev eth0"));
    }
    lines
}

fn routes(numbers: &mut Allocations) -> Vec<String> {
    let mut lines = Vec::new();
    for number in 0..numbers.below(8) {
        let kind = numbers.one(&["", "", "", "", "local ", "broadcast "]);
        let verb = numbers.one(&["add", "add", "append", "prepend"]);
        // What the node takes for itself must leave the way to its next hops.
        let all = ["198.18.1.0/24", "198.18.2.0/24", "192.0.2.1", "192.168.12.0/24", "default"];
        let network = numbers.one(if kind.is_empty() { &all } else { &all[..3] });
        let hop = match numbers.below(6) {
            _ if !kind.is_empty() => "dev eth0",
            0 => "dev eth0",
            1 => "via 203.0.113.77 dev eth0 onlink",
            2 => "nexthop via 192.168.12.1 dev eth0 weight 3 nexthop via 192.168.12.2 dev eth0",
            3 => "nexthop via 192.168.12.1 dev eth0 nexthop dev lo weight 9",
            4 => "via inet6 fe80::9 dev eth0",
            _ => "via 192.168.12.1 dev eth0",
        };
        let metric = format!("metric {}", 10 + number);
        let words = [
            "proto 17",
            "proto bgp",
            metric.as_str(),
            metric.as_str(),
            "table 100",
            "table 100000",
            "tos 0x10",
            "src 192.168.12.11",
            "mtu 1400",
            "advmss 1200",
            "rto_min 70ms",
            "initcwnd 9 initrwnd 8",
            "rtt 80 rttvar lock 40",
            "ssthresh 5 cwnd lock 9",
            "features ecn",
            "congctl reno",
            "reordering 9",
            "fastopen_no_cookie 1",
            "realms 3/4",
        ];
        let words = numbers.some(&words, 2);
        lines.push(format!("route {verb} {kind}{network} {words} {hop}"));
    }
    for number in 0..numbers.below(5) {
        let hop = numbers.one(&[
            "dev eth0",
            "via fe80::9 dev eth0",
            "nexthop via fe80::9 dev eth0 nexthop via fe80::8 dev eth0 weight 2",
        ]);
        let network = numbers.one(&["2001:db8:9::/48", "2001:db8:a::/48", "default"]);
        let metric = format!("metric {}", 10 + number);
        let words = [
            "table 100",
            metric.as_str(),
            metric.as_str(),
            "mtu lock 1400",
            "hoplimit 9",
            "pref low",
            "expires 9000",
            "from 2001:db8:8::/48",
        ];
        let words = numbers.some(&words, 3);
        lines.push(format!("-6 route add {network} proto 17 {words} {hop}"));
    }
    lines
}

fn rules_and_neighbours(numbers: &mut Allocations) -> Vec<String> {
    let mut lines = Vec::new();
    for number in 0..numbers.below(5) {
        let family = numbers.one(&["", "", "-6 "]);
        let by = numbers.one(&["iif eth0", "oif eth0", "iif eth0 oif eth0", "fwmark 9"]);
        let does = numbers.one(&[
            "lookup 100",
            "lookup 100 suppress_prefixlength 8",
            "prohibit",
            "blackhole",
            "goto 32766",
            "nop",
            "lookup 100000 protocol 17",
        ]);
        let words = [
            "fwmark 0x7/0xf",
            "ipproto udp",
            "sport 7",
            "dport 7-9",
            "uidrange 7-9",
            "tos 0x10",
            "tun_id 7",
        ];
        let words = numbers.some(&words, 2);
        let not = numbers.one(&["", "", "", "not "]);
        let priority = 90 + if numbers.below(4) == 0 { 0 } else { number };
        lines.push(format!("{family}rule add {not}priority {priority} {words} {by} {does}"));
    }
    for number in 0..numbers.below(3) {
        let address = numbers.one(&["192.168.12.7", "2001:db8::7"]);
        lines.push(match numbers.below(3) {
            0 => format!("neigh add proxy {address}{number} dev eth0"),
            1 => format!("neigh add {address}{number} lladdr 02:00:00:00:00:77 dev eth0 nud noarp"),
            _ => format!(
                "neigh add {address}{number} lladdr 02:00:00:00:00:77 dev eth0 nud permanent"
            ),
        });
    }
    lines
}

#[test]
fn any_uplink_moves_and_comes_back_the_same_or_is_refused() {
    let rounds: u64 = std::env::var("RINGFENCE_UPLINKS").map_or(12, |text| text.parse().unwrap());
    let first: u64 = std::env::var("RINGFENCE_UPLINK_SEED").map_or(1, |text| text.parse().unwrap());
    let node = node();
    let mut moved = 0;
    for seed in first..first + rounds {
        let mut numbers = Allocations(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15));
        let lines = anything(&mut numbers);
        hang(&node, &lines);
        let what = format!("seed {seed}\n{}", lines.join("\n"));
        match there_and_back(&node, &what) {
            Ok(()) => moved += 1,
            Err(why) => println!("{what}\n{why}"),
        }
        clear(&node);
    }
    assert!(moved * 2 > rounds, "{moved} of {rounds} moved");
}
