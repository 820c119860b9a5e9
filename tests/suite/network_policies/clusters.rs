//! Whole clusters, each with all that its policies let through: whatever isn't listed is closed, at the
//! borders of every range of ports that is.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::net::Ipv4Addr;

use crate::properties::{Arrival, Fabric, from_tenant};
use crate::world;
use ringfence::diagnostic::{Code, Source, Sources};
use ringfence::input;
use ringfence::intent::Direction;
use ringfence::lower::ClusterFlows;
use ringfence::model::{Model, Workload};
use ringfence::resolve::resolve;
use ringfence::value::{Port, Protocol};
use ringfence::verify::evaluate::{Body, Piece};
use ringfence::verify::reach::{Other, policies};

/// Who sends to whom, and what: `all`, or protocols with ports.
type Open<'a> = (&'a str, &'a str, &'a str);

/// Whoever is no pod.
const OUTSIDE: &str = "outside";
const ADDRESS: Ipv4Addr = Ipv4Addr::new(198, 18, 7, 7);

/// A pod as `project/name`, on one of two nodes, with its labels and its ports.
fn yaml(pods: &[(&str, &str)], list: &str) -> String {
    let mut text =
        "version: 1\ncluster: {mode: networkpolicy}\nnodes:\n  - {name: node-1, address: \
                    192.168.12.11}\n  - {name: node-2, address: 192.168.12.12}\nprojects:\n"
            .to_owned();
    let projects: BTreeSet<&str> =
        pods.iter().map(|(name, _)| name.split_once('/').unwrap().0).collect();
    for project in projects {
        let own = pods.iter().enumerate().filter_map(|(number, (name, more))| {
            let name = name.strip_prefix(project)?.strip_prefix('/')?;
            Some(format!("{{name: {name}, node: node-{}, {more}}}", 1 + number % 2))
        });
        let own: Vec<String> = own.collect();
        let _ = writeln!(text, "  - {{name: {project}, pods: [{}]}}", own.join(", "));
    }
    text.push_str("networkPolicies:\n");
    for policy in list.lines().map(str::trim).filter(|line| !line.is_empty()) {
        let _ = writeln!(text, "  - {policy}");
    }
    text
}

fn protocol(name: &str) -> Protocol {
    Protocol::ALL.into_iter().find(|protocol| protocol.as_str() == name).unwrap()
}

/// The ports of `tcp 80, udp 1-65535`.
fn ranges(what: &str) -> Vec<(Protocol, u16, u16)> {
    let range = |part: &str| {
        let (name, ports) = part.trim().split_once(' ').unwrap();
        let (first, last) = ports.split_once('-').unwrap_or((ports, ports));
        (protocol(name), first.parse().unwrap(), last.parse().unwrap())
    };
    what.split(',').map(range).collect()
}

