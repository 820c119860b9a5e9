//! Bridges, ports and interfaces as Open vSwitch's database has them (RFC 7047).

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::columns::{self, Column, Row};
use crate::diagnostic::{Code, Diagnostic};
use crate::system::{Command, System, Tool, failed};
use crate::value::Datapath;

/// The key of `external_ids` by which ringfence knows its own.
pub(super) const MARK: &str = "ringfence";
/// The key that marks a bridge or port which was there before ringfence.
pub(super) const ADOPTED: &str = "ringfence-adopted";

/// The part of the database that ringfence looks at.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Database {
    /// The bridges by name.
    pub(super) bridges: BTreeMap<String, Bridge>,
    /// The queue disciplines by their rows.
    pub(super) qos: BTreeMap<String, Qos>,
    /// The queues by their rows.
    pub(super) queues: BTreeMap<String, Qos>,
}

/// A bridge.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Bridge {
    /// Its datapath type; empty is the same as `system`.
    pub(super) datapath: String,
    /// What it does without a controller.
    pub(super) fail_mode: String,
    /// Marks of whoever made it.
    pub(super) external_ids: BTreeMap<String, String>,
    /// Its ports by name, each with its one interface.
    pub(super) ports: BTreeMap<String, Port>,
    /// Its columns of which ringfence owns something.
    pub(super) row: Row,
    /// How many flows others have on it, where that was asked for.
    pub(super) foreign_flows: usize,
}

impl Port {
    /// Whether ringfence made it.
    pub(super) fn is_ours(&self) -> bool {
        self.external_ids.contains_key(MARK) && !self.external_ids.contains_key(ADOPTED)
    }
}

impl Bridge {
    /// Whether it has this datapath.
    pub(super) fn has_datapath(&self, datapath: Datapath) -> bool {
        self.datapath == datapath.as_str()
            || (self.datapath.is_empty() && datapath == Datapath::System)
    }
}

/// A port with its one interface.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Port {
    /// Its row.
    pub(super) uuid: String,
    /// Marks of whoever made it.
    pub(super) external_ids: BTreeMap<String, String>,
    /// The type of the interface; empty for an existing one of the system.
    pub(super) kind: String,
    /// Options of the interface.
    pub(super) options: BTreeMap<String, String>,
    /// The port number that it has; negative where it could not be opened.
    pub(super) ofport: Option<i64>,
    /// The row of its queue discipline.
    pub(super) qos: Option<String>,
    /// Its VLAN, if it is in one.
    pub(super) tag: Option<i64>,
    /// How many interfaces it has: several are a bond, of which this is about the first.
    pub(super) interfaces: usize,
    /// Its columns of which ringfence owns something.
    pub(super) row: Row,
    /// The same of its interface.
    pub(super) interface: Row,
}

/// A queue discipline, or one of its queues.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Qos {
    /// Marks of whoever made it.
    pub(super) external_ids: BTreeMap<String, String>,
    /// The type of a discipline.
    pub(super) kind: String,
    /// Its settings.
    pub(super) config: BTreeMap<String, String>,
    /// The rows of its queues by their numbers.
    pub(super) queues: BTreeMap<i64, String>,
}

/// What the database says of a column that it doesn't have.
const UNKNOWN: &[u8] = b"is not a valid column name";

impl Database {
    /// Reads the database. Fails where Open vSwitch doesn't run.
    pub(super) fn read(system: &dyn System) -> Result<Self, Diagnostic> {
        let answer = Self::ask(true, system)?;
        let unknown = |bytes: &[u8]| bytes.windows(UNKNOWN.len()).any(|part| part == UNKNOWN);
        // An older version lacks some columns, and has all the others.
        let answer = if unknown(&answer) { Self::ask(false, system)? } else { answer };
        Self::parse(&answer).ok_or_else(|| {
            Diagnostic::new(
                Code::CommandFailed,
                "Open vSwitch's database answers in an unknown form",
            )
        })
    }

    /// Asks for the rows, with the columns that matter or all of them.
    fn ask(some: bool, system: &dyn System) -> Result<Vec<u8>, Diagnostic> {
        let select = |table: &str, more: &[&'static str], columns: &[Column]| {
            let mut names = columns::names(more, columns);
            names.sort_unstable();
            names.dedup();
            let mut operation = json!({"op": "select", "table": table, "where": []});
            if some {
                operation["columns"] = json!(names);
            }
            operation
        };
        let transaction = json!([
            "Open_vSwitch",
            select("Bridge", &["name", "ports"], &columns::BRIDGE),
            select("Port", &["_uuid", "name", "interfaces", "qos"], &columns::PORT),
            select("Interface", &["_uuid", "name", "ofport"], &columns::INTERFACE),
            select("QoS", &["_uuid", "type", "external_ids", "other_config", "queues"], &[]),
            select("Queue", &["_uuid", "external_ids", "other_config"], &[]),
        ]);
        let command = Command::read(
            Tool::OvsdbClient,
            ["--timeout=20", "transact", &transaction.to_string()],
        );
        let output = system.run(&command)?;
        if output.status != Some(0) {
            let reason = failed(&command, &output).message;
            let reason = reason.rsplit(": ").next().unwrap_or_default().to_owned();
            return Err(Diagnostic::new(
                Code::OvsNotRunning,
                format!("Open vSwitch's database does not answer: {reason}"),
            )
            .help("start Open vSwitch: systemctl start openvswitch-switch"));
        }
        Ok(output.stdout)
    }

