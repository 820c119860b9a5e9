//! What is meant and what the flows do: [`reach`] reads the intent, [`evaluate`] runs packets through
//! flows. Tests hold one to the other.

pub mod evaluate;
pub mod reach;
