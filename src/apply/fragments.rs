//! How a bridge treats fragments: with the ports of a first fragment, as the flows expect it.
//!
//! Open vSwitch keeps this setting for as long as ovs-vswitchd runs; afterwards it is `normal` again,
//! in which no fragment has ports. The flows drop all first fragments then.

use super::change::{Action, Kind, Step};
use super::flows::{TIMEOUT, VERSION};
use crate::diagnostic::Diagnostic;
use crate::system::{Command, System, Tool};

/// The mode in which first fragments have their ports, and the others the port 0.
pub(super) const MODE: &str = "nx-match";

/// Reads the mode of a bridge; `None` where there is no such bridge.
pub(super) fn read(system: &dyn System, bridge: &str) -> Result<Option<String>, Diagnostic> {
    let words = VERSION.into_iter().chain([TIMEOUT, "get-frags", bridge]);
    let output = system.run(&Command::read(Tool::OvsOfctl, words))?;
    let mode = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    Ok((output.status == Some(0)).then_some(mode))
}

/// Sets the mode where it is another. A new bridge begins with another.
pub(super) fn step(bridge: &str, live: Option<&str>) -> Step {
    let mut step = Step::default();
    if live == Some(MODE) {
        return step;
    }
    if let Some(live) = live {
        let detail = format!("fragments {live} to {MODE}");
        step.change(Action::Change, Kind::Bridge, bridge, detail);
    }
    let words = VERSION.into_iter().chain([TIMEOUT, "set-frags", bridge, MODE]);
    step.commands.push(Command::change(Tool::OvsOfctl, words));
    step
}
