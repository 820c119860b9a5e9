//! How many flows policies take, and what an edit changes.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use crate::world;
use ringfence::dataplane::openflow::{Action, Flow};
use ringfence::lower::{ClusterFlows, Plan};
use ringfence::model::Model;
use ringfence::pipeline::Table;

/// A policy for `selected` pods, `from` so many peers, at so many ports; all on one node.
fn yaml(selected: usize, peers: usize, ports: usize) -> String {
    let mut pods = String::new();
    for pod in 0..selected {
        let _ = write!(pods, "{{name: web-{pod}, node: node-1, labels: {{app: web}}}}, ");
    }
    for pod in 0..peers {
        let _ = write!(pods, "{{name: peer-{pod}, node: node-1, labels: {{app: peer}}}}, ");
    }
    let ports: Vec<String> = (0..ports).map(|n| format!("{{port: {}}}", 1000 + 10 * n)).collect();
    format!(
        "version: 1\ncluster: {{mode: networkpolicy, podNetworks: [{{cidr: 10.128.0.0/14, hostPrefix: \
         20}}]}}\nnodes: [{{name: node-1, address: 192.168.12.11}}]\nprojects:\n  - {{name: shop, pods: \
         [{pods}]}}\nnetworkPolicies:\n  - {{project: shop, name: web-in, podSelector: {{matchLabels: \
         {{app: web}}}}, ingress: [{{from: [{{podSelector: {{matchLabels: {{app: peer}}}}}}], ports: \
         [{}]}}]}}\n",
        ports.join(", ")
    )
}

/// The flows of the tables of policies about pods, without those that every node with policies has.
fn policy_flows(model: &Model) -> usize {
    let common = ClusterFlows::new(model).unwrap();
    let (node, _) = model.intent().nodes().next().unwrap();
    let plan = Plan::of(&common, node).unwrap();
    let cluster = model.cluster_subject().cookie;
    let is_own = |flow: &&Flow<'_>| flow.subject.cookie != cluster;
    [Table::PolicyEgress, Table::Isolation]
        .into_iter()
        .map(|table| plan.flows.table(table).filter(is_own).count())
        .sum()
}

#[test]
fn flows_grow_with_the_sum_and_not_with_the_product() {
    for ((selected, peers, ports), most) in
        [((10, 10, 2), 30), ((50, 50, 4), 110), ((100, 100, 5), 212), ((200, 200, 10), 415)]
    {
        let (model, _) = world::model(vec![yaml(selected, peers, ports)]);
        let flows = policy_flows(&model);
        println!("{selected} pods, {peers} peers, {ports} ports: {flows} flows");
        assert!(flows <= most, "{flows} for {selected}, {peers}, {ports}");
        assert!(flows <= selected + peers + ports + 3, "{flows}");
    }
}

fn lines(yaml: &str) -> BTreeSet<String> {
    let (model, _) = world::model(vec![yaml.to_owned()]);
    let common = ClusterFlows::new(&model).unwrap();
    let (node, _) = model.intent().nodes().next().unwrap();
    let plan = Plan::of(&common, node).unwrap();
    let text = |flow: &Flow<'_>| {
        let mut bytes = Vec::new();
        flow.write(&mut bytes);
        String::from_utf8(bytes).unwrap()
    };
    plan.flows.iter().map(text).collect()
}

/// The lines that an edit takes away and brings.
fn edit(before: &str, from: &str, to: &str) -> (usize, usize) {
    let after = before.replacen(from, to, 1);
    assert_ne!(before, after);
    let (before, after) = (lines(before), lines(&after));
    (before.difference(&after).count(), after.difference(&before).count())
}

