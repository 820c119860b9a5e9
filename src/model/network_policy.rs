//! Network policies with addresses and ports in place of selectors and names.
//!
//! A rule becomes an [`Allowance`] with up to three dimensions: the pods of the policy, their peers, the
//! ports. What the rule leaves open has no dimension, and which are open follows from what is written,
//! never from how many pods there are: so another pod changes only what is about that pod. Names of
//! ports mean something else on each pod; a rule with names becomes several allowances, one for each
//! meaning that pods give to them.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::ops::{Range, RangeInclusive};

use ipnet::Ipv4Net;
use rayon::prelude::*;

use super::group_number;
use crate::allocate::Allocations;
use crate::dataplane::origin::ObjectRef;
use crate::diagnostic::Place;
use crate::intent::{
    Direction, Intent, Membership, NetworkPolicy, Peer, PodId, PolicyPorts, PolicyRule, PortSet,
    ProjectId, RouterId, Workload, is_empty, selector_name,
};
use crate::resolve::without;
use crate::spec::{Labels, Selector};
use crate::value::Protocol;

/// What network policies have to do with a pod or egress router in a direction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Selection {
    /// No policy selects it.
    #[default]
    None,
    /// Some policy selects it, but none speaks of this direction.
    Open,
    /// Only what a policy allows passes.
    Isolated,
}

/// What a rule allows, or a part of it, as numbers.
#[derive(Debug)]
pub struct Allowance {
    /// The policy, by its index in the intent.
    pub policy: usize,
    /// The direction.
    pub direction: Direction,
    /// The rule as a subject.
    pub subject: ObjectRef,
    /// The number of its conjunction, which follows from the cookie of the subject.
    pub id: u32,
    /// Whose traffic it is, sorted; `None` for all of the project.
    pub pods: Option<Vec<Workload>>,
    /// The other ends; `None` for everybody.
    pub peers: Option<Peers>,
    /// The ports of the destination; `None` for all, and for protocols without ports.
    pub ports: Option<PortRanges>,
}

/// Ports by protocol, as ranges in order and apart; `None` for all of the protocol.
pub type PortRanges = BTreeMap<Protocol, Option<Vec<RangeInclusive<u16>>>>;

/// The other ends of an [`Allowance`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Peers {
    /// Whether all pods are meant.
    pub all_pods: bool,
    /// Projects of which all pods are meant, as senders.
    pub projects: BTreeSet<ProjectId>,
    /// Addresses, as the fewest networks.
    pub networks: Vec<Ipv4Net>,
}

/// All network policies.
#[derive(Debug, Default)]
pub(super) struct Policies {
    /// By the index of the pod.
    pods: Vec<[Selection; 2]>,
    /// By the index of the egress router.
    routers: Vec<[Selection; 2]>,
    /// What the policies of each project allow.
    allowances: Vec<Vec<Allowance>>,
    /// The policies of each project as one subject, for what several of them may need.
    projects: Vec<Option<ObjectRef>>,
    /// Each policy as a subject.
    subjects: Vec<ObjectRef>,
}

impl Policies {
    pub(super) fn new(intent: &Intent, numbers: &Allocations) -> Self {
        let policies = intent.network_policies();
        if policies.is_empty() {
            return Self::default();
        }
        let mut known = Known::new(intent, numbers);
        let mut all = Self {
            pods: vec![[Selection::None; 2]; intent.pods().len()],
            routers: vec![[Selection::None; 2]; intent.routers().len()],
            allowances: std::iter::repeat_with(Vec::new).take(intent.projects().len()).collect(),
            projects: vec![None; intent.projects().len()],
            subjects: Vec::with_capacity(policies.len()),
        };
        let selected: Vec<Vec<Workload>> =
            policies.par_iter().map(|p| known.own(p.project, &p.selector)).collect();
        let mut taken = BTreeSet::new();
        for (index, policy) in policies.iter().enumerate() {
            let project = &intent[policy.project];
            all.projects[policy.project.index()].get_or_insert_with(|| {
                let (name, place) = (project.name.as_str(), Some(project.place));
                ObjectRef::new("policies", name, &format!("of {name}"), Some(name), place)
            });
            let name = format!("{}/{}", project.name, policy.name);
            let own = Some(project.name.as_str());
            all.subjects.push(ObjectRef::new("policy", &name, &name, own, Some(policy.place)));
            for direction in Direction::BOTH {
                all.select(&selected[index], direction, policy.rules(direction).is_some());
                known.allowances(
                    (index, policy, &name),
                    direction,
                    &selected[index],
                    (&mut all.allowances[policy.project.index()], &mut taken),
                );
            }
        }
        all
    }

