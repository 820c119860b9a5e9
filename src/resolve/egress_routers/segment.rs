//! Whom an egress router reaches without its gateway.

use std::net::Ipv4Addr;

use ipnet::Ipv4Net;

use crate::diagnostic::{Code, Diagnostic, Place};
use crate::intent::NodeId;
use crate::resolve::nodes::is_host_of;
use crate::resolve::{Context, Nodes};

/// RF196: the network that the source is written with, which is the uplink's subnet or a part of it;
/// by default that subnet.
pub(super) fn of(
    source: Ipv4Addr,
    length: Option<u8>,
    place: Place,
    (node, nodes): (NodeId, &Nodes<'_>),
    context: &mut Context,
) -> Option<Ipv4Net> {
    let uplink = nodes.list[node.index()].uplink.as_ref()?;
    let Some(length) = length else { return Some(uplink.subnet) };
    let segment = Ipv4Net::new(source, length).ok()?.trunc();
    let (message, help) = if length < uplink.subnet.prefix_len() {
        (
            format!("{segment} is more than {}, the uplink's subnet", uplink.subnet),
            format!("write {source}, which means /{}", uplink.subnet.prefix_len()),
        )
    } else if !is_host_of(source, segment) {
        (
            format!("{source} is not a host of {segment}"),
            "choose another source, or the length that the segment has".to_owned(),
        )
    } else {
        return Some(segment);
    };
    let (at, _) = nodes.wire[node.index()];
    context.push(
        Diagnostic::new(Code::RouterSegment, message)
            .at(place)
            .related(at.key("uplink").key("subnet").place(), "the uplink's subnet")
            .help(help),
    );
    None
}
