//! A machine of the lab: a process tree in namespaces of its own.

use std::fs::{self, File};
use std::io::{PipeWriter, Read as _};
use std::path::{Path, PathBuf};
use std::process::Output;
use std::time::{Duration, Instant};

use super::failed;
use crate::diagnostic::Diagnostic;

/// Where `apply` keeps its state on the machine.
pub(super) const STATE: &str = "/run/ringfence";

const SCRIPT: &str = include_str!("host.sh");
const TIMEOUT: Duration = Duration::from_mins(3);

/// What a machine is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// A node, with Open vSwitch.
    Node,
    /// The network around the nodes.
    Outside,
}

/// How long a machine lasts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hold {
    /// As long as the process that started it, however that ends.
    WithParent,
    /// Until it is taken down.
    Forever,
}

/// A machine of the lab.
#[derive(Debug)]
pub struct Host {
    /// Its first process, as this machine numbers it.
    pid: u32,
    /// Closing it ends the machine, where that is held by its parent.
    hold: Option<PipeWriter>,
    handle: Option<duct::Handle>,
    /// Whether it can outlast this process.
    forever: bool,
    /// Whether it is to.
    kept: bool,
}

/// A machine that isn't ready yet.
#[derive(Debug)]
pub struct Starting {
    host: Host,
    ready: PathBuf,
    log: PathBuf,
}

impl Host {
    /// Starts a machine; [`Starting::ready`] waits for it.
    pub fn start(
        name: &str,
        role: Role,
        hold: Hold,
        directory: &Path,
    ) -> Result<Starting, Diagnostic> {
        let broken = |error: std::io::Error| failed(&format!("{name}: {error}"));
        let ready = directory.join(format!("{name}.ready"));
        let log = directory.join(format!("{name}.log"));
        let _ = fs::remove_file(&ready);
        let ready_text = ready.to_string_lossy();
        let role = if role == Role::Node { "node" } else { "outside" };
        let hold_word = if hold == Hold::WithParent { "stdin" } else { "forever" };
        let unshare = [
            "unshare",
            "--net",
            "--mount",
            "--pid",
            "--fork",
            "--kill-child",
            "sh",
            "-c",
            SCRIPT,
            "sh",
            &ready_text,
            role,
            hold_word,
        ];
        let command = match hold {
            Hold::WithParent => duct::cmd(unshare[0], &unshare[1..]),
            // Away from the terminal, whose signals would end it.
            Hold::Forever => duct::cmd("setsid", unshare),
        };
        let output = File::create(&log).map_err(broken)?;
        let errors = output.try_clone().map_err(broken)?;
        let command = command.dir("/").stdout_file(output).stderr_file(errors).unchecked();
        let forever = hold == Hold::Forever;
        let (command, hold) = match hold {
            Hold::WithParent => {
                let (reader, writer) = std::io::pipe().map_err(broken)?;
                (command.stdin_file(reader), Some(writer))
            }
            Hold::Forever => (command.stdin_null(), None),
        };
        let handle = Some(command.start().map_err(broken)?);
        Ok(Starting { host: Self { pid: 0, hold, handle, forever, kept: false }, ready, log })
    }

    /// A machine that an earlier process started.
    pub(super) fn existing(pid: u32) -> Self {
        Self { pid, hold: None, handle: None, forever: true, kept: true }
    }

    /// Its first process, as this machine numbers it.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// A command on the machine, to be configured further. A pod's command runs in its named
    /// network namespace.
    pub fn command(&self, netns: Option<&str>, words: &[&str]) -> duct::Expression {
        let pid = self.pid.to_string();
        let mut all = vec!["--target", &pid, "--net", "--mount", "--pid", "--"];
        if let Some(netns) = netns {
            all.extend(["ip", "netns", "exec", netns]);
        }
        all.extend(words);
        duct::cmd("nsenter", all)
    }

    /// Runs a command on the machine and returns what it printed, whatever its status.
    pub fn output(&self, netns: Option<&str>, words: &[&str]) -> Result<Output, Diagnostic> {
        self.command(netns, words)
            .stdin_null()
            .stdout_capture()
            .stderr_capture()
            .unchecked()
            .run()
            .map_err(|error| failed(&error.to_string()))
    }

    /// Runs a command on the machine that has to succeed.
    pub fn run(&self, netns: Option<&str>, words: &[&str]) -> Result<String, Diagnostic> {
        let output = self.output(netns, words)?;
        if output.status.success() {
            return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
        }
        let reason = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        Err(failed(&format!("`{}`: {reason}", words.join(" "))))
    }

    /// Runs a command on the machine that has to succeed, with something to read.
    pub(super) fn feed(
        &self,
        netns: Option<&str>,
        words: &[&str],
        stdin: String,
    ) -> Result<(), Diagnostic> {
        let command = self.command(netns, words).stdin_bytes(stdin);
        let output = command.stdout_capture().stderr_capture().unchecked().run();
        let output = output.map_err(|error| failed(&error.to_string()))?;
        if output.status.success() {
            return Ok(());
        }
        let reason = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        Err(failed(&format!("`{}`: {reason}", words.join(" "))))
    }

    /// Ends the machine and everything on it.
    pub(super) fn end(&mut self) {
        self.hold = None;
        let first = i32::try_from(self.pid).ok().and_then(rustix::process::Pid::from_raw);
        match (self.forever, first, &self.handle) {
            (true, Some(pid), _) => {
                let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
            }
            (true, None, Some(handle)) => {
                let _ = handle.kill();
            }
            _ => {}
        }
        if let Some(handle) = self.handle.take() {
            let _ = handle.wait();
        }
    }
}

impl Host {
    /// Lets the machine outlast this value, where it was made to.
    pub(super) fn keep(&mut self) {
        self.kept = self.forever;
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        if !self.kept {
            self.end();
        }
    }
}

impl Starting {
    /// Waits until the machine is ready.
    pub fn ready(mut self) -> Result<Host, Diagnostic> {
        let begin = Instant::now();
        loop {
            let mut text = String::new();
            if let Ok(mut file) = File::open(&self.ready) {
                let _ = file.read_to_string(&mut text);
            }
            if let Some(pid) = text.strip_suffix('\n').and_then(|text| text.parse().ok()) {
                self.host.pid = pid;
                return Ok(self.host);
            }
            let handle = self.host.handle.as_ref();
            let ended = handle.is_some_and(|handle| !matches!(handle.try_wait(), Ok(None)));
            if ended || begin.elapsed() > TIMEOUT {
                let log = fs::read_to_string(&self.log).unwrap_or_default();
                self.host.end();
                let what = if ended { "ended early" } else { "did not get ready" };
                return Err(failed(&format!("a machine {what}: {}", log.trim())));
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}
