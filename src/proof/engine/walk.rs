//! A table: cuts a cube into parts of which each meets one flow.

use std::collections::BTreeMap;
use std::ops::Range as Indices;

use super::cube::Cube;
use crate::proof::frame::{FIELDS, Field, Range, meet};
use crate::proof::read::flows::{Flow, Flows};

/// What a part meets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Met {
    /// The flow at this index.
    Flow(usize),
    /// Two flows of one priority that do different things: Open vSwitch may take either.
    Either(usize, usize),
    /// No flow: dropped.
    Nothing,
}

/// The parts of a field in the order of their numbers, each with the flows that take it.
#[derive(Debug, Default)]
struct Sweep {
    /// The flows without a condition.
    wild: Vec<u32>,
    /// Where parts begin.
    bounds: Vec<u64>,
    /// The ranges of the other flows.
    starts: Vec<(Range, u32)>,
    next: usize,
    open: Vec<(u64, u32)>,
}

impl Sweep {
    fn part(&self, number: usize, last: u64) -> Range {
        (self.bounds[number], self.bounds.get(number + 1).map_or(last, |next| next - 1))
    }

    /// The flows that take a part, by falling priority. Parts are asked for in rising order.
    fn active(&mut self, number: usize) -> Vec<u32> {
        let bound = self.bounds[number];
        while let Some(((first, last), flow)) = self.starts.get(self.next) {
            if *first > bound {
                break;
            }
            self.open.push((*last, *flow));
            self.next += 1;
        }
        self.open.retain(|(last, _)| *last >= bound);
        let mut active = Vec::with_capacity(self.wild.len() + self.open.len());
        active.extend_from_slice(&self.wild);
        active.extend(self.open.iter().map(|(_, flow)| *flow));
        // Flows are numbered by falling priority.
        active.sort_unstable();
        active
    }
}

/// The tables of a bridge.
#[derive(Debug)]
pub struct Tables<'f> {
    /// The flows.
    pub flows: &'f Flows,
    by_number: BTreeMap<u8, Indices<usize>>,
    /// The range of each field that each flow has, side by side.
    ranges: Vec<[Range; FIELDS]>,
}

impl<'f> Tables<'f> {
    /// The tables of these flows.
    #[must_use]
    pub fn new(flows: &'f Flows) -> Self {
        let mut tables: BTreeMap<u8, Indices<usize>> = BTreeMap::new();
        for (index, flow) in flows.flows.iter().enumerate() {
            let table = tables.entry(flow.table).or_insert(index..index);
            table.end = index + 1;
        }
        let ranges = flows.flows.iter().map(|flow| {
            let mut ranges = Field::ALL.map(Field::domain);
            for (field, range) in flows.conditions(flow) {
                ranges[*field as usize] = *range;
            }
            ranges
        });
        Self { flows, by_number: tables, ranges: ranges.collect() }
    }

    fn flow(&self, index: u32) -> &Flow {
        &self.flows.flows[index as usize]
    }

    fn range(&self, index: u32, field: Field) -> Range {
        self.ranges[index as usize][field as usize]
    }

    /// Cuts a cube in a table; `emit` gets each part once.
    pub fn walk(&self, table: u8, cube: Cube, emit: &mut dyn FnMut(Cube, Met)) {
        let indices = self.by_number.get(&table).cloned().unwrap_or_default();
        let active: Vec<u32> =
            indices.map(|index| u32::try_from(index).unwrap_or(u32::MAX)).collect();
        self.cut(&active, 0, cube, emit);
    }

