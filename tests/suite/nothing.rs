//! Keys and items without a value: none may have a meaning, whatever the schema holds.

use std::collections::BTreeSet;
use std::rc::Rc;

use ringfence::diagnostic::{Code, Diagnostic, Source, Sources};
use ringfence::input;
use ringfence::spec::schema;
use serde_json::{Map, Value, json};

/// Puts a value where it belongs into an otherwise small document.
type Wrap = Rc<dyn Fn(Value) -> Value>;

/// A place of the schema that takes a value.
struct Spot {
    /// The way to it, as in `nodes[].uplink.mtu`.
    path: String,
    schema: Value,
    wrap: Wrap,
}

/// Walks a schema.
struct Walk {
    root: Value,
    spots: Vec<Spot>,
    /// The keys that it came by, each behind the definition that has it.
    keys: BTreeSet<String>,
}

impl Walk {
    fn resolved(&self, schema: &Value) -> (Value, Option<String>) {
        match schema.get("$ref").and_then(Value::as_str) {
            Some(to) => {
                let pointer = to.strip_prefix('#').unwrap();
                (self.root.pointer(pointer).unwrap().clone(), Some(to.to_owned()))
            }
            None => (schema.clone(), None),
        }
    }

    /// A small value that a schema takes, with a key if it is a mapping.
    fn sample(&self, schema: &Value, with: Option<&str>) -> Value {
        let (schema, _) = self.resolved(schema);
        if let Some(examples) = schema.get("examples") {
            return examples[0].clone();
        }
        if let Some(only) = schema.get("const") {
            return only.clone();
        }
        if let Some(words) = schema.get("enum") {
            return words[0].clone();
        }
        if let Some(first) = schema.pointer("/anyOf/0") {
            return self.sample(first, None);
        }
        let branches = schema.get("oneOf").and_then(Value::as_array);
        if let Some(word) = branches.and_then(|all| all[0].get("const")) {
            return word.clone();
        }
        match schema["type"].as_str().unwrap() {
            "array" => json!([]),
            "boolean" => json!(true),
            "integer" => schema.get("minimum").cloned().unwrap_or(json!(1)),
            "string" => json!("a"),
            "object" => {
                let names = |list: &Value| -> Vec<String> {
                    serde_json::from_value(list.clone()).unwrap_or_default()
                };
                let mut keys = names(&schema["required"]);
                // One branch of those that exclude each other, that of the key if it is in one.
                let groups: Vec<Vec<String>> = branches
                    .into_iter()
                    .flatten()
                    .map(|branch| names(&branch["required"]))
                    .collect();
                let of_key = groups.iter().find(|g| g.iter().any(|k| Some(k.as_str()) == with));
                keys.extend(of_key.or(groups.first()).cloned().unwrap_or_default());
                let value = |key: &String| self.sample(&schema["properties"][key], None);
                Value::Object(keys.iter().map(|key| (key.clone(), value(key))).collect())
            }
            other => panic!("a sample of {other}"),
        }
    }

    fn walk(&mut self, path: &str, schema: &Value, wrap: &Wrap) {
        let (schema, name) = self.resolved(schema);
        if let Some(properties) = schema.get("properties").and_then(Value::as_object) {
            for (key, inner) in properties {
                let name = name.as_deref().unwrap_or_default();
                self.keys.insert(format!("{name}/{key}"));
                let around = self.sample(&schema, Some(key));
                let (outer, key_text) = (Rc::clone(wrap), key.clone());
                let wrap: Wrap = Rc::new(move |value| {
                    let mut object = around.as_object().unwrap().clone();
                    object.insert(key_text.clone(), value);
                    outer(Value::Object(object))
                });
                self.spot(&format!("{path}.{key}"), inner, &wrap);
            }
        }
        if let Some(items) = schema.get("items") {
            let outer = Rc::clone(wrap);
            let wrap: Wrap = Rc::new(move |value| outer(json!([value])));
            self.spot(&format!("{path}[]"), items, &wrap);
        }
        if let Some(values) = schema.get("additionalProperties").filter(|any| any.is_object()) {
            let outer = Rc::clone(wrap);
            let wrap: Wrap = Rc::new(move |value| {
                outer(Value::Object(Map::from_iter([("app".to_owned(), value)])))
            });
            self.spot(&format!("{path}.*"), values, &wrap);
        }
        for branch in schema.get("anyOf").and_then(Value::as_array).into_iter().flatten() {
            self.walk(path, branch, wrap);
        }
    }

