//! Tables 27 and 80: what the rules of policies let through, as conjunctions.
//!
//! A rule with several dimensions (pods, peers, ports) becomes one clause for each of their values and a
//! flow for all of them met together, so that flows are as many as the values, not as their products. Each
//! clause has the VNID of the project in it: what the rules of one project look at makes no other's
//! traffic narrower, and a policy more changes flows of its project only. A rule with one dimension or none
//! needs no conjunction. All of these have one priority; nothing but what lets through is at it or above,
//! since whatever stands between the clauses and their flow would win.
//!
//! Rules share clauses that are alike. Where several conjunctions are met, Open vSwitch takes one of them:
//! the verdict is right, and the packet is counted for one of the rules.

use std::collections::{BTreeMap, BTreeSet};

use rayon::prelude::*;

use super::super::{Builder, ip};
use super::isolated;
use crate::dataplane::openflow::{
    Action, Flow, Fragment, IpMatch, L4, MaskedPort, Match, PolicyState, SharedFlows, port_masks,
};
use crate::dataplane::origin::ObjectRef;
use crate::diagnostic::{Code, Diagnostic};
use crate::intent::{Direction, NodeId, ProjectId};
use crate::model::{Allowance, Model, Peers, Workload};
use crate::pipeline::Table;

/// The priority of everything that lets through.
const ALLOW: u16 = 100;
/// That of the drop of a project, which its counter tells from others'.
const DROP: u16 = 10;
/// The most conjunctions that one flow takes part in: of one with some 90 more, Open vSwitch prints
/// nothing when it lists its flows, and takes no more.
const MOST_CONJUNCTIONS: usize = 4000;

/// Peers and ports of the rules of a project, for each set of rules that some node needs together.
#[derive(Debug)]
pub(in super::super) struct Shared<'m> {
    sections: Vec<BTreeMap<(Direction, Vec<usize>), SharedFlows<'m>>>,
}

