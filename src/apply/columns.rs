//! The columns of Open vSwitch's database that ringfence owns on bridges and ports of ours: the plan
//! has a value for some, and what else is in the others than by default is drift.
//!
//! These tables say what is read, compared, mended and shown in a snapshot.

use std::collections::BTreeMap;

use serde_json::Value;

use super::ovsdb::{map, set, text};

/// The columns of a row, as the database tells them.
pub(super) type Row = BTreeMap<&'static str, Value>;
/// What the plan has for columns of a row.
pub(super) type Goals = BTreeMap<&'static str, Goal>;

/// A column.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Column {
    /// Its name.
    pub(super) name: &'static str,
    /// What it is called in a change, if not by its name.
    words: Option<&'static str>,
    /// What is in it where the plan has nothing for it.
    default: Default,
    /// What its change does besides.
    pub(super) effect: Effect,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Default {
    Nothing,
    False,
    Zero,
    /// None of these keys. Others are somebody's notes, or tune what ringfence doesn't care for.
    Without(&'static [&'static str]),
}

/// What the change of a column does besides.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Effect {
    Nothing,
    /// Open vSwitch drops all flows of the bridge.
    LosesFlows,
    /// Open vSwitch makes the datapath of the bridge anew.
    LosesDatapath,
    /// What the interface leads to changes.
    Peer,
    /// Whoever has asked for the Ethernet address has to ask again.
    Address,
}

/// What the plan has for a column.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Goal {
    /// A word; the empty one where there is none.
    Text(String),
    /// A number.
    Number(i64),
    /// Words in any order.
    Words(&'static str),
    /// These pairs and no others.
    Pairs(BTreeMap<String, String>),
    /// This pair, and whatever others.
    Pair(&'static str, String),
}

/// A column that is not as it is to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Difference {
    pub(super) column: Column,
    /// In which respects.
    pub(super) details: Vec<String>,
    /// The clause of `ovs-vsctl` that takes away what is there.
    pub(super) clear: Vec<String>,
    /// The settings behind `ovs-vsctl set`.
    pub(super) settings: Vec<String>,
}

/// What Open vSwitch reads of a bridge's other configuration.
const BRIDGE_KEYS: &[&str] = &[
    "controller-queue-size",
    "datapath-id",
    "disable-in-band",
    "dp-desc",
    "dp-sn",
    "forward-bpdu",
    "hwaddr",
    "in-band-queue",
    "mac-aging-time",
    "mac-table-size",
    "mcast-snooping-aging-time",
    "mcast-snooping-disable-flood-unregistered",
    "mcast-snooping-table-size",
    "rstp-address",
    "rstp-ageing-time",
    "rstp-force-protocol-version",
    "rstp-forward-delay",
    "rstp-max-age",
    "rstp-priority",
    "rstp-transmit-hold-count",
    "stp-forward-delay",
    "stp-hello-time",
    "stp-max-age",
    "stp-priority",
    "stp-system-id",
];

/// The same of a port's, as far as it changes what becomes of packets.
const PORT_KEYS: &[&str] = &[
    "mcast-snooping-flood",
    "mcast-snooping-flood-reports",
    "priority-tags",
    "qinq-ethtype",
    "rstp-enable",
    "stp-enable",
    "transient",
];

const fn column(name: &'static str, default: Default) -> Column {
    Column { name, words: None, default, effect: Effect::Nothing }
}

const fn nothing(name: &'static str) -> Column {
    column(name, Default::Nothing)
}

const fn off(name: &'static str) -> Column {
    column(name, Default::False)
}

const fn zero(name: &'static str) -> Column {
    column(name, Default::Zero)
}

