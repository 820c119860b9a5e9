//! Sends the probes, and listens for them.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::{Duration, Instant};

use super::{
    Expected, FLOOD, FLOOD_ATTEMPTS, Location, Observed, POD_PORT, Probe, Summary, listeners, port,
    router_services,
};
use crate::artifact::host::ROUTER_NETNS_PREFIX;
use crate::diagnostic::Diagnostic;
use crate::intent::{Attachment, NodeId, RouterMode};
use crate::lab::agent::{Agent, Reply, Request, Transport};
use crate::lab::network::stand_in;
use crate::lab::{Lab, failed, names, node_access};
use crate::lower::proxy;
use crate::model::{Model, Workload};
use crate::value::{Port, Protocol};

/// How long a probe waits: a lost SYN is sent again after one second.
pub(super) const PATIENCE: Duration = Duration::from_millis(2500);

/// How many probes are sent again at once, how often at most, and how long each of these times waits
/// in relation to the one before. Only what should be answered and isn't is sent again, so that a
/// machine that is busy takes longer and comes to the same.
pub(super) const AGAIN: usize = 10;

pub(super) const ATTEMPTS: u32 = 3;

pub(super) const LONGER: u32 = 2;

/// How often datagrams to a group are sent at most, where somebody misses them.
pub(super) const CAST_ATTEMPTS: u32 = 4;

