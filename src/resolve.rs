//! From what people wrote to what it means: names become objects, restrictions are checked.
//!
//! One file a section. Every restriction reports and goes on, so that one run shows them all;
//! an [`Intent`] comes out only where nothing was wrong.

mod addresses;
mod cluster;
mod egress_ips;
mod egress_policies;
mod egress_routers;
mod mdns;
mod network_policies;
mod node_access;
mod node_ports;
mod nodes;
mod outside;
mod policy_tests;
mod projects;
mod services;

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use ipnet::Ipv4Net;
use serde_json::Value;

pub(crate) use addresses::{last_host, node_port_source, outside_subnet};
pub(crate) use cluster::special_ranges;
pub(crate) use egress_policies::covered_by;
pub(crate) use network_policies::without;
pub(crate) use outside::link_local;

use crate::diagnostic::{Code, Diagnostic, Place, Report, nearest};
use crate::input::{Cursor, Documents, unsupported_version};
use crate::intent::{self, Intent, NodeId, ProjectId};
use crate::spec::{self, DesiredState, Selector};
use crate::value::{Invalid, Name, ipv4};
use outside::Outside;

/// Resolves the documents of a run. `complete` tells whether all of the input could be read:
/// where it couldn't, findings that its missing parts may cause are left out.
#[must_use]
pub fn resolve(documents: &[Documents], complete: bool) -> (Option<Intent>, Report) {
    let wire = Wire::gather(documents);
    let mut context = Context { report: Report::new(), complete };
    wire.check_version(&mut context);
    let cluster = cluster::resolve(&wire, &mut context);
    let mut nodes = nodes::resolve(&wire, &cluster, &mut context);
    node_ports::blocks(&wire, &mut nodes, &mut context);
    let projects = projects::resolve(&wire, &nodes, cluster.mode, &mut context);
    let policies = egress_policies::resolve(&wire, &projects, &cluster, &mut context);
    let outside = Outside::new(&wire, &nodes, &cluster);
    let routers = egress_routers::resolve(&wire, &nodes, &projects, &outside, &mut context);
    let egress_ips = egress_ips::resolve(&wire, &nodes, &projects, &routers, &mut context);
    let services =
        services::resolve(&wire, &nodes, &projects, &policies, &routers, &outside, &mut context);
    let network_policies =
        network_policies::resolve(&wire, &projects, &cluster, &routers, &services, &mut context);
    let mdns = mdns::resolve(&wire, &nodes, &projects, &services, &mut context);
    addresses::check(&cluster, &nodes, &projects, &mut context);
    let mut intent = Intent {
        cluster,
        nodes: nodes.list,
        projects: projects.list,
        pods: projects.pods,
        node_services: projects.node_services,
        policies,
        network_policies,
        routers,
        egress_ips,
        services,
        mdns,
        tests: Vec::new(),
    };
    // What had an error is missing from the intent.
    context.complete = complete && !context.report.has_errors();
    intent.tests = policy_tests::resolve(&wire, &intent, &mut context);
    (complete.then_some(intent).filter(|_| !context.report.has_errors()), context.report)
}

/// The findings so far.
struct Context {
    report: Report,
    complete: bool,
}

impl Context {
    fn push(&mut self, diagnostic: Diagnostic) {
        // What is missing may stand in a part that couldn't be read.
        let about_absence = matches!(
            diagnostic.code,
            Code::MissingKey
                | Code::UnknownNode
                | Code::UnknownProject
                | Code::UnknownRouter
                | Code::SelectorMatchesNothing
                | Code::ServiceTargetPort
                | Code::PolicyEmpty
                | Code::RuleVerdict
                | Code::RuleDestination
                | Code::RouterNoNode
                | Code::RouterUnavailable
                | Code::RouterDestination
                | Code::RouterRules
                | Code::EgressIpNoNode
                | Code::EgressIpUnavailable
                | Code::UnknownService
                | Code::MdnsNoNode
                | Code::NetworkPolicyPeer
                | Code::NamedPortMissing
                | Code::PolicyServicePort
                | Code::EndpointUnknown
                | Code::TestNothing
                | Code::TestVia
        );
        if self.complete || !about_absence {
            self.report.push(diagnostic);
        }
    }

