//! Probes: what the intent says about a packet, and what a real packet does.

mod routers;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::{Duration, Instant};

use ipnet::Ipv4Net;

use super::agent::{Agent, Reply, Request, Transport};
use super::network::{comes_by, stand_in};
use super::{Lab, failed, names, node_access};
use crate::artifact::host::ROUTER_NETNS_PREFIX;
use crate::diagnostic::Diagnostic;
use crate::intent::{
    Attachment, BlockAt, EgressRouter, EgressRule, NodeId, PodId, RouterId, RouterMode, ServiceId,
    Site, Upstream, Verdict,
};
use crate::lower::proxy;
use crate::model::{Model, NodePort, Tenant, rule_name};
use crate::value::Protocol;
use crate::value::{Bandwidth, HostName, Port, StringValue as _};
use crate::verify::reach::{From, Packet, To, reach};

/// The port that pods and nodes answer at.
pub(super) const POD_PORT: u64 = 8080;
/// The port that the outside answers at where a rule is about none.
const OUTSIDE_PORT: u64 = 80;
/// The port of multicast groups.
const GROUP_PORT: u64 = 5000;
/// A port that no test configuration lists.
const ODD_PORT: u64 = 40_007;
/// How many addresses of a name are tried.
const ADDRESSES_SHOWN: usize = 4;
/// How long a probe waits: a lost SYN is sent again after one second.
const PATIENCE: Duration = Duration::from_millis(2500);
/// How many probes are sent again at once, how often at most, and how long each of these times waits
/// in relation to the one before. Only what should be answered and isn't is sent again, so that a
/// machine that is busy takes longer and comes to the same.
const AGAIN: usize = 10;
const ATTEMPTS: u32 = 3;
const LONGER: u32 = 2;
/// How often datagrams to a group are sent at most, where somebody misses them.
const CAST_ATTEMPTS: u32 = 4;
/// How long a flood lasts, how many a run has, and the ports that they go to.
const FLOOD: Duration = Duration::from_secs(3);
const MOST_FLOODS: usize = 8;
const FIRST_FLOOD: u16 = 41_000;
/// The most bits a second that the lab shows, and what it sends where there is no limit.
const MOST_BITS: u64 = 20_000_000;
const UNLIMITED_BITS: u64 = 12_000_000;
/// How often a flood is sent at most: a machine that is busy loses some of one.
const FLOOD_ATTEMPTS: usize = 8;
/// How long the tunnels have to come up.
const WARM_UP: Duration = Duration::from_mins(2);

/// One probe with what is expected of it.
#[derive(Clone, Debug)]
pub struct Probe {
    /// What it shows, for the table.
    pub title: String,
    /// The sender.
    pub from: Place,
    /// The address it is sent to.
    pub to: SocketAddrV4,
    /// Its protocol.
    pub protocol: Protocol,
    /// The host that is asked for, where `to` is an HTTP proxy.
    pub fetch: Option<String>,
    /// What should happen.
    pub want: Want,
    /// Why.
    pub because: String,
}

/// Somewhere in the lab.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Place {
    /// A pod or egress router.
    Tenant(Tenant),
    /// A node.
    Node(NodeId),
    /// The outside network.
    Outside,
}

/// What should happen to a probe.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Want {
    /// It is answered.
    Answer {
        /// The source address that the receiver sees.
        seen_as: Option<Ipv4Addr>,
        /// The address that it arrives at.
        at: Option<SocketAddrV4>,
    },
    /// Whoever gets it refuses it.
    Refusal,
    /// It vanishes.
    Silence,
    /// These get a copy, and nobody else. Such a probe is sent to a group.
    Copies(BTreeSet<String>),
    /// About so many bits a second arrive of the many that are sent.
    Rate {
        /// What should arrive.
        bits: u64,
        /// What is sent.
        sent: u64,
    },
}

/// What happened to a probe.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Seen {
    /// It was answered.
    Answer {
        /// The source address that the receiver saw.
        seen_as: String,
        /// The address that it arrived at.
        at: String,
    },
    /// Whoever got it refused it.
    Refusal,
    /// It vanished.
    Silence,
    /// These got a copy.
    Copies(BTreeSet<String>),
    /// So many bits a second arrived.
    Rate(u64),
}

impl Seen {
    /// Whether it is what was wanted.
    #[must_use]
    pub fn is(&self, want: &Want) -> bool {
        match (self, want) {
            (Self::Refusal, Want::Refusal) | (Self::Silence, Want::Silence) => true,
            (Self::Copies(got), Want::Copies(want)) => got == want,
            // A machine with other things to do is no exact clock.
            (Self::Rate(got), Want::Rate { bits, .. }) => {
                (bits * 70 / 100..=bits * 125 / 100).contains(got)
            }
            (Self::Answer { seen_as, at }, Want::Answer { seen_as: want_seen, at: want_at }) => {
                want_seen.is_none_or(|want| want.to_string() == *seen_as)
                    && want_at.is_none_or(|want| want.to_string() == *at)
            }
            _ => false,
        }
    }
}

/// What happens to a packet to `to`, in words: who answers only where that is somebody else.
fn answered(seen_as: &str, at: &str, to: SocketAddrV4) -> String {
    if at == to.to_string() {
        format!("answered to {seen_as}")
    } else {
        format!("answered to {seen_as} by {at}")
    }
}

impl Want {
    fn words(&self, to: SocketAddrV4) -> String {
        match self {
            Self::Answer { seen_as, at } => answered(
                &seen_as.map_or_else(|| "anybody".to_owned(), |seen_as| seen_as.to_string()),
                &at.unwrap_or(to).to_string(),
                to,
            ),
            Self::Refusal => "refused".to_owned(),
            Self::Silence => "dropped".to_owned(),
            Self::Copies(names) => copies(names),
            Self::Rate { bits, sent } => format!("{} of {}", megabits(*bits), megabits(*sent)),
        }
    }
}

fn megabits(bits: u64) -> String {
    format!("{}.{} Mbit/s", bits / 1_000_000, bits % 1_000_000 / 100_000)
}

/// Who got a datagram to a group, in words.
fn copies(names: &BTreeSet<String>) -> String {
    let listed: Vec<&str> = names.iter().map(String::as_str).collect();
    match names.len() {
        0 => "copied to nobody".to_owned(),
        1..=4 => format!("copied to {}", listed.join(", ")),
        more => format!("copied to {more} pods"),
    }
}

impl Seen {
    fn words(&self, to: SocketAddrV4) -> String {
        match self {
            Self::Answer { seen_as, at } => answered(seen_as, at, to),
            Self::Refusal => "refused".to_owned(),
            Self::Silence => "dropped".to_owned(),
            Self::Copies(names) => copies(names),
            Self::Rate(bits) => megabits(*bits),
        }
    }
}

/// All probes of a run with what happened.
#[derive(Clone, Debug, Default)]
pub struct Summary {
    /// Each probe, in the order of the table.
    pub results: Vec<(Probe, Seen)>,
}