impl<'m> Shared<'m> {
    pub(in super::super) fn new(
        model: &'m Model,
        section: impl Fn(Vec<Flow<'m>>) -> Result<SharedFlows<'m>, Diagnostic> + Sync,
    ) -> Result<Self, Diagnostic> {
        let intent = model.intent();
        if intent.network_policies().is_empty() {
            return Ok(Self { sections: Vec::new() });
        }
        let mut nodes: Vec<BTreeMap<NodeId, Vec<Workload>>> =
            vec![BTreeMap::new(); intent.projects().len()];
        for (node, _) in intent.nodes() {
            for workload in model.workloads(node) {
                let of_project = &mut nodes[model.project(workload).index()];
                of_project.entry(node).or_default().push(workload);
            }
        }
        let of_project = |(project, nodes): (usize, &BTreeMap<NodeId, Vec<Workload>>)| {
            let project = ProjectId::new(project);
            let mut sections = BTreeMap::new();
            for workloads in nodes.values() {
                for direction in Direction::BOTH {
                    let rules = active(model, project, direction, workloads);
                    refuse_too_many_about_a_pod(model, project, &rules, workloads)?;
                    if rules.is_empty() || sections.contains_key(&(direction, rules.clone())) {
                        continue;
                    }
                    let flows = common(model, project, direction, &rules)?;
                    sections.insert((direction, rules), section(flows)?);
                }
            }
            Ok(sections)
        };
        let sections = nodes.par_iter().enumerate().map(of_project);
        Ok(Self { sections: sections.collect::<Result<_, Diagnostic>>()? })
    }
}

/// What the rules of policies of pods of this node let through; the rest is dropped.
pub(super) fn lower(builder: &mut Builder<'_>) {
    let model = builder.model;
    let mut projects: BTreeMap<ProjectId, Vec<Workload>> = BTreeMap::new();
    for workload in model.workloads(builder.node) {
        projects.entry(model.project(workload)).or_default().push(workload);
    }
    for (project, workloads) in projects {
        let Some(subject) = model.policies_subject(project) else { continue };
        let directions: BTreeSet<Direction> =
            workloads.iter().flat_map(|workload| isolated(model, *workload)).collect();
        for direction in directions {
            let scope = Scope { model, project, direction };
            let rules = active(model, project, direction, &workloads);
            let mut clauses = Clauses::default();
            for rule in &rules {
                let rule = &model.allowances(project)[*rule];
                for workload in rule.pods.iter().flatten().filter(|t| workloads.contains(t)) {
                    clauses.add(scope.pod(*workload), rule, Dimension::Pods);
                }
            }
            for flow in clauses.flows(scope, subject) {
                builder.flows.push(flow);
            }
            let shared = builder.common.network_policies();
            if let Some(section) = shared.sections[project.index()].get(&(direction, rules)) {
                builder.flows.push_shared(section.all());
            }
            builder.flow(subject, scope.table(), DROP, scope.packet(IpMatch::default()), vec![]);
        }
    }
}

/// The rules of a project that some of its pods need, by their numbers.
fn active(
    model: &Model,
    project: ProjectId,
    direction: Direction,
    workloads: &[Workload],
) -> Vec<usize> {
    let needed = |rule: &Allowance| {
        rule.direction == direction
            && rule.pods.as_ref().is_none_or(|pods| {
                workloads.iter().any(|workload| pods.binary_search(workload).is_ok())
            })
    };
    let rules = model.allowances(project).iter().enumerate();
    rules.filter(|(_, rule)| needed(rule)).map(|(number, _)| number).collect()
}

/// RF272: the clause of a pod takes part in the conjunctions of all rules that are about it.
fn refuse_too_many_about_a_pod(
    model: &Model,
    project: ProjectId,
    rules: &[usize],
    workloads: &[Workload],
) -> Result<(), Diagnostic> {
    if rules.len() <= MOST_CONJUNCTIONS {
        return Ok(());
    }
    let rules = || rules.iter().map(|rule| &model.allowances(project)[*rule]);
    for workload in workloads {
        let about = |rule: &&Allowance| {
            let pods = rule.pods.as_ref().is_some_and(|pods| pods.binary_search(workload).is_ok());
            pods && dimensions(rule).len() > 1
        };
        let all: Vec<&Allowance> = rules().filter(about).collect();
        let number = all.len();
        if let Some(last) = all.last()
            && number > MOST_CONJUNCTIONS
        {
            let name = match workload {
                Workload::Pod(id) => format!("pod `{}`", model.intent().pod_name(*id)),
                Workload::Router(id) => format!("egress router `{}`", model.intent()[*id].name),
            };
            let message = format!(
                "{number} {} rules are about the {name}; {MOST_CONJUNCTIONS} is the most",
                last.direction.as_str()
            );
            let policy = &model.intent().network_policies()[last.policy];
            return Err(Diagnostic::new(Code::NetworkPolicyTooLarge, message)
                .help("unite rules that differ in their peers or in their ports only")
                .at(policy.place));
        }
    }
    Ok(())
}

/// What rules have alike on every node: peers, ports, and what is met by all dimensions.
fn common<'m>(
    model: &'m Model,
    project: ProjectId,
    direction: Direction,
    rules: &[usize],
) -> Result<Vec<Flow<'m>>, Diagnostic> {
    let Some(subject) = model.policies_subject(project) else { return Ok(Vec::new()) };
    let scope = Scope { model, project, direction };
    let mut clauses = Clauses::default();
    let mut met = Vec::new();
    for rule in rules {
        let rule = &model.allowances(project)[*rule];
        for matches in rule.peers.iter().flat_map(|peers| scope.peers(peers)) {
            clauses.add(matches, rule, Dimension::Peers);
        }
        for matches in rule.ports.iter().flat_map(|ports| scope.ports(ports)) {
            clauses.add(matches, rule, Dimension::Ports);
        }
        match dimensions(rule).len() {
            0 => clauses.allow(scope.packet(IpMatch::default()), rule),
            1 => {}
            _ => met.push(scope.met(rule)),
        }
    }
    clauses.refuse_too_many(model)?;
    let mut flows: Vec<Flow<'m>> = clauses.flows(scope, subject).collect();
    flows.extend(met);
    Ok(flows)
}

