//! Kernel settings of the node: set as planned, and given back when no plan has them any more.

use super::change::{Action, Kind, Step};
use super::state::{Replaced, State};
use crate::artifact::node::NodeConfig;
use crate::system::guard::Guard;
use crate::system::{Command, System, Tool};

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
        } else if let Some(before) = system.sysctl(name).filter(|have| have != value) {
            let replaced = Replaced { before, set: value.clone() };
            state.sysctls.insert(name.clone(), replaced);
        }
    }
}

/// Forgets those that are no longer ringfence's.
pub(super) fn forget(wiring: &NodeConfig, state: &mut State) {
    state.sysctls.retain(|name, _| wiring.sysctls.contains_key(name));
}
