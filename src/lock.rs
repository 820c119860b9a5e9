//! `ringfence.lock`: what was allocated and must not move.
//!
//! YAML, sorted, one line an entry, so that a change of one object changes one line and a merge
//! conflict is solved by keeping lines. `ringfence lock` writes it, and `ringfence resolve` the
//! addresses of names in it; nothing else does.

pub mod dns;
mod lines;
pub mod names;

use std::collections::BTreeMap;
use std::fmt::{self, Write as _};
use std::net::Ipv4Addr;
use std::path::Path;
use std::str::FromStr;

use ipnet::Ipv4Net;
use serde::Deserialize;
use serde::de::{self, MapAccess, Visitor};

use crate::diagnostic::{Code, Diagnostic, Place, Source, Sources, quoted, reason};
use crate::files::{MAX_FILE_BYTES, read_file, write_atomically};
use crate::input::Positions;
use crate::value::{DnsName, Mac, Name, NodePort, StringValue, Timestamp, Vnid};

/// The name of the file.
pub const FILE_NAME: &str = "ringfence.lock";

const VERSION: u64 = 1;

/// From how many bytes on serde's words for an error are shortened.
const LONG_REASON: usize = 200;

/// The content of the file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Lock {
    /// The VNID of each project.
    pub vnids: BTreeMap<String, Vnid>,
    /// VNIDs of projects that are gone, with the last project that had them.
    pub retired_vnids: BTreeMap<Vnid, String>,
    /// Addresses of pods, egress routers and services that are gone, with the last that had them:
    /// `pod/project/name`, `router/name`, `service/project/name`.
    pub retired_addresses: BTreeMap<Ipv4Addr, String>,
    /// By the name of each joined project, that of the project whose network it shares.
    pub memberships: BTreeMap<String, String>,
    /// By `project/network`, the VNID of the network that the project has left.
    pub former_members: BTreeMap<String, Vnid>,
    /// The pod subnet of each node.
    pub subnets: BTreeMap<String, Ipv4Net>,
    /// Each pod, as `project/pod`.
    pub pods: BTreeMap<String, Entry>,
    /// Each egress router.
    pub routers: BTreeMap<String, Entry>,
    /// The port of the outside interface of each egress router that has one on the node's bridge.
    pub outside_ports: BTreeMap<String, OutsidePort>,
    /// The address of each service, as `project/service`.
    pub services: BTreeMap<String, Ipv4Addr>,
    /// The addresses of names in egress policies.
    pub resolved_names: BTreeMap<NameAddress, LastSeen>,
    /// The node port of each port of a service that has one, as `project/service/80/tcp`.
    pub node_ports: BTreeMap<String, NodePort>,
}

/// One address of a name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct NameAddress {
    /// The name.
    pub name: DnsName,
    /// The address.
    pub address: Ipv4Addr,
}

/// When an address of a name was last in an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LastSeen {
    /// The time.
    pub seen: Timestamp,
    /// How long the answer may be kept, in seconds.
    pub ttl: u32,
}

impl fmt::Display for NameAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.name, self.address)
    }
}

impl FromStr for NameAddress {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (name, address) =
            text.split_once(' ').ok_or_else(|| "expected `name address`".to_owned())?;
        Ok(Self {
            name: DnsName::parse(name).map_err(|invalid| invalid.message)?,
            address: address.parse().map_err(|_| format!("`{address}` is not an IPv4 address"))?,
        })
    }
}

impl fmt::Display for LastSeen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.seen, self.ttl)
    }
}

impl FromStr for LastSeen {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (seen, ttl) = text.split_once(' ').ok_or_else(|| "expected `time TTL`".to_owned())?;
        Ok(Self {
            seen: seen.parse()?,
            ttl: ttl.parse().map_err(|_| format!("`{ttl}` is not a TTL in seconds"))?,
        })
    }
}

/// Writes a lock file.
pub fn write(path: &Path, lock: &Lock) -> Result<(), Diagnostic> {
    write_atomically(path, lock.render().as_bytes()).map_err(|error| {
        let message = format!("cannot write `{}`: {}", path.display(), reason(&error));
        Diagnostic::new(Code::OutputUnwritable, message)
    })
}

/// What was allocated for one pod or egress router.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The node that the rest is valid for.
    pub node: Name,
    /// The address in the node's subnet.
    pub address: Ipv4Addr,
    /// The Ethernet address on the pod network.
    pub mac: Mac,
    /// The port number on the node's bridge.
    pub ofport: u16,
}

impl fmt::Display for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} {} {}", self.node, self.address, self.mac, self.ofport)
    }
}

