//! L11 on the bridge: by the patch to the gateway bridge goes what an egress router's outside interface sends with
//! its own addresses, and comes what is for these.

use super::{Contract, Lemma, Outcome};
use crate::proof::engine::run::{End, Leaf};
use crate::proof::frame::{Field, kind};

impl Contract<'_> {
    /// The egress routers of this node with an outside interface on the bridge.
    fn at_patch(&self) -> Vec<(u64, u64, u64)> {
        let own = self.meaning.routers.iter().filter(|router| router.node == self.index);
        own.filter_map(|router| Some((router.port?, router.source, router.gateway))).collect()
    }

    /// What comes by the patch.
    pub(super) fn patch_frames(&mut self, leaf: &Leaf<'_>, got: Outcome) {
        let cube = leaf.cube;
        let routers = self.at_patch();
        let plain = leaf.cube.memory == crate::proof::engine::cube::Memory::default();
        let ip = cube.get(Field::Kind) == (kind::IP, kind::IP);
        let arp = cube.get(Field::Kind) == (kind::ARP, kind::ARP);
        self.count(Lemma::L11);
        let to = |end: &End| match end {
            End::Port(port) => routers.iter().find(|(own, ..)| own == port),
            _ => None,
        };
        if got != Outcome::Drop {
            let dst = cube.dst.single();
            let for_source = |end: &End| to(end).is_some_and(|(_, source, _)| Some(*source) == dst);
            // A host that moves to another Ethernet address says so to everybody.
            let announced = arp && dst.is_some() && cube.src.single() == dst;
            let right = plain
                && (ip || arp)
                && leaf.ends.iter().all(|end| for_source(end) || announced && to(end).is_some());
            if !right {
                let why =
                    "by the patch comes only what is for the source of an egress router".to_owned();
                self.fault(Lemma::L11, leaf, None, (got, Outcome::Drop), why, None);
            }
        }
        for (port, source, gateway) in &routers {
            let arrives = leaf.ends.contains(&End::Port(*port));
            let meant = (ip || arp) && cube.dst.contains(*source);
            let moved = arp
                && cube.src.single() == Some(*gateway)
                && cube.dst.single() == Some(*gateway)
                && routers.iter().all(|(_, other, _)| other != gateway);
            if !arrives && (meant || moved) {
                let why = "an egress router gets what is for its source".to_owned();
                self.fault(Lemma::L11, leaf, None, (got, Outcome::Port(*port)), why, None);
            }
        }
    }

    /// What an outside interface sends. True where the leaf has such a sender, and is done.
    pub(super) fn check_outside_interfaces(&mut self, leaf: &Leaf<'_>, got: Outcome) -> bool {
        let cube = leaf.cube;
        let within = |range: (u64, u64), number: u64| (range.0..=range.1).contains(&number);
        let arp = cube.get(Field::Kind) == (kind::ARP, kind::ARP);
        let carried = arp || cube.get(Field::Kind) == (kind::IP, kind::IP);
        let plain = leaf.cube.memory == crate::proof::engine::cube::Memory::default();
        let mut own = 0;
        for (port, source, _) in self.at_patch() {
            let mac = 0x0a58 << 32 | source;
            for sender in cube.each_sender().filter(|sender| within(sender.in_port, port)) {
                self.count(Lemma::L11);
                let itself = carried
                    && within(sender.dl_src, mac)
                    && within(sender.src, source)
                    && (!arp || within(sender.sha, mac));
                let one = |number: u64| (number, number);
                let exact = itself
                    && plain
                    && sender.in_port == one(port)
                    && sender.dl_src == one(mac)
                    && sender.src == one(source)
                    && (!arp || sender.sha == one(mac));
                own += usize::from(exact);
                let want = if itself { Outcome::Port(3) } else { Outcome::Drop };
                if got == Outcome::Port(3) && !exact || itself && got != Outcome::Port(3) {
                    let why = "the outside interface of an egress router sends as itself alone"
                        .to_owned();
                    let want = if got == want { Outcome::Drop } else { want };
                    self.fault(Lemma::L11, leaf, None, (got, want), why, None);
                    return true;
                }
            }
        }
        if got == Outcome::Port(3) && own < cube.each_sender().count() {
            let why =
                "to the patch leads only the outside interface of an egress router".to_owned();
            self.fault(Lemma::L11, leaf, None, (got, Outcome::Drop), why, None);
        }
        got == Outcome::Port(3)
    }
}
