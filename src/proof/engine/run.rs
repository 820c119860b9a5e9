//! From entry to end: walks cubes through all tables and applies the actions.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};

use super::cube::{Cube, SENDER, Sender, Set};
use super::walk::{Met, Tables};
use crate::proof::frame::{FIELDS, Field, Range};
use crate::proof::read::flows::Action;

/// The most parts of one bridge. More is "not proven" instead of an endless run.
const BUDGET: u64 = 100_000_000;

/// Where a copy leaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// By a port.
    Port(u64),
    /// Through a tunnel to an address, with reg0 as its VNI.
    Tunnel(u64),
    /// By the port of entry.
    Back,
}

/// What becomes of a set of frames.
#[derive(Debug)]
pub struct Leaf<'c> {
    /// The frames, as they are at the end.
    pub cube: &'c Cube,
    /// Where copies leave; none is a drop.
    pub ends: &'c [End],
    /// The last flow that they met.
    pub flow: Option<usize>,
    /// Why the engine can't tell what happens.
    pub unknown: Option<String>,
}

/// A walk through all tables.
#[derive(Debug)]
pub struct Run<'t, 'f> {
    tables: &'t Tables<'f>,
    pending: BTreeMap<u8, Vec<Cube>>,
    /// Which flows were met.
    pub met: Vec<bool>,
    /// How many parts there were at the ends.
    pub leaves: u64,
    /// Whether frames were lost or doubled on the way: a fault of the prover.
    pub miscounted: bool,
    steps: u64,
}

impl<'t, 'f> Run<'t, 'f> {
    /// A walk through these tables.
    #[must_use]
    pub fn new(tables: &'t Tables<'f>) -> Self {
        let met = vec![false; tables.flows.flows.len()];
        Self { tables, pending: BTreeMap::new(), met, leaves: 0, miscounted: false, steps: 0 }
    }

