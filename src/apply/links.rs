//! Namespaces, veths, macvlans, addresses and routes: `ip -batch` lines for what differs.

use std::collections::{BTreeMap, BTreeSet};

use ipnet::Ipv4Net;

use super::change::{Action, Kind, Step};
use super::findings::Finding;
use super::gateway::Going;
use super::interface::{Interface, UNMARKED};
use super::marks::{self, ALIAS};
use super::owned::{Role, Wanted, mend};
use crate::artifact::host;
use crate::artifact::node::{Netns, Router, Veth, Via, Wiring};
use crate::diagnostic::{Code, Diagnostic};
use crate::system::guard::Guard;
use crate::system::netlink::{Link, Network};
use crate::system::{Command, System, Tool};
use crate::value::Datapath;
use crate::value::{InterfaceName, NetnsName, StringValue as _};

/// The least MTU of a link with IPv6 (RFC 8200, 5).
pub(super) const IPV6_MTU: u32 = 1280;

/// What is in named network namespaces, by their names.
pub(super) type Namespaces = BTreeMap<String, Network>;

/// The links of a node as they are.
#[derive(Clone, Debug)]
pub(super) struct Links {
    /// The node's own.
    pub(super) node: Network,
    /// Those of every named namespace.
    pub(super) netns: Namespaces,
    /// Names that lead to no namespace, and whether such a name is an empty file, as a kill of
    /// `ip netns add` leaves it.
    bare: BTreeMap<String, bool>,
    /// The namespaces that an interrupted run was about to make: a bare name of these is its own.
    half_made: BTreeSet<String>,
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
        let read: Vec<(String, Option<Network>)> =
            names.iter().map(ToString::to_string).zip(networks).collect();
        let mut bare = BTreeMap::new();
        if read.iter().any(|(_, network)| network.is_none()) {
            // Some may have gone since.
            let still = system.netns_names()?;
            let names = read.iter().filter(|(_, network)| network.is_none());
            let names = names.map(|(name, _)| name).filter(|name| still.contains(name));
            bare.extend(names.map(|name| (name.clone(), marks::is_bare_name(name, system))));
        }
        let read = read.into_iter().filter_map(|(name, network)| Some((name, network?)));
        let known = known
            .iter()
            .filter_map(|name| untouched.get(name.as_str()).map(|n| (name.to_string(), n.clone())));
        let netns = read.chain(known).collect();
        let half_made = half_made.iter().cloned().collect();
        let ipv6 = system.sysctl("net.ipv6.conf.all.disable_ipv6").is_some();
        Ok(Self { node, netns, bare, half_made, ipv6 })
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

    /// The namespaces of a plan that are not there.
    pub(super) fn to_make(&self, wiring: &Wiring) -> Vec<String> {
        let names = wiring.netns.iter().map(|netns| netns.name.to_string());
        names.filter(|name| !self.netns.contains_key(name)).collect()
    }

    /// The index of the kernel's datapath of Open vSwitch, if it has one.
    fn datapath(&self) -> Option<u32> {
        let mut links = self.node.links.values();
        let datapath = links.find(|link| link.kind.as_deref() == Some("openvswitch"));
        datapath.map(|link| link.index)
    }

    /// The node's end of a veth of ours whose other end is a link of a namespace.
    fn ours_behind(&self, inside: &Link) -> Option<&String> {
        let mut own = self.node.links.iter();
        let found = own.find(|(name, link)| is_ours(name, link) && Network::is_pair(link, inside));
        found.map(|(name, _)| name)
    }

    /// Whether an interface of ours has a route that nobody has marked.
    pub(super) fn have_unmarked_routes(&self) -> bool {
        let unmarked = |network: &Network, name: &str| {
            let link = network.links.get(name);
            link.is_some_and(|link| network.routes_by(link).any(|r| r.protocol == UNMARKED))
        };
        let names = [host::POD_INTERFACE, host::ROUTER_INTERFACE];
        let within = |network| names.iter().any(|name| unmarked(network, name));
        unmarked(&self.node, host::TUN) || self.netns.values().any(within)
    }