/// Whose policies, in which direction.
#[derive(Clone, Copy)]
struct Scope<'m> {
    model: &'m Model,
    project: ProjectId,
    direction: Direction,
}

impl<'m> Scope<'m> {
    fn table(self) -> Table {
        match self.direction {
            Direction::Ingress => Table::Isolation,
            Direction::Egress => Table::PolicyEgress,
        }
    }

    /// Where what is let through goes on.
    fn next(self) -> Action {
        Action::Goto(match self.direction {
            Direction::Ingress => Table::PolicyCommit,
            Direction::Egress => Table::PolicyRoute,
        })
    }

    /// Packets to the pods of the project, or from them.
    fn packet(self, conditions: IpMatch) -> Match {
        let vnid = Some(self.model.vnid(self.project).get());
        match self.direction {
            Direction::Ingress => Match { destination: vnid, ..ip(conditions) },
            Direction::Egress => Match { source: vnid, ..ip(conditions) },
        }
    }

    /// Packets to a pod, or from it.
    fn pod(self, workload: Workload) -> Match {
        let port = Some(self.model.endpoint(workload).port);
        let packet = self.packet(IpMatch::default());
        match self.direction {
            Direction::Ingress => Match { output: port, ..packet },
            Direction::Egress => Match { in_port: port, ..packet },
        }
    }

    /// Packets from peers, or to them.
    fn peers(self, peers: &'m Peers) -> impl Iterator<Item = Match> {
        let Peers { all_pods, projects, networks } = peers;
        let at = move |network: ipnet::Ipv4Net| {
            let network = Some(network).filter(|network| network.prefix_len() > 0);
            self.packet(match self.direction {
                Direction::Ingress => IpMatch { src: network, ..IpMatch::default() },
                Direction::Egress => IpMatch { dst: network, ..IpMatch::default() },
            })
        };
        let pods = self.model.intent().cluster().pod_networks.iter().filter(move |_| *all_pods);
        let pods = pods
            .map(move |network| Match { policy: Some(PolicyState::MayBePod), ..at(network.cidr) });
        let projects = projects.iter().map(move |project| Match {
            source: Some(self.model.vnid(*project).get()),
            ..self.packet(IpMatch::default())
        });
        pods.chain(projects).chain(networks.iter().map(move |network| at(*network)))
    }

    /// Packets to ports. Fragments behind the first have none: they pass where the first may have
    /// passed, and are worth nothing without it.
    fn ports(self, ports: &'m crate::model::PortRanges) -> impl Iterator<Item = Match> {
        ports.iter().flat_map(move |(protocol, ranges)| {
            let packet = |ports: Option<MaskedPort>, fragment| {
                let l4 = L4::of(*protocol, ports);
                self.packet(IpMatch { l4, fragment, ..IpMatch::default() })
            };
            match ranges {
                None => vec![packet(None, None)],
                Some(ranges) => ranges
                    .iter()
                    .flat_map(port_masks)
                    .map(|mask| packet(Some(mask), None))
                    .chain([packet(None, Some(Fragment::Later))])
                    .collect(),
            }
        })
    }

    /// Packets that meet all dimensions of a rule.
    fn met(self, rule: &'m Allowance) -> Flow<'m> {
        let policy = Some(PolicyState::Met(rule.id));
        Flow {
            table: self.table(),
            priority: ALLOW,
            matches: Match { policy, ..self.packet(IpMatch::default()) },
            actions: vec![self.next()],
            subject: &rule.subject,
            also: Vec::new(),
        }
    }
}

/// What a clause is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Dimension {
    Pods,
    Peers,
    Ports,
}

