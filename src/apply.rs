//! Makes a node match its files: observe, compare, execute what differs, read back.
//!
//! Comparing yields [`Step`]s, each with what changes in words and the commands that do it, so
//! that a check prints exactly what a run would execute. The order keeps the node safe in
//! between: guards come first, new pods are connected before they have flows and come up after
//! them, and what is no longer wanted goes last. Every step may be repeated.

mod artifacts;
mod change;
mod flows;
mod groups;
mod links;
mod ovsdb;
mod ports;
mod rulesets;
mod state;
mod teardown;

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::diagnostic::{Code, Diagnostic};
use crate::spec::Datapath;
use crate::system::{System, Tool, both, missing};
use crate::value::InterfaceName;
use artifacts::Artifacts;
pub use change::{Action, Change, Kind, Step};
use links::Links;
use ovsdb::Database;
use rulesets::Place;
use state::{Loaded, State, Store};
pub use teardown::teardown;

pub use state::DIRECTORY as STATE_DIRECTORY;

/// How to apply.
#[derive(Clone, Debug)]
pub struct Options {
    /// Only tell what differs.
    pub check: bool,
    /// Take over a bridge that is not ringfence's.
    pub adopt: bool,
    /// Another bridge than the plan's.
    pub bridge: Option<InterfaceName>,
    /// The directory where the state is kept.
    pub state: PathBuf,
}

/// How it went.
#[derive(Clone, Debug, Serialize)]
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
    /// The flows that differed, as lines of a diff; only in a check or with `--diff`.
    #[serde(skip)]
    pub flow_diff: Vec<String>,
}

/// How often a node is changed before it has to be as it was to be. What one step does can undo
/// another's, as a new Ethernet address takes the routes of an interface with it.
const ROUNDS: usize = 3;

/// Applies the files in `directory` to this node.
pub fn apply(
    directory: &Path,
    options: &Options,
    system: &dyn System,
) -> Result<Outcome, Diagnostic> {
    let mut artifacts = Artifacts::read(directory)?;
    if let Some(bridge) = &options.bridge {
        artifacts.wiring.bridge.name = bridge.clone();
    }
    preflight(&artifacts, system)?;
    let mut store = Store::at(&options.state);
    if !options.check {
        store.lock()?;
    }
    let mut state = store.read();
    let observed = Observed::read(&artifacts, None, &state.half_made, system)?;
    right_node(&artifacts, &observed.links)?;
    let difference = Difference::between(&artifacts, &observed, &state, options, system)?;
    let changes = difference.changes();
    let outcome = Outcome {
        node: artifacts.wiring.node.to_string(),
        generation: artifacts.manifest.generation.clone(),
        changed: !changes.is_empty(),
        check: options.check,
        changes,
        flow_diff: difference.flows.lines(),
    };
    if options.check {
        return Ok(outcome);
    }
    let generation = Some(artifacts.manifest.generation.clone());
    if outcome.changed {
        state.half_made = observed.links.to_make(&artifacts.wiring);
        store.write(&State { pending: generation.clone(), ..state.clone() })?;
        converge(difference, &artifacts, &mut state, options, system)?;
    }
    if outcome.changed || state.current != generation || state.pending.is_some() {
        let half_made = Vec::new();
        store.write(&State { current: generation, pending: None, half_made, ..state })?;
    }
    Ok(outcome)
}

/// Changes the node until it is as it is to be, and remembers what nft prints then.
fn converge(
    mut difference: Difference,
    artifacts: &Artifacts,
    state: &mut State,
    options: &Options,
    system: &dyn System,
) -> Result<(), Diagnostic> {
    for _ in 0..ROUNDS {
        for command in difference.steps.iter().flat_map(|step| &step.commands) {
            system.succeed(command)?;
        }
        let flows = Some(&difference.flows);
        let observed = Observed::read(artifacts, flows, &state.half_made, system)?;
        state.rulesets = remember(artifacts, &observed);
        difference = Difference::between(artifacts, &observed, state, options, system)?;
        if difference.changes().is_empty() {
            return Ok(());
        }
    }
    let first = difference.changes().first().map(ToString::to_string).unwrap_or_default();
    let message = format!("the node still differs after {ROUNDS} attempts: {first}");
    Err(Diagnostic::new(Code::ReadBack, message)
        .help("something else changes it at the same time, or the kernel or Open vSwitch refuses"))
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
    may_run(system)?;
    let userspace = artifacts.wiring.bridge.datapath == Datapath::Netdev;
    let ethtool = userspace.then_some(Tool::Ethtool);
    let arping = (!artifacts.wiring.egress_ips.is_empty()).then_some(Tool::Arping);
    let all =
        [Tool::Ip, Tool::Nft, Tool::OvsVsctl, Tool::OvsOfctl, Tool::OvsdbClient, Tool::Sysctl];
    match all.into_iter().chain(ethtool).chain(arping).find(|tool| !system.has(*tool)) {
        Some(tool) => Err(missing(tool)),
        None => Ok(()),
    }
}

