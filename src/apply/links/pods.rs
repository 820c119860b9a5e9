//! Namespaces of pods and egress routers, and the veths that lead into them.

use std::collections::BTreeSet;

use ipnet::Ipv4Net;

use super::{Batches, IPV6_MTU, Inside, LinkSteps, Links, batch, guarded, is_ours, remove_inside};
use crate::apply::change::{Action, Kind, Step};
use crate::apply::interface::Interface;
use crate::apply::marks::{self, ALIAS};
use crate::apply::owned::{Role, Wanted, addresses_change, mend};
use crate::artifact::host;
use crate::artifact::node::{Netns, NodeConfig, Veth};
use crate::diagnostic::{Code, Diagnostic};
use crate::system::netlink::{Link, Network};
use crate::system::{Command, Tool};
use crate::value::{Datapath, InterfaceName};

/// One namespace with its veth.
pub(super) fn attach<'a>(
    wiring: &NodeConfig,
    netns: &'a Netns,
    links: &Links,
    former: &BTreeSet<Ipv4Net>,
    steps: &mut LinkSteps,
    batches: &mut Batches<'a>,
) -> Result<(), Diagnostic> {
    let Netns { name, host, mac: _, address, gateway, owner, cookie: _ } = netns;
    let inside = links.netns.get(name.as_str());
    let mut lines = Vec::new();
    if inside.is_none() {
        match links.bare.get(name.as_str()) {
            None => {}
            Some(true) => batches.bare.push(name),
            Some(false) => return Err(marks::blocked(name.as_str(), owner)),
        }
        steps.make.change(Action::Add, Kind::Netns, name.as_str(), format!("of {owner}"));
        batches.made.push(name);
    }
    let mut details: Vec<&str> = Vec::new();
    if let Some(lo) =
        inside.filter(|_| links.is_ours(name.as_str())).and_then(|n| n.links.get("lo"))
    {
        let mending = mend(lo, &wanted_of(wiring, Role::Loopback, "lo", lo.mtu));
        lines.extend(mending.lines);
        if !mending.details.is_empty() {
            details.push("loopback");
        }
    }
    let outside = links.node.links.get(host.as_str());
    let alien = inside.and_then(|inside| inside.links.get(host::POD_INTERFACE));
    let other = alien.and_then(|alien| links.ours_behind(alien));
    if alien.is_some() && outside.is_none() && other.is_none() {
        // It may be ours with its other end gone astray, which can't be seen from here.
        return Err(marks::foreign_inside(name, host::POD_INTERFACE, owner));
    }
    let empty = Network::default();
    let network = inside.unwrap_or(&empty);
    let pair =
        plug(netns.veth(), (wiring, wiring.mtu), links, steps, batches, &mut lines, &mut details)?;
    let step = &mut steps.make;
    if pair.is_none() && outside.is_some() {
        step.disrupt(owner, "its interface is recreated: its connections break");
    }
    let interface = Interface {
        name: host::POD_INTERFACE,
        netns: Some(name),
        yields: inside.is_some() && !links.is_ours(name.as_str()),
        link: pair,
        network,
        address: *address,
        routes: wiring
            .pod_networks
            .iter()
            .map(|network| (*network, None))
            .chain(gateway.map(|gateway| (Ipv4Net::default(), Some(gateway))))
            .collect(),
        former,
    };
    let mut removed = Vec::new();
    details.extend(interface.lines(&mut removed, &mut lines));
    let guards = interface.guards();
    steps.findings.extend(interface.findings(owner));
    let step = &mut steps.make;
    if pair.is_some_and(|link| link.up) && addresses_change(&details) {
        step.disrupt(owner, "its addresses change: connections of those that go break");
    }
    if pair.is_none() {
        step.change(Action::Add, Kind::Link, host.as_str(), format!("of {owner}"));
    } else if !details.is_empty() {
        let detail = format!("{} of {owner}", details.join(", "));
        step.change(Action::Change, Kind::Link, host.as_str(), detail);
    }
    batches.netns.push(Inside { netns: name, removed, lines, guards });
    Ok(())
}

/// What a link of this role is to be, as far as that is the same for all.
pub(super) fn wanted_of<'a>(
    wiring: &NodeConfig,
    role: Role,
    name: &'a str,
    mtu: u32,
) -> Wanted<'a> {
    Wanted {
        role,
        name,
        netns: None,
        alias: None,
        mac: None,
        mtu,
        userspace: wiring.bridge.datapath == Datapath::Netdev,
        ipv6: false,
        forwards: false,
        limited: false,
        datapath: None,
    }
}

