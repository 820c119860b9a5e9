//! Links, addresses and routes as the kernel tells them over netlink (RFC 3549).

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
use netlink_packet_route::address::{AddressAttribute, AddressMessage};
use netlink_packet_route::link::{
    InfoData, InfoVxlan, LinkAttribute, LinkFlags, LinkInfo, LinkMessage,
};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteType,
};
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
    /// Its Ethernet address.
    pub mac: Vec<u8>,
    /// Its MTU in bytes.
    pub mtu: u32,
    /// Whether it is set up.
    pub up: bool,
    /// Whether something listens to all of its frames, as a bridge does that has it as a port.
    pub promiscuous: bool,
    /// The number of the interface that it is a part of: a bond, a bridge, a VRF.
    pub controller: Option<u32>,
    /// Whether `peer` is a number of another namespace.
    pub peer_apart: bool,
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
    /// Where it leads.
    pub destination: Ipv4Net,
    /// The next hop.
    pub gateway: Option<Ipv4Addr>,
    /// The index of the link that it leaves by.
    pub link: u32,
    /// Its metric; the lowest wins.
    pub metric: u32,
}

impl Network {
    /// The addresses of a link.
    #[must_use]
    pub fn addresses(&self, link: &Link) -> &[Ipv4Net] {
        self.addresses.get(&link.index).map_or(&[], Vec::as_slice)
    }

    /// Whether a route of the lowest metric leads so.
    #[must_use]
    pub fn has_route(&self, destination: Ipv4Net, gateway: Option<Ipv4Addr>, link: u32) -> bool {
        self.routes.contains(&Route { destination, gateway, link, metric: 0 })
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
        let reader = scope.spawn(|| names.iter().map(|name| read_named(name)).collect());
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
    dump(&socket, RouteNetlinkMessage::GetLink(LinkMessage::default()), |message| {
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
    Ok(network)
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
        ..Link::default()
    };
    for attribute in message.attributes {
        match attribute {
            LinkAttribute::IfName(text) => name = text,
            LinkAttribute::IfAlias(text) => link.alias = Some(text),
            LinkAttribute::Address(bytes) => link.mac = bytes,
            LinkAttribute::Mtu(mtu) => link.mtu = mtu,
            LinkAttribute::Link(peer) => link.peer = Some(peer),
            LinkAttribute::Controller(controller) => link.controller = Some(controller),
            LinkAttribute::LinkNetNsId(_) => link.peer_apart = true,
            LinkAttribute::Promiscuity(count) => link.promiscuous = count > 0,
            LinkAttribute::LinkInfo(info) => {
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
            _ => {}
        }
    }
    (name, link)
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
    let (mut gateway, mut link, mut metric) = (None, None, 0);
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Destination(RouteAddress::Inet(address)) => destination = *address,
            RouteAttribute::Gateway(RouteAddress::Inet(address)) => gateway = Some(*address),
            RouteAttribute::Oif(index) => link = Some(*index),
            RouteAttribute::Priority(priority) => metric = *priority,
            _ => {}
        }
    }
    let destination = Ipv4Net::new(destination, header.destination_prefix_length).ok()?;
    let link = link.filter(|_| header.kind == RouteType::Unicast);
    Some((Route { destination, gateway, link: 0, metric }, link))
}
