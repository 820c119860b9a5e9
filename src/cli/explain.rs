//! `ringfence explain`.

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};

use clap::Args;

use super::{Exit, print, show};
use crate::artifact::generation::names;
use crate::artifact::layout::{FLOWS, MANIFEST, PLACES};
use crate::artifact::manifest::Manifest;
use crate::artifact::places::Places;
use crate::dataplane::openflow::group_number;
use crate::dataplane::origin::{Cookie, ObjectRef};
use crate::diagnostic::{Code, Diagnostic, Report, Sources, quoted};
use crate::driver::load::Loaded;
use crate::model::Model;

#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// A code such as RF012, a cookie such as 0x1f3a9c0d2b44aabb of a flow or nft rule, the number of
    /// a group or conjunction, or a whole flow
    subject: String,
    /// The desired state to look in: files or directories
    #[arg(default_value = ".", value_name = "PATH")]
    paths: Vec<PathBuf>,
    /// Look in what was compiled instead: the output directory, or that of one node
    #[arg(long, value_name = "DIR", conflicts_with = "paths")]
    out: Option<PathBuf>,
}

/// What is looked for.
struct Wanted<'a> {
    is: &'a dyn Fn(Cookie, Option<u32>) -> bool,
    /// As it was written.
    text: &'a str,
    /// What it may be of, and what it is there.
    what: [&'static str; 2],
}

pub(super) fn run(arguments: &Arguments) -> Exit {
    let text = arguments.subject.as_str();
    let result = match (text.parse::<Code>(), Cookie::parse(text)) {
        (Ok(code), _) => {
            print(&format!("{code}: {}\n\n{}\n", code.title(), code.explanation()));
            return Exit::Done;
        }
        (_, Some(cookie)) => {
            let is = move |other, _| other == cookie;
            let what = ["flow or rule", "has the cookie"];
            find(&Wanted { is: &is, text: &cookie.to_string(), what }, arguments)
        }
        _ if text.parse::<u32>().is_ok() => {
            let is = |cookie, group: Option<u32>| {
                group.unwrap_or_else(|| group_number(cookie)).to_string() == text
            };
            let what = ["group or conjunction", "has the number"];
            find(&Wanted { is: &is, text, what }, arguments)
        }
        _ if text.contains("actions=") || text.contains("conjunction(") => {
            let flow = Flow::read(text);
            let is = |cookie, _| flow.is_about(cookie);
            find(&Wanted { is: &is, text: "this flow", what: ["object", "is in"] }, arguments)
        }
        _ => Err((Sources::default(), unknown_code(text).into())),
    };
    match result {
        Ok(found) => {
            print(&found);
            Exit::Done
        }
        Err((sources, report)) => {
            show(&report, &sources);
            Exit::Error
        }
    }
}

fn unknown_code(text: &str) -> Diagnostic {
    let is_code = text.get(..2).is_some_and(|head| head.eq_ignore_ascii_case("RF"));
    let message = if is_code {
        format!("there is no code {}", quoted(text))
    } else {
        format!("{} is neither a code nor a cookie", quoted(text))
    };
    Diagnostic::new(Code::CookieUnknown, message)
        .help("codes are RF and three digits, cookies begin with 0x")
}

/// What names objects in the text of a flow: its cookie, and the numbers of conjunctions.
struct Flow {
    cookie: Option<Cookie>,
    conjunctions: BTreeSet<u32>,
}

impl Flow {
    fn read(text: &str) -> Self {
        let number = |rest: &str| {
            let end = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
            rest[..end].parse::<u32>().ok()
        };
        let behind = |word| text.split(word).skip(1).filter_map(number).collect::<Vec<_>>();
        let cookie = text
            .split("cookie=")
            .nth(1)
            .and_then(|rest| Cookie::parse(rest.split([',', ' ']).next().unwrap_or_default()));
        let conjunctions = behind("conjunction(").into_iter().chain(behind("conj_id="));
        Self { cookie, conjunctions: conjunctions.collect() }
    }

    fn is_about(&self, cookie: Cookie) -> bool {
        self.cookie == Some(cookie) || self.conjunctions.contains(&group_number(cookie))
    }
}

/// Where all that was found stands for the policies of a project together, the beginning of the names of
/// these policies.
fn policies_of<'n>(mut names: impl Iterator<Item = &'n str>) -> Option<String> {
    let (only, more) = (names.next()?, names.next());
    let project = only.strip_prefix("policies of ").filter(|_| more.is_none())?;
    Some(format!("policy {project}/"))
}

fn find(wanted: &Wanted<'_>, arguments: &Arguments) -> Result<String, (Sources, Report)> {
    match &arguments.out {
        Some(out) => in_output(wanted, out).map_err(|found| (Sources::default(), found.into())),
        None => in_desired_state(wanted, &arguments.paths),
    }
}

