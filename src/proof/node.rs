//! The proof of one node.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex};

use super::contract::egress_ips::Claims;
use super::contract::wiring::Files;
use super::contract::{Contract, Fault};
use super::engine::cube::Cube;
use super::engine::point::{Trace, trace};
use super::engine::run::Run;
use super::engine::track::Zone;
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
    /// What it says of egress IPs.
    pub claims: Claims,
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

/// Groups, each with the number of the list of targets that it has, 0 for none of ours.
#[derive(Debug, Default)]
pub struct Known {
    text: Vec<u8>,
    groups: Groups,
    lists: BTreeMap<u64, u64>,
}

/// The groups of the last node: mostly, the next has the same.
pub type Cache = Mutex<Arc<Known>>;

impl Known {
    fn read(meaning: &Meaning, file: &str, text: &[u8]) -> Result<Self, Unread> {
        let groups = groups::read(file, text)?;
        let list = |group: &groups::Group| {
            let mut targets: Vec<(u64, Option<u64>)> = Vec::with_capacity(group.buckets.len());
            for bucket in &group.buckets {
                // A connection that is begun elsewhere is known to no table.
                if bucket.zone != 60 {
                    return 0;
                }
                targets.push((bucket.to, bucket.port));
            }
            targets.sort_unstable();
            meaning.services.lists.get(&(group.by_source, targets)).copied().unwrap_or(0)
        };
        let lists = groups.iter().map(|(id, group)| (*id, list(group))).collect();
        Ok(Self { text: text.to_vec(), groups, lists })
    }

    /// The groups of a node: those of the cache, if their bytes are the same.
    fn of(meaning: &Meaning, file: &str, text: &[u8], cache: &Cache) -> Result<Arc<Self>, Unread> {
        let last = cache.lock().map(|last| Arc::clone(&last)).unwrap_or_default();
        if last.text == text {
            return Ok(last);
        }
        let known = Arc::new(Self::read(meaning, file, text)?);
        if let Ok(mut last) = cache.lock() {
            *last = Arc::clone(&known);
        }
        Ok(known)
    }
}

/// Proves one node.
#[must_use]
pub fn prove(meaning: &Meaning, index: usize, text: &Text) -> Proven {
    prove_with(meaning, index, text, &Cache::default())
}

/// Proves one node, with the groups of another.
#[must_use]
pub fn prove_with(meaning: &Meaning, index: usize, text: &Text, cache: &Cache) -> Proven {
    let mut proven = Proven::default();
    if meaning.features.network_policies {
        // No lemma speaks of this mode, and the others speak of VNIDs alone.
        return proven;
    }
    if let Err(unread) = attempt(meaning, index, text, cache, &mut proven) {
        proven.unread.push(unread);
    }
    proven
}

fn attempt(
    meaning: &Meaning,
    index: usize,
    text: &Text,
    cache: &Cache,
    proven: &mut Proven,
) -> Result<(), Unread> {
    let name = &meaning.nodes[index].name;
    let file = |file: &str| format!("{name}/{file}");
    let flows = Flows::read(&file("flows.ofctl"), &text.flows)?;
    let no_groups = Vec::new();
    let known = text.groups.as_ref().unwrap_or(&no_groups);
    let known = Known::of(meaning, &file("groups.ofctl"), known, cache)?;
    let (groups, lists) = (&known.groups, &known.lists);
    let files = Files {
        node: node::read(&file("node.json"), &text.node)?,
        ports: shell::read(&file("ports.sh"), &text.ports)?,
        links: shell::read(&file("links.sh"), &text.links)?,
        settings: shell::read(&file("sysctl.conf"), &text.settings)?,
    };
    let mut contract = Contract::new(meaning, index, lists);
    proven.unread = contract.wiring(name, &files);
    if super::verdict::has_plain_ruleset(meaning) {
        let file = file("ruleset.nft");
        let ruleset = nft::read(&file, &text.ruleset)?;
        let interfaces: Vec<&str> =
            files.node.ports.iter().map(|port| port.interface.as_str()).collect();
        proven.unread.extend(contract.ruleset(&file, &ruleset, &interfaces));
    }
    if meaning.features.egress_ips {
        let map = nft::egress_ips(&file("ruleset.nft"), &text.ruleset)?;
        let addresses = files.node.egress_ips.iter().map(|ip| u64::from(u32::from(ip.address)));
        contract.holds(map, addresses.collect());
    }
    let tables = Tables::new(&flows);
    let node = &meaning.nodes[index];
    let zone = Zone::new(node.kernel, &meaning.pod_networks, node.gateway);
    let mut run = Run::new(&tables, groups, zone);
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
    proven.claims = std::mem::take(&mut contract.claims);
    proven.checked = contract.checked;
    proven.more = contract.more;
    proven.unknown = contract.unknown.iter().cloned().collect();
    for fault in std::mem::take(&mut contract.faults) {
        let trace = fault.frame.as_ref().map(|point| trace(&flows, groups, point, &fault.choices));
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
