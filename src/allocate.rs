//! Gives every object its numbers: VNIDs, subnets, addresses, Ethernet addresses, ports.
//!
//! What the desired state fixes comes first, then what the lock file has, then what is new. A new
//! number follows from the object's name (and from the next free one where that is taken), so it
//! depends neither on the order of the input nor on what other branches add meanwhile. Nodes'
//! subnets, which are few and which people read, are given in order.

mod networks;
mod node_ports;
mod retired;
mod services;
mod vnids;

pub(crate) use node_ports::served;
pub use node_ports::unused_blocks;
pub use retired::handed_on;

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

use ipnet::Ipv4Net;
use rayon::prelude::*;

use crate::dataplane::origin::hash;
use crate::diagnostic::{Code, Diagnostic, Place, Report, Sources, counted};
use crate::intent::{Addresses, Fixed, Intent, Membership, NodeId, ProjectId};
use crate::lock::{self, Entry, Lock, OutsidePort, names};
use crate::pipeline::OfPort;
use crate::resolve::{node_port_source, outside_subnet};
use crate::spec::Mode;
use crate::value::{Mac, NodePort, Vnid};
use networks::Networks;
use retired::Retired;

/// The numbers of every object of an [`Intent`], by its indices.
#[derive(Debug)]
pub struct Allocations {
    /// The own VNID of each project, whatever network it is in.
    pub vnids: Vec<Vnid>,
    /// The pod subnet of each node.
    pub subnets: Vec<Ipv4Net>,
    /// Each pod.
    pub pods: Vec<PortBinding>,
    /// Each egress router.
    pub routers: Vec<PortBinding>,
    /// The address of each service; `None` where it is headless.
    pub services: Vec<Option<Ipv4Addr>>,
    /// The addresses of names: as the lock file has them, since only `resolve` asks for them.
    pub names: Addresses,
    /// The node port of each port of each service; `None` where its type has none.
    pub node_ports: Vec<Vec<Option<NodePort>>>,
}

/// A port on a node's bridge with the one address behind it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PortBinding {
    /// The address, in the node's subnet.
    pub address: Ipv4Addr,
    /// The Ethernet address.
    pub mac: Mac,
    /// The port number.
    pub port: OfPort,
    /// That of the outside interface of an egress router, where it is a port of the same bridge.
    pub outside: Option<OfPort>,
}

/// Allocates what `lock` doesn't have. Returns the numbers and the lock file that holds them, or
/// why that is impossible. `source` is the lock's index in `sources`, where there is a file.
pub fn allocate(
    intent: &Intent,
    lock: &Lock,
    prune: bool,
    source: Option<u32>,
    sources: &Sources,
) -> Result<(Allocations, Lock), Report> {
    let (report, withheld) = (Report::new(), Retired::new());
    let mut allocator = Allocator { intent, lock, source, sources, withheld, report };
    let (vnids, retired) = allocator.vnids(prune);
    let networks = networks::networks(intent, &vnids, lock, prune, &mut allocator.report);
    let subnets = allocator.subnets();
    if allocator.report.has_errors() {
        return Err(allocator.report);
    }
    allocator.withheld = retired::before(intent, lock, prune, &subnets);
    let (pods, routers) = allocator.endpoints(&subnets);
    let services = allocator.services();
    let node_ports = node_ports::allocate(&mut allocator);
    if allocator.report.has_errors() {
        return Err(allocator.report);
    }
    let withheld = allocator.withheld;
    let names = names::addresses(lock);
    let numbers = Allocations { vnids, subnets, pods, routers, services, names, node_ports };
    let mut new = to_lock(intent, &numbers, retired, networks);
    new.retired_addresses = retired::after(withheld, intent, lock, &numbers);
    let used = intent.named_rules();
    let names = lock.resolved_names.iter().filter(|(entry, _)| used.contains_key(&entry.name));
    new.resolved_names = names.map(|(entry, sighting)| (entry.clone(), *sighting)).collect();
    Ok((numbers, new))
}