impl Summary {
    /// How many did what was expected, and how many didn't.
    #[must_use]
    pub fn counts(&self) -> (usize, usize) {
        let good = self.results.iter().filter(|(probe, seen)| seen.is(&probe.want)).count();
        (good, self.results.len() - good)
    }

    /// The table of what was expected and what happened.
    #[must_use]
    pub fn table(&self) -> String {
        let mut rows = vec![["probe", "expected", "happened", ""].map(str::to_owned)];
        for (probe, seen) in &self.results {
            let good = seen.is(&probe.want);
            let mark = if good { "ok".to_owned() } else { format!("WRONG: {}", probe.because) };
            let (wanted, happened) = (probe.want.words(probe.to), seen.words(probe.to));
            rows.push([probe.title.clone(), wanted, happened, mark]);
        }
        let width = |column: usize| {
            rows.iter().map(|row| row[column].chars().count()).max().unwrap_or_default()
        };
        let widths = [width(0), width(1), width(2)];
        let line = |row: &[String; 4]| {
            let [probe, expected, happened, mark] = row;
            let [a, b, c] = widths;
            format!("{probe:a$}  {expected:b$}  {happened:c$}  {mark}").trim_end().to_owned()
        };
        rows.iter().map(|row| line(row) + "\n").collect()
    }
}

/// The probes that show the desired state: every pair of projects on one node and across nodes,
/// every egress rule, every egress router, multicast from every project with it and one without,
/// every service, every node port, every limit of what pods send and receive.
#[must_use]
pub fn plan(model: &Model) -> Vec<Probe> {
    let mut planner = Planner { model, probes: Vec::new(), associations: BTreeMap::new() };
    planner.projects();
    planner.egress();
    for (id, _) in model.intent().routers() {
        planner.router(id);
    }
    planner.multicast();
    for (id, address) in model.services() {
        planner.service(id, address);
    }
    planner.node_ports();
    planner.node_access();
    planner.bandwidths();
    planner.probes
}

pub(super) struct Planner<'m> {
    pub(super) model: &'m Model,
    pub(super) probes: Vec<Probe>,
    /// Of each client as the bridge knows it: the addresses that it opens SCTP associations to, and
    /// who is behind them.
    associations: BTreeMap<Ipv4Addr, Vec<(SocketAddrV4, BTreeSet<Tenant>)>>,
}

