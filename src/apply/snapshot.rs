//! What a node has, as one text for a bug report.
//!
//! Only what is known to be harmless is taken: columns, keys and tables are listed here, and all
//! else is left out, by its name where it has one. A part that can't be read says so in its place.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;

use serde_json::{Value, json};

use super::columns::{self, Column};
use super::gateway::UPLINK;
use super::links::{Links, Namespaces};
use super::marks::ALIAS;
use super::ovsdb::{self, ADOPTED, MARK};
use super::state::Store;
use super::{generations, require_root, rulesets, status};
use crate::artifact::host::ROUTER_NETNS_PREFIX;
use crate::dataplane::nft::{Family, TABLE};
use crate::diagnostic::{Diagnostic, json as print};
use crate::system::netlink::Network;
use crate::system::{Command, System, Tool};
use crate::value::{NetnsName, StringValue as _, Timestamp};

/// A table of Open vSwitch's database: its name, the columns that ringfence owns, and others that
/// are harmless.
type Table = (&'static str, &'static [Column], &'static [&'static str]);

const TABLES: [Table; 6] = [
    ("Open_vSwitch", &[], &["ovs_version", "db_version", "datapath_types", "other_config"]),
    ("Bridge", &columns::BRIDGE, &["name", "datapath_id", "datapath_version"]),
    ("Port", &columns::PORT, &["name"]),
    (
        "Interface",
        &columns::INTERFACE,
        &[
            "name",
            "ofport",
            "admin_state",
            "link_state",
            "error",
            "mac_in_use",
            "mtu",
            "external_ids",
            "other_config",
            "statistics",
        ],
    ),
    ("QoS", &[], &["type", "external_ids", "other_config"]),
    ("Queue", &[], &["external_ids", "other_config"]),
];

/// The keys of maps whose values are shown.
const KEYS: [&str; 27] = [
    MARK,
    ADOPTED,
    UPLINK,
    // Options of tunnels and patch ports.
    "remote_ip",
    "local_ip",
    "key",
    "peer",
    "dst_port",
    "tos",
    "ttl",
    "df_default",
    "csum",
    // Other configuration.
    "hwaddr",
    "disable-in-band",
    "mac-aging-time",
    "mac-table-size",
    "mcast-snooping-table-size",
    "forward-bpdu",
    "max-rate",
    "min-rate",
    "burst",
    "priority",
    "flow-limit",
    "hw-offload",
    "max-idle",
    "n-handler-threads",
    "n-revalidator-threads",
];

/// Kernel settings that decide what becomes of packets.
const SYSCTLS: [&str; 9] = [
    "kernel.osrelease",
    "net.ipv4.ip_forward",
    "net.ipv4.conf.all.rp_filter",
    "net.ipv4.conf.default.rp_filter",
    "net.ipv4.conf.all.arp_ignore",
    "net.ipv4.conf.all.arp_filter",
    "net.bridge.bridge-nf-call-iptables",
    "net.netfilter.nf_conntrack_max",
    "net.netfilter.nf_conntrack_count",
];

/// Settings of each link of the node.
const LINK_SYSCTLS: [&str; 3] = ["rp_filter", "arp_ignore", "forwarding"];

const HEAD: &str = "\
# What this node has, for a bug report. Made by `ringfence snapshot`, which changes nothing.
#
# Left out: external_ids, options and other_config but those that are known to be harmless,
# controllers, managers and certificates of Open vSwitch, flows of bridges that are not
# ringfence's, tables of nft that are not ringfence's, aliases of links that are not ringfence's,
# and all network namespaces but those of pods and egress routers. Names of keys are shown, as
# `key=(left out)`. Names and addresses of this network are in it: read it before you send it.
";

