//! L1, L2 and L3 for what comes by `tun0`: the node itself, and replies that its ruleset has let pass.

use super::services::Caller;
use super::{Cell, Class, Contract, Lemma, Outcome, touch};
use crate::proof::engine::run::Leaf;
use crate::proof::frame::{Field, Range, kind, meet};

/// The mark of what a ruleset has let pass, where the bridge sees marks.
const PASSED: u64 = 0x7266_6e66;

/// As whom the host speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Voice {
    /// As the gateway.
    Gateway,
    /// As a pod.
    Pod,
    /// As somebody outside, with the mark or where there are none.
    Outside,
    /// As somebody outside, without the mark.
    Unmarked,
}

impl Contract<'_> {
    /// What comes by `tun0`.
    pub(super) fn host_frames(&mut self, leaf: &Leaf<'_>, got: Outcome) {
        self.known.workloads.clear();
        self.known.forget();
        let sources: Vec<Range> = leaf.cube.origin().ranges().collect();
        let mark = leaf.cube.get(Field::Mark);
        // Forgotten with the mark is which one it was.
        let marks = if mark == (0, 0) { (PASSED, PASSED) } else { mark };
        let gateway = self.node.gateway;
        let mut voices: Vec<Voice> = Vec::new();
        let speaks = sources.iter().any(|range| touch(*range, (gateway, gateway)));
        voices.extend(speaks.then_some(Voice::Gateway));
        let size = |range: Range| range.1 - range.0 + 1;
        let covered: u64 = sources
            .iter()
            .flat_map(|range| self.meaning.pod_networks.iter().filter_map(|net| meet(*net, *range)))
            .map(size)
            .sum();
        voices.extend((covered > u64::from(speaks)).then_some(Voice::Pod));
        if covered < sources.iter().copied().map(size).sum() {
            let marked = !self.node.kernel || touch(marks, (PASSED, PASSED));
            voices.extend(marked.then_some(Voice::Outside));
            let unmarked = self.node.kernel && marks != (PASSED, PASSED);
            voices.extend(unmarked.then_some(Voice::Unmarked));
        }
        for voice in voices {
            self.by_fragment(leaf, got, |contract, cell| {
                contract.by_class(cell, |contract, cell, class| {
                    contract.host_route(leaf, cell, class, voice, got);
                });
            });
        }
    }

    fn host_route(
        &mut self,
        leaf: &Leaf<'_>,
        cell: &Cell<'_>,
        class: Class,
        voice: Voice,
        got: Outcome,
    ) {
        let features = self.meaning.features;
        let own = voice == Voice::Gateway;
        let heard = own || voice == Voice::Outside && cell.kind == kind::IP;
        let got = if leaf.cube.get(Field::Reg0) == (0, 0) || got == Outcome::Drop {
            got
        } else {
            Outcome::Other
        };
        let is_ip = cell.kind == kind::IP;
        let operation = leaf.cube.get(Field::ArpOp);
        let (lemma, want) = match class {
            Class::Service if own && features.services && is_ip => {
                return self.check_services(leaf, cell, Caller::Node, got);
            }
            // The node asks for services on `tun0`.
            Class::Service if own && features.services && touch(operation, (1, 1)) && !is_ip => {
                (Lemma::L6, Outcome::Answered)
            }
            // What the node sends to itself never comes here; it would be led like a packet of its own.
            Class::Outside if own && features.node_ports && matches!(got, Outcome::Group(_)) => {
                return;
            }
            Class::Outside if own && features.node_ports && got == Outcome::Port(2) => return,
            Class::Remote(node) if voice == Voice::Outside && features.egress_ips && is_ip => {
                return self.replies_for_others(leaf, cell, node, got);
            }
            Class::Workload(to) if heard => return self.delivery(leaf, cell, to, (0, 0), got),
            Class::Remote(node) if own => {
                (Lemma::L2, Outcome::Tunnel(self.meaning.nodes[node].address))
            }
            _ => (if heard { Lemma::L2 } else { Lemma::L1 }, Outcome::Drop),
        };
        self.compare(lemma, leaf, cell, None, (got, want), |contract| {
            let why = match voice {
                Voice::Gateway => "the node speaks as its gateway, to pods alone",
                Voice::Pod => "what comes from the host is no pod's",
                Voice::Outside => "replies from outside are for this node's pods alone",
                Voice::Unmarked => "the node's ruleset has not let it pass",
            };
            (why.to_owned(), Some(contract.node.place))
        });
    }
}
