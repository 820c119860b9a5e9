//! What a flow matches.

use std::net::Ipv4Addr;
use std::ops::RangeInclusive;

use ipnet::Ipv4Net;

use super::{write_byte, write_hex, write_number};
use crate::pipeline::{OfPort, Register};
use crate::value::{Mac, Protocol};

/// The packets that a flow takes: all conditions hold together.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Match {
    /// The mark that the node's kernel gave the packet.
    pub mark: Option<u32>,
    /// Whether the frame has a VLAN tag (802.1Q). Every other condition sees through one.
    pub tagged: bool,
    /// What conntrack says of the packet.
    pub ct: Option<CtState>,
    /// The VNID of the source, in reg0.
    pub source: Option<u32>,
    /// The VNID of the destination, in reg1.
    pub destination: Option<u32>,
    /// The port of the destination, in reg2.
    pub output: Option<OfPort>,
    /// What network policies have found so far.
    pub policy: Option<PolicyState>,
    /// Which part of the copies of a multicast packet is next, in reg3.
    pub part: Option<u32>,
    /// The address of the node that sent the packet through a tunnel.
    pub tunnel_source: Option<Ipv4Addr>,
    /// The port by which the packet came.
    pub in_port: Option<OfPort>,
    /// The Ethernet source address.
    pub dl_src: Option<Mac>,
    /// What is in the frame.
    pub packet: Packet,
}

/// What conntrack says of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum CtState {
    /// It wasn't asked yet.
    Untracked,
    /// It begins a connection.
    New,
    /// It goes the other way than the connection began.
    Reply,
    /// It is an error about a connection.
    Related,
}

/// What network policies have found of a packet so far.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum PolicyState {
    /// A policy selects the sender: reg4 has the lowest bit.
    SenderSelected,
    /// A policy selects the sender, and none isolates what it sends: reg4 is 1.
    SenderOpen,
    /// A policy selects the receiver, and none isolates what it gets: reg5 is 1.
    ReceiverOpen,
    /// It was tracked on this node: reg6 is 1.
    Tracked,
    /// The other end may be a pod: reg7 is 0.
    MayBePod,
    /// It meets all dimensions of the conjunction of this number.
    Met(u32),
}

/// What a frame holds.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Packet {
    /// Anything.
    #[default]
    Any,
    /// ARP (RFC 826).
    Arp(ArpMatch),
    /// IPv4.
    Ip(IpMatch),
}

/// Conditions on an ARP packet.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ArpMatch {
    /// The sender's IP address.
    pub spa: Option<Ipv4Net>,
    /// The target's IP address.
    pub tpa: Option<Ipv4Net>,
    /// Bits of the target's IP address, in place of `tpa`.
    pub tpa_bits: Option<MaskedAddress>,
    /// The sender's Ethernet address.
    pub sha: Option<Mac>,
    /// Whether it must be a request.
    pub request: bool,
}

/// Conditions on an IPv4 packet.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct IpMatch {
    /// The source address.
    pub src: Option<Ipv4Net>,
    /// The destination address.
    pub dst: Option<Ipv4Net>,
    /// The transport protocol.
    pub l4: L4,
    /// Whether it is a fragment.
    pub fragment: Option<Fragment>,
    /// Bits of the source or destination address, in place of `src` or `dst`.
    pub bits: Option<AddressBits>,
}

/// Some bits of the address of one end of a packet, which needn't be the first ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum AddressBits {
    /// Of the source.
    Source(MaskedAddress),
    /// Of the destination.
    Destination(MaskedAddress),
}

/// Addresses whose bits under the mask have this value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MaskedAddress {
    /// The bits that count.
    pub value: Ipv4Addr,
    /// Which bits count.
    pub mask: Ipv4Addr,
}

impl MaskedAddress {
    /// One address.
    #[must_use]
    pub fn exact(address: Ipv4Addr) -> Self {
        Self { value: address, mask: Ipv4Addr::BROADCAST }
    }

    /// Whether the address is one of these.
    #[must_use]
    pub fn contains(self, address: Ipv4Addr) -> bool {
        address & self.mask == self.value
    }
}

