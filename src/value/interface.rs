//! Names of network interfaces and network namespaces.

use std::fmt;

use super::{Invalid, StringValue, string_value};
use crate::diagnostic::{Code, quoted};

/// A Linux network interface: 1 to 15 bytes (`IFNAMSIZ` less the NUL), letters, digits, `.`, `_`
/// and `-`, beginning with a letter or digit. The kernel takes more; ovs-vsctl, nft and sysctl
/// don't.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct InterfaceName(Box<str>);

/// A network namespace as `ip netns` names it: a file name under `/run/netns` of 1 to 128 bytes,
/// of the same characters as an [`InterfaceName`].
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct NetnsName(Box<str>);

fn is_plain(text: &str, longest: usize) -> bool {
    let bytes = text.as_bytes();
    (1..=longest).contains(&bytes.len())
        && bytes[0].is_ascii_alphanumeric()
        && bytes.iter().all(|&byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte))
}

impl InterfaceName {
    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl NetnsName {
    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for InterfaceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Display for NetnsName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl StringValue for InterfaceName {
    const FORMAT: &'static str = "interface-name";

    fn parse(text: &str) -> Result<Self, Invalid> {
        if is_plain(text, 15) {
            return Ok(Self(text.into()));
        }
        let message = format!("{} is not the name of a network interface", quoted(text));
        let invalid = Invalid::new(Code::BadInterface, message);
        Err(if text.len() > 15 {
            invalid.help(format!("Linux allows 15 bytes; this has {}", text.len()))
        } else {
            invalid.help("use letters, digits, `.`, `_` and `-`, beginning with a letter or digit")
        })
    }
}

impl StringValue for NetnsName {
    const FORMAT: &'static str = "netns-name";

    fn parse(text: &str) -> Result<Self, Invalid> {
        if is_plain(text, 128) {
            return Ok(Self(text.into()));
        }
        let message = format!("{} is not the name of a network namespace", quoted(text));
        Err(Invalid::new(Code::BadNetns, message).help(
            "use 1 to 128 letters, digits, `.`, `_` and `-`, beginning with a letter or digit",
        ))
    }
}

string_value!(
    InterfaceName,
    "a network interface: 1 to 15 letters, digits, dots, underscores and hyphens",
    "^[A-Za-z0-9][A-Za-z0-9._-]{0,14}$",
    "eth0"
);
string_value!(
    NetnsName,
    "a network namespace as `ip netns` names it",
    "^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$",
    "web-0"
);
