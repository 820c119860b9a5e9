//! Namespaces, veths, macvlans, addresses and routes: `ip -batch` lines for what differs.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

use ipnet::Ipv4Net;

use super::change::{Action, Kind, Step};
use super::inherited;
use crate::artifact::host;
use crate::artifact::node::{Netns, Router, Veth, Via, Wiring};
use crate::diagnostic::{Code, Diagnostic};
use crate::system::netlink::{Link, Network};
use crate::system::{Command, System, Tool};
use crate::value::Datapath;
use crate::value::{InterfaceName, NetnsName, StringValue as _};

/// Begins the aliases of links that are ringfence's.
pub(super) const ALIAS: &str = "ringfence ";
/// The least MTU of a link with IPv6 (RFC 8200, 5).
const IPV6_MTU: u32 = 1280;
/// The alias of `lo` in namespaces that ringfence made.
const NETNS_ALIAS: &str = "ringfence";

/// What is in named network namespaces, by their names.
pub(super) type Namespaces = BTreeMap<String, Network>;

/// The links of a node as they are.
#[derive(Clone, Debug)]
pub(super) struct Links {
    /// The node's own.
    pub(super) node: Network,
    /// Those of every named namespace.
    pub(super) netns: Namespaces,
    /// Namespaces that an interrupted run may have made without marking them.
    pub(super) half_made: BTreeSet<String>,
    /// Whether this kernel has IPv6.
    ipv6: bool,
}

impl Links {
    /// Reads the node and its named namespaces. `half_made` are those that an interrupted run was
    /// about to make; `untouched` are those that were read before and have seen no change since.
    pub(super) fn read(
        system: &dyn System,
        half_made: &[String],
        untouched: &Namespaces,
    ) -> Result<Self, Diagnostic> {
        let node = system.network()?;
        // Names that no plan can have are other people's.
        let names: Vec<NetnsName> =
            system.netns_names()?.iter().filter_map(|name| NetnsName::parse(name).ok()).collect();
        let (known, names): (Vec<&NetnsName>, Vec<&NetnsName>) =
            names.iter().partition(|name| untouched.contains_key(name.as_str()));
        let networks = system.networks(&names)?;
        let read = names
            .iter()
            .zip(networks)
            .filter_map(|(name, network)| Some((name.to_string(), network?)));
        let known = known
            .iter()
            .filter_map(|name| untouched.get(name.as_str()).map(|n| (name.to_string(), n.clone())));
        let netns = read.chain(known).collect();
        let half_made = half_made.iter().cloned().collect();
        let ipv6 = system.sysctl("net.ipv6.conf.all.disable_ipv6").is_some();
        Ok(Self { node, netns, half_made, ipv6 })
    }

    /// The namespaces of a plan that no command of `steps` is about, nor about the other end of
    /// their veth.
    pub(super) fn untouched(&self, wiring: &Wiring, steps: &[Step]) -> Namespaces {
        let mut words: BTreeSet<&str> = BTreeSet::new();
        for command in steps.iter().flat_map(|step| &step.commands) {
            words.extend(command.netns.iter().map(NetnsName::as_str));
            if command.tool == Tool::Ip {
                words.extend(command.arguments.iter().map(String::as_str));
                let lines = std::str::from_utf8(&command.stdin).unwrap_or_default();
                words.extend(lines.split_ascii_whitespace());
            }
        }
        let touched: BTreeSet<&NetnsName> = wiring
            .veths()
            .filter(|veth| {
                words.contains(veth.netns.as_str()) || words.contains(veth.host.as_str())
            })
            .map(|veth| veth.netns)
            .collect();
        wiring
            .netns
            .iter()
            .filter(|netns| !touched.contains(&netns.name))
            .filter_map(|netns| {
                let network = self.netns.get(netns.name.as_str())?;
                Some((netns.name.to_string(), network.clone()))
            })
            .collect()
    }