/// The object in the desired state as it is now. It may have errors elsewhere, and lack its lock.
fn in_desired_state(wanted: &Wanted<'_>, paths: &[PathBuf]) -> Result<String, (Sources, Report)> {
    let (model, sources, _) = Loaded::read(paths, None, &mut io::stdin()).draft()?;
    let mut found = Vec::new();
    let mut look = |subject: &ObjectRef, group| {
        if (wanted.is)(subject.cookie, group) {
            found.push((subject.name.to_string(), subject.position(&sources)));
        }
    };
    subjects(&model, &mut look);
    let policies = policies_of(found.iter().map(|(name, _)| name.as_str()));
    if let Some(begin) = policies {
        let mut look = |subject: &ObjectRef, _| {
            if subject.name.starts_with(&begin) {
                found.push((subject.name.to_string(), subject.position(&sources)));
            }
        };
        subjects(&model, &mut look);
    }
    if !found.is_empty() {
        return Ok(lines(wanted, found));
    }
    let [thing, has] = wanted.what;
    let message = format!("no {thing} of the desired state {has} {}", wanted.text);
    let diagnostic = Diagnostic::new(Code::CookieUnknown, message).help(
        "name the directory that was compiled with --out, if the object has been there before",
    );
    Err((sources, diagnostic.into()))
}

/// Every object that has a cookie, and the number of its group where it has one.
fn subjects(model: &Model, look: &mut dyn FnMut(&ObjectRef, Option<u32>)) {
    let intent = model.intent();
    look(model.cluster_subject(), None);
    for (id, _) in intent.nodes() {
        look(model.node_subject(id), None);
        model.workloads(id).for_each(|workload| look(model.workload_subject(workload), None));
        model.egress_ips_on(id).for_each(|(_, subject)| look(subject, None));
    }
    for (id, _) in intent.projects() {
        look(model.project_subject(id), None);
        model.ranked_rules(id).for_each(|(_, subject, _)| look(subject, None));
        model.policies_subject(id).into_iter().for_each(|subject| look(subject, None));
        model.network_policies(id).for_each(|(_, subject)| look(subject, None));
        model.allowances(id).iter().for_each(|rule| look(&rule.subject, None));
    }
    for (id, _) in model.services() {
        look(model.service_subject(id), None);
        model.service_ports(id).for_each(|(_, subject, group)| look(subject, Some(group)));
    }
}

/// The object in what was compiled, with its place where that is beside it.
fn in_output(wanted: &Wanted<'_>, out: &Path) -> Result<String, Diagnostic> {
    let mut directories = vec![out.to_owned()];
    if let Ok(entries) = out.read_dir() {
        directories.extend(entries.flatten().map(|entry| entry.path()));
    }
    let mut found: BTreeSet<(String, String)> = BTreeSet::new();
    let mut any = false;
    for directory in directories {
        let Ok(flows) = std::fs::read_to_string(directory.join(FLOWS)) else { continue };
        any = true;
        let named = names(&flows);
        let named: Vec<&str> = named
            .into_iter()
            .filter(|(cookie, _)| (wanted.is)(*cookie, None))
            .map(|(_, name)| name)
            .collect();
        if named.is_empty() {
            continue;
        }
        let places = places(&directory);
        if let (Some(begin), Some(places)) = (policies_of(named.iter().copied()), &places) {
            let policies = places.beginning(&begin);
            found.extend(policies.map(|(name, place)| (name.to_owned(), place.to_owned())));
        }
        for name in named {
            let place = places.as_ref().and_then(|places| places.get(name));
            found.insert((name.to_owned(), place.unwrap_or_default().to_owned()));
        }
    }
    if !found.is_empty() {
        return Ok(lines(wanted, found));
    }
    let [thing, has] = wanted.what;
    let message = if any {
        format!("no {thing} in `{}` {has} {}", out.display(), wanted.text)
    } else {
        format!("there is no {FLOWS} in `{}` or below", out.display())
    };
    Err(Diagnostic::new(Code::CookieUnknown, message)
        .help("name the output directory with --out, compiled from the generation in question"))
}

/// The places beside the files of a node, if they belong to them.
fn places(directory: &Path) -> Option<Places> {
    let read = |name: &str| std::fs::read(directory.join(name)).ok();
    let manifest: Manifest = serde_json::from_slice(&read(MANIFEST)?).ok()?;
    Places::parse(&read(PLACES)?, &manifest.generation)
}

fn lines(wanted: &Wanted<'_>, found: impl IntoIterator<Item = (String, String)>) -> String {
    let line = |(object, place): (String, String)| match place.as_str() {
        "" => format!("{}: {object}\n", wanted.text),
        _ => format!("{}: {object}\n  at {place}\n", wanted.text),
    };
    found.into_iter().map(line).collect()
}
