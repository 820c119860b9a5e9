//! Node ports and load balancers: one lookup in an nft map on the way in, and table 55 for pods.
//!
//! What comes from the outside to a port at which nodes serve a service gets the service's address,
//! and that of `tun0` as its source, so that replies come back by the same node; then it is balanced
//! like what the node's own processes send. The map is not for what comes from pods: they would
//! come back as the node, which reaches every project. So a pod's packets to such a port of any
//! node are translated on the bridge, like those to the service itself.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;

use super::guard::REFUSALS;
use super::wiring::interface;
use super::{Builder, host, ip, ip_to};
use crate::artifact::host;
use crate::dataplane::nft::{
    Chain, Condition, Elements, Hook, PortMap, Priority, Rule, Set, Statement,
};
use crate::dataplane::openflow::{
    Action, CtState, Flow, Fragment, IpMatch, L4, MaskedPort, Match, SharedFlows,
};
use crate::diagnostic::Diagnostic;
use crate::intent::{BlockAt, NodeId};
use crate::model::{Model, NodePort};
use crate::pipeline::{Register, Table};
use crate::spec::Mode;
use crate::value::{InterfaceName, Port, Protocol};

/// The addresses of this node.
const OWN: &str = "rf_own_addresses";
/// The addresses of all nodes.
const ALL: &str = "rf_node_addresses";
/// The ports with pods, and where they lead.
const PORTS: &str = "rf_node_ports";
/// The ports without.
const IDLE: &str = "rf_idle_ports";
const BLOCKED_INTERFACES: &str = "rf_blocked_interfaces";
const BLOCKED_ADDRESSES: &str = "rf_blocked_addresses";

/// The flows that many nodes have alike.
#[derive(Debug)]
pub(super) struct Shared<'m> {
    /// Table 30: what is for a node.
    route: SharedFlows<'m>,
    /// Table 55, but for the networks of single projects.
    all: SharedFlows<'m>,
    /// Of each project: table 55 for its own network.
    projects: Vec<SharedFlows<'m>>,
}

impl<'m> Shared<'m> {
    pub(super) fn new(
        model: &'m Model,
        section: impl Fn(Vec<Flow<'m>>) -> Result<SharedFlows<'m>, Diagnostic>,
    ) -> Result<Self, Diagnostic> {
        let (mut route, mut all) = (Vec::new(), Vec::new());
        let mut own: Vec<Vec<Flow<'m>>> = vec![Vec::new(); model.intent().projects().len()];
        if !model.node_ports().is_empty() {
            for (id, node) in model.intent().nodes() {
                for address in &node.node_port_addresses {
                    route.push(Flow {
                        table: Table::Route,
                        priority: 140,
                        matches: ip_to(host(*address)),
                        actions: vec![Action::Goto(Table::NodePort)],
                        subject: model.node_subject(id),
                        also: Vec::new(),
                    });
                    let blocked = model.blocked_at(id, *address);
                    all.extend(blocked.map(|port| blocked_at(model, *address, port)));
                }
            }
        }
        for port in model.node_ports() {
            all.extend(to_service(model, port));
            let everybody = model.service_network(model.intent()[port.service].project).is_none();
            let open = everybody && !is_sctp_to_another(model, port);
            all.extend((!open).then(|| not_chosen(model, port)));
        }
        for port in model.node_ports().iter().filter(|port| !is_sctp_to_another(model, port)) {
            let project = model.intent()[port.service].project;
            let network = model.service_network(project);
            // A service that everybody reaches has one flow for all.
            let from = network.map(|_| 0).filter(|_| model.mode().compares_vnids());
            all.push(chosen(model, port, from));
            if network.is_some() {
                own[project.index()].push(chosen(model, port, network));
            }
        }
        let projects = own.into_iter().map(&section).collect::<Result<_, _>>()?;
        Ok(Self { route: section(route)?, all: section(all)?, projects })
    }
}

/// Tables 30 and 55, for what pods of this node send.
pub(super) fn flows(builder: &mut Builder<'_>) {
    let model = builder.model;
    if model.node_ports().is_empty() {
        return;
    }
    let shared = builder.common.node_ports();
    builder.flows.push_shared(shared.route.all());
    builder.flows.push_shared(shared.all.all());
    let networks: BTreeSet<u32> =
        model.workloads(builder.node).map(|t| model.vnid(model.project(t)).get()).collect();
    for (id, _) in model.intent().projects() {
        if networks.contains(&model.vnid(id).get()) {
            builder.flows.push_shared(shared.projects[id.index()].all());
        }
    }
    let cluster = model.cluster_subject();
    let table = Table::NodePort;
    // Conntrack has translated what belongs to a connection, or repeats its first packet.
    for network in &model.intent().cluster().pod_networks {
        let onwards = vec![Action::Goto(Table::ServicePod)];
        builder.flow(cluster, table, 200, ip_to(network.cidr), onwards);
    }
    // Which port a fragment is for is only known when conntrack has all of them. In userspace it lets
    // go of them one by one, so those of a new connection go on as for any other port: the first of
    // them alone can be told to be for a service.
    for protocol in Protocol::ALL {
        for fragment in [Fragment::First, Fragment::Later] {
            let (l4, fragment) = (L4::of(protocol, None), Some(fragment));
            let fragments = ip(IpMatch { l4, fragment, ..IpMatch::default() });
            let fragments = Match { ct: Some(CtState::Untracked), ..fragments };
            builder.flow(cluster, table, 350, fragments, vec![Action::Track(Table::NodePort)]);
        }
    }
    // Another port of a node is outside, as without node ports.
    for ct in [CtState::Untracked, CtState::New] {
        let matches = Match { ct: Some(ct), ..ip(IpMatch::default()) };
        builder.flow(cluster, table, 10, matches, vec![Action::Goto(Table::Leave)]);
    }
    builder.default(table, vec![]);
}

fn l4(port: &NodePort) -> L4 {
    L4::of(port.protocol, Some(MaskedPort::exact(port.port.get())))
}

/// Not every conntrack of Open vSwitch knows the ports of SCTP, so it can't change them.
fn is_sctp_to_another(model: &Model, port: &NodePort) -> bool {
    port.protocol == Protocol::Sctp && model.service_port_of(port).0.port != port.port
}

/// What the desired state keeps from a port goes on to the node, which drops it. Where network
/// policies decide what may go there, it is dropped at once.
fn blocked_at<'m>(model: &'m Model, address: Ipv4Addr, port: &NodePort) -> Flow<'m> {
    let dst = Some(host(address));
    let matches = ip(IpMatch { dst, l4: l4(port), ..IpMatch::default() });
    Flow {
        table: Table::NodePort,
        priority: 400,
        matches: Match { ct: Some(CtState::Untracked), ..matches },
        actions: match model.mode() {
            Mode::Networkpolicy => vec![],
            Mode::Subnet | Mode::Multitenant => vec![Action::Goto(Table::Leave)],
        },
        subject: model.service_port_of(port).1,
        also: Vec::new(),
    }
}

