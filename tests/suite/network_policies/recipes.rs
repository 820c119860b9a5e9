//! What people write policies for, each with what it lets pass and what it doesn't, as the rules say it and
//! as the flows do it.

use std::fmt::Write as _;
use std::net::Ipv4Addr;

use crate::properties::{Arrival, Fabric, from_tenant};
use crate::world;
use ringfence::intent::Direction;
use ringfence::lower::ClusterFlows;
use ringfence::model::{Model, Workload};
use ringfence::value::{Port, Protocol};
use ringfence::verify::evaluate::{Body, Piece};
use ringfence::verify::reach::{Destination, Other, Packet, Source, policies, reach};

/// A bakery with its branches, on two nodes. Ports have names where a recipe needs them.
const WORLD: &str = "version: 1
cluster: {mode: networkpolicy}
nodes:
  - {name: node-1, address: 192.168.12.11}
  - {name: node-2, address: 192.168.12.12}
projects:
  - name: bakery
    labels: {branch: centre}
    pods:
      - {name: oven, node: node-1, labels: {does: bake, line: bread}}
      - {name: till, node: node-2, labels: {does: sell, line: bread}, ports: [{name: pay, port: 7000}]}
      - {name: till-2, node: node-1, labels: {does: sell, line: cake}, ports: [{name: pay, port: 7100}]}
      - {name: stock, node: node-2, labels: {does: store, line: bread}}
      - {name: boss, node: node-1}
  - name: mill
    labels: {branch: river, supplies: flour}
    pods:
      - {name: wheel, node: node-2, labels: {does: grind}}
      - {name: meter, node: node-1, labels: {does: measure}}
  - name: names
    pods:
      - {name: resolver, node: node-2, labels: {does: resolve}}
";

/// Who sends, who gets, protocol and port, and whether it passes. `outside` is whoever has 198.18.7.7.
type Probe = (&'static str, &'static str, Option<(Protocol, u16)>, bool);

#[expect(clippy::unnecessary_wraps, reason = "stands beside `None` in the tables")]
fn tcp(port: u16) -> Option<(Protocol, u16)> {
    Some((Protocol::Tcp, port))
}

#[expect(clippy::unnecessary_wraps, reason = "stands beside `None` in the tables")]
fn udp(port: u16) -> Option<(Protocol, u16)> {
    Some((Protocol::Udp, port))
}

const OUTSIDE: Ipv4Addr = Ipv4Addr::new(198, 18, 7, 7);

fn check(policies: &str, probes: &[Probe]) {
    let mut text = WORLD.to_owned();
    text.push_str("networkPolicies:\n");
    for line in policies.lines().filter(|line| !line.trim().is_empty()) {
        let _ = writeln!(text, "  - {}", line.trim());
    }
    let (model, _) = world::model(vec![text]);
    let common = ClusterFlows::new(&model).unwrap();
    let fabric = Fabric::new(&common);
    for probe in probes {
        check_probe(&fabric, probe);
    }
}

fn other(model: &Model, name: &str) -> Other {
    let mut pods = model.intent().pods();
    if let Some((id, _)) = pods.find(|(id, _)| model.intent().pod_name(*id) == name) {
        Other::Workload(Workload::Pod(id))
    } else {
        assert_eq!(name, "outside");
        Other::Address(OUTSIDE)
    }
}

fn check_probe(fabric: &Fabric<'_>, (from, to, transport, expected): &Probe) {
    let model = fabric.model;
    let (source, destination) = (other(model, from), other(model, to));
    let asked = transport.map(|(protocol, port)| (protocol, Port::new(port.into()).unwrap()));
    let sends = match source {
        Other::Workload(pod) => {
            policies(model, Direction::Egress, pod, destination, asked).allowed()
        }
        _ => true,
    };
    let takes = match destination {
        Other::Workload(pod) => policies(model, Direction::Ingress, pod, source, asked).allowed(),
        _ => true,
    };
    assert_eq!(sends && takes, *expected, "{from} to {to} {transport:?}");
    // The outside reaches pods by node ports only: `live` shows that.
    let Other::Workload(sender) = source else { return };
    let (address, there, target) = match destination {
        Other::Workload(pod) => {
            let endpoint = model.endpoint(pod);
            let there = Arrival::Workload(model.node(pod), endpoint.port);
            (endpoint.address, there, Destination::Workload(pod))
        }
        _ => (OUTSIDE, Arrival::Host(model.node(sender)), Destination::Outside(OUTSIDE)),
    };
    let src = model.endpoint(sender).address;
    let body = Body::Ip { src, dst: address, transport: *transport, piece: Piece::Whole };
    let arrivals = fabric.spread(model.node(sender), &from_tenant(model, sender, body));
    let wanted = if *expected { vec![there] } else { Vec::new() };
    let arrived: Vec<Arrival> = arrivals.into_iter().filter(|a| *a != Arrival::Nowhere).collect();
    assert_eq!(arrived, wanted, "{from} to {to} {transport:?}");
    if let Some((protocol, port)) = asked {
        let packet = Packet { from: Source::Workload(sender), to: target, protocol, port };
        assert_eq!(reach(model, &packet).allowed(), *expected, "{from} to {to}");
    }
}

