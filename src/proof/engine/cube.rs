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
    /// Whether the source address is another than on entry.
    pub new_src: bool,
    /// Where it was sent before a translation; the fields have what it became.
    pub sent_to: Option<(u64, u64)>,
    /// How conntrack has seen it: see [`Seen`].
    pub seen: Seen,
    /// The mark that it had before that was forgotten.
    pub marked: u64,
    /// Something of it is changed that no meaning has.
    pub odd: bool,
}

/// How conntrack has seen a packet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Seen {
    /// Not at all.
    #[default]
    Not,
    /// As the beginning of a connection, or as belonging to none: unchanged.
    Fresh,
    /// As part of a connection, whose translation it got.
    Known,
    /// As a reply, whose source may be any.
    Reply,
    /// A bucket has begun its connection.
    Begun,
}

/// A set of frames.
#[derive(Clone, Debug)]
pub struct Cube {
    /// A range for each field; [`Field::Dst`] and [`Field::TunSrc`], and with senders those of
    /// [`SENDER`], stand elsewhere.
    pub fields: [Range; FIELDS],
    /// The destinations.
    pub dst: Set,
    /// The other ends of the tunnel that it came through.
    pub tunnel: Set,
    /// The senders, where they are a list.
    pub senders: Option<Rc<[Sender]>>,
    /// What the pipeline remembers.
    pub memory: Memory,
}

impl Cube {
    /// All frames.
    #[must_use]
    pub fn all() -> Self {
        Self {
            fields: Field::ALL.map(Field::domain),
            dst: Set::new(Field::Dst.domain()),
            tunnel: Set::new(Field::TunSrc.domain()),
            senders: None,
            memory: Memory::default(),
        }
    }

    /// The same with other numbers of a field.
    #[must_use]
    pub fn with(mut self, field: Field, range: Range) -> Self {
        match field {
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
            Field::Dst => self.dst.hull(),
            Field::TunSrc => self.tunnel.hull(),
            _ => self.fields[field as usize],
        }
    }

    /// Whether it has a list of senders that have this field.
    #[must_use]
    pub fn listed(&self, field: Field) -> bool {
        self.senders.is_some() && SENDER & field.bit() != 0
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
            src: field(Field::Src),
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
            match field {
                Field::Dst => self.dst = Set::new((number, number)),
                Field::TunSrc => self.tunnel = Set::new((number, number)),
                _ => {}
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
