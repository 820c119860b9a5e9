//! ringfence compiles a declarative description of multi-tenant networks for Open vSwitch.

pub mod allocate;
pub mod apply;
pub mod cli;
pub mod compile;
pub mod diagnostic;
pub mod document;
pub mod evaluate;
pub mod flow;
pub mod intent;
pub mod lab;
pub mod load;
pub mod lockfile;
pub mod model;
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
