//! The only door to the machine: commands, and reading the network's state.
//!
//! `apply` and what serves it reach the node through the trait [`System`] alone, so that tests
//! can record, refuse, delay or kill any command.

pub mod guard;
pub mod netlink;
mod process;
pub(crate) mod threads;

use std::fmt;
use std::io::Read as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::diagnostic::{Code, Diagnostic};
use crate::value::NetnsName;
use guard::{Guard, Guards};
use netlink::Network;
use netlink::holdings::Holdings;
pub(crate) use threads::both;

/// Where executables are looked for; the caller's PATH has no say.
pub(crate) const DIRECTORIES: [&str; 6] =
    ["/usr/sbin", "/usr/bin", "/sbin", "/bin", "/usr/local/sbin", "/usr/local/bin"];

/// How long a command may take.
const TIMEOUT: Duration = Duration::from_mins(2);

/// A program that ringfence runs on a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Tool {
    /// Of iproute2.
    Ip,
    /// Of nftables.
    Nft,
    /// Of Open vSwitch: its database.
    OvsVsctl,
    /// Of Open vSwitch: its flows.
    OvsOfctl,
    /// Of Open vSwitch: its database, as JSON.
    OvsdbClient,
    /// Of Open vSwitch: its daemon.
    OvsAppctl,
    /// Of conntrack-tools.
    Conntrack,
    /// Of ethtool.
    Ethtool,
    /// Of iproute2: queue disciplines.
    Tc,
    /// Of procps.
    Sysctl,
    /// Of iputils.
    Arping,
    /// Of systemd.
    SystemdRun,
    /// Of systemd.
    Systemctl,
    /// Of coreutils.
    Install,
    /// Of coreutils.
    Rm,
    /// Of a POSIX shell.
    Sh,
    /// Of util-linux.
    Unshare,
    /// Of squid.
    Squid,
    /// Of haproxy.
    Haproxy,
}

impl Tool {
    /// The name of the executable.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Ip => "ip",
            Self::Nft => "nft",
            Self::OvsVsctl => "ovs-vsctl",
            Self::OvsOfctl => "ovs-ofctl",
            Self::OvsdbClient => "ovsdb-client",
            Self::OvsAppctl => "ovs-appctl",
            Self::Conntrack => "conntrack",
            Self::Ethtool => "ethtool",
            Self::Tc => "tc",
            Self::Sysctl => "sysctl",
            Self::Arping => "arping",
            Self::SystemdRun => "systemd-run",
            Self::Systemctl => "systemctl",
            Self::Install => "install",
            Self::Rm => "rm",
            Self::Sh => "sh",
            Self::Unshare => "unshare",
            Self::Squid => "squid",
            Self::Haproxy => "haproxy",
        }
    }

    /// The Debian package that has it.
    #[must_use]
    pub fn package(self) -> &'static str {
        match self {
            Self::Ip | Self::Tc => "iproute2",
            Self::Nft => "nftables",
            Self::OvsVsctl | Self::OvsOfctl => "openvswitch-switch",
            Self::OvsdbClient | Self::OvsAppctl => "openvswitch-common",
            Self::Conntrack => "conntrack",
            Self::Ethtool => "ethtool",
            Self::Sysctl => "procps",
            Self::Arping => "iputils-arping",
            Self::SystemdRun | Self::Systemctl => "systemd",
            Self::Install | Self::Rm => "coreutils",
            Self::Sh => "dash",
            Self::Unshare => "util-linux",
            Self::Squid => "squid",
            Self::Haproxy => "haproxy",
        }
    }
}

/// One run of a program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Command {
    /// The program.
    pub tool: Tool,
    /// Its arguments.
    pub arguments: Vec<String>,
    /// What it reads.
    pub stdin: Vec<u8>,
    /// The network namespace that it runs in; `None` for the node's own.
    pub netns: Option<NetnsName>,
    /// Whether it may change anything.
    pub changes: bool,
    /// Whether it only removes: if it fails, what it was to remove may be gone already.
    pub removes: bool,
    /// What must be so when it runs.
    pub guards: Guards,
}

impl Command {
    /// A command that only reads.
    #[must_use]
    pub fn read<S: Into<String>>(tool: Tool, arguments: impl IntoIterator<Item = S>) -> Self {
        let arguments = arguments.into_iter().map(Into::into).collect();
        Self {
            tool,
            arguments,
            stdin: Vec::new(),
            netns: None,
            changes: false,
            removes: false,
            guards: Guards::default(),
        }
    }

    /// A command that changes the node.
    #[must_use]
    pub fn change<S: Into<String>>(tool: Tool, arguments: impl IntoIterator<Item = S>) -> Self {
        Self { changes: true, ..Self::read(tool, arguments) }
    }

    /// A command that only removes something.
    #[must_use]
    pub fn remove<S: Into<String>>(tool: Tool, arguments: impl IntoIterator<Item = S>) -> Self {
        Self { removes: true, ..Self::change(tool, arguments) }
    }