const fn without(name: &'static str, keys: &'static [&'static str]) -> Column {
    column(name, Default::Without(keys))
}

/// A column for which the plan has a value, with what it is called.
const fn planned(name: &'static str, words: &'static str, effect: Effect) -> Column {
    Column { name, words: Some(words), default: Default::Nothing, effect }
}

const MARKS: Column = Column { default: Default::Without(&[]), ..nothing("external_ids") };

/// With which Open vSwitch drops all flows of a bridge, when it comes and when it goes.
pub(super) const CONTROLLER: Column =
    Column { effect: Effect::LosesFlows, ..nothing("controller") };

/// Those of a bridge.
pub(super) const BRIDGE: [Column; 16] = [
    planned("datapath_type", "datapath", Effect::LosesDatapath),
    planned("fail_mode", "fail mode", Effect::LosesFlows),
    planned("protocols", "protocols", Effect::Nothing),
    Column { words: Some("mark"), ..MARKS },
    CONTROLLER,
    without("other_config", BRIDGE_KEYS),
    nothing("auto_attach"),
    nothing("flood_vlans"),
    nothing("flow_tables"),
    nothing("ipfix"),
    nothing("mirrors"),
    nothing("netflow"),
    nothing("sflow"),
    off("mcast_snooping_enable"),
    off("rstp_enable"),
    off("stp_enable"),
];

/// Those of a port. The queue discipline has its own rows.
pub(super) const PORT: [Column; 14] = [
    Column { words: Some("owner"), ..MARKS },
    nothing("bond_mode"),
    nothing("cvlans"),
    nothing("lacp"),
    nothing("mac"),
    without("other_config", PORT_KEYS),
    nothing("tag"),
    nothing("trunks"),
    nothing("vlan_mode"),
    off("bond_fake_iface"),
    off("fake_bridge"),
    off("protected"),
    zero("bond_downdelay"),
    zero("bond_updelay"),
];

/// Those of an interface.
pub(super) const INTERFACE: [Column; 12] = [
    planned("type", "type", Effect::Nothing),
    planned("options", "options", Effect::Peer),
    planned("ofport_request", "requested port number", Effect::Nothing),
    planned("mac", "Ethernet address", Effect::Address),
    planned("mtu_request", "MTU", Effect::Nothing),
    nothing("bfd"),
    nothing("cfm_mpid"),
    nothing("lldp"),
    zero("ingress_policing_burst"),
    zero("ingress_policing_kpkts_burst"),
    zero("ingress_policing_kpkts_rate"),
    zero("ingress_policing_rate"),
];

/// All of them, with what has them.
pub(super) fn all() -> impl Iterator<Item = (&'static str, Column)> {
    let bridge = BRIDGE.into_iter().map(|column| ("bridge", column));
    let port = PORT.into_iter().map(|column| ("port", column));
    let interface = INTERFACE.into_iter().map(|column| ("interface", column));
    bridge.chain(port).chain(interface)
}

/// The columns that are asked for.
pub(super) fn names<'a>(
    more: &[&'static str],
    columns: impl IntoIterator<Item = &'a Column>,
) -> Vec<&'static str> {
    more.iter().copied().chain(columns.into_iter().map(|column| column.name)).collect()
}

/// The columns of a row that this version of Open vSwitch has.
pub(super) fn row(found: &Value, columns: &[Column]) -> Row {
    let columns = columns.iter();
    columns.filter_map(|column| Some((column.name, found.get(column.name)?.clone()))).collect()
}

/// How a row differs from what it is to be. A new row has everything by default.
pub(super) fn differences(row: &Row, columns: &[Column], goals: &Goals) -> Vec<Difference> {
    columns.iter().filter_map(|column| column.difference(row, goals.get(column.name))).collect()
}

impl Column {
    /// What notices its change: `no`, or who.
    pub(super) fn disrupts(self) -> &'static str {
        match self.effect {
            Effect::Nothing => "no",
            Effect::LosesFlows | Effect::LosesDatapath => "all traffic",
            Effect::Peer => "tunnels, or the patch to the uplink",
            Effect::Address => "pods that have to ask for it again",
        }
    }

    /// Its name in words.
    pub(super) fn words(self) -> String {
        let name = || self.name.trim_end_matches("_enable").replace('_', " ");
        self.words.map_or_else(name, str::to_owned)
    }

    fn difference(self, row: &Row, goal: Option<&Goal>) -> Option<Difference> {
        let value = row.get(self.name);
        let mut difference = Difference {
            column: self,
            details: Vec::new(),
            clear: Vec::new(),
            settings: Vec::new(),
        };
        match goal {
            Some(goal) => goal.compare(self, value, &mut difference),
            None if value.is_some_and(|value| !self.is_default(value)) => {
                difference.details.push(self.words());
                match self.default {
                    Default::Nothing => {
                        difference.clear = vec!["clear".to_owned(), self.name.to_owned()];
                    }
                    Default::False => difference.settings.push(format!("{}=false", self.name)),
                    Default::Zero => difference.settings.push(format!("{}=0", self.name)),
                    Default::Without(keys) => {
                        let words = ["remove", self.name].into_iter().chain(keys.iter().copied());
                        difference.clear = words.map(str::to_owned).collect();
                    }
                }
            }
            None => {}
        }
        (!difference.details.is_empty()).then_some(difference)
    }

    fn is_default(self, value: &Value) -> bool {
        match self.default {
            Default::Nothing => match value.get(0).and_then(Value::as_str) {
                Some("map") => value.get(1).and_then(Value::as_array).is_none_or(Vec::is_empty),
                _ => set(value).iter().all(|value| value.as_str() == Some("")),
            },
            Default::False => value == &Value::from(false),
            Default::Zero => value == &Value::from(0),
            Default::Without(keys) => {
                let have = map(value);
                !keys.iter().any(|key| have.contains_key(*key))
            }
        }
    }
}

