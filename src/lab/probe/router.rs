//! Probes of egress routers.

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, SocketAddrV4};

use super::{Expected, Location, ODD_PORT, OUTSIDE_PORT, Planner, Probe, port};
use crate::intent::{EgressRouter, RouterId, RouterMode, Site, Upstream, Verdict};
use crate::lab::names;
use crate::model::Workload;
use crate::spec::Mode;
use crate::value::{HostName, Port, Protocol, StringValue as _};
use crate::verify::reach::{Destination, Packet, Source, reach};

impl Planner<'_> {
    /// An egress router: from every node with pods of its project, and from a project that may
    /// not use it.
    pub(super) fn router(&mut self, id: RouterId) {
        let intent = self.model.intent();
        let router = &intent[id];
        let workload = Workload::Router(id);
        let address = self.model.endpoint(workload).address;
        let entries = self.entries(router);
        let mut seen: BTreeSet<(bool, usize)> = BTreeSet::new();
        for (pod, found) in intent.pods() {
            let source = Workload::Pod(pod);
            let packet = Packet {
                from: Source::Workload(source),
                to: Destination::Workload(workload),
                protocol: Protocol::Tcp,
                port: Port::DNS,
            };
            let way = reach(self.model, &packet);
            let global = self.model.vnid(found.project).get() == 0;
            if global || !seen.insert((way.allowed(), found.node.index())) {
                continue;
            }
            let mut strange: BTreeSet<(Protocol, u16)> = BTreeSet::new();
            for Entry { protocol, port, fetch, want, what } in &entries {
                // Network policies may open some ports of it.
                let Ok(number) = Port::new((*port).into()) else { continue };
                let packet = Packet { protocol: *protocol, port: number, ..packet };
                let reach = reach(self.model, &packet);
                // Nobody of another project gets as far as what the proxy is asked for.
                if !reach.allowed() && !strange.insert((*protocol, *port)) {
                    continue;
                }
                let what = match self.model.mode() {
                    _ if reach.allowed() => what,
                    Mode::Networkpolicy => "by policies",
                    Mode::Subnet | Mode::Multitenant => "of another project",
                };
                let want = if reach.allowed() { want.clone() } else { Expected::Silence };
                let name = self.name(source);
                if *protocol == Protocol::Sctp {
                    // A service in front of the router is another address for the same.
                    let client = self.model.endpoint(source).address;
                    let known = self.associations.entry(client).or_default();
                    known.push((SocketAddrV4::new(address, *port), BTreeSet::from([workload])));
                }
                self.probes.push(Probe {
                    title: format!("{name} to router {}/{port}/{protocol}: {what}", router.name),
                    from: Location::Workload(source),
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
pub(super) struct Entry {
    protocol: Protocol,
    port: u16,
    /// The host that an HTTP proxy is asked for.
    pub(super) fetch: Option<String>,
    pub(super) want: Expected,
    what: String,
}

impl Planner<'_> {
    /// The ways into a router: each listed port and one that isn't; of an HTTP proxy, a host for
    /// each rule and one for none.
    pub(super) fn entries(&self, router: &EgressRouter) -> Vec<Entry> {
        let seen_as = Some(router.source);
        let through = |to: Ipv4Addr, port: u16| {
            let at = Some(SocketAddrV4::new(to, port));
            Expected::Answer { seen_as, at }
        };
        let entry = |protocol, port, want, what: &str| {
            let (fetch, what) = (None, what.to_owned());
            Entry { protocol, port, fetch, want, what }
        };
        let odd = |want: Expected| {
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
                    None => odd(Expected::Refusal),
                };
                // The fallback is for TCP and UDP.
                let sctp = destinations.iter().any(|d| d.protocol == Protocol::Sctp);
                let sctp = sctp.then(|| {
                    entry(Protocol::Sctp, port(ODD_PORT), Expected::Refusal, "unlisted port")
                });
                listed.chain(others).chain(sctp).collect()
            }
            RouterMode::HttpProxy { rules, .. } => {
                let hosts = rules.iter().map(|rule| host(&rule.site)).chain([host(&Site::Any)]);
                let fetches = hosts.filter_map(|(text, name, address)| {
                    let deciding = rules.iter().find(|r| r.site.matches(name.as_ref(), address));
                    let allowed = deciding.is_some_and(|rule| rule.verdict == Verdict::Allow);
                    let want = if allowed {
                        through(address, port(OUTSIDE_PORT))
                    } else {
                        Expected::Refusal
                    };
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
                fetches.chain(odd(Expected::Silence)).collect()
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
                listed.chain(odd(Expected::Silence)).collect()
            }
        }
    }
}

/// A host that a rule of an HTTP proxy is about: as it is written, by name, and its address.
pub(super) fn host(site: &Site) -> (String, Option<HostName>, Ipv4Addr) {
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
