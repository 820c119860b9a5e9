//! Sets of frames.

use std::rc::Rc;

use crate::proof::frame::{FIELDS, Field, Range, meet};

/// Addresses: ascending ranges that don't touch.
#[derive(Clone, Debug)]
pub struct Set {
    ranges: Rc<[Range]>,
    first: u32,
    end: u32,
    clip: Range,
}

impl Set {
    /// One range.
    #[must_use]
    pub fn new(range: Range) -> Self {
        Self { ranges: Rc::new([range]), first: 0, end: 1, clip: range }
    }

    /// Ascending ranges that don't overlap, at least one.
    #[must_use]
    pub fn of(ranges: Vec<Range>) -> Self {
        let clip = (ranges.first().map_or(0, |r| r.0), ranges.last().map_or(0, |r| r.1));
        let end = u32::try_from(ranges.len()).unwrap_or(u32::MAX);
        Self { ranges: ranges.into(), first: 0, end, clip }
    }

    /// The part of it in a range.
    #[must_use]
    pub fn clip(&self, range: Range) -> Option<Self> {
        let clip = meet(self.clip, range)?;
        let ranges = &self.ranges[self.first as usize..self.end as usize];
        let (first, end) = if ranges.len() == 1 {
            (0, 1)
        } else {
            (
                ranges.partition_point(|other| other.1 < clip.0),
                ranges.partition_point(|other| other.0 <= clip.1),
            )
        };
        if first >= end {
            return None;
        }
        let clip = (clip.0.max(ranges[first].0), clip.1.min(ranges[end - 1].1));
        let small = |number: usize| u32::try_from(number).unwrap_or(u32::MAX);
        Some(Self {
            ranges: Rc::clone(&self.ranges),
            first: self.first + small(first),
            end: self.first + small(end),
            clip,
        })
    }

    /// From its first number to its last.
    #[must_use]
    pub fn hull(&self) -> Range {
        self.clip
    }

    /// Its ranges.
    pub fn ranges(&self) -> impl Iterator<Item = Range> {
        let clip = self.clip;
        self.ranges[self.first as usize..self.end as usize]
            .iter()
            .filter_map(move |range| meet(*range, clip))
    }

    /// Whether it has exactly one number.
    #[must_use]
    pub fn single(&self) -> Option<u64> {
        (self.clip.0 == self.clip.1).then_some(self.clip.0)
    }

    /// What tells it from other sets: as long as it lives, no other has it.
    #[must_use]
    pub fn identity(&self) -> (usize, u32, u32, Range) {
        (self.ranges.as_ptr() as usize, self.first, self.end, self.clip)
    }

    /// How many numbers it has.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.ranges().map(|(first, last)| last - first + 1).sum()
    }

    /// Whether it has a number.
    #[must_use]
    pub fn contains(&self, number: u64) -> bool {
        self.clip((number, number)).is_some()
    }
}

impl PartialEq for Set {
    fn eq(&self, other: &Self) -> bool {
        if self.clip != other.clip {
            return false;
        }
        let same = Rc::ptr_eq(&self.ranges, &other.ranges);
        same && self.first == other.first && self.end == other.end
            || self.ranges().eq(other.ranges())
    }
}

impl Eq for Set {}

impl std::hash::Hash for Set {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        self.clip.hash(state);
        (self.end - self.first).hash(state);
    }
}

/// Who sent a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Sender {
    /// The port of entry.
    pub in_port: Range,
    /// The Ethernet source.
    pub dl_src: Range,
    /// The sender's Ethernet address in ARP.
    pub sha: Range,
    /// The source address.
    pub src: Range,
    /// reg0.
    pub reg0: Range,
}

/// The fields of a [`Sender`].
pub const SENDER: u32 = Field::InPort.bit()
    | Field::DlSrc.bit()
    | Field::Sha.bit()
    | Field::Src.bit()
    | Field::Reg0.bit();

impl Sender {
    /// A field of it.
    #[must_use]
    pub fn get(&self, field: Field) -> Range {
        match field {
            Field::InPort => self.in_port,
            Field::DlSrc => self.dl_src,
            Field::Sha => self.sha,
            Field::Src => self.src,
            _ => self.reg0,
        }
    }

    /// Gives it another range of a field.
    pub fn set(&mut self, field: Field, range: Range) {
        match field {
            Field::InPort => self.in_port = range,
            Field::DlSrc => self.dl_src = range,
            Field::Sha => self.sha = range,
            Field::Src => self.src = range,
            _ => self.reg0 = range,
        }
    }
}

