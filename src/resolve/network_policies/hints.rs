//! Warnings: what of a policy can have no effect, or another than it seems to.

use std::collections::BTreeMap;

use ipnet::Ipv4Net;

use super::super::{Context, Projects};
use super::without;
use crate::diagnostic::{Code, Diagnostic, listed};
use crate::input::Cursor;
use crate::intent::{
    Cluster, Direction, EgressRouter, NetworkPolicy, Peer, Pod, PodId, PolicyPorts, PolicyRule,
    PortSet, ProjectId, Service, Workload, is_empty,
};
use crate::spec::Selector;

/// What the checks of all policies share.
struct Hints<'a> {
    projects: &'a Projects<'a>,
    cluster: &'a Cluster,
    routers: &'a [EgressRouter],
    services: &'a [Service],
    /// Where the pods of each project begin and end: they stand together.
    pods: Vec<std::ops::Range<usize>>,
    /// Of selectors of projects and pods that were met, who is meant.
    known: BTreeMap<String, Meant>,
}

/// Whom selectors mean.
#[derive(Clone, Debug, Default)]
struct Meant {
    any_project: bool,
    pods: Vec<usize>,
    any_router: bool,
}

pub(super) fn check<'p>(
    policies: impl Iterator<Item = &'p (NetworkPolicy, Cursor<'p>)>,
    projects: &Projects<'_>,
    cluster: &Cluster,
    routers: &[EgressRouter],
    services: &[Service],
    context: &mut Context,
) {
    let mut hints = Hints {
        projects,
        cluster,
        routers,
        services,
        pods: ranges(projects),
        known: BTreeMap::new(),
    };
    for (policy, at) in policies {
        hints.policy(policy, *at, context);
    }
}

fn ranges(projects: &Projects<'_>) -> Vec<std::ops::Range<usize>> {
    let mut begin = 0;
    let range = |project: usize| {
        let own = |pod: &&Pod| pod.project == ProjectId::new(project);
        let end = begin + projects.pods[begin..].iter().take_while(own).count();
        let range = begin..end;
        begin = end;
        range
    };
    (0..projects.list.len()).map(range).collect()
}

