//! `ringfence.lock`: what was allocated and must not move.
//!
//! YAML, sorted, one line an entry, so that a change of one object changes one line and a merge
//! conflict is solved by keeping lines. `ringfence lock` writes it and nothing else does.

use std::collections::BTreeMap;
use std::fmt::{self, Write as _};
use std::net::Ipv4Addr;
use std::path::Path;
use std::str::FromStr;

use ipnet::Ipv4Net;
use serde::Deserialize;
use serde::de::{self, MapAccess, Visitor};

use crate::diagnostic::{Code, Diagnostic, reason};
use crate::document::Positions;
use crate::source::{Place, Source, Sources};
use crate::value::{Mac, Name, NodePort, StringValue, Vnid};

/// The name of the file.
pub const FILE_NAME: &str = "ringfence.lock";

const VERSION: u64 = 1;

/// The content of the file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Lock {
    /// The VNID of each project.
    pub vnids: BTreeMap<String, Vnid>,
    /// VNIDs of projects that are gone, with the last project that had them.
    pub retired: BTreeMap<Vnid, String>,
    /// The pod subnet of each node.
    pub subnets: BTreeMap<String, Ipv4Net>,
    /// Each pod, as `project/pod`.
    pub pods: BTreeMap<String, Entry>,
    /// Each egress router.
    pub routers: BTreeMap<String, Entry>,
    /// The address of each service, as `project/service`.
    pub services: BTreeMap<String, Ipv4Addr>,
    /// The node port of each port of a service that has one, as `project/service/80/tcp`.
    pub node_ports: BTreeMap<String, NodePort>,
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
            ofport: ofport.parse().map_err(|_| format!("`{ofport}` is not a port number"))?,
        })
    }
}

/// The text of a lock file, with the lock in it or what is wrong with it.
#[derive(Debug)]
pub struct LockText {
    text: String,
    parsed: Result<Lock, Fault>,
}

/// Reads the lock file at `path`, or `None` where there is none.
pub fn read(path: &Path) -> Result<Option<LockText>, Diagnostic> {
    match std::fs::read_to_string(path) {
        Ok(text) => Ok(Some(LockText { parsed: parse(&text), text })),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => {
            let message = format!("cannot read `{}`: {}", path.display(), reason(&error));
            Err(Diagnostic::new(Code::LockUnreadable, message))
        }
    }
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
    let wire: Wire = serde_yaml::from_str(text).map_err(|error| {
        let narrow = |number: usize| u32::try_from(number).unwrap_or(u32::MAX);
        let at = error.location();
        let (line, column) = at.map_or((1, 1), |at| (narrow(at.line()), narrow(at.column())));
        let text = error.to_string();
        let reason = text.split(" at line ").next().unwrap_or_default();
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
        retired: wire.retired.0,
        subnets: wire.subnets.0,
        pods: wire.pods.0.into_iter().map(|(key, entry)| (key, entry.0)).collect(),
        routers: wire.routers.0.into_iter().map(|(key, entry)| (key, entry.0)).collect(),
        services: wire.services.0,
        node_ports: wire.node_ports.0,
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
                Some(_) => entries.push((key, "has other numbers")),
                None => entries.push((key, "is not in it")),
            }
        }
        entries.sort();
        out.extend(entries.into_iter().map(|(key, what)| format!("{section} `{key}` {what}")));
    }
    let mut out = Vec::new();
    differing("project", &old.vnids, &new.vnids, &mut out);
    differing("retired VNID", &old.retired, &new.retired, &mut out);
    differing("node", &old.subnets, &new.subnets, &mut out);
    differing("pod", &old.pods, &new.pods, &mut out);
    differing("router", &old.routers, &new.routers, &mut out);
    differing("service", &old.services, &new.services, &mut out);
    differing("node port of", &old.node_ports, &new.node_ports, &mut out);
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
        section(&mut out, "retired", comment, &self.retired);
        section(&mut out, "subnets", "node: pod subnet", &self.subnets);
        section(&mut out, "pods", "project/pod: node address mac ofport", &self.pods);
        section(&mut out, "routers", "egress router: node address mac ofport", &self.routers);
        section(&mut out, "services", "project/service: cluster IP", &self.services);
        let comment = "project/service/port/protocol: node port";
        section(&mut out, "nodePorts", comment, &self.node_ports);
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

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Wire {
    version: u64,
    #[serde(default)]
    vnids: Entries<String, Vnid>,
    #[serde(default)]
    retired: Entries<Vnid, String>,
    #[serde(default)]
    subnets: Entries<String, Ipv4Net>,
    #[serde(default)]
    pods: Entries<String, EntryText>,
    #[serde(default)]
    routers: Entries<String, EntryText>,
    #[serde(default)]
    services: Entries<String, Ipv4Addr>,
    #[serde(default, rename = "nodePorts")]
    node_ports: Entries<String, NodePort>,
}

struct EntryText(Entry);

impl<'de> Deserialize<'de> for EntryText {
    fn deserialize<D: de::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Text;

        impl Visitor<'_> for Text {
            type Value = EntryText;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("`node address mac ofport`")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<EntryText, E> {
                text.parse().map(EntryText).map_err(E::custom)
            }
        }
        deserializer.deserialize_str(Text)
    }
}

/// A mapping that refuses a key that stands twice, as it does after a careless merge.
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
                        return Err(de::Error::custom(format!("`{key}` stands twice")));
                    }
                    entries.insert(key, map.next_value()?);
                }
                Ok(Entries(entries))
            }
        }
        deserializer.deserialize_map(EntriesVisitor(std::marker::PhantomData))
    }
}