/// What the pipeline remembers of a frame beside its fields.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[allow(clippy::struct_excessive_bools, reason = "each is one fact about a frame")]
pub struct Memory {
    /// The other end of the tunnel that it is to take.
    pub tunnel_to: Option<u64>,
    /// Whether reg0 has become the VNI that it is to have, and reg0 has not changed since.
    pub vni_is_reg0: bool,
    /// Whether reg0 is the VNI that it came with.
    pub reg0_is_vni: bool,
    /// The Ethernet destination that it was given.
    pub eth_dst: Option<u64>,
    /// Whether the port of entry is forgotten.
    pub forgot_in_port: bool,
    /// Where its source address is from.
    pub source: Source,
    /// How conntrack has seen it.
    pub seen: Seen,
    /// What is in reg3.
    pub kept: Kept,
    /// Whether it was put together from parts.
    pub put_together: bool,
    /// Whether the last of these had no ports.
    pub of_parts: bool,
    /// Whether it was sent on to its own sender, as the answer by a service may have to be.
    pub turned: bool,
    /// How far it has become an answer to a question of ARP.
    pub answer: Answer,
    /// The mark that it had before that was forgotten.
    pub marked: u64,
    /// Something of it is changed that no meaning has.
    pub odd: bool,
}

/// Where a source address is from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Source {
    /// The frame had it.
    #[default]
    Own,
    /// Conntrack has given it.
    Nat,
    /// What was in reg3.
    Kept,
}

/// What is in reg3.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Kept {
    /// Nothing.
    #[default]
    Nothing,
    /// Where the packet was sent to.
    Destination,
    /// A number.
    Number(u64),
    /// A number, of a packet that was translated.
    Translated,
}

/// How conntrack has seen a packet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Seen {
    /// Not at all.
    #[default]
    Not,
    /// As the beginning of a connection.
    Fresh,
    /// As part of one that is not translated, or as belonging to none.
    Stray,
    /// As part of a connection, whose translation it got; or a bucket has begun one.
    Known,
    /// As a reply, whose source may be any.
    Reply,
}

/// What a question of ARP has become, step by step.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[allow(clippy::struct_excessive_bools, reason = "each is one step")]
pub struct Answer {
    /// The Ethernet destination is the one who asked.
    pub to_asker: bool,
    /// The Ethernet source.
    pub eth_src: Option<u64>,
    /// The operation.
    pub operation: Option<u64>,
    /// The target's Ethernet address is that of the one who asked.
    pub target: bool,
    /// The sender's Ethernet address.
    pub sender: Option<u64>,
    /// The target's address is that of the one who asked.
    pub target_address: bool,
    /// The sender's address is the one that was asked for.
    pub sender_address: bool,
}

/// What conntrack, or a group, does with one packet; for the plain evaluator.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Choice {
    /// The state that it gets.
    pub state: u64,
    /// The destination that it gets.
    pub dst: Option<u64>,
    /// The port that it gets.
    pub port: Option<u64>,
    /// The source that it gets.
    pub src: Option<u64>,
    /// Whether a datagram is put together, and its ports.
    pub whole: Option<(u64, u64)>,
    /// Whether destination and port are still open.
    pub to_any: bool,
    /// Whether the source is still open.
    pub from_any: bool,
    /// Whether the ports of the whole are still open.
    pub whole_any: bool,
}

/// What a packet was before it was translated or put together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Before {
    /// Its destination.
    pub dst: u64,
    /// Its ports.
    pub ports: (u64, u64),
    /// Which part of a datagram it was.
    pub frag: u64,
}

/// A set of frames.
#[derive(Clone, Debug)]
pub struct Cube {
    /// A range for each field; [`Field::Src`], [`Field::Dst`] and [`Field::TunSrc`], and with senders
    /// those of [`SENDER`], stand elsewhere.
    pub fields: [Range; FIELDS],
    /// The sources, but for those of senders that are listed; what conntrack made of them.
    pub src: Set,
    /// The sources before conntrack made others of them.
    pub came: Option<Set>,
    /// The destinations.
    pub dst: Set,
    /// The destinations that reg3 stands for, once they have changed.
    pub kept: Option<Set>,
    /// The other ends of the tunnel that it came through.
    pub tunnel: Set,
    /// The senders, where they are a list.
    pub senders: Option<Rc<[Sender]>>,
    /// What the pipeline remembers.
    pub memory: Memory,
    /// The copies that were made so far.
    pub ends: Vec<super::run::End>,
    /// One packet of it as it was, and what became of that; no part of what it is.
    pub before: Option<Before>,
    /// What conntrack and groups did with that packet.
    pub choices: Vec<Choice>,
}

impl Cube {
    /// All frames.
    #[must_use]
    pub fn all() -> Self {
        Self {
            fields: Field::ALL.map(Field::domain),
            src: Set::new(Field::Src.domain()),
            came: None,
            dst: Set::new(Field::Dst.domain()),
            kept: None,
            tunnel: Set::new(Field::TunSrc.domain()),
            senders: None,
            memory: Memory::default(),
            ends: Vec::new(),
            before: None,
            choices: Vec::new(),
        }
    }

