//! Bandwidths, written as in Kubernetes.

use std::borrow::Cow;
use std::fmt;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{self, Visitor};
use serde::{Deserialize, Deserializer};

use super::{Invalid, StringValue};
use crate::diagnostic::{Code, quoted};

/// Bits a second: 100k, with which a full packet passes in time, to 32G, what Linux's `htb` counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Bandwidth(u64);

impl Bandwidth {
    /// The least, in bits a second.
    pub const FIRST: u64 = 100_000;
    /// The most, in bits a second.
    pub const LAST: u64 = 32_000_000_000;

    /// Bits a second.
    #[must_use]
    pub fn get(self) -> u64 {
        self.0
    }

    /// The bandwidth of a number of bits a second.
    pub fn new(number: u64) -> Result<Self, Invalid> {
        if (Self::FIRST..=Self::LAST).contains(&number) {
            return Ok(Self(number));
        }
        let what = if number < Self::FIRST { "less than 100k" } else { "more than 32G" };
        Err(Invalid::new(Code::BadBandwidth, format!("the bandwidth {number} is {what}"))
            .help("bandwidths are 100k to 32G, in bits a second"))
    }
}

impl fmt::Display for Bandwidth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (unit, suffix) = [(1_000_000_000, "G"), (1_000_000, "M"), (1000, "k")]
            .into_iter()
            .find(|(unit, _)| self.0.is_multiple_of(*unit))
            .unwrap_or((1, ""));
        write!(f, "{}{suffix}", self.0 / unit)
    }
}

impl StringValue for Bandwidth {
    const FORMAT: &'static str = "bandwidth";

    fn parse(text: &str) -> Result<Self, Invalid> {
        let digits = text.trim_end_matches(|c: char| !c.is_ascii_digit());
        let unit = match &text[digits.len()..] {
            "" => Some(1),
            "k" => Some(1_000),
            "M" => Some(1_000_000),
            "G" => Some(1_000_000_000),
            "Ki" => Some(1 << 10),
            "Mi" => Some(1 << 20),
            "Gi" => Some(1 << 30),
            _ => None,
        };
        let plain = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
        let number = unit.filter(|_| plain).map(|unit| {
            // What is too much for a number is too much for a bandwidth.
            digits.parse::<u64>().unwrap_or(u64::MAX).saturating_mul(unit)
        });
        match number {
            Some(number) => Self::new(number),
            None => Err(Invalid::new(
                Code::BadBandwidth,
                format!("{} is not a bandwidth", quoted(text)),
            )
            .help(
                "write a whole number of bits a second, with k, M, G, Ki, Mi or Gi, such as 10M",
            )),
        }
    }
}

impl<'de> Deserialize<'de> for Bandwidth {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Either;

        impl Visitor<'_> for Either {
            type Value = Bandwidth;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a bandwidth")
            }

            fn visit_u64<E: de::Error>(self, number: u64) -> Result<Bandwidth, E> {
                Bandwidth::new(number).map_err(|invalid| E::custom(invalid.message))
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Bandwidth, E> {
                Bandwidth::parse(text).map_err(|invalid| E::custom(invalid.message))
            }
        }
        deserializer.deserialize_any(Either)
    }
}

impl JsonSchema for Bandwidth {
    fn schema_name() -> Cow<'static, str> {
        "Bandwidth".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": ["integer", "string"],
            "format": Self::FORMAT,
            "pattern": "^[0-9]+([kMG]|[KMG]i)?$",
            "minimum": Self::FIRST,
            "maximum": Self::LAST,
            "description": "bits a second, 100k to 32G",
            "examples": ["10M"],
        })
    }
}
