//! A world as text: YAML, as people write it.

use serde_json::{Value, json};

use super::{At, Mode, Network, Pod, Project, Router, World};

pub(super) const PROJECTS: [&str; 6] = ["shop", "bank", "audit", "stock", "billing", "monitoring"];
pub(super) const PODS: [&str; 6] = ["web-0", "web-1", "core", "log", "vm", "db"];
pub(super) const APPS: [&str; 3] = ["web", "db", "none"];
pub(super) const SERVICES: [&str; 4] = ["web", "api", "out", "cart"];
pub(super) const KINDS: [&str; 3] = ["ClusterIP", "NodePort", "LoadBalancer"];
const TARGETS: [&str; 6] = [
    "0.0.0.0/0",
    "198.51.100.0/24",
    "198.51.100.7/32",
    "203.0.113.0/24",
    "pool.example.com",
    "cdn.example.com",
];

impl World {
    fn subnet(&self, node: usize) -> String {
        match self.pod_networks {
            2 => format!("10.200.{node}.0/24"),
            _ => format!("10.128.{}.0/23", 2 * node),
        }
    }

    /// The text, as YAML.
    pub(in super::super) fn yaml(&self) -> String {
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
            "mode": match self.mode {
                Mode::Multitenant => "multitenant",
                Mode::Subnet => "subnet",
                Mode::NetworkPolicy => "networkpolicy",
            },
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
        if self.mode == Mode::Subnet {
            return serde_yaml::to_string(&state).unwrap();
        }
        let name = |n: usize| PROJECTS[self.projects[n].name];
        let of = |network| {
            projects.clone().filter(move |n| self.projects[*n].network == network).map(name)
        };
        if self.mode == Mode::NetworkPolicy {
            state["networkPolicies"] =
                projects.clone().flat_map(|n| self.network_policies(n)).collect();
        } else {
            let global: Vec<&str> = of(Network::Global).collect();
            if !global.is_empty() {
                state["global"] = json!(global);
            }
            let joined: Vec<&str> = of(Network::Joined).collect();
            if let Some(root) = self.root().filter(|_| !joined.is_empty()) {
                state["joins"] = json!([{"to": name(root), "projects": joined}]);
            }
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
        let addresses =
            if self.port_addresses && number == 0 { json!(["192.168.12.60"]) } else { json!([]) };
        json!({
            "nodePortAddresses": addresses,
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
            let mut ports = ports;
            if service.fixed && kind != KINDS[0] {
                for (number, port) in (0..).zip(ports.as_array_mut().unwrap()) {
                    port["nodePort"] = (30_000 + offset + number).into();
                }
            }
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
                value["interface"] = format!("tap{project}").into();
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
        if self.mode == Mode::Subnet || project.policy.is_empty() || !self.alone(number) {
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

    fn network_policies(&self, number: usize) -> Vec<Value> {
        let project = &self.projects[number];
        let other = PROJECTS[(project.name + 1) % PROJECTS.len()];
        let all = [
            json!({"name": "closed", "podSelector": {}}),
            json!({"name": "web", "podSelector": {"matchLabels": {"app": "web"}}, "ingress": [
                {"from": [{"podSelector": {"matchLabels": {"app": "db"}}}, {"namespaceSelector":
                    {"matchLabels": {"kubernetes.io/metadata.name": other}}}],
                 "ports": [{"port": 8080}, {"protocol": "UDP", "port": 53, "endPort": 60}]}]}),
            json!({"name": "out", "podSelector": {}, "egress": [
                {"to": [{"ipBlock": {"cidr": "203.0.113.0/24", "except": ["203.0.113.128/25"]}},
                        {"namespaceSelector": {}}]}]}),
            json!({"name": "any", "podSelector": {"matchLabels": {"app": "db"}},
                "policyTypes": ["Ingress", "Egress"], "ingress": [{}],
                "egress": [{"ports": [{"port": 5432}]}]}),
        ];
        let mine = (0..).zip(all).filter(|(bit, _)| project.network_policies >> bit & 1 == 1);
        mine.map(|(_, mut policy)| {
            policy["project"] = PROJECTS[project.name].into();
            policy
        })
        .collect()
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
