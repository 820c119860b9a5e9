//! The proxies of egress routers: their files, and the processes that run by them.
//!
//! Where systemd runs, a proxy is a unit in `/run/systemd/system`; elsewhere its own script starts
//! it. Either way its files are below `/run`: they go with a reboot, as the namespace does that it
//! runs in. What it has loaded is kept beside its configuration, so that a run which was
//! interrupted before the proxy heard of a change is seen.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use super::artifacts::Artifacts;
use super::change::{Action, Kind, Step};
use crate::artifact::host::{ROUTER_SERVICE_PREFIX, RUN, RUNTIME_UNITS};
use crate::artifact::node::{Router, Wiring};
use crate::artifact::proxy::{Proxy, run_directory, unit};
use crate::diagnostic::{Code, Diagnostic};
use crate::system::{Command, System, Tool};
use crate::value::{Name, StringValue as _};

/// Begins every file of ours.
const MARK: &[u8] = b"# Made by ringfence";
const SCRIPT: &str = "proxy.sh";
const LOADED: &str = "loaded";

/// The proxies of a node as they are, by their routers.
#[derive(Clone, Debug, Default)]
pub(super) struct Proxies {
    /// Whether systemd runs.
    systemd: bool,
    routers: BTreeMap<Name, Found>,
}

/// What there is of one.
#[derive(Clone, Debug, Default)]
struct Found {
    /// The files of its directory.
    files: BTreeMap<String, Vec<u8>>,
    /// Its unit.
    unit: Option<Vec<u8>>,
    /// Whether its process runs.
    runs: bool,
    /// The namespace of that.
    netns: String,
}

impl Proxies {
    pub(super) fn read(system: &dyn System) -> Result<Self, Diagnostic> {
        let name = |text: &str| Name::parse(text.strip_prefix(ROUTER_SERVICE_PREFIX)?).ok();
        let units = system.directory(Path::new(RUNTIME_UNITS));
        let mut proxies = Self { systemd: units.is_some(), routers: BTreeMap::new() };
        for entry in units.unwrap_or_default() {
            let Some(router) = entry.strip_suffix(".service").and_then(name) else { continue };
            let found = proxies.routers.entry(router).or_default();
            found.unit = system.file(&Path::new(RUNTIME_UNITS).join(entry));
        }
        for entry in system.directory(Path::new(RUN)).unwrap_or_default() {
            let Some(router) = name(&entry) else { continue };
            let directory = Path::new(RUN).join(&entry);
            let found = proxies.routers.entry(router).or_default();
            for file in system.directory(&directory).unwrap_or_default() {
                if let Some(bytes) = system.file(&directory.join(&file)) {
                    found.files.insert(file, bytes);
                }
            }
        }
        for (router, found) in &mut proxies.routers {
            let Some(pid) = process(proxies.systemd, router, found, system)? else { continue };
            found.runs = true;
            let identify = Command::read(Tool::Ip, ["netns", "identify", &pid]);
            let netns = system.succeed(&identify)?;
            String::from_utf8_lossy(&netns).trim().clone_into(&mut found.netns);
        }
        Ok(proxies)
    }
}

/// The process of a proxy that runs.
fn process(
    systemd: bool,
    router: &Name,
    found: &Found,
    system: &dyn System,
) -> Result<Option<String>, Diagnostic> {
    if systemd {
        let words = ["show", "--property=ActiveState", "--property=MainPID", &unit(router)];
        let shown = system.succeed(&Command::read(Tool::Systemctl, words))?;
        let shown = String::from_utf8_lossy(&shown).into_owned();
        let value = |key: &str| shown.lines().find_map(|line| line.strip_prefix(key));
        let active = matches!(value("ActiveState="), Some("active" | "reloading"));
        let pid = value("MainPID=").filter(|pid| active && *pid != "0");
        return Ok(pid.map(str::to_owned));
    }
    let Some(pid) = found.files.get("pid") else { return Ok(None) };
    let pid = String::from_utf8_lossy(pid).trim().to_owned();
    if pid.is_empty() || !pid.bytes().all(|byte| byte.is_ascii_digit()) {
        return Ok(None);
    }
    // Numbers come again: the process is ours if its configuration is.
    let line = system.file(&Path::new("/proc").join(&pid).join("cmdline")).unwrap_or_default();
    let directory = run_directory(router);
    let ours = line.split(|byte| *byte == 0).any(|word| {
        word.strip_prefix(directory.as_bytes()).is_some_and(|rest| rest.starts_with(b"/"))
    });
    Ok(ours.then_some(pid))
}

/// What to do about proxies.
#[derive(Debug, Default)]
pub(super) struct ProxySteps {
    /// First: those that run in a namespace that is to be made anew hold its addresses.
    pub(super) astray: Step,
    /// After the routers' interfaces: those that are to run.
    pub(super) start: Step,
    /// Before namespaces are removed: those that nobody wants any more.
    pub(super) remove: Step,
}

pub(super) fn compare(artifacts: &Artifacts, proxies: &Proxies) -> Result<ProxySteps, Diagnostic> {
    let mut steps = ProxySteps::default();
    for router in &artifacts.wiring.routers {
        if let Some(proxy) = router.proxy {
            one(router, proxy, artifacts, proxies, &mut steps)?;
        }
    }
    steps.remove = remove(Some(&artifacts.wiring), proxies);
    Ok(steps)
}

