//! What leaves the cluster, and what pods reach of their own node.

use std::collections::{BTreeMap, BTreeSet};

use rayon::prelude::*;

use super::text::{Ports, joined};
use super::units::{Kind, policies};
use super::{Both, Detail, Effect, Row, Side, Why, text};
use crate::answer::cells::{PROTOCOLS, borders, outside_host, ports, ranges};
use crate::intent::{ProjectId, Verdict};
use crate::model::Model;
use crate::spec::Mode;
use crate::value::{Port, Protocol};
use crate::verify::reach::{Destination, Packet, Reach, Source, reach};

/// What a row says of those that it is about.
type Same = (Effect, Ports, Vec<(u32, u32)>);

/// The ranges of addresses that a sender gets or loses, by ports.
type Regions = BTreeMap<(Effect, Ports), (Vec<(u32, u32)>, Why)>;

pub(super) fn rows(both: &Both<'_>) -> Vec<Row> {
    let mut alike: BTreeMap<String, BTreeSet<usize>> = BTreeMap::new();
    let mut touched: Vec<usize> = Vec::new();
    for unit in (0..both.units.len()).filter(|unit| is_touched(both, *unit)) {
        match both.as_its_project(unit) {
            Some(project) => {
                alike.entry(project.to_owned()).or_default().insert(unit);
            }
            None => touched.push(unit),
        }
    }
    let found: Vec<(usize, Regions)> =
        touched.into_par_iter().map(|unit| (unit, regions(both, unit))).collect();
    // Who gets the same by the same rule is said together.
    let mut rows: BTreeMap<Same, (BTreeSet<usize>, Why)> = BTreeMap::new();
    for (unit, regions) in found {
        for ((effect, ports), (ranges, why)) in regions {
            let key = (effect, ports, ranges);
            rows.entry(key).or_insert_with(|| (BTreeSet::new(), why)).0.insert(unit);
        }
    }
    let row = |((effect, ports, ranges), (units, why)): (Same, (BTreeSet<usize>, Why))| Row {
        effect,
        from: both.set(&units, effect),
        arrow: "->",
        to: text::addresses(&ranges),
        what: text::ports(&ports),
        because: why.because,
        place: why.place,
        detail: Detail {
            senders: both.names(&units),
            receivers: Vec::new(),
            addresses: ranges,
            ports,
        },
    };
    let mut rows: Vec<Row> = rows.into_iter().map(row).collect();
    for (project, units) in alike {
        for (effect, side) in [(Effect::Closes, Side::Old), (Effect::Opens, Side::New)] {
            let here: BTreeSet<usize> = units
                .iter()
                .copied()
                .filter(|unit| both.units[*unit].members[side as usize].is_some())
                .collect();
            let Some(first) = here.first() else { continue };
            rows.push(Row {
                effect,
                from: both.set(&here, effect),
                arrow: "->",
                to: "outside and services".to_owned(),
                what: format!("as the other pods of {project}"),
                because: String::new(),
                place: both.units[*first].places[side as usize].map(|place| (side, place)),
                detail: Detail { senders: both.names(&here), ..Detail::default() },
            });
        }
    }
    rows.extend(own_nodes(both));
    rows
}

impl Both<'_> {
    /// The project of pods that came or went, where other pods of it stayed, and the state says the same of
    /// the one as of the other: what these reach outside and of services is what those do.
    pub(super) fn as_its_project(&self, index: usize) -> Option<&str> {
        let unit = &self.units[index];
        let project = unit.project.as_deref()?;
        let models = self.models();
        let plain = models.iter().all(|model| model.mode() != Mode::Networkpolicy);
        if unit.kind != Kind::Pods || unit.members.iter().all(Option::is_some) || !plain {
            return None;
        }
        let ids = models.map(|model| model.intent().project_named(project));
        let [Some(old), Some(new)] = ids else { return None };
        let stayed = |other: &super::Unit| {
            other.kind == Kind::Pods
                && other.project.as_deref() == Some(project)
                && other.members.iter().all(Option::is_some)
                && !other.touched
        };
        (self.units.iter().any(stayed) && rules(models[0], old) == rules(models[1], new))
            .then_some(project)
    }
}

