//! Services in front of egress routers.

use std::collections::BTreeMap;

use super::{Context, Projects};
use crate::diagnostic::{Code, Diagnostic};
use crate::input::Cursor;
use crate::intent::{EgressRouter, ProjectId, RouterId};
use crate::spec::{self, ServiceType, TargetPort};
use crate::value::{ClusterIp, Name, Port, Protocol};

/// The egress routers, as services look for them.
pub(super) struct Routers<'a> {
    list: &'a [EgressRouter],
    /// The project of each as it is written, also of those that are amiss.
    written: BTreeMap<&'a Name, &'a Name>,
}

impl<'a> Routers<'a> {
    pub(super) fn new(
        list: &'a [EgressRouter],
        written: impl Iterator<Item = &'a spec::EgressRouter>,
    ) -> Self {
        let written = written.map(|router| (&router.name, &router.project)).collect();
        Self { list, written }
    }

    /// The routers that a service is for: the one that it names, or those of its project whose
    /// labels its selector matches. One without labels is meant by no selector, since some match
    /// whatever lacks a label.
    pub(super) fn of(
        &self,
        project: ProjectId,
        projects: &Projects<'_>,
        (at, wire): (Cursor<'_>, &spec::Service),
        context: &mut Context,
    ) -> Vec<RouterId> {
        let named = wire.egress_router.as_ref();
        let named = named.and_then(|name| self.named(name, project, projects, (at, wire), context));
        let ids = (0..self.list.len()).map(RouterId::new);
        let selects = |id: &RouterId| {
            let router = &self.list[id.index()];
            router.project == project
                && !router.labels.0.is_empty()
                && wire.selector.as_ref().is_some_and(|selector| selector.matches(&router.labels))
        };
        let found: Vec<RouterId> = match &wire.egress_router {
            Some(_) => named.into_iter().collect(),
            None => ids.filter(selects).collect(),
        };
        if let Some(first) = found.first().filter(|_| wire.kind != ServiceType::ClusterIp) {
            let message = format!(
                "the service `{}` of type {} leads outside again by the egress router `{}`",
                wire.name,
                wire.kind.as_str(),
                self.list[first.index()].name
            );
            context.push(
                Diagnostic::new(Code::ServiceRouterType, message)
                    .at(at.key("type").place())
                    .related(self.list[first.index()].place, "the router")
                    .help("remove the type: clients outside would go on in the router's name"),
            );
        }
        found
    }

    /// RF035 and RF115: the router that a service names.
    fn named(
        &self,
        name: &Name,
        project: ProjectId,
        projects: &Projects<'_>,
        (at, wire): (Cursor<'_>, &spec::Service),
        context: &mut Context,
    ) -> Option<RouterId> {
        let key = at.key("egressRouter");
        let mut contradicts = |other: &str, what: &str, help: &str| {
            let message = format!("the service `{}` has both `egressRouter` and {what}", wire.name);
            context.push(
                Diagnostic::new(Code::ConflictingKeys, message)
                    .at(key.key_place())
                    .related(at.key(other).key_place(), "the other")
                    .help(help),
            );
        };
        if wire.selector.is_some() {
            let help = "keep one of the two; a selector also finds routers, by their labels";
            contradicts("selector", "`selector`", help);
        }
        if at.find("endpoints").is_some() {
            let help = "make two services of it: one for the router, one for hosts outside";
            contradicts("endpoints", "`endpoints`", help);
        }
        if wire.cluster_ip == Some(ClusterIp::None) {
            let help = "remove `clusterIP: None`: without an address, nothing leads to the router";
            contradicts("clusterIP", "no address", help);
        }
        let own = &projects.list[project.index()].name;
        match self.written.get(name) {
            Some(other) if *other == own => {}
            Some(other) => {
                let message =
                    format!("the egress router `{name}` belongs to the project `{other}`");
                context.push(
                    Diagnostic::new(Code::UnknownRouter, message)
                        .at(key.place())
                        .help("a service is for what its own project has; move it there"),
                );
            }
            None => {
                let known = self.written.iter().filter(|(_, project)| **project == own);
                let known = known.map(|(name, _)| *name);
                context.unknown(Code::UnknownRouter, "egress router", name, key.place(), known);
            }
        }
        let found = self.list.iter().position(|router| router.name == *name);
        let found = found.filter(|index| self.list[*index].project == project);
        found.map(RouterId::new)
    }

    /// RF116 and RF122: the port at which each router takes what comes to a port of the service.
    pub(super) fn at_port(
        &self,
        routers: &[RouterId],
        wire: &spec::ServicePort,
        at: Cursor<'_>,
        context: &mut Context,
    ) -> Vec<(RouterId, Port)> {
        let Some(first) = routers.first() else { return Vec::new() };
        let place = at.find("targetPort").map_or_else(|| at.key("port").place(), Cursor::place);
        let to = match &wire.target_port {
            None => wire.port,
            Some(TargetPort::Number(port)) => *port,
            Some(TargetPort::Named(name)) => {
                let router = &self.list[first.index()].name;
                let message =
                    format!("the egress router `{router}` has no port with the name `{name}`");
                context.push(
                    Diagnostic::new(Code::ServiceTargetPort, message)
                        .at(place)
                        .help("write the number of the port"),
                );
                return Vec::new();
            }
        };
        let protocol = Protocol::from(wire.protocol);
        for router in routers.iter().map(|id| &self.list[id.index()]) {
            if router.mode.takes(protocol, to) {
                continue;
            }
            let message = format!(
                "the egress router `{}` leads the port {to}/{protocol} nowhere",
                router.name
            );
            let help = match router.mode.ports(protocol)[..] {
                [] => format!("it takes no port of {protocol}"),
                [only] => format!("write `targetPort: {only}`, the port that it takes"),
                [first, ..] => format!("write a `targetPort` that it takes, such as {first}"),
            };
            context.push(
                Diagnostic::new(Code::ServiceRouterPort, message)
                    .at(place)
                    .related(router.place, "the router")
                    .help(help),
            );
        }
        routers.iter().map(|id| (*id, to)).collect()
    }
}
