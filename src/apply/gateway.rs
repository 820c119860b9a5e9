//! The gateway bridge: an Open vSwitch bridge that has the uplink as a port and, in its place, the
//! node's addresses and routes.
//!
//! A node that is moved can lose the connection by which it is moved. So every order of commands
//! here leaves, after each of them, either the node reachable or all that is needed to go on in
//! the live state itself: addresses and routes are on the new interface before they leave the old
//! one. The way back is the same with the two exchanged.

use std::collections::BTreeSet;

use super::change::{Action, Kind, Step};
use super::links::batch;
use super::ovsdb::{Bridge, Database, MARK, Port};
use super::ports::{TIMEOUT, not_ours};
use super::settings;
use crate::artifact::host;
use crate::artifact::node::{Uplink, Wiring};
use crate::diagnostic::{Code, Diagnostic};
use crate::system::netlink::{Link, Network};
use crate::system::{Command, Tool};
use crate::value::Datapath;

/// The key of `external_ids` by which a gateway bridge of ours knows its uplink.
pub(super) const UPLINK: &str = "ringfence-uplink";

/// What to do about gateway bridges.
#[derive(Debug, Default)]
pub(super) struct Gateway {
    /// Before everything else: the bridge comes into the place of the uplink.
    pub(super) make: Step,
    /// And before that: bridges that are no longer wanted give way to their uplinks.
    pub(super) remove: Step,
}

