//! L9: egress IPs. A pod leaves by one node that may hold an address of its project; that one takes just these
//! pods' packets from the tunnel, and lets the replies to them through. That both mean the same pods is
//! compared when all nodes have been looked at.

use std::collections::{BTreeMap, BTreeSet};

use super::{Cell, Contract, Fault, Lemma, Outcome};
use crate::proof::engine::run::Leaf;
use crate::proof::frame::{Field, address};
use crate::proof::meaning::Meaning;

/// What one node says of egress IPs.
#[derive(Clone, Debug, Default)]
pub struct Claims {
    /// By pod, the nodes by which it leaves.
    pub leaves_by: BTreeMap<u64, BTreeSet<usize>>,
    /// By pod, the address that it gets here.
    pub held: BTreeMap<u64, u64>,
    /// The addresses of this node.
    pub addresses: BTreeSet<u64>,
}

impl Contract<'_> {
    /// Whether a workload of this node has an egress IP.
    pub(super) fn has_egress_ip(&self, from: usize) -> bool {
        let workload = &self.node.workloads[from];
        !workload.router && self.meaning.egress_ips.contains_key(&workload.project)
    }

    /// Where workloads with egress IPs leave.
    pub(super) fn leaving_node(&mut self, leaf: &Leaf<'_>, cell: &Cell<'_>, got: Outcome) {
        let by = match got {
            Outcome::Port(2) => Some(self.index),
            Outcome::Tunnel(to) => self.meaning.nodes.iter().position(|node| node.address == to),
            _ => return,
        };
        let own = self.node.address;
        let near = cell.dst.contains(own);
        let only_near = cell.dst.single() == Some(own);
        let workloads = std::mem::take(&mut self.known.workloads);
        for &from in &workloads {
            self.count(Lemma::L9);
            if !self.has_egress_ip(from) {
                if by != Some(self.index) {
                    let why = format!("{} has no egress IP", self.node.workloads[from].name);
                    let outcomes = (got, Outcome::Port(2));
                    self.fault(Lemma::L9, leaf, Some((cell, Some(from))), outcomes, why, None);
                }
                continue;
            }
            let workload = &self.node.workloads[from];
            let list = &self.meaning.egress_ips[&workload.project];
            let may = by.is_some_and(|by| list.addresses.values().any(|nodes| nodes.contains(&by)));
            let elsewhere = by != Some(self.index);
            if elsewhere && near || !only_near && !may {
                let dst = if elsewhere && near { own } else { cell.dst.hull().0 };
                let dst = crate::proof::engine::cube::Set::new((dst, dst));
                let cell = Cell { dst: &dst, ..*cell };
                let why = if elsewhere && near {
                    format!("{} reaches its own node from there", workload.name)
                } else {
                    format!("no node there may hold an egress IP of {}", workload.name)
                };
                let want = if near { Outcome::Port(2) } else { Outcome::Other };
                let place = Some(list.place);
                self.fault(Lemma::L9, leaf, Some((&cell, Some(from))), (got, want), why, place);
            } else if let Some(by) = by.filter(|_| !only_near) {
                self.claims.leaves_by.entry(workload.address).or_default().insert(by);
            }
        }
        self.known.workloads = workloads;
    }

    /// What comes by a tunnel for the outside, with any VNID of a range.
    pub(super) fn leaving_for_others(
        &mut self,
        leaf: &Leaf<'_>,
        cell: &Cell<'_>,
        vnids: (u64, u64),
        got: Outcome,
    ) {
        let sources = &leaf.cube.src;
        let got = match got {
            Outcome::Port(2) if leaf.cube.memory.eth_dst != Some(self.gateway_mac()) => {
                Outcome::Other
            }
            _ => got,
        };
        self.count(Lemma::L9);
        let held: Vec<(u64, u64)> = self
            .claims
            .held
            .keys()
            // Those of this node come by no tunnel.
            .filter(|pod| self.meaning.node_of(**pod) != Some(self.index))
            .filter(|pod| sources.contains(**pod))
            .filter_map(|pod| self.project_of(*pod).map(|(_, vnid)| (*pod, vnid)))
            .filter(|(_, vnid)| (vnids.0..=vnids.1).contains(vnid))
            .collect();
        let all = sources.count().saturating_mul(vnids.1 - vnids.0 + 1);
        let at = Some((cell, None));
        if got != Outcome::Port(2) && !held.is_empty() {
            let why = format!("{} leaves by this node", address(held[0].0));
            self.fault(Lemma::L9, leaf, at, (got, Outcome::Port(2)), why, None);
        }
        if got != Outcome::Drop && all > held.len() as u64 {
            let why = "others leave by their own nodes".to_owned();
            self.fault(Lemma::L9, leaf, at, (got, Outcome::Drop), why, None);
        }
    }

    /// Replies from outside for workloads of other nodes.
    pub(super) fn replies_for_others(
        &mut self,
        leaf: &Leaf<'_>,
        cell: &Cell<'_>,
        node: usize,
        got: Outcome,
    ) {
        let held: Vec<u64> =
            self.claims.held.keys().copied().filter(|pod| cell.dst.contains(*pod)).collect();
        let to = Outcome::Tunnel(self.meaning.nodes[node].address);
        let each = |address: &u64| (*address, to);
        let mut wanted: Vec<(u64, Outcome)> = held.iter().map(each).collect();
        if cell.dst.count() > held.len() as u64 {
            let others = cell.dst.ranges().flat_map(|(first, last)| first..=last);
            let other = others.into_iter().find(|address| held.binary_search(address).is_err());
            wanted.extend(other.map(|other| (other, Outcome::Drop)));
        }
        for (dst, want) in wanted {
            let dst = crate::proof::engine::cube::Set::new((dst, dst));
            let cell = Cell { dst: &dst, ..*cell };
            self.compare(Lemma::L9, leaf, &cell, None, (got, want), |contract| {
                let why = "replies pass to the pods that leave by this node, and to no others";
                (why.to_owned(), Some(contract.node.place))
            });
        }
    }

    /// Project and VNID of a workload of any node.
    pub(super) fn project_of(&self, address: u64) -> Option<(usize, u64)> {
        let node = &self.meaning.nodes[self.meaning.node_of(address)?];
        let at = node.workloads.binary_search_by_key(&address, |workload| workload.address).ok()?;
        let project = node.workloads[at].project;
        Some((project, self.meaning.vnid(project)))
    }

    /// The map of the ruleset and the addresses of the node, each by itself.
    pub fn holds(&mut self, held: BTreeMap<u64, u64>, addresses: BTreeSet<u64>) {
        self.claims.held = held;
        self.claims.addresses = addresses;
        for (pod, address) in self.claims.held.clone() {
            self.count(Lemma::L9);
            let list =
                self.project_of(pod).and_then(|(project, _)| self.meaning.egress_ips.get(&project));
            let right = list
                .and_then(|list| list.addresses.get(&address))
                .is_some_and(|nodes| nodes.contains(&self.index))
                && self.claims.addresses.contains(&address);
            if !right {
                let why = format!(
                    "{} gets {}, which is none of its project that this node may hold and has",
                    crate::proof::frame::address(pod),
                    crate::proof::frame::address(address)
                );
                self.plain_fault(Lemma::L9, why);
            }
        }
    }
}

