//! Proves that emitted files do what the desired state says, for every frame.
//!
//! > For every sender (each port of each bridge, known or not, and the tunnels), for every frame it may put on the
//! > wire, the files deliver to exactly those receivers that the desired state names, and to nobody
//! > else.
//!
//! The proof reads the files of each node ([`read`]) and the desired state with its lock file
//! ([`meaning`]), each without anything of the compiler: only the wire types, scalars and
//! diagnostics are common ground. It walks *sets* of frames through the tables ([`engine`]) and compares
//! what becomes of each set with what is meant ([`contract`]), node by node.
//!
//! Why that is enough: take a sender on node n. L1 of n fixes who it is and its VNID V. By L2 of n its
//! destination is one of these: a workload of n, for which L3 of n decides; one of another node m, to which the
//! frame goes with VNI = V and an unchanged header, where L1 of m takes it from n as V, L3 of m
//! decides, and L4 of m ends it; or the outside, for which L5 of n decides, and what the node forwards
//! is said by its ruleset. One VNID is one network on all nodes, since each node was held to
//! the same map, and the map was checked to be injective. So nothing has to be compared for pairs
//! of nodes, and a node that changed can be proven again alone.
//!
//! A violated lemma is shown with a frame, which a plain evaluator ([`engine::point`]) must confirm. What
//! can't be read, and what no lemma speaks of yet, is said, and makes the verdict "not proven".

pub mod contract;
pub mod engine;
pub mod frame;
pub mod meaning;
pub mod node;
pub mod read;
pub mod verdict;