    /// The namespaces and links of a plan that are not there, or half made.
    pub(super) fn to_make(&self, wiring: &Wiring) -> Vec<String> {
        let names = wiring.netns.iter().map(|netns| netns.name.to_string());
        let names = names.filter(|n| !self.netns.contains_key(n) || self.half_made.contains(n));
        let hosts = wiring.veths().map(|veth| veth.host.to_string());
        let hosts =
            hosts.filter(|n| !self.node.links.contains_key(n) || self.half_made.contains(n));
        names.chain(hosts).collect()
    }

    /// Whether an interrupted run made this link and could not mark it any more.
    fn is_half_made(&self, name: &str, link: &Link) -> bool {
        link.alias.is_none() && self.half_made.contains(name)
    }

    /// Whether ringfence made this namespace.
    pub(super) fn is_ours(&self, name: &str) -> bool {
        let lo = self.netns.get(name).and_then(|network| network.links.get("lo"));
        lo.is_some_and(|lo| lo.alias.as_deref() == Some(NETNS_ALIAS))
    }
}

/// What to do about links.
#[derive(Debug, Default)]
pub(super) struct LinkSteps {
    /// First: namespaces and veths, with the node's side of new ones still down.
    pub(super) make: Step,
    /// After the bridge: the addresses and routes of `tun0`.
    pub(super) tun: Step,
    /// After the flows: the node's side of new veths comes up.
    pub(super) up: Step,
    /// Before all: interfaces in namespaces that are in the way of those that are to be there, such
    /// as an egress router's macvlan. The kernel has one go with a bridge, and no room for a bridge
    /// beside it.
    pub(super) astray: Step,
    /// Then: the second interfaces of egress routers.
    pub(super) routers: Step,
    /// Then: the egress IPs, which attract packets that all else must be ready for.
    pub(super) egress_ips: Step,
    /// At the end: what is no longer wanted.
    pub(super) remove: Step,
    /// The interfaces on the node's side that are no ports of a bridge yet: missing, new, or made
    /// anew by somebody since the bridge got them.
    pub(super) unplugged: BTreeSet<String>,
    /// The interfaces that pods bring themselves and that are not there, such as the tap of a
    /// virtual machine that is off.
    pub(super) absent: BTreeSet<String>,
}

pub(super) fn compare(wiring: &Wiring, links: &Links) -> Result<LinkSteps, Diagnostic> {
    let mut steps = LinkSteps::default();
    let mut batches = Batches::default();
    for netns in &wiring.netns {
        attach(wiring, netns, links, &mut steps, &mut batches)?;
    }
    let mut gone = BTreeSet::new();
    for router in &wiring.routers {
        gone.extend(outside(wiring, router, links, &mut steps, &mut batches)?);
    }
    steps.astray.commands.extend(inherited::give_up(wiring, links));
    batches.flush(&mut steps.make);
    let new = batches.new.iter().map(ToString::to_string);
    steps.unplugged = wiring
        .ports
        .iter()
        .map(|port| port.interface.to_string())
        .filter(|name| links.node.links.get(name).is_none_or(|link| !link.promiscuous))
        .chain(new)
        .collect();
    super::brought::check(wiring, &links.node, &steps.unplugged)?;
    let made: BTreeSet<&str> = wiring.veths().map(|veth| veth.host.as_str()).collect();
    let brought = wiring.ports.iter().map(|port| port.interface.as_str());
    let brought = brought.filter(|name| !made.contains(name));
    let absent = brought.filter(|name| !links.node.links.contains_key(*name));
    steps.absent = absent.map(str::to_owned).collect();
    checksums(wiring, links, &batches.new, &mut steps.make);
    up(wiring, links, &batches.new, &mut steps.up);
    tun(wiring, links, &mut steps.tun);
    egress_ips(wiring, links, &mut steps.egress_ips);
    steps.remove = remove(Some(wiring), links, &gone);
    Ok(steps)
}