    /// The same, if this is so when it runs.
    #[must_use]
    pub fn only_if(mut self, guards: impl IntoIterator<Item = Guard>) -> Self {
        self.guards.all.extend(guards);
        self
    }

    /// The same, with a line of what it reads only if this is so when it runs.
    #[must_use]
    pub fn guard_line(mut self, line: impl Into<String>, guard: Guard) -> Self {
        self.guards.lines.insert(line.into(), guard);
        self
    }

    /// The same with something to read.
    #[must_use]
    pub fn stdin(mut self, bytes: impl Into<Vec<u8>>) -> Self {
        self.stdin = bytes.into();
        self
    }

    /// The same in a network namespace.
    #[must_use]
    pub fn within(mut self, netns: Option<&NetnsName>) -> Self {
        self.netns = netns.cloned();
        self
    }
}

impl fmt::Display for Command {
    /// The command as a person would type it, cut where it is long.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const SHOWN: usize = 8;
        if let Some(netns) = &self.netns {
            write!(f, "ip netns exec {netns} ")?;
        }
        f.write_str(self.tool.name())?;
        for argument in self.arguments.iter().take(SHOWN) {
            write!(f, " {argument}")?;
        }
        if self.arguments.len() > SHOWN {
            f.write_str(" …")?;
        }
        Ok(())
    }
}

/// What a command printed, and how it ended.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Output {
    /// Its exit status; `None` where a signal ended it.
    pub status: Option<i32>,
    /// Its standard output.
    pub stdout: Vec<u8>,
    /// Its standard error.
    pub stderr: Vec<u8>,
}

/// How far a change of the node is.
#[derive(Clone, Copy, Debug)]
pub enum Stage<'a> {
    /// The node is read.
    Reading,
    /// The node is about to be changed, and this is what notices, a line each.
    Disrupting(&'a [String]),
    /// One of the commands that change it is about to run.
    Changing {
        /// Which of them, from 1.
        number: usize,
        /// How many there are.
        of: usize,
        /// The command.
        command: &'a Command,
    },
    /// The node is read again.
    ReadingBack,
}

/// The machine that a node is.
pub trait System: Sync {
    /// Hears how far a change is.
    fn at(&self, _stage: Stage<'_>) {}

    /// Runs a command to its end, whatever its exit status.
    fn run(&self, command: &Command) -> Result<Output, Diagnostic>;

    /// Whether a program is there.
    fn has(&self, tool: Tool) -> bool;

    /// Whether the process may change the machine.
    fn is_root(&self) -> bool;

    /// The named network namespaces.
    fn netns_names(&self) -> Result<Vec<String>, Diagnostic>;

    /// Links, addresses and routes of the node.
    fn network(&self) -> Result<Network, Diagnostic>;

    /// All that hangs on the interfaces of the node, with every attribute.
    fn holdings(&self) -> Result<Holdings, Diagnostic>;

    /// Links, addresses and routes of named network namespaces; `None` for one that doesn't exist.
    fn networks(&self, names: &[&NetnsName]) -> Result<Vec<Option<Network>>, Diagnostic>;

    /// A kernel setting of the node, or `None` where the kernel doesn't have it.
    fn sysctl(&self, name: &str) -> Option<String>;

    /// A small file of the node, or `None` where there is none.
    fn file(&self, path: &Path) -> Option<Vec<u8>>;

    /// The names in a directory of the node, or `None` where there is none.
    fn directory(&self, path: &Path) -> Option<Vec<String>>;

    /// Whether a file or directory of the node is not root's, or others may write it.
    fn is_loose(&self, _path: &Path) -> bool {
        false
    }

    /// Runs a command and takes any exit status but 0 as a failure.
    fn succeed(&self, command: &Command) -> Result<Vec<u8>, Diagnostic> {
        let output = self.run(command)?;
        match output.status {
            Some(0) => Ok(output.stdout),
            _ => Err(failed(command, &output)),
        }
    }
}

/// A command that ended with the wrong status.
#[must_use]
pub fn failed(command: &Command, output: &Output) -> Diagnostic {
    const SHOWN: usize = 600;
    let status = output
        .status
        .map_or_else(|| "was killed".to_owned(), |status| format!("failed with status {status}"));
    let stderr = String::from_utf8_lossy(&output.stderr);
    let mut reason: String = stderr.trim().chars().take(SHOWN).collect();
    if reason.is_empty() {
        "it printed no reason".clone_into(&mut reason);
    }
    Diagnostic::new(Code::CommandFailed, format!("`{command}` {status}: {reason}"))
}

/// This machine.
#[derive(Clone, Copy, Debug, Default)]
pub struct Machine;

impl System for Machine {
    fn run(&self, command: &Command) -> Result<Output, Diagnostic> {
        let Command { tool, arguments, netns, .. } = command;
        let (program, arguments) = match netns {
            None => (*tool, arguments.clone()),
            Some(netns) => {
                let prefix = ["netns", "exec", netns.as_str(), tool.name()];
                let words = prefix.into_iter().map(str::to_owned);
                (Tool::Ip, words.chain(arguments.iter().cloned()).collect())
            }
        };
        let path = find(program.name()).ok_or_else(|| missing(program))?;
        let Some(stdin) = guard::admit(command)? else {
            return Ok(Output { status: Some(0), ..Output::default() });
        };
        let broken = |error: std::io::Error| {
            Diagnostic::new(Code::CommandFailed, format!("`{command}` could not run: {error}"))
        };
        let environment = [("PATH", DIRECTORIES.join(":")), ("LC_ALL", "C".to_owned())];
        process::run(&path, &arguments, &environment, &stdin, TIMEOUT).map_err(broken)?.ok_or_else(
            || {
                let message = format!("`{command}` took longer than {} seconds", TIMEOUT.as_secs());
                Diagnostic::new(Code::CommandFailed, message)
            },
        )
    }

