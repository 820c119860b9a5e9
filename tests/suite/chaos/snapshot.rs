//! All of a node, as lines that can be compared with those of another.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use serde_json::Value;

use super::node::Node;

/// What a node is like, in lines.
pub(super) type Snapshot = BTreeSet<String>;

/// Prints all there is, each kind after its name.
const SCRIPT: &str = r#"exec 2>/dev/null
PATH=/mnt/real:$PATH
cat >/mnt/inside <<'S'
echo "@link $1"; ip -d -j addr show
echo "@route $1"; ip route show table all; ip -6 route show table all
echo "@rule $1"; ip rule; ip -6 rule
echo "@neighbour $1"; ip neigh show nud permanent
echo "@nft $1"; nft -s list ruleset
echo "@tc $1"; tc qdisc show | grep -v noqueue >/mnt/tc; cat /mnt/tc; for dev in $(sed 's/.* dev \([^ ]*\).*/\1/' /mnt/tc | sort -u); do tc class show dev $dev; tc filter show dev $dev; done
echo "@sysctl $1"; grep -s '' /proc/sys/net/ipv4/ip_forward /proc/sys/net/ipv4/conf/*/forwarding /proc/sys/net/ipv4/conf/*/rp_filter /proc/sys/net/ipv4/conf/*/arp_* /proc/sys/net/ipv4/conf/*/proxy_arp* /proc/sys/net/ipv4/conf/*/send_redirects /proc/sys/net/ipv4/conf/*/route_localnet /proc/sys/net/ipv6/conf/*/disable_ipv6 /proc/sys/net/ipv6/conf/*/addr_gen_mode
S
sh /mnt/inside node
for netns in $(ls /run/netns 2>/dev/null); do
	inside=$(ip netns exec $netns sh /mnt/inside $netns) && echo "$inside" || echo "@hollow $netns
it is no namespace"
done
echo '@ovsdb node'; ovsdb-client dump Open_vSwitch -f json
for bridge in $(ovs-vsctl --timeout=20 list-br); do
	echo "@flow $bridge"; ovs-ofctl -O OpenFlow14 dump-flows $bridge --no-stats --timeout=20
	echo "@group $bridge"; ovs-ofctl -O OpenFlow15 dump-groups $bridge --timeout=20
	echo "@meter $bridge"; ovs-ofctl -O OpenFlow14 dump-meters $bridge --timeout=20
	echo "@fragments $bridge"; ovs-ofctl get-frags $bridge --timeout=20
done
echo '@file node'
find /run /etc/netns /etc/ringfence /var/lib -path /run/openvswitch -prune -o -path /var/lib/ringfence/generations -prune -o -path /var/lib/ringfence/watch -prune -o -path /run/netns/\* -prune -o ! -type d -printf '%p %y %m %l\n' 2>/dev/null
find /run /etc/netns /etc/ringfence /var/lib -path /run/openvswitch -prune -o -path /var/lib/ringfence/generations -prune -o -path /var/lib/ringfence/watch -prune -o -type d -printf '%p %y %m\n' 2>/dev/null
echo '@content node'
find /run /etc/netns /etc/ringfence /var/lib -path /run/openvswitch -prune -o -path /var/lib/ringfence/generations -prune -o -path /var/lib/ringfence/watch -prune -o -path /run/netns -prune -o -type f -size -1000k -exec sha1sum {} + 2>/dev/null
echo '@others node'; ls -A /var/lib/ringfence/generations 2>/dev/null | grep -vE '^([0-9a-f]{64}|\.new)$'
echo '@netns node'; ls /run/netns 2>/dev/null
echo "@process $$"; ps -eo pid,ppid,stat,args
"#;

/// Columns of the database that change by themselves.
const VOLATILE: [&str; 31] = [
    "_uuid",
    "_version",
    "statistics",
    "status",
    "rstp_statistics",
    "rstp_status",
    "datapath_id",
    "mac_in_use",
    "ifindex",
    "link_resets",
    "link_speed",
    "link_state",
    "admin_state",
    "duplex",
    "lacp_current",
    "cur_cfg",
    "next_cfg",
    "mtu",
    "datapath_version",
    "bfd_status",
    "ovs_version",
    "system_type",
    "system_version",
    "db_version",
    "dpdk_version",
    "dpdk_initialized",
    "bond_active_slave",
    "error",
    "datapaths",
    "iface_types",
    // Each is a row of its own.
    "bridges",
];

