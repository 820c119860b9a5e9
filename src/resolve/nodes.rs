//! The `nodes` section.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use ipnet::Ipv4Net;

use super::addresses::networks;
use super::cluster::special_ranges;
use super::{Context, Index, Nodes, Wire, unique};
use crate::artifact::host;
use crate::diagnostic::{Code, Diagnostic, Place};
use crate::input::Cursor;
use crate::intent::{Cluster, Fixed, Node, NodeId, Uplink};
use crate::spec;
use crate::value::{InterfaceName, ipv4};

pub(super) fn resolve<'a>(wire: &Wire<'a>, cluster: &Cluster, context: &mut Context) -> Nodes<'a> {
    let items = wire.items("nodes", |state| &state.nodes);
    let items = unique("node", items, |node| &node.name, context);
    let mut nodes = Nodes {
        list: Vec::with_capacity(items.len()),
        index: Index { by_name: BTreeMap::new() },
        wire: Vec::new(),
        reserved: Vec::new(),
        egress_ranges: Vec::new(),
    };
    for (at, wire) in items {
        let spec::Node {
            name,
            address,
            unavailable,
            datapath,
            labels,
            pod_subnet,
            uplink,
            reserved_addresses,
            egress_cidrs,
            node_port_addresses,
            block_node_ports: _,
        } = wire;
        let address = context
            .host_address(address, at.key("address").place())
            .unwrap_or(Ipv4Addr::UNSPECIFIED);
        let fixed_subnet = pod_subnet.and_then(|subnet| {
            let place = at.key("podSubnet").place();
            let subnet = context.take(ipv4(&subnet), place)?;
            subnet_outside_networks(subnet, place, cluster, context);
            Some(Fixed { value: subnet, place })
        });
        let uplink = uplink.as_ref().and_then(|wire| {
            let at = at.key("uplink");
            uplink_mtu(wire, at, cluster, context);
            gateway_bridge(wire, at, context);
            resolve_uplink(wire, at, context)
        });
        let reserved = reserved_addresses
            .iter()
            .zip(at.key("reservedAddresses").children())
            .filter_map(|(address, at)| {
                let address = context.host_address(address, at.place())?;
                reserved_outside(address, uplink.as_ref(), at.place(), context);
                Some((address, at.place()))
            })
            .collect();
        let ranges = egress_cidrs
            .iter()
            .zip(at.find("egressCIDRs").into_iter().flat_map(Cursor::children))
            .filter_map(|(range, at)| {
                let range = context.take(ipv4(range), at.place())?;
                range_outside(range, uplink.as_ref(), at.place(), context);
                Some(range)
            })
            .collect();
        let mut served: Vec<Ipv4Addr> = node_port_addresses
            .iter()
            .zip(at.find("nodePortAddresses").into_iter().flat_map(Cursor::children))
            .filter_map(|(address, at)| context.host_address(address, at.place()))
            .collect();
        if node_port_addresses.is_empty() {
            if let Some(at) = at.find("nodePortAddresses") {
                let message = "`nodePortAddresses` takes at least one address";
                context.push(
                    Diagnostic::new(Code::BadValue, message)
                        .at(at.place())
                        .help("without the key, node ports are served at the node's own address"),
                );
            }
            served.push(address);
        }
        served.sort();
        served.dedup();
        let id = NodeId::new(nodes.list.len());
        nodes.index.by_name.insert(name, (id, at.place()));
        nodes.wire.push((at, wire));
        nodes.reserved.push(reserved);
        nodes.egress_ranges.push(ranges);
        nodes.list.push(Node {
            name: name.clone(),
            address,
            unavailable: *unavailable,
            datapath: *datapath,
            labels: labels.clone(),
            fixed_subnet,
            uplink,
            node_port_addresses: served,
            blocks: Vec::new(),
            place: at.place(),
        });
    }
    addresses_twice(&nodes, context);
    inside_cluster(&nodes, cluster, context);
    uplinks_overlap(&nodes, cluster, context);
    nodes
}

fn resolve_uplink(wire: &spec::Uplink, at: Cursor<'_>, context: &mut Context) -> Option<Uplink> {
    let spec::Uplink { interface, subnet, gateway, mtu, bridge, disable_init, rp_filter } = wire;
    let subnet_place = at.key("subnet").place();
    let subnet = context.take(ipv4(subnet), subnet_place)?;
    let gateway_place = at.key("gateway").place();
    let gateway = gateway.as_ref().and_then(|address| context.host_address(address, gateway_place));
    if let Some(gateway) = gateway
        && !is_host_of(gateway, subnet)
    {
        context.push(
            Diagnostic::new(
                Code::UplinkGateway,
                format!("the gateway {gateway} is not a host of the uplink's subnet {subnet}"),
            )
            .at(gateway_place)
            .related(subnet_place, "the subnet")
            .help("a node reaches its gateway directly: both are in one subnet"),
        );
    }
    reserved(interface, at.key("interface").place(), "name the node's physical interface", context);
    Some(Uplink {
        interface: interface.clone(),
        subnet,
        gateway,
        mtu: *mtu,
        bridge: bridge.clone(),
        disable_init: *disable_init,
        rp_filter: *rp_filter,
    })
}

