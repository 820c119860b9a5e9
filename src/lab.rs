//! The whole desired state as a live network on one machine.
//!
//! Every node is a process with its own network, mount and process namespaces and its own Open
//! vSwitch; `apply` runs inside as it would on a real node, with the paths of a real node. An
//! outside network with routers and hosts connects the nodes' uplinks. When the first process of a
//! node ends, everything on it is gone: nothing is left behind, however the lab ends.

mod agent;
mod host;
mod names;
mod network;
mod node_access;
mod probe;
mod sctp;
mod state;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use crate::diagnostic::{Code, Diagnostic, Sources};
use crate::emit::Renderer;
use crate::intent::NodeId;
use crate::lower::{ClusterFlows, Plan};
use crate::model::Model;
use crate::value::{Datapath, InterfaceName, StringValue as _};

pub use agent::run as run_agent;
pub use host::{Hold, Host, Role, Starting};
pub use probe::{Expected, Location, Observed, Probe, Summary, plan};
pub use state::{directory_of, down, enter, is_up, remove};

/// The name of the outside network's machine.
pub const OUTSIDE: &str = "outside";

/// A lab that is up.
#[derive(Debug)]
pub struct Lab {
    model: Model,
    /// The machines of the nodes, by the node's name.
    nodes: BTreeMap<String, Host>,
    outside: Host,
    datapath: Datapath,
    directory: PathBuf,
    program: String,
}

/// How to bring a lab up.
#[derive(Clone, Copy, Debug)]
pub struct Setup<'a> {
    /// Where to keep its files; made where it doesn't exist.
    pub directory: &'a Path,
    /// How long it is to last.
    pub hold: Hold,
    /// The datapath of every bridge, whatever the desired state has.
    pub datapath: Datapath,
    /// The `ringfence` program, which runs inside.
    pub program: &'a Path,
}

/// Where the kernel shows its datapath, once it is loaded.
const MODULE: &str = "/sys/module/openvswitch";

/// Programs that the lab needs beside those of `apply`, with their Debian packages.
const PROGRAMS: [(&str, &str); 11] = [
    ("unshare", "util-linux"),
    ("nsenter", "util-linux"),
    ("setsid", "util-linux"),
    ("mount", "mount"),
    ("ip", "iproute2"),
    ("nft", "nftables"),
    ("ethtool", "ethtool"),
    ("sysctl", "procps"),
    ("arping", "iputils-arping"),
    ("ovsdb-server", "openvswitch-switch"),
    ("ovs-vswitchd", "openvswitch-switch"),
];

/// Whether this machine can hold a lab with this datapath, or what is missing.
pub fn check_machine(datapath: Datapath) -> Result<(), Diagnostic> {
    if !rustix::process::geteuid().is_root() {
        return Err(Diagnostic::new(Code::NotRoot, "a lab must run as root")
            .help("run it as root, or with sudo"));
    }
    let there = |name: &str| {
        ["/usr/sbin", "/usr/bin", "/sbin", "/bin"]
            .iter()
            .any(|directory| Path::new(directory).join(name).is_file())
    };
    let missing: Vec<_> = PROGRAMS.iter().filter(|(name, _)| !there(name)).collect();
    if missing.is_empty() {
        if datapath == Datapath::System && !Path::new(MODULE).is_dir() {
            let message = "the lab needs the kernel module `openvswitch` for `--datapath system`";
            return Err(Diagnostic::new(Code::LabSetup, message)
                .help("load it with `modprobe openvswitch`, or leave out `--datapath`"));
        }
        return Ok(());
    }
    let names: Vec<String> = missing.iter().map(|(name, _)| format!("`{name}`")).collect();
    let mut packages: Vec<&str> = missing.iter().map(|(_, package)| *package).collect();
    packages.dedup();
    let message = format!("the lab needs {}", names.join(", "));
    Err(Diagnostic::new(Code::ToolMissing, message)
        .help(format!("on Debian: apt-get install {}", packages.join(" "))))
}

