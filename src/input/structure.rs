//! What is wrong with the structure of a text that the types refuse: every error at once, by the
//! JSON schema, in our own words.

use jsonschema::error::{TypeKind, ValidationError, ValidationErrorKind as Kind};
use jsonschema::types::JsonType;
use serde::Deserialize;
use serde_json::Value;

use super::Documents;
use super::positions::{Cursor, Positions, syntax_error};
use crate::diagnostic::{Code, Diagnostic, Place, Report, nearest, quoted};
use crate::spec::schema;
use crate::value::{self, Invalid};

/// The report of a text that serde refused with `error`, or that has keys without values, and what
/// is left of it without the parts that the report is about.
pub(super) fn explain(
    source: u32,
    text: &str,
    mut positions: Positions,
    error: Option<&serde_yaml::Error>,
) -> (Option<Documents>, Report) {
    let mut report = positions.duplicate_keys();
    let schema = schema::desired_state();
    let Ok(validator) = validator(&schema) else {
        report.extend(error.map(|error| from_serde(source, error).into()).unwrap_or_default());
        return (None, report);
    };
    let mut states = Vec::new();
    let values = serde_yaml::Deserializer::from_str(text).map(Value::deserialize);
    for (number, value) in values.enumerate() {
        // Without a JSON form (a key that is a list, say) serde's own words have to do.
        let (Ok(mut value), Some(top)) = (value, positions.documents().nth(number)) else { break };
        if !value.is_null() {
            let structure = Structure { schema: &schema, top };
            let errors: Vec<ValidationError<'_>> = validator.iter_errors(&value).collect();
            let errors: Vec<&ValidationError<'_>> = errors.iter().flat_map(leaves).collect();
            for error in &errors {
                if !structure.follows_from_another(error, &errors) {
                    structure.explain(error, &mut report);
                }
            }
            prune(&validator, &mut value, number, &mut positions);
        }
        states.push(serde_json::from_value(value).unwrap_or_default());
    }
    if report.is_empty() {
        // The schema takes no null anywhere, but may not have seen all of the text.
        report.extend(
            error.map_or_else(|| positions.nulls(), |error| from_serde(source, error).into()),
        );
    }
    (Some(Documents { states, positions }), report)
}

/// Takes out of a document what the schema refuses, and what can't be without it.
fn prune(
    validator: &jsonschema::Validator,
    value: &mut Value,
    number: usize,
    positions: &mut Positions,
) {
    // Each round takes out at least one level of what is left of a spoilt object.
    for _ in 0..64 {
        if validator.is_valid(value) {
            return;
        }
        let mut spoilt = Vec::new();
        for error in validator.iter_errors(value) {
            collect_spoilt(&error, &mut spoilt);
        }
        // Later items of a list first, so that the indices of the earlier ones stay right.
        spoilt.sort_by_key(|pointer| pointer_order(pointer));
        spoilt.dedup();
        for pointer in spoilt.iter().rev() {
            positions.remove(number, pointer);
            remove(value, pointer);
        }
    }
}

fn pointer_order(pointer: &str) -> Vec<(usize, String)> {
    pointer.split('/').map(|token| (token.parse().unwrap_or(0), token.to_owned())).collect()
}

fn collect_spoilt(error: &ValidationError<'_>, spoilt: &mut Vec<String>) {
    let path = error.instance_path().as_str();
    match error.kind() {
        Kind::AdditionalProperties { unexpected } => {
            spoilt.extend(unexpected.iter().map(|key| format!("{path}/{}", escaped(key))));
        }
        Kind::PropertyNames { error } => {
            let key = error.instance().as_str().unwrap_or_default();
            spoilt.push(format!("{path}/{}", escaped(key)));
        }
        Kind::AnyOf { context } => match meant(error, context) {
            Some(branch) => branch.iter().for_each(|inner| collect_spoilt(inner, spoilt)),
            None => spoilt.push(path.to_owned()),
        },
        _ => spoilt.push(path.to_owned()),
    }
}

fn escaped(key: &str) -> String {
    key.replace('~', "~0").replace('/', "~1")
}

fn remove(value: &mut Value, pointer: &str) {
    let Some((parent, token)) = pointer.rsplit_once('/') else {
        *value = Value::Object(serde_json::Map::new());
        return;
    };
    match value.pointer_mut(parent) {
        Some(Value::Object(map)) => {
            map.remove(&token.replace("~1", "/").replace("~0", "~"));
        }
        Some(Value::Array(items)) => {
            if let Ok(index) = token.parse::<usize>()
                && index < items.len()
            {
                items.remove(index);
            }
        }
        _ => {}
    }
}

/// The errors of the branch that was meant of each `anyOf`, down to those that have no branches.
fn leaves<'e>(error: &'e ValidationError<'e>) -> Vec<&'e ValidationError<'e>> {
    if let Kind::AnyOf { context } = error.kind()
        && let Some(branch) = meant(error, context)
    {
        return branch.iter().flat_map(leaves).collect();
    }
    vec![error]
}