    fn select(&mut self, workloads: &[Workload], direction: Direction, isolates: bool) {
        for workload in workloads {
            let selections = match workload {
                Workload::Pod(id) => &mut self.pods[id.index()],
                Workload::Router(id) => &mut self.routers[id.index()],
            };
            let selection = &mut selections[direction as usize];
            let found = if isolates { Selection::Isolated } else { Selection::Open };
            *selection = found.max(*selection);
        }
    }

    pub(super) fn selection(&self, workload: Workload, direction: Direction) -> Selection {
        let selections = match workload {
            Workload::Pod(id) => self.pods.get(id.index()),
            Workload::Router(id) => self.routers.get(id.index()),
        };
        selections.map_or(Selection::None, |selections| selections[direction as usize])
    }

    pub(super) fn allowances(&self, project: ProjectId) -> &[Allowance] {
        self.allowances.get(project.index()).map_or(&[], Vec::as_slice)
    }

    pub(super) fn of_project(&self, project: ProjectId) -> Option<&ObjectRef> {
        self.projects.get(project.index())?.as_ref()
    }

    pub(super) fn policy(&self, index: usize) -> Option<&ObjectRef> {
        self.subjects.get(index)
    }
}

/// Whom selectors mean.
#[derive(Clone, Debug, Default)]
struct Meant {
    all: bool,
    /// Projects of which all are meant.
    whole: BTreeSet<ProjectId>,
    /// The others.
    workloads: Vec<Workload>,
}

/// What is asked again and again.
struct Known<'a> {
    intent: &'a Intent,
    numbers: &'a Allocations,
    /// Where the pods of each project begin and end: they stand together.
    pods: Vec<Range<usize>>,
    routers: BTreeMap<ProjectId, Vec<RouterId>>,
    meant: BTreeMap<String, Meant>,
}

impl<'a> Known<'a> {
    fn new(intent: &'a Intent, numbers: &'a Allocations) -> Self {
        let mut begin = 0;
        let pods = intent.projects().map(|(id, _)| {
            let end = begin + intent.pods[begin..].iter().take_while(|p| p.project == id).count();
            let range = begin..end;
            begin = end;
            range
        });
        let pods = pods.collect();
        let mut routers: BTreeMap<ProjectId, Vec<RouterId>> = BTreeMap::new();
        for (id, router) in intent.routers() {
            routers.entry(router.project).or_default().push(id);
        }
        Self { intent, numbers, pods, routers, meant: BTreeMap::new() }
    }

    /// The pods and egress routers of a project that a selector means, sorted.
    fn own(&self, project: ProjectId, selector: &Selector) -> Vec<Workload> {
        let all = is_empty(selector);
        let means = |labels: &Labels| all || selector.matches(labels);
        let pods = self.pods[project.index()].clone().map(PodId::new);
        let pods = pods.filter(|id| means(&self.intent[*id].labels)).map(Workload::Pod);
        let routers = self.routers.get(&project).into_iter().flatten();
        let routers = routers.filter(|id| means(&self.intent[**id].labels));
        pods.chain(routers.map(|id| Workload::Router(*id))).collect()
    }

    fn address(&self, workload: Workload) -> Ipv4Addr {
        match workload {
            Workload::Pod(id) => self.numbers.pods[id.index()].address,
            Workload::Router(id) => self.numbers.routers[id.index()].address,
        }
    }

