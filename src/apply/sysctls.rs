//! Kernel settings of the node: set as planned, and given back when no plan has them any more.

use std::collections::BTreeMap;

use super::change::{Action, Kind, Step};
use super::state::{Replaced, State};
use crate::artifact::node::NodeConfig;
use crate::system::guard::Guard;
use crate::system::{Command, System, Tool};
use crate::value::InterfaceName;

/// What every node has for as long as it is one. Others may rely on it by the time that ringfence goes,
/// so it is never given back.
const FORWARDING: &str = "net.ipv4.ip_forward";

/// The settings that are not as planned, and those that are to be what they were before.
pub(super) fn step(wiring: &NodeConfig, state: &State, system: &dyn System) -> Step {
    let mut step = Step::default();
    for (name, value) in &wiring.sysctls {
        let have = system.sysctl(name);
        if have.as_ref() != Some(value) {
            let command = set(&mut step, name, have.as_deref().unwrap_or("nothing"), value);
            step.commands.push(command);
        }
    }
    give_back(Some(wiring), state, system, &mut step);
    step
}

/// Gives back what was changed and no plan has any more: all of it without one.
pub(super) fn give_back(
    wiring: Option<&NodeConfig>,
    state: &State,
    system: &dyn System,
    step: &mut Step,
) {
    let planned = |name: &String| wiring.is_some_and(|wiring| wiring.sysctls.contains_key(name));
    for (name, Replaced { before, set: value }) in &state.sysctls {
        if !planned(name) && before != value && system.sysctl(name).as_ref() == Some(value) {
            let still = Guard::Setting { name: name.clone(), value: value.clone() };
            let command = set(step, name, value, before).only_if([still]);
            step.commands.push(command);
        }
    }
}

fn set(step: &mut Step, name: &str, have: &str, value: &str) -> Command {
    step.change(Action::Change, Kind::Sysctl, name, format!("{have} to {value}"));
    let setting = format!("{name}={value}");
    Command::change(Tool::Sysctl, ["-qw", &setting])
}

/// Remembers what the settings are that are about to be changed.
pub(super) fn remember(wiring: &NodeConfig, state: &mut State, system: &dyn System) {
    for (name, value) in wiring.sysctls.iter().filter(|(name, _)| *name != FORWARDING) {
        if let Some(replaced) = state.sysctls.get_mut(name) {
            replaced.set.clone_from(value);
            continue;
        }
        let before = before(name, wiring, &state.sysctls, system);
        if let Some(before) = before.filter(|have| have != value) {
            let replaced = Replaced { before, set: value.clone() };
            state.sysctls.insert(name.clone(), replaced);
        }
    }
}

/// What a setting would be without ringfence. A gateway bridge that is yet to be made will have those of
/// its uplink, and any other interface those of the kernel for new ones.
fn before(
    name: &str,
    wiring: &NodeConfig,
    replaced: &BTreeMap<String, Replaced>,
    system: &dyn System,
) -> Option<String> {
    if let Some(have) = system.sysctl(name) {
        return Some(have);
    }
    let (head, rest) = name.split_once(".conf.")?;
    let (interface, setting) = rest.rsplit_once('.')?;
    let of = |interface: &str| format!("{head}.conf.{interface}.{setting}");
    // sysctl(8) has the dots and slashes of a name exchanged.
    let swapped = |name: &InterfaceName| name.as_str().replace('.', "/");
    let gateway = wiring.gateway().filter(|(bridge, _)| swapped(bridge) == interface);
    let uplink = gateway.map(|(_, uplink)| of(&swapped(&uplink.interface)));
    let uplink = uplink.and_then(|name| of_others(&name, replaced, system));
    uplink.or_else(|| system.sysctl(&of("default")))
}

/// What a setting is, or was before ringfence changed it.
pub(super) fn of_others(
    name: &str,
    replaced: &BTreeMap<String, Replaced>,
    system: &dyn System,
) -> Option<String> {
    let have = system.sysctl(name)?;
    let ours = replaced.get(name).filter(|replaced| replaced.set == have);
    Some(ours.map_or(have, |replaced| replaced.before.clone()))
}

/// Forgets those that are no longer ringfence's.
pub(super) fn forget(wiring: &NodeConfig, state: &mut State) {
    state.sysctls.retain(|name, _| wiring.sysctls.contains_key(name));
}
