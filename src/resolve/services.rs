//! The section `projects[].services`: selectors become pods and egress routers, target ports become
//! numbers.

mod endpoints;
mod routers;

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use ipnet::Ipv4Net;

use self::endpoints::Endpoints;
use self::routers::Routers;
use super::outside::Outside;
use super::{Context, Nodes, Projects, Wire, node_ports, unique};
use crate::diagnostic::{Code, Diagnostic, listed, nearest};
use crate::input::Cursor;
use crate::intent::{
    EgressPolicy, EgressRouter, Fixed, PodId, ProjectId, Service, ServiceAddress, ServicePort,
    Workload,
};
use crate::spec::{self, ServiceType, SessionAffinity, TargetPort};
use crate::value::{ClusterIp, Name, Port, Protocol};

pub(super) fn resolve(
    wire: &Wire<'_>,
    nodes: &Nodes<'_>,
    projects: &Projects<'_>,
    policies: &[EgressPolicy],
    routers: &[EgressRouter],
    outside: &Outside<'_>,
    context: &mut Context,
) -> Vec<Service> {
    let written = wire.items("egressRouters", |state| &state.egress_routers);
    let routers = Routers::new(routers, written.map(|(_, router)| router));
    let mut resolver = Resolver { projects, policies, routers, outside, named: BTreeMap::new() };
    resolver.pod_ports(context);
    let mut services = Vec::new();
    let mut pods = 0;
    for (index, (at, project)) in projects.wire.iter().enumerate() {
        let id = ProjectId::new(index);
        // The pods of a project stand together, in the order of the projects.
        let first = pods;
        pods += projects.pods[first..].iter().take_while(|pod| pod.project == id).count();
        let own: Vec<PodId> = (first..pods).map(PodId::new).collect();
        let items =
            at.find("services").into_iter().flat_map(Cursor::children).zip(&project.services);
        for (at, wire) in unique("service", items, |service| &service.name, context) {
            services.push(resolver.service(id, &own, (at, wire), context));
        }
    }
    address_twice(&services, projects, context);
    node_ports::clashes(&services, nodes, projects, outside.cluster, context);
    services
}

/// How many may be behind a port: a group of OpenFlow has to fit into a message, and has room for
/// 1,020 (64 bytes each).
const MAX_TARGETS: usize = 1000;

struct Resolver<'a> {
    projects: &'a Projects<'a>,
    policies: &'a [EgressPolicy],
    routers: Routers<'a>,
    outside: &'a Outside<'a>,
    /// The named ports of each pod.
    named: BTreeMap<(PodId, Protocol, &'a Name), Port>,
}

