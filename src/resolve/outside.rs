//! What is outside: neither an address of the cluster's networks, nor one that a node or an egress
//! router answers for. Whatever a project's services and egress routers lead to has to be there. A
//! node's address would be a way round the isolation: to the ports at which it serves the services of
//! others, and to its own processes.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};

use ipnet::Ipv4Net;

use super::{Nodes, Wire};
use crate::diagnostic::Place;
use crate::input::Cursor;
use crate::intent::Cluster;
use crate::value::ipv4;

/// The range in which hosts give themselves addresses, and clouds serve what only the node may know
/// (RFC 3927).
const LINK_LOCAL: ([u8; 4], u8) = ([169, 254, 0, 0], 16);

/// The range of link-local addresses.
pub(crate) fn link_local() -> Ipv4Net {
    Ipv4Net::new_assert(LINK_LOCAL.0.into(), LINK_LOCAL.1)
}

/// What the desired state says about addresses.
pub(super) struct Outside<'a> {
    pub(super) cluster: &'a Cluster,
    /// Who has an address, and where that is said.
    held: BTreeMap<Ipv4Addr, (String, Place)>,
}

/// Why an address is not outside.
pub(super) struct Inside {
    /// The rest of a sentence about the address.
    pub(super) what: String,
    /// Where that is said.
    pub(super) place: Option<Place>,
}

impl<'a> Outside<'a> {
    pub(super) fn new(wire: &Wire<'_>, nodes: &Nodes<'_>, cluster: &'a Cluster) -> Self {
        let mut held: BTreeMap<Ipv4Addr, (String, Place)> = BTreeMap::new();
        let mut add = |address: Ipv4Addr, what: String, place: Place| {
            held.entry(address).or_insert((what, place));
        };
        for (node, (at, _)) in nodes.list.iter().zip(&nodes.wire) {
            add(
                node.address,
                format!("the address of node `{}`", node.name),
                at.key("address").place(),
            );
        }
        for (address, name, place) in nodes.served() {
            add(address, format!("an address of node ports of node `{name}`"), place);
        }
        for (at, router) in wire.items("egressRouters", |state| &state.egress_routers) {
            if let Ok(source) = ipv4(&router.source.address) {
                let what = format!("the source of egress router `{}`", router.name);
                add(source, what, at.key("source").place());
            }
        }
        for (at, list) in wire.items("egressIPs", |state| &state.egress_ips) {
            let items = at.find("addresses").into_iter().flat_map(Cursor::children);
            for (at, address) in items.zip(&list.addresses) {
                if let Ok(address) = ipv4(address) {
                    add(address, format!("an egress IP of project `{}`", list.project), at.place());
                }
            }
        }
        for (node, reserved) in nodes.list.iter().zip(&nodes.reserved) {
            for &(address, place) in reserved {
                add(address, format!("an address set aside on node `{}`", node.name), place);
            }
        }
        for (node, (at, _)) in nodes.list.iter().zip(&nodes.wire) {
            let Some(uplink) =
                node.uplink.as_ref().filter(|uplink| uplink.subnet.prefix_len() < 31)
            else {
                continue;
            };
            let place = at.key("uplink").key("subnet").place();
            let subnet = uplink.subnet;
            add(subnet.network(), format!("the network address of {subnet}"), place);
            add(subnet.broadcast(), format!("the broadcast address of {subnet}"), place);
        }
        held.remove(&Ipv4Addr::UNSPECIFIED);
        Self { cluster, held }
    }

    /// Why nothing of a project may lead to an address that a host could have, if it may not. What is
    /// in the cluster's networks is somebody else's question.
    pub(super) fn inside(&self, address: Ipv4Addr) -> Option<Inside> {
        if let Some((what, place)) = self.held.get(&address) {
            return Some(Inside { what: format!("is {what}"), place: Some(*place) });
        }
        let range = link_local();
        range
            .contains(&address)
            .then(|| Inside { what: format!("is a link-local address, of {range}"), place: None })
    }
}

/// The addresses of others on the uplinks' networks, each with whose it is and where that is said.
pub(super) type Taken = BTreeMap<Ipv4Addr, (String, Place)>;

impl Nodes<'_> {
    /// The addresses that no egress router and no egress IP may take from whoever has them: all would
    /// speak to the wrong one.
    pub(super) fn taken(&self, wire: &Wire<'_>) -> Taken {
        let mut taken = Taken::new();
        let mut add = |address: Ipv4Addr, what: String, place: Place| {
            taken.entry(address).or_insert((what, place));
        };
        for (node, (at, _)) in self.list.iter().zip(&self.wire) {
            let what = format!("the address of node `{}`", node.name);
            add(node.address, what, at.key("address").place());
        }
        for (address, name, place) in self.served() {
            add(address, format!("an address of node ports of node `{name}`"), place);
        }
        for (node, (at, _)) in self.list.iter().zip(&self.wire) {
            if let Some(gateway) = node.uplink.as_ref().and_then(|uplink| uplink.gateway) {
                let place = at.key("uplink").key("gateway").place();
                add(gateway, format!("the gateway of node `{}`", node.name), place);
            }
        }
        for (at, router) in wire.items("egressRouters", |state| &state.egress_routers) {
            if let Ok(gateway) = ipv4(&router.gateway) {
                let what = format!("the gateway of egress router `{}`", router.name);
                add(gateway, what, at.key("gateway").place());
            }
            let servers = router.dns_servers.as_deref().unwrap_or_default();
            let items = at.find("dnsServers").into_iter().flat_map(Cursor::children);
            for (at, server) in items.zip(servers) {
                if let Ok(server) = ipv4(server) {
                    let what = format!("a name server of egress router `{}`", router.name);
                    add(server, what, at.place());
                }
            }
        }
        for (at, cluster) in wire.values("cluster", |state| state.cluster.as_ref()) {
            let servers = cluster.dns.as_ref().map_or(&[][..], |dns| &dns.servers);
            let items = at.find("dns").and_then(|at| at.find("servers"));
            for (at, server) in items.into_iter().flat_map(Cursor::children).zip(servers) {
                if let IpAddr::V4(server) = server.0.ip() {
                    add(server, "a name server of the cluster".to_owned(), at.place());
                }
            }
        }
        taken
    }

    /// The addresses at which nodes serve node ports beside their own, with the nodes' names and the
    /// places where that is said.
    pub(super) fn served(&self) -> impl Iterator<Item = (Ipv4Addr, &crate::value::Name, Place)> {
        self.list.iter().zip(&self.wire).flat_map(|(node, (at, wire))| {
            let items = at.find("nodePortAddresses").into_iter().flat_map(Cursor::children);
            items
                .zip(&wire.node_port_addresses)
                .filter_map(|(at, address)| Some((ipv4(address).ok()?, &node.name, at.place())))
                .filter(|(address, ..)| *address != node.address)
        })
    }
}