fn is_listed(open: &[Open<'_>], from: &str, to: &str, via: Option<(Protocol, u16)>) -> bool {
    open.iter().filter(|line| (line.0, line.1) == (from, to)).any(|(.., what)| {
        *what == "all"
            || via.is_some_and(|(protocol, port)| {
                let mut ranges = ranges(what).into_iter();
                ranges.any(|(own, first, last)| own == protocol && (first..=last).contains(&port))
            })
    })
}

/// What has no ports, and ports on both sides of every border.
fn vias(open: &[Open<'_>]) -> BTreeSet<Option<(Protocol, u16)>> {
    let mut all: BTreeSet<Option<(Protocol, u16)>> = BTreeSet::from([None]);
    all.extend(Protocol::ALL.map(|protocol| Some((protocol, 4444))));
    for (_, first, last) in
        open.iter().filter(|(.., what)| *what != "all").flat_map(|(.., what)| ranges(what))
    {
        for border in [first, last] {
            for port in border.saturating_sub(1).max(1)..=border.saturating_add(1) {
                all.extend(Protocol::ALL.map(|protocol| Some((protocol, port))));
            }
        }
    }
    all
}

fn end(model: &Model, name: &str) -> Other {
    let mut pods = model.intent().pods();
    match pods.find(|(id, _)| model.intent().pod_name(*id) == name) {
        Some((id, _)) => Other::Workload(Workload::Pod(id)),
        None => Other::Address(ADDRESS),
    }
}

fn check(pods: &[(&str, &str)], list: &str, open: &[Open<'_>]) {
    let (model, _) = world::model(vec![yaml(pods, list)]);
    let common = ClusterFlows::new(&model).unwrap();
    let fabric = Fabric::new(&common);
    let names = || pods.iter().map(|(name, _)| *name).chain([OUTSIDE]);
    for (from, to, _) in open {
        assert!(names().any(|name| name == *from) && names().any(|name| name == *to));
    }
    for (from, to) in names().flat_map(|from| names().map(move |to| (from, to))) {
        if from == to {
            continue;
        }
        for via in vias(open) {
            let wanted = is_listed(open, from, to, via);
            let what = format!("{from} to {to} {via:?}");
            let (source, destination) = (end(&model, from), end(&model, to));
            let asked = via.map(|(protocol, port)| (protocol, Port::new(port.into()).unwrap()));
            let says = |direction, subject, other| match subject {
                Other::Workload(pod) => policies(&model, direction, pod, other, asked).allowed(),
                _ => true,
            };
            let said = says(Direction::Egress, source, destination)
                && says(Direction::Ingress, destination, source);
            assert_eq!(said, wanted, "the policies, {what}");
            let Other::Workload(pod) = source else { continue };
            let (dst, there) = match destination {
                Other::Workload(to) => {
                    let endpoint = model.endpoint(to);
                    (endpoint.address, Arrival::Workload(model.node(to), endpoint.port))
                }
                _ => (ADDRESS, Arrival::Host(model.node(pod))),
            };
            let src = model.endpoint(pod).address;
            let body = Body::Ip { src, dst, transport: via, piece: Piece::Whole };
            let mut arrived = fabric.spread(model.node(pod), &from_tenant(&model, pod, body));
            arrived.retain(|arrival| *arrival != Arrival::Nowhere);
            let there = if wanted { vec![there] } else { Vec::new() };
            assert_eq!(arrived, there, "the flows, {what}");
        }
    }
}

#[test]
fn a_pod_takes_everything_and_sends_nothing() {
    check(
        &[("hall/desk", "labels: {app: desk}"), ("hall/guest", "labels: {app: guest}")],
        "{project: hall, name: desk, podSelector: {matchLabels: {app: desk}}, policyTypes: [Ingress, Egress], \
         ingress: [{}]}",
        &[
            (OUTSIDE, "hall/desk", "all"),
            ("hall/guest", "hall/desk", "all"),
            ("hall/guest", OUTSIDE, "all"),
            (OUTSIDE, "hall/guest", "all"),
        ],
    );
}

#[test]
fn a_pod_takes_and_sends_everything_by_name() {
    check(
        &[("hall/desk", "labels: {app: desk}")],
        "{project: hall, name: desk, podSelector: {matchLabels: {app: desk}}, policyTypes: [Ingress, Egress], \
         ingress: [{}], egress: [{}]}",
        &[(OUTSIDE, "hall/desk", "all"), ("hall/desk", OUTSIDE, "all")],
    );
}

#[test]
fn a_project_names_itself_as_the_peer() {
    check(
        &[("hall/desk", "labels: {app: desk}"), ("hall/guest", "labels: {app: guest}")],
        "{project: hall, name: desk, podSelector: {matchLabels: {app: desk}}, ingress: [{from: \
         [{namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: hall}}}], ports: [{protocol: TCP, \
         port: 8050}]}]}",
        &[
            ("hall/guest", "hall/desk", "tcp 8050"),
            ("hall/desk", "hall/guest", "all"),
            ("hall/desk", OUTSIDE, "all"),
            ("hall/guest", OUTSIDE, "all"),
            (OUTSIDE, "hall/guest", "all"),
        ],
    );
}

#[test]
fn two_tiers_open_what_a_project_closes() {
    check(
        &[("default/front", "labels: {tier: front}"), ("default/back", "labels: {tier: back}")],
        "{project: default, name: closed, policyTypes: [Ingress, Egress]}
         {project: default, name: back, podSelector: {matchLabels: {tier: back}}, policyTypes: [Ingress, \
         Egress], ingress: [{from: [{podSelector: {matchLabels: {tier: front}}}], ports: [{port: 9090}]}]}
         {project: default, name: front, podSelector: {matchLabels: {tier: front}}, policyTypes: [Ingress, \
         Egress], ingress: [{ports: [{port: 8080}]}], egress: [{to: [{podSelector: {matchLabels: {tier: \
         back}}}], ports: [{port: 9090}]}, {ports: [{protocol: UDP, port: 53}]}]}",
        &[
            (OUTSIDE, "default/front", "tcp 8080"),
            ("default/front", OUTSIDE, "udp 53"),
            ("default/front", "default/back", "tcp 9090"),
        ],
    );
}

#[test]
fn one_end_says_who_sends_and_another_to_whom() {
    check(
        &[
            ("bank/view", "labels: {app: view}"),
            ("bank/command", "labels: {app: command}"),
            ("bank/query", "labels: {app: query}"),
        ],
        "{project: bank, name: command, podSelector: {matchLabels: {app: command}}, policyTypes: [Ingress], \
         ingress: [{from: [{podSelector: {matchLabels: {app: view}}}]}]}
         {project: bank, name: query, podSelector: {matchLabels: {app: query}}, policyTypes: [Egress], egress: \
         [{to: [{podSelector: {matchLabels: {app: view}}}], ports: [{port: 8080}]}]}",
        &[
            ("bank/view", "bank/command", "all"),
            ("bank/view", "bank/query", "all"),
            ("bank/view", OUTSIDE, "all"),
            ("bank/command", "bank/view", "all"),
            ("bank/command", "bank/query", "all"),
            ("bank/command", OUTSIDE, "all"),
            ("bank/query", "bank/view", "tcp 8080"),
            (OUTSIDE, "bank/view", "all"),
            (OUTSIDE, "bank/query", "all"),
        ],
    );
}

#[test]
fn a_project_is_reached_at_names_that_one_pod_has() {
    check(
        &[
            ("names/scale", "labels: {app: scale}"),
            (
                "names/resolver",
                "labels: {app: dns}, ports: [{name: dns, port: 10053, protocol: UDP}, {name: dns-tcp, port: \
                 10053}]",
            ),
            ("shop/web", "labels: {app: web}"),
        ],
        "{project: names, name: dns, podSelector: {}, policyTypes: [Ingress], ingress: [{ports: [{protocol: \
         UDP, port: dns}, {protocol: TCP, port: dns-tcp}]}]}",
        &[
            (OUTSIDE, "names/resolver", "tcp 10053, udp 10053"),
            ("names/scale", "names/resolver", "tcp 10053, udp 10053"),
            ("shop/web", "names/resolver", "tcp 10053, udp 10053"),
            ("names/scale", "shop/web", "all"),
            ("names/resolver", "shop/web", "all"),
            (OUTSIDE, "shop/web", "all"),
            ("names/scale", OUTSIDE, "all"),
            ("names/resolver", OUTSIDE, "all"),
            ("shop/web", OUTSIDE, "all"),
        ],
    );
}

/// All ports of all three protocols still aren't what has no ports.
#[test]
fn every_port_of_every_protocol_is_open() {
    let every = "tcp 1-65535, udp 1-65535, sctp 1-65535";
    check(
        &[("system/a", "labels: {app: a}"), ("shop/web", "labels: {app: web}")],
        "{project: system, name: ports, policyTypes: [Ingress], ingress: [{ports: [{protocol: UDP, port: 1, \
         endPort: 65535}, {protocol: TCP, port: 1, endPort: 65535}, {protocol: SCTP, port: 1, endPort: \
         65535}]}]}",
        &[
            (OUTSIDE, "system/a", every),
            ("shop/web", "system/a", every),
            ("system/a", "shop/web", "all"),
            (OUTSIDE, "shop/web", "all"),
            ("system/a", OUTSIDE, "all"),
            ("shop/web", OUTSIDE, "all"),
        ],
    );
}

/// A shop of many small programs, each of which knows whom it asks and who asks it.
#[test]
fn a_shop_of_many_programs() {
    let asks: [(&str, &str, u16); 8] = [
        ("front", "adverts", 9555),
        ("front", "cart", 7070),
        ("front", "checkout", 5050),
        ("front", "stock", 3550),
        ("checkout", "cart", 7070),
        ("checkout", "payment", 50051),
        ("checkout", "stock", 3550),
        ("load", "front", 8080),
    ];
    let apps: BTreeSet<&str> = asks.iter().flat_map(|(from, to, _)| [*from, *to]).collect();
    let names: Vec<(String, String)> = apps
        .iter()
        .map(|app| (format!("shop/{app}"), format!("labels: {{app: {app}}}")))
        .chain([("names/dns".to_owned(), "labels: {answers: names}".to_owned())])
        .collect();
    let pods: Vec<(&str, &str)> = names.iter().map(|(n, l)| (n.as_str(), l.as_str())).collect();
    let mut list = String::new();
    let mut open: Vec<(String, String, String)> = Vec::new();
    for app in &apps {
        let own = |app: &str| format!("{{podSelector: {{matchLabels: {{app: {app}}}}}}}");
        let from = asks
            .iter()
            .filter(|(_, to, _)| to == app)
            .map(|(from, _, port)| format!("{{from: [{}], ports: [{{port: {port}}}]}}", own(from)));
        let mut to: Vec<String> = asks
            .iter()
            .filter(|(from, ..)| from == app)
            .map(|(_, to, port)| format!("{{to: [{}], ports: [{{port: {port}}}]}}", own(to)))
            .collect();
        if !to.is_empty() {
            to.push(
                "{to: [{namespaceSelector: {}, podSelector: {matchLabels: {answers: names}}}], ports: \
                 [{protocol: UDP, port: 53}]}"
                    .to_owned(),
            );
            open.push((format!("shop/{app}"), "names/dns".to_owned(), "udp 53".to_owned()));
        }
        let from: Vec<String> = from.collect();
        let _ = writeln!(
            list,
            "{{project: shop, name: {app}, podSelector: {{matchLabels: {{app: {app}}}}}, policyTypes: \
             [Ingress, Egress], ingress: [{}], egress: [{}]}}",
            from.join(", "),
            to.join(", ")
        );
    }
    for (from, to, port) in asks {
        open.push((format!("shop/{from}"), format!("shop/{to}"), format!("tcp {port}")));
    }
    for (from, to) in [("names/dns", OUTSIDE), (OUTSIDE, "names/dns")] {
        open.push((from.to_owned(), to.to_owned(), "all".to_owned()));
    }
    let open: Vec<Open<'_>> =
        open.iter().map(|(f, t, w)| (f.as_str(), t.as_str(), w.as_str())).collect();
    check(&pods, &list, &open);
}

/// Three projects that close everything, and what each lets through between them.
#[test]
fn three_projects_that_close_everything_first() {
    let closed = ["front", "back", "money"].map(|project| {
        format!("{{project: {project}, name: closed, podSelector: {{}}, policyTypes: [Ingress, Egress]}}")
    });
    let policy = |project: &str, app: &str, rest: &str| {
        format!(
            "{{project: {project}, name: {app}, podSelector: {{matchLabels: {{app: {app}}}}}, policyTypes: \
             [Ingress, Egress], {rest}}}"
        )
    };
    let near = |app: &str| format!("{{podSelector: {{matchLabels: {{app: {app}}}}}}}");
    let far = |project: &str, app: &str| {
        format!(
            "{{namespaceSelector: {{matchLabels: {{kubernetes.io/metadata.name: {project}}}}}, podSelector: \
             {{matchLabels: {{app: {app}}}}}}}"
        )
    };
    let at = |key: &str, peer: &str| format!("{{{key}: [{peer}], ports: [{{port: 8080}}]}}");
    let names = "{to: [{namespaceSelector: {}}], ports: [{protocol: UDP, port: 5353}]}";
    let [from_checkout, from_web] =
        [near("checkout"), far("front", "web")].map(|peer| at("from", &peer));
    let [to_catalog, to_gate] = [near("catalog"), far("money", "gate")].map(|peer| at("to", &peer));
    let list = [
        policy(
            "front",
            "web",
            &format!(
                "ingress: [{}], egress: [{}, {names}]",
                at("from", "{namespaceSelector: {}}"),
                at("to", &far("back", "checkout")),
            ),
        ),
        policy(
            "back",
            "checkout",
            &format!("ingress: [{from_web}], egress: [{to_catalog}, {to_gate}, {names}]"),
        ),
        policy("back", "catalog", &format!("ingress: [{from_checkout}]")),
        policy("money", "gate", &format!("ingress: [{}]", at("from", &far("back", "checkout")))),
    ];
    check(
        &[
            ("front/web", "labels: {app: web}"),
            ("front/idle", "labels: {app: idle}"),
            ("back/checkout", "labels: {app: checkout}"),
            ("back/catalog", "labels: {app: catalog}"),
            ("money/gate", "labels: {app: gate}"),
            ("other/pod", ""),
        ],
        &[&closed[..], &list[..]].concat().join("\n"),
        &[
            ("front/web", "back/checkout", "tcp 8080"),
            ("back/checkout", "back/catalog", "tcp 8080"),
            ("back/checkout", "money/gate", "tcp 8080"),
            ("other/pod", "front/web", "tcp 8080"),
            // Names are asked for everywhere, but only here nobody closes his end.
            ("front/web", "other/pod", "udp 5353"),
            ("back/checkout", "other/pod", "udp 5353"),
            ("other/pod", OUTSIDE, "all"),
            (OUTSIDE, "other/pod", "all"),
        ],
    );
}

/// The first error that a policy gets.
fn refused(rule: &str) -> (Code, String) {
    let list = format!("{{project: hall, name: desk, ingress: [{rule}]}}");
    let text = yaml(&[("hall/desk", "labels: {app: desk}")], &list);
    let source = Source::new("0.yaml".to_owned(), "0.yaml".to_owned(), text);
    let (documents, mut report) = input::parse(&Sources::from_texts(vec![source]));
    let (_, resolved) = resolve(&documents, report.is_empty());
    report.extend(resolved);
    let found = report.sorted().into_iter().find(|found| found.is_error()).unwrap();
    (found.code, found.message.clone())
}

#[test]
fn a_block_that_is_no_network_is_refused() {
    let found = refused("{from: [{ipBlock: {cidr: A}}]}");
    assert_eq!(found, (Code::BadCidr, "`A` is not a network".to_owned()));
}

#[test]
fn a_peer_with_a_block_and_a_selector_is_refused() {
    let found = refused("{from: [{ipBlock: {cidr: 10.0.0.0/8}, podSelector: {}}]}");
    let message = "the peer has both `ipBlock` and `podSelector`";
    assert_eq!(found, (Code::ConflictingKeys, message.to_owned()));
}

#[test]
fn a_range_that_begins_at_a_name_is_refused() {
    let found = refused("{ports: [{port: http, endPort: 90}]}");
    let message = "a range can't begin at the port `http`, which has no number here";
    assert_eq!(found, (Code::NetworkPolicyPort, message.to_owned()));
}
