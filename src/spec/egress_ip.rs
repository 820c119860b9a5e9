//! The `egressIPs` section.

use schemars::JsonSchema;
use serde::Deserialize;

use crate::value::{Address, Name};

/// Fixed source addresses of a project's traffic to the outside.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct EgressIps {
    /// The project.
    pub project: Name,
    /// The addresses. Each is held by one node that has it in `reservedAddresses` or in
    /// `egressCIDRs`; the pods of the project are spread over them.
    pub addresses: Vec<Address>,
}
