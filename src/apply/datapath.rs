//! Whether Open vSwitch can open the datapath of a bridge.

use super::ovsdb::Database;
use crate::artifact::node::NodeConfig;
use crate::diagnostic::{Code, Diagnostic};
use crate::system::{Command, System, Tool};
use crate::value::Datapath;

/// How long ovs-vswitchd may take to answer, in seconds.
const TIMEOUT: &str = "--timeout=10";

/// Whether ovs-vswitchd runs and answers.
pub(super) fn answers(system: &dyn System) -> bool {
    let ask = Command::read(Tool::OvsAppctl, [TIMEOUT, "version"]);
    system.has(Tool::OvsAppctl) && system.run(&ask).is_ok_and(|output| output.status == Some(0))
}

/// RF222: the datapath can be opened. Asked only where it isn't open already.
pub(super) fn check(
    wiring: &NodeConfig,
    database: &Database,
    opened: bool,
    system: &dyn System,
) -> Result<(), Diagnostic> {
    let live = database.bridges.get(wiring.bridge.name.as_str());
    let wanted = wiring.bridge.datapath;
    let open = opened && live.is_some_and(|live| live.has_datapath(wanted));
    // One in userspace takes nothing that Open vSwitch doesn't have itself.
    if open || wanted == Datapath::Netdev || !system.has(Tool::OvsAppctl) {
        return Ok(());
    }
    let ask = Command::read(Tool::OvsAppctl, [TIMEOUT, "dpctl/show", "system@ovs-system"]);
    let output = system.run(&ask)?;
    let printed = String::from_utf8_lossy(&output.stderr);
    // A kernel that can have a datapath but doesn't yet has no such device.
    let reasons = [
        ("No such file or directory", "the kernel module `openvswitch` is not loaded"),
        ("Operation not permitted", "the kernel does not permit it"),
    ];
    match reasons.iter().find(|(text, _)| output.status != Some(0) && printed.contains(text)) {
        None => Ok(()),
        Some((_, reason)) => Err(Diagnostic::new(
            Code::DatapathUnusable,
            format!("Open vSwitch can't open a bridge with `datapath: system` here: {reason}"),
        )
        .help(
            "run `modprobe openvswitch`, then restart Open vSwitch; or set `datapath: netdev` for \
             the node",
        )),
    }
}
