//! Links, addresses and routes as the kernel tells them over netlink (RFC 3549).

mod ethtool;
pub mod holdings;

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::AsFd;
use std::path::Path;

use ipnet::Ipv4Net;
use netlink_packet_core::{
    NLM_F_DUMP, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload,
};
use netlink_packet_route::address::{AddressAttribute, AddressMessage, AddressScope};
use netlink_packet_route::link::{
    AfSpecInet, AfSpecInet6, AfSpecUnspec, In6AddrGenMode, InfoData, InfoMacVlan, InfoVxlan,
    LinkAttribute, LinkExtentMask, LinkFlags, LinkInfo, LinkMessage, MacVlanMode,
};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteFlags, RouteHeader, RouteMessage, RouteProtocol, RouteScope,
    RouteType,
};
use netlink_packet_route::tc::{TcAttribute, TcHandle, TcMessage};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use netlink_sys::protocols::NETLINK_ROUTE;
use netlink_sys::{Socket, SocketAddr};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::diagnostic::{Code, Diagnostic};
use crate::value::NetnsName;

/// Where `ip netns` keeps its names.
const NETNS_DIRECTORY: &str = "/run/netns";

/// What a network namespace has.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Network {
    /// Its links by name.
    pub links: BTreeMap<String, Link>,
    /// The IPv4 addresses of each link, by its index.
    pub addresses: BTreeMap<u32, Vec<Ipv4Net>>,
    /// The unicast IPv4 routes of the main table.
    pub routes: Vec<Route>,
    /// Where its other routes lead, which have no one link: several, or none, as to a black hole.
    pub linkless: Vec<Ipv4Net>,
    /// Whether it forwards IPv4.
    pub forwards: bool,
    /// The addresses by their labels, which are their interfaces' names by default.
    pub labels: BTreeSet<(String, Ipv4Net)>,
    /// The addresses, each with its link's index, that have a life, a scope, a peer or a broadcast
    /// address, which those of ringfence have not.
    pub special: BTreeSet<(u32, Ipv4Net)>,
}

/// A network interface.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Link {
    /// Its number, unique in its namespace.
    pub index: u32,
    /// The number of the interface that it is the other end of, or sits on.
    pub peer: Option<u32>,
    /// What kind of virtual interface it is: `veth`, `macvlan` and so on.
    pub kind: Option<String>,
    /// Its alias, by which ringfence knows its own.
    pub alias: Option<String>,
    /// The group of links that it is in; 0 is the default.
    pub group: u32,
    /// Its Ethernet address.
    pub mac: Vec<u8>,
    /// Its MTU in bytes.
    pub mtu: u32,
    /// Whether it is set up.
    pub up: bool,
    /// Whether something listens to all of its frames, as a bridge does that has it as a port.
    pub promiscuous: bool,
    /// Whether `peer` is a number of another namespace.
    pub peer_apart: bool,
    /// Its attributes that nobody has to set.
    pub traits: Traits,
}

/// What a link has by default, and has lost only by somebody's hand.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "each is a flag of the kernel's")]
pub struct Traits {
    /// Whether it asks for no Ethernet addresses, and tells none.
    pub no_arp: bool,
    /// Whether it sends and takes multicast.
    pub multicast: bool,
    /// Whether it was told to take all multicast.
    pub all_multicast: bool,
    /// Whether it was told to take all frames, rather than listened to.
    pub told_promiscuous: bool,
    /// How many packets wait in its queue at most.
    pub queue_length: u32,
    /// The index of the link that it is a part of.
    pub master: Option<u32>,
    /// Whether it gives itself no IPv6 address; `None` where there is no IPv6.
    pub no_ipv6: Option<bool>,
    /// Whether it is a macvlan that is not private.
    pub shared: bool,
    /// Whether what comes in by it is forwarded, where its namespace forwards.
    pub forwards: bool,
    /// Whether its frames lack their checksums; `None` where that can't be told.
    pub lacks_checksums: Option<bool>,
    /// The queue disciplines that it was given, in the order of their kinds.
    pub disciplines: Vec<Discipline>,
}

/// A queue discipline that somebody gave to a link.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Discipline {
    /// Its kind.
    pub kind: String,
    /// The place that it was given: `root`, `ingress` or `clsact`; empty for one below another.
    pub at: &'static str,
}

impl Link {
    /// Its Ethernet address in the usual form; empty where it has none.
    #[must_use]
    pub fn mac_text(&self) -> String {
        let bytes: Vec<String> = self.mac.iter().map(|byte| format!("{byte:02x}")).collect();
        bytes.join(":")
    }
}

