//! The `tests` section.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use super::{Context, Wire};
use crate::diagnostic::{Code, Diagnostic, Place, quoted};
use crate::input::Cursor;
use crate::intent::{Endpoint, Intent, PodSet, PolicyTest, TestEnd, Verdict, Via, Workload};
use crate::spec::{self, Expectation, TestEnds};
use crate::value::Protocol;

/// The tests in the order in which they are written. The intent is whole but for them.
pub(super) fn resolve(wire: &Wire<'_>, intent: &Intent, context: &mut Context) -> Vec<PolicyTest> {
    let mut tests = Vec::new();
    let mut names: BTreeMap<&str, Place> = BTreeMap::new();
    for (at, wire) in wire.items("tests", |state| &state.tests) {
        let spec::PolicyTest { name, from, to, port, protocol, expect, via } = wire;
        let place = at.key("name").place();
        good_name(name, place, context);
        if let Some(first) = names.insert(name, place) {
            names.insert(name, first);
            let message = format!("two tests have the name {}", quoted(name));
            context.push(
                Diagnostic::new(Code::TestTwice, message)
                    .at(place)
                    .related(first, "the first")
                    .help("rename one of the two"),
            );
        }
        let senders = ends(from, at.key("from"), true, intent, context);
        let receivers = ends(to, at.key("to"), false, intent, context);
        let via = match via {
            Some(text) => via_of(text, at.key("via").place(), *expect, &receivers, intent, context),
            None => None,
        };
        tests.push(PolicyTest {
            name: name.clone(),
            from: senders,
            to: receivers,
            port: *port,
            protocol: protocol.or(port.map(|_| Protocol::Tcp)),
            expect: match expect {
                Expectation::Allow => Verdict::Allow,
                Expectation::Deny => Verdict::Deny,
            },
            via,
            place,
        });
    }
    tests
}

/// Names stand in reports, a line each.
fn good_name(name: &str, place: Place, context: &mut Context) {
    const LONGEST: usize = 200;
    let length = name.chars().count();
    if name.trim().is_empty() || length > LONGEST || name.chars().any(char::is_control) {
        let message = format!("{} is no name of a test", quoted(name));
        context.push(
            Diagnostic::new(Code::BadValue, message)
                .at(place)
                .help(format!("write one line of at most {LONGEST} characters")),
        );
    }
}

fn ends(
    wire: &TestEnds,
    at: Cursor<'_>,
    sends: bool,
    intent: &Intent,
    context: &mut Context,
) -> Vec<TestEnd> {
    if wire.ends.is_empty() {
        let message = format!("the test {} nobody", if sends { "sends from" } else { "sends to" });
        context.push(
            Diagnostic::new(Code::TestNothing, message)
                .at(at.place())
                .help("name a pod, a project or another end"),
        );
    }
    let items: Vec<Cursor<'_>> = if wire.is_list { at.children().collect() } else { vec![at] };
    let mut found = Vec::new();
    for (end, at) in wire.ends.iter().zip(items) {
        match end {
            spec::TestEnd::Named(text) => match Endpoint::find(intent, text, sends) {
                Ok(end) => {
                    unusable(end, sends, at.place(), intent, context);
                    found.push(TestEnd::Named(end, at.place()));
                }
                Err(diagnostic) => context.push(diagnostic.at(at.place())),
            },
            spec::TestEnd::Pods(pods) => found.extend(pod_set(pods, at, intent, context)),
        }
    }
    found
}

/// RF312: an end that nothing can be sent from or to, as far as it shows without addresses.
fn unusable(end: Endpoint, sends: bool, place: Place, intent: &Intent, context: &mut Context) {
    let message = match end {
        Endpoint::Network(network) if sends => {
            format!("`{network}` is a network, and senders are pods, nodes or `outside`")
        }
        Endpoint::Network(network)
            if intent.cluster().networks().any(|own| own.contains(&network)) =>
        {
            format!("`{network}` is a part of the cluster's own networks")
        }
        Endpoint::Address(address) if !is_host(address) => {
            format!("no host has the address `{address}`")
        }
        _ => return,
    };
    context.push(
        Diagnostic::new(Code::EndpointUnusable, message)
            .at(place)
            .help("name pods by `projects` and `podSelector`"),
    );
}

