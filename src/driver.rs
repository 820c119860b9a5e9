//! The pure stages in a row, for the command line and the lab: from paths to a model ([`load`]), and
//! from a model to files ([`compile`]).

pub mod compile;
pub mod load;