#[test]
fn nobody_reaches_an_application() {
    check(
        "{project: bakery, name: closed, podSelector: {matchLabels: {does: sell}}, ingress: []}",
        &[
            ("bakery/boss", "bakery/till", tcp(80), false),
            ("mill/wheel", "bakery/till", tcp(80), false),
            ("outside", "bakery/till", tcp(80), false),
            ("bakery/boss", "bakery/till", None, false),
            ("bakery/boss", "bakery/oven", tcp(80), true),
            ("bakery/till", "bakery/boss", tcp(80), true),
        ],
    );
}

#[test]
fn an_application_is_reached_from_its_own_line_only() {
    check(
        "{project: bakery, name: line, podSelector: {matchLabels: {line: bread, does: store}}, ingress: \
         [{from: [{podSelector: {matchLabels: {line: bread}}}]}]}",
        &[
            ("bakery/oven", "bakery/stock", tcp(5432), true),
            ("bakery/till", "bakery/stock", tcp(5432), true),
            ("bakery/till-2", "bakery/stock", tcp(5432), false),
            ("mill/wheel", "bakery/stock", tcp(5432), false),
        ],
    );
}

#[test]
fn one_policy_opens_what_another_closes() {
    check(
        "{project: bakery, name: closed, podSelector: {matchLabels: {does: sell}}, ingress: []}
         {project: bakery, name: open, podSelector: {matchLabels: {does: sell}}, ingress: [{}]}",
        &[
            ("bakery/boss", "bakery/till", tcp(80), true),
            ("mill/wheel", "bakery/till", udp(80), true),
            ("outside", "bakery/till", tcp(80), true),
            ("mill/wheel", "bakery/till", None, true),
        ],
    );
}

#[test]
fn a_project_takes_nothing_and_still_sends() {
    check(
        "{project: bakery, name: nothing-in, podSelector: {}, ingress: []}",
        &[
            ("bakery/boss", "bakery/till", tcp(80), false),
            ("mill/wheel", "bakery/oven", tcp(80), false),
            ("bakery/till", "mill/wheel", tcp(80), true),
            ("bakery/till", "outside", tcp(80), true),
        ],
    );
}

#[test]
fn a_project_is_reached_from_itself_only() {
    check(
        "{project: bakery, name: own, ingress: [{from: [{podSelector: {}}]}]}",
        &[
            ("mill/wheel", "bakery/till", tcp(80), false),
            ("bakery/oven", "bakery/till", tcp(80), true),
            ("bakery/oven", "bakery/till-2", tcp(80), true),
            ("outside", "bakery/till", tcp(80), false),
        ],
    );
}

#[test]
fn all_projects_reach_an_application_and_the_outside_does_not() {
    check(
        "{project: bakery, name: closed, podSelector: {matchLabels: {does: sell}}, ingress: []}
         {project: bakery, name: all, podSelector: {matchLabels: {does: sell}}, ingress: [{from: \
         [{namespaceSelector: {}}]}]}",
        &[
            ("mill/wheel", "bakery/till", tcp(80), true),
            ("names/resolver", "bakery/till", tcp(80), true),
            ("bakery/boss", "bakery/till", tcp(80), true),
            ("outside", "bakery/till", tcp(80), false),
        ],
    );
}

#[test]
fn projects_with_a_label_reach_an_application() {
    check(
        "{project: bakery, name: flour, podSelector: {matchLabels: {does: bake}}, ingress: [{from: \
         [{namespaceSelector: {matchLabels: {supplies: flour}}}]}]}",
        &[
            ("names/resolver", "bakery/oven", tcp(80), false),
            ("mill/wheel", "bakery/oven", tcp(80), true),
            ("bakery/boss", "bakery/oven", tcp(80), false),
        ],
    );
}