impl Planner<'_> {
    pub(super) fn name(&self, tenant: Tenant) -> String {
        match tenant {
            Tenant::Pod(id) => self.model.intent().pod_name(id),
            Tenant::Router(id) => self.model.intent()[id].name.to_string(),
        }
    }

    pub(super) fn push(
        &mut self,
        from: Tenant,
        to: To,
        address: SocketAddrV4,
        protocol: Protocol,
        title: String,
    ) {
        let Ok(port) = Port::new(address.port().into()) else { return };
        let packet = Packet { from: From::Tenant(from), to, protocol, port };
        let reach = reach(self.model, &packet);
        let seen_as = match to {
            // Its own node sees the pod itself.
            To::Outside(to) if to == self.model.intent()[self.model.node(from)].address => {
                self.model.endpoint(from).address
            }
            // An egress IP or the node's own address stands for the pod's.
            To::Outside(_) => self.model.seen_outside_as(from),
            _ => self.model.endpoint(from).address,
        };
        let want = if reach.allowed() {
            Want::Answer { seen_as: Some(seen_as), at: Some(address) }
        } else {
            Want::Silence
        };
        let from = Place::Tenant(from);
        self.probes.push(Probe {
            title,
            from,
            to: address,
            protocol,
            fetch: None,
            want,
            because: reach.because,
        });
    }

    /// One pair of pods of every two projects on one node, and one across nodes.
    fn projects(&mut self) {
        let intent = self.model.intent();
        let mut pods: Vec<Vec<Tenant>> = vec![Vec::new(); intent.projects().len()];
        for (id, pod) in intent.pods() {
            pods[pod.project.index()].push(Tenant::Pod(id));
        }
        for sources in &pods {
            for destinations in &pods {
                let pairs = || {
                    let pairs =
                        sources.iter().flat_map(|a| destinations.iter().map(move |b| (*a, *b)));
                    pairs.filter(|(a, b)| a != b)
                };
                let same = |(a, b): &(Tenant, Tenant)| self.model.node(*a) == self.model.node(*b);
                let local = pairs().find(same);
                let remote = pairs().find(|pair| !same(pair));
                for (source, destination) in local.into_iter().chain(remote) {
                    let address = self.model.endpoint(destination).address;
                    let to = SocketAddrV4::new(address, port(POD_PORT));
                    let where_ = if same(&(source, destination)) { "same node" } else { "across" };
                    let (a, b) = (self.name(source), self.name(destination));
                    let title = format!("{a} to {b}, {where_}");
                    self.push(source, To::Tenant(destination), to, Protocol::Tcp, title);
                }
            }
        }
    }

    /// Where anybody asked for multicast: a sender of every project on every node that has it, and
    /// one of every other project.
    fn multicast(&mut self) {
        let intent = self.model.intent();
        if !intent.projects().any(|(_, project)| project.multicast) {
            return;
        }
        let mut first: BTreeMap<(usize, Option<NodeId>), Tenant> = BTreeMap::new();
        for (id, pod) in intent.pods() {
            let off = self.model.without_multicast(pod.project).is_some();
            let node = (!off).then_some(pod.node);
            first.entry((pod.project.index(), node)).or_insert(Tenant::Pod(id));
        }
        let protocol = Protocol::Udp;
        let Ok(port) = Port::new(GROUP_PORT) else { return };
        for (number, tenant) in first.into_values().enumerate() {
            let mut because = None;
            let mut names = BTreeSet::new();
            for (place, (name, _)) in listeners(self.model) {
                let Place::Tenant(to) = place else { continue };
                let from = From::Tenant(tenant);
                let packet = Packet { from, to: To::Member(to), protocol, port };
                let reach = reach(self.model, &packet);
                if reach.allowed() {
                    names.insert(name);
                    because = Some(reach.because);
                } else if to != tenant {
                    because.get_or_insert(reach.because);
                }
            }
            let to = group(number);
            self.probes.push(Probe {
                title: format!("{} to group {}", self.name(tenant), to.ip()),
                from: Place::Tenant(tenant),
                to,
                protocol,
                fetch: None,
                want: Want::Copies(names),
                because: because.unwrap_or_default(),
            });
        }
    }

    /// Every rule of every policy, from every node that has pods of the project, by every egress
    /// IP; what no rule
    /// matches; and one address outside for projects without a policy.
    fn egress(&mut self) {
        let intent = self.model.intent();
        let mut first: BTreeMap<(usize, usize, Option<Ipv4Addr>), Tenant> = BTreeMap::new();
        for (id, pod) in intent.pods() {
            let tenant = Tenant::Pod(id);
            let leaving = self.model.leaving(tenant).map(|leaving| leaving.ip.address);
            let key = (pod.project.index(), pod.node.index(), leaving);
            first.entry(key).or_insert(tenant);
        }
        for tenant in first.into_values() {
            let project = self.model.project(tenant);
            let name = self.name(tenant);
            let rules: Vec<&EgressRule> =
                self.model.ranked_rules(project).map(|(rule, _, _)| rule).collect();
            for (index, rule) in rules.iter().enumerate() {
                let title = rule_name(rule);
                // A name is what it is called at each of its addresses.
                for &network in self.model.networks(rule).iter().take(ADDRESSES_SHOWN) {
                    let example = self.example(rule, network, &rules[..index]);
                    let covered =
                        if example.is_none() { ", but an earlier rule decides" } else { "" };
                    // What an earlier rule decides shows that the order of rules counts.
                    let example = example.or_else(|| self.example(rule, network, &[]));
                    let Some((address, protocol)) = example else { continue };
                    let title = format!("{name} to {address}/{protocol}: {title}{covered}");
                    self.push(tenant, To::Outside(*address.ip()), address, protocol, title);
                }
            }
            let (address, what) = match rules.last() {
                None => (Some(OUTSIDE_EXAMPLE), "no policy"),
                Some(_) => (self.unmatched(&rules), "no rule matches"),
            };
            if let Some(address) = address {
                let address = SocketAddrV4::new(address, port(OUTSIDE_PORT));
                let title = format!("{name} to {address}/tcp: {what}");
                self.push(tenant, To::Outside(*address.ip()), address, Protocol::Tcp, title);
            }
        }
    }

    /// An address, port and protocol in a network of a rule that the rule is the first to match.
    fn example(
        &self,
        rule: &EgressRule,
        network: Ipv4Net,
        earlier: &[&EgressRule],
    ) -> Option<(SocketAddrV4, Protocol)> {
        let mut ports: Vec<(Protocol, u16)> = rule
            .ports
            .iter()
            .map(|ports| {
                let first = ports.range.as_ref().map_or(port(OUTSIDE_PORT), |range| *range.start());
                (ports.protocol, first)
            })
            .collect();
        if rule.ports.is_empty() {
            ports.extend([port(OUTSIDE_PORT), port(ODD_PORT)].map(|port| (Protocol::Tcp, port)));
        }
        let addresses = samples(network).filter(|address| self.can_be_outside(*address));
        addresses
            .flat_map(|address| {
                ports.iter().map(move |(protocol, port)| (address, *protocol, *port))
            })
            .find(|(address, protocol, port)| {
                !earlier.iter().any(|earlier| self.matches(earlier, *address, *protocol, *port))
            })
            .map(|(address, protocol, port)| (SocketAddrV4::new(address, port), protocol))
    }

    /// An address that no rule matches at the usual port.
    fn unmatched(&self, rules: &[&EgressRule]) -> Option<Ipv4Addr> {
        let candidates = (1..=223).map(|octet| Ipv4Addr::new(octet, 7, 7, 7));
        candidates.filter(|address| self.can_be_outside(*address)).find(|address| {
            !rules
                .iter()
                .any(|rule| self.matches(rule, *address, Protocol::Tcp, port(OUTSIDE_PORT)))
        })
    }

    fn matches(&self, rule: &EgressRule, address: Ipv4Addr, protocol: Protocol, port: u16) -> bool {
        self.model.networks(rule).iter().any(|network| network.contains(&address))
            && (rule.ports.is_empty()
                || rule.ports.iter().any(|ports| {
                    ports.protocol == protocol
                        && ports.range.as_ref().is_none_or(|range| range.contains(&port))
                }))
    }

    /// Whether a host of the outside can have the address: nobody else does.
    fn can_be_outside(&self, address: Ipv4Addr) -> bool {
        let intent = self.model.intent();
        let octets = address.octets();
        let special = octets[0] == 0 || octets[0] == 127 || octets[0] >= 224;
        let link_local = octets[0] == 169 && octets[1] == 254;
        // In the nodes' own networks, other machines could have it.
        let near = intent.nodes().any(|(_, node)| {
            node.address == address
                || node.uplink.as_ref().is_some_and(|uplink| uplink.subnet.contains(&address))
        });
        !special && !link_local && !near && !intent.cluster().contains(address)
    }

    /// An egress router: from every node with pods of its project, and from a project that may
    /// not use it.
    fn router(&mut self, id: RouterId) {
        let intent = self.model.intent();
        let router = &intent[id];
        let tenant = Tenant::Router(id);
        let address = self.model.endpoint(tenant).address;
        let entries = self.entries(router);
        let mut seen: BTreeSet<(bool, usize)> = BTreeSet::new();
        for (pod, found) in intent.pods() {
            let source = Tenant::Pod(pod);
            let packet = Packet {
                from: From::Tenant(source),
                to: To::Tenant(tenant),
                protocol: Protocol::Tcp,
                port: Port::DNS,
            };
            let reach = reach(self.model, &packet);
            let global = self.model.vnid(found.project).get() == 0;
            if global || !seen.insert((reach.allowed(), found.node.index())) {
                continue;
            }
            let mut strange: BTreeSet<(Protocol, u16)> = BTreeSet::new();
            for Entry { protocol, port, fetch, want, what } in &entries {
                // Nobody of another project gets as far as what the proxy is asked for.
                if !reach.allowed() && !strange.insert((*protocol, *port)) {
                    continue;
                }
                let what = if reach.allowed() { what } else { "of another project" };
                let want = if reach.allowed() { want.clone() } else { Want::Silence };
                let name = self.name(source);
                if *protocol == Protocol::Sctp {
                    // A service in front of the router is another address for the same.
                    let client = self.model.endpoint(source).address;
                    let known = self.associations.entry(client).or_default();
                    known.push((SocketAddrV4::new(address, *port), BTreeSet::from([tenant])));
                }
                self.probes.push(Probe {
                    title: format!("{name} to router {}/{port}/{protocol}: {what}", router.name),
                    from: Place::Tenant(source),
                    to: SocketAddrV4::new(address, *port),
                    protocol: *protocol,
                    fetch: fetch.clone(),
                    want,
                    because: reach.because.clone(),
                });
            }
        }
    }
}

/// A way into an egress router.
struct Entry {
    protocol: Protocol,
    port: u16,
    /// The host that an HTTP proxy is asked for.
    fetch: Option<String>,
    want: Want,
    what: String,
}

