//! The way of a packet through the flows that were emitted, read back from the files: for those who
//! want to know what the nodes would load, not what the desired state says.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::path::Path;

use super::path::Arrival;
use super::question::{Question, Target};
use crate::artifact::layout::FLOWS;
use crate::artifact::manifest::Manifest;
use crate::artifact::places::Places;
use crate::diagnostic::{Code, Diagnostic, reason};
use crate::intent::NodeId;
use crate::model::Model;
use crate::pipeline::{OfPort, PASSED_MARK};
use crate::proof::engine::point::{Exit, trace};
use crate::proof::frame::{FIELDS, Field, Point, address, kind, proto};
use crate::proof::read::flows::Flows;
use crate::proof::read::groups::{self, Groups};
use crate::value::{Mac, Protocol};
use crate::verify::reach::{Destination, Source};

/// A flow of a file that the packet meets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Met {
    /// `node-1/flows.ofctl:12`.
    pub at: String,
    /// The table.
    pub table: u8,
    /// The object of the flow, from its comment.
    pub object: String,
    /// Where the object is defined, from the places beside the flows.
    pub place: Option<String>,
    /// The flow, without its comment.
    pub flow: String,
}

/// The way through the files.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Followed {
    /// The flows.
    pub flows: Vec<Met>,
    /// Where it ends.
    pub arrival: Option<Arrival>,
}

struct Node {
    flows: Flows,
    groups: Groups,
    lines: Vec<String>,
    places: Option<Places>,
}

/// Follows the first packet of a connection from its first bridge, where it comes to one.
pub fn follow(model: &Model, out: &Path, question: &Question) -> Result<Followed, Diagnostic> {
    let mut followed = Followed::default();
    let Some((node, point)) = entry(model, question) else { return Ok(followed) };
    let mut nodes = BTreeMap::new();
    go_on(model, out, &mut nodes, (node, point), &mut followed)?;
    Ok(followed)
}

fn go_on(
    model: &Model,
    out: &Path,
    nodes: &mut BTreeMap<NodeId, Node>,
    (node, point): (NodeId, Point),
    followed: &mut Followed,
) -> Result<(), Diagnostic> {
    let intent = model.intent();
    let name = &intent[node].name;
    if let std::collections::btree_map::Entry::Vacant(e) = nodes.entry(node) {
        e.insert(read(&out.join(name.as_str()))?);
    }
    let files = &nodes[&node];
    let trace = trace(&files.flows, &files.groups, &point, &[]);
    for index in &trace.path {
        let flow = &files.flows.flows[*index];
        let line = usize::try_from(flow.line).unwrap_or(0).saturating_sub(1);
        let text = files.lines.get(line).map_or("", String::as_str);
        let (text, object) = text.split_once(" # ").unwrap_or((text, ""));
        let place = files.places.as_ref().and_then(|places| places.get(object));
        followed.flows.push(Met {
            at: format!("{name}/{FLOWS}:{}", flow.line),
            table: flow.table,
            object: object.to_owned(),
            place: place.map(str::to_owned),
            flow: text.to_owned(),
        });
    }
    let last = trace.last.unwrap_or(point);
    match trace.exits.first() {
        None => {}
        Some(Exit::Port(port)) => {
            let mut workloads = model.workloads(node);
            let workload =
                workloads.find(|who| u64::from(model.endpoint(*who).port.get()) == *port);
            let number = u16::try_from(last.get(Field::DstPort)).ok();
            let to = address(last.get(Field::Dst));
            followed.arrival = Some(Arrival { node, workload, address: to, port: number });
        }
        Some(Exit::Tunnel(to, vni)) => {
            let to = address(*to);
            let Some((other, _)) = intent.nodes().find(|(_, node)| node.address == to) else {
                return Ok(());
            };
            let mut next = last;
            for field in
                [Field::Reg0, Field::Reg1, Field::Reg2, Field::Reg3, Field::Mark, Field::Ct]
            {
                next.0[field as usize] = 0;
            }
            next.0[Field::InPort as usize] = u64::from(OfPort::VXLAN.get());
            next.0[Field::TunSrc as usize] = number(intent[node].address);
            next.0[Field::Reg0 as usize] = *vni;
            go_on(model, out, nodes, (other, next), followed)?;
        }
    }
    Ok(())
}

