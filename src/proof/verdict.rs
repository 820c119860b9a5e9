//! All nodes together: what is proven, what is refuted, and what is neither.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use rayon::prelude::*;

use super::contract::{Fault, Lemma, Outcome, egress_ips};
use super::frame::{Field, Point, address, frag, kind, mac, proto};
use super::meaning::Meaning;
use super::node::{self, Proven, Text};
use super::read::Unread;
use crate::diagnostic::Place;

/// How a proof ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Everything holds.
    Proven,
    /// Something could not be read or told.
    NotProven,
    /// Something does not hold.
    Refuted,
}

/// A violated lemma on one or several nodes.
#[derive(Clone, Debug)]
pub struct Finding {
    /// The lemma.
    pub lemma: Lemma,
    /// The first node.
    pub node: String,
    /// How many nodes have the like.
    pub nodes: usize,
    /// The frame, for people.
    pub frame: Option<String>,
    /// What the files do.
    pub got: String,
    /// What is meant.
    pub want: String,
    /// Why.
    pub why: String,
    /// Where that stands.
    pub place: Option<Place>,
    /// The flows on the way: line of the node's `flows.ofctl`, and table.
    pub flows: Vec<(u32, u8)>,
    /// Whether the plain evaluator sees the same.
    pub confirmed: bool,
}

/// What was found out about all nodes.
#[derive(Debug)]
pub struct Summary {
    /// The verdict.
    pub verdict: Verdict,
    /// The violated lemmas.
    pub findings: Vec<Finding>,
    /// How many more findings there are.
    pub more: u64,
    /// What could not be read.
    pub unread: Vec<Unread>,
    /// What is not proven, and why.
    pub not_proven: Vec<(Lemma, String)>,
    /// The cells that each lemma has compared.
    pub checked: [u64; 12],
    /// Nodes.
    pub nodes: usize,
    /// Flows.
    pub flows: u64,
    /// Parts of all frames.
    pub leaves: u64,
    /// Flows that no frame meets.
    pub unmet: u64,
}

/// The most findings that are shown.
const SHOWN: usize = 10;

/// Proves all nodes whose files are below a directory.
#[must_use]
pub fn prove(meaning: &Meaning, out: &Path) -> Summary {
    let cache = node::Cache::default();
    let nodes: Vec<Proven> = (0..meaning.nodes.len())
        .into_par_iter()
        .map(|index| {
            let name = &meaning.nodes[index].name;
            match Text::read(&out.join(name), name) {
                Ok(text) => node::prove_with(meaning, index, &text, &cache),
                Err(unread) => Proven { unread: vec![unread], ..Proven::default() },
            }
        })
        .collect();
    summary(meaning, nodes)
}

/// Puts together what was found out about the nodes.
#[must_use]
pub fn summary(meaning: &Meaning, nodes: Vec<Proven>) -> Summary {
    let mut summary = Summary {
        verdict: Verdict::Proven,
        findings: Vec::new(),
        more: 0,
        unread: Vec::new(),
        not_proven: uncovered(meaning),
        checked: [0; 12],
        nodes: nodes.len(),
        flows: 0,
        leaves: 0,
        unmet: 0,
    };
    let mut alike: BTreeMap<(Lemma, String, String), usize> = BTreeMap::new();
    let mut unknown = BTreeSet::new();
    let mut nodes = nodes;
    if meaning.features.egress_ips {
        let read = nodes.iter_mut().enumerate().filter(|(_, node)| node.unread.is_empty());
        let claims: Vec<_> =
            read.map(|(index, node)| (index, std::mem::take(&mut node.claims))).collect();
        let (checked, faults) = egress_ips::agree(meaning, &claims);
        summary.checked[Lemma::L9 as usize] += checked;
        for (index, fault) in faults {
            nodes[index].faults.push((fault, None));
            nodes[index].lines.push(Vec::new());
        }
    }
    for (index, proven) in nodes.into_iter().enumerate() {
        summary.flows += proven.flows;
        summary.leaves += proven.leaves;
        summary.unmet += proven.unmet.len() as u64;
        for (sum, more) in summary.checked.iter_mut().zip(proven.checked) {
            *sum += more;
        }
        summary.unread.extend(proven.unread);
        unknown.extend(proven.unknown);
        summary.more += proven.more;
        for ((fault, trace), flows) in proven.faults.into_iter().zip(proven.lines) {
            let finding = finding(meaning, index, &fault, trace.as_ref(), flows);
            let key = (finding.lemma, finding.why.clone(), finding.got.clone());
            if let Some(found) = alike.get(&key) {
                let found = &mut summary.findings[*found];
                found.nodes += usize::from(found.node != finding.node);
                continue;
            }
            if summary.findings.len() == SHOWN {
                summary.more += 1;
                continue;
            }
            alike.insert(key, summary.findings.len());
            summary.findings.push(finding);
        }
    }
    summary.not_proven.extend(unknown.into_iter().map(|why| (Lemma::L2, why)));
    summary.verdict = if !summary.findings.is_empty() {
        Verdict::Refuted
    } else if !summary.unread.is_empty() || !summary.not_proven.is_empty() {
        Verdict::NotProven
    } else {
        Verdict::Proven
    };
    summary
}

/// Whether the rulesets of the nodes have only what their lemma speaks of.
#[must_use]
pub fn has_plain_ruleset(meaning: &Meaning) -> bool {
    let features = meaning.features;
    !(features.services || features.node_ports || features.egress_ips)
}

