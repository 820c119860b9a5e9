//! Flows: compared as text, changed by one bundle that holds only the difference.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs::File;
use std::io::Write as _;
use std::os::fd::AsRawFd as _;
use std::string::FromUtf8Error;

use rayon::prelude::*;
use rustix::fs::MemfdFlags;

use super::change::{Action, Kind, Step};
use super::groups;
use crate::dataplane::openflow::group_number;
use crate::dataplane::origin::Cookie;
use crate::diagnostic::{Code, Diagnostic};
use crate::system::{Command, System, Tool, both, failed};

/// What ringfence speaks: the first version with bundles.
pub(super) const VERSION: [&str; 2] = ["-O", "OpenFlow14"];
/// How long Open vSwitch may take for an answer, in seconds: without its database it gives none.
pub(super) const TIMEOUT: &str = "--timeout=20";

/// A difference between the flows of a bridge and those that it is to have.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Difference {
    /// Flows that are to be there, by what identifies them, as `ovs-ofctl` takes them.
    add: BTreeMap<String, String>,
    /// Flows that are to go, by what identifies them.
    delete: BTreeMap<String, String>,
    /// What differs of the groups, which goes in the same bundle.
    pub(super) groups: groups::Difference,
}

impl Difference {
    pub(super) fn is_empty(&self) -> bool {
        self.same_flows() && self.groups.is_empty()
    }

    fn same_flows(&self) -> bool {
        self.add.is_empty() && self.delete.is_empty()
    }

    /// The flows that differ, each as it is and as it is to be.
    pub(super) fn flows(&self) -> impl Iterator<Item = (Option<&str>, Option<&str>)> {
        let gone = self.delete.iter().filter(|(key, _)| !self.add.contains_key(*key));
        let gone = gone.map(|(_, flow)| (Some(flow.as_str()), None));
        let added = self
            .add
            .iter()
            .map(|(key, flow)| (self.delete.get(key).map(String::as_str), Some(flow.as_str())));
        gone.chain(added)
    }

    /// Whether any flow goes for good.
    pub(super) fn lose_any(&self) -> bool {
        self.delete.keys().any(|key| !self.add.contains_key(key))
    }

    /// The lines of a unified diff without its header, sorted.
    pub(super) fn lines(&self) -> Vec<String> {
        let deleted = self.delete.iter().map(|(key, flow)| (key, '-', flow));
        let added = self.add.iter().map(|(key, flow)| (key, '+', flow));
        let mut lines: Vec<_> = deleted.chain(added).collect();
        lines.sort();
        let groups::Difference { set, new: _, delete } = &self.groups;
        let gone = delete.iter().map(|id| format!("-group_id={id}"));
        let groups = gone.chain(set.values().map(|group| format!("+{group}")));
        groups.chain(lines.into_iter().map(|(_, sign, flow)| format!("{sign}{flow}"))).collect()
    }
}

/// Flows as Open vSwitch prints them, without comments. They are many: nothing is searched for
/// where a look at the ends of a line will do.
fn normalised(text: &str) -> Vec<Cow<'_, str>> {
    // Open vSwitch prints no cookie of 0, which somebody else's flows may have.
    let begins =
        |line: &&str| ["cookie=", "table=", "priority="].iter().any(|w| line.starts_with(w));
    let flows = text.lines().map(str::trim).filter(begins);
    flows
        .map(|line| {
            let flow = line.rfind(" # ").map_or(line, |end| line[..end].trim_end());
            // Open vSwitch doesn't print table 0.
            match flow.split_once(", ") {
                Some((cookie, rest)) if rest.starts_with("table=0, ") => {
                    Cow::from(format!("{cookie}, {}", &rest["table=0, ".len()..]))
                }
                _ => Cow::from(flow),
            }
        })
        .collect()
}

/// The flows that a bridge has.
#[derive(Debug)]
pub(super) enum Live {
    /// All of them, as Open vSwitch prints them.
    All(String),
    /// How many there are, and all of some objects and those that belong together with them.
    Touched { count: usize, groups: BTreeSet<Cookie>, flows: String },
}