/// RF200: only root may look at and change all of it.
fn may_run(system: &dyn System) -> Result<(), Diagnostic> {
    if system.is_root() {
        return Ok(());
    }
    Err(Diagnostic::new(Code::NotRoot, "applying takes the rights of root")
        .help("run it as root, or with sudo"))
}

/// RF204: the files are for the machine that they are applied to.
fn right_node(artifacts: &Artifacts, links: &Links) -> Result<(), Diagnostic> {
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

/// The node as it is.
struct Observed {
    database: Database,
    links: Links,
    /// What nft prints, by the names of the rulesets.
    listings: BTreeMap<String, Option<Vec<u8>>>,
    /// `None` where there is no bridge.
    flows: Option<flows::Live>,
    groups: groups::Groups,
}

impl Observed {
    /// Reads the node; after a change of flows, only what the change touched of them.
    fn read(
        artifacts: &Artifacts,
        changed: Option<&flows::Difference>,
        half_made: &[String],
        system: &dyn System,
    ) -> Result<Self, Diagnostic> {
        let bridge = artifacts.wiring.bridge.name.as_str();
        let flows = || match changed {
            Some(difference) => flows::Live::touched(system, bridge, difference),
            None => flows::Live::read(system, bridge),
        };
        let rest = || -> Result<_, Diagnostic> {
            let (database, links) =
                both(|| Database::read(system), || Links::read(system, half_made));
            let links = links?;
            let listings = listings(artifacts, &links, system)?;
            Ok((database?, links, listings))
        };
        let groups = || groups::read(system, bridge);
        let (rest, (flows, groups)) = both(rest, || both(flows, groups));
        let (database, links, listings) = rest?;
        let flows = flows?;
        if flows.is_none() && database.bridges.contains_key(bridge) {
            let message = format!("Open vSwitch does not answer for its bridge `{bridge}`");
            return Err(Diagnostic::new(Code::OvsNotRunning, message)
                .help("start ovs-vswitchd, or see in its log why it can't open the bridge"));
        }
        Ok(Self { database, links, listings, flows, groups: groups? })
    }
}

fn listings(
    artifacts: &Artifacts,
    links: &Links,
    system: &dyn System,
) -> Result<BTreeMap<String, Option<Vec<u8>>>, Diagnostic> {
    let mut listings = BTreeMap::from([(String::new(), rulesets::listing(system, None)?)]);
    for router in &artifacts.wiring.routers {
        let exists = links.netns.contains_key(router.netns.as_str());
        let listing = if exists { rulesets::listing(system, Some(&router.netns))? } else { None };
        listings.insert(router.name.to_string(), listing);
    }
    Ok(listings)
}

/// How the node differs from what it is to be, in the order in which it is changed.
struct Difference {
    steps: Vec<Step>,
    flows: flows::Difference,
}

impl Difference {
    fn changes(&self) -> Vec<Change> {
        self.steps.iter().flat_map(|step| step.changes.clone()).collect()
    }

    fn between(
        artifacts: &Artifacts,
        observed: &Observed,
        state: &State,
        options: &Options,
        system: &dyn System,
    ) -> Result<Self, Diagnostic> {
        let wiring = &artifacts.wiring;
        let links = links::compare(wiring, &observed.links)?;
        ports::check_tun(&observed.database, &observed.links.node)?;
        let ports = ports::compare(wiring, &observed.database, &links, options.adopt)?;
        let bridge = wiring.bridge.name.as_str();
        let live = observed.flows.as_ref().filter(|_| !ports.flows_lost);
        let mut flows = flows::compare(system, bridge, &artifacts.flows, live)?;
        flows.groups = groups::compare(&artifacts.groups, &observed.groups);
        let ruleset = |name: &str, place: Place<'_>| {
            let file = artifacts.rulesets.get(name).map_or(&[][..], Vec::as_slice);
            let listing = observed.listings.get(name).and_then(Option::as_deref);
            rulesets::step(place, file, listing, state.rulesets.get(name))
        };
        let mut steps = vec![
            sysctls(artifacts, system),
            // Its guards are there before the first frame of a new pod is.
            ruleset("", Place { object: "node", netns: None }),
            links.make,
            ports.before,
            links.tun,
            flows::step(bridge, &flows, &artifacts.objects),
            links.up,
        ];
        for router in &wiring.routers {
            let object = format!("router {}", router.name);
            let place = Place { object: &object, netns: Some(&router.netns) };
            steps.push(ruleset(router.name.as_str(), place));
        }
        steps.extend([links.routers, links.egress_ips, ports.after, links.remove]);
        Ok(Self { steps, flows })
    }
}

fn sysctls(artifacts: &Artifacts, system: &dyn System) -> Step {
    let mut step = Step::default();
    for (name, value) in &artifacts.wiring.sysctls {
        let have = system.sysctl(name);
        if have.as_ref() != Some(value) {
            let have = have.unwrap_or_else(|| "nothing".to_owned());
            step.change(Action::Change, Kind::Sysctl, name, format!("{have} to {value}"));
            let setting = format!("{name}={value}");
            step.commands.push(crate::system::Command::change(Tool::Sysctl, ["-qw", &setting]));
        }
    }
    step
}
