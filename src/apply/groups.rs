//! Groups: compared as text, changed in the bundle of the flows.

use std::collections::{BTreeMap, BTreeSet};

use super::flows::TIMEOUT;
use crate::diagnostic::Diagnostic;
use crate::system::{Command, System, Tool};

/// The first version whose groups have everything that ringfence uses.
pub(super) const VERSION: [&str; 2] = ["-O", "OpenFlow15"];

/// Groups by their numbers, as Open vSwitch prints them.
pub(super) type Groups = BTreeMap<u32, String>;

/// A difference between the groups of a bridge and those that it is to have.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Difference {
    /// Groups that are to be there, new or in place of another with their number.
    pub(super) set: Groups,
    /// Those of them that have their number for the first time.
    pub(super) new: BTreeSet<u32>,
    /// Groups that are to go.
    pub(super) delete: BTreeSet<u32>,
}

impl Difference {
    /// Those of the groups in `live` that lead to fewer from now on.
    pub(super) fn deserted<'a>(&'a self, live: &'a Groups) -> impl Iterator<Item = &'a u32> {
        let loses = |(id, group): &(&u32, &String)| {
            live.get(id).is_some_and(|before| !backends(before).is_subset(&backends(group)))
        };
        self.set.iter().filter(loses).map(|(id, _)| id)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.set.is_empty() && self.delete.is_empty()
    }
}

/// To whom a group leads, each as an address, with a port where ports are translated.
pub(super) fn backends(group: &str) -> BTreeSet<&str> {
    group.split("nat(dst=").skip(1).filter_map(|rest| rest.split(')').next()).collect()
}

/// Reads the groups of a bridge; none where there is no such bridge.
pub(super) fn read(system: &dyn System, bridge: &str) -> Result<Groups, Diagnostic> {
    let words = VERSION.into_iter().chain([TIMEOUT, "dump-groups", bridge]);
    let output = system.run(&Command::read(Tool::OvsOfctl, words))?;
    let printed = if output.status == Some(0) { output.stdout } else { Vec::new() };
    Ok(parse(&String::from_utf8_lossy(&printed)))
}

/// The groups in a file or in what Open vSwitch prints.
fn parse(text: &str) -> Groups {
    let lines = text.lines().map(|line| line.split(" # ").next().unwrap_or(line).trim());
    let lines = lines.map(|line| line.strip_prefix("add_or_mod ").unwrap_or(line));
    lines
        .filter_map(|line| {
            let number = line.strip_prefix("group_id=")?.split(',').next()?.parse().ok()?;
            Some((number, line.to_owned()))
        })
        .collect()
}

/// Compares what a bridge has with the text of `groups.ofctl`.
pub(super) fn compare(text: &str, live: &Groups) -> Difference {
    let wanted = parse(text);
    let delete = live.keys().filter(|id| !wanted.contains_key(id)).copied().collect();
    let set: Groups =
        wanted.into_iter().filter(|(id, group)| live.get(id) != Some(group)).collect();
    let new = set.keys().filter(|id| !live.contains_key(id)).copied().collect();
    Difference { set, new, delete }
}