impl FromStr for Entry {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let words: Vec<&str> = text.split(' ').collect();
        let &[node, address, mac, ofport] = words.as_slice() else {
            return Err("expected `node address mac ofport`".to_owned());
        };
        Ok(Self {
            node: Name::parse(node).map_err(|invalid| invalid.message)?,
            address: address.parse().map_err(|_| format!("`{address}` is not an IPv4 address"))?,
            mac: Mac::parse(mac).map_err(|invalid| invalid.message)?,
            ofport: port_number(ofport)?,
        })
    }
}

/// The port of an egress router's outside interface on a node's bridge.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OutsidePort {
    /// The node that it is valid for.
    pub node: Name,
    /// The port number.
    pub ofport: u16,
}

impl fmt::Display for OutsidePort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.node, self.ofport)
    }
}

impl FromStr for OutsidePort {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (node, ofport) =
            text.split_once(' ').ok_or_else(|| "expected `node ofport`".to_owned())?;
        Ok(Self {
            node: Name::parse(node).map_err(|invalid| invalid.message)?,
            ofport: port_number(ofport)?,
        })
    }
}

fn port_number(text: &str) -> Result<u16, String> {
    text.parse().map_err(|_| format!("`{text}` is not a port number"))
}

/// The text of a lock file, with the lock in it or what is wrong with it.
#[derive(Debug)]
pub struct LockText {
    text: String,
    parsed: Result<Lock, Fault>,
}

/// Reads the lock file at `path`, or `None` where there is none.
pub fn read(path: &Path) -> Result<Option<LockText>, Diagnostic> {
    let unreadable = |why: &str| {
        let message = format!("cannot read `{}`: {why}", path.display());
        Diagnostic::new(Code::LockUnreadable, message).help(RESTORE)
    };
    let bytes = match read_file(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(unreadable(&reason(&error))),
    };
    if bytes.len() as u64 > MAX_FILE_BYTES {
        return Err(unreadable(&format!("it has more than {} MiB", MAX_FILE_BYTES >> 20)));
    }
    let text = String::from_utf8(bytes).map_err(|_| unreadable("it is not UTF-8"))?;
    Ok(Some(LockText { parsed: parse(&text), text }))
}

impl LockText {
    /// Puts the text among the sources, where diagnostics find it, and gives out the lock with
    /// the index of its source.
    pub fn store(self, path: &Path, sources: &mut Sources) -> Result<(Lock, u32), Diagnostic> {
        let display = path.to_string_lossy().into_owned();
        let Self { text, parsed } = self;
        let fault = parsed.as_ref().err().map(|fault| fault.clone().find(&text));
        let source = sources.add(Source::new(display, FILE_NAME, text));
        match (parsed, fault) {
            (Ok(lock), _) => Ok((lock, source)),
            (Err(fault), found) => {
                let Fault { line, column, message, help } = found.unwrap_or(fault);
                Err(Diagnostic::new(Code::LockUnreadable, message)
                    .at(Place { source, line, column, length: 0 })
                    .help(help))
            }
        }
    }
}

/// What is wrong with the text of a lock file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// The line, from 1.
    pub line: u32,
    /// The column, from 1.
    pub column: u32,
    /// What is wrong, as a sentence.
    pub message: String,
    /// What to do.
    pub help: &'static str,
}

const RESTORE: &str = "restore the file from the repository, or remove the line and run \
                       `ringfence lock`";
const MERGE: &str = "keep the lines of both sides, each once, and run `ringfence lock`";

impl Fault {
    /// The same, where a careless merge explains it better than serde can.
    fn find(self, text: &str) -> Self {
        for (number, line) in (1..).zip(text.lines()) {
            if ["<<<<<<<", "=======", ">>>>>>>"].iter().any(|marker| line.starts_with(marker)) {
                let message = "the lock file has a merge conflict".to_owned();
                return Self { line: number, column: 1, message, help: MERGE };
            }
        }
        let twice = Positions::read(0, text).map(|positions| positions.duplicate_keys());
        let twice = twice.unwrap_or_default();
        match twice.sorted().first().and_then(|first| Some((first.place?, first))) {
            Some((Place { line, column, .. }, first)) => {
                let message = format!("the lock file is ambiguous: {}", first.message);
                Self { line, column, message, help: MERGE }
            }
            None => self,
        }
    }
}

/// The lock in a text, or what is wrong with it.
pub fn parse(text: &str) -> Result<Lock, Fault> {
    lines::parse(text).map_or_else(|| parse_yaml(text), Ok)
}

