//! L1, L2 and L3 for what comes by `tun0`: the node itself, and replies that its ruleset has let pass.

use super::{Cell, Class, Contract, Lemma, Outcome, touch};
use crate::proof::engine::run::Leaf;
use crate::proof::frame::{Field, Range, kind};

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
        let src = leaf.cube.get(Field::Src);
        let mark = leaf.cube.get(Field::Mark);
        // Forgotten with the mark is which one it was.
        let marks = if mark == (0, 0) { (PASSED, PASSED) } else { mark };
        let mut voices: Vec<Voice> = Vec::new();
        if touch(src, (self.node.gateway, self.node.gateway)) {
            voices.push(Voice::Gateway);
        }
        let gateway = self.node.gateway;
        let pods = self.meaning.pod_networks.iter().any(|network| {
            let size = |range: Range| range.1 - range.0 + 1;
            let own = (network.0..=network.1).contains(&gateway);
            crate::proof::frame::meet(*network, src).is_some_and(|both| {
                size(both) > u64::from(own && (both.0..=both.1).contains(&gateway))
            })
        });
        voices.extend(pods.then_some(Voice::Pod));
        let covered: u64 = self
            .meaning
            .pod_networks
            .iter()
            .filter_map(|network| crate::proof::frame::meet(*network, src))
            .map(|both| both.1 - both.0 + 1)
            .sum();
        if covered < src.1 - src.0 + 1 {
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
        let (lemma, want) = match class {
            Class::Workload(to) if heard => return self.delivery(leaf, cell, to, (0, 0), got),
            Class::Remote(node) if own => {
                (Lemma::L2, Outcome::Tunnel(self.meaning.nodes[node].address))
            }
            Class::Service if own && features.services => return,
            Class::Outside if own && features.node_ports => return,
            Class::Remote(_) if features.egress_ips => return,
            Class::Multicast if own && features.multicast => return,
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
