//! Makes a node match its files: observe, compare, execute what differs, read back.
//!
//! Comparing yields [`Step`]s, each with what changes in words and the commands that do it, so
//! that a check prints exactly what a run would execute. The order keeps the node safe in
//! between: guards come first, new pods are connected before they have flows and come up after
//! them, and what is no longer wanted goes last. Every step may be repeated.
//!
//! What is applied is kept as a generation. Before the first command, the new one is written to
//! the state directory and marked as pending; after the read-back it becomes the current one. If
//! a command fails, the current one is brought back in the same way as any other is applied: from
//! whatever the node is like then. If the run itself is killed, the mark stays, and the next run
//! does what is still to do.

mod artifacts;
mod bridges;
mod brought;
mod change;
mod columns;
mod confirm;
mod connections;
mod datapath;
mod difference;
mod disruption;
mod duplicates;
mod findings;
mod firewall;
mod flows;
mod foreign;
mod gateway;
mod generations;
mod groups;
mod handover;
mod inherit;
mod interface;
mod links;
mod marks;
mod meters;
mod observed;
mod ovsdb;
mod owned;
mod ports;
mod proxies;
mod qos;
mod rulesets;
mod signature;
mod snapshot;
mod state;
mod status;
mod switch;
mod sysctls;
mod teardown;

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use schemars::JsonSchema;
use serde::Serialize;

use crate::artifact::proxy::Proxy;
use crate::diagnostic::{Code, Diagnostic};
use crate::system::{Command, Stage, System, Tool, missing};
use crate::value::{Datapath, InterfaceName};
use artifacts::Artifacts;
pub use change::{Action, Change, Kind, Step, summary};
pub use confirm::{Answer, Confirm, Verdict, check_health, confirm, reject, wait, watch};
use connections::Look;
use difference::Difference;
pub use disruption::Disruption;
pub use findings::Finding;
pub use generations::{Generation, Generations, KEEP, generations};
use links::Links;
use observed::Observed;
pub use owned::{Owned, owned};
pub use signature::SIGNERS;
use signature::Signers;
pub use snapshot::snapshot;
use state::{GenerationRecord, Loaded, State, Store};
pub use status::{Drift, Status, status};
pub use teardown::teardown;

pub use state::DIRECTORY as STATE_DIRECTORY;

/// How to apply.
#[derive(Clone, Debug)]
#[expect(clippy::struct_excessive_bools, reason = "each is an option of the command line")]
pub struct Options {
    /// Only tell what differs.
    pub check: bool,
    /// Tell the flows that differ one by one.
    pub diff: bool,
    /// Take over a bridge that is not ringfence's.
    pub adopt: bool,
    /// Take addresses that still answer on their segment.
    pub take_over: bool,
    /// Another bridge than the plan's.
    pub bridge: Option<InterfaceName>,
    /// The directory where the state is kept.
    pub state: PathBuf,
    /// How many generations are kept, the current one included.
    pub keep: usize,
    /// Take the change back unless somebody confirms it.
    pub confirm: Option<Confirm>,
    /// The file of the keys that must have signed a directory; default: [`SIGNERS`], if it is
    /// there.
    pub signers: Option<PathBuf>,
}

impl Default for Options {
    fn default() -> Self {
        let state = PathBuf::from(STATE_DIRECTORY);
        Self {
            check: false,
            diff: false,
            adopt: false,
            take_over: false,
            bridge: None,
            state,
            keep: KEEP,
            confirm: None,
            signers: None,
        }
    }
}

