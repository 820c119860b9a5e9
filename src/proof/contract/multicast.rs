//! L7: who gets copies of what is sent to a group: each other member of the sender's network once.

use super::{Cell, Contract, Lemma, Outcome};
use crate::proof::engine::cube::{Answer, Source};
use crate::proof::engine::run::{End, Leaf};

impl Contract<'_> {
    /// The ports of this node's members of a network.
    fn members(&self, vnid: u64) -> Vec<End> {
        if !self.meaning.multicast.contains_key(&vnid) {
            return Vec::new();
        }
        let own = self
            .node
            .workloads
            .iter()
            .filter(|workload| !workload.router && self.meaning.vnid(workload.project) == vnid);
        own.map(|workload| End::Port(workload.port)).collect()
    }

    /// The copies that a leaf makes, but for what goes back by one port.
    fn copies(leaf: &Leaf<'_>, port: Option<u64>) -> Option<Vec<End>> {
        let memory = leaf.cube.memory;
        let plain = !memory.odd
            && memory.source == Source::Own
            && memory.eth_dst.is_none()
            && memory.answer == Answer::default()
            && !memory.forgot_in_port;
        let mut ends: Vec<End> = leaf
            .ends
            .iter()
            .copied()
            .filter(|end| port.is_none_or(|port| *end != End::Port(port)))
            .collect();
        ends.sort_unstable();
        plain.then_some(ends)
    }

    /// What workloads of this node send to a group.
    pub(super) fn check_group(&mut self, leaf: &Leaf<'_>, cell: &Cell<'_>) {
        let workloads = std::mem::take(&mut self.known.workloads);
        for &from in &workloads {
            let sender = &self.node.workloads[from];
            let vnid = self.meaning.vnid(sender.project);
            let mut want: Vec<End> = Vec::new();
            if !sender.router
                && let Some(nodes) = self.meaning.multicast.get(&vnid)
            {
                want = self.members(vnid);
                let own = End::Port(sender.port);
                want.retain(|end| *end != own);
                let others = nodes.iter().filter(|node| **node != self.index);
                want.extend(others.map(|node| End::Tunnel(self.meaning.nodes[*node].address)));
                want.sort_unstable();
            }
            self.count(Lemma::L7);
            let got = Self::copies(leaf, Some(sender.port));
            if got.as_ref() != Some(&want) {
                let why = format!(
                    "what {} sends to a group is copied {} times, and should be {}",
                    sender.name,
                    leaf.ends.len(),
                    want.len()
                );
                let (got, want) = (several(leaf.ends), several(&want));
                let place = Some(sender.place);
                self.fault(Lemma::L7, leaf, Some((cell, Some(from))), (got, want), why, place);
            }
        }
        self.known.workloads = workloads;
    }

    /// What comes by a tunnel for a group, with any VNID of a range.
    pub(super) fn group_from_tunnel(
        &mut self,
        leaf: &Leaf<'_>,
        cell: &Cell<'_>,
        vnids: (u64, u64),
    ) {
        let got = Self::copies(leaf, None);
        let within: Vec<u64> =
            self.meaning.multicast.range(vnids.0..=vnids.1).map(|(vnid, _)| *vnid).collect();
        let mut wanted: Vec<Vec<End>> = Vec::new();
        for vnid in &within {
            let mut want = self.members(*vnid);
            want.sort_unstable();
            wanted.push(want);
        }
        if vnids.1 - vnids.0 + 1 > within.len() as u64 {
            wanted.push(Vec::new());
        }
        for want in wanted {
            self.count(Lemma::L7);
            if got.as_ref() != Some(&want) {
                let why = "copies are for this node's members of the sender's network".to_owned();
                let outcomes = (several(leaf.ends), several(&want));
                self.fault(Lemma::L7, leaf, Some((cell, None)), outcomes, why, None);
            }
        }
    }
}

/// Copies as an outcome.
fn several(ends: &[End]) -> Outcome {
    match ends {
        [] => Outcome::Drop,
        [End::Port(port)] => Outcome::Port(*port),
        [End::Tunnel(to)] => Outcome::Tunnel(*to),
        _ => Outcome::Other,
    }
}
