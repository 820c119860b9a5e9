//! The contract: what compiling writes and `apply` reads, and nothing else that they share.
//!
//! What is reviewed says what a node does, and nothing of where that was written or which digest
//! it has: so a comment in the input changes none of it, and two changes meet only where their
//! objects do. Manifests and places follow from the rest; they are written for the way to the node.
//!
//! [`layout`] names the files of a node, [`manifest`] lists them, [`generation`] is the digest of what has an
//! effect, [`node`] is what stands in `node.json`, [`places`] says where the objects are defined, [`host`] names
//! what ringfence makes on a node, and [`proxy`] where the proxies have their files.

pub mod generation;
pub mod host;
pub mod layout;
pub mod manifest;
pub mod node;
pub mod places;
pub mod proxy;
