//! The committed schemas are those of the types.

use ringfence::cli::schema::Subject;

use crate::generations::assert_valid;
use crate::support::{assert_none, compare, ringfence, root};

#[test]
fn the_committed_schemas_are_fresh() {
    let mut wrong = Vec::new();
    for subject in [
        "desired-state",
        "apply",
        "status",
        "generations",
        "proof",
        "diff",
        "test",
        "why",
        "report",
    ] {
        let run = ringfence(root(), &["schema", subject]);
        let path = root().join(format!("schemas/{subject}.schema.json"));
        wrong.extend(compare(&path, run.stdout.as_bytes()));
    }
    assert_none(&wrong);
    let default = ringfence(root(), &["schema"]);
    assert_eq!(default.stdout, ringfence(root(), &["schema", "desired-state"]).stdout);
}

#[test]
fn a_report_is_as_its_schema_says() {
    let member = "tests/diagnostics/RF071-member/network.yaml";
    for (words, code) in [
        (["validate", "--format", "json", member], "RF071"),
        (["apply", "--check", "--json", "no-such-directory"], "RF202"),
        (["status", "--json", "--state", "no-such-directory"], "RF215"),
    ] {
        let run = ringfence(root(), &words);
        let document: serde_json::Value = serde_json::from_str(&run.stdout).unwrap();
        assert_eq!(run.status, 1, "{words:?}");
        assert_valid(Subject::Report, &document);
        assert_eq!(document["diagnostics"][0]["code"], code, "{document}");
    }
}

#[test]
fn the_schema_accepts_every_example() {
    let schema = ringfence::spec::schema::desired_state();
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
