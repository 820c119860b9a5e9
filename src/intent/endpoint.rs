//! The ends of connections as people name them, on the command line and in tests.

use std::net::Ipv4Addr;

use ipnet::Ipv4Net;

use super::{Intent, NodeId, PodId, ProjectId, RouterId, ServiceId, Workload};
use crate::diagnostic::{Code, Diagnostic, nearest, quoted};

/// One end of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Endpoint {
    /// A pod or egress router.
    Workload(Workload),
    /// A service, at its address.
    Service(ServiceId),
    /// A node.
    Node(NodeId),
    /// Whoever has this address.
    Address(Ipv4Addr),
    /// Everybody with an address of this network.
    Network(Ipv4Net),
    /// Anybody who is neither a pod nor a node.
    Outside,
}

impl Endpoint {
    /// The end with this name: `project/pod`, `project/service`, the name of a node or egress router,
    /// an address, a network, or `outside`. Where several objects share a name, a kind in front tells
    /// which: `pod/shop/web`, `service/shop/web`, `node/a`, `router/a`. Senders are never services.
    ///
    /// The error has no place.
    pub fn find(intent: &Intent, text: &str, sends: bool) -> Result<Self, Diagnostic> {
        if text == "outside" {
            return Ok(Self::Outside);
        }
        if let Ok(address) = text.parse::<Ipv4Addr>() {
            return Ok(Self::Address(address));
        }
        if let Ok(network) = text.parse::<Ipv4Net>() {
            return Ok(Self::Network(network.trunc()));
        }
        let parts: Vec<&str> = text.split('/').collect();
        let found = match parts.as_slice() {
            [name] => vec![node(intent, name), router(intent, name)],
            ["pod", project, name] => vec![pod(intent, project, name)],
            ["service", project, name] => vec![service(intent, project, name)],
            [kind, name] => {
                let mut found = vec![pod(intent, kind, name)];
                if !sends {
                    found.push(service(intent, kind, name));
                }
                if found.iter().all(Option::is_none) {
                    found = match *kind {
                        "node" => vec![node(intent, name)],
                        "router" => vec![router(intent, name)],
                        _ => Vec::new(),
                    };
                }
                found
            }
            _ => Vec::new(),
        };
        let mut found = found.into_iter().flatten();
        match (found.next(), found.next()) {
            (Some(only), None) => Ok(only),
            (Some(one), Some(other)) => Err(ambiguous(intent, text, one, other)),
            (None, _) => Err(unknown(intent, text, &parts, sends)),
        }
    }

    /// Its name, as [`Endpoint::find`] takes it.
    #[must_use]
    pub fn name(self, intent: &Intent) -> String {
        match self {
            Self::Workload(workload) => intent.workload_name(workload),
            Self::Service(id) => intent.service_name(id),
            Self::Node(id) => intent[id].name.to_string(),
            Self::Address(address) => address.to_string(),
            Self::Network(network) => network.to_string(),
            Self::Outside => "outside".to_owned(),
        }
    }

    fn kind(self) -> &'static str {
        match self {
            Self::Workload(Workload::Pod(_)) => "pod",
            Self::Workload(Workload::Router(_)) => "router",
            Self::Service(_) => "service",
            Self::Node(_) => "node",
            Self::Address(_) | Self::Network(_) | Self::Outside => "address",
        }
    }
}

impl Intent {
    /// The project with this name.
    #[must_use]
    pub fn project_named(&self, name: &str) -> Option<ProjectId> {
        let found = self.projects.binary_search_by(|project| project.name.as_str().cmp(name));
        found.ok().map(ProjectId::new)
    }

    /// `project/pod`, or the name of an egress router.
    #[must_use]
    pub fn workload_name(&self, workload: Workload) -> String {
        match workload {
            Workload::Pod(id) => self.pod_name(id),
            Workload::Router(id) => self[id].name.to_string(),
        }
    }

