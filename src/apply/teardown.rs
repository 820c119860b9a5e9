//! Removes what is ringfence's from a node, and nothing else.

use std::collections::BTreeSet;
use std::path::Path;

use super::change::{Action, Change, Kind, Step};
use super::links::{self, Links, Namespaces};
use super::ovsdb::{ADOPTED, Bridge, Database, MARK};
use super::ports::TIMEOUT;
use super::proxies::{self, Proxies};
use super::state::Store;
use super::{flows, gateway, groups, may_run, qos, rulesets};
use crate::diagnostic::Diagnostic;
use crate::system::{Command, System, Tool};

/// Removes every bridge, port, link, namespace and ruleset of ours, and the state directory. With
/// `check`, only tells what there is.
pub fn teardown(state: &Path, check: bool, system: &dyn System) -> Result<Vec<Change>, Diagnostic> {
    may_run(system)?;
    let mut store = Store::at(state);
    if !check {
        store.lock()?;
    }
    let database = Database::read(system)?;
    let links = Links::read(system, &store.read()?.half_made, &Namespaces::new())?;
    let (listing, _) = rulesets::listing(system, None)?;
    let mut steps: Vec<Step> = Vec::new();
    for (name, bridge) in &database.bridges {
        let mut step = Step::default();
        if gateway::give_back(name, bridge, &links.node, &mut step) {
            steps.push(step);
        } else if bridge.external_ids.contains_key(MARK) {
            steps.push(remove_bridge(name, bridge, &database));
        } else {
            gateway::unpatch(name, bridge, &mut step);
            steps.push(step);
        }
    }
    steps.push(proxies::remove(None, &Proxies::read(system)?));
    steps.push(qos::sweep(&database, None, &BTreeSet::new()));
    steps.push(links::remove(None, &links, &BTreeSet::new()));
    steps.push(rulesets::remove(listing.as_deref()));
    if !check {
        for command in steps.iter().flat_map(|step| &step.commands) {
            system.succeed(command)?;
        }
        store.remove()?;
    }
    Ok(steps.into_iter().flat_map(|step| step.changes).collect())
}

/// A bridge of ours goes; one that was adopted stays, without our ports, flows and marks.
fn remove_bridge(name: &str, bridge: &Bridge, database: &Database) -> Step {
    let mut step = Step::default();
    let limited = bridge.ports.iter().filter(|(_, port)| qos::is_ours(database, port));
    let mut words = vec![TIMEOUT.to_owned()];
    for (port, _) in limited {
        words.extend(["--", "--if-exists", "clear", "Port", port, "qos"].map(str::to_owned));
    }
    if words.len() > 1 {
        // With its port, Open vSwitch would leave the discipline to the interface.
        step.commands.push(Command::change(Tool::OvsVsctl, words));
    }
    if !bridge.external_ids.contains_key(ADOPTED) {
        step.change(Action::Remove, Kind::Bridge, name, "with its ports and flows");
        step.commands.push(Command::change(Tool::OvsVsctl, [TIMEOUT, "del-br", name]));
        return step;
    }
    step.change(Action::Change, Kind::Bridge, name, "adopted: only ports and flows are removed");
    for (version, verb) in [
        (flows::VERSION, "del-flows"),
        (groups::VERSION, "del-groups"),
        (flows::VERSION, "del-meters"),
    ] {
        let words = version.into_iter().chain([verb, name]);
        step.commands.push(Command::change(Tool::OvsOfctl, words));
    }
    let mut words = vec![TIMEOUT.to_owned()];
    for (port, found) in &bridge.ports {
        if found.external_ids.contains_key(MARK) {
            words.extend(["--", "--if-exists", "del-port", name, port].map(str::to_owned));
        }
    }
    for mark in [MARK, ADOPTED] {
        words.extend(["--", "remove", "Bridge", name, "external_ids", mark].map(str::to_owned));
    }
    step.commands.push(Command::change(Tool::OvsVsctl, words));
    step
}