/// RF160: the packets of pods fit into those of the uplink.
fn uplink_mtu(wire: &spec::Uplink, at: Cursor<'_>, cluster: &Cluster, context: &mut Context) {
    let Some(mtu) = wire.mtu else { return };
    let least = cluster.least_mtu();
    if mtu < least {
        let message = format!(
            "the uplink's MTU is {mtu}, but {} for pods and VXLAN take {least}",
            cluster.mtu
        );
        context.push(
            Diagnostic::new(Code::UplinkMtu, message)
                .at(at.key("mtu").place())
                .help("raise the MTU of the uplink, or lower `cluster.mtu`"),
        );
    }
}

/// RF006 and RF052: a gateway bridge is another interface than its uplink, and none of ours.
fn gateway_bridge(wire: &spec::Uplink, at: Cursor<'_>, context: &mut Context) {
    let Some(bridge) = &wire.bridge else {
        if wire.disable_init {
            context.push(
                Diagnostic::new(Code::MissingKey, "the key `bridge` is missing")
                    .at(at.key("disableInit").place())
                    .help("`disableInit` is about the bridge that the uplink is a port of"),
            );
        }
        return;
    };
    let what = if *bridge == wire.interface {
        "the uplink itself"
    } else if host::is_reserved_interface(bridge.as_str()) {
        "reserved on every node"
    } else {
        return;
    };
    context.push(
        Diagnostic::new(
            Code::InterfaceReserved,
            format!("the name `{bridge}` of the gateway bridge is {what}"),
        )
        .at(at.key("bridge").place())
        .help("choose another name, such as br-ex"),
    );
}

/// RF052: the interface is none that ringfence makes on every node.
pub(super) fn reserved(interface: &InterfaceName, place: Place, help: &str, context: &mut Context) {
    if host::is_reserved_interface(interface.as_str()) {
        let message = format!("the interface `{interface}` is reserved on every node");
        context.push(Diagnostic::new(Code::InterfaceReserved, message).at(place).help(help));
    }
}

/// Whether a host of the network can have the address: neither the network's nor the broadcast
/// address, which networks of one or two addresses don't have (RFC 3021).
pub(super) fn is_host_of(address: Ipv4Addr, network: Ipv4Net) -> bool {
    network.contains(&address)
        && (network.prefix_len() >= 31
            || (address != network.network() && address != network.broadcast()))
}

/// RF042: a node's subnet is in one of the pod networks, and leaves room for pods.
fn subnet_outside_networks(
    subnet: Ipv4Net,
    place: Place,
    cluster: &Cluster,
    context: &mut Context,
) {
    if subnet.prefix_len() > 30 {
        let message = format!("the subnet {subnet} has no room for pods");
        context.push(
            Diagnostic::new(Code::SubnetOutsideNetworks, message)
                .at(place)
                .help("network, gateway and broadcast take three addresses: /30 or larger"),
        );
    } else if !cluster.pod_networks.iter().any(|network| network.cidr.contains(&subnet)) {
        let message = format!("the subnet {subnet} is outside of the pod networks");
        context.push(
            Diagnostic::new(Code::SubnetOutsideNetworks, message)
                .at(place)
                .help(format!("choose a part of {}", networks(cluster).join(" or "))),
        );
    }
}

/// RF055: addresses set aside for egress are hosts of the uplink's subnet.
fn reserved_outside(
    address: Ipv4Addr,
    uplink: Option<&Uplink>,
    place: Place,
    context: &mut Context,
) {
    let message = match uplink {
        Some(uplink) if is_host_of(address, uplink.subnet) => return,
        Some(uplink) => format!(
            "the reserved address {address} is not a host of the uplink's subnet {}",
            uplink.subnet
        ),
        None => format!("the address {address} is reserved on a node without an uplink"),
    };
    context.push(
        Diagnostic::new(Code::ReservedOutside, message)
            .at(place)
            .help("only a host of the uplink's subnet is reached at the node's uplink"),
    );
}

/// RF098: ranges of egress IPs are parts of the uplink's subnet.
fn range_outside(range: Ipv4Net, uplink: Option<&Uplink>, place: Place, context: &mut Context) {
    let message = match uplink {
        Some(uplink) if uplink.subnet.contains(&range) => return,
        Some(uplink) => {
            format!("the range {range} is outside of the uplink's subnet {}", uplink.subnet)
        }
        None => format!("the range {range} is of a node without an uplink"),
    };
    context.push(
        Diagnostic::new(Code::EgressRange, message)
            .at(place)
            .help("only addresses of the uplink's subnet are reached at the node's uplink"),
    );
}

