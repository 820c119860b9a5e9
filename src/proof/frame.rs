//! The fields of a frame and of the pipeline's memory, as numbers with a domain.

use std::fmt::Write as _;
use std::net::Ipv4Addr;

/// A closed range of numbers.
pub type Range = (u64, u64);

/// A field. The order is that in which tables are walked: what is known of each cube comes first,
/// so that a wide field is cut as late as possible.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(usize)]
pub enum Field {
    /// [`kind`].
    Kind,
    /// 1 with an 802.1Q tag.
    Tagged,
    /// The index of a state in [`ct::STATES`].
    Ct,
    /// reg1.
    Reg1,
    /// reg0.
    Reg0,
    /// The port of entry.
    InPort,
    /// The other end of the tunnel; 0 without one.
    TunSrc,
    /// The Ethernet source.
    DlSrc,
    /// The sender's Ethernet address in ARP.
    Sha,
    /// The source address, in ARP that of the sender.
    Src,
    /// The operation of ARP.
    ArpOp,
    /// The destination address, in ARP that of the target.
    Dst,
    /// [`proto`].
    Proto,
    /// [`frag`].
    Frag,
    /// The source port as Open vSwitch shows it, or the type of ICMP.
    SrcPort,
    /// The destination port as Open vSwitch shows it, or the code of ICMP.
    DstPort,
    /// `pkt_mark`.
    Mark,
    /// reg3.
    Reg3,
    /// reg2.
    Reg2,
}

/// How many fields there are.
pub const FIELDS: usize = 19;

impl Field {
    /// All, in order.
    pub const ALL: [Self; FIELDS] = [
        Self::Kind,
        Self::Tagged,
        Self::Ct,
        Self::Reg1,
        Self::Reg0,
        Self::InPort,
        Self::TunSrc,
        Self::DlSrc,
        Self::Sha,
        Self::Src,
        Self::ArpOp,
        Self::Dst,
        Self::Proto,
        Self::Frag,
        Self::SrcPort,
        Self::DstPort,
        Self::Mark,
        Self::Reg3,
        Self::Reg2,
    ];

    /// All numbers that the field may have.
    #[must_use]
    pub const fn domain(self) -> Range {
        match self {
            Self::Kind => (0, 2),
            Self::Tagged => (0, 1),
            Self::DlSrc | Self::Sha => (0, 0xffff_ffff_ffff),
            Self::ArpOp | Self::SrcPort | Self::DstPort => (0, 0xffff),
            Self::Proto => (0, 4),
            Self::Frag => (0, 3),
            Self::Ct => (0, ct::STATES.len() as u64 - 1),
            _ => (0, 0xffff_ffff),
        }
    }

    /// Its bit in a set of fields.
    #[must_use]
    pub const fn bit(self) -> u32 {
        1 << self as usize
    }
}

/// What is in a frame.
pub mod kind {
    /// Neither of the others.
    pub const OTHER: u64 = 0;
    /// IPv4.
    pub const IP: u64 = 1;
    /// ARP.
    pub const ARP: u64 = 2;
}

/// The protocol of an IP packet. All that no flow can name are one.
pub mod proto {
    /// Without ports.
    pub const OTHER: u64 = 0;
    /// ICMP.
    pub const ICMP: u64 = 1;
    /// TCP.
    pub const TCP: u64 = 2;
    /// UDP.
    pub const UDP: u64 = 3;
    /// SCTP.
    pub const SCTP: u64 = 4;
    /// Their names.
    pub const NAMES: [&str; 5] = ["another protocol", "icmp", "tcp", "udp", "sctp"];
}

/// Which part of a datagram a packet is, as Open vSwitch in frag mode `nx-match` sees it. In the
/// mode `normal` there is no [`FIRST`](frag::FIRST): all first fragments are without ports.
pub mod frag {
    /// All of it.
    pub const WHOLE: u64 = 0;
    /// The first fragment, with ports.
    pub const FIRST: u64 = 1;
    /// A first fragment that is too short for ports: they are shown as 0.
    pub const PORTLESS: u64 = 2;
    /// Another: ports are shown as 0.
    pub const LATER: u64 = 3;
    /// Their names.
    pub const NAMES: [&str; 4] =
        ["", " (first fragment)", " (first fragment without ports)", " (later fragment)"];
}

/// States of conntrack.
pub mod ct {
    /// `new`.
    pub const NEW: u8 = 1;
    /// `est`.
    pub const EST: u8 = 2;
    /// `rel`.
    pub const REL: u8 = 4;
    /// `rpl`.
    pub const RPL: u8 = 8;
    /// `inv`.
    pub const INV: u8 = 16;
    /// `trk`.
    pub const TRK: u8 = 32;
    /// Every state that a packet can have, so that each condition of ours is a range.
    pub const STATES: [u8; 8] = [
        0,
        TRK | NEW,
        TRK | NEW | REL,
        TRK | EST,
        TRK | REL,
        TRK | INV,
        TRK | EST | RPL,
        TRK | REL | RPL,
    ];
    /// The index of the state before tracking.
    pub const UNTRACKED: u64 = 0;
    /// The states of the first packets of connections.
    pub const NEWS: (u64, u64) = (1, 2);
    /// The states of what goes as its connection began.
    pub const KNOWN: (u64, u64) = (3, 4);
    /// The same with what belongs to none.
    pub const STRAY: (u64, u64) = (3, 5);
    /// All states of what was tracked.
    pub const TRACKED: (u64, u64) = (1, 7);
    /// The states of what goes the other way.
    pub const REPLIES: (u64, u64) = (6, 7);
}

/// A frame as one number a field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Point(pub [u64; FIELDS]);

impl Point {
    /// A number.
    #[must_use]
    pub fn get(&self, field: Field) -> u64 {
        self.0[field as usize]
    }
}

/// An address of IPv4.
#[must_use]
pub fn address(number: u64) -> Ipv4Addr {
    Ipv4Addr::from(u32::try_from(number).unwrap_or(u32::MAX))
}

/// An Ethernet address.
#[must_use]
pub fn mac(number: u64) -> String {
    let mut out = String::new();
    for byte in &number.to_be_bytes()[2..] {
        let _ = write!(out, "{}{byte:02x}", if out.is_empty() { "" } else { ":" });
    }
    out
}

/// The number of an Ethernet address.
#[must_use]
pub fn mac_number(bytes: [u8; 6]) -> u64 {
    bytes.iter().fold(0, |number, byte| number << 8 | u64::from(*byte))
}

/// The part of a range that is in another.
#[must_use]
pub fn meet(a: Range, b: Range) -> Option<Range> {
    let both = (a.0.max(b.0), a.1.min(b.1));
    (both.0 <= both.1).then_some(both)
}

/// The numbers that are in none of ascending ranges.
#[must_use]
pub fn without(all: Range, ranges: &[Range]) -> Vec<Range> {
    let mut rest = Vec::new();
    let mut from = all.0;
    for (first, last) in ranges.iter().copied() {
        if first > from {
            rest.push((from, (first - 1).min(all.1)));
        }
        from = from.max(last + 1);
    }
    if from <= all.1 {
        rest.push((from, all.1));
    }
    rest.retain(|(first, last)| first <= last);
    rest
}
