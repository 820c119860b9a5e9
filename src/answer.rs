//! Answers about packets, from the desired state alone: why one arrives or doesn't, whether the tests
//! hold, and what a change opens and closes. What is meant is [`crate::verify::reach`]'s business, and
//! the way through flows that of [`crate::verify::evaluate`]; here, both are asked.

pub mod capture;
pub mod cells;
pub mod diff;
pub mod emitted;
pub mod path;
pub mod policy_test;
pub mod question;