/// What no lemma speaks of yet, for this desired state.
fn uncovered(meaning: &Meaning) -> Vec<(Lemma, String)> {
    let features = meaning.features;
    let mut not_proven = Vec::new();
    let mut say = |used: bool, lemma: Lemma, why: &str| {
        if used {
            not_proven.push((lemma, why.to_owned()));
        }
    };
    say(features.network_policies, Lemma::L3, "network policies");
    say(!has_plain_ruleset(meaning), Lemma::L10, "the rulesets of the nodes");
    say(features.routers, Lemma::L11, "what egress routers forward");
    not_proven
}

fn finding(
    meaning: &Meaning,
    index: usize,
    fault: &Fault,
    trace: Option<&super::engine::point::Trace>,
    flows: Vec<(u32, u8)>,
) -> Finding {
    let node = &meaning.nodes[index];
    let shown = |outcome: Outcome| match outcome {
        Outcome::Drop => "is dropped".to_owned(),
        Outcome::Port(2) => "leaves by tun0".to_owned(),
        Outcome::Port(port) => {
            let found = node.workloads.iter().find(|workload| workload.port == port);
            let whose = found.map_or(String::new(), |workload| format!(", {}", workload.name));
            format!("leaves by port {port}{whose}")
        }
        Outcome::Tunnel(to) => {
            let found = meaning.nodes.iter().find(|node| node.address == to);
            let whose = found.map_or("nobody".to_owned(), |node| format!("node {}", node.name));
            format!("goes through the tunnel to {} ({whose})", address(to))
        }
        Outcome::Group(_) => "is led to a target of a service".to_owned(),
        Outcome::Refused => "is refused by the node".to_owned(),
        Outcome::Answered => "is answered".to_owned(),
        Outcome::Tracked => "passes conntrack".to_owned(),
        Outcome::Other => "goes on changed, or to several".to_owned(),
    };
    let confirmed =
        fault.frame.is_none() || trace.is_some_and(|trace| confirms(trace, fault.got, fault.want));
    Finding {
        lemma: fault.lemma,
        node: node.name.clone(),
        nodes: 1,
        frame: fault.frame.as_ref().map(|point| describe(meaning, index, point)),
        got: if fault.frame.is_some() { shown(fault.got) } else { String::new() },
        want: if fault.frame.is_some() { shown(fault.want) } else { String::new() },
        why: fault.why.clone(),
        place: fault.place,
        flows,
        confirmed,
    }
}

/// Whether one frame's way shows the same.
fn confirms(trace: &super::engine::point::Trace, got: Outcome, want: Outcome) -> bool {
    use super::engine::point::Exit;
    let seen = match trace.exits[..] {
        [] => Outcome::Drop,
        [Exit::Port(2)] if got == Outcome::Refused => Outcome::Refused,
        [Exit::Port(port)] => Outcome::Port(port),
        [Exit::Tunnel(to, _)] => Outcome::Tunnel(to),
        _ => Outcome::Other,
    };
    // Which targets a group has was read, and behind it a copy goes on.
    matches!(got, Outcome::Group(_)) && trace.group.is_some()
        || seen == got
        || got == Outcome::Other && trace.group.is_some()
        || got == Outcome::Other && (seen != want || trace.eth_dst.is_some())
        || got == Outcome::Other && matches!(seen, Outcome::Tunnel(_))
}

/// A frame in words.
fn describe(meaning: &Meaning, index: usize, point: &Point) -> String {
    let get = |field: Field| point.get(field);
    let node = &meaning.nodes[index];
    let named = |number: u64| {
        let node = meaning.node_of(number).map(|node| &meaning.nodes[node]);
        let workload = node.and_then(|node| {
            let at = node.workloads.binary_search_by_key(&number, |workload| workload.address);
            at.ok().map(|at| &node.workloads[at])
        });
        let name = workload.map_or(String::new(), |workload| format!(" ({})", workload.name));
        format!("{}{name}", address(number))
    };
    let entry = match get(Field::InPort) {
        1 => format!("tunnel from {} with VNI {}", address(get(Field::TunSrc)), get(Field::Reg0)),
        2 => "tun0".to_owned(),
        port => {
            let found = node.workloads.iter().find(|workload| workload.port == port);
            found.map_or(format!("port {port}"), |found| format!("port {port}, {}", found.name))
        }
    };
    let tag = if get(Field::Tagged) == 1 { ", tagged" } else { "" };
    let mark = match get(Field::Mark) {
        0 => String::new(),
        mark => format!(", mark {mark:#x}"),
    };
    let what = match get(Field::Kind) {
        kind::IP => {
            let l4 = usize::try_from(get(Field::Proto)).unwrap_or(0);
            let part = usize::try_from(get(Field::Frag)).unwrap_or(0);
            let port = match get(Field::Proto) {
                proto::TCP | proto::UDP | proto::SCTP if get(Field::Frag) <= frag::FIRST => {
                    format!(":{}", get(Field::DstPort))
                }
                _ => String::new(),
            };
            format!(
                "{} -> {}{port}, {}{}",
                named(get(Field::Src)),
                named(get(Field::Dst)),
                proto::NAMES[l4],
                frag::NAMES[part]
            )
        }
        kind::ARP => format!(
            "ARP of {} ({}) for {}",
            named(get(Field::Src)),
            mac(get(Field::Sha)),
            named(get(Field::Dst))
        ),
        _ => "neither IP nor ARP".to_owned(),
    };
    format!("{what}; by {entry}, Ethernet source {}{tag}{mark}", mac(get(Field::DlSrc)))
}
