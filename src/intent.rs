//! What the desired state means: names resolved, every restriction met, nothing allocated yet.
//!
//! Only `resolve` builds an [`Intent`], so whoever holds one may rely on it. Objects are sorted
//! by name and refer to each other by index, whatever order they were written in.

use std::collections::BTreeMap;
use std::fmt;
use std::net::Ipv4Addr;
use std::ops::RangeInclusive;

use ipnet::Ipv4Net;

use crate::diagnostic::Place;
use crate::spec::{Labels, Mode, Platform, RpFilter, ServiceType, SessionAffinity};
use crate::value::{
    Bandwidth, DnsName, HostName, InterfaceName, Mac, Name, NameServer, NetnsName, NodePort, Port,
    Span, Vnid,
};
use crate::value::{Datapath, Protocol};

/// The whole of it.
#[derive(Debug)]
pub struct Intent {
    pub(crate) cluster: Cluster,
    pub(crate) nodes: Vec<Node>,
    pub(crate) projects: Vec<Project>,
    pub(crate) pods: Vec<Pod>,
    pub(crate) policies: Vec<EgressPolicy>,
    pub(crate) routers: Vec<EgressRouter>,
    pub(crate) egress_ips: Vec<EgressIps>,
    pub(crate) services: Vec<Service>,
    pub(crate) mdns: Vec<MdnsRecord>,
}

