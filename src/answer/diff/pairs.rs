//! Who reaches which pod or egress router.

use std::collections::{BTreeMap, BTreeSet};

use rayon::prelude::*;

use super::text::{Ports, joined};
use super::units::{Kind, Unit};
use super::{Both, Detail, Effect, Found, Row, Side, Why, text};
use crate::answer::cells::{PROTOCOLS, ports};
use crate::answer::question::{Question, Target, decide};
use crate::intent::Workload;
use crate::spec::Mode;
use crate::value::{Port, Protocol};
use crate::verify::reach::{Destination, Packet, Reach, Source, reach};

/// One direction between two units.
#[derive(Clone, Copy)]
struct Pair {
    from: usize,
    to: usize,
}

/// What a pair gets and loses.
struct Change {
    pair: Pair,
    effect: Effect,
    ports: Ports,
    why: Why,
    multicast: bool,
}

pub(super) fn rows(both: &Both<'_>) -> Vec<Row> {
    let changes: Vec<Change> =
        pairs(both).into_par_iter().flat_map_iter(|pair| compare(both, pair)).collect();
    let (mut unicast, mut multicast) = (Found::new(), Found::new());
    for change in changes {
        let Change { pair, effect, ports, why, multicast: group } = change;
        let found = if group { &mut multicast } else { &mut unicast };
        let senders = found.entry((effect, ports)).or_default();
        senders.entry(pair.from).or_insert_with(|| (BTreeSet::new(), why)).0.insert(pair.to);
    }
    let mut rows = said(both, unicast, "");
    rows.extend(said(both, multicast, "multicast"));
    rows
}

/// The pairs that have to be looked at: of each touched unit with everybody.
fn pairs(both: &Both<'_>) -> Vec<Pair> {
    let units = &both.units;
    let gets = |unit: &Unit| matches!(unit.kind, Kind::Pods | Kind::Router);
    let mut pairs = Vec::new();
    for (touched, unit) in units.iter().enumerate().filter(|(_, unit)| unit.touched) {
        for (other, another) in units.iter().enumerate() {
            if gets(another) {
                pairs.push(Pair { from: touched, to: other });
            }
            if gets(unit) && !another.touched {
                pairs.push(Pair { from: other, to: touched });
            }
        }
    }
    pairs
}

/// The members of two units that stand for all their pairs.
fn ends(both: &Both<'_>, pair: Pair, side: usize) -> Option<(Source, Workload)> {
    let (from, second) = both.units[pair.from].members[side]?;
    let to = both.units[pair.to].workload(side)?;
    if from != Source::Workload(to) {
        return Some((from, to));
    }
    // Nobody sends to itself by the network.
    second.map(|other| (from, other))
}

fn compare(both: &Both<'_>, pair: Pair) -> Vec<Change> {
    let sides = [ends(both, pair, 0), ends(both, pair, 1)];
    if sides == [None, None] {
        return Vec::new();
    }
    let cells = cells(both, pair);
    let asked = [0, 1].map(|side| {
        let ask = |(protocol, first, _): &(Protocol, u16, u16)| {
            let (from, to) = sides[side]?;
            let port = Port::new(u64::from(*first)).ok()?;
            let address = both.models()[side].endpoint(to).address;
            let to = Target::One(Destination::Workload(to));
            let question = Question { from, to, address, protocol: *protocol, port };
            Some(decide(both.models()[side], &question))
        };
        cells.iter().map(ask).collect::<Vec<Option<Reach>>>()
    });
    let mut changes = changes(both, pair, &cells, &asked, false);
    let member = [0, 1].map(|side| {
        let (from, to) = sides[side]?;
        let packet =
            Packet { from, to: Destination::Member(to), protocol: Protocol::Udp, port: Port::HTTP };
        Some(reach(both.models()[side], &packet))
    });
    let member = member.map(|reach| vec![reach]);
    changes.extend(self::changes(both, pair, &[(Protocol::Udp, 1, u16::MAX)], &member, true));
    changes
}