/// How it went.
#[derive(Clone, Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Outcome {
    /// The node.
    pub node: String,
    /// Its generation, as 64 hexadecimal digits.
    pub generation: String,
    /// Whether anything was changed, or would be.
    pub changed: bool,
    /// Whether it was only checked.
    pub check: bool,
    /// What was changed, or would be.
    pub changes: Vec<Change>,
    /// What that disrupts of what is there already.
    pub disruptions: Vec<Disruption>,
    /// What stands beside what ringfence manages, and matters to it.
    pub findings: Vec<Finding>,
    /// Whether it is in effect only until a time is over, unless somebody confirms it.
    pub awaiting_confirmation: bool,
    /// Why it was rolled back, if it was.
    pub rolled_back: Option<RolledBack>,
    /// The flows that differed, as lines of a diff; only with `--diff`.
    pub flow_diff: Vec<String>,
}

/// A change that was rolled back.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RolledBack {
    /// The generation that is in effect again.
    pub generation: String,
    /// The code of the reason.
    pub code: String,
    /// Why it was rolled back.
    pub reason: String,
    /// The whole reason.
    #[serde(skip)]
    pub cause: Option<Diagnostic>,
}

impl RolledBack {
    fn new(generation: String, cause: Diagnostic) -> Self {
        let (code, reason) = (cause.code.to_string(), cause.message.clone());
        Self { generation, code, reason, cause: Some(cause) }
    }
}

/// The first digits of a generation, by which people know it.
#[must_use]
pub fn short_id(generation: &str) -> &str {
    const DIGITS: usize = 12;
    generation.get(..DIGITS).unwrap_or(generation)
}

/// How often a node is changed before it has to be as it was to be. What one step does can undo
/// another's, as a new Ethernet address takes the routes of an interface with it.
const ROUNDS: usize = 3;

/// How long the kernel has to remove a namespace after its last process ended.
const SETTLE: Duration = Duration::from_millis(500);

/// Applies the files in `directory` to this node.
pub fn apply(
    directory: &Path,
    options: &Options,
    system: &dyn System,
) -> Result<Outcome, Diagnostic> {
    let signers = Signers::read(options.signers.as_deref())?;
    let mut artifacts = Artifacts::read(directory, signers.as_ref())?;
    if let Some(bridge) = &options.bridge {
        artifacts.wiring.bridge.name = bridge.clone();
    }
    preflight(&artifacts, system)?;
    let mut store = Store::at(&options.state);
    if !options.check {
        store.lock()?;
        confirm::ensure_none_pending(&store)?;
    }
    let state = if options.check { store.read_for_check()? } else { store.read()? };
    activate(&artifacts, options.bridge.clone(), state, &store, options, system)
}

/// Applies the current generation again, as its files are kept.
pub fn apply_current(options: &Options, system: &dyn System) -> Result<Outcome, Diagnostic> {
    require_root(system)?;
    let mut store = Store::at(&options.state);
    if !options.check {
        store.lock()?;
        confirm::ensure_none_pending(&store)?;
    }
    let state = store.read()?;
    let kept = state.current().cloned().ok_or_else(generations::nothing_kept)?;
    apply_kept(&kept, state, &store, options, system)
}

/// Applies the generation that came into effect `number` changes ago. Without a number, that is
/// the one before the last change, whether that has ended or not.
pub fn rollback(
    number: Option<usize>,
    options: &Options,
    system: &dyn System,
) -> Result<Outcome, Diagnostic> {
    require_root(system)?;
    let mut store = Store::at(&options.state);
    if !options.check {
        store.lock()?;
    }
    let state = store.read()?;
    let number = number.unwrap_or(usize::from(state.pending.is_none()));
    let kept = state.back(number)?.clone();
    apply_kept(&kept, state, &store, options, system)
}

fn apply_kept(
    kept: &GenerationRecord,
    state: State,
    store: &Store,
    options: &Options,
    system: &dyn System,
) -> Result<Outcome, Diagnostic> {
    let artifacts = store.open(kept)?;
    preflight(&artifacts, system)?;
    activate(&artifacts, kept.bridge.clone(), state, store, options, system)
}

