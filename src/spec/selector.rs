//! Labels and selectors.

use std::collections::BTreeMap;
use std::fmt;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::Deserialize;
use serde::de::{self, MapAccess, Visitor};

use crate::value::{LabelKey, LabelValue};

/// Labels of a node, project or pod.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Labels(pub BTreeMap<LabelKey, LabelValue>);

/// Which objects are meant, by their labels: all of its conditions must hold.
///
/// Written as `{team: retail}`, or as Kubernetes does with `matchLabels` and `matchExpressions`,
/// or both together.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Selector {
    /// Labels that must have exactly these values.
    pub labels: BTreeMap<LabelKey, LabelValue>,
    /// Further conditions.
    pub expressions: Vec<Expression>,
}

/// One condition of a selector.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Expression {
    /// The label that it is about.
    pub key: LabelKey,
    /// What must hold for it.
    pub operator: Operator,
    /// The values of `In` and `NotIn`; empty for the others.
    #[serde(default)]
    pub values: Vec<LabelValue>,
}

/// What must hold for a label.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
pub enum Operator {
    /// It has one of the values.
    In,
    /// It has none of the values, or is absent.
    NotIn,
    /// It is there.
    Exists,
    /// It is absent.
    DoesNotExist,
}

impl Selector {
    /// Whether an object with these labels is meant. An empty selector means all.
    #[must_use]
    pub fn matches(&self, labels: &Labels) -> bool {
        let labels = &labels.0;
        self.labels.iter().all(|(key, value)| labels.get(key) == Some(value))
            && self.expressions.iter().all(|expression| {
                let value = labels.get(&expression.key);
                let listed = || value.is_some_and(|value| expression.values.contains(value));
                match expression.operator {
                    Operator::In => listed(),
                    Operator::NotIn => !listed(),
                    Operator::Exists => value.is_some(),
                    Operator::DoesNotExist => value.is_none(),
                }
            })
    }
}

impl<'de> Deserialize<'de> for Labels {
    fn deserialize<D: de::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct LabelsVisitor;

        impl<'de> Visitor<'de> for LabelsVisitor {
            type Value = Labels;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a mapping of labels")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Labels, A::Error> {
                let mut labels = BTreeMap::new();
                while let Some(key) = map.next_key::<LabelKey>()? {
                    insert(&mut labels, key, map.next_value()?)?;
                }
                Ok(Labels(labels))
            }
        }
        deserializer.deserialize_map(LabelsVisitor)
    }
}

impl<'de> Deserialize<'de> for Selector {
    fn deserialize<D: de::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct SelectorVisitor;

        impl<'de> Visitor<'de> for SelectorVisitor {
            type Value = Selector;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a mapping of labels, `matchLabels` or `matchExpressions`")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Selector, A::Error> {
                let mut selector = Selector::default();
                while let Some(key) = map.next_key::<LabelKey>()? {
                    match key.as_str() {
                        "matchLabels" => {
                            for (key, value) in map.next_value::<Labels>()?.0 {
                                insert(&mut selector.labels, key, value)?;
                            }
                        }
                        "matchExpressions" => {
                            selector.expressions.extend(map.next_value::<Vec<Expression>>()?);
                        }
                        _ => insert(&mut selector.labels, key, map.next_value()?)?,
                    }
                }
                Ok(selector)
            }
        }
        deserializer.deserialize_map(SelectorVisitor)
    }
}

fn insert<E: de::Error>(
    labels: &mut BTreeMap<LabelKey, LabelValue>,
    key: LabelKey,
    value: LabelValue,
) -> Result<(), E> {
    if labels.contains_key(&key) {
        return Err(E::custom(format!("duplicate label `{key}`")));
    }
    labels.insert(key, value);
    Ok(())
}

impl JsonSchema for Labels {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Labels".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let key = generator.subschema_for::<LabelKey>();
        let value = generator.subschema_for::<LabelValue>();
        json_schema!({
            "description": "Labels of a node, project or pod.",
            "type": "object",
            "propertyNames": key,
            "additionalProperties": value,
        })
    }
}

impl JsonSchema for Selector {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Selector".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let key = generator.subschema_for::<LabelKey>();
        let value = generator.subschema_for::<LabelValue>();
        let labels = generator.subschema_for::<Labels>();
        let expressions = generator.subschema_for::<Vec<Expression>>();
        json_schema!({
            "description": "Which objects are meant, by their labels: `{team: retail}`, or \
                            `matchLabels` and `matchExpressions` as in Kubernetes.",
            "type": "object",
            "properties": {"matchLabels": labels, "matchExpressions": expressions},
            "propertyNames": key,
            "additionalProperties": value,
        })
    }
}