/// The ranges of ports within which both states say the same.
fn cells(both: &Both<'_>, pair: Pair) -> Ports {
    let mut cells = Vec::new();
    for protocol in PROTOCOLS {
        let mut borders = BTreeSet::from([1]);
        for (side, model) in both.models().into_iter().enumerate() {
            let from = both.units[pair.from].project_in(model, side);
            let to = both.units[pair.to].project_in(model, side);
            if model.mode() == Mode::Networkpolicy {
                // A sender without a project has no policies.
                borders.extend(ports(model, from.filter(|_| to.is_some()), to, protocol));
            }
            if let Some(Workload::Router(id)) = both.units[pair.to].workload(side) {
                for port in model.intent()[id].mode.ports(protocol) {
                    borders.insert(port.get());
                    borders.extend(port.get().checked_add(1));
                }
            }
        }
        let ends = borders.iter().skip(1).map(|next| next - 1).chain([u16::MAX]);
        cells.extend(borders.iter().zip(ends).map(|(first, last)| (protocol, *first, last)));
    }
    cells
}

fn changes(
    both: &Both<'_>,
    pair: Pair,
    cells: &[(Protocol, u16, u16)],
    asked: &[Vec<Option<Reach>>; 2],
    multicast: bool,
) -> Vec<Change> {
    let mut found: BTreeMap<Effect, (Ports, Why)> = BTreeMap::new();
    for ((cell, old), new) in cells.iter().zip(&asked[0]).zip(&asked[1]) {
        let allowed = |reach: &Option<Reach>| reach.as_ref().is_some_and(Reach::allowed);
        let effect = match (allowed(old), allowed(new)) {
            (false, true) => Effect::Opens,
            (true, false) => Effect::Closes,
            _ => continue,
        };
        let first = || (Ports::new(), why(both, pair, old.as_ref(), new.as_ref()));
        found.entry(effect).or_insert_with(first).0.push(*cell);
    }
    let change = |(effect, (ports, why))| {
        let ports = if multicast { Ports::new() } else { joined(ports) };
        Change { pair, effect, ports, why, multicast }
    };
    found.into_iter().map(change).collect()
}

/// What decides now; of what is gone, what decided.
fn why(both: &Both<'_>, pair: Pair, old: Option<&Reach>, new: Option<&Reach>) -> Why {
    for index in [pair.from, pair.to] {
        let unit = &both.units[index];
        let (word, side) = match unit.members {
            [None, Some(_)] => ("new", Side::New),
            [Some(_), None] => ("gone", Side::Old),
            _ => continue,
        };
        let place = unit.places[side as usize].map(|place| (side, place));
        return Why { because: format!("{} is {word}", unit.names[0]), place };
    }
    // A rule that is there now decides; otherwise one that is there no longer.
    let reaches = [(Side::New, new), (Side::Old, old)];
    let with_place = reaches.iter().filter_map(|(side, reach)| Some((*side, (*reach)?)));
    let because = with_place.clone().next().map(|(_, reach)| reach.because.clone());
    let place = with_place.clone().find_map(|(side, reach)| Some((side, reach.place?)));
    Why { because: because.unwrap_or_default(), place }
}

