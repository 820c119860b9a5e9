//! Walks a frame through the flows of a plan as a bridge would.
//!
//! It stands between the intent and the real switch: quick enough to try thousands of frames on
//! generated networks. Where it and Open vSwitch disagree, Open vSwitch is right.

mod lookup;

use std::net::Ipv4Addr;

use crate::dataplane::openflow::{
    Action, AddressBits, ArpMatch, Bucket, CtState, Flow, FlowTable, Fragment, IpMatch, L4, Match,
    Packet, PolicyState,
};
use crate::pipeline::{OfPort, Register, Table};
use crate::value::{Mac, Protocol};

/// A frame that enters a bridge.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// The port by which it comes.
    pub in_port: OfPort,
    /// The tunnel that it came through: the sender's address and the VNI.
    pub tunnel: Option<(Ipv4Addr, u32)>,
    /// Its Ethernet source address.
    pub source: Mac,
    /// What it holds.
    pub body: Body,
    /// Whether it has a VLAN tag.
    pub tagged: bool,
    /// Which bucket it chooses of a group, taken modulo their number.
    pub choice: usize,
    /// Whether conntrack hands on what it has put together, as the kernel's does; in userspace the
    /// fragments go on one by one.
    pub reassembles: bool,
    /// What conntrack says of it where network policies ask: on every node the same.
    pub connection: CtState,
    /// What conntrack says of it where services ask.
    pub service_connection: CtState,
}

impl Frame {
    /// A frame that comes by a port of the bridge itself, whole and without a tag.
    #[must_use]
    pub fn new(in_port: OfPort, source: Mac, body: Body) -> Self {
        Self {
            in_port,
            tunnel: None,
            source,
            body,
            tagged: false,
            choice: 0,
            reassembles: false,
            connection: CtState::New,
            service_connection: CtState::New,
        }
    }
}

/// What a frame holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Body {
    /// An ARP packet.
    Arp {
        /// The sender's IP address.
        spa: Ipv4Addr,
        /// The target's IP address.
        tpa: Ipv4Addr,
        /// The sender's Ethernet address.
        sha: Mac,
    },
    /// An IPv4 packet.
    Ip {
        /// The source address.
        src: Ipv4Addr,
        /// The destination address.
        dst: Ipv4Addr,
        /// The transport protocol with its destination port, where it has ports.
        transport: Option<(Protocol, u16)>,
        /// Which part of a datagram it is.
        piece: Piece,
    },
}

/// Which part of a datagram a packet is, as Open vSwitch sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Piece {
    /// All of it.
    Whole,
    /// The first fragment, in frag mode `nx-match`.
    First,
    /// A first fragment of less than the header of TCP, or any in frag mode `normal`.
    Portless,
    /// Another fragment.
    Later,
}

impl Piece {
    /// The destination port of a packet to `port`, as far as a flow can see it.
    fn shown(self, port: u16) -> u16 {
        match self {
            Self::Whole | Self::First => port,
            Self::Portless | Self::Later => 0,
        }
    }
}

/// Where a frame, or one copy of it, ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// It leaves by a port.
    Port(OfPort),
    /// It leaves through a tunnel.
    Tunnel {
        /// The node that it leads to.
        to: Ipv4Addr,
        /// Its VNI.
        vni: u32,
    },
}

/// The ends of a frame, and the flows that it met on the way.
#[derive(Clone, Debug)]
pub struct Walk<'f, 'm> {
    /// Where it leaves, once for each copy; nowhere if it is dropped.
    pub ends: Vec<End>,
    /// The flows, in order.
    pub flows: Vec<&'f Flow<'m>>,
    /// What the frame holds at the end, after translation.
    pub body: Body,
}

/// What the pipeline remembers of a frame.
#[derive(Clone, Copy, Debug, Default)]
struct Registers {
    values: [u32; 8],
    /// What conntrack said when it was asked last.
    tracked: Option<CtState>,
    /// The conjunction that all dimensions are met of, while it is looked up.
    conjunction: Option<u32>,
    forgot_in_port: bool,
    tunnel_vni: u32,
    tunnel_to: Option<Ipv4Addr>,
}

