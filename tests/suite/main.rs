//! All integration tests in one program: it links once and shares its helpers.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that can't go on has failed")]

mod ansible;
mod apply;
mod bandwidth;
mod chaos;
mod clean_changes;
mod confirm;
mod connections;
mod contract;
mod diagnostics;
mod drift;
mod endpoints;
mod failover;
mod faults;
mod foreign_objects;
mod frames;
mod gateway;
mod gateway_uplink;
mod generations;
mod golden;
mod hostile;
mod inside;
mod interruptions;
mod lab;
mod layers;
mod limits;
mod meaning_diff;
mod names;
mod network_policies;
mod node_access;
mod node_ports;
mod nothing;
mod others;
mod ovs;
mod policy_tests;
mod progress;
mod proof;
mod proof_lemmas;
mod properties;
mod proxies;
mod readme;
mod rollout;
mod router_cases;
mod router_services;
mod routers;
#[path = "../../benches/scale/world.rs"]
#[allow(dead_code, unreachable_pub, reason = "the benchmark uses the rest")]
mod scale;
mod schema;
mod sctp;
mod signatures;
mod snapshot;
mod stability;
mod stuck;
mod successors;
mod support;
mod traffic;
mod why;
mod world;
