//! `manifest.json` of a node: what `apply` checks the files against.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// The files of a node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// The version of this format.
    pub version: u32,
    /// The node's name.
    pub node: String,
    /// The digest of everything that has an effect, as 64 hexadecimal digits.
    pub generation: String,
    /// The BLAKE3 digest of every other file, by its path.
    pub files: BTreeMap<String, String>,
}

impl Manifest {
    /// The version of the format that this ringfence writes and reads.
    pub const VERSION: u32 = 1;
}