/// A route.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Route {
    /// Whether it has nothing more, such as a source, an MTU or a scope of its own.
    pub plain: bool,
    /// Where it leads.
    pub destination: Ipv4Net,
    /// The next hop.
    pub gateway: Option<Ipv4Addr>,
    /// The index of the link that it leaves by.
    pub link: u32,
    /// Its metric; the lowest wins.
    pub metric: u32,
    /// Who made it, as a number of `rtnetlink(7)`.
    pub protocol: u8,
}

impl Network {
    /// The addresses of a link.
    #[must_use]
    pub fn addresses(&self, link: &Link) -> &[Ipv4Net] {
        self.addresses.get(&link.index).map_or(&[], Vec::as_slice)
    }

    /// The routes that leave by a link.
    pub fn routes_by(&self, link: &Link) -> impl Iterator<Item = &Route> {
        self.routes.iter().filter(|route| route.link == link.index)
    }

    /// Whether a link is one end of a veth whose other end is `other`, a link of another network.
    #[must_use]
    pub fn is_pair(link: &Link, other: &Link) -> bool {
        let veth = |link: &Link| link.kind.as_deref() == Some("veth");
        veth(link)
            && veth(other)
            && link.peer == Some(other.index)
            && other.peer == Some(link.index)
    }

    /// The route by another interface, or by none, in whose place one of ours to this destination
    /// would come: the kernel has one of a destination and metric.
    #[must_use]
    pub fn foreign_route(&self, destination: Ipv4Net, link: &str) -> Option<String> {
        let own = self.links.get(link).map(|link| link.index);
        let same = |route: &&Route| route.destination == destination && route.metric == 0;
        let other = self.routes.iter().filter(same).find(|route| Some(route.link) != own);
        let name = other.map(|route| {
            let found = self.links.iter().find(|(_, link)| link.index == route.link);
            found.map_or_else(|| "no interface".to_owned(), |(name, _)| format!("`{name}`"))
        });
        let linkless = self.linkless.contains(&destination);
        name.or_else(|| linkless.then(|| "no single interface".to_owned()))
    }
}

/// The names of `ip netns`.
pub(super) fn netns_names() -> Result<Vec<String>, Diagnostic> {
    let entries = match Path::new(NETNS_DIRECTORY).read_dir() {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(failed(&error)),
    };
    let mut names: Vec<String> =
        entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    Ok(names)
}

/// What the namespace of this process has.
pub(super) fn network() -> Result<Network, Diagnostic> {
    read().map_err(|error| failed(&error))
}

/// What named namespaces have.
pub(super) fn networks(names: &[&NetnsName]) -> Result<Vec<Option<Network>>, Diagnostic> {
    // A thread of its own: it moves from namespace to namespace and ends in the last.
    std::thread::scope(|scope| {
        let read = || names.iter().map(|name| read_named(name)).collect();
        let reader = std::thread::Builder::new().spawn_scoped(scope, read)?;
        match reader.join() {
            Ok(networks) => networks,
            Err(_) => Err(io::Error::other("the reader ended early")),
        }
    })
    .map_err(|error: io::Error| failed(&error))
}