/// `ip -batch` lines, those of the node before those of the namespaces.
#[derive(Debug, Default)]
struct Batches<'a> {
    node: Vec<String>,
    netns: Vec<(&'a NetnsName, Vec<String>)>,
    /// The node's ends of new veths.
    new: Vec<&'a InterfaceName>,
}

impl Batches<'_> {
    fn flush(&mut self, step: &mut Step) {
        step.commands.extend(batch(None, &self.node));
        for (netns, lines) in &self.netns {
            step.commands.extend(batch(Some(netns), lines));
        }
    }
}

pub(super) fn batch(netns: Option<&NetnsName>, lines: &[String]) -> Option<Command> {
    let mut text = lines.join("\n");
    text.push('\n');
    let mut arguments = Vec::new();
    if let Some(netns) = netns {
        arguments.extend(["-n".to_owned(), netns.to_string()]);
    }
    arguments.extend(["-batch".to_owned(), "-".to_owned()]);
    (!lines.is_empty()).then(|| Command::change(Tool::Ip, arguments).stdin(text))
}

pub(super) fn is_ours(link: &Link) -> bool {
    link.alias.as_deref().is_some_and(|alias| alias.starts_with(ALIAS))
}

/// One namespace with its veth.
fn attach<'a>(
    wiring: &Wiring,
    netns: &'a Netns,
    links: &Links,
    steps: &mut LinkSteps,
    batches: &mut Batches<'a>,
) -> Result<(), Diagnostic> {
    let Netns { name, host, mac: _, address, gateway, owner, cookie: _ } = netns;
    let inside = links.netns.get(name.as_str());
    let mut lines = Vec::new();
    if inside.is_none() {
        steps.make.change(Action::Add, Kind::Netns, name.as_str(), format!("of {owner}"));
        batches.node.push(format!("netns add {name}"));
    }
    let mut details: Vec<&str> = Vec::new();
    if !links.is_ours(name.as_str())
        && (inside.is_none() || links.half_made.contains(name.as_str()))
    {
        lines.push(format!("link set lo up alias {NETNS_ALIAS}"));
        details.push("mark");
    }
    let outside = links.node.links.get(host.as_str());
    let alien = inside.and_then(|inside| inside.links.get(host::POD_INTERFACE));
    if alien.is_some() && outside.is_none() {
        // It may be ours with its other end gone astray, which can't be seen from here.
        let message = format!(
            "the namespace `{name}` of {owner} has an interface `{}` of another origin",
            host::POD_INTERFACE
        );
        return Err(Diagnostic::new(Code::NotOurs, message)
            .help("remove it, or name another namespace for the pod"));
    }
    let empty = Network::default();
    let network = inside.unwrap_or(&empty);
    let pair = plug(netns.veth(), wiring.mtu, links, steps, batches, &mut lines, &mut details)?;
    let step = &mut steps.make;
    if pair.is_none() && outside.is_some() {
        step.disturb(owner, "its interface is made anew: its connections break");
    }
    let interface = Interface {
        name: host::POD_INTERFACE,
        link: pair,
        network,
        address: *address,
        routes: wiring
            .pod_networks
            .iter()
            .map(|network| (*network, None))
            .chain(gateway.map(|gateway| (Ipv4Net::default(), Some(gateway))))
            .collect(),
    };
    details.extend(interface.lines(&mut lines));
    if pair.is_some_and(|link| link.up) && details.iter().any(|d| d.ends_with("address")) {
        step.disturb(owner, "its addresses change: connections of those that go break");
    }
    if pair.is_none() {
        step.change(Action::Add, Kind::Link, host.as_str(), format!("of {owner}"));
    } else if !details.is_empty() {
        let detail = format!("{} of {owner}", details.join(", "));
        step.change(Action::Change, Kind::Link, host.as_str(), detail);
    }
    if !lines.is_empty() {
        batches.netns.push((name, lines));
    }
    Ok(())
}