/// A packet to a node port enters the connections to services. A pod that gets itself sees the
/// service's address, as if it had called that.
fn to_service<'m>(model: &'m Model, port: &NodePort) -> Option<Flow<'m>> {
    let address = model.service_address(port.service)?;
    let actions = if is_sctp_to_another(model, port) {
        vec![]
    } else {
        vec![Action::Load(Register::Service, address.into()), Action::Track(Table::NodePort)]
    };
    let matches = ip(IpMatch { l4: l4(port), ..IpMatch::default() });
    Some(Flow {
        table: Table::NodePort,
        priority: 300,
        matches: Match { ct: Some(CtState::Untracked), ..matches },
        actions,
        subject: model.service_port_of(port).1,
        also: Vec::new(),
    })
}

/// A new connection chooses a pod, or is refused where there is none.
fn chosen<'m>(model: &'m Model, port: &NodePort, from: Option<u32>) -> Flow<'m> {
    let (behind, subject, group) = model.service_port_of(port);
    let matches = ip(IpMatch { l4: l4(port), ..IpMatch::default() });
    Flow {
        table: Table::NodePort,
        priority: 100,
        matches: Match { ct: Some(CtState::New), source: from, ..matches },
        actions: vec![if behind.backends.is_empty() {
            Action::Goto(Table::ServiceRefusal)
        } else {
            Action::Group(group)
        }],
        subject,
        also: Vec::new(),
    }
}

/// Who may not reach the service doesn't reach it by the node either.
fn not_chosen<'m>(model: &'m Model, port: &NodePort) -> Flow<'m> {
    let matches = ip(IpMatch { l4: l4(port), ..IpMatch::default() });
    Flow {
        table: Table::NodePort,
        priority: 50,
        matches: Match { ct: Some(CtState::New), ..matches },
        actions: vec![],
        subject: model.service_port_of(port).1,
        also: Vec::new(),
    }
}

/// What node ports add to the ruleset of a node.
#[derive(Debug, Default)]
pub(super) struct Inwards<'m> {
    pub(super) sets: Vec<Set>,
    pub(super) maps: Vec<PortMap>,
    pub(super) chains: Vec<Chain<'m>>,
    /// What is known by the translation, on its way to the bridge; `None` where none is made.
    pub(super) onwards: Option<Vec<Condition>>,
}

