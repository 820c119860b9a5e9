//! Flows that are wrong in one thing are found out: so the comparisons see what they should.

use std::collections::BTreeMap;

use super::meaning::{Try, tries, wrong, wrong_replies};
use super::worlds;
use crate::properties::Fabric;
use ringfence::dataplane::openflow::{
    Action, CtState, Flow, FlowTable, Fragment, L4, MaskedPort, Match, Packet, PolicyState,
};
use ringfence::lower::ClusterFlows;
use ringfence::pipeline::{Register, Table};
use ringfence::verify::evaluate::walk;

/// What becomes of a flow; `None` where it goes.
type Mutation = fn(Flow<'_>) -> Option<Flow<'_>>;

fn is_rule(flow: &Flow<'_>) -> bool {
    matches!(flow.table, Table::PolicyEgress | Table::Isolation) && flow.priority == 100
}

fn without(flow: Flow<'_>, is: impl Fn(&Flow<'_>) -> bool) -> Option<Flow<'_>> {
    (!is(&flow)).then_some(flow)
}

/// What a packet leaves in conntrack, and in which order it is tracked: no arrival shows that.
fn wrong_memory(fabric: &Fabric<'_>, attempt: &Try) -> Option<String> {
    let walk = walk(&fabric.plans[&attempt.node].flows, &attempt.frame);
    let remembers = |flow: &&Flow<'_>| flow.actions.contains(&Action::CommitForPolicies);
    // An egress policy decides behind, about what leaves the cluster.
    let leaves = walk.flows.iter().any(|flow| flow.table == Table::Leave);
    if walk.ends.is_empty() && !leaves && walk.flows.iter().any(remembers) {
        return Some(format!("{} is dropped and remembered", attempt.what));
    }
    // Policies of who gets an answer see who sends it, not the service that it asked.
    let untranslates = |flow: &&Flow<'_>| {
        flow.table < Table::Isolation
            && flow.actions.iter().any(|action| matches!(action, Action::Track(_)))
    };
    if attempt.what.contains(" to pod ") && walk.flows.iter().any(untranslates) {
        return Some(format!("{} is translated before it is checked", attempt.what));
    }
    None
}

/// How many generated clusters may pass before the mutation is noticed.
const PATIENCE: u64 = 200;

fn is_found_out(mutation: Mutation) {
    is_found_out_of_all(|flows| flows.into_iter().filter_map(mutation).collect());
}

/// The same, of a mutation that looks at all flows of a node.
fn is_found_out_of_all(mutation: impl for<'m> Fn(Vec<Flow<'m>>) -> Vec<Flow<'m>>) {
    let mut touched = 0;
    for seed in 0..PATIENCE {
        let model = worlds::cluster(seed);
        let common = ClusterFlows::new(&model).unwrap();
        let mut fabric = Fabric::new(&common);
        let mut changed = false;
        for plan in fabric.plans.values_mut() {
            let flows: Vec<Flow<'_>> = plan.flows.iter().cloned().collect();
            let after = mutation(flows.clone());
            changed |= after != flows;
            let mut mutated = FlowTable::default();
            for flow in after {
                mutated.push(flow);
            }
            mutated.set_groups(plan.flows.groups().to_vec());
            plan.flows = mutated;
        }
        if !changed {
            continue;
        }
        touched += 1;
        if wrong_replies(&fabric).is_some()
            || tries(&model).iter().any(|attempt| {
                wrong(&fabric, attempt).or_else(|| wrong_memory(&fabric, attempt)).is_some()
            })
        {
            return;
        }
    }
    panic!("nobody noticed it in {touched} clusters");
}