    /// The same with other numbers of a field.
    #[must_use]
    pub fn with(mut self, field: Field, range: Range) -> Self {
        match field {
            Field::Src => self.src = Set::new(range),
            Field::Dst => self.dst = Set::new(range),
            Field::TunSrc => self.tunnel = Set::new(range),
            _ => self.fields[field as usize] = range,
        }
        self
    }

    /// The numbers of a field: of a sender's, those of the cube without a list.
    #[must_use]
    pub fn get(&self, field: Field) -> Range {
        match field {
            Field::Src => self.src.hull(),
            Field::Dst => self.dst.hull(),
            Field::TunSrc => self.tunnel.hull(),
            _ => self.fields[field as usize],
        }
    }

    /// Whether it has a list of senders that have this field.
    #[must_use]
    pub fn listed(&self, field: Field) -> bool {
        self.senders.is_some()
            && SENDER & field.bit() != 0
            && (field != Field::Src || self.memory.source == Source::Own)
    }

    /// The sources as they came, of a cube without a list.
    #[must_use]
    pub fn origin(&self) -> &Set {
        self.came.as_ref().unwrap_or(&self.src)
    }

    /// Its senders: those of the list, or one with all ranges.
    pub fn each_sender(&self) -> impl Iterator<Item = Sender> {
        let alone = self.senders.is_none().then(|| self.lone_sender());
        self.senders.iter().flat_map(|list| list.iter().copied()).chain(alone)
    }

    /// The sender of a cube without a list.
    #[must_use]
    pub fn lone_sender(&self) -> Sender {
        let field = |field: Field| self.fields[field as usize];
        Sender {
            in_port: field(Field::InPort),
            dl_src: field(Field::DlSrc),
            sha: field(Field::Sha),
            src: self.origin().hull(),
            reg0: field(Field::Reg0),
        }
    }

    /// Gives a field one number, as an action does.
    pub fn load(&mut self, field: Field, number: u64) {
        if self.listed(field) {
            let mut list: Vec<Sender> = self.each_sender().collect();
            for sender in &mut list {
                sender.set(field, (number, number));
            }
            self.senders = Some(list.into());
        } else {
            self.fields[field as usize] = (number, number);
        }
    }

    /// Remembers how a packet of it was, before that changes.
    pub fn remember(&mut self) {
        let first = |field: Field| self.fields[field as usize].0;
        self.before.get_or_insert(Before {
            dst: self.dst.hull().0,
            ports: (first(Field::SrcPort), first(Field::DstPort)),
            frag: first(Field::Frag),
        });
    }

    /// Fixes what conntrack did last, now that it is known which packets are meant.
    pub fn settle(&mut self) {
        let (dst, src) = (self.dst.hull().0, self.src.hull().0);
        let port = |field: Field| self.fields[field as usize].0;
        let ports = (port(Field::SrcPort), port(Field::DstPort));
        for choice in &mut self.choices {
            if std::mem::take(&mut choice.to_any) {
                choice.dst = Some(dst);
                choice.port = Some(ports.1);
            }
            if std::mem::take(&mut choice.from_any) {
                choice.src = Some(src);
            }
            if std::mem::take(&mut choice.whole_any) {
                choice.whole = Some(ports);
            }
        }
    }

    /// The part of it where a field is in a range.
    #[must_use]
    pub fn clip(&self, field: Field, range: Range) -> Option<Self> {
        let mut part = self.clone();
        part.narrow(field, range).then_some(part)
    }

    /// Narrows it to where a field is in a range; false if nothing is left.
    pub fn narrow(&mut self, field: Field, range: Range) -> bool {
        match field {
            Field::Src if !self.listed(field) => match self.src.clip(range) {
                Some(src) => self.src = src,
                None => return false,
            },
            Field::Dst => match self.dst.clip(range) {
                Some(dst) => self.dst = dst,
                None => return false,
            },
            Field::TunSrc => match self.tunnel.clip(range) {
                Some(tunnel) => self.tunnel = tunnel,
                None => return false,
            },
            _ if self.listed(field) => {
                let part = |sender: Sender| {
                    let both = meet(sender.get(field), range)?;
                    let mut sender = sender;
                    sender.set(field, both);
                    Some(sender)
                };
                let list: Vec<Sender> = self.each_sender().filter_map(part).collect();
                if list.is_empty() {
                    return false;
                }
                self.senders = Some(list.into());
            }
            _ => match meet(self.fields[field as usize], range) {
                Some(both) => self.fields[field as usize] = both,
                None => return false,
            },
        }
        true
    }
}
