//! The pure stages in a row: from paths to an [`Intent`], and with the lock file to a [`Model`].

use std::io::Read;
use std::path::{Path, PathBuf};

use crate::allocate::{Allocations, allocate, handed_on, unused_blocks};
use crate::diagnostic::{Code, Diagnostic, Report, Sources, counted};
use crate::input;
use crate::intent::Intent;
use crate::lock::{self, Lock, names};
use crate::model::Model;
use crate::resolve::resolve;
use crate::value::Timestamp;

/// What was read, and what was found on the way.
#[derive(Debug)]
pub struct Loaded {
    /// The texts, for the places of diagnostics. The lock file is the last, if there is one.
    pub sources: Sources,
    /// The findings so far.
    pub report: Report,
    /// What the desired state means, where it has no errors.
    pub intent: Option<Intent>,
    /// The lock file with its index in the sources; `None` where there is none.
    pub lock: Option<(Lock, u32)>,
    /// Where the lock file is, or would be.
    pub lock_path: PathBuf,
}

impl Loaded {
    /// Reads the desired state, and the lock file beside it or at `lock`.
    pub fn read(paths: &[PathBuf], lock: Option<&Path>, stdin: &mut dyn Read) -> Self {
        let (mut sources, mut report) = input::read(paths, stdin);
        let lock_path = lock.map_or_else(|| sources.root().join(lock::FILE_NAME), Path::to_owned);
        let lock_path = lock_path.strip_prefix(".").map_or(lock_path.clone(), Path::to_owned);
        let ((intent, found), lock_text) =
            rayon::join(|| understand(&sources, report.has_errors()), || lock::read(&lock_path));
        report.extend(found);
        let lock = lock_text
            .and_then(|text| text.map(|text| text.store(&lock_path, &mut sources)).transpose());
        let lock = lock.unwrap_or_else(|diagnostic| {
            report.push(diagnostic);
            None
        });
        let intent = intent.filter(|_| !report.has_errors());
        Self { sources, report, intent, lock, lock_path }
    }

    /// How old the addresses of names are that the lock file has, in words. Adds to the report
    /// which are too old.
    pub fn check_age(&mut self, now: Timestamp) -> Option<String> {
        let (Some(intent), Some((lock, _))) = (&self.intent, &self.lock) else { return None };
        self.report.extend(names::check_age(intent, lock, now));
        names::oldest(intent, lock, now)
    }

    /// The numbers of all objects and the lock file that holds them, from the lock file as it is
    /// and what it lacks. Adds to the report why there are none.
    pub fn allocate(&mut self, prune: bool) -> Option<(Allocations, Lock)> {
        let empty = Lock::default();
        let (lock, source) = match &self.lock {
            Some((lock, source)) => (lock, Some(*source)),
            None => (&empty, None),
        };
        let intent = self.intent.as_ref()?;
        match allocate(intent, lock, prune, source, &self.sources) {
            Ok((numbers, new)) => {
                // Which ports and addresses there are shows only now.
                self.report.extend(unused_blocks(intent, &numbers));
                self.report.extend(handed_on(intent, lock, prune, &numbers));
                Some((numbers, new))
            }
            Err(found) => {
                self.report.extend(found);
                None
            }
        }
    }

    /// The model, where nothing is wrong and the lock file is there and up to date.
    pub fn model(mut self) -> Result<(Model, Sources, Report), (Sources, Report)> {
        let allocated = self.allocate(false);
        if let Some((_, new)) = &allocated {
            self.check_lock(new);
        }
        self.finish(allocated)
    }

    fn finish(
        mut self,
        allocated: Option<(Allocations, Lock)>,
    ) -> Result<(Model, Sources, Report), (Sources, Report)> {
        if let (Some(intent), Some((_, lock))) = (&self.intent, &allocated) {
            self.report.extend(names::check(intent, lock));
        }
        let Self { sources, report, intent, .. } = self;
        match (intent, allocated) {
            (Some(intent), Some((numbers, _))) if !report.has_errors() => {
                Ok((Model::new(intent, numbers), sources, report))
            }
            _ => Err((sources, report)),
        }
    }

    /// The model with what the lock file lacks allocated in memory, for trying things out.
    pub fn draft(mut self) -> Result<(Model, Sources, Report), (Sources, Report)> {
        let allocated = self.allocate(false);
        self.finish(allocated)
    }

    /// RF100 and RF101: the lock file is there and has just what is needed.
    pub fn check_lock(&mut self, new: &Lock) {
        let path = self.lock_path.display();
        let Some((old, _)) = &self.lock else {
            self.report.push(
                Diagnostic::new(Code::LockMissing, format!("there is no lock file `{path}`"))
                    .help("run `ringfence lock` on the same paths, and commit the file"),
            );
            return;
        };
        let differing = lock::differences(old, new);
        if let Some(first) = differing.first() {
            let more = match differing.len() - 1 {
                0 => String::new(),
                more => format!(", and {}", counted(more, "more difference")),
            };
            let message = format!("the lock file `{path}` is stale: {first}{more}");
            self.report.push(
                Diagnostic::new(Code::LockStale, message)
                    .help("run `ringfence lock` on the same paths, and commit the file"),
            );
        }
    }
}

fn understand(sources: &Sources, incomplete: bool) -> (Option<Intent>, Report) {
    let (documents, mut report) = input::parse(sources);
    let complete = !incomplete && !report.has_errors();
    let (intent, found) = resolve(&documents, complete);
    report.extend(found);
    (intent, report)
}
