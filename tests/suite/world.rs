//! Generated networks: small ones of every shape for the properties.

use std::fmt::Write as _;

use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;

use ringfence::allocate::allocate;
use ringfence::diagnostic::{Report, Source, Sources};
use ringfence::input;
use ringfence::lock::{self, Lock};
use ringfence::model::Model;
use ringfence::resolve::resolve;

/// A service in front of a project's egress router.
const WAY_OUT: &str = ", {name: way-out, selector: {role: router}, ports: [{name: a, port: 80, \
                       targetPort: 8080}, {name: b, protocol: UDP, port: 80}]}";

/// A network to be written as YAML.
#[derive(Clone, Debug)]
pub(crate) struct World {
    pub(crate) subnet_mode: bool,
    pub(crate) nodes: usize,
    /// Which nodes have a gateway bridge, one bit each; and from bit 4 on, a datapath in userspace.
    pub(crate) bridges: u8,
    pub(crate) projects: Vec<Project>,
}

#[derive(Clone, Debug)]
pub(crate) struct Project {
    pub(crate) network: Network,
    /// The node of each pod, taken modulo the number of nodes. From 3 on, the pod isn't ready.
    pub(crate) pods: Vec<usize>,
    /// Only taken where the project may have one.
    pub(crate) policy: Option<Vec<Rule>>,
    pub(crate) router: bool,
    pub(crate) multicast: bool,
    /// How many egress IPs it has; only taken where it may have any.
    pub(crate) egress_ips: usize,
    /// Whether it has services, and whether its pods are behind them.
    pub(crate) services: Option<bool>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Network {
    Own,
    Global,
    /// Joined to the project with this number, if that is before it and in its own network.
    Joined(usize),
}

#[derive(Clone, Debug)]
pub(crate) struct Rule {
    pub(crate) allow: bool,
    pub(crate) to: &'static str,
    pub(crate) ports: &'static str,
}

/// Networks that contain, touch and miss each other, and names that have some of their addresses
/// and share one.
const TARGETS: [&str; 10] = [
    "0.0.0.0/0",
    "198.51.100.0/24",
    "198.51.100.0/25",
    "198.51.100.7/32",
    "203.0.113.0/24",
    "0.0.0.0/1",
    "128.0.0.0/1",
    "192.0.2.128/25",
    "pool.example.com",
    "cdn.example.com",
];

/// The addresses of the names, as a lock file has them.
const NAMES: &str = "version: 1
resolvedNames:
  cdn.example.com 198.51.100.7: 2026-11-21T12:00:00Z 0
  pool.example.com 192.0.2.128: 2026-11-21T09:00:00Z 300
  pool.example.com 198.51.100.7: 2026-11-21T12:00:00Z 300
  pool.example.com 223.255.255.255: 2026-11-21T12:00:00Z 300
";

/// Ports likewise.
const PORTS: [&str; 7] = [
    "",
    "{port: 80}",
    "{port: 80, endPort: 90}",
    "{protocol: tcp}",
    "{protocol: udp, port: 53}",
    "{protocol: udp}",
    "{port: 1000, endPort: 2000}, {protocol: udp, port: 500}, {protocol: sctp, port: 80}",
];

pub(crate) fn worlds() -> impl Strategy<Value = World> {
    let rule = (any::<bool>(), 0..TARGETS.len(), 0..PORTS.len())
        .prop_map(|(allow, to, ports)| Rule { allow, to: TARGETS[to], ports: PORTS[ports] });
    let network = prop_oneof![
        4 => Just(Network::Own),
        1 => Just(Network::Global),
        2 => (0..6_usize).prop_map(Network::Joined),
    ];
    let policy = option::of(vec(rule, 1..7));
    let multicast = prop::bool::weighted(0.7);
    let services = option::of(any::<bool>());
    let project =
        (network, vec(0..4_usize, 0..4), policy, any::<bool>(), multicast, 0..3_usize, services)
            .prop_map(|(network, pods, policy, router, multicast, egress_ips, services)| Project {
                network,
                pods,
                policy,
                router,
                multicast,
                egress_ips,
                services,
            });
    (prop::bool::weighted(0.1), 1..4_usize, any::<u8>(), vec(project, 1..6)).prop_map(
        |(subnet_mode, nodes, bridges, projects)| World { subnet_mode, nodes, bridges, projects },
    )
}

impl World {
    /// Whether multicast works between two projects: they share a network of which every project
    /// enables it.
    pub(crate) fn multicasts(&self, from: usize, to: usize) -> bool {
        let root = |project: usize| match self.network(project) {
            _ if self.subnet_mode => None,
            Network::Own => Some(project),
            Network::Joined(to) => Some(to),
            Network::Global => None,
        };
        let mut projects = 0..self.projects.len();
        root(from) == root(to)
            && projects.all(|p| root(p) != root(from) || self.projects[p].multicast)
    }

