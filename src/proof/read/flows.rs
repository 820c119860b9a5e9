//! `flows.ofctl`.

use super::Unread;
use super::cursor::Cursor;
use crate::proof::frame::{Field, Range, ct, frag, kind, proto};

/// What a flow does, one step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Puts a number into reg0 to reg3.
    Load(Field, u64),
    /// Puts the VNI of the tunnel into reg0.
    VniToReg0,
    /// Makes reg0 the VNI of the tunnel.
    Reg0ToVni,
    /// Sets the other end of the tunnel.
    SetTunnelDst(u64),
    /// Sends a copy out of a port.
    Output(u64),
    /// Sends a copy out of the port in reg2.
    OutputReg2,
    /// Sends a copy back.
    OutputInPort,
    /// Goes on in a table.
    Goto(u8),
    /// Tracks and goes on in a table.
    Track {
        /// The table.
        table: u8,
        /// The zone.
        zone: u64,
        /// Whether a known connection is translated.
        nat: bool,
    },
    /// Forgets what tracking found.
    ForgetState,
    /// Drops what is too much.
    Meter(u64),
    /// Chooses a bucket.
    Group(u64),
    /// Sets the Ethernet destination.
    EthDst(u64),
    /// Sets the Ethernet source.
    EthSrc(u64),
    /// Makes the Ethernet source the destination.
    EthSrcToDst,
    /// Sets the destination address.
    Dst(u64),
    /// Copies the destination to reg3; in ARP the target.
    DstToReg3,
    /// Copies reg3 to the destination.
    Reg3ToDst,
    /// Copies reg3 to the source; in ARP the sender.
    Reg3ToSrc,
    /// Sets the operation of ARP.
    ArpOp(u64),
    /// Copies the sender's Ethernet address of ARP to the target's.
    ShaToTha,
    /// Sets the sender's Ethernet address of ARP.
    Sha(u64),
    /// Copies the sender of ARP to the target.
    SpaToTpa,
    /// Forgets the kernel's mark.
    ClearMark,
    /// Forgets the port of entry.
    ClearInPort,
    /// Nothing.
    Note,
}

/// A condition on a field.
pub type Condition = (Field, Range);

/// A flow; its conditions and actions stand in the [`Flows`].
#[derive(Clone, Copy, Debug)]
pub struct Flow {
    /// Its table.
    pub table: u8,
    /// Its priority.
    pub priority: u16,
    /// Its cookie.
    pub cookie: u64,
    /// Its line in the file, from 1.
    pub line: u32,
    /// The fields that it has conditions on.
    pub mask: u32,
    conditions: (u32, u32),
    actions: (u32, u32),
}

/// All flows of a bridge, by table and then by falling priority.
#[derive(Clone, Debug, Default)]
pub struct Flows {
    /// The flows.
    pub flows: Vec<Flow>,
    conditions: Vec<Condition>,
    actions: Vec<Action>,
}

impl Flows {
    /// The conditions of a flow, each field once.
    #[must_use]
    pub fn conditions(&self, flow: &Flow) -> &[Condition] {
        &self.conditions[flow.conditions.0 as usize..flow.conditions.1 as usize]
    }

    /// The range that a flow wants of a field.
    #[must_use]
    pub fn range(&self, flow: &Flow, field: Field) -> Range {
        let found = self.conditions(flow).iter().find(|(other, _)| *other == field);
        found.map_or(field.domain(), |(_, range)| *range)
    }

    /// The actions of a flow; none is a drop.
    #[must_use]
    pub fn actions(&self, flow: &Flow) -> &[Action] {
        &self.actions[flow.actions.0 as usize..flow.actions.1 as usize]
    }

