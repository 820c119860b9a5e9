//! Where the meaning of a model may change: the borders of everything that names addresses or ports,
//! and which pods are alike. Between two borders, and among pods that are alike, one packet stands
//! for all.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

use ipnet::Ipv4Net;

use super::question::{Directory, Holder, is_host};
use crate::intent::{Direction, NetworkPolicy, Peer, PolicyPorts, PortSet, ProjectId, Workload};
use crate::model::Model;
use crate::spec::{Labels, Mode};
use crate::value::{Port, Protocol};

/// The protocols that have ports.
pub const PROTOCOLS: [Protocol; 3] = [Protocol::Tcp, Protocol::Udp, Protocol::Sctp];

/// The network policies of a project.
pub fn policies_of(model: &Model, project: ProjectId) -> impl Iterator<Item = &NetworkPolicy> {
    let all = model.intent().network_policies();
    let own = &all[all.partition_point(|policy| policy.project < project)..];
    own.iter().take_while(move |policy| policy.project == project)
}

/// The first addresses of the ranges in which every rule about what leaves a project sees the same.
/// The ranges cover all addresses.
#[must_use]
pub fn borders(model: &Model, project: ProjectId) -> BTreeSet<u32> {
    let mut borders = BTreeSet::from([0]);
    let mut add = |network: &Ipv4Net| {
        borders.insert(u32::from(network.network()));
        borders.extend(u32::from(network.broadcast()).checked_add(1));
    };
    for (rule, ..) in model.ranked_rules(project) {
        model.networks(rule).iter().for_each(&mut add);
    }
    for policy in policies_of(model, project) {
        for rule in policy.rules(Direction::Egress).into_iter().flatten() {
            blocks(rule.peers.as_deref()).for_each(&mut add);
        }
    }
    for network in model.intent().cluster().networks() {
        add(&network);
    }
    for special in ["0.0.0.0/8", "127.0.0.0/8", "224.0.0.0/3"] {
        special.parse().iter().for_each(&mut add);
    }
    borders
}

/// The networks of peers.
fn blocks(peers: Option<&[Peer]>) -> impl Iterator<Item = &Ipv4Net> {
    peers.into_iter().flatten().flat_map(|peer| match peer {
        Peer::Block { cidr, except } => std::iter::once(cidr).chain(except),
        Peer::Pods { .. } => std::iter::once(&NONE).chain(&[]),
    })
}

/// A network whose borders are no borders.
static NONE: Ipv4Net = Ipv4Net::new_assert(Ipv4Addr::UNSPECIFIED, 0);

/// The ranges between borders.
pub fn ranges(borders: &BTreeSet<u32>) -> impl Iterator<Item = (u32, u32)> {
    let ends = borders.iter().skip(1).map(|next| next - 1).chain([u32::MAX]);
    borders.iter().copied().zip(ends)
}

/// A host of the outside in a range: neither a pod, a service nor a node. `None` where there is none.
#[must_use]
pub fn outside_host(
    models: &[(&Model, &Directory)],
    (first, last): (u32, u32),
) -> Option<Ipv4Addr> {
    // Nodes and egress IPs may be in a row, but hardly thousands of them.
    const TRIED: u32 = 4096;
    let last = last.min(first.saturating_add(TRIED));
    (first..=last).map(Ipv4Addr::from).find(|address| {
        let free = |(model, directory): &(&Model, &Directory)| {
            directory.holder(model, *address) == Holder::Outside
        };
        is_host(*address) && models.iter().all(free)
    })
}

