//! All that hangs on the interfaces of a namespace, with every attribute: addresses, routes of
//! every table, the rules that lead to them, and neighbours that somebody set.
//!
//! Each attribute is kept in the words in which `ip` takes it, with numbers where it knows names, so
//! that the same can be made elsewhere. What can't be said in these words is told as `unknown`, so
//! that nobody moves an object and loses a part of it.

mod words;

use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use netlink_packet_core::Nla as _;
use netlink_packet_route::address::{
    AddressAttribute, AddressFlags, AddressMessage, AddressProtocol,
};
use netlink_packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourFlags, NeighbourMessage, NeighbourState,
};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteFlags, RouteHeader, RouteMessage, RouteNextHop,
    RouteNextHopFlags, RouteProtocol, RouteType,
};
use netlink_packet_route::rule::RuleMessage;
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use netlink_sys::Socket;

use super::{dump, failed, socket};
use crate::diagnostic::Diagnostic;

/// The table of what the node has itself (`linux/rtnetlink.h`).
const TABLE_LOCAL: u32 = 255;

/// What hangs on the interfaces of a namespace, in the order in which the kernel tells it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Holdings {
    /// The addresses.
    pub addresses: Vec<Address>,
    /// The routes of all tables.
    pub routes: Vec<Route>,
    /// The rules that say which table is asked.
    pub rules: Vec<Rule>,
    /// The neighbours that somebody set, and those that the node answers for.
    pub neighbours: Vec<Neighbour>,
}

/// An address of an interface.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "each is a flag that the kernel has for it")]
pub struct Address {
    /// The index of the interface.
    pub link: u32,
    /// The address.
    pub local: IpAddr,
    /// The other end of a point-to-point link; otherwise the address itself.
    pub peer: IpAddr,
    /// The length of the network's prefix.
    pub length: u8,
    /// Its label, which begins with the name of the interface; only of IPv4.
    pub label: Option<String>,
    /// Whether another address of its network was there before; only of IPv4.
    pub secondary: bool,
    /// Whether it is never looked for on the segment; only of IPv6.
    pub nodad: bool,
    /// Whether the kernel makes a route for its network.
    pub makes_route: bool,
    /// The metric of such a route.
    pub metric: u32,
    /// Whether the kernel makes it by itself: a link-local one, or by router advertisements.
    pub learnt: bool,
    /// Everything else, as `ip address` takes it.
    pub words: String,
    /// What of it can't be said in words.
    pub unknown: Option<String>,
}

/// A route.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    /// What becomes of packets: `unicast`, `local` and so on.
    pub kind: &'static str,
    /// Where it leads.
    pub destination: IpNet,
    /// The number of its table.
    pub table: u32,
    /// The type of service that it is for.
    pub tos: u8,
    /// Its metric; the lowest wins.
    pub metric: u32,
    /// Who made it, as a number.
    pub protocol: u8,
    /// How far it reaches, as a number.
    pub scope: u8,
    /// The address that packets have as their source by default.
    pub source: Option<IpAddr>,
    /// Its next hops; none where it leads nowhere.
    pub hops: Vec<Hop>,
    /// Everything else, as `ip route` takes it.
    pub words: String,
    /// What of it can't be said in words.
    pub unknown: Option<String>,
}

/// A next hop of a route.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hop {
    /// The index of the interface that it is behind.
    pub link: Option<u32>,
    /// Its address, where it has one, as `ip route` takes it.
    pub via: String,
    /// What comes after the interface, as `ip route` takes it.
    pub words: String,
    /// Its share among others; 1 is the least.
    pub weight: u16,
}

/// A rule that says which table is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// Whether it is for IPv6.
    pub v6: bool,
    /// Its place; the lowest is asked first.
    pub priority: u32,
    /// The name of the interface by which packets come in.
    pub iif: Option<String>,
    /// The name of the interface to which a socket is bound.
    pub oif: Option<String>,
    /// Everything else, as `ip rule` takes it, with what it matches before what it does.
    pub words: (String, String),
    /// What of it can't be said in words.
    pub unknown: Option<String>,
}

/// A neighbour.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Neighbour {
    /// The index of the interface.
    pub link: u32,
    /// Its address.
    pub address: IpAddr,
    /// Whether the node answers for it.
    pub proxy: bool,
    /// Everything else, as `ip neigh` takes it.
    pub words: String,
    /// What of it can't be said in words.
    pub unknown: Option<String>,
}