/// One veth: made, or brought to what it is to be, with what that is about. Returns its end in the
/// namespace, unless it is made.
fn plug<'a, 'l>(
    veth: Veth<'a>,
    mtu: u32,
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
        && !is_ours(link)
        && !links.is_half_made(host.as_str(), link)
        && pair.is_none()
    {
        return Err(not_ours(host.as_str(), &owner));
    }
    if pair.is_none() {
        if there.is_some() {
            steps.astray.commands.extend(batch(Some(netns), &[format!("link del {inside}")]));
        }
        if outside.is_some() {
            batches.node.push(format!("link del {host}"));
        }
        batches.node.push(format!(
            "link add {host} mtu {mtu} type veth peer name {inside} address {mac} mtu {mtu} netns \
             {netns}"
        ));
        if links.ipv6 && mtu >= IPV6_MTU {
            // Nobody speaks to this end, and Open vSwitch would read two routes more for it, each
            // with all interfaces, whenever one comes or goes: a stall for 200 pods.
            batches.node.push(format!("link set dev {host} addrgenmode none"));
        }
        batches.new.push(host);
    }
    let wanted_alias = format!("{ALIAS}{owner}");
    let host_now = outside.filter(|_| pair.is_some());
    if host_now.is_none_or(|link| link.alias.as_ref() != Some(&wanted_alias)) {
        batches.node.push(format!("link set dev {host} alias \"{wanted_alias}\""));
        details.push("alias");
    }
    if pair.is_some_and(|link| link.mac != mac.bytes()) {
        lines.push(format!("link set dev {inside} address {mac}"));
        details.push("Ethernet address");
    }
    let other_mtu = |link: &Link| link.mtu != mtu;
    if host_now.is_some_and(other_mtu) {
        batches.node.push(format!("link set dev {host} mtu {mtu}"));
    }
    if pair.is_some_and(other_mtu) {
        lines.push(format!("link set dev {inside} mtu {mtu}"));
    }
    if host_now.is_some_and(other_mtu) || pair.is_some_and(other_mtu) {
        details.push("MTU");
    }
    Ok(pair)
}

fn not_ours(link: &str, owner: &str) -> Diagnostic {
    let message = format!("the interface `{link}` of {owner} exists and is not ringfence's");
    Diagnostic::new(Code::NotOurs, message)
        .help(format!("remove it with `ip link del {link}`, if nothing else needs it"))
}

/// An interface that has one address of ours, and routes.
struct Interface<'a> {
    name: &'static str,
    /// The interface as it is; `None` where it is only being made.
    link: Option<&'a Link>,
    network: &'a Network,
    address: Ipv4Net,
    routes: Vec<(Ipv4Net, Option<Ipv4Addr>)>,
}

impl Interface<'_> {
    /// The lines that are needed, and in which respects.
    fn lines(&self, lines: &mut Vec<String>) -> Vec<&'static str> {
        let Self { name, link, network, address, routes } = self;
        let mut details = Vec::new();
        let have = link.map_or(&[][..], |link| network.addresses(link));
        for other in have.iter().filter(|other| *other != address) {
            lines.push(format!("address del {other} dev {name}"));
            details.push("address");
        }
        if !have.contains(address) {
            lines.push(format!("address add {address} dev {name}"));
            details.push("address");
        }
        let down = link.is_none_or(|link| !link.up);
        if down {
            lines.push(format!("link set dev {name} up"));
            details.push("state");
        }
        // The kernel drops the routes of an interface that goes down or loses its address.
        let lost = down || !details.is_empty();
        // And it makes the one to an address's own network only once.
        let own = address.trunc();
        let listed = routes.iter().any(|(network, gateway)| gateway.is_none() && *network == own);
        let there = |link: &Link| network.has_route(own, None, link.index);
        if !lost && !listed && address.prefix_len() < 32 && !link.is_some_and(there) {
            let source = address.addr();
            lines.push(format!(
                "route replace {own} dev {name} proto kernel scope link src {source}"
            ));
            details.push("route");
        }
        for (destination, gateway) in routes {
            let index = link.map_or(0, |link| link.index);
            // The kernel makes the one to an address's own network with the address.
            let with_address = gateway.is_none() && *destination == address.trunc();
            let there = !lost && network.has_route(*destination, *gateway, index);
            if there || (lost && with_address) {
                continue;
            }
            let to = if destination.prefix_len() == 0 {
                "default".to_owned()
            } else {
                destination.to_string()
            };
            let via = gateway.map_or_else(String::new, |gateway| format!(" via {gateway}"));
            lines.push(format!("route replace {to}{via} dev {name}"));
            details.push("route");
        }
        details.dedup();
        details
    }
}

