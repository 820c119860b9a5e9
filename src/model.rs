//! The whole network with every number: what the plans of the nodes are made from.
//!
//! A [`Model`] is an [`Intent`] and the [`Allocations`] of its objects, so it is always valid.

mod network_policy;
mod subjects;

pub use network_policy::{Allowance, Peers, PortRanges, Selection};
pub use subjects::rule_name;
use subjects::{Subjects, ranked, service_ports};

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::ops::Range;

use ipnet::Ipv4Net;
use rayon::prelude::*;

use crate::allocate::{Allocations, PortBinding, effective_vnid, served};
use crate::dataplane::openflow::group_number;
use crate::dataplane::origin::{Cookie, ObjectRef, hash};
pub use crate::intent::Workload;
use crate::intent::{
    BlockAt, Direction, EgressIp, EgressRule, Intent, NetworkPolicy, NodeId, Pod, PodId, ProjectId,
    RouterId, Service, ServiceId, ServicePort, Verdict,
};
use crate::resolve::last_host;
use crate::spec::Mode;
use crate::value::{Bandwidth, Datapath, InterfaceName, Port, Protocol, StringValue, Vnid};

const EVERYTHING: [Ipv4Net; 1] = [Ipv4Net::new_assert(Ipv4Addr::UNSPECIFIED, 0)];

/// The whole network.
#[derive(Debug)]
pub struct Model {
    intent: Intent,
    numbers: Allocations,
    local: Vec<Local>,
    /// The rules of each egress policy with their ranks.
    rules: Vec<Vec<(ObjectRef, u16)>>,
    subjects: Subjects,
    /// Of each VNID that packets carry, the first project that doesn't enable multicast.
    without_multicast: BTreeMap<u32, ProjectId>,
    /// Which egress IP each pod leaves with, by the pods' index; empty where there are none.
    egress_ips: Vec<Option<EgressAssignment>>,
    /// The ports of each service as subjects, with the numbers of their groups.
    service_ports: Vec<Vec<(ObjectRef, u32)>>,
    /// Whom services that have an address are for.
    backs: BTreeSet<Workload>,
    /// The ports at which nodes serve services, by protocol and port.
    node_ports: Vec<NodePort>,
    /// Whether nodes don't reach a service, by the services' index; empty where they reach all.
    beyond_nodes: Vec<bool>,
    /// The meter of each pod that may send but so much, by the pods' index.
    meters: Vec<Option<u32>>,
    network_policies: network_policy::Policies,
    datapath: Option<Datapath>,
    underlay: Option<InterfaceName>,
}

/// A port at which every node serves a port of a service to the outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NodePort {
    /// The protocol.
    pub protocol: Protocol,
    /// The port of the nodes.
    pub port: Port,
    /// The service.
    pub service: ServiceId,
    /// The number of the port in the service.
    index: usize,
}

/// The egress IP that a pod leaves with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EgressAssignment {
    /// The address.
    pub ip: EgressIp,
    /// Its number among all egress IPs.
    number: usize,
}

/// What a node carries.
#[derive(Debug, Default)]
struct Local {
    pods: Vec<PodId>,
    routers: Vec<RouterId>,
}

impl Model {
    /// The model of an intent with numbers that were allocated for it.
    #[must_use]
    pub fn new(intent: Intent, numbers: Allocations) -> Self {
        let mut local: Vec<Local> =
            std::iter::repeat_with(Local::default).take(intent.nodes().len()).collect();
        for (id, pod) in intent.pods() {
            local[pod.node.index()].pods.push(id);
        }
        for (id, router) in intent.routers() {
            local[router.node.index()].routers.push(id);
        }
        let (rules, subjects) = rayon::join(
            || intent.policies().par_iter().map(|p| ranked(&intent, p, &numbers.names)).collect(),
            || Subjects::of(&intent),
        );
        let service_ports = service_ports(&intent);
        let mut backs = BTreeSet::new();
        for (id, service) in intent.services() {
            if numbers.services[id.index()].is_some() {
                backs.extend(&service.workloads);
            }
        }
        let node_ports = served(&intent, &numbers.node_ports).into_iter();
        let node_ports = node_ports
            .map(|((protocol, port), (service, index))| NodePort {
                protocol,
                port,
                service: ServiceId::new(service),
                index,
            })
            .collect();
        let meters = meters(&intent);
        let network_policies = network_policy::Policies::new(&intent, &numbers);
        let without_multicast = BTreeMap::new();
        let egress_ips = leaving(&intent);
        let mut model = Self {
            intent,
            numbers,
            local,
            rules,
            subjects,
            without_multicast,
            egress_ips,
            service_ports,
            backs,
            node_ports,
            beyond_nodes: Vec::new(),
            meters,
            network_policies,
            datapath: None,
            underlay: None,
        };
        for (id, project) in model.intent.projects() {
            if !project.multicast {
                model.without_multicast.entry(model.wire_vnid(id)).or_insert(id);
            }
        }
        model.beyond_nodes = model.beyond_nodes();
        model
    }

