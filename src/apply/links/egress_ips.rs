//! The egress IPs of a node, and word to the segment of what is new there.

use ipnet::Ipv4Net;

use super::{Links, batch};
use crate::apply::change::{Action, Kind, Step};
use crate::apply::gateway::Going;
use crate::artifact::host;
use crate::artifact::node::NodeConfig;
use crate::system::netlink::Link;
use crate::system::{Command, Tool};

/// The egress IPs of this node, and word to the segment of each that is new.
pub(super) fn egress_ips(
    wiring: &NodeConfig,
    links: &Links,
    (adopt, going): (bool, &Going),
    step: &mut Step,
) {
    let mut lines = Vec::new();
    let mut announcements = Vec::new();
    for ip in &wiring.egress_ips {
        let address = Ipv4Net::from(ip.address);
        let label = host::EGRESS_LABEL;
        let owner = format!("egress-ip {}", ip.address);
        if links.node.labels.contains(&(label.to_owned(), address)) {
            let mut lo = links.node.links.get("lo").into_iter();
            if lo.any(|lo| links.node.special.contains(&(lo.index, address))) {
                // Somebody has given it an end, a scope or a life of its own.
                step.change(Action::Change, Kind::Link, "lo", format!("address of {owner}"));
                lines.push(format!("address del {address} dev lo label {label}"));
                lines.push(format!("address add {address} dev lo label {label}"));
            }
            continue;
        }
        step.change(Action::Add, Kind::Link, "lo", format!("address of {owner}"));
        // What is there without the label was adopted; a label is for good.
        let lo = links.node.links.get("lo").map_or(&[][..], |lo| links.node.addresses(lo));
        let labelled = |old: &Ipv4Net| links.node.labels.contains(&(label.to_owned(), *old));
        for old in lo.iter().filter(|old| adopt && old.addr() == ip.address && !labelled(old)) {
            lines.push(format!("address del {old} dev lo"));
        }
        // Not `replace`, which would take one of somebody else's.
        lines.push(format!("address add {address} dev lo label {label}"));
        // A gateway bridge has it by then, whoever has it now.
        let uplink = wiring.gateway().map(|(bridge, _)| bridge.as_str());
        if let Some(interface) = uplink.or_else(|| segment(wiring, links, ip.uplink)) {
            // And one that goes has given it to its uplink.
            let interface = going.get(interface).map_or(interface, String::as_str);
            announcements.push(announce(interface, &ip.address.to_string()));
        }
    }
    step.commands.extend(batch(None, &lines));
    step.commands.extend(announcements);
}

/// The interface by which this node reaches the segment of a subnet as it is: a gateway bridge if
/// it is up and has the uplink, or where the node has its own address of the subnet.
pub(in crate::apply) fn segment<'a>(
    wiring: &'a NodeConfig,
    links: &'a Links,
    subnet: Ipv4Net,
) -> Option<&'a str> {
    let has =
        |link: &Link| links.node.addresses(link).iter().any(|own| subnet.contains(&own.addr()));
    let mut others = links.node.links.iter().filter(|(name, _)| *name != "lo");
    let link = |name: &str| links.node.links.get(name);
    let gateway = wiring.gateway().filter(|(bridge, uplink)| {
        link(bridge.as_str()).is_some_and(|link| link.up)
            && link(uplink.interface.as_str()).is_some_and(|link| link.promiscuous)
    });
    let gateway = gateway.map(|(bridge, _)| bridge.as_str());
    gateway.or_else(|| others.find(|(_, link)| has(link)).map(|(name, _)| name.as_str()))
}

/// Tells the segment where an address is now (RFC 5227, section 3).
pub(super) fn announce(interface: &str, address: &str) -> Command {
    let words = ["-U", "-c", "2", "-I", interface, "-s", address, address];
    Command::change(Tool::Arping, words)
}
