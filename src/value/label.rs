//! Labels, with the syntax of Kubernetes.

use std::fmt;

use super::{Invalid, StringValue, string_value};
use crate::diagnostic::{Code, quoted};

/// The key of a label: a name of up to 63 characters, after an optional DNS prefix and a slash.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct LabelKey(Box<str>);

/// The value of a label: empty, or a name of up to 63 characters.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct LabelValue(Box<str>);

/// Letters, digits, `-`, `_` and `.`, a letter or digit at both ends.
fn is_name(text: &str) -> bool {
    let bytes = text.as_bytes();
    let at_end = |byte: Option<&u8>| byte.is_some_and(u8::is_ascii_alphanumeric);
    bytes.len() <= 63
        && at_end(bytes.first())
        && at_end(bytes.last())
        && bytes.iter().all(|&byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte))
}

fn is_prefix(text: &str) -> bool {
    text.len() <= 253 && text.split('.').all(|label| super::Name::parse(label).is_ok())
}

impl LabelKey {
    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl LabelValue {
    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for LabelKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Display for LabelValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl StringValue for LabelKey {
    const FORMAT: &'static str = "label-key";

    fn parse(text: &str) -> Result<Self, Invalid> {
        let good = match text.split_once('/') {
            Some((prefix, name)) => is_prefix(prefix) && is_name(name),
            None => is_name(text),
        };
        if good {
            return Ok(Self(text.into()));
        }
        Err(Invalid::new(Code::BadLabel, format!("{} is not the key of a label", quoted(text)))
            .help(
                "use up to 63 letters, digits, `-`, `_` and `.`, with a letter or digit at both \
                 ends; a DNS name and a slash may stand before it",
            ))
    }
}

impl StringValue for LabelValue {
    const FORMAT: &'static str = "label-value";

    fn parse(text: &str) -> Result<Self, Invalid> {
        if text.is_empty() || is_name(text) {
            return Ok(Self(text.into()));
        }
        Err(Invalid::new(Code::BadLabel, format!("{} is not the value of a label", quoted(text)))
            .help(
                "use up to 63 letters, digits, `-`, `_` and `.`, with a letter or digit at both \
                 ends",
            ))
    }
}

string_value!(
    LabelKey,
    "the key of a label",
    "^([a-z0-9.-]{1,253}/)?[A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?$",
    "team"
);
string_value!(
    LabelValue,
    "the value of a label",
    "^([A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?)?$",
    "retail"
);
