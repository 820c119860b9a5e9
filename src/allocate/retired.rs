//! Addresses stay with those that are gone until `ringfence lock --prune`, as VNIDs do.
//!
//! Nodes are changed one after the other. One that still runs the former generation would lead
//! what is for a pod or service that is gone to whoever had its address next.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use ipnet::Ipv4Net;

use super::Allocations;
use crate::diagnostic::{Code, Diagnostic, Place, Report};
use crate::intent::{Fixed, Intent, NodeId, ServiceAddress};
use crate::lock::Lock;

/// Addresses with those that had them last, as `pod/project/name`, `router/name` or
/// `service/project/name`.
pub(super) type Retired = BTreeMap<Ipv4Addr, String>;

/// What may have an address, by such a name.
#[derive(Clone, Copy)]
struct Holder {
    /// The node whose subnet the address is of; `None` for a service.
    node: Option<NodeId>,
    /// Whether it is to have an address, which a headless service isn't.
    any: bool,
    /// What the desired state says.
    fixed: Option<Fixed<Ipv4Addr>>,
    place: Place,
}

fn holders(intent: &Intent) -> Vec<(String, Holder)> {
    let pods = intent.pods().map(|(id, pod)| {
        let (node, fixed, place) = (Some(pod.node), pod.fixed_address, pod.place);
        (format!("pod/{}", intent.pod_name(id)), Holder { node, any: true, fixed, place })
    });
    let routers = intent.routers().map(|(_, router)| {
        let (node, fixed, place) = (Some(router.node), None, router.place);
        (format!("router/{}", router.name), Holder { node, any: true, fixed, place })
    });
    let services = intent.services().map(|(id, service)| {
        let (any, fixed) = match service.address {
            ServiceAddress::Headless => (false, None),
            ServiceAddress::Allocated => (true, None),
            ServiceAddress::Fixed(fixed) => (true, Some(fixed)),
        };
        let holder = Holder { node: None, any, fixed, place: service.place };
        (format!("service/{}", intent.service_name(id)), holder)
    });
    pods.chain(routers).chain(services).collect()
}

/// What the lock file says of addresses, with the node that each entry of a pod or router is for.
fn locked(lock: &Lock) -> impl Iterator<Item = (String, Ipv4Addr, Option<&str>)> {
    let pods = lock.pods.iter().map(|(key, entry)| (format!("pod/{key}"), entry));
    let routers = lock.routers.iter().map(|(key, entry)| (format!("router/{key}"), entry));
    let endpoints =
        pods.chain(routers).map(|(key, entry)| (key, entry.address, Some(entry.node.as_str())));
    let services =
        lock.services.iter().map(|(key, address)| (format!("service/{key}"), *address, None));
    endpoints.chain(services)
}

/// The addresses that nobody but their former owners may get: those that are retired already, and
/// those that this very change retires, which nodes still run.
pub(super) fn before(intent: &Intent, lock: &Lock, prune: bool, subnets: &[Ipv4Net]) -> Retired {
    let mut retired = if prune { Retired::new() } else { lock.retired_addresses.clone() };
    let holders: BTreeMap<String, Holder> = holders(intent).into_iter().collect();
    for (key, address, node) in locked(lock) {
        let keeps = holders.get(&key).is_some_and(|holder| {
            let same = holder.fixed.is_none_or(|fixed| fixed.value == address);
            let inside = match holder.node {
                Some(id) => {
                    node == Some(intent[id].name.as_str()) && subnets[id.index()].contains(&address)
                }
                None => intent.cluster.service_network.contains(&address),
            };
            holder.any && same && inside
        });
        if !keeps {
            retired.insert(address, key);
        }
    }
    retired
}

/// The addresses that stay retired when all have theirs.
pub(super) fn after(
    mut retired: Retired,
    intent: &Intent,
    lock: &Lock,
    numbers: &Allocations,
) -> Retired {
    let held = held(intent, numbers);
    retired.extend(locked(lock).map(|(key, address, _)| (address, key)));
    retired.retain(|address, _| !held.contains_key(address));
    retired
}

/// All addresses with those that have them.
fn held(intent: &Intent, numbers: &Allocations) -> BTreeMap<Ipv4Addr, (String, Holder)> {
    let pods = numbers.pods.iter().map(|endpoint| Some(endpoint.address));
    let routers = numbers.routers.iter().map(|endpoint| Some(endpoint.address));
    let addresses = pods.chain(routers).chain(numbers.services.iter().copied());
    let all = addresses.zip(holders(intent));
    all.filter_map(|(address, holder)| Some((address?, holder))).collect()
}

/// RF106: what the desired state gives an address that another had before.
#[must_use]
pub fn handed_on(intent: &Intent, lock: &Lock, prune: bool, numbers: &Allocations) -> Report {
    let mut report = Report::new();
    let mut former = if prune { Retired::new() } else { lock.retired_addresses.clone() };
    former.extend(locked(lock).map(|(key, address, _)| (address, key)));
    for (address, (key, holder)) in held(intent, numbers) {
        let Some(owner) = former.get(&address).filter(|owner| **owner != key) else { continue };
        let (kind, name) = owner.split_once('/').unwrap_or(("owner", owner));
        let kind = if kind == "router" { "egress router" } else { kind };
        let place = holder.fixed.map_or(holder.place, |fixed| fixed.place);
        let message = format!("{address} belonged to the {kind} `{name}` before");
        report.push(Diagnostic::new(Code::AddressHandedOn, message).at(place).help(
            "nodes that still run an older generation lead there what is for the former owner: \
             apply first a generation in which nobody has the address, or choose another",
        ));
    }
    report
}