    fn invalid(&mut self, invalid: Invalid, place: Place) {
        self.push(Diagnostic::from(invalid).at(place));
    }

    /// The value, or `None` after reporting why not.
    fn take<T>(&mut self, result: Result<T, Invalid>, place: Place) -> Option<T> {
        result.map_err(|invalid| self.invalid(invalid, place)).ok()
    }

    /// An IPv4 address that a host can have.
    fn host_address(&mut self, address: &crate::value::Address, place: Place) -> Option<Ipv4Addr> {
        let address = self.take(ipv4(address), place)?;
        let what = if address.is_unspecified() || address.octets()[0] == 0 {
            "means \"this network\""
        } else if address.is_loopback() {
            "is a loopback address"
        } else if address.is_multicast() {
            "is a multicast group"
        } else if address.octets()[0] >= 240 {
            "is reserved or a broadcast address"
        } else {
            return Some(address);
        };
        self.push(
            Diagnostic::new(
                Code::BadAddress,
                format!("`{address}` {what}, which no host can have"),
            )
            .at(place)
            .help("write the address of a host"),
        );
        None
    }

    /// Reports `name` as unknown, with the nearest of those that are known.
    fn unknown<'a>(
        &mut self,
        code: Code,
        what: &str,
        name: &Name,
        place: Place,
        known: impl Iterator<Item = &'a Name>,
    ) {
        let diagnostic = Diagnostic::new(code, format!("there is no {what} `{name}`")).at(place);
        self.push(match nearest(name.as_str(), known.map(Name::as_str)) {
            Some(meant) => diagnostic.help(format!("did you mean `{meant}`?")),
            None => diagnostic.help(format!("define it under `{what}s`, or correct the name")),
        });
    }

    fn selector_matches_nothing(&mut self, what: &str, place: Place) {
        self.push(
            Diagnostic::new(
                Code::SelectorMatchesNothing,
                format!("the selector matches no {what}"),
            )
            .at(place)
            .help(format!("compare it with the labels of the {what}s")),
        );
    }

    /// Checks the parts of a selector that its types can't, and tells whether they are good.
    fn check_selector(&mut self, selector: &Selector, at: Cursor<'_>) -> bool {
        let mut good = true;
        let items = at.find("matchExpressions").into_iter().flat_map(Cursor::children);
        for (expression, at) in selector.expressions.iter().zip(items) {
            let lists = matches!(expression.operator, spec::Operator::In | spec::Operator::NotIn);
            if lists == expression.values.is_empty() {
                let message = format!(
                    "the operator {:?} takes {}",
                    expression.operator,
                    if lists { "at least one value" } else { "no values" }
                );
                good = false;
                self.push(
                    Diagnostic::new(Code::BadValue, message)
                        .at(at.key("values").place())
                        .help("`In` and `NotIn` have `values`; `Exists` and `DoesNotExist` don't"),
                );
            }
        }
        good
    }
}

/// Every object of every document, with its position, in the order of the input.
#[derive(Default)]
struct Wire<'a> {
    documents: Vec<(Cursor<'a>, &'a DesiredState)>,
}

impl<'a> Wire<'a> {
    fn gather(documents: &'a [Documents]) -> Self {
        Self { documents: documents.iter().flat_map(Documents::iter).collect() }
    }

    /// The items of one list in all documents.
    fn items<T: 'a>(
        &self,
        key: &'static str,
        list: impl Fn(&'a DesiredState) -> &'a [T] + 'a,
    ) -> impl Iterator<Item = (Cursor<'a>, &'a T)> {
        self.documents.iter().flat_map(move |&(at, state)| {
            at.find(key).into_iter().flat_map(Cursor::children).zip(list(state))
        })
    }

    /// The values of one key in all documents that have it.
    fn values<T: 'a>(
        &self,
        key: &'static str,
        value: impl Fn(&'a DesiredState) -> Option<&'a T> + 'a,
    ) -> impl Iterator<Item = (Cursor<'a>, &'a T)> {
        self.documents
            .iter()
            .filter_map(move |&(at, state)| value(state).map(|value| (at.key(key), value)))
    }