    /// Reads a file.
    pub fn read(file: &str, text: &[u8]) -> Result<Self, Unread> {
        let mut flows = Self::default();
        let mut rest = text;
        let mut number = 0;
        while !rest.is_empty() {
            number += 1;
            let end = memchr::memchr(b'\n', rest)
                .ok_or_else(|| Unread::new(file, number, "the last line has no end"))?;
            let line = &rest[..end];
            rest = &rest[end + 1..];
            if line.is_empty() || line[0] == b'#' {
                continue;
            }
            flows.line(line, number).map_err(|why| Unread::new(file, number, why))?;
        }
        flows
            .flows
            .sort_by(|a, b| (a.table, b.priority, a.line).cmp(&(b.table, a.priority, b.line)));
        Ok(flows)
    }

    fn line(&mut self, line: &[u8], number: usize) -> Result<(), String> {
        let mut at = Cursor(line);
        at.need("cookie=")?;
        let cookie = at.hex(u64::MAX)?;
        at.need(", table=")?;
        let table = u8::try_from(at.decimal(254)?).map_err(|_| "no table".to_owned())?;
        at.need(", priority=")?;
        let priority = u16::try_from(at.decimal(0xffff)?).map_err(|_| "no priority".to_owned())?;
        let start = self.conditions.len();
        while at.eat(",") {
            self.condition(&mut at, start)?;
        }
        let mask = self.conditions[start..].iter().fold(0, |mask, (field, _)| mask | field.bit());
        check(&self.conditions[start..], mask)?;
        at.need(" actions=")?;
        let first = self.actions.len();
        if !at.eat("drop") {
            loop {
                let action = action(&mut at)?;
                self.actions.push(action);
                if !at.eat(",") {
                    break;
                }
            }
        }
        if !at.is_done() {
            // What follows tells people which object it is for.
            at.need(" # ")?;
            if at.0.iter().any(|byte| *byte < b' ') {
                return Err("a control character in the comment".to_owned());
            }
        }
        let small = |number: usize| u32::try_from(number).map_err(|_| "too many flows".to_owned());
        self.flows.push(Flow {
            table,
            priority,
            cookie,
            line: small(number)?,
            mask,
            conditions: (small(start)?, small(self.conditions.len())?),
            actions: (small(first)?, small(self.actions.len())?),
        });
        Ok(())
    }

