//! Random desired states of every feature, and random edits of them.
//!
//! What would be refused is left out as the text is written; the few worlds that are refused all the
//! same are thrown away.

use serde_json::{Value, json};

use super::chance::Chance;

/// A desired state to be written.
#[derive(Clone, Debug)]
pub(super) struct World {
    pub(super) subnet_mode: bool,
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
    projects: Vec<Project>,
}

#[derive(Clone, Debug)]
struct Project {
    name: usize,
    network: Network,
    multicast: bool,
    pods: Vec<Pod>,
    services: Vec<Service>,
    policy: Vec<(bool, usize, usize)>,
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

const PROJECTS: [&str; 6] = ["shop", "bank", "audit", "stock", "billing", "monitoring"];
const PODS: [&str; 6] = ["web-0", "web-1", "core", "log", "vm", "db"];
const APPS: [&str; 3] = ["web", "db", "none"];
const SERVICES: [&str; 4] = ["web", "api", "out", "cart"];
const KINDS: [&str; 3] = ["ClusterIP", "NodePort", "LoadBalancer"];
const TARGETS: [&str; 6] = [
    "0.0.0.0/0",
    "198.51.100.0/24",
    "198.51.100.7/32",
    "203.0.113.0/24",
    "pool.example.com",
    "cdn.example.com",
];

/// The addresses of the names, as a lock file has them.
pub(super) const LOCK: &str = "version: 1
names:
  cdn.example.com 198.51.100.7: 2026-11-21T12:00:00Z 0
  pool.example.com 198.51.100.9: 2026-11-21T12:00:00Z 300
  pool.example.com 223.255.255.255: 2026-11-21T12:00:00Z 300
";

impl World {
    pub(super) fn random(chance: &mut Chance) -> Self {
        let mut world = Self {
            subnet_mode: chance.percent(8),
            pod_networks: if chance.percent(70) { 0 } else { chance.below(3) },
            service_network: if chance.percent(80) { 0 } else { 1 },
            mtu: if chance.percent(85) { 1450 } else { 1400 },
            vxlan_port: if chance.percent(90) { 4789 } else { 4790 },
            node_access: chance.below(3),
            nodes: 1 + chance.below(3),
            bridge: chance.percent(25),
            rp_filter: if chance.percent(80) { 0 } else { chance.below(3) },
            unavailable: if chance.percent(80) { 0 } else { chance.below(8) },
            blocks: chance.percent(15),
            mdns: chance.percent(10),
            projects: Vec::new(),
        };
        for _ in 0..1 + chance.below(3) {
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
        match chance.below(14) {
            0 => {
                self.subnet_mode = !self.subnet_mode;
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

    fn subnet(&self, node: usize) -> String {
        match self.pod_networks {
            2 => format!("10.200.{node}.0/24"),
            _ => format!("10.128.{}.0/23", 2 * node),
        }
    }

    /// The text, as YAML.
    pub(super) fn yaml(&self) -> String {
        let networks = [
            json!([{"cidr": "10.128.0.0/14", "hostPrefix": 23}]),
            json!([{"cidr": "10.128.0.0/14", "hostPrefix": 23},
                   {"cidr": "10.64.0.0/16", "hostPrefix": 24}]),
            json!([{"cidr": "10.200.0.0/16", "hostPrefix": 24}]),
        ];
        let access = [
            json!([]),
            json!([{"port": 9100}]),
            json!([{"protocol": "udp", "port": 100, "endPort": 200}]),
        ];
        let mut cluster = json!({
            "mode": if self.subnet_mode { "subnet" } else { "multitenant" },
            "podNetworks": networks[self.pod_networks],
            "serviceNetwork": if self.service_network == 0 { "172.30.0.0/16" } else { "172.29.0.0/20" },
            "vxlanPort": self.vxlan_port,
            "mtu": self.mtu,
            "nodeAccess": access[self.node_access],
        });
        if self.blocks {
            cluster["blockNodePorts"] = json!([{"protocol": "UDP", "interface": "eth7"}]);
        }
        let nodes: Vec<Value> = (0..self.nodes).map(|number| self.node(number)).collect();
        let mut state = json!({"version": 1, "cluster": cluster, "nodes": nodes});
        let projects = 0..self.projects.len();
        let section = |of: &dyn Fn(usize) -> Option<Value>| -> Vec<Value> {
            projects.clone().filter_map(of).collect()
        };
        state["projects"] = section(&|n| Some(self.project(n))).into();
        state["egressRouters"] =
            section(&|n| Some(self.router(&self.projects[n], self.projects[n].router.as_ref()?)))
                .into();
        if self.subnet_mode {
            return serde_yaml::to_string(&state).unwrap();
        }
        let name = |n: usize| PROJECTS[self.projects[n].name];
        let of = |network| {
            projects.clone().filter(move |n| self.projects[*n].network == network).map(name)
        };
        let global: Vec<&str> = of(Network::Global).collect();
        if !global.is_empty() {
            state["global"] = json!(global);
        }
        let joined: Vec<&str> = of(Network::Joined).collect();
        if let Some(root) = self.root().filter(|_| !joined.is_empty()) {
            state["joins"] = json!([{"to": name(root), "projects": joined}]);
        }
        state["egressPolicies"] = section(&|n| self.policy(n)).into();
        state["egressIPs"] = section(&|n| {
            let project = &self.projects[n];
            let addresses: Vec<String> = (0..project.egress_ips)
                .map(|ip| format!("192.168.12.{}", 200 + 2 * project.name + ip))
                .collect();
            (self.alone(n) && project.egress_ips > 0)
                .then(|| json!({"project": name(n), "addresses": addresses}))
        })
        .into();
        if let Some((project, service)) = self.projects.iter().find_map(|project| {
            let service = project.services.iter().find(|s| s.kind == 2 && s.behind < 2)?;
            (self.mdns && !project.pods.is_empty()).then_some((project, service))
        }) {
            state["mdns"] = json!([{"name": "web.local", "project": PROJECTS[project.name],
                "service": SERVICES[service.name], "node": "node-1"}]);
        }
        serde_yaml::to_string(&state).unwrap()
    }

    fn node(&self, number: usize) -> Value {
        let mut uplink = json!({
            "interface": "eth0", "subnet": "192.168.12.0/24", "gateway": "192.168.12.1",
        });
        if self.bridge {
            uplink["bridge"] = "br-ex".into();
        }
        match self.rp_filter {
            0 => {}
            1 => uplink["rpFilter"] = "strict".into(),
            _ => uplink["rpFilter"] = "loose".into(),
        }
        json!({
            "name": format!("node-{}", number + 1),
            "address": format!("192.168.12.{}", number + 11),
            "datapath": "netdev",
            "podSubnet": self.subnet(number),
            "unavailable": self.unavailable >> number & 1 == 1,
            "uplink": uplink,
            "egressCIDRs": ["192.168.12.192/26"],
        })
    }

    fn project(&self, number: usize) -> Value {
        let Project { name, multicast, pods, services, router, .. } = &self.projects[number];
        let pods: Vec<Value> = pods.iter().map(|pod| self.pod(pod, *name)).collect();
        let policy = self.policy(number).is_some();
        let services = services.iter().filter_map(|service| {
            let routed = router.as_ref().filter(|router| router.behind);
            let (key, value) = match service.behind {
                behind @ 0..=1 => ("selector", json!({"app": APPS[behind]})),
                2 => ("egressRouter", json!(format!("way-{}", routed?.name))),
                _ if policy => return None,
                _ => ("endpoints", json!(["198.51.100.7", "203.0.113.1"])),
            };
            let kind = if service.behind < 2 { KINDS[service.kind] } else { KINDS[0] };
            let offset = 100 * name + 10 * service.name;
            let ports = match service.ports {
                0 => json!([{"port": 80 + offset, "targetPort": 8080}]),
                1 => json!([{"name": "a", "port": 81 + offset, "targetPort": 8080},
                            {"name": "b", "protocol": "UDP", "port": 82 + offset}]),
                _ => json!([{"name": "c", "protocol": "SCTP", "port": 83 + offset}]),
            };
            let affinity = if service.sticky { "ClientIP" } else { "None" };
            Some(json!({"name": SERVICES[service.name], "type": kind, key: value, "ports": ports,
                "sessionAffinity": affinity}))
        });
        let services: Vec<Value> = services.collect();
        json!({"name": PROJECTS[*name], "multicast": multicast, "pods": pods, "services": services})
    }

    fn pod(&self, pod: &Pod, project: usize) -> Value {
        let node = pod.node % self.nodes;
        let mut value = json!({
            "name": PODS[pod.name], "node": format!("node-{}", node + 1),
            "labels": {"app": APPS[pod.app]}, "ready": pod.ready,
        });
        match pod.at {
            At::Named => value["netns"] = format!("ns-{project}-{}", pod.name).into(),
            At::Theirs if node == 0 && project < 2 && pod.name == 0 => {
                value["netns"] = format!("theirs-{project}").into();
            }
            At::Tap if node == 0 && project < 4 => {
                value["interface"] = format!("tap{project}").into()
            }
            At::Own | At::Theirs | At::Tap => {}
        }
        if let Some(byte) = pod.address {
            let subnet = self.subnet(node);
            let network = subnet.rsplit_once('.').unwrap().0;
            value["address"] = format!("{network}.{}", 20 + byte + 10 * project).into();
        }
        if pod.mac {
            value["mac"] = format!("02:00:00:00:{project:02x}:{:02x}", pod.name).into();
        }
        match pod.bandwidth {
            1 => value["bandwidth"] = json!({"egress": "5M"}),
            2 => value["bandwidth"] = json!({"ingress": "8M"}),
            3 => value["bandwidth"] = json!({"egress": "6M", "ingress": "7M"}),
            _ => {}
        }
        value
    }

    fn policy(&self, number: usize) -> Option<Value> {
        let project = &self.projects[number];
        if self.subnet_mode || project.policy.is_empty() || !self.alone(number) {
            return None;
        }
        let rules = project.policy.iter().map(|(allow, target, ports)| {
            let key = if TARGETS[*target].contains('/') { "cidr" } else { "dnsName" };
            let mut target = json!({key: TARGETS[*target]});
            match ports {
                0 => {}
                1 => target["ports"] = json!([{"port": 80}]),
                _ => target["ports"] = json!([{"protocol": "udp", "port": 53, "endPort": 60}]),
            }
            let verdict = if *allow { "allow" } else { "deny" };
            json!({verdict: target})
        });
        let rules: Vec<Value> = rules.collect();
        Some(json!({"project": PROJECTS[project.name], "rules": rules}))
    }

    fn router(&self, project: &Project, router: &Router) -> Value {
        let mut value = json!({
            "name": format!("way-{}", router.name), "project": PROJECTS[project.name],
            // Some are of those that projects have as egress IPs.
            "source": format!("192.168.12.{}", [100, 188][router.source / 12] + router.source),
            "gateway": "192.168.12.1", "node": format!("node-{}", router.node % self.nodes + 1),
        });
        match router.mode {
            0 => value["destination"] = format!("203.0.113.{}", 25 + router.target).into(),
            1 => {
                value["mode"] = "http-proxy".into();
                value["dnsServers"] = json!(["192.168.12.1"]);
                value["rules"] = json!([{"allow": format!("*.{}.example.com", router.target)}]);
            }
            _ => {
                value["mode"] = "dns-proxy".into();
                value["dnsServers"] = json!(["192.168.12.1"]);
                value["destinations"] =
                    json!([{"port": 5432 + router.target, "to": "db.example.com"}]);
            }
        }
        value
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
            address: chance.percent(20).then(|| name),
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
        });
    }

    fn new_policy(&mut self, chance: &mut Chance) {
        let rules = 1 + chance.below(3);
        self.policy =
            (0..rules).map(|_| (chance.percent(50), chance.below(6), chance.below(3))).collect();
    }

    fn edit(&mut self, chance: &mut Chance) -> &'static str {
        match chance.below(16) {
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