    /// Whom a peer means that is written with selectors.
    fn meant(&mut self, own: ProjectId, projects: Option<&Selector>, pods: &Selector) -> &Meant {
        let key = match projects {
            None => format!("{} {}", own.index(), selector_name(pods)),
            Some(projects) => format!("{} {}", selector_name(projects), selector_name(pods)),
        };
        if !self.meant.contains_key(&key) {
            let mut meant = Meant::default();
            let whole = is_empty(pods);
            meant.all = whole && projects.is_some_and(is_empty);
            let chosen: Vec<ProjectId> = match projects {
                None => vec![own],
                Some(projects) => {
                    let all = self.intent.projects();
                    all.filter(|(_, p)| projects.matches(&p.labels)).map(|(id, _)| id).collect()
                }
            };
            if whole {
                meant.whole.extend(chosen);
            } else {
                let of = |project: &ProjectId| self.own(*project, pods);
                meant.workloads = chosen.par_iter().map(of).flatten().collect();
            }
            self.meant.insert(key.clone(), meant);
        }
        &self.meant[&key]
    }

    /// All whom peers mean, block or not.
    fn workloads_of(&mut self, own: ProjectId, peers: Option<&[Peer]>) -> BTreeSet<Workload> {
        let mut all = BTreeSet::new();
        let anybody = Selector::default();
        let Some(peers) = peers else {
            return self.intent.projects().flat_map(|(id, _)| self.own(id, &anybody)).collect();
        };
        for peer in peers {
            match peer {
                Peer::Pods { projects, pods } => {
                    let meant = self.meant(own, projects.as_ref(), pods).clone();
                    all.extend(meant.workloads);
                    all.extend(meant.whole.iter().flat_map(|id| self.own(*id, &anybody)));
                }
                Peer::Block { cidr, except } => {
                    let projects = self.intent.projects();
                    let workloads = projects.flat_map(|(id, _)| self.own(id, &anybody));
                    all.extend(workloads.filter(|workload| {
                        let address = self.address(*workload);
                        cidr.contains(&address) && !except.iter().any(|e| e.contains(&address))
                    }));
                }
            }
        }
        all
    }

    /// Peers as numbers.
    fn peers(&mut self, own: ProjectId, direction: Direction, peers: &[Peer]) -> Peers {
        let mut found = Peers::default();
        let mut workloads: BTreeSet<Workload> = BTreeSet::new();
        let mut networks: Vec<Ipv4Net> = Vec::new();
        for peer in peers {
            match peer {
                Peer::Block { cidr, except } => networks.extend(without(*cidr, except)),
                Peer::Pods { projects, pods } => {
                    let meant = self.meant(own, projects.as_ref(), pods).clone();
                    if meant.all {
                        found.all_pods = true;
                        continue;
                    }
                    workloads.extend(meant.workloads);
                    for project in meant.whole {
                        // The VNID of a sender comes with the packet; a receiver elsewhere has but
                        // its address. That of the global project is the nodes' too.
                        let global = self.intent[project].membership == Membership::Global;
                        if direction == Direction::Ingress && !global {
                            found.projects.insert(project);
                        } else {
                            workloads.extend(self.own(project, &Selector::default()));
                        }
                    }
                }
            }
        }
        let project = |workload: &Workload| match workload {
            Workload::Pod(id) => self.intent[*id].project,
            Workload::Router(id) => self.intent[*id].project,
        };
        let others =
            workloads.iter().filter(|workload| !found.projects.contains(&project(workload)));
        networks.extend(others.map(|workload| Ipv4Net::from(self.address(*workload))));
        found.networks = Ipv4Net::aggregate(&networks);
        found.networks.sort();
        found
    }

    /// The port to which somebody gives a name.
    fn named(&self, workload: Workload, ports: &PolicyPorts) -> Option<(Protocol, u16)> {
        let (Workload::Pod(id), PortSet::Named(name)) = (workload, &ports.ports) else {
            return None;
        };
        let mut own = self.intent[id].ports.iter();
        let found = own.find(|(own, protocol, _)| {
            own.as_str() == name.as_str() && *protocol == ports.protocol
        });
        found.map(|(_, protocol, port)| (*protocol, port.get()))
    }