impl Planner<'_> {
    /// The ways into a router: each listed port and one that isn't; of an HTTP proxy, a host for
    /// each rule and one for none.
    fn entries(&self, router: &EgressRouter) -> Vec<Entry> {
        let seen_as = Some(router.source);
        let through = |to: Ipv4Addr, port: u16| {
            let at = Some(SocketAddrV4::new(to, port));
            Want::Answer { seen_as, at }
        };
        let entry = |protocol, port, want, what: &str| {
            let (fetch, what) = (None, what.to_owned());
            Entry { protocol, port, fetch, want, what }
        };
        let odd = |want: Want| {
            let port = port(ODD_PORT);
            [Protocol::Tcp, Protocol::Udp].map(|p| entry(p, port, want.clone(), "unlisted port"))
        };
        match &router.mode {
            RouterMode::Redirect { destinations, fallback } => {
                let listed = destinations.iter().map(|d| {
                    let want = through(d.to, d.to_port.get());
                    entry(d.protocol, d.port.get(), want, "listed port")
                });
                let others = match fallback {
                    Some(to) => [Protocol::Tcp, Protocol::Udp].map(|protocol| {
                        let port = port(ODD_PORT);
                        entry(protocol, port, through(*to, port), "any other port")
                    }),
                    None => odd(Want::Refusal),
                };
                // The fallback is for TCP and UDP.
                let sctp = destinations.iter().any(|d| d.protocol == Protocol::Sctp);
                let sctp = sctp
                    .then(|| entry(Protocol::Sctp, port(ODD_PORT), Want::Refusal, "unlisted port"));
                listed.chain(others).chain(sctp).collect()
            }
            RouterMode::HttpProxy { rules, .. } => {
                let hosts = rules.iter().map(|rule| host(&rule.site)).chain([host(&Site::Any)]);
                let fetches = hosts.filter_map(|(text, name, address)| {
                    let deciding = rules.iter().find(|r| r.site.matches(name.as_ref(), address));
                    let allowed = deciding.is_some_and(|rule| rule.verdict == Verdict::Allow);
                    let want =
                        if allowed { through(address, port(OUTSIDE_PORT)) } else { Want::Refusal };
                    let decides = deciding.map_or("no rule".to_owned(), |r| r.site.to_string());
                    let what = format!("{text} by {decides}");
                    let port = Port::HTTP_PROXY.get();
                    let fetch = Some(text);
                    (!allowed || self.can_be_outside(address)).then_some(Entry {
                        protocol: Protocol::Tcp,
                        port,
                        fetch,
                        want,
                        what,
                    })
                });
                fetches.chain(odd(Want::Silence)).collect()
            }
            RouterMode::DnsProxy { ports, .. } => {
                let listed = ports.iter().map(|port| {
                    let to = match &port.to {
                        Upstream::Address(address) => *address,
                        Upstream::Name(name) => names::address(name.as_str()),
                    };
                    let want = through(to, port.to_port.get());
                    let what = format!("to {}:{}", port.to, port.to_port);
                    entry(Protocol::Tcp, port.port.get(), want, &what)
                });
                listed.chain(odd(Want::Silence)).collect()
            }
        }
    }
}

/// A host that a rule of an HTTP proxy is about: as it is written, by name, and its address.
fn host(site: &Site) -> (String, Option<HostName>, Ipv4Addr) {
    let text = match site {
        Site::Any => "anything.example.org".to_owned(),
        Site::Domain(domain) => format!("lab.{domain}"),
        Site::Name(name) => name.to_string(),
        Site::Network(network) => {
            let address = network.hosts().next().unwrap_or(network.addr());
            return (address.to_string(), None, address);
        }
    };
    let address = names::address(&text);
    let name = HostName::parse(&text).ok();
    (text, name, address)
}

/// The listener that a place is, and the address at which it hears groups.
fn listeners(model: &Model) -> BTreeMap<Place, (String, Ipv4Addr)> {
    let intent = model.intent();
    let pods = intent.pods().map(|(id, _)| (Tenant::Pod(id), intent.pod_name(id)));
    let routers = intent.routers().map(|(id, r)| (Tenant::Router(id), r.name.to_string()));
    let tenants = pods.chain(routers);
    let tenants = tenants
        .map(|(tenant, name)| (Place::Tenant(tenant), (name, model.endpoint(tenant).address)));
    let nodes = intent.nodes();
    let nodes = nodes.map(|(id, n)| (Place::Node(id), (n.name.to_string(), model.gateway(id))));
    tenants.chain(nodes).collect()
}

/// The group of a multicast probe, which no other has, so that its sender needn't join it
/// (RFC 2365, section 6.1).
fn group(number: usize) -> SocketAddrV4 {
    let number = u16::try_from(number).unwrap_or_default();
    let [high, low] = number.to_be_bytes();
    SocketAddrV4::new(Ipv4Addr::new(239, 255, high, low), port(GROUP_PORT))
}

impl Planner<'_> {
    /// Every port of a service, and one that it doesn't have: from one pod of every project on
    /// every node, and from the nodes themselves.
    fn service(&mut self, id: ServiceId, address: Ipv4Addr) {
        let intent = self.model.intent();
        let mut clients: BTreeMap<(usize, usize), Place> = BTreeMap::new();
        for (pod, found) in intent.pods() {
            let key = (found.project.index(), found.node.index());
            clients.entry(key).or_insert(Place::Tenant(Tenant::Pod(pod)));
        }
        let nodes = intent.nodes().map(|(node, _)| Place::Node(node));
        let clients: Vec<Place> = clients.into_values().chain(nodes).collect();
        let mut ports: Vec<(Protocol, u16)> =
            intent[id].ports.iter().map(|port| (port.protocol, port.port.get())).collect();
        ports.push((Protocol::Tcp, port(ODD_PORT)));
        for client in clients {
            for (protocol, port) in &ports {
                self.service_port(id, SocketAddrV4::new(address, *port), *protocol, client);
            }
        }
    }

    fn service_port(&mut self, id: ServiceId, to: SocketAddrV4, protocol: Protocol, client: Place) {
        let intent = self.model.intent();
        let Ok(port) = Port::new(to.port().into()) else { return };
        let (from, name, source) = match client {
            Place::Tenant(tenant) => {
                let address = self.model.endpoint(tenant).address;
                (From::Tenant(tenant), self.name(tenant), address)
            }
            Place::Node(node) => {
                let name = intent[node].name.to_string();
                (From::Node(node), name, self.model.gateway(node))
            }
            Place::Outside => return,
        };
        let reach = reach(self.model, &Packet { from, to: To::Service(id), protocol, port });
        let mut found = intent[id].ports.iter();
        let found = found.find(|found| found.protocol == protocol && found.port == port);
        let backends = found.map(|port| port.backends.as_slice()).unwrap_or_default();
        let endpoints = found.map(|port| port.endpoints.as_slice()).unwrap_or_default();
        let is_client = |tenant| client == Place::Tenant(tenant);
        let mut fetch = None;
        let want = if reach.allowed() && !endpoints.is_empty() {
            let seen_as = match client {
                Place::Node(node) => intent[node].address,
                Place::Tenant(tenant) => self.model.seen_outside_as(tenant),
                Place::Outside => return,
            };
            let only =
                if let [(address, port)] = endpoints { Some((*address, *port)) } else { None };
            let at = only.map(|(address, port)| SocketAddrV4::new(address, port.get()));
            Want::Answer { seen_as: Some(seen_as), at }
        } else if let Some(way) = self.through_routers(protocol, backends, reach.allowed()) {
            fetch = way.fetch;
            way.want
        } else if reach.allowed() {
            let only = if let [(pod, port)] = backends { Some((*pod, *port)) } else { None };
            let at = |pod| self.model.endpoint(pod).address;
            Want::Answer {
                // A pod that gets itself sees the service.
                seen_as: match only {
                    Some((pod, _)) if is_client(pod) => Some(*to.ip()),
                    _ => Some(source).filter(|_| !backends.iter().any(|(pod, _)| is_client(*pod))),
                },
                // Who answers datagrams can't tell the address that they came to.
                at: only
                    .filter(|_| protocol != Protocol::Udp)
                    .map(|(pod, port)| SocketAddrV4::new(at(pod), port.get())),
            }
        } else if reach.refused {
            Want::Refusal
        } else {
            Want::Silence
        };
        if matches!((client, &want), (Place::Node(_), Want::Refusal)) && protocol != Protocol::Tcp {
            // A kernel sends no error to itself in the name of another.
            return;
        }
        if protocol == Protocol::Sctp && want != Want::Silence {
            // The way by a node port has more to show, and a pod can't take both.
            let mut outer = self.model.node_ports().iter();
            let is_outer = outer.any(|p| (p.service, p.protocol, p.port) == (id, protocol, port));
            let is_pod = matches!(client, Place::Tenant(_));
            if (is_outer && is_pod && reach.allowed()) || !self.associates(source, to, backends) {
                return;
            }
        }
        let service = intent.service_name(id);
        self.probes.push(Probe {
            title: format!("{name} to service {service}:{port}/{protocol}"),
            from: client,
            to,
            protocol,
            fetch,
            want,
            because: reach.because,
        });
    }

    /// Whether an SCTP association to a service, which is refused where it has no pods, can be shown
    /// beside those of the plan so far; then it is one of them.
    ///
    /// A conntrack that knows no ports of SCTP, such as that of Open vSwitch 3.1 in userspace, tells
    /// associations apart by their two addresses alone. So a client has one at a time with a pod,
    /// and what it sends to another port of the same address goes where the first went.
    fn associates(
        &mut self,
        client: Ipv4Addr,
        to: SocketAddrV4,
        backends: &[(Tenant, Port)],
    ) -> bool {
        let tenants: BTreeSet<Tenant> = backends.iter().map(|(tenant, _)| *tenant).collect();
        let others = self.associations.entry(client).or_default();
        let is_in_the_way = |(other, behind): &(SocketAddrV4, BTreeSet<Tenant>)| {
            let both_refuse = behind.is_empty() && tenants.is_empty();
            let same_address = other.ip() == to.ip() && !both_refuse;
            *other != to && (same_address || !behind.is_disjoint(&tenants))
        };
        let alone = !others.iter().any(is_in_the_way);
        if alone {
            others.push((to, tenants));
        }
        alone
    }
}

