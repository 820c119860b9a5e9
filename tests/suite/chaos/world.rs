//! Random desired states of every feature, and random edits of them.
//!
//! What would be refused is left out as the text is written; the few worlds that are refused all the
//! same are thrown away.

mod text;

use super::chance::Chance;
use text::{APPS, KINDS, PODS, PROJECTS, SERVICES};

/// A desired state to be written.
#[derive(Clone, Debug)]
#[expect(clippy::struct_excessive_bools, reason = "each is a feature of a network")]
pub(super) struct World {
    mode: Mode,
    pod_networks: usize,
    service_network: usize,
    mtu: u32,
    vxlan_port: u16,
    node_access: usize,
    nodes: usize,
    /// Whether the node has a gateway bridge.
    bridge: bool,
    rp_filter: usize,
    /// Which nodes are out of service, one bit each.
    unavailable: usize,
    blocks: bool,
    mdns: bool,
    /// Whether node ports are open only at the node's first address.
    port_addresses: bool,
    projects: Vec<Project>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    Multitenant,
    Subnet,
    NetworkPolicy,
}

impl Mode {
    fn random(chance: &mut Chance) -> Self {
        match chance.below(100) {
            0..=7 => Self::Subnet,
            8..=27 => Self::NetworkPolicy,
            _ => Self::Multitenant,
        }
    }
}

#[derive(Clone, Debug)]
struct Project {
    name: usize,
    network: Network,
    multicast: bool,
    pods: Vec<Pod>,
    services: Vec<Service>,
    policy: Vec<(bool, usize, usize)>,
    /// Which of the network policies it has, one bit each.
    network_policies: usize,
    egress_ips: usize,
    router: Option<Router>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Network {
    Own,
    Global,
    /// Joined to the first project that has its own network.
    Joined,
}

#[derive(Clone, Debug)]
struct Pod {
    name: usize,
    node: usize,
    at: At,
    /// The last byte of an address that doesn't come from the lock file.
    address: Option<usize>,
    mac: bool,
    bandwidth: usize,
    ready: bool,
    app: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum At {
    Own,
    Named,
    /// A namespace that somebody else has made.
    Theirs,
    Tap,
}

#[derive(Clone, Debug)]
struct Service {
    name: usize,
    kind: usize,
    /// Pods of a label, the router, or hosts outside.
    behind: usize,
    ports: usize,
    sticky: bool,
    /// Whether its node ports don't come from the lock file.
    fixed: bool,
}

#[derive(Clone, Debug)]
struct Router {
    name: usize,
    source: usize,
    mode: usize,
    node: usize,
    behind: bool,
    target: usize,
}

/// The addresses of the names, as a lock file has them.
pub(super) const LOCK: &str = "version: 1
resolvedNames:
  cdn.example.com 198.51.100.7: 2026-11-21T12:00:00Z 0
  pool.example.com 198.51.100.9: 2026-11-21T12:00:00Z 300
  pool.example.com 223.255.255.255: 2026-11-21T12:00:00Z 300
";

impl World {
    pub(super) fn random(chance: &mut Chance) -> Self {
        let mut world = Self {
            mode: Mode::random(chance),
            pod_networks: if chance.percent(70) { 0 } else { chance.below(3) },
            service_network: usize::from(chance.percent(20)),
            mtu: if chance.percent(85) { 1450 } else { 1400 },
            vxlan_port: if chance.percent(90) { 4789 } else { 4790 },
            node_access: chance.below(3),
            nodes: 1 + chance.below(3),
            bridge: chance.percent(25),
            rp_filter: if chance.percent(80) { 0 } else { chance.below(3) },
            unavailable: if chance.percent(80) { 0 } else { chance.below(8) },
            blocks: chance.percent(15),
            mdns: chance.percent(10),
            port_addresses: chance.percent(15),
            projects: Vec::new(),
        };
        for _ in 0..=chance.below(3) {
            world.add_project(chance);
        }
        world
    }