fn one(
    router: &Router,
    proxy: Proxy,
    artifacts: &Artifacts,
    proxies: &Proxies,
    steps: &mut ProxySteps,
) -> Result<(), Diagnostic> {
    let nothing = Found::default();
    let directory = run_directory(&router.name);
    let found = proxies.routers.get(&router.name).unwrap_or(&nothing);
    let others = [Proxy::Squid, Proxy::Haproxy].into_iter().filter(|other| *other != proxy);
    let found = if others.into_iter().any(|other| found.files.contains_key(other.config())) {
        // The router was of another mode: its program has to end before its files are lost.
        steps.astray.commands.extend(stop(&router.name, proxies));
        steps.astray.commands.push(Command::change(Tool::Rm, ["-rf", "--", &directory]));
        &Found { unit: found.unit.clone(), ..Found::default() }
    } else {
        found
    };
    let unit_name = unit(&router.name);
    let config = artifacts.router_file(router, proxy.config())?;
    let has = |file: &str, bytes: &[u8]| found.files.get(file).is_some_and(|have| have == bytes);
    let current = has(proxy.config(), config) && has(LOADED, config);
    let astray = found.runs && found.netns != router.netns.as_str();
    let runs = found.runs && !astray;
    let mut details = Vec::new();
    let mut commands = Vec::new();
    if !has(proxy.config(), config) {
        commands.push(install(&format!("{directory}/{}", proxy.config()), config));
    }
    if !current {
        details.push("configuration");
    }
    if proxies.systemd {
        let file = artifacts.router_file(router, &unit_name)?;
        let same = found.unit.as_deref() == Some(file);
        if found.unit.as_ref().is_some_and(|unit| !unit.starts_with(MARK)) {
            let message = format!("the systemd unit `{unit_name}` is not ringfence's");
            return Err(Diagnostic::new(Code::NotOurs, message)
                .help(format!("remove `{RUNTIME_UNITS}/{unit_name}`, or rename the router")));
        }
        if !same {
            details.push("unit");
            commands.push(install(&format!("{RUNTIME_UNITS}/{unit_name}"), file));
            commands.push(Command::change(Tool::Systemctl, ["daemon-reload"]));
        }
        let verb = if runs && same { "reload" } else { "restart" };
        commands.push(Command::change(Tool::Systemctl, [verb, &unit_name]));
        commands.push(install(&format!("{directory}/{LOADED}"), config));
    } else {
        let script = artifacts.router_file(router, SCRIPT)?;
        let path = format!("{directory}/{SCRIPT}");
        if !has(SCRIPT, script) {
            details.push("script");
            commands.push(install(&path, script));
        }
        commands.push(Command::change(Tool::Sh, [path.as_str()]));
    }
    let object = router.owner();
    if astray {
        steps.astray.commands.extend(stop(&router.name, proxies));
        details.push("namespace");
    }
    if runs && details.is_empty() {
        return Ok(());
    }
    let (action, detail) = if runs || astray {
        (Action::Change, details.join(", "))
    } else {
        (Action::Add, format!("{} in {}", proxy.program(), router.netns))
    };
    steps.start.change(action, Kind::Proxy, object, detail);
    steps.start.commands.extend(commands);
    Ok(())
}

/// Writes a file for others to read.
fn install(path: &str, bytes: &[u8]) -> Command {
    Command::change(Tool::Install, ["-D", "-m", "0644", "/dev/stdin", path]).stdin(bytes)
}

fn stop(router: &Name, proxies: &Proxies) -> Option<Command> {
    let found = proxies.routers.get(router)?;
    if proxies.systemd {
        return found.runs.then(|| Command::change(Tool::Systemctl, ["stop", &unit(router)]));
    }
    let script = format!("{}/{SCRIPT}", run_directory(router));
    let ours = found.files.contains_key(SCRIPT);
    (found.runs && ours).then(|| Command::change(Tool::Sh, [script.as_str(), "stop"]))
}

/// Removes proxies of ours that no plan has: all of them without one.
pub(super) fn remove(wiring: Option<&Wiring>, proxies: &Proxies) -> Step {
    let mut step = Step::default();
    let planned = wiring.into_iter().flat_map(|wiring| &wiring.routers);
    let wanted: BTreeSet<&Name> =
        planned.filter(|router| router.proxy.is_some()).map(|router| &router.name).collect();
    for (router, found) in &proxies.routers {
        let foreign = found.unit.as_ref().is_some_and(|unit| !unit.starts_with(MARK));
        if wanted.contains(router) || foreign {
            continue;
        }
        let what = if found.runs { "with its process" } else { "with its files" };
        step.change(Action::Remove, Kind::Proxy, format!("router {router}"), what);
        step.commands.extend(stop(router, proxies));
        let directory = run_directory(router);
        let mut words = vec!["-rf", "--", &directory];
        let path = format!("{RUNTIME_UNITS}/{}", unit(router));
        if found.unit.is_some() {
            words.push(&path);
        }
        step.commands.push(Command::change(Tool::Rm, words));
        if found.unit.is_some() {
            step.commands.push(Command::change(Tool::Systemctl, ["daemon-reload"]));
        }
    }
    step
}
