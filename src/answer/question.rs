//! A packet by its two ends, and what the intent says of it.

use std::net::Ipv4Addr;

use crate::diagnostic::{Code, Diagnostic};
use crate::intent::{Endpoint, NodeId, RouterMode, ServiceId, Verdict, Workload};
use crate::model::Model;
use crate::value::{Port, Protocol};
use crate::verify::reach::{Destination, Packet, Reach, Source, reach};

/// Stands for everybody outside, as a sender and where nothing else is said: TEST-NET-3 (RFC 5737).
pub const OUTSIDE: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 7);

/// Who has an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Holder {
    /// A pod or egress router.
    Workload(Workload),
    /// A node, as the gateway of its pods.
    Gateway(NodeId),
    /// A node, as the outside knows it.
    Node(NodeId),
    /// A service.
    Service(ServiceId),
    /// A node, for the replies to what left by this egress IP.
    EgressIp,
    /// A group of multicast.
    Group,
    /// Nobody, in the pod networks or that of the services.
    Nobody,
    /// Somebody outside.
    Outside,
}

/// All addresses of a network, sorted.
#[derive(Debug)]
pub struct Directory {
    holders: Vec<(Ipv4Addr, Holder)>,
}

impl Directory {
    /// The addresses of a model.
    #[must_use]
    pub fn new(model: &Model) -> Self {
        let intent = model.intent();
        let mut holders = Vec::with_capacity(intent.pods().len());
        for (id, _) in intent.nodes() {
            let workloads = model.workloads(id);
            let at = |workload| (model.endpoint(workload).address, Holder::Workload(workload));
            holders.extend(workloads.map(at));
            holders.push((model.gateway(id), Holder::Gateway(id)));
            holders.extend(model.own_addresses(id).into_iter().map(|own| (own, Holder::Node(id))));
        }
        holders.extend(model.services().map(|(id, address)| (address, Holder::Service(id))));
        let egress_ips = model.intent().egress_ips().iter().flat_map(|list| &list.addresses);
        holders.extend(egress_ips.map(|ip| (ip.address, Holder::EgressIp)));
        holders.sort_by_key(|(address, _)| *address);
        Self { holders }
    }

    /// Who has an address.
    #[must_use]
    pub fn holder(&self, model: &Model, address: Ipv4Addr) -> Holder {
        let found = self.holders.binary_search_by_key(&address, |(address, _)| *address);
        match found {
            Ok(index) => self.holders[index].1,
            Err(_) if address.is_multicast() => Holder::Group,
            Err(_) if model.intent().cluster().contains(address) => Holder::Nobody,
            Err(_) => Holder::Outside,
        }
    }
}

/// Whom a packet is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// One receiver.
    One(Destination),
    /// The members of a multicast group.
    Group,
    /// Nobody has the address.
    Nobody,
}

/// The first packet of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Question {
    /// Who sends it.
    pub from: Source,
    /// Whom it is for.
    pub to: Target,
    /// Its destination address.
    pub address: Ipv4Addr,
    /// Its protocol.
    pub protocol: Protocol,
    /// Its destination port.
    pub port: Port,
}

/// The sender that an end of a connection is. The error has no place.
pub fn sender(model: &Model, directory: &Directory, end: Endpoint) -> Result<Source, Diagnostic> {
    let unusable = |message: String| {
        Err(Diagnostic::new(Code::EndpointUnusable, message)
            .help("name a pod, an egress router, a node, an address of one of them, or `outside`"))
    };
    match end {
        Endpoint::Workload(workload) => Ok(Source::Workload(workload)),
        Endpoint::Node(node) => Ok(Source::Node(node)),
        Endpoint::Outside => Ok(Source::Outside),
        Endpoint::Service(id) => {
            unusable(format!("a service sends nothing: `{}`", model.intent().service_name(id)))
        }
        Endpoint::Network(network) => unusable(format!("`{network}` is not one sender")),
        Endpoint::Address(address) => match directory.holder(model, address) {
            Holder::Workload(workload) => Ok(Source::Workload(workload)),
            Holder::Gateway(node) | Holder::Node(node) => Ok(Source::Node(node)),
            Holder::Outside if is_host(address) => Ok(Source::Outside),
            Holder::Outside => unusable(format!("no host has the address `{address}`")),
            Holder::Service(_) => {
                unusable(format!("`{address}` is a service, which sends nothing"))
            }
            Holder::EgressIp => unusable(format!("`{address}` is an egress IP: name its pods")),
            Holder::Group => unusable(format!("`{address}` is a multicast group")),
            Holder::Nobody => unusable(format!("nobody has the address `{address}`")),
        },
    }
}

