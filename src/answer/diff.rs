//! What a change of the desired state opens and closes.
//!
//! Objects are the same by their names, not by their numbers, so that a pod with another address is no
//! other pod. Two models are compared only where something differs that [`crate::verify::reach`] looks
//! at: who is *touched* is asked against everybody, and all others are as they were. What is found is
//! put together again until it reads as a reviewer would say it.

pub mod flows;
mod numbers;
mod outside;
mod pairs;
mod services;
mod text;
mod units;

use std::collections::BTreeMap;

use super::cells::Classes;
use super::question::Directory;
use crate::diagnostic::Place;
use crate::model::Model;
use crate::value::Protocol;
use text::Ports;
use units::{Unit, units};

/// What a row says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Effect {
    /// Traffic that did not pass, and does.
    Opens,
    /// Traffic that passed, and does not.
    Closes,
    /// Something else that packets meet.
    Changes,
    /// The same object with another number.
    Renumbers,
}

impl Effect {
    /// Its word.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Opens => "opens",
            Self::Closes => "closes",
            Self::Changes => "changes",
            Self::Renumbers => "renumbers",
        }
    }
}

/// Which of the two states.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Side {
    /// The first.
    Old = 0,
    /// The second.
    New = 1,
}

/// One difference.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Row {
    /// What it says.
    pub effect: Effect,
    /// Who sends, or what is another.
    pub from: String,
    /// `->`, or `<->` for both directions; empty where there is no receiver.
    pub arrow: &'static str,
    /// To whom.
    pub to: String,
    /// Which ports, or what is another; empty for all.
    pub what: String,
    /// Why.
    pub because: String,
    /// Where that is written.
    pub place: Option<(Side, Place)>,
    /// The same without words.
    pub detail: Detail,
}

/// Who sends what to whom, name by name.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Detail {
    /// Who sends.
    pub senders: Vec<String>,
    /// To whom, where it is somebody with a name.
    pub receivers: Vec<String>,
    /// To which addresses outside.
    pub addresses: Vec<(u32, u32)>,
    /// The ports; empty for all.
    pub ports: Vec<(Protocol, u16, u16)>,
}

impl Row {
    fn about(effect: Effect, from: String, what: String, place: Option<(Side, Place)>) -> Self {
        Self {
            effect,
            from,
            arrow: "",
            to: String::new(),
            what,
            because: String::new(),
            place,
            detail: Detail::default(),
        }
    }
}

/// A state with what is looked up in it.
struct State<'m> {
    model: &'m Model,
    directory: Directory,
    classes: Classes,
}

impl<'m> State<'m> {
    fn new(model: &'m Model) -> Self {
        let (directory, classes) = rayon::join(|| Directory::new(model), || Classes::new(model));
        Self { model, directory, classes }
    }
}

/// Both states, and everybody in them.
struct Both<'m> {
    states: [State<'m>; 2],
    units: Vec<Unit>,
}

impl<'m> Both<'m> {
    /// The names of some senders or receivers.
    fn names(&self, set: &std::collections::BTreeSet<usize>) -> Vec<String> {
        set.iter().flat_map(|index| self.units[*index].names.iter().cloned()).collect()
    }

    fn models(&self) -> [&'m Model; 2] {
        [self.states[0].model, self.states[1].model]
    }
}

/// Why a row is.
#[derive(Clone, Debug, Default)]
struct Why {
    because: String,
    place: Option<(Side, Place)>,
}

/// Who sends to whom what it did not, or no longer: by effect and ports, of each sender the receivers.
type Found = BTreeMap<(Effect, Ports), BTreeMap<usize, (std::collections::BTreeSet<usize>, Why)>>;

/// All differences: sorted, and none where both states mean the same.
#[must_use]
pub fn diff(old: &Model, new: &Model) -> Vec<Row> {
    let (first, second) = rayon::join(|| State::new(old), || State::new(new));
    let states = [first, second];
    let units = units(&states);
    let both = Both { states, units };
    let mut rows = pairs::rows(&both);
    rows.extend(outside::rows(&both));
    rows.extend(services::rows(&both));
    rows.extend(numbers::rows(&both));
    rows.sort();
    rows.dedup();
    rows
}