macro_rules! ids {
    ($($(#[$doc:meta])* $id:ident indexes $list:ident: $type:ident;)*) => {
        $(
            $(#[$doc])*
            #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
            pub struct $id(u32);

            impl $id {
                pub(crate) fn new(index: usize) -> Self {
                    // An input of 256 MiB has fewer objects than that.
                    Self(u32::try_from(index).unwrap_or(u32::MAX))
                }

                pub(crate) fn index(self) -> usize {
                    self.0 as usize
                }
            }

            impl std::ops::Index<$id> for Intent {
                type Output = $type;

                fn index(&self, id: $id) -> &$type {
                    &self.$list[id.0 as usize]
                }
            }
        )*
    };
}

ids! {
    /// A node of an [`Intent`].
    NodeId indexes nodes: Node;
    /// A project of an [`Intent`].
    ProjectId indexes projects: Project;
    /// A pod of an [`Intent`].
    PodId indexes pods: Pod;
    /// An egress router of an [`Intent`].
    RouterId indexes routers: EgressRouter;
    /// A service of an [`Intent`].
    ServiceId indexes services: Service;
}

impl Intent {
    /// What holds for the whole network.
    #[must_use]
    pub fn cluster(&self) -> &Cluster {
        &self.cluster
    }

    /// The nodes by name.
    #[must_use]
    pub fn nodes(&self) -> impl ExactSizeIterator<Item = (NodeId, &Node)> {
        self.nodes.iter().enumerate().map(|(index, node)| (NodeId::new(index), node))
    }

    /// The projects by name.
    #[must_use]
    pub fn projects(&self) -> impl ExactSizeIterator<Item = (ProjectId, &Project)> {
        self.projects.iter().enumerate().map(|(index, project)| (ProjectId::new(index), project))
    }

    /// The pods by project and name.
    #[must_use]
    pub fn pods(&self) -> impl ExactSizeIterator<Item = (PodId, &Pod)> {
        self.pods.iter().enumerate().map(|(index, pod)| (PodId::new(index), pod))
    }

    /// The egress policies by project.
    #[must_use]
    pub fn policies(&self) -> &[EgressPolicy] {
        &self.policies
    }

    /// The rules for names, by name, each name with all of its rules.
    #[must_use]
    pub fn named_rules(&self) -> BTreeMap<&DnsName, Vec<&EgressRule>> {
        let mut names: BTreeMap<&DnsName, Vec<&EgressRule>> = BTreeMap::new();
        for rule in self.policies.iter().flat_map(|policy| &policy.rules) {
            if let Target::Name(name) = &rule.to {
                names.entry(name).or_default().push(rule);
            }
        }
        names
    }

    /// The policy of a project.
    #[must_use]
    pub fn policy(&self, project: ProjectId) -> Option<&EgressPolicy> {
        let found = self.policies.binary_search_by_key(&project, |policy| policy.project);
        found.ok().map(|index| &self.policies[index])
    }

    /// The egress routers by name.
    #[must_use]
    pub fn routers(&self) -> impl ExactSizeIterator<Item = (RouterId, &EgressRouter)> {
        self.routers.iter().enumerate().map(|(index, router)| (RouterId::new(index), router))
    }

    /// The egress IPs by project.
    #[must_use]
    pub fn egress_ips(&self) -> &[EgressIps] {
        &self.egress_ips
    }

    /// The services by project and name.
    #[must_use]
    pub fn services(&self) -> impl ExactSizeIterator<Item = (ServiceId, &Service)> {
        self.services.iter().enumerate().map(|(index, service)| (ServiceId::new(index), service))
    }

    /// The names that a node announces by multicast DNS, sorted.
    pub fn mdns(&self, node: NodeId) -> impl Iterator<Item = &MdnsRecord> {
        self.mdns.iter().filter(move |record| record.node == node)
    }

    /// `project/service`, as comments and the lock file have it.
    #[must_use]
    pub fn service_name(&self, service: ServiceId) -> String {
        let service = &self[service];
        format!("{}/{}", self[service.project].name, service.name)
    }

    /// `project/service/80/tcp`, as the lock file has a port of a service.
    #[must_use]
    pub fn service_port_key(&self, service: ServiceId, port: &ServicePort) -> String {
        format!("{}/{}/{}", self.service_name(service), port.port, port.protocol)
    }

    /// `project/pod`, as diagnostics, comments and the lock file have it.
    #[must_use]
    pub fn pod_name(&self, pod: PodId) -> String {
        let pod = &self[pod];
        format!("{}/{}", self[pod.project].name, pod.name)
    }
}

/// What holds for the whole network.
#[derive(Debug)]
pub struct Cluster {
    /// How projects are kept apart.
    pub mode: Mode,
    /// Where the nodes' subnets come from; never empty.
    pub pod_networks: Vec<PodNetwork>,
    /// Where the services' addresses come from.
    pub service_network: Ipv4Net,
    /// The UDP port of the tunnels.
    pub vxlan_port: Port,
    /// The MTU of the pods, in bytes.
    pub mtu: u32,
    /// What the nodes run on.
    pub platform: Platform,
    /// How names become addresses.
    pub dns: Dns,
    /// What the nodes' own processes take from the pods of their node, beside DNS.
    pub node_access: Vec<NodeAccess>,
    /// Where the section stands, if there is one.
    pub place: Option<Place>,
}

/// Ports of every node that its own pods reach.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeAccess {
    /// The protocol.
    pub protocol: Protocol,
    /// The ports.
    pub ports: RangeInclusive<u16>,
    /// Where it is written.
    pub place: Place,
}

impl NodeAccess {
    /// Whether it is about a port.
    #[must_use]
    pub fn takes(&self, protocol: Protocol, port: Port) -> bool {
        self.protocol == protocol && self.ports.contains(&port.get())
    }
}

/// How names become addresses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dns {
    /// The name servers to ask; empty for those of the machine that asks.
    pub servers: Vec<NameServer>,
    /// How long addresses may be used after the last answer.
    pub max_age: Span,
    /// How long an address is kept that is no longer answered; at most `max_age`.
    pub keep: Span,
}

/// A network that is divided among the nodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PodNetwork {
    /// The whole network.
    pub cidr: Ipv4Net,
    /// The prefix length of one node's part, from the network's own to 30.
    pub host_prefix: u8,
}

impl Cluster {
    /// The least MTU of the nodes' network: that of the pods, and what VXLAN over IPv4 adds to a
    /// packet (RFC 7348): 14 bytes of Ethernet, 8 of VXLAN, 8 of UDP, 20 of IP.
    #[must_use]
    pub fn least_mtu(&self) -> u32 {
        const OVERHEAD: u32 = 14 + 8 + 8 + 20;
        self.mtu.saturating_add(OVERHEAD)
    }

    /// Whether an address belongs to pods or services, which egress rules are not about.
    #[must_use]
    pub fn contains(&self, address: Ipv4Addr) -> bool {
        self.networks().any(|network| network.contains(&address))
    }

    /// The pod networks and the service network.
    pub fn networks(&self) -> impl Iterator<Item = Ipv4Net> {
        self.pod_networks.iter().map(|network| network.cidr).chain([self.service_network])
    }
}

/// A value that the desired state says itself, instead of leaving it to the lock file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fixed<T> {
    /// The value.
    pub value: T,
    /// Where it is written.
    pub place: Place,
}

