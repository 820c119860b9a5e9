//! While a roll-out is under way, some nodes run other policies than others.

use super::meaning::{allowed_at_receiver, allowed_at_sender, pairs};
use super::worlds;
use crate::properties::{Arrival, Fabric};
use crate::world;
use ringfence::intent::NodeId;
use ringfence::lower::{ClusterFlows, Plan};

/// What an end closes in both generations stays closed in every mixture of nodes, and what both
/// generations leave open at both ends stays open.
#[test]
fn no_mixture_of_generations_opens_what_an_end_closes_in_both() {
    let (mut closed, mut open) = (0, 0);
    for seed in 0..80 {
        let before = worlds::yaml(seed);
        let after = worlds::with_other_policies(&before, seed + 7000);
        let (first, _) = world::locked(vec![before], &world::fresh(), false);
        let (old, lock) = first.unwrap();
        let (second, _) = world::locked(vec![after], &lock, false);
        let (new, _) = second.unwrap();
        let (old_common, new_common) =
            (ClusterFlows::new(&old).unwrap(), ClusterFlows::new(&new).unwrap());
        let nodes: Vec<NodeId> = old.intent().nodes().map(|(id, _)| id).collect();
        for mixture in 0..1_usize << nodes.len() {
            let mut fabric = Fabric::new(&old_common);
            for (number, node) in nodes.iter().enumerate() {
                if mixture >> number & 1 == 1 {
                    fabric.plans.insert(*node, Plan::of(&new_common, *node).unwrap());
                }
            }
            for (from, to, transport, frame, place) in pairs(&old) {
                let models = [&old, &new];
                let sender = models.map(|m| allowed_at_sender(m, from, to, transport));
                let receiver = models.map(|m| allowed_at_receiver(m, from, to, transport));
                let arrivals = fabric.spread(old.node(from), &frame);
                let arrives = arrivals == [place];
                if sender == [false; 2] || receiver == [false; 2] {
                    closed += 1;
                    let nowhere = arrivals.iter().all(|arrival| *arrival == Arrival::Nowhere);
                    assert!(nowhere, "cluster {seed}, nodes {mixture:b}: {from:?} {to:?}");
                } else if sender == [true; 2] && receiver == [true; 2] {
                    open += 1;
                    assert!(arrives, "cluster {seed}, nodes {mixture:b}: {from:?} {to:?}");
                }
            }
        }
    }
    assert!(closed > 1000 && open > 1000, "{closed} {open}");
}
