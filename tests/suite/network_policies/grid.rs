//! Nine pods of three projects, each sending to each: what a rule says about them is written down here a
//! second time, as a condition, and holds for the policies and for the flows.
//!
//! Conditions add up as rules do, so every two of them are tried together.

use std::net::Ipv4Addr;

use crate::properties::{Arrival, Fabric, from_tenant};
use crate::world;
use ringfence::intent::Direction;
use ringfence::lower::ClusterFlows;
use ringfence::model::{Model, Workload};
use ringfence::value::{Port, Protocol};
use ringfence::verify::evaluate::{Body, Piece};
use ringfence::verify::reach::{Other, policies};

/// Every pod has an address that blocks can name, and some have names for ports: the same name means
/// another port at `r`, and nothing at the pods of `west`.
const WORLD: &str = "version: 1
cluster: {mode: networkpolicy, podNetworks: [{cidr: 10.128.0.0/14, hostPrefix: 24}]}
nodes:
  - {name: node-1, address: 192.168.12.11, podSubnet: 10.128.0.0/24}
  - {name: node-2, address: 192.168.12.12, podSubnet: 10.128.1.0/24}
projects:
  - name: north
    labels: {side: n}
    pods:
      - {name: p, node: node-1, address: 10.128.0.11, labels: {pod: p}, ports: PORTS}
      - {name: q, node: node-2, address: 10.128.1.12, labels: {pod: q}, ports: PORTS}
      - {name: r, node: node-1, address: 10.128.0.13, labels: {pod: r}, ports: [{name: one, port: 81}]}
  - name: south
    labels: {side: s, season: warm}
    pods:
      - {name: p, node: node-2, address: 10.128.1.21, labels: {pod: p}, ports: PORTS}
      - {name: q, node: node-1, address: 10.128.0.22, labels: {pod: q}, ports: PORTS}
      - {name: r, node: node-2, address: 10.128.1.23, labels: {pod: r, odd: \"yes\"}, ports: [{name: one, port: 81}]}
  - name: west
    labels: {side: w}
    pods:
      - {name: p, node: node-1, address: 10.128.0.31, labels: {pod: p}}
      - {name: q, node: node-2, address: 10.128.1.32, labels: {pod: q}}
      - {name: r, node: node-1, address: 10.128.0.33, labels: {pod: r}}
";
const PORTS: &str = "[{name: one, port: 80}, {name: two, port: 81}, {name: one-u, port: 80, protocol: UDP}, \
                     {name: both, port: 80}, {name: both, port: 81, protocol: SCTP}]";

/// A protocol with a port; `None` for what has none.
type Via = Option<(Protocol, u16)>;

struct Pod {
    workload: Workload,
    project: String,
    name: String,
    address: Ipv4Addr,
}

impl Pod {
    fn is(&self, project: &str, name: &str) -> bool {
        self.project == project && self.name == name
    }

    /// The port that it calls so.
    fn port(&self, name: &str) -> Via {
        if self.name == "r" && self.project != "west" {
            return (name == "one").then_some((Protocol::Tcp, 81));
        }
        if self.project == "west" {
            return None;
        }
        match name {
            "one" => Some((Protocol::Tcp, 80)),
            "two" => Some((Protocol::Tcp, 81)),
            "one-u" => Some((Protocol::Udp, 80)),
            _ => None,
        }
    }

    fn within(&self, network: &str) -> bool {
        network.parse::<ipnet::Ipv4Net>().unwrap().contains(&self.address)
    }
}

fn vias() -> Vec<Via> {
    let ports = |protocol| [79, 80, 81, 82].map(move |port| Some((protocol, port)));
    Protocol::ALL.into_iter().flat_map(ports).chain([None]).collect()
}

fn pods(model: &Model) -> Vec<Pod> {
    let intent = model.intent();
    let pods = intent.pods().map(|(id, pod)| Pod {
        workload: Workload::Pod(id),
        project: intent[pod.project].name.to_string(),
        name: pod.name.to_string(),
        address: model.endpoint(Workload::Pod(id)).address,
    });
    pods.collect()
}

/// Sends from every pod to every other, and compares with what the condition says.
fn check(list: &[String], vias: &[Via], expected: &dyn Fn(&Pod, &Pod, Via) -> bool) -> usize {
    let list: Vec<String> = list.iter().map(|policy| format!("  - {policy}\n")).collect();
    let list = list.concat();
    let text = format!("{}networkPolicies:\n{list}", WORLD.replace("PORTS", PORTS));
    let (model, _) = world::model(vec![text]);
    let common = ClusterFlows::new(&model).unwrap();
    let fabric = Fabric::new(&common);
    let pods = pods(&model);
    assert_eq!(pods.len(), 9);
    let mut sent = 0;
    for from in &pods {
        for to in pods.iter().filter(|to| to.address != from.address) {
            for via in vias.iter().copied() {
                let wanted = expected(from, to, via);
                let what =
                    format!("{}/{} to {}/{} {via:?}", from.project, from.name, to.project, to.name);
                let asked = via.map(|(protocol, port)| (protocol, Port::new(port.into()).unwrap()));
                let says = |direction, subject: &Pod, other: &Pod| {
                    let other = Other::Workload(other.workload);
                    policies(&model, direction, subject.workload, other, asked).allowed()
                };
                let said = says(Direction::Egress, from, to) && says(Direction::Ingress, to, from);
                assert_eq!(said, wanted, "the policies, {what}\n{list}");
                let body = Body::Ip {
                    src: from.address,
                    dst: to.address,
                    transport: via,
                    piece: Piece::Whole,
                };
                let frame = from_tenant(&model, from.workload, body);
                let mut arrived = fabric.spread(model.node(from.workload), &frame);
                arrived.retain(|arrival| *arrival != Arrival::Nowhere);
                let there =
                    Arrival::Workload(model.node(to.workload), model.endpoint(to.workload).port);
                let there = if wanted { vec![there] } else { Vec::new() };
                assert_eq!(arrived, there, "the flows, {what}\n{list}");
                sent += 1;
            }
        }
    }
    sent
}

/// Part of a rule, and whom or what it means of a pod.
type Peers = (&'static str, fn(&Pod) -> bool);
type Ports = (&'static str, fn(&Pod, Via) -> bool);

/// One of a list of peers, as seen from `north`.
const PEERS: &[Peers] = &[
    ("{podSelector: {}}", |other| other.project == "north"),
    ("{podSelector: {matchLabels: {pod: q}}}", |other| other.is("north", "q")),
    ("{namespaceSelector: {}}", |_| true),
    ("{namespaceSelector: {}, podSelector: {}}", |_| true),
    ("{namespaceSelector: {}, podSelector: {matchLabels: {pod: q}}}", |other| other.name == "q"),
    ("{namespaceSelector: {matchLabels: {side: s}}}", |other| other.project == "south"),
    ("{namespaceSelector: {matchLabels: {side: s}}, podSelector: {}}", |other| {
        other.project == "south"
    }),
    (
        "{namespaceSelector: {matchLabels: {side: s}}, podSelector: {matchLabels: {pod: q}}}",
        |other| other.is("south", "q"),
    ),
    ("{namespaceSelector: {matchLabels: {side: s, season: cold}}}", |_| false),
    (
        "{namespaceSelector: {matchExpressions: [{key: side, operator: In, values: [s, w]}]}}",
        |other| other.project != "north",
    ),
    (
        "{namespaceSelector: {matchExpressions: [{key: side, operator: NotIn, values: [s, x]}]}}",
        |other| other.project != "south",
    ),
    // Who lacks the label has none of the values.
    (
        "{namespaceSelector: {matchExpressions: [{key: season, operator: NotIn, values: [warm]}]}}",
        |other| other.project != "south",
    ),
    ("{namespaceSelector: {matchExpressions: [{key: season, operator: Exists}]}}", |other| {
        other.project == "south"
    }),
    ("{namespaceSelector: {matchExpressions: [{key: season, operator: DoesNotExist}]}}", |other| {
        other.project != "south"
    }),
    ("{namespaceSelector: {matchExpressions: [{key: none, operator: DoesNotExist}]}}", |_| true),
    (
        "{namespaceSelector: {matchExpressions: [{key: none, operator: NotIn, values: [a]}]}}",
        |_| true,
    ),
    ("{namespaceSelector: {matchExpressions: [{key: none, operator: In, values: [a]}]}}", |_| {
        false
    }),
    ("{namespaceSelector: {matchExpressions: [{key: none, operator: Exists}]}}", |_| false),
    ("{namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: west}}}", |other| {
        other.project == "west"
    }),
    (
        "{namespaceSelector: {matchExpressions: [{key: kubernetes.io/metadata.name, operator: NotIn, values: \
         [west, north]}]}}",
        |other| other.project == "south",
    ),
    ("{podSelector: {matchExpressions: [{key: pod, operator: In, values: [q, r]}]}}", |other| {
        other.project == "north" && other.name != "p"
    }),
    (
        "{namespaceSelector: {}, podSelector: {matchExpressions: [{key: odd, operator: DoesNotExist}]}}",
        |other| !other.is("south", "r"),
    ),
    (
        "{namespaceSelector: {}, podSelector: {matchExpressions: [{key: odd, operator: NotIn, values: \
         [\"yes\"]}]}}",
        |other| !other.is("south", "r"),
    ),
    (
        "{namespaceSelector: {}, podSelector: {matchExpressions: [{key: odd, operator: Exists}]}}",
        |other| other.is("south", "r"),
    ),
    (
        "{namespaceSelector: {}, podSelector: {matchLabels: {pod: r}, matchExpressions: [{key: odd, operator: \
         DoesNotExist}, {key: pod, operator: NotIn, values: [p]}]}}",
        |other| other.name == "r" && other.project != "south",
    ),
    ("{ipBlock: {cidr: 0.0.0.0/0}}", |_| true),
    ("{ipBlock: {cidr: 10.128.0.0/24}}", |other| other.within("10.128.0.0/24")),
    ("{ipBlock: {cidr: 10.128.0.22/32}}", |other| other.is("south", "q")),
    ("{ipBlock: {cidr: 10.128.0.0/23, except: [10.128.0.16/28, 10.128.1.0/27]}}", |other| {
        !other.within("10.128.0.16/28") && !other.within("10.128.1.0/27")
    }),
    ("{ipBlock: {cidr: 0.0.0.0/0, except: [10.0.0.0/8]}}", |_| false),
    ("{ipBlock: {cidr: 0.0.0.0/0, except: [10.128.0.22/32]}}", |other| !other.is("south", "q")),
    ("{ipBlock: {cidr: 203.0.113.0/24}}", |_| false),
];

/// One of a list of ports. The pod is the one that gets the packet.
const PORT_LISTS: &[Ports] = &[
    ("{}", |_, via| is(via, Protocol::Tcp, 0..=65535)),
    ("{protocol: TCP}", |_, via| is(via, Protocol::Tcp, 0..=65535)),
    ("{protocol: UDP}", |_, via| is(via, Protocol::Udp, 0..=65535)),
    ("{protocol: SCTP}", |_, via| is(via, Protocol::Sctp, 0..=65535)),
    ("{port: 80}", |_, via| is(via, Protocol::Tcp, 80..=80)),
    ("{port: 81}", |_, via| is(via, Protocol::Tcp, 81..=81)),
    ("{protocol: UDP, port: 80}", |_, via| is(via, Protocol::Udp, 80..=80)),
    ("{protocol: SCTP, port: 81}", |_, via| is(via, Protocol::Sctp, 81..=81)),
    ("{port: one}", |to, via| via.is_some() && via == to.port("one")),
    ("{port: two}", |to, via| via.is_some() && via == to.port("two")),
    ("{protocol: UDP, port: one-u}", |to, via| via.is_some() && via == to.port("one-u")),
    // The name of a port of another protocol, and one that nobody has.
    ("{protocol: TCP, port: one-u}", |_, _| false),
    ("{protocol: UDP, port: one}", |_, _| false),
    ("{port: nobody-has-it}", |_, _| false),
    // One name for ports of two protocols.
    ("{port: both}", |to, via| to.port("two").is_some() && is(via, Protocol::Tcp, 80..=80)),
    ("{protocol: SCTP, port: both}", |to, via| {
        to.port("two").is_some() && is(via, Protocol::Sctp, 81..=81)
    }),
    ("{port: 80, endPort: 80}", |_, via| is(via, Protocol::Tcp, 80..=80)),
    ("{port: 79, endPort: 81}", |_, via| is(via, Protocol::Tcp, 79..=81)),
    ("{protocol: UDP, port: 53, endPort: 80}", |_, via| is(via, Protocol::Udp, 53..=80)),
    ("{protocol: SCTP, port: 80, endPort: 84}", |_, via| is(via, Protocol::Sctp, 80..=84)),
    ("{port: 1, endPort: 65535}", |_, via| is(via, Protocol::Tcp, 0..=65535)),
    ("{port: 81, endPort: 65535}", |_, via| is(via, Protocol::Tcp, 81..=65535)),
];

fn is(via: Via, protocol: Protocol, ports: std::ops::RangeInclusive<u16>) -> bool {
    via.is_some_and(|(other, port)| other == protocol && ports.contains(&port))
}

/// Policies of `north/p` with these rules, where `PEERS` stands for `from` or `to`, in both directions.
fn both(rules: &str, vias: &[Via], allowed: &dyn Fn(&Pod, &Pod, Via) -> bool) -> usize {
    let policy = |types: &str, key: &str, peers: &str| {
        let rules = rules.replace("PEERS", peers);
        vec![format!(
            "{{project: north, name: p, podSelector: {{matchLabels: {{pod: p}}}}, policyTypes: [{types}], \
             {key}: {rules}}}"
        )]
    };
    let subject = |pod: &Pod| pod.is("north", "p");
    check(&policy("Ingress", "ingress", "from"), vias, &|from, to, via| {
        !subject(to) || allowed(from, to, via)
    }) + check(&policy("Egress", "egress", "to"), vias, &|from, to, via| {
        !subject(from) || allowed(to, to, via)
    })
}

#[test]
fn a_rule_leaves_open_what_it_does_not_say() {
    for (rules, open) in [
        ("[]", false),
        ("[{}]", true),
        ("[{PEERS: []}]", true),
        ("[{ports: []}]", true),
        ("[{PEERS: [], ports: []}]", true),
        ("[{ports: [{port: 7}]}, {}]", true),
    ] {
        both(rules, &vias(), &|_, _, _| open);
    }
}

#[test]
fn a_peer_means_whom_it_says() {
    for (peer, means) in PEERS {
        both(&format!("[{{PEERS: [{peer}]}}]"), &vias(), &|other, _, _| means(other));
    }
}

#[test]
fn a_port_means_what_it_says() {
    for (port, means) in PORT_LISTS {
        both(&format!("[{{ports: [{port}]}}]"), &vias(), &|_, to, via| means(to, via));
    }
}

/// Pairs of a list, each a few times over: all of them with `RINGFENCE_CLUSTERS`.
fn pairs<T>(all: &[T]) -> impl Iterator<Item = (&T, &T)> {
    let step = if std::env::var("RINGFENCE_CLUSTERS").is_ok() { 1 } else { 5 };
    let numbers = (0..all.len()).flat_map(move |one| (0..one).map(move |other| (one, other)));
    numbers.step_by(step).map(|(one, other)| (&all[one], &all[other]))
}

const FEW: [Via; 3] = [None, Some((Protocol::Tcp, 80)), Some((Protocol::Sctp, 81))];

#[test]
fn peers_of_a_rule_and_rules_of_a_policy_add_up() {
    for ((one, first), (other, second)) in pairs(PEERS) {
        for rules in [
            format!("[{{PEERS: [{one}, {other}]}}]"),
            format!("[{{PEERS: [{one}]}}, {{PEERS: [{other}]}}]"),
        ] {
            both(&rules, &FEW, &|pod, _, _| first(pod) || second(pod));
        }
    }
}

#[test]
fn ports_of_a_rule_add_up() {
    for ((one, first), (other, second)) in pairs(PORT_LISTS) {
        let rules = format!("[{{ports: [{one}, {other}]}}]");
        both(&rules, &vias(), &|_, to, via| first(to, via) || second(to, via));
    }
}

/// What a rule says of peers and of ports must hold together, and not that of one rule with that of another.
#[test]
fn a_rule_wants_one_of_its_peers_and_one_of_its_ports() {
    for (number, (peer, means)) in PEERS.iter().enumerate() {
        let port = |step: usize| &PORT_LISTS[(number * 7 + step) % PORT_LISTS.len()];
        let ((one, first), (other, second)) = (port(0), port(5));
        let (another, others) = &PEERS[(number * 5 + 1) % PEERS.len()];
        let rules = format!(
            "[{{PEERS: [{peer}], ports: [{one}]}}, {{PEERS: [{another}], ports: [{other}]}}]"
        );
        both(&rules, &vias(), &|pod, to, via| {
            (means(pod) && first(to, via)) || (others(pod) && second(to, via))
        });
    }
}

#[test]
fn a_policy_is_about_pods_of_its_own_project() {
    for project in ["north", "south", "west"] {
        let cases: [Peers; 9] = [
            ("", |_| true),
            (", podSelector: {}", |_| true),
            (", podSelector: {matchLabels: {pod: p}}", |pod| pod.name == "p"),
            (
                ", podSelector: {matchExpressions: [{key: pod, operator: In, values: [p, q]}]}",
                |pod| pod.name != "r",
            ),
            (
                ", podSelector: {matchExpressions: [{key: pod, operator: NotIn, values: [p, q]}]}",
                |pod| pod.name == "r",
            ),
            (", podSelector: {matchExpressions: [{key: odd, operator: Exists}]}", |pod| {
                pod.is("south", "r")
            }),
            (", podSelector: {matchExpressions: [{key: odd, operator: DoesNotExist}]}", |pod| {
                !pod.is("south", "r")
            }),
            (
                ", podSelector: {matchExpressions: [{key: odd, operator: NotIn, values: [\"no\"]}]}",
                |_| true,
            ),
            (", podSelector: {matchLabels: {side: n}}", |_| false),
        ];
        for (selector, means) in cases {
            let policy = format!("{{project: {project}, name: closed{selector}}}");
            check(&[policy], &FEW, &|_, to, _| to.project != project || !means(to));
        }
    }
}

/// `policyTypes`, and what they are where they are left out.
#[test]
fn a_policy_isolates_in_the_directions_that_it_speaks_of() {
    for (types, named) in [
        ("", None),
        (", policyTypes: []", None),
        (", policyTypes: [Ingress]", Some([true, false])),
        (", policyTypes: [Egress]", Some([false, true])),
        (", policyTypes: [Egress, Ingress]", Some([true, true])),
    ] {
        for ingress in ["", ", ingress: []", ", ingress: [{from: [{podSelector: {}}]}]"] {
            for egress in ["", ", egress: []", ", egress: [{to: [{podSelector: {}}]}]"] {
                // An empty list is no rule.
                let [takes, sends] = named.unwrap_or([true, egress.contains("to:")]);
                let policy = format!("{{project: north, name: a{types}{ingress}{egress}}}");
                check(&[policy], &FEW, &|from, to, _| {
                    let own = from.project == to.project;
                    let let_in =
                        to.project != "north" || !takes || (own && ingress.contains("from"));
                    let let_out =
                        from.project != "north" || !sends || (own && egress.contains("to:"));
                    let_in && let_out
                });
            }
        }
    }
}

/// Policies of one pod add up, and those of both ends must agree.
#[test]
fn policies_add_up_at_one_end_and_meet_at_two() {
    let allow: [Ports; 6] = [
        ("[]", |_, _| false),
        ("[{}]", |_, _| true),
        ("[{PEERS: [{namespaceSelector: {}}]}]", |_, _| true),
        ("[{PEERS: [{ipBlock: {cidr: 0.0.0.0/0}}]}]", |_, _| true),
        ("[{PEERS: [{ipBlock: {cidr: 0.0.0.0/31}}]}]", |_, _| false),
        ("[{PEERS: [{podSelector: {}}], ports: [{port: 80}]}]", |other, via| {
            other.project == "north" && is(via, Protocol::Tcp, 80..=80)
        }),
    ];
    let policy = |name: &str, project: &str, direction: &str, rules: &str| {
        let (key, peers) =
            if direction == "Ingress" { ("ingress", "from") } else { ("egress", "to") };
        let rules = rules.replace("PEERS", peers);
        format!(
            "{{project: {project}, name: {name}, podSelector: {{matchLabels: {{pod: p}}}}, policyTypes: \
             [{direction}], {key}: {rules}}}"
        )
    };
    for (one, first) in allow {
        for (other, second) in allow {
            let list = ["Ingress", "Egress"].map(|direction| {
                [policy("one", "north", direction, one), policy("two", "north", direction, other)]
            });
            check(&list[0], &FEW, &|from, to, via| {
                !to.is("north", "p") || first(from, via) || second(from, via)
            });
            check(&list[1], &FEW, &|from, to, via| {
                !from.is("north", "p") || first(to, via) || second(to, via)
            });
            // Out of one project and into another: in the first, `{podSelector: {}}` is its own.
            let list =
                [policy("out", "north", "Egress", one), policy("in", "south", "Ingress", other)];
            let in_south = |pod: &Pod, via: Via| {
                if other.contains("podSelector: {}") {
                    pod.project == "south" && is(via, Protocol::Tcp, 80..=80)
                } else {
                    second(pod, via)
                }
            };
            check(&list, &FEW, &|from, to, via| {
                (!from.is("north", "p") || first(to, via))
                    && (!to.is("south", "p") || in_south(from, via))
            });
        }
    }
}

/// Pods of two projects with the same labels are not the same pods, and a project that looks like another
/// is another.
#[test]
fn who_looks_like_a_peer_is_none() {
    check(
        &["{project: north, name: own-q, podSelector: {matchLabels: {pod: p}}, ingress: [{from: [{podSelector: \
           {matchLabels: {pod: q}}}]}]}"
            .to_owned()],
        &vias(),
        &|from, to, _| !to.is("north", "p") || from.is("north", "q"),
    );
    // The label of a pod is none of its project, nor the other way round.
    check(
        &["{project: north, name: sides, podSelector: {matchLabels: {pod: p}}, ingress: [{from: \
           [{namespaceSelector: {matchLabels: {pod: q}}}, {podSelector: {matchLabels: {side: n}}}, \
           {namespaceSelector: {}, podSelector: {matchLabels: {kubernetes.io/metadata.name: south}}}]}]}"
            .to_owned()],
        &vias(),
        &|_, to, _| !to.is("north", "p"),
    );
}

/// A policy that selects nobody isolates nobody, and brings no flow.
#[test]
fn a_policy_of_nobody_is_as_good_as_none() {
    let policy = "{project: north, name: nobody, podSelector: {matchLabels: {pod: x}}, policyTypes: [Ingress, \
                  Egress], ingress: [{from: [{podSelector: {}}], ports: [{port: 80}]}]}";
    check(&[policy.to_owned()], &vias(), &|_, _, _| true);
    let flows = |list: &str| {
        let text = format!("{}networkPolicies: [{list}]\n", WORLD.replace("PORTS", PORTS));
        let (model, _) = world::model(vec![text]);
        let common = ClusterFlows::new(&model).unwrap();
        let fabric = Fabric::new(&common);
        fabric.plans.values().map(|plan| plan.flows.iter().count()).collect::<Vec<_>>()
    };
    assert_eq!(flows(policy), flows(""));
}
