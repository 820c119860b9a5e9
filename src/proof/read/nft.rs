//! `ruleset.nft`, in the grammar that is emitted.

use std::collections::{BTreeMap, BTreeSet};

use super::Unread;
use super::cursor::Cursor;
use crate::proof::frame::{Range, proto};

/// The tables of a node, by family.
pub type Ruleset = BTreeMap<String, Table>;

/// A table.
#[derive(Clone, Debug, Default)]
pub struct Table {
    /// Its sets.
    pub sets: BTreeMap<String, BTreeSet<Element>>,
    /// Its base chains, in the order of the file.
    pub chains: Vec<Chain>,
}

/// An element of a set.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Element {
    /// An address.
    Address(u64),
    /// The name of an interface.
    Interface(String),
}

/// A base chain.
#[derive(Clone, Debug)]
pub struct Chain {
    /// Its name.
    pub name: String,
    /// `filter` or `nat`.
    pub kind: String,
    /// Where it sees packets.
    pub hook: String,
    /// When, by number.
    pub priority: i32,
    /// Whether what no rule decides passes.
    pub accepts: bool,
    /// Its rules.
    pub rules: Vec<Rule>,
    /// The line that it begins in.
    pub line: u32,
}

/// A rule.
#[derive(Clone, Debug)]
pub struct Rule {
    /// Its line.
    pub line: u32,
    /// Its conditions.
    pub conditions: Vec<Condition>,
    /// What it does.
    pub statement: Statement,
}

/// A condition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Condition {
    /// The interface that it came by: equal or not.
    Iif(bool, String),
    /// An interface of a set.
    IifIn(String),
    /// The interface that it leaves by: equal or not.
    Oif(bool, String),
    /// The source: in a network or not.
    Source(bool, Range),
    /// The destination: in a network or not.
    Destination(bool, Range),
    /// A destination of a set.
    DestinationIn(String),
    /// A destination that is an address of the machine.
    ToLocal,
    /// Ports of a protocol.
    Ports(u64, Vec<Range>),
    /// `established,related`.
    Known,
    /// A question of ping.
    EchoRequest,
}

/// What a rule does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Statement {
    /// Lets through.
    Accept,
    /// Drops.
    Drop,
    /// Sets the mark and goes on.
    Mark(u64),
    /// Gives the source of the interface.
    Masquerade,
}

/// Reads a file.
pub fn read(file: &str, text: &[u8]) -> Result<Ruleset, Unread> {
    let text = std::str::from_utf8(text).map_err(|_| Unread::new(file, 0, "not UTF-8"))?;
    let mut reader = Reader { ruleset: Ruleset::new(), state: State::Top, table: String::new() };
    for (line, full) in (1..).zip(text.lines()) {
        let plain = full.trim();
        if plain.is_empty() || plain.starts_with('#') {
            continue;
        }
        reader
            .line(plain, line)
            .map_err(|why| Unread::new(file, usize::try_from(line).unwrap_or(0), why))?;
    }
    match reader.state {
        State::Top => Ok(reader.ruleset),
        _ => Err(Unread::new(file, 0, "a block has no end")),
    }
}

/// The map of pods to the addresses by which they leave, alone; without one, an empty map.
pub fn egress_ips(file: &str, text: &[u8]) -> Result<BTreeMap<u64, u64>, Unread> {
    let text = std::str::from_utf8(text).map_err(|_| Unread::new(file, 0, "not UTF-8"))?;
    let mut map = BTreeMap::new();
    let mut lines = (1..).zip(text.lines().map(str::trim));
    if !lines.any(|(_, line)| line == "map rf_egress_ips {") {
        return Ok(map);
    }
    for wanted in ["type ipv4_addr : ipv4_addr", "elements = {"] {
        let (number, line) = lines.next().unwrap_or((0, ""));
        if line != wanted {
            return Err(Unread::new(file, number, format!("expected `{wanted}`")));
        }
    }
    for (number, line) in lines.take_while(|(_, line)| *line != "}") {
        let mut at = Cursor(line.as_bytes());
        let pair = at.address().and_then(|pod| at.need(" : ").map(|()| pod));
        let pair = pair.and_then(|pod| at.address().map(|address| (pod, address)));
        let done = at.eat(",") && at.is_done();
        match pair {
            Ok((pod, address)) if done && map.insert(pod, address).is_none() => {}
            _ => return Err(Unread::new(file, number, "no pod with its address")),
        }
    }
    Ok(map)
}

