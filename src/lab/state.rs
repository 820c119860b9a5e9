//! Labs that outlast the command that made them.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::host::Host;
use super::network::stand_in;
use super::{Lab, OUTSIDE, failed};
use crate::diagnostic::{Code, Diagnostic, json, nearest};
use crate::intent::Attachment;

const STATE: &str = "lab.json";
/// Not below `/run`, which every machine of the lab has for itself.
const PARENT: &str = "/var/lib/ringfence-lab";

/// What is written down about a lab.
#[derive(Debug, Serialize, Deserialize)]
struct State {
    /// The first processes of the machines.
    machines: BTreeMap<String, Process>,
    /// Where pods and egress routers are: machine and namespace.
    workloads: BTreeMap<String, (String, String)>,
}

/// A process, with the time at which it started, since numbers come again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Process {
    pid: u32,
    started: u64,
}

impl Process {
    fn of(pid: u32) -> Option<Self> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // The fields behind the name, which ends with the last parenthesis; proc(5).
        let fields = stat.rsplit_once(')')?.1;
        let started = fields.split_whitespace().nth(19)?.parse().ok()?;
        Some(Self { pid, started })
    }

    fn is_alive(self) -> bool {
        Self::of(self.pid) == Some(self)
    }
}

pub(super) fn write(lab: &Lab) -> Result<(), Diagnostic> {
    let intent = lab.model.intent();
    let machine = |name: &str, host: &Host| {
        Process::of(host.pid())
            .map(|process| (name.to_owned(), process))
            .ok_or_else(|| failed("a machine ended early"))
    };
    let mut machines = BTreeMap::from([machine(OUTSIDE, &lab.outside)?]);
    for (name, host) in &lab.nodes {
        machines.extend([machine(name, host)?]);
    }
    let mut workloads = BTreeMap::new();
    for (id, pod) in intent.pods() {
        let netns = match &pod.attachment {
            Attachment::Netns(netns) => netns.to_string(),
            Attachment::Interface(interface) => stand_in(interface.as_str()),
        };
        workloads.insert(intent.pod_name(id), (intent[pod.node].name.to_string(), netns));
    }
    for (_, router) in intent.routers() {
        let netns = format!("{}{}", crate::artifact::host::ROUTER_NETNS_PREFIX, router.name);
        workloads.insert(router.name.to_string(), (intent[router.node].name.to_string(), netns));
    }
    let text = json::pretty(&State { machines, workloads });
    fs::write(lab.directory.join(STATE), text).map_err(|error| failed(&error.to_string()))
}

fn read(directory: &Path) -> Result<State, Diagnostic> {
    let none = || {
        let message = format!("no lab is up in `{}`", directory.display());
        Diagnostic::new(Code::LabNotRunning, message).help("bring one up with `ringfence lab up`")
    };
    let bytes = fs::read(directory.join(STATE)).map_err(|_| none())?;
    serde_json::from_slice(&bytes).map_err(|_| none())
}

/// Whether a lab is up in this directory.
#[must_use]
pub fn is_up(directory: &Path) -> bool {
    read(directory).is_ok_and(|state| state.machines.values().any(|process| process.is_alive()))
}

/// Takes down the lab in this directory.
pub fn down(directory: &Path) -> Result<(), Diagnostic> {
    let state = read(directory)?;
    for process in state.machines.values().filter(|process| process.is_alive()) {
        Host::existing(process.pid).end();
    }
    remove(directory)
}

/// Removes the files of a lab, and the directory of all labs with the last.
pub fn remove(directory: &Path) -> Result<(), Diagnostic> {
    fs::remove_dir_all(directory).map_err(|error| failed(&error.to_string()))?;
    // It isn't empty where other labs are up.
    let _ = fs::remove_dir(PARENT);
    Ok(())
}

/// A command at a node, a pod (`project/pod`), an egress router or the outside.
pub fn enter(
    directory: &Path,
    target: &str,
    words: &[&str],
) -> Result<duct::Expression, Diagnostic> {
    let state = read(directory)?;
    let (machine, netns) = match state.workloads.get(target) {
        Some((machine, netns)) => (machine.as_str(), Some(netns.as_str())),
        None => (target, None),
    };
    let Some(process) = state.machines.get(machine) else {
        let known = state.machines.keys().chain(state.workloads.keys()).map(String::as_str);
        let message = format!("the lab has no `{target}`");
        let diagnostic = Diagnostic::new(Code::LabNotRunning, message);
        return Err(match nearest(target, known) {
            Some(meant) => diagnostic.help(format!("did you mean `{meant}`?")),
            None => diagnostic.help("name a node, a pod as project/pod, a router, or outside"),
        });
    };
    if !process.is_alive() {
        let message = format!("the machine `{machine}` of the lab has ended");
        return Err(Diagnostic::new(Code::LabNotRunning, message)
            .help("take the lab down and bring it up again"));
    }
    Ok(Host::existing(process.pid).command(netns, words))
}

/// Where labs are kept that outlast their command.
#[must_use]
pub fn directory_of(name: &str) -> PathBuf {
    Path::new(PARENT).join(name)
}
