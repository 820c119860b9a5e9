//! Probes between pods: who reaches whom, and multicast.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddrV4;

use super::{Expected, GROUP_PORT, Location, POD_PORT, Planner, Probe, group, listeners, port};
use crate::intent::NodeId;
use crate::model::Workload;
use crate::value::{Port, Protocol};
use crate::verify::reach::{Destination, Packet, Source, reach};

impl Planner<'_> {
    /// One pair of pods of every two projects on one node, and one across nodes.
    pub(super) fn projects(&mut self) {
        let intent = self.model.intent();
        let mut pods: Vec<Vec<Workload>> = vec![Vec::new(); intent.projects().len()];
        for (id, pod) in intent.pods() {
            pods[pod.project.index()].push(Workload::Pod(id));
        }
        for sources in &pods {
            for destinations in &pods {
                let pairs = || {
                    let pairs =
                        sources.iter().flat_map(|a| destinations.iter().map(move |b| (*a, *b)));
                    pairs.filter(|(a, b)| a != b)
                };
                let same =
                    |(a, b): &(Workload, Workload)| self.model.node(*a) == self.model.node(*b);
                let local = pairs().find(same);
                let remote = pairs().find(|pair| !same(pair));
                for (source, destination) in local.into_iter().chain(remote) {
                    let address = self.model.endpoint(destination).address;
                    let to = SocketAddrV4::new(address, port(POD_PORT));
                    let where_ = if same(&(source, destination)) { "same node" } else { "across" };
                    let (a, b) = (self.name(source), self.name(destination));
                    let title = format!("{a} to {b}, {where_}");
                    self.push(source, Destination::Workload(destination), to, Protocol::Tcp, title);
                }
            }
        }
    }

    /// Where anybody asked for multicast: a sender of every project on every node that has it, and
    /// one of every other project.
    pub(super) fn multicast(&mut self) {
        let intent = self.model.intent();
        if !intent.projects().any(|(_, project)| project.multicast) {
            return;
        }
        let mut first: BTreeMap<(usize, Option<NodeId>), Workload> = BTreeMap::new();
        for (id, pod) in intent.pods() {
            let off = self.model.without_multicast(pod.project).is_some();
            let node = (!off).then_some(pod.node);
            first.entry((pod.project.index(), node)).or_insert(Workload::Pod(id));
        }
        let protocol = Protocol::Udp;
        let Ok(port) = Port::new(GROUP_PORT) else { return };
        for (number, workload) in first.into_values().enumerate() {
            let mut because = None;
            let mut names = BTreeSet::new();
            for (place, (name, _)) in listeners(self.model) {
                let Location::Workload(to) = place else { continue };
                let from = Source::Workload(workload);
                let packet = Packet { from, to: Destination::Member(to), protocol, port };
                let reach = reach(self.model, &packet);
                if reach.allowed() {
                    names.insert(name);
                    because = Some(reach.because);
                } else if to != workload {
                    because.get_or_insert(reach.because);
                }
            }
            let to = group(number);
            self.probes.push(Probe {
                title: format!("{} to group {}", self.name(workload), to.ip()),
                from: Location::Workload(workload),
                to,
                protocol,
                fetch: None,
                want: Expected::Copies(names),
                because: because.unwrap_or_default(),
            });
        }
    }
}