/// The branch of an `anyOf` that was meant: one for the type that the value has.
fn meant<'a>(
    error: &ValidationError<'_>,
    context: &'a [Vec<ValidationError<'static>>],
) -> Option<&'a [ValidationError<'static>]> {
    let same = error.instance_path();
    let of_other_type = |inner: &ValidationError<'_>| {
        matches!(inner.kind(), Kind::Type { .. }) && inner.instance_path() == same
    };
    context.iter().map(Vec::as_slice).find(|branch| !branch.iter().any(of_other_type))
}

fn validator(schema: &Value) -> Result<jsonschema::Validator, Box<ValidationError<'static>>> {
    let mut options = jsonschema::options().should_validate_formats(true);
    for &(format, check) in value::FORMATS {
        options = options.with_format(format, move |text: &str| check(text).is_ok());
    }
    options.build(schema).map_err(Box::new)
}

/// An error that only serde sees, at the position that it gives.
fn from_serde(source: u32, error: &serde_yaml::Error) -> Diagnostic {
    let narrow = |number: usize| u32::try_from(number).unwrap_or(u32::MAX);
    let place =
        error.location().map_or(Place { source, line: 1, column: 1, length: 0 }, |location| {
            Place {
                source,
                line: narrow(location.line()),
                column: narrow(location.column()),
                length: 0,
            }
        });
    let text = error.to_string();
    let reason = text.split(" at line ").next().unwrap_or(&text);
    if reason.contains("repetition limit") || reason.contains("recursion limit") {
        return Diagnostic::new(Code::TooLarge, "the aliases repeat too much").at(place);
    }
    // In front of it stands the path, as in `projects[0].vnid: `.
    let plain = reason.rsplit_once("]: ").map_or(reason, |(_, plain)| plain);
    let plain = ["invalid type: ", "invalid value: "]
        .iter()
        .find_map(|kind| plain.split_once(kind).map(|(_, rest)| rest))
        .unwrap_or(plain);
    if let Some((found, expected)) = plain.split_once(", expected ") {
        let message = format!("expected {}, found {}", in_words(expected), in_words(found));
        return Diagnostic::new(Code::WrongType, message).at(place);
    }
    let code = if plain.contains("twice") || plain.contains("duplicate") {
        Code::DuplicateKey
    } else if reason.contains("invalid") {
        Code::BadValue
    } else {
        return syntax_error(place, reason);
    };
    Diagnostic::new(code, plain).at(place)
}

/// Serde's name of a type, as people call it.
fn in_words(name: &str) -> String {
    let words = match name {
        "u64" | "u32" | "u16" | "u8" => "a whole number",
        "a sequence" | "sequence" => "a list",
        "a map" | "map" => "a mapping",
        "unit value" => "nothing",
        _ if name.starts_with("struct ") => "a mapping",
        _ => return name.replace("floating point", "the number").replace("integer", "the number"),
    };
    words.to_owned()
}

struct Structure<'a> {
    schema: &'a Value,
    top: Cursor<'a>,
}

