//! Bridges, ports and interfaces as Open vSwitch's database has them (RFC 7047).

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::settings::{self, Setting};
use crate::diagnostic::{Code, Diagnostic};
use crate::system::{Command, System, Tool, failed};
use crate::value::Datapath;

/// The key of `external_ids` by which ringfence knows its own.
pub(super) const MARK: &str = "ringfence";
/// The key that marks a bridge which was there before ringfence.
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
    /// The OpenFlow versions that it speaks, sorted.
    pub(super) protocols: Vec<String>,
    /// Marks of whoever made it.
    pub(super) external_ids: BTreeMap<String, String>,
    /// Its ports by name, each with its one interface.
    pub(super) ports: BTreeMap<String, Port>,
    /// Its settings that are not as ringfence makes them.
    pub(super) astray: Vec<Setting>,
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
    /// Marks of whoever made it.
    pub(super) external_ids: BTreeMap<String, String>,
    /// The type of the interface; empty for an existing one of the system.
    pub(super) kind: String,
    /// Options of the interface.
    pub(super) options: BTreeMap<String, String>,
    /// The port number that it has; negative where it could not be opened.
    pub(super) ofport: Option<i64>,
    /// The port number that it was to have.
    pub(super) ofport_request: Option<i64>,
    /// The Ethernet address that it was to have.
    pub(super) mac: Option<String>,
    /// The MTU that it was to have.
    pub(super) mtu_request: Option<i64>,
    /// The row of its queue discipline.
    pub(super) qos: Option<String>,
    /// Its VLAN, if it is in one.
    pub(super) tag: Option<i64>,
    /// How many interfaces it has: several are a bond, of which this is about the first.
    pub(super) interfaces: usize,
    /// Its settings that are not as ringfence makes them.
    pub(super) astray: Vec<Setting>,
    /// The same of its interface.
    pub(super) interface_astray: Vec<Setting>,
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

impl Database {
    /// Reads the database. Fails where Open vSwitch doesn't run.
    pub(super) fn read(system: &dyn System) -> Result<Self, Diagnostic> {
        let select = |table: &str, columns: &[&str]| json!({"op": "select", "table": table, "where": [], "columns": columns});
        let also = |columns: &[&'static str], settings: &[Setting]| -> Vec<&'static str> {
            let settings = settings.iter().map(|setting| setting.column);
            let settings = settings.filter(|column| !columns.contains(column));
            columns.iter().copied().chain(settings).collect()
        };
        let bridge = ["name", "datapath_type", "fail_mode", "protocols", "external_ids", "ports"];
        let port = ["_uuid", "name", "interfaces", "external_ids", "qos", "tag"];
        let interface =
            ["_uuid", "name", "type", "options", "ofport", "ofport_request", "mac", "mtu_request"];
        let transaction = json!([
            "Open_vSwitch",
            select("Bridge", &also(&bridge, &settings::BRIDGE)),
            select("Port", &also(&port, &settings::PORT)),
            select("Interface", &also(&interface, &settings::INTERFACE)),
            select("QoS", &["_uuid", "type", "external_ids", "other_config", "queues"]),
            select("Queue", &["_uuid", "external_ids", "other_config"]),
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
        Self::parse(&output.stdout).ok_or_else(|| {
            Diagnostic::new(
                Code::CommandFailed,
                "Open vSwitch's database answers in an unknown form",
            )
        })
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
                datapath: text(row, "datapath_type").unwrap_or_default(),
                fail_mode: text(row, "fail_mode").unwrap_or_default(),
                protocols: set(row.get("protocols")?).iter().filter_map(atom).collect(),
                external_ids: map(row.get("external_ids")?),
                ports: BTreeMap::new(),
                astray: settings::astray(row, &settings::BRIDGE),
            };
            bridge.protocols.sort();
            for port in set(row.get("ports")?) {
                let Some(port) = ports.get(port.get(1)?.as_str()?) else { continue };
                let own = set(port.get("interfaces")?);
                let uuid = own.first().and_then(|own| own.get(1)).and_then(Value::as_str);
                let Some(interface) = uuid.and_then(|uuid| interfaces.get(uuid)) else { continue };
                let of = |row: &Value, key| set(row.get(key)?).first().and_then(Value::as_i64);
                let number = |key| of(interface, key);
                let found = Port {
                    external_ids: map(port.get("external_ids")?),
                    kind: text(interface, "type").unwrap_or_default(),
                    options: map(interface.get("options")?),
                    ofport: number("ofport"),
                    ofport_request: number("ofport_request"),
                    mac: text(interface, "mac"),
                    mtu_request: number("mtu_request"),
                    qos: set(port.get("qos")?).first().and_then(reference),
                    tag: of(port, "tag"),
                    interfaces: own.len(),
                    astray: settings::astray(port, &settings::PORT),
                    interface_astray: settings::astray(interface, &settings::INTERFACE),
                };
                bridge.ports.insert(text(port, "name")?, found);
            }
            bridges.insert(text(row, "name")?, bridge);
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
        kind: text(found, "type").unwrap_or_default(),
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
fn text(row: &Value, key: &str) -> Option<String> {
    set(row.get(key)?).first().and_then(atom)
}
