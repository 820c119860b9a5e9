//! Points in time.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use super::TimeSpan;

/// A point in time, in whole seconds since 1970, written as RFC 3339 has it:
/// `2026-11-21T15:24:42Z`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Timestamp(u64);

/// The last second that RFC 3339 can write: the end of the year 9999.
const LAST: u64 = 253_402_300_799;

impl Timestamp {
    /// The moment that is so many seconds after the beginning of 1970, up to the year 9999.
    #[must_use]
    pub fn from_seconds(seconds: u64) -> Option<Self> {
        (seconds <= LAST).then_some(Self(seconds))
    }

    /// The seconds since the beginning of 1970.
    #[must_use]
    pub fn seconds(self) -> u64 {
        self.0
    }

    /// How long before `later` it was, in seconds; 0 where it wasn't.
    #[must_use]
    pub fn age_at(self, later: Self) -> u64 {
        later.0.saturating_sub(self.0)
    }

    /// Whether it was longer before `later` than a span.
    #[must_use]
    pub fn is_older(self, span: TimeSpan, later: Self) -> bool {
        self.age_at(later) > span.seconds()
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        #[expect(clippy::disallowed_types, reason = "no clock is read")]
        let time = std::time::SystemTime::UNIX_EPOCH + Duration::from_secs(self.0);
        humantime::format_rfc3339_seconds(time).fmt(f)
    }
}

impl FromStr for Timestamp {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let whole = humantime::parse_rfc3339(text).ok().and_then(|time| {
            #[expect(clippy::disallowed_types, reason = "no clock is read")]
            let since = time.duration_since(std::time::SystemTime::UNIX_EPOCH).ok()?;
            Self::from_seconds(since.as_secs())
        });
        // Only one form of each, so that a file that is read and written stays the same.
        whole
            .filter(|moment| moment.to_string() == text)
            .ok_or_else(|| format!("`{text}` is not a time such as 2026-11-21T15:24:42Z"))
    }
}

/// An age in its two longest units, for people: `3h 20m`.
#[must_use]
pub fn humanize(seconds: u64) -> String {
    let (d, h, m, s) = (seconds / 86_400, seconds / 3_600 % 24, seconds / 60 % 60, seconds % 60);
    let (first, second) = match (d, h, m) {
        (0, 0, 0) => return format!("{s}s"),
        (0, 0, _) => ((m, 'm'), (s, 's')),
        (0, _, _) => ((h, 'h'), (m, 'm')),
        _ => ((d, 'd'), (h, 'h')),
    };
    match second.0 {
        0 => format!("{}{}", first.0, first.1),
        _ => format!("{}{} {}{}", first.0, first.1, second.0, second.1),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_read_as_they_are_written() {
        for text in ["1970-01-01T00:00:00Z", "2026-11-21T15:24:42Z", "9999-12-31T23:59:59Z"] {
            assert_eq!(
                text.parse::<Timestamp>().map(|moment| moment.to_string()).as_deref(),
                Ok(text)
            );
        }
        for text in ["", "2026-11-21", "2026-11-21T15:24:42", "2026-13-01T00:00:00Z"] {
            assert!(text.parse::<Timestamp>().is_err(), "{text}");
        }
    }

    #[test]
    fn ages_are_told_in_two_units() {
        let told = [5, 60, 61, 3_600, 12_000, 86_400, 200_000].map(humanize);
        assert_eq!(told, ["5s", "1m", "1m 1s", "1h", "3h 20m", "1d", "2d 7h"]);
    }
}
