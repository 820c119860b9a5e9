//! L5: what leaves the cluster, by the first rule of its project's policy that matches.

use super::{Cell, Contract, Lemma, Outcome};
use crate::diagnostic::Place;
use crate::proof::engine::run::Leaf;
use crate::proof::frame::{frag, proto};
use crate::proof::meaning::Said;

/// The port of DNS.
const DNS: u64 = 53;

impl Contract<'_> {
    /// What workloads of this node send outside.
    pub(super) fn leaving(&mut self, leaf: &Leaf<'_>, cell: &Cell<'_>, got: Outcome) {
        if self.meaning.features.egress_ips {
            self.leaving_node(leaf, cell, got);
        }
        // Senders of one leaf mostly have one project; each policy is asked once.
        let workloads = std::mem::take(&mut self.known.workloads);
        let mut asked: Vec<Option<usize>> = Vec::new();
        for &from in &workloads {
            let policy = self.meaning.projects[self.node.workloads[from].project].policy;
            if !asked.contains(&policy) {
                asked.push(policy);
                self.check_policy(leaf, cell, from, policy, got);
            }
        }
        self.known.workloads = workloads;
    }

    fn check_policy(
        &mut self,
        leaf: &Leaf<'_>,
        cell: &Cell<'_>,
        from: usize,
        policy: Option<usize>,
        got: Outcome,
    ) {
        let own = self.node.address;
        let mut bounds: Vec<u64> = Vec::new();
        let hull = cell.dst.hull();
        if let Some(policy) = policy {
            let all = &self.meaning.policies[policy].bounds;
            let begin = all.partition_point(|bound| *bound <= hull.0);
            let end = all.partition_point(|bound| *bound <= hull.1);
            bounds.extend_from_slice(&all[begin..end]);
        }
        if matches!(cell.proto, proto::TCP | proto::UDP) {
            bounds.extend([own, own + 1].into_iter().filter(|b| *b > hull.0 && *b <= hull.1));
            bounds.sort_unstable();
        }
        let mut start = hull.0;
        bounds.push(hull.1 + 1);
        let ports = if cell.has_port() { self.port_bounds(policy, cell) } else { Vec::new() };
        for bound in bounds {
            if bound == start {
                continue;
            }
            if let Some(dst) = cell.dst.clip((start, bound - 1)) {
                self.by_port(&Cell { dst: &dst, ..*cell }, &ports, |contract, cell| {
                    contract.leaving_cell(leaf, cell, from, policy, got);
                });
            }
            start = bound;
        }
    }

    /// Where what is said may change with the port, within a cell.
    fn port_bounds(&self, policy: Option<usize>, cell: &Cell<'_>) -> Vec<u64> {
        let (first, last) = cell.dst_port;
        if first == last {
            return Vec::new();
        }
        let vxlan = self.meaning.vxlan_port;
        let mut bounds = vec![DNS, DNS + 1, vxlan, vxlan + 1];
        let rules = policy.iter().flat_map(|policy| &self.meaning.policies[*policy].rules);
        for (protocol, ports) in rules.flat_map(|rule| &rule.ports) {
            if let (true, Some((first, last))) = (*protocol == cell.proto, ports) {
                bounds.extend([*first, last + 1]);
            }
        }
        bounds.retain(|bound| *bound > first && *bound <= last);
        bounds.sort_unstable();
        bounds.dedup();
        bounds
    }

    fn leaving_cell(
        &mut self,
        leaf: &Leaf<'_>,
        cell: &Cell<'_>,
        from: usize,
        policy: Option<usize>,
        got: Outcome,
    ) {
        let (dst, port) = (cell.dst.hull().0, cell.dst_port.0);
        let later = cell.frag == frag::LATER;
        let dns = dst == self.node.address
            && matches!(cell.proto, proto::TCP | proto::UDP)
            && (later || cell.has_port() && port == DNS);
        let said = if dns {
            Said { allowed: true, rule: None }
        } else {
            self.meaning.leaves(policy, dst, cell.proto, later, port)
        };
        let want = if said.allowed { Outcome::Port(2) } else { Outcome::Drop };
        if !cell.is_port(proto::UDP, self.meaning.vxlan_port) {
            return self.leaves_as(leaf, cell, from, (got, want), said);
        }
        // The nodes are among many; none of them may be reached.
        let ends = &self.meaning.tunnel_ends;
        let nodes: Vec<u64> = cell
            .dst
            .ranges()
            .flat_map(|(first, last)| {
                let begin = ends.partition_point(|end| *end < first);
                let end = ends.partition_point(|end| *end <= last);
                ends[begin..end].iter().copied()
            })
            .collect();
        if let (Some(node), true) = (nodes.first(), got != Outcome::Drop) {
            let dst = crate::proof::engine::cube::Set::new((*node, *node));
            let cell = Cell { dst: &dst, ..*cell };
            self.count(Lemma::L5);
            let why = "pods can't send to the VXLAN port of nodes".to_owned();
            let at = Some((&cell, Some(from)));
            self.fault(Lemma::L5, leaf, at, (got, Outcome::Drop), why, None);
        }
        if cell.dst.count() > nodes.len() as u64 {
            let free = cell.dst.ranges().flat_map(|(first, last)| first..=last);
            let free = free.into_iter().find(|address| nodes.binary_search(address).is_err());
            let free = free.unwrap_or(dst);
            let dst = crate::proof::engine::cube::Set::new((free, free));
            self.leaves_as(leaf, &Cell { dst: &dst, ..*cell }, from, (got, want), said);
        }
    }

    fn leaves_as(
        &mut self,
        leaf: &Leaf<'_>,
        cell: &Cell<'_>,
        from: usize,
        (got, want): (Outcome, Outcome),
        said: Said,
    ) {
        // Through which node it leaves is said by another lemma.
        let elsewhere = self.meaning.features.egress_ips && matches!(got, Outcome::Tunnel(_));
        let got = if elsewhere { Outcome::Port(2) } else { got };
        self.compare(Lemma::L5, leaf, cell, Some(from), (got, want), |contract| {
            contract.because(said, from)
        });
    }

    fn because(&self, said: Said, from: usize) -> (String, Option<Place>) {
        let workload = &self.node.workloads[from];
        match said.rule {
            Some((policy, rule)) => {
                let rule = &self.meaning.policies[policy].rules[rule];
                let project = &self.meaning.projects[workload.project].name;
                (format!("the policy of {project} says: {}", rule.text), Some(rule.place))
            }
            None => ("no rule closes it".to_owned(), Some(workload.place)),
        }
    }
}