    fn add_project(&mut self, chance: &mut Chance) {
        let Some(name) =
            free(PROJECTS.len(), chance, |n| self.projects.iter().any(|p| p.name == n))
        else {
            return;
        };
        let network = match chance.below(10) {
            0..=5 => Network::Own,
            6 | 7 => Network::Global,
            _ => Network::Joined,
        };
        let mut project = Project {
            name,
            network,
            multicast: chance.percent(30),
            pods: Vec::new(),
            services: Vec::new(),
            policy: Vec::new(),
            network_policies: chance.below(16),
            egress_ips: if chance.percent(30) { 1 + chance.below(2) } else { 0 },
            router: None,
        };
        for _ in 0..chance.below(4) {
            project.add_pod(chance);
        }
        for _ in 0..chance.below(3) {
            project.add_service(chance);
        }
        if chance.percent(35) {
            project.new_policy(chance);
        }
        if chance.percent(35) {
            project.router = Some(Router::random(chance));
        }
        self.projects.push(project);
    }

    /// The same with something changed, in words.
    pub(super) fn edit(&mut self, chance: &mut Chance) -> &'static str {
        if chance.percent(30) {
            return self.edit_cluster(chance);
        }
        if self.projects.is_empty() || chance.percent(10) {
            self.add_project(chance);
            return "a project comes";
        }
        let number = chance.below(self.projects.len());
        if chance.percent(8) {
            self.projects.remove(number);
            return "a project goes";
        }
        if chance.percent(8) {
            let projects = &self.projects;
            if let Some(name) =
                free(PROJECTS.len(), chance, |n| projects.iter().any(|p| p.name == n))
            {
                self.projects[number].name = name;
                return "a project is renamed";
            }
        }
        self.projects[number].edit(chance)
    }

    fn edit_cluster(&mut self, chance: &mut Chance) -> &'static str {
        match chance.below(15) {
            0 => {
                self.mode = Mode::random(chance);
                "the mode"
            }
            1 => {
                self.pod_networks = chance.below(3);
                "the pod networks"
            }
            2 => {
                self.service_network = 1 - self.service_network;
                "the service network"
            }
            3 => {
                self.mtu = 2850 - self.mtu;
                "the MTU"
            }
            4 => {
                self.vxlan_port = 4789 + 4790 - self.vxlan_port;
                "the port of VXLAN"
            }
            5 => {
                self.node_access = chance.below(3);
                "the node access"
            }
            6 | 7 => {
                self.bridge = !self.bridge;
                "the gateway bridge"
            }
            8 => {
                self.rp_filter = chance.below(3);
                "rp_filter"
            }
            9 | 10 => {
                self.unavailable ^= 1 << chance.below(3);
                "a node's availability"
            }
            11 => {
                self.blocks = !self.blocks;
                "blocked node ports"
            }
            12 => {
                self.mdns = !self.mdns;
                "a name by mDNS"
            }
            13 => {
                self.port_addresses = !self.port_addresses;
                "the addresses of node ports"
            }
            _ => {
                self.nodes = 1 + chance.below(3);
                "the nodes"
            }
        }
    }

    /// Whether a project is joined, global, or both of others.
    fn alone(&self, number: usize) -> bool {
        let root = self.root();
        let joined = self.projects.iter().any(|p| p.network == Network::Joined);
        self.projects[number].network == Network::Own && !(joined && root == Some(number))
    }

    fn root(&self) -> Option<usize> {
        self.projects.iter().position(|project| project.network == Network::Own)
    }
}

impl Project {
    fn add_pod(&mut self, chance: &mut Chance) {
        let pods = &self.pods;
        let Some(name) = free(PODS.len(), chance, |n| pods.iter().any(|pod| pod.name == n)) else {
            return;
        };
        self.pods.push(Pod {
            name,
            node: if chance.percent(70) { 0 } else { chance.below(3) },
            at: *chance.pick(&[At::Own, At::Own, At::Own, At::Named, At::Theirs, At::Tap]),
            address: chance.percent(20).then_some(name),
            mac: chance.percent(10),
            bandwidth: if chance.percent(30) { chance.below(4) } else { 0 },
            ready: chance.percent(85),
            app: chance.below(APPS.len()),
        });
    }

    fn add_service(&mut self, chance: &mut Chance) {
        let services = &self.services;
        let Some(name) =
            free(SERVICES.len(), chance, |n| services.iter().any(|service| service.name == n))
        else {
            return;
        };
        self.services.push(Service {
            name,
            kind: chance.below(KINDS.len()),
            behind: chance.below(4),
            ports: chance.below(3),
            sticky: chance.percent(20),
            fixed: chance.percent(20),
        });
    }

    fn new_policy(&mut self, chance: &mut Chance) {
        let rules = 1 + chance.below(3);
        self.policy =
            (0..rules).map(|_| (chance.percent(50), chance.below(6), chance.below(3))).collect();
    }

