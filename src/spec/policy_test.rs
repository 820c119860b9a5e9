//! The `tests` section.

use std::fmt;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::Deserialize;
use serde::de::{self, MapAccess, SeqAccess, Visitor, value};

use super::Selector;
use crate::value::{Name, Port, Protocol};

/// What the network must do with some packets. `ringfence test` checks it; nothing that is compiled
/// depends on it.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PolicyTest {
    /// What it is for, in words; no other test has the same.
    pub name: String,
    /// Who sends. Of several, all.
    pub from: TestEnds,
    /// Whom it is for. Of several, all: `outside` and a network mean each address that is neither a
    /// pod's, a service's nor a node's.
    pub to: TestEnds,
    /// The destination port. Default: the ports of the service; otherwise all ports.
    pub port: Option<Port>,
    /// The protocol. Default: TCP with a `port`, all without.
    pub protocol: Option<Protocol>,
    /// Whether each of these packets arrives, or none of them.
    pub expect: Expectation,
    /// By what the outside is reached: the name of an egress router, or the address that the other
    /// side sees, which is an egress IP, or the name or address of a node.
    pub via: Option<String>,
}

/// What must become of packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum Expectation {
    /// They arrive.
    Allow,
    /// They don't.
    Deny,
}

/// Ends of connections: one, or a list of them.
#[derive(Debug)]
pub struct TestEnds {
    /// Whether it is written as a list.
    pub is_list: bool,
    /// Each of them.
    pub ends: Vec<TestEnd>,
}

/// An end of connections: one by its name, or pods.
#[derive(Debug)]
pub enum TestEnd {
    /// `project/pod`, `project/service`, a node, an egress router, an address, a network or `outside`.
    Named(String),
    /// Pods by their projects and labels.
    Pods(TestPods),
}

/// Pods by their projects and labels: all that fit.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct TestPods {
    /// The projects, by name. Default, without `selector` too: all.
    #[serde(default)]
    pub projects: Vec<Name>,
    /// The projects, by label.
    pub selector: Option<Selector>,
    /// Which of their pods, by label. Default: all.
    #[serde(default)]
    pub pod_selector: Selector,
}

const EXPECTED: &str =
    "the name of an end, or a mapping with `projects`, `selector` or `podSelector`";

impl<'de> Deserialize<'de> for TestEnd {
    fn deserialize<D: de::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Either;

        impl<'de> Visitor<'de> for Either {
            type Value = TestEnd;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(EXPECTED)
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<TestEnd, E> {
                Ok(TestEnd::Named(text.to_owned()))
            }

            fn visit_map<A: MapAccess<'de>>(self, entries: A) -> Result<TestEnd, A::Error> {
                let pods = TestPods::deserialize(value::MapAccessDeserializer::new(entries))?;
                Ok(TestEnd::Pods(pods))
            }
        }
        deserializer.deserialize_any(Either)
    }
}

impl<'de> Deserialize<'de> for TestEnds {
    fn deserialize<D: de::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct OneOrMany;

        impl<'de> Visitor<'de> for OneOrMany {
            type Value = TestEnds;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{EXPECTED}, or a list of those")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<TestEnds, E> {
                Ok(TestEnds { is_list: false, ends: vec![TestEnd::Named(text.to_owned())] })
            }

            fn visit_map<A: MapAccess<'de>>(self, entries: A) -> Result<TestEnds, A::Error> {
                let pods = TestPods::deserialize(value::MapAccessDeserializer::new(entries))?;
                Ok(TestEnds { is_list: false, ends: vec![TestEnd::Pods(pods)] })
            }

            fn visit_seq<A: SeqAccess<'de>>(self, items: A) -> Result<TestEnds, A::Error> {
                let ends = Vec::deserialize(value::SeqAccessDeserializer::new(items))?;
                Ok(TestEnds { is_list: true, ends })
            }
        }
        deserializer.deserialize_any(OneOrMany)
    }
}

impl JsonSchema for TestEnd {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "TestEnd".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let name = named(generator);
        let pods = generator.subschema_for::<TestPods>();
        json_schema!({
            "description": "An end of connections: one by its name, or pods by projects and labels.",
            "anyOf": [name, pods],
        })
    }
}

impl JsonSchema for TestEnds {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "TestEnds".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let name = named(generator);
        let pods = generator.subschema_for::<TestPods>();
        let list = generator.subschema_for::<Vec<TestEnd>>();
        json_schema!({
            "description": "Ends of connections: one by its name, pods by projects and labels, or a list \
                            of those.",
            "anyOf": [name, pods, list],
        })
    }
}

fn named(generator: &mut SchemaGenerator) -> Schema {
    let _ = generator;
    json_schema!({
        "description": "`project/pod`, `project/service`, a node, an egress router, an address, a network \
                        or `outside`.",
        "type": "string",
    })
}
