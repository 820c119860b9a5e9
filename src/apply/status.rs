//! What is in effect on a node, and how the node differs from it.

use std::path::Path;

use schemars::JsonSchema;
use serde::Serialize;

use super::artifacts::{Artifacts, is_digest};
use super::change::{Action, Change, Kind};
use super::findings::Finding;
use super::flows::Live;
use super::generations::nothing_kept;
use super::state::{Store, now};
use super::{Difference, Observed, firewall, foreign, preflight};
use crate::diagnostic::Diagnostic;
use crate::pipeline::Table;
use crate::system::System;

/// What `ringfence status` tells.
#[derive(Clone, Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Status {
    /// The node.
    pub node: String,
    /// The generation that was brought into effect last, as 64 hexadecimal digits.
    pub current: String,
    /// When that was, in seconds since 1970.
    pub applied: u64,
    /// The generation that a run which was interrupted, or waits to be confirmed, was about to
    /// bring into effect.
    pub pending: Option<String>,
    /// The seconds that are left to confirm it.
    pub confirm_within: Option<u64>,
    /// Why the current generation could not be brought back when the pending one failed.
    pub failure: Option<String>,
    /// The generation that the bridge says it has.
    pub bridge: Option<String>,
    /// The generation that the node's ruleset says it has.
    pub ruleset: Option<String>,
    /// How the node differs from the current generation: what applying it would change.
    pub drift: Vec<Drift>,
    /// What stands beside what ringfence manages, and matters to it.
    pub findings: Vec<Finding>,
}

/// A difference between a node and its current generation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Drift {
    /// What applying the generation would change.
    #[serde(flatten)]
    pub change: Change,
    /// Where the object is defined, as `file:line:column`.
    pub place: Option<String>,
}

impl Status {
    /// Whether the node is as the current generation has it, no other is on its way, and nothing
    /// would stop one.
    #[must_use]
    pub fn is_settled(&self) -> bool {
        let refused = self.findings.iter().any(|finding| finding.code.is_some());
        self.drift.is_empty() && self.pending.is_none() && !refused
    }
}

/// Looks at a node and changes nothing.
pub fn status(state: &Path, system: &dyn System) -> Result<Status, Diagnostic> {
    super::require_root(system)?;
    let store = Store::at(state);
    let mut state = store.read()?;
    let kept = state.current().cloned().ok_or_else(nothing_kept)?;
    let artifacts = store.open(&kept)?;
    preflight(&artifacts, system)?;
    let observed = Observed::read(&artifacts, None, &state.in_progress, system)?;
    state.former = store.former_networks(&state, &observed.links);
    let difference = Difference::between(&artifacts, &observed, &state, false, system)?;
    let changes = difference.changes().into_iter();
    let drift = changes.map(|change| Drift { place: place(&change, &artifacts), change }).collect();
    let mut findings = foreign::findings(&artifacts.wiring, &observed.links.node);
    findings.extend(firewall::findings(&artifacts.wiring, &observed.chains, system)?);
    findings.extend(difference.findings.iter().cloned());
    let confirmable = state.awaiting_confirmation.as_ref().filter(|waiting| waiting.applied);
    Ok(Status {
        node: artifacts.wiring.node.to_string(),
        current: kept.generation.clone(),
        applied: kept.applied,
        pending: state.pending.clone(),
        confirm_within: confirmable.map(|waiting| waiting.until.saturating_sub(now())),
        failure: state.failure.clone(),
        bridge: bridge_generation(&observed),
        ruleset: ruleset_generation(&observed),
        drift,
        findings,
    })
}

/// Where the object of a change is defined; `None` for what the generation doesn't have.
fn place(change: &Change, artifacts: &Artifacts) -> Option<String> {
    let wiring = &artifacts.wiring;
    let object = change.object.as_str();
    let port = || wiring.ports.iter().find(|port| port.interface.as_str() == object);
    let netns = || wiring.netns.iter().find(|netns| netns.name.as_str() == object);
    let metered = || {
        let mut ports = wiring.ports.iter();
        ports.find(|port| port.meter.is_some_and(|meter| meter.id.to_string() == object))
    };
    let owner = match change.kind {
        Kind::Flows | Kind::Group | Kind::Qos => Some(object.to_owned()),
        _ if change.action == Action::Remove => return None,
        Kind::Netns => netns().map(|netns| netns.owner.clone()),
        Kind::Meter => metered().map(|port| port.owner.clone()),
        Kind::Port | Kind::Link => port().map(|port| port.owner.clone()),
        Kind::Sysctl | Kind::Ruleset | Kind::Bridge | Kind::Proxy => None,
    };
    // `net1 of router supplier`; what is nobody else's is the node's.
    let router = || object.split_once("router ").map(|(_, name)| format!("router {name}"));
    let owner = owner.or_else(router).unwrap_or_else(|| format!("node {}", wiring.node));
    artifacts.place(&owner).filter(|place| place.contains(':')).map(str::to_owned)
}

/// The generation in the note of the bridge.
fn bridge_generation(observed: &Observed) -> Option<String> {
    let Some(Live::All(flows)) = &observed.flows else { return None };
    let table = format!("table={},", Table::Generation.number());
    let flow = flows.lines().find(|flow| flow.contains(&table))?;
    let bytes = flow.split("note:").nth(1)?.split('.').take(blake3::OUT_LEN);
    Some(bytes.collect::<String>()).filter(|digits| is_digest(digits))
}

/// The generation in the comment of the node's table of nft.
fn ruleset_generation(observed: &Observed) -> Option<String> {
    let listing = String::from_utf8_lossy(observed.listings.get("")?.as_deref()?).into_owned();
    let digits = listing.split("comment \"generation ").nth(1)?.split('"').next()?;
    is_digest(digits).then(|| digits.to_owned())
}