    fn spot(&mut self, path: &str, schema: &Value, wrap: &Wrap) {
        let spot = Spot { path: path.to_owned(), schema: schema.clone(), wrap: Rc::clone(wrap) };
        self.spots.push(spot);
        self.walk(path, schema, wrap);
    }
}

fn walk() -> Walk {
    let root = schema::desired_state();
    let mut walk = Walk { root: root.clone(), spots: Vec::new(), keys: BTreeSet::new() };
    let top: Wrap = Rc::new(|value| value);
    walk.walk("", &root, &top);
    walk
}

/// What is wrong with the structure of a text.
fn structure(text: &str) -> Vec<Diagnostic> {
    let sources = vec![Source::new("a.yaml", "a.yaml", text.to_owned())];
    let (_, report) = input::parse(&Sources::from_texts(sources));
    report.sorted().into_iter().cloned().collect()
}

#[test]
fn the_walk_comes_by_every_key_of_the_schema() {
    let walk = walk();
    let mut keys = BTreeSet::new();
    let mut add = |name: &str, schema: &Value| {
        for key in schema.get("properties").and_then(Value::as_object).into_iter().flatten() {
            keys.insert(format!("{name}/{}", key.0));
        }
    };
    add("", &walk.root);
    for (name, schema) in walk.root["$defs"].as_object().unwrap() {
        add(&format!("#/$defs/{name}"), schema);
    }
    assert_eq!(walk.keys, keys);
    assert!(walk.spots.len() > 125, "{}", walk.spots.len());
}

#[test]
fn nothing_is_the_value_of_no_key_and_of_no_item() {
    let mut wrong = Vec::new();
    for Spot { path, schema, wrap } in &walk().spots {
        let good = serde_yaml::to_string(&wrap(walk().sample(schema, None))).unwrap();
        let found = structure(&good);
        if !found.is_empty() {
            wrong.push(format!("{path}: the document is not valid itself: {found:?}\n{good}"));
        }
        let text = serde_yaml::to_string(&wrap(Value::Null)).unwrap();
        let (line, content) =
            (1..).zip(text.lines()).find(|(_, line)| line.ends_with("null")).unwrap();
        // At the key, or where the item would be.
        let key = content.trim_start_matches([' ', '-']);
        let column = content.len() - key.len() + 1;
        for nothing in ["null", "~", "Null", "NULL", "!!null ~", ""] {
            let text = text.replace("null", nothing);
            let found = structure(&text);
            let as_expected = match found.as_slice() {
                [one] => {
                    one.code == Code::WrongType
                        && one.message.ends_with(", found nothing")
                        && one.place.is_some_and(|place| {
                            // An item that isn't written has no place but the one before it.
                            let known = !nothing.is_empty() || !path.ends_with("[]");
                            !known
                                || (place.line, place.column)
                                    == (line, u32::try_from(column).unwrap())
                        })
                }
                _ => false,
            };
            if !as_expected {
                wrong.push(format!("{path} as `{nothing}`: {found:?}\n{text}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}\n{} are wrong", wrong.join("\n"), wrong.len());
}

#[test]
fn nothing_is_found_beside_what_has_no_form_in_json() {
    // The schema sees none of a document with such a tag.
    let text = "version: 1\nprojects:\n  - {name: shop, multicast: !x true}\nisolate:\n";
    let found = structure(text);
    assert!(found.iter().any(Diagnostic::is_error), "{found:?}");
}

#[test]
fn a_half_written_port_opens_nothing() {
    let text = "version: 1\nnodes:\n  - {name: node-1, address: 192.168.12.11}\nprojects:\n  \
                - {name: shop}\negressPolicies:\n  - project: shop\n    rules:\n      \
                - allow: {cidr: 192.0.2.0/24, ports: [{port: }]}\n      \
                - deny: {cidr: 0.0.0.0/0}\nisolate:\n";
    let found: Vec<_> = structure(text)
        .into_iter()
        .map(|one| (one.code, one.place.map(|place| (place.line, place.column)), one.message))
        .collect();
    assert_eq!(
        found,
        [
            (Code::WrongType, Some((9, 46)), "expected a whole number, found nothing".to_owned()),
            (
                Code::WrongType,
                Some((11, 1)),
                "expected a list or a mapping, found nothing".to_owned()
            ),
        ]
    );
}