macro_rules! mutations {
    ($($(#[$doc:meta])* $name:ident: $mutation:expr;)*) => {$(
        $(#[$doc])*
        #[test]
        fn $name() {
            is_found_out($mutation);
        }
    )*};
}

mutations! {
    the_project_of_the_other_end: |mut flow| {
        if is_rule(&flow) && flow.table == Table::Isolation {
            flow.matches.source = flow.matches.destination.take();
        }
        Some(flow)
    };
    a_dimension_of_another_number: |mut flow| {
        for action in &mut flow.actions {
            if let Action::Conjunction { dimension, of, .. } = action
                && dimension == of
            {
                *dimension -= 1;
            }
        }
        Some(flow)
    };
    fewer_dimensions_than_there_are: |mut flow| {
        for action in &mut flow.actions {
            if let Action::Conjunction { dimension, of, .. } = action
                && *of == 3
                && *dimension < 3
            {
                *of = 2;
            }
        }
        Some(flow)
    };
    what_is_met_below_the_drop: |mut flow| {
        if matches!(flow.matches.policy, Some(PolicyState::Met(_))) {
            flow.priority = 5;
        }
        Some(flow)
    };
    nodes_are_pods: |mut flow| {
        flow.actions.retain(|action| !matches!(action, Action::Load(Register::NotPod, _)));
        Some(flow)
    };
    nodes_may_be_pods: |mut flow| {
        if flow.matches.policy == Some(PolicyState::MayBePod) {
            flow.matches.policy = None;
        }
        Some(flow)
    };
    no_check_behind_services: |flow| without(flow, |flow| {
        flow.table == Table::ServicePod && flow.priority == 160
    });
    no_check_of_what_leaves: |flow| without(flow, |flow| {
        flow.table == Table::Route && flow.priority == 20
    });
    no_check_at_other_ports_of_nodes: |flow| without(flow, |flow| {
        flow.table == Table::NodePort && flow.priority == 20
    });
    the_own_node_is_checked: |flow| without(flow, |flow| {
        flow.table == Table::Route && flow.priority == 25
    });
    the_own_node_is_no_exception: |flow| without(flow, |flow| {
        flow.table == Table::PolicyTrack && flow.priority == 300
    });
    senders_are_never_isolated: |mut flow| {
        for action in &mut flow.actions {
            if *action == Action::Load(Register::Sender, 3) {
                *action = Action::Load(Register::Sender, 1);
            }
        }
        Some(flow)
    };
    receivers_are_never_isolated: |mut flow| {
        for action in &mut flow.actions {
            if *action == Action::Load(Register::Receiver, 3) {
                *action = Action::Load(Register::Receiver, 1);
            }
        }
        Some(flow)
    };
    receivers_are_not_checked: |mut flow| {
        for action in &mut flow.actions {
            if *action == Action::Goto(Table::PolicyTrack) {
                *action = Action::Goto(Table::PolicyServiceReply);
            }
        }
        Some(flow)
    };
    nobody_comes_by_node_ports: |flow| without(flow, |flow| {
        flow.table == Table::FromHost && flow.priority == 300 && flow.matches.mark.is_some()
    });
    ranges_are_twice_as_wide: |mut flow| {
        if let Packet::Ip(ip) = &mut flow.matches.packet
            && let L4::Tcp(Some(port)) | L4::Udp(Some(port)) | L4::Sctp(Some(port)) = &mut ip.l4
            && matches!(flow.table, Table::PolicyEgress | Table::Isolation)
        {
            let mask = port.mask & (port.mask << 1);
            *port = MaskedPort { value: port.value & mask, mask };
        }
        Some(flow)
    };
    networks_are_twice_as_wide: |mut flow| {
        if is_rule(&flow)
            && let Packet::Ip(ip) = &mut flow.matches.packet
        {
            for network in [&mut ip.src, &mut ip.dst] {
                *network = network.and_then(|network| network.supernet());
            }
        }
        Some(flow)
    };
    fragments_are_forgotten: |flow| without(flow, |flow| {
        is_rule(flow)
            && matches!(&flow.matches.packet, Packet::Ip(ip) if ip.fragment == Some(Fragment::Later))
    });
    a_rule_less: |flow| without(flow, |flow| {
        is_rule(flow) && matches!(flow.actions[..], [Action::Goto(_)])
    });
    /// A missing flow for what is met drops what other conjunctions allow, too.
    nothing_is_met: |flow| without(flow, |flow| {
        matches!(flow.matches.policy, Some(PolicyState::Met(_)))
    });
    replies_are_new: |flow| without(flow, |flow| flow.matches.ct == Some(CtState::Reply));
    errors_are_new: |flow| without(flow, |flow| flow.matches.ct == Some(CtState::Related));
    what_is_refused_at_its_receiver_is_remembered: |mut flow| {
        if flow.table == Table::PolicyReply && flow.actions.contains(&Action::Goto(Table::Isolation)) {
            flow.actions.insert(0, Action::CommitForPolicies);
        }
        Some(flow)
    };
    what_is_refused_at_its_sender_is_remembered: |mut flow| {
        if flow.table == Table::PolicyEgress && flow.actions.is_empty() {
            flow.actions.push(Action::CommitForPolicies);
        }
        Some(flow)
    };
    answers_of_services_are_translated_before_the_check: |mut flow| {
        for action in &mut flow.actions {
            if *action == Action::Goto(Table::PolicyTrack) {
                *action = Action::Track(Table::PolicyTrack);
            }
        }
        Some(flow)
    };
    gateways_of_nodes_are_pods: |flow| without(flow, |flow| {
        flow.table == Table::Route && flow.priority == 215
    });
    the_drop_of_a_project_lets_through: |mut flow| {
        if matches!(flow.table, Table::PolicyEgress | Table::Isolation) && flow.priority == 10 {
            let next = if flow.table == Table::Isolation { Table::PolicyCommit } else { Table::PolicyRoute };
            flow.actions = vec![Action::Goto(next)];
        }
        Some(flow)
    };
    every_port_of_a_protocol: |mut flow| {
        if is_rule(&flow)
            && let Packet::Ip(ip) = &mut flow.matches.packet
            && let L4::Tcp(port) | L4::Udp(port) | L4::Sctp(port) = &mut ip.l4
        {
            *port = None;
        }
        Some(flow)
    };
    tcp_instead_of_sctp: |mut flow| {
        if is_rule(&flow)
            && let Packet::Ip(ip) = &mut flow.matches.packet
            && let L4::Sctp(port) = ip.l4
        {
            ip.l4 = L4::Tcp(port);
        }
        Some(flow)
    };
    every_pod_of_a_project: |mut flow| {
        if is_rule(&flow) {
            flow.matches.output = None;
        }
        Some(flow)
    };
    an_exception_is_forgotten: |mut flow| {
        if is_rule(&flow)
            && let Packet::Ip(ip) = &mut flow.matches.packet
        {
            ip.src = None;
        }
        Some(flow)
    };
}

/// Of pods that give a name to different ports, all get the ports of one.
#[test]
fn a_name_is_the_port_of_one_pod() {
    is_found_out_of_all(|mut flows| {
        // The rules that names have taken apart: what stands before the last comma.
        let mut rules: BTreeMap<String, Vec<u32>> = BTreeMap::new();
        for flow in &flows {
            if let Some(PolicyState::Met(id)) = flow.matches.policy
                && let Some((rule, group)) = flow.subject.name.rsplit_once(", ")
                && group.starts_with("tcp/")
            {
                rules.entry(rule.to_owned()).or_default().push(id);
            }
        }
        for ids in rules.values().filter(|ids| ids.len() > 1) {
            let is_pods = |matches: &Match| matches.output.is_some();
            for flow in flows.iter_mut().filter(|flow| is_rule(flow) && is_pods(&flow.matches)) {
                for action in &mut flow.actions {
                    if let Action::Conjunction { id, .. } = action
                        && ids.contains(id)
                    {
                        *id = ids[0];
                    }
                }
            }
        }
        flows
    });
}

/// A connection is remembered when all checks of the node have let it through: what is dropped leaves
/// nothing behind by which an answer could come.
#[test]
fn what_is_dropped_is_not_remembered() {
    let mut dropped = 0;
    for seed in 0..60 {
        let model = worlds::cluster(seed);
        let common = ClusterFlows::new(&model).unwrap();
        let fabric = Fabric::new(&common);
        for attempt in tries(&model) {
            let walk = walk(&fabric.plans[&attempt.node].flows, &attempt.frame);
            dropped += usize::from(walk.ends.is_empty());
            assert_eq!(wrong_memory(&fabric, &attempt), None, "{seed}");
        }
    }
    assert!(dropped > 1000, "{dropped}");
}
