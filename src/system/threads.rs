//! Threads, where the machine gives any.
//!
//! A limit on processes is met by whoever starts the next thread. So it is found out at the beginning,
//! and everything happens one after the other then.

use std::panic::resume_unwind;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{Builder, Scope};

use crate::diagnostic::{Code, Diagnostic};

/// Whether this process has only the thread that it began with.
static ALONE: AtomicBool = AtomicBool::new(false);

/// Whether this process has to do with the thread that it began with.
pub(crate) fn alone() -> bool {
    ALONE.load(Ordering::Relaxed)
}

/// Starts the threads that work on many things at once, or sees to it that the first thread does it
/// all.
pub(crate) fn start() -> Result<(), Diagnostic> {
    let wanted = std::thread::available_parallelism().map_or(1, usize::from);
    // Those of the pool can be asked for only once. A few more are for programs that run meanwhile.
    let pool = if can_start(wanted + SPARE) {
        rayon::ThreadPoolBuilder::new().num_threads(wanted)
    } else {
        ALONE.store(true, Ordering::Relaxed);
        rayon::ThreadPoolBuilder::new().num_threads(1).use_current_thread()
    };
    pool.build_global().map_err(|error| {
        Diagnostic::new(Code::CommandFailed, format!("cannot start threads: {error}"))
            .help("raise the limit on processes: `ulimit -u`, or `TasksMax=` of a systemd unit")
    })
}

const SPARE: usize = 6;

/// Whether so many threads can be started at once.
fn can_start(number: usize) -> bool {
    let gate = Mutex::new(());
    let Ok(closed) = gate.lock() else { return false };
    std::thread::scope(|scope| {
        let started = (0..number).all(|_| spawn(scope, || drop(gate.lock())).is_some());
        // All of them wait until here.
        drop(closed);
        started
    })
}

fn spawn<'scope, T: Send + 'scope>(
    scope: &'scope Scope<'scope, '_>,
    work: impl FnOnce() -> T + Send + 'scope,
) -> Option<std::thread::ScopedJoinHandle<'scope, T>> {
    Builder::new().spawn_scoped(scope, work).ok()
}

/// Does two things at the same time that mostly wait for other processes; one after the other where
/// there is no thread for the second.
pub(crate) fn both<A, B: Send>(one: impl FnOnce() -> A, other: impl Fn() -> B + Sync) -> (A, B) {
    if alone() {
        return (one(), other());
    }
    std::thread::scope(|scope| {
        let started = spawn(scope, &other);
        let one = one();
        let other = match started {
            Some(started) => started.join().unwrap_or_else(|panic| resume_unwind(panic)),
            None => other(),
        };
        (one, other)
    })
}
