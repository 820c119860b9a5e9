//! The proof of emitted files: what is right is proven, and what is broken is refuted.

use std::collections::BTreeSet;
use std::fs;

use rayon::prelude::*;
use ringfence::diagnostic::{Source, Sources};
use ringfence::input;
use ringfence::proof::contract::Lemma;
use ringfence::proof::engine::point::{Exit, trace};
use ringfence::proof::frame::{FIELDS, Field, Point, frag, kind, proto};
use ringfence::proof::meaning::{Meaning, Node};
use ringfence::proof::node::{Proven, Text, prove};
use ringfence::proof::read::flows::Flows;
use ringfence::proof::read::groups::Groups;

use crate::support::{directories, ringfence, root};

/// More breaks than a usual run tries: how many, or `all`.
const BREAKS: &str = "RINGFENCE_BREAKS";

pub(crate) fn meaning(example: &str) -> Meaning {
    let directory = root().join("examples").join(example);
    let (read, report) = input::read(std::slice::from_ref(&directory), &mut std::io::empty());
    assert!(!report.has_errors());
    let again =
        |source: &Source| Source::new(source.name(), source.name(), source.text().to_owned());
    let (documents, report) = input::parse(&Sources::from_texts(read.iter().map(again).collect()));
    assert!(!report.has_errors());
    let lock = fs::read_to_string(directory.join("ringfence.lock")).unwrap();
    Meaning::read(&documents, &lock).unwrap()
}

pub(crate) fn text(example: &str, node: &Node) -> Text {
    let directory = root().join("golden").join(example).join(&node.name);
    Text::read(&directory, &node.name).unwrap()
}

pub(crate) fn holds(proven: &Proven) -> bool {
    proven.faults.is_empty() && proven.unread.is_empty() && proven.unknown.is_empty()
}

/// Examples all of whose flows the lemmas speak of.
const COVERED: [&str; 7] =
    ["quickstart", "flat", "allow-then-deny", "dns-names", "gitops", "egress-router", "multicast"];

/// A frame by the numbers of its fields; the others are 0.
fn point(fields: &[(Field, u64)]) -> Point {
    let mut point = [0; FIELDS];
    for (field, number) in fields {
        point[*field as usize] = *number;
    }
    Point(point)
}

/// Destinations at which something may change for a node.
fn destinations(meaning: &Meaning, node: &Node) -> BTreeSet<u64> {
    let mut all: BTreeSet<u64> = BTreeSet::new();
    all.extend([node.gateway, node.gateway + 1, node.subnet.0, node.subnet.1, node.address]);
    all.extend(node.workloads.iter().map(|workload| workload.address));
    for other in meaning.nodes.iter().filter(|other| other.name != node.name) {
        all.extend([other.gateway, other.subnet.1, other.address]);
        all.extend(other.workloads.iter().take(1).map(|workload| workload.address));
    }
    for network in meaning.pod_networks.iter().chain([&meaning.service_network]) {
        all.extend([network.0 - 1, network.1, network.1 + 1]);
    }
    all.extend(
        meaning
            .policies
            .iter()
            .flat_map(|policy| &policy.bounds)
            .flat_map(|bound| [bound.saturating_sub(1), *bound]),
    );
    all.extend([0, 0x0808_0808, 0xdfff_ffff, 0xe000_0001, 0xf000_0000, 0xffff_ffff]);
    all.retain(|address| *address <= 0xffff_ffff);
    all
}

/// What IP packets may hold behind their addresses.
fn transports(meaning: &Meaning) -> Vec<[(Field, u64); 4]> {
    let mut ports: BTreeSet<u64> = BTreeSet::from([1, 53, 80, 443, meaning.vxlan_port]);
    for rule in meaning.policies.iter().flat_map(|policy| &policy.rules) {
        for (first, last) in rule.ports.iter().filter_map(|(_, ports)| *ports) {
            ports.extend([first.saturating_sub(1), first, last, last + 1]);
        }
    }
    let l4 = |proto, frag, from, to| {
        [(Field::Proto, proto), (Field::Frag, frag), (Field::SrcPort, from), (Field::DstPort, to)]
    };
    let mut all = vec![l4(proto::OTHER, 0, 0, 0), l4(proto::ICMP, 0, 8, 0)];
    all.push(l4(proto::ICMP, frag::LATER, 0, 0));
    for protocol in [proto::TCP, proto::UDP, proto::SCTP] {
        for port in &ports {
            all.push(l4(protocol, frag::WHOLE, 4000, *port));
        }
        all.push(l4(protocol, frag::WHOLE, 0, 0));
        all.push(l4(protocol, frag::FIRST, 4000, 80));
        all.push(l4(protocol, frag::FIRST, 0, 443));
        all.push(l4(protocol, frag::FIRST, 443, 0));
        all.push(l4(protocol, frag::FIRST, 0, 0));
        all.push(l4(protocol, frag::PORTLESS, 0, 0));
        all.push(l4(protocol, frag::LATER, 0, 0));
    }
    all.push(l4(proto::UDP, frag::FIRST, 4000, meaning.vxlan_port));
    all
}

