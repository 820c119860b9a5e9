//! Queue disciplines of ports: what pods receive at most.
//!
//! Rows of the tables `QoS` and `Queue` outlast the ports that have them, so those that bear the
//! mark of ringfence and are of no use any more are removed by themselves.

use std::collections::{BTreeMap, BTreeSet};

use super::change::{Action, Kind, Step};
use super::ovsdb::{Database, MARK, Port, Qos};
use super::ports::TIMEOUT;
use crate::system::netlink::Link;
use crate::system::{Command, Tool};

/// The discipline that Open vSwitch sets on the interfaces of every datapath.
const KIND: &str = "linux-htb";
const RATE: &str = "max-rate";

/// Whether the port has just the discipline of this owner for this many bits a second.
pub(super) fn is(database: &Database, port: &Port, owner: &str, rate: u64) -> bool {
    let config = BTreeMap::from([(RATE.to_owned(), rate.to_string())]);
    let good = |qos: &Qos| {
        qos.config == config && qos.external_ids.get(MARK).map(String::as_str) == Some(owner)
    };
    let Some(qos) = port.qos.as_ref().and_then(|row| database.qos.get(row)) else { return false };
    let queue = |row: &String| database.queues.get(row).is_some_and(good);
    qos.kind == KIND && good(qos) && qos.queues.len() == 1 && qos.queues.get(&0).is_some_and(queue)
}

/// Whether the kernel has the discipline that Open vSwitch makes of that.
pub(super) fn is_in_kernel(link: &Link) -> bool {
    let kind = KIND.trim_start_matches("linux-");
    link.traits.disciplines.iter().any(|found| found.at == "root" && found.kind == kind)
}

/// Whether the port has a discipline that ringfence gave it.
pub(super) fn is_ours(database: &Database, port: &Port) -> bool {
    let qos = port.qos.as_ref().and_then(|row| database.qos.get(row));
    qos.is_some_and(|qos| qos.external_ids.contains_key(MARK))
}

/// Takes the disciplines of ringfence's from ports of its own that go: with its port, Open vSwitch
/// would leave the discipline to the interface.
pub(super) fn unlimit<'p>(
    database: &Database,
    ports: impl IntoIterator<Item = (&'p String, &'p Port)>,
) -> Option<Command> {
    let mut words = vec![TIMEOUT.to_owned()];
    let limited = ports.into_iter().filter(|(_, port)| is_ours(database, port));
    for (name, _) in limited {
        // Fails where the port is no longer ours, and nothing is done.
        let mark = format!("external_ids:{MARK}");
        words.extend(["--", "get", "Port", name, &mark].map(str::to_owned));
        words.extend(["--", "clear", "Port", name, "qos"].map(str::to_owned));
    }
    (words.len() > 1).then(|| Command::remove(Tool::OvsVsctl, words))
}

/// The clauses of `ovs-vsctl` that give a port its discipline; `number` makes names for its rows.
pub(super) fn set(port: &str, owner: &str, rate: u64, number: i64) -> Vec<Vec<String>> {
    let clause = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect();
    let (qos, queue) = (format!("@qos{number}"), format!("@queue{number}"));
    let (rate, mark) =
        (format!("other_config:{RATE}={rate}"), format!("external_ids:{MARK}=\"{owner}\""));
    let kind = format!("type={KIND}");
    let queues = format!("queues:0={queue}");
    vec![
        clause(&["set", "Port", port, &format!("qos={qos}")]),
        clause(&[&format!("--id={qos}"), "create", "QoS", &kind, &rate, &queues, &mark]),
        clause(&[&format!("--id={queue}"), "create", "Queue", &rate, &mark]),
    ]
}

/// Removes all rows of ours but those that `kept` ports of their bridge have, and those of other
/// bridges.
pub(super) fn sweep(database: &Database, bridge: Option<&str>, kept: &BTreeSet<&str>) -> Step {
    let mut used: BTreeSet<&String> = BTreeSet::new();
    for (other, live) in &database.bridges {
        for (name, port) in &live.ports {
            let foreign = bridge.is_some_and(|bridge| bridge != other)
                || (bridge.is_none() && !live.external_ids.contains_key(MARK));
            if foreign || kept.contains(name.as_str()) {
                used.extend(&port.qos);
            }
        }
    }
    let in_use = database.qos.iter().filter(|(row, _)| used.contains(row));
    let queues: BTreeSet<&String> = in_use.flat_map(|(_, qos)| qos.queues.values()).collect();
    let ours = |qos: &Qos| qos.external_ids.get(MARK).cloned();
    let old = |rows: &BTreeMap<String, Qos>, used: &BTreeSet<&String>| -> Vec<(String, String)> {
        let rows = rows.iter().filter(|(row, _)| !used.contains(row));
        rows.filter_map(|(row, qos)| Some((row.clone(), ours(qos)?))).collect()
    };
    let mut step = Step::default();
    let mut words = vec![TIMEOUT.to_owned()];
    let mut owners = BTreeSet::new();
    for (table, rows) in
        [("QoS", old(&database.qos, &used)), ("Queue", old(&database.queues, &queues))]
    {
        for (row, owner) in rows {
            owners.insert(owner);
            words.extend(["--", "--if-exists", "destroy", table, &row].map(str::to_owned));
        }
    }
    if owners.is_empty() {
        return step;
    }
    for owner in owners {
        step.change(Action::Remove, Kind::Qos, owner, "no longer in use");
    }
    step.commands.push(Command::change(Tool::OvsVsctl, words));
    step
}
