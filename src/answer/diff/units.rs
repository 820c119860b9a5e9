//! Everybody in two states, put together where nothing tells one from another in either.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use super::State;
use crate::answer::cells::policies_of;
use crate::diagnostic::Place;
use crate::intent::{Direction, Membership, ProjectId, Workload};
use crate::model::Model;
use crate::spec::Mode;
use crate::verify::reach::Source;

/// What is together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Kind {
    Pods,
    Router,
    Node,
    Outside,
}

/// Some senders or receivers that are alike in each of the states.
#[derive(Clone, Debug)]
pub(super) struct Unit {
    pub(super) kind: Kind,
    /// The project of pods and routers.
    pub(super) project: Option<String>,
    /// Their names.
    pub(super) names: Vec<String>,
    /// One of them in each state, and another where there is one.
    pub(super) members: [Option<(Source, Option<Workload>)>; 2],
    /// Where the first of them is defined.
    pub(super) places: [Option<Place>; 2],
    /// Whether what the network does with its packets may differ.
    pub(super) touched: bool,
}

impl Unit {
    /// Itself as a receiver, in a state.
    pub(super) fn workload(&self, side: usize) -> Option<Workload> {
        match self.members[side] {
            Some((Source::Workload(workload), _)) => Some(workload),
            _ => None,
        }
    }

    /// Its project in a state.
    pub(super) fn project_in(&self, model: &Model, side: usize) -> Option<ProjectId> {
        self.workload(side).map(|workload| model.project(workload))
    }

    /// `(new)` and `(gone)`.
    pub(super) fn mark(&self) -> &'static str {
        match self.members {
            [None, Some(_)] => " (new)",
            [Some(_), None] => " (gone)",
            _ => "",
        }
    }
}

