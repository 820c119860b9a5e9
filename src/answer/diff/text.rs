//! Sets of senders, receivers, ports and addresses in words.

use std::collections::{BTreeMap, BTreeSet};

use ipnet::{Ipv4Net, Ipv4Subnets};

use super::units::{Kind, networks};
use super::{Both, Effect};
use crate::diagnostic::counted;
use crate::value::Protocol;

/// How many of a list are shown.
const SHOWN: usize = 3;

/// Ports of protocols as sorted ranges that don't touch; all are none.
pub(super) type Ports = Vec<(Protocol, u16, u16)>;

/// Puts ranges together; all ports of all protocols are an empty list.
pub(super) fn joined(mut ports: Ports) -> Ports {
    ports.sort_unstable();
    let mut out: Ports = Vec::new();
    for (protocol, first, last) in ports {
        match out.last_mut() {
            Some((of, _, end)) if *of == protocol && u32::from(*end) + 1 >= u32::from(first) => {
                *end = last.max(*end);
            }
            _ => out.push((protocol, first, last)),
        }
    }
    let whole = |(_, first, last): &(Protocol, u16, u16)| *first <= 1 && *last == u16::MAX;
    if out.len() == 3 && out.iter().all(whole) { Vec::new() } else { out }
}

/// `tcp/80-90, udp`.
pub(super) fn ports(ports: &Ports) -> String {
    let one = |(protocol, first, last): &(Protocol, u16, u16)| match (*first, *last) {
        (0 | 1, u16::MAX) => protocol.to_string(),
        (first, last) if first == last => format!("{protocol}/{first}"),
        (first, last) => format!("{protocol}/{first}-{last}"),
    };
    listed(&ports.iter().map(one).collect::<Vec<_>>(), "range", 8)
}

/// The first of some words, and how many more there are.
pub(super) fn listed(words: &[String], noun: &str, shown: usize) -> String {
    let first = words.iter().take(shown).cloned().collect::<Vec<_>>().join(", ");
    match words.len().saturating_sub(shown) {
        0 => first,
        more => format!("{first} and {}", counted(more, &format!("more {noun}"))),
    }
}

/// Ranges of addresses as networks.
pub(super) fn addresses(ranges: &[(u32, u32)]) -> String {
    if ranges == [(0, u32::MAX)] {
        return "outside".to_owned();
    }
    let networks = ranges.iter().flat_map(|(first, last)| {
        Ipv4Subnets::new((*first).into(), (*last).into(), 0).collect::<Vec<Ipv4Net>>()
    });
    let networks: Vec<Ipv4Net> = networks.collect();
    if networks.len() > SHOWN && ranges.len() <= SHOWN {
        let range = |(first, last): &(u32, u32)| {
            format!("{}-{}", std::net::Ipv4Addr::from(*first), std::net::Ipv4Addr::from(*last))
        };
        return ranges.iter().map(range).collect::<Vec<_>>().join(", ");
    }
    let words: Vec<String> = networks
        .iter()
        .map(|network| {
            if network.prefix_len() == 32 {
                network.addr().to_string()
            } else {
                network.to_string()
            }
        })
        .collect();
    listed(&words, "network", SHOWN)
}