/// RF160 and RF161: the uplink is as declared, or can be brought there.
pub(super) fn compare(
    wiring: &Wiring,
    database: &Database,
    node: &Network,
) -> Result<Gateway, Diagnostic> {
    let mut gateway = Gateway::default();
    let wanted = wiring.uplink.as_ref();
    if let Some(uplink) = wanted {
        check(uplink, wiring.bridge.datapath, database, node)?;
    }
    let managed = wanted.filter(|uplink| !uplink.disable_init);
    gateway.remove = remove(wanted, database, node);
    if let Some(uplink) = managed
        && let Some(name) = &uplink.bridge
    {
        make(wiring, uplink, name.as_str(), database, node, &mut gateway.make);
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

fn make(
    wiring: &Wiring,
    uplink: &Uplink,
    name: &str,
    database: &Database,
    node: &Network,
    step: &mut Step,
) {
    let interface = uplink.interface.as_str();
    let live = database.bridges.get(name);
    let have = live.cloned().unwrap_or_default();
    let datapath = wiring.bridge.datapath.as_str();
    let whole = have.has_datapath(wiring.bridge.datapath)
        && have.fail_mode != "secure"
        && have.external_ids.contains_key(MARK)
        && have.ports.contains_key(interface);
    if !whole {
        // The bridge looks like the interface in whose place it comes.
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
            "--",
            "--may-exist",
            "add-port",
            name,
            interface,
        ]
        .map(str::to_owned);
        step.commands.push(Command::change(Tool::OvsVsctl, words));
        let action = if live.is_none() { Action::Add } else { Action::Change };
        step.change(action, Kind::Bridge, name, format!("takes the uplink {interface} as port"));
    }
    if have.astray.contains(&settings::CONTROLLER) {
        step.change(Action::Change, Kind::Bridge, name, settings::CONTROLLER.words());
        let words = [TIMEOUT.to_owned(), "--".to_owned()].into_iter();
        let words = words.chain(settings::CONTROLLER.clause("Bridge", name));
        step.commands.push(Command::change(Tool::OvsVsctl, words));
    }
    if wiring.bridge.datapath == Datapath::Netdev
        && node.links.get(name).is_none_or(|link| !link.up)
    {
        // Open vSwitch sends frames of the node as they are: their checksums must be complete.
        step.commands.push(Command::change(Tool::Ethtool, ["-K", name, "tx", "off"]));
    }
    hand_over(interface, name, node, step);
}

/// The end of the patch on the gateway bridge's side. It is in the VLAN in which the bridge itself
/// is, if it is in one.
fn patch(
    wiring: &Wiring,
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
fn remove(wanted: Option<&Uplink>, database: &Database, node: &Network) -> Step {
    let mut step = Step::default();
    for (name, bridge) in &database.bridges {
        let declared =
            |uplink: &&Uplink| uplink.bridge.as_ref().is_some_and(|b| b.as_str() == name);
        match wanted.filter(declared) {
            Some(uplink) if uplink.disable_init => leave(name, bridge, &mut step),
            Some(_) => {}
            None if give_back(name, bridge, node, &mut step) => {}
            None => unpatch(name, bridge, &mut step),
        }
    }
    step
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
    step.commands.push(Command::change(Tool::OvsVsctl, words));
}

/// Takes our end of the patch from a gateway bridge that stays.
pub(super) fn unpatch(name: &str, bridge: &Bridge, step: &mut Step) {
    let patch = host::UPLINK_PATCH;
    let port = bridge.ports.get(patch);
    if port.is_none_or(|port| !port.external_ids.contains_key(MARK)) {
        return;
    }
    step.change(Action::Remove, Kind::Port, patch, format!("of {name}"));
    let words = [TIMEOUT, "--if-exists", "del-port", name, patch];
    step.commands.push(Command::change(Tool::OvsVsctl, words));
}

/// Takes a gateway bridge of ours away again. Any other bridge stays.
pub(super) fn give_back(name: &str, bridge: &Bridge, node: &Network, step: &mut Step) -> bool {
    let ours = bridge.external_ids.contains_key(MARK);
    let Some(interface) = bridge.external_ids.get(UPLINK).filter(|_| ours) else { return false };
    if node.links.contains_key(interface) {
        hand_over(name, interface, node, step);
    }
    let detail = format!("the uplink {interface} stands for itself again");
    step.change(Action::Remove, Kind::Bridge, name, detail);
    let words = [TIMEOUT, "--if-exists", "del-br", name];
    step.commands.push(Command::change(Tool::OvsVsctl, words));
    true
}

/// Moves the IPv4 addresses and routes of one interface to another, in one batch that stops at the
/// first error and can be begun anew at any of its lines.
fn hand_over(from: &str, to: &str, node: &Network, step: &mut Step) {
    let Some(link) = node.links.get(from) else { return };
    let target = node.links.get(to);
    let addresses = node.addresses(link);
    let connected: BTreeSet<_> = addresses.iter().map(ipnet::Ipv4Net::trunc).collect();
    let mut lines = Vec::new();
    if target.is_none_or(|target| !target.up) {
        lines.push(format!("link set {to} up"));
    }
    for address in addresses {
        let broadcast = if address.prefix_len() < 31 { " broadcast +" } else { "" };
        lines.push(format!("address replace {address}{broadcast} dev {to}"));
    }
    let mut routes: Vec<_> = node.routes.iter().filter(|route| route.link == link.index).collect();
    // Next hops must be reachable before routes lead to them.
    routes.sort_by_key(|route| (route.gateway.is_some(), route.destination, route.metric));
    for route in routes {
        // Those to the subnets come and go with the addresses.
        if route.gateway.is_none() && connected.contains(&route.destination) {
            continue;
        }
        let via = route.gateway.map(|gateway| format!(" via {gateway}")).unwrap_or_default();
        let metric = match route.metric {
            0 => String::new(),
            metric => format!(" metric {metric}"),
        };
        lines.push(format!("route replace {}{via} dev {to}{metric}", route.destination));
    }
    for address in addresses {
        lines.push(format!("address del {address} dev {from}"));
    }
    if addresses.is_empty() && lines.is_empty() {
        return;
    }
    let detail = match addresses {
        [] => "up".to_owned(),
        [address] => format!("{address} moves here from {from}"),
        [first, rest @ ..] => format!("{first} and {} more move here from {from}", rest.len()),
    };
    step.change(Action::Change, Kind::Link, to, detail);
    step.commands.extend(batch(None, &lines));
}