    /// What the rules of a policy allow in a direction.
    fn allowances(
        &mut self,
        (index, policy, name): (usize, &NetworkPolicy, &str),
        direction: Direction,
        selected: &[Workload],
        (all, taken): (&mut Vec<Allowance>, &mut BTreeSet<u32>),
    ) {
        let mut same: BTreeMap<String, usize> = BTreeMap::new();
        let mut titles: BTreeMap<String, usize> = BTreeMap::new();
        for rule in policy.rules(direction).into_iter().flatten() {
            let peers_name = peers_name(rule);
            let count = same.entry(peers_name.clone()).or_insert(0);
            let key = match *count {
                0 => format!("{name}/{}/{peers_name}", direction.as_str()),
                again => format!("{name}/{}/{peers_name}/{again}", direction.as_str()),
            };
            *count += 1;
            // People know objects by their names, so no two have one.
            let mut title = title(name, direction, rule);
            let alike = titles.entry(title.clone()).or_insert(0);
            *alike += 1;
            if *alike > 1 {
                title = format!("{title}, again {alike}");
            }
            for part in self.parts(policy, direction, selected, rule) {
                let (subject, id) = self.subject(policy, (&key, &title), &part, rule.place, taken);
                let Part { group: _, pods, peers, ports } = part;
                all.push(Allowance { policy: index, direction, subject, id, pods, peers, ports });
            }
        }
    }

    /// A subject whose cookie leads to a number that no other conjunction has.
    fn subject(
        &self,
        policy: &NetworkPolicy,
        (key, title): (&str, &str),
        part: &Part,
        place: Place,
        taken: &mut BTreeSet<u32>,
    ) -> (ObjectRef, u32) {
        let project = self.intent[policy.project].name.as_str();
        let mut key = key.to_owned();
        let mut title = title.to_owned();
        if !part.group.is_empty() {
            key = format!("{key}/{}", part.group);
            title = format!("{title}, {}", part.group);
        }
        loop {
            let subject = ObjectRef::new("policy", &key, &title, Some(project), Some(place));
            let id = group_number(subject.cookie);
            if taken.insert(id) {
                return (subject, id);
            }
            key.push_str("/again");
        }
    }

    /// A rule, or what names of ports make of it.
    fn parts(
        &mut self,
        policy: &NetworkPolicy,
        direction: Direction,
        selected: &[Workload],
        rule: &PolicyRule,
    ) -> Vec<Part> {
        let all = rule.ports.as_deref().unwrap_or_default();
        let named: Vec<&PolicyPorts> =
            all.iter().filter(|ports| matches!(ports.ports, PortSet::Named(_))).collect();
        let numbers = ranges(all);
        let pods = (!is_empty(&policy.selector)).then(|| selected.to_vec());
        let peers = rule.peers.as_ref().map(|peers| self.peers(policy.project, direction, peers));
        if named.is_empty() {
            let ports = rule.ports.as_ref().map(|_| numbers);
            return vec![Part { group: String::new(), pods, peers, ports }];
        }
        let mut parts = Vec::new();
        let destinations: BTreeSet<Workload> = match direction {
            Direction::Ingress => selected.iter().copied().collect(),
            Direction::Egress => {
                if !numbers.is_empty() {
                    let (pods, peers, ports) = (pods.clone(), peers.clone(), Some(numbers));
                    parts.push(Part { group: String::new(), pods, peers, ports });
                }
                self.workloads_of(policy.project, rule.peers.as_deref())
            }
        };
        for (meaning, workloads) in self.meanings(&named, destinations) {
            let group: Vec<String> =
                meaning.iter().map(|(protocol, port)| format!("{protocol}/{port}")).collect();
            let group = group.join(" ");
            let exact = meaning.iter().map(|(protocol, port)| PolicyPorts {
                protocol: *protocol,
                ports: PortSet::Range(*port, *port),
            });
            let exact: Vec<PolicyPorts> = exact.collect();
            match direction {
                Direction::Ingress => {
                    let ports = ranges(&[all, &exact].concat());
                    if !ports.is_empty() {
                        let (peers, pods) = (peers.clone(), Some(workloads));
                        parts.push(Part { group, pods, peers, ports: Some(ports) });
                    }
                }
                Direction::Egress if !meaning.is_empty() => {
                    let addresses = workloads.iter().map(|t| Ipv4Net::from(self.address(*t)));
                    let mut networks = Ipv4Net::aggregate(&addresses.collect::<Vec<_>>());
                    networks.sort();
                    let peers = Some(Peers { networks, ..Peers::default() });
                    let ports = Some(ranges(&exact));
                    parts.push(Part { group, pods: pods.clone(), peers, ports });
                }
                Direction::Egress => {}
            }
        }
        parts
    }

