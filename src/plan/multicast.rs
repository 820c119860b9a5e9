//! Table 110: multicast is not delivered yet, and is dropped where it can be counted.

use super::Builder;
use crate::pipeline::Table;

pub(super) fn lower(builder: &mut Builder<'_>) {
    builder.default(Table::Multicast, vec![]);
}
