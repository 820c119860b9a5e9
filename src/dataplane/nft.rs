//! nft rulesets as types. Rules print themselves; `render` puts them into a file.

mod chain;

use std::fmt;
use std::net::Ipv4Addr;
use std::ops::RangeInclusive;

use ipnet::Ipv4Net;

pub use chain::{Chain, ChainKind, Hook, Policy, Priority};

use crate::dataplane::origin::ObjectRef;
use crate::value::{InterfaceName, Port, Protocol};

/// The name of every table of ours, in whatever family.
pub const TABLE: &str = "ringfence";

/// The tables of one network namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ruleset<'m> {
    /// The tables, one a family.
    pub tables: Vec<Table<'m>>,
}

/// One table.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Table<'m> {
    /// Its family.
    pub family: Family,
    /// Its sets.
    pub sets: Vec<Set>,
    /// Its maps.
    pub maps: Vec<PortMap>,
    /// Its maps of addresses.
    pub address_maps: Vec<AddressMap>,
    /// Its base chains.
    pub chains: Vec<Chain<'m>>,
}

/// The packets that a table sees.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Family {
    /// IPv4 and IPv6.
    #[default]
    Inet,
    /// ARP.
    Arp,
}

impl Family {
    /// All families that ringfence has tables in.
    pub const ALL: [Self; 2] = [Self::Inet, Self::Arp];

    /// The name in nft.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Inet => "inet",
            Self::Arp => "arp",
        }
    }
}

/// A set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Set {
    /// Its name.
    pub name: &'static str,
    /// Its elements.
    pub elements: Elements,
}

/// The elements of a set, sorted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Elements {
    /// Interfaces by name. They need not exist.
    Interfaces(Vec<InterfaceName>),
    /// Addresses.
    Addresses(Vec<Ipv4Addr>),
    /// Ports.
    Ports(Vec<(Protocol, Port)>),
    /// Ports that something comes to by an interface.
    InterfacePorts(Vec<(InterfaceName, Protocol, Port)>),
    /// Ports of addresses.
    AddressPorts(Vec<(Ipv4Addr, Protocol, Port)>),
}

impl Elements {
    /// Their type in nft.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Interfaces(_) => "ifname",
            Self::Addresses(_) => "ipv4_addr",
            Self::Ports(_) => "inet_proto . inet_service",
            Self::InterfacePorts(_) => "ifname . inet_proto . inet_service",
            Self::AddressPorts(_) => "ipv4_addr . inet_proto . inet_service",
        }
    }

    /// Each as nft reads it.
    #[must_use]
    pub fn lines(&self) -> Vec<String> {
        match self {
            Self::Interfaces(all) => all.iter().map(|name| format!("\"{name}\"")).collect(),
            Self::Addresses(all) => all.iter().map(ToString::to_string).collect(),
            Self::Ports(all) => {
                all.iter().map(|(protocol, port)| format!("{protocol} . {port}")).collect()
            }
            Self::InterfacePorts(all) => all
                .iter()
                .map(|(name, protocol, port)| format!("\"{name}\" . {protocol} . {port}"))
                .collect(),
            Self::AddressPorts(all) => all
                .iter()
                .map(|(address, protocol, port)| format!("{address} . {protocol} . {port}"))
                .collect(),
        }
    }
}

/// A map from protocol and port to address and port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortMap {
    /// Its name.
    pub name: &'static str,
    /// Its elements, sorted.
    pub elements: Vec<((Protocol, Port), (Ipv4Addr, Port))>,
}

/// A map from address to address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AddressMap {
    /// Its name.
    pub name: &'static str,
    /// Its elements, sorted.
    pub elements: Vec<(Ipv4Addr, Ipv4Addr)>,
}

/// One rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule<'m> {
    /// Its conditions, all of which must hold.
    pub conditions: Vec<Condition>,
    /// What it does.
    pub statement: Statement,
    /// The object that it stands for.
    pub subject: &'m ObjectRef,
}