    /// The part of `active` that a cube can meet at `field` and behind it.
    fn cut(&self, active: &[u32], at: usize, cube: Cube, emit: &mut dyn FnMut(Cube, Met)) {
        let Some(first) = active.first() else { return emit(cube, Met::Nothing) };
        let left = u32::MAX << at;
        if self.flow(*first).mask & left == 0 {
            return emit(cube.clone(), self.met(active, &cube));
        }
        // A flow that takes all of what is left ends the list, but for those of its priority.
        let last = active.iter().position(|flow| self.flow(*flow).mask & left == 0);
        let active = match last {
            Some(last) => {
                let priority = self.flow(active[last]).priority;
                let equal =
                    active[last..].iter().take_while(|flow| self.flow(**flow).priority == priority);
                &active[..last + equal.count()]
            }
            None => active,
        };
        let mask = active.iter().fold(0, |mask, flow| mask | self.flow(*flow).mask) & left;
        let at = mask.trailing_zeros() as usize;
        let field = Field::ALL[at];
        if cube.listed(field) {
            return self.cut_list(active, at, &cube, emit);
        }
        let range = cube.get(field);
        if range.0 == range.1 {
            let hit = |flow: &&u32| meet(self.range(**flow, field), range).is_some();
            let active: Vec<u32> = active.iter().filter(hit).copied().collect();
            return self.cut(&active, at + 1, cube, emit);
        }
        let mut sweep = self.sweep(active, field, range);
        for number in 0..sweep.bounds.len() {
            let part = sweep.part(number, range.1);
            let here = sweep.active(number);
            if let Some(cube) = cube.clip(field, part) {
                self.cut(&here, at + 1, cube, emit);
            }
        }
    }

    /// Where the ranges of flows begin or end in `range`.
    fn sweep(&self, active: &[u32], field: Field, range: Range) -> Sweep {
        let mut sweep = Sweep { bounds: vec![range.0], ..Sweep::default() };
        for flow in active {
            if self.flow(*flow).mask & field.bit() == 0 {
                sweep.wild.push(*flow);
                continue;
            }
            let Some(both) = meet(self.range(*flow, field), range) else { continue };
            sweep.starts.push((both, *flow));
            sweep.bounds.push(both.0);
            if both.1 < range.1 {
                sweep.bounds.push(both.1 + 1);
            }
        }
        sweep.bounds.sort_unstable();
        sweep.bounds.dedup();
        sweep.starts.sort_unstable();
        sweep
    }

    /// The same for a field of the senders: each goes with those of the same part.
    fn cut_list(&self, active: &[u32], at: usize, cube: &Cube, emit: &mut dyn FnMut(Cube, Met)) {
        let field = Field::ALL[at];
        let last = field.domain().1;
        let mut sweep = self.sweep(active, field, field.domain());
        let bounds = &sweep.bounds;
        let mut parts: BTreeMap<usize, Vec<super::cube::Sender>> = BTreeMap::new();
        for sender in cube.each_sender() {
            let range = sender.get(field);
            let mut part = bounds.partition_point(|bound| *bound <= range.0) - 1;
            while let Some(from) = bounds.get(part).filter(|from| **from <= range.1) {
                let to = sweep.part(part, last).1;
                let mut sender = sender;
                sender.set(field, (range.0.max(*from), range.1.min(to)));
                parts.entry(part).or_default().push(sender);
                part += 1;
            }
        }
        for (part, senders) in parts {
            let here = sweep.active(part);
            let cube = Cube { senders: Some(senders.into()), ..cube.clone() };
            self.cut(&here, at + 1, cube, emit);
        }
    }

    /// What a cube meets that the first of `active` takes whole.
    fn met(&self, active: &[u32], cube: &Cube) -> Met {
        let index = |flow: u32| flow as usize;
        let first = active[0];
        let (flow, actions) = (self.flow(first), self.flows.actions(self.flow(first)));
        for other in &active[1..] {
            let rival = self.flow(*other);
            if rival.priority != flow.priority {
                break;
            }
            let meets = |field: Field| {
                let range = self.range(*other, field);
                if cube.listed(field) {
                    cube.each_sender().any(|sender| meet(sender.get(field), range).is_some())
                } else {
                    meet(cube.get(field), range).is_some()
                }
            };
            if self.flows.actions(rival) != actions && Field::ALL.into_iter().all(meets) {
                return Met::Either(index(first), index(*other));
            }
        }
        Met::Flow(index(first))
    }
}
