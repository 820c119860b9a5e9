//! Spans of time.

use std::fmt;

use super::{Invalid, StringValue, string_value};
use crate::diagnostic::{Code, quoted};

/// A span of time in seconds, at least one and at most 999 days.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct TimeSpan(u64);

/// The units, from the longest, in seconds.
const UNITS: [(char, u64); 4] = [('d', 86_400), ('h', 3_600), ('m', 60), ('s', 1)];

impl TimeSpan {
    /// A span of hours.
    #[must_use]
    pub const fn hours(hours: u16) -> Self {
        Self(hours as u64 * 3_600)
    }

    /// Its length in seconds.
    #[must_use]
    pub const fn seconds(self) -> u64 {
        self.0
    }
}

impl fmt::Display for TimeSpan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let unit = UNITS.into_iter().find(|(_, seconds)| self.0.is_multiple_of(*seconds));
        let (unit, seconds) = unit.unwrap_or(('s', 1));
        write!(f, "{}{unit}", self.0 / seconds)
    }
}

impl StringValue for TimeSpan {
    const FORMAT: &'static str = "span";

    fn parse(text: &str) -> Result<Self, Invalid> {
        let span = || {
            let (number, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
            let (_, seconds) = UNITS.into_iter().find(|(name, _)| unit.starts_with(*name))?;
            let digits = !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit());
            let span = number.parse::<u64>().ok().filter(|_| digits)?.checked_mul(seconds)?;
            (1..=999 * 86_400).contains(&span).then_some(Self(span))
        };
        span().ok_or_else(|| {
            Invalid::new(Code::BadValue, format!("{} is not a span of time", quoted(text)))
                .help("write a number and `s`, `m`, `h` or `d`, such as 30m or 1d; at most 999d")
        })
    }
}

string_value!(TimeSpan, "a span of time: a number and s, m, h or d", "^[0-9]{1,8}[smhd]$", "6h");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_print_in_their_longest_unit() {
        let printed = |text: &str| TimeSpan::parse(text).map(|span| span.to_string());
        for (text, shown) in [("1d", "1d"), ("24h", "1d"), ("90m", "90m"), ("60s", "1m")] {
            assert_eq!(printed(text).as_deref(), Ok(shown));
        }
        for bad in
            ["", "1", "h", "0h", "-1h", "+1h", "1 h", "1w", "1000d", "1.5h", "99999999d", "é"]
        {
            assert!(printed(bad).is_err(), "{bad}");
        }
    }
}
