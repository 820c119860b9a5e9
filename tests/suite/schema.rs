//! The committed schemas are those of the types.

use crate::support::{assert_none, compare, ringfence, root};

#[test]
fn the_committed_schemas_are_fresh() {
    let mut wrong = Vec::new();
    for subject in ["desired-state", "apply", "status", "generations"] {
        let run = ringfence(root(), &["schema", subject]);
        let path = root().join(format!("schemas/{subject}.schema.json"));
        wrong.extend(compare(&path, run.stdout.as_bytes()));
    }
    assert_none(&wrong);
    let default = ringfence(root(), &["schema"]);
    assert_eq!(default.stdout, ringfence(root(), &["schema", "desired-state"]).stdout);
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
