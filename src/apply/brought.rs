//! The interfaces that pods bring themselves: of workloads, not of the node.

use std::collections::BTreeSet;

use crate::artifact::node::NodeConfig;
use crate::diagnostic::{Code, Diagnostic};
use crate::system::netlink::{Link, Network};

/// The kinds of links that no workload is behind: bridges, and what tunnels come out of.
const OF_THE_NODE: [&str; 7] =
    ["bridge", "openvswitch", "vxlan", "geneve", "gre", "gretap", "wireguard"];

/// RF206: an interface that is to become a pod's port has no address of the node, and is no bridge.
/// The node would lose its connection, and the pod's network would get it.
pub(super) fn check(
    wiring: &NodeConfig,
    node: &Network,
    needs_port: &BTreeSet<String>,
) -> Result<(), Diagnostic> {
    let made: BTreeSet<&str> = wiring.veths().map(|veth| veth.host.as_str()).collect();
    for port in &wiring.ports {
        let name = port.interface.as_str();
        if made.contains(name) || !needs_port.contains(name) {
            continue;
        }
        let Some(what) = node.links.get(name).and_then(|link| of_the_node(link, node)) else {
            continue;
        };
        let message = format!("the interface `{name}` of {} is the node's own: {what}", port.owner);
        return Err(Diagnostic::new(Code::NotOurs, message)
            .help("name the interface of the workload, such as the tap of a virtual machine"));
    }
    Ok(())
}

/// Why a link is the node's, if it is.
fn of_the_node(link: &Link, node: &Network) -> Option<String> {
    if let Some(kind) = link.kind.as_deref().filter(|kind| OF_THE_NODE.contains(kind)) {
        return Some(format!("it is of the kind `{kind}`"));
    }
    let address = node.addresses.get(&link.index)?.first()?;
    Some(format!("it has the address {}", address.addr()))
}
