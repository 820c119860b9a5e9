//! What the bridge of one node must do, held against what its flows do; one file a lemma.
//!
//! Every [`Leaf`] is cut where meaning may change, and each cell is compared once. So safety and
//! function are one comparison: what must arrive and doesn't is found as what arrives and must not.

mod egress;
pub mod egress_ips;
mod host;
mod isolation;
mod multicast;
mod patch;
mod routes;
pub mod ruleset;
mod senders;
mod services;
mod tunnels;
pub mod wiring;

use std::collections::BTreeMap;

use crate::diagnostic::Place;
use crate::proof::engine::cube::{Answer, Choice, Cube, Seen, Sender, Set, Source};
use crate::proof::engine::run::{End, Leaf};
use crate::proof::frame::{FIELDS, Field, Point, Range, frag, kind, meet, proto};
use crate::proof::meaning::{Meaning, Node};

/// A lemma.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Lemma {
    /// The files that wire the node agree with each other and with the desired state.
    L0,
    /// What enters, and as whom.
    L1,
    /// Routes and tunnels.
    L2,
    /// Isolation.
    L3,
    /// What came by a tunnel ends here.
    L4,
    /// Egress policies.
    L5,
    /// Services.
    L6,
    /// Multicast.
    L7,
    /// Node ports.
    L8,
    /// Egress IPs.
    L9,
    /// The node's own ruleset.
    L10,
    /// Egress routers.
    L11,
}

impl Lemma {
    /// All of them, in order.
    pub const ALL: [Self; 12] = [
        Self::L0,
        Self::L1,
        Self::L2,
        Self::L3,
        Self::L4,
        Self::L5,
        Self::L6,
        Self::L7,
        Self::L8,
        Self::L9,
        Self::L10,
        Self::L11,
    ];

    /// What it says, in a few words.
    #[must_use]
    pub fn title(self) -> &'static str {
        match self {
            Self::L0 => "ports and links agree",
            Self::L1 => "who enters, and as whom",
            Self::L2 => "routes and tunnels",
            Self::L3 => "isolation",
            Self::L4 => "no detours",
            Self::L5 => "egress policies",
            Self::L6 => "services",
            Self::L7 => "multicast",
            Self::L8 => "node ports",
            Self::L9 => "egress IPs",
            Self::L10 => "the node's own ruleset",
            Self::L11 => "egress routers",
        }
    }
}

/// Where frames end up, as far as the desired state speaks of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Nowhere.
    Drop,
    /// At a port of this bridge.
    Port(u64),
    /// In the tunnel to an address, with the sender's VNID.
    Tunnel(u64),
    /// To one of the targets in this list.
    Group(u64),
    /// To the node, which refuses it.
    Refused,
    /// Back, as an answer of ARP.
    Answered,
    /// Through conntrack, which it was not.
    Tracked,
    /// Anywhere else: equals no meaning.
    Other,
}

/// A violated lemma, with a frame that shows it.
#[derive(Clone, Debug)]
pub struct Fault {
    /// The lemma.
    pub lemma: Lemma,
    /// The frame, on entry.
    pub frame: Option<Point>,
    /// What the files do with it.
    pub got: Outcome,
    /// What the desired state says.
    pub want: Outcome,
    /// Why, in words.
    pub why: String,
    /// The place of the object that decides.
    pub place: Option<Place>,
    /// The last flow that it met.
    pub flow: Option<usize>,
    /// What conntrack and groups do with the frame.
    pub choices: Vec<Choice>,
}

impl Fault {
    /// One that no frame shows.
    #[must_use]
    pub fn plain(lemma: Lemma, why: String, place: Place) -> Self {
        let (got, want) = (Outcome::Other, Outcome::Other);
        let (place, choices) = (Some(place), Vec::new());
        Self { lemma, frame: None, got, want, why, place, flow: None, choices }
    }
}