/// A machine that carries pods.
#[derive(Debug)]
pub struct Node {
    /// Its name.
    pub name: Name,
    /// Its VXLAN endpoint.
    pub address: Ipv4Addr,
    /// Whether egress routers and egress IPs go to other nodes.
    pub unavailable: bool,
    /// The datapath of its bridge.
    pub datapath: Datapath,
    /// For selectors.
    pub labels: Labels,
    /// Its part of the pod network, where the desired state says it.
    pub fixed_subnet: Option<Fixed<Ipv4Net>>,
    /// Its interface to the outside.
    pub uplink: Option<Uplink>,
    /// The addresses at which it serves node ports and load balancers, sorted, at least one.
    pub node_port_addresses: Vec<Ipv4Addr>,
    /// What of that it doesn't serve.
    pub blocks: Vec<NodePortBlock>,
    /// Where it is defined.
    pub place: Place,
}

impl Node {
    /// The gateway bridge, where the uplink is a port of one.
    #[must_use]
    pub fn gateway_bridge(&self) -> Option<&InterfaceName> {
        self.uplink.as_ref()?.bridge.as_ref()
    }
}

/// Ports of services that a node doesn't serve to the outside.
#[derive(Clone, Debug)]
pub struct NodePortBlock {
    /// The port; `None` for all.
    pub port: Option<Port>,
    /// The protocol; `None` for all.
    pub protocol: Option<Protocol>,
    /// Where it isn't served.
    pub at: BlockAt,
    /// Where that is written.
    pub place: Place,
}

impl NodePortBlock {
    /// Whether it is about a port.
    #[must_use]
    pub fn covers(&self, protocol: Protocol, port: Port) -> bool {
        self.protocol.is_none_or(|own| own == protocol) && self.port.is_none_or(|own| own == port)
    }
}

/// Where a node doesn't serve ports of services.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BlockAt {
    /// To what comes in by this interface.
    Interface(InterfaceName),
    /// At this address, one of its own.
    Address(Ipv4Addr),
}

/// A node's interface to the outside.
#[derive(Clone, Debug)]
pub struct Uplink {
    /// Its name.
    pub interface: InterfaceName,
    /// The network it is in.
    pub subnet: Ipv4Net,
    /// The next hop to everywhere else.
    pub gateway: Option<Ipv4Addr>,
    /// Its MTU in bytes, where the desired state says it: enough for the pods' and VXLAN.
    pub mtu: Option<u32>,
    /// The bridge that has it as a port.
    pub bridge: Option<InterfaceName>,
    /// Whether that bridge is made by others.
    pub disable_init: bool,
    /// How the kernel checks source addresses there, where the desired state says it.
    pub rp_filter: Option<RpFilter>,
}

impl Uplink {
    /// The interface that has the node's addresses.
    #[must_use]
    pub fn addressed(&self) -> &InterfaceName {
        self.bridge.as_ref().unwrap_or(&self.interface)
    }
}

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

/// What the pods of a project may reach outside of the cluster.
#[derive(Debug)]
pub struct EgressPolicy {
    /// The project: in its own network, alone.
    pub project: ProjectId,
    /// The rules; the first that matches decides.
    pub rules: Vec<EgressRule>,
    /// Where it is defined.
    pub place: Place,
}

/// One rule of an egress policy.
#[derive(Debug)]
pub struct EgressRule {
    /// What happens to the traffic.
    pub verdict: Verdict,
    /// Its destination.
    pub to: Target,
    /// Its protocols and ports; empty for all.
    pub ports: Vec<Ports>,
    /// Where it is defined.
    pub place: Place,
}

/// What an egress rule is about.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Target {
    /// A network.
    Network(Ipv4Net),
    /// A host by its name, at all the addresses that it is known to have.
    Name(DnsName),
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Network(network) => network.fmt(f),
            Self::Name(name) => name.fmt(f),
        }
    }
}

impl Target {
    /// The networks that it stands for: with the addresses of names, those of a name, none where
    /// it has no address yet.
    #[must_use]
    pub fn networks<'a>(&'a self, names: &'a Addresses) -> &'a [Ipv4Net] {
        match self {
            Self::Network(network) => std::slice::from_ref(network),
            Self::Name(name) => names.get(name).map_or(&[], Vec::as_slice),
        }
    }
}

/// The addresses of names, sorted, as networks of one address.
pub type Addresses = BTreeMap<DnsName, Vec<Ipv4Net>>;

/// Whether traffic passes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It does.
    Allow,
    /// It is dropped.
    Deny,
}

