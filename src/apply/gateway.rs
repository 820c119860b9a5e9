//! The gateway bridge: an Open vSwitch bridge that has the uplink as a port and, in its place, the
//! node's addresses and routes.
//!
//! A node that is moved can lose the connection by which it is moved. So every order of commands
//! here leaves, after each of them, either the node reachable or all that is needed to go on in
//! the live state itself: the bridge has everything before it gets the uplink, and the uplink loses
//! its own only then. On the way back, the uplink has everything before the bridge goes. What could
//! be refused by the kernel comes first, while nothing is changed by it.

use std::collections::BTreeMap;

use super::bridges;
use super::change::{Action, Kind, Step};
use super::columns;
use super::handover;
use super::inherit::inherit;
use super::links::batch;
use super::ovsdb::{Bridge, Database, MARK, Port};
use super::ports::{TIMEOUT, not_ours};
use super::state::Replaced;
use crate::artifact::host;
use crate::artifact::node::{NodeConfig, Uplink, UplinkAttachment};
use crate::diagnostic::{Code, Diagnostic};
use crate::system::netlink::holdings::Holdings;
use crate::system::netlink::{Link, Network};
use crate::system::{Command, System, Tool};
use crate::value::Datapath;

/// The key of `external_ids` by which a gateway bridge of ours knows its uplink.
pub(super) const UPLINK: &str = "ringfence-uplink";
/// How long Open vSwitch may take to open the uplink after it said that it is done.
const OPENED: &str = "--timeout=10";
/// The kind of the kernel's datapath, of which ports of Open vSwitch are a part.
const OVS: &str = "openvswitch";
/// What has frames of an interface beside a datapath in userspace, but not beside the kernel's.
const BESIDE: [&str; 4] = ["macvlan", "macvtap", "ipvlan", "ipvtap"];

/// What to do about gateway bridges.
#[derive(Debug, Default)]
pub(super) struct Gateway {
    /// Before everything else: the bridge comes into the place of the uplink.
    pub(super) make: Step,
    /// And before that: bridges that are no longer wanted give way to their uplinks.
    pub(super) remove: Step,
    /// Those bridges, each with its uplink.
    pub(super) going: Going,
}

/// Gateway bridges that go, each with the uplink that comes into its place.
pub(super) type Going = BTreeMap<String, String>;

/// RF160 and RF161: the uplink is as declared, or can be brought there.
pub(super) fn compare(
    wiring: &NodeConfig,
    database: &Database,
    node: &Network,
    holdings: &Holdings,
    replaced: &BTreeMap<String, Replaced>,
    system: &dyn System,
) -> Result<Gateway, Diagnostic> {
    let mut gateway = Gateway::default();
    let wanted = wiring.uplink.as_ref();
    if let Some(uplink) = wanted {
        check(uplink, wiring.bridge.datapath, database, node)?;
    }
    check_macvlans(wiring, database)?;
    let managed = wanted.filter(|uplink| !uplink.disable_init);
    remove(wanted, database, node, holdings, &mut gateway)?;
    if let Some(uplink) = managed
        && let Some(name) = &uplink.bridge
    {
        let now = Now { database, node, holdings, replaced, system };
        make(wiring, uplink, name.as_str(), now, &mut gateway.make)?;
    }
    if let Some((bridge, _)) = wiring.gateway() {
        patch(wiring, bridge.as_str(), database, &mut gateway.make)?;
    }
    Ok(gateway)
}

