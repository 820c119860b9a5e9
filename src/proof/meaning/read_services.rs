//! From typed documents to services, egress IPs and egress routers.

use std::collections::{BTreeMap, BTreeSet};

use super::outside::{EgressIps, Redirect, Router};
use super::read::{Reader, cidr, protocol, v4};
use super::services::{NodePort, Service, ServicePort};
use crate::diagnostic::Place;
use crate::input::Cursor;
use crate::proof::frame::{Range, proto};
use crate::spec::{self, ServiceType, SessionAffinity, TargetPort};
use crate::value::{ClusterIp, Protocol};

impl<'d> Reader<'d> {
    /// Reads the services, when pods and routers are known.
    pub(super) fn services(&mut self) -> Result<(), String> {
        let declared: Vec<&spec::ProjectSet> =
            self.documents.iter().filter_map(|(_, state)| state.node_services.as_ref()).collect();
        let mut by_nodes: Option<BTreeSet<usize>> = None;
        for set in declared {
            let members = self.members(&set.projects, set.selector.as_ref(), &BTreeSet::new())?;
            by_nodes.get_or_insert_default().extend(members);
        }
        for (number, (at, project)) in
            self.items("projects", |state| &state.projects).into_iter().enumerate()
        {
            let places = at.find("services").into_iter().flat_map(Cursor::children);
            for (at, wire) in places.zip(&project.services) {
                if wire.cluster_ip != Some(ClusterIp::None) {
                    let reached = by_nodes.as_ref().is_none_or(|by| by.contains(&number));
                    self.service(number, wire, at.place(), reached)?;
                }
            }
        }
        self.node_addresses()?;
        self.meaning.services.number();
        let services = &mut self.meaning.services;
        // Numbers of services are those of the sorted list.
        let mut node_ports = BTreeMap::new();
        for (key, address, index) in std::mem::take(&mut self.node_ports) {
            let at = services.all.binary_search_by_key(&address, |service| service.address);
            let service = at.map_err(|_| "a node port without a service".to_owned())?;
            let port = services.all[service]
                .ports
                .iter()
                .position(|port| (port.proto, port.port) == index);
            let port = port.ok_or("a node port without a port")?;
            let served = key.0 != proto::SCTP || key.1 == index.1;
            if node_ports.insert(key, NodePort { service, port, served }).is_some() {
                return Err("two services have one node port".to_owned());
            }
        }
        services.node_ports = node_ports;
        if services.all.windows(2).any(|pair| pair[0].address == pair[1].address) {
            return Err("two services have one address".to_owned());
        }
        let network = self.meaning.service_network;
        let inside = |service: &Service| (network.0..=network.1).contains(&service.address);
        if !services.all.iter().all(inside) {
            return Err("the address of a service is outside of the service network".to_owned());
        }
        Ok(())
    }