    /// Whether ringfence made this namespace.
    pub(super) fn is_ours(&self, name: &str) -> bool {
        self.netns.get(name).is_some_and(|found| marks::namespace_alias(name, found).is_some())
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
    /// The interfaces that lack the queue discipline by which Open vSwitch limits what goes out.
    pub(super) unlimited: BTreeSet<String>,
    /// The interfaces that pods bring themselves and that are not there, such as the tap of a
    /// virtual machine that is off.
    pub(super) absent: BTreeSet<String>,
    /// What of others stays where ringfence would have its own.
    pub(super) findings: Vec<Finding>,
}

/// What a comparison depends on besides the plan and the links.
#[derive(Clone, Copy, Debug)]
pub(super) struct Before<'a> {
    /// The networks to which earlier generations had unmarked routes.
    pub(super) former: &'a BTreeSet<Ipv4Net>,
    /// Whether the bridge gets another datapath.
    pub(super) other_datapath: bool,
    /// Whether egress IPs are taken over that somebody else has put on `lo`.
    pub(super) adopt: bool,
    /// The gateway bridges that go.
    pub(super) going: &'a Going,
}

pub(super) fn compare(
    wiring: &Wiring,
    links: &Links,
    &Before { former, other_datapath, adopt, going }: &Before<'_>,
) -> Result<LinkSteps, Diagnostic> {
    let mut steps = LinkSteps::default();
    let mut batches = Batches::default();
    for netns in &wiring.netns {
        attach(wiring, netns, links, former, &mut steps, &mut batches)?;
    }
    let mut gone = BTreeSet::new();
    for router in &wiring.routers {
        gone.extend(outside(wiring, router, links, former, &mut steps, &mut batches)?);
    }
    replace(wiring, links, &batches.old, &mut steps.make);
    gone.extend(batches.old.iter().cloned());
    let taken = taken_addresses(wiring, links);
    for netns in &taken {
        steps.astray.commands.extend(remove_inside(netns, host::ROUTER_INTERFACE, links));
    }
    batches.flush(links, &mut steps.make);
    let new = batches.new.iter().map(ToString::to_string);
    steps.unplugged = wiring
        .ports
        .iter()
        .map(|port| port.interface.to_string())
        .filter(|name| links.node.links.get(name).is_none_or(|link| !link.promiscuous))
        .chain(new)
        .collect();
    let limited = wiring.ports.iter().filter(|port| port.ingress.is_some());
    let limited = limited.filter_map(|port| {
        let name = port.interface.as_str();
        Some((name, links.node.links.get(name)?))
    });
    let unlimited = limited.filter(|(_, link)| !super::qos::is_in_kernel(link));
    steps.unlimited = unlimited.map(|(name, _)| name.to_owned()).collect();
    super::brought::check(wiring, &links.node, &steps.unplugged)?;
    let made: BTreeSet<&str> = wiring.veths().map(|veth| veth.host.as_str()).collect();
    let brought = wiring.ports.iter().map(|port| port.interface.as_str());
    let brought = brought.filter(|name| !made.contains(name));
    let absent = brought.filter(|name| !links.node.links.contains_key(*name));
    steps.absent = absent.map(str::to_owned).collect();
    checksums(wiring, links, &batches.new, other_datapath, &mut steps.make);
    up(wiring, links, &batches.new, &mut steps.up);
    tun(wiring, links, former, &mut steps.tun);
    egress_ips(wiring, links, (adopt, going), &mut steps.egress_ips);
    steps.remove = remove(Some(wiring), links, &gone);
    Ok(steps)
}

/// What is told of old veths that give way to new ones of others in the same namespaces.
fn replace(wiring: &Wiring, links: &Links, old: &BTreeSet<String>, step: &mut Step) {
    let planned: BTreeSet<&str> = wiring.veths().map(|veth| veth.host.as_str()).collect();
    for name in old.iter().filter(|name| !planned.contains(name.as_str())) {
        let link = links.node.links.get(name);
        let Some(owner) = link.and_then(|link| marks::veth_owner(name, link)) else { continue };
        let owner = owner.words();
        step.change(Action::Remove, Kind::Link, name, format!("of {owner}"));
        step.disturb(owner, "goes from this node: its connections break");
    }
}

