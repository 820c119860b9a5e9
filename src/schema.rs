//! The JSON schema of the desired state, generated from the types in [`crate::spec`].

use schemars::generate::SchemaSettings;
use serde_json::Value;

use crate::spec::DesiredState;

/// The schema, JSON Schema draft 2020-12, as `schemas/desired-state.schema.json` holds it.
#[must_use]
pub fn desired_state() -> Value {
    let generator = SchemaSettings::draft2020_12().into_generator();
    generator.into_root_schema_for::<DesiredState>().to_value()
}
