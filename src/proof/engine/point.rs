//! One frame through the tables, by looking at every flow: no diagram, no sets. It confirms what
//! the walk of cubes has found, and tells the flows on the way.

use super::cube::Choice;
use crate::proof::frame::{Field, Point, ct, frag, proto};
use crate::proof::read::flows::{Action, Flow, Flows};
use crate::proof::read::groups::Groups;

/// Where a copy leaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Exit {
    /// By a port.
    Port(u64),
    /// Through a tunnel to an address, with a VNI.
    Tunnel(u64, u64),
}

/// What becomes of one frame.
#[derive(Clone, Debug, Default)]
pub struct Trace {
    /// Where its copies leave, sorted.
    pub exits: Vec<Exit>,
    /// The flows that it met.
    pub path: Vec<usize>,
    /// The frame at the end: with the addresses and ports that it has then.
    pub last: Option<Point>,
    /// The Ethernet destination that it was given.
    pub eth_dst: Option<u64>,
    /// The group that it came to.
    pub group: Option<u64>,
    /// Something in it is not what Open vSwitch would surely do.
    pub unknown: bool,
}

#[derive(Clone, Copy, Debug, Default)]
struct State {
    tunnel_to: u64,
    tunnel_id: u64,
    forgot_in_port: bool,
    steps: u32,
}

/// Sends a frame. `reg0` of the point is the VNI that it came with, by a tunnel. What conntrack and groups
/// do stands in `choices`, in order; behind these everything is new, and the first bucket is taken.
#[must_use]
pub fn trace(flows: &Flows, groups: &Groups, point: &Point, choices: &[Choice]) -> Trace {
    let mut trace = Trace::default();
    let mut frame = *point;
    let vni = frame.get(Field::Reg0);
    frame.0[Field::Reg0 as usize] = 0;
    let mut walk = Walk { flows, groups, vni, choices: choices.iter(), trace: &mut trace };
    walk.from(0, frame, State::default());
    trace.exits.sort_unstable();
    trace
}

struct Walk<'w> {
    flows: &'w Flows,
    groups: &'w Groups,
    vni: u64,
    choices: std::slice::Iter<'w, Choice>,
    trace: &'w mut Trace,
}