/// Takes the snapshot of a node.
pub(super) fn take(node: &Node) -> Snapshot {
    let text = node.shell(SCRIPT).0;
    let mut lines = Snapshot::new();
    let mut sections: Vec<(String, String, Vec<&str>)> = Vec::new();
    for line in text.lines() {
        if let Some((kind, place)) = line.strip_prefix('@').and_then(|line| line.split_once(' ')) {
            sections.push((kind.to_owned(), place.to_owned(), Vec::new()));
        } else if let Some((.., lines)) = sections.last_mut() {
            lines.push(line);
        }
    }
    for (kind, place, content) in &sections {
        let found = match kind.as_str() {
            "link" => links(&content.join("\n")),
            "nft" => nft(content),
            "ovsdb" => database(content),
            "process" => processes(place, content),
            "content" => contents(content),
            "group" | "flow" | "meter" | "fragments" => switch(content),
            _ => content.iter().map(|line| plain(line)).collect(),
        };
        let place = if kind == "process" { "node" } else { place };
        let found = found.into_iter().filter(|line| !line.trim().is_empty());
        lines.extend(found.map(|line| format!("{place}: {kind}: {line}")));
    }
    lines
}

/// Whether an interface has an Ethernet address by chance.
fn random_mac(name: &str) -> bool {
    name.starts_with("rf-")
        || name.starts_with("patch-")
        || name == "br0"
        || name.starts_with("ovs-")
}

fn plain(line: &str) -> String {
    let volatile = ["linkdown"];
    // The kernel makes those of IPv6 by itself, when it has asked whether an address is free.
    if line.contains("fe80:") || line.contains("ff00::/8") {
        return String::new();
    }
    let mut words = Vec::new();
    let mut skip = false;
    for word in line.split_whitespace() {
        if skip {
            skip = false;
            continue;
        }
        skip = word == "refcnt" || word == "expires";
        if skip || volatile.contains(&word) || word.starts_with("expires") {
            continue;
        }
        words.push(word);
    }
    words.join(" ")
}

fn links(text: &str) -> Vec<String> {
    let Ok(Value::Array(links)) = serde_json::from_str(text) else {
        return vec![format!("unreadable: {text}")];
    };
    let names: BTreeMap<u64, String> = links
        .iter()
        .filter_map(|link| Some((link["ifindex"].as_u64()?, link["ifname"].as_str()?.to_owned())))
        .collect();
    let mut lines = Vec::new();
    for link in &links {
        let name = link["ifname"].as_str().unwrap_or("?");
        let flags = link["flags"].as_array().cloned().unwrap_or_default();
        let up = flags.iter().any(|flag| flag == "UP");
        let mut line = format!("{name} up={up} mtu={}", link["mtu"]);
        if !random_mac(name) {
            let _ = write!(line, " mac={}", link["address"]);
        }
        for key in ["ifalias", "master", "inet6_addr_gen_mode", "group"] {
            let _ = write!(line, " {key}={}", link[key]);
        }
        let kind = link["linkinfo"]["info_kind"].as_str().unwrap_or("-");
        let _ = write!(line, " kind={kind} mode={}", link["linkinfo"]["info_data"]["mode"]);
        let peer = link["link"].as_str().map(str::to_owned).or_else(|| {
            let elsewhere = !link["link_netnsid"].is_null();
            let index = link["link_index"].as_u64()?;
            if elsewhere { Some("elsewhere".to_owned()) } else { names.get(&index).cloned() }
        });
        let _ = write!(line, " peer={}", peer.as_deref().unwrap_or("-"));
        lines.push(line);
        for address in link["addr_info"].as_array().into_iter().flatten() {
            if address["family"] == "inet6" && address["scope"] == "link" {
                continue;
            }
            lines.push(format!(
                "{name} address {}/{} broadcast={} scope={} label={}",
                address["local"],
                address["prefixlen"],
                address["broadcast"],
                address["scope"],
                address["label"]
            ));
        }
    }
    lines
}

/// The lines of nft with the table and chain that they are in.
fn nft(content: &[&str]) -> Vec<String> {
    let mut at: Vec<String> = Vec::new();
    let mut lines = Vec::new();
    for line in content {
        let trimmed = line.trim();
        lines.push(format!("{}: {trimmed}", at.join(" / ")));
        if let Some(opened) = trimmed.strip_suffix('{') {
            at.push(opened.trim().to_owned());
        } else if trimmed == "}" {
            lines.pop();
            at.pop();
        }
    }
    lines
}

fn switch(content: &[&str]) -> Vec<String> {
    let header = |line: &&&str| {
        !line.contains("(xid=") && !line.starts_with("NXST") && !line.starts_with("OFPST")
    };
    content.iter().filter(header).map(|line| line.trim().to_owned()).collect()
}

