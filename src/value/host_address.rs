//! The address of a host with its network, as interfaces have it.

use std::fmt;
use std::net::IpAddr;

use super::{Address, Invalid, StringValue, string_value};
use crate::diagnostic::{Code, quoted};

/// An IP address, with the prefix length of the network that it is in or without.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct HostAddress {
    /// The address.
    pub address: Address,
    /// The prefix length, from 0 to the bits of the address.
    pub length: Option<u8>,
}

impl fmt::Display for HostAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { address, length } = self;
        match length {
            Some(length) => write!(f, "{address}/{length}"),
            None => address.fmt(f),
        }
    }
}

impl StringValue for HostAddress {
    const FORMAT: &'static str = "host-address";

    fn parse(text: &str) -> Result<Self, Invalid> {
        let Some((host, length)) = text.split_once('/') else {
            return Ok(Self { address: Address::parse(text)?, length: None });
        };
        let wrong = |message: String, help: &str| {
            Err(Invalid::new(Code::BadAddress, message).help(help.to_owned()))
        };
        let Ok(address) = host.parse::<IpAddr>() else {
            let message = format!("{} is not an IP address with a prefix length", quoted(text));
            return wrong(message, "write an address such as 192.168.12.99 or 192.168.12.99/24");
        };
        let bits = if address.is_ipv4() { 32 } else { 128 };
        let digits = !length.is_empty() && length.bytes().all(|byte| byte.is_ascii_digit());
        match length.parse::<u8>() {
            Ok(number) if digits && number <= bits => {
                Ok(Self { address: Address(address), length: Some(number) })
            }
            _ => {
                let message = format!("{} has no prefix length after the slash", quoted(text));
                wrong(message, &format!("it is a number from 0 to {bits}"))
            }
        }
    }
}

string_value!(
    HostAddress,
    "an IP address, with the prefix length of its network or without",
    r"^([0-9]{1,3}(\.[0-9]{1,3}){3}|[0-9a-fA-F:.]*:[0-9a-fA-F:.]*)(/[0-9]{1,3})?$",
    "192.168.12.99/24"
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_length_is_kept_and_must_fit() {
        for text in ["192.168.12.99", "192.168.12.99/24", "192.168.12.99/32", "2001:db8::1/64"] {
            assert_eq!(HostAddress::parse(text).unwrap().to_string(), text);
        }
        for text in ["", "/24", "192.168.12.99/", "192.168.12.99/33", "192.168.12.99/+4", "a/24"] {
            assert_eq!(HostAddress::parse(text).unwrap_err().code, Code::BadAddress, "{text}");
        }
    }
}
