//! Every clean change of the desired state succeeds in one run, the second run changes nothing, and
//! what is on the node then is what a fresh node would have: nothing is left behind.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use crate::lab::{Live, load};
use crate::support::ringfence;

const BASE: &str = include_str!("clean_changes/base.yaml");
const SCRIPT: &str = include_str!("clean_changes/node.sh");

/// A change of the desired state.
pub(crate) struct Change {
    /// What is replaced in the text of the desired state.
    pub(crate) text: &'static [(&'static str, &'static str)],
    /// What is exchanged in the lock file.
    pub(crate) swaps: &'static [(&'static str, &'static str)],
    /// Further arguments of `apply` after the change.
    pub(crate) arguments: &'static [&'static str],
}

/// Where a change begins: with other arguments of `apply`, or with part of the text replaced.
const PLAIN: Change = Change { text: &[], swaps: &[], arguments: &[] };

fn replaced(text: &str, pairs: &[(&str, &str)]) -> String {
    let mut text = text.to_owned();
    for (old, new) in pairs {
        assert!(text.contains(old), "{old}");
        text = text.replace(old, new);
    }
    text
}

fn lock(directory: &Path) {
    let run = ringfence(directory, &["lock"]);
    assert_eq!(run.status, 0, "{}", run.stderr);
}

/// Exchanges words of the lock file.
fn exchange(directory: &Path, swaps: &[(&str, &str)]) {
    let path = directory.join("ringfence.lock");
    let mut text = fs::read_to_string(&path).unwrap();
    for (one, other) in swaps {
        assert!(text.contains(one), "{one} in {text}");
        text = text.replace(one, "\0").replace(other, one).replace('\0', other);
    }
    fs::write(path, text).unwrap();
}

/// The desired states before and after a change, each with its lock file.
struct Worlds {
    before: tempfile::TempDir,
    after: tempfile::TempDir,
}

impl Worlds {
    fn new(first: &str, change: &Change) -> Self {
        let directory = || tempfile::tempdir().unwrap();
        let (before, after) = (directory(), directory());
        fs::write(before.path().join("network.yaml"), first).unwrap();
        lock(before.path());
        fs::write(after.path().join("network.yaml"), replaced(first, change.text)).unwrap();
        fs::copy(before.path().join("ringfence.lock"), after.path().join("ringfence.lock"))
            .unwrap();
        lock(after.path());
        exchange(after.path(), change.swaps);
        Self { before, after }
    }

    /// Nodes on which both can be, with nothing applied.
    fn live(&self) -> Live {
        // A node that is to have a gateway bridge is made with a bare uplink.
        let text = fs::read_to_string(self.after.path().join("network.yaml")).unwrap();
        let first = if text.contains(", bridge: ") { &self.after } else { &self.before };
        let (model, sources) = load(first.path());
        let mut live = Live::up(model, &sources);
        to(&mut live, self.after.path());
        to(&mut live, self.before.path());
        live
    }
}

fn to(live: &mut Live, directory: &Path) {
    let (model, sources) = load(directory);
    live.lab.replace(model, &sources).unwrap();
}

/// What is on a node that may be ringfence's, as sorted lines.
pub(crate) fn all_of(live: &Live) -> BTreeSet<String> {
    live.on("node-1", SCRIPT).lines().filter_map(line).collect()
}

/// A line without what differs from run to run: indexes, random Ethernet addresses, times.
fn line(line: &str) -> Option<String> {
    let mut words: Vec<&str> = line.split_whitespace().collect();
    if words.iter().any(|word| word.starts_with("fe80:") || *word == "tentative") {
        return None;
    }
    let is_link = words.get(1) == Some(&"link");
    let random = is_link
        && words.get(2).is_some_and(|name| {
            ["rf-", "tap", "br", "ovs-netdev", "vxlan_sys"].iter().any(|p| name.starts_with(p))
        });
    let mut drop_after: Vec<&str> = vec!["link-netnsid", "refcnt"];
    if random {
        drop_after.extend(["link/ether"]);
    }
    let mut at = 0;
    while at < words.len() {
        if drop_after.contains(&words[at]) {
            words.drain(at..(at + 2).min(words.len()));
        } else {
            at += 1;
        }
    }
    Some(words.join(" "))
}

/// Applies to node-1 with one generation kept, so that not even of those another is left.
fn apply(live: &Live, arguments: &[&str]) -> Vec<String> {
    let arguments: Vec<&str> = ["--keep", "1"].iter().chain(arguments).copied().collect();
    let run = live.apply_on("node-1", &arguments);
    assert_eq!(run.status, 0, "{}{}", run.stdout, run.stderr);
    let again = live.apply_on("node-1", &arguments);
    assert_eq!(
        (again.status, again.stdout.as_str(), again.stderr.as_str()),
        (0, "", "node-1: nothing to change\n"),
        "after\n{}",
        run.stdout
    );
    run.stdout.lines().map(str::to_owned).collect()
}

