//! IP addresses and networks. Both hold either family; `resolve` refuses IPv6 until it works.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr};

use ipnet::{IpNet, Ipv4Net};

use super::{Invalid, StringValue, string_value};
use crate::diagnostic::{Code, quoted};

/// An IP address without a prefix length.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Address(pub IpAddr);

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl StringValue for Address {
    const FORMAT: &'static str = "ip-address";

    fn parse(text: &str) -> Result<Self, Invalid> {
        text.parse().map(Self).map_err(|_| {
            let invalid =
                Invalid::new(Code::BadAddress, format!("{} is not an IP address", quoted(text)));
            match text.split_once('/') {
                Some((address, _)) if address.parse::<IpAddr>().is_ok() => {
                    invalid.help(format!("write it without the prefix length: {address}"))
                }
                _ => invalid.help("write four numbers from 0 to 255, such as 192.168.12.11"),
            }
        })
    }
}

string_value!(
    Address,
    "an IP address without a prefix length",
    r"^([0-9]{1,3}(\.[0-9]{1,3}){3}|[0-9a-fA-F:.]*:[0-9a-fA-F:.]*)$",
    "192.168.12.11"
);

/// An IP network in CIDR notation (RFC 4632), without host bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Cidr(pub IpNet);

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl StringValue for Cidr {
    const FORMAT: &'static str = "cidr";

    fn parse(text: &str) -> Result<Self, Invalid> {
        let Ok(network) = text.parse::<IpNet>() else {
            let invalid = Invalid::new(Code::BadCidr, format!("{} is not a network", quoted(text)));
            return Err(match text.parse::<IpAddr>() {
                Ok(address) => {
                    let bits = if address.is_ipv4() { 32 } else { 128 };
                    invalid.help(format!(
                        "add the prefix length, such as {address}/{}; /{bits} is the address alone",
                        bits / 2
                    ))
                }
                Err(_) => match text.split_once('/') {
                    Some((address, _)) if address.parse::<Ipv4Addr>().is_ok() => {
                        invalid.help("the prefix length is a number from 0 to 32")
                    }
                    _ => invalid.help("write an address and a prefix length, such as 1.2.3.0/24"),
                },
            });
        };
        if network.addr() != network.network() {
            let message = format!("{} has host bits set", quoted(text));
            return Err(Invalid::new(Code::HostBits, message).help(format!(
                "the network is {}; the address alone is {}/{}",
                network.trunc(),
                network.addr(),
                network.max_prefix_len()
            )));
        }
        Ok(Self(network))
    }
}

string_value!(
    Cidr,
    "an IP network in CIDR notation, without host bits",
    r"^([0-9]{1,3}(\.[0-9]{1,3}){3}|[0-9a-fA-F:.]*:[0-9a-fA-F:.]*)/[0-9]{1,3}$",
    "10.128.0.0/14"
);

/// A form of the value that is IPv4, which is all that the later stages take.
pub trait Ipv4Form {
    /// The IPv4 type.
    type V4;

    /// The value as IPv4, or `None` where it is IPv6.
    fn v4(&self) -> Option<Self::V4>;
}

impl Ipv4Form for Address {
    type V4 = Ipv4Addr;

    fn v4(&self) -> Option<Ipv4Addr> {
        match self.0 {
            IpAddr::V4(address) => Some(address),
            IpAddr::V6(_) => None,
        }
    }
}

impl Ipv4Form for Cidr {
    type V4 = Ipv4Net;

    fn v4(&self) -> Option<Ipv4Net> {
        match self.0 {
            IpNet::V4(network) => Some(network),
            IpNet::V6(_) => None,
        }
    }
}

/// The IPv4 form of an address or network, or why it isn't taken.
pub fn ipv4<T: Ipv4Form + fmt::Display>(value: &T) -> Result<T::V4, Invalid> {
    value.v4().ok_or_else(|| {
        Invalid::new(Code::Ipv6, format!("`{value}` is IPv6, which ringfence does not support yet"))
            .help("use an IPv4 address or network")
    })
}
