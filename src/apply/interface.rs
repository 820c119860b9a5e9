//! An interface that is ringfence's: its address, its state, and its routes.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;

use ipnet::Ipv4Net;

use super::findings::Finding;
use crate::artifact::host::ROUTE_PROTOCOL;
use crate::system::guard::Guard;
use crate::system::netlink::{Link, Network, Route};
use crate::value::NetnsName;

/// What `ip route` gives a route that names nobody, as builds of ringfence did that marked none
/// (`RTPROT_BOOT` of `rtnetlink(7)`).
pub(super) const UNMARKED: u8 = 3;
/// What the kernel makes with an address (`RTPROT_KERNEL`).
const KERNEL: u8 = 2;

/// That an interface has another address.
pub(super) const ADDRESS: &str = "address";

/// An interface that has one address of ours, and routes.
pub(super) struct Interface<'a> {
    pub(super) name: &'static str,
    /// Its namespace; `None` for the node's own.
    pub(super) netns: Option<&'a NetnsName>,
    /// Whether routes of others stay: its namespace is somebody else's.
    pub(super) yields: bool,
    /// The interface as it is; `None` where it is only being made.
    pub(super) link: Option<&'a Link>,
    pub(super) network: &'a Network,
    pub(super) address: Ipv4Net,
    pub(super) routes: Vec<(Ipv4Net, Option<Ipv4Addr>)>,
    /// The networks to which earlier generations had unmarked routes.
    pub(super) former: &'a BTreeSet<Ipv4Net>,
}

impl Interface<'_> {
    /// The lines that are needed, and in which respects. Those of `removed` may be done already.
    pub(super) fn lines(
        &self,
        removed: &mut Vec<String>,
        lines: &mut Vec<String>,
    ) -> Vec<&'static str> {
        let Self { name, link, network, address, .. } = self;
        let mut details = Vec::new();
        let have = link.map_or(&[][..], |link| network.addresses(link));
        let special = link.is_some_and(|link| network.special.contains(&(link.index, *address)));
        // The first of a network takes the others with it, so it goes last.
        for other in have.iter().rev().filter(|other| *other != address || special) {
            lines.push(format!("address del {other} dev {name}"));
            details.push(ADDRESS);
        }
        if !have.contains(address) || special {
            lines.push(format!("address add {address} dev {name}"));
            details.push(ADDRESS);
        }
        let down = link.is_none_or(|link| !link.up);
        if down {
            lines.push(format!("link set dev {name} up"));
            details.push("state");
        }
        // The kernel drops the routes of an interface that goes down or loses its address. Where it
        // didn't, the next look finds those that are left.
        let lost = down || !details.is_empty();
        if !lost {
            self.remove_routes(removed, &mut details);
            self.add_own_route(lines, &mut details);
        }
        self.add_routes(lost, lines, &mut details);
        details.dedup();
        details
    }

    /// The kernel makes the one to an address's own network only once.
    fn add_own_route(&self, lines: &mut Vec<String>, details: &mut Vec<&'static str>) {
        let own = self.address.trunc();
        let direct = |(to, gateway): &(Ipv4Net, Option<Ipv4Addr>)| gateway.is_none() && *to == own;
        let is_own = |route: &Route| {
            route.plain && direct(&(route.destination, route.gateway)) && route.metric == 0
        };
        let foreign = || self.network.foreign_route(own, self.name).is_some();
        if own.prefix_len() == 32
            || self.routes.iter().any(direct)
            || self.live().any(is_own)
            || (self.yields && foreign())
        {
            return;
        }
        let (name, source) = (self.name, self.address.addr());
        lines.push(format!("route replace {own} dev {name} proto kernel scope link src {source}"));
        details.push("route");
    }

    fn add_routes(&self, lost: bool, lines: &mut Vec<String>, details: &mut Vec<&'static str>) {
        for (destination, gateway) in &self.routes {
            // The kernel makes the one to an address's own network with the address.
            let with_address = gateway.is_none() && *destination == self.address.trunc();
            // An unmarked one is as good: when it is no longer wanted, the plan that had it tells.
            let protocols = [ROUTE_PROTOCOL, UNMARKED];
            let good = |route: &&Route| {
                (route.destination, route.gateway, route.metric) == (*destination, *gateway, 0)
                    && route.plain
                    && (protocols.contains(&route.protocol)
                        || (with_address && route.protocol == KERNEL))
            };
            let there = !lost && self.live().any(|route| good(&route));
            let foreign = || self.network.foreign_route(*destination, self.name).is_some();
            if there || (lost && with_address) || (self.yields && foreign()) {
                continue;
            }
            lines.push(self.route(*destination, *gateway));
            details.push("route");
        }
    }

    /// Those of ours that are no longer wanted, and that no other replaces.
    fn remove_routes(&self, removed: &mut Vec<String>, details: &mut Vec<&'static str>) {
        let replaced = |route: &Route| {
            let mut wanted = self.routes.iter();
            route.metric == 0 && wanted.any(|(destination, _)| *destination == route.destination)
        };
        let former = |route: &Route| {
            route.protocol == UNMARKED
                && route.gateway.is_none()
                && route.metric == 0
                && self.former.contains(&route.destination)
        };
        let ours = |route: &Route| route.protocol == ROUTE_PROTOCOL || former(route);
        for route in self.live().filter(|route| ours(route) && !replaced(route)) {
            let Route { destination, gateway, metric, protocol, .. } = *route;
            let route = text(destination, gateway, self.name, metric);
            removed.push(format!("route del {route} proto {protocol}"));
            details.push("route");
        }
    }

    fn route(&self, destination: Ipv4Net, gateway: Option<Ipv4Addr>) -> String {
        let route = text(destination, gateway, self.name, 0);
        format!("route replace {route} proto {ROUTE_PROTOCOL}")
    }

    /// What must be so for the lines of routes: the kernel would put one into the place of
    /// another's. In namespaces of ringfence's own, they are ringfence's to replace.
    pub(super) fn guards(&self) -> Vec<(String, Guard)> {
        if self.netns.is_some() && !self.yields {
            return Vec::new();
        }
        let guard = |destination: Ipv4Net| Guard::Route {
            netns: self.netns.cloned(),
            destination,
            link: self.name.to_owned(),
        };
        let routes = self.routes.iter();
        routes.map(|(to, gateway)| (self.route(*to, *gateway), guard(*to))).collect()
    }

    /// Routes of others that stay in their own namespace, where ringfence would have one of its own.
    pub(super) fn findings(&self, owner: &str) -> Vec<Finding> {
        let Some(netns) = self.netns.filter(|_| self.yields) else { return Vec::new() };
        let routes = self.routes.iter();
        let foreign =
            routes.filter_map(|(to, _)| Some((to, self.network.foreign_route(*to, self.name)?)));
        let told = foreign.map(|(to, by)| {
            Finding::told(format!(
                "the namespace `{netns}` of {owner} is somebody else's, and its route to {to} by {by} stays"
            ))
        });
        told.collect()
    }

    fn live(&self) -> impl Iterator<Item = &Route> {
        self.link.into_iter().flat_map(|link| self.network.routes_by(link))
    }
}

fn text(destination: Ipv4Net, gateway: Option<Ipv4Addr>, name: &str, metric: u32) -> String {
    let to =
        if destination.prefix_len() == 0 { "default".to_owned() } else { destination.to_string() };
    let via = gateway.map_or_else(String::new, |gateway| format!(" via {gateway}"));
    let metric = if metric == 0 { String::new() } else { format!(" metric {metric}") };
    format!("{to}{via} dev {name}{metric}")
}
