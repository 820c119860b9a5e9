//! Base chains: where in the IP stack the kernel calls them, when, and what they do by default.

use std::fmt;

use super::Rule;

/// A base chain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chain<'m> {
    /// Its name.
    pub name: &'static str,
    /// What it does with packets.
    pub kind: ChainKind,
    /// Where in the IP stack it sees them.
    pub hook: Hook,
    /// When it sees them.
    pub priority: Priority,
    /// What happens to packets that no rule decides.
    pub policy: Policy,
    /// Its rules.
    pub rules: Vec<Rule<'m>>,
}

impl<'m> Chain<'m> {
    /// A chain that filters, and lets pass what no rule decides.
    #[must_use]
    pub fn filter(
        name: &'static str,
        hook: Hook,
        priority: Priority,
        rules: Vec<Rule<'m>>,
    ) -> Self {
        Self { name, kind: ChainKind::Filter, hook, priority, policy: Policy::Accept, rules }
    }

    /// A chain that translates addresses: it sees the first packet of a connection.
    #[must_use]
    pub fn nat(name: &'static str, hook: Hook, priority: Priority, rules: Vec<Rule<'m>>) -> Self {
        Self { kind: ChainKind::Nat, ..Self::filter(name, hook, priority, rules) }
    }

    /// The same, but it drops what no rule decides.
    #[must_use]
    pub fn default_drop(self) -> Self {
        Self { policy: Policy::Drop, ..self }
    }
}

/// The words that make it a base chain.
impl fmt::Display for Chain<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { kind, hook, priority, .. } = self;
        write!(f, "type {kind} hook {hook} priority {priority};")
    }
}

/// What a base chain does with packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChainKind {
    /// It decides on each of them.
    Filter,
    /// It decides how the addresses of a connection are translated.
    Nat,
}

impl fmt::Display for ChainKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Filter => "filter",
            Self::Nat => "nat",
        })
    }
}

/// A place in the IP stack (`nft(8)`, netfilter hooks).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hook {
    /// All that comes in, before it is routed.
    Prerouting,
    /// What is for the node itself.
    Input,
    /// What the node routes from one interface to another.
    Forward,
    /// What the node's own processes send.
    Output,
    /// All that goes out, once it is routed.
    Postrouting,
}

impl fmt::Display for Hook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Prerouting => "prerouting",
            Self::Input => "input",
            Self::Forward => "forward",
            Self::Output => "output",
            Self::Postrouting => "postrouting",
        })
    }
}

/// The order of the chains at one hook, lowest first.
///
/// It prints as `nft list ruleset` does: by the name of the nearest standard priority, where that has
/// one at every hook it is used at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Priority {
    /// The standard name, and how far behind it.
    near: Option<&'static str>,
    offset: i32,
}

impl Priority {
    /// Before connection tracking (-300).
    pub const RAW: Self = Self::named("raw");
    /// Where packets are changed (-150).
    pub const MANGLE: Self = Self::named("mangle");
    /// Where destinations are translated (-100). It has its name at `prerouting` only.
    pub const DSTNAT: Self = Self::named("dstnat");
    /// The same at `output`, where it has no name.
    pub const DSTNAT_OUTPUT: Self = Self { near: None, offset: -100 };
    /// Where packets are filtered (0).
    pub const FILTER: Self = Self::named("filter");
    /// Where sources are translated (100).
    pub const SRCNAT: Self = Self::named("srcnat");

    const fn named(name: &'static str) -> Self {
        Self { near: Some(name), offset: 0 }
    }

    /// As much later, or earlier where it is negative.
    #[must_use]
    pub const fn plus(self, offset: i32) -> Self {
        Self { offset: self.offset + offset, ..self }
    }
}

impl fmt::Display for Priority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.near, self.offset) {
            (None, number) => write!(f, "{number}"),
            (Some(name), 0) => f.write_str(name),
            (Some(name), offset) if offset < 0 => write!(f, "{name} - {}", offset.unsigned_abs()),
            (Some(name), offset) => write!(f, "{name} + {offset}"),
        }
    }
}

/// What happens to packets that no rule decides.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Policy {
    /// They pass.
    Accept,
    /// They are dropped.
    Drop,
}

impl fmt::Display for Policy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Accept => "accept",
            Self::Drop => "drop",
        })
    }
}
