//! Node ports: fixed, kept from the lock file, or by the hash of what they are for.

use std::collections::{BTreeMap, BTreeSet};

use super::{Allocations, Allocator, by_name};
use crate::diagnostic::{Code, Diagnostic, Report};
use crate::intent::{Intent, Service, ServiceAddress, ServicePort};
use crate::spec::ServiceType;
use crate::value::{NodePort, Port, Protocol};

/// A port of all nodes, by protocol.
type Key = (Protocol, u16);

/// Whether the nodes serve a service to the outside.
fn is_served(service: &Service) -> bool {
    service.kind != ServiceType::ClusterIp && service.address != ServiceAddress::Headless
}

/// The node ports of every port of every service.
pub(super) fn allocate(allocator: &mut Allocator<'_>) -> Vec<Vec<Option<NodePort>>> {
    let intent = allocator.intent;
    // Who has a port, by its key in the lock file; nobody's are others' than node ports.
    let mut owners: BTreeMap<Key, Option<String>> = BTreeMap::new();
    owners.insert((Protocol::Udp, intent.cluster.vxlan_port.get()), None);
    for (_, service) in intent.services().filter(|(_, service)| is_served(service)) {
        for port in &service.ports {
            if service.kind == ServiceType::LoadBalancer {
                owners.insert((port.protocol, port.port.get()), None);
            }
            if let Some(fixed) = port.fixed_node_port {
                owners.insert((port.protocol, fixed.value.get()), None);
            }
        }
    }
    let mut kept: Vec<Vec<Option<NodePort>>> = Vec::with_capacity(intent.services().len());
    for (id, service) in intent.services() {
        let mut ports = Vec::with_capacity(service.ports.len());
        for port in &service.ports {
            let fixed = port.fixed_node_port.map(|fixed| fixed.value);
            let key = intent.service_port_key(id, port);
            ports.push(match fixed {
                _ if !is_served(service) => None,
                Some(fixed) => Some(fixed),
                None => keep(allocator, &key, port, &mut owners),
            });
        }
        kept.push(ports);
    }
    let mut exhausted = BTreeSet::new();
    for ((id, service), ports) in intent.services().zip(&mut kept) {
        for (port, number) in service.ports.iter().zip(ports) {
            if number.is_some() || !is_served(service) {
                continue;
            }
            let (first, last) = (NodePort::FIRST.into(), NodePort::LAST.into());
            let key = intent.service_port_key(id, port);
            let number_of = |n: u32| u16::try_from(n).ok().map(|n| (port.protocol, n));
            let free = |n: u32| number_of(n).is_some_and(|key| !owners.contains_key(&key));
            let found = by_name(&format!("node-port/{key}"), first, last, free);
            match found.and_then(|n| Some((number_of(n)?, NodePort::new(n.into()).ok()?))) {
                Some((taken, found)) => {
                    owners.insert(taken, Some(key));
                    *number = Some(found);
                }
                None if exhausted.insert(port.protocol) => {
                    let message = format!("no {} node port is left for `{key}`", port.protocol);
                    allocator.report.push(
                        Diagnostic::new(Code::NodePortsExhausted, message)
                            .at(port.place)
                            .help("make services that only the cluster needs `type: ClusterIP`"),
                    );
                }
                None => {}
            }
        }
    }
    kept
}

/// The port of the lock file, unless the desired state gives it to another.
fn keep(
    allocator: &mut Allocator<'_>,
    key: &str,
    port: &ServicePort,
    owners: &mut BTreeMap<Key, Option<String>>,
) -> Option<NodePort> {
    let locked = *allocator.lock.node_ports.get(key)?;
    match owners.get(&(port.protocol, locked.get())) {
        None => {
            owners.insert((port.protocol, locked.get()), Some(key.to_owned()));
            Some(locked)
        }
        Some(None) => None,
        Some(Some(owner)) => {
            let keys = [("nodePorts", key), ("nodePorts", owner.as_str())];
            let conflict = allocator.conflict(keys, locked);
            allocator.report.push(conflict);
            None
        }
    }
}

/// The entries of the lock file.
pub(super) fn to_lock(
    intent: &Intent,
    numbers: &[Vec<Option<NodePort>>],
) -> BTreeMap<String, NodePort> {
    let mut entries = BTreeMap::new();
    for ((id, service), numbers) in intent.services().zip(numbers) {
        for (port, number) in service.ports.iter().zip(numbers) {
            if let Some(number) = number {
                entries.insert(intent.service_port_key(id, port), *number);
            }
        }
    }
    entries
}

/// Every port at which nodes serve a port of a service, given the numbers of all: by protocol and
/// port, with the index of the service and that of its port.
pub(crate) fn served(
    intent: &Intent,
    numbers: &[Vec<Option<NodePort>>],
) -> BTreeMap<(Protocol, Port), (usize, usize)> {
    let mut all = BTreeMap::new();
    for ((id, service), numbers) in intent.services().zip(numbers) {
        for (index, (port, number)) in service.ports.iter().zip(numbers).enumerate() {
            let to = (id.index(), index);
            if let Some(number) = number {
                all.insert((port.protocol, Port::from(*number)), to);
            }
            if service.kind == ServiceType::LoadBalancer && is_served(service) {
                all.insert((port.protocol, port.port), to);
            }
        }
    }
    all
}

/// RF141: what is blocked is served elsewhere.
#[must_use]
pub fn unused_blocks(intent: &Intent, numbers: &Allocations) -> Report {
    let served = served(intent, &numbers.node_ports);
    let mut report = Report::new();
    let mut seen = Vec::new();
    for (_, node) in intent.nodes() {
        for block in &node.blocks {
            let used = served.keys().any(|(protocol, port)| block.covers(*protocol, *port));
            if used || seen.contains(&block.place) {
                continue;
            }
            // One of the cluster's stands with every node.
            seen.push(block.place);
            let of = block.protocol.map_or_else(String::new, |p| format!("/{p}"));
            let message = match block.port {
                Some(port) => format!("no service has the node port {port}{of} that is blocked"),
                None => format!("no service has a node port{of}, so nothing is blocked"),
            };
            report.push(
                Diagnostic::new(Code::BlockNothing, message)
                    .at(block.place)
                    .help("`ringfence.lock` has the node ports that were allocated"),
            );
        }
    }
    report
}
