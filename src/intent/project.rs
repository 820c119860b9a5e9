//! Projects and pods.

use std::net::Ipv4Addr;

use super::{Fixed, NodeId, PodId, ProjectId, RouterId};
use crate::diagnostic::Place;
use crate::spec::Labels;
use crate::value::{Bandwidth, InterfaceName, Mac, Name, NetnsName, Port, Protocol, Vnid};

/// A tenant.
#[derive(Debug)]
pub struct Project {
    /// Its name.
    pub name: Name,
    /// For selectors.
    pub labels: Labels,
    /// Its own VNID, where the desired state says it.
    pub fixed_vnid: Option<Fixed<Vnid>>,
    /// Whether its pods may send to multicast groups.
    pub multicast: bool,
    /// Whose network it is in.
    pub membership: Membership,
    /// Where it is defined.
    pub place: Place,
}

/// Whose network a project is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Membership {
    /// Its own.
    Own,
    /// That of another project, which is in its own.
    Joined(ProjectId),
    /// The global one, VNID 0.
    Global,
}

/// A workload with one interface on the pod network.
#[derive(Debug)]
pub struct Pod {
    /// Its project.
    pub project: ProjectId,
    /// Its name, unique in the project.
    pub name: Name,
    /// The node it runs on.
    pub node: NodeId,
    /// How it is connected.
    pub attachment: Attachment,
    /// Where that is written.
    pub attachment_place: Place,
    /// Its address, where the desired state says it.
    pub fixed_address: Option<Fixed<Ipv4Addr>>,
    /// Its Ethernet address, where the desired state says it.
    pub fixed_mac: Option<Fixed<Mac>>,
    /// The most that it receives.
    pub ingress: Option<Bandwidth>,
    /// The most that it sends.
    pub egress: Option<Bandwidth>,
    /// Whether services lead to it.
    pub ready: bool,
    /// For selectors.
    pub labels: Labels,
    /// The ports to which it gives names, by name and protocol.
    pub ports: Vec<(Name, Protocol, Port)>,
    /// Where it is defined.
    pub place: Place,
}

/// How a pod is connected to its node's bridge.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Attachment {
    /// By a veth pair that is made for it.
    Netns(NetnsName),
    /// By an interface that exists already.
    Interface(InterfaceName),
}

/// Who is behind a port of a node's bridge.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Workload {
    /// A pod.
    Pod(PodId),
    /// An egress router.
    Router(RouterId),
}
