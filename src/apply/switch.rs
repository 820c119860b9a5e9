//! What OpenFlow itself keeps of a bridge besides flows: how it treats fragments, and the flags of
//! its ports.
//!
//! Open vSwitch keeps these for as long as ovs-vswitchd runs; afterwards they are as by default:
//! fragments are `normal` again, in which no fragment has ports. The flows drop all first fragments
//! then. One question tells all of it.

use std::collections::BTreeMap;

use super::change::{Action, Kind, Step};
use super::flows::{TIMEOUT, VERSION};
use crate::artifact::host;
use crate::artifact::node::NodeConfig;
use crate::diagnostic::Diagnostic;
use crate::pipeline::OfPort;
use crate::system::{Command, System, Tool};

/// The mode in which first fragments have their ports, and the others the port 0.
pub(super) const MODE: &str = "nx-match";

/// A flag of a port, which none of ours has.
#[derive(Clone, Copy, Debug)]
pub(super) struct Flag {
    /// What takes it away.
    pub(super) word: &'static str,
    /// How it is shown.
    shown: &'static str,
}

/// Those that OpenFlow 1.4 has, but for the state, which is that of the interface.
pub(super) const FLAGS: [Flag; 3] = [
    Flag { word: "receive", shown: "NO_RECV" },
    Flag { word: "forward", shown: "NO_FWD" },
    Flag { word: "packet-in", shown: "NO_PACKET_IN" },
];

/// A bridge as OpenFlow has it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Switch {
    /// How it treats fragments.
    fragments: String,
    /// The flags of its ports, by their numbers.
    ports: BTreeMap<String, String>,
}

/// Reads a bridge; `None` where there is no such bridge.
pub(super) fn read(system: &dyn System, bridge: &str) -> Result<Option<Switch>, Diagnostic> {
    let words = VERSION.into_iter().chain([TIMEOUT, "show", bridge]);
    let output = system.run(&Command::read(Tool::OvsOfctl, words))?;
    let shown = String::from_utf8_lossy(&output.stdout);
    Ok((output.status == Some(0)).then(|| Switch::parse(&shown)))
}

impl Switch {
    fn parse(shown: &str) -> Self {
        let mut switch = Self::default();
        let mut number = "";
        for line in shown.lines() {
            if let Some((_, rest)) = line.split_once(" frags=") {
                rest.split(' ').next().unwrap_or_default().clone_into(&mut switch.fragments);
            } else if let Some(flags) = line.trim_start().strip_prefix("config:") {
                switch.ports.insert(number.to_owned(), flags.trim().to_owned());
            } else if let Some((before, _)) = line.split_once('(')
                && line.contains("): addr:")
            {
                number = before.trim();
            }
        }
        switch
    }

    /// The flags of a port that it should not have.
    fn flags(&self, port: OfPort) -> impl Iterator<Item = Flag> {
        let flags = self.ports.get(&port.get().to_string()).map_or("", String::as_str);
        FLAGS.into_iter().filter(|flag| flags.split(' ').any(|shown| shown == flag.shown))
    }
}

/// Sets the mode of fragments where it is another, and takes flags off ports. A new bridge begins
/// with another mode.
pub(super) fn step(wiring: &NodeConfig, live: Option<&Switch>) -> Step {
    let mut step = Step::default();
    let bridge = wiring.bridge.name.as_str();
    let run = |words: &[&str]| {
        let words = VERSION.into_iter().chain([TIMEOUT]).chain(words.iter().copied());
        Command::change(Tool::OvsOfctl, words)
    };
    let fragments = live.map(|live| live.fragments.as_str());
    if fragments != Some(MODE) {
        if let Some(fragments) = fragments {
            let detail = format!("fragments {fragments} to {MODE}");
            step.change(Action::Change, Kind::Bridge, bridge, detail);
        }
        step.commands.push(run(&["set-frags", bridge, MODE]));
    }
    let Some(live) = live else { return step };
    let node = wiring.node.to_string();
    let own = [(host::VXLAN, OfPort::VXLAN), (host::TUN, OfPort::TUN)];
    let own = own.into_iter().chain(wiring.gateway().map(|_| (host::PATCH, OfPort::PATCH)));
    let own = own.map(|(name, number)| (name, number, node.as_str()));
    let pods = wiring.ports.iter();
    let pods = pods.map(|port| (port.interface.as_str(), port.ofport, port.owner.as_str()));
    for (name, number, owner) in own.chain(pods) {
        let flags: Vec<&str> = live.flags(number).map(|flag| flag.word).collect();
        if !flags.is_empty() {
            let detail = format!("no {} of {owner}", flags.join(", no "));
            step.change(Action::Change, Kind::Port, name, detail);
        }
        let number = number.get().to_string();
        step.commands.extend(flags.iter().map(|flag| run(&["mod-port", bridge, &number, flag])));
    }
    step
}
