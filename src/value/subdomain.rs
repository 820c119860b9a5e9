//! Names of network policies.

use std::fmt;

use super::{Invalid, Name, StringValue, string_value};
use crate::diagnostic::{Code, quoted};

/// A DNS-1123 subdomain: labels with dots between them, up to 253 characters.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct SubdomainName(Box<str>);

impl SubdomainName {
    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for SubdomainName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl StringValue for SubdomainName {
    const FORMAT: &'static str = "dns-subdomain";

    fn parse(text: &str) -> Result<Self, Invalid> {
        if text.len() <= 253 && text.split('.').all(|label| Name::parse(label).is_ok()) {
            return Ok(Self(text.into()));
        }
        let message = format!("{} is not a DNS-1123 subdomain", quoted(text));
        Err(Invalid::new(Code::BadSubdomain, message).help(
            "use lowercase letters, digits and hyphens, and dots between labels that begin and end \
             with a letter or digit",
        ))
    }
}

string_value!(
    SubdomainName,
    "a DNS-1123 subdomain: labels of lowercase letters, digits and hyphens, with dots between them",
    "^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?)*$",
    "web-from-shop"
);
