//! `cluster.nodeAccess`: what the nodes' own processes take from pods.

use super::Context;
use super::cluster::Sections;
use crate::diagnostic::{Code, Diagnostic};
use crate::input::Cursor;
use crate::intent::NodeAccess;
use crate::spec;
use crate::value::{Port, Protocol};

/// The ports of all documents, in order.
pub(super) fn resolve(
    sections: &Sections<'_>,
    vxlan_port: Port,
    context: &mut Context,
) -> Vec<NodeAccess> {
    let mut resolved: Vec<NodeAccess> = Vec::new();
    for (at, section) in sections {
        let items = at.find("nodeAccess").into_iter().flat_map(Cursor::children);
        for (at, access) in items.zip(&section.node_access) {
            let spec::NodeAccess { protocol, port, end_port } = *access;
            let last = end_port.unwrap_or(port);
            if last < port {
                let message = format!("the port range from {port} goes backwards");
                context.push(
                    Diagnostic::new(Code::PortRange, message)
                        .at(at.key("endPort").place())
                        .help("`port` is the first of a range and `endPort` the last"),
                );
                continue;
            }
            let access = NodeAccess { protocol, ports: port.get()..=last.get(), place: at.place() };
            tunnels(&access, vxlan_port, context);
            open_already(&access, &resolved, context);
            resolved.push(access);
        }
    }
    resolved
}

/// RF190: no pod sends to the port of the nodes' tunnels.
fn tunnels(access: &NodeAccess, vxlan_port: Port, context: &mut Context) {
    if access.takes(Protocol::Udp, vxlan_port) {
        let message = format!("pods can't send to the port {vxlan_port}/udp of the nodes' tunnels");
        context.push(
            Diagnostic::new(Code::NodeAccessVxlan, message)
                .at(access.place)
                .help("leave the port out: whoever speaks VXLAN to a node is any pod it likes"),
        );
    }
}

/// RF191: an entry opens something.
fn open_already(access: &NodeAccess, earlier: &[NodeAccess], context: &mut Context) {
    let NodeAccess { protocol, ports, place } = access;
    let dns = Port::DNS.get();
    if *protocol != Protocol::Sctp && *ports == (dns..=dns) {
        context.push(
            Diagnostic::new(Code::NodeAccessOpen, format!("{dns}/{protocol} is open already"))
                .at(*place)
                .help("pods always reach DNS of their own node; remove the entry"),
        );
    }
    let covering = earlier.iter().find(|other| {
        other.protocol == *protocol
            && other.ports.start() <= ports.start()
            && ports.end() <= other.ports.end()
    });
    if let Some(covering) = covering {
        context.push(
            Diagnostic::new(Code::NodeAccessOpen, "what this entry opens is open already")
                .at(*place)
                .related(covering.place, "by this one")
                .help("remove one of the two"),
        );
    }
}
