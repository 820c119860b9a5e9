//! Names of hosts in the domain name system.

use std::fmt;

use super::host::{is_host_name, is_label};
use super::{Invalid, StringValue, string_value};
use crate::diagnostic::{Code, quoted};

/// The full name of one host (RFC 1123, section 2.1), lowercase, without the final dot: two or
/// more labels of 1 to 63 letters, digits and hyphens, at most 253 bytes together. It is the same
/// wherever it is asked for: search domains play no part.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct DnsName(Box<str>);

impl DnsName {
    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for DnsName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Whether a text is a name in the one form that it has here.
fn good(text: &str) -> bool {
    is_host_name(text) && text.contains('.') && !text.bytes().any(|b| b.is_ascii_uppercase())
}

impl StringValue for DnsName {
    const FORMAT: &'static str = "dns-name";

    fn parse(text: &str) -> Result<Self, Invalid> {
        if good(text) {
            return Ok(Self(text.into()));
        }
        let quoted = quoted(text);
        if text.starts_with("*.") {
            let message = format!("{quoted} is a wildcard, which can't be resolved to addresses");
            return Err(Invalid::new(Code::NameWildcard, message).help(
                "list the names that are meant, or the networks behind them as `cidr`; only an \
                 egress router in the mode `http-proxy` sees the names that clients ask for",
            ));
        }
        let invalid = Invalid::new(Code::BadDnsName, format!("{quoted} is not a DNS name"));
        if text.parse::<ipnet::IpNet>().is_ok() || text.parse::<std::net::IpAddr>().is_ok() {
            return Err(invalid.help("write an address as `cidr`, such as 203.0.113.7/32"));
        }
        let plain = text.strip_suffix('.').unwrap_or(text).to_ascii_lowercase();
        Err(if good(&plain) {
            invalid.help(format!("write it in lowercase and without a final dot: {plain}"))
        } else if is_label(&plain) {
            invalid.help("write the full name: search domains differ from machine to machine")
        } else {
            invalid.help(
                "write the full name of a host in lowercase letters, digits, hyphens and dots, \
                 such as www.example.com",
            )
        })
    }
}

string_value!(
    DnsName,
    "the full DNS name of a host, in lowercase, without a final dot",
    r"^([a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?\.)+[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$",
    "www.example.com"
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_full_lowercase_and_no_addresses() {
        let long = format!("{}.example", "a".repeat(63));
        for good in ["www.example.com", "a.b", "xn--bcher-kva.example", "1.2.3.4a", &long] {
            assert_eq!(DnsName::parse(good).map(|name| name.to_string()).as_deref(), Ok(good));
        }
        let deep = "a.".repeat(127) + "com";
        let longer = format!("{}.example", "a".repeat(64));
        let bad = [
            "",
            ".",
            "www",
            "www.example.com.",
            "WWW.example.com",
            "a..b",
            "-a.b",
            "a-.b",
            "1.2.3.4",
            "10.1",
            "a b.example",
            "a_b.example",
            "bücher.example",
            "a.b\n",
            &deep,
            &longer,
        ];
        for bad in bad {
            assert_eq!(DnsName::parse(bad).map_err(|bad| bad.code), Err(Code::BadDnsName), "{bad}");
        }
        let wildcard = DnsName::parse("*.example.com");
        assert_eq!(wildcard.map_err(|bad| bad.code), Err(Code::NameWildcard));
    }
}
