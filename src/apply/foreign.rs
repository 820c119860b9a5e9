//! Routes and addresses of the node that are somebody else's where ringfence needs its own.
//!
//! Nothing of others is ever replaced, so what is in the way is said before anything is changed. In
//! the namespaces of pods and egress routers ringfence has its way: a process in one could stop
//! every change of the node otherwise.

use ipnet::Ipv4Net;

use super::findings::Finding;
use crate::artifact::host;
use crate::artifact::node::NodeConfig;
use crate::diagnostic::{Code, Diagnostic};
use crate::system::netlink::Network;

/// Something that is in the way.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Obstacle {
    message: String,
    help: String,
}

/// RF220: no network and no address of ringfence's is somebody else's on this node. `adopt` takes
/// egress IPs over that somebody else has put on `lo`.
pub(super) fn check(wiring: &NodeConfig, node: &Network, adopt: bool) -> Result<(), Diagnostic> {
    let obstacles = obstacles(wiring, node, adopt);
    let Some(Obstacle { message, help }) = obstacles.first() else { return Ok(()) };
    let more = match obstacles.len() - 1 {
        0 => String::new(),
        number => format!(", and {number} more like it"),
    };
    let message = format!("{message}{more}");
    Err(Diagnostic::new(Code::ForeignNetwork, message).help(help.clone()))
}

/// The same as findings, all of them.
pub(super) fn findings(wiring: &NodeConfig, node: &Network) -> Vec<Finding> {
    let finding = |obstacle: Obstacle| Finding::refused(Code::ForeignNetwork, obstacle.message);
    obstacles(wiring, node, false).into_iter().map(finding).collect()
}

fn obstacles(wiring: &NodeConfig, node: &Network, adopt: bool) -> Vec<Obstacle> {
    let pods = wiring.pod_networks.iter().map(|network| (*network, "pod", "podNetworks"));
    let services = wiring.tun.services.map(|network| (network, "service", "serviceNetwork"));
    let networks: Vec<_> = pods.chain(services).collect();
    let mut found = Vec::new();
    // Those of `tun0` are ours; whether `tun0` itself is, was asked before.
    let others = node.links.iter().filter(|(name, _)| *name != host::TUN);
    let others: Vec<_> = others.collect();
    for (name, link) in &others {
        for address in node.addresses(link) {
            let inside = networks.iter().filter(|(network, ..)| network.contains(&address.addr()));
            found.extend(inside.map(|(network, what, key)| Obstacle {
                message: format!(
                    "the address {address} of `{name}` is inside the {what} network {network}"
                ),
                help: elsewhere(key),
            }));
            found.extend(taken(wiring, node, name, *address, adopt));
        }
    }
    let tun = node.links.get(host::TUN).map(|link| link.index);
    let by = |index: u32| {
        let name = others.iter().find(|(_, link)| link.index == index);
        name.map_or_else(|| "no interface".to_owned(), |(name, _)| format!("`{name}`"))
    };
    let routes = node.routes.iter().filter(|route| Some(route.link) != tun);
    let routes = routes.map(|route| (route.destination, by(route.link)));
    let linkless = node.linkless.iter().map(|network| (*network, "no single interface".to_owned()));
    for (destination, by) in routes.chain(linkless) {
        // One that has the network and more, such as the default route, is less specific than ours.
        let inside = networks.iter().filter(|(network, ..)| network.contains(&destination));
        found.extend(inside.map(|(network, what, key)| Obstacle {
            message: format!(
                "the route to {destination} by {by} leads away what is in the {what} network \
                 {network}"
            ),
            help: elsewhere(key),
        }));
    }
    found
}

fn elsewhere(key: &str) -> String {
    format!("take it from the node, if nothing else needs it, or choose another `cluster.{key}`")
}

/// An address that this node is to have for a workload, and has already for somebody else.
fn taken(
    wiring: &NodeConfig,
    node: &Network,
    link: &str,
    address: Ipv4Net,
    adopt: bool,
) -> Option<Obstacle> {
    let ip = address.addr();
    // One that is ours may have been an egress IP until now, and a source from now on.
    if link == "lo" && node.labels.contains(&(host::EGRESS_LABEL.to_owned(), address)) {
        return None;
    }
    let mut egress = wiring.egress_ips.iter();
    let egress = egress.any(|egress| egress.address == ip);
    if egress && adopt && link == "lo" {
        return None;
    }
    let or_adopt = if egress && link == "lo" { ", or take it over with --adopt" } else { "" };
    let egress = egress.then(|| format!("the egress IP {ip}"));
    let router = wiring.routers.iter().find(|router| router.outside.source == ip);
    let router = router.map(|router| format!("the source {ip} of egress router `{}`", router.name));
    let what = egress.or(router)?;
    Some(Obstacle {
        message: format!("{what} is an address of `{link}`, and ringfence did not put it there"),
        help: format!(
            "remove it with `ip address del {address} dev {link}`, if nothing needs it{or_adopt}"
        ),
    })
}