/// A userspace datapath takes frames as they are: their checksums must be complete. This can't be
/// seen cheaply, so it comes before an interface goes up, and again where one is still down.
fn checksums(wiring: &Wiring, links: &Links, new: &[&InterfaceName], step: &mut Step) {
    if wiring.bridge.datapath != Datapath::Netdev {
        return;
    }
    for veth in wiring.veths().filter(|veth| new.contains(&veth.host) || is_down(veth, links)) {
        for (namespace, interface) in [(None, veth.host.as_str()), (Some(veth.netns), veth.inside)]
        {
            let command = Command::change(Tool::Ethtool, ["-K", interface, "tx", "off"]);
            step.commands.push(command.within(namespace));
        }
    }
}

fn is_down(veth: &Veth<'_>, links: &Links) -> bool {
    links.node.links.get(veth.host.as_str()).is_some_and(|link| !link.up)
}

/// The node's side of veths, which stays down until the bridge is ready for them.
fn up(wiring: &Wiring, links: &Links, new: &[&InterfaceName], step: &mut Step) {
    let mut lines = Vec::new();
    for veth in wiring.veths() {
        let (is_new, down) = (new.contains(&veth.host), is_down(&veth, links));
        if is_new || down {
            lines.push(format!("link set dev {} up", veth.host));
        }
        if down && !is_new {
            let detail = format!("state of {}", veth.owner);
            step.change(Action::Change, Kind::Link, veth.host.as_str(), detail);
        }
    }
    step.commands.extend(batch(None, &lines));
}

fn tun(wiring: &Wiring, links: &Links, step: &mut Step) {
    let link = links.node.links.get(host::TUN);
    let mut lines = Vec::new();
    let interface = Interface {
        name: host::TUN,
        link,
        network: &links.node,
        address: wiring.tun.address,
        routes: wiring
            .pod_networks
            .iter()
            .chain(&wiring.tun.services)
            .map(|network| (*network, None))
            .collect(),
    };
    let details = interface.lines(&mut lines);
    if lines.is_empty() {
        return;
    }
    let action = if link.is_none() { Action::Add } else { Action::Change };
    step.change(action, Kind::Link, host::TUN, details.join(", "));
    if link.is_none_or(|link| !link.up) && wiring.bridge.datapath == Datapath::Netdev {
        step.commands.push(Command::change(Tool::Ethtool, ["-K", host::TUN, "tx", "off"]));
    }
    step.commands.extend(batch(None, &lines));
}