fn to_lock(
    intent: &Intent,
    numbers: &Allocations,
    retired: BTreeMap<Vnid, String>,
    networks: Networks,
) -> Lock {
    let entry = |node: NodeId, endpoint: &PortBinding| Entry {
        node: intent[node].name.clone(),
        address: endpoint.address,
        mac: endpoint.mac,
        ofport: endpoint.port.get(),
    };
    let vnids = intent.projects().zip(&numbers.vnids);
    let subnets = intent.nodes().zip(&numbers.subnets);
    let pods = intent.pods().zip(&numbers.pods);
    let routers = intent.routers().zip(&numbers.routers);
    Lock {
        vnids: vnids.map(|((_, project), vnid)| (project.name.to_string(), *vnid)).collect(),
        retired_vnids: retired,
        retired_addresses: BTreeMap::new(),
        memberships: networks.joined,
        former_members: networks.left,
        subnets: subnets.map(|((_, node), subnet)| (node.name.to_string(), *subnet)).collect(),
        pods: pods.map(|((id, pod), e)| (intent.pod_name(id), entry(pod.node, e))).collect(),
        routers: routers.map(|((_, r), e)| (r.name.to_string(), entry(r.node, e))).collect(),
        outside_ports: intent
            .routers()
            .zip(&numbers.routers)
            .filter_map(|((_, router), endpoint)| {
                let node = intent[router.node].name.clone();
                let ofport = endpoint.outside?.get();
                Some((router.name.to_string(), OutsidePort { node, ofport }))
            })
            .collect(),
        services: intent
            .services()
            .zip(&numbers.services)
            .filter_map(|((id, _), address)| Some((intent.service_name(id), (*address)?)))
            .collect(),
        resolved_names: BTreeMap::new(),
        node_ports: node_ports::to_lock(intent, &numbers.node_ports),
    }
}

/// What to do where addresses that are left are retired.
const PRUNE: &str = "once all nodes run the present generation, run `ringfence lock --prune`, which \
                     sets the addresses of what is gone free";

/// The first free number of `first..=last` from the one that follows from `name`, in a circle.
fn by_name(name: &str, first: u32, last: u32, is_free: impl Fn(u32) -> bool) -> Option<u32> {
    let size = u64::from(last.checked_sub(first)?) + 1;
    let start = hash(name) % size;
    let numbers = (start..size).chain(0..start);
    // Both terms are within `first..=last`, which fits.
    numbers.map(|offset| first + u32::try_from(offset).unwrap_or(0)).find(|n| is_free(*n))
}

struct Allocator<'a> {
    intent: &'a Intent,
    lock: &'a Lock,
    source: Option<u32>,
    sources: &'a Sources,
    /// The addresses that only their former owners may get.
    withheld: Retired,
    report: Report,
}

/// A pod or egress router that wants an endpoint.
struct Request<'a> {
    /// `pod/project/name` or `router/name`: what new numbers follow from.
    key: String,
    /// The section of the lock file, and the key there.
    section: &'static str,
    locked: Option<&'a Entry>,
    fixed_address: Option<Fixed<Ipv4Addr>>,
    fixed_mac: Option<Fixed<Mac>>,
    /// Whether there is an outside interface on the same bridge.
    has_outside: bool,
    /// Its port, where it has one.
    outside: Option<&'a OutsidePort>,
}

impl Request<'_> {
    /// The key in the lock file.
    fn lock_key(&self) -> &str {
        self.key.split_once('/').map_or("", |(_, key)| key)
    }
}

