//! What a flow does.

use std::net::Ipv4Addr;

use super::matches::write_address;
use super::matches::write_mac;
use super::{write_byte, write_hex, write_number};
use crate::pipeline::{OfPort, POLICY_ZONE, Register, SERVICE_ZONE, Table};
use crate::value::Mac;

/// The longest note that [`Action::Note`] pads to. A note's action has a header of ten bytes and
/// a length that is a multiple of eight.
const NOTE_BYTES: usize = 38;

/// One action.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Puts a number into a register.
    Load(Register, u32),
    /// Puts the VNI of the tunnel into reg0.
    LoadSourceFromTunnelId,
    /// Makes reg0 the VNI of the tunnel.
    SetTunnelId,
    /// Chooses the node that the tunnel leads to.
    SetTunnelDst(Ipv4Addr),
    /// Sends the packet out of a port.
    Output(OfPort),
    /// Sends the packet out of the port in reg2.
    OutputRegister,
    /// Goes on in a later table.
    Goto(Table),
    /// Sends a copy through conntrack in this zone to a later table, and goes on. The copy keeps
    /// its registers. Its match must be on IP.
    Recirculate(Table, u16),
    /// Tracks the packet among the connections to services, translates it as its connection was
    /// committed, and goes on in any table.
    Track(Table),
    /// Tracks the packet among the connections of pods that network policies select, and goes on in
    /// any table.
    TrackForPolicies(Table),
    /// Remembers the connection among those of pods that network policies select, and goes on.
    CommitForPolicies,
    /// The packet meets one dimension of a conjunction. With all of its dimensions, it is looked up
    /// once more in the same table, as one for which [`PolicyState::Met`](super::PolicyState::Met)
    /// holds.
    Conjunction {
        /// The number of the conjunction.
        id: u32,
        /// Which dimension, from 1.
        dimension: u8,
        /// How many dimensions there are, at least 2.
        of: u8,
    },
    /// Forgets what tracking found, so that a changed packet can be tracked anew: the kernel's
    /// datapath looks for no other connection in a zone that it has just been through.
    CtClear,
    /// Drops the packet where a meter has had too many.
    Meter(u32),
    /// Chooses a bucket of a group.
    Group(u32),
    /// Gives the frame this Ethernet destination.
    SetEthDst(Mac),
    /// Gives the packet this destination.
    SetIpDst(Ipv4Addr),
    /// Puts the destination into reg3.
    SaveIpDst,
    /// Makes reg3 the destination.
    RestoreIpDst,
    /// Makes reg3 the source.
    RestoreIpSrc,
    /// Forgets the mark of the node's kernel, which else would go on into a tunnel's packets.
    ClearMark,
    /// Forgets the port of entry, so that the packet can leave by it.
    ClearInPort,
    /// Answers an ARP request with this Ethernet address, by the port of entry.
    ArpReply(Mac),
    /// Does nothing but hold up to 38 bytes, padded with zeros.
    Note([u8; 32]),
}