fn assert_same(what: &str, changed: &BTreeSet<String>, fresh: &BTreeSet<String>) {
    let left = changed.difference(fresh).map(|line| format!("left behind: {line}\n"));
    let missing = fresh.difference(changed).map(|line| format!("missing: {line}\n"));
    let differs: String = left.chain(missing).collect();
    assert!(differs.is_empty(), "{what}:\n{differs}");
}

/// Makes a change on a node, and takes it back.
fn check(first: &[(&str, &str)], change: &Change, back: &[&str]) {
    let worlds = Worlds::new(&replaced(BASE, first), change);
    let (before, after) = (worlds.before.path(), worlds.after.path());
    let fresh = |directory: &Path, arguments: &[&str]| {
        let mut live = worlds.live();
        to(&mut live, directory);
        // Nobody else is on the segment, and to ask takes two seconds.
        apply(&live, &[&["--take-over"], arguments].concat());
        all_of(&live)
    };
    let mut live = worlds.live();
    apply(&live, &[&["--take-over"], back].concat());
    let first = all_of(&live);
    to(&mut live, after);
    let said = apply(&live, change.arguments);
    assert!(!said.is_empty(), "nothing was changed");
    assert_same("there", &all_of(&live), &fresh(after, change.arguments));
    to(&mut live, before);
    apply(&live, back);
    assert_same("and back", &all_of(&live), &first);
}

/// The kernel setting of an interface that is made in the same change.
#[test]
fn a_filter_of_sources_goes_from_a_gateway_bridge() {
    const PLAIN: &str = "gateway: 192.168.12.1} # 1";
    const BRIDGE: &str = "gateway: 192.168.12.1, bridge: br-ex}";
    const FILTER: &str = "gateway: 192.168.12.1, bridge: br-ex, rpFilter: loose}";
    check(&[(PLAIN, FILTER)], &text(&[(FILTER, BRIDGE)]), &[]);
}

/// The bridge has the settings of the uplink, but not what ringfence has set there.
#[test]
fn a_filter_of_sources_does_not_go_from_the_uplink_to_its_bridge() {
    const FILTER: &str = "gateway: 192.168.12.1, rpFilter: loose}";
    const BRIDGE: &str = "gateway: 192.168.12.1, bridge: br-ex}";
    check(&[("gateway: 192.168.12.1} # 1", FILTER)], &text(&[(FILTER, BRIDGE)]), &[]);
}

macro_rules! changes {
    ($($name:ident: $change:expr;)*) => {
        $(
            #[test]
            fn $name() {
                check(&[], &$change, &[]);
            }
        )*
    };
}

const fn text(text: &'static [(&'static str, &'static str)]) -> Change {
    Change { text, ..PLAIN }
}

const fn swap(swaps: &'static [(&'static str, &'static str)]) -> Change {
    Change { swaps, ..PLAIN }
}

/// Parts of the base.
const SERVICES: &str =
    "    services: [{name: web, selector: {app: web}, ports: [{port: 80, targetPort: 8080}]}]\n";
const WEB_0: &str = "      - {name: web-0, node: node-1, netns: one, labels: {app: web}}\n";
const WEB_1: &str = "      - {name: web-1, node: node-1, netns: two, labels: {app: web}}\n";
const SUPPLIER: &str = "  - name: supplier\n    project: shop\n    source: 192.168.12.99\n    \
                        gateway: 192.168.12.1\n    destination: 203.0.113.25\n    node: node-1\n";
const EGRESS_IPS: &str = "egressIPs:\n  - {project: bank, addresses: [192.168.12.100]}\n";