/// The outside interface of an egress router. Returns the node's end of one that is a veth and gives
/// way to another.
fn outside<'a>(
    wiring: &'a Wiring,
    router: &'a Router,
    links: &Links,
    steps: &mut LinkSteps,
    batches: &mut Batches<'a>,
) -> Result<Option<String>, Diagnostic> {
    let Router { name, netns, outside, proxy: _, cookie: _ } = router;
    let interface = host::ROUTER_INTERFACE;
    let empty = Network::default();
    let network = links.netns.get(netns.as_str()).unwrap_or(&empty);
    let link = network.links.get(interface);
    let mut lines = Vec::new();
    let mut details = Vec::new();
    let mut gone = None;
    let (good, how) = match &outside.via {
        Via::Veth { host, uplink } => {
            // As much as the segment takes, not as little as the tunnels leave.
            let uplink = links.node.links.get(uplink.as_str());
            let mtu = uplink.map_or(wiring.mtu, |uplink| uplink.mtu);
            let veth = router.outside_veth();
            let plug = |veth| plug(veth, mtu, links, steps, batches, &mut lines, &mut details);
            (veth.map(plug).transpose()?.flatten(), format!("{host} on the bridge"))
        }
        Via::Macvlan { parent } => {
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
                let line = format!("link del {interface}");
                steps.astray.commands.extend(batch(Some(netns), &[line]));
                let other = links.node.links.iter().find(|(_, other)| {
                    link.kind.as_deref() == Some("veth") && link.peer == Some(other.index)
                });
                gone = other.map(|(name, _)| name.clone());
            }
            if good.is_none() {
                let mac = outside.mac;
                let line = format!(
                    "link add link {parent} name {interface} address {mac} netns {netns} type \
                     macvlan mode private"
                );
                steps.routers.commands.extend(batch(None, &[line]));
            }
            (good, format!("macvlan on {parent}"))
        }
    };
    let step = &mut steps.routers;
    let directly = outside.segment.into_iter().chain(router.to_gateway());
    let inside = Interface {
        name: interface,
        link: good,
        network,
        address: router.source(),
        routes: directly
            .map(|network| (network, None))
            .chain([(Ipv4Net::default(), Some(outside.gateway))])
            .collect(),
    };
    details.extend(inside.lines(&mut lines));
    step.commands.extend(batch(Some(netns), &lines));
    if link.is_some() && (good.is_none() || details.contains(&"address")) {
        let effect = "its outside interface changes: its connections break";
        step.disturb(router.owner(), effect);
    }
    let object = format!("{interface} of {}", router.owner());
    if link.is_none() {
        step.change(Action::Add, Kind::Link, object, how);
    } else if good.is_none() {
        step.change(Action::Change, Kind::Link, object, "made anew");
    } else if !details.is_empty() {
        step.change(Action::Change, Kind::Link, object, details.join(", "));
    }
    if !network.forwards {
        let command = Command::change(Tool::Sysctl, ["-qw", "net.ipv4.ip_forward=1"]);
        step.commands.push(command.within(Some(netns)));
        if links.netns.contains_key(netns.as_str()) {
            let object = format!("net.ipv4.ip_forward of {}", router.owner());
            step.change(Action::Change, Kind::Sysctl, object, "0 to 1");
        }
    }
    if good.is_none() || details.iter().any(|detail| detail.ends_with("address")) {
        // Another node may have had the address: its neighbours still send there.
        let source = outside.source.to_string();
        step.commands.push(announce(interface, &source).within(Some(netns)));
    }
    Ok(gone)
}

/// The egress IPs of this node, and word to the segment of each that is new.
fn egress_ips(wiring: &Wiring, links: &Links, step: &mut Step) {
    let mut lines = Vec::new();
    let mut announcements = Vec::new();
    for ip in &wiring.egress_ips {
        let address = Ipv4Net::from(ip.address);
        if links.node.labels.contains(&(host::EGRESS_LABEL.to_owned(), address)) {
            continue;
        }
        let owner = format!("egress-ip {}", ip.address);
        step.change(Action::Add, Kind::Link, "lo", format!("address of {owner}"));
        let label = host::EGRESS_LABEL;
        lines.push(format!("address replace {address} dev lo label {label}"));
        // A gateway bridge has it by then, whoever has it now.
        let uplink = wiring.gateway().map(|(bridge, _)| bridge.as_str());
        if let Some(interface) = uplink.or_else(|| segment(wiring, links, ip.uplink)) {
            announcements.push(announce(interface, &ip.address.to_string()));
        }
    }
    step.commands.extend(batch(None, &lines));
    step.commands.extend(announcements);
}

