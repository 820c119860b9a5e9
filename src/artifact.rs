//! The contract: what compiling writes and `apply` reads, and nothing else that they share.
//!
//! [`layout`] names the files of a node, [`manifest`] lists them, [`node`] is what stands in `node.json`,
//! [`host`] names what ringfence makes on a node, and [`proxy`] where the proxies have their files.

pub mod host;
pub mod layout;
pub mod manifest;
pub mod node;
pub mod proxy;