    /// Destinations by what the names of ports mean on them.
    fn meanings(
        &self,
        named: &[&PolicyPorts],
        destinations: BTreeSet<Workload>,
    ) -> BTreeMap<BTreeSet<(Protocol, u16)>, Vec<Workload>> {
        let mut meanings: BTreeMap<BTreeSet<(Protocol, u16)>, Vec<Workload>> = BTreeMap::new();
        for workload in destinations {
            let meaning = named.iter().filter_map(|ports| self.named(workload, ports)).collect();
            meanings.entry(meaning).or_default().push(workload);
        }
        meanings
    }
}

/// A part of what a rule allows.
struct Part {
    /// What names of ports mean here; empty where there are none.
    group: String,
    pods: Option<Vec<Workload>>,
    peers: Option<Peers>,
    ports: Option<PortRanges>,
}

/// Peers in words that say all of them, in no order of their own.
fn peers_name(rule: &PolicyRule) -> String {
    let Some(peers) = &rule.peers else { return "everybody".to_owned() };
    let names: BTreeSet<String> = peers.iter().map(ToString::to_string).collect();
    names.into_iter().collect::<Vec<_>>().join(", ")
}

/// A rule in words for people.
fn title(name: &str, direction: Direction, rule: &PolicyRule) -> String {
    const SHOWN: usize = 3;
    let (word, to) = match direction {
        Direction::Ingress => ("ingress", "from"),
        Direction::Egress => ("egress", "to"),
    };
    let peers = match &rule.peers {
        None => "everybody".to_owned(),
        Some(peers) => {
            let names: BTreeSet<String> = peers.iter().map(ToString::to_string).collect();
            let more = names.len().saturating_sub(SHOWN);
            let shown: Vec<String> = names.into_iter().take(SHOWN).collect();
            match more {
                0 => shown.join(", "),
                more => format!("{} and {more} more", shown.join(", ")),
            }
        }
    };
    format!("{name}: {word} {to} {peers}")
}

/// Ports with numbers, united by protocol.
fn ranges(ports: &[PolicyPorts]) -> PortRanges {
    let mut all: BTreeMap<Protocol, Option<Vec<(u16, u16)>>> = BTreeMap::new();
    for PolicyPorts { protocol, ports } in ports {
        match ports {
            PortSet::Named(_) => {}
            PortSet::All => {
                all.insert(*protocol, None);
            }
            PortSet::Range(first, last) => {
                if let Some(ranges) = all.entry(*protocol).or_insert_with(|| Some(Vec::new())) {
                    ranges.push((*first, *last));
                }
            }
        }
    }
    all.into_iter().map(|(protocol, ranges)| (protocol, ranges.map(apart))).collect()
}

/// Ranges in order, those that touch as one.
fn apart(mut ranges: Vec<(u16, u16)>) -> Vec<RangeInclusive<u16>> {
    ranges.sort_unstable();
    let mut apart: Vec<(u16, u16)> = Vec::with_capacity(ranges.len());
    for (first, end) in ranges {
        match apart.last_mut() {
            Some((_, last)) if u32::from(first) <= u32::from(*last) + 1 => *last = end.max(*last),
            _ => apart.push((first, end)),
        }
    }
    apart.into_iter().map(|(first, last)| first..=last).collect()
}