impl Resolver<'_> {
    /// RF128: a pod has one port of a name and protocol.
    fn pod_ports(&mut self, context: &mut Context) {
        for (index, (at, pod)) in self.projects.wire_pods.iter().enumerate() {
            let items = at.find("ports").into_iter().flat_map(Cursor::children).zip(&pod.ports);
            let mut first: BTreeMap<(Protocol, &Name), Cursor<'_>> = BTreeMap::new();
            for (at, wire) in items {
                let spec::PodPort { name, port, protocol } = wire;
                let protocol = Protocol::from(*protocol);
                if let Some(first) = first.get(&(protocol, name)) {
                    let message = format!(
                        "the pod `{}` has two {protocol} ports with the name `{name}`",
                        pod.name
                    );
                    context.push(
                        Diagnostic::new(Code::PodPortTwice, message)
                            .at(at.key("name").place())
                            .related(first.key("name").place(), "the other")
                            .help("remove one of the two, or rename it"),
                    );
                    continue;
                }
                first.insert((protocol, name), at);
                self.named.insert((PodId::new(index), protocol, name), *port);
            }
        }
    }

    fn service(
        &self,
        project: ProjectId,
        own: &[PodId],
        (at, wire): (Cursor<'_>, &spec::Service),
        context: &mut Context,
    ) -> Service {
        let spec::Service {
            name,
            kind,
            selector,
            egress_router: _,
            endpoints,
            ports,
            cluster_ip,
            session_affinity,
        } = wire;
        let routers = self.routers.of(project, self.projects, (at, wire), context);
        let selected = match selector {
            Some(selector) => {
                let (at, alone) = (at.key("selector"), routers.is_empty());
                self.selected((name, selector), own, alone, at, context)
            }
            None => Vec::new(),
        };
        let endpoints = Endpoints::resolve(endpoints, (at, wire), self.outside, context);
        let address = self.address(cluster_ip.as_ref(), at.key("clusterIP").place(), context);
        if address == ServiceAddress::Headless && *kind != ServiceType::ClusterIp {
            node_ports::headless(name, *kind, at, context);
        }
        if *kind != ServiceType::ClusterIp && *session_affinity == SessionAffinity::ClientIp {
            node_ports::affinity(name, at.key("sessionAffinity").place(), context);
        }
        if ports.is_empty() && address != ServiceAddress::Headless {
            no_ports(name, at, context);
        }
        let items: Vec<(Cursor<'_>, &spec::ServicePort)> =
            at.find("ports").into_iter().flat_map(Cursor::children).zip(ports).collect();
        port_names(name, &items, context);
        let mut by_number: BTreeMap<(Protocol, Port), (Cursor<'_>, ServicePort)> = BTreeMap::new();
        for (at, wire) in items {
            let spec::ServicePort { name: _, protocol, port, target_port, node_port } = wire;
            let (protocol, port) = (Protocol::from(*protocol), *port);
            if let Some((first, _)) = by_number.get(&(protocol, port)) {
                let message = format!("the service `{name}` has the port {port}/{protocol} twice");
                context.push(
                    Diagnostic::new(Code::ServicePortTwice, message)
                        .at(at.key("port").place())
                        .related(first.key("port").place(), "the other")
                        .help(
                            "remove one of the two; for several pods let the selector match them",
                        ),
                );
                continue;
            }
            let mut pods: Vec<(PodId, Port)> = match target_port {
                None => selected.iter().map(|pod| (*pod, port)).collect(),
                Some(TargetPort::Number(to)) => selected.iter().map(|pod| (*pod, *to)).collect(),
                Some(TargetPort::Named(to)) => {
                    self.named_backends(&selected, protocol, to, at, context)
                }
            };
            let routers = self.routers.at_port(&routers, wire, at, context);
            let outside = endpoints.at_port(wire, at, context);
            if let Some((_, to)) = outside.first() {
                let policy = self.policies.iter().find(|policy| policy.project == project);
                endpoints.denied(*to, protocol, policy, context);
            }
            let targets = pods.iter().map(|(_, to)| to).chain(routers.iter().map(|(_, to)| to));
            let targets = targets.chain(outside.iter().map(|(_, to)| to));
            sctp_port(protocol, port, targets, at, context);
            too_many(pods.len() + routers.len() + outside.len(), at, context);
            pods.retain(|(pod, _)| self.projects.pods[pod.index()].ready);
            let pods = pods.into_iter().map(|(pod, to)| (Workload::Pod(pod), to));
            let routers = routers.into_iter().map(|(router, to)| (Workload::Router(router), to));
            let backends = pods.chain(routers).collect();
            let fixed_node_port = node_port.map(|value| {
                let place = at.key("nodePort").place();
                node_ports::of_type(name, *kind, value, place, context);
                Fixed { value, place }
            });
            let place = at.place();
            let port = ServicePort {
                protocol,
                port,
                backends,
                endpoints: outside,
                fixed_node_port,
                place,
            };
            by_number.insert((protocol, port.port), (at, port));
        }
        Service {
            project,
            name: name.clone(),
            kind: *kind,
            address,
            affinity: *session_affinity,
            workloads: selected
                .into_iter()
                .map(Workload::Pod)
                .chain(routers.into_iter().map(Workload::Router))
                .collect(),
            ports: by_number.into_values().map(|(_, port)| port).collect(),
            place: at.place(),
        }
    }

    /// The pods of a project that a selector means, which are all of it where it is `alone`.
    fn selected(
        &self,
        (service, selector): (&Name, &spec::Selector),
        own: &[PodId],
        alone: bool,
        at: Cursor<'_>,
        context: &mut Context,
    ) -> Vec<PodId> {
        let good = context.check_selector(selector, at);
        let empty = selector.labels.is_empty() && selector.expressions.is_empty();
        if empty {
            // In Kubernetes it would mean no pods, everywhere else in ringfence it means all.
            context.push(
                Diagnostic::new(
                    Code::MissingKey,
                    format!("the selector of the service `{service}` is empty"),
                )
                .at(at.place())
                .help("name a label that its pods have, such as `{app: web}`"),
            );
        }
        let own = own.iter().copied();
        let selected: Vec<PodId> =
            own.filter(|pod| selector.matches(&self.projects.pods[pod.index()].labels)).collect();
        if good && !empty && selected.is_empty() && alone {
            context.selector_matches_nothing("pod", at.place());
        }
        selected
    }

    /// RF122 and RF123: the selected pods have a port of that name.
    fn named_backends(
        &self,
        selected: &[PodId],
        protocol: Protocol,
        to: &Name,
        at: Cursor<'_>,
        context: &mut Context,
    ) -> Vec<(PodId, Port)> {
        let port = |pod: &PodId| self.named.get(&(*pod, protocol, to)).map(|port| (*pod, *port));
        let backends: Vec<(PodId, Port)> = selected.iter().filter_map(port).collect();
        let pod_name = |pod: &PodId| &self.projects.pods[pod.index()].name;
        let lacking: Vec<&Name> =
            selected.iter().filter(|pod| port(pod).is_none()).map(pod_name).collect();
        let place = at.key("targetPort").place();
        if backends.is_empty() && !selected.is_empty() {
            let known = self
                .named
                .keys()
                .filter(|(pod, other, _)| *other == protocol && selected.contains(pod));
            let meant = nearest(to.as_str(), known.map(|(_, _, name)| name.as_str()));
            let message = format!("no selected pod has a {protocol} port with the name `{to}`");
            context.push(Diagnostic::new(Code::ServiceTargetPort, message).at(place).help(
                match meant {
                    Some(meant) => format!("did you mean `{meant}`?"),
                    None => format!(
                        "give the pods `ports: [{{name: {to}, port: …}}]`, or write the number"
                    ),
                },
            ));
        } else if !lacking.is_empty() {
            let (verb, them) = if lacking.len() == 1 { ("has", "it") } else { ("have", "they") };
            let message = format!("{} {verb} no {protocol} port `{to}`", listed(&lacking));
            context.push(
                Diagnostic::new(Code::ServiceTargetPartial, message)
                    .at(place)
                    .help(format!("{them} will get no connections; add the port or another label")),
            );
        }
        backends
    }

    /// RF124 and RF125: a fixed address is one of the service network that a host could have.
    fn address(
        &self,
        wire: Option<&ClusterIp>,
        place: crate::diagnostic::Place,
        context: &mut Context,
    ) -> ServiceAddress {
        let address = match wire {
            None => return ServiceAddress::Allocated,
            Some(ClusterIp::None) => return ServiceAddress::Headless,
            Some(ClusterIp::Address(address)) => address,
        };
        let Some(value) = context.take(crate::value::ipv4(address), place) else {
            return ServiceAddress::Allocated;
        };
        let network = self.outside.cluster.service_network;
        if !network.contains(&value) {
            let message = format!("{value} is outside of {network}, the service network");
            context.push(
                Diagnostic::new(Code::ServiceAddressOutside, message)
                    .at(place)
                    .help("leave `clusterIP` out, or choose an address of the service network"),
            );
        } else if let Some(what) = reserved(value, network) {
            let message = format!("{value} is the {what} of {network}");
            context.push(
                Diagnostic::new(Code::ServiceAddressReserved, message)
                    .at(place)
                    .help("choose another address of the service network"),
            );
        }
        ServiceAddress::Fixed(Fixed { value, place })
    }
}

/// RF006: an address has ports.
fn no_ports(service: &Name, at: Cursor<'_>, context: &mut Context) {
    context.push(
        Diagnostic::new(Code::MissingKey, format!("the service `{service}` has no `ports`"))
            .at(at.place())
            .help("list at least one port, or set `clusterIP: None`"),
    );
}

/// RF147: all that is behind a port fits into one group.
fn too_many(targets: usize, at: Cursor<'_>, context: &mut Context) {
    if targets > MAX_TARGETS {
        let message = format!("{targets} are behind this port of the service");
        context.push(
            Diagnostic::new(Code::ServiceTooLarge, message)
                .at(at.key("port").place())
                .help(format!("{MAX_TARGETS} is the most; divide them among several services")),
        );
    }
}

/// RF129: conntrack of Open vSwitch's userspace datapath doesn't know the ports of SCTP.
fn sctp_port<'t>(
    protocol: Protocol,
    port: Port,
    mut targets: impl Iterator<Item = &'t Port>,
    at: Cursor<'_>,
    context: &mut Context,
) {
    let other = targets.find(|to| protocol == Protocol::Sctp && **to != port);
    if let Some(to) = other {
        let message = format!("the SCTP port {port} of a service can't lead to port {to}");
        context.push(
            Diagnostic::new(Code::ServiceSctpPort, message)
                .at(at.key("targetPort").place())
                .help("let whoever is behind it listen at the port of the service"),
        );
    }
}

fn reserved(address: Ipv4Addr, network: Ipv4Net) -> Option<&'static str> {
    if address == network.network() {
        Some("network address")
    } else if address == network.broadcast() {
        Some("broadcast address")
    } else {
        None
    }
}