    fn edit(&mut self, chance: &mut Chance) -> &'static str {
        match chance.below(18) {
            16 | 17 => {
                self.network_policies ^= 1 << chance.below(4);
                "a network policy"
            }
            0 => {
                self.network = *chance.pick(&[Network::Own, Network::Global, Network::Joined]);
                "a project's network"
            }
            1 => {
                self.multicast = !self.multicast;
                "multicast"
            }
            2 | 3 => {
                self.add_pod(chance);
                "a pod comes"
            }
            4 => {
                self.add_service(chance);
                "a service comes"
            }
            5 if !self.services.is_empty() => {
                let number = chance.below(self.services.len());
                self.services.remove(number);
                "a service goes"
            }
            6 if !self.services.is_empty() => {
                let number = chance.below(self.services.len());
                let service = &mut self.services[number];
                (service.kind, service.ports) = (chance.below(3), chance.below(3));
                service.behind = chance.below(4);
                service.fixed = chance.percent(20);
                "a service changes"
            }
            7 => {
                if self.policy.is_empty() || chance.percent(50) {
                    self.new_policy(chance);
                } else {
                    self.policy.clear();
                }
                "an egress policy"
            }
            8 => {
                self.egress_ips = chance.below(3);
                "egress IPs"
            }
            9 | 10 => {
                self.edit_router(chance);
                "an egress router"
            }
            _ if self.pods.is_empty() => {
                self.add_pod(chance);
                "a pod comes"
            }
            _ => self.edit_pod(chance),
        }
    }

    fn edit_router(&mut self, chance: &mut Chance) {
        match &mut self.router {
            Some(router) => match chance.below(6) {
                0 => router.mode = chance.below(3),
                1 => router.source = chance.below(20),
                2 => router.node = chance.below(3),
                3 => router.target = chance.below(3),
                4 => router.name = chance.below(20),
                _ => self.router = None,
            },
            None => self.router = Some(Router::random(chance)),
        }
    }

    fn edit_pod(&mut self, chance: &mut Chance) -> &'static str {
        let number = chance.below(self.pods.len());
        let taken: Vec<usize> = self.pods.iter().map(|pod| pod.name).collect();
        let pod = &mut self.pods[number];
        match chance.below(10) {
            0 => {
                self.pods.remove(number);
                "a pod goes"
            }
            1 => {
                let Some(name) = free(PODS.len(), chance, |n| taken.contains(&n)) else {
                    return "nothing";
                };
                pod.name = name;
                "a pod is renamed, and keeps its address if it has a fixed one"
            }
            2 => {
                pod.node = chance.below(3);
                "a pod moves"
            }
            3 => {
                pod.at = *chance.pick(&[At::Own, At::Named, At::Theirs, At::Tap]);
                "a pod's namespace or interface"
            }
            4 => {
                pod.bandwidth = chance.below(4);
                "a limit"
            }
            5 => {
                pod.ready = !pod.ready;
                "a pod's readiness"
            }
            6 => {
                pod.mac = !pod.mac;
                "an Ethernet address"
            }
            7 => {
                pod.app = chance.below(APPS.len());
                "a label"
            }
            8 => {
                pod.address = if pod.address.is_some() { None } else { Some(pod.name) };
                "an address"
            }
            _ => {
                // Two pods exchange their addresses, or their names.
                let other = chance.below(taken.len());
                let (one, two) = (self.pods[number].address, self.pods[other].address);
                (self.pods[number].address, self.pods[other].address) = (two, one);
                if chance.percent(50) {
                    let (one, two) = (self.pods[number].name, self.pods[other].name);
                    (self.pods[number].name, self.pods[other].name) = (two, one);
                }
                "two pods exchange what they have"
            }
        }
    }
}

impl Router {
    fn random(chance: &mut Chance) -> Self {
        Self {
            name: chance.below(20),
            source: chance.below(20),
            mode: chance.below(3),
            node: if chance.percent(75) { 0 } else { chance.below(3) },
            behind: chance.percent(60),
            target: chance.below(3),
        }
    }
}

/// A number below `limit` that nobody has.
fn free(limit: usize, chance: &mut Chance, taken: impl Fn(usize) -> bool) -> Option<usize> {
    let free: Vec<usize> = (0..limit).filter(|number| !taken(*number)).collect();
    (!free.is_empty()).then(|| *chance.pick(&free))
}
