//! The committed schema is the one of the types.

use crate::support::{assert_none, compare, ringfence, root};

#[test]
fn the_committed_schema_is_fresh() {
    let run = ringfence(root(), &["schema"]);
    let path = root().join("schemas/desired-state.schema.json");
    assert_none(compare(&path, run.stdout.as_bytes()).as_slice());
}

#[test]
fn the_schema_accepts_every_example() {
    let schema = ringfence::schema::desired_state();
    let validator = jsonschema::validator_for(&schema).unwrap();
    for (path, bytes) in crate::support::tree(&root().join("examples")) {
        if path.extension().is_none_or(|extension| extension != "yaml") {
            continue;
        }
        let document: serde_json::Value = serde_yaml::from_slice(&bytes).unwrap();
        let errors: Vec<String> =
            validator.iter_errors(&document).map(|error| error.to_string()).collect();
        assert_eq!(errors, Vec::<String>::new(), "{}", path.display());
    }
}
