//! Numbers with a range of their own.

use std::fmt;

use super::{Bandwidth, Invalid};
use crate::diagnostic::Code;

/// A TCP, UDP or SCTP port, 1 to 65535.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Port(u16);

/// A port at which nodes serve a service to the outside, 30000 to 32767, as in Kubernetes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct NodePort(u16);

/// A VXLAN network identifier (RFC 7348) of one project: 10 to 16777215. 0 is the global network
/// and 1 to 9 are reserved, as in openshift-sdn.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Vnid(u32);

impl Port {
    /// DNS, which egress policies leave open to the pod's own node.
    pub const DNS: Self = Self(53);
    /// HTTP (RFC 9110).
    pub const HTTP: Self = Self(80);
    /// Where egress routers of mode `http-proxy` answer.
    pub const HTTP_PROXY: Self = Self(8080);

    /// The number.
    #[must_use]
    pub fn get(self) -> u16 {
        self.0
    }

    /// The port of a number from 1 to 65535.
    pub fn new(number: u64) -> Result<Self, Invalid> {
        match u16::try_from(number) {
            Ok(port) if port != 0 => Ok(Self(port)),
            _ => Err(Invalid::new(Code::PortRange, format!("{number} is not a port"))
                .help("ports are 1 to 65535")),
        }
    }
}

impl NodePort {
    /// The first.
    pub const FIRST: u16 = 30_000;
    /// The last. Kernels take their own ports from 32768 on.
    pub const LAST: u16 = 32_767;

    /// The number.
    #[must_use]
    pub fn get(self) -> u16 {
        self.0
    }

    /// The node port of a number from 30000 to 32767.
    pub fn new(number: u64) -> Result<Self, Invalid> {
        match u16::try_from(number) {
            Ok(port) if (Self::FIRST..=Self::LAST).contains(&port) => Ok(Self(port)),
            _ => Err(Invalid::new(Code::NodePortRange, format!("{number} is not a node port"))
                .help(
                    "node ports are 30000 to 32767; leave `nodePort` out and `ringfence lock` \
                     allocates one",
                )),
        }
    }
}

impl From<NodePort> for Port {
    fn from(port: NodePort) -> Self {
        Self(port.0)
    }
}

impl Vnid {
    /// The global network: it reaches all and is reached by all.
    pub const GLOBAL: Self = Self(0);
    /// The first that a project may have.
    pub const FIRST: u32 = 10;
    /// The last: VNIDs have 24 bits.
    pub const LAST: u32 = 0x00ff_ffff;

    /// The number.
    #[must_use]
    pub fn get(self) -> u32 {
        self.0
    }

    /// The VNID of a number from 10 to 16777215.
    pub fn new(number: u64) -> Result<Self, Invalid> {
        let message = match number {
            0 => "VNID 0 is the global network".to_owned(),
            1..10 => format!("VNID {number} is reserved"),
            10..=0x00ff_ffff => return Ok(Self(u32::try_from(number).unwrap_or(Self::LAST))),
            _ => format!("{number} is more than a VNID can be"),
        };
        Err(Invalid::new(Code::VnidRange, message).help(if number == 0 {
            "to make a project global, list it under `global`; otherwise choose 10 to 16777215"
        } else {
            "choose 10 to 16777215, or leave `vnid` out and let `ringfence lock` allocate one"
        }))
    }
}

impl fmt::Display for Port {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for NodePort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for Vnid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The check of a number against a format of the schema.
pub(crate) fn check(format: &str, number: u64) -> Option<Invalid> {
    match format {
        "port" => Port::new(number).err(),
        "bandwidth" => Bandwidth::new(number).err(),
        "node-port" => NodePort::new(number).err(),
        "vnid" => Vnid::new(number).err(),
        _ => None,
    }
}

macro_rules! number_value {
    ($type:ident, $format:literal, $first:literal, $last:literal, $description:literal) => {
        impl<'de> serde::Deserialize<'de> for $type {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                struct Visitor;
                impl serde::de::Visitor<'_> for Visitor {
                    type Value = $type;

                    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                        f.write_str($description)
                    }

                    fn visit_u64<E: serde::de::Error>(self, number: u64) -> Result<$type, E> {
                        $type::new(number).map_err(|invalid| E::custom(invalid.message))
                    }
                }
                deserializer.deserialize_u64(Visitor)
            }
        }

        impl serde::Serialize for $type {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                self.0.serialize(serializer)
            }
        }

        impl schemars::JsonSchema for $type {
            fn schema_name() -> std::borrow::Cow<'static, str> {
                stringify!($type).into()
            }

            fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
                schemars::json_schema!({
                    "type": "integer",
                    "format": $format,
                    "minimum": $first,
                    "maximum": $last,
                    "description": $description,
                })
            }
        }
    };
}

number_value!(Port, "port", 1, 65535, "a port, 1 to 65535");
number_value!(NodePort, "node-port", 30000, 32767, "a node port, 30000 to 32767");
number_value!(Vnid, "vnid", 10, 16_777_215, "a VNID, 10 to 16777215");