/// One veth: made, or brought to what it is to be, with what that is about. Returns its end in the
/// namespace, unless it is made.
pub(super) fn plug<'a, 'l>(
    veth: Veth<'a>,
    (wiring, mtu): (&NodeConfig, u32),
    links: &'l Links,
    steps: &mut LinkSteps,
    batches: &mut Batches<'a>,
    lines: &mut Vec<String>,
    details: &mut Vec<&'static str>,
) -> Result<Option<&'l Link>, Diagnostic> {
    let Veth { netns, host, inside, mac, owner } = veth;
    let outside = links.node.links.get(host.as_str());
    let there = links.netns.get(netns.as_str()).and_then(|network| network.links.get(inside));
    let pair = there.filter(|link| outside.is_some_and(|host| link.peer == Some(host.index)));
    // One that leads into the namespace lost its alias, or never got it in an interrupted run.
    if let Some(link) = outside
        && !is_ours(host.as_str(), link)
        && pair.is_none()
    {
        return Err(not_ours(host.as_str(), &owner));
    }
    if pair.is_none() {
        match there.map(|there| links.ours_behind(there)) {
            Some(Some(other)) => drop(batches.old.insert(other.clone())),
            Some(None) if !links.is_ours(netns.as_str()) => {
                return Err(marks::foreign_inside(netns, inside, &owner));
            }
            Some(None) => steps.conflicts.commands.extend(remove_inside(netns, inside, links)),
            None => {}
        }
        if outside.is_some() {
            batches.old.insert(host.to_string());
        }
        let group = marks::GROUP;
        batches.node.push(format!(
            "link add {host} mtu {mtu} group {group} type veth peer name {inside} address {mac} mtu \
             {mtu} netns {netns}"
        ));
        if links.ipv6 && mtu >= IPV6_MTU {
            // Nobody speaks to this end, and Open vSwitch would read two routes more for it, each
            // with all interfaces, whenever one comes or goes: a stall for 200 pods.
            batches.node.push(format!("link set dev {host} addrgenmode none"));
        }
        batches.new.push(host);
    }
    let alias = format!("{ALIAS}{owner}");
    let Some((pair, outside)) = pair.zip(outside) else {
        batches.node.push(format!("link set dev {host} alias \"{alias}\""));
        details.push("alias");
        return Ok(None);
    };
    let port = wiring.ports.iter().find(|port| port.interface == *host);
    let limited = port.is_some_and(|port| port.ingress.is_some());
    let (datapath, ipv6) = (links.datapath(), links.ipv6);
    let wanted =
        Wanted { ipv6, limited, datapath, ..wanted_of(wiring, Role::AtNode, host.as_str(), mtu) };
    let mending = mend(outside, &Wanted { alias: Some(alias), ..wanted });
    let same = || marks::same_link(host.as_str(), outside);
    batches.guards.extend(mending.lines.iter().map(|line| (line.clone(), same())));
    batches.node.extend(mending.lines);
    steps.make.commands.extend(mending.commands.into_iter().map(|one| one.only_if([same()])));
    details.extend(mending.details);
    let forwards = wiring.routers.iter().any(|router| router.netns == *netns);
    let inside = wanted_of(wiring, Role::InPod, inside, mtu);
    let mending = mend(pair, &Wanted { netns: Some(netns), mac: Some(mac), forwards, ..inside });
    lines.extend(mending.lines);
    steps.make.commands.extend(mending.commands);
    for detail in mending.details {
        // The other end may differ in the same respect.
        if !details.contains(&detail) {
            details.push(detail);
        }
    }
    Ok(Some(pair))
}

fn not_ours(link: &str, owner: &str) -> Diagnostic {
    let message = format!("the interface `{link}` of {owner} exists and is not ringfence's");
    Diagnostic::new(Code::NotOurs, message)
        .help(format!("remove it with `ip link del {link}`, if nothing else needs it"))
}

/// What is told of old veths that give way to new ones of others in the same namespaces.
pub(super) fn replace(wiring: &NodeConfig, links: &Links, old: &BTreeSet<String>, step: &mut Step) {
    let planned: BTreeSet<&str> = wiring.veths().map(|veth| veth.host.as_str()).collect();
    for name in old.iter().filter(|name| !planned.contains(name.as_str())) {
        let link = links.node.links.get(name);
        let Some(owner) = link.and_then(|link| marks::veth_owner(name, link)) else { continue };
        let owner = owner.words();
        step.change(Action::Remove, Kind::Link, name, format!("of {owner}"));
        step.disrupt(owner, "goes from this node: its connections break");
    }
}

/// A userspace datapath takes frames as they are: their checksums must be complete. This can't be
/// seen cheaply, so it comes before an interface goes up, and again where one is still down. Where the
/// bridge gets another datapath, all veths follow it.
pub(super) fn checksums(
    wiring: &NodeConfig,
    links: &Links,
    new: &[&InterfaceName],
    other_datapath: bool,
    step: &mut Step,
) {
    let userspace = wiring.bridge.datapath == Datapath::Netdev;
    let by_device = if userspace { "off" } else { "on" };
    let due = |veth: &Veth<'_>| {
        let fresh = new.contains(&veth.host);
        (userspace && (fresh || is_down(veth, links))) || (other_datapath && !fresh)
    };
    for veth in wiring.veths().filter(due) {
        for (namespace, interface) in [(None, veth.host.as_str()), (Some(veth.netns), veth.inside)]
        {
            let command = Command::change(Tool::Ethtool, ["-K", interface, "tx", by_device]);
            let command = command.within(namespace);
            let command = match namespace {
                Some(netns) => marks::within(command, netns, links),
                None => command.only_if([marks::has_alias(veth.host, &veth.owner)]),
            };
            step.commands.push(command);
        }
    }
}

fn is_down(veth: &Veth<'_>, links: &Links) -> bool {
    links.node.links.get(veth.host.as_str()).is_some_and(|link| !link.up)
}

/// The node's side of veths, which stays down until the bridge is ready for them.
pub(super) fn up(wiring: &NodeConfig, links: &Links, new: &[&InterfaceName], step: &mut Step) {
    let mut lines = Vec::new();
    let mut guards = Vec::new();
    for veth in wiring.veths() {
        let (is_new, down) = (new.contains(&veth.host), is_down(&veth, links));
        if is_new || down {
            let line = format!("link set dev {} up", veth.host);
            guards.push((line.clone(), marks::has_alias(veth.host, &veth.owner)));
            lines.push(line);
        }
        if down && !is_new {
            let detail = format!("state of {}", veth.owner);
            step.change(Action::Change, Kind::Link, veth.host.as_str(), detail);
        }
    }
    step.commands.extend(batch(None, &lines).map(|command| guarded(command, &guards)));
}