/// How long the tunnels have to come up.
pub(super) const WARM_UP: Duration = Duration::from_mins(2);

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
        let quick = |probe: &&Probe| !matches!(probe.want, Expected::Rate { .. });
        for (id, probe) in probes.iter().enumerate().filter(|(_, probe)| quick(probe)) {
            agent(&mut agents, probe.from)?.send(&match probe.want {
                Expected::Copies(_) => Request::Cast { id, group: probe.to },
                _ => asking(id, probe, PATIENCE),
            })?;
        }
        let mut seen: Vec<Observed> = vec![Observed::Silence; probes.len()];
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
        agents: &mut BTreeMap<Location, Agent>,
        seen: &mut [Observed],
    ) -> Result<(), Diagnostic> {
        let pods: BTreeMap<Ipv4Addr, Location> = self
            .model
            .intent()
            .pods()
            .map(|(id, _)| (self.model.endpoint(Workload::Pod(id)).address, Workload::Pod(id)))
            .map(|(address, workload)| (address, Location::Workload(workload)))
            .collect();
        for (id, probe) in probes.iter().enumerate() {
            let Expected::Rate { sent: bits, .. } = probe.want else { continue };
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
                seen[id] = Observed::Rate(agent(agents, *to)?.counted(port, FLOOD)?);
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
        agents: &mut BTreeMap<Location, Agent>,
    ) -> Result<(), Diagnostic> {
        let listeners = listeners(&self.model);
        for probe in probes.iter().filter(|probe| matches!(probe.want, Expected::Copies(_))) {
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
        agents: &mut BTreeMap<Location, Agent>,
        seen: &mut [Observed],
    ) -> Result<(), Diagnostic> {
        for _ in 1..CAST_ATTEMPTS {
            self.hear_once(probes, agents, seen)?;
            let missed = |(id, probe): &(usize, &Probe)| match (&probe.want, &seen[*id]) {
                (Expected::Copies(want), Observed::Copies(got)) => !want.is_subset(got),
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
        agents: &mut BTreeMap<Location, Agent>,
        seen: &mut [Observed],
    ) -> Result<(), Diagnostic> {
        if !seen.iter().any(|seen| matches!(seen, Observed::Copies(_))) {
            return Ok(());
        }
        let listeners = listeners(&self.model);
        for (place, (name, _)) in &listeners {
            let Some(agent) = agents.get_mut(place) else { continue };
            let heard = agent.heard()?;
            for (probe, seen) in probes.iter().zip(&mut *seen) {
                let source = listeners.get(&probe.from).map(|(_, address)| *address);
                let from = source.filter(|source| heard.contains(&(probe.to, *source)));
                if let (Some(_), Observed::Copies(names)) = (from, seen) {
                    names.insert(name.clone());
                }
            }
        }
        Ok(())
    }

    /// The machine and namespace of a place.
    pub fn place(
        &self,
        place: Location,
    ) -> Result<(&crate::lab::Host, Option<String>), Diagnostic> {
        let intent = self.model.intent();
        Ok(match place {
            Location::Outside => (&self.outside, None),
            Location::Node(id) => (self.node(id)?, None),
            Location::Workload(workload) => {
                let netns = match workload {
                    Workload::Pod(id) => match &intent[id].attachment {
                        Attachment::Netns(netns) => netns.to_string(),
                        Attachment::Interface(interface) => stand_in(interface.as_str()),
                    },
                    Workload::Router(id) => format!("{ROUTER_NETNS_PREFIX}{}", intent[id].name),
                };
                (self.node(self.model.node(workload))?, Some(netns))
            }
        })
    }

    /// An agent in every namespace that sends or receives.
    fn agents(&self, probes: &[Probe]) -> Result<BTreeMap<Location, Agent>, Diagnostic> {
        let mut places: BTreeSet<Location> = probes.iter().map(|probe| probe.from).collect();
        places.insert(Location::Outside);
        places.extend(self.model.intent().nodes().map(|(id, _)| Location::Node(id)));
        places.extend(
            self.model.intent().pods().map(|(id, _)| Location::Workload(Workload::Pod(id))),
        );
        if probes.iter().any(|probe| matches!(probe.want, Expected::Copies(_))) {
            let routers = self.model.intent().routers();
            places.extend(routers.map(|(id, _)| Location::Workload(Workload::Router(id))));
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
        agents: &mut BTreeMap<Location, Agent>,
    ) -> Result<(), Diagnostic> {
        let any = |port| SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, port);
        for (place, agent) in agents.iter_mut() {
            if *place != Location::Outside {
                agent.listen(Transport::Tcp, any(port(POD_PORT)))?;
                agent.listen(Transport::Udp, any(port(POD_PORT)))?;
            }
        }
        let intent = self.model.intent();
        for (protocol, number) in node_access::examples(&self.model) {
            for (id, _) in intent.nodes().filter(|_| u64::from(number) != POD_PORT) {
                agent(agents, Location::Node(id))?.listen(transport(protocol), any(number))?;
            }
        }
        let mut behind: BTreeSet<(Location, Transport, u16)> = BTreeSet::new();
        for port in intent.services().flat_map(|(_, service)| &service.ports) {
            let at = |(workload, to): &(_, Port)| {
                (Location::Workload(*workload), transport(port.protocol), to.get())
            };
            behind.extend(port.backends.iter().map(at));
        }
        // What policies are about needs no service.
        let pods = intent.pods().map(|(id, _)| Workload::Pod(id));
        let pods: BTreeMap<Ipv4Addr, Location> =
            pods.map(|pod| (self.model.endpoint(pod).address, Location::Workload(pod))).collect();
        for probe in probes.iter().filter(|probe| matches!(probe.want, Expected::Answer { .. })) {
            if let Some(place) = pods.get(probe.to.ip()) {
                behind.insert((*place, transport(probe.protocol), probe.to.port()));
            }
        }
        for (place, transport, number) in behind {
            // What comes to a router goes on, or to its proxy.
            let is_router = matches!(place, Location::Workload(Workload::Router(_)));
            let known = u64::from(number) == POD_PORT && transport != Transport::Sctp;
            let other = !is_router && !known;
            if let Some(agent) = agents.get_mut(&place).filter(|_| other) {
                agent.listen(transport, any(number))?;
            }
        }
        let known = |address: &Ipv4Addr| {
            intent.cluster().contains(*address)
                || intent.nodes().any(|(id, node)| {
                    node.address == *address
                        || node.node_port_addresses.contains(address)
                        || self.model.egress_ips_on(id).any(|(ip, _)| ip.address == *address)
                })
        };
        let ports = intent.services().flat_map(|(_, service)| &service.ports);
        let endpoints = ports.flat_map(|port| {
            let at = |(address, to): &(Ipv4Addr, Port)| SocketAddrV4::new(*address, to.get());
            let leads = router_services::targets(&self.model, port);
            port.endpoints
                .iter()
                .map(move |to| (transport(port.protocol), at(to)))
                .chain(leads.into_iter().map(move |at| (transport(port.protocol), at)))
        });
        let single = probes.iter().filter(|probe| !matches!(probe.want, Expected::Copies(_)));
        let targets = single.flat_map(|probe| {
            let at = match &probe.want {
                Expected::Answer { at, .. } => *at,
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
        let outside = agent(agents, Location::Outside)?;
        for (transport, at) in targets {
            outside.listen(transport, at)?;
        }
        for address in servers {
            outside.names(SocketAddrV4::new(address, names::PORT))?;
        }
        Ok(())
    }

    /// Waits until every tunnel carries packets: the first takes about a second.
    fn warm_up(&self, agents: &mut BTreeMap<Location, Agent>) -> Result<(), Diagnostic> {
        let begin = Instant::now();
        let nodes: Vec<NodeId> = self.model.intent().nodes().map(|(id, _)| id).collect();
        for from in &nodes {
            for to in nodes.iter().filter(|to| *to != from) {
                // A node takes nothing from another by the tunnel; its pods do, unless policies forbid
                // it. Where nobody may, nothing goes between the two.
                let Some((place, pod)) = self.across(*from, *to) else { continue };
                let address = self.model.endpoint(pod).address;
                let address = SocketAddrV4::new(address, port(POD_PORT));
                let agent = agent(agents, place)?;
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
pub(super) fn name_servers(model: &Model) -> BTreeSet<Ipv4Addr> {
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
        agents: &mut BTreeMap<Location, Agent>,
    ) -> Result<(), Diagnostic> {
        let mut waiting: BTreeSet<SocketAddrV4> = BTreeSet::new();
        for (id, router) in self.model.intent().routers() {
            let address = self.model.endpoint(Workload::Router(id)).address;
            let ports = proxy::ports(&router.mode);
            waiting.extend(ports.iter().map(|port| SocketAddrV4::new(address, port.get())));
        }
        let begin = Instant::now();
        for probe in probes.iter().filter(|probe| matches!(probe.want, Expected::Answer { .. })) {
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
pub(super) fn again(
    probes: &[Probe],
    agents: &mut BTreeMap<Location, Agent>,
    seen: &mut [Observed],
) -> Result<(), Diagnostic> {
    let answered = |want: &Expected| matches!(want, Expected::Answer { .. } | Expected::Refusal);
    let silent = |seen: &[Observed], (id, probe): &(usize, &Probe)| {
        answered(&probe.want) && seen[*id] == Observed::Silence
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
pub(super) fn agent(
    agents: &mut BTreeMap<Location, Agent>,
    place: Location,
) -> Result<&mut Agent, Diagnostic> {
    agents.get_mut(&place).ok_or_else(|| failed("an agent is missing"))
}

/// What became of the probe that an agent tells about next.
pub(super) fn taken(agent: &mut Agent) -> Result<(usize, Observed), Diagnostic> {
    Ok(match agent.receive()? {
        Reply::Answered { id, from, at } => (id, Observed::Answer { seen_as: from, at }),
        Reply::Refused { id } => (id, Observed::Refusal),
        Reply::Cast { id } => (id, Observed::Copies(BTreeSet::new())),
        Reply::Silent { id, .. } => (id, Observed::Silence),
        other => return Err(failed(&format!("an agent answers out of turn: {other:?}"))),
    })
}

/// A probe as an agent is asked to send it.
pub(super) fn asking(id: usize, probe: &Probe, patience: Duration) -> Request {
    match &probe.fetch {
        None => request(id, transport(probe.protocol), probe.to, patience),
        Some(host) => {
            let milliseconds = u64::try_from(patience.as_millis()).unwrap_or(u64::MAX);
            Request::Fetch { id, proxy: probe.to, host: host.clone(), milliseconds }
        }
    }
}

pub(super) fn request(
    id: usize,
    transport: Transport,
    to: SocketAddrV4,
    patience: Duration,
) -> Request {
    let milliseconds = u64::try_from(patience.as_millis()).unwrap_or(u64::MAX);
    Request::Probe { id, transport, to, milliseconds, source: None }
}

pub(super) fn transport(protocol: Protocol) -> Transport {
    match protocol {
        Protocol::Udp => Transport::Udp,
        Protocol::Tcp => Transport::Tcp,
        Protocol::Sctp => Transport::Sctp,
    }
}
