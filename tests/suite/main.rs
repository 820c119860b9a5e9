//! All integration tests in one program: it links once and shares its helpers.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that can't go on has failed")]

mod ansible;
mod apply;
mod confirm;
mod diagnostics;
mod faults;
mod generations;
mod golden;
mod hostile;
mod interruptions;
mod lab;
mod ovs;
mod progress;
mod properties;
mod readme;
mod schema;
mod stability;
mod support;
mod traffic;
mod world;