/// Conditions on the transport protocol.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum L4 {
    /// Any protocol.
    #[default]
    Any,
    /// TCP to these ports.
    Tcp(Option<MaskedPort>),
    /// UDP to these ports.
    Udp(Option<MaskedPort>),
    /// SCTP to these ports.
    Sctp(Option<MaskedPort>),
    /// ICMP of this type.
    Icmp(u8),
}

impl L4 {
    /// Packets of a protocol, to these ports.
    #[must_use]
    pub fn of(protocol: Protocol, ports: Option<MaskedPort>) -> Self {
        match protocol {
            Protocol::Tcp => Self::Tcp(ports),
            Protocol::Udp => Self::Udp(ports),
            Protocol::Sctp => Self::Sctp(ports),
        }
    }
}

/// Whether a packet is a fragment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Fragment {
    /// The first.
    First,
    /// A first fragment whose ports Open vSwitch doesn't know, so that it takes them as 0: one with
    /// less than the whole header of TCP, or any in frag mode `normal`. Needs a protocol.
    Portless,
    /// A fragment that is not the first: it has no ports.
    Later,
}

/// Ports whose bits under the mask have this value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MaskedPort {
    /// The bits that count.
    pub value: u16,
    /// Which bits count.
    pub mask: u16,
}

impl MaskedPort {
    /// One port.
    #[must_use]
    pub fn exact(port: u16) -> Self {
        Self { value: port, mask: u16::MAX }
    }

    /// Whether the port is one of these.
    #[must_use]
    pub fn contains(self, port: u16) -> bool {
        port & self.mask == self.value
    }
}

/// The fewest masked ports that together are exactly the range.
#[must_use]
pub fn port_masks(range: &RangeInclusive<u16>) -> Vec<MaskedPort> {
    let (mut start, end) = (u32::from(*range.start()), u32::from(*range.end()));
    let mut masks = Vec::new();
    while start <= end {
        // The largest aligned block that begins here and doesn't go beyond the end.
        let mut size = if start == 0 { 1 << 16 } else { 1 << start.trailing_zeros() };
        while start + size - 1 > end {
            size >>= 1;
        }
        let narrow = |number: u32| u16::try_from(number).unwrap_or(u16::MAX);
        masks.push(MaskedPort { value: narrow(start), mask: narrow(0x1_0000 - size) });
        start += size;
    }
    masks
}

impl Match {
    /// Appends every condition with a comma before it, in Open vSwitch's order.
    pub(super) fn write(&self, out: &mut Vec<u8>) {
        if let Some(mark) = self.mark {
            out.extend_from_slice(b",pkt_mark=");
            write_hex(out, mark.into());
        }
        if let Some(PolicyState::Met(id)) = self.policy {
            out.extend_from_slice(b",conj_id=");
            write_number(out, id.into());
        }
        if let Some(state) = self.ct {
            out.extend_from_slice(match state {
                CtState::Untracked => b",ct_state=-trk",
                CtState::New => b",ct_state=+new+trk",
                CtState::Reply => b",ct_state=+rpl+trk",
                CtState::Related => b",ct_state=+rel+trk",
            });
        }
        match &self.packet {
            Packet::Any => {}
            Packet::Arp(_) => out.extend_from_slice(b",arp"),
            Packet::Ip(ip) => out.extend_from_slice(match ip.l4 {
                L4::Any => b",ip",
                L4::Tcp(_) => b",tcp",
                L4::Udp(_) => b",udp",
                L4::Sctp(_) => b",sctp",
                L4::Icmp(_) => b",icmp",
            }),
        }
        for (register, value) in [
            (Register::Source, self.source),
            (Register::Destination, self.destination),
            (Register::Port, self.output.map(|port| port.get().into())),
            (Register::Part, self.part),
        ] {
            if let Some(value) = value {
                out.extend_from_slice(b",reg");
                write_number(out, register.number().into());
                out.push(b'=');
                // Open vSwitch prints zero without the prefix here.
                if value == 0 {
                    out.push(b'0');
                } else {
                    write_hex(out, value.into());
                }
            }
        }
        match self.policy {
            None | Some(PolicyState::Met(_)) => {}
            Some(PolicyState::SenderSelected) => out.extend_from_slice(b",reg4=0x1/0x1"),
            Some(PolicyState::SenderOpen) => out.extend_from_slice(b",reg4=0x1"),
            Some(PolicyState::ReceiverOpen) => out.extend_from_slice(b",reg5=0x1"),
            Some(PolicyState::Tracked) => out.extend_from_slice(b",reg6=0x1"),
            Some(PolicyState::MayBePod) => out.extend_from_slice(b",reg7=0"),
        }
        if let Some(address) = self.tunnel_source {
            out.extend_from_slice(b",tun_src=");
            write_address(out, address);
        }
        if let Some(port) = self.in_port {
            out.extend_from_slice(b",in_port=");
            write_number(out, port.get().into());
        }
        if self.tagged {
            out.extend_from_slice(b",vlan_tci=0x1000/0x1000");
        }
        if let Some(mac) = self.dl_src {
            out.extend_from_slice(b",dl_src=");
            write_mac(out, mac);
        }
        self.packet.write_conditions(out);
    }
}