impl Lab {
    /// Brings up the machines and the network between them, and compiles every node. Nothing is
    /// applied yet.
    pub fn up(model: Model, sources: &Sources, setup: Setup<'_>) -> Result<Self, Diagnostic> {
        check_machine(setup.datapath)?;
        let Setup { directory, hold, datapath, program } = setup;
        let model = as_lab(model, datapath)?;
        fs::create_dir_all(directory).map_err(|error| failed(&error.to_string()))?;
        let names = model.intent().nodes().map(|(_, node)| (node.name.as_str(), Role::Node));
        let mut starting = Vec::new();
        for (name, role) in names.chain([(OUTSIDE, Role::Outside)]) {
            starting.push((name.to_owned(), Host::start(name, role, hold, directory)?));
        }
        let mut nodes = BTreeMap::new();
        for (name, starting) in starting {
            nodes.insert(name, starting.ready()?);
        }
        let outside = nodes.remove(OUTSIDE).ok_or_else(|| failed("the outside is missing"))?;
        let program = program.to_string_lossy().into_owned();
        let directory = directory.to_owned();
        let lab = Self { model, nodes, outside, datapath, directory, program };
        lab.compile(sources)?;
        network::connect(&lab)?;
        if hold == Hold::Forever {
            state::write(&lab)?;
        }
        Ok(lab)
    }

    /// The network that the lab shows.
    #[must_use]
    pub fn model(&self) -> &Model {
        &self.model
    }

    /// The machine of a node.
    pub fn node(&self, node: NodeId) -> Result<&Host, Diagnostic> {
        let name = self.model.intent()[node].name.as_str();
        self.nodes.get(name).ok_or_else(|| failed("a node is missing"))
    }

    /// The machine of the outside network.
    #[must_use]
    pub fn outside(&self) -> &Host {
        &self.outside
    }

    /// The directory of a node's files.
    #[must_use]
    pub fn files(&self, node: NodeId) -> PathBuf {
        self.directory.join("out").join(self.model.intent()[node].name.as_str())
    }

    /// Writes the files of every node.
    fn compile(&self, sources: &Sources) -> Result<(), Diagnostic> {
        let common = ClusterFlows::new(&self.model)?;
        let renderer = Renderer::new(&self.model, sources)?;
        for (id, _) in self.model.intent().nodes() {
            let files = renderer.node(id, &Plan::of(&common, id)?)?.files;
            for (path, bytes) in files {
                let path = self.files(id).join(path);
                crate::files::write_atomically(&path, &bytes)
                    .map_err(|error| failed(&error.to_string()))?;
            }
        }
        Ok(())
    }

    /// Replaces the desired state: compiles every node anew. Nodes must be the same.
    pub fn replace(&mut self, model: Model, sources: &Sources) -> Result<(), Diagnostic> {
        self.model = as_lab(model, self.datapath)?;
        for (id, _) in self.model.intent().nodes() {
            let _ = fs::remove_dir_all(self.files(id));
        }
        self.compile(sources)?;
        network::plug(self)
    }

    /// Runs the real `ringfence apply` on a node and returns whether it changed anything.
    pub fn apply(&self, node: NodeId) -> Result<Applied, Diagnostic> {
        let directory = self.files(node).to_string_lossy().into_owned();
        let output = self.ringfence(node, &["apply", &directory, "--json"])?;
        let parsed: Result<Applied, _> = serde_json::from_slice(&output.stdout);
        parsed.map_err(|_| {
            let name = &self.model.intent()[node].name;
            let reason = String::from_utf8_lossy(&output.stderr).trim().to_owned();
            Diagnostic::new(Code::LabSetup, format!("`apply` failed on {name}: {reason}"))
        })
    }

    /// Runs the real `ringfence` on a node, with the state where the lab keeps it.
    pub fn ringfence(
        &self,
        node: NodeId,
        arguments: &[&str],
    ) -> Result<std::process::Output, Diagnostic> {
        let program = [self.program.as_str()].into_iter();
        let state = ["--state", host::STATE];
        let words: Vec<&str> = program.chain(arguments.iter().copied()).chain(state).collect();
        self.node(node)?.output(None, &words)
    }

    /// Lets the machines outlast this process, where they were made to.
    pub fn keep(mut self) {
        for host in self.nodes.values_mut().chain([&mut self.outside]) {
            host.keep();
        }
    }
}

/// The network as the lab can show it: on one kind of datapath. One in userspace takes the uplinks.
fn as_lab(model: Model, datapath: Datapath) -> Result<Model, Diagnostic> {
    let model = model.with_datapath(datapath);
    if datapath == Datapath::System {
        return Ok(model);
    }
    let underlay = InterfaceName::parse(network::UNDERLAY).map_err(|e| failed(&e.message))?;
    Ok(model.with_underlay(underlay))
}

/// What `apply --json` tells.
#[derive(Clone, Debug, serde::Deserialize)]
pub struct Applied {
    /// Whether anything was changed.
    pub changed: bool,
    /// What was changed.
    pub changes: Vec<serde_json::Value>,
}

fn failed(reason: &str) -> Diagnostic {
    Diagnostic::new(Code::LabSetup, format!("the lab could not be set up: {reason}"))
}
