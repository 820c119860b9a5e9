//! Removes what is ringfence's from a node, and nothing else.

use std::collections::BTreeSet;
use std::path::Path;

use super::change::{Change, Step};
use super::gateway::GivenBack;
use super::links::{self, Links, Namespaces};
use super::ovsdb::{Database, MARK};
use super::proxies::{self, Proxies};
use super::state::{State, Store};
use super::{ROUNDS, bridges, gateway, qos, require_root, rulesets, sysctls};
use crate::diagnostic::{Code, Diagnostic};
use crate::system::System;

/// Removes every bridge, port, link, namespace and ruleset of ours, and the state directory. With
/// `check`, only tells what there is. A state that can't be read stays, and why is told beside the
/// changes.
pub fn teardown(
    state: &Path,
    check: bool,
    system: &dyn System,
) -> Result<(Vec<Change>, Option<Diagnostic>), Diagnostic> {
    require_root(system)?;
    let mut store = Store::at(state);
    if !check {
        store.lock()?;
    }
    // What is on the node is known by its marks; the state adds what an interrupted run has begun.
    let read = store.read();
    let state = read.as_ref().cloned().unwrap_or_default();
    let steps = steps(&state, system)?;
    let changes = steps.iter().flat_map(|step| step.changes.clone()).collect();
    if !check {
        remove(steps, &state, system)?;
        if read.is_ok() {
            store.remove()?;
        }
    }
    Ok((changes, read.err()))
}

/// What there is of ours, in the order in which it goes.
fn steps(state: &State, system: &dyn System) -> Result<Vec<Step>, Diagnostic> {
    let mut database = Database::read(system)?;
    database.count_foreign_flows(None, system);
    let links = Links::read(system, &state.in_progress, &Namespaces::new())?;
    let holdings = gateway::holdings(None, &database, system)?;
    let (listing, _) = rulesets::listing(system, None)?;
    let mut steps: Vec<Step> = Vec::new();
    for (name, bridge) in &database.bridges {
        let mut step = Step::default();
        let given = gateway::give_back(name, bridge, &links.node, &holdings, &mut step)?;
        if given != GivenBack::NotOurs {
            steps.push(step);
        } else if bridge.external_ids.contains_key(MARK) {
            steps.push(bridges::remove(name, bridge, &database, &links.node));
        } else {
            gateway::unpatch(name, bridge, &mut step);
            steps.push(step);
        }
    }
    steps.push(proxies::remove(None, &Proxies::read(system)?));
    steps.push(qos::sweep(&database, None, &BTreeSet::new()));
    steps.push(links::remove(None, &links, &BTreeSet::new()));
    steps.push(rulesets::remove(listing.as_deref()));
    let mut settings = Step::default();
    sysctls::give_back(None, state, system, &mut settings);
    steps.push(settings);
    Ok(steps)
}

/// Removes it. A command may fail because what it was to remove has gone, or has become somebody
/// else's, since it was seen; then it is no longer there to be done.
fn remove(mut steps: Vec<Step>, state: &State, system: &dyn System) -> Result<(), Diagnostic> {
    for _ in 0..ROUNDS {
        let mut commands = steps.iter().flat_map(|step| &step.commands);
        let failed = commands.find_map(|command| Some((command, system.succeed(command).err()?)));
        let Some((command, failure)) = failed.map(|(command, why)| (command.clone(), why)) else {
            return Ok(());
        };
        steps = self::steps(state, system)?;
        let again = steps.iter().flat_map(|step| &step.commands).any(|other| *other == command);
        if !command.removes || again {
            return Err(failure);
        }
    }
    let left = steps.iter().flat_map(|step| &step.changes).next();
    left.map_or(Ok(()), |change| {
        let message = format!("the node still has what is to go after {ROUNDS} attempts: {change}");
        Err(Diagnostic::new(Code::ReadBack, message)
            .help("something else changes it at the same time: run teardown again"))
    })
}