/// RF121: several ports are told apart by their names.
fn port_names(service: &Name, items: &[(Cursor<'_>, &spec::ServicePort)], context: &mut Context) {
    let mut first: BTreeMap<&Name, Cursor<'_>> = BTreeMap::new();
    for (at, port) in items {
        let Some(name) = &port.name else {
            if items.len() > 1 {
                let message =
                    format!("the port {} of the service `{service}` has no name", port.port);
                context.push(
                    Diagnostic::new(Code::ServicePortName, message)
                        .at(at.place())
                        .help("name every port of a service that has several"),
                );
            }
            continue;
        };
        if let Some(first) = first.get(name) {
            let message = format!("the service `{service}` has two ports with the name `{name}`");
            context.push(
                Diagnostic::new(Code::ServicePortName, message)
                    .at(at.key("name").place())
                    .related(first.key("name").place(), "the other")
                    .help("give each a name of its own"),
            );
        } else {
            first.insert(name, *at);
        }
    }
}

/// RF126: no two services have the same address.
fn address_twice(services: &[Service], projects: &Projects<'_>, context: &mut Context) {
    let mut taken: BTreeMap<Ipv4Addr, (&Service, crate::diagnostic::Place)> = BTreeMap::new();
    let name = |service: &Service| {
        format!("`{}/{}`", projects.list[service.project.index()].name, service.name)
    };
    for service in services {
        let ServiceAddress::Fixed(Fixed { value, place }) = service.address else { continue };
        if let Some((first, first_place)) = taken.get(&value) {
            let message = format!(
                "the services {} and {} have the address {value}",
                name(first),
                name(service)
            );
            context.push(
                Diagnostic::new(Code::ServiceAddressTwice, message)
                    .at(place)
                    .related(*first_place, "the other")
                    .help("give each its own, or leave one out to be allocated"),
            );
        } else {
            taken.insert(value, (service, place));
        }
    }
}