impl Address {
    /// As people write it.
    #[must_use]
    pub fn text(&self) -> String {
        let Self { local, peer, length, .. } = self;
        if local == peer {
            format!("{local}/{length}")
        } else {
            format!("{local} peer {peer}/{length}")
        }
    }

    /// The networks for which the kernel makes routes, each with their metric.
    #[must_use]
    pub fn prefix_routes(&self) -> Vec<(IpNet, u32)> {
        let (v6, peer) = (self.local.is_ipv6(), self.local != self.peer);
        let mut networks = Vec::new();
        if v6 {
            networks.extend(self.makes_route.then(|| IpNet::new(self.local, self.length)));
            networks.extend(peer.then(|| Ok(IpNet::from(self.peer))));
        } else if self.makes_route && !self.secondary && (peer || self.length < 32) {
            networks.push(IpNet::new(self.peer, self.length));
        }
        networks.into_iter().flatten().map(|network| (network.trunc(), self.metric)).collect()
    }
}

impl Route {
    /// As people write it, without what it has beside its destination.
    #[must_use]
    pub fn text(&self) -> String {
        let mut text = if self.destination.prefix_len() == 0 {
            "default".to_owned()
        } else {
            self.destination.to_string()
        };
        if self.table != u32::from(RouteHeader::RT_TABLE_MAIN) {
            let _ = write!(text, " of table {}", self.table);
        }
        text
    }

    /// Whether it has a next hop behind this interface.
    #[must_use]
    pub fn is_by(&self, link: u32) -> bool {
        self.hops.iter().any(|hop| hop.link == Some(link))
    }

    /// What no two routes of a table have in common, unless one is never asked.
    #[must_use]
    pub fn place(&self) -> (bool, u32, IpNet, u8, u32) {
        (self.destination.addr().is_ipv6(), self.table, self.destination, self.tos, self.metric)
    }
}

/// What the namespace of this process has.
pub(in super::super) fn holdings() -> Result<Holdings, Diagnostic> {
    read().map_err(|error| failed(&error))
}

fn read() -> std::io::Result<Holdings> {
    let socket = socket()?;
    let mut holdings = Holdings::default();
    for family in [AddressFamily::Inet, AddressFamily::Inet6] {
        // A kernel without IPv6 answers for all families instead, so what it tells is looked at.
        let mut request = AddressMessage::default();
        request.header.family = family;
        dump(&socket, RouteNetlinkMessage::GetAddress(request), |message| {
            if let RouteNetlinkMessage::NewAddress(message) = message
                && message.header.family == family
            {
                holdings.addresses.extend(address(&message));
            }
        })?;
        let mut request = RouteMessage::default();
        request.header.address_family = family;
        dump(&socket, RouteNetlinkMessage::GetRoute(request), |message| {
            if let RouteNetlinkMessage::NewRoute(message) = message
                && message.header.address_family == family
            {
                holdings.routes.extend(route(&message));
            }
        })?;
        let mut request = RuleMessage::default();
        request.header.family = family;
        dump(&socket, RouteNetlinkMessage::GetRule(request), |message| {
            if let RouteNetlinkMessage::NewRule(message) = message
                && message.header.family == family
            {
                holdings.rules.push(words::rule(&message));
            }
        })?;
        neighbours(&socket, family, &mut holdings)?;
    }
    Ok(holdings)
}

fn neighbours(
    socket: &Socket,
    family: AddressFamily,
    holdings: &mut Holdings,
) -> std::io::Result<()> {
    for proxy in [false, true] {
        let mut request = NeighbourMessage::default();
        request.header.family = family;
        if proxy {
            request.header.flags = NeighbourFlags::Proxy;
        }
        dump(socket, RouteNetlinkMessage::GetNeighbour(request), |message| {
            if let RouteNetlinkMessage::NewNeighbour(message) = message
                && message.header.family == family
            {
                holdings.neighbours.extend(neighbour(&message));
            }
        })?;
    }
    Ok(())
}

