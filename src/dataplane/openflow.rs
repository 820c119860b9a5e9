//! OpenFlow flows as types: what can be built can be loaded, and prints as Open vSwitch prints it.
//!
//! A match on addresses or ports lies inside of the match on its protocol, so it can't be written
//! without it; a [`FlowTable`] takes `goto` only upwards and no two flows that would shadow each
//! other. The text of a flow is canonical: `ovs-ofctl dump-flows --no-stats` gives it back.

mod action;
mod group;
mod matches;

pub use action::Action;
pub(crate) use group::free_number;
pub use group::{Bucket, Group, PrintedGroup, group_number};
pub use matches::{
    AddressBits, ArpMatch, CtState, Fragment, IpMatch, L4, MaskedAddress, MaskedPort, Match,
    Packet, PolicyState, port_masks,
};

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};

use crate::dataplane::origin::ObjectRef;
use crate::pipeline::Table;

/// One flow.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Flow<'m> {
    /// The table it is in.
    pub table: Table,
    /// Which of several matching flows wins: the highest. Not 32768, which prints differently.
    pub priority: u16,
    /// The packets that it takes.
    pub matches: Match,
    /// What happens to them; an empty list drops them.
    pub actions: Vec<Action>,
    /// The object that it stands for, which gives it its cookie.
    pub subject: &'m ObjectRef,
    /// What else it serves, for its comment: other objects may need it too.
    pub also: Vec<&'m str>,
}

impl Flow<'_> {
    /// Appends the flow as Open vSwitch prints it, without a line end.
    pub fn write(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(b"cookie=");
        write_hex(out, self.subject.cookie.get());
        out.extend_from_slice(b", table=");
        write_number(out, self.table.number().into());
        out.extend_from_slice(b", priority=");
        write_number(out, self.priority.into());
        self.matches.write(out);
        out.extend_from_slice(b" actions=");
        if self.actions.is_empty() {
            out.extend_from_slice(b"drop");
        }
        for (number, action) in self.actions.iter().enumerate() {
            if number > 0 {
                out.push(b',');
            }
            action.write(out);
        }
    }
}

impl Flow<'_> {
    /// Appends the flow with its object as a comment and a line end.
    fn write_line(&self, out: &mut Vec<u8>) {
        self.write(out);
        out.extend_from_slice(b" # ");
        out.extend_from_slice(self.subject.name.as_bytes());
        for (number, name) in self.also.iter().enumerate() {
            out.extend_from_slice(if number == 0 { b" | " } else { b", " });
            out.extend_from_slice(name.as_bytes());
        }
        out.push(b'\n');
    }

    /// What identifies the flow in its table, as a number.
    fn key(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        (self.priority, &self.matches).hash(&mut hasher);
        hasher.finish()
    }

    fn check(&self) -> Result<(), InvalidFlow> {
        let down = |action: &Action| match action {
            Action::Goto(to) | Action::Recirculate(to, _) => *to <= self.table,
            _ => false,
        };
        if self.actions.iter().any(down) {
            return Err(InvalidFlow::GotoDown);
        }
        let recirculates = |action: &Action| {
            matches!(
                action,
                Action::Recirculate(..) | Action::TrackForPolicies(_) | Action::CommitForPolicies
            )
        };
        if !matches!(self.matches.packet, Packet::Ip(_)) && self.actions.iter().any(recirculates) {
            return Err(InvalidFlow::NotIp);
        }
        if self.priority == 32768 {
            return Err(InvalidFlow::DefaultPriority);
        }
        Ok(())
    }
}

/// Why a flow was refused. This is a fault of a lowering, never of the input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InvalidFlow {
    /// A `goto` to the same or an earlier table.
    GotoDown,
    /// A second flow with the same table, priority and match.
    Duplicate,
    /// Conntrack for what may not be IP.
    NotIp,
    /// A priority that Open vSwitch doesn't print.
    DefaultPriority,
    /// A flow of another table than those it comes with.
    OtherTable,
}

/// Flows that several bridges have alike: checked and printed once.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SharedFlows<'m> {
    flows: Vec<Flow<'m>>,
    keys: Vec<u64>,
    text: Vec<u8>,
    /// Where the text of each flow ends.
    ends: Vec<usize>,
}

/// A part of a [`SharedFlows`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SharedSlice<'m> {
    flows: &'m [Flow<'m>],
    keys: &'m [u64],
    text: &'m [u8],
}

impl<'m> SharedFlows<'m> {
    /// Checks and prints flows of one table.
    pub fn new(flows: Vec<Flow<'m>>) -> Result<Self, Box<(Flow<'m>, InvalidFlow)>> {
        let mut section = Self { flows, ..Self::default() };
        for flow in &section.flows {
            flow.check().map_err(|refused| Box::new((flow.clone(), refused)))?;
            if section.flows.first().is_some_and(|first| first.table != flow.table) {
                return Err(Box::new((flow.clone(), InvalidFlow::OtherTable)));
            }
            section.keys.push(flow.key());
            flow.write_line(&mut section.text);
            section.ends.push(section.text.len());
        }
        Ok(section)
    }

    /// All flows.
    #[must_use]
    pub fn all(&self) -> SharedSlice<'_> {
        SharedSlice { flows: &self.flows, keys: &self.keys, text: &self.text }
    }

    /// The flows before the one numbered `index`, and those behind it.
    #[must_use]
    pub fn around(&self, index: usize) -> [SharedSlice<'_>; 2] {
        let begin = index.checked_sub(1).map_or(0, |before| self.ends[before]);
        let end = self.ends[index];
        [
            SharedSlice {
                flows: &self.flows[..index],
                keys: &self.keys[..index],
                text: &self.text[..begin],
            },
            SharedSlice {
                flows: &self.flows[index + 1..],
                keys: &self.keys[index + 1..],
                text: &self.text[end..],
            },
        ]
    }
}

