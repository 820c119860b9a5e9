//! The JSON schemas of what is read and printed, generated from the types.

use clap::ValueEnum;
use schemars::JsonSchema;
use schemars::generate::SchemaSettings;
use serde_json::Value;

use super::diff::Difference;
use super::prove::Proof;
use super::test::Tests;
use super::why::Why;
use crate::apply::{Generations, Outcome, Status};
use crate::diagnostic::json::Findings;
use crate::spec::schema;

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
    /// What `prove` prints with --json
    Proof,
    /// What `diff` prints with --format json
    Diff,
    /// What `test` prints with --json
    Test,
    /// What `why` prints with --json
    Why,
    /// What `validate --format json` prints, and every command with --json that fails
    Report,
}

/// The schema of a document, JSON Schema draft 2020-12, as `schemas` holds it.
#[must_use]
pub fn of(subject: Subject) -> Value {
    match subject {
        Subject::DesiredState => schema::desired_state(),
        Subject::Apply => printed::<Outcome>(),
        Subject::Status => printed::<Status>(),
        Subject::Generations => printed::<Generations>(),
        Subject::Proof => printed::<Proof>(),
        Subject::Diff => printed::<Difference>(),
        Subject::Test => printed::<Tests>(),
        Subject::Why => printed::<Why>(),
        Subject::Report => printed::<Findings>(),
    }
}

/// The schema of what we write ourselves.
fn printed<T: JsonSchema>() -> Value {
    let generator = SchemaSettings::draft2020_12().for_serialize().into_generator();
    generator.into_root_schema_for::<T>().to_value()
}