fn address(message: &AddressMessage) -> Option<Address> {
    let header = &message.header;
    let (mut local, mut peer, mut label) = (None, None, None);
    let mut flags = AddressFlags::from_bits_retain(u32::from(header.flags.bits()));
    let (mut metric, mut protocol, mut lifetimes) = (None, None, None);
    let mut unknown = None;
    let mut words = String::new();
    for attribute in &message.attributes {
        match attribute {
            AddressAttribute::Local(address) => local = Some(*address),
            AddressAttribute::Address(address) => peer = Some(*address),
            AddressAttribute::Label(text) => label = Some(text.clone()),
            AddressAttribute::Broadcast(address) => {
                let _ = write!(words, " broadcast {address}");
            }
            AddressAttribute::Flags(all) => flags = *all,
            AddressAttribute::CacheInfo(info) => {
                lifetimes = Some((info.ifa_valid, info.ifa_preferred));
            }
            AddressAttribute::RoutePriority(priority) => metric = Some(*priority),
            AddressAttribute::Protocol(by) => protocol = Some(*by),
            other => unknown = Some(kind("attribute", other.kind())),
        }
    }
    let peer = peer.or(local)?;
    let local = local.unwrap_or(peer);
    let v6 = local.is_ipv6();
    if !v6 {
        let _ = write!(words, " scope {}", u8::from(header.scope));
    }
    if let Some(metric) = metric {
        let _ = write!(words, " metric {metric}");
    }
    if let Some(protocol) = protocol {
        let _ = write!(words, " proto {}", u8::from(protocol));
    }
    for (flag, word) in [
        (AddressFlags::Noprefixroute, "noprefixroute"),
        (AddressFlags::Mcautojoin, "autojoin"),
        (AddressFlags::Homeaddress, "home"),
        (AddressFlags::Managetempaddr, "mngtmpaddr"),
    ] {
        if flags.contains(flag) {
            let _ = write!(words, " {word}");
        }
    }
    if let Some((valid, preferred)) = lifetimes.filter(|both| *both != (u32::MAX, u32::MAX)) {
        let lifetime = |seconds: u32| match seconds {
            u32::MAX => "forever".to_owned(),
            seconds => seconds.to_string(),
        };
        let (valid, preferred) = (lifetime(valid), lifetime(preferred));
        let _ = write!(words, " valid_lft {valid} preferred_lft {preferred}");
    }
    if v6 && flags.contains(AddressFlags::Dadfailed) {
        unknown = Some("that somebody else on its segment has it".to_owned());
    }
    let secondary = flags.contains(AddressFlags::Secondary);
    let advertised = protocol == Some(AddressProtocol::RouterAnnouncement)
        || secondary
        || flags.contains(AddressFlags::StablePrivacy);
    let link_local = match local {
        IpAddr::V6(local) => local.is_unicast_link_local(),
        IpAddr::V4(_) => false,
    };
    let own = link_local && protocol.is_none_or(|by| by == AddressProtocol::LinkLocal);
    let default_metric = if v6 { 256 } else { 0 };
    let makes_route = !flags.contains(AddressFlags::Noprefixroute);
    Some(Address {
        link: header.index,
        local,
        peer,
        length: header.prefix_len,
        label: label.filter(|_| !v6),
        secondary: secondary && !v6,
        nodad: v6 && flags.contains(AddressFlags::Nodad),
        makes_route,
        metric: metric.unwrap_or(default_metric),
        learnt: v6 && (advertised || own),
        words,
        unknown,
    })
}

fn kind(what: &str, number: u16) -> String {
    format!("its netlink {what} {number}")
}

fn route(message: &RouteMessage) -> Option<Route> {
    let header = &message.header;
    if header.flags.contains(RouteFlags::Cloned) {
        return None;
    }
    let v6 = header.address_family == AddressFamily::Inet6;
    let any = if v6 { IpAddr::V6(Ipv6Addr::UNSPECIFIED) } else { Ipv4Addr::UNSPECIFIED.into() };
    let mut destination = any;
    let mut first = Hop { link: None, via: String::new(), words: String::new(), weight: 1 };
    let mut unknown = None;
    let mut words = String::new();
    let mut route = Route {
        kind: word_of(header.kind)?,
        destination: IpNet::new(any, 0).ok()?,
        table: header.table.into(),
        tos: header.tos,
        metric: 0,
        protocol: header.protocol.into(),
        scope: header.scope.into(),
        source: None,
        hops: Vec::new(),
        words: String::new(),
        unknown: None,
    };
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Destination(address) => destination = ip(address)?,
            RouteAttribute::Table(table) => route.table = *table,
            RouteAttribute::Priority(metric) => route.metric = *metric,
            RouteAttribute::PrefSource(address) => route.source = ip(address),
            RouteAttribute::Oif(link) => first.link = Some(*link),
            RouteAttribute::Source(address) => {
                let length = header.source_prefix_length;
                let _ = write!(words, " from {}/{length}", ip(address)?);
            }
            RouteAttribute::MultiPath(hops) => {
                for hop in hops {
                    let (hop, strange) = next_hop(hop);
                    route.hops.push(hop);
                    unknown = unknown.or(strange);
                }
            }
            RouteAttribute::CacheInfo(info) => {
                const TICKS: u32 = 100;
                if v6 && info.expires > 0 {
                    let _ = write!(words, " expires {}", info.expires / TICKS);
                }
            }
            other => {
                let said = words::hop(other, &mut first) || words::route(other, &mut words);
                let number = other.kind();
                unknown = unknown.or((!said).then(|| words::missing(number)));
            }
        }
    }
    if header.flags.contains(RouteFlags::Onlink) {
        first.words.push_str(" onlink");
    }
    if route.hops.is_empty() && (first.link.is_some() || !first.via.is_empty()) {
        route.hops.push(first);
    }
    route.destination = IpNet::new(destination, header.destination_prefix_length).ok()?;
    Some(Route { words, unknown, ..route })
}