#[test]
fn some_pods_of_some_projects_reach_an_application() {
    check(
        "{project: bakery, name: measured, podSelector: {matchLabels: {does: bake}}, ingress: [{from: \
         [{namespaceSelector: {matchLabels: {branch: river}}, podSelector: {matchLabels: {does: \
         measure}}}]}]}",
        &[
            ("bakery/boss", "bakery/oven", tcp(80), false),
            ("mill/wheel", "bakery/oven", tcp(80), false),
            ("mill/meter", "bakery/oven", tcp(80), true),
            ("names/resolver", "bakery/oven", tcp(80), false),
        ],
    );
}

#[test]
fn the_outside_reaches_what_is_open_to_everybody() {
    check(
        "{project: bakery, name: nothing-in, podSelector: {}}
         {project: bakery, name: shop-door, podSelector: {matchLabels: {does: sell}}, ingress: [{}]}",
        &[
            ("outside", "bakery/till", tcp(80), true),
            ("bakery/boss", "bakery/till", tcp(80), true),
            ("outside", "bakery/boss", tcp(80), false),
        ],
    );
}

#[test]
fn one_port_is_open_to_whoever_measures() {
    check(
        "{project: bakery, name: gauge, podSelector: {matchLabels: {does: bake}}, ingress: [{ports: [{port: \
         5000}], from: [{podSelector: {matchLabels: {does: store}}}]}]}",
        &[
            ("bakery/boss", "bakery/oven", tcp(8000), false),
            ("bakery/boss", "bakery/oven", tcp(5000), false),
            ("bakery/stock", "bakery/oven", tcp(8000), false),
            ("bakery/stock", "bakery/oven", tcp(5000), true),
            ("bakery/stock", "bakery/oven", udp(5000), false),
            ("bakery/stock", "bakery/oven", None, false),
        ],
    );
}

#[test]
fn any_of_several_selectors_is_enough() {
    check(
        "{project: bakery, name: several, podSelector: {matchLabels: {does: store}}, ingress: [{from: \
         [{podSelector: {matchLabels: {does: bake, line: bread}}}, {podSelector: {matchLabels: {does: sell, \
         line: cake}}}, {podSelector: {matchLabels: {does: nothing}}}]}]}",
        &[
            ("bakery/oven", "bakery/stock", tcp(6379), true),
            ("bakery/till-2", "bakery/stock", tcp(6379), true),
            ("bakery/till", "bakery/stock", tcp(6379), false),
            ("bakery/boss", "bakery/stock", tcp(6379), false),
        ],
    );
}

#[test]
fn an_application_sends_nothing_and_is_reached() {
    check(
        "{project: bakery, name: mute, podSelector: {matchLabels: {does: bake}}, policyTypes: [Egress]}",
        &[
            ("bakery/oven", "bakery/till", tcp(80), false),
            ("bakery/oven", "outside", tcp(80), false),
            ("bakery/oven", "names/resolver", udp(53), false),
            ("bakery/oven", "names/resolver", None, false),
            ("bakery/till", "bakery/oven", tcp(80), true),
        ],
    );
}

#[test]
fn an_application_asks_for_names_and_sends_nothing_else() {
    check(
        "{project: bakery, name: asks, podSelector: {matchLabels: {does: bake}}, policyTypes: [Egress], \
         egress: [{to: [{namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: names}}, \
         podSelector: {matchLabels: {does: resolve}}}], ports: [{protocol: UDP, port: 53}, {port: 53}]}]}",
        &[
            ("bakery/oven", "names/resolver", udp(53), true),
            ("bakery/oven", "names/resolver", tcp(53), true),
            ("bakery/oven", "names/resolver", tcp(80), false),
            ("bakery/oven", "bakery/till", tcp(80), false),
            ("bakery/oven", "outside", tcp(80), false),
        ],
    );
}

#[test]
fn a_project_sends_nothing_and_is_reached() {
    check(
        "{project: bakery, name: nothing-out, podSelector: {}, policyTypes: [Egress], egress: []}",
        &[
            ("bakery/boss", "bakery/till", tcp(80), false),
            ("bakery/boss", "mill/wheel", tcp(80), false),
            ("bakery/boss", "outside", tcp(80), false),
            ("bakery/boss", "names/resolver", udp(53), false),
            ("mill/wheel", "bakery/till", tcp(80), true),
        ],
    );
}

#[test]
fn an_application_sends_inside_only() {
    check(
        "{project: bakery, name: inside, podSelector: {matchLabels: {does: bake}}, policyTypes: [Egress], \
         egress: [{to: [{namespaceSelector: {}}]}]}",
        &[
            ("bakery/oven", "outside", tcp(80), false),
            ("bakery/oven", "mill/wheel", tcp(80), true),
            ("bakery/oven", "bakery/till", udp(53), true),
        ],
    );
}