/// The namespaces of egress routers that go from this node while another has the Ethernet address of
/// their outside interface from now on, as where a router is renamed: an uplink has only one macvlan
/// with it.
fn taken_addresses(wiring: &Wiring, links: &Links) -> Vec<NetnsName> {
    let planned: BTreeSet<&str> = wiring.netns.iter().map(|netns| netns.name.as_str()).collect();
    let going = links
        .netns
        .iter()
        .filter(|(name, _)| !planned.contains(name.as_str()) && links.is_ours(name));
    going
        .filter_map(|(name, network)| {
            let link = network.links.get(host::ROUTER_INTERFACE)?;
            let macvlans = wiring.routers.iter().map(|router| &router.outside);
            let mut macvlans = macvlans.filter(|one| matches!(one.via, Via::Macvlan { .. }));
            let taken = macvlans.any(|one| link.mac == one.mac.bytes());
            let macvlan = link.kind.as_deref() == Some("macvlan");
            NetnsName::parse(name).ok().filter(|_| macvlan && taken)
        })
        .collect()
}

/// `ip -batch` lines, those of the node before those of the namespaces.
#[derive(Debug, Default)]
struct Batches<'a> {
    /// Names of new namespaces that lead nowhere yet.
    bare: Vec<&'a NetnsName>,
    /// New namespaces.
    made: Vec<&'a NetnsName>,
    /// The node's ends of veths that go before any is made: the end of another may be where one
    /// of the new ones is to be.
    old: BTreeSet<String>,
    node: Vec<String>,
    /// What must be so for lines of the node.
    guards: Vec<(String, Guard)>,
    netns: Vec<Inside<'a>>,
    /// The node's ends of new veths.
    new: Vec<&'a InterfaceName>,
}

/// What to do in one namespace.
#[derive(Debug)]
struct Inside<'a> {
    netns: &'a NetnsName,
    /// First: what goes.
    removed: Vec<String>,
    lines: Vec<String>,
    /// What must be so for some of the lines.
    guards: Vec<(String, Guard)>,
}

impl Batches<'_> {
    fn flush(&mut self, links: &Links, step: &mut Step) {
        step.commands.extend(marks::remove_names(self.bare.iter().map(|name| name.as_str())));
        step.commands.extend(marks::make_namespaces(&self.made));
        let old = self.old.iter().filter_map(|name| {
            let link = links.node.links.get(name)?;
            Some((format!("link del {name}"), marks::same_link(name, link)))
        });
        step.commands.extend(guarded_removals(&old.collect::<Vec<_>>()));
        step.commands.extend(batch(None, &self.node).map(|command| guarded(command, &self.guards)));
        for Inside { netns, removed, lines, guards } in &self.netns {
            let commands = [removals(Some(netns), removed), batch(Some(netns), lines)];
            let commands = commands.into_iter().flatten().map(|command| guarded(command, guards));
            step.commands.extend(commands.map(|command| marks::within(command, netns, links)));
        }
    }
}

fn guarded(command: Command, guards: &[(String, Guard)]) -> Command {
    let lines = guards.iter().cloned();
    lines.fold(command, |command, (line, guard)| command.guard_line(line, guard))
}

/// A batch that removes what may be going by itself: each line is tried.
pub(super) fn removals(netns: Option<&NetnsName>, lines: &[String]) -> Option<Command> {
    let mut command = batch(netns, lines)?;
    command.arguments.insert(0, "-force".to_owned());
    command.removes = true;
    Some(command)
}

