//! The proof of one node.

use std::path::Path;

use super::contract::wiring::Files;
use super::contract::{Contract, Fault};
use super::engine::cube::Cube;
use super::engine::point::{Trace, trace};
use super::engine::run::Run;
use super::engine::walk::Tables;
use super::frame::{Field, Range, ct, frag, kind, proto};
use super::meaning::{Meaning, Node};
use super::read::flows::Flows;
use super::read::groups::{self, Groups};
use super::read::{Unread, nft, node, shell};

/// What is proven of one node.
#[derive(Debug, Default)]
pub struct Proven {
    /// Its faults, with their ways through the flows.
    pub faults: Vec<(Fault, Option<Trace>)>,
    /// How many more there are.
    pub more: u64,
    /// What could not be read.
    pub unread: Vec<Unread>,
    /// What could not be told.
    pub unknown: Vec<String>,
    /// The cells that each lemma has compared.
    pub checked: [u64; 12],
    /// Its flows.
    pub flows: u64,
    /// The parts that all frames were cut into.
    pub leaves: u64,
    /// Lines of flows that no frame meets.
    pub unmet: Vec<u32>,
    /// The lines of the flows on the way of each fault.
    pub lines: Vec<Vec<(u32, u8)>>,
}

/// The files of a node that the proof reads.
#[derive(Debug)]
pub struct Text {
    /// `flows.ofctl`.
    pub flows: Vec<u8>,
    /// `groups.ofctl`, where there is one.
    pub groups: Option<Vec<u8>>,
    /// `node.json`.
    pub node: Vec<u8>,
    /// `ports.sh`.
    pub ports: Vec<u8>,
    /// `links.sh`.
    pub links: Vec<u8>,
    /// `sysctl.conf`.
    pub settings: Vec<u8>,
    /// `ruleset.nft`.
    pub ruleset: Vec<u8>,
}

impl Text {
    /// Reads the files below a directory.
    pub fn read(directory: &Path, name: &str) -> Result<Self, Unread> {
        let read = |file: &str| {
            std::fs::read(directory.join(file)).map_err(|error| {
                Unread::new(&format!("{name}/{file}"), 0, crate::diagnostic::reason(&error))
            })
        };
        let groups = directory.join("groups.ofctl");
        Ok(Self {
            flows: read("flows.ofctl")?,
            groups: if groups.exists() { Some(read("groups.ofctl")?) } else { None },
            node: read("node.json")?,
            ports: read("ports.sh")?,
            links: read("links.sh")?,
            settings: read("sysctl.conf")?,
            ruleset: read("ruleset.nft")?,
        })
    }
}

/// Proves one node.
#[must_use]
pub fn prove(meaning: &Meaning, index: usize, text: &Text) -> Proven {
    let mut proven = Proven::default();
    if meaning.features.network_policies {
        // No lemma speaks of this mode, and the others speak of VNIDs alone.
        return proven;
    }
    if let Err(unread) = attempt(meaning, index, text, &mut proven) {
        proven.unread.push(unread);
    }
    proven
}