/// Walks a frame through the tables from table 0.
#[must_use]
pub fn walk<'f, 'm>(flows: &'f FlowTable<'m>, frame: &Frame) -> Walk<'f, 'm> {
    let mut walk = Walk { ends: Vec::new(), flows: Vec::new(), body: frame.body };
    walk.on(flows, frame.clone(), Registers::default(), Table::Classify);
    walk
}

impl<'f, 'm> Walk<'f, 'm> {
    fn on(
        &mut self,
        flows: &'f FlowTable<'m>,
        mut frame: Frame,
        mut registers: Registers,
        from: Table,
    ) {
        let mut table = Some(from);
        while let Some(at) = table.take() {
            let Some(flow) = lookup::lookup(flows, at, &frame, &registers) else { break };
            self.flows.push(flow);
            for action in &flow.actions {
                match action {
                    Action::Load(register, value) => {
                        registers.values[usize::from(register.number())] = *value;
                    }
                    Action::LoadSourceFromTunnelId => {
                        let vni = frame.tunnel.map_or(0, |(_, vni)| vni);
                        registers.values[usize::from(Register::Source.number())] = vni;
                    }
                    Action::SetTunnelId => {
                        registers.tunnel_vni =
                            registers.values[usize::from(Register::Source.number())];
                    }
                    Action::SetTunnelDst(address) => registers.tunnel_to = Some(*address),
                    Action::Output(port) => self.ends.extend(output(*port, &frame, &registers)),
                    Action::OutputRegister => {
                        let number = registers.values[usize::from(Register::Port.number())];
                        let port = u16::try_from(number).ok().and_then(OfPort::pod);
                        self.ends.extend(port.and_then(|port| output(port, &frame, &registers)));
                    }
                    Action::Goto(next) => table = Some(*next),
                    Action::Track(next) => {
                        registers.tracked = Some(frame.service_connection);
                        if let (true, Body::Ip { piece, .. }) = (frame.reassembles, &mut frame.body)
                        {
                            *piece = Piece::Whole;
                        }
                        table = Some(*next);
                    }
                    Action::TrackForPolicies(next) => {
                        registers.tracked = Some(frame.connection);
                        if let (true, Body::Ip { piece, .. }) = (frame.reassembles, &mut frame.body)
                        {
                            *piece = Piece::Whole;
                        }
                        table = Some(*next);
                    }
                    Action::CtClear => registers.tracked = None,
                    Action::Group(id) => {
                        let groups = flows.groups();
                        let group =
                            groups.binary_search_by_key(id, |printed| printed.group.id).ok();
                        if let Some(buckets) = group.map(|index| &groups[index].group.buckets) {
                            let Bucket { to, port, .. } = buckets[frame.choice % buckets.len()];
                            translate(&mut frame.body, to, port);
                            table = Some(Table::ServicePod);
                        }
                    }
                    Action::SetIpDst(address) => {
                        translate(&mut frame.body, *address, None);
                    }
                    Action::SaveIpDst => {
                        if let Body::Ip { dst, .. } = frame.body {
                            registers.values[usize::from(Register::Service.number())] = dst.into();
                        }
                    }
                    Action::RestoreIpDst => {
                        let kept = registers.values[usize::from(Register::Service.number())];
                        translate(&mut frame.body, kept.into(), None);
                    }
                    Action::RestoreIpSrc => {
                        if let Body::Ip { src, .. } = &mut frame.body {
                            let kept = registers.values[usize::from(Register::Service.number())];
                            *src = kept.into();
                        }
                    }
                    Action::ClearInPort => registers.forgot_in_port = true,
                    Action::ArpReply(_) => self.ends.push(End::Port(frame.in_port)),
                    Action::Recirculate(next, _) => self.on(flows, frame.clone(), registers, *next),
                    Action::SetEthDst(_)
                    | Action::ClearMark
                    | Action::CommitForPolicies
                    | Action::Conjunction { .. }
                    | Action::Meter(_)
                    | Action::Note(_) => {}
                }
            }
        }
        self.body = frame.body;
    }
}