    fn has(&self, tool: Tool) -> bool {
        find(tool.name()).is_some()
    }

    fn is_root(&self) -> bool {
        rustix::process::geteuid().is_root()
    }

    fn netns_names(&self) -> Result<Vec<String>, Diagnostic> {
        netlink::netns_names()
    }

    fn network(&self) -> Result<Network, Diagnostic> {
        netlink::network()
    }

    fn holdings(&self) -> Result<Holdings, Diagnostic> {
        netlink::holdings::holdings()
    }

    fn networks(&self, names: &[&NetnsName]) -> Result<Vec<Option<Network>>, Diagnostic> {
        netlink::networks(names)
    }

    fn sysctl(&self, name: &str) -> Option<String> {
        // As sysctl(8) has it, a slash in a name is a dot in that of the file.
        let swapped = |c| match c {
            '.' => '/',
            '/' => '.',
            other => other,
        };
        let path = Path::new("/proc/sys").join(name.chars().map(swapped).collect::<String>());
        std::fs::read_to_string(path).ok().map(|value| value.trim().to_owned())
    }

    fn file(&self, path: &Path) -> Option<Vec<u8>> {
        // More is no file of ringfence; of a process's command line, the beginning is enough.
        const MOST: u64 = 1 << 20;
        let mut bytes = Vec::new();
        std::fs::File::open(path).ok()?.take(MOST).read_to_end(&mut bytes).ok()?;
        Some(bytes)
    }

    fn is_loose(&self, path: &Path) -> bool {
        const OTHERS_WRITE: u32 = 0o022;
        let metadata = std::fs::symlink_metadata(path);
        metadata.is_ok_and(|found| found.uid() != 0 || found.mode() & OTHERS_WRITE != 0)
    }

    fn directory(&self, path: &Path) -> Option<Vec<String>> {
        let entries = std::fs::read_dir(path).ok()?;
        let name = |entry: std::fs::DirEntry| entry.file_name().into_string().ok();
        let mut names: Vec<String> = entries.flatten().filter_map(name).collect();
        names.sort();
        Some(names)
    }
}

/// Stands between `apply` and this machine: commands go through it, all else is as the machine has it.
pub trait Intercept: Sync {
    /// Hears how far a change is.
    fn hear(&self, _stage: Stage<'_>) {}

    /// Runs a command on the machine, or does something else about it.
    fn pass(&self, command: &Command) -> Result<Output, Diagnostic>;
}

impl<T: Intercept> System for T {
    fn at(&self, stage: Stage<'_>) {
        self.hear(stage);
    }

    fn run(&self, command: &Command) -> Result<Output, Diagnostic> {
        self.pass(command)
    }

    fn has(&self, tool: Tool) -> bool {
        Machine.has(tool)
    }

    fn is_root(&self) -> bool {
        Machine.is_root()
    }

    fn netns_names(&self) -> Result<Vec<String>, Diagnostic> {
        Machine.netns_names()
    }

    fn network(&self) -> Result<Network, Diagnostic> {
        Machine.network()
    }

    fn holdings(&self) -> Result<Holdings, Diagnostic> {
        Machine.holdings()
    }

    fn networks(&self, names: &[&NetnsName]) -> Result<Vec<Option<Network>>, Diagnostic> {
        Machine.networks(names)
    }

    fn sysctl(&self, name: &str) -> Option<String> {
        Machine.sysctl(name)
    }

    fn file(&self, path: &Path) -> Option<Vec<u8>> {
        Machine.file(path)
    }

    fn directory(&self, path: &Path) -> Option<Vec<String>> {
        Machine.directory(path)
    }

    fn is_loose(&self, path: &Path) -> bool {
        Machine.is_loose(path)
    }
}

/// The absolute path of a program.
pub(crate) fn find(name: &str) -> Option<PathBuf> {
    DIRECTORIES.iter().map(|directory| Path::new(directory).join(name)).find(|p| p.is_file())
}

/// A program that isn't there.
#[must_use]
pub fn missing(tool: Tool) -> Diagnostic {
    Diagnostic::new(Code::ToolMissing, format!("`{}` is not installed", tool.name()))
        .help(format!("on Debian: apt-get install {}", tool.package()))
}