impl Hints<'_> {
    fn policy(&mut self, policy: &NetworkPolicy, at: Cursor<'_>, context: &mut Context) {
        let own = self.meant(policy.project, None, &policy.selector);
        if let Some(at) = at.find("podSelector") {
            Self::nobody(&own, (None, Some(&policy.selector)), (at, at), context);
        }
        for (direction, peers_key) in [(Direction::Ingress, "from"), (Direction::Egress, "to")] {
            let places = at.find(direction.as_str()).into_iter().flat_map(Cursor::children);
            for (rule, at) in policy.rules(direction).into_iter().flatten().zip(places) {
                let mut peers = Meant::default();
                let mut only_pods = rule.peers.is_some();
                let places = at.find(peers_key).into_iter().flat_map(Cursor::children);
                for (peer, at) in rule.peers.iter().flatten().zip(places) {
                    match peer {
                        Peer::Pods { projects, pods } => {
                            let meant = self.meant(policy.project, projects.as_ref(), pods);
                            let places = (at.key("namespaceSelector"), at.key("podSelector"));
                            let selectors = (projects.as_ref(), Some(pods));
                            Self::nobody(&meant, selectors, places, context);
                            peers.pods.extend(&meant.pods);
                            peers.any_router |= meant.any_router;
                        }
                        Peer::Block { cidr, except } => {
                            only_pods = false;
                            if direction == Direction::Ingress {
                                self.never_matches(
                                    (*cidr, except),
                                    at.key("ipBlock").key("cidr"),
                                    context,
                                );
                            }
                        }
                    }
                }
                let destinations = match direction {
                    Direction::Ingress => Some(&own),
                    Direction::Egress => only_pods.then_some(&peers),
                };
                self.ports(rule, direction, destinations, at, context);
            }
        }
    }

    /// Whom selectors mean.
    fn meant(&mut self, own: ProjectId, projects: Option<&Selector>, pods: &Selector) -> Meant {
        let name = |selector| crate::intent::selector_name(selector);
        let key = match projects {
            None => format!("{} {}", own.index(), name(pods)),
            Some(projects) => format!("{} {}", name(projects), name(pods)),
        };
        if let Some(known) = self.known.get(&key) {
            return known.clone();
        }
        let mut meant = Meant::default();
        for (index, project) in self.projects.list.iter().enumerate() {
            let id = ProjectId::new(index);
            if !projects.map_or(id == own, |selector| selector.matches(&project.labels)) {
                continue;
            }
            meant.any_project = true;
            let range = self.pods[index].clone();
            meant.pods.extend(range.filter(|pod| pods.matches(&self.projects.pods[*pod].labels)));
            let router =
                |router: &&EgressRouter| router.project == id && pods.matches(&router.labels);
            meant.any_router |= self.routers.iter().any(|r| router(&r));
        }
        self.known.insert(key, meant.clone());
        meant
    }

    /// RF033: a selector that means nobody. An empty one means all there will be.
    fn nobody(
        meant: &Meant,
        (projects, pods): (Option<&Selector>, Option<&Selector>),
        (projects_at, pods_at): (Cursor<'_>, Cursor<'_>),
        context: &mut Context,
    ) {
        if projects.is_some_and(|selector| !is_empty(selector)) && !meant.any_project {
            context.selector_matches_nothing("project", projects_at.place());
        } else if pods.is_some_and(|selector| !is_empty(selector))
            && meant.pods.is_empty()
            && !meant.any_router
        {
            context.selector_matches_nothing("pod", pods_at.place());
        }
    }

    /// RF269: who comes to a pod has an address of the pod networks, whoever he is.
    fn never_matches(
        &self,
        (cidr, except): (Ipv4Net, &[Ipv4Net]),
        at: Cursor<'_>,
        context: &mut Context,
    ) {
        let networks = || self.cluster.pod_networks.iter().map(|network| network.cidr);
        let left = without(cidr, except);
        let near = |part: &Ipv4Net| {
            networks().any(|network| network.contains(part) || part.contains(&network))
        };
        // That nothing is left has been said.
        if left.is_empty() || left.iter().any(near) {
            return;
        }
        let list: Vec<String> = networks().map(|network| network.to_string()).collect();
        context.push(
            Diagnostic::new(
                Code::IpBlockNeverMatches,
                format!("the block never matches: nobody comes to a pod from {cidr}"),
            )
            .at(at.place())
            .help(format!(
                "who comes by a node port has the last address of that node's part of {}; to let the \
                 outside in, write a rule without `from`, or a block of those addresses",
                list.join(" or ")
            )),
        );
    }

    /// RF266 and RF270: ports that the destinations don't have.
    fn ports(
        &self,
        rule: &PolicyRule,
        direction: Direction,
        destinations: Option<&Meant>,
        at: Cursor<'_>,
        context: &mut Context,
    ) {
        let places = at.find("ports").into_iter().flat_map(Cursor::children);
        for (ports, at) in rule.ports.iter().flatten().zip(places) {
            let at = at.key("port");
            match (&ports.ports, destinations) {
                (PortSet::Named(_), Some(meant)) if !meant.pods.is_empty() => {
                    self.named(ports, direction, &meant.pods, at, context);
                }
                (PortSet::Named(_), None) => {
                    let all: Vec<usize> = (0..self.projects.pods.len()).collect();
                    self.named(ports, direction, &all, at, context);
                }
                (PortSet::Range(first, last), Some(meant)) if first == last => {
                    self.service_port(ports, *first, &meant.pods, at, context);
                }
                _ => {}
            }
        }
    }

    /// RF266: a name that no pod gives to a port, or that some of those it is about don't.
    fn named(
        &self,
        ports: &PolicyPorts,
        direction: Direction,
        pods: &[usize],
        at: Cursor<'_>,
        context: &mut Context,
    ) {
        let PortSet::Named(name) = &ports.ports else { return };
        let has = |pod: &&usize| {
            let mut named = self.projects.pods[**pod].ports.iter();
            named.any(|(own, protocol, _)| {
                own.as_str() == name.as_str() && *protocol == ports.protocol
            })
        };
        let (with, lacking): (Vec<&usize>, Vec<&usize>) = pods.iter().partition(has);
        let protocol = ports.protocol;
        let message = if with.is_empty() {
            format!("no pod that the rule is about has a {protocol} port with the name `{name}`")
        } else if direction == Direction::Ingress && !lacking.is_empty() {
            let names: Vec<String> = lacking.iter().map(|pod| self.pod_name(**pod)).collect();
            format!("there is no {protocol} port with the name `{name}` at {}", listed(&names))
        } else {
            return;
        };
        context.push(Diagnostic::new(Code::NamedPortMissing, message).at(at.place()).help(
            format!("give the pods `ports: [{{name: {name}, port: …}}]`, or write the number"),
        ));
    }

    fn pod_name(&self, pod: usize) -> String {
        let pod = &self.projects.pods[pod];
        format!("{}/{}", self.projects.list[pod.project.index()].name, pod.name)
    }

    /// RF270: a port at which a service is reached, but not its pods.
    fn service_port(
        &self,
        ports: &PolicyPorts,
        number: u16,
        pods: &[usize],
        at: Cursor<'_>,
        context: &mut Context,
    ) {
        if pods.is_empty() {
            return;
        }
        let mut translated = None;
        for service in self.services {
            for port in service.ports.iter().filter(|port| port.protocol == ports.protocol) {
                for (workload, to) in &port.backends {
                    let Workload::Pod(pod) = workload else { continue };
                    if pods.binary_search(&pod.index()).is_err() && !pods.contains(&pod.index()) {
                        continue;
                    }
                    if to.get() == number {
                        return;
                    }
                    if port.port.get() == number {
                        translated = translated.or(Some((service, *to, *pod)));
                    }
                }
            }
        }
        let named = |pod: &usize| {
            let mut ports_of_pod = self.projects.pods[*pod].ports.iter();
            ports_of_pod
                .any(|(_, protocol, port)| *protocol == ports.protocol && port.get() == number)
        };
        if pods.iter().any(named) {
            return;
        }
        let Some((service, to, pod)) = translated else { return };
        let pod: PodId = pod;
        context.push(
            Diagnostic::new(
                Code::PolicyServicePort,
                format!(
                    "{number} is a port of the service `{}`; its pods, such as `{}`, get that at {to}",
                    service.name,
                    self.pod_name(pod.index())
                ),
            )
            .at(at.place())
            .related(service.place, "the service")
            .help(format!("policies see the port of the pod: write {to}")),
        );
    }
}