/// What an address is to a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Class {
    /// The gateway of the node's pods.
    Gateway,
    /// The workload of the node with this index.
    Workload(usize),
    /// Nobody, in the node's subnet.
    Unassigned,
    /// The subnet of another node.
    Remote(usize),
    /// Nobody, in a pod network.
    Nowhere,
    /// The services.
    Service,
    /// Outside of the cluster.
    Outside,
    /// A group.
    Multicast,
    /// Reserved, with the address of broadcasts.
    Reserved,
}

/// A part of a leaf for which the meaning is to be asked.
#[derive(Clone, Copy, Debug)]
struct Cell<'c> {
    kind: u64,
    proto: u64,
    frag: u64,
    src_port: Range,
    dst_port: Range,
    dst: &'c Set,
}

impl Cell<'_> {
    /// Whether flows see a port: the first and whole packets of a protocol that has ports.
    fn has_port(&self) -> bool {
        self.proto >= proto::TCP && self.frag <= frag::FIRST
    }

    fn is_port(&self, protocol: u64, port: u64) -> bool {
        self.has_port() && self.proto == protocol && self.dst_port == (port, port)
    }
}

/// The contract of one node.
#[derive(Debug)]
pub struct Contract<'m> {
    meaning: &'m Meaning,
    node: &'m Node,
    index: usize,
    /// Whether a workload of it is global.
    has_global: bool,
    /// Which workloads answer as services.
    answers: Vec<bool>,
    /// The targets that each group of the bridge has.
    lists: &'m BTreeMap<u64, u64>,
    /// Whether a drop is as good as what is meant.
    lenient: bool,
    /// Whether sources were found among those that answer as services; the set is kept for its identity.
    answered: BTreeMap<Asked, (bool, Set)>,
    /// What the node says of egress IPs.
    pub claims: egress_ips::Claims,
    classes: Vec<(Range, Class)>,
    /// By port, the index of the workload and one more; 0 for none.
    by_port: Vec<u32>,
    /// What was found.
    pub faults: Vec<Fault>,
    /// How many more faults there are than are kept.
    pub more: u64,
    /// How many cells each lemma has compared.
    pub checked: [u64; 12],
    /// Why something could not be told, each once.
    pub unknown: std::collections::BTreeSet<String>,
    known: senders::Known,
}

/// What was asked of a set of sources: which it is, a network, and whether it is about hosts outside.
type Asked = ((usize, u32, u32, Range), u64, bool);

/// The most faults of one lemma and node that are kept.
const KEPT: usize = 8;

impl<'m> Contract<'m> {
    /// The contract of a node.
    #[must_use]
    pub fn new(meaning: &'m Meaning, index: usize, lists: &'m BTreeMap<u64, u64>) -> Self {
        let node = &meaning.nodes[index];
        let workloads = node.workloads.iter();
        let answers = workloads.map(|w| meaning.services.answering.contains(&w.address)).collect();
        let global = |w: &crate::proof::meaning::Workload| meaning.vnid(w.project) == 0;
        let mut by_port = vec![0; 0x1_0000];
        for (workload, number) in node.workloads.iter().zip(1..) {
            if let Some(slot) =
                usize::try_from(workload.port).ok().and_then(|at| by_port.get_mut(at))
            {
                *slot = number;
            }
        }
        Self {
            meaning,
            node,
            index,
            has_global: node.workloads.iter().any(global),
            answers,
            lists,
            lenient: false,
            answered: BTreeMap::new(),
            claims: egress_ips::Claims::default(),
            classes: classes(meaning, index),
            by_port,
            faults: Vec::new(),
            more: 0,
            checked: [0; 12],
            unknown: std::collections::BTreeSet::new(),
            known: senders::Known::default(),
        }
    }

