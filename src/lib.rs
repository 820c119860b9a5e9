//! ringfence compiles a declarative description of multi-tenant networks for Open vSwitch, and
//! applies it.
//!
//! The stages, each in its module: [`source`] reads texts, [`document`] parses them into the wire
//! types of [`spec`], [`resolve`] turns names into the ids of an [`intent`], [`allocate`] adds the
//! numbers that a [`lockfile`] keeps, and both make a [`model`]. [`dns`] asks name servers for
//! what [`names`] puts into the lock file. [`plan`] lowers it to one node's
//! [`flow`]s, links and [`nft`] rules along the tables of [`pipeline`]; [`render`] and [`output`]
//! make files of them, by the contract of [`artifact`]; [`apply`] makes a node match its files through [`system`]. [`reach`] says
//! what the intent means for a packet, [`evaluate`] what flows do with it, and [`lab`] what real
//! nodes do.

pub mod allocate;
pub mod apply;
pub mod artifact;
pub mod cli;
pub mod compile;
pub mod diagnostic;
pub mod dns;
pub mod document;
pub mod evaluate;
pub mod flow;
pub mod intent;
pub mod lab;
pub mod load;
pub mod lockfile;
pub mod model;
pub mod names;
pub mod nft;
pub mod output;
pub mod pipeline;
pub mod plan;
pub mod reach;
pub mod render;
pub mod resolve;
pub mod schema;
pub mod source;
pub mod spec;
pub mod subject;
pub mod system;
pub mod value;
