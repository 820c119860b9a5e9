//! The proxies of egress routers: their files, and the processes that run by them.
//!
//! Where systemd runs, a proxy is a unit in `/run/systemd/system`; elsewhere its own script starts
//! it. Either way its files are below `/run`: they go with a reboot, as the namespace does that it
//! runs in. What it has loaded is kept beside its configuration, so that a run which was
//! interrupted before the proxy heard of a change is seen.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use super::artifacts::Artifacts;
use super::change::{Action, Kind, Step};
use crate::artifact::host::{ROUTER_SERVICE_PREFIX, RUN, RUNTIME_UNITS};
use crate::artifact::node::{NodeConfig, Router};
use crate::artifact::proxy::{Proxy, run_directory, unit};
use crate::diagnostic::{Code, Diagnostic};
use crate::system::guard::{Guard, is_marked};
use crate::system::{Command, System, Tool};
use crate::value::{Name, StringValue as _};

/// Begins every file of ours.
const MARK: &[u8] = b"# Made by ringfence";
const SCRIPT: &str = "proxy.sh";
const LOADED: &str = "loaded";
/// The files in a proxy's directory that have the mark, and then those beside them.
const MARKED: [&str; 3] = ["squid.conf", "haproxy.cfg", SCRIPT];
const BESIDE: [&str; 2] = [LOADED, "pid"];

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
    /// What is in its directory.
    entries: BTreeSet<String>,
    /// The files of its directory.
    files: BTreeMap<String, Vec<u8>>,
    /// Its unit.
    unit: Option<Vec<u8>>,
    /// Whether its process runs.
    runs: bool,
    /// The namespace of that.
    netns: String,
    /// Other processes with its files: of a proxy whose number got lost, or left over from one.
    others: Vec<String>,
    /// Its files, its directory and its unit that others than root may write.
    loose: BTreeSet<PathBuf>,
}

impl Found {
    /// The files of ringfence's: those that have its mark.
    fn marked(&self) -> impl Iterator<Item = &'static str> {
        let marked = |name: &&str| self.files.get(*name).is_some_and(|file| is_marked(file, MARK));
        MARKED.into_iter().filter(marked)
    }

    /// Whether the directory is ringfence's: its name alone says nothing.
    fn is_ours(&self) -> bool {
        self.marked().any(|name| self.files.get(name).is_some_and(|file| !file.is_empty()))
    }

    /// A file of somebody else's that has the name of one of ours.
    fn foreign(&self) -> Option<&'static str> {
        let foreign = |name: &&str| {
            self.entries.contains(*name) && !self.marked().any(|marked| marked == *name)
        };
        MARKED.into_iter().find(foreign)
    }

    /// What is in the directory beside ringfence's.
    fn strange(&self) -> Option<&str> {
        let known =
            |name: &&String| MARKED.contains(&name.as_str()) || BESIDE.contains(&name.as_str());
        self.foreign().or_else(|| self.entries.iter().find(|name| !known(name)).map(String::as_str))
    }
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
            found.entries = system.directory(&directory).unwrap_or_default().into_iter().collect();
            for file in found.entries.clone() {
                if let Some(bytes) = system.file(&directory.join(&file)) {
                    found.files.insert(file, bytes);
                }
            }
        }
        let mut running = if proxies.routers.is_empty() { Vec::new() } else { running(system) };
        for (router, found) in &mut proxies.routers {
            found.loose = loose(router, found, system);
            let pid = process(proxies.systemd, router, found, system)?;
            let directory = format!("{}/", run_directory(router));
            let of_router = running.extract_if(.., |process| process.files.contains(&directory));
            let others = of_router.filter(|process| {
                let own = [Some(&process.pid), Some(&process.parent)];
                pid.is_none() || !own.contains(&pid.as_ref())
            });
            found.others = others.map(|process| process.pid).collect();
            let Some(pid) = pid else { continue };
            found.runs = true;
            let identify = Command::read(Tool::Ip, ["netns", "identify", &pid]);
            let netns = system.succeed(&identify)?;
            String::from_utf8_lossy(&netns).trim().clone_into(&mut found.netns);
        }
        Ok(proxies)
    }
}

/// A process of a program that ringfence runs as a proxy.
struct Process {
    pid: String,
    parent: String,
    /// The directories in its arguments, each with a slash behind it.
    files: BTreeSet<String>,
}