impl Structure<'_> {
    fn explain(&self, error: &ValidationError<'_>, report: &mut Report) {
        let at = self.top.pointer(error.instance_path().as_str());
        let instance = error.instance().as_ref();
        // Nothing has no place of its own.
        let place = if instance.is_null() { at.key_place() } else { at.place() };
        match error.kind() {
            Kind::AnyOf { context } => {
                report.push(wrong_type(&expected_of(context), instance).at(place));
            }
            Kind::OneOfNotValid { .. } | Kind::OneOfMultipleValid { .. } => {
                let words = self.words(error);
                report.push(if self.known_keys(error).contains(&"dnsName") {
                    rule_destination().at(place)
                } else if words.is_empty() {
                    rule_verdict().at(place)
                } else {
                    not_listed(instance, &words).at(place)
                });
            }
            Kind::AdditionalProperties { unexpected } => {
                let known = self.known_keys(error);
                for key in unexpected {
                    report.push(unknown_key(key, &known).at(at.key(key).key_place()));
                }
            }
            Kind::PropertyNames { error } => {
                let key = error.instance().as_str().unwrap_or_default();
                report.push(self.format_error(error, key).at(at.key(key).key_place()));
            }
            Kind::Required { property } => {
                let name = property.as_str().unwrap_or_default();
                let diagnostic =
                    Diagnostic::new(Code::MissingKey, format!("the key `{name}` is missing"))
                        .at(place);
                let description = self.subschema(error).get("properties");
                let description = description.and_then(|keys| keys.get(name)?.get("description"));
                report.push(match description.and_then(Value::as_str) {
                    Some(text) => diagnostic.help(format!("add `{name}`: {}", sentence(text))),
                    None => diagnostic,
                });
            }
            Kind::Type { kind } => {
                report.push(wrong_type(&expected(kind), instance).at(place));
            }
            Kind::Enum { options } => {
                let words = options.as_array().into_iter().flatten().filter_map(Value::as_str);
                report.push(not_listed(instance, &words.collect::<Vec<_>>()).at(place));
            }
            Kind::Constant { .. } => {
                let path = error.instance_path().as_str();
                report.push(if path.ends_with("/replicas") {
                    replicas(instance).at(place)
                } else {
                    unsupported_version(instance).at(place)
                });
            }
            // Every pattern stands beside a format, which knows more.
            Kind::Pattern { .. } => {}
            Kind::Format { .. } => {
                let text = instance.as_str().unwrap_or_default();
                report.push(self.format_error(error, text).at(place));
            }
            Kind::Minimum { .. } | Kind::Maximum { .. } => {
                report.push(self.out_of_range(error).at(place));
            }
            _ => {
                report.push(Diagnostic::new(Code::BadValue, clipped(&error.to_string())).at(place));
            }
        }
    }

    /// The part of the schema that holds the keyword which failed.
    fn subschema(&self, error: &ValidationError<'_>) -> &Value {
        let path = error.schema_path().as_str();
        let parent = path.rsplit_once('/').map_or("", |(parent, _)| parent);
        self.schema.pointer(parent).unwrap_or(&Value::Null)
    }

    /// The words of which one has to stand here, where the schema lists them one by one.
    fn words(&self, error: &ValidationError<'_>) -> Vec<&str> {
        let branches = self.subschema(error).get("oneOf").and_then(Value::as_array);
        branches.into_iter().flatten().filter_map(|branch| branch.get("const")?.as_str()).collect()
    }

    /// Whether an error goes away with another one: a key that is only misspelt is not missing,
    /// and a value of another type has no range.
    fn follows_from_another(
        &self,
        error: &ValidationError<'_>,
        all: &[&ValidationError<'_>],
    ) -> bool {
        let mut beside = all.iter().filter(|other| other.instance_path() == error.instance_path());
        let misspelt = |other: &&&ValidationError<'_>, wanted: Option<&str>| match other.kind() {
            Kind::AdditionalProperties { unexpected } => unexpected.iter().any(|key| {
                let meant = nearest(key, self.known_keys(other));
                meant.is_some_and(|meant| wanted.is_none_or(|wanted| wanted == meant))
            }),
            _ => false,
        };
        match error.kind() {
            Kind::Required { property } => beside.any(|other| misspelt(&other, property.as_str())),
            Kind::OneOfNotValid { .. } if self.words(error).is_empty() => {
                beside.any(|other| misspelt(&other, None))
            }
            Kind::Type { .. } => false,
            Kind::Minimum { .. } | Kind::Maximum { .. } => beside
                .any(|other| matches!(other.kind(), Kind::Type { .. } | Kind::Constant { .. })),
            _ => beside.any(|other| matches!(other.kind(), Kind::Type { .. })),
        }
    }

    fn known_keys(&self, error: &ValidationError<'_>) -> Vec<&str> {
        let properties = self.subschema(error).get("properties").and_then(Value::as_object);
        properties.into_iter().flat_map(|map| map.keys().map(String::as_str)).collect()
    }

    fn format_error(&self, error: &ValidationError<'_>, text: &str) -> Diagnostic {
        let format = self.subschema(error).get("format").and_then(Value::as_str);
        let check = value::FORMATS.iter().find(|(name, _)| Some(*name) == format);
        match check.map(|(_, check)| check(text)) {
            Some(Err(invalid)) => invalid.into(),
            _ => Diagnostic::new(Code::BadValue, clipped(&error.to_string())),
        }
    }

    fn out_of_range(&self, error: &ValidationError<'_>) -> Diagnostic {
        let schema = self.subschema(error);
        let number = error.instance().as_ref();
        let format = schema.get("format").and_then(Value::as_str).unwrap_or_default();
        // A negative number is as far from a port as zero is.
        let checked: Option<Invalid> = value::check_number(format, number.as_u64().unwrap_or(0));
        if let (Some(invalid), Some(_)) = (checked, number.as_u64()) {
            return invalid.into();
        }
        let message = format!("{number} is out of range");
        let diagnostic = Diagnostic::new(Code::BadValue, message);
        match (schema.get("minimum"), schema.get("maximum")) {
            (Some(least), Some(most)) => {
                diagnostic.help(format!("choose a number from {least} to {most}"))
            }
            (Some(least), None) => diagnostic.help(format!("choose {least} or more")),
            _ => diagnostic,
        }
    }
}

