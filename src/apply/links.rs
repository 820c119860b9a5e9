//! Namespaces, veths, macvlans, addresses and routes: `ip -batch` lines for what differs.

mod egress_ips;
mod pods;
mod remove;
mod routers;
mod tun;

use std::collections::{BTreeMap, BTreeSet};

use ipnet::Ipv4Net;

use super::change::Step;
use super::findings::Finding;
use super::gateway::Going;
use super::interface::UNMARKED;
use super::marks;
use crate::artifact::host;
use crate::artifact::node::NodeConfig;
use crate::diagnostic::Diagnostic;
use crate::system::guard::Guard;
use crate::system::netlink::{Link, Network};
use crate::system::{Command, System, Tool};
use crate::value::{InterfaceName, NetnsName, StringValue as _};

pub(super) use egress_ips::segment;
pub(super) use remove::remove;

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
    in_progress: BTreeSet<String>,
    /// Whether this kernel has IPv6.
    ipv6: bool,
}

impl Links {
    /// Reads the node and its named namespaces. `half_made` are those that an interrupted run was
    /// about to make; `untouched` are those that were read before and have seen no change since.
    pub(super) fn read(
        system: &dyn System,
        in_progress: &[String],
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
        let in_progress = in_progress.iter().cloned().collect();
        let ipv6 = system.sysctl("net.ipv6.conf.all.disable_ipv6").is_some();
        Ok(Self { node, netns, bare, in_progress, ipv6 })
    }

    /// The namespaces of a plan that no command of `steps` is about, nor about the other end of
    /// their veth.
    pub(super) fn untouched(&self, wiring: &NodeConfig, steps: &[Step]) -> Namespaces {
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
    pub(super) fn to_make(&self, wiring: &NodeConfig) -> Vec<String> {
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
    pub(super) conflicts: Step,
    /// Then: the second interfaces of egress routers.
    pub(super) routers: Step,
    /// Then: the egress IPs, which attract packets that all else must be ready for.
    pub(super) egress_ips: Step,
    /// At the end: what is no longer wanted.
    pub(super) remove: Step,
    /// The interfaces on the node's side that are no ports of a bridge yet: missing, new, or made
    /// anew by somebody since the bridge got them.
    pub(super) needs_port: BTreeSet<String>,
    /// The interfaces that lack the queue discipline by which Open vSwitch limits what goes out.
    pub(super) unlimited: BTreeSet<String>,
    /// The interfaces that pods bring themselves and that are not there, such as the tap of a
    /// virtual machine that is off.
    pub(super) missing: BTreeSet<String>,
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
    wiring: &NodeConfig,
    links: &Links,
    &Before { former, other_datapath, adopt, going }: &Before<'_>,
) -> Result<LinkSteps, Diagnostic> {
    let mut steps = LinkSteps::default();
    let mut batches = Batches::default();
    for netns in &wiring.netns {
        pods::attach(wiring, netns, links, former, &mut steps, &mut batches)?;
    }
    let mut gone = BTreeSet::new();
    for router in &wiring.routers {
        gone.extend(routers::outside(wiring, router, links, former, &mut steps, &mut batches)?);
    }
    pods::replace(wiring, links, &batches.old, &mut steps.make);
    gone.extend(batches.old.iter().cloned());
    let taken = routers::taken_addresses(wiring, links);
    for netns in &taken {
        steps.conflicts.commands.extend(remove_inside(netns, host::ROUTER_INTERFACE, links));
    }
    batches.flush(links, &mut steps.make);
    let new = batches.new.iter().map(ToString::to_string);
    steps.needs_port = wiring
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
    super::brought::check(wiring, &links.node, &steps.needs_port)?;
    let made: BTreeSet<&str> = wiring.veths().map(|veth| veth.host.as_str()).collect();
    let brought = wiring.ports.iter().map(|port| port.interface.as_str());
    let brought = brought.filter(|name| !made.contains(name));
    let missing = brought.filter(|name| !links.node.links.contains_key(*name));
    steps.missing = missing.map(str::to_owned).collect();
    pods::checksums(wiring, links, &batches.new, other_datapath, &mut steps.make);
    pods::up(wiring, links, &batches.new, &mut steps.up);
    tun::tun(wiring, links, former, &mut steps.tun);
    egress_ips::egress_ips(wiring, links, (adopt, going), &mut steps.egress_ips);
    steps.remove = remove(Some(wiring), links, &gone);
    Ok(steps)
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

/// Removes an interface from a namespace of ours.
fn remove_inside(netns: &NetnsName, interface: &str, links: &Links) -> Option<Command> {
    let command = batch(Some(netns), &[format!("link del {interface}")])?;
    let command = Command { removes: true, ..command };
    Some(marks::within(command, netns, links))
}
