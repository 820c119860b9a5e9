//! Services as they are meant.
//!
//! - A service with an address is reached by its own network, by global projects, and, if its project is
//!   global, by everybody; by nodes if `nodeServices` means its project, is not written, or the service
//!   is at node ports, and by any node that has global pods.
//! - A new connection to one of its ports leads to one of the targets: ready pods of its project
//!   that its selector means, on nodes that are available, egress routers that it names or its selector
//!   means by a label, and its endpoints. The port is the target's; of SCTP, it stays.
//! - Without a target, and at any other port, who reaches the service is refused by the node.
//! - At a node port of any node, a pod that reaches the service is led as by the service; one
//!   that doesn't is dropped. SCTP is not served where its port would have to change.
//! - In userspace, a fragment behind the first is led where the service has one port of its protocol.

use std::collections::{BTreeMap, BTreeSet};

use super::Meaning;
use crate::diagnostic::Place;
use crate::proof::frame::proto;

/// A service with an address.
#[derive(Clone, Debug)]
pub struct Service {
    /// `shop/web`.
    pub name: String,
    /// Its address.
    pub address: u64,
    /// The VNID of its network; 0 if it is global.
    pub vnid: u64,
    /// Whether a client always has the same target.
    pub affinity: bool,
    /// Whether all nodes reach it.
    pub by_nodes: bool,
    /// Its ports.
    pub ports: Vec<ServicePort>,
    /// Where it stands.
    pub place: Place,
}

/// A port of a service.
#[derive(Clone, Debug)]
pub struct ServicePort {
    /// The protocol.
    pub proto: u64,
    /// The port.
    pub port: u64,
    /// Addresses with ports, sorted; without ports they keep it.
    pub targets: Vec<(u64, Option<u64>)>,
    /// The number of such a list; see [`Services::lists`].
    pub list: u64,
}

/// Targets, and whether a client always has the same.
pub type Targets = (bool, Vec<(u64, Option<u64>)>);

/// A port at which nodes serve a service.
#[derive(Clone, Copy, Debug)]
pub struct NodePort {
    /// The service.
    pub service: usize,
    /// Which of its ports.
    pub port: usize,
    /// Whether pods are led there: SCTP only if its port stays.
    pub served: bool,
}

/// All services.
#[derive(Clone, Debug, Default)]
pub struct Services {
    /// By address.
    pub all: Vec<Service>,
    /// By network, the addresses of its services.
    pub by_network: BTreeMap<u64, Vec<u64>>,
    /// Every list of targets, with a number.
    pub lists: BTreeMap<Targets, u64>,
    /// The workloads that answer as a service, ready or not.
    pub answering: BTreeSet<u64>,
    /// The hosts outside that do.
    pub endpoints: BTreeSet<u64>,
    /// By protocol and port.
    pub node_ports: BTreeMap<(u64, u64), NodePort>,
    /// The addresses at which nodes serve them, with what is blocked there.
    pub node_addresses: BTreeMap<u64, Blocked>,
}

/// Protocols and ports, or all of them.
pub type Blocked = Vec<(Option<u64>, Option<u64>)>;

/// What is meant to become of a packet to a service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Led {
    /// To one of these targets.
    To(u64),
    /// Nowhere, and the node says so.
    Refused,
}

impl Services {
    /// Gives each list of targets a number.
    pub(super) fn number(&mut self) {
        self.all.sort_by_key(|service| service.address);
        for service in &mut self.all {
            self.by_network.entry(service.vnid).or_default().push(service.address);
            for port in &mut service.ports {
                port.targets.sort_unstable();
                if port.targets.is_empty() {
                    continue;
                }
                let next = self.lists.len() as u64 + 1;
                let targets = (service.affinity, port.targets.clone());
                port.list = *self.lists.entry(targets).or_insert(next);
            }
        }
    }

    /// The service with an address.
    #[must_use]
    pub fn at(&self, address: u64) -> Option<&Service> {
        let at = self.all.binary_search_by_key(&address, |service| service.address).ok()?;
        Some(&self.all[at])
    }

    /// The services with addresses in a range.
    #[must_use]
    pub fn within(&self, (first, last): (u64, u64)) -> &[Service] {
        let begin = self.all.partition_point(|service| service.address < first);
        let end = self.all.partition_point(|service| service.address <= last);
        &self.all[begin..end]
    }

    /// Whether a node port is blocked at an address.
    #[must_use]
    pub fn is_blocked(&self, address: u64, protocol: u64, port: u64) -> bool {
        self.node_addresses.get(&address).into_iter().flatten().any(|(blocked, number)| {
            blocked.is_none_or(|blocked| blocked == protocol)
                && number.is_none_or(|number| number == port)
        })
    }
}

impl Service {
    /// What becomes of a whole or first packet to it.
    #[must_use]
    pub fn leads(&self, protocol: u64, port: u64) -> Led {
        let found = self.ports.iter().find(|own| (own.proto, own.port) == (protocol, port));
        found.filter(|own| !own.targets.is_empty()).map_or(Led::Refused, |own| Led::To(own.list))
    }

    /// What becomes of a fragment behind the first, where it comes alone.
    #[must_use]
    pub fn leads_later(&self, protocol: u64) -> Led {
        let mut own = self.ports.iter().filter(|own| own.proto == protocol);
        match (own.next(), own.next()) {
            (Some(own), None) if !own.targets.is_empty() => Led::To(own.list),
            _ => Led::Refused,
        }
    }
}

impl Meaning {
    /// Whether pods with a VNID reach a service.
    #[must_use]
    pub fn reaches_service(&self, from: u64, service: &Service) -> bool {
        self.reaches(from, service.vnid)
    }

    /// Whether a protocol has ports.
    #[must_use]
    pub fn has_ports(protocol: u64) -> bool {
        protocol >= proto::TCP
    }
}