impl Planner<'_> {
    /// Every limit that the lab has time for, from and to a pod of the same project, and that
    /// others are not limited.
    fn bandwidths(&mut self) {
        let model = self.model;
        let intent = model.intent();
        let limits: Vec<(PodId, bool)> = intent
            .pods()
            .flat_map(|(id, pod)| {
                let both = [pod.egress.map(|_| (id, true)), pod.ingress.map(|_| (id, false))];
                both.into_iter().flatten()
            })
            .collect();
        let limited = |id: PodId| intent[id].ingress.is_some() || intent[id].egress.is_some();
        let partner = |id: PodId, plain: bool| {
            let mut others = intent.pods().filter(|(other, pod)| {
                *other != id && pod.project == intent[id].project && !(plain && limited(*other))
            });
            others.next().map(|(other, _)| other)
        };
        let mut pairs: Vec<(PodId, PodId)> = Vec::new();
        for (id, sends) in limits {
            let Some(other) = partner(id, true).or_else(|| partner(id, false)) else { continue };
            pairs.push(if sends { (id, other) } else { (other, id) });
        }
        if !pairs.is_empty() {
            let mut plain = intent.pods().filter(|(id, _)| !limited(*id));
            let free = plain.find_map(|(id, _)| Some((id, partner(id, true)?)));
            pairs.extend(free);
        }
        pairs.dedup();
        for (number, (from, to)) in pairs.into_iter().take(MOST_FLOODS).enumerate() {
            self.flood(from, to, number);
        }
    }

    fn flood(&mut self, from: PodId, to: PodId, number: usize) {
        let model = self.model;
        let intent = model.intent();
        let limit = [intent[from].egress, intent[to].ingress].into_iter().flatten().min();
        let (bits, sent) = match limit.map(Bandwidth::get) {
            // More than a machine shows for sure.
            Some(limit) if limit > MOST_BITS => return,
            Some(limit) => (limit, (3 * limit).max(UNLIMITED_BITS)),
            None => (UNLIMITED_BITS, UNLIMITED_BITS),
        };
        let because = match limit {
            Some(limit) => format!("the limit is {limit}"),
            None => "nothing limits it".to_owned(),
        };
        let number = u16::try_from(number).unwrap_or_default();
        let address = model.endpoint(Tenant::Pod(to)).address;
        let (a, b) = (intent.pod_name(from), intent.pod_name(to));
        self.probes.push(Probe {
            fetch: None,
            title: format!("{a} to {b}, as much as it can"),
            from: Place::Tenant(Tenant::Pod(from)),
            to: SocketAddrV4::new(address, FIRST_FLOOD + number),
            protocol: Protocol::Udp,
            want: Want::Rate { bits, sent },
            because,
        });
    }

    /// Every node port: from the outside at every address of every node, from one pod of every
    /// project on every node, and from the nodes, each to the own node and to another.
    fn node_ports(&mut self) {
        let model = self.model;
        let intent = model.intent();
        let mut pods: BTreeMap<(usize, NodeId), Tenant> = BTreeMap::new();
        for (pod, found) in intent.pods() {
            pods.entry((found.project.index(), found.node)).or_insert(Tenant::Pod(pod));
        }
        let nodes: Vec<NodeId> = intent.nodes().map(|(id, _)| id).collect();
        for port in model.node_ports() {
            for (index, node) in nodes.iter().enumerate() {
                let addresses = &intent[*node].node_port_addresses;
                for address in addresses {
                    self.node_port(port, Place::Outside, *node, *address);
                }
                let before = nodes[(index + nodes.len() - 1) % nodes.len()];
                let near = BTreeSet::from([*node, before]);
                for ((_, at), tenant) in &pods {
                    for address in addresses.iter().filter(|_| near.contains(at)) {
                        self.node_port(port, Place::Tenant(*tenant), *node, *address);
                    }
                }
                for from in &near {
                    // Between nodes, there is but the uplink.
                    let by_uplink =
                        |address: &&Ipv4Addr| from == node || **address == intent[*node].address;
                    for address in addresses.iter().filter(by_uplink) {
                        self.node_port(port, Place::Node(*from), *node, *address);
                    }
                }
            }
        }
    }

    fn node_port(&mut self, found: &NodePort, client: Place, node: NodeId, address: Ipv4Addr) {
        let model = self.model;
        let intent = model.intent();
        let (from, name) = match client {
            Place::Tenant(tenant) => (From::Tenant(tenant), self.name(tenant)),
            Place::Node(node) => (From::Node(node), intent[node].name.to_string()),
            Place::Outside => (From::Outside, super::OUTSIDE.to_owned()),
        };
        let NodePort { protocol, port, .. } = *found;
        let packet = Packet { from, to: To::NodePort(node, address), protocol, port };
        let mut reach = reach(model, &packet);
        let by = comes_by(&intent[node], address);
        let block = intent[node].blocks.iter().find(|block| {
            matches!(&block.at, BlockAt::Interface(name) if name.as_str() == by)
                && block.covers(protocol, port)
        });
        // What comes from pods and from the node itself comes by no such interface.
        let outer = client == Place::Outside || matches!(from, From::Node(n) if n != node);
        if let Some(block) = block.filter(|_| outer) {
            reach.verdict = Verdict::Deny;
            reach.refused = false;
            reach.because = format!("{by} of {} does not serve it", intent[node].name);
            reach.place = Some(block.place);
        }
        let (behind, ..) = model.behind(found);
        let backends = &behind.backends;
        let is_client = |tenant| client == Place::Tenant(tenant);
        let only = if let [(pod, port)] = backends[..] { Some((pod, port)) } else { None };
        let at = |pod| model.endpoint(pod).address;
        let seen_as = match client {
            // A pod that gets itself sees the service.
            Place::Tenant(_) if only.is_some_and(|(pod, _)| is_client(pod)) => {
                model.service_address(found.service)
            }
            Place::Tenant(tenant) => Some(model.endpoint(tenant).address)
                .filter(|_| !backends.iter().any(|(pod, _)| is_client(*pod))),
            // The node stands for whoever comes to it.
            Place::Node(_) | Place::Outside => Some(model.gateway(node)),
        };
        let want = if reach.allowed() {
            let to = only.filter(|_| protocol != Protocol::Udp);
            Want::Answer { seen_as, at: to.map(|(pod, p)| SocketAddrV4::new(at(pod), p.get())) }
        } else if reach.refused {
            Want::Refusal
        } else {
            Want::Silence
        };
        if protocol == Protocol::Sctp && want != Want::Silence {
            let (client, to) = match client {
                Place::Tenant(tenant) => (model.endpoint(tenant).address, Some((address, port))),
                Place::Node(_) | Place::Outside => {
                    let service = model.service_address(found.service);
                    (model.gateway(node), service.map(|address| (address, behind.port)))
                }
            };
            let to = to.map(|(address, port)| SocketAddrV4::new(address, port.get()));
            if !to.is_some_and(|to| self.associates(client, to, backends)) {
                return;
            }
        }
        let service = intent.service_name(found.service);
        let to_node = &intent[node].name;
        self.probes.push(Probe {
            fetch: None,
            title: format!("{name} to {to_node} {address}:{port}/{protocol}, {service}"),
            from: client,
            to: SocketAddrV4::new(address, port.get()),
            protocol,
            want,
            because: reach.because,
        });
    }
}