    fn network(&self, project: usize) -> Network {
        match self.projects[project].network {
            Network::Joined(to) if to >= project || self.projects[to].network != Network::Own => {
                Network::Own
            }
            network => network,
        }
    }

    /// The sections as lists of entries, so that they can be shuffled and split.
    pub(crate) fn sections(&self) -> Vec<(&'static str, Vec<String>)> {
        let nodes = (0..self.nodes).map(|number| self.node(number));
        let mut projects = Vec::new();
        let (mut joins, mut policies, mut routers) = (Vec::new(), Vec::new(), Vec::new());
        let (mut global, mut egress_ips) = (Vec::new(), Vec::new());
        let joined_to: Vec<usize> = (0..self.projects.len())
            .filter_map(|p| match self.network(p) {
                Network::Joined(to) => Some(to),
                _ => None,
            })
            .collect();
        for (number, project) in self.projects.iter().enumerate() {
            let pods: Vec<String> = project
                .pods
                .iter()
                .enumerate()
                .map(|(pod, node)| {
                    format!(
                        "{{name: pod-{pod}, node: node-{}, labels: {{app: web}}, ready: {}}}",
                        node % self.nodes,
                        *node < 3
                    )
                })
                .collect();
            let network = self.network(number);
            let alone = network == Network::Own && !joined_to.contains(&number);
            let policy = project.policy.as_ref().filter(|_| alone && !self.subnet_mode);
            // Its own policy might deny them, which is an error.
            let outside = if policy.is_none() {
                ", {name: outside, endpoints: [198.51.100.7, 203.0.113.1], ports: [{port: 81, \
                 targetPort: 80}]}"
            } else {
                ""
            };
            let way_out = if project.router { WAY_OUT } else { "" };
            let services = project.services.map_or_else(String::new, |behind| {
                let app = if behind { "web" } else { "none" };
                let kind = if number % 2 == 0 { "NodePort" } else { "ClusterIP" };
                format!(
                    ", services: [{{name: all, type: {kind}, selector: {{app: {app}}}, ports: [{{name: a, port: \
                     80, targetPort: 8080}}, {{name: b, protocol: UDP, port: 80}}, {{name: c, \
                     protocol: SCTP, port: 9}}]}}, {{name: none, selector: {{app: web}}, \
                     clusterIP: None}}{outside}{way_out}]"
                )
            });
            let pods = pods.join(", ");
            projects.push(format!(
                "{{name: project-{number}, multicast: {}, pods: [{pods}]{services}}}",
                project.multicast
            ));
            match network {
                Network::Joined(to) if !self.subnet_mode => {
                    joins.push(format!("{{to: project-{to}, projects: [project-{number}]}}"));
                }
                Network::Global if !self.subnet_mode => global.push(format!("project-{number}")),
                _ => {}
            }
            if let Some(rules) = policy {
                let mut text = format!("{{project: project-{number}, rules: [");
                for rule in rules {
                    let verdict = if rule.allow { "allow" } else { "deny" };
                    let key = if rule.to.contains('/') { "cidr" } else { "dnsName" };
                    let _ = write!(text, "{{{verdict}: {{{key}: {}", rule.to);
                    if !rule.ports.is_empty() {
                        let _ = write!(text, ", ports: [{}]", rule.ports);
                    }
                    text.push_str("}}, ");
                }
                policies.push(text + "]}");
            }
            if project.egress_ips > 0 && alone && !self.subnet_mode {
                let addresses = (0..project.egress_ips)
                    .map(|n| format!("192.168.12.{}", 200 + 2 * number + n))
                    .collect::<Vec<_>>();
                let addresses = addresses.join(", ");
                egress_ips.push(format!("{{project: project-{number}, addresses: [{addresses}]}}"));
            }
            if project.router {
                routers.push(format!(
                    "{{name: router-{number}, project: project-{number}, node: node-{}, \
                     labels: {{role: router}}, \
                     source: 192.168.12.{}, gateway: 192.168.12.1, destination: 203.0.113.25}}",
                    number % self.nodes,
                    number + 100
                ));
            }
        }
        let mut sections = vec![
            ("nodes", nodes.collect()),
            ("projects", projects),
            ("joins", joins),
            ("egressPolicies", policies),
            ("egressRouters", routers),
            ("egressIPs", egress_ips),
        ];
        let optional = [("nodeServices", self.reached_by_nodes()), ("global", global)];
        sections.extend(optional.into_iter().filter(|(_, entries)| !entries.is_empty()));
        sections
    }