fn check(
    uplink: &Uplink,
    datapath: Datapath,
    database: &Database,
    node: &Network,
) -> Result<(), Diagnostic> {
    let Uplink { interface, bridge, disable_init, least_mtu, pod_mtu } = uplink;
    let Some(link) = node.links.get(interface.as_str()) else {
        let message = format!("the uplink `{interface}` is not an interface of this node");
        return Err(Diagnostic::new(Code::GatewayBridge, message)
            .help("correct `uplink.interface` of the node"));
    };
    if link.mtu < *least_mtu {
        let message = format!(
            "the uplink `{interface}` has an MTU of {}, but {pod_mtu} for pods and VXLAN take \
             {least_mtu}",
            link.mtu
        );
        return Err(Diagnostic::new(Code::UplinkMtu, message)
            .help("raise the MTU of the uplink, or lower `cluster.mtu`"));
    }
    let Some(bridge) = bridge else { return Ok(()) };
    let live = database.bridges.get(bridge.as_str());
    let holder = database.bridges.iter().find(|(_, b)| b.ports.contains_key(interface.as_str()));
    let (message, help) = if *disable_init {
        match (live, holder) {
            (Some(live), Some((holder, _))) if holder == bridge.as_str() => {
                if live.has_datapath(datapath) {
                    return Ok(());
                }
                (
                    format!("the gateway bridge `{bridge}` has another datapath than the node"),
                    "give the bridge the `datapath` of the node: patch ports lead to no other",
                )
            }
            (None, _) => (
                format!("the gateway bridge `{bridge}` does not exist"),
                "make it, with the uplink as a port, or leave `disableInit` out",
            ),
            (Some(_), _) => (
                format!("the gateway bridge `{bridge}` has no port `{interface}`"),
                "take the uplink as a port of the bridge, or leave `disableInit` out",
            ),
        }
    } else {
        match (live, holder) {
            (Some(live), _)
                if live.external_ids.get(UPLINK).map(String::as_str)
                    != Some(interface.as_str()) =>
            {
                (
                    format!(
                        "the bridge `{bridge}` exists and is not ringfence's for `{interface}`"
                    ),
                    "set `disableInit: true` to use it as it is, or choose another name",
                )
            }
            (_, Some((holder, found)))
                if holder != bridge.as_str() && !found.external_ids.contains_key(UPLINK) =>
            {
                (
                    format!("the uplink `{interface}` is a port of the bridge `{holder}`"),
                    "declare that bridge with `disableInit: true`, or take the port out of it",
                )
            }
            _ if node.links.contains_key(bridge.as_str()) && live.is_none() => (
                format!("the interface `{bridge}` exists and is no bridge of Open vSwitch"),
                "choose another name for the bridge",
            ),
            _ => return Ok(()),
        }
    };
    Err(Diagnostic::new(Code::GatewayBridge, message).help(help))
}

/// The node as it is.
#[derive(Clone, Copy)]
struct Now<'a> {
    database: &'a Database,
    node: &'a Network,
    holdings: &'a Holdings,
    /// The kernel settings that ringfence has changed.
    replaced: &'a BTreeMap<String, Replaced>,
    system: &'a dyn System,
}

fn make(
    wiring: &NodeConfig,
    uplink: &Uplink,
    name: &str,
    now: Now<'_>,
    step: &mut Step,
) -> Result<(), Diagnostic> {
    let Now { database, node, holdings, replaced, system } = now;
    let interface = uplink.interface.as_str();
    let live = database.bridges.get(name);
    let have = live.cloned().unwrap_or_default();
    let datapath = wiring.bridge.datapath;
    if !have.has_datapath(datapath) {
        bridges::check_datapath(name, &have)?;
    }
    // With another mode, Open vSwitch would drop the flows of others.
    let made = have.has_datapath(datapath)
        && (have.fail_mode != "secure" || have.foreign_flows > 0)
        && have.external_ids.contains_key(MARK);
    let plugged = have.ports.contains_key(interface);
    if !plugged {
        free(interface, datapath, node)?;
    }
    let handover = handover::plan(interface, name, node, holdings)?;
    if !(made && plugged) {
        let action = if live.is_none() { Action::Add } else { Action::Change };
        step.change(action, Kind::Bridge, name, format!("takes the uplink {interface} as port"));
    }
    if !made {
        step.commands.push(add_bridge(wiring, interface, name, node));
    }
    let controller =
        columns::differences(&have.row, &[columns::CONTROLLER], &columns::Goals::new());
    if !controller.is_empty() {
        step.change(Action::Change, Kind::Bridge, name, columns::CONTROLLER.words());
        let mut words = vec![TIMEOUT.to_owned()];
        columns::Difference::clauses(&controller, "Bridge", name, &mut words);
        step.commands.push(Command::change(Tool::OvsVsctl, words));
    }
    let down = node.links.get(name).is_none_or(|link| !link.up);
    if down {
        if datapath == Datapath::Netdev {
            // Open vSwitch sends frames of the node as they are: their checksums must be complete.
            step.commands.push(Command::change(Tool::Ethtool, ["-K", name, "tx", "off"]));
        }
        step.commands.extend(inherit(interface, name, wiring, replaced, system));
        step.commands.extend(batch(None, &[format!("link set {name} up")]));
    }
    if let Some(detail) = handover.told.or_else(|| down.then(|| "up".to_owned())) {
        step.change(Action::Change, Kind::Link, name, detail);
    }
    step.commands.extend(handover.copy);
    if !plugged {
        step.commands.extend(plug(name, interface));
    }
    step.commands.extend(handover.switch);
    step.commands.extend(handover.clear);
    Ok(())
}