    fn service(
        &mut self,
        project: usize,
        wire: &'d spec::Service,
        place: Place,
        reached: bool,
    ) -> Result<(), String> {
        let name = format!("{}/{}", self.meaning.projects[project].name, wire.name);
        let address = if let Some(ClusterIp::Address(address)) = &wire.cluster_ip {
            v4(address.0)?
        } else {
            let text = self.lock.get("services", &name)?;
            let address: std::net::Ipv4Addr =
                text.parse().map_err(|_| format!("the lock file has `{text}` for `{name}`"))?;
            u64::from(u32::from(address))
        };
        let outside = wire.kind != ServiceType::ClusterIp;
        let vnid = self.meaning.vnid(project);
        let mut service = Service {
            name: name.clone(),
            address,
            vnid,
            affinity: wire.session_affinity == SessionAffinity::ClientIp,
            by_nodes: reached || vnid == 0 || outside,
            ports: Vec::new(),
            place,
        };
        let selected: Vec<(u64, usize, &spec::Pod)> = match &wire.selector {
            Some(selector) => {
                let all = self.pods_of.get(&project).into_iter().flatten();
                all.filter(|(_, _, pod)| selector.matches(&pod.labels)).copied().collect()
            }
            None => Vec::new(),
        };
        let routers: Vec<u64> = self
            .routers_of
            .iter()
            .filter(|(of, _, router)| {
                *of == project
                    && match (&wire.egress_router, &wire.selector) {
                        (Some(name), _) => router.name == *name,
                        (None, Some(selector)) => {
                            !router.labels.0.is_empty() && selector.matches(&router.labels)
                        }
                        (None, None) => false,
                    }
            })
            .map(|(_, address, _)| *address)
            .collect();
        let mut endpoints = BTreeSet::new();
        for address in &wire.endpoints {
            endpoints.insert(v4(address.0)?);
        }
        let answering =
            selected.iter().map(|(address, ..)| *address).chain(routers.iter().copied());
        self.meaning.services.answering.extend(answering);
        for port in &wire.ports {
            let l4 = protocol(Protocol::from(port.protocol));
            let number = u64::from(port.port.get());
            let target = |pod: Option<&spec::Pod>| match &port.target_port {
                None => Some(number),
                Some(TargetPort::Number(to)) => Some(u64::from(to.get())),
                Some(TargetPort::Named(name)) => pod?.ports.iter().find_map(|own| {
                    let same = own.name == *name && protocol(Protocol::from(own.protocol)) == l4;
                    same.then(|| u64::from(own.port.get()))
                }),
            };
            let kept = |to: u64| Some(to).filter(|_| l4 != proto::SCTP);
            let mut targets: Vec<(u64, Option<u64>)> = Vec::new();
            for (address, node, pod) in &selected {
                let available = pod.ready.unwrap_or(true) && !self.unavailable.contains(node);
                if let Some(to) = target(Some(pod)).filter(|_| available) {
                    targets.push((*address, kept(to)));
                }
            }
            for address in routers.iter().chain(&endpoints) {
                targets.extend(target(None).map(|to| (*address, kept(to))));
            }
            if endpoints.len() + routers.len() + selected.len() > 0 && !endpoints.is_empty() {
                self.meaning.services.endpoints.extend(&endpoints);
            }
            service.ports.push(ServicePort { proto: l4, port: number, targets, list: 0 });
            if !outside {
                continue;
            }
            let node_port = if let Some(port) = port.node_port {
                u64::from(port.get())
            } else {
                let protocol = proto::NAMES[usize::try_from(l4).unwrap_or(0)];
                let key = format!("{name}/{number}/{protocol}");
                let text = self.lock.get("nodePorts", &key)?;
                text.parse().map_err(|_| format!("the lock file has `{text}` for `{key}`"))?
            };
            let balanced = (wire.kind == ServiceType::LoadBalancer).then_some(number);
            for at in [Some(node_port), balanced].into_iter().flatten() {
                self.node_ports.push(((l4, at), address, (l4, number)));
            }
        }
        self.meaning.services.all.push(service);
        Ok(())
    }

    /// Where nodes serve node ports, and what they don't.
    fn node_addresses(&mut self) -> Result<(), String> {
        if self.node_ports.is_empty() {
            return Ok(());
        }
        let every: Vec<&spec::NodePortBlock> = self
            .documents
            .iter()
            .filter_map(|(_, state)| state.cluster.as_ref())
            .flat_map(|cluster| &cluster.block_node_ports)
            .collect();
        for (index, (_, node)) in self.items("nodes", |state| &state.nodes).into_iter().enumerate()
        {
            let mut addresses = Vec::new();
            for address in &node.node_port_addresses {
                addresses.push(v4(address.0)?);
            }
            if addresses.is_empty() {
                addresses.push(v4(node.address.0)?);
            }
            for address in &addresses {
                self.meaning.services.node_addresses.insert(*address, Vec::new());
            }
            self.meaning.nodes[index].served_at = addresses;
            for block in node.block_node_ports.iter().chain(every.iter().copied()) {
                let l4 = block.protocol.map(|l4| protocol(Protocol::from(l4)));
                let number = block.port.map(|port| u64::from(port.get()));
                if let Some(interface) = &block.interface {
                    self.meaning.nodes[index].blocked.push((interface.to_string(), l4, number));
                }
                if let Some(address) = &block.address {
                    let address = v4(address.0)?;
                    let own = self.meaning.nodes[index].served_at.contains(&address);
                    let blocked = self.meaning.services.node_addresses.get_mut(&address);
                    if let Some(blocked) = blocked.filter(|_| own) {
                        blocked.push((l4, number));
                    }
                    self.meaning.nodes[index].blocked_at.push((address, l4, number));
                }
            }
        }
        Ok(())
    }