/// The interface by which this node reaches the segment of a subnet as it is: a gateway bridge if
/// it is up, or where the node has its own address of the subnet.
pub(super) fn segment<'a>(
    wiring: &'a Wiring,
    links: &'a Links,
    subnet: Ipv4Net,
) -> Option<&'a str> {
    let has =
        |link: &Link| links.node.addresses(link).iter().any(|own| subnet.contains(&own.addr()));
    let mut others = links.node.links.iter().filter(|(name, _)| *name != "lo");
    let gateway = wiring.gateway().map(|(bridge, _)| bridge.as_str());
    let gateway = gateway.filter(|name| links.node.links.get(*name).is_some_and(|link| link.up));
    gateway.or_else(|| others.find(|(_, link)| has(link)).map(|(name, _)| name.as_str()))
}

/// Tells the segment where an address is now (RFC 5227, section 3).
fn announce(interface: &str, address: &str) -> Command {
    let words = ["-U", "-c", "2", "-I", interface, "-s", address, address];
    Command::change(Tool::Arping, words)
}

/// Removes links and namespaces of ours that no plan has: all of them without one. Those that are
/// gone by then are only passed over.
pub(super) fn remove(wiring: Option<&Wiring>, links: &Links, gone: &BTreeSet<String>) -> Step {
    let mut step = Step::default();
    let planned = || wiring.into_iter().flat_map(Wiring::veths);
    let hosts: BTreeSet<&str> = planned().map(|veth| veth.host.as_str()).collect();
    let names: BTreeSet<&str> = planned().map(|veth| veth.netns.as_str()).collect();
    let mut lines = Vec::new();
    let unwanted = |name: &String| !hosts.contains(name.as_str()) && !gone.contains(name);
    for (name, link) in links.node.links.iter().filter(|(name, _)| unwanted(name)) {
        let owner = match link.alias.as_deref().and_then(|alias| alias.strip_prefix(ALIAS)) {
            Some(owner) => owner,
            None if links.is_half_made(name, link) => "an interrupted run",
            None => continue,
        };
        step.change(Action::Remove, Kind::Link, name, format!("of {owner}"));
        step.disturb(owner, "goes from this node: its connections break");
        lines.push(format!("link del {name}"));
    }
    let held = |address: &Ipv4Net| {
        let mut wanted = wiring.into_iter().flat_map(|wiring| &wiring.egress_ips);
        wanted.any(|ip| Ipv4Net::from(ip.address) == *address)
    };
    for (label, address) in &links.node.labels {
        if label == host::EGRESS_LABEL && !held(address) {
            let owner = format!("egress-ip {}", address.addr());
            step.change(Action::Remove, Kind::Link, "lo", format!("address of {owner}"));
            step.disturb(owner, "goes from this node: connections from it break");
            lines.push(format!("address del {address} dev lo"));
        }
    }
    let given_up = wiring.map(|wiring| inherited::given_up(wiring, links)).unwrap_or_default();
    for (name, network) in &links.netns {
        let ours = links.is_ours(name) || links.half_made.contains(name);
        if !names.contains(name.as_str()) && ours {
            // Its end waits for its last process, and the outside address must not: another node may
            // have it by now.
            let outside = network.links.get(host::ROUTER_INTERFACE);
            let outside = outside.filter(|link| link.kind.as_deref() == Some("macvlan"));
            let outside = outside.filter(|_| !given_up.contains(name.as_str()));
            if let (Some(_), Ok(netns)) = (outside, NetnsName::parse(name)) {
                let line = format!("link del {}", host::ROUTER_INTERFACE);
                step.commands.extend(batch(Some(&netns), &[line]));
            }
            step.change(Action::Remove, Kind::Netns, name, "no longer wanted");
            lines.push(format!("netns del {name}"));
        }
    }
    step.commands.extend(batch(None, &lines));
    step
}
