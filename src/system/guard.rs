//! What has to be so at the very moment at which a command changes something.
//!
//! Between the look at a node and a command of the change lies some time, and others work on the
//! node too. A command that removes or changes an object by its name carries what makes that object
//! ringfence's; [`Machine`] looks again right before it starts the program. What is
//! somebody else's by then, or gone, is passed over, and the read-back decides what that means.

use std::collections::BTreeMap;
use std::path::PathBuf;

use ipnet::Ipv4Net;

use super::netlink::{self, Network};
use super::{Command, Machine, System as _};
use crate::diagnostic::Diagnostic;
use crate::value::NetnsName;

/// A condition on one object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Guard {
    /// A link of the node has this alias and, if it was seen before, this number.
    Link {
        /// Its name.
        name: String,
        /// Its number; `None` for one that the same run made.
        index: Option<u32>,
        /// Its alias.
        alias: Option<String>,
    },
    /// The `lo` of a named network namespace has this alias.
    Namespace {
        /// Its name.
        name: NetnsName,
        /// The alias.
        alias: String,
    },
    /// No other interface has a route with just this destination, of the lowest metric.
    Route {
        /// The namespace; `None` for the node's own.
        netns: Option<NetnsName>,
        /// Where the route leads.
        destination: Ipv4Net,
        /// The interface.
        link: String,
    },
    /// A kernel setting has this value.
    Setting {
        /// Its name.
        name: String,
        /// The value.
        value: String,
    },
    /// A file is empty, or begins with these bytes behind an optional first line `#!`.
    File {
        /// Where it is.
        path: PathBuf,
        /// What it begins with.
        begins: &'static [u8],
    },
}

/// What a command depends on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Guards {
    /// Without these, the command does not run at all.
    pub all: Vec<Guard>,
    /// Without its guard, a line of what the command reads is left out.
    pub lines: BTreeMap<String, Guard>,
}

impl Guards {
    fn is_empty(&self) -> bool {
        self.all.is_empty() && self.lines.is_empty()
    }
}

/// Whether a file is one of ringfence's: it begins with `mark`, or holds nothing yet.
#[must_use]
pub fn is_marked(bytes: &[u8], mark: &[u8]) -> bool {
    let text = match bytes.strip_prefix(b"#!") {
        Some(rest) => {
            rest.iter().position(|byte| *byte == b'\n').map_or(rest, |at| &rest[at + 1..])
        }
        None => bytes,
    };
    bytes.is_empty() || text.starts_with(mark)
}

/// What a command is to read now; `None` where it must not run.
pub(super) fn admit(command: &Command) -> Result<Option<Vec<u8>>, Diagnostic> {
    if command.guards.is_empty() {
        return Ok(Some(command.stdin.clone()));
    }
    let seen = Seen::read(&command.guards)?;
    if !command.guards.all.iter().all(|guard| seen.holds(guard)) {
        return Ok(None);
    }
    let text = String::from_utf8_lossy(&command.stdin);
    let good = |line: &&str| {
        command.guards.lines.get(line.trim_end()).is_none_or(|guard| seen.holds(guard))
    };
    let kept: String = text.split_inclusive('\n').filter(good).collect();
    let empty = kept.is_empty() && !command.stdin.is_empty();
    Ok((!empty).then(|| kept.into_bytes()))
}

/// The machine as it is now, as far as guards ask for it.
struct Seen {
    node: Network,
    netns: BTreeMap<String, Network>,
}

impl Seen {
    fn read(guards: &Guards) -> Result<Self, Diagnostic> {
        let all = || guards.all.iter().chain(guards.lines.values());
        let mut names: Vec<&NetnsName> = all()
            .filter_map(|guard| match guard {
                Guard::Namespace { name, .. } | Guard::Route { netns: Some(name), .. } => {
                    Some(name)
                }
                _ => None,
            })
            .collect();
        names.sort();
        names.dedup();
        let of_node =
            |guard: &Guard| matches!(guard, Guard::Link { .. } | Guard::Route { netns: None, .. });
        let node = if all().any(of_node) { netlink::network()? } else { Network::default() };
        let read = if names.is_empty() { Vec::new() } else { netlink::networks(&names)? };
        let read = names.iter().zip(read);
        let netns = read.filter_map(|(name, network)| Some((name.to_string(), network?))).collect();
        Ok(Self { node, netns })
    }

    fn holds(&self, guard: &Guard) -> bool {
        match guard {
            Guard::Link { name, index, alias } => self.node.links.get(name).is_some_and(|link| {
                link.alias == *alias && index.is_none_or(|index| index == link.index)
            }),
            Guard::Namespace { name, alias } => {
                let lo = self.netns.get(name.as_str()).and_then(|network| network.links.get("lo"));
                lo.is_some_and(|lo| lo.alias.as_ref() == Some(alias))
            }
            Guard::Route { netns, destination, link } => {
                let network = match netns {
                    None => Some(&self.node),
                    Some(name) => self.netns.get(name.as_str()),
                };
                network.is_none_or(|network| network.foreign_route(*destination, link).is_none())
            }
            Guard::Setting { name, value } => Machine.sysctl(name).as_ref() == Some(value),
            Guard::File { path, begins } => {
                std::fs::read(path).is_ok_and(|bytes| is_marked(&bytes, begins))
            }
        }
    }
}
