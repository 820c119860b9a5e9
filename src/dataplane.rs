//! What Open vSwitch and nft understand, as types without names of the product: [`openflow`] flows
//! and groups, [`nft`] rulesets, and the objects that both say they are made for ([`origin`]).

pub mod nft;
pub mod openflow;
pub mod origin;
