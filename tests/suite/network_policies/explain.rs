//! From a flow to the policies that it serves, and to their lines.

use std::fs;
use std::path::Path;

use crate::support::{ringfence, root};

/// The flows of a node of the example, and what `explain` says of a subject.
fn compiled() -> (tempfile::TempDir, String) {
    let out = tempfile::tempdir().unwrap();
    let example = root().join("examples/network-policies");
    let run = ringfence(&example, &["compile", ".", "-o", out.path().to_str().unwrap()]);
    assert_eq!(run.status, 0, "{}", run.stderr);
    let flows = fs::read_to_string(out.path().join("node-2/flows.ofctl")).unwrap();
    (out, flows)
}

fn explained(out: &Path, subject: &str) -> String {
    let run = ringfence(out, &["explain", subject, "--out", out.to_str().unwrap()]);
    assert_eq!(run.status, 0, "{subject}: {}", run.stderr);
    run.stdout
}

/// The number of a line of the example that begins so.
fn line(begins: &str) -> usize {
    let text = fs::read_to_string(root().join("examples/network-policies/network.yaml")).unwrap();
    text.lines().position(|line| line.trim_start().starts_with(begins)).unwrap() + 1
}

#[test]
fn a_clause_leads_to_every_rule_that_it_serves() {
    let (out, flows) = compiled();
    let shared = flows
        .lines()
        .find(|line| line.contains("table=80") && line.matches("conjunction(").count() > 1);
    let shared = shared.unwrap();
    let names = shared.rsplit_once("policies of shop | ").unwrap().1;
    let text = explained(out.path(), shared.split(" # ").next().unwrap());
    for name in names.split(", ") {
        assert!(text.contains(&format!("policy shop/{name}: ingress")), "{name}: {text}");
        assert!(text.contains("network.yaml:"), "{text}");
    }
}

#[test]
fn the_number_of_a_conjunction_leads_to_its_rule() {
    let (out, flows) = compiled();
    let met =
        flows.lines().find(|line| line.contains("conj_id=") && line.contains("orders-from-front"));
    let id = met.unwrap().split("conj_id=").nth(1).unwrap().split(',').next().unwrap();
    let text = explained(out.path(), id);
    assert!(
        text.contains("policy shop/orders-from-front: ingress from pods {tier=front}"),
        "{text}"
    );
    // Its rule stands three lines below its name.
    let place = line("name: orders-from-front") + 3;
    assert!(text.contains(&format!("network.yaml:{place}:")), "{text}");
}

#[test]
fn a_drop_leads_to_every_policy_of_its_project() {
    let (out, flows) = compiled();
    let drop = flows.lines().find(|line| {
        line.contains("table=80") && line.ends_with("actions=drop # policies of shop")
    });
    let cookie = drop.unwrap().split(['=', ',']).nth(1).unwrap();
    let text = explained(out.path(), cookie);
    for name in ["nothing-by-default", "front-for-all", "metrics", "orders-out", "data-keeps-quiet"]
    {
        assert!(text.contains(&format!("policy shop/{name}\n")), "{name}: {text}");
    }
    assert!(!text.contains("monitoring"), "{text}");
}
