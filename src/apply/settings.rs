//! Columns of Open vSwitch's database that ringfence leaves as they are made. Whatever else is in
//! them on a bridge or port of ours is drift.

use serde_json::Value;

use super::ovsdb::set;

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
}

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
    nothing("auto_attach"),
    nothing("flood_vlans"),
    nothing("flow_tables"),
    nothing("ipfix"),
    nothing("mirrors"),
    nothing("netflow"),
    nothing("other_config"),
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
    nothing("other_config"),
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
pub(super) const INTERFACE: [Setting; 9] = [
    nothing("bfd"),
    nothing("cfm_mpid"),
    nothing("cfm_remote_mpids"),
    nothing("lldp"),
    nothing("other_config"),
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
