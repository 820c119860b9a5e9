//! Names that nodes announce.

use super::NodeId;
use crate::diagnostic::Place;
use crate::value::DnsName;

/// A name that a node announces by multicast DNS, with its own address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MdnsRecord {
    /// The name: one label and `.local`.
    pub name: DnsName,
    /// The node.
    pub node: NodeId,
    /// Where it is written.
    pub place: Place,
}