/// The sets, maps and chains of a node.
pub(super) fn inwards(model: &Model, node: NodeId) -> Result<Inwards<'_>, Diagnostic> {
    let mut inwards = Inwards::default();
    if model.node_ports().is_empty() {
        return Ok(inwards);
    }
    let subject = model.cluster_subject();
    let rule = |conditions, statement| Rule { conditions, statement, subject };
    let idle_ports: Vec<(Protocol, Port)> = model
        .node_ports()
        .iter()
        .filter(|port| model.service_port_of(port).0.backends.is_empty())
        .map(|port| (port.protocol, port.port))
        .collect();
    blocked(model, node, &mut inwards);
    let Inwards { sets, maps, chains, onwards } = &mut inwards;
    if !idle_ports.is_empty() {
        let to_idle = |protocol: Option<Protocol>| {
            let mut conditions = vec![Condition::DestinationIn(ALL)];
            conditions.extend(protocol.map(Condition::Protocol));
            conditions.push(Condition::PortIn(IDLE));
            conditions
        };
        let refused = || {
            REFUSALS.map(|(protocol, refusal)| rule(to_idle(protocol), Statement::Reject(refusal)))
        };
        // From the outside, and from pods, for whose bridge the node refuses.
        let idle = |name, hook, priority| Chain::filter(name, hook, priority, refused().into());
        chains.push(idle("rf_idle", Hook::Prerouting, Priority::RAW.plus(10)));
        chains.push(idle("rf_idle_own", Hook::Output, Priority::FILTER));
        let nodes = model.intent().nodes();
        let mut all: Vec<Ipv4Addr> =
            nodes.flat_map(|(_, node)| node.node_port_addresses.iter().copied()).collect();
        all.sort_unstable();
        sets.push(Set { name: ALL, elements: Elements::Addresses(all) });
        sets.push(Set { name: IDLE, elements: Elements::Ports(idle_ports) });
    }
    let elements: Vec<_> = model
        .node_ports()
        .iter()
        .filter_map(|port| {
            let (behind, ..) = model.service_port_of(port);
            let address = model.service_address(port.service)?;
            let to = (address, behind.port);
            (!behind.backends.is_empty()).then_some(((port.protocol, port.port), to))
        })
        .collect();
    if !elements.is_empty() {
        let tun = || interface(host::TUN);
        let own = model.intent()[node].node_port_addresses.clone();
        sets.push(Set { name: OWN, elements: Elements::Addresses(own) });
        maps.push(PortMap { name: PORTS, elements });
        let to_node = Condition::DestinationIn(OWN);
        let from_outside = vec![Condition::NotIif(tun()?), to_node.clone()];
        let dnat = |name, hook, priority, conditions| {
            let rules = vec![rule(conditions, Statement::DnatByMap(PORTS))];
            Chain::nat(name, hook, priority, rules)
        };
        chains.push(dnat("rf_inwards", Hook::Prerouting, Priority::DSTNAT, from_outside));
        chains.push(dnat("rf_inwards_own", Hook::Output, Priority::DSTNAT_OUTPUT, vec![to_node]));
        let services = Condition::Destination(model.intent().cluster().service_network);
        *onwards = Some(vec![Condition::Oif(tun()?), services, Condition::CtDnat]);
    }
    Ok(inwards)
}

/// What is dropped before anything else looks at it.
fn blocked<'m>(model: &'m Model, node: NodeId, inwards: &mut Inwards<'m>) {
    let mut interfaces: BTreeSet<(InterfaceName, Protocol, Port)> = BTreeSet::new();
    let mut addresses: BTreeSet<(Ipv4Addr, Protocol, Port)> = BTreeSet::new();
    for block in &model.intent()[node].blocks {
        for port in model.node_ports().iter().filter(|p| block.covers(p.protocol, p.port)) {
            match &block.at {
                BlockAt::Interface(interface) => {
                    let interface = model.seen_by_kernel(node, interface).clone();
                    interfaces.insert((interface, port.protocol, port.port));
                }
                BlockAt::Address(address) => {
                    addresses.insert((*address, port.protocol, port.port));
                }
            }
        }
    }
    let mut rules = Vec::new();
    let subject = model.node_subject(node);
    let mut drop = |condition, name, elements| {
        rules.push(Rule { conditions: vec![condition], statement: Statement::Drop, subject });
        inwards.sets.push(Set { name, elements });
    };
    if !interfaces.is_empty() {
        let elements = Elements::InterfacePorts(interfaces.into_iter().collect());
        drop(Condition::IifPortIn(BLOCKED_INTERFACES), BLOCKED_INTERFACES, elements);
    }
    if !addresses.is_empty() {
        let elements = Elements::AddressPorts(addresses.into_iter().collect());
        drop(Condition::DestinationPortIn(BLOCKED_ADDRESSES), BLOCKED_ADDRESSES, elements);
    }
    if !rules.is_empty() {
        let chain = Chain::filter("rf_blocked", Hook::Prerouting, Priority::RAW.plus(5), rules);
        inwards.chains.push(chain);
    }
}