#[derive(Debug)]
enum State {
    Top,
    Table,
    Set { name: String, kind: String, open: bool },
    Chain,
}

struct Reader {
    ruleset: Ruleset,
    state: State,
    table: String,
}

impl Reader {
    fn line(&mut self, text: &str, line: u32) -> Result<(), String> {
        let unknown =
            || format!("expected something else than {}", crate::diagnostic::quoted(text));
        match std::mem::replace(&mut self.state, State::Top) {
            State::Top => self.top(text).ok_or_else(unknown),
            State::Table => self.in_table(text, line).ok_or_else(unknown),
            State::Set { name, kind, open } => {
                self.in_set(text, name, kind, open).ok_or_else(unknown)
            }
            State::Chain if text == "}" => {
                self.state = State::Table;
                Ok(())
            }
            State::Chain => {
                self.state = State::Chain;
                self.in_chain(text, line)
            }
        }
    }

    fn top(&mut self, text: &str) -> Option<()> {
        let (first, deletes) = match text.strip_prefix("delete ") {
            Some(rest) => (rest, true),
            None => (text, false),
        };
        let rest = first.strip_prefix("table ")?;
        let (family, rest) = rest.split_once(' ')?;
        if !["inet", "arp"].contains(&family) {
            return None;
        }
        match rest {
            "ringfence" => Some(()),
            "ringfence {" if !deletes && !self.ruleset.contains_key(family) => {
                family.clone_into(&mut self.table);
                self.ruleset.insert(family.to_owned(), Table::default());
                self.state = State::Table;
                Some(())
            }
            _ => None,
        }
    }

    fn in_table(&mut self, text: &str, line: u32) -> Option<()> {
        if text == "}" {
            return Some(());
        }
        self.state = State::Table;
        if text.starts_with("comment \"") && text.ends_with('"') {
            return Some(());
        }
        if let Some(name) = text.strip_prefix("set ").and_then(|rest| rest.strip_suffix(" {")) {
            let (name, kind) = (name.to_owned(), String::new());
            self.state = State::Set { name, kind, open: false };
            return Some(());
        }
        let name = text.strip_prefix("chain ")?.strip_suffix(" {")?.to_owned();
        self.state = State::Chain;
        let chain = Chain {
            name,
            kind: String::new(),
            hook: String::new(),
            priority: 0,
            accepts: true,
            rules: Vec::new(),
            line,
        };
        self.ruleset.get_mut(&self.table)?.chains.push(chain);
        Some(())
    }

    fn in_set(&mut self, text: &str, name: String, kind: String, open: bool) -> Option<()> {
        let sets = &mut self.ruleset.get_mut(&self.table)?.sets;
        if !open {
            match text {
                "}" => {
                    sets.entry(name).or_default();
                    self.state = State::Table;
                }
                "elements = {" => self.state = State::Set { name, kind, open: true },
                _ => {
                    let kind = text.strip_prefix("type ")?.to_owned();
                    if !["ipv4_addr", "ifname"].contains(&kind.as_str()) {
                        return None;
                    }
                    self.state = State::Set { name, kind, open };
                }
            }
            return Some(());
        }
        if text == "}" {
            self.state = State::Set { name, kind, open: false };
            return Some(());
        }
        let word = text.strip_suffix(',').unwrap_or(text);
        let element = if kind == "ifname" {
            Element::Interface(word.strip_prefix('"')?.strip_suffix('"')?.to_owned())
        } else {
            let mut cursor = Cursor(word.as_bytes());
            let address = cursor.address().ok().filter(|_| cursor.is_done())?;
            Element::Address(address)
        };
        sets.entry(name.clone()).or_default().insert(element);
        self.state = State::Set { name, kind, open };
        Some(())
    }

    fn in_chain(&mut self, text: &str, line: u32) -> Result<(), String> {
        let table = self.ruleset.get_mut(&self.table).ok_or("no table")?;
        let chain = table.chains.last_mut().ok_or("no chain")?;
        if let Some(rest) = text.strip_prefix("type ") {
            let words = rest.strip_suffix(';').ok_or("a chain without its hook")?;
            let (kind, rest) = words.split_once(" hook ").ok_or("a chain without its hook")?;
            let (hook, when) =
                rest.split_once(" priority ").ok_or("a chain without its priority")?;
            kind.clone_into(&mut chain.kind);
            hook.clone_into(&mut chain.hook);
            chain.priority = priority(when).ok_or("an unknown priority")?;
            return Ok(());
        }
        if let Some(policy) = text.strip_prefix("policy ") {
            chain.accepts = match policy {
                "accept" => true,
                "drop" => false,
                _ => return Err("an unknown policy".to_owned()),
            };
            return Ok(());
        }
        if chain.hook.is_empty() {
            return Err("a rule in a chain without a hook".to_owned());
        }
        let rule = rule(text, line)?;
        chain.rules.push(rule);
        Ok(())
    }
}

