//! Links and namespaces that are no longer wanted.

use std::collections::BTreeSet;

use ipnet::Ipv4Net;

use super::routers::taken_addresses;
use super::{Links, guarded_removals, removals, remove_inside};
use crate::apply::change::{Action, Kind, Step};
use crate::apply::marks;
use crate::artifact::host;
use crate::artifact::node::NodeConfig;
use crate::system::guard::Guard;
use crate::value::{NetnsName, StringValue as _};

/// Removes links and namespaces of ours that no plan has: all of them without one. Those that are
/// gone by then are only passed over.
pub(in crate::apply) fn remove(
    wiring: Option<&NodeConfig>,
    links: &Links,
    gone: &BTreeSet<String>,
) -> Step {
    let mut step = Step::default();
    let planned = || wiring.into_iter().flat_map(NodeConfig::veths);
    let hosts: BTreeSet<&str> = planned().map(|veth| veth.host.as_str()).collect();
    let names: BTreeSet<&str> = planned().map(|veth| veth.netns.as_str()).collect();
    let taken = wiring.map(|wiring| taken_addresses(wiring, links)).unwrap_or_default();
    let mut lines: Vec<(String, Guard)> = Vec::new();
    let mut addresses = Vec::new();
    let unwanted = |name: &String| !hosts.contains(name.as_str()) && !gone.contains(name);
    for (name, link) in links.node.links.iter().filter(|(name, _)| unwanted(name)) {
        let Some(owner) = marks::veth_owner(name, link) else { continue };
        let owner = owner.words();
        step.change(Action::Remove, Kind::Link, name, format!("of {owner}"));
        step.disrupt(owner, "goes from this node: its connections break");
        lines.push((format!("link del {name}"), marks::same_link(name, link)));
    }
    let held = |address: &Ipv4Net| {
        let mut wanted = wiring.into_iter().flat_map(|wiring| &wiring.egress_ips);
        wanted.any(|ip| Ipv4Net::from(ip.address) == *address)
    };
    for (label, address) in &links.node.labels {
        if label == host::EGRESS_LABEL && !held(address) {
            let owner = format!("egress-ip {}", address.addr());
            step.change(Action::Remove, Kind::Link, "lo", format!("address of {owner}"));
            step.disrupt(owner, "goes from this node: connections from it break");
            // The kernel compares the label.
            addresses.push(format!("address del {address} dev lo label {label}"));
        }
    }
    for (name, network) in &links.netns {
        let alias = marks::namespace_alias(name, network);
        let (Some(alias), Ok(netns)) = (alias, NetnsName::parse(name)) else { continue };
        if names.contains(name.as_str()) {
            continue;
        }
        // Its end waits for its last process, and the outside address must not: another node may
        // have it by now.
        let outside = network.links.get(host::ROUTER_INTERFACE);
        let macvlan = outside.is_some_and(|link| link.kind.as_deref() == Some("macvlan"));
        if macvlan && !taken.contains(&netns) {
            step.commands.extend(remove_inside(&netns, host::ROUTER_INTERFACE, links));
        }
        step.change(Action::Remove, Kind::Netns, name, "no longer wanted");
        let alias = alias.to_owned();
        lines.push((format!("netns del {name}"), Guard::Namespace { name: netns, alias }));
    }
    let bare =
        links.bare.iter().filter(|(name, empty)| **empty && links.in_progress.contains(*name));
    let bare: Vec<&str> =
        bare.map(|(name, _)| name.as_str()).filter(|name| !names.contains(name)).collect();
    for name in &bare {
        step.change(Action::Remove, Kind::Netns, *name, "of an interrupted run");
    }
    step.commands.extend(removals(None, &addresses));
    step.commands.extend(guarded_removals(&lines));
    step.commands.extend(marks::remove_names(bare));
    step
}
