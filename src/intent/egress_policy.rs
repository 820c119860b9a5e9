//! Egress policies.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::RangeInclusive;

use ipnet::Ipv4Net;

use super::ProjectId;
use crate::diagnostic::Place;
use crate::value::{DnsName, Port, Protocol};

/// What the pods of a project may reach outside of the cluster.
#[derive(Debug)]
pub struct EgressPolicy {
    /// The project: in its own network, alone.
    pub project: ProjectId,
    /// The rules; the first that matches decides.
    pub rules: Vec<EgressRule>,
    /// Where it is defined.
    pub place: Place,
}

/// One rule of an egress policy.
#[derive(Debug)]
pub struct EgressRule {
    /// What happens to the traffic.
    pub verdict: Verdict,
    /// Its destination.
    pub to: Target,
    /// Its protocols and ports; empty for all.
    pub ports: Vec<Ports>,
    /// Where it is defined.
    pub place: Place,
}

/// What an egress rule is about.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Target {
    /// A network.
    Network(Ipv4Net),
    /// A host by its name, at all the addresses that it is known to have.
    Name(DnsName),
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Network(network) => network.fmt(f),
            Self::Name(name) => name.fmt(f),
        }
    }
}

impl Target {
    /// The networks that it stands for: with the addresses of names, those of a name, none where
    /// it has no address yet.
    #[must_use]
    pub fn networks<'a>(&'a self, names: &'a Addresses) -> &'a [Ipv4Net] {
        match self {
            Self::Network(network) => std::slice::from_ref(network),
            Self::Name(name) => names.get(name).map_or(&[], Vec::as_slice),
        }
    }
}

/// The addresses of names, sorted, as networks of one address.
pub type Addresses = BTreeMap<DnsName, Vec<Ipv4Net>>;

/// Whether traffic passes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It does.
    Allow,
    /// It is dropped.
    Deny,
}

/// Ports of a protocol.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ports {
    /// The protocol.
    pub protocol: Protocol,
    /// The ports; `None` for all.
    pub range: Option<RangeInclusive<u16>>,
}

impl Ports {
    /// Whether all of `other` are among these.
    #[must_use]
    pub fn cover(&self, other: &Self) -> bool {
        self.protocol == other.protocol
            && match (&self.range, &other.range) {
                (None, _) => true,
                (Some(_), None) => false,
                (Some(outer), Some(inner)) => {
                    outer.start() <= inner.start() && inner.end() <= outer.end()
                }
            }
    }

    /// Whether any port is in both.
    #[must_use]
    pub fn overlap(&self, other: &Self) -> bool {
        self.protocol == other.protocol
            && match (&self.range, &other.range) {
                (Some(a), Some(b)) => a.start() <= b.end() && b.start() <= a.end(),
                _ => true,
            }
    }
}

impl EgressRule {
    /// Whether every packet that `other` matches is matched by this rule too. Without addresses,
    /// names are only known to cover themselves, and to be covered by everything.
    #[must_use]
    pub fn covers(&self, other: &Self, names: &Addresses) -> bool {
        let (outer, inner) = (self.to.networks(names), other.to.networks(names));
        let contained = |inner: &Ipv4Net| outer.iter().any(|outer| outer.contains(inner));
        (self.to == other.to
            || outer.iter().any(|outer| outer.prefix_len() == 0)
            || (!inner.is_empty() && inner.iter().all(contained)))
            && (self.ports.is_empty()
                || (!other.ports.is_empty()
                    && other.ports.iter().all(|b| self.ports.iter().any(|a| a.cover(b)))))
    }

    /// Whether it is about a port of whatever it is about.
    #[must_use]
    pub fn takes(&self, protocol: Protocol, port: Port) -> bool {
        self.ports.is_empty()
            || self.ports.iter().any(|ports| {
                ports.protocol == protocol
                    && ports.range.as_ref().is_none_or(|range| range.contains(&port.get()))
            })
    }

    /// Whether some packet is matched by both rules.
    #[must_use]
    pub fn overlaps(&self, other: &Self, names: &Addresses) -> bool {
        let others = other.to.networks(names);
        let overlap = |a: &Ipv4Net| others.iter().any(|b| a.contains(b) || b.contains(a));
        self.to.networks(names).iter().any(overlap)
            && (self.ports.is_empty()
                || other.ports.is_empty()
                || self.ports.iter().any(|a| other.ports.iter().any(|b| a.overlap(b))))
    }
}
