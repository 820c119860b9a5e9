//! What conntrack may do with packets: everything that the connections of a zone allow, whatever they are.
//!
//! - A *new* packet stays as it is.
//! - One that is *known* gets the destination and the port of its connection, whatever they are; but no
//!   gateway's, and a connection with a translation began at none of the pods' addresses. Both are an invariant
//!   of the zone, and proven where a bucket begins a connection.
//! - A *reply* keeps its source, or gets any where a connection may have begun.
//! - What belongs to nothing stays as it is.
//!
//! The kernel's conntrack hands on whole datagrams; that of a userspace datapath hands on the
//! fragments.

use super::cube::{Choice, Cube, Kept, Seen, Set, Source};
use crate::proof::frame::{Field, Range, ct, frag, kind, proto, without};

/// What forks need to know of a node.
#[derive(Clone, Debug)]
pub struct Zone {
    /// Whether datagrams are put together.
    pub kernel: bool,
    /// The addresses at which connections may have begun: all but those of pods.
    pub outside: Vec<Range>,
    /// The addresses to which connections may lead.
    pub inside: Vec<Range>,
}

impl Zone {
    /// That of a node.
    #[must_use]
    pub fn new(kernel: bool, pods: &[Range], gateway: u64) -> Self {
        let all = Field::Dst.domain();
        let inside = without(all, &[(gateway, gateway)]);
        Self { kernel, outside: without(all, pods), inside }
    }

    /// A datagram instead of its fragments, where they are put together.
    #[must_use]
    pub fn whole(&self, mut cube: Cube) -> Cube {
        let frags = cube.get(Field::Frag);
        let is_ip = cube.get(Field::Kind) == (kind::IP, kind::IP);
        if !self.kernel || !is_ip || frags == (frag::WHOLE, frag::WHOLE) {
            return cube;
        }
        cube.remember();
        // Cubes have fragments with ports, or without. What has some may be known by them.
        cube.memory.put_together = true;
        cube.memory.of_parts = frags.0 >= frag::PORTLESS;
        if cube.memory.of_parts && cube.get(Field::Proto).0 != proto::OTHER {
            let most = if cube.get(Field::Proto).0 == proto::ICMP { 255 } else { 0xffff };
            cube.fields[Field::SrcPort as usize] = (0, most);
            cube.fields[Field::DstPort as usize] = (0, most);
        }
        cube.fields[Field::Frag as usize] = (frag::WHOLE, frag::WHOLE);
        cube
    }

    /// All that may become of a cube.
    pub fn fork(&self, cube: Cube, nat: bool, emit: &mut dyn FnMut(Cube)) {
        let before = cube.get(Field::Frag);
        let mut cube = self.whole(cube);
        cube.settle();
        cube.remember();
        let put_together = cube.get(Field::Frag) != before;
        let state = |mut cube: Cube, states: Range, seen: Seen| {
            cube.fields[Field::Ct as usize] = states;
            cube.memory.seen = match (cube.memory.seen, seen) {
                (Seen::Not | Seen::Fresh, _) | (_, Seen::Reply) => seen,
                _ => Seen::Stray,
            };
            cube.choices.push(Choice {
                state: states.0,
                whole_any: put_together,
                ..Choice::default()
            });
            cube
        };
        emit(state(cube.clone(), ct::NEWS, Seen::Fresh));
        emit(state(cube.clone(), ct::STRAY, Seen::Stray));
        emit(state(cube.clone(), ct::REPLIES, Seen::Reply));
        if !nat {
            return;
        }
        let begun: Vec<Range> = self
            .outside
            .iter()
            .filter_map(|range| cube.dst.clip(*range))
            .map(|s| s.hull())
            .collect();
        if let (Some(first), Seen::Not | Seen::Fresh) = (begun.first(), cube.memory.seen) {
            let mut known = state(cube.clone(), ct::KNOWN, Seen::Known);
            known.before = known.before.map(|before| super::cube::Before {
                dst: if cube.dst.contains(before.dst) {
                    first.0.max(before.dst)
                } else {
                    before.dst
                },
                ..before
            });
            self.translate(&mut known);
            emit(known);
        }
        let mut reply = state(cube, ct::REPLIES, Seen::Reply);
        if reply.memory.source == Source::Own && reply.came.is_none() {
            reply.came = Some(reply.src.clone());
        }
        reply.memory.source = Source::Nat;
        reply.src = Set::of(self.outside.clone());
        if let Some(choice) = reply.choices.last_mut() {
            choice.from_any = true;
        }
        emit(reply);
    }

    /// Gives a cube any destination that a connection may have.
    pub fn translate(&self, cube: &mut Cube) {
        // Where it was sent to is of no interest any more, but that it is known.
        cube.kept = None;
        cube.dst = Set::of(self.inside.clone());
        let has_port =
            cube.get(Field::Proto).0 >= proto::TCP && cube.get(Field::Frag).1 <= frag::FIRST;
        if has_port {
            cube.fields[Field::SrcPort as usize] = Field::SrcPort.domain();
            cube.fields[Field::DstPort as usize] = Field::DstPort.domain();
        }
        cube.fields[Field::Reg3 as usize] = Field::Reg3.domain();
        if let Kept::Number(_) = cube.memory.kept {
            cube.memory.kept = Kept::Translated;
        }
        if let Some(choice) = cube.choices.last_mut() {
            choice.to_any = true;
        }
    }
}