changes! {
    another_service_network: text(&[("172.30.0.0/16", "172.31.0.0/16")]);
    no_services: text(&[(SERVICES, "")]);
    a_second_pod_network: text(&[("hostPrefix: 23}]", "hostPrefix: 23}, {cidr: 10.200.0.0/16, hostPrefix: 24}]")]);
    another_pod_network: text(&[("10.128.0.0/14", "10.200.0.0/16"), ("podSubnet: 10.128.4.0/23", "podSubnet: 10.200.4.0/23")]);
    another_host_subnet: text(&[("podSubnet: 10.128.4.0/23", "podSubnet: 10.128.8.0/23")]);
    a_pod_is_renamed_and_keeps_its_namespace: text(&[("name: web-0,", "name: front-0,")]);
    a_pod_goes_to_another_project_and_keeps_its_namespace: text(&[
        (WEB_0, ""),
        ("{name: core-0, node: node-1}", "{name: core-0, node: node-1}\n      - {name: web-0, node: node-1, netns: one}"),
    ]);
    a_project_is_renamed: text(&[("name: bank", "name: vault"), ("project: bank", "project: vault")]);
    another_namespace: text(&[("netns: one", "netns: three")]);
    two_pods_swap_their_namespaces: text(&[("netns: one", "netns: \0"), ("netns: two", "netns: one"), ("netns: \0", "netns: two")]);
    a_namespace_goes_from_pod_to_pod: text(&[("netns: one", "netns: three"), ("netns: two", "netns: one")]);
    two_pods_swap_their_interfaces: text(&[("tap7", "\0"), ("tap8", "tap7"), ("\0", "tap8")]);
    another_interface: text(&[("tap7", "tap9")]);
    an_interface_instead_of_a_namespace: text(&[("netns: one", "interface: tap9")]);
    two_pods_swap_their_ports: swap(&[(" 264\n", " 467\n")]);
    two_pods_swap_their_addresses: swap(&[("10.128.4.254 0a:58:0a:80:04:fe", "10.128.5.201 0a:58:0a:80:05:c9")]);
    a_pod_takes_the_port_of_one_that_goes: Change { text: &[(WEB_1, "")], swaps: &[(" 264\n", " 467\n")], arguments: &[] };
    two_projects_swap_their_vnids: swap(&[("14643950", "11518613")]);
    pods_move_to_the_other_node: text(&[("web-0, node: node-1", "web-0, node: node-2"), ("far-0, node: node-2", "far-0, node: node-1")]);
    no_pods_at_all: text(&[
        (WEB_0, ""), (WEB_1, ""),
        ("      - {name: vm-0, node: node-1, interface: tap7}\n", ""),
        ("      - {name: vm-1, node: node-1, interface: tap8}\n", ""),
        (SUPPLIER, ""),
    ]);
    a_router_goes_to_another_project: text(&[(SUPPLIER, "  - name: supplier\n    project: bank\n    source: 192.168.12.99\n    gateway: 192.168.12.1\n    destination: 203.0.113.25\n    node: node-1\n")]);
    a_router_is_renamed: text(&[("name: supplier", "name: partner")]);
    a_router_moves: text(&[(SUPPLIER, "  - name: supplier\n    project: shop\n    source: 192.168.12.99\n    gateway: 192.168.12.1\n    destination: 203.0.113.25\n    node: node-2\n")]);
    another_source: text(&[("source: 192.168.12.99", "source: 192.168.12.98")]);
    another_gateway_of_a_router: text(&[("gateway: 192.168.12.1\n    destination", "gateway: 192.168.12.7\n    destination")]);
    two_routers_swap_their_sources: text(&[("source: 192.168.12.99", "source: \0"), ("source: 192.168.12.97", "source: 192.168.12.99"), ("source: \0", "source: 192.168.12.97")]);
    a_router_takes_the_source_of_one_that_goes: text(&[(SUPPLIER, ""), ("source: 192.168.12.97", "source: 192.168.12.99")]);
    a_router_becomes_an_http_proxy: text(&[("destination: 203.0.113.25\n    node: node-1", "mode: http-proxy\n    rules: [{allow: www.example.com}]\n    node: node-1")]);
    a_router_becomes_a_dns_proxy: text(&[("destination: 203.0.113.25\n    node: node-1", "mode: dns-proxy\n    destinations: [{port: 80, to: 203.0.113.25}]\n    node: node-1")]);
    an_egress_ip_moves: text(&[("    reservedAddresses: [192.168.12.100]\n", ""), ("egressCIDRs: [192.168.12.128/27]", "egressCIDRs: [192.168.12.128/27]\n    reservedAddresses: [192.168.12.100]")]);
    no_egress_ips: text(&[(EGRESS_IPS, "")]);
    another_egress_ip: text(&[("192.168.12.100", "192.168.12.101")]);
    a_source_becomes_an_egress_ip_and_the_other_way_round: text(&[("192.168.12.100", "\0"), ("192.168.12.99", "192.168.12.100"), ("\0", "192.168.12.99")]);
    a_filter_of_sources: text(&[("uplink: {interface: eth0, subnet: 192.168.12.0/24, gateway: 192.168.12.1} # 1", "uplink: {interface: eth0, subnet: 192.168.12.0/24, gateway: 192.168.12.1, rpFilter: loose}")]);
    another_vxlan_port: text(&[("vxlanPort: 4789", "vxlanPort: 8472")]);
    a_lower_mtu: text(&[("mtu: 1400", "mtu: 1350")]);
    an_mtu_below_that_of_ipv6: text(&[("mtu: 1400", "mtu: 1200")]);
    other_bandwidths: text(&[("bandwidth: {egress: 5M, ingress: 8M}", "bandwidth: {ingress: 9M}"), ("name: core-0, node: node-1", "name: core-0, node: node-1, bandwidth: {egress: 5M, ingress: 8M}")]);
    multicast: text(&[("name: shop\n", "name: shop\n    multicast: true\n")]);
    another_bridge: Change { arguments: &["--bridge", "br7"], ..PLAIN };
    another_mode: text(&[
        ("mtu: 1400", "mtu: 1400\n  mode: subnet"),
        ("joins: []\n", ""), (EGRESS_IPS, ""),
        ("egressPolicies:\n  - {project: spare, rules: [{deny: {cidr: 0.0.0.0/0}}]}\n", ""),
    ]);
    a_gateway_bridge: text(&[("gateway: 192.168.12.1} # 1", "gateway: 192.168.12.1, bridge: br-ex}")]);
}