/// A rule of an egress policy that is neither or both of `allow` and `deny`.
pub(crate) fn rule_verdict() -> Diagnostic {
    Diagnostic::new(Code::RuleVerdict, "a rule is either `allow` or `deny`")
        .help("give each rule one of the two; a rule that does both becomes two rules")
}

/// A rule of an egress policy that has neither or both of `cidr` and `dnsName`.
pub(crate) fn rule_destination() -> Diagnostic {
    Diagnostic::new(Code::RuleDestination, "a rule is either for a `cidr` or for a `dnsName`")
        .help("give each rule one of the two; a rule for both becomes two rules")
}

/// A version of the format that this ringfence does not know.
pub(crate) fn unsupported_version(found: &Value) -> Diagnostic {
    Diagnostic::new(
        Code::Version,
        format!("version {} is not supported", clipped(&found.to_string())),
    )
    .help("this ringfence reads `version: 1`")
}

/// A number of replicas other than one.
pub(crate) fn replicas(found: &Value) -> Diagnostic {
    let message = format!("an egress router has one replica, not {}", clipped(&found.to_string()));
    Diagnostic::new(Code::RouterReplicas, message)
        .help("the source address can be in one place only; define a second router with its own")
}

fn unknown_key(key: &str, known: &[&str]) -> Diagnostic {
    let diagnostic = Diagnostic::new(Code::UnknownKey, format!("unknown key {}", quoted(key)));
    if key == "<<" {
        return diagnostic.help("YAML's merge keys are not supported: write the keys out");
    }
    if key.starts_with("match") && known.contains(&"selector") {
        return diagnostic.help("put it under `selector`");
    }
    match nearest(key, known.iter().copied()) {
        Some(meant) => diagnostic.help(format!("did you mean `{meant}`?")),
        None => diagnostic.help(format!("the keys here are {}", all(known))),
    }
}

fn not_listed(instance: &Value, options: &[&str]) -> Diagnostic {
    let Some(text) = instance.as_str() else {
        return wrong_type(&["a string".to_owned()], instance);
    };
    let message = format!("{} is not one of {}", quoted(text), all(options));
    let diagnostic = Diagnostic::new(Code::BadValue, message);
    match nearest(text, options.iter().copied()) {
        Some(meant) => diagnostic.help(format!("did you mean `{meant}`?")),
        None => diagnostic.help("choose one of them"),
    }
}

fn wrong_type(expected: &[String], found: &Value) -> Diagnostic {
    let what = match found {
        Value::Null => "nothing".to_owned(),
        Value::Bool(value) => format!("the truth value {value}"),
        Value::Number(number) => format!("the number {number}"),
        Value::String(text) => format!("the string {}", quoted(text)),
        Value::Array(_) => "a list".to_owned(),
        Value::Object(_) => "a mapping".to_owned(),
    };
    let message = format!("expected {}, found {what}", expected.join(" or "));
    let diagnostic = Diagnostic::new(Code::WrongType, message);
    match found {
        Value::Number(_) | Value::Bool(_) if expected.iter().any(|e| e == "a string") => {
            diagnostic.help(format!("put it in quotes: \"{found}\""))
        }
        Value::Null => diagnostic.help("give it a value, or remove it if it may be left out"),
        _ => diagnostic,
    }
}

/// What the branches of an `anyOf` expect.
fn expected_of(context: &[Vec<ValidationError<'static>>]) -> Vec<String> {
    let mut all = Vec::new();
    for error in context.iter().flatten() {
        match error.kind() {
            Kind::Type { kind } => all.extend(expected(kind)),
            Kind::AnyOf { context } => all.extend(expected_of(context)),
            _ => {}
        }
    }
    all.dedup();
    all
}

fn expected(kind: &TypeKind) -> Vec<String> {
    let types: Vec<JsonType> = match kind {
        TypeKind::Single(single) => vec![*single],
        TypeKind::Multiple(set) => set.iter().collect(),
    };
    let named = types.into_iter().filter_map(|json_type| match json_type {
        JsonType::Array => Some("a list"),
        JsonType::Boolean => Some("true or false"),
        JsonType::Integer => Some("a whole number"),
        JsonType::Null => None,
        JsonType::Number => Some("a number"),
        JsonType::Object => Some("a mapping"),
        JsonType::String => Some("a string"),
    });
    named.map(str::to_owned).collect()
}

fn all(words: &[&str]) -> String {
    words.iter().map(|word| format!("`{word}`")).collect::<Vec<_>>().join(", ")
}

/// A description of the schema as the rest of a sentence.
fn sentence(text: &str) -> String {
    let first = text.split(". ").next().unwrap_or(text).trim_end_matches('.').replace('\n', " ");
    let lower = first.chars().take(1).flat_map(char::to_lowercase);
    lower.chain(first.chars().skip(1)).collect()
}

fn clipped(text: &str) -> String {
    quoted(text).trim_matches('`').to_owned()
}
