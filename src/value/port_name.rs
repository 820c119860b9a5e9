//! Names of ports, as network policies call them.

use std::fmt;

use super::{Invalid, StringValue, string_value};
use crate::diagnostic::{Code, quoted};

/// A service name (RFC 6335, section 5.1): 1 to 15 lowercase letters, digits and hyphens, a letter
/// among them, no hyphen at an end or beside another.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct PortName(Box<str>);

impl PortName {
    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for PortName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl StringValue for PortName {
    const FORMAT: &'static str = "port-name";

    fn parse(text: &str) -> Result<Self, Invalid> {
        let good = (1..=15).contains(&text.len())
            && text.bytes().all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-'))
            && text.bytes().any(|byte| byte.is_ascii_lowercase())
            && !text.starts_with('-')
            && !text.ends_with('-')
            && !text.contains("--");
        if good {
            return Ok(Self(text.into()));
        }
        let help = if text.bytes().all(|byte| byte.is_ascii_digit()) && !text.is_empty() {
            "write the number of a port without quotes"
        } else {
            "use 1 to 15 lowercase letters, digits and hyphens, with a letter among them and no hyphen \
             at an end or beside another"
        };
        Err(Invalid::new(Code::BadPortName, format!("{} is not the name of a port", quoted(text)))
            .help(help))
    }
}

string_value!(
    PortName,
    "the name of a port: 1 to 15 lowercase letters, digits and hyphens",
    "^(?=.*[a-z])[a-z0-9]+(-[a-z0-9]+)*$",
    "http"
);
