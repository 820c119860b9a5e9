//! OpenFlow flows as types: what can be built can be loaded, and prints as Open vSwitch prints it.
//!
//! A match on addresses or ports lies inside of the match on its protocol, so it can't be written
//! without it; a [`FlowTable`] takes `goto` only upwards and no two flows that would shadow each
//! other. The text of a flow is canonical: `ovs-ofctl dump-flows --no-stats` gives it back.

mod action;
mod matches;

pub use action::Action;
pub use matches::{ArpMatch, Fragment, IpMatch, L4, Match, MaskedPort, Packet, port_masks};

use crate::pipeline::Table;
use crate::subject::Subject;

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
    pub subject: &'m Subject,
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

/// Why a flow was refused. This is a fault of a lowering, never of the input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// A `goto` to the same or an earlier table.
    GotoDown,
    /// A second flow with the same table, priority and match.
    Duplicate,
    /// A priority that Open vSwitch doesn't print.
    DefaultPriority,
}

/// The flows of one bridge, by table, each table in the order in which its lowering wrote it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FlowTable<'m> {
    flows: Vec<Flow<'m>>,
}

impl<'m> FlowTable<'m> {
    /// Adds a flow behind those of the same table.
    pub fn push(&mut self, flow: Flow<'m>) {
        self.flows.push(flow);
    }

    /// Brings the flows into the order of the tables and checks them.
    pub fn finish(&mut self) -> Result<(), (Flow<'m>, Refused)> {
        self.flows.sort_by_key(|flow| flow.table);
        for flow in &self.flows {
            let down = |action: &Action| matches!(action, Action::Goto(t) if *t <= flow.table);
            if flow.actions.iter().any(down) {
                return Err((flow.clone(), Refused::GotoDown));
            }
            if flow.priority == 32768 {
                return Err((flow.clone(), Refused::DefaultPriority));
            }
        }
        let mut keys: Vec<&Flow<'_>> = self.flows.iter().collect();
        let key = |flow: &Flow<'_>| (flow.table, flow.priority);
        keys.sort_unstable_by(|a, b| key(a).cmp(&key(b)).then_with(|| a.matches.cmp(&b.matches)));
        let same = |a: &Flow<'_>, b: &Flow<'_>| key(a) == key(b) && a.matches == b.matches;
        match keys.windows(2).find(|pair| same(pair[0], pair[1])) {
            Some(pair) => Err((pair[1].clone(), Refused::Duplicate)),
            None => Ok(()),
        }
    }

    /// The flows in order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &Flow<'m>> {
        self.flows.iter()
    }

    /// The flows of one table in order.
    pub fn table(&self, table: Table) -> impl Iterator<Item = &Flow<'m>> {
        self.flows.iter().filter(move |flow| flow.table == table)
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
