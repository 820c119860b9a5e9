//! Names of nodes, projects, pods and routers.

use std::fmt;

use super::{Invalid, StringValue, string_value};
use crate::diagnostic::{Code, quoted};

/// A DNS-1123 label (RFC 1123, section 2.1): 1 to 63 lowercase letters, digits and hyphens,
/// beginning and ending with a letter or digit.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Name(Box<str>);

impl Name {
    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl StringValue for Name {
    const FORMAT: &'static str = "dns-label";

    fn parse(text: &str) -> Result<Self, Invalid> {
        let inside = |byte: u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-');
        let bytes = text.as_bytes();
        let good = (1..=63).contains(&bytes.len())
            && bytes.iter().all(|&byte| inside(byte))
            && bytes.first() != Some(&b'-')
            && bytes.last() != Some(&b'-');
        if good {
            return Ok(Self(text.into()));
        }
        let invalid =
            Invalid::new(Code::BadName, format!("{} is not a DNS-1123 label", quoted(text)));
        let suggestion = suggest(text);
        Err(if suggestion.is_empty() {
            invalid.help(
                "use 1 to 63 lowercase letters, digits and hyphens, with a letter or digit at \
                 both ends",
            )
        } else {
            invalid.help(format!(
                "use 1 to 63 lowercase letters, digits and hyphens, such as `{suggestion}`"
            ))
        })
    }
}

string_value!(
    Name,
    "a DNS-1123 label: 1 to 63 lowercase letters, digits and hyphens",
    "^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$",
    "node-1"
);

/// The nearest label: lowercase, other characters as hyphens.
fn suggest(text: &str) -> String {
    let hyphened: String = text
        .chars()
        .take(63)
        .map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' })
        .collect();
    hyphened.trim_matches('-').to_owned()
}
