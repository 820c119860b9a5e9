//! `ringfence resolve`.

use std::collections::BTreeMap;

use clap::Args;

use super::clock::Clock;
use super::{Exit, Input, print, show, tell};
use crate::diagnostic::{Diagnostic, counted};
use crate::lock::names::{Update, update};
use crate::lock::{self, Lock, dns};
use crate::value::{NameServer, StringValue as _};

#[derive(Debug, Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    input: Input,
    /// A name server to ask, instead of those of `cluster.dns.servers`; can be repeated, the first
    /// that answers counts [default without any: those of /etc/resolv.conf]
    #[arg(long = "server", value_name = "IP[:PORT]", value_parser = server)]
    servers: Vec<NameServer>,
    /// Write nothing; show what an update would change and exit with 2 if one is due: an address
    /// came or went, or is at half of its age
    #[arg(long)]
    check: bool,
    #[command(flatten)]
    clock: Clock,
}

fn lines(lines: &[String]) -> String {
    lines.iter().flat_map(|line| [line, "\n"]).collect()
}

fn server(text: &str) -> Result<NameServer, String> {
    NameServer::parse(text).map_err(|invalid| invalid.message)
}

pub(super) fn run(arguments: &Arguments) -> Exit {
    let mut loaded = arguments.input.read();
    let updated = match &loaded.intent {
        Some(intent) if !loaded.report.has_errors() => {
            let none = Lock::default();
            let lock = loaded.lock.as_ref().map_or(&none, |(lock, _)| lock);
            arguments.update(intent, lock)
        }
        _ => {
            show(&loaded.report, &loaded.sources);
            return Exit::Error;
        }
    };
    let Update { lock, report, changes, ageing } = match updated {
        Ok(updated) => updated,
        Err(diagnostic) => {
            loaded.report.push(diagnostic);
            show(&loaded.report, &loaded.sources);
            return Exit::Error;
        }
    };
    loaded.report.extend(report);
    if arguments.input.deny_warnings {
        loaded.report.deny_warnings();
    }
    show(&loaded.report, &loaded.sources);
    if loaded.report.has_errors() {
        return Exit::Error;
    }
    let path = &loaded.lock_path;
    let names = loaded.intent.as_ref().map_or(0, |intent| intent.named_rules().len());
    let known =
        format!("{}, {}", counted(names, "name"), counted(lock.resolved_names.len(), "address"));
    print(&lines(&changes));
    if arguments.check {
        print(&lines(&ageing));
        if changes.is_empty() && ageing.is_empty() {
            tell(&format!("{}: {known}, no update is due", path.display()));
            return Exit::Done;
        }
        tell(&format!("{}: {known}, an update is due", path.display()));
        return Exit::Differs;
    }
    let same = loaded.lock.as_ref().map_or(lock == Lock::default(), |(old, _)| *old == lock);
    if !same && let Err(diagnostic) = lock::write(path, &lock) {
        show(&diagnostic.into(), &loaded.sources);
        return Exit::Error;
    }
    let changed = match changes.len() {
        0 => "the same as before".to_owned(),
        changes => counted(changes, "change"),
    };
    tell(&format!("{}: {known}, {changed}", path.display()));
    Exit::Done
}

impl Arguments {
    fn update(&self, intent: &crate::intent::Intent, lock: &Lock) -> Result<Update, Diagnostic> {
        let now = self.clock.now()?;
        let names: Vec<_> = intent.named_rules().into_keys().cloned().collect();
        let servers =
            if self.servers.is_empty() { &intent.cluster().dns.servers } else { &self.servers };
        // Without names, nobody needs a name server.
        let answers = if names.is_empty() { BTreeMap::new() } else { dns::ask(servers, names)? };
        Ok(update(intent, lock, &answers, now))
    }
}
