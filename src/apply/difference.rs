//! How the node differs from what it is to be: the steps of all kinds of objects, in order.

use std::collections::BTreeSet;

use super::artifacts::Artifacts;
use super::change::{Change, Kind, Step};
use super::disruption::{self, Disruption};
use super::findings::Finding;
use super::links::Namespaces;
use super::observed::Observed;
use super::ovsdb::MARK;
use super::rulesets::Place;
use super::state::State;
use super::{
    flows, gateway, groups, links, marks, meters, ports, proxies, rulesets, switch, sysctls,
};
use crate::artifact::node::NodeConfig;
use crate::diagnostic::Diagnostic;
use crate::system::{Command, System};
use crate::value::{Datapath, InterfaceName, StringValue as _};

/// How the node differs from what it is to be, in the order in which it is changed.
pub(super) struct Difference {
    /// What has to end before anything else: processes in namespaces that have lost their names.
    pub(super) conflicts: Step,
    pub(super) steps: Vec<Step>,
    pub(super) flows: flows::Difference,
    /// Whether a service leads to fewer than before.
    pub(super) loses_backends: bool,
    pub(super) disruptions: BTreeSet<Disruption>,
    /// What of others stays, and matters.
    pub(super) findings: Vec<Finding>,
    /// The namespaces that stay as they are.
    pub(super) untouched: Namespaces,
    /// Whether there are groups, or were before.
    pub(super) has_groups: bool,
    /// Whether there are meters, or were before.
    pub(super) has_meters: bool,
}

impl Difference {
    pub(super) fn commands(&self) -> impl Iterator<Item = &Command> {
        self.steps.iter().flat_map(|step| &step.commands)
    }

    pub(super) fn changes(&self) -> Vec<Change> {
        self.steps.iter().flat_map(|step| step.changes.clone()).collect()
    }

    pub(super) fn between(
        artifacts: &Artifacts,
        observed: &Observed,
        state: &State,
        adopt: bool,
        system: &dyn System,
    ) -> Result<Self, Diagnostic> {
        let wiring = &artifacts.wiring;
        let (database, node) = (&observed.database, &observed.links.node);
        let holdings = &observed.holdings;
        let gateway = gateway::compare(wiring, database, node, holdings, &state.sysctls, system)?;
        let live = database.bridges.get(wiring.bridge.name.as_str());
        let other_datapath = live.is_some_and(|live| !live.has_datapath(wiring.bridge.datapath));
        let (former, going) = (&state.former, &gateway.going);
        let before = links::Before { former, other_datapath, adopt, going };
        let links = links::compare(wiring, &observed.links, &before)?;
        let findings = links.findings.clone();
        ports::check_tun(wiring, database, node)?;
        let ports = ports::compare(wiring, database, (&links, node), observed.opened, adopt)?;
        let bridge = wiring.bridge.name.as_str();
        let live = observed.flows.as_ref().filter(|_| !ports.flows_lost);
        let mut flows = flows::compare(system, bridge, &artifacts.flows, live)?;
        flows.groups = groups::compare(&artifacts.groups, &observed.groups);
        let empty = meters::Meters::new();
        // Another datapath begins without.
        let live = if ports.datapath_lost { &empty } else { &observed.meters };
        let meters = meters::compare(wiring, live);
        let switch = observed.switch.as_ref().filter(|_| !ports.datapath_lost);
        let switch = switch::step(wiring, switch);
        let has_groups = !(observed.groups.is_empty() && flows.groups.is_empty());
        let has_meters = !(observed.meters.is_empty() && meters.before.changes.is_empty());
        let mut disruptions = if ports.flows_lost {
            BTreeSet::new()
        } else {
            disruption::of_flows(artifacts, observed, &flows)
        };
        let plugs = [&ports.before, &ports.after, &links.make, &links.remove];
        let bridge_lives = observed.database.bridges.contains_key(bridge);
        if bridge_lives
            && wiring.bridge.datapath == Datapath::Netdev
            && plugs.iter().flat_map(|step| &step.changes).any(|change| change.kind != Kind::Qos)
        {
            disruptions.insert(Disruption::new(
                format!("bridge {bridge}"),
                "its datapath is in userspace: while interfaces come and go, tunnels may lose \
                 packets for some milliseconds",
            ));
        }
        let ruleset = |name: &str, place: Place<'_>| {
            let file = artifacts.rulesets.get(name).map_or(&[][..], Vec::as_slice);
            let listing = observed.listings.get(name).and_then(Option::as_deref);
            rulesets::step(place, file, listing, state.rulesets.get(name))
        };
        let proxies = proxies::compare(artifacts, &observed.proxies)?;
        rulesets::check(observed.listings.get("").and_then(Option::as_deref))?;
        let mut own_ruleset = ruleset("", Place { object: "node", netns: None });
        let leaving = leaving(wiring, observed);
        let unguard = rulesets::guard_until_gone(&mut own_ruleset, &leaving);
        let mut steps = vec![
            links.conflicts,
            gateway.remove,
            gateway.make,
            sysctls::step(wiring, state, system),
            // Its guards are there before the first frame of a new pod is.
            own_ruleset,
            links.make,
            ports.before,
            switch,
            links.tun,
            meters.before,
            flows::step(bridge, &flows, || artifacts.objects()),
            meters.after,
            links.up,
        ];
        for router in &wiring.routers {
            let object = router.owner();
            let place = Place { object: &object, netns: Some(&router.netns) };
            let mut step = ruleset(router.name.as_str(), place);
            let commands = step.commands.into_iter();
            let links = &observed.links;
            step.commands =
                commands.map(|command| marks::within(command, &router.netns, links)).collect();
            steps.push(step);
        }
        steps.extend([links.routers, proxies.start, links.egress_ips, ports.after, ports.sweep]);
        steps.extend([proxies.remove, links.remove, unguard]);
        disruptions.extend(steps.iter().flat_map(|step| step.disruptions.iter().cloned()));
        let untouched = observed.links.untouched(wiring, &steps);
        let conflicts = proxies.conflicts;
        let groups = &flows.groups;
        let loses_backends =
            !groups.delete.is_empty() || groups.deserted(&observed.groups).next().is_some();
        Ok(Self {
            conflicts,
            steps,
            flows,
            loses_backends,
            disruptions,
            findings,
            untouched,
            has_groups,
            has_meters,
        })
    }
}

/// The interfaces that a bridge in userspace still has, or that are ringfence's, and that no pod of
/// the plan has.
fn leaving(wiring: &NodeConfig, observed: &Observed) -> BTreeSet<InterfaceName> {
    if wiring.bridge.datapath != Datapath::Netdev {
        return BTreeSet::new();
    }
    let bridge = observed.database.bridges.get(wiring.bridge.name.as_str());
    let ports = bridge.into_iter().flat_map(|bridge| &bridge.ports);
    let ports =
        ports.filter(|(_, port)| port.kind.is_empty() && port.external_ids.contains_key(MARK));
    let links = observed.links.node.links.iter();
    let links = links.filter(|(name, link)| links::is_ours(name, link));
    let names = ports.map(|(name, _)| name).chain(links.map(|(name, _)| name));
    let names = names.filter_map(|name| InterfaceName::parse(name).ok());
    names.filter(|name| !wiring.ports.iter().any(|port| port.interface == *name)).collect()
}