fn attempt(
    meaning: &Meaning,
    index: usize,
    text: &Text,
    proven: &mut Proven,
) -> Result<(), Unread> {
    let name = &meaning.nodes[index].name;
    let file = |file: &str| format!("{name}/{file}");
    let flows = Flows::read(&file("flows.ofctl"), &text.flows)?;
    let groups = match &text.groups {
        Some(text) => groups::read(&file("groups.ofctl"), text)?,
        None => Groups::new(),
    };
    let files = Files {
        node: node::read(&file("node.json"), &text.node)?,
        ports: shell::read(&file("ports.sh"), &text.ports)?,
        links: shell::read(&file("links.sh"), &text.links)?,
        settings: shell::read(&file("sysctl.conf"), &text.settings)?,
    };
    let mut contract = Contract::new(meaning, index);
    proven.unread = contract.wiring(name, &files);
    if super::verdict::has_plain_ruleset(meaning) {
        let file = file("ruleset.nft");
        let ruleset = nft::read(&file, &text.ruleset)?;
        let interfaces: Vec<&str> =
            files.node.ports.iter().map(|port| port.interface.as_str()).collect();
        proven.unread.extend(contract.ruleset(&file, &ruleset, &interfaces));
    }
    let tables = Tables::new(&flows);
    let mut run = Run::new(&tables);
    let finished = run.walk(entries(&meaning.nodes[index]), &mut |leaf| contract.leaf(leaf));
    if !finished {
        contract.unknown.insert("the tables have more parts than the proof looks at".to_owned());
    }
    if run.miscounted {
        contract.unknown.insert("the proof lost count of the frames: a fault of it".to_owned());
    }
    proven.flows = flows.flows.len() as u64;
    proven.leaves = run.leaves;
    let unmet = flows.flows.iter().zip(&run.met).filter(|(_, met)| !**met);
    proven.unmet = unmet.map(|(flow, _)| flow.line).collect();
    proven.checked = contract.checked;
    proven.more = contract.more;
    proven.unknown = contract.unknown.iter().cloned().collect();
    for fault in std::mem::take(&mut contract.faults) {
        let trace = fault.frame.as_ref().map(|point| trace(&flows, &groups, point, 0));
        let path = trace.iter().flat_map(|trace| &trace.path);
        let flow = |index: &usize| (flows.flows[*index].line, flows.flows[*index].table);
        proven.lines.push(path.map(flow).collect());
        proven.faults.push((fault, trace));
    }
    Ok(())
}

/// All frames that may come by any port, as disjoint sets.
#[must_use]
pub fn entries(node: &Node) -> Vec<Cube> {
    let all = Field::InPort.domain();
    let mut ports: Vec<Range> = vec![(1, 1), (2, 2)];
    if node.gateway_bridge {
        ports.extend([(3, 3), (0, 0), (4, all.1)]);
    } else {
        ports.extend([(0, 0), (3, all.1)]);
    }
    let mut cubes = Vec::new();
    for port in ports {
        for mut cube in packets() {
            cube = cube.with(Field::InPort, port);
            if port != (1, 1) {
                cube = cube.with(Field::TunSrc, (0, 0));
            }
            if port != (2, 2) {
                cube = cube.with(Field::Ct, (ct::UNTRACKED, ct::UNTRACKED));
            }
            cubes.push(cube);
        }
    }
    cubes
}

/// Everything that a frame may hold: fields that it doesn't have are 0.
fn packets() -> Vec<Cube> {
    let zero = |mut cube: Cube, fields: &[Field]| {
        for field in fields {
            cube = cube.with(*field, (0, 0));
        }
        cube
    };
    let all = zero(Cube::all(), &[Field::Reg0, Field::Reg1, Field::Reg2, Field::Reg3]);
    let l4 = [Field::Proto, Field::Frag, Field::SrcPort, Field::DstPort];
    let mut other = zero(all.clone(), &l4);
    other = zero(other, &[Field::Sha, Field::Src, Field::ArpOp, Field::Dst]);
    let arp = zero(all.clone(), &l4).with(Field::Kind, (kind::ARP, kind::ARP));
    let ip = zero(all, &[Field::Sha, Field::ArpOp]).with(Field::Kind, (kind::IP, kind::IP));
    let mut packets = vec![other.with(Field::Kind, (kind::OTHER, kind::OTHER)), arp];
    let without = ip.clone().with(Field::Proto, (proto::OTHER, proto::OTHER));
    packets.push(zero(without, &[Field::SrcPort, Field::DstPort]));
    let ported = (frag::WHOLE, frag::FIRST);
    let portless = (frag::PORTLESS, frag::LATER);
    for l4 in [proto::ICMP, proto::TCP, proto::UDP, proto::SCTP] {
        let most = if l4 == proto::ICMP { 255 } else { 0xffff };
        let ip = ip.clone().with(Field::Proto, (l4, l4));
        let with_ports = ip.clone().with(Field::Frag, ported);
        packets.push(with_ports.with(Field::SrcPort, (0, most)).with(Field::DstPort, (0, most)));
        packets.push(zero(ip.with(Field::Frag, portless), &[Field::SrcPort, Field::DstPort]));
    }
    packets
}