/// TEST-NET-3 (RFC 5737).
const OUTSIDE_EXAMPLE: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 7);

fn port(number: u64) -> u16 {
    u16::try_from(number).unwrap_or_default()
}

/// Some addresses of a network, from everywhere in it.
fn samples(network: Ipv4Net) -> impl Iterator<Item = Ipv4Addr> {
    let inside = network.hosts().take(3).chain([network.broadcast(), OUTSIDE_EXAMPLE]);
    let spread = (1..64).filter_map(move |n| {
        let (first, last) = (u32::from(network.network()), u32::from(network.broadcast()));
        let offset = u32::try_from(u64::from(last - first) * n / 64).ok()?;
        Some(Ipv4Addr::from(first + offset))
    });
    inside.chain(spread).filter(move |address| network.contains(address))
}

impl Lab {
    /// Sends every probe at once and waits for what comes back.
    pub fn probe(&self, probes: Vec<Probe>) -> Result<Summary, Diagnostic> {
        self.probe_telling(probes, &mut |_, _| {})
    }

    /// The same; `waiting` hears for which of the probes it waits, counted from 1.
    pub fn probe_telling(
        &self,
        probes: Vec<Probe>,
        waiting: &mut dyn FnMut(usize, &Probe),
    ) -> Result<Summary, Diagnostic> {
        let mut agents = self.agents(&probes)?;
        self.listen(&probes, &mut agents)?;
        self.warm_up(&mut agents)?;
        self.wait_for_proxies(&probes, &mut agents)?;
        self.join(&probes, &mut agents)?;
        let quick = |probe: &&Probe| !matches!(probe.want, Want::Rate { .. });
        for (id, probe) in probes.iter().enumerate().filter(|(_, probe)| quick(probe)) {
            agent(&mut agents, probe.from)?.send(&match probe.want {
                Want::Copies(_) => Request::Cast { id, group: probe.to },
                _ => asking(id, probe, PATIENCE),
            })?;
        }
        let mut seen: Vec<Seen> = vec![Seen::Silence; probes.len()];
        for (number, probe) in (1..).zip(probes.iter().filter(quick)) {
            waiting(number, probe);
            let (id, what) = taken(agent(&mut agents, probe.from)?)?;
            seen[id] = what;
        }
        again(&probes, &mut agents, &mut seen)?;
        self.hear(&probes, &mut agents, &mut seen)?;
        self.flood(&probes, &mut agents, &mut seen)?;
        Ok(Summary { results: probes.into_iter().zip(seen).collect() })
    }

    /// Sends floods, one after the other, so that none is in the way of another.
    fn flood(
        &self,
        probes: &[Probe],
        agents: &mut BTreeMap<Place, Agent>,
        seen: &mut [Seen],
    ) -> Result<(), Diagnostic> {
        let pods: BTreeMap<Ipv4Addr, Place> = self
            .model
            .intent()
            .pods()
            .map(|(id, _)| (self.model.endpoint(Tenant::Pod(id)).address, Tenant::Pod(id)))
            .map(|(address, tenant)| (address, Place::Tenant(tenant)))
            .collect();
        for (id, probe) in probes.iter().enumerate() {
            let Want::Rate { sent: bits, .. } = probe.want else { continue };
            let to = pods.get(probe.to.ip()).ok_or_else(|| failed("a flood goes to no pod"))?;
            let port = probe.to.port();
            agent(agents, *to)?.count(port)?;
            for _ in 0..FLOOD_ATTEMPTS {
                // What still waits from an earlier attempt is not part of this one.
                agent(agents, *to)?.counted(port, FLOOD)?;
                let sender = agent(agents, probe.from)?;
                let milliseconds = u64::try_from(FLOOD.as_millis()).unwrap_or(u64::MAX);
                sender.send(&Request::Flood { id, to: probe.to, bits, milliseconds })?;
                match sender.receive()? {
                    Reply::Flooded { .. } => {}
                    other => {
                        let message = format!("an agent answers out of turn: {other:?}");
                        return Err(failed(&message));
                    }
                }
                seen[id] = Seen::Rate(agent(agents, *to)?.counted(port, FLOOD)?);
                if seen[id].is(&probe.want) {
                    break;
                }
            }
        }
        Ok(())
    }

