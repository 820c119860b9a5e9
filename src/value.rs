//! Values that are parsed at the door: whoever holds one knows that it is well formed.
//!
//! Each type is one file. It knows its JSON schema, reads and prints its YAML form, and says
//! what is wrong with a text that isn't one. Nothing that came from a user reaches a flow, a
//! script or a ruleset except as one of these.

mod address;
mod bandwidth;
mod cluster_ip;
mod datapath;
mod dns_name;
mod host;
mod host_address;
mod interface;
mod label;
mod mac;
mod moment;
mod name;
mod name_server;
mod number;
mod port_name;
mod protocol;
mod span;
mod subdomain;

pub use address::{Address, Cidr, ipv4};
pub use bandwidth::Bandwidth;
pub use cluster_ip::ClusterIp;
pub use datapath::Datapath;
pub use dns_name::DnsName;
pub use host::{Host, HostName, Site};
pub use host_address::HostAddress;
pub use interface::{InterfaceName, NetnsName};
pub use label::{LabelKey, LabelValue};
pub use mac::Mac;
pub use moment::{Timestamp, humanize};
pub use name::Name;
pub use name_server::NameServer;
pub(crate) use number::check as check_number;
pub use number::{NodePort, Port, Vnid};
pub use port_name::PortName;
pub use protocol::Protocol;
pub use span::TimeSpan;
pub use subdomain::SubdomainName;

use crate::diagnostic::{Code, Diagnostic};

/// Why a text or number is not such a value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Invalid {
    /// The code of the restriction.
    pub code: Code,
    /// One lowercase sentence that quotes the value.
    pub message: String,
    /// What to write instead.
    pub help: Option<String>,
}

impl Invalid {
    fn new(code: Code, message: String) -> Self {
        Self { code, message, help: None }
    }

    fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }
}

impl From<Invalid> for Diagnostic {
    fn from(invalid: Invalid) -> Self {
        let Invalid { code, message, help } = invalid;
        let mut diagnostic = Self::new(code, message);
        diagnostic.help = help;
        diagnostic
    }
}

/// A value that is written as a string. `FORMAT` names it in the JSON schema, where the
/// structural check looks the parser up again.
pub trait StringValue: Sized {
    /// The `format` of the schema.
    const FORMAT: &'static str;

    /// Parses the text, the whole of it.
    fn parse(text: &str) -> Result<Self, Invalid>;
}

/// A check of a string against a format of the schema.
pub type Check = fn(&str) -> Result<(), Invalid>;

/// Every format of a string in the schema, with its check.
pub const FORMATS: &[(&str, Check)] = &[
    (Name::FORMAT, |text| Name::parse(text).map(drop)),
    (DnsName::FORMAT, |text| DnsName::parse(text).map(drop)),
    (NameServer::FORMAT, |text| NameServer::parse(text).map(drop)),
    (TimeSpan::FORMAT, |text| TimeSpan::parse(text).map(drop)),
    (Address::FORMAT, |text| Address::parse(text).map(drop)),
    (ClusterIp::FORMAT, |text| ClusterIp::parse(text).map(drop)),
    (Cidr::FORMAT, |text| Cidr::parse(text).map(drop)),
    (Bandwidth::FORMAT, |text| Bandwidth::parse(text).map(drop)),
    (HostName::FORMAT, |text| HostName::parse(text).map(drop)),
    (HostAddress::FORMAT, |text| HostAddress::parse(text).map(drop)),
    (Host::FORMAT, |text| Host::parse(text).map(drop)),
    (Site::FORMAT, |text| Site::parse(text).map(drop)),
    (Mac::FORMAT, |text| Mac::parse(text).map(drop)),
    (InterfaceName::FORMAT, |text| InterfaceName::parse(text).map(drop)),
    (NetnsName::FORMAT, |text| NetnsName::parse(text).map(drop)),
    (PortName::FORMAT, |text| PortName::parse(text).map(drop)),
    (SubdomainName::FORMAT, |text| SubdomainName::parse(text).map(drop)),
    (LabelKey::FORMAT, |text| LabelKey::parse(text).map(drop)),
    (LabelValue::FORMAT, |text| LabelValue::parse(text).map(drop)),
];

/// Implements serde and schemars for a [`StringValue`] with `Display`.
macro_rules! string_value {
    ($type:ident, $description:literal, $pattern:literal, $example:literal) => {
        impl<'de> serde::Deserialize<'de> for $type {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                struct Visitor;
                impl serde::de::Visitor<'_> for Visitor {
                    type Value = $type;

                    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                        f.write_str($description)
                    }

                    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<$type, E> {
                        crate::value::StringValue::parse(text)
                            .map_err(|invalid| E::custom(invalid.message))
                    }
                }
                // As the schema has it, `5` and `true` are not strings unless they are quoted.
                deserializer.deserialize_any(Visitor)
            }
        }

        impl serde::Serialize for $type {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl schemars::JsonSchema for $type {
            fn schema_name() -> std::borrow::Cow<'static, str> {
                stringify!($type).into()
            }

            fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
                schemars::json_schema!({
                    "type": "string",
                    "format": <$type as crate::value::StringValue>::FORMAT,
                    "pattern": $pattern,
                    "description": $description,
                    "examples": [$example],
                })
            }
        }
    };
}
use string_value;