    fn condition(&mut self, at: &mut Cursor<'_>, start: usize) -> Result<(), String> {
        let mut add = |field: Field, range: Range| {
            if self.conditions[start..].iter().any(|(other, _)| *other == field) {
                return Err(format!("two conditions on {field:?}"));
            }
            self.conditions.push((field, range));
            Ok(())
        };
        let one = |number: u64| (number, number);
        let word = at
            .take_while(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_');
        let l4 = match word {
            b"ip" => return add(Field::Kind, one(kind::IP)),
            b"arp" => return add(Field::Kind, one(kind::ARP)),
            b"icmp" => Some(proto::ICMP),
            b"tcp" => Some(proto::TCP),
            b"udp" => Some(proto::UDP),
            b"sctp" => Some(proto::SCTP),
            _ => None,
        };
        if let Some(l4) = l4 {
            add(Field::Kind, one(kind::IP))?;
            return add(Field::Proto, one(l4));
        }
        at.need("=")?;
        match word {
            b"reg0" => add(Field::Reg0, one(at.hex(0xffff_ffff)?)),
            b"reg1" => add(Field::Reg1, one(at.hex(0xffff_ffff)?)),
            b"reg2" => add(Field::Reg2, one(at.hex(0xffff_ffff)?)),
            b"reg3" => add(Field::Reg3, one(at.hex(0xffff_ffff)?)),
            b"pkt_mark" => add(Field::Mark, one(at.hex(0xffff_ffff)?)),
            b"in_port" => add(Field::InPort, one(at.decimal(0xffff)?)),
            b"tun_src" => add(Field::TunSrc, one(at.address()?)),
            b"dl_src" => add(Field::DlSrc, one(at.mac()?)),
            b"arp_sha" => add(Field::Sha, one(at.mac()?)),
            b"arp_op" => add(Field::ArpOp, one(at.decimal(0xffff)?)),
            b"nw_src" | b"arp_spa" => add(Field::Src, at.network()?),
            b"nw_dst" | b"arp_tpa" => add(Field::Dst, at.network()?),
            b"vlan_tci" => {
                at.need("0x1000/0x1000")?;
                add(Field::Tagged, one(1))
            }
            b"nw_frag" if at.eat("first") => add(Field::Frag, (frag::FIRST, frag::PORTLESS)),
            b"nw_frag" if at.eat("later") => add(Field::Frag, one(frag::LATER)),
            b"icmp_type" => add(Field::SrcPort, one(at.decimal(255)?)),
            b"tp_src" => add(Field::SrcPort, one(at.decimal(0xffff)?)),
            b"tp_dst" => {
                let number = at.number(0xffff)?;
                let mask = if at.eat("/") { at.number(0xffff)? } else { 0xffff };
                let size = 0x1_0000 - mask;
                if !size.is_power_of_two() || number % size != 0 {
                    return Err("a mask of ports that is no range".to_owned());
                }
                add(Field::DstPort, (number, number + size - 1))
            }
            b"ct_state" => add(Field::Ct, state(at)?),
            _ => {
                let word = String::from_utf8_lossy(word);
                Err(format!("unknown condition {}", crate::diagnostic::quoted(&word)))
            }
        }
    }
}

/// The states that flags such as `+new+trk` leave.
fn state(at: &mut Cursor<'_>) -> Result<Range, String> {
    let (mut set, mut mask) = (0u8, 0u8);
    while matches!(at.0.first(), Some(b'+' | b'-')) {
        let wanted = at.0[0] == b'+';
        at.0 = &at.0[1..];
        let bit = match at.take_while(|byte| byte.is_ascii_lowercase()) {
            b"new" => ct::NEW,
            b"est" => ct::EST,
            b"rel" => ct::REL,
            b"rpl" => ct::RPL,
            b"inv" => ct::INV,
            b"trk" => ct::TRK,
            _ => return Err("an unknown flag of ct_state".to_owned()),
        };
        if mask & bit != 0 {
            return Err("a flag of ct_state twice".to_owned());
        }
        mask |= bit;
        set |= if wanted { bit } else { 0 };
    }
    let taken: Vec<u64> =
        (0..).zip(ct::STATES).filter(|(_, state)| state & mask == set).map(|(at, _)| at).collect();
    match (taken.first(), taken.last()) {
        (Some(first), Some(last)) if mask != 0 && last - first + 1 == taken.len() as u64 => {
            Ok((*first, *last))
        }
        _ => Err("a ct_state that no range of states has".to_owned()),
    }
}

/// Whether each condition has what Open vSwitch needs for it.
fn check(conditions: &[Condition], mask: u32) -> Result<(), String> {
    let of = |field: Field| conditions.iter().find(|(other, _)| *other == field).map(|c| c.1);
    let has = |fields: &[Field]| fields.iter().any(|field| mask & field.bit() != 0);
    let kind_is = |number| of(Field::Kind) == Some((number, number));
    if has(&[Field::Frag, Field::Proto]) && !kind_is(kind::IP) {
        return Err("a condition of IP without `ip`".to_owned());
    }
    if has(&[Field::ArpOp, Field::Sha]) && !kind_is(kind::ARP) {
        return Err("a condition of ARP without `arp`".to_owned());
    }
    if has(&[Field::Src, Field::Dst]) && of(Field::Kind).is_none() {
        return Err("an address without `ip` or `arp`".to_owned());
    }
    if has(&[Field::SrcPort, Field::DstPort]) && of(Field::Proto).is_none() {
        return Err("a port without a protocol".to_owned());
    }
    Ok(())
}

/// The actions that are one word.
const WORDS: [(&str, Action); 13] = [
    ("move:NXM_NX_TUN_ID[0..31]->NXM_NX_REG0[]", Action::VniToReg0),
    ("move:NXM_NX_REG0[]->NXM_NX_TUN_ID[0..31]", Action::Reg0ToVni),
    ("move:NXM_OF_IP_DST[]->NXM_NX_REG3[]", Action::DstToReg3),
    ("move:NXM_NX_REG3[]->NXM_OF_IP_DST[]", Action::Reg3ToDst),
    ("move:NXM_NX_REG3[]->NXM_OF_IP_SRC[]", Action::Reg3ToSrc),
    ("move:NXM_OF_ETH_SRC[]->NXM_OF_ETH_DST[]", Action::EthSrcToDst),
    ("move:NXM_NX_ARP_SHA[]->NXM_NX_ARP_THA[]", Action::ShaToTha),
    ("move:NXM_OF_ARP_TPA[]->NXM_NX_REG3[]", Action::DstToReg3),
    ("move:NXM_OF_ARP_SPA[]->NXM_OF_ARP_TPA[]", Action::SpaToTpa),
    ("move:NXM_NX_REG3[]->NXM_OF_ARP_SPA[]", Action::Reg3ToSrc),
    ("output:NXM_NX_REG2[]", Action::OutputReg2),
    ("IN_PORT", Action::OutputInPort),
    ("ct_clear", Action::ForgetState),
];

fn action(at: &mut Cursor<'_>) -> Result<Action, String> {
    for (word, action) in WORDS {
        if at.eat(word) {
            return Ok(action);
        }
    }
    if at.eat("goto_table:") {
        return table(at).map(Action::Goto);
    }
    if at.eat("output:") {
        return at.decimal(0xffff).map(Action::Output);
    }
    if at.eat("group:") {
        return at.decimal(0xffff_ffff).map(Action::Group);
    }
    if at.eat("meter:") {
        return at.decimal(0xffff_ffff).map(Action::Meter);
    }
    if at.eat("ct(table=") {
        let table = table(at)?;
        at.need(",zone=")?;
        let zone = at.decimal(0xffff)?;
        let nat = at.eat(",nat");
        at.need(")")?;
        return Ok(Action::Track { table, zone, nat });
    }
    if at.eat("note:") {
        let hex = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte) || byte == b'.';
        return match at.take_while(hex).len() {
            0 => Err("an empty note".to_owned()),
            _ => Ok(Action::Note),
        };
    }
    at.need("set_field:")?;
    set_field(at)
}