/// What a rule doesn't leave open.
fn dimensions(rule: &Allowance) -> Vec<Dimension> {
    let all = [
        rule.pods.is_some().then_some(Dimension::Pods),
        rule.peers.is_some().then_some(Dimension::Peers),
        rule.ports.is_some().then_some(Dimension::Ports),
    ];
    all.into_iter().flatten().collect()
}

/// What one match does for the rules that need it.
#[derive(Default)]
struct Clause<'m> {
    /// The first rule that it is enough for.
    allows: Option<&'m Allowance>,
    /// Conjunctions that it is a part of: number, dimension, how many there are.
    parts: Vec<(u32, u8, u8)>,
    /// The policies, by their indices.
    policies: BTreeSet<usize>,
}

#[derive(Default)]
struct Clauses<'m> {
    by_match: BTreeMap<Match, Clause<'m>>,
}

impl<'m> Clauses<'m> {
    /// Packets that are enough for a rule.
    fn allow(&mut self, matches: Match, rule: &'m Allowance) {
        let clause = self.by_match.entry(matches).or_default();
        clause.policies.insert(rule.policy);
        clause.allows.get_or_insert(rule);
    }

    /// Packets that meet one dimension of a rule.
    fn add(&mut self, matches: Match, rule: &'m Allowance, dimension: Dimension) {
        let all = dimensions(rule);
        if all.len() == 1 {
            return self.allow(matches, rule);
        }
        let clause = self.by_match.entry(matches).or_default();
        clause.policies.insert(rule.policy);
        let number = all.iter().position(|other| *other == dimension).map_or(1, |n| n + 1);
        let narrow = |number: usize| u8::try_from(number).unwrap_or(u8::MAX);
        let part = (rule.id, narrow(number), narrow(all.len()));
        if clause.parts.last() != Some(&part) {
            clause.parts.push(part);
        }
    }

    /// RF272: Open vSwitch has room for some conjunctions on one flow, not for any number.
    fn refuse_too_many(&self, model: &Model) -> Result<(), Diagnostic> {
        let too_many = |clause: &&Clause<'_>| {
            clause.allows.is_none() && clause.parts.len() > MOST_CONJUNCTIONS
        };
        let Some(clause) = self.by_match.values().find(too_many) else { return Ok(()) };
        let policies = model.intent().network_policies();
        let policy = clause.policies.last().map(|index| &policies[*index]);
        let project = policy.map_or("", |policy| model.intent()[policy.project].name.as_str());
        let message = format!(
            "{} rules of the project `{project}` are about the same peer or port; \
             {MOST_CONJUNCTIONS} is the most",
            clause.parts.len()
        );
        let diagnostic = Diagnostic::new(Code::NetworkPolicyTooLarge, message).help(
            "unite policies that select the same pods, or rules that differ in one thing only",
        );
        Err(match policy {
            Some(policy) => diagnostic.at(policy.place),
            None => diagnostic,
        })
    }

    /// The flows. What is enough for one rule needs be no part of another.
    fn flows(self, scope: Scope<'m>, subject: &'m ObjectRef) -> impl Iterator<Item = Flow<'m>> {
        self.by_match.into_iter().map(move |(matches, mut clause)| {
            clause.parts.sort_unstable();
            let policies = scope.model.intent().network_policies();
            let names = || clause.policies.iter().map(|index| policies[*index].name.as_str());
            let (subject, actions, also) = match clause.allows {
                Some(rule) if clause.policies.len() == 1 => {
                    (&rule.subject, vec![scope.next()], Vec::new())
                }
                Some(rule) => (&rule.subject, vec![scope.next()], names().collect()),
                None => {
                    let parts = clause.parts.iter();
                    let parts = parts.map(|(id, dimension, of)| Action::Conjunction {
                        id: *id,
                        dimension: *dimension,
                        of: *of,
                    });
                    (subject, parts.collect(), names().collect())
                }
            };
            let table = scope.table();
            Flow { table, priority: ALLOW, matches, actions, subject, also }
        })
    }
}
