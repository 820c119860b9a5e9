//! Ethernet addresses.

use std::fmt;
use std::net::Ipv4Addr;

use super::{Invalid, StringValue, string_value};
use crate::diagnostic::{Code, quoted};

/// An Ethernet address of one station (IEEE 802): neither group nor zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Mac([u8; 6]);

impl Mac {
    /// The locally administered address that goes with an IPv4 address: `0a:58` and its bytes,
    /// as openshift-sdn's pods have it.
    #[must_use]
    pub fn of_ipv4(address: Ipv4Addr) -> Self {
        let [a, b, c, d] = address.octets();
        Self([0x0a, 0x58, a, b, c, d])
    }

    /// The six bytes, in the order of transmission.
    #[must_use]
    pub fn bytes(self) -> [u8; 6] {
        self.0
    }
}

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bytes = self.0.map(|byte| format!("{byte:02x}"));
        f.write_str(&bytes.join(":"))
    }
}

impl StringValue for Mac {
    const FORMAT: &'static str = "mac-address";

    fn parse(text: &str) -> Result<Self, Invalid> {
        let mut bytes = [0; 6];
        let mut parts = text.split(':');
        let well_formed = bytes.iter_mut().all(|byte| {
            parts.next().is_some_and(|part| {
                part.len() == 2
                    && part.bytes().all(|b| b.is_ascii_hexdigit())
                    && u8::from_str_radix(part, 16).map(|value| *byte = value).is_ok()
            })
        }) && parts.next().is_none();
        let invalid = |what| Invalid::new(Code::BadMac, format!("{} {what}", quoted(text)));
        if !well_formed {
            return Err(invalid("is not an Ethernet address")
                .help("write six bytes in hexadecimal, such as 0a:58:0a:80:00:07"));
        }
        if bytes[0] & 1 == 1 || bytes == [0; 6] {
            return Err(invalid("is not the address of one station")
                .help("the first byte of a station's address is even, and not all six are 00"));
        }
        Ok(Self(bytes))
    }
}

string_value!(
    Mac,
    "an Ethernet address of one station",
    "^[0-9a-fA-F]{2}(:[0-9a-fA-F]{2}){5}$",
    "0a:58:0a:80:00:07"
);