/// The processes of such programs, whoever started them.
fn running(system: &dyn System) -> Vec<Process> {
    let proc = Path::new("/proc");
    let names = system.directory(proc).unwrap_or_default().into_iter();
    let pids = names.filter(|name| name.bytes().all(|byte| byte.is_ascii_digit()));
    let process = |pid: String| {
        // The number, the name in parentheses, the state, the parent.
        let stat = system.file(&proc.join(&pid).join("stat"))?;
        let stat = String::from_utf8_lossy(&stat).into_owned();
        let (name, rest) = stat.split_once('(')?.1.rsplit_once(')')?;
        let programs = [Proxy::Squid, Proxy::Haproxy].map(Proxy::program);
        let mut rest = rest.split_whitespace();
        // A dead one has no more files than it has arguments.
        if !programs.contains(&name) || rest.next() == Some("Z") {
            return None;
        }
        let parent = rest.next()?.to_owned();
        let line = system.file(&proc.join(&pid).join("cmdline"))?;
        let words = line.split(|byte| *byte == 0).map(String::from_utf8_lossy);
        let files = words.filter_map(|word| Some(format!("{}/", word.rsplit_once('/')?.0)));
        Some(Process { pid, parent, files: files.collect() })
    };
    pids.filter_map(process).collect()
}

/// What of a router's files others than root may write.
fn loose(router: &Name, found: &Found, system: &dyn System) -> BTreeSet<PathBuf> {
    let directory = PathBuf::from(run_directory(router));
    let files = [Proxy::Squid.config(), Proxy::Haproxy.config(), SCRIPT, LOADED];
    let files = files.into_iter().filter(|file| found.files.contains_key(*file));
    let files = files.map(|file| directory.join(file));
    let unit = found.unit.as_ref().map(|_| Path::new(RUNTIME_UNITS).join(unit(router.as_str())));
    let all = files.chain(unit).chain([directory.clone()]);
    all.filter(|path| system.is_loose(path)).collect()
}