impl Packet {
    /// Appends what has to hold inside of the frame.
    fn write_conditions(&self, out: &mut Vec<u8>) {
        match self {
            Packet::Any => {}
            Packet::Arp(ArpMatch { spa, tpa, tpa_bits, sha, request }) => {
                write_network(out, b",arp_spa=", *spa);
                write_network(out, b",arp_tpa=", *tpa);
                if let Some(bits) = tpa_bits {
                    write_bits(out, b",arp_tpa=", *bits);
                }
                if *request {
                    out.extend_from_slice(b",arp_op=1");
                }
                if let Some(mac) = sha {
                    out.extend_from_slice(b",arp_sha=");
                    write_mac(out, *mac);
                }
            }
            Packet::Ip(IpMatch { src, dst, l4, fragment, bits }) => {
                write_network(out, b",nw_src=", *src);
                if let Some(AddressBits::Source(bits)) = bits {
                    write_bits(out, b",nw_src=", *bits);
                }
                write_network(out, b",nw_dst=", *dst);
                if let Some(AddressBits::Destination(bits)) = bits {
                    write_bits(out, b",nw_dst=", *bits);
                }
                out.extend_from_slice(match fragment {
                    None => b"",
                    Some(Fragment::First) => b",nw_frag=first",
                    Some(Fragment::Portless) => b",nw_frag=first,tp_src=0,tp_dst=0",
                    Some(Fragment::Later) => b",nw_frag=later",
                });
                if let L4::Icmp(kind) = l4 {
                    out.extend_from_slice(b",icmp_type=");
                    write_number(out, (*kind).into());
                }
                if let L4::Tcp(Some(port)) | L4::Udp(Some(port)) | L4::Sctp(Some(port)) = l4 {
                    out.extend_from_slice(b",tp_dst=");
                    if port.mask == u16::MAX {
                        write_number(out, port.value.into());
                    } else {
                        write_hex(out, port.value.into());
                        out.push(b'/');
                        write_hex(out, port.mask.into());
                    }
                }
            }
        }
    }
}

fn write_network(out: &mut Vec<u8>, key: &[u8], network: Option<Ipv4Net>) {
    let Some(network) = network else { return };
    out.extend_from_slice(key);
    write_address(out, network.addr());
    if network.prefix_len() < 32 {
        out.push(b'/');
        write_number(out, network.prefix_len().into());
    }
}

fn write_bits(out: &mut Vec<u8>, key: &[u8], bits: MaskedAddress) {
    out.extend_from_slice(key);
    write_address(out, bits.value);
    if bits.mask != Ipv4Addr::BROADCAST {
        out.push(b'/');
        write_address(out, bits.mask);
    }
}

pub(super) fn write_address(out: &mut Vec<u8>, address: Ipv4Addr) {
    for (number, octet) in address.octets().into_iter().enumerate() {
        if number > 0 {
            out.push(b'.');
        }
        write_number(out, octet.into());
    }
}

pub(super) fn write_mac(out: &mut Vec<u8>, mac: Mac) {
    for (number, byte) in mac.bytes().into_iter().enumerate() {
        if number > 0 {
            out.push(b':');
        }
        write_byte(out, byte);
    }
}