/// The rules about what a project sends outside, without places.
fn rules(model: &Model, project: ProjectId) -> String {
    let rules = model.ranked_rules(project).map(|(rule, ..)| {
        let ports: Vec<_> = rule.ports.iter().map(|p| (p.protocol, &p.range)).collect();
        format!("{:?} {:?} {ports:?}", rule.verdict, model.networks(rule))
    });
    let mut text = rules.collect::<Vec<_>>().join("\n");
    if model.mode() == Mode::Networkpolicy {
        text.push_str(&policies(model, project));
    }
    text
}

/// Whether what the network does with what somebody sends outside may differ.
pub(super) fn is_touched(both: &Both<'_>, index: usize) -> bool {
    let unit = &both.units[index];
    if !matches!(unit.kind, Kind::Pods | Kind::Router) {
        return false;
    }
    let [old, new] = both.models();
    let (Some(before), Some(after)) = (unit.project_in(old, 0), unit.project_in(new, 1)) else {
        return true;
    };
    let by_labels = [old, new].iter().any(|model| model.mode() == Mode::Networkpolicy);
    (unit.touched && by_labels) || rules(old, before) != rules(new, after)
}

fn regions(both: &Both<'_>, index: usize) -> Regions {
    let unit = &both.units[index];
    let models = both.models();
    let projects = [0, 1].map(|side| unit.project_in(models[side], side));
    let mut cuts = BTreeSet::from([0]);
    for (model, project) in models.iter().zip(projects) {
        if let Some(project) = project {
            cuts.extend(borders(model, project));
        }
    }
    let cells = cells(both, projects);
    let directories = [0, 1].map(|side| (models[side], &both.states[side].directory));
    let mut regions: Regions = BTreeMap::new();
    // Where nobody outside can be, nothing is said: it joins what is on both sides of it.
    let mut gap: Option<(u32, u32)> = None;
    for range in ranges(&cuts) {
        let Some(host) = outside_host(&directories, range) else {
            gap = Some((gap.map_or(range.0, |(first, _)| first), range.1));
            continue;
        };
        let ask = |side: usize, (protocol, first, _): &(Protocol, u16, u16)| {
            let (from, _) = unit.members[side]?;
            let port = Port::new(u64::from(*first)).ok()?;
            let packet = Packet { from, to: Destination::Outside(host), protocol: *protocol, port };
            Some(reach(models[side], &packet))
        };
        let mut here: BTreeMap<Effect, (Ports, Why)> = BTreeMap::new();
        for cell in &cells {
            let (old, new) = (ask(0, cell), ask(1, cell));
            let allowed = |reach: &Option<Reach>| reach.as_ref().is_some_and(Reach::allowed);
            let effect = match (allowed(&old), allowed(&new)) {
                (false, true) => Effect::Opens,
                (true, false) => Effect::Closes,
                _ => continue,
            };
            let first = || (Ports::new(), why(both, index, [old.as_ref(), new.as_ref()]));
            here.entry(effect).or_insert_with(first).0.push(*cell);
        }
        for (effect, (ports, why)) in here {
            let key = (effect, joined(ports));
            let (list, _) = regions.entry(key).or_insert_with(|| (Vec::new(), why));
            let begins_at = gap.map_or(range.0, |(first, _)| first);
            match list.last_mut() {
                Some((_, last)) if last.checked_add(1) == Some(begins_at) => *last = range.1,
                None if begins_at == 0 => list.push((0, range.1)),
                _ => list.push(range),
            }
        }
        gap = None;
    }
    // The reserved addresses at the end are nobody's either.
    if let Some((first, last @ u32::MAX)) = gap {
        for (list, _) in regions.values_mut() {
            if let Some((_, end)) =
                list.last_mut().filter(|(_, end)| end.checked_add(1) == Some(first))
            {
                *end = last;
            }
        }
    }
    regions
}