    fn parse(bytes: &[u8]) -> Option<Self> {
        let answer: Value = serde_json::from_slice(bytes).ok()?;
        let rows = |index: usize| answer.get(index)?.get("rows")?.as_array();
        let interfaces: BTreeMap<&str, &Value> =
            rows(2)?.iter().map(|row| Some((uuid(row)?, row))).collect::<Option<_>>()?;
        let ports: BTreeMap<&str, &Value> =
            rows(1)?.iter().map(|row| Some((uuid(row)?, row))).collect::<Option<_>>()?;
        let mut bridges = BTreeMap::new();
        for row in rows(0)? {
            let mut bridge = Bridge {
                datapath: word(row, "datapath_type").unwrap_or_default(),
                fail_mode: word(row, "fail_mode").unwrap_or_default(),
                external_ids: map(row.get("external_ids")?),
                ports: BTreeMap::new(),
                row: columns::row(row, &columns::BRIDGE),
                foreign_flows: 0,
            };
            for port in set(row.get("ports")?) {
                let Some(port) = ports.get(port.get(1)?.as_str()?) else { continue };
                let own = set(port.get("interfaces")?);
                let uuid = own.first().and_then(|own| own.get(1)).and_then(Value::as_str);
                let Some(interface) = uuid.and_then(|uuid| interfaces.get(uuid)) else { continue };
                let of = |row: &Value, key| set(row.get(key)?).first().and_then(Value::as_i64);
                let number = |key| of(interface, key);
                let found = Port {
                    uuid: self::uuid(port)?.to_owned(),
                    external_ids: map(port.get("external_ids")?),
                    kind: word(interface, "type").unwrap_or_default(),
                    options: map(interface.get("options")?),
                    ofport: number("ofport"),
                    qos: set(port.get("qos")?).first().and_then(reference),
                    tag: of(port, "tag"),
                    interfaces: own.len(),
                    row: columns::row(port, &columns::PORT),
                    interface: columns::row(interface, &columns::INTERFACE),
                };
                bridge.ports.insert(word(port, "name")?, found);
            }
            bridges.insert(word(row, "name")?, bridge);
        }
        let qos = rows(3)?.iter().map(disciplines).collect::<Option<_>>()?;
        let queues = rows(4)?.iter().map(disciplines).collect::<Option<_>>()?;
        Some(Self { bridges, qos, queues })
    }
}

/// A row of the tables `QoS` and `Queue`, with its number.
fn disciplines(found: &Value) -> Option<(String, Qos)> {
    let queues = found.get("queues").and_then(|queues| queues.get(1)).and_then(Value::as_array);
    let queues = queues.into_iter().flatten();
    let qos = Qos {
        external_ids: map(found.get("external_ids")?),
        kind: word(found, "type").unwrap_or_default(),
        config: map(found.get("other_config")?),
        queues: queues
            .filter_map(|pair| Some((pair.get(0)?.as_i64()?, reference(pair.get(1)?)?)))
            .collect(),
    };
    Some((uuid(found)?.to_owned(), qos))
}

/// What a reference to a row names.
fn reference(reference: &Value) -> Option<String> {
    reference.get(1)?.as_str().map(str::to_owned)
}

fn uuid(row: &Value) -> Option<&str> {
    row.get("_uuid")?.get(1)?.as_str()
}

/// The elements of a set: `["set", [...]]`, or one element as itself.
pub(super) fn set(value: &Value) -> Vec<Value> {
    match value.as_array().map(Vec::as_slice) {
        Some([kind, Value::Array(items)]) if kind == "set" => items.clone(),
        _ => vec![value.clone()],
    }
}

pub(super) fn map(value: &Value) -> BTreeMap<String, String> {
    let pairs = value.get(1).and_then(Value::as_array).into_iter().flatten();
    pairs.filter_map(|pair| Some((atom(pair.get(0)?)?, atom(pair.get(1)?)?))).collect()
}

fn atom(value: &Value) -> Option<String> {
    value.as_str().map(str::to_owned)
}

/// A string, or the one string of a set.
pub(super) fn text(value: &Value) -> Option<String> {
    set(value).first().and_then(atom)
}

/// The string in a column.
fn word(row: &Value, column: &str) -> Option<String> {
    text(row.get(column)?)
}