/// A condition of a rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Condition {
    /// It came in by this interface.
    Iif(InterfaceName),
    /// It came in by another interface.
    NotIif(InterfaceName),
    /// It came in by an interface of this set.
    IifIn(&'static str),
    /// It comes by an interface to a port that are together in this set.
    IifPortIn(&'static str),
    /// It is to an address and port that are together in this set.
    DestinationPortIn(&'static str),
    /// It is to an address of this set.
    DestinationIn(&'static str),
    /// It is to an address that is not of this set.
    DestinationNotIn(&'static str),
    /// It is to a port of this set.
    PortIn(&'static str),
    /// It is to an address of this machine.
    ToLocal,
    /// It is from an address of this machine.
    FromLocal,
    /// It goes out by this interface.
    Oif(InterfaceName),
    /// It goes out by another interface.
    NotOif(InterfaceName),
    /// Its source is in this network.
    Source(Ipv4Net),
    /// Its source is elsewhere.
    NotSource(Ipv4Net),
    /// Its destination is in this network.
    Destination(Ipv4Net),
    /// Its destination is outside of this network.
    DestinationOutside(Ipv4Net),
    /// It opens a connection.
    CtNew,
    /// It belongs to a connection that was let through, or relates to one.
    CtEstablished,
    /// Its connection has its destination translated.
    CtDnat,
    /// It is TCP or UDP.
    TcpOrUdp,
    /// It has this protocol.
    Protocol(Protocol),
    /// It is TCP, for one of these ports.
    TcpPorts(Vec<Port>),
    /// It has this protocol, for this port.
    Port(Protocol, Port),
    /// It has this protocol, for one of these ports, in order and apart.
    Ports(Protocol, Vec<RangeInclusive<u16>>),
    /// It asks for an echo (RFC 792).
    EchoRequest,
}

/// What a rule does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Statement {
    /// Lets the packet through this chain.
    Accept,
    /// Drops it.
    Drop,
    /// Drops it and counts it.
    CountedDrop,
    /// Gives it this mark.
    Mark(u32),
    /// Drops it and tells its sender, as this protocol would.
    Reject(Refusal),
    /// Gives it the address of the interface by which it leaves.
    Masquerade,
    /// Gives it this source address.
    Snat(Ipv4Addr),
    /// Gives it the source address that a map has for its own, if it has one.
    SnatByMap(&'static str),
    /// Gives it this destination address.
    Dnat(Ipv4Addr),
    /// Gives it the destination that a map has for its protocol and port.
    DnatByMap(&'static str),
    /// Gives its connection one of these destinations by chance, or always the same.
    DnatBalanced(Vec<(Ipv4Addr, Port)>, Choice),
}

/// How a connection gets one of several.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Choice {
    /// By chance.
    Random,
    /// By the address of its sender.
    BySource,
}

/// How a sender learns that nobody takes its packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// By a TCP reset.
    Reset,
    /// By an ICMP error: nobody listens at the port.
    Port,
    /// By an ICMP error: nobody speaks the protocol. SCTP gives up at once (RFC 9260, 10).
    Protocol,
}

impl fmt::Display for Condition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Iif(name) => write!(f, "iifname \"{name}\""),
            Self::NotIif(name) => write!(f, "iifname != \"{name}\""),
            Self::IifIn(set) => write!(f, "iifname @{set}"),
            Self::IifPortIn(set) => write!(f, "iifname . meta l4proto . th dport @{set}"),
            Self::DestinationPortIn(set) => {
                write!(f, "ip daddr . meta l4proto . th dport @{set}")
            }
            Self::DestinationIn(set) => write!(f, "ip daddr @{set}"),
            Self::DestinationNotIn(set) => write!(f, "ip daddr != @{set}"),
            Self::PortIn(set) => write!(f, "meta l4proto . th dport @{set}"),
            Self::ToLocal => f.write_str("fib daddr type local"),
            Self::FromLocal => f.write_str("fib saddr type local"),
            Self::Oif(name) => write!(f, "oifname \"{name}\""),
            Self::NotOif(name) => write!(f, "oifname != \"{name}\""),
            Self::Source(network) => write!(f, "ip saddr {}", Network(*network)),
            Self::NotSource(network) => write!(f, "ip saddr != {}", Network(*network)),
            Self::Destination(network) => write!(f, "ip daddr {}", Network(*network)),
            Self::DestinationOutside(network) => {
                write!(f, "ip daddr != {}", Network(*network))
            }
            Self::CtNew => f.write_str("ct state new"),
            Self::CtEstablished => f.write_str("ct state established,related"),
            Self::CtDnat => f.write_str("ct status dnat"),
            Self::Protocol(protocol) => write!(f, "meta l4proto {protocol}"),
            Self::TcpOrUdp => f.write_str("meta l4proto { tcp, udp }"),
            Self::TcpPorts(ports) => {
                let ports: Vec<String> = ports.iter().map(ToString::to_string).collect();
                write!(f, "tcp dport {{ {} }}", ports.join(", "))
            }
            Self::Port(protocol, port) => write!(f, "{protocol} dport {port}"),
            Self::Ports(protocol, ranges) => {
                let ranges = ranges.iter().map(|range| match (range.start(), range.end()) {
                    (first, last) if first == last => first.to_string(),
                    (first, last) => format!("{first}-{last}"),
                });
                write!(f, "{protocol} dport {{ {} }}", ranges.collect::<Vec<_>>().join(", "))
            }
            Self::EchoRequest => f.write_str("icmp type echo-request"),
        }
    }
}

impl fmt::Display for Statement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Accept => f.write_str("accept"),
            Self::Drop => f.write_str("drop"),
            Self::CountedDrop => f.write_str("counter drop"),
            Self::Mark(mark) => write!(f, "meta mark set {mark:#010x}"),
            Self::Reject(Refusal::Reset) => f.write_str("reject with tcp reset"),
            Self::Reject(Refusal::Port) => f.write_str("reject with icmp type port-unreachable"),
            Self::Reject(Refusal::Protocol) => {
                f.write_str("reject with icmp type prot-unreachable")
            }
            Self::Masquerade => f.write_str("masquerade"),
            Self::Snat(address) => write!(f, "snat ip to {address}"),
            Self::SnatByMap(map) => write!(f, "snat ip to ip saddr map @{map}"),
            Self::Dnat(address) => write!(f, "dnat ip to {address}"),
            Self::DnatByMap(map) => write!(f, "dnat ip to meta l4proto . th dport map @{map}"),
            Self::DnatBalanced(to, choice) => {
                if let [(address, port)] = to[..] {
                    return write!(f, "dnat ip to {address}:{port}");
                }
                let choice = match choice {
                    Choice::Random => "numgen random",
                    Choice::BySource => "jhash ip saddr",
                };
                let to = to.iter().enumerate();
                let to =
                    to.map(|(number, (address, port))| format!("{number} : {address} . {port}"));
                let (count, to) = (to.len(), to.collect::<Vec<_>>().join(", "));
                write!(f, "dnat ip to {choice} mod {count} map {{ {to} }}")
            }
        }
    }
}

impl fmt::Display for Rule<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for condition in &self.conditions {
            write!(f, "{condition} ")?;
        }
        write!(f, "{} comment \"{}\"", self.statement, self.subject.cookie)
    }
}

/// A network as nft prints it: a single address without its length.
struct Network(Ipv4Net);

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.prefix_len() {
            32 => self.0.addr().fmt(f),
            _ => self.0.fmt(f),
        }
    }
}
