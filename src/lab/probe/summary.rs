//! What all probes found, as a table.

use super::{Observed, Probe};

/// All probes of a run with what happened.
#[derive(Clone, Debug, Default)]
pub struct Summary {
    /// Each probe, in the order of the table.
    pub results: Vec<(Probe, Observed)>,
}

impl Summary {
    /// How many did what was expected, and how many didn't.
    #[must_use]
    pub fn counts(&self) -> (usize, usize) {
        let good = self.results.iter().filter(|(probe, seen)| seen.is(&probe.want)).count();
        (good, self.results.len() - good)
    }

    /// The table of what was expected and what happened.
    #[must_use]
    pub fn table(&self) -> String {
        let mut rows = vec![["probe", "expected", "happened", ""].map(str::to_owned)];
        for (probe, seen) in &self.results {
            let good = seen.is(&probe.want);
            let mark = if good { "ok".to_owned() } else { format!("WRONG: {}", probe.because) };
            let (wanted, happened) = (probe.want.words(probe.to), seen.words(probe.to));
            rows.push([probe.title.clone(), wanted, happened, mark]);
        }
        let width = |column: usize| {
            rows.iter().map(|row| row[column].chars().count()).max().unwrap_or_default()
        };
        let widths = [width(0), width(1), width(2)];
        let line = |row: &[String; 4]| {
            let [probe, expected, happened, mark] = row;
            let [a, b, c] = widths;
            format!("{probe:a$}  {expected:b$}  {happened:c$}  {mark}").trim_end().to_owned()
        };
        rows.iter().map(|row| line(row) + "\n").collect()
    }
}
