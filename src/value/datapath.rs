//! Datapaths of Open vSwitch.

use std::str::FromStr;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Which Open vSwitch datapath a bridge has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Datapath {
    /// The kernel module.
    #[default]
    System,
    /// Userspace: the uplink must be a port of an Open vSwitch bridge that holds its address.
    Netdev,
}

impl FromStr for Datapath {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let named = [Self::Netdev, Self::System].into_iter().find(|d| d.as_str() == text);
        named.ok_or("netdev or system")
    }
}

impl Datapath {
    /// The name in YAML and in Open vSwitch's database.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::System => "system",
            Self::Netdev => "netdev",
        }
    }
}
