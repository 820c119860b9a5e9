//! `ringfence lock`.

use clap::Args;

use super::{Exit, Input, print, show, tell};
use crate::diagnostic::counted;
use crate::lock::{self, Lock};

#[derive(Debug, Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    input: Input,
    /// Write nothing; show what would change and exit with 2 if anything would
    #[arg(long)]
    check: bool,
    /// Forget the VNIDs and addresses of what is gone, and who has left a join. Do so once all
    /// nodes run the present generation
    #[arg(long)]
    prune: bool,
}

pub(super) fn run(arguments: &Arguments) -> Exit {
    let mut loaded = arguments.input.read();
    let allocated = loaded.allocate(arguments.prune);
    show(&loaded.report, &loaded.sources);
    let (Some((_, new)), false) = (allocated, loaded.report.has_errors()) else {
        return Exit::Error;
    };
    let path = &loaded.lock_path;
    let exists = loaded.lock.is_some();
    let old = loaded.lock.map_or_else(Lock::default, |(lock, _)| lock);
    let differing = lock::differences(&old, &new).len();
    // A file that was edited by hand is brought into form again.
    let text = new.render();
    let same = exists && std::fs::read_to_string(path).is_ok_and(|old| old == text);
    if same {
        tell(&format!("{} is up to date", path.display()));
        return Exit::Done;
    }
    if arguments.check {
        let old = std::fs::read_to_string(path).unwrap_or_default();
        let diff = similar::TextDiff::from_lines(&old, &text);
        let name = path.display().to_string();
        print(&diff.unified_diff().header(&name, &name).to_string());
        return Exit::Differs;
    }
    if let Err(diagnostic) = lock::write(path, &new) {
        show(&diagnostic.into(), &loaded.sources);
        return Exit::Error;
    }
    tell(&format!("{}: {}", path.display(), counted(differing, "change")));
    Exit::Done
}
