//! Hooks of nft that others have on the node, as far as they drop what ringfence needs.
//!
//! What all of their rules do together can't be told without running packets through them. So a
//! chain is spoken of if it drops whatever no rule speaks of, and its table never speaks of what
//! ringfence needs there.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use super::findings::Finding;
use crate::artifact::host;
use crate::artifact::node::NodeConfig;
use crate::dataplane::nft::TABLE;
use crate::diagnostic::Diagnostic;
use crate::system::{Command, System, Tool};

/// A base chain of a table that isn't ringfence's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Chain {
    family: String,
    table: String,
    name: String,
    hook: String,
    /// Whether what passes all rules is dropped.
    drops: bool,
}

/// Reads what `nft list chains` prints.
pub(super) fn chains(text: &str) -> Vec<Chain> {
    let (mut table, mut name) = (None, None);
    let mut found = Vec::new();
    for line in text.lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        match words.as_slice() {
            ["table", family, other, "{"] => table = Some((*family, *other)),
            ["chain", chain, "{"] => name = Some(*chain),
            ["type", "filter", "hook", hook, ..] => {
                let (Some((family, table)), Some(name)) = (table, name) else { continue };
                // IPv6 is none of ringfence's.
                if table != TABLE && family != "ip6" {
                    let (family, table) = (family.to_owned(), table.to_owned());
                    let (name, hook) = (name.to_owned(), (*hook).to_owned());
                    let drops = line.contains("policy drop");
                    found.push(Chain { family, table, name, hook, drops });
                }
            }
            _ => {}
        }
    }
    found
}

/// What others' chains drop, as far as can be seen.
pub(super) fn findings(
    wiring: &NodeConfig,
    chains: &[Chain],
    system: &dyn System,
) -> Result<Vec<Finding>, Diagnostic> {
    let mut findings = Vec::new();
    let mut tables: BTreeMap<(&str, &str), String> = BTreeMap::new();
    let looked_at =
        |chain: &&Chain| chain.drops || chain.hook == "forward" || chain.hook == "input";
    for Chain { family, table, name, hook, drops } in chains.iter().filter(looked_at) {
        let text = match tables.entry((family, table)) {
            Entry::Occupied(entry) => entry.into_mut(),
            Entry::Vacant(entry) => {
                let list = Command::read(Tool::Nft, ["-s", "list", "table", family, table]);
                let output = system.run(&list)?;
                entry.insert(String::from_utf8_lossy(&output.stdout).into_owned())
            }
        };
        // One that is gone by now drops nothing.
        if text.is_empty() || !(*drops || ends_in_drop(text, name)) {
            continue;
        }
        let (needed, words) = needed(wiring, family, hook);
        if words.iter().any(|word| text.split(is_between).any(|other| other == word)) {
            continue;
        }
        findings.push(Finding::told(format!(
            "the chain {name} of table {family} {table} drops what no rule of its own lets pass: \
             it has to let pass {needed}"
        )));
    }
    Ok(findings)
}

fn is_between(c: char) -> bool {
    c.is_whitespace() || "\",{}".contains(c)
}

/// What has to pass a hook, and words by which rules that let it pass are known.
fn needed(wiring: &NodeConfig, family: &str, hook: &str) -> (String, Vec<String>) {
    let tun = host::TUN.to_owned();
    let port = wiring.bridge.vxlan_port;
    let vxlan = format!("UDP port {port} between the nodes");
    match (family, hook) {
        ("ip" | "inet", "forward") => {
            (format!("what comes from `{tun}` and what goes to it"), vec![tun])
        }
        ("arp", _) => ("ARP for the node's addresses".to_owned(), Vec::new()),
        ("bridge", "forward") => ("frames between the nodes".to_owned(), Vec::new()),
        _ => (format!("{vxlan}, and what comes from `{tun}`"), vec![port.to_string(), tun]),
    }
}

/// Whether the last rule of a chain drops or rejects whatever comes to it.
fn ends_in_drop(table: &str, chain: &str) -> bool {
    let head = format!("chain {chain} {{");
    let mut lines = table.lines().map(str::trim).skip_while(|line| *line != head).skip(1);
    let last = lines.by_ref().take_while(|line| *line != "}").last().unwrap_or_default();
    let last = last.strip_prefix("counter ").unwrap_or(last);
    let last = last.split(" comment ").next().unwrap_or(last);
    last == "drop" || last == "reject" || last.starts_with("reject with ")
}