fn translate(body: &mut Body, to: Ipv4Addr, to_port: Option<u16>) {
    if let Body::Ip { dst, transport, .. } = body {
        *dst = to;
        if let (Some((_, port)), Some(to_port)) = (transport, to_port) {
            *port = to_port;
        }
    }
}

/// A bridge never sends a frame back to where it came from.
fn output(port: OfPort, frame: &Frame, registers: &Registers) -> Option<End> {
    match registers.tunnel_to {
        _ if port == frame.in_port && !registers.forgot_in_port => None,
        Some(to) if port == OfPort::VXLAN => Some(End::Tunnel { to, vni: registers.tunnel_vni }),
        _ => Some(End::Port(port)),
    }
}

fn matches(conditions: &Match, frame: &Frame, registers: &Registers) -> bool {
    let Match {
        mark,
        tagged,
        ct,
        source,
        destination,
        output,
        policy,
        part,
        tunnel_source,
        in_port,
        dl_src,
        packet,
    } = conditions;
    let register = |register: Register| registers.values[usize::from(register.number())];
    (!tagged || frame.tagged)
        // What comes from the host has passed its ruleset, which marks it.
        && mark.is_none_or(|_| frame.in_port == OfPort::TUN)
        && ct.is_none_or(|state| match state {
            CtState::Untracked => registers.tracked.is_none(),
            CtState::New | CtState::Reply | CtState::Related => registers.tracked == Some(state),
        })
        && source.is_none_or(|value| value == register(Register::Source))
        && destination.is_none_or(|value| value == register(Register::Destination))
        && output.is_none_or(|port| u32::from(port.get()) == register(Register::Port))
        && policy.is_none_or(|state| match state {
            PolicyState::SenderSelected => register(Register::Sender) & 1 == 1,
            PolicyState::SenderOpen => register(Register::Sender) == 1,
            PolicyState::ReceiverOpen => register(Register::Receiver) == 1,
            PolicyState::Tracked => register(Register::Tracked) == 1,
            PolicyState::MayBePod => register(Register::NotPod) == 0,
            PolicyState::Met(id) => registers.conjunction == Some(id),
        })
        && part.is_none_or(|value| value == register(Register::Part))
        && tunnel_source.is_none_or(|address| frame.tunnel.is_some_and(|(from, _)| from == address))
        && in_port.is_none_or(|port| port == frame.in_port)
        && dl_src.is_none_or(|mac| mac == frame.source)
        && match packet {
            Packet::Any => true,
            Packet::Arp(conditions) => matches_arp(conditions, &frame.body),
            Packet::Ip(conditions) => matches_ip(conditions, &frame.body),
        }
}

fn matches_arp(conditions: &ArpMatch, body: &Body) -> bool {
    // Requests and answers are not told apart.
    let Body::Arp { spa, tpa, sha } = body else { return false };
    conditions.spa.is_none_or(|network| network.contains(spa))
        && conditions.tpa.is_none_or(|network| network.contains(tpa))
        && conditions.tpa_bits.is_none_or(|bits| bits.contains(*tpa))
        && conditions.sha.is_none_or(|mac| mac == *sha)
}

fn matches_ip(conditions: &IpMatch, body: &Body) -> bool {
    let Body::Ip { src, dst, transport, piece } = body else { return false };
    let l4 = match (&conditions.l4, transport) {
        (L4::Any, _) => true,
        (L4::Tcp(port), Some((Protocol::Tcp, number)))
        | (L4::Udp(port), Some((Protocol::Udp, number)))
        | (L4::Sctp(port), Some((Protocol::Sctp, number))) => {
            port.is_none_or(|port| port.contains(piece.shown(*number)))
        }
        _ => false,
    };
    l4 && conditions.src.is_none_or(|network| network.contains(src))
        && conditions.dst.is_none_or(|network| network.contains(dst))
        && conditions.bits.is_none_or(|bits| match bits {
            AddressBits::Source(bits) => bits.contains(*src),
            AddressBits::Destination(bits) => bits.contains(*dst),
        })
        && conditions.fragment.is_none_or(|fragment| match fragment {
            Fragment::First => matches!(piece, Piece::First | Piece::Portless),
            Fragment::Portless => *piece == Piece::Portless,
            Fragment::Later => *piece == Piece::Later,
        })
}
