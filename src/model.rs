//! The whole network with every number: what the plans of the nodes are made from.
//!
//! A [`Model`] is an [`Intent`] and the [`Numbers`] of its objects, so it is always valid.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::Ipv4Addr;

use ipnet::Ipv4Net;
use rayon::prelude::*;

use crate::allocate::{Endpoint, Numbers, effective_vnid};
use crate::intent::{
    EgressPolicy, EgressRule, Intent, NodeId, PodId, ProjectId, RouterId, Verdict,
};
use crate::source::Place;
use crate::spec::{Datapath, Mode};
use crate::subject::{Cookie, Subject};
use crate::value::{InterfaceName, StringValue, Vnid};

/// The whole network.
#[derive(Debug)]
pub struct Model {
    intent: Intent,
    numbers: Numbers,
    local: Vec<Local>,
    /// The rules of each egress policy with their ranks.
    rules: Vec<Vec<(Subject, u16)>>,
    subjects: Subjects,
    /// Of each VNID that packets carry, the first project that doesn't enable multicast.
    without_multicast: BTreeMap<u32, ProjectId>,
    datapath: Option<Datapath>,
}

/// What a node carries.
#[derive(Debug, Default)]
struct Local {
    pods: Vec<PodId>,
    routers: Vec<RouterId>,
}

/// Who is behind a port of a node's bridge.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Tenant {
    /// A pod.
    Pod(PodId),
    /// An egress router.
    Router(RouterId),
}

impl Model {
    /// The model of an intent with numbers that were allocated for it.
    #[must_use]
    pub fn new(intent: Intent, numbers: Numbers) -> Self {
        let mut local: Vec<Local> =
            std::iter::repeat_with(Local::default).take(intent.nodes().len()).collect();
        for (id, pod) in intent.pods() {
            local[pod.node.index()].pods.push(id);
        }
        for (id, router) in intent.routers() {
            local[router.node.index()].routers.push(id);
        }
        let (rules, subjects) = rayon::join(
            || intent.policies().par_iter().map(|policy| ranked(&intent, policy)).collect(),
            || Subjects::of(&intent),
        );
        let without_multicast = BTreeMap::new();
        let mut model =
            Self { intent, numbers, local, rules, subjects, without_multicast, datapath: None };
        for (id, project) in model.intent.projects() {
            if !project.multicast {
                model.without_multicast.entry(model.carried(id)).or_insert(id);
            }
        }
        model
    }

    /// The same network with another datapath on every node, as the lab needs it.
    #[must_use]
    pub fn with_datapath(mut self, datapath: Datapath) -> Self {
        self.datapath = Some(datapath);
        self
    }

    /// What the desired state means.
    #[must_use]
    pub fn intent(&self) -> &Intent {
        &self.intent
    }

    /// Whether projects are kept apart by VNID.
    #[must_use]
    pub fn isolates(&self) -> bool {
        self.intent.cluster.mode == Mode::Multitenant
    }

    /// The datapath of a node's bridge.
    #[must_use]
    pub fn datapath(&self, node: NodeId) -> Datapath {
        self.datapath.unwrap_or(self.intent[node].datapath)
    }

    /// The pod subnet of a node.
    #[must_use]
    pub fn subnet(&self, node: NodeId) -> Ipv4Net {
        self.numbers.subnets[node.index()]
    }

    /// The address of a node's `tun0`, gateway of its pods: the first of its subnet.
    #[must_use]
    pub fn gateway(&self, node: NodeId) -> Ipv4Addr {
        let subnet = self.subnet(node);
        subnet.hosts().next().unwrap_or(subnet.network())
    }

    /// The VNID that a project's pods have.
    #[must_use]
    pub fn vnid(&self, project: ProjectId) -> Vnid {
        effective_vnid(&self.intent, &self.numbers.vnids, project)
    }

    /// The VNID that packets of a project carry: 0 for all where nothing is kept apart.
    #[must_use]
    pub fn carried(&self, project: ProjectId) -> u32 {
        if self.isolates() { self.vnid(project).get() } else { 0 }
    }

    /// Which project keeps multicast off for all that share this one's VNID, if any does.
    #[must_use]
    pub fn without_multicast(&self, project: ProjectId) -> Option<ProjectId> {
        self.without_multicast.get(&self.carried(project)).copied()
    }

