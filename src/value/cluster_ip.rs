//! The address of a service, or that it has none.

use std::fmt;

use super::{Address, Invalid, StringValue, string_value};

/// An IP address, or `None`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClusterIp {
    /// No address: a headless service.
    None,
    /// This address.
    Address(Address),
}

impl fmt::Display for ClusterIp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => f.write_str("None"),
            Self::Address(address) => address.fmt(f),
        }
    }
}

impl StringValue for ClusterIp {
    const FORMAT: &'static str = "cluster-ip";

    fn parse(text: &str) -> Result<Self, Invalid> {
        match text {
            "None" => Ok(Self::None),
            _ => Address::parse(text).map(Self::Address),
        }
    }
}

string_value!(
    ClusterIp,
    "the address of a service, or None",
    r"^(None|[0-9]{1,3}(\.[0-9]{1,3}){3}|[0-9a-fA-F:.]*:[0-9a-fA-F:.]*)$",
    "172.30.0.10"
);