#[test]
fn an_edit_changes_what_it_is_about() {
    let before = yaml(20, 20, 3);
    // A port more: one line. So is a range that is one mask.
    assert_eq!(edit(&before, "{port: 1020}", "{port: 1020}, {port: 2048, endPort: 2175}"), (0, 1));
    // A label that nobody asks for.
    assert_eq!(edit(&before, "{app: web}", "{app: web, colour: green}"), (0, 0));
    // A selected pod more: two lines that it has anyway in table 20, one in 40, one in 70; one clause.
    let more = "{name: web-99, node: node-1, labels: {app: web}}, {name: web-0,";
    assert_eq!(edit(&before, "{name: web-0,", more), (0, 5));
    // Another policy for the same pods: its clauses, and what is met by them.
    let more = "networkPolicies:\n  - {project: shop, name: also, podSelector: {matchLabels: {app: web}}, \
                ingress: [{from: [{namespaceSelector: {}}], ports: [{port: 9}]}]}\n";
    let (gone, new) = edit(&before, "networkPolicies:\n", more);
    // The pods take part in a second conjunction, and fragments too.
    assert_eq!((gone, new), (20 + 1, 20 + 1 + 3));
    // Whether all pods are meant is what is written, however many there are.
    let all =
        yaml(20, 20, 3).replacen("podSelector: {matchLabels: {app: web}}", "podSelector: {}", 1);
    let (model, _) = world::model(vec![all]);
    assert_eq!(policy_flows(&model), policy_flows(&world::model(vec![before]).0) - 20);
}

#[test]
fn a_node_has_what_its_pods_need_and_no_more() {
    let text = yaml(3, 3, 2).replace(
        "nodes: [{name: node-1, address: 192.168.12.11}]",
        "nodes: [{name: node-1, address: 192.168.12.11}, {name: node-2, address: 192.168.12.12}]",
    );
    let text = text.replacen("{name: peer-0, node: node-1", "{name: peer-0, node: node-2", 1);
    let (model, _) = world::model(vec![text]);
    let common = ClusterFlows::new(&model).unwrap();
    let (node, _) = model.intent().nodes().last().unwrap();
    let plan = Plan::of(&common, node).unwrap();
    // A peer is nothing special on its own node.
    for table in [Table::PolicyEgress, Table::PolicyRoute, Table::PolicyTrack, Table::PolicyReply] {
        assert_eq!(plan.flows.table(table).count(), 0, "{table:?}");
    }
    assert_eq!(plan.flows.table(Table::Isolation).count(), 2);
}

#[test]
fn rules_that_share_a_clause_are_told_by_its_comment() {
    let mut text = yaml(2, 2, 1);
    text.push_str(
        "  - {project: shop, name: b-out, policyTypes: [Ingress], podSelector: {matchLabels: {app: web}}, \
         ingress: [{from: [{podSelector: {matchLabels: {app: peer}}}], ports: [{port: 5}]}]}\n",
    );
    let (model, _) = world::model(vec![text]);
    let common = ClusterFlows::new(&model).unwrap();
    let (node, _) = model.intent().nodes().next().unwrap();
    let plan = Plan::of(&common, node).unwrap();
    let shared: Vec<&Flow<'_>> = plan
        .flows
        .table(Table::Isolation)
        .filter(|flow| {
            matches!(flow.actions[..], [Action::Conjunction { .. }, Action::Conjunction { .. }])
        })
        .collect();
    // Two pods, two peers, and fragments.
    assert_eq!(shared.len(), 2 + 2 + 1);
    for flow in shared {
        assert_eq!(flow.also, ["b-out", "web-in"]);
        assert_eq!(flow.subject.name.as_ref(), "policies of shop");
    }
}

