//! L2: where what a workload sends goes.

use super::{Cell, Class, Contract, Lemma, Outcome};
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
        let want = match class {
            Class::Gateway => return self.gateway_route(leaf, cell, first, got, Outcome::Port(2)),
            Class::Workload(to) => return self.own_delivery(leaf, cell, to, got),
            Class::Outside if cell.kind == kind::IP => return self.leaving(leaf, cell, got),
            Class::Service | Class::Multicast if self.is_for_others(cell, class) => return,
            Class::Remote(node) => Outcome::Tunnel(self.meaning.nodes[node].address),
            _ => Outcome::Drop,
        };
        let lemma = Lemma::L2;
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
    }

    /// What is the business of a lemma about services or multicast.
    fn is_for_others(&mut self, cell: &Cell<'_>, class: Class) -> bool {
        let features = self.meaning.features;
        cell.kind == kind::IP
            && match class {
                Class::Service => features.services,
                _ => features.multicast,
            }
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
        self.by_port(cell, &[vxlan, vxlan + 1], |contract, cell| {
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
