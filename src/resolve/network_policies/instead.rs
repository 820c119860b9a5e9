//! What to write in mode `networkpolicy` instead of joins, isolation and global projects.

use super::METADATA_NAME;
use crate::intent::is_empty;
use crate::spec::{DesiredState, Join, Operator, ProjectSet, Selector};
use crate::value::LabelValue;

/// The policies that mean the same as a section of the mode `multitenant`, as advice.
pub(crate) fn instead_of(key: &str, state: &DesiredState) -> String {
    let policies: Vec<String> = match key {
        "joins" => state.joins.iter().flat_map(joined).collect(),
        "isolate" => state.isolate.iter().flat_map(isolated).collect(),
        _ => return global(state.global.as_ref()),
    };
    format!("write instead under `networkPolicies`: [{}]", policies.join(", "))
}

/// Every project of a join takes what the others send, and what it sends itself.
fn joined(join: &Join) -> Vec<String> {
    let Join { to, projects, selector } = join;
    let mut names: Vec<&str> = vec![to.as_str()];
    names.extend(projects.iter().map(crate::value::Name::as_str));
    let mut peers = vec![format!("{{namespaceSelector: {}}}", by_name(&names))];
    peers.extend(selector.iter().map(|s| format!("{{namespaceSelector: {}}}", yaml(s))));
    let policy = |project: &str| {
        format!("{{project: {project}, name: joined, ingress: [{{from: [{}]}}]}}", peers.join(", "))
    };
    let selected = selector.iter().map(|_| "EACH-SELECTED-PROJECT");
    names.into_iter().chain(selected).map(policy).collect()
}

/// An isolated project takes what it sends itself.
fn isolated(set: &ProjectSet) -> Vec<String> {
    let names = set.projects.iter().map(crate::value::Name::as_str);
    let selected = set.selector.iter().map(|_| "EACH-SELECTED-PROJECT");
    let policy = |project| {
        format!(
            "{{project: {project}, name: own-project-only, ingress: [{{from: [{{podSelector: \
             {{}}}}]}}]}}"
        )
    };
    names.chain(selected).map(policy).collect()
}

fn global(set: Option<&ProjectSet>) -> String {
    let names: Vec<&str> = set
        .map_or_else(Vec::new, |set| set.projects.iter().map(crate::value::Name::as_str).collect());
    let selector = match set.and_then(|set| set.selector.as_ref()) {
        Some(selector) if names.is_empty() => yaml(selector),
        _ => by_name(&names),
    };
    format!(
        "remove it: a project without policies takes what all others send; let it into projects with \
         policies by a peer of theirs, {{namespaceSelector: {selector}}}"
    )
}

fn by_name(names: &[&str]) -> String {
    if let [name] = names {
        return format!("{{matchLabels: {{{METADATA_NAME}: {}}}}}", quoted(name));
    }
    let names: Vec<String> = names.iter().map(|name| quoted(name)).collect();
    format!(
        "{{matchExpressions: [{{key: {METADATA_NAME}, operator: In, values: [{}]}}]}}",
        names.join(", ")
    )
}

/// A selector in the flow style of YAML.
fn yaml(selector: &Selector) -> String {
    if is_empty(selector) {
        return "{}".to_owned();
    }
    let mut parts = Vec::new();
    if !selector.labels.is_empty() {
        let labels = selector.labels.iter();
        let labels: Vec<String> =
            labels.map(|(key, value)| format!("{key}: {}", quoted(value.as_str()))).collect();
        parts.push(format!("matchLabels: {{{}}}", labels.join(", ")));
    }
    let expressions = selector.expressions.iter().map(|expression| {
        let values: Vec<String> =
            expression.values.iter().map(LabelValue::as_str).map(quoted).collect();
        let operator = match expression.operator {
            Operator::In => "In",
            Operator::NotIn => "NotIn",
            Operator::Exists => "Exists",
            Operator::DoesNotExist => "DoesNotExist",
        };
        let values = match values.len() {
            0 => String::new(),
            _ => format!(", values: [{}]", values.join(", ")),
        };
        format!("{{key: {}, operator: {operator}{values}}}", expression.key)
    });
    let expressions: Vec<String> = expressions.collect();
    if !expressions.is_empty() {
        parts.push(format!("matchExpressions: [{}]", expressions.join(", ")));
    }
    format!("{{{}}}", parts.join(", "))
}

/// A word that YAML takes for a string.
fn quoted(word: &str) -> String {
    const OTHERS: [&str; 9] = ["true", "false", "null", "yes", "no", "on", "off", "y", "n"];
    let plain = word.starts_with(|first: char| first.is_ascii_alphabetic())
        && !OTHERS.contains(&word.to_ascii_lowercase().as_str());
    if plain { word.to_owned() } else { format!("\"{word}\"") }
}