#[test]
fn a_name_is_the_port_that_each_pod_gives_it() {
    check(
        "{project: bakery, name: pay, podSelector: {matchLabels: {does: sell}}, ingress: [{ports: [{port: \
         pay}]}]}",
        &[
            ("bakery/boss", "bakery/till", tcp(7000), true),
            ("bakery/boss", "bakery/till", tcp(7100), false),
            ("bakery/boss", "bakery/till-2", tcp(7100), true),
            ("bakery/boss", "bakery/till-2", tcp(7000), false),
            ("mill/wheel", "bakery/till-2", tcp(7100), true),
            ("outside", "bakery/till", tcp(7000), true),
        ],
    );
}

#[test]
fn a_name_in_what_is_sent_is_that_of_who_gets_it() {
    check(
        "{project: bakery, name: pays, podSelector: {matchLabels: {does: bake}}, policyTypes: [Egress], \
         egress: [{to: [{podSelector: {}}], ports: [{port: pay}, {port: 90}]}]}",
        &[
            ("bakery/oven", "bakery/till", tcp(7000), true),
            ("bakery/oven", "bakery/till", tcp(7100), false),
            ("bakery/oven", "bakery/till-2", tcp(7100), true),
            ("bakery/oven", "bakery/boss", tcp(7000), false),
            ("bakery/oven", "bakery/boss", tcp(90), true),
            ("bakery/oven", "outside", tcp(7000), false),
            ("bakery/oven", "mill/wheel", tcp(90), false),
        ],
    );
}

#[test]
fn a_range_of_ports_has_both_ends() {
    check(
        "{project: bakery, name: range, podSelector: {matchLabels: {does: bake}}, ingress: [{ports: [{port: \
         5000, endPort: 6000}, {protocol: SCTP, port: 7, endPort: 9}]}]}",
        &[
            ("bakery/boss", "bakery/oven", tcp(4999), false),
            ("bakery/boss", "bakery/oven", tcp(5000), true),
            ("bakery/boss", "bakery/oven", tcp(6000), true),
            ("bakery/boss", "bakery/oven", tcp(6001), false),
            ("bakery/boss", "bakery/oven", udp(5000), false),
            ("bakery/boss", "bakery/oven", Some((Protocol::Sctp, 6)), false),
            ("bakery/boss", "bakery/oven", Some((Protocol::Sctp, 9)), true),
        ],
    );
}

#[test]
fn parts_of_a_block_are_left_out_and_given_back_by_another_peer() {
    check(
        "{project: bakery, name: block, podSelector: {matchLabels: {does: bake}}, policyTypes: [Egress], \
         egress: [{to: [{ipBlock: {cidr: 0.0.0.0/0, except: [10.128.0.0/14, 198.18.0.0/15]}}, {podSelector: \
         {matchLabels: {does: sell}}}]}]}",
        &[
            ("bakery/oven", "outside", tcp(443), false),
            ("bakery/oven", "mill/wheel", tcp(443), false),
            ("bakery/oven", "bakery/till", tcp(443), true),
            ("bakery/oven", "bakery/boss", None, false),
        ],
    );
}

#[test]
fn both_ends_have_to_allow_it() {
    check(
        "{project: bakery, name: in, podSelector: {matchLabels: {does: sell}}, ingress: [{from: [{podSelector: \
         {}}], ports: [{port: 1}, {port: 2}]}]}
         {project: bakery, name: out, podSelector: {matchLabels: {does: bake}}, policyTypes: [Egress], egress: \
         [{ports: [{port: 2}, {port: 3}]}]}",
        &[
            ("bakery/oven", "bakery/till", tcp(1), false),
            ("bakery/oven", "bakery/till", tcp(2), true),
            ("bakery/oven", "bakery/till", tcp(3), false),
            ("bakery/boss", "bakery/till", tcp(1), true),
            ("bakery/oven", "bakery/boss", tcp(3), true),
        ],
    );
}

#[test]
fn a_direction_that_the_types_leave_out_stays_open() {
    check(
        "{project: bakery, name: egress-rules-mean-egress, podSelector: {matchLabels: {does: bake}}, egress: \
         [{to: [{podSelector: {matchLabels: {does: store}}}]}]}
         {project: bakery, name: in-only, podSelector: {matchLabels: {does: sell}}, policyTypes: [Ingress], \
         ingress: [{}]}",
        &[
            // Ingress is always among the defaults.
            ("bakery/boss", "bakery/oven", tcp(80), false),
            ("bakery/oven", "bakery/stock", tcp(80), true),
            ("bakery/oven", "bakery/boss", tcp(80), false),
            ("bakery/till", "outside", tcp(80), true),
            ("bakery/boss", "bakery/till", tcp(80), true),
        ],
    );
}