impl Live {
    /// The flows that were read, as Open vSwitch prints them.
    fn text(&self) -> &str {
        let (Self::All(flows) | Self::Touched { flows, .. }) = self;
        flows
    }

    /// Whether there is no flow, as far as they were read.
    pub(super) fn is_empty(&self) -> bool {
        !self.text().contains("cookie=")
    }

    /// The groups of the cookies of all flows, as far as they were read.
    pub(super) fn groups(&self) -> BTreeSet<Cookie> {
        normalised(self.text()).iter().filter_map(|flow| Some(cookie(flow)?.group())).collect()
    }

    /// Reads all flows; `None` where there is no such bridge.
    pub(super) fn read(system: &dyn System, bridge: &str) -> Result<Option<Self>, Diagnostic> {
        // Two processes at a time: most of the work is printing.
        const HALVES: [&str; 2] = ["0x0", "0x8000000000000000"];
        let half = |cookie| system.run(&dump(bridge, cookie, HALVES[1]));
        let (one, other) = both(|| half(HALVES[0]), || half(HALVES[1]));
        let (one, other) = (one?, other?);
        if one.status != Some(0) || other.status != Some(0) {
            return Ok(None);
        }
        let mut bytes = one.stdout;
        bytes.extend(other.stdout);
        let lossy = |error: FromUtf8Error| String::from_utf8_lossy(error.as_bytes()).into_owned();
        Ok(Some(Self::All(String::from_utf8(bytes).unwrap_or_else(lossy))))
    }

    /// Reads back what a change touched, where that is less work than all.
    pub(super) fn touched(
        system: &dyn System,
        bridge: &str,
        difference: &Difference,
    ) -> Result<Option<Self>, Diagnostic> {
        const MOST: usize = 8;
        let flows = difference.add.values().chain(difference.delete.values());
        let groups: BTreeSet<Cookie> =
            flows.filter_map(|flow| Some(cookie(flow)?.group())).collect();
        if groups.len() > MOST {
            return Self::read(system, bridge);
        }
        let words = [TIMEOUT, "dump-aggregate", bridge];
        let aggregate = Command::read(Tool::OvsOfctl, VERSION.into_iter().chain(words));
        let all = format!("{:#x}", Cookie::GROUP);
        let of_group = |group: &Cookie| -> Result<String, Diagnostic> {
            let live = system.succeed(&dump(bridge, &group.to_string(), &all))?;
            Ok(String::from_utf8_lossy(&live).into_owned())
        };
        let dumps = || groups.par_iter().map(of_group).collect::<Result<String, _>>();
        let (output, flows) = both(|| system.run(&aggregate), dumps);
        let Some(count) = flow_count(&String::from_utf8_lossy(&output?.stdout)) else {
            return Self::read(system, bridge);
        };
        let flows = flows?;
        Ok(Some(Self::Touched { count, groups, flows }))
    }
}

/// The command that prints the flows whose cookies are `cookie` in the bits of `mask`.
fn dump(bridge: &str, cookie: &str, mask: &str) -> Command {
    let filter = format!("cookie={cookie}/{mask}");
    let words = [TIMEOUT, "dump-flows", "--no-stats", "--no-names", bridge, &filter];
    Command::read(Tool::OvsOfctl, VERSION.into_iter().chain(words))
}

/// The number of flows in what `dump-aggregate` prints.
fn flow_count(text: &str) -> Option<usize> {
    text.split("flow_count=").nth(1)?.split_whitespace().next()?.parse().ok()
}