/// The bridge, which looks like the interface in whose place it comes.
fn add_bridge(wiring: &NodeConfig, interface: &str, name: &str, node: &Network) -> Command {
    let datapath = wiring.bridge.datapath.as_str();
    let mac = node.links.get(interface).map(Link::mac_text).unwrap_or_default();
    let words = [
        TIMEOUT,
        "--",
        "--may-exist",
        "add-br",
        name,
        "--",
        "set",
        "Bridge",
        name,
        &format!("datapath_type={datapath}"),
        "fail_mode=standalone",
        &format!("other_config:hwaddr=\"{mac}\""),
        &format!("external_ids:{MARK}=\"{}\"", wiring.node),
        &format!("external_ids:{UPLINK}=\"{interface}\""),
    ]
    .map(str::to_owned);
    Command::change(Tool::OvsVsctl, words)
}

/// Makes the uplink a port, and sees to it that Open vSwitch could open it before the node's
/// addresses depend on it.
fn plug(bridge: &str, interface: &str) -> [Command; 2] {
    let add = [TIMEOUT, "--may-exist", "add-port", bridge, interface];
    let opened = [OPENED, "wait-until", "Interface", interface, "ofport>0"];
    [add, opened].map(|words| Command::change(Tool::OvsVsctl, words))
}

/// RF228: Open vSwitch can have the uplink, and what sits on it goes on.
fn free(interface: &str, datapath: Datapath, node: &Network) -> Result<(), Diagnostic> {
    let Some(link) = node.links.get(interface) else { return Ok(()) };
    let whole = node.links.iter().find(|(_, other)| Some(other.index) == link.traits.master);
    let taken = |message: String, help: &str| {
        Err(Diagnostic::new(Code::UplinkTaken, message).help(help.to_owned()))
    };
    if let Some((name, other)) = whole.filter(|(_, other)| other.kind.as_deref() != Some(OVS)) {
        let kind = other.kind.as_deref().unwrap_or("interface");
        let message = format!("the uplink `{interface}` is a part of the {kind} `{name}`");
        return taken(message, "declare that as the uplink, or take the interface out of it");
    }
    let goes_on = |kind: &str| {
        // Tagged frames leave the kernel's way before Open vSwitch gets any; in userspace it has but
        // copies.
        kind == "vlan" || kind == "veth" || (datapath == Datapath::Netdev && BESIDE.contains(&kind))
    };
    let above = on_top(link, node).find(|(_, kind)| !goes_on(kind));
    if let Some((name, kind)) = above {
        let message = format!("the {kind} `{name}` sits on the uplink `{interface}`");
        return taken(
            message,
            "remove it, or leave the bridge to the configuration of the host with `disableInit`",
        );
    }
    Ok(())
}

/// The interfaces that sit on one, as far as they are in its namespace, with their kinds.
fn on_top<'a>(link: &'a Link, node: &'a Network) -> impl Iterator<Item = (&'a str, &'a str)> {
    let above = node.links.iter().filter(|(_, other)| {
        other.peer == Some(link.index) && !other.peer_apart && other.index != link.index
    });
    above.map(|(name, other)| (name.as_str(), other.kind.as_deref().unwrap_or("interface")))
}