    /// Compares what becomes of a part of all frames.
    pub fn leaf(&mut self, leaf: &Leaf<'_>) {
        if let Some(why) = &leaf.unknown {
            self.unknown_end(leaf, why);
            return;
        }
        let got = self.outcome(leaf);
        let cube = leaf.cube;
        if cube.get(Field::Tagged).1 == 1 {
            // Of a tagged frame, nothing may arrive.
            self.count(Lemma::L1);
            if got != Outcome::Drop {
                let why = "a frame with a VLAN tag gets in".to_owned();
                self.fault(Lemma::L1, leaf, None, (got, Outcome::Drop), why, None);
            }
            if cube.get(Field::Tagged).0 == 1 {
                return;
            }
        }
        if cube.senders.is_none() {
            match cube.get(Field::InPort) {
                (1, 1) => return self.tunnel_frames(leaf, got),
                (2, 2) => return self.host_frames(leaf, got),
                (3, 3) if self.node.gateway_bridge => return self.patch_frames(leaf, got),
                _ => {}
            }
        }
        self.workload_frames(leaf, got);
    }

    /// The engine can't tell where this goes: unless no meaning can be there, nothing is proven.
    fn unknown_end(&mut self, leaf: &Leaf<'_>, why: &str) {
        let text = match leaf.flow {
            Some(_) => format!("{why} has no meaning here yet"),
            None => why.to_owned(),
        };
        self.unknown.insert(text);
    }

    fn count(&mut self, lemma: Lemma) {
        self.checked[lemma as usize] += 1;
    }

    /// Compares one cell.
    #[allow(clippy::too_many_arguments, reason = "all of them are what a finding says")]
    fn compare(
        &mut self,
        lemma: Lemma,
        leaf: &Leaf<'_>,
        cell: &Cell<'_>,
        sender: Option<usize>,
        outcomes: (Outcome, Outcome),
        why: impl FnOnce(&Self) -> (String, Option<Place>),
    ) {
        self.count(lemma);
        if self.lenient && outcomes.0 == Outcome::Drop {
            return;
        }
        if outcomes.0 != outcomes.1 {
            let (why, place) = why(self);
            self.fault(lemma, leaf, Some((cell, sender)), outcomes, why, place);
        }
    }

