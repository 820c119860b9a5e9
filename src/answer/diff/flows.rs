//! Which flows a change touches on which nodes.

use std::collections::BTreeSet;

use rayon::prelude::*;

use crate::diagnostic::Diagnostic;
use crate::intent::NodeId;
use crate::lower::{ClusterFlows, Plan};
use crate::model::Model;

/// The flows of a node that differ.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Touched {
    /// The node.
    pub node: String,
    /// Flows that it gets.
    pub added: usize,
    /// Flows that it loses.
    pub removed: usize,
    /// How many it has then.
    pub total: usize,
}

/// The nodes with flows that differ, by name. Compiles the flows of both states.
pub fn touched(old: &Model, new: &Model) -> Result<Vec<Touched>, Diagnostic> {
    let (before, after) = rayon::join(|| ClusterFlows::new(old), || ClusterFlows::new(new));
    let (before, after) = (before?, after?);
    let ids = |model: &Model| -> Vec<(String, NodeId)> {
        model.intent().nodes().map(|(id, node)| (node.name.to_string(), id)).collect()
    };
    let (first, second) = (ids(old), ids(new));
    let find = |list: &[(String, NodeId)], name: &str| {
        let found = list.binary_search_by(|(other, _)| other.as_str().cmp(name));
        found.ok().map(|index| list[index].1)
    };
    let names: BTreeSet<&String> = first.iter().chain(&second).map(|(name, _)| name).collect();
    let names: Vec<&String> = names.into_iter().collect();
    let compared = names.par_iter().map(|name| {
        let was = text(&before, find(&first, name))?;
        let now = text(&after, find(&second, name))?;
        if was == now {
            return Ok(None);
        }
        let (removed, added) = differing(&lines(&was), &lines(&now));
        let total = lines(&now).len();
        let node = (*name).clone();
        Ok((added + removed > 0).then_some(Touched { node, added, removed, total }))
    });
    let compared: Vec<Option<Touched>> = compared.collect::<Result<_, Diagnostic>>()?;
    Ok(compared.into_iter().flatten().collect())
}

fn text(common: &ClusterFlows<'_>, node: Option<NodeId>) -> Result<Vec<u8>, Diagnostic> {
    let mut text = Vec::new();
    if let Some(node) = node {
        Plan::of(common, node)?.flows.write(&mut text, |_, _| {});
    }
    Ok(text)
}

/// The flows, without their comments, sorted.
fn lines(text: &[u8]) -> Vec<&[u8]> {
    let flow = |line: &'_ [u8]| -> usize {
        line.windows(3).position(|part| part == b" # ").unwrap_or(line.len())
    };
    let mut lines: Vec<&[u8]> = text
        .split(|byte| *byte == b'\n')
        .filter(|line| !line.is_empty())
        .map(|line| &line[..flow(line)])
        .collect();
    lines.sort_unstable();
    lines
}

/// How many lines only the first has, and only the second.
fn differing(first: &[&[u8]], second: &[&[u8]]) -> (usize, usize) {
    let (mut a, mut b) = (0, 0);
    let (mut only_first, mut only_second) = (0, 0);
    while a < first.len() && b < second.len() {
        match first[a].cmp(second[b]) {
            std::cmp::Ordering::Equal => {
                a += 1;
                b += 1;
            }
            std::cmp::Ordering::Less => {
                a += 1;
                only_first += 1;
            }
            std::cmp::Ordering::Greater => {
                b += 1;
                only_second += 1;
            }
        }
    }
    (only_first + first.len() - a, only_second + second.len() - b)
}
