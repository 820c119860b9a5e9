//! Columns of Open vSwitch's database that ringfence leaves as they are made. Whatever else is in
//! them on a bridge or port of ours is drift.

use serde_json::Value;

use super::ovsdb::{map, set};

/// A column, and what is in it by default.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Setting {
    /// The column.
    pub(super) column: &'static str,
    default: Default,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Default {
    Nothing,
    False,
    Zero,
    /// None of these keys. Others are somebody's notes, or tune what ringfence doesn't care for.
    Without(&'static [&'static str]),
}

const fn without(column: &'static str, keys: &'static [&'static str]) -> Setting {
    Setting { column, default: Default::Without(keys) }
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

const fn nothing(column: &'static str) -> Setting {
    Setting { column, default: Default::Nothing }
}

const fn off(column: &'static str) -> Setting {
    Setting { column, default: Default::False }
}

const fn zero(column: &'static str) -> Setting {
    Setting { column, default: Default::Zero }
}

/// With which Open vSwitch drops all flows of a bridge, when it comes and when it goes.
pub(super) const CONTROLLER: Setting = nothing("controller");

/// Those of a bridge.
pub(super) const BRIDGE: [Setting; 12] = [
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

/// Those of a port.
pub(super) const PORT: [Setting; 13] = [
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
pub(super) const INTERFACE: [Setting; 8] = [
    nothing("bfd"),
    nothing("cfm_mpid"),
    nothing("cfm_remote_mpids"),
    nothing("lldp"),
    zero("ingress_policing_burst"),
    zero("ingress_policing_kpkts_burst"),
    zero("ingress_policing_kpkts_rate"),
    zero("ingress_policing_rate"),
];

impl Setting {
    /// Its name in words.
    pub(super) fn words(self) -> String {
        self.column.trim_end_matches("_enable").replace('_', " ")
    }

    /// The clause of `ovs-vsctl` that makes it what it is by default.
    pub(super) fn clause(self, table: &str, row: &str) -> Vec<String> {
        let value = match self.default {
            Default::Nothing => {
                return ["clear", table, row, self.column].map(str::to_owned).into();
            }
            Default::False => "false",
            Default::Zero => "0",
            Default::Without(keys) => {
                let head = ["remove", table, row, self.column];
                return head.iter().chain(keys).map(|word| (*word).to_owned()).collect();
            }
        };
        let setting = format!("{}={value}", self.column);
        ["set", table, row, &setting].map(str::to_owned).into()
    }

    fn is_default(self, value: &Value) -> bool {
        match self.default {
            Default::Nothing => match value.get(0).and_then(Value::as_str) {
                Some("map") => value.get(1).and_then(Value::as_array).is_none_or(Vec::is_empty),
                _ => set(value).is_empty(),
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

/// The settings in which a row of the database is not as it is by default. A column that this
/// version of Open vSwitch doesn't have was not asked for.
pub(super) fn astray(row: &Value, settings: &[Setting]) -> Vec<Setting> {
    let other = |setting: &&Setting| {
        row.get(setting.column).is_some_and(|value| !setting.is_default(value))
    };
    settings.iter().filter(other).copied().collect()
}