/// Everybody.
pub(super) fn units(states: &[State<'_>; 2]) -> Vec<Unit> {
    let mut units = pods(states);
    let mut others: BTreeMap<(Kind, &str), Unit> = BTreeMap::new();
    for (side, state) in states.iter().enumerate() {
        let intent = state.model.intent();
        let routers = intent.routers().map(|(id, router)| {
            let project = intent[router.project].name.to_string();
            let from = Source::Workload(Workload::Router(id));
            (Kind::Router, router.name.as_str(), Some(project), from, router.place)
        });
        let nodes = intent
            .nodes()
            .map(|(id, node)| (Kind::Node, node.name.as_str(), None, Source::Node(id), node.place));
        for (kind, name, project, from, place) in routers.chain(nodes) {
            let unit = others.entry((kind, name)).or_insert_with(|| Unit {
                kind,
                project,
                names: vec![name.to_owned()],
                members: [None; 2],
                places: [None; 2],
                touched: false,
            });
            unit.members[side] = Some((from, None));
            unit.places[side] = Some(place);
        }
    }
    units.extend(others.into_values());
    units.push(Unit {
        kind: Kind::Outside,
        project: None,
        names: vec!["outside".to_owned()],
        members: [Some((Source::Outside, None)); 2],
        places: [None; 2],
        touched: false,
    });
    let signatures = states.each_ref().map(|state| Signatures::new(state.model));
    for unit in &mut units {
        unit.touched = match unit.members {
            [Some((old, _)), Some((new, _))] => signatures[0].of(old) != signatures[1].of(new),
            _ => true,
        };
    }
    units
}

/// The pods of both, by project, and by their classes in each.
fn pods(states: &[State<'_>; 2]) -> Vec<Unit> {
    type Classed = [Option<(u32, Workload, Place)>; 2];
    let mut all: BTreeMap<(&str, &str), Classed> = BTreeMap::new();
    for (side, state) in states.iter().enumerate() {
        let intent = state.model.intent();
        for (id, pod) in intent.pods() {
            let name = (intent[pod.project].name.as_str(), pod.name.as_str());
            let class = state.classes.of(Workload::Pod(id)).unwrap_or(u32::MAX);
            all.entry(name).or_default()[side] = Some((class, Workload::Pod(id), pod.place));
        }
    }
    let mut units: BTreeMap<(&str, [Option<u32>; 2]), Unit> = BTreeMap::new();
    for ((project, name), found) in all {
        let classes = found.map(|found| found.map(|(class, ..)| class));
        let unit = units.entry((project, classes)).or_insert_with(|| Unit {
            kind: Kind::Pods,
            project: Some(project.to_owned()),
            names: Vec::new(),
            members: [None; 2],
            places: [None; 2],
            touched: false,
        });
        unit.names.push(format!("{project}/{name}"));
        for (side, found) in found.into_iter().enumerate() {
            let Some((_, workload, place)) = found else { continue };
            match &mut unit.members[side] {
                Some((_, second)) => *second = second.or(Some(workload)),
                empty => {
                    *empty = Some((Source::Workload(workload), None));
                    unit.places[side] = Some(place);
                }
            }
        }
    }
    units.into_values().collect()
}

/// What meaning looks at of a sender or receiver, as text without places: equal texts mean the same.
struct Signatures<'m> {
    model: &'m Model,
    projects: Vec<String>,
    /// Whether policies tell pods by their addresses.
    addresses: bool,
}

impl<'m> Signatures<'m> {
    fn new(model: &'m Model) -> Self {
        let projects = model.intent().projects().map(|(id, _)| project(model, id)).collect();
        let blocks = model.intent().network_policies().iter().any(|policy| {
            let rules = Direction::BOTH.into_iter().filter_map(|way| policy.rules(way)).flatten();
            let mut peers = rules.flat_map(|rule| rule.peers.iter().flatten());
            peers.any(|peer| matches!(peer, crate::intent::Peer::Block { .. }))
        });
        Self { model, projects, addresses: blocks }
    }

    fn of(&self, from: Source) -> String {
        let (model, intent) = (self.model, self.model.intent());
        let mut text = match from {
            Source::Outside => return String::new(),
            Source::Node(node) => {
                // Who has such pods reaches every service.
                let mut text = model.has_global_workloads(node).to_string();
                if self.addresses {
                    let _ =
                        write!(text, "{} {}", model.gateway(node), model.node_port_source(node));
                }
                return text;
            }
            Source::Workload(workload) => self.projects[model.project(workload).index()].clone(),
        };
        let Source::Workload(workload) = from else { return text };
        if let Workload::Router(id) = workload {
            text.push_str(&router(model, id));
        }
        if model.mode() == Mode::Networkpolicy {
            match workload {
                Workload::Pod(id) => {
                    let pod = &intent[id];
                    let _ = write!(text, "{:?} {:?}", pod.labels, pod.ports);
                }
                Workload::Router(id) => {
                    let _ = write!(text, "{:?}", intent[id].labels);
                }
            }
            if self.addresses {
                let _ = write!(text, "{}", model.endpoint(workload).address);
            }
        }
        text
    }
}

/// The ports that an egress router takes, and where they lead.
pub(super) fn router(model: &Model, id: crate::intent::RouterId) -> String {
    use crate::intent::RouterMode;
    match &model.intent()[id].mode {
        RouterMode::Redirect { destinations, fallback } => format!("{destinations:?} {fallback:?}"),
        RouterMode::HttpProxy { rules, name_servers } => {
            let rules: Vec<_> = rules.iter().map(|rule| (rule.verdict, &rule.site)).collect();
            format!("{rules:?} {name_servers:?}")
        }
        RouterMode::DnsProxy { ports, name_servers } => format!("{ports:?} {name_servers:?}"),
    }
}

fn project(model: &Model, id: ProjectId) -> String {
    let project = &model.intent()[id];
    let mut text = format!("{:?} {}", model.mode(), network(model, id));
    let _ = write!(text, " {}", model.without_multicast(id).is_none());
    if model.mode() == Mode::Networkpolicy {
        let _ = write!(text, " {:?} ", project.labels);
        text.push_str(&policies(model, id));
    }
    text
}

/// The network policies of a project, without places.
pub(super) fn policies(model: &Model, id: ProjectId) -> String {
    let mut text = String::new();
    for policy in policies_of(model, id) {
        let _ = write!(text, "{:?}", policy.selector);
        for way in Direction::BOTH {
            let rules = policy.rules(way);
            let rules = rules.map(|rules| {
                rules.iter().map(|rule| (&rule.peers, &rule.ports)).collect::<Vec<_>>()
            });
            let _ = write!(text, "{way:?}{rules:?}");
        }
    }
    text
}

/// The network that a project is in, by the name of the project whose it is.
pub(super) fn network(model: &Model, id: ProjectId) -> &str {
    let intent = model.intent();
    match intent[id].membership {
        Membership::Own => intent[id].name.as_str(),
        Membership::Joined(root) => intent[root].name.as_str(),
        Membership::Global => "",
    }
}

/// The projects of a state by the network that they are in, where it has several.
pub(super) fn networks(model: &Model) -> BTreeMap<&str, BTreeSet<&str>> {
    let mut networks: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for (id, project) in model.intent().projects() {
        networks.entry(network(model, id)).or_default().insert(project.name.as_str());
    }
    networks.retain(|root, members| !root.is_empty() && members.len() > 1);
    networks
}
