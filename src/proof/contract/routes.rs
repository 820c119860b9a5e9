//! L2: where what a workload sends goes.

use super::services::Caller;
use super::{Cell, Class, Contract, Lemma, Outcome};
use crate::proof::engine::cube::{Seen, Source};
use crate::proof::engine::run::Leaf;
use crate::proof::frame::{kind, proto};

impl Contract<'_> {
    /// What workloads of this node send to one class of destinations.
    pub(super) fn own_route(
        &mut self,
        leaf: &Leaf<'_>,
        cell: &Cell<'_>,
        class: Class,
        got: Outcome,
    ) {
        let first = self.known.workloads.first().copied();
        let features = self.meaning.features;
        let is_ip = cell.kind == kind::IP;
        let want = match class {
            Class::Service if is_ip && features.services => {
                return self.check_services(leaf, cell, Caller::Workloads, got);
            }
            Class::Multicast if is_ip && features.multicast => return self.check_group(leaf, cell),
            Class::Outside if is_ip && features.services => {
                return self.check_outside(leaf, cell, got);
            }
            Class::Gateway => return self.gateway_route(leaf, cell, first, got, Outcome::Port(2)),
            Class::Workload(to) => return self.own_delivery(leaf, cell, to, got),
            Class::Outside if cell.kind == kind::IP => return self.leaving(leaf, cell, got),
            Class::Remote(node) => Outcome::Tunnel(self.meaning.nodes[node].address),
            _ => Outcome::Drop,
        };
        let lemma = Lemma::L2;
        // Where conntrack may lead, reserved addresses are not: nothing begins there.
        self.lenient = !matches!(leaf.cube.memory.seen, Seen::Not | Seen::Fresh)
            && matches!(class, Class::Reserved | Class::Multicast);
        self.compare(lemma, leaf, cell, first, (got, want), |contract| match class {
            Class::Remote(node) => {
                let node = &contract.meaning.nodes[node];
                (format!("the address is in the subnet of node {}", node.name), Some(node.place))
            }
            Class::Reserved | Class::Multicast => {
                ("groups and reserved addresses are not outside".to_owned(), None)
            }
            _ => ("nobody has the address".to_owned(), None),
        });
        self.lenient = false;
    }

    /// What is for the node's gateway: anything but the port of the tunnels.
    pub(super) fn gateway_route(
        &mut self,
        leaf: &Leaf<'_>,
        cell: &Cell<'_>,
        sender: Option<usize>,
        got: Outcome,
        open: Outcome,
    ) {
        let vxlan = self.meaning.vxlan_port;
        let memory = leaf.cube.memory;
        if self.meaning.features.services
            && cell.kind == kind::IP
            && got == open
            && got != Outcome::Drop
        {
            // The node's processes reach services, too.
            self.count(Lemma::L6);
            if memory.seen == Seen::Not {
                let why = "what comes to the node gets no address of a service".to_owned();
                let at = Some((cell, sender));
                self.fault(Lemma::L6, leaf, at, (got, Outcome::Tracked), why, None);
            }
        }
        let got = if memory.source == Source::Kept { Outcome::Other } else { got };
        self.by_port(cell, &[vxlan, vxlan + 1], |contract, cell| {
            // What comes in parts is dropped by the ruleset, which sees the whole.
            if memory.of_parts && cell.is_port(proto::UDP, vxlan) {
                return;
            }
            let closed = cell.kind == kind::IP && cell.is_port(proto::UDP, vxlan);
            let want = if closed { Outcome::Drop } else { open };
            contract.compare(Lemma::L2, leaf, cell, sender, (got, want), |contract| {
                let why = if closed {
                    "pods can't send to the VXLAN port of nodes"
                } else {
                    "the gateway takes what its node's side sends"
                };
                (why.to_owned(), Some(contract.node.place))
            });
        });
    }

    /// The parts of a cell between numbers of ports, where it has any.
    pub(super) fn by_port(
        &mut self,
        cell: &Cell<'_>,
        bounds: &[u64],
        mut each: impl FnMut(&mut Self, &Cell<'_>),
    ) {
        let (mut from, last) = cell.dst_port;
        if !cell.has_port() {
            return each(self, cell);
        }
        for bound in bounds.iter().copied() {
            if bound <= from || bound > last {
                continue;
            }
            each(self, &Cell { dst_port: (from, bound - 1), ..*cell });
            from = bound;
        }
        each(self, &Cell { dst_port: (from, last), ..*cell });
    }
}
