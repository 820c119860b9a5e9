//! The lock file as `ringfence lock` writes it, read line by line: a fifth of what YAML takes.
//!
//! It takes only what it is sure of, and nothing that YAML could take for something else: whatever
//! another hand has written is left to YAML, and so is every error.

use std::collections::BTreeMap;
use std::str::FromStr;

use serde::Deserialize;
use serde::de::value::Error;
use serde::de::{IntoDeserializer as _, value};

use super::{Lock, VERSION};

/// The lock in a text, if every line is as `ringfence lock` writes it.
pub(super) fn parse(text: &str) -> Option<Lock> {
    let mut lock = Lock::default();
    let mut versions = 0;
    let mut section = "";
    let mut sections: Vec<&str> = Vec::new();
    for line in text.split_terminator('\n') {
        if line.starts_with("# ") {
            continue;
        }
        if let Some(entry) = line.strip_prefix("  ") {
            let (key, value) = entry.split_once(": ")?;
            insert(&mut lock, section, plain(key)?, plain(value)?)?;
        } else if let Some(name) = line.strip_suffix(':') {
            if sections.contains(&name) {
                return None;
            }
            sections.push(name);
            section = name;
        } else if line == format!("version: {VERSION}") {
            versions += 1;
            section = "";
        } else {
            return None;
        }
    }
    // A section without entries is one that YAML takes for nothing.
    (versions == 1 && sections.iter().all(|name| has_entries(&lock, name))).then_some(lock)
}

/// A text that is itself in YAML too: some words of letters, digits and harmless signs.
fn plain(text: &str) -> Option<&str> {
    let sign = |byte: u8| b"./_-:".contains(&byte);
    let word = |word: &str| {
        word.bytes().all(|byte| byte.is_ascii_alphanumeric() || sign(byte))
            && word.bytes().next().is_some_and(|byte| byte.is_ascii_alphanumeric())
            && !word.ends_with(':')
    };
    let special = ["null", "true", "false", "yes", "no", "on", "off", "y", "n"];
    let is_special = special.iter().any(|special| special.eq_ignore_ascii_case(text));
    (text.split(' ').all(word) && !is_special).then_some(text)
}

fn insert(lock: &mut Lock, section: &str, key: &str, value: &str) -> Option<()> {
    let name = |text: &str| (!text.contains(' ')).then(|| text.to_owned());
    match section {
        "vnids" => once(&mut lock.vnids, name(key)?, number(value)?),
        "retiredVnids" => once(&mut lock.retired_vnids, number(key)?, name(value)?),
        "retiredAddresses" => once(&mut lock.retired_addresses, words(key)?, name(value)?),
        "memberships" => once(&mut lock.memberships, name(key)?, name(value)?),
        "formerMembers" => once(&mut lock.former_members, name(key)?, number(value)?),
        "subnets" => once(&mut lock.subnets, name(key)?, words(value)?),
        "pods" => once(&mut lock.pods, name(key)?, words(value)?),
        "routers" => once(&mut lock.routers, name(key)?, words(value)?),
        "outsidePorts" => once(&mut lock.outside_ports, name(key)?, words(value)?),
        "services" => once(&mut lock.services, name(key)?, words(value)?),
        "nodePorts" => once(&mut lock.node_ports, name(key)?, number(value)?),
        "resolvedNames" => once(&mut lock.resolved_names, words(key)?, words(value)?),
        _ => None,
    }
}

fn has_entries(lock: &Lock, section: &str) -> bool {
    !match section {
        "vnids" => lock.vnids.is_empty(),
        "retiredVnids" => lock.retired_vnids.is_empty(),
        "retiredAddresses" => lock.retired_addresses.is_empty(),
        "memberships" => lock.memberships.is_empty(),
        "formerMembers" => lock.former_members.is_empty(),
        "subnets" => lock.subnets.is_empty(),
        "pods" => lock.pods.is_empty(),
        "routers" => lock.routers.is_empty(),
        "outsidePorts" => lock.outside_ports.is_empty(),
        "services" => lock.services.is_empty(),
        "nodePorts" => lock.node_ports.is_empty(),
        "resolvedNames" => lock.resolved_names.is_empty(),
        _ => true,
    }
}

fn once<K: Ord, V>(entries: &mut BTreeMap<K, V>, key: K, value: V) -> Option<()> {
    entries.insert(key, value).is_none().then_some(())
}

/// A value with a form of its own.
fn words<T: FromStr>(text: &str) -> Option<T> {
    text.parse().ok()
}

/// A number in decimal, as its type takes it.
fn number<T: for<'de> Deserialize<'de>>(text: &str) -> Option<T> {
    let digits = text.bytes().all(|byte| byte.is_ascii_digit());
    let canonical = digits && (text == "0" || !text.starts_with('0'));
    let number: u64 = text.parse().ok().filter(|_| canonical)?;
    let deserializer: value::U64Deserializer<Error> = number.into_deserializer();
    T::deserialize(deserializer).ok()
}
