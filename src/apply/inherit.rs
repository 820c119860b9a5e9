//! The kernel's settings of one interface for another that comes into its place.

use std::collections::BTreeMap;
use std::path::Path;

use super::state::Replaced;
use super::sysctls;
use crate::artifact::node::NodeConfig;
use crate::system::{Command, System, Tool};

/// Where the kernel has settings of interfaces, each in a directory of the interface's name beside
/// that of the default ones.
const PLACES: [&str; 4] = ["net/ipv4/conf", "net/ipv4/neigh", "net/ipv6/conf", "net/ipv6/neigh"];
/// Those that are not settings, are there twice, or belong to the one interface.
const OWN: [&str; 6] =
    ["base_reachable_time", "mc_forwarding", "mtu", "retrans_time", "stable_secret", "unres_qlen"];
/// The interface of which new ones have their settings.
const DEFAULT: &str = "default";

/// Gives an interface the settings of another, but for those that the plan has. What ringfence has
/// changed of the other one goes back there, and is not handed on.
pub(super) fn inherit(
    from: &str,
    to: &str,
    wiring: &NodeConfig,
    replaced: &BTreeMap<String, Replaced>,
    system: &dyn System,
) -> Option<Command> {
    let mut words = vec!["-qw".to_owned()];
    for place in PLACES {
        let directory = Path::new("/proc/sys").join(place).join(from);
        let names = system.directory(&directory).unwrap_or_default();
        for name in names.iter().filter(|name| !OWN.contains(&name.as_str())) {
            // sysctl(8) has the dots and slashes of a name exchanged.
            let key = |interface: &str| {
                let (place, interface) = (place.replace('/', "."), interface.replace('.', "/"));
                format!("{place}.{interface}.{name}")
            };
            let Some(value) = sysctls::of_others(&key(from), replaced, system) else { continue };
            let there = || system.sysctl(&key(to)).or_else(|| system.sysctl(&key(DEFAULT)));
            if !wiring.sysctls.contains_key(&key(to)) && there().is_none_or(|have| have != value) {
                words.push(format!("{}={value}", key(to)));
            }
        }
    }
    (words.len() > 1).then(|| Command::change(Tool::Sysctl, words))
}