/// RF048: node addresses, uplink gateways and reserved addresses are all different.
fn addresses_twice(nodes: &Nodes<'_>, context: &mut Context) {
    let mut taken: BTreeMap<Ipv4Addr, (String, Place, bool)> = BTreeMap::new();
    let mut all: Vec<(Ipv4Addr, String, Place, bool)> = Vec::new();
    for (node, (at, _)) in nodes.list.iter().zip(&nodes.wire) {
        if !node.address.is_unspecified() {
            let what = format!("the address of node `{}`", node.name);
            all.push((node.address, what, at.key("address").place(), false));
        }
    }
    for (node, (at, _)) in nodes.list.iter().zip(&nodes.wire) {
        // Nodes share their gateway.
        if let Some(gateway) = node.uplink.as_ref().and_then(|uplink| uplink.gateway) {
            let what = format!("the gateway of node `{}`", node.name);
            all.push((gateway, what, at.key("uplink").key("gateway").place(), true));
        }
    }
    for (node, reserved) in nodes.list.iter().zip(&nodes.reserved) {
        for &(address, place) in reserved {
            let what = format!("an address set aside on node `{}`", node.name);
            all.push((address, what, place, false));
        }
    }
    for (node, (at, wire)) in nodes.list.iter().zip(&nodes.wire) {
        let items = at.find("nodePortAddresses").into_iter().flat_map(Cursor::children);
        for (at, address) in items.zip(&wire.node_port_addresses) {
            let Ok(address) = ipv4(address) else { continue };
            if address != node.address {
                let what = format!("an address of node ports of node `{}`", node.name);
                all.push((address, what, at.place(), false));
            }
        }
    }
    for (address, what, place, shared) in all {
        match taken.get(&address) {
            Some((_, _, true)) if shared => {}
            Some((other, first, _)) => context.push(
                Diagnostic::new(
                    Code::AddressTwice,
                    format!("{address} is {what} and also {other}"),
                )
                .at(place)
                .related(*first, "the other")
                .help("give each its own address"),
            ),
            None => {
                taken.insert(address, (what, place, shared));
            }
        }
    }
}

/// RF049: a node's address is outside of the networks that the cluster routes itself. Its gateway
/// is in the uplink's subnet, about which RF040 speaks.
fn inside_cluster(nodes: &Nodes<'_>, cluster: &Cluster, context: &mut Context) {
    for (node, (at, wire)) in nodes.list.iter().zip(&nodes.wire) {
        let own = (node.address, at.key("address").place());
        let items = at.find("nodePortAddresses").into_iter().flat_map(Cursor::children);
        let others = items
            .zip(&wire.node_port_addresses)
            .filter_map(|(at, address)| Some((ipv4(address).ok()?, at.place())))
            .filter(|(address, _)| *address != node.address);
        for (address, place) in [own].into_iter().chain(others) {
            let Some(network) = cluster.networks().find(|network| network.contains(&address))
            else {
                continue;
            };
            context.push(
                Diagnostic::new(
                    Code::AddressInsideCluster,
                    format!("{address} is inside of the cluster network {network}"),
                )
                .at(place)
                .help(
                    "the nodes' network and the cluster's networks must be disjoint; without \
                     `podNetworks` and `serviceNetwork`, those are 10.128.0.0/14 and 172.30.0.0/16",
                ),
            );
        }
    }
}

/// RF040: uplink subnets overlap neither the cluster's networks nor each other, unless they are
/// the same network.
fn uplinks_overlap(nodes: &Nodes<'_>, cluster: &Cluster, context: &mut Context) {
    let mut seen: BTreeMap<Ipv4Net, Place> = BTreeMap::new();
    for (node, (at, _)) in nodes.list.iter().zip(&nodes.wire) {
        let Some(uplink) = &node.uplink else { continue };
        let place = at.key("uplink").key("subnet").place();
        let subnet = uplink.subnet;
        let overlaps = |other: &Ipv4Net| other.contains(&subnet) || subnet.contains(other);
        let ours = cluster.networks().map(|network| ("the cluster network", network));
        let special = special_ranges().into_iter();
        for (what, network) in special.chain(ours).filter(|(_, network)| overlaps(network)) {
            context.push(
                Diagnostic::new(
                    Code::NetworksOverlap,
                    format!("the uplink's subnet {subnet} overlaps {what} {network}"),
                )
                .at(place)
                .help("write the network that the node's uplink is in"),
            );
        }
        // Every new subnet is compared with the different ones, which are few.
        let clash = seen.iter().find(|(other, _)| **other != subnet && overlaps(other));
        if let Some((other, first)) = clash {
            context.push(
                Diagnostic::new(
                    Code::NetworksOverlap,
                    format!("the uplink's subnet {subnet} overlaps {other} of another node"),
                )
                .at(place)
                .related(*first, "the other subnet")
                .help("write the same subnet for nodes of one network"),
            );
        }
        seen.entry(subnet).or_insert(place);
    }
}