fn cells(both: &Both<'_>, projects: [Option<ProjectId>; 2]) -> Ports {
    let mut cells = Vec::new();
    for protocol in PROTOCOLS {
        let mut borders = BTreeSet::from([1]);
        for (model, project) in both.models().iter().zip(projects) {
            if project.is_some() {
                borders.extend(ports(model, project, None, protocol));
            }
        }
        let ends = borders.iter().skip(1).map(|next| next - 1).chain([u16::MAX]);
        cells.extend(borders.iter().zip(ends).map(|(first, last)| (protocol, *first, last)));
    }
    cells
}

fn why(both: &Both<'_>, index: usize, reaches: [Option<&Reach>; 2]) -> Why {
    let unit = &both.units[index];
    match reaches {
        [None, Some(_)] => {
            let place = unit.places[1].map(|place| (Side::New, place));
            Why { because: format!("{} is new", unit.names[0]), place }
        }
        [Some(_), None] => {
            let place = unit.places[0].map(|place| (Side::Old, place));
            Why { because: format!("{} is gone", unit.names[0]), place }
        }
        [old, new] => {
            let sides = [(Side::New, new), (Side::Old, old)];
            let found = sides
                .iter()
                .find_map(|(side, reach)| Some((*side, *reach.as_ref()?, reach.as_ref()?.place?)));
            match found {
                Some((Side::Old, reach, place)) => Why {
                    because: format!("no longer {}", reach.because),
                    place: Some((Side::Old, place)),
                },
                Some((side, reach, place)) => {
                    Why { because: reach.because.clone(), place: Some((side, place)) }
                }
                None => Why::default(),
            }
        }
    }
}

/// What the nodes' own processes take from pods of their node.
fn own_nodes(both: &Both<'_>) -> Vec<Row> {
    let Some(unit) = both
        .units
        .iter()
        .position(|unit| unit.kind == Kind::Pods && unit.members.iter().all(Option::is_some))
    else {
        return Vec::new();
    };
    let mut rows = Vec::new();
    let mut lost: BTreeMap<Effect, (Ports, Why)> = BTreeMap::new();
    for protocol in PROTOCOLS {
        let mut borders = BTreeSet::from([1]);
        for model in both.models() {
            let cluster = model.intent().cluster();
            let access = cluster.node_access.iter().filter(|access| access.protocol == protocol);
            for ports in access.map(|access| &access.ports) {
                borders.insert((*ports.start()).max(1));
                borders.extend(ports.end().checked_add(1));
            }
            for port in [cluster.vxlan_port, Port::DNS] {
                borders.insert(port.get());
                borders.extend(port.get().checked_add(1));
            }
        }
        let ends: Vec<u16> =
            borders.iter().skip(1).map(|next| next - 1).chain([u16::MAX]).collect();
        for (first, last) in borders.iter().zip(ends) {
            let ask = |side: usize| {
                let (from, _) = both.units[unit].members[side]?;
                let Source::Workload(workload) = from else { return None };
                let model = both.models()[side];
                let to = Destination::Node(model.node(workload));
                let port = Port::new(u64::from(*first)).ok()?;
                Some(reach(model, &Packet { from, to, protocol, port }))
            };
            let (old, new) = (ask(0), ask(1));
            let verdict = |reach: &Option<Reach>| reach.as_ref().map(|reach| reach.verdict);
            let effect = match (verdict(&old), verdict(&new)) {
                (Some(Verdict::Deny), Some(Verdict::Allow)) => Effect::Opens,
                (Some(Verdict::Allow), Some(Verdict::Deny)) => Effect::Closes,
                _ => continue,
            };
            let why = || why(both, unit, [old.as_ref(), new.as_ref()]);
            lost.entry(effect)
                .or_insert_with(|| (Ports::new(), why()))
                .0
                .push((protocol, *first, last));
        }
    }
    for (effect, (ports, why)) in lost {
        rows.push(Row {
            effect,
            from: "all pods".to_owned(),
            arrow: "->",
            to: "their own node".to_owned(),
            what: text::ports(&joined(ports)),
            because: why.because,
            place: why.place,
            detail: Detail::default(),
        });
    }
    rows
}
