//! Probes of node ports.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, SocketAddrV4};

use super::{Expected, Location, Planner, Probe};
use crate::intent::{BlockAt, NodeId, Verdict};
use crate::lab::network::comes_by;
use crate::model::{NodePort, Workload};
use crate::value::Protocol;
use crate::verify::reach::{Destination, Packet, Source, reach};

impl Planner<'_> {
    /// Every node port: from the outside at every address of every node, from one pod of every
    /// project on every node, and from the nodes, each to the own node and to another.
    pub(super) fn node_ports(&mut self) {
        let model = self.model;
        let intent = model.intent();
        let mut pods: BTreeMap<(usize, NodeId), Workload> = BTreeMap::new();
        for (pod, found) in intent.pods() {
            pods.entry((found.project.index(), found.node)).or_insert(Workload::Pod(pod));
        }
        let nodes: Vec<NodeId> = intent.nodes().map(|(id, _)| id).collect();
        for port in model.node_ports() {
            for (index, node) in nodes.iter().enumerate() {
                let addresses = &intent[*node].node_port_addresses;
                for address in addresses {
                    self.node_port(port, Location::Outside, *node, *address);
                }
                let before = nodes[(index + nodes.len() - 1) % nodes.len()];
                let near = BTreeSet::from([*node, before]);
                for ((_, at), workload) in &pods {
                    for address in addresses.iter().filter(|_| near.contains(at)) {
                        self.node_port(port, Location::Workload(*workload), *node, *address);
                    }
                }
                for from in &near {
                    // Between nodes, there is but the uplink.
                    let by_uplink =
                        |address: &&Ipv4Addr| from == node || **address == intent[*node].address;
                    for address in addresses.iter().filter(by_uplink) {
                        self.node_port(port, Location::Node(*from), *node, *address);
                    }
                }
            }
        }
    }

    fn node_port(&mut self, found: &NodePort, client: Location, node: NodeId, address: Ipv4Addr) {
        let model = self.model;
        let intent = model.intent();
        let (from, name) = match client {
            Location::Workload(workload) => (Source::Workload(workload), self.name(workload)),
            Location::Node(node) => (Source::Node(node), intent[node].name.to_string()),
            Location::Outside => (Source::Outside, crate::lab::OUTSIDE.to_owned()),
        };
        let NodePort { protocol, port, .. } = *found;
        let packet = Packet { from, to: Destination::NodePort(node, address), protocol, port };
        let mut reach = reach(model, &packet);
        let by = comes_by(&intent[node], address);
        let block = intent[node].blocks.iter().find(|block| {
            matches!(&block.at, BlockAt::Interface(name) if name.as_str() == by)
                && block.covers(protocol, port)
        });
        // What comes from pods and from the node itself comes by no such interface.
        let outer = client == Location::Outside || matches!(from, Source::Node(n) if n != node);
        if let Some(block) = block.filter(|_| outer) {
            reach.verdict = Verdict::Deny;
            reach.refused = false;
            reach.because = format!("{by} of {} does not serve it", intent[node].name);
            reach.place = Some(block.place);
        }
        let (behind, ..) = model.service_port_of(found);
        let backends = &behind.backends;
        let is_client = |workload| client == Location::Workload(workload);
        let only = if let [(pod, port)] = backends[..] { Some((pod, port)) } else { None };
        let at = |pod| model.endpoint(pod).address;
        let seen_as = match client {
            // A pod that gets itself sees the service.
            Location::Workload(_) if only.is_some_and(|(pod, _)| is_client(pod)) => {
                model.service_address(found.service)
            }
            Location::Workload(workload) => Some(model.endpoint(workload).address)
                .filter(|_| !backends.iter().any(|(pod, _)| is_client(*pod))),
            // The node stands for whoever comes to it.
            Location::Node(at) if at == node => Some(model.gateway(node)),
            Location::Node(_) | Location::Outside => Some(model.node_port_source(node)),
        };
        let want = if reach.sometimes {
            let from = if outer { Source::Outside } else { from };
            self.among(from, Some(node), protocol, backends)
        } else if reach.allowed() {
            let to = only.filter(|_| protocol != Protocol::Udp);
            Expected::Answer { seen_as, at: to.map(|(pod, p)| SocketAddrV4::new(at(pod), p.get())) }
        } else if reach.refused {
            Expected::Refusal
        } else {
            Expected::Silence
        };
        if protocol == Protocol::Sctp && want != Expected::Silence {
            let (client, to) = match client {
                Location::Workload(workload) => {
                    (model.endpoint(workload).address, Some((address, port)))
                }
                Location::Node(_) | Location::Outside => {
                    let service = model.service_address(found.service);
                    (model.gateway(node), service.map(|address| (address, behind.port)))
                }
            };
            let to = to.map(|(address, port)| SocketAddrV4::new(address, port.get()));
            if !to.is_some_and(|to| self.associates(client, to, backends)) {
                return;
            }
        }
        let service = intent.service_name(found.service);
        let to_node = &intent[node].name;
        self.probes.push(Probe {
            fetch: None,
            title: format!("{name} to {to_node} {address}:{port}/{protocol}, {service}"),
            from: client,
            to: SocketAddrV4::new(address, port.get()),
            protocol,
            want,
            because: reach.because,
        });
    }
}
