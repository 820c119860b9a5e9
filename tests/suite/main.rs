//! All integration tests in one program: it links once and shares its helpers.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that can't go on has failed")]

mod apply;
mod confirm;
mod diagnostics;
mod faults;
mod gateway;
mod generations;
mod golden;
mod interruptions;
mod lab;
mod names;
mod ovs;
mod properties;
mod readme;
mod schema;
mod snapshot;
mod support;
mod world;
