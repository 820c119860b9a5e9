//! The JSON schemas of what is read and printed, generated from the types.

use clap::ValueEnum;
use schemars::generate::SchemaSettings;
use schemars::transform::RecursiveTransform;
use schemars::{JsonSchema, Schema};
use serde_json::Value;

use crate::apply::{Generations, Outcome, Status};
use crate::diagnostic::json::Findings;
use crate::spec::DesiredState;

/// A document that has a schema.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Subject {
    /// The desired state
    DesiredState,
    /// What `apply` and `rollback` print with --json
    Apply,
    /// What `status` prints with --json
    Status,
    /// What `generations` prints with --json
    Generations,
    /// What `validate --format json` prints, and every command with --json that fails
    Report,
}

/// The schema of a document, JSON Schema draft 2020-12, as `schemas` holds it.
#[must_use]
pub fn of(subject: Subject) -> Value {
    match subject {
        Subject::DesiredState => desired_state(),
        Subject::Apply => printed::<Outcome>(),
        Subject::Status => printed::<Status>(),
        Subject::Generations => printed::<Generations>(),
        Subject::Report => printed::<Findings>(),
    }
}

/// The schema of the desired state. Serde's optional keys take null too; people leave such a key out,
/// and one that they left without a value is half written.
#[must_use]
pub fn desired_state() -> Value {
    let settings = SchemaSettings::draft2020_12().with_transform(RecursiveTransform(without_null));
    settings.into_generator().into_root_schema_for::<DesiredState>().to_value()
}

/// Takes `null` out of what a schema allows.
fn without_null(schema: &mut Schema) {
    let is_null = |branch: &Value| branch.get("type").is_some_and(|only| only == "null");
    if let Some(Value::Array(types)) = schema.get_mut("type") {
        types.retain(|one| one != "null");
        if let [only] = types.as_slice() {
            let only = only.clone();
            schema.insert("type".to_owned(), only);
        }
    }
    if let Some(Value::Array(branches)) = schema.get_mut("anyOf") {
        branches.retain(|branch| !is_null(branch));
        if let [Value::Object(only)] = branches.as_slice() {
            let only = only.clone();
            schema.remove("anyOf");
            for (key, value) in only {
                schema.ensure_object().entry(key).or_insert(value);
            }
        }
    }
    if schema.get("default").is_some_and(Value::is_null) {
        schema.remove("default");
    }
}

/// The schema of what we write ourselves.
fn printed<T: JsonSchema>() -> Value {
    let generator = SchemaSettings::draft2020_12().for_serialize().into_generator();
    generator.into_root_schema_for::<T>().to_value()
}
