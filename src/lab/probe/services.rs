//! Probes of services.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, SocketAddrV4};

use super::{Expected, Location, ODD_PORT, Planner, Probe, port};
use crate::intent::ServiceId;
use crate::model::Workload;
use crate::value::{Port, Protocol};
use crate::verify::reach::{Destination, Packet, Source, reach};

impl Planner<'_> {
    /// Every port of a service, and one that it doesn't have: from one pod of every project on
    /// every node, and from the nodes themselves.
    pub(super) fn service(&mut self, id: ServiceId, address: Ipv4Addr) {
        let intent = self.model.intent();
        let mut clients: BTreeMap<(usize, usize), Location> = BTreeMap::new();
        for (pod, found) in intent.pods() {
            let key = (found.project.index(), found.node.index());
            clients.entry(key).or_insert(Location::Workload(Workload::Pod(pod)));
        }
        let nodes = intent.nodes().map(|(node, _)| Location::Node(node));
        let clients: Vec<Location> = clients.into_values().chain(nodes).collect();
        let mut ports: Vec<(Protocol, u16)> =
            intent[id].ports.iter().map(|port| (port.protocol, port.port.get())).collect();
        ports.push((Protocol::Tcp, port(ODD_PORT)));
        for client in clients {
            for (protocol, port) in &ports {
                self.service_port(id, SocketAddrV4::new(address, *port), *protocol, client);
            }
        }
    }

    fn service_port(
        &mut self,
        id: ServiceId,
        to: SocketAddrV4,
        protocol: Protocol,
        client: Location,
    ) {
        let intent = self.model.intent();
        let Ok(port) = Port::new(to.port().into()) else { return };
        let (from, name, source) = match client {
            Location::Workload(workload) => {
                let address = self.model.endpoint(workload).address;
                (Source::Workload(workload), self.name(workload), address)
            }
            Location::Node(node) => {
                let name = intent[node].name.to_string();
                (Source::Node(node), name, self.model.gateway(node))
            }
            Location::Outside => return,
        };
        let reach =
            reach(self.model, &Packet { from, to: Destination::Service(id), protocol, port });
        let mut found = intent[id].ports.iter();
        let found = found.find(|found| found.protocol == protocol && found.port == port);
        let backends = found.map(|port| port.backends.as_slice()).unwrap_or_default();
        let endpoints = found.map(|port| port.endpoints.as_slice()).unwrap_or_default();
        let is_client = |workload| client == Location::Workload(workload);
        let mut fetch = None;
        let want = if reach.sometimes {
            self.among(from, None, protocol, backends)
        } else if reach.allowed() && !endpoints.is_empty() {
            let seen_as = match client {
                Location::Node(node) => intent[node].address,
                Location::Workload(workload) => self.model.external_source(workload),
                Location::Outside => return,
            };
            let only =
                if let [(address, port)] = endpoints { Some((*address, *port)) } else { None };
            let at = only.map(|(address, port)| SocketAddrV4::new(address, port.get()));
            Expected::Answer { seen_as: Some(seen_as), at }
        } else if let Some(way) = self.through_routers(protocol, backends, reach.allowed()) {
            fetch = way.fetch;
            way.want
        } else if reach.allowed() {
            let only = if let [(pod, port)] = backends { Some((*pod, *port)) } else { None };
            let at = |pod| self.model.endpoint(pod).address;
            Expected::Answer {
                // A pod that gets itself sees the service.
                seen_as: match only {
                    Some((pod, _)) if is_client(pod) => Some(*to.ip()),
                    _ => Some(source).filter(|_| !backends.iter().any(|(pod, _)| is_client(*pod))),
                },
                // Who answers datagrams can't tell the address that they came to.
                at: only
                    .filter(|_| protocol != Protocol::Udp)
                    .map(|(pod, port)| SocketAddrV4::new(at(pod), port.get())),
            }
        } else if reach.refused {
            Expected::Refusal
        } else {
            Expected::Silence
        };
        if matches!((client, &want), (Location::Node(_), Expected::Refusal))
            && protocol != Protocol::Tcp
        {
            // A kernel sends no error to itself in the name of another.
            return;
        }
        if protocol == Protocol::Sctp && want != Expected::Silence {
            // The way by a node port has more to show, and a pod can't take both.
            let mut outer = self.model.node_ports().iter();
            let is_outer = outer.any(|p| (p.service, p.protocol, p.port) == (id, protocol, port));
            let is_pod = matches!(client, Location::Workload(_));
            if (is_outer && is_pod && reach.allowed()) || !self.associates(source, to, backends) {
                return;
            }
        }
        let service = intent.service_name(id);
        self.probes.push(Probe {
            title: format!("{name} to service {service}:{port}/{protocol}"),
            from: client,
            to,
            protocol,
            fetch,
            want,
            because: reach.because,
        });
    }

    /// Whether an SCTP association to a service, which is refused where it has no pods, can be shown
    /// beside those of the plan so far; then it is one of them.
    ///
    /// A conntrack that knows no ports of SCTP, such as that of Open vSwitch 3.1 in userspace, tells
    /// associations apart by their two addresses alone. So a client has one at a time with a pod,
    /// and what it sends to another port of the same address goes where the first went.
    pub(super) fn associates(
        &mut self,
        client: Ipv4Addr,
        to: SocketAddrV4,
        backends: &[(Workload, Port)],
    ) -> bool {
        let workloads: BTreeSet<Workload> =
            backends.iter().map(|(workload, _)| *workload).collect();
        let others = self.associations.entry(client).or_default();
        let is_in_the_way = |(other, behind): &(SocketAddrV4, BTreeSet<Workload>)| {
            let both_refuse = behind.is_empty() && workloads.is_empty();
            let same_address = other.ip() == to.ip() && !both_refuse;
            *other != to && (same_address || !behind.is_disjoint(&workloads))
        };
        let alone = !others.iter().any(is_in_the_way);
        if alone {
            others.push((to, workloads));
        }
        alone
    }
}
