//! What a probe sends, what has to come of it, and what came.

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, SocketAddrV4};

use crate::intent::NodeId;
use crate::model::Workload;
use crate::value::Protocol;

/// One probe with what is expected of it.
#[derive(Clone, Debug)]
pub struct Probe {
    /// What it shows, for the table.
    pub title: String,
    /// The sender.
    pub from: Location,
    /// The address it is sent to.
    pub to: SocketAddrV4,
    /// Its protocol.
    pub protocol: Protocol,
    /// The host that is asked for, where `to` is an HTTP proxy.
    pub fetch: Option<String>,
    /// What should happen.
    pub want: Expected,
    /// Why.
    pub because: String,
}

/// Somewhere in the lab.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Location {
    /// A pod or egress router.
    Workload(Workload),
    /// A node.
    Node(NodeId),
    /// The outside network.
    Outside,
}

/// What should happen to a probe.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Expected {
    /// It is answered.
    Answer {
        /// The source address that the receiver sees.
        seen_as: Option<Ipv4Addr>,
        /// The address that it arrives at.
        at: Option<SocketAddrV4>,
    },
    /// It is answered at one of these addresses, or vanishes, as a service chooses.
    Among(BTreeSet<SocketAddrV4>),
    /// Whoever gets it refuses it.
    Refusal,
    /// It vanishes.
    Silence,
    /// These get a copy, and nobody else. Such a probe is sent to a group.
    Copies(BTreeSet<String>),
    /// About so many bits a second arrive of the many that are sent.
    Rate {
        /// What should arrive.
        bits: u64,
        /// What is sent.
        sent: u64,
    },
}

/// What happened to a probe.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Observed {
    /// It was answered.
    Answer {
        /// The source address that the receiver saw.
        seen_as: String,
        /// The address that it arrived at.
        at: String,
    },
    /// Whoever got it refused it.
    Refusal,
    /// It vanished.
    Silence,
    /// These got a copy.
    Copies(BTreeSet<String>),
    /// So many bits a second arrived.
    Rate(u64),
}

impl Observed {
    /// Whether it is what was wanted.
    #[must_use]
    pub fn is(&self, want: &Expected) -> bool {
        match (self, want) {
            (Self::Refusal, Expected::Refusal)
            | (Self::Silence, Expected::Silence | Expected::Among(_)) => true,
            (Self::Answer { at, .. }, Expected::Among(all)) => {
                // Who answers datagrams can't tell the address that they came to.
                at.starts_with("0.0.0.0:") || all.iter().any(|one| one.to_string() == *at)
            }
            (Self::Copies(got), Expected::Copies(want)) => got == want,
            // A machine with other things to do is no exact clock.
            (Self::Rate(got), Expected::Rate { bits, .. }) => {
                (bits * 70 / 100..=bits * 125 / 100).contains(got)
            }
            (
                Self::Answer { seen_as, at },
                Expected::Answer { seen_as: want_seen, at: want_at },
            ) => {
                want_seen.is_none_or(|want| want.to_string() == *seen_as)
                    && want_at.is_none_or(|want| want.to_string() == *at)
            }
            _ => false,
        }
    }
}

/// What happens to a packet to `to`, in words: who answers only where that is somebody else.
pub(super) fn answered(seen_as: &str, at: &str, to: SocketAddrV4) -> String {
    if at == to.to_string() {
        format!("answered to {seen_as}")
    } else {
        format!("answered to {seen_as} by {at}")
    }
}

impl Expected {
    pub(super) fn words(&self, to: SocketAddrV4) -> String {
        match self {
            Self::Answer { seen_as, at } => answered(
                &seen_as.map_or_else(|| "anybody".to_owned(), |seen_as| seen_as.to_string()),
                &at.unwrap_or(to).to_string(),
                to,
            ),
            Self::Among(all) => {
                let all: Vec<String> = all.iter().map(ToString::to_string).collect();
                format!("answered by {} or dropped", all.join(" or "))
            }
            Self::Refusal => "refused".to_owned(),
            Self::Silence => "dropped".to_owned(),
            Self::Copies(names) => copies(names),
            Self::Rate { bits, sent } => format!("{} of {}", megabits(*bits), megabits(*sent)),
        }
    }
}

pub(super) fn megabits(bits: u64) -> String {
    format!("{}.{} Mbit/s", bits / 1_000_000, bits % 1_000_000 / 100_000)
}

/// Who got a datagram to a group, in words.
pub(super) fn copies(names: &BTreeSet<String>) -> String {
    let listed: Vec<&str> = names.iter().map(String::as_str).collect();
    match names.len() {
        0 => "copied to nobody".to_owned(),
        1..=4 => format!("copied to {}", listed.join(", ")),
        more => format!("copied to {more} pods"),
    }
}

impl Observed {
    pub(super) fn words(&self, to: SocketAddrV4) -> String {
        match self {
            Self::Answer { seen_as, at } => answered(seen_as, at, to),
            Self::Refusal => "refused".to_owned(),
            Self::Silence => "dropped".to_owned(),
            Self::Copies(names) => copies(names),
            Self::Rate(bits) => megabits(*bits),
        }
    }
}