fn is_host(address: Ipv4Addr) -> bool {
    let first = address.octets()[0];
    first != 0 && first != 127 && first < 240
}

fn pod_set(
    wire: &spec::TestPods,
    at: Cursor<'_>,
    intent: &Intent,
    context: &mut Context,
) -> Option<TestEnd> {
    let spec::TestPods { projects, selector, pod_selector } = wire;
    let mut good = context.check_selector(pod_selector, at.key("podSelector"));
    let mut all = None;
    if let Some(selector) = selector {
        good &= context.check_selector(selector, at.key("selector"));
        let fits = intent.projects().filter(|(_, project)| selector.matches(&project.labels));
        all = Some(fits.map(|(id, _)| id).collect::<Vec<_>>());
    }
    for (name, at) in projects.iter().zip(at.key("projects").children()) {
        let Some(id) = intent.project_named(name.as_str()) else {
            let known = intent.projects().map(|(_, project)| &project.name);
            context.unknown(Code::UnknownProject, "project", name, at.place(), known);
            good = false;
            continue;
        };
        all.get_or_insert_default().push(id);
    }
    if !good {
        return None;
    }
    if let Some(all) = &mut all {
        all.sort_unstable();
        all.dedup();
    }
    let set = PodSet { projects: all, pods: pod_selector.clone(), place: at.place() };
    if set.pods(intent).next().is_none() {
        context.push(
            Diagnostic::new(Code::TestNothing, "no pod is meant here")
                .at(at.place())
                .help("compare it with the labels of projects and pods"),
        );
    }
    Some(TestEnd::Pods(set))
}

/// RF315.
fn via_of(
    text: &str,
    place: Place,
    expect: Expectation,
    to: &[TestEnd],
    intent: &Intent,
    context: &mut Context,
) -> Option<Via> {
    let mut bad = |message: String, help: &str| {
        context.push(Diagnostic::new(Code::TestVia, message).at(place).help(help));
        None
    };
    if expect == Expectation::Deny {
        let help = "remove `via`, or write two tests";
        return bad("what must not arrive goes by nothing".to_owned(), help);
    }
    let outside = |end: &TestEnd| {
        matches!(
            end,
            TestEnd::Named(Endpoint::Outside | Endpoint::Network(_) | Endpoint::Address(_), _)
        )
    };
    if !to.iter().all(outside) {
        let help = "`to` has to be addresses, networks or `outside`";
        return bad("`via` is about what leaves the cluster".to_owned(), help);
    }
    let egress_ip = |address: Ipv4Addr| {
        let mut all = intent.egress_ips().iter().flat_map(|list| &list.addresses);
        all.any(|ip| ip.address == address)
    };
    match Endpoint::find(intent, text, true) {
        Ok(Endpoint::Workload(Workload::Router(id))) => {
            let one = |end: &TestEnd| matches!(end, TestEnd::Named(Endpoint::Address(_), _));
            if to.iter().all(one) {
                return Some(Via::Router(id));
            }
            bad(
                "an egress router leads to single addresses".to_owned(),
                "write the address behind the egress router as `to`",
            )
        }
        Ok(Endpoint::Node(id)) => Some(Via::Node(id)),
        Ok(Endpoint::Address(address)) => {
            let node = intent.nodes().find(|(_, node)| node.address == address);
            match node {
                Some((id, _)) => Some(Via::Node(id)),
                None if egress_ip(address) => Some(Via::Address(address)),
                None => bad(
                    format!("`{address}` is neither an egress IP nor the address of a node"),
                    "write one of `egressIPs`, a node or an egress router",
                ),
            }
        }
        _ => bad(
            format!("{} is neither a node, an egress router nor an egress IP", quoted(text)),
            "write one of them",
        ),
    }
}