    /// Makes everybody but the sender a member of the group of each multicast probe.
    fn join(
        &self,
        probes: &[Probe],
        agents: &mut BTreeMap<Place, Agent>,
    ) -> Result<(), Diagnostic> {
        let listeners = listeners(&self.model);
        for probe in probes.iter().filter(|probe| matches!(probe.want, Want::Copies(_))) {
            for (place, (_, address)) in &listeners {
                if let Some(agent) = agents.get_mut(place).filter(|_| *place != probe.from) {
                    agent.join(probe.to, *address)?;
                }
            }
        }
        Ok(())
    }

    /// Asks everybody what the groups brought, and sends again what somebody misses.
    fn hear(
        &self,
        probes: &[Probe],
        agents: &mut BTreeMap<Place, Agent>,
        seen: &mut [Seen],
    ) -> Result<(), Diagnostic> {
        for _ in 1..CAST_ATTEMPTS {
            self.hear_once(probes, agents, seen)?;
            let missed = |(id, probe): &(usize, &Probe)| match (&probe.want, &seen[*id]) {
                (Want::Copies(want), Seen::Copies(got)) => !want.is_subset(got),
                _ => false,
            };
            let missed: Vec<(usize, &Probe)> = probes.iter().enumerate().filter(missed).collect();
            if missed.is_empty() {
                return Ok(());
            }
            for (id, probe) in &missed {
                agent(agents, probe.from)?.send(&Request::Cast { id: *id, group: probe.to })?;
            }
            for (_, probe) in &missed {
                taken(agent(agents, probe.from)?)?;
            }
        }
        self.hear_once(probes, agents, seen)
    }

    fn hear_once(
        &self,
        probes: &[Probe],
        agents: &mut BTreeMap<Place, Agent>,
        seen: &mut [Seen],
    ) -> Result<(), Diagnostic> {
        if !seen.iter().any(|seen| matches!(seen, Seen::Copies(_))) {
            return Ok(());
        }
        let listeners = listeners(&self.model);
        for (place, (name, _)) in &listeners {
            let Some(agent) = agents.get_mut(place) else { continue };
            let heard = agent.heard()?;
            for (probe, seen) in probes.iter().zip(&mut *seen) {
                let source = listeners.get(&probe.from).map(|(_, address)| *address);
                let from = source.filter(|source| heard.contains(&(probe.to, *source)));
                if let (Some(_), Seen::Copies(names)) = (from, seen) {
                    names.insert(name.clone());
                }
            }
        }
        Ok(())
    }

    /// The machine and namespace of a place.
    pub fn place(&self, place: Place) -> Result<(&super::Host, Option<String>), Diagnostic> {
        let intent = self.model.intent();
        Ok(match place {
            Place::Outside => (&self.outside, None),
            Place::Node(id) => (self.node(id)?, None),
            Place::Tenant(tenant) => {
                let netns = match tenant {
                    Tenant::Pod(id) => match &intent[id].attachment {
                        Attachment::Netns(netns) => netns.to_string(),
                        Attachment::Interface(interface) => stand_in(interface.as_str()),
                    },
                    Tenant::Router(id) => format!("{ROUTER_NETNS_PREFIX}{}", intent[id].name),
                };
                (self.node(self.model.node(tenant))?, Some(netns))
            }
        })
    }

    /// An agent in every namespace that sends or receives.
    fn agents(&self, probes: &[Probe]) -> Result<BTreeMap<Place, Agent>, Diagnostic> {
        let mut places: BTreeSet<Place> = probes.iter().map(|probe| probe.from).collect();
        places.insert(Place::Outside);
        places.extend(self.model.intent().nodes().map(|(id, _)| Place::Node(id)));
        places.extend(self.model.intent().pods().map(|(id, _)| Place::Tenant(Tenant::Pod(id))));
        if probes.iter().any(|probe| matches!(probe.want, Want::Copies(_))) {
            let routers = self.model.intent().routers();
            places.extend(routers.map(|(id, _)| Place::Tenant(Tenant::Router(id))));
        }
        let mut agents = BTreeMap::new();
        for place in places {
            let (host, netns) = self.place(place)?;
            agents.insert(place, Agent::start(host, netns.as_deref(), &self.program)?);
        }
        Ok(agents)
    }

    /// Makes the pods answer, the nodes, and the outside at every address that a probe may reach.
    fn listen(
        &self,
        probes: &[Probe],
        agents: &mut BTreeMap<Place, Agent>,
    ) -> Result<(), Diagnostic> {
        let any = |port| SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, port);
        for (place, agent) in agents.iter_mut() {
            if *place != Place::Outside {
                agent.listen(Transport::Tcp, any(port(POD_PORT)))?;
                agent.listen(Transport::Udp, any(port(POD_PORT)))?;
            }
        }
        let intent = self.model.intent();
        for (protocol, number) in node_access::examples(&self.model) {
            for (id, _) in intent.nodes().filter(|_| u64::from(number) != POD_PORT) {
                agent(agents, Place::Node(id))?.listen(transport(protocol), any(number))?;
            }
        }
        let mut behind: BTreeSet<(Place, Transport, u16)> = BTreeSet::new();
        for port in intent.services().flat_map(|(_, service)| &service.ports) {
            let at = |(tenant, to): &(_, Port)| {
                (Place::Tenant(*tenant), transport(port.protocol), to.get())
            };
            behind.extend(port.backends.iter().map(at));
        }
        for (place, transport, number) in behind {
            // What comes to a router goes on, or to its proxy.
            let is_router = matches!(place, Place::Tenant(Tenant::Router(_)));
            let other = !is_router && u64::from(number) != POD_PORT;
            if let Some(agent) = agents.get_mut(&place).filter(|_| other) {
                agent.listen(transport, any(number))?;
            }
        }
        let known = |address: &Ipv4Addr| {
            intent.cluster().contains(*address)
                || intent.nodes().any(|(id, node)| {
                    node.address == *address
                        || node.node_port_addresses.contains(address)
                        || self.model.held(id).any(|(ip, _)| ip.address == *address)
                })
        };
        let ports = intent.services().flat_map(|(_, service)| &service.ports);
        let endpoints = ports.flat_map(|port| {
            let at = |(address, to): &(Ipv4Addr, Port)| SocketAddrV4::new(*address, to.get());
            let leads = routers::targets(&self.model, port);
            port.endpoints
                .iter()
                .map(move |to| (transport(port.protocol), at(to)))
                .chain(leads.into_iter().map(move |at| (transport(port.protocol), at)))
        });
        let single = probes.iter().filter(|probe| !matches!(probe.want, Want::Copies(_)));
        let targets = single.flat_map(|probe| {
            let at = match &probe.want {
                Want::Answer { at, .. } => *at,
                _ => None,
            };
            let transport = match probe.fetch {
                Some(_) => Transport::Http,
                None => transport(probe.protocol),
            };
            [Some(probe.to), at].into_iter().flatten().map(move |at| (transport, at))
        });
        let mut targets: BTreeSet<(Transport, SocketAddrV4)> =
            targets.chain(endpoints).filter(|(_, at)| !known(at.ip())).collect();
        // Whoever answers requests answers other clients too.
        for (_, at) in targets.clone().into_iter().filter(|(t, _)| *t == Transport::Http) {
            targets.remove(&(Transport::Tcp, at));
        }
        let servers = name_servers(&self.model);
        let own = |address: &&Ipv4Addr| {
            let mut uplinks = intent.nodes().filter_map(|(_, node)| node.uplink.as_ref());
            uplinks.any(|uplink| uplink.gateway.as_ref() == Some(*address))
        };
        let addresses: BTreeSet<Ipv4Addr> = targets
            .iter()
            .map(|(_, at)| *at.ip())
            .chain(servers.iter().filter(|address| !own(address)).copied())
            .collect();
        let lines = addresses.iter().map(|a| format!("route replace local {a}/32 dev lo\n"));
        self.outside.feed(None, &["ip", "-batch", "-"], lines.collect::<Vec<_>>().concat())?;
        let outside = agent(agents, Place::Outside)?;
        for (transport, at) in targets {
            outside.listen(transport, at)?;
        }
        for address in servers {
            outside.names(SocketAddrV4::new(address, names::PORT))?;
        }
        Ok(())
    }

    /// Waits until every tunnel carries packets: the first takes about a second.
    fn warm_up(&self, agents: &mut BTreeMap<Place, Agent>) -> Result<(), Diagnostic> {
        let begin = Instant::now();
        let nodes: Vec<NodeId> = self.model.intent().nodes().map(|(id, _)| id).collect();
        for from in &nodes {
            for to in nodes.iter().filter(|to| *to != from) {
                // A node takes nothing from another by the tunnel; its pods do. Where neither has any,
                // nothing goes between the two.
                let mut pods = self.model.intent().pods();
                let Some((pod, _)) = pods.find(|(_, pod)| pod.node == *to) else { continue };
                let address = self.model.endpoint(Tenant::Pod(pod)).address;
                let address = SocketAddrV4::new(address, port(POD_PORT));
                let agent = agent(agents, Place::Node(*from))?;
                loop {
                    agent.send(&request(0, Transport::Tcp, address, Duration::from_secs(3)))?;
                    if let Reply::Answered { .. } = agent.receive()? {
                        break;
                    }
                    if begin.elapsed() > WARM_UP {
                        let (from, to) = (&self.model.intent()[*from], &self.model.intent()[*to]);
                        let (from, to) = (&from.name, &to.name);
                        return Err(failed(&format!("no tunnel from {from} to {to}")));
                    }
                }
            }
        }
        Ok(())
    }
}

