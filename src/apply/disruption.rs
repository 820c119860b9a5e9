//! What a change disrupts that is there already, said before it happens.
//!
//! Most changes disturb nobody: flows and rulesets change in transactions, and connections that
//! were translated stay so. These are the rest. What somebody asked to be removed is among them,
//! since others may still talk to it.

mod network_policies;

use std::cell::LazyCell;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::Ipv4Addr;

use schemars::JsonSchema;
use serde::Serialize;

use super::artifacts::Artifacts;
use super::flows::word;
use super::{Observed, flows, groups};
use crate::dataplane::openflow::group_number;
use crate::dataplane::origin::Cookie;
use crate::pipeline::Table;

/// Something that is there already and notices the change.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, JsonSchema)]
pub struct Disruption {
    /// Which object, such as `pod shop/web-0`.
    pub object: String,
    /// What it notices, in words.
    pub effect: String,
}

impl fmt::Display for Disruption {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "! {}: {}", self.object, self.effect)
    }
}

impl Disruption {
    pub(super) fn new(object: impl Into<String>, effect: impl Into<String>) -> Self {
        Self { object: object.into(), effect: effect.into() }
    }
}

/// What other flows and groups disturb. A bridge whose flows are all lost has been spoken of.
pub(super) fn of_flows(
    artifacts: &Artifacts,
    observed: &Observed,
    difference: &flows::Difference,
) -> BTreeSet<Disruption> {
    let mut found = BTreeSet::new();
    let Some(live) = observed.flows.as_ref().filter(|live| !live.is_empty()) else { return found };
    let known = LazyCell::new(|| live.groups());
    for (before, after) in difference.flows() {
        let Some(flow) = before.or(after) else { continue };
        found.extend(network_policies::forbidden(artifacts, &known, before, after));
        if in_table(flow, Table::FromPod) {
            found.extend(moved(artifacts, before, after));
        } else if in_table(flow, Table::EgressPolicy) {
            found.extend(forbidden(artifacts, &known, before, after));
        } else if in_table(flow, Table::EgressOut) {
            found.extend(rerouted(artifacts, observed, flow));
        }
    }
    found.extend(deserted(artifacts, &difference.groups, &observed.groups));
    found
}

fn in_table(flow: &str, table: Table) -> bool {
    flow.contains(&format!("table={},", table.number()))
        || flow.contains(&format!("table={} ", table.number()))
}

/// A pod that is in another network from now on.
fn moved(artifacts: &Artifacts, before: Option<&str>, after: Option<&str>) -> Option<Disruption> {
    let (before, after) = (before?, after?);
    let network = |flow| word(flow, "actions=set_field:");
    if network(before) == network(after) {
        return None;
    }
    let object = artifacts.objects().get(&flows::cookie(after)?)?;
    let effect = "moves to another network: its connections to pods that don't move with it break";
    Some(Disruption::new(object, effect))
}

/// A project that may no longer reach all that it reaches. New permissions alone disturb nobody.
fn forbidden(
    artifacts: &Artifacts,
    known: &BTreeSet<Cookie>,
    before: Option<&str>,
    after: Option<&str>,
) -> Option<Disruption> {
    let drops = |flow: &str| flow.ends_with("actions=drop");
    let permitted = before.is_some_and(|flow| !drops(flow));
    let permits_less = match after {
        Some(after) => drops(after) && (permitted || before.is_none()),
        None => permitted,
    };
    if !permits_less {
        return None;
    }
    let group = flows::cookie(before.or(after)?)?.group();
    if !known.contains(&group) {
        return None; // it comes with this change
    }
    let mut objects = artifacts.objects().iter();
    let (_, project) =
        objects.find(|(cookie, name)| cookie.group() == group && name.starts_with("project "))?;
    let effect = "its egress policy changes: what it no longer allows ends at once";
    Some(Disruption::new(project, effect))
}

/// A pod that leaves the cluster at another node from now on.
fn rerouted(artifacts: &Artifacts, observed: &Observed, flow: &str) -> Option<Disruption> {
    let source: Ipv4Addr = word(flow, "nw_src=")?.parse().ok()?;
    let mut netns = artifacts.wiring.netns.iter();
    let pod = netns.find(|netns| netns.address.addr() == source)?;
    // One that comes with this change has no connections yet.
    observed.links.netns.get(pod.name.as_str())?;
    let effect = "its traffic leaves the cluster at another node: connections to the outside break";
    Some(Disruption::new(&pod.owner, effect))
}

/// Services that lose pods.
fn deserted(
    artifacts: &Artifacts,
    difference: &groups::Difference,
    live: &groups::Groups,
) -> Vec<Disruption> {
    let names: BTreeMap<u32, &String> =
        artifacts.objects().iter().map(|(cookie, name)| (group_number(*cookie), name)).collect();
    let gone = difference.delete.iter();
    difference
        .deserted(live)
        .map(|id| (id, "leads to fewer pods or hosts: connections to those that are gone break"))
        .chain(
            gone.map(|id| {
                (id, "leads to nobody any more: connections to those that are gone break")
            }),
        )
        .map(|(id, effect)| {
            let name = names.get(id).map_or_else(|| format!("group {id}"), ToString::to_string);
            Disruption::new(name, effect)
        })
        .collect()
}
