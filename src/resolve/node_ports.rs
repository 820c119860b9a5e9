//! Node ports and load balancers: who may have which port of the nodes, and where it is blocked.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use super::nodes::reserved;
use super::{Context, Nodes, Projects, Wire};
use crate::diagnostic::{Code, Diagnostic, Place};
use crate::input::Cursor;
use crate::intent::{BlockAt, Cluster, Fixed, NodePortBlock, Service, ServiceAddress};
use crate::spec::{self, ServiceType};
use crate::value::{Datapath, Name, NodePort, Port, Protocol, ipv4};

/// RF132: only services that the outside reaches have node ports.
pub(super) fn of_type(
    service: &Name,
    kind: ServiceType,
    port: NodePort,
    place: Place,
    context: &mut Context,
) {
    if kind == ServiceType::ClusterIp {
        let message =
            format!("the service `{service}` of type ClusterIP can't have node port {port}");
        context.push(
            Diagnostic::new(Code::NodePortType, message)
                .at(place)
                .help("add `type: NodePort` to the service, or remove `nodePort`"),
        );
    }
}

/// RF133: what has no address can't be balanced.
pub(super) fn headless(service: &Name, kind: ServiceType, at: Cursor<'_>, context: &mut Context) {
    let message = format!("the service `{service}` of type {} can't be headless", kind.as_str());
    context.push(
        Diagnostic::new(Code::NodePortHeadless, message)
            .at(at.key("clusterIP").place())
            .related(at.key("type").place(), "the type")
            .help("remove `clusterIP: None`, or the type"),
    );
}

/// RF138: the pods see the node in place of the outside's clients.
pub(super) fn affinity(service: &Name, place: Place, context: &mut Context) {
    let message = format!(
        "all clients of the service `{service}` outside that come by one node get the same pod"
    );
    context.push(
        Diagnostic::new(Code::NodePortAffinity, message)
            .at(place)
            .help("remove `sessionAffinity`, or spread the clients over the nodes"),
    );
}

/// A port of all nodes that a service has.
struct Claim<'a> {
    service: &'a Service,
    port: Port,
    /// Whether it is that of a load balancer.
    balancer: bool,
    place: Place,
}

/// RF131, RF134, RF135 and RF136: every port of the nodes is one service's, and not the nodes' own.
pub(super) fn clashes(
    services: &[Service],
    nodes: &Nodes<'_>,
    projects: &Projects<'_>,
    cluster: &Cluster,
    context: &mut Context,
) {
    // Where nodes serve at addresses made for it alone, their own processes are asked at another.
    let at_own = nodes.list.iter().any(|node| node.node_port_addresses.contains(&node.address));
    let mut taken: BTreeMap<(Protocol, Port), Claim<'_>> = BTreeMap::new();
    let name = |service: &Service| {
        format!("`{}/{}`", projects.list[service.project.index()].name, service.name)
    };
    for service in services {
        if service.kind == ServiceType::ClusterIp || service.address == ServiceAddress::Headless {
            continue;
        }
        for port in &service.ports {
            let balanced = (service.kind == ServiceType::LoadBalancer).then_some(Claim {
                service,
                port: port.port,
                balancer: true,
                place: port.place,
            });
            let fixed = port.fixed_node_port.map(|Fixed { value, place }| Claim {
                service,
                port: value.into(),
                balancer: false,
                place,
            });
            for claim in balanced.into_iter().chain(fixed) {
                let key = (port.protocol, claim.port);
                own_port(key, &claim, &name(service), at_own, cluster, context);
                if let Some(first) = taken.get(&key) {
                    // The same way to the same place is no clash.
                    let same = std::ptr::eq(first.service, service) && first.port == port.port;
                    if !same {
                        clash(
                            key,
                            (&claim, &name(service)),
                            (first, &name(first.service)),
                            context,
                        );
                    }
                } else {
                    taken.insert(key, claim);
                }
            }
        }
    }
}