/// The name servers of all proxies.
fn name_servers(model: &Model) -> BTreeSet<Ipv4Addr> {
    let mut found = BTreeSet::new();
    for (_, router) in model.intent().routers() {
        match &router.mode {
            RouterMode::Redirect { .. } => {}
            RouterMode::HttpProxy { name_servers, .. }
            | RouterMode::DnsProxy { name_servers, .. } => {
                found.extend(name_servers);
                found.extend(name_servers.is_empty().then_some(names::SERVER));
            }
        }
    }
    found
}

impl Lab {
    /// Waits until proxies know the names and hosts that have just come up outside.
    fn wait_for_proxies(
        &self,
        probes: &[Probe],
        agents: &mut BTreeMap<Place, Agent>,
    ) -> Result<(), Diagnostic> {
        let mut waiting: BTreeSet<SocketAddrV4> = BTreeSet::new();
        for (id, router) in self.model.intent().routers() {
            let address = self.model.endpoint(Tenant::Router(id)).address;
            let ports = proxy::ports(&router.mode);
            waiting.extend(ports.iter().map(|port| SocketAddrV4::new(address, port.get())));
        }
        let begin = Instant::now();
        for probe in probes.iter().filter(|probe| matches!(probe.want, Want::Answer { .. })) {
            if !waiting.remove(&probe.to) {
                continue;
            }
            let agent = agent(agents, probe.from)?;
            // What doesn't come is shown by the probe itself.
            while begin.elapsed() < WARM_UP {
                agent.send(&asking(0, probe, PATIENCE))?;
                if matches!(agent.receive()?, Reply::Answered { .. }) {
                    break;
                }
                std::thread::sleep(Duration::from_millis(200));
            }
        }
        Ok(())
    }
}

/// A machine that is slow loses some of so many: these once more, a few at a time, as long as
/// that helps.
fn again(
    probes: &[Probe],
    agents: &mut BTreeMap<Place, Agent>,
    seen: &mut [Seen],
) -> Result<(), Diagnostic> {
    let answered = |want: &Want| matches!(want, Want::Answer { .. } | Want::Refusal);
    let silent = |seen: &[Seen], (id, probe): &(usize, &Probe)| {
        answered(&probe.want) && seen[*id] == Seen::Silence
    };
    let all = probes.iter().enumerate().filter(|probe| silent(seen, probe));
    let all: Vec<(usize, &Probe)> = all.collect();
    for few in all.chunks(AGAIN) {
        let mut patience = PATIENCE;
        for _ in 0..ATTEMPTS {
            let left: Vec<_> = few.iter().filter(|probe| silent(seen, probe)).collect();
            for (id, probe) in &left {
                agent(agents, probe.from)?.send(&asking(*id, probe, patience))?;
            }
            for (_, probe) in &left {
                let (id, what) = taken(agent(agents, probe.from)?)?;
                seen[id] = what;
            }
            patience *= LONGER;
        }
        if few.iter().all(|probe| silent(seen, probe)) {
            break;
        }
    }
    Ok(())
}

/// The agent of a place.
fn agent(agents: &mut BTreeMap<Place, Agent>, place: Place) -> Result<&mut Agent, Diagnostic> {
    agents.get_mut(&place).ok_or_else(|| failed("an agent is missing"))
}

/// What became of the probe that an agent tells about next.
fn taken(agent: &mut Agent) -> Result<(usize, Seen), Diagnostic> {
    Ok(match agent.receive()? {
        Reply::Answered { id, from, at } => (id, Seen::Answer { seen_as: from, at }),
        Reply::Refused { id } => (id, Seen::Refusal),
        Reply::Cast { id } => (id, Seen::Copies(BTreeSet::new())),
        Reply::Silent { id, .. } => (id, Seen::Silence),
        other => return Err(failed(&format!("an agent answers out of turn: {other:?}"))),
    })
}

/// A probe as an agent is asked to send it.
fn asking(id: usize, probe: &Probe, patience: Duration) -> Request {
    match &probe.fetch {
        None => request(id, transport(probe.protocol), probe.to, patience),
        Some(host) => {
            let milliseconds = u64::try_from(patience.as_millis()).unwrap_or(u64::MAX);
            Request::Fetch { id, proxy: probe.to, host: host.clone(), milliseconds }
        }
    }
}

fn request(id: usize, transport: Transport, to: SocketAddrV4, patience: Duration) -> Request {
    let milliseconds = u64::try_from(patience.as_millis()).unwrap_or(u64::MAX);
    Request::Probe { id, transport, to, milliseconds, source: None }
}

fn transport(protocol: Protocol) -> Transport {
    match protocol {
        Protocol::Udp => Transport::Udp,
        Protocol::Tcp => Transport::Tcp,
        Protocol::Sctp => Transport::Sctp,
    }
}