impl Both<'_> {
    /// A set of senders or receivers in as few words as are exact, where that takes not too many.
    pub(super) fn set(&self, set: &BTreeSet<usize>, effect: Effect) -> String {
        let side = usize::from(effect != Effect::Closes);
        let mut words = Vec::new();
        let mut projects: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
        let mut nodes = Vec::new();
        for index in set {
            let unit = &self.units[*index];
            match unit.kind {
                Kind::Pods => {
                    let project = unit.project.as_deref().unwrap_or_default();
                    projects.entry(project).or_default().push(*index);
                }
                Kind::Router => {
                    words.push(format!("egress router {}{}", unit.names[0], unit.mark()));
                }
                Kind::Node => nodes.push(format!("node {}{}", unit.names[0], unit.mark())),
                Kind::Outside => words.push("outside".to_owned()),
            }
        }
        let mut first = self.projects(&projects, side);
        let all_nodes = self.states[side].model.intent().nodes().len();
        if nodes.len() == all_nodes && all_nodes > 1 {
            first.push("all nodes".to_owned());
        } else if !nodes.is_empty() {
            first.push(listed(&nodes, "node", SHOWN));
        }
        first.append(&mut words);
        first.join(", ")
    }

    fn projects(&self, found: &BTreeMap<&str, Vec<usize>>, side: usize) -> Vec<String> {
        let mut units: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
        for (index, unit) in self.units.iter().enumerate() {
            if unit.kind == Kind::Pods && unit.members[side].is_some() {
                units.entry(unit.project.as_deref().unwrap_or_default()).or_default().push(index);
            }
        }
        let (mut whole, mut parts) = (BTreeSet::new(), Vec::new());
        for (project, indices) in found {
            let all = units.get(project).map_or(&[][..], Vec::as_slice);
            let stayed = all.iter().filter(|index| self.units[**index].mark().is_empty());
            let stayed: Vec<usize> = stayed.copied().collect();
            let rest: Vec<usize> = if all == indices {
                whole.insert(*project);
                Vec::new()
            } else if !stayed.is_empty() && stayed.iter().all(|index| indices.contains(index)) {
                // Who comes or goes is apart from the project as it is.
                whole.insert(*project);
                units.insert(*project, stayed.clone());
                indices.iter().copied().filter(|index| !stayed.contains(index)).collect()
            } else {
                indices.clone()
            };
            if !rest.is_empty() {
                parts.push(self.pods(project, &rest));
            }
        }
        let mut words = self.whole_projects(&whole, &units, side);
        if !parts.is_empty() {
            words.push(listed(&parts, "part of a project", SHOWN));
        }
        words
    }

    /// Projects with all of their pods.
    fn whole_projects(
        &self,
        whole: &BTreeSet<&str>,
        units: &BTreeMap<&str, Vec<usize>>,
        side: usize,
    ) -> Vec<String> {
        if whole.is_empty() {
            return Vec::new();
        }
        let missing: Vec<&str> =
            units.keys().filter(|name| !whole.contains(*name)).copied().collect();
        if whole.len() > SHOWN && missing.is_empty() {
            return vec!["all pods".to_owned()];
        }
        if whole.len() > SHOWN && missing.len() <= SHOWN {
            return vec![format!("all pods but those of {}", missing.join(", "))];
        }
        if whole.len() <= SHOWN {
            return whole.iter().map(|name| self.project(name, units)).collect();
        }
        let model = self.states[side].model;
        let populated = |members: &BTreeSet<&str>| -> BTreeSet<String> {
            let members = members.iter().filter(|name| units.contains_key(*name));
            members.map(|name| (*name).to_owned()).collect()
        };
        let wanted: BTreeSet<String> = whole.iter().map(|name| (*name).to_owned()).collect();
        let mut networks = networks(model).into_iter();
        if let Some((root, _)) = networks.find(|(_, members)| populated(members) == wanted) {
            return vec![format!("the network of {root} ({})", counted(whole.len(), "project"))];
        }
        let mut labels: BTreeMap<String, BTreeSet<&str>> = BTreeMap::new();
        for (_, project) in model.intent().projects() {
            for (key, value) in &project.labels.0 {
                let label = format!("{}={}", key.as_str(), value.as_str());
                labels.entry(label).or_default().insert(project.name.as_str());
            }
        }
        if let Some((label, _)) = labels.iter().find(|(_, members)| populated(members) == wanted) {
            return vec![format!("projects with {label} ({})", whole.len())];
        }
        let words: Vec<String> = whole.iter().map(|name| self.project(name, units)).collect();
        vec![listed(&words, "project", SHOWN)]
    }

    fn project(&self, name: &str, units: &BTreeMap<&str, Vec<usize>>) -> String {
        let all = units.get(name).into_iter().flatten().map(|index| &self.units[*index]);
        let (mut number, mut marks) = (0, BTreeSet::new());
        for unit in all {
            number += unit.names.len();
            marks.insert(unit.mark());
        }
        let project = |side: usize| self.states[side].model.intent().project_named(name).is_some();
        let mark = match (project(0), project(1)) {
            (false, true) => "new, ",
            (true, false) => "gone, ",
            _ => "",
        };
        format!("project {name} ({mark}{})", counted(number, "pod"))
    }

    /// Some pods of a project.
    fn pods(&self, project: &str, indices: &[usize]) -> String {
        let units = indices.iter().map(|index| &self.units[*index]);
        let names: Vec<String> = units
            .flat_map(|unit| unit.names.iter().map(|name| format!("{name}{}", unit.mark())))
            .collect();
        if names.len() <= SHOWN {
            return names.join(", ");
        }
        format!("{} of {project}: {}", counted(names.len(), "pod"), listed(&names, "pod", SHOWN))
    }
}