/// Frames that show every difference that a broken flow can make on a node, one way or another.
fn frames(meaning: &Meaning, node: &Node) -> Vec<Point> {
    let destinations = destinations(meaning, node);
    let transports = transports(meaning);
    let mut senders: Vec<Vec<(Field, u64)>> = Vec::new();
    for (workload, number) in node.workloads.iter().zip(0..) {
        let as_itself = [
            (Field::InPort, workload.port),
            (Field::DlSrc, workload.mac),
            (Field::Src, workload.address),
            (Field::Sha, workload.mac),
        ];
        senders.push(as_itself.to_vec());
        for forged in 0..4usize {
            let mut other = as_itself;
            other[forged].1 += 1;
            senders.push(other.to_vec());
        }
        let next = &node.workloads[(number + 1) % node.workloads.len()];
        let mut other = as_itself;
        other[0].1 = next.port;
        senders.push(other.to_vec());
    }
    let vnids: BTreeSet<u64> =
        meaning.projects.iter().map(|project| project.vnid).chain([1, 0xff_ffff]).collect();
    for other in &meaning.nodes {
        for vnid in &vnids {
            let from = [(Field::InPort, 1), (Field::TunSrc, other.address), (Field::Reg0, *vnid)];
            senders.push(from.to_vec());
        }
    }
    senders.push(vec![(Field::InPort, 1), (Field::TunSrc, 0x0101_0101)]);
    for port in [2, 3, 4] {
        let foreign = node.workloads.first().map_or(1, |workload| workload.address);
        for source in [node.gateway, 0x0808_0808, foreign, node.gateway - 1] {
            for mark in [0, 0x7266_6e66] {
                senders.push(vec![
                    (Field::InPort, port),
                    (Field::Src, source),
                    (Field::Mark, mark),
                ]);
            }
        }
    }
    let mut frames = Vec::new();
    for sender in &senders {
        for (dst, number) in destinations.iter().zip(0..) {
            let with = |more: &[(Field, u64)]| {
                let mut fields = sender.clone();
                fields.push((Field::Dst, *dst));
                fields.extend_from_slice(more);
                point(&fields)
            };
            frames.push(with(&[(Field::Kind, kind::ARP), (Field::ArpOp, 1)]));
            for (l4, at) in transports.iter().zip(0..) {
                let mut more = l4.to_vec();
                more.extend([(Field::Kind, kind::IP), (Field::Sha, 0)]);
                frames.push(with(&more));
                // One of many is enough for what is dropped for its tag.
                if (number + at) % 7 == 0 {
                    more.push((Field::Tagged, 1));
                    frames.push(with(&more));
                }
            }
        }
        let mut other = sender.clone();
        other.retain(|(field, _)| !matches!(field, Field::Src | Field::Sha));
        frames.push(point(&other));
    }
    frames
}