/// Ports of a protocol.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ports {
    /// The protocol.
    pub protocol: Protocol,
    /// The ports; `None` for all.
    pub range: Option<RangeInclusive<u16>>,
}

impl Ports {
    /// Whether all of `other` are among these.
    #[must_use]
    pub fn cover(&self, other: &Self) -> bool {
        self.protocol == other.protocol
            && match (&self.range, &other.range) {
                (None, _) => true,
                (Some(_), None) => false,
                (Some(outer), Some(inner)) => {
                    outer.start() <= inner.start() && inner.end() <= outer.end()
                }
            }
    }

    /// Whether any port is in both.
    #[must_use]
    pub fn overlap(&self, other: &Self) -> bool {
        self.protocol == other.protocol
            && match (&self.range, &other.range) {
                (Some(a), Some(b)) => a.start() <= b.end() && b.start() <= a.end(),
                _ => true,
            }
    }
}

impl EgressRule {
    /// Whether every packet that `other` matches is matched by this rule too. Without addresses,
    /// names are only known to cover themselves, and to be covered by everything.
    #[must_use]
    pub fn covers(&self, other: &Self, names: &Addresses) -> bool {
        let (outer, inner) = (self.to.networks(names), other.to.networks(names));
        let contained = |inner: &Ipv4Net| outer.iter().any(|outer| outer.contains(inner));
        (self.to == other.to
            || outer.iter().any(|outer| outer.prefix_len() == 0)
            || (!inner.is_empty() && inner.iter().all(contained)))
            && (self.ports.is_empty()
                || (!other.ports.is_empty()
                    && other.ports.iter().all(|b| self.ports.iter().any(|a| a.cover(b)))))
    }

    /// Whether it is about a port of whatever it is about.
    #[must_use]
    pub fn takes(&self, protocol: Protocol, port: Port) -> bool {
        self.ports.is_empty()
            || self.ports.iter().any(|ports| {
                ports.protocol == protocol
                    && ports.range.as_ref().is_none_or(|range| range.contains(&port.get()))
            })
    }

    /// Whether some packet is matched by both rules.
    #[must_use]
    pub fn overlaps(&self, other: &Self, names: &Addresses) -> bool {
        let others = other.to.networks(names);
        let overlap = |a: &Ipv4Net| others.iter().any(|b| a.contains(b) || b.contains(a));
        self.to.networks(names).iter().any(overlap)
            && (self.ports.is_empty()
                || other.ports.is_empty()
                || self.ports.iter().any(|a| other.ports.iter().any(|b| a.overlap(b))))
    }
}

/// A pod that leads outside from a fixed source address.
#[derive(Debug)]
pub struct EgressRouter {
    /// Its name.
    pub name: Name,
    /// The project that may use it.
    pub project: ProjectId,
    /// For selectors of services.
    pub labels: Labels,
    /// The node that it runs on, which has an uplink.
    pub node: NodeId,
    /// The address that the outside sees, in the uplink's subnet.
    pub source: Ipv4Addr,
    /// The network whose hosts it reaches directly: the uplink's subnet, a part of that, or the
    /// source alone.
    pub segment: Ipv4Net,
    /// The next hop, in the uplink's subnet.
    pub gateway: Ipv4Addr,
    /// How it leads there.
    pub mode: RouterMode,
    /// Where it is defined.
    pub place: Place,
}

impl EgressRouter {
    /// Whether its outside interface is a port of the node's bridge, since the uplink is one of a
    /// gateway bridge, to which patch ports lead.
    #[must_use]
    pub fn at_bridge(&self, intent: &Intent) -> bool {
        intent[self.node].gateway_bridge().is_some()
    }
}

/// How an egress router leads outside.
#[derive(Debug)]
pub enum RouterMode {
    /// By translating destinations.
    Redirect {
        /// Where single ports lead, by protocol and port.
        destinations: Vec<Destination>,
        /// Where all other TCP and UDP ports lead.
        fallback: Option<Ipv4Addr>,
    },
    /// By an HTTP proxy.
    HttpProxy {
        /// Its rules; the first that matches decides, and what none matches is denied.
        rules: Vec<SiteRule>,
        /// Its name servers; empty for those of the node.
        name_servers: Vec<Ipv4Addr>,
    },
    /// By a TCP proxy.
    DnsProxy {
        /// Its ports, sorted; at least one.
        ports: Vec<ProxyPort>,
        /// Its name servers; empty for those of the node.
        name_servers: Vec<Ipv4Addr>,
    },
}

