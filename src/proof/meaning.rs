//! What the desired state and its lock file mean, read a second time.
//!
//! Nothing here comes from the compiler: not from its intent, its model, its `reach`. The rules,
//! as they are documented:
//!
//! - A *network* is a project with all that are joined to it, directly or not. A project is *global*
//!   if it is named `default` or the section `global` means it; `isolate` wins over every selector.
//! - The VNID of a network is that of its root project in the lock file; that of global projects is 0.
//! - A pod reaches its own network and global pods, and a global pod reaches all. In the mode
//!   `subnet`, everybody reaches everybody.
//! - What leaves the cluster is decided by the first rule of the project's policy that matches;
//!   without one it is allowed. Closed whatever a policy says: groups and reserved addresses, and
//!   the VXLAN port of nodes. Open whatever it says: DNS of the pod's own node.
//! - What is sent to a group is copied to each other pod of the sender's network, if all projects of that
//!   enable multicast; nobody else gets it, egress routers neither.
//! - A fragment behind the first has no ports. It passes where an allowed first one may have
//!   passed: a rule with ports that allows takes it, one that denies doesn't. A first fragment
//!   without ports is dropped everywhere.
//! - The gateway of a node takes anything from its own side but the VXLAN port; its ruleset decides
//!   the rest. The node reaches all pods. What it forwards to pods is replies alone.

mod lock;
pub mod outside;
mod read;
mod read_services;
pub mod services;

use std::collections::{BTreeMap, BTreeSet};

pub use lock::Lock;

use crate::diagnostic::Place;
use crate::proof::frame::Range;

/// A node.
#[derive(Clone, Debug)]
pub struct Node {
    /// Its name.
    pub name: String,
    /// Its VXLAN endpoint.
    pub address: u64,
    /// Its part of the pod networks.
    pub subnet: Range,
    /// The prefix length of that.
    pub prefix: u8,
    /// The address of its `tun0`.
    pub gateway: u64,
    /// Whether its datapath is the kernel's.
    pub kernel: bool,
    /// Its interface to the outside.
    pub uplink: Option<String>,
    /// Whether its uplink is a port of a gateway bridge.
    pub gateway_bridge: bool,
    /// The addresses at which it serves node ports.
    pub served_at: Vec<u64>,
    /// What it does not serve by an interface: protocol and port, or all.
    pub blocked: Vec<(String, Option<u64>, Option<u64>)>,
    /// The same by an address.
    pub blocked_at: Vec<(u64, Option<u64>, Option<u64>)>,
    /// Its pods and egress routers, by address.
    pub workloads: Vec<Workload>,
    /// Where it stands.
    pub place: Place,
}

/// A pod or egress router.
#[derive(Clone, Debug)]
pub struct Workload {
    /// `pod shop/web-0` or `router supplier`.
    pub name: String,
    /// Its project.
    pub project: usize,
    /// Its address.
    pub address: u64,
    /// Its Ethernet address.
    pub mac: u64,
    /// Its port on the bridge.
    pub port: u64,
    /// How it is connected.
    pub attachment: Attachment,
    /// Whether it is an egress router.
    pub router: bool,
    /// Where it stands.
    pub place: Place,
}

/// How a pod is connected.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Attachment {
    /// By a veth into this namespace.
    Netns(String),
    /// By this interface of the node.
    Interface(String),
}

/// A project.
#[derive(Clone, Debug)]
pub struct Project {
    /// Its name.
    pub name: String,
    /// The VNID of its network; 0 if it is global.
    pub vnid: u64,
    /// Its egress policy.
    pub policy: Option<usize>,
    /// Where it stands.
    pub place: Place,
}

/// An egress policy.
#[derive(Clone, Debug)]
pub struct Policy {
    /// Its rules, in order.
    pub rules: Vec<Rule>,
    /// Where networks of rules begin, and where what is behind them begins; sorted.
    pub bounds: Vec<u64>,
}

/// A rule of an egress policy.
#[derive(Clone, Debug)]
pub struct Rule {
    /// Whether it lets the traffic out.
    pub allow: bool,
    /// The destinations.
    pub networks: Vec<Range>,
    /// The protocols, each with its ports or all of them; empty for everything.
    pub ports: Vec<(u64, Option<Range>)>,
    /// What it says, for people.
    pub text: String,
    /// Where it stands.
    pub place: Place,
}