fn read(directory: &Path) -> Result<Node, Diagnostic> {
    let bad = |message: String| {
        Diagnostic::new(Code::FilesDiffer, message).help(
            "name the directory that `compile` wrote with --out; `ringfence prove` tells more",
        )
    };
    let file = directory.join(FLOWS);
    let shown = file.display().to_string();
    let text = std::fs::read(&file)
        .map_err(|error| bad(format!("`{shown}` cannot be read: {}", reason(&error))))?;
    let unread = |unread: crate::proof::read::Unread| {
        bad(format!("{}:{}: {}", unread.file, unread.line, unread.why))
    };
    let flows = Flows::read(&shown, &text).map_err(unread)?;
    let groups_file = directory.join("groups.ofctl");
    let groups = match std::fs::read(&groups_file) {
        Ok(text) => groups::read(&groups_file.display().to_string(), &text).map_err(unread)?,
        Err(_) => Groups::new(),
    };
    let lines = String::from_utf8_lossy(&text).lines().map(str::to_owned).collect();
    Ok(Node { flows, groups, lines, places: places(directory) })
}

/// The places beside the files of a node, if they belong to them.
fn places(directory: &Path) -> Option<Places> {
    use crate::artifact::layout::{MANIFEST, PLACES};
    let read = |name: &str| std::fs::read(directory.join(name)).ok();
    let manifest: Manifest = serde_json::from_slice(&read(MANIFEST)?).ok()?;
    Places::parse(&read(PLACES)?, &manifest.generation)
}

fn number(address: Ipv4Addr) -> u64 {
    u64::from(u32::from(address))
}

fn mac(mac: Mac) -> u64 {
    mac.bytes().iter().fold(0, |number, byte| number << 8 | u64::from(*byte))
}

/// The packet at its first bridge.
fn entry(model: &Model, question: &Question) -> Option<(NodeId, Point)> {
    let Question { from, to, address, protocol, port } = *question;
    let by_host = |node: NodeId, src: Ipv4Addr, dst: Ipv4Addr, port: u16| {
        let source = Mac::of_ipv4(model.gateway(node));
        let mut point = point(OfPort::TUN, source, (src, dst), (protocol, port));
        point.0[Field::Mark as usize] = u64::from(PASSED_MARK);
        (node, point)
    };
    match (from, to) {
        (Source::Workload(workload), _) => {
            let own = model.endpoint(workload);
            let ends = (own.address, address);
            Some((model.node(workload), point(own.port, own.mac, ends, (protocol, port.get()))))
        }
        (Source::Node(_) | Source::Outside, Target::One(Destination::NodePort(node, _))) => {
            let mut ports = model.node_ports().iter();
            let served = ports.find(|p| p.protocol == protocol && p.port == port)?;
            let service = model.service_address(served.service)?;
            let src = match from {
                Source::Node(own) if own == node => model.gateway(node),
                _ => model.node_port_source(node),
            };
            Some(by_host(node, src, service, model.service_port_of(served).0.port.get()))
        }
        (
            Source::Node(node),
            Target::One(Destination::Workload(_) | Destination::Service(_)) | Target::Nobody,
        ) => Some(by_host(node, model.gateway(node), address, port.get())),
        (Source::Node(_) | Source::Outside, _) => None,
    }
}

fn point(
    in_port: OfPort,
    source: Mac,
    (src, dst): (Ipv4Addr, Ipv4Addr),
    (protocol, port): (Protocol, u16),
) -> Point {
    let mut point = Point([0; FIELDS]);
    let l4 = match protocol {
        Protocol::Tcp => proto::TCP,
        Protocol::Udp => proto::UDP,
        Protocol::Sctp => proto::SCTP,
    };
    for (field, value) in [
        (Field::Kind, kind::IP),
        (Field::InPort, u64::from(in_port.get())),
        (Field::DlSrc, mac(source)),
        (Field::Src, number(src)),
        (Field::Dst, number(dst)),
        (Field::Proto, l4),
        (Field::SrcPort, 40_000),
        (Field::DstPort, u64::from(port)),
    ] {
        point.0[field as usize] = value;
    }
    point
}
