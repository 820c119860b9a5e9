//! How a file differs from what it should be, as a unified diff that is made at once: the text of a
//! change is small, where both files may be large.

use std::fmt::Write as _;

use similar::{Algorithm, DiffOp, capture_diff_slices, group_diff_ops};

/// The lines around a change that are shown.
const CONTEXT: usize = 3;

/// A unified diff with its numbers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FileDiff {
    /// The text, header included.
    pub text: String,
    /// The lines that come and go.
    pub lines: Count,
    /// The flows among them.
    pub flows: Count,
}

/// What comes and what goes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Count {
    /// What comes.
    pub added: usize,
    /// What goes.
    pub removed: usize,
}

impl std::ops::AddAssign for Count {
    fn add_assign(&mut self, other: Self) {
        self.added += other.added;
        self.removed += other.removed;
    }
}

impl FileDiff {
    /// The difference between two contents of the file with this name.
    #[must_use]
    pub fn between(name: &str, old: &[u8], new: &[u8]) -> Self {
        let (old, new) = (String::from_utf8_lossy(old), String::from_utf8_lossy(new));
        let old: Vec<&str> = old.split_inclusive('\n').collect();
        let new: Vec<&str> = new.split_inclusive('\n').collect();
        let mut diff = Self { text: format!("--- a/{name}\n+++ b/{name}\n"), ..Self::default() };
        for hunk in group_diff_ops(operations(&old, &new), CONTEXT) {
            diff.hunk(&hunk, &old, &new);
        }
        diff
    }

    fn hunk(&mut self, operations: &[DiffOp], old: &[&str], new: &[&str]) {
        let (Some(first), Some(last)) = (operations.first(), operations.last()) else { return };
        let (from, to) = (first.old_range().start, first.new_range().start);
        let before = range(from, last.old_range().end - from);
        let after = range(to, last.new_range().end - to);
        let _ = writeln!(self.text, "@@ -{before} +{after} @@");
        for operation in operations {
            if let DiffOp::Equal { .. } = operation {
                for line in &old[operation.old_range()] {
                    self.line(' ', line);
                }
                continue;
            }
            for line in &old[operation.old_range()] {
                self.line('-', line);
                self.lines.removed += 1;
                self.flows.removed += usize::from(line.starts_with("cookie="));
            }
            for line in &new[operation.new_range()] {
                self.line('+', line);
                self.lines.added += 1;
                self.flows.added += usize::from(line.starts_with("cookie="));
            }
        }
    }

    fn line(&mut self, sign: char, line: &str) {
        self.text.push(sign);
        self.text.push_str(line);
        if !line.ends_with('\n') {
            self.text.push_str("\n\\ No newline at end of file\n");
        }
    }
}

/// The operations that lead from one to the other. What is the same at both ends is not searched.
fn operations(old: &[&str], new: &[&str]) -> Vec<DiffOp> {
    let head = old.iter().zip(new).take_while(|(a, b)| a == b).count();
    let rest = (&old[head..], &new[head..]);
    let tail = rest.0.iter().rev().zip(rest.1.iter().rev()).take_while(|(a, b)| a == b).count();
    let (old_end, new_end) = (old.len() - tail, new.len() - tail);
    let equal = |old_index, new_index, len| {
        (len > 0).then_some(DiffOp::Equal { old_index, new_index, len })
    };
    let middle = capture_diff_slices(Algorithm::Myers, &old[head..old_end], &new[head..new_end]);
    let moved = middle.into_iter().map(|operation| shifted(operation, head));
    equal(0, 0, head).into_iter().chain(moved).chain(equal(old_end, new_end, tail)).collect()
}

fn shifted(operation: DiffOp, by: usize) -> DiffOp {
    match operation {
        DiffOp::Equal { old_index, new_index, len } => {
            DiffOp::Equal { old_index: old_index + by, new_index: new_index + by, len }
        }
        DiffOp::Delete { old_index, old_len, new_index } => {
            DiffOp::Delete { old_index: old_index + by, old_len, new_index: new_index + by }
        }
        DiffOp::Insert { old_index, new_index, new_len } => {
            DiffOp::Insert { old_index: old_index + by, new_index: new_index + by, new_len }
        }
        DiffOp::Replace { old_index, old_len, new_index, new_len } => DiffOp::Replace {
            old_index: old_index + by,
            old_len,
            new_index: new_index + by,
            new_len,
        },
    }
}

/// Lines as the header of a hunk names them: the first and how many, or the one before none.
fn range(start: usize, length: usize) -> String {
    match length {
        0 => format!("{start},0"),
        1 => (start + 1).to_string(),
        _ => format!("{},{length}", start + 1),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What `similar` makes of whole texts.
    fn whole(old: &str, new: &str) -> String {
        let diff = similar::TextDiff::from_lines(old, new);
        diff.unified_diff().context_radius(CONTEXT).header("a/f", "b/f").to_string()
    }

    #[test]
    fn a_diff_is_that_of_the_whole_texts() {
        let lines = |numbers: &[u32]| -> String {
            numbers
                .iter()
                .flat_map(|number| ["line ".to_owned(), number.to_string(), "\n".to_owned()])
                .collect()
        };
        let all: Vec<u32> = (0..30).collect();
        let without = |gone: &[u32]| {
            lines(&all.iter().copied().filter(|n| !gone.contains(n)).collect::<Vec<_>>())
        };
        for (old, new) in [
            (lines(&all), without(&[0])),
            (lines(&all), without(&[29])),
            (without(&[3, 17]), without(&[4, 18, 29])),
            (String::new(), lines(&all)),
            (lines(&all), String::new()),
            (lines(&all), lines(&all) + "no end"),
            ("a\n".to_owned(), "b\n".to_owned()),
        ] {
            assert_eq!(
                FileDiff::between("f", old.as_bytes(), new.as_bytes()).text,
                whole(&old, &new)
            );
        }
    }

    #[test]
    fn flows_are_counted_apart() {
        let old = "# table 0\ncookie=0x1, a\ncookie=0x2, b\n";
        let new = "# table 1\ncookie=0x1, a\ncookie=0x3, b\ncookie=0x4, c\n";
        let diff = FileDiff::between("f", old.as_bytes(), new.as_bytes());
        assert_eq!(diff.lines, Count { added: 3, removed: 2 });
        assert_eq!(diff.flows, Count { added: 2, removed: 1 });
    }
}
