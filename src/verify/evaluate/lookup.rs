//! Which flow of a table a frame meets, conjunctions included.
//!
//! As Open vSwitch does it (`classifier_lookup__`): a flow that names dimensions of conjunctions matches
//! by itself nothing, but takes part in them. Of those above the best plain flow, the highest priority
//! is tried first. Where all dimensions of a conjunction are met there, its number stands for the
//! packet in a second lookup, in which no conjunction takes part.

use std::collections::BTreeMap;

use super::{Frame, Registers, matches};
use crate::dataplane::openflow::{Action, Flow, FlowTable};
use crate::pipeline::Table;

/// The flow that decides about a frame in a table.
pub(super) fn lookup<'f, 'm>(
    flows: &'f FlowTable<'m>,
    table: Table,
    frame: &Frame,
    registers: &Registers,
) -> Option<&'f Flow<'m>> {
    let mut plain: Option<&Flow<'_>> = None;
    let mut soft: BTreeMap<u16, Vec<&Flow<'_>>> = BTreeMap::new();
    for flow in flows.table(table).filter(|flow| matches(&flow.matches, frame, registers)) {
        if dimensions(flow).next().is_some() {
            soft.entry(flow.priority).or_default().push(flow);
        } else if plain.is_none_or(|best| flow.priority > best.priority) {
            plain = Some(flow);
        }
    }
    for (priority, flows_there) in soft.into_iter().rev() {
        if plain.is_some_and(|plain| plain.priority >= priority) {
            break;
        }
        let Some(id) = met(&flows_there) else { continue };
        let with_id = Registers { conjunction: Some(id), ..*registers };
        let plain_ones = flows.table(table).filter(|flow| dimensions(flow).next().is_none());
        return plain_ones
            .filter(|flow| matches(&flow.matches, frame, &with_id))
            .reduce(|best, flow| if flow.priority > best.priority { flow } else { best });
    }
    plain
}

/// A conjunction of which these flows meet every dimension.
fn met(flows: &[&Flow<'_>]) -> Option<u32> {
    let mut found: BTreeMap<u32, u64> = BTreeMap::new();
    for (id, dimension, of) in flows.iter().flat_map(|flow| dimensions(flow)) {
        let dimensions = found.entry(id).or_default();
        *dimensions |= 1 << (dimension - 1);
        if dimensions.count_ones() == u32::from(of) {
            return Some(id);
        }
    }
    None
}

/// The dimensions of conjunctions that a flow names.
fn dimensions<'f>(flow: &'f Flow<'_>) -> impl Iterator<Item = (u32, u8, u8)> + 'f {
    flow.actions.iter().filter_map(|action| match action {
        Action::Conjunction { id, dimension, of } => Some((*id, *dimension, *of)),
        _ => None,
    })
}
