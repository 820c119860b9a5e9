//! Tables 60 to 65: services, translated where the client is.
//!
//! The pods of a node reach services through flows that name their network, so a node has those
//! of the networks of its pods alone. Global pods reach all services, and so do the nodes' own
//! processes, unless `nodeServices` says whose: those flows are the same on every node that has
//! them, and are made once. A group is on the nodes that have a flow to it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

use super::{Builder, arp, host, ip, ip_to};
use crate::dataplane::openflow::{
    Action, ArpMatch, Bucket, CtState, Flow, Fragment, Group, IpMatch, L4, MaskedPort, Match,
    Packet, PrintedGroup, SharedFlows, free_number,
};
use crate::dataplane::origin::hash;
use crate::diagnostic::Diagnostic;
use crate::intent::{NodeId, ProjectId, Service, ServiceId, ServicePort};
use crate::model::{Model, Workload};
use crate::pipeline::{OfPort, Register, Table};
use crate::spec::{Mode, SessionAffinity};
use crate::value::{Datapath, Mac, Port, Protocol};

/// What routers tell senders: unreachable or too big, slow down, too many hops, a wrong header
/// (RFC 792).
const ICMP_ERRORS: [u8; 4] = [3, 4, 11, 12];

/// What many nodes have alike.
#[derive(Debug)]
pub(super) struct Shared<'m> {
    /// Table 60 for whoever reaches every project: the services that all nodes' processes reach, and
    /// the same for fragments that have no ports, on nodes whose conntrack leaves them as they are.
    nodes: [SharedFlows<'m>; 2],
    /// The same for the other services, which only nodes with global pods have.
    others: [SharedFlows<'m>; 2],
    /// Of each project: table 60 for its own network, the same for such fragments, and what replies
    /// come back through.
    projects: Vec<[SharedFlows<'m>; 3]>,
    /// Tables 60, 61 and 65 for the hosts outside that services are for.
    outside: [SharedFlows<'m>; 3],
    /// The groups by number, each with its service.
    groups: Vec<(ServiceId, PrintedGroup<'m>)>,
    /// By service, its address and its pods that are not ready.
    draining: BTreeMap<ServiceId, (Ipv4Addr, Vec<Ipv4Addr>)>,
}

impl<'m> Shared<'m> {
    pub(super) fn new(
        model: &'m Model,
        section: impl Fn(Vec<Flow<'m>>) -> Result<SharedFlows<'m>, Diagnostic>,
    ) -> Result<Self, Diagnostic> {
        // Of the services that nodes reach, and of the others.
        let mut all: [[Vec<Flow<'m>>; 2]; 2] = Default::default();
        let projects = model.intent().projects().len();
        let mut own: Vec<Vec<Flow<'m>>> = vec![Vec::new(); projects];
        let mut own_later: Vec<Vec<Flow<'m>>> = vec![Vec::new(); projects];
        let mut replies: Vec<Vec<Flow<'m>>> = vec![Vec::new(); projects];
        let mut groups = Vec::new();
        let mut outside = BTreeMap::new();
        for (id, _) in model.services() {
            let service = &model.intent()[id];
            let project = service.project.index();
            let network = model.service_network(service.project);
            let [all, all_later] = &mut all[usize::from(!model.nodes_reach(id))];
            for (port, subject, group) in model.service_ports(id) {
                if port.is_deserted() {
                    continue;
                }
                for (address, _) in &port.endpoints {
                    outside.entry(*address).or_insert(id);
                }
                // A service that everybody reaches has one flow for all.
                let from = network.map(|_| 0).filter(|_| model.mode().compares_vnids());
                let whole = to_port(model, id, (port, group), from, subject);
                let later = later(&whole, service, port.protocol);
                if network.is_some() {
                    let to_own = |flow: &Flow<'m>| {
                        let matches = Match { source: network, ..flow.matches.clone() };
                        Flow { matches, ..flow.clone() }
                    };
                    own[project].push(to_own(&whole));
                    own_later[project].extend(later.as_ref().map(to_own));
                }
                all.push(whole);
                all_later.extend(later);
                let group = Group {
                    id: group,
                    by_source: service.affinity == SessionAffinity::ClientIp,
                    buckets: buckets(model, port),
                    subject,
                };
                groups.push((id, group.into()));
            }
            let flow = refused(model, id, network);
            if network.is_some() {
                own[project].push(flow);
            } else {
                all.push(flow);
            }
            // Those that are no longer ready still have connections.
            for workload in &service.workloads {
                let flow = reply(model, id, *workload);
                if !replies[project].iter().any(|other| other.matches == flow.matches) {
                    replies[project].push(flow);
                }
            }
        }
        groups.sort_by_key(|(_, printed): &(_, PrintedGroup<'_>)| printed.group.id);
        let mut projects = Vec::with_capacity(own.len());
        for ((own, later), replies) in own.into_iter().zip(own_later).zip(replies) {
            projects.push([section(own)?, section(later)?, section(replies)?]);
        }
        let mut tables = [Vec::new(), Vec::new(), Vec::new()];
        for (host, id) in outside {
            for (table, flow) in tables.iter_mut().zip(to_outside(model, id, host)) {
                table.push(flow);
            }
        }
        let [first, second, third] = tables;
        let outside = [section(first)?, section(second)?, section(third)?];
        let [[reached, reached_later], [other, other_later]] = all;
        let nodes = [section(reached)?, section(reached_later)?];
        let others = [section(other)?, section(other_later)?];
        let draining = draining(model);
        Ok(Self { nodes, others, projects, outside, groups, draining })
    }

    /// The groups of some services, by number.
    fn groups_of(&self, services: &[ServiceId]) -> Vec<&PrintedGroup<'m>> {
        let mut needed = vec![false; services.iter().map(|id| id.index() + 1).max().unwrap_or(0)];
        for id in services {
            needed[id.index()] = true;
        }
        let needed = |id: ServiceId| needed.get(id.index()).is_some_and(|needed| *needed);
        let groups = self.groups.iter().filter(|(service, _)| needed(*service));
        groups.map(|(_, printed)| printed).collect()
    }

    /// By the addresses of the services that a node needs, those of pods that are not ready.
    pub(super) fn draining(
        &self,
        model: &Model,
        node: NodeId,
    ) -> BTreeMap<Ipv4Addr, Vec<Ipv4Addr>> {
        if self.draining.is_empty() {
            return BTreeMap::new();
        }
        let services = model.services_for(node);
        let draining = self.draining.iter().filter(|(id, _)| services.binary_search(id).is_ok());
        draining.map(|(_, (address, pods))| (*address, pods.clone())).collect()
    }
}

/// The pods of services that are not ready and keep their connections. Those of an unavailable node
/// have none that would be worth it.
fn draining(model: &Model) -> BTreeMap<ServiceId, (Ipv4Addr, Vec<Ipv4Addr>)> {
    let intent = model.intent();
    let pods = |id: ServiceId| {
        let pods = intent[id].workloads.iter().filter(|workload| match workload {
            Workload::Pod(pod) => {
                let pod = &intent[*pod];
                !pod.ready && !intent[pod.node].unavailable
            }
            Workload::Router(_) => false,
        });
        let mut pods: Vec<Ipv4Addr> = pods.map(|pod| model.endpoint(*pod).address).collect();
        pods.sort_unstable();
        pods
    };
    let services = model.services().map(|(id, address)| (id, (address, pods(id))));
    services.filter(|(_, (_, pods))| !pods.is_empty()).collect()
}

pub(super) fn lower(builder: &mut Builder<'_>) {
    if !builder.model.has_services() {
        builder.default(Table::Service, vec![]);
        return;
    }
    let services = builder.model.services_for(builder.node);
    builder.flows.set_groups(builder.common.services().groups_of(&services));
    to_services(builder);
    to_pods(builder);
    loops(builder);
    replies(builder);
}

/// The node's processes ask for services on `tun0`, and any answer will do.
pub(super) fn arp_from_host(builder: &mut Builder<'_>) {
    let model = builder.model;
    if !model.has_services() {
        return;
    }
    let network = model.intent().cluster().service_network;
    let gateway = Some(host(model.gateway(builder.node)));
    let matches =
        arp(ArpMatch { spa: gateway, tpa: Some(network), request: true, ..ArpMatch::default() });
    let actions = vec![Action::ArpReply(Mac::of_ipv4(network.network()))];
    builder.flow(model.node_subject(builder.node), Table::FromHost, 310, matches, actions);
}

/// Table 60.
fn to_services(builder: &mut Builder<'_>) {
    let model = builder.model;
    let cluster = model.cluster_subject();
    let table = Table::Service;
    // Conntrack has translated what belongs to a connection, or repeats its first packet.
    for network in &model.intent().cluster().pod_networks {
        let onwards = vec![Action::Goto(Table::ServicePod)];
        builder.flow(cluster, table, 200, ip_to(network.cidr), onwards);
    }
    let shared = builder.common.services();
    let userspace = model.datapath(builder.node) == Datapath::Netdev;
    let all = model.has_global_workloads(builder.node);
    for [whole, later] in [&shared.nodes].into_iter().chain(all.then_some(&shared.others)) {
        builder.flows.push_shared(whole.all());
        if userspace {
            builder.flows.push_shared(later.all());
        }
    }
    for outside in &shared.outside {
        builder.flows.push_shared(outside.all());
    }
    let networks: BTreeSet<u32> =
        model.workloads(builder.node).map(|t| model.vnid(model.project(t)).get()).collect();
    for (id, _) in model.intent().projects() {
        if networks.contains(&model.vnid(id).get()) {
            let [own, later, _] = &shared.projects[id.index()];
            builder.flows.push_shared(own.all());
            if userspace {
                builder.flows.push_shared(later.all());
            }
        }
    }
    for (service, workload) in local_workloads(builder) {
        // A pod's answer to itself: sent to the service, at a port that the service doesn't have.
        let address = model.endpoint(workload).address;
        let to = model.service_address(service).map(host);
        let matches = ip(IpMatch { src: Some(host(address)), dst: to, ..IpMatch::default() });
        let back =
            vec![Action::SetIpDst(address), Action::CtClear, Action::Track(Table::ServiceLoop)];
        builder.flow(model.service_subject(service), table, 60, matches, back);
    }
    // Whoever reaches everything may know what isn't there.
    let from = model.mode().compares_vnids().then_some(0);
    let new = Some(CtState::New);
    let matches = Match { ct: new, source: from, ..ip(IpMatch::default()) };
    builder.flow(cluster, table, 10, matches, vec![Action::Goto(Table::ServiceRefusal)]);
    builder.default(table, vec![]);
    let refuse = vec![
        Action::SetEthDst(Mac::of_ipv4(model.gateway(builder.node))),
        Action::ClearInPort,
        Action::Output(OfPort::TUN),
    ];
    builder.default(Table::ServiceRefusal, refuse);
}

/// The services with an address that are for pods or egress routers of this node.
fn local_workloads(builder: &Builder<'_>) -> BTreeSet<(ServiceId, Workload)> {
    let model = builder.model;
    let intent = model.intent();
    let local: BTreeSet<ProjectId> =
        model.workloads(builder.node).map(|workload| model.project(workload)).collect();
    let services = model.services().filter(|(id, _)| local.contains(&intent[*id].project));
    let all = services.flat_map(|(id, _)| intent[id].workloads.iter().map(move |who| (id, *who)));
    all.filter(|(_, workload)| model.node(*workload) == builder.node).collect()
}

/// A new connection to a port chooses a pod.
fn to_port<'m>(
    model: &'m Model,
    service: ServiceId,
    (port, group): (&ServicePort, u32),
    from: Option<u32>,
    subject: &'m crate::dataplane::origin::ObjectRef,
) -> Flow<'m> {
    let l4 = L4::of(port.protocol, Some(MaskedPort::exact(port.port.get())));
    let dst = model.service_address(service).map(host);
    let matches = ip(IpMatch { dst, l4, ..IpMatch::default() });
    Flow {
        table: Table::Service,
        priority: 100,
        matches: Match { ct: Some(CtState::New), source: from, ..matches },
        actions: vec![Action::Group(group)],
        subject,
        also: Vec::new(),
    }
}

/// A flow to a port of new connections, for the fragments that don't have it, if no other port of its
/// service has that protocol. Conntrack in userspace lets go of fragments one by one, when it has all
/// of them: so the last of them has to be led to where the first is.
fn later<'m>(whole: &Flow<'m>, service: &Service, protocol: Protocol) -> Option<Flow<'m>> {
    let Packet::Ip(conditions) = &whole.matches.packet else { return None };
    if service.ports.iter().filter(|port| port.protocol == protocol).count() > 1 {
        return None;
    }
    let (l4, fragment) = (L4::of(protocol, None), Some(Fragment::Later));
    let packet = Packet::Ip(IpMatch { l4, fragment, ..conditions.clone() });
    Some(Flow { matches: Match { packet, ..whole.matches.clone() }, ..whole.clone() })
}

/// What else begins at a service is refused to those who may reach it. What is amiss is dropped: a
/// refusal would end a connection for one stray packet.
fn refused(model: &Model, service: ServiceId, from: Option<u32>) -> Flow<'_> {
    let dst = model.service_address(service).map(host);
    Flow {
        table: Table::Service,
        priority: 50,
        matches: Match {
            ct: Some(CtState::New),
            source: from,
            ..ip(IpMatch { dst, ..IpMatch::default() })
        },
        actions: vec![Action::Goto(Table::ServiceRefusal)],
        subject: model.service_subject(service),
        also: Vec::new(),
    }
}

fn buckets(model: &Model, port: &ServicePort) -> Vec<Bucket> {
    let mut taken = BTreeSet::new();
    let workloads = port.backends.iter().map(|(workload, to)| {
        let name = match workload {
            Workload::Pod(pod) => model.intent().pod_name(*pod),
            // No pod's name has a space.
            Workload::Router(router) => format!("router {}", model.intent()[*router].name),
        };
        (name, model.endpoint(*workload).address, *to)
    });
    let hosts = port.endpoints.iter().map(|(address, to)| (address.to_string(), *address, *to));
    let bucket = |(name, address, to): (String, Ipv4Addr, Port)| {
        // Numbers are their own: who comes or goes moves no other's clients.
        let id = free_number(hash(&name), &taken);
        taken.insert(id);
        Bucket {
            id,
            to: address,
            // Not every conntrack of Open vSwitch knows the ports of SCTP.
            port: (port.protocol != Protocol::Sctp).then_some(to.get()),
        }
    };
    let mut buckets: Vec<Bucket> = workloads.chain(hosts).map(bucket).collect();
    buckets.sort();
    buckets
}

/// Tables 60, 61 and 65. What is translated to a host outside leaves as if it had been sent there, by
/// the egress policy of its sender; what comes from that host may be a reply.
fn to_outside(model: &Model, service: ServiceId, address: Ipv4Addr) -> [Flow<'_>; 3] {
    let subject = model.service_subject(service);
    let to = ip_to(host(address));
    let from = ip(IpMatch { src: Some(host(address)), ..IpMatch::default() });
    let leave = Action::Goto(Table::Leave);
    // Network policies see to whom it goes before it leaves.
    let onwards = match model.mode() {
        Mode::Networkpolicy => Action::Goto(Table::ServicePod),
        Mode::Subnet | Mode::Multitenant => leave.clone(),
    };
    let (table, out) = reply_tables(model);
    let flow = |table, priority, matches, action| Flow {
        table,
        priority,
        matches,
        actions: vec![action],
        subject,
        also: Vec::new(),
    };
    [
        flow(Table::Service, 200, to.clone(), onwards),
        flow(Table::ServicePod, 150, to, leave),
        flow(table, 100, from, Action::Track(out)),
    ]
}

/// What comes from a pod or egress router of a service may be a reply by it. Fragments and errors too,
/// so it is all that comes from there.
fn reply(model: &Model, service: ServiceId, workload: Workload) -> Flow<'_> {
    let src = Some(host(model.endpoint(workload).address));
    let (table, out) = reply_tables(model);
    Flow {
        table,
        priority: 100,
        matches: ip(IpMatch { src, ..IpMatch::default() }),
        actions: vec![Action::Track(out)],
        subject: model.service_subject(service),
        also: Vec::new(),
    }
}

/// Table 61: on as for direct traffic, but for a pod that got itself.
fn to_pods(builder: &mut Builder<'_>) {
    let model = builder.model;
    let own = model.node_subject(builder.node);
    for workload in
        model.workloads(builder.node).filter(|workload| model.is_service_backend(*workload))
    {
        let endpoint = model.endpoint(workload);
        let address = Some(host(endpoint.address));
        let matches = ip(IpMatch { src: address, dst: address, ..IpMatch::default() });
        // No kernel takes a packet from itself by a wire: it comes from the service.
        let mut actions = vec![Action::RestoreIpSrc];
        actions.extend(back_to(endpoint));
        builder.flow(model.workload_subject(workload), Table::ServicePod, 200, matches, actions);
    }
    let subnet = ip_to(model.subnet(builder.node));
    builder.flow(own, Table::ServicePod, 100, subnet, vec![Action::Goto(Table::LocalPod)]);
    builder.default(Table::ServicePod, vec![Action::Goto(Table::RemotePod)]);
}

/// Out of the port where it came from.
fn back_to(endpoint: crate::allocate::PortBinding) -> [Action; 4] {
    [
        Action::SetEthDst(endpoint.mac),
        Action::Load(Register::Port, endpoint.port.get().into()),
        Action::ClearInPort,
        Action::OutputRegister,
    ]
}

/// Table 62: a pod's answers to itself.
fn loops(builder: &mut Builder<'_>) {
    let model = builder.model;
    let table = Table::ServiceLoop;
    for workload in
        model.workloads(builder.node).filter(|workload| model.is_service_backend(*workload))
    {
        let endpoint = model.endpoint(workload);
        let matches = Match { ct: Some(CtState::Reply), ..ip_to(host(endpoint.address)) };
        let subject = model.workload_subject(workload);
        builder.flow(subject, table, 100, matches, back_to(endpoint).to_vec());
    }
    let refuse = vec![Action::RestoreIpDst, Action::Goto(Table::ServiceRefusal)];
    let new = Match { ct: Some(CtState::New), ..ip(IpMatch::default()) };
    builder.flow(model.cluster_subject(), table, 50, new, refuse);
    builder.default(table, vec![]);
}

/// Where a reply gets the address of its service again, and where it goes on: network policies have to
/// see who really sent it, so behind them in their mode.
fn reply_tables(model: &Model) -> (Table, Table) {
    match model.mode() {
        Mode::Networkpolicy => (Table::PolicyServiceReply, Table::PolicyOut),
        Mode::Subnet | Mode::Multitenant => (Table::ServiceReply, Table::LocalPod),
    }
}

/// Table 65, and what replies have of table 85.
fn replies(builder: &mut Builder<'_>) {
    let model = builder.model;
    let own = model.node_subject(builder.node);
    let table = Table::ServiceReply;
    let shared = builder.common.services();
    let networks: BTreeSet<u32> =
        model.workloads(builder.node).map(|t| model.vnid(model.project(t)).get()).collect();
    for (id, _) in model.intent().projects() {
        let vnid = model.vnid(id).get();
        let all = !model.mode().compares_vnids() || vnid == 0 || networks.contains(&0);
        if !networks.is_empty() && (all || networks.contains(&vnid)) {
            builder.flows.push_shared(shared.projects[id.index()][2].all());
        }
    }
    // The node's own processes reach every service: all that comes to them may be a reply.
    let gateway = ip_to(host(model.gateway(builder.node)));
    builder.flow(own, table, 50, gateway, vec![Action::Track(Table::LocalPod)]);
    let mut ports = model.services().flat_map(|(id, _)| model.service_ports(id));
    if ports.any(|(port, ..)| !port.endpoints.is_empty()) {
        // A router on the way to a host outside speaks of the host, not of the service.
        for kind in ICMP_ERRORS {
            let error = ip(IpMatch { l4: L4::Icmp(kind), ..IpMatch::default() });
            let from_outside = Match { source: Some(0), ..error };
            let (table, out) = reply_tables(model);
            let actions = vec![Action::Track(out)];
            builder.flow(model.cluster_subject(), table, 90, from_outside, actions);
        }
    }
    builder.default(table, vec![Action::Goto(Table::LocalPod)]);
}
