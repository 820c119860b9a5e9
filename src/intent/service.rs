//! Services.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;

use super::{Fixed, ProjectId, Workload};
use crate::diagnostic::Place;
use crate::spec::{ServiceType, SessionAffinity};
use crate::value::{Name, NodePort, Port, Protocol};

/// A stable address in front of some pods or egress routers of a project.
#[derive(Debug)]
pub struct Service {
    /// The project, whose network it is in.
    pub project: ProjectId,
    /// Its name, unique in the project.
    pub name: Name,
    /// Who reaches it.
    pub kind: ServiceType,
    /// Where its address comes from.
    pub address: ServiceAddress,
    /// Whether a client address always gets the same pod.
    pub affinity: SessionAffinity,
    /// The pods that it is for, ready or not, and the egress routers.
    pub workloads: Vec<Workload>,
    /// Its ports, by protocol and number. One that nobody is behind refuses.
    pub ports: Vec<ServicePort>,
    /// Where it is defined.
    pub place: Place,
}

/// Where the address of a service comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ServiceAddress {
    /// It has none.
    Headless,
    /// It is allocated.
    Allocated,
    /// The desired state says it.
    Fixed(Fixed<Ipv4Addr>),
}

/// A port of a service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServicePort {
    /// Its protocol.
    pub protocol: Protocol,
    /// Its number.
    pub port: Port,
    /// The pods behind it that are ready, and the egress routers, each with its port.
    pub backends: Vec<(Workload, Port)>,
    /// The hosts outside behind it, each with its port, by address. A service has these or those.
    pub endpoints: Vec<(Ipv4Addr, Port)>,
    /// The port at every node that the desired state says. Without one, it is allocated where the
    /// type of the service has one.
    pub fixed_node_port: Option<Fixed<NodePort>>,
    /// Where it is defined.
    pub place: Place,
}

impl ServicePort {
    /// Whether nobody is behind it, so that it refuses.
    #[must_use]
    pub fn is_deserted(&self) -> bool {
        self.backends.is_empty() && self.endpoints.is_empty()
    }
}

/// Whose services the nodes' own processes reach.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeServices {
    /// The projects, beside the global ones.
    pub projects: BTreeSet<ProjectId>,
    /// Where that is said.
    pub place: Place,
}
