//! What happens to what is sent to an egress router, by a service in front of it.

use std::net::SocketAddrV4;

use super::{Expected, Planner, names};
use crate::intent::{EgressRouter, RouterMode, ServicePort, Upstream};
use crate::model::{Model, Workload};
use crate::value::{Port, Protocol};

/// What a client of a service in front of routers meets.
pub(super) struct Way {
    /// The host that a proxy is asked for.
    pub(super) fetch: Option<String>,
    pub(super) want: Expected,
}

/// Where a router leads a port, where that is a fixed place.
fn leads_to(router: &EgressRouter, protocol: Protocol, port: Port) -> Option<SocketAddrV4> {
    match &router.mode {
        RouterMode::Redirect { destinations, fallback } => {
            let mut listed = destinations.iter();
            let listed = listed.find(|d| (d.protocol, d.port) == (protocol, port));
            let listed = listed.map(|d| SocketAddrV4::new(d.to, d.to_port.get()));
            listed.or_else(|| Some(SocketAddrV4::new((*fallback)?, port.get())))
        }
        RouterMode::HttpProxy { .. } => None,
        RouterMode::DnsProxy { ports, .. } => {
            let listed = ports.iter().find(|listed| listed.port == port)?;
            let to = match &listed.to {
                Upstream::Address(address) => *address,
                Upstream::Name(name) => names::address(name.as_str()),
            };
            Some(SocketAddrV4::new(to, listed.to_port.get()))
        }
    }
}

/// The hosts outside that a port of a service leads to by egress routers.
pub(super) fn targets(model: &Model, port: &ServicePort) -> Vec<SocketAddrV4> {
    let targets = port.backends.iter().filter_map(|(workload, to)| match workload {
        Workload::Pod(_) => None,
        Workload::Router(id) => leads_to(&model.intent()[*id], port.protocol, *to),
    });
    targets.collect()
}

impl Planner<'_> {
    /// The way through the routers behind a port of a service, if there are any and whoever asks may
    /// use them. Where there are others too, anybody may answer.
    pub(super) fn through_routers(
        &self,
        protocol: Protocol,
        backends: &[(Workload, Port)],
        allowed: bool,
    ) -> Option<Way> {
        let intent = self.model.intent();
        let is_router = |(workload, port): &(Workload, Port)| match workload {
            Workload::Pod(_) => None,
            Workload::Router(id) => Some((&intent[*id], *port)),
        };
        let (router, port) = backends.iter().find_map(is_router).filter(|_| allowed)?;
        let alone = backends.len() == 1;
        if let RouterMode::HttpProxy { .. } = router.mode {
            // A proxy that is asked for a host that it leads to.
            let mut entries = self.entries(router).into_iter();
            let entry =
                entries.find(|e| e.fetch.is_some() && matches!(e.want, Expected::Answer { .. }));
            let entry = entry?;
            let anybody = Expected::Answer { seen_as: None, at: None };
            let want = if alone { entry.want } else { anybody };
            return Some(Way { fetch: entry.fetch, want });
        }
        let at = leads_to(router, protocol, port).filter(|_| alone);
        Some(Way { fetch: None, want: Expected::Answer { seen_as: at.map(|_| router.source), at } })
    }
}
