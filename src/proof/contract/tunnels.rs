//! L4: what comes by a tunnel comes from a node, and ends here.

use super::{Cell, Class, Contract, Lemma, Outcome};
use crate::proof::engine::run::Leaf;
use crate::proof::frame::{Field, kind};

impl Contract<'_> {
    /// What comes by `vxlan0`.
    pub(super) fn tunnel_frames(&mut self, leaf: &Leaf<'_>, got: Outcome) {
        let known = leaf.cube.tunnel.ranges().map(|(first, last)| {
            let ends = &self.meaning.tunnel_ends;
            let begin = ends.partition_point(|end| *end < first);
            let end = ends.partition_point(|end| *end <= last);
            let own = (first..=last).contains(&self.node.address);
            (end - begin) as u64 - u64::from(own)
        });
        let known: u64 = known.sum();
        self.count(Lemma::L1);
        if got != Outcome::Drop && known < leaf.cube.tunnel.count() {
            let why = "a tunnel that is no other node's gets in".to_owned();
            self.fault(Lemma::L1, leaf, None, (got, Outcome::Drop), why, None);
            return;
        }
        if known == 0 {
            return;
        }
        let vnids = if leaf.cube.memory.reg0_is_vni {
            leaf.cube.get(Field::Reg0)
        } else {
            Field::Reg0.domain()
        };
        self.known.workloads.clear();
        self.known.forget();
        self.by_fragment(leaf, got, |contract, cell| {
            contract.by_class(cell, |contract, cell, class| {
                contract.tunnel_route(leaf, cell, class, vnids, got);
            });
        });
    }

    fn tunnel_route(
        &mut self,
        leaf: &Leaf<'_>,
        cell: &Cell<'_>,
        class: Class,
        vnids: (u64, u64),
        got: Outcome,
    ) {
        let features = self.meaning.features;
        match class {
            Class::Gateway => self.gateway_route(leaf, cell, None, got, Outcome::Port(2)),
            Class::Workload(to) => self.delivery(leaf, cell, to, vnids, got),
            Class::Multicast if features.multicast && cell.kind == kind::IP => {
                self.group_from_tunnel(leaf, cell, vnids);
            }
            Class::Outside if features.egress_ips && cell.kind == kind::IP => {
                self.leaving_for_others(leaf, cell, vnids, got);
            }
            // Their own nodes let nothing out to reserved addresses.
            Class::Reserved if features.egress_ips && cell.kind == kind::IP => {}
            _ => {
                let why = |_: &Self| ("what came by a tunnel ends on this node".to_owned(), None);
                self.compare(Lemma::L4, leaf, cell, None, (got, Outcome::Drop), why);
            }
        }
    }
}