impl RouterMode {
    /// The single ports that it takes of a protocol, sorted.
    #[must_use]
    pub fn ports(&self, protocol: Protocol) -> Vec<Port> {
        let of_tcp = |ports: Vec<Port>| if protocol == Protocol::Tcp { ports } else { Vec::new() };
        match self {
            Self::Redirect { destinations, .. } => {
                let listed = destinations.iter().filter(|d| d.protocol == protocol);
                listed.map(|destination| destination.port).collect()
            }
            Self::HttpProxy { .. } => of_tcp(vec![Port::HTTP_PROXY]),
            Self::DnsProxy { ports, .. } => of_tcp(ports.iter().map(|port| port.port).collect()),
        }
    }

    /// Whether it takes what comes to a port.
    #[must_use]
    pub fn takes(&self, protocol: Protocol, port: Port) -> bool {
        let all = matches!(self, Self::Redirect { fallback: Some(_), .. });
        (all && protocol != Protocol::Sctp) || self.ports(protocol).contains(&port)
    }
}

/// One rule of an HTTP proxy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SiteRule {
    /// What happens to the request.
    pub verdict: Verdict,
    /// The hosts that it is for.
    pub site: Site,
    /// Where it is defined.
    pub place: Place,
}

/// Hosts, as a rule of an HTTP proxy has them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Site {
    /// All.
    Any,
    /// A domain and all names below it.
    Domain(HostName),
    /// One name.
    Name(HostName),
    /// What has an address of this network.
    Network(Ipv4Net),
}

impl Site {
    /// Whether every request that `other` matches is matched by this too.
    #[must_use]
    pub fn covers(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Any, _) => true,
            (Self::Domain(domain), Self::Domain(inner) | Self::Name(inner)) => inner.is_in(domain),
            (Self::Name(name), Self::Name(other)) => name == other,
            (Self::Network(network), Self::Network(inner)) => network.contains(inner),
            _ => false,
        }
    }

    /// Whether it matches a request for a host, by its name if it has one, and its address.
    #[must_use]
    pub fn matches(&self, name: Option<&HostName>, address: Ipv4Addr) -> bool {
        match self {
            Self::Any => true,
            Self::Domain(domain) => name.is_some_and(|name| name.is_in(domain)),
            Self::Name(own) => name == Some(own),
            Self::Network(network) => network.contains(&address),
        }
    }
}

impl fmt::Display for Site {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Any => f.write_str("*"),
            Self::Domain(domain) => write!(f, "*.{domain}"),
            Self::Name(name) => name.fmt(f),
            Self::Network(network) if network.prefix_len() == 32 => network.addr().fmt(f),
            Self::Network(network) => network.fmt(f),
        }
    }
}

/// A port of a TCP proxy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProxyPort {
    /// The port that the pods connect to.
    pub port: Port,
    /// Where it leads.
    pub to: Upstream,
    /// The outside port.
    pub to_port: Port,
}

/// Where a port of a TCP proxy leads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Upstream {
    /// To an address.
    Address(Ipv4Addr),
    /// To whatever address the name has at the time.
    Name(HostName),
}

impl fmt::Display for Upstream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(address) => address.fmt(f),
            Self::Name(name) => name.fmt(f),
        }
    }
}

/// Where one port of an egress router leads.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Destination {
    /// The protocol.
    pub protocol: Protocol,
    /// The port that the pods connect to.
    pub port: Port,
    /// The outside address.
    pub to: Ipv4Addr,
    /// The outside port.
    pub to_port: Port,
}

/// Fixed source addresses of a project's traffic to the outside.
#[derive(Debug)]
pub struct EgressIps {
    /// The project: in its own network, alone.
    pub project: ProjectId,
    /// The addresses, sorted, at least one.
    pub addresses: Vec<EgressIp>,
}

/// A fixed source address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EgressIp {
    /// The address.
    pub address: Ipv4Addr,
    /// The node that holds it, which has an uplink.
    pub node: NodeId,
    /// Where it is written.
    pub place: Place,
}

/// A name that a node announces by multicast DNS, with its own address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MdnsRecord {
    /// The name: one label and `.local`.
    pub name: DnsName,
    /// The node.
    pub node: NodeId,
    /// Where it is written.
    pub place: Place,
}

/// Who is behind a port of a node's bridge.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Tenant {
    /// A pod.
    Pod(PodId),
    /// An egress router.
    Router(RouterId),
}

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
    pub tenants: Vec<Tenant>,
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
    pub backends: Vec<(Tenant, Port)>,
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