/// What is there of which no lemma speaks yet.
#[derive(Clone, Copy, Debug, Default)]
#[allow(clippy::struct_excessive_bools, reason = "each is one section of the desired state")]
pub struct Features {
    /// Services with an address.
    pub services: bool,
    /// Services at ports of nodes.
    pub node_ports: bool,
    /// Projects with multicast.
    pub multicast: bool,
    /// Egress IPs.
    pub egress_ips: bool,
    /// Egress routers.
    pub routers: bool,
    /// Gateway bridges.
    pub gateway_bridges: bool,
    /// Network policies.
    pub network_policies: bool,
    /// Limits of bandwidth.
    pub bandwidth: bool,
}

/// The whole desired state.
#[derive(Clone, Debug, Default)]
pub struct Meaning {
    /// Whether projects are kept apart by VNIDs.
    pub isolates: bool,
    /// Where pods' addresses come from.
    pub pod_networks: Vec<Range>,
    /// Where services' addresses come from.
    pub service_network: Range,
    /// The port of the tunnels.
    pub vxlan_port: u64,
    /// The MTU of the pods.
    pub mtu: u64,
    /// What the nodes take from their pods beside DNS: protocol and ports.
    pub node_access: Vec<(u64, Range)>,
    /// The nodes, in the order of the desired state.
    pub nodes: Vec<Node>,
    /// The projects.
    pub projects: Vec<Project>,
    /// The egress policies.
    pub policies: Vec<Policy>,
    /// The services with an address.
    pub services: services::Services,
    /// By network, the workloads that answer as services, sorted.
    pub answering: BTreeMap<u64, Vec<u64>>,
    /// The networks with multicast, each with the nodes that have members.
    pub multicast: BTreeMap<u64, BTreeSet<usize>>,
    /// By project, its egress IPs.
    pub egress_ips: BTreeMap<usize, outside::EgressIps>,
    /// The egress routers.
    pub routers: Vec<outside::Router>,
    /// What is used.
    pub features: Features,
    /// The addresses of all nodes, sorted.
    pub tunnel_ends: Vec<u64>,
    /// The subnets of all nodes with their indices, sorted.
    pub subnets: Vec<(Range, usize)>,
}

/// What a policy says of a part of the outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Said {
    /// Whether it may leave.
    pub allowed: bool,
    /// The rule that says so: policy and index.
    pub rule: Option<(usize, usize)>,
}

impl Rule {
    /// Whether it decides about a packet. With ports in ranges, the ports must lie wholly in or out of each.
    fn decides(&self, proto: u64, later: bool, port: u64) -> bool {
        self.ports.is_empty()
            || self.ports.iter().any(|(wanted, ports)| {
                *wanted == proto
                    && match ports {
                        None => true,
                        Some(_) if later => self.allow,
                        Some((first, last)) => (*first..=*last).contains(&port),
                    }
            })
    }
}

impl Meaning {
    /// The VNID that a project's traffic carries.
    #[must_use]
    pub fn vnid(&self, project: usize) -> u64 {
        if self.isolates { self.projects[project].vnid } else { 0 }
    }

    /// Whether a sender with a VNID reaches pods of another.
    #[must_use]
    pub fn reaches(&self, from: u64, to: u64) -> bool {
        !self.isolates || from == 0 || to == 0 || from == to
    }

    /// What a policy says about a packet to an address outside.
    #[must_use]
    pub fn leaves(
        &self,
        policy: Option<usize>,
        dst: u64,
        proto: u64,
        later: bool,
        port: u64,
    ) -> Said {
        let Some(number) = policy else { return Said { allowed: true, rule: None } };
        for (index, rule) in self.policies[number].rules.iter().enumerate() {
            let there = rule.networks.iter().any(|(first, last)| (*first..=*last).contains(&dst));
            if there && rule.decides(proto, later, port) {
                return Said { allowed: rule.allow, rule: Some((number, index)) };
            }
        }
        Said { allowed: true, rule: None }
    }

    /// The node that has an address in its subnet.
    #[must_use]
    pub fn node_of(&self, address: u64) -> Option<usize> {
        let after = self.subnets.partition_point(|(subnet, _)| subnet.0 <= address);
        let (subnet, node) = self.subnets.get(after.checked_sub(1)?)?;
        (address <= subnet.1).then_some(*node)
    }

    /// Reads the typed documents and the text of the lock file.
    pub fn read(documents: &[crate::input::Documents], lock: &str) -> Result<Self, String> {
        let lock = Lock::read(lock)?;
        read::Reader::new(documents, &lock).read()
    }

    /// The nodes by name.
    #[must_use]
    pub fn node_names(&self) -> BTreeMap<&str, usize> {
        self.nodes.iter().zip(0..).map(|(node, index)| (node.name.as_str(), index)).collect()
    }
}
