//! Meters of the bridge: there before the flows that name them, and gone after them.

use std::collections::BTreeMap;

use super::change::{Action, Kind, Step};
use super::flows::{TIMEOUT, VERSION};
use crate::artifact::node::{Meter, NodeConfig};
use crate::diagnostic::Diagnostic;
use crate::system::{Command, System, Tool};

/// Meters by their numbers, as `ovs-ofctl` takes them.
pub(super) type Meters = BTreeMap<u32, String>;

/// What to do about the meters.
#[derive(Debug, Default)]
pub(super) struct MeterSteps {
    /// Before the flows: new and changed ones.
    pub(super) before: Step,
    /// After the flows: old ones, which would take the flows that name them with them.
    pub(super) after: Step,
}

/// Reads the meters of a bridge; none where there is no such bridge.
pub(super) fn read(system: &dyn System, bridge: &str) -> Result<Meters, Diagnostic> {
    let words = VERSION.into_iter().chain([TIMEOUT, "dump-meters", bridge]);
    let output = system.run(&Command::read(Tool::OvsOfctl, words))?;
    let printed = if output.status == Some(0) { output.stdout } else { Vec::new() };
    Ok(parse(&String::from_utf8_lossy(&printed)))
}

/// Reads `meter=7 kbps burst stats bands=` and a line for each band.
fn parse(text: &str) -> Meters {
    let mut meters = Meters::new();
    let mut last = None;
    for line in text.lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        let [first, rest @ ..] = words.as_slice() else { continue };
        if let Some(number) = first.strip_prefix("meter=") {
            last = number.parse().ok();
            if let Some(number) = last {
                let flags = rest.iter().filter(|word| **word != "bands=").copied();
                let words: Vec<&str> = [*first].into_iter().chain(flags).collect();
                meters.insert(number, words.join(","));
            }
        } else if let Some(meter) = last.and_then(|number| meters.get_mut(&number))
            && first.starts_with("type=")
        {
            meter.push_str(",band=");
            meter.push_str(&words.join(","));
        }
    }
    meters
}

/// What has to be done for the bridge to have the meters of the node.
pub(super) fn compare(wiring: &NodeConfig, live: &Meters) -> MeterSteps {
    let bridge = wiring.bridge.name.as_str();
    let command = |verb: &str, meter: &str| {
        Command::change(Tool::OvsOfctl, VERSION.into_iter().chain([verb, bridge, meter]))
    };
    let mut steps = MeterSteps::default();
    let ports = wiring.ports.iter();
    let wanted: BTreeMap<u32, (Meter, &str)> = ports
        .filter_map(|port| Some((port.meter?.id, (port.meter?, port.owner.as_str()))))
        .collect();
    for (id, (meter, owner)) in &wanted {
        let text = meter.to_string();
        let (action, verb) = match live.get(id) {
            Some(have) if *have == text => continue,
            Some(_) => (Action::Change, "mod-meter"),
            None => (Action::Add, "add-meter"),
        };
        let detail = format!("{} kbit/s from {owner}", meter.rate);
        steps.before.change(action, Kind::Meter, id.to_string(), detail);
        steps.before.commands.push(command(verb, &text));
    }
    for id in live.keys().filter(|id| !wanted.contains_key(id)) {
        steps.after.change(Action::Remove, Kind::Meter, id.to_string(), "no longer wanted");
        steps.after.commands.push(command("del-meter", &format!("meter={id}")));
    }
    steps
}
