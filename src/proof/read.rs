//! The emitted files of a node as compact types.
//!
//! **Total or refused**: every byte of a line is understood, or the file is not read and nothing is
//! proven. An unknown word, a condition without what it needs, a duplicate, host bits, a
//! mask that is no range, and text behind the end are refused with file and line.

pub mod cursor;
pub mod flows;
pub mod groups;
pub mod nft;
pub mod node;
pub mod shell;

/// Why a file could not be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unread {
    /// The file, from the root of the output tree.
    pub file: String,
    /// The line, from 1; 0 for all of it.
    pub line: u32,
    /// What is wrong there.
    pub why: String,
}

impl Unread {
    /// Something wrong in a line.
    pub fn new(file: &str, line: usize, why: impl Into<String>) -> Self {
        Self { file: file.to_owned(), line: u32::try_from(line).unwrap_or(0), why: why.into() }
    }
}

impl std::fmt::Display for Unread {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.line {
            0 => write!(f, "{}: {}", self.file, self.why),
            line => write!(f, "{}:{line}: {}", self.file, self.why),
        }
    }
}