    /// The same network with another datapath on every node, as the lab needs it.
    #[must_use]
    pub fn with_datapath(mut self, datapath: Datapath) -> Self {
        self.datapath = Some(datapath);
        self
    }

    /// The same network with the uplinks as ports of a bridge of this name, which has their
    /// addresses, as the lab has it.
    #[must_use]
    pub fn with_underlay(mut self, bridge: InterfaceName) -> Self {
        self.underlay = Some(bridge);
        self
    }

    /// The interface by which a node's kernel gets what comes in by another.
    #[must_use]
    pub fn seen_by_kernel<'m>(
        &'m self,
        node: NodeId,
        interface: &'m InterfaceName,
    ) -> &'m InterfaceName {
        let is_uplink =
            self.intent[node].uplink.as_ref().is_some_and(|u| u.interface == *interface);
        self.underlay.as_ref().filter(|_| is_uplink).unwrap_or(interface)
    }

    /// What the desired state means.
    #[must_use]
    pub fn intent(&self) -> &Intent {
        &self.intent
    }

    /// How projects are kept apart.
    #[must_use]
    pub fn mode(&self) -> Mode {
        self.intent.cluster.mode
    }

    /// The network that a project's services are for, beside the global one, where VNIDs keep
    /// projects apart; `None` where everybody reaches them.
    #[must_use]
    pub fn service_network(&self, project: ProjectId) -> Option<u32> {
        let vnid = Some(self.vnid(project).get()).filter(|vnid| *vnid != 0);
        vnid.filter(|_| self.mode().compares_vnids())
    }

    /// What network policies have to do with a pod or egress router in a direction.
    #[must_use]
    pub fn selection(&self, workload: Workload, direction: Direction) -> Selection {
        self.network_policies.selection(workload, direction)
    }

    /// Whether any network policy selects a pod or egress router.
    #[must_use]
    pub fn is_selected(&self, workload: Workload) -> bool {
        self.selection(workload, Direction::Ingress) != Selection::None
    }

    /// What the network policies of a project allow.
    #[must_use]
    pub fn allowances(&self, project: ProjectId) -> &[Allowance] {
        self.network_policies.allowances(project)
    }

    /// The network policies of a project as one subject, if it has any.
    #[must_use]
    pub fn policies_subject(&self, project: ProjectId) -> Option<&ObjectRef> {
        self.network_policies.of_project(project)
    }

    /// The network policies of a project, each as a subject.
    pub fn network_policies(
        &self,
        project: ProjectId,
    ) -> impl Iterator<Item = (&NetworkPolicy, &ObjectRef)> {
        let policies = self.intent.network_policies();
        let first = policies.partition_point(|policy| policy.project < project);
        let own = policies.iter().enumerate().skip(first);
        own.take_while(move |(_, policy)| policy.project == project)
            .filter_map(|(index, policy)| Some((policy, self.network_policies.policy(index)?)))
    }

    /// The address from which the outside reaches pods by a node port of a node, where network
    /// policies have to tell it from the node's own processes: the last of its subnet, which nobody
    /// has.
    #[must_use]
    pub fn node_port_source(&self, node: NodeId) -> Ipv4Addr {
        match self.mode() {
            Mode::Networkpolicy => last_host(self.subnet(node)),
            Mode::Subnet | Mode::Multitenant => self.gateway(node),
        }
    }

    /// The addresses of a node at which pods and the outside know it, sorted.
    #[must_use]
    pub fn own_addresses(&self, node: NodeId) -> BTreeSet<Ipv4Addr> {
        let node = &self.intent[node];
        node.node_port_addresses.iter().copied().chain([node.address]).collect()
    }

    /// The datapath of a node's bridge.
    #[must_use]
    pub fn datapath(&self, node: NodeId) -> Datapath {
        self.datapath.unwrap_or(self.intent[node].datapath)
    }

    /// The pod subnet of a node.
    #[must_use]
    pub fn subnet(&self, node: NodeId) -> Ipv4Net {
        self.numbers.subnets[node.index()]
    }

    /// The address of a node's `tun0`, gateway of its pods: the first of its subnet.
    #[must_use]
    pub fn gateway(&self, node: NodeId) -> Ipv4Addr {
        let subnet = self.subnet(node);
        subnet.hosts().next().unwrap_or(subnet.network())
    }

    /// The VNID that a project's pods have.
    #[must_use]
    pub fn vnid(&self, project: ProjectId) -> Vnid {
        effective_vnid(&self.intent, &self.numbers.vnids, project)
    }

    /// The VNID that packets of a project carry: 0 for all where nothing is kept apart.
    #[must_use]
    pub fn wire_vnid(&self, project: ProjectId) -> u32 {
        if self.mode().carries_vnids() { self.vnid(project).get() } else { 0 }
    }

    /// Which project keeps multicast off for all that share this one's VNID, if any does.
    #[must_use]
    pub fn without_multicast(&self, project: ProjectId) -> Option<ProjectId> {
        self.without_multicast.get(&self.wire_vnid(project)).copied()
    }

    /// The ports of a node's bridge that belong to pods and egress routers: pods by project and
    /// name, then routers by name.
    pub fn workloads(&self, node: NodeId) -> impl Iterator<Item = Workload> + '_ {
        let local = &self.local[node.index()];
        let pods = local.pods.iter().map(|id| Workload::Pod(*id));
        pods.chain(local.routers.iter().map(|id| Workload::Router(*id)))
    }

    /// The egress routers on a node, by name.
    #[must_use]
    pub fn routers(&self, node: NodeId) -> &[RouterId] {
        &self.local[node.index()].routers
    }

    /// The numbers of a pod or egress router.
    #[must_use]
    pub fn endpoint(&self, workload: Workload) -> PortBinding {
        match workload {
            Workload::Pod(id) => self.numbers.pods[id.index()],
            Workload::Router(id) => self.numbers.routers[id.index()],
        }
    }

    /// The project of a pod or egress router.
    #[must_use]
    pub fn project(&self, workload: Workload) -> ProjectId {
        match workload {
            Workload::Pod(id) => self.intent[id].project,
            Workload::Router(id) => self.intent[id].project,
        }
    }

    /// The node of a pod or egress router.
    #[must_use]
    pub fn node(&self, workload: Workload) -> NodeId {
        match workload {
            Workload::Pod(id) => self.intent[id].node,
            Workload::Router(id) => self.intent[id].node,
        }
    }

    /// The rules of the policy of a project, each with its subject and its rank. Of two rules
    /// that some packet matches both, the earlier has the higher rank; others may share one, so
    /// that a change of one rule moves few others.
    pub fn ranked_rules(
        &self,
        project: ProjectId,
    ) -> impl Iterator<Item = (&EgressRule, &ObjectRef, u16)> {
        let policies = self.intent.policies();
        let found = policies.binary_search_by_key(&project, |policy| policy.project).ok();
        found.into_iter().flat_map(move |index| {
            let rules = policies[index].rules.iter().zip(&self.rules[index]);
            rules.map(|(rule, (subject, rank))| (rule, subject, *rank))
        })
    }

    /// The networks that a rule is about: the addresses of a name are those of the lock file. A
    /// name without any is an error before; if it came here, to deny it would deny everything.
    #[must_use]
    pub fn networks<'a>(&'a self, rule: &'a EgressRule) -> &'a [Ipv4Net] {
        match rule.to.networks(&self.numbers.names) {
            [] if rule.verdict == Verdict::Deny => &EVERYTHING,
            networks => networks,
        }
    }

    /// The egress IP that a pod leaves with, if its project has any. The pods of a project are
    /// spread over its addresses by their names.
    #[must_use]
    pub fn leaving(&self, workload: Workload) -> Option<EgressAssignment> {
        match workload {
            Workload::Pod(id) => self.egress_ips.get(id.index()).copied().flatten(),
            Workload::Router(_) => None,
        }
    }

    /// The address by which the outside sees a pod.
    #[must_use]
    pub fn external_source(&self, workload: Workload) -> Ipv4Addr {
        let node = &self.intent[self.node(workload)];
        self.leaving(workload).map_or(node.address, |leaving| leaving.ip.address)
    }

    /// The pods that leave by a node, with their egress IPs.
    pub fn workloads_egressing_via(
        &self,
        node: NodeId,
    ) -> impl Iterator<Item = (Workload, EgressAssignment)> + '_ {
        let all = (0..).map(PodId::new).zip(&self.egress_ips);
        all.filter_map(move |(pod, leaving)| Some((Workload::Pod(pod), (*leaving)?)))
            .filter(move |(_, leaving)| leaving.ip.node == node)
    }

    /// The egress IPs that a node holds, each with its subject.
    pub fn egress_ips_on(&self, node: NodeId) -> impl Iterator<Item = (EgressIp, &ObjectRef)> {
        let all = self.intent.egress_ips.iter().flat_map(|list| &list.addresses);
        all.copied().zip(&self.subjects.egress_ips).filter(move |(ip, _)| ip.node == node)
    }

    /// An egress IP as a subject.
    #[must_use]
    pub fn egress_ip_subject(&self, leaving: EgressAssignment) -> &ObjectRef {
        &self.subjects.egress_ips[leaving.number]
    }

    /// Whether any service has an address.
    #[must_use]
    pub fn has_services(&self) -> bool {
        self.numbers.services.iter().any(Option::is_some)
    }

    /// The services that have an address, with it.
    pub fn services(&self) -> impl Iterator<Item = (ServiceId, Ipv4Addr)> {
        let services = self.intent.services().zip(&self.numbers.services);
        services.filter_map(|((id, _), address)| Some((id, (*address)?)))
    }

    /// Whether a node's own processes reach a service: where it isn't said whose they reach, where
    /// its project is among those or global, and where nodes serve it to the outside. They share
    /// what reaches every project with the global pods of their node.
    #[must_use]
    pub fn node_reaches(&self, node: NodeId, service: ServiceId) -> bool {
        self.nodes_reach(service) || self.has_global_workloads(node)
    }

    /// Whether the processes of every node reach a service.
    #[must_use]
    pub fn nodes_reach(&self, service: ServiceId) -> bool {
        self.beyond_nodes.get(service.index()).is_none_or(|beyond| !beyond)
    }

    /// Whether the processes of nodes that have no global pods don't reach a service, for each.
    fn beyond_nodes(&self) -> Vec<bool> {
        // Network policies keep nobody from a service as such.
        if self.mode() == Mode::Networkpolicy {
            return Vec::new();
        }
        let Some(declared) = self.intent.node_services() else { return Vec::new() };
        let served: BTreeSet<ServiceId> = self.node_ports.iter().map(|port| port.service).collect();
        let reached = |(id, service): (ServiceId, &Service)| {
            let project = service.project;
            declared.projects.contains(&project)
                || self.wire_vnid(project) == 0
                || served.contains(&id)
        };
        self.intent.services().map(|found| !reached(found)).collect()
    }

    /// Whether a node has pods or egress routers that reach every project.
    #[must_use]
    pub fn has_global_workloads(&self, node: NodeId) -> bool {
        self.mode().compares_vnids()
            && self.workloads(node).any(|who| self.wire_vnid(self.project(who)) == 0)
    }

    /// The services that a node needs: those that its own processes reach, or any of its pods.
    #[must_use]
    pub fn services_for(&self, node: NodeId) -> Vec<ServiceId> {
        let networks: BTreeSet<u32> =
            self.workloads(node).map(|workload| self.wire_vnid(self.project(workload))).collect();
        let all = self.has_global_workloads(node);
        let needed = |id: ServiceId| {
            all || networks.contains(&self.wire_vnid(self.intent[id].project))
                || self.nodes_reach(id)
        };
        self.services().map(|(id, _)| id).filter(|id| needed(*id)).collect()
    }

    /// The address of a service; `None` where it is headless.
    #[must_use]
    pub fn service_address(&self, service: ServiceId) -> Option<Ipv4Addr> {
        self.numbers.services[service.index()]
    }

    /// The ports of a service, each as a subject and with the number of its group.
    pub fn service_ports(
        &self,
        service: ServiceId,
    ) -> impl Iterator<Item = (&ServicePort, &ObjectRef, u32)> {
        let ports = self.intent[service].ports.iter().zip(&self.service_ports[service.index()]);
        ports.map(|(port, (subject, group))| (port, subject, *group))
    }

    /// The ports at which nodes serve services to the outside, by protocol and port.
    #[must_use]
    pub fn node_ports(&self) -> &[NodePort] {
        &self.node_ports
    }

    /// The port of the service that a node port leads to, as a subject and with the number of its
    /// group.
    #[must_use]
    pub fn service_port_of(&self, port: &NodePort) -> (&ServicePort, &ObjectRef, u32) {
        let (subject, group) = &self.service_ports[port.service.index()][port.index];
        (&self.intent[port.service].ports[port.index], subject, *group)
    }

    /// The ports of a node's address that are not served.
    pub fn blocked_at(
        &self,
        node: NodeId,
        address: Ipv4Addr,
    ) -> impl Iterator<Item = &NodePort> + '_ {
        let blocks = self.intent[node].blocks.iter();
        let blocks: Vec<_> = blocks.filter(|block| block.at == BlockAt::Address(address)).collect();
        let blocked = move |port: &&NodePort| {
            blocks.iter().any(|block| block.covers(port.protocol, port.port))
        };
        self.node_ports.iter().filter(blocked)
    }

    /// The meter of a pod that may send but so much, with that.
    #[must_use]
    pub fn meter(&self, workload: Workload) -> Option<(u32, Bandwidth)> {
        let Workload::Pod(id) = workload else { return None };
        self.meters[id.index()].zip(self.intent[id].egress)
    }

    /// Whether a service that has an address is for a pod or egress router.
    #[must_use]
    pub fn is_service_backend(&self, workload: Workload) -> bool {
        self.backs.contains(&workload)
    }

    /// A service as a subject.
    #[must_use]
    pub fn service_subject(&self, service: ServiceId) -> &ObjectRef {
        &self.subjects.services[service.index()]
    }

    /// The network as a whole, as the subject of what belongs to no single object.
    #[must_use]
    pub fn cluster_subject(&self) -> &ObjectRef {
        &self.subjects.cluster
    }

    /// A node as a subject.
    #[must_use]
    pub fn node_subject(&self, node: NodeId) -> &ObjectRef {
        &self.subjects.nodes[node.index()]
    }

    /// A project as a subject.
    #[must_use]
    pub fn project_subject(&self, project: ProjectId) -> &ObjectRef {
        &self.subjects.projects[project.index()]
    }

    /// A pod or egress router as a subject.
    #[must_use]
    pub fn workload_subject(&self, workload: Workload) -> &ObjectRef {
        match workload {
            Workload::Pod(id) => &self.subjects.pods[id.index()],
            Workload::Router(id) => &self.subjects.routers[id.index()],
        }
    }
}