fn next_hop(hop: &RouteNextHop) -> (Hop, Option<String>) {
    let link = Some(hop.interface_index);
    let weight = u16::from(hop.hops) + 1;
    let mut found = Hop { link, via: String::new(), words: String::new(), weight };
    let mut unknown = None;
    for attribute in &hop.attributes {
        if !words::hop(attribute, &mut found) {
            unknown = Some(words::missing(attribute.kind()));
        }
    }
    if hop.flags.contains(RouteNextHopFlags::Onlink) {
        found.words.push_str(" onlink");
    }
    (found, unknown)
}

/// How `ip route` names a kind of route; `None` for those of multicast routing and caches.
fn word_of(kind: RouteType) -> Option<&'static str> {
    Some(match kind {
        RouteType::Unicast => "unicast",
        RouteType::Local => "local",
        RouteType::Broadcast => "broadcast",
        RouteType::Anycast => "anycast",
        RouteType::Multicast => "multicast",
        RouteType::BlackHole => "blackhole",
        RouteType::Unreachable => "unreachable",
        RouteType::Prohibit => "prohibit",
        RouteType::Throw => "throw",
        _ => return None,
    })
}

fn ip(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(address) => Some((*address).into()),
        RouteAddress::Inet6(address) => Some((*address).into()),
        _ => None,
    }
}

impl Route {
    /// Whether router advertisements brought it.
    #[must_use]
    pub fn is_advertised(&self) -> bool {
        self.destination.addr().is_ipv6() && self.protocol == u8::from(RouteProtocol::Ra)
    }

    /// Whether the kernel made it, as it does for every address.
    #[must_use]
    pub fn is_of_kernel(&self) -> bool {
        self.protocol == u8::from(RouteProtocol::Kernel)
    }

    /// Whether it is in the table of what the node has itself.
    #[must_use]
    pub fn is_in_local(&self) -> bool {
        self.table == TABLE_LOCAL
    }
}

fn neighbour(message: &NeighbourMessage) -> Option<Neighbour> {
    let header = &message.header;
    let proxy = header.flags.contains(NeighbourFlags::Proxy);
    let state = match header.state {
        NeighbourState::Permanent => "permanent",
        NeighbourState::Noarp => "noarp",
        _ if proxy => "",
        _ => return None,
    };
    // For those of multicast and broadcast addresses the kernel sees itself.
    if !proxy && header.kind != RouteType::Unicast {
        return None;
    }
    let (mut address, mut unknown) = (None, None);
    let mut words = String::new();
    for attribute in &message.attributes {
        match attribute {
            NeighbourAttribute::Destination(NeighbourAddress::Inet(found)) => {
                address = Some(IpAddr::V4(*found));
            }
            NeighbourAttribute::Destination(NeighbourAddress::Inet6(found)) => {
                address = Some(IpAddr::V6(*found));
            }
            NeighbourAttribute::LinkLayerAddress(bytes) => {
                let bytes: Vec<String> = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
                let _ = write!(words, " lladdr {}", bytes.join(":"));
            }
            NeighbourAttribute::Protocol(by) => {
                let _ = write!(words, " protocol {}", u8::from(*by));
            }
            NeighbourAttribute::CacheInfo(_) | NeighbourAttribute::Probes(_) => {}
            other => unknown = Some(kind("attribute", other.kind())),
        }
    }
    if !proxy {
        let _ = write!(words, " nud {state}");
    }
    for (flag, word) in
        [(NeighbourFlags::Router, "router"), (NeighbourFlags::ExtLearned, "extern_learn")]
    {
        if header.flags.contains(flag) {
            let _ = write!(words, " {word}");
        }
    }
    Some(Neighbour { link: header.ifindex, address: address?, proxy, words, unknown })
}