    /// Walks frames from table 0; `leaf` gets each part of them once. False where the budget is
    /// used up.
    pub fn walk(&mut self, entries: Vec<Cube>, leaf: &mut dyn FnMut(&Leaf<'_>)) -> bool {
        self.pending.insert(0, entries);
        while let Some((table, cubes)) = self.pending.pop_first() {
            for cube in self.merged(cubes) {
                let weight = weight(&cube);
                let mut parts = 0;
                let tables = self.tables;
                tables.walk(table, cube, &mut |part, met| {
                    parts = (parts + self::weight(&part)) % PRIME;
                    self.apply(table, part, met, leaf);
                });
                self.miscounted |= parts != weight;
            }
            if self.steps > BUDGET {
                return false;
            }
        }
        true
    }

    fn merged(&mut self, cubes: Vec<Cube>) -> Vec<Cube> {
        if cubes.len() == 1 {
            return cubes;
        }
        let total = |cubes: &[Cube]| cubes.iter().map(weight).fold(0, |a, b| (a + b) % PRIME);
        let before = total(&cubes);
        let cubes = merge_sets(cubes, false);
        let cubes = merge_sets(cubes, true);
        let cubes = merge_senders(cubes);
        self.miscounted |= total(&cubes) != before;
        cubes
    }

    fn apply(&mut self, table: u8, mut cube: Cube, met: Met, leaf: &mut dyn FnMut(&Leaf<'_>)) {
        self.steps += 1;
        let index = match met {
            Met::Nothing => return self.end(&cube, &[], None, None, leaf),
            Met::Either(one, other) => {
                self.met[one] = true;
                self.met[other] = true;
                let why = "two flows of one priority do different things";
                return self.end(&cube, &[], Some(one), Some(why.to_owned()), leaf);
            }
            Met::Flow(index) => index,
        };
        self.met[index] = true;
        let flows = self.tables.flows;
        let mut ends: Vec<End> = Vec::new();
        let mut next = None;
        for action in flows.actions(&flows.flows[index]) {
            if next.is_some() {
                let why = "an action behind `goto_table`";
                return self.end(&cube, &ends, Some(index), Some(why.to_owned()), leaf);
            }
            match step(&mut cube, *action, &mut ends) {
                Step::On => {}
                Step::Goto(to) if to > table => next = Some(to),
                Step::Goto(to) => {
                    let why = format!("`goto_table:{to}` in table {table}");
                    return self.end(&cube, &ends, Some(index), Some(why), leaf);
                }
                Step::Unknown(why) => {
                    return self.end(&cube, &ends, Some(index), Some(why), leaf);
                }
            }
        }
        match next {
            None => self.end(&cube, &ends, Some(index), None, leaf),
            Some(_) if !ends.is_empty() => {
                let why = "a copy that goes on".to_owned();
                self.end(&cube, &ends, Some(index), Some(why), leaf);
            }
            Some(next) => self.pending.entry(next).or_default().push(cube),
        }
    }

    fn end(
        &mut self,
        cube: &Cube,
        ends: &[End],
        flow: Option<usize>,
        unknown: Option<String>,
        leaf: &mut dyn FnMut(&Leaf<'_>),
    ) {
        self.leaves += 1;
        leaf(&Leaf { cube, ends, flow, unknown });
    }
}

enum Step {
    On,
    Goto(u8),
    Unknown(String),
}

/// One action.
fn step(cube: &mut Cube, action: Action, ends: &mut Vec<End>) -> Step {
    match action {
        Action::Load(field, number) => {
            if field == Field::Reg0 {
                cube.memory.vni_is_reg0 = false;
                cube.memory.reg0_is_vni = false;
            }
            cube.load(field, number);
        }
        Action::VniToReg0 => {
            // Outside of a tunnel, the VNI is 0.
            let through_tunnel = cube.get(Field::InPort) == (1, 1) && cube.senders.is_none();
            if !through_tunnel {
                return Step::Unknown("the VNI of what came by no tunnel".to_owned());
            }
            cube.fields[Field::Reg0 as usize] = Field::Reg0.domain();
            cube.memory.vni_is_reg0 = false;
            cube.memory.reg0_is_vni = true;
        }
        Action::Reg0ToVni => cube.memory.vni_is_reg0 = true,
        Action::SetTunnelDst(address) => cube.memory.tunnel_to = Some(address),
        Action::Output(port) => return output(cube, port, ends),
        Action::OutputReg2 => {
            let (first, last) = cube.get(Field::Reg2);
            if first != last {
                return Step::Unknown("output to several ports".to_owned());
            }
            return output(cube, first, ends);
        }
        Action::OutputInPort => ends.push(End::Back),
        Action::Goto(table) => return Step::Goto(table),
        Action::EthDst(mac) => cube.memory.eth_dst = Some(mac),
        Action::ClearMark => {
            cube.memory.marked = cube.get(Field::Mark).0;
            cube.load(Field::Mark, 0);
        }
        Action::ClearInPort => cube.memory.forgot_in_port = true,
        Action::Meter(_) | Action::Note => {}
        Action::Track { .. } => return Step::Unknown("conntrack".to_owned()),
        Action::Group(_) => return Step::Unknown("a group".to_owned()),
        other => return Step::Unknown(format!("the action {other:?}")),
    }
    Step::On
}

fn output(cube: &Cube, port: u64, ends: &mut Vec<End>) -> Step {
    match (port, cube.memory.tunnel_to) {
        (1, Some(to)) if cube.memory.vni_is_reg0 => ends.push(End::Tunnel(to)),
        (1, _) => return Step::Unknown("a tunnel without its end or VNI".to_owned()),
        _ => ends.push(End::Port(port)),
    }
    Step::On
}

/// 2⁶¹ − 1.
const PRIME: u64 = (1 << 61) - 1;

fn times(a: u64, b: u64) -> u64 {
    let product = u128::from(a) * u128::from(b) % u128::from(PRIME);
    u64::try_from(product).unwrap_or(0)
}

fn size(range: Range) -> u64 {
    range.1 - range.0 + 1
}

/// How many frames there are in a cube, modulo [`PRIME`].
fn weight(cube: &Cube) -> u64 {
    let skip = Field::Dst.bit() | Field::TunSrc.bit() | SENDER;
    let fields = Field::ALL.into_iter().filter(|field| field.bit() & skip == 0);
    let all = fields.map(|field| size(cube.get(field))).filter(|size| *size > 1).fold(1, times);
    let sets = times(cube.dst.count(), cube.tunnel.count());
    let of = |sender: Sender| {
        let Sender { in_port, dl_src, sha, src, reg0 } = sender;
        [in_port, dl_src, sha, src, reg0]
            .map(size)
            .into_iter()
            .filter(|size| *size > 1)
            .fold(1, times)
    };
    let senders = match &cube.senders {
        Some(list) => list.iter().map(|sender| of(*sender)).fold(0, |a, b| (a + b) % PRIME),
        None => of(cube.lone_sender()),
    };
    times(times(all, sets), senders)
}

/// Indices of cubes that are alike, in the order of the first of each.
fn alike(
    cubes: &[Cube],
    digest: impl Fn(&Cube, &mut DefaultHasher),
    equal: impl Fn(&Cube, &Cube) -> bool,
) -> Vec<Vec<usize>> {
    let mut groups: Vec<Vec<usize>> = Vec::new();
    let mut by_digest: BTreeMap<u64, Vec<usize>> = BTreeMap::new();
    for (index, cube) in cubes.iter().enumerate() {
        let mut hasher = DefaultHasher::new();
        digest(cube, &mut hasher);
        let candidates = by_digest.entry(hasher.finish()).or_default();
        let found = candidates.iter().find(|group| equal(&cubes[groups[**group][0]], cube));
        if let Some(group) = found {
            groups[*group].push(index);
        } else {
            candidates.push(groups.len());
            groups.push(vec![index]);
        }
    }
    groups
}

fn same_senders(a: &Cube, b: &Cube) -> bool {
    match (&a.senders, &b.senders) {
        (Some(a), Some(b)) => std::rc::Rc::ptr_eq(a, b) || a == b,
        (None, None) => true,
        _ => false,
    }
}

/// Makes one cube of those that differ only in their destinations, or ends of tunnels.
fn merge_sets(cubes: Vec<Cube>, tunnels: bool) -> Vec<Cube> {
    let set = if tunnels { Field::TunSrc } else { Field::Dst } as usize;
    let fields = |cube: &Cube| -> [Range; FIELDS] {
        let mut fields = cube.fields;
        fields[set] = (0, 0);
        fields
    };
    let other = |cube: &Cube| if tunnels { cube.dst.clone() } else { cube.tunnel.clone() };
    let groups = alike(
        &cubes,
        |cube, hasher| {
            fields(cube).hash(hasher);
            cube.memory.hash(hasher);
            cube.senders.as_ref().map_or(0, |list| list.len()).hash(hasher);
            other(cube).hash(hasher);
        },
        |a, b| {
            fields(a) == fields(b)
                && a.memory == b.memory
                && other(a) == other(b)
                && same_senders(a, b)
        },
    );
    if groups.len() == cubes.len() {
        return cubes;
    }
    let merged = groups.into_iter().flat_map(|group| {
        let mut cube = cubes[group[0]].clone();
        if group.len() > 1 {
            let of =
                |index: &usize| if tunnels { &cubes[*index].tunnel } else { &cubes[*index].dst };
            let mut ranges: Vec<Range> =
                group.iter().flat_map(|index| of(index).ranges()).collect();
            ranges.sort_unstable();
            if ranges.windows(2).any(|pair| pair[0].1 >= pair[1].0) {
                // Translated to the same: they stay apart, so that none is lost.
                return group.iter().map(|index| cubes[*index].clone()).collect();
            }
            let mut joined: Vec<Range> = Vec::with_capacity(ranges.len());
            for range in ranges {
                match joined.last_mut() {
                    Some(last) if last.1 + 1 == range.0 => last.1 = range.1,
                    _ => joined.push(range),
                }
            }
            let set = Set::of(joined);
            if tunnels { cube.tunnel = set } else { cube.dst = set }
        }
        vec![cube]
    });
    merged.collect()
}

/// Makes one cube of those that differ only in their senders, with a list of these.
fn merge_senders(cubes: Vec<Cube>) -> Vec<Cube> {
    let fields = |cube: &Cube| -> [Range; FIELDS] {
        let mut fields = cube.fields;
        for field in Field::ALL.into_iter().filter(|field| SENDER & field.bit() != 0) {
            fields[field as usize] = (0, 0);
        }
        fields[Field::Dst as usize] = (0, 0);
        fields[Field::TunSrc as usize] = (0, 0);
        fields
    };
    // Only single ports and addresses: a wide sender among many would be cut again and again.
    let known = |cube: &Cube| {
        let single = |field: Field| size(cube.get(field)) == 1;
        cube.senders.is_some() || single(Field::InPort) && single(Field::Src)
    };
    let groups = alike(
        &cubes,
        |cube, hasher| {
            fields(cube).hash(hasher);
            cube.memory.hash(hasher);
            cube.dst.hash(hasher);
        },
        |a, b| {
            fields(a) == fields(b)
                && a.memory == b.memory
                && a.dst == b.dst
                && a.tunnel == b.tunnel
                && known(a)
                && known(b)
        },
    );
    if groups.len() == cubes.len() {
        return cubes;
    }
    let merged = groups.into_iter().map(|group| {
        let mut cube = cubes[group[0]].clone();
        if group.len() > 1 {
            let list: Vec<Sender> =
                group.iter().flat_map(|index| cubes[*index].each_sender()).collect();
            cube.senders = Some(list.into());
        }
        cube
    });
    merged.collect()
}