/// Brings a generation into effect, or back the one that was.
fn activate(
    artifacts: &Artifacts,
    bridge: Option<InterfaceName>,
    mut state: State,
    store: &Store,
    options: &Options,
    system: &dyn System,
) -> Result<Outcome, Diagnostic> {
    system.at(Stage::Reading);
    let observed = Observed::read(artifacts, None, &state.in_progress, system)?;
    check_node_identity(artifacts, &observed.links)?;
    state.former = store.former_networks(&state, &observed.links);
    ports::check_tun(&artifacts.wiring, &observed.database, &observed.links.node)?;
    foreign::check(&artifacts.wiring, &observed.links.node, options.adopt)?;
    datapath::check(&artifacts.wiring, &observed.database, observed.opened, system)?;
    let difference = Difference::between(artifacts, &observed, &state, options.adopt, system)?;
    let mut findings = firewall::findings(&artifacts.wiring, &observed.chains, system)?;
    findings.extend(difference.findings.iter().cloned());
    if !options.take_over
        && let Some(found) = duplicates::find(&artifacts.wiring, &observed.links, system)?
    {
        if !options.check {
            return Err(found);
        }
        // Until this is applied, whoever has it may have let go.
        findings.push(Finding::refused(found.code, found.message));
    }
    let changes = difference.changes();
    let mut outcome = Outcome {
        node: artifacts.wiring.node.to_string(),
        generation: artifacts.generation().to_owned(),
        changed: !changes.is_empty(),
        check: options.check,
        changes,
        disruptions: difference.disruptions.iter().cloned().collect(),
        findings,
        awaiting_confirmation: false,
        rolled_back: None,
        flow_diff: if options.diff { difference.flows.lines() } else { Vec::new() },
    };
    if options.check {
        return Ok(outcome);
    }
    let is_current = state.current.as_deref() == Some(artifacts.generation());
    if !outcome.changed && is_current && state.pending.is_none() && store.keeps(artifacts) {
        return Ok(outcome);
    }
    let since = state.current().filter(|_| is_current).map(|kept| kept.applied);
    let generation = artifacts.generation().to_owned();
    let kept = GenerationRecord { generation, bridge, applied: since.unwrap_or_else(state::now) };
    // The repair of the current generation has none to come back to.
    let confirm = options.confirm.as_ref().filter(|_| outcome.changed && !is_current);
    if confirm.is_some() && state.current().is_none() {
        return Err(confirm::no_rollback_target());
    }
    store.keep(artifacts)?;
    // What an interrupted run left behind can't be seen in what it changed.
    let mut look = if state.pending.is_some() {
        Look::ALL
    } else {
        Look::after(artifacts, &observed, &difference)
    };
    look.services |= state.draining;
    if outcome.changed {
        let before = state.clone();
        state.pending = Some(kept.generation.clone());
        state.reused.extend(connections::reused(&difference.flows));
        state.in_progress.extend(observed.links.to_make(&artifacts.wiring));
        state.in_progress.sort();
        state.in_progress.dedup();
        state.awaiting_confirmation =
            confirm.map(|confirm| confirm.awaiting_confirmation(&kept, options.keep));
        sysctls::remember(&artifacts.wiring, &mut state, system);
        store.write(&state)?;
        if let Some(confirm) = confirm {
            confirm.begin(&state, &before, store, system)?;
        }
        let lines: Vec<String> = outcome.disruptions.iter().map(ToString::to_string).collect();
        system.at(Stage::Disrupting(&lines));
        let converged = converge(difference, artifacts, look, &mut state, options.adopt, system);
        if let Err(reason) = converged {
            outcome.rolled_back = Some(roll_back(reason, state, store, system)?);
            return Ok(outcome);
        }
        if let Some(waiting) = &mut state.awaiting_confirmation {
            waiting.begin();
            outcome.awaiting_confirmation = true;
            store.write(&state)?;
            return Ok(outcome);
        }
    } else {
        connections::end(artifacts, &observed.links.node, look, &state.reused, system)?;
    }
    state = state.committed(&kept, options.keep);
    sysctls::forget(&artifacts.wiring, &mut state);
    state.draining = !artifacts.wiring.draining.is_empty();
    store.write(&state)?;
    store.prune(&state);
    Ok(outcome)
}