fn table(at: &mut Cursor<'_>) -> Result<u8, String> {
    u8::try_from(at.decimal(254)?).map_err(|_| "no table".to_owned())
}

fn set_field(at: &mut Cursor<'_>) -> Result<Action, String> {
    let value = *at;
    at.take_while(|byte| byte != b'-');
    let mut value = Cursor(&value.0[..value.0.len() - at.0.len()]);
    at.need("->")?;
    let field =
        at.take_while(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_');
    let load = |field| move |number| Action::Load(field, number);
    let action = match field {
        b"reg0" => value.hex(0xffff_ffff).map(load(Field::Reg0)),
        b"reg1" => value.hex(0xffff_ffff).map(load(Field::Reg1)),
        b"reg2" => value.hex(0xffff_ffff).map(load(Field::Reg2)),
        b"reg3" => value.hex(0xffff_ffff).map(load(Field::Reg3)),
        b"tun_dst" => value.address().map(Action::SetTunnelDst),
        b"ip_dst" => value.address().map(Action::Dst),
        b"eth_dst" => value.mac().map(Action::EthDst),
        b"eth_src" => value.mac().map(Action::EthSrc),
        b"arp_sha" => value.mac().map(Action::Sha),
        b"arp_op" => value.decimal(0xffff).map(Action::ArpOp),
        b"pkt_mark" => value.decimal(0).map(|_| Action::ClearMark),
        b"in_port" => value.decimal(0).map(|_| Action::ClearInPort),
        _ => {
            let field = String::from_utf8_lossy(field);
            Err(format!("unknown field {}", crate::diagnostic::quoted(&field)))
        }
    }?;
    if !value.is_done() {
        return Err(format!("expected `->`, found {}", value.shown()));
    }
    Ok(action)
}
