//! Command lines that show a packet on its way: `tcpdump` at both ends and on the tunnel between
//! them, and `iperf3` from one to the other.

use std::net::Ipv4Addr;

use super::path::{Arrival, Way, source};
use super::question::{Question, Target};
use crate::artifact::host;
use crate::dataplane::origin::Cookie;
use crate::intent::{Attachment, NodeId, Workload};
use crate::model::{Model, veth_name};
use crate::value::Protocol;
use crate::verify::reach::{Destination, Source};

/// A command line for a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// The node to run it on; `None` for a host outside.
    pub node: Option<NodeId>,
    /// What it shows.
    pub what: &'static str,
    /// The command. All names in it are checked, so that it needs no quotes but for the filter.
    pub command: String,
}

/// The command lines for a packet that goes this way.
#[must_use]
pub fn lines(model: &Model, question: &Question, way: &Way) -> Vec<Line> {
    let Question { from, address, protocol, port, .. } = *question;
    let mut lines = Vec::new();
    let sent = format!("{protocol} and host {address} and port {port}");
    let first = match from {
        Source::Workload(workload) => {
            lines.push(at_workload(model, workload, "what the sender sends", &sent));
            Some(model.node(workload))
        }
        Source::Node(node) => {
            let interface = if model.intent().cluster().contains(address) {
                host::TUN.to_owned()
            } else {
                "any".to_owned()
            };
            let command = format!("tcpdump -nni {interface} '{sent}'");
            lines.push(Line { node: Some(node), what: "what the node sends", command });
            Some(node)
        }
        Source::Outside => match question.to {
            Target::One(Destination::NodePort(node, _)) => {
                let uplink = model.intent()[node].uplink.as_ref();
                let interface = uplink.map_or("any", |uplink| uplink.addressed().as_str());
                let command = format!("tcpdump -nni {interface} '{sent}'");
                lines.push(Line { node: Some(node), what: "what comes in", command });
                Some(node)
            }
            _ => None,
        },
    };
    let Some(Arrival { node, workload, address: at, port: got }) = way.arrival else {
        return lines;
    };
    if let Some(first) = first.filter(|first| *first != node) {
        let intent = model.intent();
        let vxlan = intent.cluster().vxlan_port;
        for (on, other, what) in
            [(first, node, "the tunnel, as it leaves"), (node, first, "the tunnel, as it arrives")]
        {
            let uplink = intent[on].uplink.as_ref();
            let interface = uplink.map_or("any", |uplink| uplink.addressed().as_str());
            let other = intent[other].address;
            let command = format!("tcpdump -nni {interface} 'udp port {vxlan} and host {other}'");
            lines.push(Line { node: Some(on), what, command });
        }
    }
    let got = got.unwrap_or(port.get());
    let taken = format!("{protocol} and host {at} and port {got}");
    if let Some(workload) = workload {
        lines.push(at_workload(model, workload, "what the receiver gets", &taken));
    } else {
        let command = format!("tcpdump -nni any '{taken}'");
        lines.push(Line { node: Some(node), what: "what leaves the node", command });
    }
    lines.extend(throughput(model, question, workload.map(|workload| (workload, node)), got));
    lines
}

/// The two ends of `iperf3`, the server first.
fn throughput(
    model: &Model,
    question: &Question,
    receiver: Option<(Workload, NodeId)>,
    got: u16,
) -> Vec<Line> {
    let Question { from, address, protocol, port, .. } = *question;
    let option = match protocol {
        Protocol::Tcp => "",
        Protocol::Udp => " -u -b 100M",
        Protocol::Sctp => " --sctp",
    };
    let inside = |workload: Workload| namespace(model, workload).unwrap_or_default();
    let what = "iperf3, server";
    let server = match receiver {
        Some((workload @ Workload::Pod(_), node)) => Line {
            node: Some(node),
            what,
            command: format!("{}iperf3 -s -1 -p {got}", inside(workload)),
        },
        // A router or a host outside answers by itself.
        _ => Line { node: None, what, command: format!("iperf3 -s -1 -p {got}") },
    };
    let (node, prefix) = match from {
        Source::Workload(workload) => (Some(model.node(workload)), inside(workload)),
        Source::Node(node) => (Some(node), String::new()),
        Source::Outside => (None, String::new()),
    };
    let command = format!("{prefix}iperf3 -c {address} -p {port}{option}");
    vec![server, Line { node, what: "iperf3, client", command }]
}

fn at_workload(model: &Model, workload: Workload, what: &'static str, filter: &str) -> Line {
    let node = Some(model.node(workload));
    let command = if let Some(prefix) = namespace(model, workload) {
        format!("{prefix}tcpdump -nni {} '{filter}'", host::POD_INTERFACE)
    } else {
        let interface = interface(model, workload);
        format!("tcpdump -nni {interface} '{filter}'")
    };
    Line { node, what, command }
}

/// What runs a command in the namespace of a pod or egress router; `None` where it brings its own
/// interface, which is in no namespace that is known.
fn namespace(model: &Model, workload: Workload) -> Option<String> {
    let name = match workload {
        Workload::Pod(id) => match &model.intent()[id].attachment {
            Attachment::Netns(name) => name.to_string(),
            Attachment::Interface(_) => return None,
        },
        Workload::Router(id) => format!("{}{}", host::ROUTER_NETNS_PREFIX, model.intent()[id].name),
    };
    Some(format!("ip netns exec {name} "))
}

/// The interface at the node's bridge.
fn interface(model: &Model, workload: Workload) -> String {
    let cookie: Cookie = model.workload_subject(workload).cookie;
    match workload {
        Workload::Pod(id) => match &model.intent()[id].attachment {
            Attachment::Interface(interface) => interface.to_string(),
            Attachment::Netns(_) => {
                veth_name(cookie).map(|name| name.to_string()).unwrap_or_default()
            }
        },
        Workload::Router(_) => veth_name(cookie).map(|name| name.to_string()).unwrap_or_default(),
    }
}

/// The source address that a packet begins with, for whoever prints it.
#[must_use]
pub fn begins_at(model: &Model, question: &Question) -> Ipv4Addr {
    source(model, question.from)
}
