//! The Ethernet addresses of outside interfaces that one egress router leaves to another: they are
//! made of the source, which a renamed router keeps.

use std::collections::BTreeSet;

use super::links::{Links, batch};
use crate::artifact::host;
use crate::artifact::node::{Via, Wiring};
use crate::system::Command;
use crate::value::{NetnsName, StringValue as _};

/// The namespaces that go whose macvlan has an Ethernet address that a router of the plan is to have.
/// The kernel has none twice on one interface.
pub(super) fn given_up<'l>(wiring: &Wiring, links: &'l Links) -> BTreeSet<&'l str> {
    let macvlans = wiring.routers.iter().filter_map(|router| match router.outside.via {
        Via::Macvlan { .. } => Some(router.outside.mac.bytes()),
        Via::Veth { .. } => None,
    });
    let wanted: BTreeSet<Vec<u8>> = macvlans.map(|mac| mac.to_vec()).collect();
    let planned: BTreeSet<&str> = wiring.netns.iter().map(|netns| netns.name.as_str()).collect();
    let namespaces = links.netns.iter().filter(|(name, network)| {
        let outside = network.links.get(host::ROUTER_INTERFACE);
        let inherited = outside.is_some_and(|link| {
            link.kind.as_deref() == Some("macvlan") && wanted.contains(link.mac.as_slice())
        });
        inherited && links.is_ours(name) && !planned.contains(name.as_str())
    });
    namespaces.map(|(name, _)| name.as_str()).collect()
}

/// Removes these macvlans, which have to be gone before the others come.
pub(super) fn give_up(wiring: &Wiring, links: &Links) -> Vec<Command> {
    let names = given_up(wiring, links).into_iter();
    let names = names.filter_map(|name| NetnsName::parse(name).ok());
    let line = format!("link del {}", host::ROUTER_INTERFACE);
    names.filter_map(|netns| batch(Some(&netns), std::slice::from_ref(&line))).collect()
}