/// The end of the patch on the gateway bridge's side. It is in the VLAN in which the bridge itself
/// is, if it is in one.
fn patch(
    wiring: &NodeConfig,
    bridge: &str,
    database: &Database,
    step: &mut Step,
) -> Result<(), Diagnostic> {
    let name = host::UPLINK_PATCH;
    let live = database.bridges.get(bridge);
    let have = live.and_then(|live| live.ports.get(name));
    let peer = host::PATCH;
    if have.is_some_and(|port| !port.external_ids.contains_key(MARK)) {
        let message = format!("the port `{name}` of the bridge `{bridge}` is not ringfence's");
        return Err(not_ours(message, bridge, name));
    }
    let tag = live.and_then(|live| live.ports.get(bridge)).and_then(|own| own.tag);
    let fits = |port: &&Port| {
        port.kind == "patch"
            && port.options.get("peer").map(String::as_str) == Some(peer)
            && port.tag == tag
    };
    if have.as_ref().is_some_and(fits) {
        return Ok(());
    }
    let tag = tag.map_or_else(|| "[]".to_owned(), |tag| tag.to_string());
    let words = [
        TIMEOUT,
        "--",
        "--may-exist",
        "add-port",
        bridge,
        name,
        "--",
        "set",
        "Port",
        name,
        &format!("tag={tag}"),
        &format!("external_ids:{MARK}=\"{}\"", wiring.node),
        "--",
        "set",
        "Interface",
        name,
        "type=patch",
        &format!("options:peer={peer}"),
    ]
    .map(str::to_owned);
    step.commands.push(Command::change(Tool::OvsVsctl, words));
    let action = if have.is_none() { Action::Add } else { Action::Change };
    step.change(action, Kind::Port, name, format!("of {bridge}, to {peer}"));
    Ok(())
}

/// Bridges of ours that are no longer wanted hand all they have back to their uplinks, and go; one
/// that is somebody else's from now on stays. Others' lose our end of the patch.
fn remove(
    wanted: Option<&Uplink>,
    database: &Database,
    node: &Network,
    holdings: &Holdings,
    gateway: &mut Gateway,
) -> Result<(), Diagnostic> {
    let step = &mut gateway.remove;
    for (name, bridge) in &database.bridges {
        let declared =
            |uplink: &&Uplink| uplink.bridge.as_ref().is_some_and(|b| b.as_str() == name);
        match wanted.filter(declared) {
            Some(uplink) if uplink.disable_init => leave(name, bridge, step),
            Some(_) => {}
            None => match give_back(name, bridge, node, holdings, step)? {
                GivenBack::Gone(interface) => {
                    gateway.going.insert(name.clone(), interface.to_owned());
                }
                GivenBack::Stays => {}
                GivenBack::NotOurs => unpatch(name, bridge, step),
            },
        }
    }
    Ok(())
}

/// A bridge of ours is left to whoever configures the host's network. It still knows its uplink, so
/// that it can be ours again, as after a rollback.
fn leave(name: &str, bridge: &Bridge, step: &mut Step) {
    if !bridge.external_ids.contains_key(MARK) || !bridge.external_ids.contains_key(UPLINK) {
        return;
    }
    step.change(
        Action::Change,
        Kind::Bridge,
        name,
        "left to whoever configures the host's network",
    );
    let words = [TIMEOUT, "remove", "Bridge", name, "external_ids", MARK];
    step.commands.push(Command::remove(Tool::OvsVsctl, words));
}

/// Takes our end of the patch from a gateway bridge that stays.
pub(super) fn unpatch(name: &str, bridge: &Bridge, step: &mut Step) {
    let patch = host::UPLINK_PATCH;
    let port = bridge.ports.get(patch);
    if port.is_none_or(|port| !port.external_ids.contains_key(MARK)) {
        return;
    }
    step.change(Action::Remove, Kind::Port, patch, format!("of {name}"));
    let mut words = vec![TIMEOUT.to_owned()];
    bridges::unplug(&mut words, name, patch, false);
    step.commands.push(Command::remove(Tool::OvsVsctl, words));
}

/// What became of a bridge that is no longer wanted as a gateway bridge.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum GivenBack<'b> {
    /// It is no gateway bridge of ours.
    NotOurs,
    /// Others use it, so it stays.
    Stays,
    /// It goes, and this uplink comes into its place.
    Gone(&'b str),
}