fn clash(
    (protocol, port): (Protocol, Port),
    (claim, name): (&Claim<'_>, &str),
    (first, other): (&Claim<'_>, &str),
    context: &mut Context,
) {
    let diagnostic = if claim.balancer && first.balancer {
        let message =
            format!("the load balancers {other} and {name} have the port {port}/{protocol}");
        Diagnostic::new(Code::BalancerPortTwice, message)
            .help("every node has one address for all: give one of the two another `port`")
    } else {
        let message =
            format!("the services {other} and {name} have the node port {port}/{protocol}");
        Diagnostic::new(Code::NodePortTwice, message)
            .help("give each its own, or leave one out to be allocated")
    };
    context.push(diagnostic.at(claim.place).related(first.place, "the other"));
}

const TCP: &[Protocol] = &[Protocol::Tcp];
const UDP: &[Protocol] = &[Protocol::Udp];
const BOTH: &[Protocol] = &[Protocol::Tcp, Protocol::Udp];

/// Ports at which processes of nodes themselves often are asked, and how.
const OWN_PORTS: &[(&[Protocol], u16, &str)] = &[
    (TCP, 22, "by SSH"),
    (BOTH, 53, "for DNS"),
    (UDP, 68, "by DHCP servers"),
    (BOTH, 111, "for RPC services"),
    (UDP, 123, "for the time"),
    (UDP, 161, "by SNMP"),
    (TCP, 179, "by BGP"),
    (UDP, 500, "by IPsec"),
    (TCP, 2379, "by clients of etcd"),
    (TCP, 2380, "by peers of etcd"),
    (UDP, 4500, "by IPsec"),
    (UDP, 4789, "by VXLAN tunnels"),
    (UDP, 5353, "by multicast DNS"),
    (UDP, 6081, "by Geneve tunnels"),
    (TCP, 6443, "for the Kubernetes API"),
    (TCP, 6633, "by OpenFlow"),
    (TCP, 6640, "by OVSDB"),
    (TCP, 6641, "by OVN"),
    (TCP, 6642, "by OVN"),
    (TCP, 6653, "by OpenFlow"),
    (UDP, 8472, "by VXLAN tunnels"),
    (TCP, 9100, "for metrics"),
    (TCP, 10249, "for metrics of kube-proxy"),
    (TCP, 10250, "for the kubelet"),
    (TCP, 10255, "for the kubelet"),
    (TCP, 10256, "for the health of kube-proxy"),
    (TCP, 10257, "for kube-controller-manager"),
    (TCP, 10259, "for kube-scheduler"),
    (TCP, 22623, "for machine configurations"),
    (TCP, 22624, "for machine configurations"),
    (UDP, 51820, "by WireGuard"),
];

/// RF135 and RF136: ports at which a node itself is spoken to.
fn own_port(
    (protocol, port): (Protocol, Port),
    claim: &Claim<'_>,
    name: &str,
    at_own: bool,
    cluster: &Cluster,
    context: &mut Context,
) {
    if protocol == Protocol::Udp && port == cluster.vxlan_port {
        let message = format!("the service {name} takes the port {port}/udp of the nodes' tunnels");
        context.push(
            Diagnostic::new(Code::BalancerPortTaken, message)
                .at(claim.place)
                .help("choose another port, or another `cluster.vxlanPort`"),
        );
        return;
    }
    let known = OWN_PORTS
        .iter()
        .find(|(protocols, number, _)| *number == port.get() && protocols.contains(&protocol));
    let Some((_, _, what)) = known.filter(|_| at_own && claim.balancer) else { return };
    let message = format!(
        "the load balancer {name} takes the port {port}/{protocol}, at which nodes are asked {what}"
    );
    context.push(
        Diagnostic::new(Code::BalancerPortShadows, message)
            .at(claim.place)
            .help("choose another port if anything on the nodes listens there"),
    );
}

/// Gives every node what it doesn't serve, from its own list and from the cluster's.
pub(super) fn blocks(wire: &Wire<'_>, nodes: &mut Nodes<'_>, context: &mut Context) {
    let all: Vec<Vec<Ipv4Addr>> =
        nodes.list.iter().map(|node| node.node_port_addresses.clone()).collect();
    for (at, cluster) in wire.values("cluster", |state| state.cluster.as_ref()) {
        let items = at.find("blockNodePorts").into_iter().flat_map(Cursor::children);
        for (at, block) in items.zip(&cluster.block_node_ports) {
            let Some(block) = block_of(block, at, context) else { continue };
            if let BlockAt::Address(address) = block.at
                && !all.iter().flatten().any(|known| *known == address)
            {
                unknown(address, "no node", at, all.iter().flatten(), context);
            }
            for (index, node) in nodes.list.iter_mut().enumerate() {
                let concerns = match &block.at {
                    BlockAt::Interface(_) => true,
                    BlockAt::Address(address) => all[index].contains(address),
                };
                if concerns {
                    node.blocks.push(block.clone());
                }
            }
        }
    }
    for (index, (at, wire)) in nodes.wire.iter().enumerate() {
        let items = at.find("blockNodePorts").into_iter().flat_map(Cursor::children);
        for (at, block) in items.zip(&wire.block_node_ports) {
            let Some(block) = block_of(block, at, context) else { continue };
            let own = &all[index];
            if let BlockAt::Address(address) = block.at
                && !own.contains(&address)
            {
                let who = format!("node `{}` does not", wire.name);
                unknown(address, &who, at, own.iter(), context);
            }
            nodes.list[index].blocks.push(block);
        }
    }
    uplinks(nodes, context);
}

/// RF139: a block says where.
fn block_of(
    wire: &spec::NodePortBlock,
    at: Cursor<'_>,
    context: &mut Context,
) -> Option<NodePortBlock> {
    let spec::NodePortBlock { port, protocol, interface, address } = wire;
    let place = at.place();
    let block_at = match (interface, address) {
        (Some(interface), None) => {
            let help = "name an interface by which the outside comes in";
            reserved(interface, at.key("interface").place(), help, context);
            BlockAt::Interface(interface.clone())
        }
        (None, Some(address)) => {
            BlockAt::Address(context.take(ipv4(address), at.key("address").place())?)
        }
        _ => {
            let message = "a block of node ports has either `interface` or `address`";
            context.push(
                Diagnostic::new(Code::BlockWhere, message)
                    .at(place)
                    .help("for both, write two; to serve nowhere, make the service a ClusterIP"),
            );
            return None;
        }
    };
    let protocol = protocol.map(Protocol::from);
    Some(NodePortBlock { port: *port, protocol, at: block_at, place })
}

/// RF140: a blocked address is one at which node ports are served.
fn unknown<'a>(
    address: Ipv4Addr,
    who: &str,
    at: Cursor<'_>,
    known: impl Iterator<Item = &'a Ipv4Addr>,
    context: &mut Context,
) {
    let known: Vec<String> = known.take(4).map(ToString::to_string).collect();
    let verb = if who == "no node" { "serves" } else { "serve" };
    let message = format!("{who} {verb} node ports at {address}");
    context.push(
        Diagnostic::new(Code::BlockAddress, message)
            .at(at.key("address").place())
            .help(format!("they are served at {}", known.join(", "))),
    );
}

/// RF142: the kernel of a userspace datapath gets nothing by the uplink itself.
fn uplinks(nodes: &Nodes<'_>, context: &mut Context) {
    for node in nodes.list.iter().filter(|node| node.datapath == Datapath::Netdev) {
        let Some(uplink) = &node.uplink else { continue };
        for block in &node.blocks {
            if block.at != BlockAt::Interface(uplink.interface.clone()) {
                continue;
            }
            let message = format!(
                "`{}` of node `{}` belongs to a userspace datapath: nothing comes in by it",
                uplink.interface, node.name
            );
            context.push(
                Diagnostic::new(Code::BlockUplink, message)
                    .at(block.place)
                    .help("name the bridge that holds the node's address, or block the address"),
            );
        }
    }
}
