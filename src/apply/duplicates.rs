//! Addresses that are about to be taken, and answer already (RFC 5227, section 2.1).

use std::net::Ipv4Addr;

use rayon::prelude::*;

use super::links::{Links, segment};
use crate::artifact::host;
use crate::artifact::node::{NodeConfig, UplinkAttachment};
use crate::diagnostic::{Code, Diagnostic};
use crate::system::netlink::Network;
use crate::system::{Command, System, Tool};

/// An address, and the interface to the segment where it would be.
struct Probe {
    owner: String,
    address: Ipv4Addr,
    interface: String,
}

/// RF221: somebody answers for an egress IP or a router's source that this node doesn't have yet.
pub(super) fn find(
    wiring: &NodeConfig,
    links: &Links,
    system: &dyn System,
) -> Result<Option<Diagnostic>, Diagnostic> {
    let probes = probes(wiring, links);
    let asked = probes.par_iter().map(|probe| Ok((probe, ask(probe, system)?)));
    let asked: Vec<_> = asked.collect::<Result<_, Diagnostic>>()?;
    let answered = asked.into_iter().find_map(|(probe, mac)| Some((probe, mac?)));
    Ok(answered.map(|(Probe { owner, address, interface }, mac)| {
        let message = format!("{owner} is not free: {mac} answers for {address} on `{interface}`");
        Diagnostic::new(Code::AddressAnswers, message).help(
            "apply the node that had it before, or give one of the two another address; \
             --take-over takes it all the same",
        )
    }))
}

fn probes(wiring: &NodeConfig, links: &Links) -> Vec<Probe> {
    let up = |name: &String| links.node.links.get(name).is_some_and(|link| link.up);
    // What a router of ours has on this node is not somebody else's.
    let routers: Vec<&Network> = links
        .netns
        .iter()
        .filter(|(name, _)| links.is_ours(name))
        .map(|(_, network)| network)
        .collect();
    let here = |address: Ipv4Addr| {
        let own = links.node.labels.iter();
        let own = own.filter(|(label, _)| label == host::EGRESS_LABEL).map(|(_, own)| own);
        let inside = routers.iter().filter_map(|network| {
            network.links.get(host::ROUTER_INTERFACE).map(|link| network.addresses(link))
        });
        own.chain(inside.flatten()).any(|own| own.addr() == address)
    };
    let egress_ips = wiring.egress_ips.iter().filter_map(|ip| {
        let interface = segment(wiring, links, ip.uplink)?.to_owned();
        Some(Probe {
            owner: format!("the egress IP {}", ip.address),
            address: ip.address,
            interface,
        })
    });
    let sources = wiring.routers.iter().filter_map(|router| {
        let interface = match &router.outside.via {
            UplinkAttachment::Macvlan { parent } => parent.to_string(),
            // Behind a port that is there already stands this router.
            UplinkAttachment::Veth { host, .. } if links.node.links.contains_key(host.as_str()) => {
                return None;
            }
            UplinkAttachment::Veth { uplink, .. } => {
                let bridge = wiring.gateway().map(|(bridge, _)| bridge.to_string());
                bridge.filter(up).unwrap_or_else(|| uplink.to_string())
            }
        };
        let address = router.outside.source;
        let owner = format!("the source {address} of egress router `{}`", router.name);
        Some(Probe { owner, address, interface })
    });
    let probes = egress_ips.chain(sources);
    probes.filter(|probe| !here(probe.address) && up(&probe.interface)).collect()
}

/// Asks the segment for an address without claiming it, and tells who answers.
fn ask(probe: &Probe, system: &dyn System) -> Result<Option<String>, Diagnostic> {
    let address = probe.address.to_string();
    let words = ["-D", "-c", "2", "-w", "2", "-I", &probe.interface, &address];
    let output = system.run(&Command::read(Tool::Arping, words))?;
    let printed = String::from_utf8_lossy(&output.stdout);
    let mut lines = printed.lines().filter(|line| line.contains(" reply from "));
    let answer = lines.next().and_then(|line| line.split(['[', ']']).nth(1));
    Ok(answer.map(str::to_ascii_lowercase))
}