/// The same, by YAML: what `ringfence lock` has not written as it stands.
pub fn parse_yaml(text: &str) -> Result<Lock, Fault> {
    let wire: Wire = serde_yaml::from_str(text).map_err(|error| {
        let narrow = |number: usize| u32::try_from(number).unwrap_or(u32::MAX);
        let at = error.location();
        let (line, column) = at.map_or((1, 1), |at| (narrow(at.line()), narrow(at.column())));
        let text = error.to_string();
        let mut reason = text.split(" at line ").next().unwrap_or_default();
        if reason.len() > LONG_REASON {
            // The keys that lead there come first, and may have any length.
            reason = reason.split_once(": ").map_or(reason, |(_, words)| words);
        }
        let message = format!("the lock file is not readable: {reason}");
        Fault { line, column, message, help: RESTORE }
    })?;
    if wire.version != VERSION {
        let message = format!("the lock file has version {}, not {VERSION}", wire.version);
        let help = "use the version of ringfence that wrote it, or a later one";
        return Err(Fault { line: 1, column: 1, message, help });
    }
    Ok(Lock {
        vnids: wire.vnids.0,
        retired_vnids: wire.retired_vnids.0,
        retired_addresses: wire.retired_addresses.0,
        memberships: wire.memberships.0,
        former_members: wire.former_members.0,
        subnets: wire.subnets.0,
        pods: wire.pods.0.into_iter().map(|(key, entry)| (key, entry.0)).collect(),
        routers: wire.routers.0.into_iter().map(|(key, entry)| (key, entry.0)).collect(),
        outside_ports: wire.outside_ports.0.into_iter().map(|(key, port)| (key, port.0)).collect(),
        services: wire.services.0,
        node_ports: wire.node_ports.0,
        resolved_names: wire
            .resolved_names
            .0
            .into_iter()
            .map(|(key, seen)| (key.0, seen.0))
            .collect(),
    })
}

/// The entries that differ between two locks, each in a few words.
#[must_use]
pub fn differences(old: &Lock, new: &Lock) -> Vec<String> {
    fn differing<K: Ord + fmt::Display, V: PartialEq>(
        section: &str,
        old: &BTreeMap<K, V>,
        new: &BTreeMap<K, V>,
        out: &mut Vec<String>,
    ) {
        let removed = old.keys().filter(|key| !new.contains_key(key));
        let mut entries: Vec<(&K, &str)> =
            removed.map(|key| (key, "is no longer wanted")).collect();
        for (key, value) in new {
            match old.get(key) {
                Some(old) if old == value => {}
                Some(_) => entries.push((key, "has another entry")),
                None => entries.push((key, "is not in it")),
            }
        }
        entries.sort();
        let words =
            |(key, what): (&K, &str)| format!("{section} {} {what}", quoted(&key.to_string()));
        out.extend(entries.into_iter().map(words));
    }
    let mut out = Vec::new();
    differing("project", &old.vnids, &new.vnids, &mut out);
    differing("retired VNID", &old.retired_vnids, &new.retired_vnids, &mut out);
    differing("retired address", &old.retired_addresses, &new.retired_addresses, &mut out);
    differing("joined project", &old.memberships, &new.memberships, &mut out);
    differing("project that left", &old.former_members, &new.former_members, &mut out);
    differing("node", &old.subnets, &new.subnets, &mut out);
    differing("pod", &old.pods, &new.pods, &mut out);
    differing("router", &old.routers, &new.routers, &mut out);
    differing("outside port of", &old.outside_ports, &new.outside_ports, &mut out);
    differing("service", &old.services, &new.services, &mut out);
    differing("node port of", &old.node_ports, &new.node_ports, &mut out);
    differing("address", &old.resolved_names, &new.resolved_names, &mut out);
    out
}

/// Where the entry of `key` stands in a lock file's text.
#[must_use]
pub fn place_of(sources: &Sources, source: u32, section: &str, key: &str) -> Place {
    let text = sources.iter().nth(source as usize).map_or("", Source::text);
    let mut inside = false;
    for (number, line) in (1..).zip(text.lines()) {
        if let Some(entry) = line.strip_prefix("  ") {
            let found = inside && entry.split(':').next() == Some(key);
            if found {
                let length = u32::try_from(key.len()).unwrap_or_default();
                return Place { source, line: number, column: 3, length };
            }
        } else if !line.starts_with('#') {
            inside = line.strip_suffix(':') == Some(section);
        }
    }
    Place { source, line: 1, column: 1, length: 0 }
}

