//! Probes of what the nodes' own processes take from pods.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddrV4};

use super::probe::{Expected, POD_PORT, Planner};
use crate::intent::NodeId;
use crate::model::{Model, Workload};
use crate::value::{Port, Protocol};
use crate::verify::reach::Destination;

/// The ports of DNS, and one of every entry of `nodeAccess` for TCP or UDP: the nodes answer there in
/// the lab.
pub(super) fn examples(model: &Model) -> Vec<(Protocol, u16)> {
    let declared = &model.intent().cluster().node_access;
    let mut ports: Vec<_> = declared
        .iter()
        .map(|access| (access.protocol, *access.ports.start()))
        .filter(|(protocol, _)| *protocol != Protocol::Sctp)
        .chain([Protocol::Tcp, Protocol::Udp].map(|protocol| (protocol, Port::DNS.get())))
        .collect();
    ports.sort_unstable();
    ports.dedup();
    ports
}

impl Planner<'_> {
    /// From one pod of every node: what its own node takes at its two addresses, and another's
    /// gateway.
    pub(super) fn node_access(&mut self) {
        let intent = self.model.intent();
        let mut first: BTreeMap<usize, Workload> = BTreeMap::new();
        for (id, pod) in intent.pods() {
            first.entry(pod.node.index()).or_insert(Workload::Pod(id));
        }
        let mut ports = vec![(Protocol::Tcp, u16::try_from(POD_PORT).unwrap_or_default())];
        ports.extend(examples(self.model));
        ports.dedup();
        for workload in first.into_values() {
            let own = self.model.node(workload);
            let other = intent.nodes().map(|(id, _)| id).find(|id| *id != own);
            for (protocol, port) in &ports {
                let address = intent[own].address;
                // Where it is a node port, that is what is tried of it. Datagrams that come to all
                // addresses are answered by that of `tun0`.
                let mut node_ports = self.model.node_ports().iter();
                let served = node_ports.any(|p| (p.protocol, p.port.get()) == (*protocol, *port));
                if *protocol == Protocol::Tcp && !served {
                    let to = (Destination::Outside(address), address);
                    self.probe_node(workload, own, to, (*protocol, *port));
                }
                for node in [Some(own), other].into_iter().flatten() {
                    let address = self.model.gateway(node);
                    self.probe_node(
                        workload,
                        node,
                        (Destination::Node(node), address),
                        (*protocol, *port),
                    );
                }
            }
        }
    }

    fn probe_node(
        &mut self,
        from: Workload,
        node: NodeId,
        (to, address): (Destination, Ipv4Addr),
        (protocol, port): (Protocol, u16),
    ) {
        let (from_name, node) = (self.name(from), &self.model.intent()[node].name);
        let title = format!("{from_name} to {node} itself, {address}:{port}/{protocol}");
        self.push(from, to, SocketAddrV4::new(address, port), protocol, title);
        // Who answers datagrams can't tell the address that they came to.
        let probe = self.probes.last_mut().filter(|_| protocol == Protocol::Udp);
        if let Some(Expected::Answer { at, .. }) = probe.map(|probe| &mut probe.want) {
            *at = None;
        }
    }
}