/// The packet from a sender to an end of a connection. The error has no place.
pub fn question(
    model: &Model,
    directory: &Directory,
    from: Source,
    end: Endpoint,
    (protocol, port): (Protocol, Port),
) -> Result<Question, Diagnostic> {
    let address = match end {
        Endpoint::Workload(workload) => model.endpoint(workload).address,
        Endpoint::Node(node) => model.intent()[node].address,
        Endpoint::Outside => OUTSIDE,
        Endpoint::Address(address) => address,
        Endpoint::Network(network) => network.network(),
        Endpoint::Service(id) => {
            let to = Target::One(Destination::Service(id));
            let address = model.service_address(id).unwrap_or(Ipv4Addr::UNSPECIFIED);
            return Ok(Question { from, to, address, protocol, port });
        }
    };
    let to = match directory.holder(model, address) {
        Holder::Workload(workload) => Target::One(Destination::Workload(workload)),
        Holder::Gateway(node) => Target::One(Destination::Node(node)),
        Holder::Node(node) => Target::One(Destination::NodePort(node, address))
            .filter_node_port(model, from, protocol, port, address),
        Holder::Service(id) => Target::One(Destination::Service(id)),
        Holder::Group => Target::Group,
        Holder::Nobody => Target::Nobody,
        Holder::EgressIp | Holder::Outside => Target::One(Destination::Outside(address)),
    };
    if let (Source::Workload(own), Target::One(Destination::Workload(same))) = (from, to)
        && own == same
    {
        let message = format!("`{}` sends to itself", model.intent().workload_name(own));
        return Err(Diagnostic::new(Code::EndpointUnusable, message)
            .help("such packets stay in the pod, and no bridge sees them: name another end"));
    }
    let outside = matches!(to, Target::One(Destination::Outside(_)));
    if outside && (from == Source::Outside || !(is_host(address) || address.octets()[0] >= 240)) {
        let message = match from {
            Source::Outside => "neither of the two is a pod, a service or a node".to_owned(),
            _ => format!("no host has the address `{address}`"),
        };
        return Err(Diagnostic::new(Code::EndpointUnusable, message)
            .help("name a pod, a service or a node at one end"));
    }
    Ok(Question { from, to, address, protocol, port })
}

impl Target {
    /// A node's own address is one of the outside where it serves no service at the port.
    fn filter_node_port(
        self,
        model: &Model,
        from: Source,
        protocol: Protocol,
        port: Port,
        address: Ipv4Addr,
    ) -> Self {
        let mut ports = model.node_ports().iter();
        let served = ports.any(|served| served.protocol == protocol && served.port == port);
        if served || from == Source::Outside {
            self
        } else {
            Self::One(Destination::Outside(address))
        }
    }
}

/// Whether a host can have an address.
#[must_use]
pub fn is_host(address: Ipv4Addr) -> bool {
    let first = address.octets()[0];
    first != 0 && first != 127 && first < 224
}

/// What the intent says of a packet.
#[must_use]
pub fn decide(model: &Model, question: &Question) -> Reach {
    let Question { from, to, protocol, port, address } = *question;
    let packet = |to| Packet { from, to, protocol, port };
    match to {
        Target::Nobody => {
            let because = format!("no pod, service or node has the address {address}");
            Reach { because, ..denied() }
        }
        Target::Group => group(model, from, &packet),
        Target::One(to) => {
            let reach = reach(model, &packet(to));
            match to {
                Destination::Workload(Workload::Router(id)) if reach.allowed() => {
                    let router = &model.intent()[id];
                    if router.mode.takes(protocol, port) {
                        return reach;
                    }
                    let because =
                        format!("egress router {} takes no {port}/{protocol}", router.name);
                    Reach { because, refused: true, place: Some(router.place), ..denied() }
                }
                _ => reach,
            }
        }
    }
}

/// `denied: shop/web-0 -> bank/core-0 (10.128.2.2) 80/tcp: the projects shop (VNID 5) and bank
/// (VNID 7) are in different networks`.
#[must_use]
pub fn headline(reach: &Reach, (from, to): (&str, &str), question: &Question) -> String {
    let word = match reach {
        _ if reach.allowed() => "allowed",
        _ if reach.sometimes => "sometimes",
        _ if reach.refused => "refused",
        _ => "denied",
    };
    let Question { address, protocol, port, .. } = question;
    let address = address.to_string();
    let at = if address == to { String::new() } else { format!(" ({address})") };
    format!("{word}: {from} -> {to}{at} {port}/{protocol}: {}", reach.because)
}

fn denied() -> Reach {
    Reach {
        verdict: Verdict::Deny,
        refused: false,
        sometimes: false,
        because: String::new(),
        place: None,
    }
}

/// Whether any member of a group gets a copy.
fn group(model: &Model, from: Source, packet: &dyn Fn(Destination) -> Packet) -> Reach {
    let intent = model.intent();
    let pods = intent.pods().map(|(id, _)| Workload::Pod(id));
    let mut got = 0;
    let mut any = None;
    for to in pods.filter(|to| from != Source::Workload(*to)) {
        let reach = reach(model, &packet(Destination::Member(to)));
        got += usize::from(reach.allowed());
        if reach.allowed() || any.is_none() {
            any = Some(reach);
        }
    }
    let Some(any) = any else {
        return Reach { because: "there is no pod to get a copy".to_owned(), ..denied() };
    };
    if got == 0 {
        return any;
    }
    let because = format!("{}: {got} pods get a copy, if they ask for the group", any.because);
    Reach { because, ..any }
}

/// Where an egress router leads from one of its ports.
#[must_use]
pub fn router_leads_to(
    model: &Model,
    id: crate::intent::RouterId,
    (protocol, port): (Protocol, Port),
) -> String {
    let router = &model.intent()[id];
    match &router.mode {
        RouterMode::Redirect { destinations, fallback } => {
            let listed = destinations.iter().find(|d| d.protocol == protocol && d.port == port);
            match (listed, fallback) {
                (Some(to), _) => format!("{}:{}", to.to, to.to_port),
                (None, Some(to)) => format!("{to}:{port}"),
                (None, None) => "nobody".to_owned(),
            }
        }
        RouterMode::HttpProxy { .. } => "the host that the proxy is asked for".to_owned(),
        RouterMode::DnsProxy { ports, .. } => {
            let found = ports.iter().find(|proxied| proxied.port == port);
            found.map_or("nobody".to_owned(), |found| format!("{}:{}", found.to, found.to_port))
        }
    }
}
