//! Generated clusters with policies of every feature, as YAML that follows from a number.

use std::fmt::Write as _;

use crate::world;
use ringfence::model::Model;

/// A small generator of numbers (SplitMix64): the same on every machine.
pub(super) struct Dice(u64);

impl Dice {
    /// The first state is mixed too: states that follow each other would give sequences that are all
    /// one, each a step further on.
    pub(super) fn new(seed: u64) -> Self {
        Self(mixed(seed ^ 0x5851_f42d_4c95_7f2d))
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mixed(self.0)
    }

    /// A number below `sides`.
    pub(super) fn roll(&mut self, sides: usize) -> usize {
        usize::try_from(self.next() % sides as u64).unwrap()
    }

    /// True once in `times`.
    pub(super) fn once_in(&mut self, times: usize) -> bool {
        self.roll(times) == 0
    }

    pub(super) fn pick<'a, T>(&mut self, all: &'a [T]) -> &'a T {
        &all[self.roll(all.len())]
    }
}

fn mixed(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

const POD_SELECTORS: [&str; 9] = [
    "{}",
    "{matchLabels: {app: a}}",
    "{matchLabels: {app: b}}",
    "{matchLabels: {app: a, tier: x}}",
    "{matchExpressions: [{key: app, operator: In, values: [a, c]}]}",
    "{matchExpressions: [{key: app, operator: NotIn, values: [a]}]}",
    "{matchExpressions: [{key: tier, operator: Exists}]}",
    "{matchExpressions: [{key: tier, operator: DoesNotExist}]}",
    "{matchLabels: {role: router}}",
];

const PROJECT_SELECTORS: [&str; 6] = [
    "{}",
    "{matchLabels: {team: red}}",
    "{matchLabels: {kubernetes.io/metadata.name: project-0}}",
    "{matchExpressions: [{key: kubernetes.io/metadata.name, operator: NotIn, values: [project-1]}]}",
    "{matchExpressions: [{key: team, operator: DoesNotExist}]}",
    "{matchLabels: {kubernetes.io/metadata.name: default}}",
];

const BLOCKS: [&str; 11] = [
    "{cidr: 0.0.0.0/0}",
    "{cidr: 0.0.0.0/0, except: [10.0.0.0/8]}",
    "{cidr: 0.0.0.0/0, except: [203.0.113.0/25, 10.128.0.0/24]}",
    "{cidr: 10.0.0.0/8}",
    "{cidr: 10.128.0.0/24, except: [10.128.0.0/26]}",
    "{cidr: 10.128.0.0/16, except: [10.128.0.1/32]}",
    "{cidr: 203.0.113.0/24, except: [203.0.113.7/32]}",
    "{cidr: 203.0.113.7/32}",
    "{cidr: 192.168.12.12/32}",
    "{cidr: 10.128.0.1/32}",
    "{cidr: 10.128.0.254/31}",
];

const PORTS: [&str; 12] = [
    "{port: 80}",
    "{port: 8080}",
    "{port: 8080, endPort: 8090}",
    "{port: 79, endPort: 8080}",
    "{protocol: TCP}",
    "{protocol: UDP}",
    "{protocol: UDP, port: 53}",
    "{protocol: SCTP, port: 8080}",
    "{port: http}",
    "{protocol: UDP, port: dns}",
    "{port: other}",
    "{port: 1, endPort: 65535}",
];

/// The YAML of the cluster with a number.
pub(super) fn yaml(seed: u64) -> String {
    let dice = &mut Dice::new(seed);
    let nodes = 1 + dice.roll(3);
    let prefix = *dice.pick(&[23, 24, 25]);
    let mut text = format!(
        "version: 1\ncluster: {{mode: networkpolicy, podNetworks: [{{cidr: 10.128.0.0/14, hostPrefix: \
         {prefix}}}]}}\nnodes:\n"
    );
    // One whose part is of another size has its gateway in another place.
    let odd = dice.once_in(4);
    for node in 0..nodes {
        let datapath = dice.pick(&["system", "netdev"]);
        let subnet = if odd && node == 0 { ", podSubnet: 10.131.0.0/26" } else { "" };
        let _ = writeln!(
            text,
            "  - {{name: node-{node}, address: 192.168.12.{}, datapath: {datapath}{subnet}, uplink: \
             {{interface: eth0, subnet: 192.168.12.0/24, gateway: 192.168.12.1}}, egressCIDRs: \
             [192.168.12.192/26]}}",
            node + 11
        );
    }
    text.push_str("projects:\n");
    let mut names: Vec<String> = (0..=dice.roll(4)).map(|n| format!("project-{n}")).collect();
    if dice.once_in(3) {
        names.push("default".to_owned());
    }
    for name in &names {
        project(&mut text, dice, name, nodes);
    }
    routers(&mut text, dice, &names, nodes);
    egress(&mut text, dice, &names);
    text.push_str("networkPolicies:\n");
    for number in 0..=dice.roll(6) {
        let name = dice.pick(&names);
        let _ = writeln!(text, "  - {{project: {name}, name: policy-{number}{}}}", policy(dice));
    }
    text
}

fn project(text: &mut String, dice: &mut Dice, name: &str, nodes: usize) {
    let labels = dice.pick(&["", ", labels: {team: red}", ", labels: {team: blue, env: test}"]);
    let multicast = dice.once_in(3);
    let pods: Vec<String> = (0..dice.roll(5))
        .map(|pod| {
            let app = dice.pick(&["a", "b", "c"]);
            let tier = dice.pick(&["", ", tier: x", ", tier: y"]);
            let ports = dice.pick(&[
                "",
                ", ports: [{name: http, port: 8080}]",
                ", ports: [{name: http, port: 8081}, {name: dns, port: 53, protocol: UDP}]",
                ", ports: [{name: http, port: 8080, protocol: UDP}, {name: http, port: 80}]",
            ]);
            let node = dice.roll(nodes);
            format!("{{name: pod-{pod}, node: node-{node}, labels: {{app: {app}{tier}}}{ports}}}")
        })
        .collect();
    let kind = dice.pick(&["ClusterIP", "NodePort"]);
    let service = format!(
        ", services: [{{name: a, type: {kind}, selector: {{app: a}}, ports: [{{name: w, port: 80, \
         targetPort: 8080}}, {{name: d, protocol: UDP, port: 53}}]}}, {{name: hosts, endpoints: \
         [203.0.113.7], ports: [{{port: 80, targetPort: 8080}}]}}]"
    );
    let service = if dice.once_in(2) { service.as_str() } else { "" };
    let _ = writeln!(
        text,
        "  - {{name: {name}, multicast: {multicast}{labels}, pods: [{}]{service}}}",
        pods.join(", ")
    );
}

fn routers(text: &mut String, dice: &mut Dice, names: &[String], nodes: usize) {
    if dice.once_in(3) {
        let (name, node) = (dice.pick(names), dice.roll(nodes));
        let _ = writeln!(
            text,
            "egressRouters:\n  - {{name: router-0, project: {name}, node: node-{node}, labels: {{role: \
             router}}, source: 192.168.12.100, gateway: 192.168.12.1, destination: 203.0.113.25}}"
        );
    }
}

fn egress(text: &mut String, dice: &mut Dice, names: &[String]) {
    if dice.once_in(3) {
        let _ = writeln!(
            text,
            "egressPolicies:\n  - {{project: {}, rules: [{{deny: {{cidr: 203.0.113.0/25, ports: [{{port: \
             80}}]}}}}, {{allow: {{cidr: 0.0.0.0/0}}}}]}}",
            names[0]
        );
    }
    if dice.once_in(4) {
        let _ = writeln!(
            text,
            "egressIPs:\n  - {{project: {}, addresses: [192.168.12.200]}}",
            names[0]
        );
    }
}

fn policy(dice: &mut Dice) -> String {
    let mut text = String::new();
    if !dice.once_in(6) {
        let _ = write!(text, ", podSelector: {}", dice.pick(&POD_SELECTORS));
    }
    let types = dice.pick(&["", "", "[Ingress]", "[Egress]", "[Ingress, Egress]"]);
    if !types.is_empty() {
        let _ = write!(text, ", policyTypes: {types}");
    }
    for (key, peers) in [("ingress", "from"), ("egress", "to")] {
        if dice.once_in(3) {
            continue;
        }
        let rules: Vec<String> = (0..dice.roll(4)).map(|_| rule(dice, peers)).collect();
        let _ = write!(text, ", {key}: [{}]", rules.join(", "));
    }
    text
}

fn rule(dice: &mut Dice, key: &str) -> String {
    let mut parts = Vec::new();
    if !dice.once_in(5) {
        let peers: Vec<String> = (0..dice.roll(4)).map(|_| peer(dice)).collect();
        parts.push(format!("{key}: [{}]", peers.join(", ")));
    }
    if !dice.once_in(3) {
        let ports: Vec<&str> = (0..dice.roll(4)).map(|_| *dice.pick(&PORTS)).collect();
        parts.push(format!("ports: [{}]", ports.join(", ")));
    }
    format!("{{{}}}", parts.join(", "))
}

fn peer(dice: &mut Dice) -> String {
    let pods = *dice.pick(&POD_SELECTORS);
    let projects = *dice.pick(&PROJECT_SELECTORS);
    match dice.roll(9) {
        // Whoever is a pod, which nodes and the outside are not.
        8 => "{namespaceSelector: {}}".to_owned(),
        0 | 4 => format!("{{podSelector: {pods}}}"),
        1 | 5 => format!("{{namespaceSelector: {projects}}}"),
        2 | 6 => format!("{{podSelector: {pods}, namespaceSelector: {projects}}}"),
        _ => format!("{{ipBlock: {}}}", dice.pick(&BLOCKS)),
    }
}

/// The same cluster with the policies of another number.
pub(super) fn with_other_policies(yaml: &str, seed: u64) -> String {
    let (before, _) = yaml.split_once("networkPolicies:\n").unwrap();
    let names: Vec<String> = before
        .lines()
        .filter_map(|line| line.strip_prefix("  - {name: ")?.split(',').next())
        .filter(|name| name.starts_with("project-") || *name == "default")
        .map(str::to_owned)
        .collect();
    let dice = &mut Dice::new(seed);
    let mut text = format!("{before}networkPolicies:\n");
    for number in 0..=dice.roll(6) {
        let name = dice.pick(&names);
        let _ = writeln!(text, "  - {{project: {name}, name: policy-{number}{}}}", policy(dice));
    }
    text
}

/// The cluster with a number.
pub(crate) fn cluster(seed: u64) -> Model {
    world::model(vec![yaml(seed)]).0
}
