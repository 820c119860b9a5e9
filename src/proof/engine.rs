//! Walks sets of frames through the tables.
//!
//! A [`Cube`](cube::Cube) is a range for each field. Walking a table cuts it into parts, each of which meets one flow;
//! the parts are disjoint by construction, so nothing is ever subtracted. Three things keep that
//! linear: fields that are known of every cube come first; cubes that differ only in their senders
//! go on as one with a list of [`Sender`](cube::Sender)s; and destinations are sets of ranges, so that what
//! one table cuts out does not cut the next.

pub mod cube;
pub mod point;
pub mod run;
pub mod track;
pub mod walk;