/// Brings the current generation back after the pending one failed or was not confirmed.
fn roll_back(
    reason: Diagnostic,
    mut state: State,
    store: &Store,
    system: &dyn System,
) -> Result<RolledBack, Diagnostic> {
    let current = state.current().filter(|kept| state.pending.as_ref() != Some(&kept.generation));
    let Some(kept) = current.cloned() else { return Err(reason) };
    state.awaiting_confirmation = None;
    match restore(&kept, &mut state, store, system) {
        Ok(()) => Ok(RolledBack::new(kept.generation, reason)),
        Err(again) => {
            let message = format!(
                "{}; then the generation {} could not be brought back: {}",
                reason.message,
                short_id(&kept.generation),
                again.message
            );
            state.failure = Some(message.clone());
            // It could be the very reason.
            let _ = store.write(&state);
            Err(Diagnostic::new(Code::RollbackFailed, message).help(
                "remove the cause, then run `ringfence rollback`, or apply a generation that works",
            ))
        }
    }
}

fn restore(
    kept: &GenerationRecord,
    state: &mut State,
    store: &Store,
    system: &dyn System,
) -> Result<(), Diagnostic> {
    let artifacts = store.open(kept)?;
    let observed = Observed::read(&artifacts, None, &state.in_progress, system)?;
    foreign::check(&artifacts.wiring, &observed.links.node, false)?;
    state.former = store.former_networks(state, &observed.links);
    let difference = Difference::between(&artifacts, &observed, state, false, system)?;
    if difference.changes().is_empty() {
        connections::end(&artifacts, &observed.links.node, Look::ALL, &state.reused, system)?;
    } else {
        converge(difference, &artifacts, Look::ALL, state, false, system)?;
    }
    (state.pending, state.failure, state.in_progress) = (None, None, Vec::new());
    state.reused.clear();
    sysctls::forget(&artifacts.wiring, state);
    state.draining = !artifacts.wiring.draining.is_empty();
    store.write(state)?;
    store.prune(state);
    Ok(())
}

/// Changes the node until it is as it is to be, remembers what nft prints then, and ends the
/// connections that outlive what they were to.
fn converge(
    mut difference: Difference,
    artifacts: &Artifacts,
    look: Look,
    state: &mut State,
    adopt: bool,
    system: &dyn System,
) -> Result<(), Diagnostic> {
    if !difference.conflicts.commands.is_empty() {
        for command in &difference.conflicts.commands {
            let ran = system.succeed(command);
            if !command.removes {
                ran?;
            }
        }
        // What these processes held goes with them, a moment later. Nothing else was done, so
        // nothing is remembered, and the node is looked at anew.
        std::thread::sleep(SETTLE);
        let observed = Observed::read(artifacts, None, &state.in_progress, system)?;
        difference = Difference::between(artifacts, &observed, state, adopt, system)?;
    }
    let mut look = look;
    for _ in 0..ROUNDS {
        if let Some((command, failure)) = run(&difference, system)? {
            // What it was to remove may have gone, or have become somebody else's, meanwhile.
            let observed = Observed::read(artifacts, None, &state.in_progress, system)?;
            state.rulesets = remember(artifacts, &observed);
            difference = Difference::between(artifacts, &observed, state, adopt, system)?;
            if difference.commands().any(|again| *again == command) {
                return Err(failure);
            }
            continue;
        }
        system.at(Stage::ReadingBack);
        loop {
            let observed =
                Observed::read(artifacts, Some(&difference), &state.in_progress, system)?;
            state.rulesets = remember(artifacts, &observed);
            difference = Difference::between(artifacts, &observed, state, adopt, system)?;
            if !difference.changes().is_empty() {
                // Somebody else's may have come where a command passed over it.
                foreign::check(&artifacts.wiring, &observed.links.node, adopt)?;
                break;
            }
            if look == Look::default() {
                return Ok(());
            }
            connections::end(artifacts, &observed.links.node, look, &state.reused, system)?;
            // That takes its time, so the last thing that is done is to read back.
            look = Look::default();
        }
    }
    let first = difference.changes().first().map(ToString::to_string).unwrap_or_default();
    let message = format!("the node still differs after {ROUNDS} attempts: {first}");
    Err(Diagnostic::new(Code::ReadBack, message)
        .help("something else changes it at the same time, or the kernel or Open vSwitch refuses"))
}