impl Walk<'_> {
    /// The flow that a frame meets in a table.
    fn meets(&mut self, table: u8, frame: &Point) -> Option<usize> {
        let fits = |flow: &Flow| {
            let mut conditions = self.flows.conditions(flow).iter();
            conditions.all(|(field, (first, last))| (*first..=*last).contains(&frame.get(*field)))
        };
        let mut best: Option<usize> = None;
        for (index, flow) in self.flows.flows.iter().enumerate() {
            if flow.table != table || !fits(flow) {
                continue;
            }
            let Some(other) = best.map(|best| &self.flows.flows[best]) else {
                best = Some(index);
                continue;
            };
            if flow.priority > other.priority {
                best = Some(index);
            } else if flow.priority == other.priority {
                self.trace.unknown |= self.flows.actions(flow) != self.flows.actions(other);
            }
        }
        best
    }

    fn from(&mut self, table: u8, mut frame: Point, mut state: State) {
        let mut table = Some(table);
        while let Some(at) = table.take() {
            state.steps += 1;
            let Some(index) = self.meets(at, &frame).filter(|_| state.steps < 300) else { break };
            self.trace.path.push(index);
            for action in self.flows.actions(&self.flows.flows[index]) {
                if let Some(next) = self.act(*action, &mut frame, &mut state) {
                    table = Some(next);
                }
            }
        }
        self.trace.last = Some(frame);
    }

    /// Does one step and tells in which table to go on.
    fn act(&mut self, action: Action, frame: &mut Point, state: &mut State) -> Option<u8> {
        let get = |frame: &Point, field: Field| frame.get(field);
        let put = |frame: &mut Point, field: Field, number: u64| frame.0[field as usize] = number;
        match action {
            Action::Load(field, number) => put(frame, field, number),
            Action::VniToReg0 => {
                let tunnel = get(frame, Field::InPort) == 1;
                put(frame, Field::Reg0, if tunnel { self.vni } else { 0 });
            }
            Action::Reg0ToVni => state.tunnel_id = get(frame, Field::Reg0),
            Action::SetTunnelDst(to) => state.tunnel_to = to,
            Action::Output(port) => self.output(port, frame, state),
            Action::OutputReg2 => self.output(get(frame, Field::Reg2), frame, state),
            Action::OutputInPort => self.trace.exits.push(Exit::Port(get(frame, Field::InPort))),
            Action::Goto(table) => return Some(table),
            Action::Track { table, zone: 60, .. } => {
                self.tracked(frame);
                return Some(table);
            }
            Action::Track { table, .. } => {
                // Copies: what this flow does goes on.
                let mut copy = *frame;
                put(&mut copy, Field::Ct, ct::NEWS.0);
                self.from(table, copy, *state);
            }
            Action::ForgetState => put(frame, Field::Ct, ct::UNTRACKED),
            Action::Group(id) => return self.group(id, frame),
            Action::EthDst(mac) => self.trace.eth_dst = Some(mac),
            Action::Dst(to) => put(frame, Field::Dst, to),
            Action::DstToReg3 => put(frame, Field::Reg3, get(frame, Field::Dst)),
            Action::Reg3ToDst => put(frame, Field::Dst, get(frame, Field::Reg3)),
            Action::Reg3ToSrc => put(frame, Field::Src, get(frame, Field::Reg3)),
            Action::SpaToTpa => {
                put(frame, Field::Dst, get(frame, Field::Src));
            }
            Action::ArpOp(number) => put(frame, Field::ArpOp, number),
            Action::Sha(mac) => put(frame, Field::Sha, mac),
            Action::ClearMark => put(frame, Field::Mark, 0),
            Action::ClearInPort => state.forgot_in_port = true,
            Action::EthSrc(_)
            | Action::EthSrcToDst
            | Action::ShaToTha
            | Action::Meter(_)
            | Action::Note => {}
        }
        None
    }

    /// What conntrack makes of a frame.
    fn tracked(&mut self, frame: &mut Point) {
        let fresh = Choice { state: ct::NEWS.0, ..Choice::default() };
        let choice = self.choices.next().copied().unwrap_or(fresh);
        let mut put = |field: Field, number: u64| frame.0[field as usize] = number;
        put(Field::Ct, choice.state);
        if let Some((from, to)) = choice.whole {
            put(Field::Frag, frag::WHOLE);
            put(Field::SrcPort, from);
            put(Field::DstPort, to);
        }
        for (field, number) in
            [(Field::Src, choice.src), (Field::Dst, choice.dst), (Field::DstPort, choice.port)]
        {
            if let Some(number) = number {
                put(field, number);
            }
        }
    }

    fn group(&mut self, id: u64, frame: &mut Point) -> Option<u8> {
        let bucket = self.groups.get(&id)?.buckets.first()?;
        let choice = self.choices.next().copied().unwrap_or_default();
        self.trace.group.get_or_insert(id);
        frame.0[Field::Dst as usize] = choice.dst.unwrap_or(bucket.to);
        frame.0[Field::Ct as usize] = ct::KNOWN.0;
        let ported = frame.get(Field::Proto) >= proto::TCP && frame.get(Field::Frag) <= frag::FIRST;
        if let (Some(port), true) = (choice.port.or(bucket.port), ported) {
            frame.0[Field::DstPort as usize] = port;
        }
        Some(bucket.table)
    }

    fn output(&mut self, port: u64, frame: &Point, state: &State) {
        // A bridge never sends a frame back to where it came from.
        if port == frame.get(Field::InPort) && !state.forgot_in_port {
            return;
        }
        let exit = match port {
            1 => Exit::Tunnel(state.tunnel_to, state.tunnel_id),
            _ => Exit::Port(port),
        };
        self.trace.exits.push(exit);
    }
}
