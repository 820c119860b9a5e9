//! L3: a workload gets what its own network, global workloads and nodes send, and nothing else.

use super::{Cell, Contract, Lemma, Outcome};
use crate::proof::engine::cube::Source;
use crate::proof::engine::run::Leaf;

impl Contract<'_> {
    /// What workloads of this node send to another of it.
    pub(super) fn own_delivery(
        &mut self,
        leaf: &Leaf<'_>,
        cell: &Cell<'_>,
        to: usize,
        got: Outcome,
    ) {
        let target = &self.node.workloads[to];
        let vnid = self.meaning.vnid(target.project);
        let got = self.received(leaf, to, got);
        if self.known.workloads[..] == [to] {
            return self.check_hairpin(leaf, cell, to, got);
        }
        let memory = leaf.cube.memory;
        // As from a service, or back, a packet goes to its own sender alone.
        let got = match got {
            Outcome::Port(_) if memory.source == Source::Kept || memory.turned => Outcome::Other,
            _ => got,
        };
        self.untracked(leaf, cell, to, got);
        let arrived = got == Outcome::Port(target.port);
        self.checked[Lemma::L3 as usize] += self.known.workloads.len() as u64;
        let wrong = self.known.workloads.iter().copied().find(|from| {
            // To itself, a bridge sends nothing back.
            let meant =
                self.meaning.reaches(self.meaning.vnid(self.node.workloads[*from].project), vnid);
            *from != to && (meant != arrived || got != Outcome::Drop && !arrived)
        });
        if let Some(from) = wrong {
            let sender = &self.node.workloads[from];
            let meant = self.meaning.reaches(self.meaning.vnid(sender.project), vnid);
            let want = if meant { Outcome::Port(target.port) } else { Outcome::Drop };
            let why = format!(
                "{} and {} are {}",
                sender.name,
                target.name,
                if meant { "in one network, or one is global" } else { "in networks apart" }
            );
            let place = Some(target.place);
            self.fault(Lemma::L3, leaf, Some((cell, Some(from))), (got, want), why, place);
        }
    }

    /// An outcome at a workload, whose Ethernet address a frame may get on its way.
    pub(super) fn received(&self, leaf: &Leaf<'_>, to: usize, got: Outcome) -> Outcome {
        match (got, leaf.cube.memory.eth_dst) {
            (Outcome::Port(_), Some(mac)) if mac != self.node.workloads[to].mac => Outcome::Other,
            _ => got,
        }
    }

    /// What comes with any VNID of a range for a workload of this node.
    pub(super) fn delivery(
        &mut self,
        leaf: &Leaf<'_>,
        cell: &Cell<'_>,
        to: usize,
        vnids: (u64, u64),
        got: Outcome,
    ) {
        let target = &self.node.workloads[to];
        let vnid = self.meaning.vnid(target.project);
        let got = self.received(leaf, to, got);
        let memory = leaf.cube.memory;
        let got = match got {
            Outcome::Port(_) if memory.source == Source::Kept || memory.turned => Outcome::Other,
            _ => got,
        };
        self.untracked(leaf, cell, to, got);
        let within = |number: u64| (vnids.0..=vnids.1).contains(&number);
        let all = !self.meaning.isolates || vnid == 0;
        let meant = all || within(0) || within(vnid);
        let size = vnids.1 - vnids.0 + 1;
        let distinct = u64::from(within(0)) + u64::from(within(vnid) && vnid != 0);
        let others = !all && size > distinct;
        let arrives = Outcome::Port(target.port);
        let why = |contract: &Self| {
            let target = &contract.node.workloads[to];
            let why = format!("{} takes VNID 0 and its own, {vnid}", target.name);
            (why, Some(target.place))
        };
        if meant {
            self.compare(Lemma::L3, leaf, cell, None, (got, arrives), why);
        }
        if others {
            self.compare(Lemma::L3, leaf, cell, None, (got, Outcome::Drop), why);
        }
    }
}
