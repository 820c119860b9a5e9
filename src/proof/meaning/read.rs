//! From typed documents to the meaning.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};

use ipnet::{IpNet, Ipv4Net};

use super::{Attachment, Features, Lock, Meaning, Node, Policy, Project, Rule, Workload};
use crate::diagnostic::Place;
use crate::input::{Cursor, Documents};
use crate::proof::frame::{Range, mac_number, proto};
use crate::spec::ServiceType;
use crate::spec::{self, DesiredState, Mode};
use crate::value::{Cidr, ClusterIp, Datapath, Name, Protocol};

/// Protocol and port.
type Transport = (u64, u64);

pub(super) struct Reader<'d> {
    pub(super) documents: Vec<(Cursor<'d>, &'d DesiredState)>,
    pub(super) lock: &'d Lock<'d>,
    pub(super) meaning: Meaning,
    projects: BTreeMap<&'d str, usize>,
    nodes: BTreeMap<&'d str, usize>,
    /// The project that each is joined to.
    joined: BTreeMap<usize, usize>,
    global: BTreeSet<usize>,
    /// The nodes that are out of service.
    pub(super) unavailable: BTreeSet<usize>,
    /// By project, its pods with address and node.
    pub(super) pods_of: BTreeMap<usize, Vec<(u64, usize, &'d spec::Pod)>>,
    /// The egress routers, each with project and address.
    pub(super) routers_of: Vec<(usize, u64, &'d spec::EgressRouter)>,
    /// Protocol and port at nodes, address of the service, protocol and port there.
    pub(super) node_ports: Vec<(Transport, u64, Transport)>,
}

impl<'d> Reader<'d> {
    pub(super) fn new(documents: &'d [Documents], lock: &'d Lock<'d>) -> Self {
        Self {
            documents: documents.iter().flat_map(Documents::iter).collect(),
            lock,
            meaning: Meaning::default(),
            projects: BTreeMap::new(),
            nodes: BTreeMap::new(),
            joined: BTreeMap::new(),
            global: BTreeSet::new(),
            unavailable: BTreeSet::new(),
            pods_of: BTreeMap::new(),
            routers_of: Vec::new(),
            node_ports: Vec::new(),
        }
    }

    /// The items of a section in all documents.
    pub(super) fn items<T>(
        &self,
        section: &'static str,
        list: impl Fn(&'d DesiredState) -> &'d [T],
    ) -> Vec<(Cursor<'d>, &'d T)> {
        let items = self.documents.iter().flat_map(|(at, state)| {
            at.find(section).into_iter().flat_map(Cursor::children).zip(list(state))
        });
        items.collect()
    }

    pub(super) fn read(mut self) -> Result<Meaning, String> {
        self.cluster()?;
        self.nodes()?;
        for (number, (at, project)) in
            self.items("projects", |state| &state.projects).into_iter().enumerate()
        {
            self.projects.insert(project.name.as_str(), number);
            self.meaning.projects.push(Project {
                name: project.name.to_string(),
                vnid: 0,
                policy: None,
                place: at.place(),
            });
        }
        self.networks()?;
        self.pods()?;
        self.routers()?;
        self.services()?;
        self.egress_ips()?;
        self.policies()?;
        self.features();
        for node in &mut self.meaning.nodes {
            node.workloads.sort_by_key(|workload| workload.address);
        }
        self.multicast();
        self.answering();
        self.sensible()?;
        Ok(self.meaning)
    }

    fn cluster(&mut self) -> Result<(), String> {
        let clusters: Vec<&spec::Cluster> =
            self.documents.iter().filter_map(|(_, state)| state.cluster.as_ref()).collect();
        let meaning = &mut self.meaning;
        let mode = clusters.iter().find_map(|cluster| cluster.mode).unwrap_or_default();
        meaning.isolates = mode == Mode::Multitenant;
        meaning.features.network_policies = mode == Mode::Networkpolicy;
        for network in clusters.iter().flat_map(|cluster| &cluster.pod_networks) {
            meaning.pod_networks.push(cidr(&network.cidr)?);
        }
        if meaning.pod_networks.is_empty() {
            meaning.pod_networks.push(net(Ipv4Net::new_assert(Ipv4Addr::new(10, 128, 0, 0), 14)));
        }
        meaning.pod_networks.sort_unstable();
        let services = clusters.iter().find_map(|cluster| cluster.service_network.as_ref());
        let default = net(Ipv4Net::new_assert(Ipv4Addr::new(172, 30, 0, 0), 16));
        meaning.service_network = services.map_or(Ok(default), cidr)?;
        let port = clusters.iter().find_map(|cluster| cluster.vxlan_port);
        meaning.vxlan_port = port.map_or(4789, |port| u64::from(port.get()));
        meaning.mtu = clusters.iter().find_map(|cluster| cluster.mtu).unwrap_or(1450).into();
        for access in clusters.iter().flat_map(|cluster| &cluster.node_access) {
            let first = access.port.get();
            let last = access.end_port.map_or(first, crate::value::Port::get);
            meaning.node_access.push((protocol(access.protocol), (first.into(), last.into())));
        }
        Ok(())
    }

    fn nodes(&mut self) -> Result<(), String> {
        for (at, node) in self.items("nodes", |state| &state.nodes) {
            let name = node.name.as_str();
            let subnet = match &node.pod_subnet {
                Some(Cidr(IpNet::V4(subnet))) => *subnet,
                Some(_) => return Err("a pod subnet of IPv6".to_owned()),
                None => {
                    let text = self.lock.get("subnets", name)?;
                    text.parse().map_err(|_| format!("the lock file has `{text}` for `{name}`"))?
                }
            };
            let address = v4(node.address.0)?;
            let index = self.meaning.nodes.len();
            self.nodes.insert(name, index);
            if node.unavailable {
                self.unavailable.insert(index);
            }
            self.meaning.tunnel_ends.push(address);
            self.meaning.subnets.push((net(subnet), index));
            let bridge = node.uplink.as_ref().is_some_and(|uplink| uplink.bridge.is_some());
            self.meaning.features.gateway_bridges |= bridge;
            self.meaning.nodes.push(Node {
                name: name.to_owned(),
                address,
                subnet: net(subnet),
                prefix: subnet.prefix_len(),
                gateway: net(subnet).0 + 1,
                kernel: node.datapath == Datapath::System,
                uplink: node.uplink.as_ref().map(|uplink| uplink.interface.to_string()),
                gateway_bridge: bridge,
                served_at: Vec::new(),
                blocked: Vec::new(),
                blocked_at: Vec::new(),
                workloads: Vec::new(),
                place: at.place(),
            });
        }
        self.meaning.tunnel_ends.sort_unstable();
        self.meaning.subnets.sort_unstable();
        Ok(())
    }

    /// The projects that a list of names and a selector mean, but for those of `without` by selector.
    pub(super) fn members(
        &self,
        names: &[Name],
        selector: Option<&spec::Selector>,
        without: &BTreeSet<usize>,
    ) -> Result<BTreeSet<usize>, String> {
        let mut members = BTreeSet::new();
        for name in names {
            members.insert(self.project(name)?);
        }
        if let Some(selector) = selector {
            let all = self.items("projects", |state| &state.projects);
            for (number, (_, project)) in all.into_iter().enumerate() {
                let meant = selector.matches(&project.labels) && project.name.as_str() != "default";
                if meant && !without.contains(&number) {
                    members.insert(number);
                }
            }
        }
        Ok(members)
    }

    pub(super) fn project(&self, name: &Name) -> Result<usize, String> {
        let found = self.projects.get(name.as_str()).copied();
        found.ok_or_else(|| format!("no project `{name}`"))
    }

    fn networks(&mut self) -> Result<(), String> {
        let nobody = BTreeSet::new();
        let mut isolated = BTreeSet::new();
        for (_, state) in &self.documents {
            if let Some(set) = &state.isolate {
                isolated.extend(self.members(&set.projects, set.selector.as_ref(), &nobody)?);
            }
        }
        let mut global: BTreeSet<usize> =
            self.projects.get("default").copied().into_iter().collect();
        for (_, state) in &self.documents {
            if let Some(set) = &state.global {
                global.extend(self.members(&set.projects, set.selector.as_ref(), &isolated)?);
            }
        }
        for (_, join) in self.items("joins", |state| &state.joins) {
            let target = self.project(&join.to)?;
            let members = self.members(&join.projects, join.selector.as_ref(), &isolated)?;
            for member in members.into_iter().filter(|member| *member != target) {
                self.joined.insert(member, target);
            }
        }
        self.global = global;
        let mut owners = BTreeMap::new();
        for number in 0..self.meaning.projects.len() {
            let mut root = number;
            for _ in 0..=self.joined.len() {
                root = self.joined.get(&root).copied().unwrap_or(root);
            }
            let vnid = if self.global.contains(&root) {
                0
            } else {
                let name = &self.meaning.projects[root].name;
                let text = self.lock.get("vnids", name)?;
                let vnid = text.parse().ok().filter(|vnid| (1..1 << 24).contains(vnid));
                vnid.ok_or_else(|| format!("the lock file has the VNID `{text}`"))?
            };
            // One VNID for two networks would join them.
            if vnid != 0 && *owners.entry(vnid).or_insert(root) != root {
                return Err(format!("two networks have the VNID {vnid}"));
            }
            self.meaning.projects[number].vnid = vnid;
        }
        Ok(())
    }

    fn pods(&mut self) -> Result<(), String> {
        for (number, (at, project)) in
            self.items("projects", |state| &state.projects).into_iter().enumerate()
        {
            let places = at.find("pods").into_iter().flat_map(Cursor::children);
            for (at, pod) in places.zip(&project.pods) {
                let key = format!("{}/{}", project.name, pod.name);
                let binding = self.lock.port_binding("pods", &key)?;
                let address = pod.address.map_or(Ok(binding.address), |address| v4(address.0))?;
                let mac = pod.mac.map_or(binding.mac, |mac| mac_number(mac.bytes()));
                let attachment = match (&pod.interface, &pod.netns) {
                    (Some(interface), _) => Attachment::Interface(interface.to_string()),
                    (None, Some(netns)) => Attachment::Netns(netns.to_string()),
                    (None, None) => Attachment::Netns(format!("{}.{}", project.name, pod.name)),
                };
                let limited = pod.bandwidth.is_some();
                self.meaning.features.bandwidth |= limited;
                let workload = Workload {
                    name: format!("pod {key}"),
                    project: number,
                    address,
                    mac,
                    port: binding.port,
                    attachment,
                    router: false,
                    place: at.place(),
                };
                let node = self.put(pod.node.as_str(), workload)?;
                self.pods_of.entry(number).or_default().push((address, node, pod));
            }
        }
        Ok(())
    }

    fn put(&mut self, node: &str, workload: Workload) -> Result<usize, String> {
        let index = *self.nodes.get(node).ok_or_else(|| format!("no node `{node}`"))?;
        self.meaning.nodes[index].workloads.push(workload);
        Ok(index)
    }

    fn routers(&mut self) -> Result<(), String> {
        for (at, router) in self.items("egressRouters", |state| &state.egress_routers) {
            self.meaning.features.routers = true;
            let binding = self.lock.port_binding("routers", router.name.as_str())?;
            let project = self.project(&router.project)?;
            let workload = Workload {
                name: format!("router {}", router.name),
                project,
                address: binding.address,
                mac: binding.mac,
                port: binding.port,
                attachment: Attachment::Netns(format!("router_{}", router.name)),
                router: true,
                place: at.place(),
            };
            let node = self.put(binding.node, workload)?;
            self.routers_of.push((project, binding.address, router));
            let mut meant = Self::router_of(router, node)?;
            if self.meaning.nodes[node].gateway_bridge {
                let text = self.lock.get("outsidePorts", router.name.as_str())?;
                let port = text.split_once(' ').and_then(|(_, port)| port.parse().ok());
                meant.port = Some(port.ok_or("the lock file has no port of an egress router")?);
            }
            self.meaning.routers.push(meant);
        }
        Ok(())
    }

    fn policies(&mut self) -> Result<(), String> {
        let mut names: BTreeMap<&str, Vec<Range>> = BTreeMap::new();
        // The second is the name of the section in earlier files.
        let entries = self.lock.entries("resolvedNames").chain(self.lock.entries("names"));
        for (key, _) in entries {
            let (name, address) = key.split_once(' ').unwrap_or((key, ""));
            let address: Ipv4Addr =
                address.parse().map_err(|_| format!("the lock file has the name `{key}`"))?;
            let number = u64::from(u32::from(address));
            names.entry(name).or_default().push((number, number));
        }
        for (at, wire) in self.items("egressPolicies", |state| &state.egress_policies) {
            let project = self.project(&wire.project)?;
            let places = at.find("rules").into_iter().flat_map(Cursor::children);
            let mut rules = Vec::new();
            for (at, rule) in places.zip(&wire.rules) {
                rules.push(read_rule(rule, at.place(), &names)?);
            }
            let networks = rules.iter().flat_map(|rule| &rule.networks);
            let mut bounds: Vec<u64> = networks.flat_map(|net| [net.0, net.1 + 1]).collect();
            bounds.sort_unstable();
            bounds.dedup();
            self.meaning.projects[project].policy = Some(self.meaning.policies.len());
            self.meaning.policies.push(Policy { rules, bounds });
        }
        Ok(())
    }

    fn features(&mut self) {
        let Features { services, node_ports, multicast, egress_ips, .. } =
            &mut self.meaning.features;
        for (_, state) in &self.documents {
            *egress_ips |= !state.egress_ips.is_empty();
            for project in &state.projects {
                *multicast |= project.multicast;
                for service in &project.services {
                    *services |= service.cluster_ip != Some(ClusterIp::None);
                    *node_ports |= service.kind != ServiceType::ClusterIp;
                }
            }
        }
    }

    /// The networks all of whose projects enable multicast.
    fn multicast(&mut self) {
        let projects = self.items("projects", |state| &state.projects);
        let mut closed = BTreeSet::new();
        for (number, (_, project)) in projects.into_iter().enumerate() {
            if !project.multicast {
                closed.insert(self.meaning.vnid(number));
            }
        }
        let mut members: BTreeMap<u64, BTreeSet<usize>> = BTreeMap::new();
        for (node, index) in self.meaning.nodes.iter().zip(0..) {
            for workload in node.workloads.iter().filter(|workload| !workload.router) {
                let vnid = self.meaning.vnid(workload.project);
                if !closed.contains(&vnid) {
                    members.entry(vnid).or_default().insert(index);
                }
            }
        }
        self.meaning.multicast = members;
    }

    fn answering(&mut self) {
        let mut answering: BTreeMap<u64, Vec<u64>> = BTreeMap::new();
        for node in &self.meaning.nodes {
            for workload in &node.workloads {
                if self.meaning.services.answering.contains(&workload.address) {
                    let vnid = self.meaning.vnid(workload.project);
                    answering.entry(vnid).or_default().push(workload.address);
                }
            }
        }
        for list in answering.values_mut() {
            list.sort_unstable();
        }
        self.meaning.answering = answering;
    }

    /// The lock is common ground of compiler and proof, so what it says must make sense by itself.
    fn sensible(&self) -> Result<(), String> {
        let meaning = &self.meaning;
        if meaning.subnets.windows(2).any(|pair| pair[0].0.1 >= pair[1].0.0) {
            return Err("two nodes have pod subnets that overlap".to_owned());
        }
        for (subnet, _) in &meaning.subnets {
            let within = |network: &Range| network.0 <= subnet.0 && subnet.1 <= network.1;
            if !meaning.pod_networks.iter().any(within) {
                return Err("a pod subnet is outside of the pod networks".to_owned());
            }
        }
        if meaning.tunnel_ends.windows(2).any(|pair| pair[0] == pair[1]) {
            return Err("two nodes have one address".to_owned());
        }
        for node in &meaning.nodes {
            let mut ports = BTreeSet::new();
            let mut last = node.gateway;
            for workload in &node.workloads {
                if workload.address <= last || workload.address >= node.subnet.1 {
                    return Err(format!(
                        "the address of {} is another's, or not of its node's subnet",
                        workload.name
                    ));
                }
                last = workload.address;
                if workload.port < 10 || !ports.insert(workload.port) {
                    return Err(format!("the port of {} is another's", workload.name));
                }
            }
        }
        Ok(())
    }
}

fn read_rule(
    rule: &spec::EgressRule,
    place: Place,
    names: &BTreeMap<&str, Vec<Range>>,
) -> Result<Rule, String> {
    let (allow, target) = match (&rule.allow, &rule.deny) {
        (Some(target), None) => (true, target),
        (None, Some(target)) => (false, target),
        _ => return Err("a rule that neither allows nor denies".to_owned()),
    };
    let (networks, whom) = match (&target.cidr, &target.dns_name) {
        (Some(network), None) => (vec![cidr(network)?], network.to_string()),
        (None, Some(name)) => {
            let known = names.get(name.as_str());
            let known = known.ok_or_else(|| format!("the lock file has no address of `{name}`"))?;
            (known.clone(), name.as_str().to_owned())
        }
        _ => return Err("a rule without a destination".to_owned()),
    };
    let ports = target.ports.iter().map(|range| {
        let ports = range.port.map(|first| {
            (u64::from(first.get()), u64::from(range.end_port.unwrap_or(first).get()))
        });
        (protocol(range.protocol), ports)
    });
    let verb = if allow { "allow" } else { "deny" };
    Ok(Rule { allow, networks, ports: ports.collect(), text: format!("{verb} {whom}"), place })
}

pub(super) fn protocol(protocol: Protocol) -> u64 {
    match protocol {
        Protocol::Tcp => proto::TCP,
        Protocol::Udp => proto::UDP,
        Protocol::Sctp => proto::SCTP,
    }
}

pub(super) fn v4(address: IpAddr) -> Result<u64, String> {
    match address {
        IpAddr::V4(address) => Ok(u32::from(address).into()),
        IpAddr::V6(address) => Err(format!("`{address}` is IPv6")),
    }
}

pub(super) fn cidr(network: &Cidr) -> Result<Range, String> {
    match network.0 {
        IpNet::V4(network) => Ok(net(network)),
        IpNet::V6(network) => Err(format!("`{network}` is IPv6")),
    }
}

fn net(network: Ipv4Net) -> Range {
    (u32::from(network.network()).into(), u32::from(network.broadcast()).into())
}
