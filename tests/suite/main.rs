//! All integration tests in one program: it links once and shares its helpers.

mod apply;
mod diagnostics;
mod golden;
mod lab;
mod ovs;
mod properties;
mod schema;
mod support;
mod world;