/// A flow line changed in one way; `None` where that can't be.
fn broken(line: &str, kind: usize, others: &[&str]) -> Option<String> {
    let (conditions, rest) = line.split_once(" actions=")?;
    let (actions, comment) = rest.split_once(" # ").map_or((rest, ""), |(a, c)| (a, c));
    let put = |conditions: &str, actions: &str| {
        let comment = if comment.is_empty() { String::new() } else { format!(" # {comment}") };
        Some(format!("{conditions} actions={actions}{comment}"))
    };
    let words: Vec<&str> = conditions.split(',').collect();
    let priority = words.iter().position(|word| word.starts_with(" priority="))?;
    let number: u16 = words[priority].trim_start_matches(" priority=").parse().ok()?;
    let with_priority = |number: u16| {
        let mut words: Vec<String> = words.iter().map(|word| (*word).to_owned()).collect();
        words[priority] = format!(" priority={number}");
        put(&words.join(","), actions)
    };
    let replaced = |from: &str, to: &str| {
        (conditions.contains(from)).then(|| put(&conditions.replacen(from, to, 1), actions))?
    };
    let acted = |from: &str, to: &str| {
        actions.contains(from).then(|| put(conditions, &actions.replacen(from, to, 1)))?
    };
    // A condition left out, the last first.
    let without = |back: usize| {
        let index = words.len().checked_sub(1 + back).filter(|index| *index > priority)?;
        let mut words = words.clone();
        words.remove(index);
        put(&words.join(","), actions)
    };
    match kind {
        0 => Some(String::new()),
        1 => with_priority(number + 250),
        2 => with_priority(number.checked_sub(1)?),
        3 => with_priority(number + 1),
        4 => (actions != "drop").then(|| put(conditions, "drop"))?,
        5 => (actions == "drop").then(|| put(conditions, "output:2"))?,
        6 => without(0),
        7 => without(1),
        8 => without(2),
        9 => acted("->reg0", "->reg1"),
        10 => acted("->reg1", "->reg0"),
        11 => acted("->reg2", "->reg1"),
        12 => acted("set_field:0x", "set_field:0x1"),
        13 => replaced("reg0=0x", "reg0=0x1"),
        14 => replaced("reg1=", "reg0=").filter(|_| !conditions.contains("reg0=")),
        15 => replaced("in_port=", "in_port=1"),
        16 => replaced("tp_dst=", "tp_dst=1"),
        17 => replaced("/23", "/22").filter(|line| !line.contains(".2.0/22")),
        18 => replaced("/14", "/15"),
        19 => replaced(",tcp", ",udp").or_else(|| replaced(",udp", ",tcp")),
        20 => replaced("nw_frag=later", "nw_frag=first"),
        21 => replaced("nw_frag=first,tp_src=0,tp_dst=0", "nw_frag=later"),
        22 => acted("output:2", "output:1").or_else(|| acted("output:1", "output:2")),
        23 => acted("->tun_dst", "->ip_dst"),
        24 => acted("move:NXM_NX_REG0[]->NXM_NX_TUN_ID[0..31],", ""),
        25 => acted("move:NXM_NX_TUN_ID[0..31]->NXM_NX_REG0[],", ""),
        26 => acted("output:NXM_NX_REG2[]", "output:NXM_NX_REG2[],output:2"),
        27 => acted("goto_table:30", "goto_table:31")
            .or_else(|| acted("goto_table:31", "goto_table:30")),
        28 => acted("goto_table:80", "output:NXM_NX_REG2[]"),
        29 => acted("goto_table:101", "goto_table:100")
            .or_else(|| acted("goto_table:100", "goto_table:101")),
        30 => replaced("dl_src=0a:58", "dl_src=0a:59"),
        31 => {
            // The actions of another flow of the table.
            let other =
                others.iter().find(|other| !other.contains(&format!(" actions={actions}")))?;
            let (_, other) = other.split_once(" actions=")?;
            put(conditions, other.split_once(" # ").map_or(other, |(actions, _)| actions))
        }
        _ => None,
    }
}

const KINDS: usize = 32;

/// What becomes of a frame.
type Observed = (Vec<Exit>, Option<u64>);

fn seen(flows: &Flows, point: &Point) -> (Observed, BTreeSet<u8>) {
    let trace = trace(flows, &Groups::new(), point, &[]);
    let tables = trace.path.iter().map(|flow| flows.flows[*flow].table).collect();
    ((trace.exits, trace.eth_dst), tables)
}

/// How breaks ended.
#[derive(Default)]
struct Tally {
    real: usize,
    without: usize,
    /// Caught, though no frame that was tried shows it.
    strict: Vec<String>,
    missed: Vec<String>,
}

/// A node whose flows are broken.
struct Victim<'m> {
    name: String,
    meaning: &'m Meaning,
    index: usize,
    /// The flows, and their lines.
    whole: Flows,
    lines: Vec<String>,
    /// Frames with what becomes of them, and the tables that they pass.
    frames: Vec<(Point, Observed, BTreeSet<u8>)>,
}