impl Lock {
    /// The text of the file.
    #[must_use]
    pub fn render(&self) -> String {
        let mut out = String::from(
            "# What ringfence allocated. Written by `ringfence lock`; commit it.\nversion: 1\n",
        );
        section(&mut out, "vnids", "project: VNID", &self.vnids);
        let comment = "VNIDs of projects that are gone, until `ringfence lock --prune`";
        section(&mut out, "retiredVnids", comment, &self.retired_vnids);
        let comment = "addresses of what is gone, until `ringfence lock --prune`";
        section(&mut out, "retiredAddresses", comment, &self.retired_addresses);
        let comment = "project: the project whose network it has joined";
        section(&mut out, "memberships", comment, &self.memberships);
        let comment = "project/network: left, with its VNID, until `ringfence lock --prune`";
        section(&mut out, "formerMembers", comment, &self.former_members);
        section(&mut out, "subnets", "node: pod subnet", &self.subnets);
        section(&mut out, "pods", "project/pod: node address mac ofport", &self.pods);
        section(&mut out, "routers", "egress router: node address mac ofport", &self.routers);
        let comment = "egress router at a gateway bridge: node ofport";
        section(&mut out, "outsidePorts", comment, &self.outside_ports);
        section(&mut out, "services", "project/service: cluster IP", &self.services);
        let comment = "project/service/port/protocol: node port";
        section(&mut out, "nodePorts", comment, &self.node_ports);
        let comment = "name address: when it was last answered, and its TTL in seconds";
        section(&mut out, "resolvedNames", comment, &self.resolved_names);
        out
    }
}

fn section<K: fmt::Display, V: fmt::Display>(
    out: &mut String,
    name: &str,
    comment: &str,
    entries: &BTreeMap<K, V>,
) {
    if entries.is_empty() {
        return;
    }
    let _ = writeln!(out, "# {comment}\n{name}:");
    for (key, value) in entries {
        let _ = writeln!(out, "  {key}: {value}");
    }
}

/// What stands in the file; sections are read by their earlier names too.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Wire {
    version: u64,
    #[serde(default)]
    vnids: Entries<String, Vnid>,
    #[serde(default, rename = "retiredVnids", alias = "retired")]
    retired_vnids: Entries<Vnid, String>,
    #[serde(default, rename = "retiredAddresses")]
    retired_addresses: Entries<Ipv4Addr, String>,
    #[serde(default, alias = "joined")]
    memberships: Entries<String, String>,
    #[serde(default, rename = "formerMembers", alias = "left")]
    former_members: Entries<String, Vnid>,
    #[serde(default)]
    subnets: Entries<String, Ipv4Net>,
    #[serde(default)]
    pods: Entries<String, Words<Entry>>,
    #[serde(default)]
    routers: Entries<String, Words<Entry>>,
    #[serde(default, rename = "outsidePorts")]
    outside_ports: Entries<String, Words<OutsidePort>>,
    #[serde(default)]
    services: Entries<String, Ipv4Addr>,
    #[serde(default, rename = "nodePorts")]
    node_ports: Entries<String, NodePort>,
    #[serde(default, rename = "resolvedNames", alias = "names")]
    resolved_names: Entries<Words<NameAddress>, Words<LastSeen>>,
}

/// A value that is written as some words.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Words<T>(T);

impl<T: fmt::Display> fmt::Display for Words<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl<'de, T: FromStr<Err = String>> Deserialize<'de> for Words<T> {
    fn deserialize<D: de::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Text<T>(std::marker::PhantomData<T>);

        impl<T: FromStr<Err = String>> Visitor<'_> for Text<T> {
            type Value = Words<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("some words")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Words<T>, E> {
                text.parse().map(Words).map_err(E::custom)
            }
        }
        deserializer.deserialize_str(Text(std::marker::PhantomData))
    }
}

/// A mapping that refuses duplicate keys, as it does after a careless merge.
struct Entries<K, V>(BTreeMap<K, V>);

impl<K, V> Default for Entries<K, V> {
    fn default() -> Self {
        Self(BTreeMap::new())
    }
}

impl<'de, K, V> Deserialize<'de> for Entries<K, V>
where
    K: Deserialize<'de> + Ord + fmt::Display,
    V: Deserialize<'de>,
{
    fn deserialize<D: de::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct EntriesVisitor<K, V>(std::marker::PhantomData<(K, V)>);

        impl<'de, K, V> Visitor<'de> for EntriesVisitor<K, V>
        where
            K: Deserialize<'de> + Ord + fmt::Display,
            V: Deserialize<'de>,
        {
            type Value = Entries<K, V>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a mapping")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut entries = BTreeMap::new();
                while let Some(key) = map.next_key::<K>()? {
                    if entries.contains_key(&key) {
                        return Err(de::Error::custom(format!("duplicate key `{key}`")));
                    }
                    entries.insert(key, map.next_value()?);
                }
                Ok(Entries(entries))
            }
        }
        deserializer.deserialize_map(EntriesVisitor(std::marker::PhantomData))
    }
}