    /// Whose services the nodes reach, where not all: in half of the worlds.
    fn reached_by_nodes(&self) -> Vec<String> {
        if self.subnet_mode || self.nodes.is_multiple_of(2) {
            return Vec::new();
        }
        (0..self.projects.len())
            .filter(|project| self.bridges >> (project % 8) & 1 == 1)
            .map(|project| format!("project-{project}"))
            .collect()
    }

    fn node(&self, number: usize) -> String {
        let bridge = if self.bridges >> number & 1 == 1 { ", bridge: br-ex" } else { "" };
        let datapath = if self.bridges >> (number + 4) & 1 == 1 { "netdev" } else { "system" };
        format!(
            "{{name: node-{number}, address: 192.168.12.{0}, datapath: {datapath}, uplink: {{interface: eth0, \
             subnet: 192.168.12.0/24, gateway: 192.168.12.1{bridge}}}, \
             egressCIDRs: [192.168.12.192/26]}}",
            number + 11
        )
    }

    fn header(&self) -> &'static str {
        if self.subnet_mode { "version: 1\ncluster: {mode: subnet}\n" } else { "version: 1\n" }
    }

    /// The whole as one text.
    pub(crate) fn yaml(&self) -> String {
        let mut text = self.header().to_owned();
        for (section, entries) in self.sections() {
            write_section(&mut text, section, &entries);
        }
        text
    }

    /// The whole in several texts and another order, as `order` has it.
    pub(crate) fn shuffled(&self, mut order: impl FnMut() -> usize) -> Vec<String> {
        let mut texts = vec![self.header().to_owned(), String::new(), String::new()];
        for (section, entries) in self.sections() {
            let mut parts: Vec<Vec<String>> = vec![Vec::new(); texts.len()];
            for entry in entries {
                let part = order() % parts.len();
                let at = order() % (parts[part].len() + 1);
                parts[part].insert(at, entry);
            }
            for (text, part) in texts.iter_mut().zip(parts) {
                write_section(text, section, &part);
            }
        }
        texts
    }
}

fn write_section(text: &mut String, section: &str, entries: &[String]) {
    if entries.is_empty() {
        return;
    }
    let _ = writeln!(text, "{section}:");
    for entry in entries {
        let _ = writeln!(text, "  - {entry}");
    }
}

/// The model of some texts, which have to be without errors.
pub(crate) fn model(texts: Vec<String>) -> (Model, Sources) {
    let (locked, sources) = locked(texts, &fresh(), false);
    (locked.unwrap().0, sources)
}

/// A lock file that has nothing but the addresses of names.
pub(crate) fn fresh() -> Lock {
    lock::parse(NAMES).unwrap()
}

/// The model of some texts and the lock after it, with the lock of an earlier state.
pub(crate) fn locked(
    texts: Vec<String>,
    before: &Lock,
    prune: bool,
) -> (Result<(Model, Lock), Report>, Sources) {
    let sources = texts.into_iter().enumerate().map(|(number, text)| {
        Source::new(format!("{number}.yaml"), format!("{number}.yaml"), text)
    });
    let sources = Sources::from_texts(sources.collect());
    let (documents, report) = input::parse(&sources);
    assert!(report.is_empty(), "{report:?}");
    let (intent, report) = resolve(&documents, true);
    let intent = intent.unwrap_or_else(|| panic!("{report:#?}"));
    let allocated = allocate(&intent, before, prune, None, &sources);
    (allocated.map(|(numbers, lock)| (Model::new(intent, numbers), lock)), sources)
}