/// Looks at a node and tells what it has. What can't be read is told in its place.
pub fn snapshot(state: &Path, now: Timestamp, system: &dyn System) -> Result<String, Diagnostic> {
    require_root(system)?;
    let mut text =
        format!("{HEAD}#\n# Taken at {now} by ringfence {}.\n", env!("CARGO_PKG_VERSION"));
    let mut section = |name: &str, body: Result<String, Diagnostic>| {
        let body = body.unwrap_or_else(|failure| unread(&failure));
        let _ = write!(text, "\n== {name}\n{body}");
        if !text.ends_with('\n') {
            text.push('\n');
        }
    };
    // Without its database, Open vSwitch leaves some questions without an answer for minutes.
    let tables = rows(system);
    let status = match &tables {
        Ok(_) => status(state, system),
        Err(failure) => Err(failure.clone()),
    };
    section("status", status.map(|status| print::pretty(&status)));
    section("generations", generations(state, system).map(|kept| print::pretty(&kept)));
    section("tools", Ok(versions(system)));
    section("kernel settings", Ok(settings(system)));
    let (database, bridges) = match tables {
        Ok(tables) => {
            let ours = our_bridges(&tables);
            (Ok(tables), ours)
        }
        Err(failure) => (Err(failure), Vec::new()),
    };
    section("Open vSwitch", database.map(|tables| database_text(&tables)));
    for bridge in &bridges {
        for (what, version) in [("show", 14), ("dump-flows", 14), ("dump-groups", 15)] {
            let version = format!("OpenFlow{version}");
            let words = ["--timeout=60", "-O", &version, "--no-names", what, bridge];
            let command = Command::read(Tool::OvsOfctl, words);
            let body = run(&command, system).map(|body| without_durations(&body));
            section(&format!("{command}"), body);
        }
    }
    for words in [
        &["-details", "-statistics", "address", "show"][..],
        &["rule", "show"],
        &["route", "show", "table", "all"],
        &["neighbour", "show"],
    ] {
        let command = Command::read(Tool::Ip, words.iter().copied());
        section(&format!("{command}"), run(&command, system).map(|body| without_aliases(&body)));
    }
    rulesets(None, system, &mut section);
    let in_progress = Store::at(state).read().map(|state| state.in_progress).unwrap_or_default();
    match Links::read(system, &in_progress, &Namespaces::new()) {
        Err(failure) => section("network namespaces", Err(failure)),
        Ok(links) => {
            let ours = links.netns.iter().filter(|(name, _)| links.is_ours(name));
            for (name, network) in ours {
                section(&format!("network namespace {name}"), Ok(namespace(network)));
                let router = name.starts_with(ROUTER_NETNS_PREFIX);
                if let (true, Ok(name)) = (router, NetnsName::parse(name)) {
                    rulesets(Some(&name), system, &mut section);
                }
            }
        }
    }
    Ok(text)
}

fn unread(failure: &Diagnostic) -> String {
    format!("(could not be read: {})\n", failure.message)
}