    /// The ports of a node's bridge that belong to pods and egress routers: pods by project and
    /// name, then routers by name.
    pub fn tenants(&self, node: NodeId) -> impl Iterator<Item = Tenant> + '_ {
        let local = &self.local[node.index()];
        let pods = local.pods.iter().map(|id| Tenant::Pod(*id));
        pods.chain(local.routers.iter().map(|id| Tenant::Router(*id)))
    }

    /// The egress routers on a node, by name.
    #[must_use]
    pub fn routers(&self, node: NodeId) -> &[RouterId] {
        &self.local[node.index()].routers
    }

    /// The numbers of a pod or egress router.
    #[must_use]
    pub fn endpoint(&self, tenant: Tenant) -> Endpoint {
        match tenant {
            Tenant::Pod(id) => self.numbers.pods[id.index()],
            Tenant::Router(id) => self.numbers.routers[id.index()],
        }
    }

    /// The project of a pod or egress router.
    #[must_use]
    pub fn project(&self, tenant: Tenant) -> ProjectId {
        match tenant {
            Tenant::Pod(id) => self.intent[id].project,
            Tenant::Router(id) => self.intent[id].project,
        }
    }

    /// The node of a pod or egress router.
    #[must_use]
    pub fn node(&self, tenant: Tenant) -> NodeId {
        match tenant {
            Tenant::Pod(id) => self.intent[id].node,
            Tenant::Router(id) => self.intent[id].node,
        }
    }

    /// The rules of the policy of a project, each with its subject and its rank. Of two rules
    /// that some packet matches both, the earlier has the higher rank; others may share one, so
    /// that a change of one rule moves few others.
    pub fn ranked_rules(
        &self,
        project: ProjectId,
    ) -> impl Iterator<Item = (&EgressRule, &Subject, u16)> {
        let policies = self.intent.policies();
        let found = policies.binary_search_by_key(&project, |policy| policy.project).ok();
        found.into_iter().flat_map(move |index| {
            let rules = policies[index].rules.iter().zip(&self.rules[index]);
            rules.map(|(rule, (subject, rank))| (rule, subject, *rank))
        })
    }

    /// The network as a whole, as the subject of what belongs to no single object.
    #[must_use]
    pub fn cluster_subject(&self) -> &Subject {
        &self.subjects.cluster
    }

    /// A node as a subject.
    #[must_use]
    pub fn node_subject(&self, node: NodeId) -> &Subject {
        &self.subjects.nodes[node.index()]
    }

    /// A project as a subject.
    #[must_use]
    pub fn project_subject(&self, project: ProjectId) -> &Subject {
        &self.subjects.projects[project.index()]
    }

    /// A pod or egress router as a subject.
    #[must_use]
    pub fn tenant_subject(&self, tenant: Tenant) -> &Subject {
        match tenant {
            Tenant::Pod(id) => &self.subjects.pods[id.index()],
            Tenant::Router(id) => &self.subjects.routers[id.index()],
        }
    }
}

/// Every object as a subject, by its index.
#[derive(Debug)]
struct Subjects {
    cluster: Subject,
    nodes: Vec<Subject>,
    projects: Vec<Subject>,
    pods: Vec<Subject>,
    routers: Vec<Subject>,
}

impl Subjects {
    fn of(intent: &Intent) -> Self {
        let named = |kind: &str, name: &str, project: Option<&str>, place: Place| {
            Subject::new(kind, name, name, project, Some(place))
        };
        let project = |id: ProjectId| Some(intent[id].name.as_str());
        let cluster = Subject {
            cookie: Cookie::of("cluster", "cluster"),
            name: "cluster".into(),
            place: intent.cluster.place,
        };
        let nodes =
            intent.nodes().map(|(_, node)| named("node", node.name.as_str(), None, node.place));
        let projects =
            intent.projects().map(|(_, p)| named("project", p.name.as_str(), None, p.place));
        let pods = intent.pods.par_iter().enumerate().map(|(index, pod)| {
            named("pod", &intent.pod_name(PodId::new(index)), project(pod.project), pod.place)
        });
        let routers = intent
            .routers()
            .map(|(_, r)| named("router", r.name.as_str(), project(r.project), r.place));
        Self {
            cluster,
            nodes: nodes.collect(),
            projects: projects.collect(),
            pods: pods.collect(),
            routers: routers.collect(),
        }
    }
}

/// The name of the veth on the node's side of the object with this cookie: as much of the cookie's
/// end as 15 bytes have room for.
#[must_use]
pub fn veth_name(cookie: Cookie) -> Option<InterfaceName> {
    let digits = format!("{:016x}", cookie.get());
    InterfaceName::parse(&format!("{}{}", crate::pipeline::VETH_PREFIX, &digits[4..])).ok()
}

/// A rule as flows' comments and the source map show it: `deny 0.0.0.0/0 tcp/1-1023`.
#[must_use]
pub fn rule_name(rule: &EgressRule) -> String {
    let verdict = match rule.verdict {
        Verdict::Allow => "allow",
        Verdict::Deny => "deny",
    };
    let mut name = format!("{verdict} {}", rule.cidr);
    for ports in &rule.ports {
        name.push(' ');
        name.push_str(ports.protocol.as_str());
        if let Some(range) = &ports.range {
            let _ = write!(name, "/{}", range.start());
            if range.end() != range.start() {
                let _ = write!(name, "-{}", range.end());
            }
        }
    }
    name
}

/// The rules of a policy as subjects, each with its rank.
fn ranked(intent: &Intent, policy: &EgressPolicy) -> Vec<(Subject, u16)> {
    let project = intent[policy.project].name.as_str();
    let rules = &policy.rules;
    let names: Vec<String> = rules.iter().map(rule_name).collect();
    let mut ranks = vec![1; rules.len()];
    for earlier in (0..rules.len()).rev() {
        let later = earlier + 1..rules.len();
        let overlapping = later.filter(|later| rules[earlier].overlaps(&rules[*later]));
        if let Some(rank) = overlapping.map(|later| ranks[later]).max() {
            ranks[earlier] = rank + 1;
        }
    }
    let subject = |(index, name): (usize, &String)| {
        // A rule is named by what it says, so that others may come and go around it.
        let same = names[..index].iter().filter(|earlier| *earlier == name).count();
        let key = match same {
            0 => format!("{project}/{name}"),
            again => format!("{project}/{name}/{again}"),
        };
        Subject::new(
            "rule",
            &key,
            &format!("{project}: {name}"),
            Some(project),
            Some(rules[index].place),
        )
    };
    names.iter().enumerate().map(subject).zip(ranks).collect()
}