impl Allocator<'_> {
    fn subnets(&mut self) -> Vec<Ipv4Net> {
        let intent = self.intent;
        // By first address; they are disjoint.
        let mut used: BTreeMap<Ipv4Addr, (Ipv4Net, NodeId)> = BTreeMap::new();
        for (id, node) in intent.nodes() {
            if let Some(fixed) = node.fixed_subnet {
                used.insert(fixed.value.network(), (fixed.value, id));
            }
        }
        let mut subnets: Vec<Option<Ipv4Net>> = Vec::with_capacity(intent.nodes().len());
        for (id, node) in intent.nodes() {
            let fixed = node.fixed_subnet.map(|fixed| fixed.value);
            let locked = self.lock.subnets.get(node.name.as_str()).copied();
            let usable = locked.filter(|subnet| {
                subnet.prefix_len() <= 30
                    && subnet.addr() == subnet.network()
                    && intent.cluster.pod_networks.iter().any(|net| net.cidr.contains(subnet))
            });
            let kept = match (fixed, usable) {
                (Some(fixed), _) => Some(fixed),
                (None, Some(locked)) => match overlapping(&used, locked) {
                    None => {
                        used.insert(locked.network(), (locked, id));
                        Some(locked)
                    }
                    Some((_, owner)) if intent[owner].fixed_subnet.is_some() => None,
                    Some((_, owner)) => {
                        let owner = intent[owner].name.as_str();
                        let keys = [("subnets", node.name.as_str()), ("subnets", owner)];
                        self.report.push(self.conflict(keys, locked));
                        None
                    }
                },
                (None, None) => None,
            };
            subnets.push(kept);
        }
        let mut candidates =
            intent.cluster.pod_networks.iter().flat_map(|network| {
                network.cidr.subnets(network.host_prefix).into_iter().flatten()
            });
        let mut result = Vec::with_capacity(subnets.len());
        for ((_, node), subnet) in intent.nodes().zip(subnets) {
            let subnet = subnet.or_else(|| candidates.find(|s| overlapping(&used, *s).is_none()));
            if subnet.is_none() {
                let message = format!("no pod subnet is left for node `{}`", node.name);
                self.report.push(
                    Diagnostic::new(Code::SubnetsExhausted, message)
                        .at(node.place)
                        .help("add a network to `cluster.podNetworks`; those in use can't grow"),
                );
            }
            result.push(subnet.unwrap_or_default());
        }
        result
    }

    fn endpoints(&mut self, subnets: &[Ipv4Net]) -> (Vec<PortBinding>, Vec<PortBinding>) {
        let intent = self.intent;
        // The requests of each node: indices of pods, and of routers behind them.
        let pods = intent.pods().len();
        let mut by_node: Vec<Vec<(usize, Request<'_>)>> =
            std::iter::repeat_with(Vec::new).take(subnets.len()).collect();
        for (id, pod) in intent.pods() {
            let name = intent.pod_name(id);
            let request = Request {
                locked: self.lock.pods.get(&name),
                key: format!("pod/{name}"),
                section: "pods",
                fixed_address: pod.fixed_address,
                fixed_mac: pod.fixed_mac,
                has_outside: false,
                outside: None,
            };
            by_node[pod.node.index()].push((id.index(), request));
        }
        for (id, router) in intent.routers() {
            let request = Request {
                locked: self.lock.routers.get(router.name.as_str()),
                key: format!("router/{}", router.name),
                section: "routers",
                fixed_address: None,
                fixed_mac: None,
                has_outside: router.at_bridge(intent),
                outside: self
                    .lock
                    .outside_ports
                    .get(router.name.as_str())
                    .filter(|_| router.at_bridge(intent)),
            };
            by_node[router.node.index()].push((pods + id.index(), request));
        }
        let this = &*self;
        let by_node: Vec<(Vec<(usize, PortBinding)>, Report)> = by_node
            .par_iter()
            .enumerate()
            .map(|(node, requests)| this.node_endpoints(NodeId::new(node), subnets[node], requests))
            .collect();
        let mut endpoints: Vec<Option<PortBinding>> = vec![None; pods + intent.routers().len()];
        for (found, report) in by_node {
            self.report.extend(report);
            for (index, endpoint) in found {
                endpoints[index] = Some(endpoint);
            }
        }
        self.macs_twice(subnets, &endpoints);
        let mut endpoints: Vec<PortBinding> = endpoints.into_iter().flatten().collect();
        let routers = endpoints.split_off(pods.min(endpoints.len()));
        (endpoints, routers)
    }

    /// The endpoints of one node's pods and egress routers, by their indices.
    fn node_endpoints(
        &self,
        node: NodeId,
        subnet: Ipv4Net,
        requests: &[(usize, Request<'_>)],
    ) -> (Vec<(usize, PortBinding)>, Report) {
        let mut report = Report::new();
        let mut endpoints = Vec::with_capacity(requests.len());
        let name = &self.intent[node].name;
        let (network, broadcast) = (u32::from(subnet.network()), u32::from(subnet.broadcast()));
        // Where policies decide, the last address stands for the outside.
        let reserved = u32::from(self.intent.cluster.mode == Mode::Networkpolicy);
        let (first, last) = (network + 2, broadcast - 1 - reserved);
        let room = (last + 1).saturating_sub(first) as usize;
        if requests.len() > room {
            let message = format!(
                "node `{name}` has {} and egress routers, but {subnet} has {}",
                counted(requests.len(), "pod"),
                counted(room, "address"),
            );
            report.push(
                Diagnostic::new(Code::AddressesExhausted, message)
                    .at(self.intent[node].place)
                    .help("move pods to other nodes, or give the node a larger `podSubnet`"),
            );
            return (endpoints, report);
        }
        let mut addresses: BTreeMap<u32, usize> = BTreeMap::new();
        let mut ports: BTreeSet<u16> = BTreeSet::new();
        for (n, (_, request)) in requests.iter().enumerate() {
            let Some(Fixed { value, place }) = request.fixed_address else { continue };
            let mode = self.intent.cluster.mode;
            if let Some(diagnostic) = outside_subnet(value, subnet, name.as_str(), mode) {
                report.push(diagnostic.at(place));
            }
            addresses.insert(value.into(), n);
        }
        let mut keep_port = |port: &u16| OfPort::pod(*port).is_some() && ports.insert(*port);
        let mut kept: Vec<(Option<u32>, Option<u16>)> = Vec::with_capacity(requests.len());
        for (n, (_, request)) in requests.iter().enumerate() {
            let locked = request.locked.filter(|entry| entry.node == *name);
            if let (None, Some(entry)) = (request.fixed_address, locked)
                && reserved > 0
                && u32::from(entry.address) == last + 1
            {
                report.push(self.keeps_source(request, entry.address, name.as_str()));
            }
            let address = match (request.fixed_address, locked) {
                (Some(fixed), _) => Some(fixed.value.into()),
                (None, Some(entry)) if (first..=last).contains(&entry.address.into()) => self
                    .keep_address(n, entry.address.into(), requests, &mut addresses, &mut report),
                _ => None,
            };
            let port = locked.map(|entry| entry.ofport).filter(&mut keep_port);
            kept.push((address, port));
        }
        let outside: Vec<Option<u16>> = requests
            .iter()
            .map(|(_, request)| {
                let locked = request.outside.filter(|port| port.node == *name);
                locked.map(|port| port.ofport).filter(&mut keep_port)
            })
            .collect();
        let mut full = false;
        for (n, (index, request)) in requests.iter().enumerate() {
            let address = kept[n].0.or_else(|| {
                let free = |address: u32| !addresses.contains_key(&address);
                self.new_address(&request.key, first, last, free)
            });
            let Some(address) = address else {
                // Once is enough.
                if !std::mem::replace(&mut full, true) {
                    let message =
                        format!("{subnet} of node `{name}` has no address left but retired ones");
                    report.push(
                        Diagnostic::new(Code::AddressesExhausted, message)
                            .at(self.intent[node].place)
                            .help(PRUNE),
                    );
                }
                continue;
            };
            addresses.insert(address, n);
            let offset = address.saturating_sub(network);
            let port = kept[n].1.or_else(|| free_port(offset, &ports));
            let Some(port) = port.and_then(OfPort::pod) else { continue };
            ports.insert(port.get());
            let address = Ipv4Addr::from(address);
            let mac = request.fixed_mac.map_or_else(|| Mac::of_ipv4(address), |fixed| fixed.value);
            endpoints.push((*index, PortBinding { address, mac, port, outside: None }));
        }
        // By the hash of the name, far from the places of addresses: two branches that each add one
        // and a pod seldom choose the same.
        let requests = requests.iter().zip(outside).filter(|((_, request), _)| request.has_outside);
        for ((index, request), port) in requests {
            let Some((_, endpoint)) = endpoints.iter_mut().find(|(other, _)| other == index) else {
                continue;
            };
            let free = |port| u16::try_from(port).is_ok_and(|port| !ports.contains(&port));
            let (first, last) = (OfPort::FIRST_POD.into(), OfPort::LAST.into());
            let new = || by_name(&format!("outside/{}", request.key), first, last, free);
            let port = port.or_else(|| new().and_then(|port| u16::try_from(port).ok()));
            endpoint.outside = port.and_then(OfPort::pod);
            ports.extend(port);
        }
        (endpoints, report)
    }

    /// RF271: a pod has the address that stands for the outside.
    fn keeps_source(&self, request: &Request<'_>, address: Ipv4Addr, node: &str) -> Diagnostic {
        let (section, key) = (request.section, request.lock_key());
        let diagnostic = node_port_source(&format!("the address {address} of `{key}`"), node).help(
            "remove its line from the lock file and run `ringfence lock`: it gets another address, and \
             its connections break",
        );
        let Some(source) = self.source else { return diagnostic };
        diagnostic.at(lock::place_of(self.sources, source, section, key))
    }

    /// A new address: one that it had before, or one that nobody has or had.
    fn new_address(
        &self,
        key: &str,
        first: u32,
        last: u32,
        free: impl Fn(u32) -> bool,
    ) -> Option<u32> {
        let range = Ipv4Addr::from(first)..=Ipv4Addr::from(last);
        let mut former = self.withheld.range(range).filter(|(_, owner)| owner.as_str() == key);
        let former = former.find_map(|(address, _)| Some(u32::from(*address)).filter(|a| free(*a)));
        former.or_else(|| {
            let new = |address| free(address) && !self.withheld.contains_key(&address.into());
            by_name(key, first, last, new)
        })
    }

    /// The address of the lock file, unless the desired state gives it to another.
    fn keep_address(
        &self,
        n: usize,
        address: u32,
        requests: &[(usize, Request<'_>)],
        addresses: &mut BTreeMap<u32, usize>,
        report: &mut Report,
    ) -> Option<u32> {
        let Some(&owner) = addresses.get(&address) else {
            addresses.insert(address, n);
            return Some(address);
        };
        let owner = &requests[owner].1;
        if owner.fixed_address.is_none() {
            let request = &requests[n].1;
            let keys = [(request.section, request.lock_key()), (owner.section, owner.lock_key())];
            report.push(self.conflict(keys, Ipv4Addr::from(address)));
        }
        None
    }

    /// The addresses of the services, from the whole of their network.
    /// RF050 between Ethernet addresses that are fixed and those that follow from an IP address.
    fn macs_twice(&mut self, subnets: &[Ipv4Net], endpoints: &[Option<PortBinding>]) {
        let fixed: BTreeMap<Mac, Place> = self
            .intent
            .pods
            .iter()
            .filter_map(|pod| pod.fixed_mac.map(|fixed| (fixed.value, fixed.place)))
            .collect();
        if fixed.is_empty() {
            return;
        }
        let pods = self.intent.pods().map(|(id, pod)| {
            let derived = pod.fixed_mac.is_none();
            (derived, format!("pod `{}`", self.intent.pod_name(id)), pod.place)
        });
        let routers = self
            .intent
            .routers()
            .map(|(_, router)| (true, format!("egress router `{}`", router.name), router.place));
        let workloads =
            pods.chain(routers).zip(endpoints).filter_map(|((derived, name, place), e)| {
                e.filter(|_| derived).map(|endpoint| (endpoint.mac, name, place))
            });
        let gateways = self.intent.nodes().zip(subnets).filter_map(|((_, node), subnet)| {
            let gateway = subnet.hosts().next()?;
            Some((
                Mac::of_ipv4(gateway),
                format!("the gateway of node `{}`", node.name),
                node.place,
            ))
        });
        for (mac, owner, place) in workloads.chain(gateways) {
            if let Some(first) = fixed.get(&mac) {
                let message = format!("{mac} is also the Ethernet address of {owner}");
                self.report.push(
                    Diagnostic::new(Code::MacTwice, message)
                        .at(*first)
                        .related(place, "there it follows from the IP address")
                        .help("leave `mac` out, or choose one that doesn't begin with 0a:58"),
                );
            }
        }
    }

    /// RF103: two entries of the lock file, by their sections and keys, have the same number.
    fn conflict(&self, keys: [(&str, &str); 2], number: impl std::fmt::Display) -> Diagnostic {
        let [(_, name), (_, other)] = keys;
        let message =
            format!("`{other}` and `{name}` have the same number in the lock file: {number}");
        let diagnostic = Diagnostic::new(Code::LockConflict, message).help(
            "two branches allocated it at once: remove the line of the one that isn't rolled out \
             yet, and run `ringfence lock`",
        );
        let Some(source) = self.source else { return diagnostic };
        let place = |(section, key)| lock::place_of(self.sources, source, section, key);
        diagnostic.at(place(keys[0])).related(place(keys[1]), "the other")
    }
}

/// The used subnet that overlaps `subnet`. Networks overlap only by containing each other.
fn overlapping(
    used: &BTreeMap<Ipv4Addr, (Ipv4Net, NodeId)>,
    subnet: Ipv4Net,
) -> Option<(Ipv4Net, NodeId)> {
    let inside = used.range(subnet.network()..=subnet.broadcast()).next();
    let before = used.range(..=subnet.network()).next_back();
    let around = before.filter(|(_, (net, _))| net.contains(&subnet));
    inside.or(around).map(|(_, found)| *found)
}

/// The port that goes with an address's place in its subnet, or the next free one.
fn free_port(offset: u32, taken: &BTreeSet<u16>) -> Option<u16> {
    let all = u32::from(OfPort::LAST - OfPort::FIRST_POD) + 1;
    let ports = (0..all).map(|step| (offset + step) % all);
    ports
        .filter_map(|port| u16::try_from(port).ok())
        .map(|port| OfPort::FIRST_POD + port)
        .find(|port| !taken.contains(port))
}

/// The VNID that the pods of a project have, given the own VNIDs of all.
#[must_use]
pub fn effective_vnid(intent: &Intent, vnids: &[Vnid], project: ProjectId) -> Vnid {
    match intent[project].membership {
        Membership::Own => vnids[project.index()],
        Membership::Joined(root) => vnids[root.index()],
        Membership::Global => Vnid::GLOBAL,
    }
}