/// Runs the commands of a difference. Returns one that failed and only removes, and why: whether
/// that matters can be seen.
fn run(
    difference: &Difference,
    system: &dyn System,
) -> Result<Option<(Command, Diagnostic)>, Diagnostic> {
    let of = difference.commands().count();
    for (number, command) in (1..).zip(difference.commands()) {
        system.at(Stage::Changing { number, of, command });
        match system.succeed(command) {
            Ok(_) => {}
            Err(failure) if command.removes => return Ok(Some((command.clone(), failure))),
            Err(failure) => return Err(failure),
        }
    }
    Ok(None)
}

/// What nft prints of rulesets that are loaded.
fn remember(artifacts: &Artifacts, observed: &Observed) -> BTreeMap<String, Loaded> {
    let listings = observed.listings.iter();
    listings
        .filter_map(|(name, listing)| {
            let file = artifacts.rulesets.get(name)?;
            Some((name.clone(), Loaded::new(file, listing.as_ref()?)))
        })
        .collect()
}

/// RF200 and RF201: the process may change the node, and has what it takes.
fn preflight(artifacts: &Artifacts, system: &dyn System) -> Result<(), Diagnostic> {
    require_root(system)?;
    let userspace = artifacts.wiring.bridge.datapath == Datapath::Netdev;
    let ethtool = userspace.then_some(Tool::Ethtool);
    let announces = !artifacts.wiring.egress_ips.is_empty() || !artifacts.wiring.routers.is_empty();
    let arping = announces.then_some(Tool::Arping);
    let all =
        [Tool::Ip, Tool::Nft, Tool::Conntrack, Tool::OvsVsctl, Tool::OvsOfctl, Tool::OvsAppctl];
    let all = all.into_iter().chain([Tool::OvsdbClient, Tool::Sysctl]);
    let proxies = artifacts.wiring.routers.iter().filter_map(|router| router.proxy);
    let proxies = proxies.flat_map(|proxy| match proxy {
        Proxy::Squid => [Tool::Squid, Tool::Install],
        Proxy::Haproxy => [Tool::Haproxy, Tool::Install],
    });
    let namespaces = !artifacts.wiring.netns.is_empty();
    let namespaces = namespaces.then_some([Tool::Sh, Tool::Unshare]).into_iter().flatten();
    let needed = all.chain(ethtool).chain(arping).chain(proxies).chain(namespaces);
    match needed.into_iter().find(|tool| !system.has(*tool)) {
        Some(tool) => Err(missing(tool)),
        None => Ok(()),
    }
}

/// RF200: only root may look at and change all of it.
fn require_root(system: &dyn System) -> Result<(), Diagnostic> {
    if system.is_root() {
        return Ok(());
    }
    Err(Diagnostic::new(Code::NotRoot, "this must run as root")
        .help("run it as root, or with sudo"))
}

/// RF204: the files are for the machine that they are applied to.
fn check_node_identity(artifacts: &Artifacts, links: &Links) -> Result<(), Diagnostic> {
    let address: Ipv4Addr = artifacts.wiring.address;
    let mut own = links.node.addresses.values().flatten();
    if own.any(|own| own.addr() == address) {
        return Ok(());
    }
    let node = &artifacts.wiring.node;
    Err(Diagnostic::new(
        Code::WrongNode,
        format!("this is not node `{node}`: no interface has its address {address}"),
    )
    .help("apply the directory of the node that this machine is"))
}