impl Victim<'_> {
    /// Breaks one line and holds the verdict to what frames show.
    fn try_break(&self, text: Text, number: usize, new: &str, tally: &mut Tally) {
        let line = &self.lines[number];
        let mut lines: Vec<&str> = self.lines.iter().map(String::as_str).collect();
        lines[number] = new;
        let flows = (lines.join("\n") + "\n").into_bytes();
        let name = format!("{}: {line}\n    as {new}", self.name);
        let proven = prove(self.meaning, self.index, &Text { flows: flows.clone(), ..text });
        let caught = !holds(&proven);
        let Ok(flows) = Flows::read("flows", &flows) else {
            assert!(caught, "{name}");
            tally.real += 1;
            return;
        };
        let table = table(line);
        let differs = |(point, before, tables): &(Point, Observed, BTreeSet<u8>)| {
            tables.contains(&table) && seen(&flows, point).0 != *before
        };
        // The frame that the proof shows is tried like any other.
        let witnesses = proven.faults.iter().filter_map(|(fault, _)| fault.frame.as_ref());
        let shown = |point: &Point| seen(&flows, point).0 != seen(&self.whole, point).0;
        let real = self.frames.par_iter().any(differs) || witnesses.into_iter().any(shown);
        let list = match (real, caught) {
            (true, true) => return tally.real += 1,
            (false, false) => return tally.without += 1,
            (true, false) => &mut tally.missed,
            (false, true) => &mut tally.strict,
        };
        list.push(name);
    }
}

fn table(line: &str) -> u8 {
    line.split(", table=").nth(1).unwrap().split(',').next().unwrap().parse().unwrap()
}

/// Breaks single flows and holds the proof to what the plain evaluator sees.
#[test]
fn no_break_that_changes_anything_is_missed() {
    let wanted = std::env::var(BREAKS).ok();
    // Of the nodes of an example, of the breaks, and of the frames: every so many.
    let (nodes, every, most) = match wanted.as_deref() {
        Some("all") => (99, 1, usize::MAX),
        Some(number) => (99, 20_000 / number.parse::<usize>().unwrap().max(1), 100_000),
        None => (1, 17, 5000),
    };
    let mut tally = Tally::default();
    let mut count = 0usize;
    for example in COVERED {
        let meaning = meaning(example);
        for (node, index) in meaning.nodes.iter().zip(0..).take(nodes) {
            assert!(
                holds(&prove(&meaning, index, &text(example, node))),
                "{example}/{}",
                node.name
            );
            let whole = String::from_utf8(text(example, node).flows).unwrap();
            let flows = Flows::read("flows", whole.as_bytes()).unwrap();
            let all = frames(&meaning, node);
            // A step that shares no factor with how often anything repeats.
            let step = all.len() / most + 1;
            let step =
                (step..step + 210).find(|step| [2, 3, 5, 7].iter().all(|p| step % p != 0)).unwrap();
            let chosen: Vec<&Point> = all.iter().step_by(step).collect();
            let frames = chosen.par_iter().map(|point| {
                let (before, tables) = seen(&flows, point);
                (**point, before, tables)
            });
            let frames = frames.collect();
            let lines: Vec<String> = whole.lines().map(ToOwned::to_owned).collect();
            let name = format!("{example}/{}", node.name);
            let victim = Victim { name, meaning: &meaning, index, whole: flows, lines, frames };
            for (number, line) in victim.lines.iter().enumerate() {
                if !line.starts_with("cookie") {
                    continue;
                }
                let of_table = |other: &&String| {
                    *other != line && other.starts_with("cookie") && table(other) == table(line)
                };
                let others: Vec<&str> =
                    victim.lines.iter().filter(of_table).map(String::as_str).collect();
                for kind in 0..KINDS {
                    let Some(new) = broken(line, kind, &others) else { continue };
                    count += 1;
                    if count.is_multiple_of(every) {
                        victim.try_break(text(example, node), number, &new, &mut tally);
                    }
                }
            }
        }
    }
    let Tally { real, without, strict, missed } = tally;
    println!(
        "breaks: {real} real and caught, {without} without effect, {} caught though no frame that \
         was tried shows it, {} missed",
        strict.len(),
        missed.len()
    );
    for name in &strict {
        println!("  strict: {name}");
    }
    assert!(missed.is_empty(), "missed:\n{}", missed.join("\n"));
    assert!(real > 100, "too few breaks were tried: {real}");
}

/// Examples with what no lemma speaks of yet say so; the others are proven.
#[test]
fn every_example_is_proven_or_says_why_not() {
    for golden in directories(&root().join("golden")) {
        let name = golden.file_name().unwrap().to_str().unwrap().to_owned();
        let example = root().join("examples").join(&name);
        let run = ringfence(&example, &["prove", ".", "--json", "-o", golden.to_str().unwrap()]);
        let proof: serde_json::Value = serde_json::from_str(&run.stdout).unwrap();
        assert_eq!(proof["findings"], serde_json::json!([]), "{name}: {proof:#}");
        assert_eq!(proof["unread"], serde_json::json!([]), "{name}: {proof:#}");
        let gaps = proof["notProven"].as_array().unwrap();
        let verdict = if gaps.is_empty() { ("proven", 0) } else { ("not-proven", 1) };
        assert_eq!((proof["verdict"].as_str().unwrap(), run.status), verdict, "{name}");
    }
}

