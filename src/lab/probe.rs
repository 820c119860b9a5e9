//! Probes: what the intent says about a packet, and what a real packet does.

mod bandwidth;
mod egress;
mod expect;
mod network_policies;
mod node_ports;
mod projects;
mod router;
mod run;
mod services;
mod summary;

pub use expect::{Expected, Location, Observed, Probe};
pub use summary::Summary;

mod router_services;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::Duration;

use super::names;
use crate::model::{Model, Workload};
use crate::value::{Port, Protocol};
use crate::verify::reach::{Destination, Packet, Source, reach};

/// The port that pods and nodes answer at.
pub(super) const POD_PORT: u64 = 8080;
/// The port that the outside answers at where a rule is about none.
const OUTSIDE_PORT: u64 = 80;
/// The port of multicast groups.
const GROUP_PORT: u64 = 5000;
/// A port that no test configuration lists.
const ODD_PORT: u64 = 40_007;
/// How many addresses of a name are tried.
const ADDRESSES_SHOWN: usize = 4;
/// How long a flood lasts, how many a run has, and the ports that they go to.
const FLOOD: Duration = Duration::from_secs(3);
const MOST_FLOODS: usize = 8;
const FIRST_FLOOD: u16 = 41_000;
/// The most bits a second that the lab shows, and what it sends where there is no limit.
const MOST_BITS: u64 = 20_000_000;
const UNLIMITED_BITS: u64 = 12_000_000;
/// How often a flood is sent at most: a machine that is busy loses some of one.
const FLOOD_ATTEMPTS: usize = 8;

/// The probes that show the desired state: every pair of projects on one node and across nodes,
/// every egress rule, every egress router, multicast from every project with it and one without,
/// every service, every node port, every limit of what pods send and receive, and every network policy.
#[must_use]
pub fn plan(model: &Model) -> Vec<Probe> {
    let mut planner = Planner { model, probes: Vec::new(), associations: BTreeMap::new() };
    planner.projects();
    planner.network_policies();
    planner.egress();
    for (id, _) in model.intent().routers() {
        planner.router(id);
    }
    planner.multicast();
    for (id, address) in model.services() {
        planner.service(id, address);
    }
    planner.node_ports();
    planner.node_access();
    planner.bandwidths();
    planner.probes
}

pub(super) struct Planner<'m> {
    pub(super) model: &'m Model,
    pub(super) probes: Vec<Probe>,
    /// Of each client as the bridge knows it: the addresses that it opens SCTP associations to, and
    /// who is behind them.
    associations: BTreeMap<Ipv4Addr, Vec<(SocketAddrV4, BTreeSet<Workload>)>>,
}

impl Planner<'_> {
    pub(super) fn name(&self, workload: Workload) -> String {
        match workload {
            Workload::Pod(id) => self.model.intent().pod_name(id),
            Workload::Router(id) => self.model.intent()[id].name.to_string(),
        }
    }

    pub(super) fn push(
        &mut self,
        from: Workload,
        to: Destination,
        address: SocketAddrV4,
        protocol: Protocol,
        title: String,
    ) {
        let Ok(port) = Port::new(address.port().into()) else { return };
        let packet = Packet { from: Source::Workload(from), to, protocol, port };
        let reach = reach(self.model, &packet);
        let seen_as = match to {
            // Its own node sees the pod itself.
            Destination::Outside(to)
                if to == self.model.intent()[self.model.node(from)].address =>
            {
                self.model.endpoint(from).address
            }
            // An egress IP or the node's own address stands for the pod's.
            Destination::Outside(_) => self.model.external_source(from),
            _ => self.model.endpoint(from).address,
        };
        let want = if reach.allowed() {
            Expected::Answer { seen_as: Some(seen_as), at: Some(address) }
        } else {
            Expected::Silence
        };
        let from = Location::Workload(from);
        self.probes.push(Probe {
            title,
            from,
            to: address,
            protocol,
            fetch: None,
            want,
            because: reach.because,
        });
    }
}

/// The listener that a place is, and the address at which it hears groups.
fn listeners(model: &Model) -> BTreeMap<Location, (String, Ipv4Addr)> {
    let intent = model.intent();
    let pods = intent.pods().map(|(id, _)| (Workload::Pod(id), intent.pod_name(id)));
    let routers = intent.routers().map(|(id, r)| (Workload::Router(id), r.name.to_string()));
    let workloads = pods.chain(routers);
    let workloads = workloads.map(|(workload, name)| {
        (Location::Workload(workload), (name, model.endpoint(workload).address))
    });
    let nodes = intent.nodes();
    let nodes = nodes.map(|(id, n)| (Location::Node(id), (n.name.to_string(), model.gateway(id))));
    workloads.chain(nodes).collect()
}

/// The group of a multicast probe, which no other has, so that its sender needn't join it
/// (RFC 2365, section 6.1).
fn group(number: usize) -> SocketAddrV4 {
    let number = u16::try_from(number).unwrap_or_default();
    let [high, low] = number.to_be_bytes();
    SocketAddrV4::new(Ipv4Addr::new(239, 255, high, low), port(GROUP_PORT))
}

fn port(number: u64) -> u16 {
    u16::try_from(number).unwrap_or_default()
}