/// A priority as a number.
fn priority(text: &str) -> Option<i32> {
    let (name, shift) = match text.split_once(' ') {
        Some((name, shift)) => (name, shift.replace(' ', "").parse().ok()?),
        None => (text, 0),
    };
    let base = match name {
        "raw" => -300,
        "mangle" => -150,
        "dstnat" => -100,
        "filter" => 0,
        "srcnat" => 100,
        number => number.parse().ok()?,
    };
    Some(base + shift)
}

fn rule(text: &str, line: u32) -> Result<Rule, String> {
    let mut at = Cursor(text.as_bytes());
    let mut conditions = Vec::new();
    let statement = loop {
        if let Some(statement) = statement(&mut at)? {
            break statement;
        }
        conditions.push(condition(&mut at)?);
        at.need(" ")?;
    };
    at.need(" comment \"")?;
    at.hex(u64::MAX)?;
    at.need("\"")?;
    if !at.is_done() {
        return Err(format!("text behind a rule: {}", at.shown()));
    }
    Ok(Rule { line, conditions, statement })
}

fn statement(at: &mut Cursor<'_>) -> Result<Option<Statement>, String> {
    for (word, statement) in [
        ("accept", Statement::Accept),
        ("drop", Statement::Drop),
        ("counter drop", Statement::Drop),
        ("masquerade", Statement::Masquerade),
    ] {
        if at.eat(word) {
            return Ok(Some(statement));
        }
    }
    if at.eat("meta mark set ") {
        return at.number(0xffff_ffff).map(|mark| Some(Statement::Mark(mark)));
    }
    Ok(None)
}

fn condition(at: &mut Cursor<'_>) -> Result<Condition, String> {
    if at.eat("iifname @") {
        return name(at).map(Condition::IifIn);
    }
    for (word, make) in [
        ("iifname ", Condition::Iif as fn(bool, String) -> Condition),
        ("oifname ", Condition::Oif),
    ] {
        if at.eat(word) {
            let equal = !at.eat("!= ");
            at.need("\"")?;
            let name = name(at)?;
            at.need("\"")?;
            return Ok(make(equal, name));
        }
    }
    if at.eat("ip daddr @") {
        return name(at).map(Condition::DestinationIn);
    }
    for (word, make) in [
        ("ip saddr ", Condition::Source as fn(bool, Range) -> Condition),
        ("ip daddr ", Condition::Destination),
    ] {
        if at.eat(word) {
            let equal = !at.eat("!= ");
            return at.network().map(|network| make(equal, network));
        }
    }
    if at.eat("fib daddr type local") {
        return Ok(Condition::ToLocal);
    }
    if at.eat("ct state established,related") {
        return Ok(Condition::Known);
    }
    if at.eat("icmp type echo-request") {
        return Ok(Condition::EchoRequest);
    }
    for (word, protocol) in
        [("tcp dport ", proto::TCP), ("udp dport ", proto::UDP), ("sctp dport ", proto::SCTP)]
    {
        if at.eat(word) {
            return ports(at).map(|ports| Condition::Ports(protocol, ports));
        }
    }
    Err(format!("an unknown condition {}", at.shown()))
}

/// A port, or a set of ports and ranges.
fn ports(at: &mut Cursor<'_>) -> Result<Vec<Range>, String> {
    if !at.eat("{ ") {
        let port = at.decimal(0xffff)?;
        return Ok(vec![(port, port)]);
    }
    let mut ports = Vec::new();
    loop {
        let first = at.decimal(0xffff)?;
        let last = if at.eat("-") { at.decimal(0xffff)? } else { first };
        if first > last {
            return Err("a range of ports that is none".to_owned());
        }
        ports.push((first, last));
        if !at.eat(", ") {
            break;
        }
    }
    at.need(" }")?;
    Ok(ports)
}

fn name(at: &mut Cursor<'_>) -> Result<String, String> {
    let word = at.take_while(|byte| byte.is_ascii_alphanumeric() || b"_-.".contains(&byte));
    match word.len() {
        0 => Err(format!("expected a name, found {}", at.shown())),
        _ => Ok(String::from_utf8_lossy(word).into_owned()),
    }
}