/// The rows of what was found: senders with the same receivers together, and both directions in one row
/// where they are alike.
pub(super) fn said(both: &Both<'_>, found: Found, what: &str) -> Vec<Row> {
    let mut rows = Vec::new();
    for ((effect, ports), senders) in found {
        let what = match (what, text::ports(&ports)) {
            ("", ports) => ports,
            (what, _) => what.to_owned(),
        };
        let mut groups: BTreeMap<(bool, BTreeSet<usize>), (BTreeSet<usize>, Why)> = BTreeMap::new();
        for (sender, receivers, why) in among(both, (effect, &ports, &what), senders, &mut rows) {
            let node = both.units[sender].kind == Kind::Node;
            let group = groups.entry((node, receivers));
            group.or_insert_with(|| (BTreeSet::new(), why)).0.insert(sender);
        }
        let pairs: Vec<(BTreeSet<usize>, BTreeSet<usize>, Why)> =
            groups.into_iter().map(|((_, to), (from, why))| (from, to, why)).collect();
        let is_node = |index: &usize| both.units[*index].kind == Kind::Node;
        // Nodes reach pods where pods do, too: that is said beside it, not again.
        let from_nodes = |of: &BTreeSet<usize>| {
            pairs.iter().find(|(from, to, _)| to == of && from.iter().all(is_node))
        };
        let mut told: Vec<&BTreeSet<usize>> = Vec::new();
        for (from, to, why) in &pairs {
            let back = pairs.iter().any(|(other, another, _)| other == to && another == from);
            if (back && from > to) || from.iter().all(is_node) {
                continue;
            }
            // What is new stands in front.
            let (first, second) =
                if back && to.len() < from.len() { (to, from) } else { (from, to) };
            let mut receivers = both.set(second, effect);
            if let Some((nodes, ..)) = from_nodes(first).filter(|_| back) {
                receivers = format!("{receivers}, and from {}", both.set(nodes, effect));
                told.push(first);
            }
            rows.push(Row {
                effect,
                from: both.set(first, effect),
                arrow: if back { "<->" } else { "->" },
                to: receivers,
                what: what.clone(),
                because: why.because.clone(),
                place: why.place,
                detail: detail(both, (first, second), &ports),
            });
        }
        for (from, to, why) in pairs.iter().filter(|(from, ..)| from.iter().all(is_node)) {
            if !told.contains(&to) {
                let detail = detail(both, (from, to), &ports);
                let (from, to) = (both.set(from, effect), both.set(to, effect));
                let (because, place) = (why.because.clone(), why.place);
                let what = what.clone();
                rows.push(Row { effect, from, arrow: "->", to, what, because, place, detail });
            }
        }
    }
    rows
}

/// Takes out who reaches each other in a circle, as a row of its own; returns the rest.
fn among(
    both: &Both<'_>,
    (effect, ports, what): (Effect, &Ports, &str),
    senders: BTreeMap<usize, (BTreeSet<usize>, Why)>,
    rows: &mut Vec<Row>,
) -> Vec<(usize, BTreeSet<usize>, Why)> {
    let mut circles: BTreeMap<BTreeSet<usize>, BTreeSet<usize>> = BTreeMap::new();
    // Of several that are alike, each other is said of them among themselves, too.
    let closed = |sender: &usize, receivers: &BTreeSet<usize>| {
        both.units[*sender].names.len() == 1 || receivers.contains(sender)
    };
    for (sender, (receivers, _)) in &senders {
        if !closed(sender, receivers) {
            continue;
        }
        let mut circle = receivers.clone();
        circle.insert(*sender);
        circles.entry(circle).or_default().insert(*sender);
    }
    let mut rest = Vec::new();
    let complete = |members: &BTreeSet<usize>, circle: &BTreeSet<usize>| {
        members.len() > 2 && members == circle
    };
    for (sender, (receivers, why)) in senders {
        let mut circle = receivers.clone();
        circle.insert(sender);
        let members = circles.get(&circle).filter(|members| complete(members, &circle));
        let Some(members) = members.filter(|_| closed(&sender, &receivers)) else {
            rest.push((sender, receivers, why));
            continue;
        };
        if members.first() == Some(&sender) {
            rows.push(Row {
                effect,
                from: both.set(members, effect),
                arrow: "<->",
                to: "each other".to_owned(),
                what: what.to_owned(),
                because: why.because,
                place: why.place,
                detail: detail(both, (members, members), ports),
            });
        }
    }
    rest
}

fn detail(both: &Both<'_>, ends: (&BTreeSet<usize>, &BTreeSet<usize>), ports: &Ports) -> Detail {
    Detail {
        senders: both.names(ends.0),
        receivers: both.names(ends.1),
        addresses: Vec::new(),
        ports: ports.clone(),
    }
}

/// A row about some senders and an object.
pub(super) fn said_to(
    both: &Both<'_>,
    (effect, senders): (Effect, &BTreeSet<usize>),
    to: String,
    what: String,
    why: Why,
) -> Row {
    let from = both.set(senders, effect);
    let detail = Detail { senders: both.names(senders), ..Detail::default() };
    Row { effect, from, arrow: "->", to, what, because: why.because, place: why.place, detail }
}
