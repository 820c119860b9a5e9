//! From entry to end: walks cubes through all tables and applies the actions.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};

use super::cube::{Cube, Kept, SENDER, Sender, Set, Source};
use super::track::Zone;
use super::walk::{Met, Tables};
use crate::proof::frame::{FIELDS, Field, Range, ct, kind};
use crate::proof::read::flows::Action;
use crate::proof::read::groups::Groups;

/// The zone of the connections to services.
const SERVICES: u64 = 60;

/// The most parts of one bridge. More is "not proven" instead of an endless run.
const BUDGET: u64 = 100_000_000;

/// Where a copy leaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum End {
    /// By a port.
    Port(u64),
    /// Through a tunnel to an address, with reg0 as its VNI.
    Tunnel(u64),
    /// By the port of entry.
    Back,
    /// To one bucket of a group, which begins a connection.
    Group(u64),
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
    groups: &'t Groups,
    zone: Zone,
    pending: BTreeMap<u8, Vec<Cube>>,
    /// What conntrack sees before it comes to a table, and whether translated.
    tracked: BTreeMap<u8, [Vec<Cube>; 2]>,
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
    pub fn new(tables: &'t Tables<'f>, groups: &'t Groups, zone: Zone) -> Self {
        Self {
            tables,
            groups,
            zone,
            pending: BTreeMap::new(),
            tracked: BTreeMap::new(),
            met: vec![false; tables.flows.flows.len()],
            leaves: 0,
            miscounted: false,
            steps: 0,
        }
    }

    /// Walks frames from table 0; `leaf` gets each part of them once. False where the budget is
    /// used up.
    pub fn walk(&mut self, entries: Vec<Cube>, leaf: &mut dyn FnMut(&Leaf<'_>)) -> bool {
        self.pending.insert(0, entries);
        while let Some((table, cubes)) = self.next() {
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

    /// The next table, with all that comes to it.
    fn next(&mut self) -> Option<(u8, Vec<Cube>)> {
        let keys = [self.pending.keys().next(), self.tracked.keys().next()];
        let table = keys.into_iter().flatten().min().copied()?;
        let mut cubes = self.pending.remove(&table).unwrap_or_default();
        for (nat, tracked) in
            [false, true].into_iter().zip(self.tracked.remove(&table).unwrap_or_default())
        {
            for cube in self.merged(tracked) {
                self.zone.fork(cube, nat, &mut |fork| cubes.push(fork));
            }
        }
        Some((table, cubes))
    }

    fn merged(&mut self, cubes: Vec<Cube>) -> Vec<Cube> {
        if cubes.len() <= 1 {
            return cubes;
        }
        let cubes = distinct(cubes);
        let total = |cubes: &[Cube]| cubes.iter().map(weight).fold(0, |a, b| (a + b) % PRIME);
        let before = total(&cubes);
        let cubes = merge_sets(cubes, Field::Dst);
        let cubes = merge_sets(cubes, Field::TunSrc);
        let cubes = merge_sets(cubes, Field::Src);
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
        let mut ends: Vec<End> = std::mem::take(&mut cube.ends);
        let mut next = None;
        let actions = flows.actions(&flows.flows[index]);
        for (action, number) in actions.iter().zip(1..) {
            if next.is_some() {
                let why = "an action behind `goto_table`";
                return self.end(&cube, &ends, Some(index), Some(why.to_owned()), leaf);
            }
            let last = number == actions.len();
            match step(&mut cube, *action, &mut ends) {
                Step::On => {}
                Step::Track(to, zone, nat) if zone == SERVICES && last && ends.is_empty() => {
                    // Packets go round in a table once, since it is tracked behind what is not.
                    let again =
                        to == table && cube.get(Field::Ct) == (ct::UNTRACKED, ct::UNTRACKED);
                    if to <= table && !again {
                        let why = format!("`ct(table={to})` in table {table}");
                        return self.end(&cube, &ends, Some(index), Some(why), leaf);
                    }
                    self.tracked.entry(to).or_default()[usize::from(nat)].push(cube);
                    return;
                }
                Step::Track(to, _, false) if to > table => {
                    if let Err(why) = self.copy(&cube, to, &mut ends) {
                        return self.end(&cube, &ends, Some(index), Some(why), leaf);
                    }
                }
                Step::Track(..) => {
                    let why = "tracking that no lemma speaks of".to_owned();
                    return self.end(&cube, &ends, Some(index), Some(why), leaf);
                }
                Step::Group(id) if last && ends.is_empty() => {
                    return self.group(table, cube, id, index, leaf);
                }
                Step::Group(_) => {
                    let why = "a group among other actions".to_owned();
                    return self.end(&cube, &ends, Some(index), Some(why), leaf);
                }
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

    /// A group: which buckets it has is said once, at its end; what is behind it has to be right for any
    /// that it may have.
    fn group(
        &mut self,
        table: u8,
        mut cube: Cube,
        id: u64,
        index: usize,
        leaf: &mut dyn FnMut(&Leaf<'_>),
    ) {
        let groups = self.groups;
        let Some(group) = groups.get(&id) else {
            let why = Some(format!("the group {id} is nowhere"));
            return self.end(&cube, &[], Some(index), why, leaf);
        };
        self.end(&cube, &[End::Group(id)], Some(index), None, leaf);
        let mut tables: Vec<u8> = group.buckets.iter().map(|bucket| bucket.table).collect();
        tables.sort_unstable();
        tables.dedup();
        cube.settle();
        cube.remember();
        cube.choices.push(super::cube::Choice { state: ct::NEWS.0, ..Default::default() });
        cube.memory.seen = super::cube::Seen::Known;
        cube.fields[Field::Ct as usize] = ct::KNOWN;
        self.zone.translate(&mut cube);
        for to in tables {
            if to <= table {
                let why = Some(format!("a bucket of the group {id} leads back"));
                return self.end(&cube, &[], Some(index), why, leaf);
            }
            self.pending.entry(to).or_default().push(cube.clone());
        }
    }

    /// A copy that is taken up anew in a table, which sends it out at once.
    fn copy(&mut self, cube: &Cube, table: u8, ends: &mut Vec<End>) -> Result<(), String> {
        let mut cube = self.zone.whole(cube.clone());
        cube.fields[Field::Ct as usize] = ct::TRACKED;
        let mut parts = Vec::new();
        self.tables.walk(table, cube, &mut |part, met| parts.push((part, met)));
        for (mut part, met) in std::mem::take(&mut parts) {
            let Met::Flow(index) = met else { return Err("copies that no flow makes".to_owned()) };
            self.met[index] = true;
            let flows = self.tables.flows;
            for action in flows.actions(&flows.flows[index]) {
                match step(&mut part, *action, ends) {
                    Step::On => {}
                    _ => return Err("copies that go on".to_owned()),
                }
            }
            parts.push((part, met));
        }
        if parts.len() == 1 { Ok(()) } else { Err("copies that differ".to_owned()) }
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
    Group(u64),
    /// A table, a zone, and whether it translates.
    Track(u8, u64, bool),
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
            if field == Field::Reg3 {
                cube.memory.kept = Kept::Number(number);
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
        Action::ForgetState => {
            cube.fields[Field::Ct as usize] = (ct::UNTRACKED, ct::UNTRACKED);
        }
        Action::DstToReg3 => {
            cube.memory.kept = Kept::Destination;
            cube.fields[Field::Reg3 as usize] = Field::Reg3.domain();
            cube.kept = None;
        }
        Action::Dst(to) => {
            cube.settle();
            cube.remember();
            if cube.memory.kept == Kept::Destination && cube.kept.is_none() {
                cube.kept = Some(cube.dst.clone());
            }
            cube.dst = Set::new((to, to));
            cube.memory.turned = true;
        }
        Action::Reg3ToDst => match (cube.memory.kept, cube.kept.clone()) {
            (Kept::Destination, Some(kept)) => {
                cube.dst = kept;
                cube.memory.turned = false;
            }
            _ => return Step::Unknown("a destination that nothing kept".to_owned()),
        },
        Action::ClearMark => {
            cube.memory.marked = cube.get(Field::Mark).0;
            cube.load(Field::Mark, 0);
        }
        Action::ClearInPort => cube.memory.forgot_in_port = true,
        Action::Meter(_) | Action::Note => {}
        Action::Track { table, zone, nat } => return Step::Track(table, zone, nat),
        Action::Group(id) => return Step::Group(id),
        Action::Reg3ToSrc if cube.get(Field::Kind) == (kind::IP, kind::IP) => {
            cube.settle();
            if cube.memory.source == Source::Own && cube.came.is_none() {
                cube.came = Some(cube.src.clone());
            }
            cube.memory.source = Source::Kept;
            cube.src = Set::new(Field::Src.domain());
        }
        other => answer(cube, other),
    }
    Step::On
}

/// A step on the way to an answer of ARP. Each has to come before what it reads is changed.
fn answer(cube: &mut Cube, action: Action) {
    let arp = cube.get(Field::Kind) == (kind::ARP, kind::ARP);
    let memory = &mut cube.memory;
    let answer = &mut memory.answer;
    match action {
        Action::EthSrcToDst if answer.eth_src.is_none() => answer.to_asker = true,
        Action::EthSrc(mac) => answer.eth_src = Some(mac),
        Action::ArpOp(number) if arp => answer.operation = Some(number),
        Action::ShaToTha if arp && answer.sender.is_none() => answer.target = true,
        Action::Sha(mac) if arp => answer.sender = Some(mac),
        Action::SpaToTpa if arp && !answer.sender_address => answer.target_address = true,
        Action::Reg3ToSrc if arp && memory.kept == Kept::Destination => {
            answer.sender_address = true;
        }
        _ => memory.odd = true,
    }
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
    let sets = if cube.listed(Field::Src) { sets } else { times(sets, cube.src.count()) };
    let of = |sender: Sender| {
        let Sender { in_port, dl_src, sha, src, reg0 } = sender;
        // What is in no list has its source apart.
        let src = if cube.listed(Field::Src) { src } else { (0, 0) };
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

/// Whether cubes are the same in what is in no range and no set.
fn same_rest(a: &Cube, b: &Cube) -> bool {
    a.memory == b.memory && a.ends == b.ends && a.kept == b.kept
}

/// Leaves out what stands twice: what was sent to different services is the same behind them.
fn distinct(cubes: Vec<Cube>) -> Vec<Cube> {
    if cubes.iter().all(|cube| cube.memory.seen != super::cube::Seen::Known) {
        return cubes;
    }
    let groups = alike(
        &cubes,
        |cube, hasher| {
            cube.fields.hash(hasher);
            cube.memory.hash(hasher);
            cube.dst.hash(hasher);
            cube.senders.as_ref().map_or(0, |list| list.len()).hash(hasher);
        },
        |a, b| {
            a.fields == b.fields
                && same_rest(a, b)
                && a.dst == b.dst
                && a.src == b.src
                && a.came == b.came
                && a.tunnel == b.tunnel
                && same_senders(a, b)
        },
    );
    if groups.len() == cubes.len() {
        return cubes;
    }
    groups.into_iter().map(|group| cubes[group[0]].clone()).collect()
}

/// Makes one cube of those that differ only in one set: destinations, sources, or ends of tunnels.
fn merge_sets(cubes: Vec<Cube>, field: Field) -> Vec<Cube> {
    let set = |cube: &Cube| -> Set {
        match field {
            Field::Src => cube.src.clone(),
            Field::Dst => cube.dst.clone(),
            _ => cube.tunnel.clone(),
        }
    };
    // Of senders in a list, each has its own source.
    if field == Field::Src && cubes.iter().all(|cube| cube.senders.is_some()) {
        return cubes;
    }
    let is = |other: Field, a: &Cube, b: &Cube| match other {
        _ if other == field => true,
        Field::Src => a.src == b.src,
        Field::Dst => a.dst == b.dst,
        _ => a.tunnel == b.tunnel,
    };
    let groups = alike(
        &cubes,
        |cube, hasher| {
            cube.fields.hash(hasher);
            cube.memory.hash(hasher);
            cube.senders.as_ref().map_or(0, |list| list.len()).hash(hasher);
            for (other, of) in
                [(Field::Src, &cube.src), (Field::Dst, &cube.dst), (Field::TunSrc, &cube.tunnel)]
            {
                if other != field {
                    of.hash(hasher);
                }
            }
        },
        |a, b| {
            a.fields == b.fields
                && same_rest(a, b)
                && [Field::Src, Field::Dst, Field::TunSrc].into_iter().all(|of| is(of, a, b))
                && a.came == b.came
                && same_senders(a, b)
                && (field != Field::Src || a.senders.is_none() && a.memory.source == Source::Own)
        },
    );
    if groups.len() == cubes.len() {
        return cubes;
    }
    let merged = groups.into_iter().flat_map(|group| {
        let mut cube = cubes[group[0]].clone();
        if group.len() > 1 {
            let mut ranges: Vec<Range> = group
                .iter()
                .flat_map(|index| set(&cubes[*index]).ranges().collect::<Vec<_>>())
                .collect();
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
            match field {
                Field::Src => cube.src = set,
                Field::Dst => cube.dst = set,
                _ => cube.tunnel = set,
            }
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
        cube.senders.is_some()
            || size(cube.get(Field::InPort)) == 1 && size(cube.origin().hull()) == 1
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
                && same_rest(a, b)
                // With a source that conntrack gave, it is the same for all.
                && (a.memory.source == Source::Own || a.src == b.src)
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
            if cube.memory.source == Source::Own {
                cube.src = Set::new(Field::Src.domain());
            }
            cube.came = None;
        }
        cube
    });
    merged.collect()
}
