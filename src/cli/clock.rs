//! What time it is, for the commands that ask.

use clap::Args;

use crate::diagnostic::{Code, Diagnostic, quoted};
use crate::value::Timestamp;

/// The variable that reproducible builds give the time with, in seconds since 1970.
const VARIABLE: &str = "SOURCE_DATE_EPOCH";

/// The time of a run.
#[derive(Debug, Args)]
pub(super) struct Clock {
    /// The time that ages are counted to, such as 2026-11-21T15:24:42Z [default: now, or what
    /// the variable `SOURCE_DATE_EPOCH` says]
    #[arg(long, value_name = "TIME")]
    now: Option<Timestamp>,
}

impl Clock {
    /// The time that was given, or what the machine's clock says.
    pub(super) fn now(&self) -> Result<Timestamp, Diagnostic> {
        if let Some(now) = self.now {
            return Ok(now);
        }
        let Some(text) = std::env::var_os(VARIABLE) else { return Ok(read()) };
        let text = text.to_string_lossy();
        text.parse().ok().and_then(Timestamp::from_seconds).ok_or_else(|| {
            let message = format!("{} in {VARIABLE} is not a time", quoted(&text));
            Diagnostic::new(Code::BadValue, message)
                .help("it is a number of seconds since 1970, such as 1795274682")
        })
    }
}

#[expect(clippy::disallowed_types, reason = "the only place that reads the clock")]
fn read() -> Timestamp {
    let since = std::time::SystemTime::now().duration_since(std::time::SystemTime::UNIX_EPOCH);
    let seconds = since.map_or(0, |since| since.as_secs());
    Timestamp::from_seconds(seconds).unwrap_or_default()
}