/// Which egress IP each pod leaves with.
fn leaving(intent: &Intent) -> Vec<Option<EgressAssignment>> {
    if intent.egress_ips.is_empty() {
        return Vec::new();
    }
    let mut all: Vec<EgressIp> = Vec::new();
    let mut numbers: BTreeMap<ProjectId, Range<usize>> = BTreeMap::new();
    for list in &intent.egress_ips {
        numbers.insert(list.project, all.len()..all.len() + list.addresses.len());
        all.extend(&list.addresses);
    }
    let leaving = |(id, pod): (PodId, &Pod)| {
        let name = intent.pod_name(id);
        let weight = |number: &usize| hash(&format!("{name}/{}", all[*number].address));
        let number = numbers.get(&pod.project)?.clone().max_by_key(weight)?;
        Some(EgressAssignment { ip: all[number], number })
    };
    intent.pods().map(leaving).collect()
}

/// The meters of the pods that have one, by the hash of their names, or the next that is free.
fn meters(intent: &Intent) -> Vec<Option<u32>> {
    // Far below the first number that OpenFlow keeps for itself.
    const LAST: u32 = 0x00ff_ffff;
    let mut taken = BTreeSet::new();
    let number = |(id, pod): (PodId, &Pod)| {
        pod.egress?;
        let name = format!("meter/{}", intent.pod_name(id));
        let start = u32::try_from(hash(&name) % u64::from(LAST)).unwrap_or(0);
        let mut numbers = (start..LAST).chain(0..start).map(|number| number + 1);
        let free = numbers.find(|number| !taken.contains(number))?;
        taken.insert(free);
        Some(free)
    };
    intent.pods().map(number).collect()
}

/// The name of the veth on the node's side of the object with this cookie: as much of the cookie's
/// end as 15 bytes have room for.
#[must_use]
pub fn veth_name(cookie: Cookie) -> Option<InterfaceName> {
    let digits = format!("{:016x}", cookie.get());
    InterfaceName::parse(&format!("{}{}", crate::artifact::host::VETH_PREFIX, &digits[4..])).ok()
}