/// The process of a proxy that runs.
fn process(
    systemd: bool,
    router: &Name,
    found: &Found,
    system: &dyn System,
) -> Result<Option<String>, Diagnostic> {
    if systemd {
        let words =
            ["show", "--property=ActiveState", "--property=MainPID", &unit(router.as_str())];
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
    // Numbers come again: the process is ours if it is the program with our configuration.
    let of =
        |file: &str| system.file(&Path::new("/proc").join(&pid).join(file)).unwrap_or_default();
    let (program, line, directory) = (of("comm"), of("cmdline"), run_directory(router));
    let ours = [Proxy::Squid, Proxy::Haproxy].into_iter().any(|proxy| {
        let config = format!("{directory}/{}", proxy.config());
        let has = line.split(|byte| *byte == 0).any(|word| word == config.as_bytes());
        program.trim_ascii_end() == proxy.program().as_bytes() && has
    });
    Ok(ours.then_some(pid))
}

/// What to do about proxies.
#[derive(Debug, Default)]
pub(super) struct ProxySteps {
    /// First: those that run in a namespace that is to be recreated hold its addresses.
    pub(super) conflicts: Step,
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
    if let Some(file) = found.foreign() {
        let message = format!("the file `{directory}/{file}` is not ringfence's");
        return Err(Diagnostic::new(Code::NotOurs, message)
            .help("remove it, if nothing needs it, or rename the router"));
    }
    let found = if others.into_iter().any(|other| found.files.contains_key(other.config())) {
        // The router was of another mode: its program has to end before its files are lost.
        steps.conflicts.commands.extend(stop(&router.name, proxies));
        steps.conflicts.commands.push(remove_files(&directory, found, false));
        &Found { unit: found.unit.clone(), others: found.others.clone(), ..Found::default() }
    } else {
        found
    };
    let unit_name = unit(router.name.as_str());
    let config = artifacts.router_file(router, proxy.config())?;
    let has = |file: &str, bytes: &[u8]| found.files.get(file).is_some_and(|have| have == bytes);
    let current = has(proxy.config(), config) && has(LOADED, config);
    let elsewhere = found.runs && found.netns != router.netns.as_str();
    let runs = found.runs && !elsewhere;
    let mut details = Vec::new();
    let mut commands = Vec::new();
    let loose = |path: &str| found.loose.contains(Path::new(path));
    if loose(&directory) {
        let words = ["-d", "-m", "0755", "-o", "0", "-g", "0", directory.as_str()];
        commands.push(Command::change(Tool::Install, words));
    }
    if !found.loose.is_empty() {
        details.push("mode");
    }
    if !found.others.is_empty() {
        details.push("other processes");
        steps.conflicts.commands.extend(end(&found.others));
        steps
            .conflicts
            .disrupt(router.owner(), "has other processes that end: their connections break");
    }
    let path = format!("{directory}/{}", proxy.config());
    if !has(proxy.config(), config) || loose(&path) {
        commands.push(install(&path, config));
    }
    let loaded = format!("{directory}/{LOADED}");
    if has(LOADED, config) && loose(&loaded) {
        commands.push(install(&loaded, config));
    }
    if !current {
        details.push("configuration");
    }
    if proxies.systemd {
        let file = artifacts.router_file(router, &unit_name)?;
        let path = format!("{RUNTIME_UNITS}/{unit_name}");
        let same = found.unit.as_deref() == Some(file);
        if found.unit.as_ref().is_some_and(|unit| !unit.starts_with(MARK)) {
            let message = format!("the systemd unit `{unit_name}` is not ringfence's");
            return Err(Diagnostic::new(Code::NotOurs, message)
                .help(format!("remove `{RUNTIME_UNITS}/{unit_name}`, or rename the router")));
        }
        if !same {
            details.push("unit");
        }
        if !same || loose(&path) {
            commands.push(install(&path, file));
            commands.push(Command::change(Tool::Systemctl, ["daemon-reload"]));
        }
        let verb = if runs && same { "reload" } else { "restart" };
        commands.push(Command::change(Tool::Systemctl, [verb, &unit_name]));
        commands.push(install(&loaded, config));
    } else {
        let script = artifacts.router_file(router, SCRIPT)?;
        let path = format!("{directory}/{SCRIPT}");
        if !has(SCRIPT, script) {
            details.push("script");
        }
        if !has(SCRIPT, script) || loose(&path) {
            commands.push(install(&path, script));
        }
        commands.push(Command::change(Tool::Sh, [path.as_str()]));
    }
    let object = router.owner();
    if elsewhere {
        steps.conflicts.commands.extend(stop(&router.name, proxies));
        details.push("namespace");
    }
    if runs && details.is_empty() {
        return Ok(());
    }
    let (action, detail) = if runs || elsewhere || !found.others.is_empty() {
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
        return found
            .runs
            .then(|| Command::change(Tool::Systemctl, ["stop", &unit(router.as_str())]));
    }
    let script = format!("{}/{SCRIPT}", run_directory(router));
    let ours = found.files.get(SCRIPT).is_some_and(|file| !file.is_empty());
    let ours = ours && found.marked().any(|name| name == SCRIPT);
    (found.runs && ours).then(|| Command::change(Tool::Sh, [script.as_str(), "stop"]))
}

/// Removes the files of ringfence's from the directory of a proxy, and the directory itself, if that
/// is wanted and it has no others.
fn remove_files(directory: &str, found: &Found, itself: bool) -> Command {
    let marked: Vec<String> = found.marked().map(|name| format!("{directory}/{name}")).collect();
    let beside = BESIDE.into_iter().filter(|name| found.entries.contains(*name));
    let beside = beside.map(|name| format!("{directory}/{name}"));
    let words = ["-f".to_owned(), "-d".to_owned(), "--".to_owned()].into_iter();
    let mut words: Vec<String> = words.chain(marked.iter().cloned()).chain(beside).collect();
    if itself && found.strange().is_none() {
        words.push(directory.to_owned());
    }
    let guard = |path: &String| Guard::File { path: path.into(), begins: MARK };
    Command::remove(Tool::Rm, words).only_if(marked.iter().map(guard))
}

/// Ends processes at once. Some may have ended by then.
fn end(pids: &[String]) -> Option<Command> {
    let words = ["-c", "kill -KILL \"$@\" 2>/dev/null || :", "sh"];
    let words = words.into_iter().chain(pids.iter().map(String::as_str));
    (!pids.is_empty()).then(|| Command::change(Tool::Sh, words))
}

/// Removes proxies of ours that no plan has: all of them without one.
pub(super) fn remove(wiring: Option<&NodeConfig>, proxies: &Proxies) -> Step {
    let mut step = Step::default();
    let planned = wiring.into_iter().flat_map(|wiring| &wiring.routers);
    let wanted: BTreeSet<&Name> =
        planned.filter(|router| router.proxy.is_some()).map(|router| &router.name).collect();
    for (router, found) in &proxies.routers {
        let foreign = found.unit.as_ref().is_some_and(|unit| !unit.starts_with(MARK));
        if wanted.contains(router) || foreign || (found.unit.is_none() && !found.is_ours()) {
            continue;
        }
        let what = if found.runs { "with its process" } else { "with its files" };
        let stays = found.strange().filter(|_| found.is_ours());
        let what =
            stays.map_or_else(|| what.to_owned(), |file| format!("{what}, but `{file}` stays"));
        step.change(Action::Remove, Kind::Proxy, format!("router {router}"), what);
        step.commands.extend(stop(router, proxies));
        step.commands.extend(end(&found.others));
        if found.is_ours() {
            step.commands.push(remove_files(&run_directory(router), found, true));
        }
        if found.unit.is_some() {
            let path = format!("{RUNTIME_UNITS}/{}", unit(router.as_str()));
            let guard = Guard::File { path: path.clone().into(), begins: MARK };
            step.commands.push(Command::remove(Tool::Rm, ["-f", "--", &path]).only_if([guard]));
            step.commands.push(Command::change(Tool::Systemctl, ["daemon-reload"]));
        }
    }
    step
}
