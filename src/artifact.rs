//! What a node gets, as files: their names, the manifest, the generation, and the places beside it.
//!
//! What is reviewed says what a node does, and nothing of where that was written or which digest
//! it has: so a comment in the input changes none of it, and two changes meet only where their
//! objects do. Manifests and places follow from the rest; they are written for the way to the node.

mod generation;
mod layout;
mod places;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

pub use generation::{names, with_generation, with_note};
pub use layout::{
    FLOWS, GROUPS, MANIFEST, NODE, PLACES, PLACES_SIGNATURE, RULESET, SIGNATURE, SOURCEMAP,
    is_of_a_node, is_reviewed,
};
pub use places::{Inputs, Places};

/// `manifest.json` of a node: what `apply` checks the files against, and what is signed.
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
