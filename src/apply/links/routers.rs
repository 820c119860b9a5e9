//! The outside interfaces of egress routers.

use std::collections::BTreeSet;

use ipnet::Ipv4Net;

use super::egress_ips::announce;
use super::pods::{plug, wanted_of};
use super::{Batches, LinkSteps, Links, batch, guarded, removals, remove_inside};
use crate::apply::change::{Action, Kind};
use crate::apply::interface::{ADDRESS, Interface};
use crate::apply::marks;
use crate::apply::owned::{Role, Wanted, addresses_change, mend};
use crate::artifact::host;
use crate::artifact::node::{NodeConfig, Router, UplinkAttachment};
use crate::diagnostic::{Code, Diagnostic};
use crate::system::netlink::{Link, Network};
use crate::system::{Command, Tool};
use crate::value::{InterfaceName, NetnsName, StringValue as _};

/// The outside interface of an egress router. Returns the node's end of one that is a veth and gives
/// way to another.
pub(super) fn outside<'a>(
    wiring: &'a NodeConfig,
    router: &'a Router,
    links: &Links,
    former: &BTreeSet<Ipv4Net>,
    steps: &mut LinkSteps,
    batches: &mut Batches<'a>,
) -> Result<Option<String>, Diagnostic> {
    let Router { name: _, netns, outside, proxy: _, cookie: _ } = router;
    let interface = host::ROUTER_INTERFACE;
    let empty = Network::default();
    let network = links.netns.get(netns.as_str()).unwrap_or(&empty);
    let link = network.links.get(interface);
    let mut lines = Vec::new();
    let mut details = Vec::new();
    let mut gone = None;
    let (good, how) = match &outside.via {
        UplinkAttachment::Veth { host, uplink } => {
            // As much as the segment takes, not as little as the tunnels leave.
            let uplink = links.node.links.get(uplink.as_str());
            let mtu = uplink.map_or(wiring.mtu, |uplink| uplink.mtu);
            let veth = router.outside_veth();
            let plug =
                |veth| plug(veth, (wiring, mtu), links, steps, batches, &mut lines, &mut details);
            (veth.map(plug).transpose()?.flatten(), format!("{host} on the bridge"))
        }
        UplinkAttachment::Macvlan { parent } => {
            let plan = (wiring, router, parent);
            let good = macvlan(plan, links, (&mut gone, &mut lines, &mut details), steps)?;
            (good, format!("macvlan on {parent}"))
        }
    };
    let step = &mut steps.routers;
    let directly = outside.segment.into_iter().chain(router.to_gateway());
    let inside = Interface {
        name: interface,
        netns: Some(netns),
        yields: links.netns.contains_key(netns.as_str()) && !links.is_ours(netns.as_str()),
        link: good,
        network,
        address: router.source(),
        routes: directly
            .map(|network| (network, None))
            .chain([(Ipv4Net::default(), Some(outside.gateway))])
            .collect(),
        former,
    };
    let mut removed = Vec::new();
    details.extend(inside.lines(&mut removed, &mut lines));
    let guards = inside.guards();
    let commands = [removals(Some(netns), &removed), batch(Some(netns), &lines)];
    let commands = commands.into_iter().flatten().map(|command| guarded(command, &guards));
    step.commands.extend(commands.map(|command| marks::within(command, netns, links)));
    steps.findings.extend(inside.findings(&router.owner()));
    if link.is_some() && (good.is_none() || details.contains(&ADDRESS)) {
        let effect = "its outside interface changes: its connections break";
        step.disrupt(router.owner(), effect);
    }
    let object = format!("{interface} of {}", router.owner());
    if link.is_none() {
        step.change(Action::Add, Kind::Link, object, how);
    } else if good.is_none() {
        step.change(Action::Change, Kind::Link, object, "recreated");
    } else if !details.is_empty() {
        step.change(Action::Change, Kind::Link, object, details.join(", "));
    }
    if !network.forwards {
        let command = Command::change(Tool::Sysctl, ["-qw", "net.ipv4.ip_forward=1"]);
        step.commands.push(marks::within(command.within(Some(netns)), netns, links));
        if links.netns.contains_key(netns.as_str()) {
            let object = format!("net.ipv4.ip_forward of {}", router.owner());
            step.change(Action::Change, Kind::Sysctl, object, "0 to 1");
        }
    }
    if good.is_none() || addresses_change(&details) {
        // Another node may have had the address: its neighbours still send there.
        let source = outside.source.to_string();
        let command = announce(interface, &source).within(Some(netns));
        step.commands.push(marks::within(command, netns, links));
    }
    Ok(gone)
}