/// Takes a gateway bridge of ours away again. Any other bridge stays.
pub(super) fn give_back<'b>(
    name: &str,
    bridge: &'b Bridge,
    node: &Network,
    holdings: &Holdings,
    step: &mut Step,
) -> Result<GivenBack<'b>, Diagnostic> {
    let ours = bridge.external_ids.contains_key(MARK);
    let Some(interface) = bridge.external_ids.get(UPLINK).filter(|_| ours) else {
        return Ok(GivenBack::NotOurs);
    };
    if let Some(foreign) = bridge.foreign(name) {
        stay(name, interface, bridge, &foreign, (node, holdings), step)?;
        return Ok(GivenBack::Stays);
    }
    if let Some(link) = node.links.get(name)
        && let Some((above, kind)) = on_top(link, node).next()
    {
        let message =
            format!("the {kind} `{above}` sits on the bridge `{name}`, and would go with it");
        return Err(Diagnostic::new(Code::UplinkTaken, message).help(format!(
            "remove it with `ip link del {above}`, and make it on `{interface}` then"
        )));
    }
    if let Some(uplink) = node.links.get(interface) {
        let handover = handover::plan(name, interface, node, holdings)?;
        if !uplink.up {
            step.commands.extend(batch(None, &[format!("link set {interface} up")]));
        }
        if let Some(detail) = handover.told {
            step.change(Action::Change, Kind::Link, interface, detail);
        }
        step.commands.extend(handover.copy);
        // What is left on the bridge goes with it, all at once.
        step.commands.extend(handover.switch);
    }
    let detail = format!("the uplink {interface} stands for itself again");
    step.change(Action::Remove, Kind::Bridge, name, detail);
    step.commands.push(bridges::delete(name, bridge, &[MARK, UPLINK]));
    Ok(GivenBack::Gone(interface))
}

/// A bridge of ours that others use stays as it is, with the uplink and all that the node has on it.
fn stay(
    name: &str,
    interface: &str,
    bridge: &Bridge,
    foreign: &str,
    (node, holdings): (&Network, &Holdings),
    step: &mut Step,
) -> Result<(), Diagnostic> {
    // An interrupted run may have begun to give it back.
    if node.links.contains_key(name) {
        let handover = handover::plan(interface, name, node, holdings)?;
        if let Some(detail) = handover.told {
            step.change(Action::Change, Kind::Link, name, detail);
        }
        let parts = [handover.copy, handover.switch, handover.clear];
        step.commands.extend(parts.into_iter().flatten());
    }
    unpatch(name, bridge, step);
    let detail = format!("stays with the uplink {interface}, since {foreign}");
    step.change(Action::Change, Kind::Bridge, name, detail);
    let words = [TIMEOUT, "remove", "Bridge", name, "external_ids", MARK];
    step.commands.push(Command::remove(Tool::OvsVsctl, words));
    Ok(())
}

/// RF223: an egress router can't have an interface of its own on an uplink that stays a port of a
/// bridge of the kernel's datapath.
fn check_macvlans(wiring: &NodeConfig, database: &Database) -> Result<(), Diagnostic> {
    let wanted = wiring.gateway().map(|(bridge, _)| bridge.as_str());
    for (name, bridge) in &database.bridges {
        let ours = bridge.external_ids.contains_key(MARK) && wanted != Some(name.as_str());
        let uplink = bridge.external_ids.get(UPLINK).filter(|_| ours);
        let (Some(uplink), Some(foreign)) = (uplink, bridge.foreign(name)) else { continue };
        let on = |via: &UplinkAttachment| matches!(via, UplinkAttachment::Macvlan { parent } if parent.as_str() == uplink);
        let mut routers = wiring.routers.iter();
        if let Some(router) = routers.find(|router| on(&router.outside.via))
            && bridge.has_datapath(Datapath::System)
        {
            let message = format!(
                "egress router `{}` needs `{uplink}`, which stays a port of the bridge `{name}`, since \
                 {foreign}",
                router.name
            );
            return Err(Diagnostic::new(Code::ForeignOnBridge, message)
                .help("take it off the bridge, or leave `uplink.bridge` as it was"));
        }
    }
    Ok(())
}

/// All that hangs on the node's interfaces, where a gateway bridge is there or to be; nothing elsewhere.
pub(super) fn holdings(
    wiring: Option<&NodeConfig>,
    database: &Database,
    system: &dyn System,
) -> Result<Holdings, Diagnostic> {
    let wanted = wiring.and_then(NodeConfig::gateway).is_some();
    let mut bridges = database.bridges.values();
    if wanted || bridges.any(|bridge| bridge.external_ids.contains_key(UPLINK)) {
        return system.holdings();
    }
    Ok(Holdings::default())
}
