//! How far long work is, on a terminal; nothing elsewhere.

use std::io::IsTerminal as _;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::system::threads;

const COUNTED: &str = "[{pos}/{len}] {wide_msg}";
const BUSY: &str = "{spinner} {wide_msg}";

fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar())
}

/// A line on standard error that is gone when the work is done. It is drawn only where standard
/// error is a terminal.
#[derive(Debug)]
pub(super) struct Progress {
    bar: ProgressBar,
}

impl Progress {
    /// A line for work of a number of steps, where that is known already.
    pub(super) fn new(steps: Option<usize>) -> Self {
        let steps = steps.map(|steps| steps as u64);
        let bar = ProgressBar::with_draw_target(steps, ProgressDrawTarget::stderr());
        bar.set_style(style(COUNTED));
        Self { bar }
    }

    /// A line that is never drawn.
    pub(super) fn none() -> Self {
        Self { bar: ProgressBar::hidden() }
    }

    /// Work whose steps can't be counted.
    pub(super) fn busy(&self, what: &str) {
        const TICK: Duration = Duration::from_millis(100);
        self.bar.set_style(style(BUSY));
        self.bar.set_message(what.to_owned());
        // That takes a thread.
        if std::io::stderr().is_terminal() && !threads::alone() {
            self.bar.enable_steady_tick(TICK);
        }
    }

    /// Step `number` of `of` begins.
    pub(super) fn step(&self, number: usize, of: usize, what: &str) {
        self.bar.disable_steady_tick();
        self.bar.set_style(style(COUNTED));
        self.bar.update(|state| {
            state.set_len(of as u64);
            state.set_pos(number as u64);
        });
        self.bar.set_message(what.to_owned());
    }

    /// One more of the steps is done; by any thread.
    pub(super) fn done(&self, what: &str) {
        self.bar.set_message(what.to_owned());
        self.bar.inc(1);
    }

    /// Prints something else without the line in between.
    pub(super) fn aside(&self, print: impl FnOnce()) {
        self.bar.suspend(print);
    }

    /// Takes the line away.
    pub(super) fn end(&self) {
        self.bar.finish_and_clear();
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.end();
    }
}