fn contents(content: &[&str]) -> Vec<String> {
    let volatile =
        |line: &str| ["/pid", "/state.json", "/lock"].iter().any(|name| line.ends_with(name));
    content.iter().filter(|line| !volatile(line)).map(|line| (*line).to_owned()).collect()
}

/// The processes beside the one that takes the snapshot, and those that ended.
fn processes(own: &str, content: &[&str]) -> Vec<String> {
    let rows: Vec<(&str, &str, &str, String)> = content
        .iter()
        .skip(1)
        .filter_map(|line| {
            let mut words = line.split_whitespace();
            let (pid, parent, state) = (words.next()?, words.next()?, words.next()?);
            Some((pid, parent, state, words.collect::<Vec<_>>().join(" ")))
        })
        .collect();
    let of = |pid: &str| rows.iter().find(|row| row.0 == pid);
    let ours = |pid: &str| {
        let mut at = pid.to_owned();
        for _ in 0..10 {
            if at == own {
                return true;
            }
            let Some(row) = of(&at) else { return false };
            at = row.1.to_owned();
        }
        false
    };
    let shown = rows.iter().filter(|(pid, parent, state, words)| {
        // Who began this shell.
        let beginner = *parent == "0" && *pid != "1" && words.contains("timeout");
        !state.starts_with('Z') && !ours(pid) && !beginner
    });
    shown.map(|(.., words)| words.clone()).collect()
}

/// The rows of the database, those that others name by their names.
fn database(content: &[&str]) -> Vec<String> {
    let tables = serde_json::Deserializer::from_str(&content.join("\n"))
        .into_iter::<Value>()
        .flatten()
        .collect::<Vec<_>>();
    let mut rows: BTreeMap<String, (String, BTreeMap<String, Value>)> = BTreeMap::new();
    for table in &tables {
        let caption =
            table["caption"].as_str().unwrap_or("?").trim_end_matches(" table").to_owned();
        if ["Datapath", "CT_Zone", "CT_Timeout_Policy"].contains(&caption.as_str()) {
            continue;
        }
        let headings: Vec<&str> =
            table["headings"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        for row in table["data"].as_array().into_iter().flatten() {
            let cells = row.as_array().cloned().unwrap_or_default();
            let row: BTreeMap<String, Value> =
                headings.iter().map(|heading| (*heading).to_owned()).zip(cells).collect();
            let uuid = row["_uuid"][1].as_str().unwrap_or("?").to_owned();
            rows.insert(uuid, (caption.clone(), row));
        }
    }
    rows.values().map(|(table, row)| format!("{table} {}", shown(row, &rows, 0))).collect()
}

type Rows = BTreeMap<String, (String, BTreeMap<String, Value>)>;

fn shown(row: &BTreeMap<String, Value>, rows: &Rows, depth: usize) -> String {
    let mut text = String::new();
    for (column, value) in row {
        let empty =
            *value == serde_json::json!(["set", []]) || *value == serde_json::json!(["map", []]);
        if VOLATILE.contains(&column.as_str()) || empty || value == "" || *value == false {
            continue;
        }
        let mut value = value.clone();
        name_rows(&mut value, rows, depth);
        let _ = write!(text, "{column}={value} ");
    }
    text
}

fn name_rows(value: &mut Value, rows: &Rows, depth: usize) {
    let Value::Array(items) = value else { return };
    if items.len() == 2 && items[0] == "uuid" {
        let uuid = items[1].as_str().unwrap_or_default();
        let Some((table, row)) = rows.get(uuid) else { return };
        let name = row.get("name").and_then(Value::as_str).map(str::to_owned);
        let name = name.unwrap_or_else(|| {
            if depth > 3 { "deep".to_owned() } else { shown(row, rows, depth + 1) }
        });
        *value = Value::String(format!("{table} {name}"));
        return;
    }
    for item in items.iter_mut() {
        name_rows(item, rows, depth);
    }
    if items.len() == 2
        && items[0] == "set"
        && let Value::Array(members) = &mut items[1]
    {
        members.sort_by_key(ToString::to_string);
    }
}

/// Words of lines that don't count, with `|` between them: for the time until a fault is mended.
const KNOWN: &str = "RINGFENCE_CHAOS_KNOWN";

/// What one has and the other lacks, both ways.
pub(super) fn difference(found: &Snapshot, expected: &Snapshot) -> Vec<String> {
    let known = std::env::var(KNOWN).unwrap_or_default();
    let counts =
        |line: &String| !known.split('|').any(|words| !words.is_empty() && line.contains(words));
    let more = found.difference(expected).map(|line| format!("+ {line}"));
    let less = expected.difference(found).map(|line| format!("- {line}"));
    more.chain(less).filter(counts).collect()
}