    /// The keys of one section in all documents that have it.
    fn section_keys(&self, key: &'static str) -> impl Iterator<Item = Place> {
        self.documents.iter().filter_map(move |(at, _)| Some(at.find(key)?.key_place()))
    }

    /// The same, each with what its document makes of it.
    fn section_keys_with<T>(
        &self,
        key: &'static str,
        what: impl Fn(&str, &DesiredState) -> T,
    ) -> impl Iterator<Item = (Place, T)> {
        self.documents
            .iter()
            .filter_map(move |&(at, state)| Some((at.find(key)?.key_place(), what(key, state))))
    }

    fn check_version(&self, context: &mut Context) {
        let mut found = false;
        for (at, version) in self.values("version", |state| state.version.as_ref()) {
            found = true;
            if *version != spec::VERSION {
                context.push(unsupported_version(&Value::from(*version)).at(at.place()));
            }
        }
        if !found {
            let diagnostic = Diagnostic::new(Code::MissingKey, "the key `version` is missing")
                .help("begin the desired state with `version: 1`");
            context.push(match self.documents.first() {
                Some((at, _)) => diagnostic.at(at.place()),
                None => diagnostic,
            });
        }
    }
}

/// Objects of a kind that were defined, by name: finds duplicates and resolves references.
struct Index<'a, Id> {
    by_name: BTreeMap<&'a Name, (Id, Place)>,
}

impl<'a, Id: Copy> Index<'a, Id> {
    fn get(&self, name: &Name) -> Option<Id> {
        self.by_name.get(name).map(|(id, _)| *id)
    }

    fn names(&self) -> impl Iterator<Item = &'a Name> {
        self.by_name.keys().copied()
    }
}

/// Sorts objects by name and drops those whose name was taken already, with a report.
fn unique<'a, T>(
    what: &str,
    items: impl Iterator<Item = (Cursor<'a>, &'a T)>,
    name: impl Fn(&'a T) -> &'a Name,
    context: &mut Context,
) -> Vec<(Cursor<'a>, &'a T)> {
    let mut sorted: BTreeMap<&Name, (Cursor<'a>, &'a T)> = BTreeMap::new();
    for (at, item) in items {
        let name = name(item);
        if let Some((first, _)) = sorted.get(name) {
            context.push(defined_twice(what, name.as_str(), at, *first));
        } else {
            sorted.insert(name, (at, item));
        }
    }
    sorted.into_values().collect()
}

fn defined_twice(what: &str, name: &str, at: Cursor<'_>, first: Cursor<'_>) -> Diagnostic {
    Diagnostic::new(Code::DefinedTwice, format!("the {what} `{name}` is defined twice"))
        .at(at.key("name").place())
        .related(first.key("name").place(), "first defined here")
        .help("remove one of the two, or rename it")
}

/// Resolved nodes, with what later sections ask of them.
struct Nodes<'a> {
    list: Vec<intent::Node>,
    index: Index<'a, NodeId>,
    wire: Vec<(Cursor<'a>, &'a spec::Node)>,
    /// The addresses set aside on each node, with their places.
    reserved: Vec<Vec<(Ipv4Addr, Place)>>,
    /// The ranges from which each node may hold egress IPs.
    egress_ranges: Vec<Vec<Ipv4Net>>,
}

/// Resolved projects and pods, with what later sections ask of them.
struct Projects<'a> {
    list: Vec<intent::Project>,
    index: Index<'a, ProjectId>,
    pods: Vec<intent::Pod>,
    /// The project of the same index as it is written.
    wire: Vec<(Cursor<'a>, &'a spec::Project)>,
    /// The pod of the same index as it is written.
    wire_pods: Vec<(Cursor<'a>, &'a spec::Pod)>,
    /// For each project that is in a join, as member or target, where that is said.
    joins: BTreeMap<ProjectId, Place>,
    /// For each global project, where that is said.
    global: BTreeMap<ProjectId, Place>,
    /// Whose services the nodes' own processes reach; all where it isn't said.
    node_services: Option<intent::NodeServices>,
}