/// How the bridge differs from `text`, that of `flows.ofctl`. `live` is `None` where the
/// bridge has no flows, or won't have when this is used.
pub(super) fn compare(
    system: &dyn System,
    bridge: &str,
    text: &str,
    live: Option<&Live>,
) -> Result<Difference, Diagnostic> {
    let printed = live.map_or("", Live::text);
    let (wanted, have) = rayon::join(|| normalised(text), || normalised(printed));
    match live {
        None => Ok(all(&wanted)),
        Some(Live::All(_)) => different(system, &have, &wanted),
        Some(Live::Touched { count, groups, .. }) => {
            let touched =
                |flow: &&Cow<'_, str>| cookie(flow).is_some_and(|c| groups.contains(&c.group()));
            let expected: Vec<Cow<'_, str>> = wanted.iter().filter(touched).cloned().collect();
            let difference = different(system, &have, &expected)?;
            if *count == wanted.len() && difference.same_flows() {
                return Ok(difference);
            }
            // Somebody else was at it: compare all.
            let all = Live::read(system, bridge)?;
            compare(system, bridge, text, all.as_ref())
        }
    }
}

/// Compares two lists of flows.
fn different(
    system: &dyn System,
    live: &[Cow<'_, str>],
    wanted: &[Cow<'_, str>],
) -> Result<Difference, Diagnostic> {
    #[expect(clippy::disallowed_types, reason = "walked once, and sorted then")]
    let mut left: std::collections::HashSet<&str> = live.iter().map(AsRef::as_ref).collect();
    let lacking: Vec<&str> =
        wanted.iter().map(AsRef::as_ref).filter(|flow| !left.remove(flow)).collect();
    let mut extra: Vec<&str> = left.into_iter().collect();
    extra.sort_unstable();
    if extra.is_empty() && lacking.is_empty() {
        return Ok(Difference::default());
    }
    if live.is_empty() {
        return Ok(all(wanted));
    }
    // Another version of Open vSwitch may print a flow in another way: let it compare the rest.
    let unusable = |error: std::io::Error| {
        Diagnostic::new(Code::CommandFailed, format!("could not keep flows in memory: {error}"))
    };
    // In memory alone, so that nothing is left behind whatever ends this process.
    let memory = rustix::fs::memfd_create("ringfence-flows", MemfdFlags::CLOEXEC);
    let mut file = File::from(memory.map_err(|error| unusable(error.into()))?);
    file.write_all((extra.join("\n") + "\n").as_bytes()).map_err(unusable)?;
    let path = format!("/proc/{}/fd/{}", std::process::id(), file.as_raw_fd());
    let compare = Command::read(
        Tool::OvsOfctl,
        VERSION.into_iter().chain(["diff-flows", &path, "/dev/stdin"]),
    );
    let output = system.run(&compare.clone().stdin(lacking.join("\n") + "\n"))?;
    match output.status {
        Some(0 | 2) => Ok(parse(&String::from_utf8_lossy(&output.stdout))),
        _ => Err(failed(&compare, &output)),
    }
}

fn all(wanted: &[Cow<'_, str>]) -> Difference {
    let flows = wanted.iter();
    let add =
        flows.enumerate().map(|(n, flow)| (format!("{n:08}"), flow.clone().into_owned())).collect();
    Difference { add, ..Difference::default() }
}

/// Reads what `diff-flows` prints: a sign, table, priority and match, then cookie and actions.
fn parse(text: &str) -> Difference {
    let mut difference = Difference::default();
    for line in text.lines() {
        let Some((sign, flow)) = line.split_at_checked(1) else { continue };
        let key = flow.split(" cookie=").next().unwrap_or(flow);
        let key = key.split(" actions=").next().unwrap_or(key);
        let key =
            key.trim().replacen(' ', ",", usize::from(key.trim_start().starts_with("table=")));
        let flow = flow.to_owned();
        match sign {
            "+" => difference.add.insert(key, flow),
            "-" => difference.delete.insert(key, flow),
            _ => None,
        };
    }
    difference
}

/// The changes of a difference object by object, and the bundle that makes them.
pub(super) fn step<'a>(
    bridge: &str,
    difference: &Difference,
    objects: impl FnOnce() -> &'a BTreeMap<Cookie, String>,
) -> Step {
    let mut step = Step::default();
    if difference.is_empty() {
        return step;
    }
    let objects = objects();
    let mut counts: BTreeMap<Option<Cookie>, [usize; 3]> = BTreeMap::new();
    let (mut deletions, mut additions) = (String::new(), String::new());
    for (key, flow) in &difference.delete {
        if difference.add.contains_key(key) {
            continue; // replaced in place, with its counters kept
        }
        let _ = writeln!(deletions, "flow delete_strict {key}");
        counts.entry(cookie(flow)).or_default()[2] += 1;
    }
    // Flows alone are read faster than the messages of a bundle, and sent as one all the same.
    let (version, command, message): (_, &[&str], _) = if !difference.groups.is_empty() {
        (groups::VERSION, &["bundle"], "flow add ")
    } else if deletions.is_empty() {
        (VERSION, &["--bundle", "add-flows"], "")
    } else {
        (VERSION, &["bundle"], "flow add ")
    };
    for (key, flow) in &difference.add {
        let _ = writeln!(additions, "{message}{flow}");
        let replaced = usize::from(difference.delete.contains_key(key));
        counts.entry(cookie(flow)).or_default()[replaced] += 1;
    }
    let object = |cookie: Option<Cookie>| match cookie {
        Some(cookie) => objects.get(&cookie).cloned().unwrap_or_else(|| format!("cookie {cookie}")),
        None => "without cookie".to_owned(),
    };
    let mut counts: Vec<_> =
        counts.into_iter().map(|(cookie, counts)| (object(cookie), counts)).collect();
    counts.sort();
    for (object, [added, changed, removed]) in counts {
        let action = match (added, changed, removed) {
            (_, 0, 0) => Action::Add,
            (0, 0, _) => Action::Remove,
            _ => Action::Change,
        };
        let parts = [(added, "added"), (changed, "changed"), (removed, "removed")];
        let parts: Vec<String> = parts
            .iter()
            .filter(|(number, _)| *number > 0)
            .map(|(number, what)| format!("{number} {what}"))
            .collect();
        step.change(action, Kind::Flows, object, parts.join(", "));
    }
    let [before, after] = group_messages(&difference.groups, objects, &mut step);
    let arguments = version.into_iter().chain(command.iter().copied()).chain([bridge, "-"]);
    let messages = before + &deletions + &additions + &after;
    step.commands.push(Command::change(Tool::OvsOfctl, arguments).stdin(messages));
    step
}

/// Groups come before the flows that name them and go after them.
fn group_messages(
    difference: &groups::Difference,
    objects: &BTreeMap<Cookie, String>,
    step: &mut Step,
) -> [String; 2] {
    let (mut before, mut after) = (String::new(), String::new());
    if difference.is_empty() {
        return [before, after];
    }
    let names: BTreeMap<u32, &String> =
        objects.iter().map(|(cookie, name)| (group_number(*cookie), name)).collect();
    let name = |id: &u32| match names.get(id) {
        Some(name) => format!("{id} of {name}"),
        None => id.to_string(),
    };
    for (id, group) in &difference.set {
        let _ = writeln!(before, "group add_or_mod {group}");
        let (action, what) = if difference.new.contains(id) {
            (Action::Add, "new")
        } else {
            (Action::Change, "other pods")
        };
        step.change(action, Kind::Group, name(id), what);
    }
    for id in &difference.delete {
        let _ = writeln!(after, "group delete group_id={id}");
        step.change(Action::Remove, Kind::Group, id.to_string(), "no longer wanted");
    }
    [before, after]
}

/// The cookie in a flow as Open vSwitch prints it.
pub(super) fn cookie(flow: &str) -> Option<Cookie> {
    let text = flow.split("cookie=").nth(1)?;
    Cookie::parse(text.split([',', ' ']).next()?)
}

/// What stands behind `before` in a flow or group, up to the next separator.
pub(super) fn word<'a>(flow: &'a str, before: &str) -> Option<&'a str> {
    flow.split(before).nth(1)?.split([',', ' ', '-', ')']).next()
}