fn guarded_removals(lines: &[(String, Guard)]) -> Option<Command> {
    let texts: Vec<String> = lines.iter().map(|(line, _)| line.clone()).collect();
    Some(guarded(removals(None, &texts)?, lines))
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

pub(super) fn is_ours(name: &str, link: &Link) -> bool {
    marks::veth_owner(name, link).is_some()
}

/// One namespace with its veth.
fn attach<'a>(
    wiring: &Wiring,
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
        step.disturb(owner, "its interface is made anew: its connections break");
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
    if pair.is_some_and(|link| link.up) && details.iter().any(|d| d.ends_with("address")) {
        step.disturb(owner, "its addresses change: connections of those that go break");
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
fn wanted_of<'a>(wiring: &Wiring, role: Role, name: &'a str, mtu: u32) -> Wanted<'a> {
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
fn plug<'a, 'l>(
    veth: Veth<'a>,
    (wiring, mtu): (&Wiring, u32),
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
            Some(None) => steps.astray.commands.extend(remove_inside(netns, inside, links)),
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
    details.extend(mending.details);
    Ok(Some(pair))
}

/// Removes an interface from a namespace of ours.
fn remove_inside(netns: &NetnsName, interface: &str, links: &Links) -> Option<Command> {
    let command = batch(Some(netns), &[format!("link del {interface}")])?;
    let command = Command { removes: true, ..command };
    Some(marks::within(command, netns, links))
}

fn not_ours(link: &str, owner: &str) -> Diagnostic {
    let message = format!("the interface `{link}` of {owner} exists and is not ringfence's");
    Diagnostic::new(Code::NotOurs, message)
        .help(format!("remove it with `ip link del {link}`, if nothing else needs it"))
}

/// A userspace datapath takes frames as they are: their checksums must be complete. This can't be
/// seen cheaply, so it comes before an interface goes up, and again where one is still down. Where the
/// bridge gets another datapath, all veths follow it.
fn checksums(
    wiring: &Wiring,
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
fn up(wiring: &Wiring, links: &Links, new: &[&InterfaceName], step: &mut Step) {
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

fn tun(wiring: &Wiring, links: &Links, former: &BTreeSet<Ipv4Net>, step: &mut Step) {
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

/// The outside interface of an egress router. Returns the node's end of one that is a veth and gives
/// way to another.
fn outside<'a>(
    wiring: &'a Wiring,
    router: &'a Router,
    links: &Links,
    former: &BTreeSet<Ipv4Net>,
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
            let plug =
                |veth| plug(veth, (wiring, mtu), links, steps, batches, &mut lines, &mut details);
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
                if !links.is_ours(netns.as_str()) {
                    return Err(marks::foreign_inside(netns, interface, &router.owner()));
                }
                steps.astray.commands.extend(remove_inside(netns, interface, links));
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
            let wanted = Wanted {
                netns: Some(netns),
                forwards: true,
                ..wanted_of(wiring, Role::Macvlan, interface, live.mtu)
            };
            let mending = good.map(|link| mend(link, &wanted)).unwrap_or_default();
            lines.extend(mending.lines);
            details.extend(mending.details);
            steps.routers.commands.extend(mending.commands);
            (good, format!("macvlan on {parent}"))
        }
    };
    let step = &mut steps.routers;
    let directly = outside.segment.into_iter().chain(router.to_gateway());
    let inside = Interface {
        name: interface,
        netns: Some(netns),
        yields: links.netns.contains_key(netns.as_str()) && !links.is_ours(netns.as_str()),
        link: good,
        network,
        address: router.source(),
        routes: directly
            .map(|network| (network, None))
            .chain([(Ipv4Net::default(), Some(outside.gateway))])
            .collect(),
        former,
    };
    let mut removed = Vec::new();
    details.extend(inside.lines(&mut removed, &mut lines));
    let guards = inside.guards();
    let commands = [removals(Some(netns), &removed), batch(Some(netns), &lines)];
    let commands = commands.into_iter().flatten().map(|command| guarded(command, &guards));
    step.commands.extend(commands.map(|command| marks::within(command, netns, links)));
    steps.findings.extend(inside.findings(&router.owner()));
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
        step.commands.push(marks::within(command.within(Some(netns)), netns, links));
        if links.netns.contains_key(netns.as_str()) {
            let object = format!("net.ipv4.ip_forward of {}", router.owner());
            step.change(Action::Change, Kind::Sysctl, object, "0 to 1");
        }
    }
    if good.is_none() || details.iter().any(|detail| detail.ends_with("address")) {
        // Another node may have had the address: its neighbours still send there.
        let source = outside.source.to_string();
        let command = announce(interface, &source).within(Some(netns));
        step.commands.push(marks::within(command, netns, links));
    }
    Ok(gone)
}

/// The egress IPs of this node, and word to the segment of each that is new.
fn egress_ips(wiring: &Wiring, links: &Links, (adopt, going): (bool, &Going), step: &mut Step) {
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
pub(super) fn segment<'a>(
    wiring: &'a Wiring,
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
    let taken = wiring.map(|wiring| taken_addresses(wiring, links)).unwrap_or_default();
    let mut lines: Vec<(String, Guard)> = Vec::new();
    let mut addresses = Vec::new();
    let unwanted = |name: &String| !hosts.contains(name.as_str()) && !gone.contains(name);
    for (name, link) in links.node.links.iter().filter(|(name, _)| unwanted(name)) {
        let Some(owner) = marks::veth_owner(name, link) else { continue };
        let owner = owner.words();
        step.change(Action::Remove, Kind::Link, name, format!("of {owner}"));
        step.disturb(owner, "goes from this node: its connections break");
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
            step.disturb(owner, "goes from this node: connections from it break");
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
    let bare = links.bare.iter().filter(|(name, empty)| **empty && links.half_made.contains(*name));
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