/// Compares what the nodes say.
#[must_use]
pub fn agree(meaning: &Meaning, nodes: &[(usize, Claims)]) -> (u64, Vec<(usize, Fault)>) {
    let (mut checked, mut faults) = (0, Vec::new());
    let mut wrong = |index: usize, why: String| {
        faults.push((index, Fault::plain(Lemma::L9, why, meaning.nodes[index].place)));
    };
    let mut holders: BTreeMap<u64, usize> = BTreeMap::new();
    for (index, claims) in nodes {
        for held in &claims.addresses {
            checked += 1;
            if let Some(other) = holders.insert(*held, *index) {
                let other = &meaning.nodes[other].name;
                wrong(*index, format!("{} is held here and by {other}", address(*held)));
            }
        }
    }
    let by_node: BTreeMap<usize, &Claims> =
        nodes.iter().map(|(index, claims)| (*index, claims)).collect();
    for (index, claims) in nodes {
        for workload in &meaning.nodes[*index].workloads {
            let list = meaning.egress_ips.get(&workload.project).filter(|_| !workload.router);
            if list.is_none() {
                continue;
            }
            checked += 1;
            let by: Vec<usize> =
                claims.leaves_by.get(&workload.address).into_iter().flatten().copied().collect();
            match by[..] {
                // Nothing of it leaves: its policy is closed.
                [] => {}
                [by] => {
                    let there =
                        by_node.get(&by).map(|claims| claims.held.contains_key(&workload.address));
                    if there == Some(false) {
                        let holder = &meaning.nodes[by].name;
                        wrong(
                            *index,
                            format!(
                                "{} leaves by {holder}, which gives it no address",
                                workload.name
                            ),
                        );
                    }
                }
                _ => wrong(*index, format!("{} leaves by several nodes", workload.name)),
            }
        }
    }
    (checked, faults)
}

/// The VNIDs of a leaf that came by a tunnel.
#[must_use]
pub fn vnids(leaf: &Leaf<'_>) -> (u64, u64) {
    if leaf.cube.memory.reg0_is_vni { leaf.cube.get(Field::Reg0) } else { Field::Reg0.domain() }
}