/// The ports of a protocol at which a meaning may change, for what a project sends and what another
/// gets. The first is 1.
#[must_use]
pub fn ports(
    model: &Model,
    from: Option<ProjectId>,
    to: Option<ProjectId>,
    protocol: Protocol,
) -> BTreeSet<u16> {
    let mut borders = BTreeSet::from([1]);
    let mut add = |first: u16, last: u16| {
        borders.insert(first.max(1));
        borders.extend(last.checked_add(1));
    };
    if let (Some(from), None) = (from, to) {
        for (rule, ..) in model.ranked_rules(from) {
            for ports in rule.ports.iter().filter(|ports| ports.protocol == protocol) {
                let range = ports.range.clone().unwrap_or(1..=u16::MAX);
                add(*range.start(), *range.end());
            }
        }
    }
    let sides = [(from, Direction::Egress), (to, Direction::Ingress)];
    for (project, direction) in sides {
        let policies = project.into_iter().flat_map(|project| policies_of(model, project));
        for rule in policies.filter_map(|policy| policy.rules(direction)).flatten() {
            for PolicyPorts { protocol: of, ports } in rule.ports.iter().flatten() {
                match ports {
                    PortSet::Range(first, last) if *of == protocol => add(*first, *last),
                    _ => {}
                }
            }
        }
    }
    if model.mode() == Mode::Networkpolicy {
        for (_, pod) in to.into_iter().flat_map(|project| model.intent().pods_of(project)) {
            for (_, of, port) in &pod.ports {
                if *of == protocol {
                    add(port.get(), port.get());
                }
            }
        }
    }
    borders
}

/// The ports as numbers of ports.
pub fn as_ports(borders: &BTreeSet<u16>) -> impl Iterator<Item = Port> {
    borders.iter().filter_map(|number| Port::new(u64::from(*number)).ok())
}

/// Which pods and egress routers are alike to each other: no rule tells one from another of its class.
#[derive(Debug)]
pub struct Classes {
    pods: Vec<u32>,
    /// Of each class, two members at most.
    members: Vec<(Workload, Option<Workload>)>,
}

/// What tells classes apart: the project, and where there are policies labels, named ports, and where
/// the address lies between their borders.
type Key<'m> = (ProjectId, &'m Labels, &'m [(crate::value::Name, Protocol, Port)], usize);

/// The labels of pods, where labels don't count.
static BARE: Labels = Labels(BTreeMap::new());

impl Classes {
    /// The classes of a model.
    #[must_use]
    pub fn new(model: &Model) -> Self {
        let policies = model.mode() == Mode::Networkpolicy;
        let cuts = if policies { pod_borders(model) } else { BTreeSet::new() };
        let cuts: Vec<u32> = cuts.into_iter().collect();
        let mut seen: BTreeMap<String, u32> = BTreeMap::new();
        let mut classes = Self { pods: Vec::new(), members: Vec::new() };
        let mut last: Option<(Key<'_>, u32)> = None;
        for (id, pod) in model.intent().pods() {
            let address = u32::from(model.endpoint(Workload::Pod(id)).address);
            let key: Key<'_> = if policies {
                let cut = cuts.partition_point(|border| *border <= address);
                (pod.project, &pod.labels, &pod.ports, cut)
            } else {
                (pod.project, &BARE, &[], 0)
            };
            let class = match &last {
                Some((same, class)) if *same == key => *class,
                _ => {
                    let next = u32::try_from(classes.members.len()).unwrap_or(u32::MAX);
                    *seen.entry(format!("{key:?}")).or_insert(next)
                }
            };
            last = Some((key, class));
            let workload = Workload::Pod(id);
            match classes.members.get_mut(class as usize) {
                None => classes.members.push((workload, None)),
                Some((_, second @ None)) => *second = Some(workload),
                Some(_) => {}
            }
            classes.pods.push(class);
        }
        classes
    }

    /// The class of a pod; egress routers are each alone.
    #[must_use]
    pub fn of(&self, workload: Workload) -> Option<u32> {
        match workload {
            Workload::Pod(id) => self.pods.get(id.index()).copied(),
            Workload::Router(_) => None,
        }
    }
}

/// The borders of all networks that policies name, as far as they cut the pods' networks.
fn pod_borders(model: &Model) -> BTreeSet<u32> {
    let mut borders = BTreeSet::new();
    for policy in model.intent().network_policies() {
        for direction in Direction::BOTH {
            for rule in policy.rules(direction).into_iter().flatten() {
                for network in blocks(rule.peers.as_deref()) {
                    borders.insert(u32::from(network.network()));
                    borders.extend(u32::from(network.broadcast()).checked_add(1));
                }
            }
        }
    }
    borders
}