    /// Reads the egress IPs: each with the nodes that may hold it.
    pub(super) fn egress_ips(&mut self) -> Result<(), String> {
        for (at, wire) in self.items("egressIPs", |state| &state.egress_ips) {
            let project = self.project(&wire.project)?;
            let mut addresses = BTreeMap::new();
            for address in &wire.addresses {
                let address = v4(address.0)?;
                addresses.insert(address, self.candidates(address)?);
            }
            let lists = &mut self.meaning.egress_ips;
            if lists.insert(project, EgressIps { addresses, place: at.place() }).is_some() {
                return Err("a project has two lists of egress IPs".to_owned());
            }
        }
        Ok(())
    }

    /// The nodes that may hold an address: those that set it aside, or else those with a range; and of
    /// these the available ones, if there are any.
    fn candidates(&self, address: u64) -> Result<Vec<usize>, String> {
        let nodes = self.items("nodes", |state| &state.nodes);
        let (mut reserved, mut ranged) = (Vec::new(), Vec::new());
        for (index, (_, node)) in nodes.into_iter().enumerate() {
            for own in &node.reserved_addresses {
                if v4(own.0)? == address {
                    reserved.push(index);
                }
            }
            for range in &node.egress_cidrs {
                let range: Range = cidr(range)?;
                if (range.0..=range.1).contains(&address) {
                    ranged.push(index);
                    break;
                }
            }
        }
        let available = |list: &[usize]| -> Vec<usize> {
            list.iter().copied().filter(|node| !self.unavailable.contains(node)).collect()
        };
        // An address that a node sets aside goes to another only where that one is out of service.
        for list in [available(&reserved), available(&ranged)] {
            if !list.is_empty() {
                return Ok(list);
            }
        }
        Ok(if reserved.is_empty() { ranged } else { reserved })
    }

    /// What an egress router leads to.
    pub(super) fn router_of(wire: &spec::EgressRouter, node: usize) -> Result<Router, String> {
        let source = v4(wire.source.address.0)?;
        let gateway = v4(wire.gateway.0)?;
        let mut redirect = BTreeMap::new();
        let mut fallback = wire.destination.as_ref().map(|to| v4(to.0)).transpose()?;
        if let Some(to) = &wire.fallback {
            fallback = Some(v4(to.0)?);
        }
        let plain = wire.mode == spec::RouterMode::Redirect;
        if plain {
            for destination in &wire.destinations {
                let to: std::net::Ipv4Addr = destination
                    .to
                    .to_string()
                    .parse()
                    .map_err(|_| "an egress router that redirects to a name".to_owned())?;
                let to = u64::from(u32::from(to));
                let Some(port) = destination.port else {
                    fallback = Some(to);
                    continue;
                };
                let to_port = destination.to_port.unwrap_or(port);
                let l4 = protocol(destination.protocol.unwrap_or(Protocol::Tcp));
                redirect.insert((l4, u64::from(port.get())), (to, u64::from(to_port.get())));
            }
        }
        Ok(Router {
            name: wire.name.to_string(),
            node,
            source,
            gateway,
            redirect: plain.then_some(Redirect { ports: redirect, fallback }),
            port: None,
        })
    }
}