    fn fault(
        &mut self,
        lemma: Lemma,
        leaf: &Leaf<'_>,
        at: Option<(&Cell<'_>, Option<usize>)>,
        (got, want): (Outcome, Outcome),
        why: String,
        place: Option<Place>,
    ) {
        if self.is_full(lemma) {
            self.more += 1;
            return;
        }
        let mut cube = leaf.cube.clone();
        if let Some((cell, _)) = at {
            let narrow = [
                (Field::Dst, (cell.dst.hull().0, cell.dst.hull().0)),
                (Field::SrcPort, cell.src_port),
                (Field::DstPort, cell.dst_port),
            ];
            for (field, range) in narrow {
                cube.narrow(field, range);
            }
        }
        cube.settle();
        let frame = Some(self.point(&cube, at, got));
        let (flow, choices) = (leaf.flow, cube.choices);
        self.faults.push(Fault { lemma, frame, got, want, why, place, flow, choices });
    }

    /// Keeps a fault that no frame shows.
    fn plain_fault(&mut self, lemma: Lemma, why: String) {
        if self.is_full(lemma) {
            self.more += 1;
        } else {
            self.faults.push(Fault::plain(lemma, why, self.node.place));
        }
    }

    /// What the ends of a leaf are to the desired state.
    fn outcome(&self, leaf: &Leaf<'_>) -> Outcome {
        let memory = &leaf.cube.memory;
        let plain = !memory.odd && memory.answer == Answer::default();
        match leaf.ends {
            [] => Outcome::Drop,
            [End::Port(port)] if plain => {
                let from_there = |sender: Sender| sender.in_port == (*port, *port);
                let own = !memory.forgot_in_port && leaf.cube.each_sender().all(from_there);
                let strange =
                    *port == 2 && memory.eth_dst.is_some_and(|mac| mac != self.gateway_mac());
                // A bridge never sends a frame back to where it came from.
                if own {
                    Outcome::Drop
                } else if strange {
                    Outcome::Other
                } else {
                    Outcome::Port(*port)
                }
            }
            [End::Tunnel(_)]
                if leaf.cube.senders.is_none() && leaf.cube.get(Field::InPort) == (1, 1) =>
            {
                Outcome::Drop
            }
            [End::Tunnel(to)]
                if plain && memory.eth_dst.is_none() && memory.source != Source::Kept =>
            {
                Outcome::Tunnel(*to)
            }
            [End::Group(id)] if plain && matches!(memory.seen, Seen::Fresh | Seen::Not) => {
                match self.lists.get(id) {
                    Some(list) if *list > 0 => Outcome::Group(*list),
                    _ => Outcome::Other,
                }
            }
            [End::Back] => self.arp_answer(leaf),
            _ => Outcome::Other,
        }
    }

    /// Whether enough faults of a lemma are kept.
    fn is_full(&self, lemma: Lemma) -> bool {
        self.faults.iter().filter(|fault| fault.lemma == lemma).count() >= KEPT
    }

    /// The first frame of a cell, or of a whole leaf.
    fn point(&self, cube: &Cube, at: Option<(&Cell<'_>, Option<usize>)>, got: Outcome) -> Point {
        let mut point = [0; FIELDS];
        for field in Field::ALL {
            point[field as usize] = cube.get(field).0;
        }
        let mut put = |field: Field, number: u64| point[field as usize] = number;
        // Registers are as on entry, and so is what conntrack has seen, but by the host's port.
        let untracked = cube.get(Field::InPort) != (2, 2) || !cube.choices.is_empty();
        let state = untracked.then_some(Field::Ct);
        for field in [Field::Reg0, Field::Reg1, Field::Reg2, Field::Reg3].into_iter().chain(state) {
            put(field, 0);
        }
        // To its own port, a bridge sends nothing back.
        let other = |sender: &Sender| got != Outcome::Port(sender.in_port.0);
        let sender = cube.each_sender().find(other).or_else(|| cube.each_sender().next());
        if let Some(sender) = sender {
            put(Field::InPort, sender.in_port.0);
            put(Field::DlSrc, sender.dl_src.0);
            put(Field::Sha, sender.sha.0);
            put(Field::Src, sender.src.0);
            if cube.memory.reg0_is_vni {
                put(Field::Reg0, sender.reg0.0);
            }
        }
        if let Some((cell, who)) = at {
            put(Field::Kind, cell.kind);
            put(Field::Proto, cell.proto);
            put(Field::Frag, cell.frag);
            put(Field::SrcPort, cell.src_port.0);
            put(Field::DstPort, cell.dst_port.0);
            put(Field::Dst, cell.dst.hull().0);
            if let Some(workload) = who.map(|who| &self.node.workloads[who]) {
                put(Field::InPort, workload.port);
                put(Field::DlSrc, workload.mac);
                put(Field::Src, workload.address);
                put(Field::Sha, if cell.kind == kind::ARP { workload.mac } else { 0 });
            }
        }
        if let (1, Some(first)) = (point[Field::InPort as usize], cube.tunnel.ranges().next()) {
            point[Field::TunSrc as usize] = first.0;
        }
        if cube.memory.marked != 0 {
            point[Field::Mark as usize] = cube.memory.marked;
        }
        if let Some(before) = cube.before {
            point[Field::Dst as usize] = before.dst;
            point[Field::Frag as usize] = before.frag;
            point[Field::SrcPort as usize] = before.ports.0;
            point[Field::DstPort as usize] = before.ports.1;
        }
        Point(point)
    }

    /// The cells of a leaf by fragment, with the ends that no meaning can have taken out: a first
    /// fragment without ports arrives nowhere.
    fn by_fragment(
        &mut self,
        leaf: &Leaf<'_>,
        got: Outcome,
        mut each: impl FnMut(&mut Self, &Cell<'_>),
    ) {
        let cube = leaf.cube;
        let kinds = cube.get(Field::Kind);
        for kind in kinds.0..=kinds.1 {
            if kind == kind::OTHER {
                let cell = Cell { kind, ..cell_of(cube, frag::WHOLE) };
                let why = |_: &Self| ("neither IP nor ARP".to_owned(), None);
                self.compare(Lemma::L1, leaf, &cell, None, (got, Outcome::Drop), why);
                continue;
            }
            let frags = if kind == kind::IP { cube.get(Field::Frag) } else { (0, 0) };
            for frag in frags.0..=frags.1 {
                let cell = Cell { kind, ..cell_of(cube, frag) };
                let ported = cell.proto >= proto::TCP;
                // What conntrack has translated had ports before it.
                let zero =
                    cell.src_port.0 == 0 && cell.dst_port.0 == 0 && cube.memory.seen != Seen::Known;
                let portless = kind == kind::IP
                    && ported
                    && (frag == frag::PORTLESS || frag == frag::FIRST && zero);
                if portless {
                    let cell = Cell { src_port: (0, 0), dst_port: (0, 0), ..cell };
                    let why = |_: &Self| ("a first fragment without ports".to_owned(), None);
                    self.compare(Lemma::L1, leaf, &cell, None, (got, Outcome::Drop), why);
                    let only = frag == frag::PORTLESS
                        || cube.get(Field::SrcPort) == (0, 0) && cube.get(Field::DstPort) == (0, 0);
                    if only {
                        continue;
                    }
                }
                each(self, &cell);
            }
        }
    }

    /// The parts of a cell by what its destinations are.
    fn by_class(&mut self, cell: &Cell<'_>, mut each: impl FnMut(&mut Self, &Cell<'_>, Class)) {
        let hull = cell.dst.hull();
        let mut at = self.classes.partition_point(|(range, _)| range.1 < hull.0);
        while let Some((range, class)) = self.classes.get(at).copied() {
            if range.0 > hull.1 {
                break;
            }
            if let Some(dst) = cell.dst.clip(range) {
                each(self, &Cell { dst: &dst, ..*cell }, class);
            }
            at += 1;
        }
    }
}

/// The cell of a leaf that has one fragment of it.
fn cell_of(cube: &Cube, frag: u64) -> Cell<'_> {
    Cell {
        kind: cube.get(Field::Kind).0,
        proto: cube.get(Field::Proto).0,
        frag,
        src_port: cube.get(Field::SrcPort),
        dst_port: cube.get(Field::DstPort),
        dst: &cube.dst,
    }
}

/// All addresses by what they are to a node, in order.
fn classes(meaning: &Meaning, index: usize) -> Vec<(Range, Class)> {
    let node = &meaning.nodes[index];
    let one = |number: u64| (number, number);
    // What stands first wins.
    let mut layers: Vec<Vec<(Range, Class)>> = vec![vec![(one(node.gateway), Class::Gateway)]];
    let workloads = node.workloads.iter().zip(0..);
    layers[0].extend(workloads.map(|(w, number)| (one(w.address), Class::Workload(number))));
    let subnets = meaning.subnets.iter().map(|(range, node)| {
        (*range, if *node == index { Class::Unassigned } else { Class::Remote(*node) })
    });
    layers.push(subnets.collect());
    layers.push(meaning.pod_networks.iter().map(|range| (*range, Class::Nowhere)).collect());
    layers.push(vec![(meaning.service_network, Class::Service)]);
    layers.push(vec![
        ((0xe000_0000, 0xefff_ffff), Class::Multicast),
        ((0xf000_0000, 0xffff_ffff), Class::Reserved),
        ((0, 0xdfff_ffff), Class::Outside),
    ]);
    let mut all: Vec<(Range, Class)> = Vec::new();
    for layer in layers {
        let mut taken = all.clone();
        taken.sort_unstable_by_key(|(range, _)| *range);
        for (range, class) in layer {
            let mut from = range.0;
            let begin = taken.partition_point(|(other, _)| other.1 < range.0);
            for (other, _) in &taken[begin..] {
                if other.0 > range.1 {
                    break;
                }
                if other.0 > from {
                    all.push(((from, other.0 - 1), class));
                }
                from = other.1 + 1;
            }
            if from <= range.1 {
                all.push(((from, range.1), class));
            }
        }
    }
    all.sort_unstable_by_key(|(range, _)| *range);
    all
}

/// Whether ranges meet.
fn touch(a: Range, b: Range) -> bool {
    meet(a, b).is_some()
}
