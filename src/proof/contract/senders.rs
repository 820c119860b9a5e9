//! L1: what enters, and as whom. By a workload's port nothing but its own Ethernet and IP address, with its
//! VNID; by any other port nothing.

use std::rc::Rc;

use super::{Contract, Lemma, Outcome};
use crate::proof::engine::cube::Sender;
use crate::proof::engine::run::Leaf;
use crate::proof::frame::{Field, Range, kind};

/// The senders of the last list, as workloads.
#[derive(Debug, Default)]
pub(super) struct Known {
    list: Option<(Rc<[Sender]>, u64)>,
    /// The workloads of it, in its order.
    pub(super) workloads: Vec<usize>,
    /// Whether there are senders in it that no workload is.
    strangers: bool,
}

impl Known {
    /// Knows nobody any more.
    pub(super) fn forget(&mut self) {
        self.list = None;
    }
}

impl Contract<'_> {
    /// What comes by ports that are not the bridge's own.
    pub(super) fn workload_frames(&mut self, leaf: &Leaf<'_>, got: Outcome) {
        if self.node.gateway_bridge && self.check_outside_interfaces(leaf, got) {
            return;
        }
        self.know(leaf);
        self.count(Lemma::L1);
        if self.known.strangers && got != Outcome::Drop {
            let why = "the sender is no workload of this node, or not as itself".to_owned();
            self.fault(Lemma::L1, leaf, None, (got, Outcome::Drop), why, None);
            return;
        }
        if self.known.workloads.is_empty() {
            return;
        }
        self.by_fragment(leaf, got, |contract, cell| {
            contract.by_class(cell, |contract, cell, class| {
                contract.own_route(leaf, cell, class, got);
            });
        });
    }

    /// Finds out who the senders of a leaf are.
    fn know(&mut self, leaf: &Leaf<'_>) {
        let arp = leaf.cube.get(Field::Kind) == (kind::ARP, kind::ARP);
        if let (Some(list), Some((last, last_arp))) = (&leaf.cube.senders, &self.known.list)
            && Rc::ptr_eq(list, last)
            && *last_arp == u64::from(arp)
        {
            return;
        }
        let dropped = leaf.ends.is_empty();
        self.known.workloads.clear();
        self.known.strangers = false;
        for sender in leaf.cube.each_sender() {
            match self.exact(&sender, arp, dropped) {
                Some(workload) => self.known.workloads.push(workload),
                None => self.stranger(&sender, arp),
            }
        }
        // What is dropped needs no right VNID, so its list is not known for others.
        self.known.list = match &leaf.cube.senders {
            Some(list) if !dropped => Some((Rc::clone(list), arp.into())),
            _ => None,
        };
    }

    /// The workload that a sender is in everything.
    fn exact(&self, sender: &Sender, arp: bool, dropped: bool) -> Option<usize> {
        let one = |number: u64| (number, number);
        let port = usize::try_from(sender.in_port.0).ok()?;
        let index = usize::try_from(*self.by_port.get(port)?).ok()?.checked_sub(1)?;
        let workload = &self.node.workloads[index];
        let own = sender.in_port == one(workload.port)
            && sender.dl_src == one(workload.mac)
            && sender.src == one(workload.address)
            && (!arp || sender.sha == one(workload.mac))
            && (dropped || sender.reg0 == one(self.meaning.vnid(workload.project)));
        own.then_some(index)
    }

    /// The workloads that are among many senders.
    fn stranger(&mut self, sender: &Sender, arp: bool) {
        self.known.strangers = true;
        let within = |range: Range, number: u64| (range.0..=range.1).contains(&number);
        for (workload, index) in self.node.workloads.iter().zip(0..) {
            let among = within(sender.in_port, workload.port)
                && within(sender.dl_src, workload.mac)
                && within(sender.src, workload.address)
                && (!arp || within(sender.sha, workload.mac));
            if among {
                self.known.workloads.push(index);
            }
        }
    }
}
