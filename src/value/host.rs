//! Host names, and what stands where a host, a domain or a network may.

use std::fmt;
use std::net::IpAddr;

use super::{Address, Cidr, Invalid, StringValue, string_value};
use crate::diagnostic::{Code, quoted};

/// A host name (RFC 1123, section 2.1): labels of letters, digits and hyphens between dots, at most
/// 253 bytes, the last label not a number. Kept in lowercase: case has no meaning (RFC 4343).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct HostName(Box<str>);

impl HostName {
    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether it has more than one label.
    #[must_use]
    pub fn is_qualified(&self) -> bool {
        self.0.contains('.')
    }

    /// Whether it is `domain` or below it.
    #[must_use]
    pub fn is_in(&self, domain: &Self) -> bool {
        let rest = self.0.strip_suffix(domain.as_str());
        rest.is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
    }
}

impl fmt::Display for HostName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Whether a text is a label of a host's name.
pub(super) fn is_label(label: &str) -> bool {
    let inside = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
    (1..=63).contains(&label.len())
        && label.bytes().all(inside)
        && !label.starts_with('-')
        && !label.ends_with('-')
}

/// Whether a text is the name of a host, in capitals or not.
pub(super) fn is_host_name(text: &str) -> bool {
    const MOST: usize = 253;
    let last = text.rsplit('.').next().unwrap_or_default();
    // Else `1.2.3.4` and `10.1` would be names (RFC 1123, section 2.1).
    let number = last.bytes().all(|byte| byte.is_ascii_digit());
    text.len() <= MOST && text.split('.').all(is_label) && !number
}

impl StringValue for HostName {
    const FORMAT: &'static str = "host-name";

    fn parse(text: &str) -> Result<Self, Invalid> {
        if is_host_name(text) {
            return Ok(Self(text.to_ascii_lowercase().into()));
        }
        let invalid = Invalid::new(Code::BadHost, format!("{} is not a host name", quoted(text)));
        Err(match text.strip_suffix('.') {
            Some(rest) if Self::parse(rest).is_ok() => {
                invalid.help(format!("write it without the dot at the end: {rest}"))
            }
            _ => invalid.help(
                "a host name has labels of 1 to 63 letters, digits and hyphens with dots between, \
                 such as www.example.com",
            ),
        })
    }
}

string_value!(
    HostName,
    "a host name",
    r"^[A-Za-z0-9]([-A-Za-z0-9]{0,61}[A-Za-z0-9])?(\.[A-Za-z0-9]([-A-Za-z0-9]{0,61}[A-Za-z0-9])?)*$",
    "www.example.com"
);

/// Whether a text is made like an IPv4 address, so that it can't be meant as a name.
fn is_like_address(text: &str) -> bool {
    text.contains(':')
        || (!text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.'))
}

/// A host by its address or its name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Host {
    /// By its address.
    Address(Address),
    /// By its name.
    Name(HostName),
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(address) => address.fmt(f),
            Self::Name(name) => name.fmt(f),
        }
    }
}

impl StringValue for Host {
    const FORMAT: &'static str = "host";

    fn parse(text: &str) -> Result<Self, Invalid> {
        let address = || text.split_once('/').map_or(text, |(address, _)| address);
        if is_like_address(text) || address().parse::<IpAddr>().is_ok() {
            return Address::parse(text).map(Self::Address);
        }
        HostName::parse(text).map(Self::Name)
    }
}

string_value!(Host, "an IP address or a host name", r"^[-A-Za-z0-9.:]+$", "www.example.com");

/// What a rule of an HTTP proxy is about.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Site {
    /// `*`: everything.
    Any,
    /// `*.example.com`: the domain and all names below it.
    Domain(HostName),
    /// `www.example.com`: this name alone.
    Name(HostName),
    /// An address.
    Address(Address),
    /// All addresses of a network.
    Network(Cidr),
}

impl fmt::Display for Site {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Any => f.write_str("*"),
            Self::Domain(domain) => write!(f, "*.{domain}"),
            Self::Name(name) => name.fmt(f),
            Self::Address(address) => address.fmt(f),
            Self::Network(network) => network.fmt(f),
        }
    }
}

impl StringValue for Site {
    const FORMAT: &'static str = "site";

    fn parse(text: &str) -> Result<Self, Invalid> {
        if text == "*" {
            return Ok(Self::Any);
        }
        if let Some(domain) = text.strip_prefix("*.") {
            return HostName::parse(domain).map(Self::Domain);
        }
        if text.contains('/') {
            return Cidr::parse(text).map(Self::Network);
        }
        match Host::parse(text)? {
            Host::Address(address) => Ok(Self::Address(address)),
            Host::Name(name) => Ok(Self::Name(name)),
        }
    }
}

string_value!(
    Site,
    "an IP address, a network, a host name, a domain such as *.example.com, or * for everything",
    r"^[-A-Za-z0-9.:/*]+$",
    "*.example.com"
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_told_from_addresses_and_print_as_they_parse() {
        let sites = ["*", "*.example.com", "www", "xn--bcher-kva.example", "10.0.0.0/8", "1.2.3.4"];
        for text in sites {
            assert_eq!(Site::parse(text).unwrap().to_string(), text);
        }
        assert_eq!(Host::parse("WWW.Example.com").unwrap().to_string(), "www.example.com");
        let bad = [
            ("", Code::BadHost),
            ("foo bar", Code::BadHost),
            ("under_score.example.com", Code::BadHost),
            ("-a.example.com", Code::BadHost),
            ("a..b", Code::BadHost),
            ("example.com.", Code::BadHost),
            ("*.*.example.com", Code::BadHost),
            ("w*.example.com", Code::BadHost),
            ("*example.com", Code::BadHost),
            ("host.123", Code::BadHost),
            ("999.0.113.25", Code::BadAddress),
            ("1.2.3", Code::BadAddress),
            ("1.2.3.4/99", Code::BadCidr),
            ("example.com/24", Code::BadCidr),
            ("1.2.3.4/8", Code::HostBits),
            ("http://www.example.com", Code::BadCidr),
            ("a\nb.example.com", Code::BadHost),
            ("a;b", Code::BadHost),
        ];
        for (text, code) in bad {
            assert_eq!(Site::parse(text).unwrap_err().code, code, "{text}");
        }
        assert!(HostName::parse(&"a.".repeat(127)).is_err());
    }

    #[test]
    fn a_domain_has_itself_and_what_is_below() {
        let name = |text| HostName::parse(text).unwrap();
        let domain = name("example.com");
        for (text, is) in
            [("example.com", true), ("www.example.com", true), ("badexample.com", false)]
        {
            assert_eq!(name(text).is_in(&domain), is, "{text}");
        }
    }
}