/// RF302: what the lock file says must make sense by itself, or a wrong one would prove itself.
#[test]
fn a_lock_file_without_sense_has_no_meaning() {
    let directory = root().join("examples/quickstart");
    let text = fs::read_to_string(directory.join("network.yaml")).unwrap();
    let lock = fs::read_to_string(directory.join("ringfence.lock")).unwrap();
    let (documents, _) =
        input::parse(&Sources::from_texts(vec![Source::new("network.yaml", "network.yaml", text)]));
    let why = |from: &str, to: &str| {
        assert!(lock.contains(from), "{from}");
        Meaning::read(&documents, &lock.replace(from, to)).unwrap_err()
    };
    assert_eq!(why("audit: 9100007", "audit: 11518613"), "two networks have the VNID 11518613");
    let taken = "the address of router supplier is another's, or not of its node's subnet";
    assert_eq!(why("node-1 10.128.0.254 ", "node-1 10.128.0.95 "), taken);
    assert_eq!(why(":fe 264", ":fe 410"), "the port of pod audit/log-0 is another's");
    let overlap = "two nodes have pod subnets that overlap";
    assert_eq!(why("node-2: 10.128.2.0/23", "node-2: 10.128.0.0/22"), overlap);
}

/// Each lemma is seen to fail where its part of the files is wrong, and checks something where it is right.
#[test]
fn each_lemma_can_fail() {
    let meaning = meaning("quickstart");
    let index = 0;
    let node = &meaning.nodes[index];
    let right = || text("quickstart", node);
    let proven = prove(&meaning, index, &right());
    let broken = |lemma: Lemma, edit: &dyn Fn(&mut Text)| {
        assert!(proven.checked[lemma as usize] > 0, "{lemma:?} checks nothing");
        let mut text = right();
        edit(&mut text);
        let proven = prove(&meaning, index, &text);
        let found: BTreeSet<Lemma> = proven.faults.iter().map(|(fault, _)| fault.lemma).collect();
        assert!(found.contains(&lemma), "{lemma:?} is not refuted: {proven:?}");
    };
    let replace = |bytes: &mut Vec<u8>, from: &str, to: &str| {
        let text = String::from_utf8(bytes.clone()).unwrap();
        assert!(text.contains(from), "{from}");
        *bytes = text.replace(from, to).into_bytes();
    };
    broken(Lemma::L0, &|text| replace(&mut text.links, "0a:58:0a:80:01:90", "0a:58:0a:80:01:91"));
    broken(Lemma::L0, &|text| {
        replace(&mut text.ports, "set-frags br0 nx-match", "set-frags br0 normal");
    });
    broken(Lemma::L0, &|text| replace(&mut text.node, "\"ofport\":410", "\"ofport\":411"));
    broken(Lemma::L1, &|text| replace(&mut text.flows, ",nw_src=10.128.1.144", ""));
    broken(Lemma::L1, &|text| {
        replace(&mut text.flows, "tun_src=192.168.12.13", "tun_src=192.168.12.14");
    });
    broken(Lemma::L2, &|text| {
        replace(&mut text.flows, "ip,nw_dst=10.128.4.0/23", "ip,nw_dst=10.128.6.0/23");
    });
    broken(Lemma::L3, &|text| {
        replace(
            &mut text.flows,
            "priority=100,reg0=0xafc295,reg1=0xafc295",
            "priority=100,reg0=0xafc295",
        );
    });
    broken(Lemma::L4, &|text| {
        replace(
            &mut text.flows,
            "table=31, priority=0 actions=drop",
            "table=31, priority=0 actions=output:2",
        );
    });
    broken(Lemma::L5, &|text| replace(&mut text.flows, "tp_dst=443", "tp_dst=444"));
    let rules = [
        (
            "iifname != \"tun0\" iifname != \"lo\" ip saddr 10.128.0.0/14 drop",
            "iifname != \"tun0\" ip saddr 10.128.0.0/15 drop",
        ),
        ("oifname \"tun0\" drop", "oifname \"tun1\" drop"),
        ("udp dport { 53 } accept", "udp dport { 53, 67 } accept"),
        ("masquerade", "accept"),
        ("meta mark set 0x72666e66", "meta mark set 0x72666e67"),
    ];
    for (from, to) in rules {
        broken(Lemma::L10, &|text| replace(&mut text.ruleset, from, to));
    }
}