fn read_named(name: &NetnsName) -> io::Result<Option<Network>> {
    let file = match File::open(Path::new(NETNS_DIRECTORY).join(name.as_str())) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    match move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network)) {
        Ok(()) => read().map(Some),
        // A name without a namespace behind it, as a crash of `ip netns add` leaves it.
        Err(rustix::io::Errno::INVAL) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

fn failed(error: &io::Error) -> Diagnostic {
    Diagnostic::new(
        Code::CommandFailed,
        format!("the kernel's network state is unreadable: {error}"),
    )
}

/// What the namespace of this thread has.
fn read() -> io::Result<Network> {
    let socket = socket()?;
    let mut network = Network::default();
    let mut request = LinkMessage::default();
    // What each link has counted, the kernel adds up for a quarter of its answer.
    request.attributes.push(LinkAttribute::ExtMask(vec![LinkExtentMask::SkipStats]));
    dump(&socket, RouteNetlinkMessage::GetLink(request), |message| {
        if let RouteNetlinkMessage::NewLink(message) = message {
            let (name, link) = link(message);
            network.links.insert(name, link);
        }
    })?;
    let mut request = AddressMessage::default();
    request.header.family = AddressFamily::Inet;
    dump(&socket, RouteNetlinkMessage::GetAddress(request), |message| {
        if let RouteNetlinkMessage::NewAddress(message) = message
            && let Some(address) = address(&message)
        {
            let label = message.attributes.iter().find_map(|attribute| match attribute {
                AddressAttribute::Label(label) => Some(label.clone()),
                _ => None,
            });
            network.labels.extend(label.map(|label| (label, address)));
            if is_special(&message, address) {
                network.special.insert((message.header.index, address));
            }
            network.addresses.entry(message.header.index).or_default().push(address);
        }
    })?;
    let mut request = RouteMessage::default();
    request.header.address_family = AddressFamily::Inet;
    dump(&socket, RouteNetlinkMessage::GetRoute(request), |message| {
        if let RouteNetlinkMessage::NewRoute(message) = message {
            match route(&message) {
                Some((route, Some(link))) => network.routes.push(Route { link, ..route }),
                Some((route, None)) => network.linkless.push(route.destination),
                None => {}
            }
        }
    })?;
    let forwards = std::fs::read("/proc/sys/net/ipv4/ip_forward")?;
    network.forwards = forwards.starts_with(b"1");
    // A kernel may lack either, as one without traffic control does.
    let _ = disciplines(&socket, &mut network);
    let checksums = ethtool::checksums().unwrap_or_default();
    for (name, link) in &mut network.links {
        link.traits.lacks_checksums = checksums.get(name).copied();
        link.traits.disciplines.sort();
    }
    Ok(network)
}

/// The queue disciplines that were given to links: those that the kernel gives have no number.
fn disciplines(socket: &Socket, network: &mut Network) -> io::Result<()> {
    let request = RouteNetlinkMessage::GetQueueDiscipline(TcMessage::default());
    dump(socket, request, |message| {
        let RouteNetlinkMessage::NewQueueDiscipline(message) = message else { return };
        let header = &message.header;
        if header.handle == TcHandle::UNSPEC {
            return;
        }
        let kind = message.attributes.iter().find_map(|attribute| match attribute {
            TcAttribute::Kind(kind) => Some(kind.clone()),
            _ => None,
        });
        let at = match (header.parent, kind.as_deref()) {
            (TcHandle::ROOT, _) => "root",
            (_, Some("clsact")) => "clsact",
            (_, Some("ingress")) => "ingress",
            _ => "",
        };
        let index = u32::try_from(header.index).unwrap_or_default();
        let link = network.links.values_mut().find(|link| link.index == index);
        if let (Some(link), Some(kind)) = (link, kind) {
            link.traits.disciplines.push(Discipline { kind, at });
        }
    })
}

fn socket() -> io::Result<Socket> {
    let mut socket = Socket::new(NETLINK_ROUTE)?;
    socket.bind_auto()?;
    socket.connect(&SocketAddr::new(0, 0))?;
    Ok(socket)
}

/// Asks for all objects of a kind and hands each to `take`.
fn dump(
    socket: &Socket,
    request: RouteNetlinkMessage,
    mut take: impl FnMut(RouteNetlinkMessage),
) -> io::Result<()> {
    let mut header = NetlinkHeader::default();
    header.flags = NLM_F_DUMP | NLM_F_REQUEST;
    let mut message = NetlinkMessage::new(header, NetlinkPayload::from(request));
    message.finalize();
    let mut bytes = vec![0; message.buffer_len()];
    message.serialize(&mut bytes);
    socket.send(&bytes, 0)?;
    loop {
        let (bytes, _) = socket.recv_from_full()?;
        let mut rest = bytes.as_slice();
        while !rest.is_empty() {
            let message = NetlinkMessage::<RouteNetlinkMessage>::deserialize(rest)
                .map_err(|error| io::Error::other(error.to_string()))?;
            let length = (message.header.length as usize).next_multiple_of(4);
            match message.payload {
                NetlinkPayload::Done(_) => return Ok(()),
                NetlinkPayload::Error(error) => return Err(error.to_io()),
                NetlinkPayload::InnerMessage(message) => take(message),
                _ => {}
            }
            rest = rest.get(length.max(1)..).unwrap_or_default();
        }
    }
}

fn link(message: LinkMessage) -> (String, Link) {
    let mut name = String::new();
    let mut link = Link {
        index: message.header.index,
        up: message.header.flags.contains(LinkFlags::Up),
        traits: Traits {
            no_arp: message.header.flags.contains(LinkFlags::Noarp),
            multicast: message.header.flags.contains(LinkFlags::Multicast),
            all_multicast: message.header.flags.contains(LinkFlags::Allmulti),
            told_promiscuous: message.header.flags.contains(LinkFlags::Promisc),
            ..Traits::default()
        },
        ..Link::default()
    };
    for attribute in message.attributes {
        match attribute {
            LinkAttribute::IfName(text) => name = text,
            LinkAttribute::IfAlias(text) => link.alias = Some(text),
            LinkAttribute::Group(group) => link.group = group,
            LinkAttribute::Address(bytes) => link.mac = bytes,
            LinkAttribute::Mtu(mtu) => link.mtu = mtu,
            LinkAttribute::Link(peer) => link.peer = Some(peer),
            LinkAttribute::LinkNetNsId(_) => link.peer_apart = true,
            LinkAttribute::Promiscuity(count) => link.promiscuous = count > 0,
            LinkAttribute::LinkInfo(info) => {
                link.traits.shared = info.iter().any(is_shared);
                for info in info {
                    match info {
                        LinkInfo::Kind(kind) => link.kind = Some(kind.to_string()),
                        LinkInfo::Data(InfoData::Vxlan(data)) => {
                            let below = data.iter().find_map(|data| match data {
                                InfoVxlan::Link(index) => Some(*index),
                                _ => None,
                            });
                            link.peer = link.peer.or(below.filter(|index| *index != 0));
                        }
                        _ => {}
                    }
                }
            }
            LinkAttribute::TxQueueLen(length) => link.traits.queue_length = length,
            LinkAttribute::Controller(index) => link.traits.master = Some(index),
            LinkAttribute::AfSpecUnspec(families) => of_families(&families, &mut link.traits),
            _ => {}
        }
    }
    (name, link)
}

/// Whether this tells of a macvlan that is not private.
fn is_shared(info: &LinkInfo) -> bool {
    let LinkInfo::Data(InfoData::MacVlan(data)) = info else { return false };
    let mode = data.iter().find_map(|data| match data {
        InfoMacVlan::Mode(mode) => Some(*mode),
        _ => None,
    });
    mode.is_some_and(|mode| mode != MacVlanMode::Private)
}

fn of_families(families: &[AfSpecUnspec], traits: &mut Traits) {
    for family in families {
        match family {
            AfSpecUnspec::Inet(all) => {
                traits.forwards = all.iter().any(
                    |of| matches!(of, AfSpecInet::DevConf(settings) if settings.forwarding != 0),
                );
            }
            AfSpecUnspec::Inet6(all) => {
                traits.no_ipv6 = all.iter().find_map(|of| match of {
                    AfSpecInet6::AddrGenMode(mode) => Some(*mode == In6AddrGenMode::None),
                    _ => None,
                });
            }
            _ => {}
        }
    }
}

/// Whether an address is more than itself.
fn is_special(message: &AddressMessage, address: Ipv4Net) -> bool {
    message.header.scope != AddressScope::Universe
        || message.attributes.iter().any(|attribute| match attribute {
            AddressAttribute::CacheInfo(life) => {
                life.ifa_valid != u32::MAX || life.ifa_preferred != u32::MAX
            }
            AddressAttribute::Address(peer) => *peer != IpAddr::V4(address.addr()),
            AddressAttribute::Broadcast(_) => true,
            _ => false,
        })
}

fn address(message: &AddressMessage) -> Option<Ipv4Net> {
    let find = |local: bool| {
        message.attributes.iter().find_map(|attribute| match attribute {
            AddressAttribute::Local(IpAddr::V4(address)) if local => Some(*address),
            AddressAttribute::Address(IpAddr::V4(address)) if !local => Some(*address),
            _ => None,
        })
    };
    Ipv4Net::new(find(true).or_else(|| find(false))?, message.header.prefix_len).ok()
}

/// A route of the main table, and the link that it leaves by. The kernel's own addresses are in
/// other tables.
fn route(message: &RouteMessage) -> Option<(Route, Option<u32>)> {
    let header = &message.header;
    if header.table != RouteHeader::RT_TABLE_MAIN {
        return None;
    }
    let mut destination = Ipv4Addr::UNSPECIFIED;
    let (mut gateway, mut link, mut metric, mut plain) = (None, None, 0, header.tos == 0);
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Destination(RouteAddress::Inet(address)) => destination = *address,
            RouteAttribute::Gateway(RouteAddress::Inet(address)) => gateway = Some(*address),
            RouteAttribute::Oif(index) => link = Some(*index),
            RouteAttribute::Priority(priority) => metric = *priority,
            // The kernel's own tell the address that they came with.
            RouteAttribute::PrefSource(_) => plain &= header.protocol == RouteProtocol::Kernel,
            RouteAttribute::Metrics(_) | RouteAttribute::Realm(_) | RouteAttribute::Encap(_) => {
                plain = false;
            }
            _ => {}
        }
    }
    let destination = Ipv4Net::new(destination, header.destination_prefix_length).ok()?;
    let link = link.filter(|_| header.kind == RouteType::Unicast);
    let scope = if gateway.is_some() { RouteScope::Universe } else { RouteScope::Link };
    plain &= header.scope == scope && !header.flags.contains(RouteFlags::Onlink);
    let protocol = header.protocol.into();
    Some((Route { plain, destination, gateway, link: 0, metric, protocol }, link))
}
