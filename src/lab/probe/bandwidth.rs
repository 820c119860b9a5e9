//! Probes of bandwidth.

use std::net::SocketAddrV4;

use super::{
    Expected, FIRST_FLOOD, Location, MOST_BITS, MOST_FLOODS, Planner, Probe, UNLIMITED_BITS,
};
use crate::intent::PodId;
use crate::model::Workload;
use crate::value::{Bandwidth, Protocol};

impl Planner<'_> {
    /// Every limit that the lab has time for, from and to a pod of the same project, and that
    /// others are not limited.
    pub(super) fn bandwidths(&mut self) {
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
}

impl Planner<'_> {
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
        let address = model.endpoint(Workload::Pod(to)).address;
        let (a, b) = (intent.pod_name(from), intent.pod_name(to));
        self.probes.push(Probe {
            fetch: None,
            title: format!("{a} to {b}, as much as it can"),
            from: Location::Workload(Workload::Pod(from)),
            to: SocketAddrV4::new(address, FIRST_FLOOD + number),
            protocol: Protocol::Udp,
            want: Expected::Rate { bits, sent },
            because,
        });
    }
}