impl Action {
    pub(super) fn write(&self, out: &mut Vec<u8>) {
        match self {
            Self::Load(register, value) => {
                out.extend_from_slice(b"set_field:");
                write_hex(out, (*value).into());
                out.extend_from_slice(b"->reg");
                write_number(out, register.number().into());
            }
            Self::LoadSourceFromTunnelId => {
                out.extend_from_slice(b"move:NXM_NX_TUN_ID[0..31]->NXM_NX_REG0[]");
            }
            Self::SetTunnelId => {
                out.extend_from_slice(b"move:NXM_NX_REG0[]->NXM_NX_TUN_ID[0..31]");
            }
            Self::SetTunnelDst(address) => {
                out.extend_from_slice(b"set_field:");
                write_address(out, *address);
                out.extend_from_slice(b"->tun_dst");
            }
            Self::Output(port) => {
                out.extend_from_slice(b"output:");
                write_number(out, port.get().into());
            }
            Self::OutputRegister => out.extend_from_slice(b"output:NXM_NX_REG2[]"),
            Self::Goto(table) => {
                out.extend_from_slice(b"goto_table:");
                write_number(out, table.number().into());
            }
            Self::Recirculate(table, zone) => {
                out.extend_from_slice(b"ct(table=");
                write_number(out, table.number().into());
                out.extend_from_slice(b",zone=");
                write_number(out, (*zone).into());
                out.push(b')');
            }
            Self::Track(table) => {
                out.extend_from_slice(b"ct(table=");
                write_number(out, table.number().into());
                out.extend_from_slice(b",zone=");
                write_number(out, SERVICE_ZONE.into());
                out.extend_from_slice(b",nat)");
            }
            Self::TrackForPolicies(_) | Self::CommitForPolicies | Self::Conjunction { .. } => {
                self.write_of_policies(out);
            }
            Self::CtClear => out.extend_from_slice(b"ct_clear"),
            Self::Meter(id) => {
                out.extend_from_slice(b"meter:");
                write_number(out, (*id).into());
            }
            Self::Group(id) => {
                out.extend_from_slice(b"group:");
                write_number(out, (*id).into());
            }
            Self::SetEthDst(mac) => {
                out.extend_from_slice(b"set_field:");
                write_mac(out, *mac);
                out.extend_from_slice(b"->eth_dst");
            }
            Self::SetIpDst(address) => {
                out.extend_from_slice(b"set_field:");
                write_address(out, *address);
                out.extend_from_slice(b"->ip_dst");
            }
            Self::SaveIpDst => {
                out.extend_from_slice(b"move:NXM_OF_IP_DST[]->NXM_NX_REG3[]");
            }
            Self::RestoreIpDst => {
                out.extend_from_slice(b"move:NXM_NX_REG3[]->NXM_OF_IP_DST[]");
            }
            Self::RestoreIpSrc => {
                out.extend_from_slice(b"move:NXM_NX_REG3[]->NXM_OF_IP_SRC[]");
            }
            Self::ClearMark => out.extend_from_slice(b"set_field:0->pkt_mark"),
            Self::ClearInPort => out.extend_from_slice(b"set_field:0->in_port"),
            Self::ArpReply(mac) => {
                out.extend_from_slice(b"move:NXM_OF_ETH_SRC[]->NXM_OF_ETH_DST[],set_field:");
                write_mac(out, *mac);
                out.extend_from_slice(
                    b"->eth_src,set_field:2->arp_op,move:NXM_NX_ARP_SHA[]->NXM_NX_ARP_THA[],set_field:",
                );
                write_mac(out, *mac);
                out.extend_from_slice(
                    b"->arp_sha,move:NXM_OF_ARP_TPA[]->NXM_NX_REG3[],\
                      move:NXM_OF_ARP_SPA[]->NXM_OF_ARP_TPA[],\
                      move:NXM_NX_REG3[]->NXM_OF_ARP_SPA[],IN_PORT",
                );
            }
            Self::Note(bytes) => {
                out.extend_from_slice(b"note:");
                for number in 0..NOTE_BYTES {
                    if number > 0 {
                        out.push(b'.');
                    }
                    write_byte(out, bytes.get(number).copied().unwrap_or(0));
                }
            }
        }
    }

    /// What network policies alone need.
    fn write_of_policies(&self, out: &mut Vec<u8>) {
        match self {
            Self::TrackForPolicies(table) => {
                out.extend_from_slice(b"ct(table=");
                write_number(out, table.number().into());
                out.extend_from_slice(b",zone=");
                write_number(out, POLICY_ZONE.into());
                out.push(b')');
            }
            Self::CommitForPolicies => {
                out.extend_from_slice(b"ct(commit,zone=");
                write_number(out, POLICY_ZONE.into());
                out.push(b')');
            }
            Self::Conjunction { id, dimension, of } => {
                out.extend_from_slice(b"conjunction(");
                write_number(out, (*id).into());
                out.push(b',');
                write_number(out, (*dimension).into());
                out.push(b'/');
                write_number(out, (*of).into());
                out.push(b')');
            }
            _ => {}
        }
    }
}
