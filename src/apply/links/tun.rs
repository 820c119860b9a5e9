//! The node's own port: its address and routes.

use std::collections::BTreeSet;

use ipnet::Ipv4Net;

use super::pods::wanted_of;
use super::{Links, batch, guarded, removals};
use crate::apply::change::{Action, Kind, Step};
use crate::apply::interface::Interface;
use crate::apply::owned::{Role, Wanted, mend};
use crate::artifact::host;
use crate::artifact::node::NodeConfig;
use crate::system::{Command, Tool};
use crate::value::Datapath;

pub(super) fn tun(wiring: &NodeConfig, links: &Links, former: &BTreeSet<Ipv4Net>, step: &mut Step) {
    let link = links.node.links.get(host::TUN);
    let mut lines = Vec::new();
    let interface = Interface {
        name: host::TUN,
        netns: None,
        yields: false,
        link,
        network: &links.node,
        address: wiring.tun.address,
        routes: wiring
            .pod_networks
            .iter()
            .chain(&wiring.tun.services)
            .map(|network| (*network, None))
            .collect(),
        former,
    };
    let wanted = Wanted {
        mac: Some(wiring.tun.mac),
        forwards: true,
        datapath: links.datapath(),
        ..wanted_of(wiring, Role::Tun, host::TUN, wiring.mtu)
    };
    let mending = link.map(|link| mend(link, &wanted)).unwrap_or_default();
    let mut details = mending.details;
    lines.extend(mending.lines);
    let mut removed = Vec::new();
    details.extend(interface.lines(&mut removed, &mut lines));
    if details.is_empty() {
        return;
    }
    step.commands.extend(mending.commands);
    let action = if link.is_none() { Action::Add } else { Action::Change };
    step.change(action, Kind::Link, host::TUN, details.join(", "));
    if link.is_none_or(|link| !link.up) && wiring.bridge.datapath == Datapath::Netdev {
        step.commands.push(Command::change(Tool::Ethtool, ["-K", host::TUN, "tx", "off"]));
    }
    let guards = interface.guards();
    step.commands.extend(removals(None, &removed));
    step.commands.extend(batch(None, &lines).map(|command| guarded(command, &guards)));
}