fn run(command: &Command, system: &dyn System) -> Result<String, Diagnostic> {
    let bytes = system.succeed(command)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// The first line of what each tool says of itself.
fn versions(system: &dyn System) -> String {
    let tools = [
        (Tool::OvsVsctl, "--version"),
        (Tool::OvsOfctl, "--version"),
        (Tool::OvsdbClient, "--version"),
        (Tool::Nft, "--version"),
        (Tool::Ip, "-V"),
        (Tool::Ethtool, "--version"),
        (Tool::Sysctl, "--version"),
    ];
    let mut text = String::new();
    for (tool, word) in tools {
        let version = run(&Command::read(tool, [word]), system);
        let version = version.unwrap_or_else(|failure| unread(&failure));
        let _ = writeln!(text, "{}: {}", tool.name(), version.lines().next().unwrap_or_default());
    }
    text
}

fn settings(system: &dyn System) -> String {
    let links = system.network().map(|network| network.links).unwrap_or_default();
    // A dot in a link's name is a slash in that of a setting.
    let of_links = links.keys().flat_map(|link| {
        let link = link.replace('.', "/");
        LINK_SYSCTLS.map(|name| format!("net.ipv4.conf.{link}.{name}"))
    });
    let mut text = String::new();
    for name in SYSCTLS.into_iter().map(str::to_owned).chain(of_links) {
        let value = system.sysctl(&name).unwrap_or_else(|| "(none)".to_owned());
        let _ = writeln!(text, "{name} = {value}");
    }
    text
}

type Rows = Vec<(&'static str, Vec<&'static str>, Vec<Value>)>;

/// The rows of the database, each table by name.
fn rows(system: &dyn System) -> Result<Rows, Diagnostic> {
    let select = |(table, owned, more): &Table| json!({"op": "select", "table": table, "where": [], "columns": columns::names(more, *owned)});
    let mut transaction = vec![json!("Open_vSwitch")];
    transaction.extend(TABLES.iter().map(select));
    let transaction = Value::from(transaction).to_string();
    let words = ["--timeout=20", "transact", &transaction];
    let answer = run(&Command::read(Tool::OvsdbClient, words), system)?;
    let answer: Value = serde_json::from_str(&answer).unwrap_or_default();
    let tables = TABLES.into_iter().enumerate().map(|(index, (table, owned, more))| {
        let rows = answer.get(index).and_then(|answer| answer.get("rows"));
        let mut rows = rows.and_then(Value::as_array).cloned().unwrap_or_default();
        rows.sort_by_key(|row| (name_of(row), row.to_string()));
        (table, columns::names(more, owned), rows)
    });
    Ok(tables.collect())
}

fn name_of(row: &Value) -> String {
    row.get("name").and_then(Value::as_str).unwrap_or_default().to_owned()
}

fn our_bridges(tables: &Rows) -> Vec<String> {
    let bridges = tables.iter().filter(|(table, ..)| *table == "Bridge");
    let rows = bridges.flat_map(|(_, _, rows)| rows);
    rows.filter(|row| ovsdb::map(&row["external_ids"]).contains_key(MARK)).map(name_of).collect()
}

fn database_text(tables: &Rows) -> String {
    let mut text = String::new();
    for (table, columns, rows) in tables {
        for row in rows {
            let _ = writeln!(text, "{}", format!("{table} {}", name_of(row)).trim_end());
            for column in columns.iter().filter(|column| **column != "name") {
                let shown = match &row[*column] {
                    Value::Array(pair) if pair.first().is_some_and(|kind| kind == "map") => {
                        map(column, &row[*column])
                    }
                    other => ovsdb::set(other).iter().map(plain).collect::<Vec<_>>().join(" "),
                };
                if !shown.is_empty() {
                    let _ = writeln!(text, "  {column}: {shown}");
                }
            }
        }
    }
    text
}

fn plain(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

/// The pairs of a map. Values are shown where that is known to be harmless.
fn map(column: &str, value: &Value) -> String {
    let pairs = value.get(1).and_then(Value::as_array).into_iter().flatten();
    let pairs = pairs.filter_map(|pair| Some((pair.get(0)?.as_str()?, pair.get(1)?)));
    let shown = pairs.map(|(key, value)| {
        let shown = column == "statistics" || KEYS.contains(&key);
        if shown { format!("{key}={}", plain(value)) } else { format!("{key}=(left out)") }
    });
    shown.collect::<Vec<_>>().join(" ")
}

/// The lines of flows without how long each has been there, which only makes them differ.
fn without_durations(text: &str) -> String {
    let line = |line: &str| match line.split_once(" duration=") {
        Some((before, rest)) => {
            format!("{before}{}\n", rest.split_once(',').map_or("", |(_, rest)| rest))
        }
        None => format!("{line}\n"),
    };
    text.lines().map(line).collect()
}

/// What `ip` prints without the aliases of others.
fn without_aliases(text: &str) -> String {
    let kept = text.lines().filter(|line| {
        line.trim_start().strip_prefix("alias ").is_none_or(|alias| alias.starts_with(ALIAS))
    });
    kept.flat_map(|line| [line, "\n"]).collect()
}

/// The tables of ours in a network namespace, and the names of the others.
fn rulesets(
    netns: Option<&NetnsName>,
    system: &dyn System,
    section: &mut dyn FnMut(&str, Result<String, Diagnostic>),
) {
    let tables = Command::read(Tool::Nft, ["list", "tables"]).within(netns);
    let listed = match run(&tables, system) {
        Ok(listed) => listed,
        Err(failure) => return section(&tables.to_string(), Err(failure)),
    };
    let ours = Family::ALL.map(rulesets::line);
    let shown = listed.lines().map(str::trim).map(|line| {
        let note = if ours.iter().any(|ours| ours == line) { "" } else { ", left out" };
        format!("{line}{note}\n")
    });
    section(&tables.to_string(), Ok(shown.collect()));
    for family in Family::ALL {
        if rulesets::has_table(&listed, family) {
            let words = ["list", "table", family.as_str(), TABLE];
            let command = Command::read(Tool::Nft, words).within(netns);
            section(&command.to_string(), run(&command, system));
        }
    }
}

/// The links, addresses and routes of a namespace, a line each.
fn namespace(network: &Network) -> String {
    let mut text = format!("forwards: {}\n", network.forwards);
    let mut names: BTreeMap<u32, &str> = BTreeMap::new();
    for (name, link) in &network.links {
        names.insert(link.index, name);
        let state = if link.up { "up" } else { "down" };
        let mac = link.mac_text();
        let kind = link.kind.as_deref().unwrap_or("plain");
        let _ = write!(text, "link {name}: {kind} {state} mtu {} {mac}", link.mtu);
        for address in network.addresses(link) {
            let _ = write!(text, " {address}");
        }
        text.push('\n');
    }
    for route in &network.routes {
        let _ = write!(text, "route {}", route.destination);
        if let Some(gateway) = route.gateway {
            let _ = write!(text, " via {gateway}");
        }
        let link = names.get(&route.link).copied().unwrap_or("?");
        let _ = writeln!(text, " dev {link} metric {}", route.metric);
    }
    text
}
