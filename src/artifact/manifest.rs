//! `manifest.json` of a node: what `apply` checks the files against, and what is signed.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// The files of a node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// The version of this format.
    pub version: u32,
    /// The version of ringfence that wrote it.
    pub ringfence: String,
    /// The node's name.
    pub node: String,
    /// The digest of everything that has an effect, as 64 hexadecimal digits.
    pub generation: String,
    /// The BLAKE3 digest of every other file but the places, by its path.
    pub files: BTreeMap<String, String>,
}

impl Manifest {
    /// The version of the format that this ringfence writes and reads.
    pub const VERSION: u32 = 2;
}