/// The outside interface of an egress router on its uplink; `None` where it is made. Also returns the
/// node's end of a veth in its place, which goes with it.
fn macvlan<'l>(
    (wiring, router, parent): (&NodeConfig, &Router, &InterfaceName),
    links: &'l Links,
    (gone, lines, details): (&mut Option<String>, &mut Vec<String>, &mut Vec<&'static str>),
    steps: &mut LinkSteps,
) -> Result<Option<&'l Link>, Diagnostic> {
    let Router { name, netns, outside, .. } = router;
    let interface = host::ROUTER_INTERFACE;
    let network = links.netns.get(netns.as_str());
    let link = network.and_then(|network| network.links.get(interface));
    let Some(live) = links.node.links.get(parent.as_str()) else {
        let message = format!(
            "the uplink `{parent}` of egress router `{name}` is not an interface of this \
             node"
        );
        return Err(Diagnostic::new(Code::WrongNode, message)
            .help("correct `uplink.interface` of the node"));
    };
    let good = link.filter(|link| {
        link.peer == Some(live.index)
            && link.kind.as_deref() == Some("macvlan")
            && link.mac == outside.mac.bytes()
    });
    if let (None, Some(link)) = (good, link) {
        if !links.is_ours(netns.as_str()) {
            return Err(marks::foreign_inside(netns, interface, &router.owner()));
        }
        steps.conflicts.commands.extend(remove_inside(netns, interface, links));
        let other = links.node.links.iter().find(|(_, other)| {
            link.kind.as_deref() == Some("veth") && link.peer == Some(other.index)
        });
        *gone = other.map(|(name, _)| name.clone());
    }
    if good.is_none() {
        let mac = outside.mac;
        let line = format!(
            "link add link {parent} name {interface} address {mac} netns {netns} type \
             macvlan mode private"
        );
        let make = batch(None, &[line]).map(|command| marks::within(command, netns, links));
        steps.routers.commands.extend(make);
    }
    let wanted = Wanted {
        netns: Some(netns),
        forwards: true,
        ..wanted_of(wiring, Role::Macvlan, interface, live.mtu)
    };
    let mending = good.map(|link| mend(link, &wanted)).unwrap_or_default();
    lines.extend(mending.lines);
    details.extend(mending.details);
    steps.routers.commands.extend(mending.commands);
    Ok(good)
}

/// The namespaces of egress routers that go from this node while another has the Ethernet address of
/// their outside interface from now on, as where a router is renamed: an uplink has only one macvlan
/// with it.
pub(super) fn taken_addresses(wiring: &NodeConfig, links: &Links) -> Vec<NetnsName> {
    let planned: BTreeSet<&str> = wiring.netns.iter().map(|netns| netns.name.as_str()).collect();
    let going = links
        .netns
        .iter()
        .filter(|(name, _)| !planned.contains(name.as_str()) && links.is_ours(name));
    going
        .filter_map(|(name, network)| {
            let link = network.links.get(host::ROUTER_INTERFACE)?;
            let macvlans = wiring.routers.iter().map(|router| &router.outside);
            let mut macvlans =
                macvlans.filter(|one| matches!(one.via, UplinkAttachment::Macvlan { .. }));
            let taken = macvlans.any(|one| link.mac == one.mac.bytes());
            let macvlan = link.kind.as_deref() == Some("macvlan");
            NetnsName::parse(name).ok().filter(|_| macvlan && taken)
        })
        .collect()
}