    /// The pods of a project, by name.
    pub fn pods_of(&self, project: ProjectId) -> impl Iterator<Item = (PodId, &super::Pod)> {
        let first = self.pods.partition_point(|pod| pod.project < project);
        let own = self.pods[first..].iter().take_while(move |pod| pod.project == project);
        own.enumerate().map(move |(index, pod)| (PodId::new(first + index), pod))
    }
}

fn pod(intent: &Intent, project: &str, name: &str) -> Option<Endpoint> {
    let project = intent.project_named(project)?;
    let key = |pod: &super::Pod| pod.project.cmp(&project).then(pod.name.as_str().cmp(name));
    let found = intent.pods.binary_search_by(key).ok()?;
    Some(Endpoint::Workload(Workload::Pod(PodId::new(found))))
}

fn service(intent: &Intent, project: &str, name: &str) -> Option<Endpoint> {
    let project = intent.project_named(project)?;
    let key = |service: &super::Service| {
        service.project.cmp(&project).then(service.name.as_str().cmp(name))
    };
    let found = intent.services.binary_search_by(key).ok()?;
    Some(Endpoint::Service(ServiceId::new(found)))
}

fn node(intent: &Intent, name: &str) -> Option<Endpoint> {
    let found = intent.nodes.binary_search_by(|node| node.name.as_str().cmp(name)).ok()?;
    Some(Endpoint::Node(NodeId::new(found)))
}

fn router(intent: &Intent, name: &str) -> Option<Endpoint> {
    let found = intent.routers.binary_search_by(|router| router.name.as_str().cmp(name)).ok()?;
    Some(Endpoint::Workload(Workload::Router(RouterId::new(found))))
}

fn ambiguous(intent: &Intent, text: &str, one: Endpoint, other: Endpoint) -> Diagnostic {
    let (first, second) = (one.kind(), other.kind());
    let name = one.name(intent);
    let message = format!("{} is a {first} and a {second}", quoted(text));
    Diagnostic::new(Code::EndpointAmbiguous, message)
        .help(format!("write `{first}/{name}` or `{second}/{name}`"))
}

fn unknown(intent: &Intent, text: &str, parts: &[&str], sends: bool) -> Diagnostic {
    let parts = match parts {
        ["pod" | "service", rest @ ..] if rest.len() == 2 => rest,
        _ => parts,
    };
    let (message, meant) = match *parts {
        [project, name] => {
            if let Some(id) = intent.project_named(project) {
                let pods = intent.pods_of(id).map(|(_, pod)| pod.name.as_str());
                let services = intent.services().filter(|(_, s)| s.project == id && !sends);
                let services = services.map(|(_, service)| service.name.as_str());
                let meant = nearest(name, pods.chain(services));
                let what = if sends { "pod" } else { "pod or service" };
                let message = format!("the project `{project}` has no {what} {}", quoted(name));
                (message, meant.map(|meant| format!("{project}/{meant}")))
            } else {
                let known = intent.projects().map(|(_, project)| project.name.as_str());
                let meant = nearest(project, known);
                let message = format!("there is no project {}", quoted(project));
                (message, meant.map(|meant| format!("{meant}/{name}")))
            }
        }
        [name] => {
            let nodes = intent.nodes().map(|(_, node)| node.name.as_str());
            let known = nodes.chain(intent.routers().map(|(_, router)| router.name.as_str()));
            let message = format!("there is no node or egress router {}", quoted(name));
            (message, nearest(name, known.chain(["outside"])).map(str::to_owned))
        }
        _ => (format!("{} is not the name of an end of a connection", quoted(text)), None),
    };
    Diagnostic::new(Code::EndpointUnknown, message).help(match meant {
        Some(meant) => format!("did you mean `{meant}`?"),
        None => "write project/pod, project/service, a node, an egress router, an IPv4 address or \
                 `outside`"
            .to_owned(),
    })
}