#[test]
fn numbers_of_conjunctions_follow_from_what_rules_say() {
    let ids = |text: &str| -> BTreeSet<(String, u32)> {
        let (model, _) = world::model(vec![text.to_owned()]);
        let projects: Vec<_> = model.intent().projects().map(|(id, _)| id).collect();
        let all = projects.iter().flat_map(|project| model.allowances(*project));
        all.map(|rule| (rule.subject.name.to_string(), rule.id)).collect()
    };
    let before = yaml(2, 2, 1);
    // Neither ports nor other rules nor other policies count.
    let rule = "ingress: [{from: [{podSelector: {matchLabels: {app: peer}}}]";
    let more = "ingress: [{}, {from: [{podSelector: {matchLabels: {app: peer}}}]";
    let other = before.replacen(rule, more, 1).replacen("{port: 1000}", "{port: 7}", 1);
    assert!(ids(&before).is_subset(&ids(&other)));
    assert_eq!(ids(&other).len(), 2);
    // The number is that of the cookie, by which `explain` finds it.
    let (model, _) = world::model(vec![other]);
    let projects: Vec<_> = model.intent().projects().map(|(id, _)| id).collect();
    for rule in projects.iter().flat_map(|project| model.allowances(*project)) {
        assert_eq!(rule.id, ringfence::dataplane::openflow::group_number(rule.subject.cookie));
    }
}

/// RF272, and that as many as are allowed load and print: `traces` compares what was loaded.
#[test]
fn four_thousand_rules_on_one_peer_are_enough() {
    let many = |number: usize| {
        let mut text = "version: 1\ncluster: {mode: networkpolicy}\nnodes: [{name: node-1, address: \
                        192.168.12.11}]\nprojects:\n  - {name: shop, pods: [{name: a, node: node-1}]}\n\
                        networkPolicies:\n  - project: shop\n    name: all\n    ingress:\n"
            .to_owned();
        for port in 1..=number {
            let other = format!("10.{}.{}.{}/32", 1 + port / 65536, port / 256 % 256, port % 256);
            let _ = writeln!(
                text,
                "      - {{from: [{{ipBlock: {{cidr: {other}}}}}, {{podSelector: {{}}}}], ports: [{{port: \
                 {port}}}]}}"
            );
        }
        world::model(vec![text]).0
    };
    let model = many(4000);
    let common = ClusterFlows::new(&model).unwrap();
    let (node, _) = model.intent().nodes().next().unwrap();
    let plan = Plan::of(&common, node).unwrap();
    assert!(plan.flows.iter().any(|flow| flow.actions.len() == 4000));
    let model = many(4001);
    let error = ClusterFlows::new(&model).unwrap_err();
    assert_eq!(error.code, ringfence::diagnostic::Code::NetworkPolicyTooLarge);
    assert_eq!(
        error.message,
        "4001 rules of the project `shop` are about the same peer or port; 4000 is the most"
    );
}

/// RF272 where the rules differ in everything but the pods that they are about.
#[test]
fn four_thousand_rules_about_one_pod_are_enough() {
    let many = |number: usize, direction: &str, peers: &str| {
        let mut text = format!(
            "version: 1\ncluster: {{mode: networkpolicy}}\nnodes: [{{name: node-1, address: \
             192.168.12.11}}]\nprojects:\n  - {{name: shop, pods: [{{name: a, node: node-1, labels: {{app: \
             a}}}}]}}\nnetworkPolicies:\n  - project: shop\n    name: all\n    podSelector: {{matchLabels: \
             {{app: a}}}}\n    {direction}:\n"
        );
        for rule in 1..=number {
            let other = format!("10.128.{}.{}/32", rule / 256, rule % 256);
            let _ = writeln!(text, "      - {{{peers}: [{{ipBlock: {{cidr: {other}}}}}]}}");
        }
        world::model(vec![text]).0
    };
    for (direction, peers) in [("ingress", "from"), ("egress", "to")] {
        let model = many(4000, direction, peers);
        let common = ClusterFlows::new(&model).unwrap();
        let (node, _) = model.intent().nodes().next().unwrap();
        let plan = Plan::of(&common, node).unwrap();
        assert!(plan.flows.iter().any(|flow| flow.actions.len() == 4000));
        let model = many(4001, direction, peers);
        let error = ClusterFlows::new(&model).unwrap_err();
        assert_eq!(error.code, ringfence::diagnostic::Code::NetworkPolicyTooLarge);
        assert_eq!(
            error.message,
            format!("4001 {direction} rules are about the pod `shop/a`; 4000 is the most")
        );
    }
}
