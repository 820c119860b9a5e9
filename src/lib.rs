//! ringfence compiles a declarative description of multi-tenant networks for Open vSwitch, and
//! applies it.
//!
//! The rooms, in the order of the data flow. No room uses one that stands behind it, but for those
//! in the last group:
//!
//! - [`value`], [`diagnostic`], [`files`]: checked scalars; findings, their places and codes; files
//! - [`pipeline`], [`dataplane`]: tables and registers; flows, groups and rulesets as types
//! - [`artifact`]: the contract between compiling and applying: files, `node.json`, names on a node
//! - [`spec`], [`input`]: the wire types of the desired state; texts, YAML and their structure
//! - [`resolve`] → [`intent`]: names to ids, and every restriction
//! - [`lock`], [`allocate`] → [`model`]: the numbers that must not move; intent with numbers
//! - [`lower`], [`emit`]: one node's flows, links and rules; their bytes and the output tree
//! - [`verify`]: what is meant for a packet, and what flows do with it
//! - [`answer`]: why a packet arrives or not, whether the tests hold, what a change opens and closes
//! - [`proof`]: that emitted files do what the desired state says, for every frame
//! - [`driver`]: the stages in a row
//! - [`system`], [`apply`]: the one door to the machine; make a node match its files
//! - [`lab`], [`cli`]: the whole network in namespaces of this machine; the commands

pub mod allocate;
pub mod answer;
pub mod apply;
pub mod artifact;
pub mod cli;
pub mod dataplane;
pub mod diagnostic;
pub mod driver;
pub mod emit;
pub mod files;
pub mod input;
pub mod intent;
pub mod lab;
pub mod lock;
pub mod lower;
pub mod model;
pub mod pipeline;
pub mod proof;
pub mod resolve;
pub mod spec;
pub mod system;
pub mod value;
pub mod verify;
