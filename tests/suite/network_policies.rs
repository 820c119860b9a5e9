//! Mode `networkpolicy`: what policies mean, what the flows and Open vSwitch make of them, how many flows
//! that takes, and what real packets do.

mod cases;
mod clusters;
mod counts;
mod explain;
mod grid;
mod live;
mod meaning;
mod mutations;
mod packets;
mod recipes;
mod rollout;
mod traces;
mod worlds;

pub(crate) use worlds::cluster;