/// Flows of a table that belong to one bridge, or to several.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Segment<'m> {
    Own(Vec<Flow<'m>>),
    Shared(SharedSlice<'m>),
}

/// The flows of one bridge, by table, each table in the order in which its lowering wrote it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FlowTable<'m> {
    tables: BTreeMap<Table, Vec<Segment<'m>>>,
    groups: Vec<&'m PrintedGroup<'m>>,
}

impl<'m> FlowTable<'m> {
    /// Adds a flow behind those of the same table.
    pub fn push(&mut self, flow: Flow<'m>) {
        let runs = self.tables.entry(flow.table).or_default();
        match runs.last_mut() {
            Some(Segment::Own(flows)) => flows.push(flow),
            _ => runs.push(Segment::Own(vec![flow])),
        }
    }

    /// Adds flows that other bridges have too behind those of the same table.
    pub fn push_shared(&mut self, slice: SharedSlice<'m>) {
        if let Some(first) = slice.flows.first() {
            self.tables.entry(first.table).or_default().push(Segment::Shared(slice));
        }
    }

    /// Takes the groups that flows may name, by number.
    pub fn set_groups(&mut self, groups: Vec<&'m PrintedGroup<'m>>) {
        self.groups = groups;
    }

    /// The groups that flows may name, by number.
    #[must_use]
    pub fn groups(&self) -> &[&'m PrintedGroup<'m>] {
        &self.groups
    }

    /// Checks the flows, each by itself and all together.
    pub fn finish(&mut self) -> Result<(), Box<(Flow<'m>, InvalidFlow)>> {
        for runs in self.tables.values() {
            let mut keys = Vec::new();
            for run in runs {
                match run {
                    Segment::Own(flows) => {
                        for flow in flows {
                            flow.check().map_err(|refused| Box::new((flow.clone(), refused)))?;
                            keys.push(flow.key());
                        }
                    }
                    Segment::Shared(slice) => keys.extend_from_slice(slice.keys),
                }
            }
            keys.sort_unstable();
            // Two flows of one key are the same, or so nearly always that it needn't be told.
            if let Some(twice) = keys.windows(2).find(|pair| pair[0] == pair[1]) {
                let flow = runs.iter().flat_map(Segment::flows).find(|flow| flow.key() == twice[0]);
                if let Some(flow) = flow {
                    return Err(Box::new((flow.clone(), InvalidFlow::Duplicate)));
                }
            }
        }
        Ok(())
    }

    /// How many flows there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.tables.values().flatten().map(|run| run.flows().len()).sum()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The flows in order.
    pub fn iter(&self) -> impl Iterator<Item = &Flow<'m>> {
        self.tables.values().flatten().flat_map(Segment::flows)
    }

    /// The flows of one table in order.
    pub fn table(&self, table: Table) -> impl Iterator<Item = &Flow<'m>> {
        self.tables.get(&table).into_iter().flatten().flat_map(Segment::flows)
    }

    /// The flows that no other bridge has, in order.
    pub fn own(&self) -> impl Iterator<Item = &Flow<'m>> {
        let runs = self.tables.values().flatten();
        runs.filter(|run| matches!(run, Segment::Own(_))).flat_map(Segment::flows)
    }

    /// Appends the lines of all flows, those of a table behind what `head` appends for it.
    pub fn write(&self, out: &mut Vec<u8>, head: impl Fn(&mut Vec<u8>, Table)) {
        for (table, runs) in &self.tables {
            head(out, *table);
            for run in runs {
                match run {
                    Segment::Own(flows) => flows.iter().for_each(|flow| flow.write_line(out)),
                    Segment::Shared(slice) => out.extend_from_slice(slice.text),
                }
            }
        }
    }
}

impl<'m> Segment<'m> {
    fn flows(&self) -> &[Flow<'m>] {
        match self {
            Self::Own(flows) => flows,
            Self::Shared(slice) => slice.flows,
        }
    }
}

/// Appends a number in decimal.
pub(crate) fn write_number(out: &mut Vec<u8>, number: u64) {
    let mut buffer = [0u8; 20];
    let mut at = buffer.len();
    let mut rest = number;
    loop {
        at -= 1;
        buffer[at] = b'0' + u8::try_from(rest % 10).unwrap_or(0);
        rest /= 10;
        if rest == 0 {
            break;
        }
    }
    out.extend_from_slice(&buffer[at..]);
}

/// Appends a number in hexadecimal with `0x`.
pub(crate) fn write_hex(out: &mut Vec<u8>, number: u64) {
    out.extend_from_slice(b"0x");
    let digits = (64 - number.leading_zeros()).div_ceil(4).max(1);
    for digit in (0..digits).rev() {
        write_nibble(out, number >> (digit * 4));
    }
}

fn write_nibble(out: &mut Vec<u8>, value: u64) {
    let index = usize::try_from(value & 0xf).unwrap_or(0);
    out.push(b"0123456789abcdef"[index]);
}

/// Appends a byte as two hexadecimal digits.
fn write_byte(out: &mut Vec<u8>, byte: u8) {
    write_nibble(out, u64::from(byte >> 4));
    write_nibble(out, u64::from(byte));
}
