//! What `ringfence test` checks.

use std::net::Ipv4Addr;

use super::{Endpoint, Intent, NodeId, PodId, ProjectId, RouterId, Verdict, Workload};
use crate::diagnostic::Place;
use crate::spec::Selector;
use crate::value::{Port, Protocol};

/// What must become of some packets.
#[derive(Debug)]
pub struct PolicyTest {
    /// What it is for.
    pub name: String,
    /// Who sends.
    pub from: Vec<TestEnd>,
    /// Whom it is for.
    pub to: Vec<TestEnd>,
    /// The destination port; `None` for those of the service, or all.
    pub port: Option<Port>,
    /// The protocol; `None` for all, or TCP with a port.
    pub protocol: Option<Protocol>,
    /// What must become of each packet.
    pub expect: Verdict,
    /// By what the outside is reached.
    pub via: Option<Via>,
    /// Where it is defined.
    pub place: Place,
}

/// One or many ends of connections.
#[derive(Debug)]
pub enum TestEnd {
    /// One, or everybody in a network.
    Named(Endpoint, Place),
    /// Pods.
    Pods(PodSet),
}

/// Pods by their projects and labels.
#[derive(Debug)]
pub struct PodSet {
    /// The projects, sorted; `None` for all.
    pub projects: Option<Vec<ProjectId>>,
    /// Which of their pods.
    pub pods: Selector,
    /// Where it is written.
    pub place: Place,
}

/// By what the outside is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Via {
    /// An egress router.
    Router(RouterId),
    /// A node, by its address.
    Node(NodeId),
    /// An egress IP.
    Address(Ipv4Addr),
}

impl PodSet {
    /// The pods.
    #[must_use]
    pub fn pods<'i>(&'i self, intent: &'i Intent) -> Box<dyn Iterator<Item = Workload> + 'i> {
        let fits = |(_, pod): &(PodId, &super::Pod)| self.pods.matches(&pod.labels);
        match &self.projects {
            None => Box::new(intent.pods().filter(fits).map(|(id, _)| Workload::Pod(id))),
            Some(projects) => Box::new(
                projects
                    .iter()
                    .flat_map(|project| intent.pods_of(*project))
                    .filter(fits)
                    .map(|(id, _)| Workload::Pod(id)),
            ),
        }
    }
}