impl Goal {
    fn compare(&self, column: Column, value: Option<&Value>, difference: &mut Difference) {
        let name = column.name;
        match self {
            Self::Text(wanted) => {
                let have = value.and_then(text).unwrap_or_default();
                // A datapath without a type is one of the kernel.
                let same = have == *wanted || (have.is_empty() && wanted == "system");
                if !same {
                    difference.details.push(column.words());
                    difference.settings.push(format!("{name}=\"{wanted}\""));
                }
            }
            Self::Number(wanted) => {
                let have = value.and_then(|value| set(value).first().and_then(Value::as_i64));
                if have != Some(*wanted) {
                    difference.details.push(column.words());
                    difference.settings.push(format!("{name}={wanted}"));
                }
            }
            Self::Words(wanted) => {
                let mut have: Vec<String> =
                    value.map(set).iter().flatten().filter_map(text).collect();
                let mut sorted: Vec<&str> = wanted.split(',').collect();
                have.sort_unstable();
                sorted.sort_unstable();
                if have != sorted {
                    difference.details.push(column.words());
                    difference.settings.push(format!("{name}={wanted}"));
                }
            }
            Self::Pair(key, wanted) => {
                if value.map(map).unwrap_or_default().get(*key) != Some(wanted) {
                    difference.details.push(column.words());
                    difference.settings.push(format!("{name}:{key}=\"{wanted}\""));
                }
            }
            Self::Pairs(wanted) => pairs(name, wanted, value, difference),
        }
    }
}

/// Compares a map of which every pair is the plan's.
fn pairs(
    name: &str,
    wanted: &BTreeMap<String, String>,
    value: Option<&Value>,
    difference: &mut Difference,
) {
    let have = value.map(map).unwrap_or_default();
    let foreign: Vec<&String> = have.keys().filter(|key| !wanted.contains_key(*key)).collect();
    if !foreign.is_empty() {
        // Those of ours come with the same transaction, so the row only loses the others. Their
        // keys are somebody's, and are no words of a command.
        difference.clear = vec!["clear".to_owned(), name.to_owned()];
    }
    for (key, wanted) in wanted {
        let same = have.get(key) == Some(wanted);
        if !same {
            difference.details.push(key.clone());
        }
        if !same || !foreign.is_empty() {
            difference.settings.push(format!("{name}:{key}=\"{wanted}\""));
        }
    }
    let singular = name.trim_end_matches('s');
    difference.details.extend(foreign.iter().map(|key| format!("{singular} {key}")));
}

impl Difference {
    /// Adds the clauses that mend a row: what is taken away, before what is set.
    pub(super) fn clauses(all: &[Self], table: &str, row: &str, words: &mut Vec<String>) {
        for difference in all.iter().filter(|difference| !difference.clear.is_empty()) {
            let (verb, rest) = difference.clear.split_at(1);
            words.push("--".to_owned());
            words.extend(verb.iter().cloned());
            words.extend([table, row].map(str::to_owned));
            words.extend(rest.iter().cloned());
        }
        let settings: Vec<&String> = all.iter().flat_map(|all| &all.settings).collect();
        if !settings.is_empty() {
            words.extend(["--", "set", table, row].map(str::to_owned));
            words.extend(settings.into_iter().cloned());
        }
    }
}
