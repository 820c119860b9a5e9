//! The texts of a run and the places in them.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

/// A position in the input. Orders by file, line and column.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// Index into [`Sources`].
    pub source: u32,
    /// Line, from 1.
    pub line: u32,
    /// Column in characters, from 1.
    pub column: u32,
    /// How many characters of the line are meant; 0 for a place without an extent.
    pub length: u32,
}

/// One text of the input.
#[derive(Debug)]
pub struct Source {
    /// The path as it was given, for diagnostics.
    display: String,
    /// The path from the root of the desired state, for the output: the same whatever directory
    /// ringfence runs in.
    name: String,
    text: String,
    lines: OnceLock<Vec<usize>>,
}

impl Source {
    /// A text that stands for a file.
    #[must_use]
    pub fn new(display: impl Into<String>, name: impl Into<String>, text: String) -> Self {
        Self { display: display.into(), name: name.into(), text, lines: OnceLock::new() }
    }

    /// The whole text.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The path from the root of the desired state.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    fn line_starts(&self) -> &[usize] {
        self.lines.get_or_init(|| {
            let bytes = self.text.as_bytes();
            let ends_line = |(n, byte): (usize, &u8)| match byte {
                b'\n' => true,
                b'\r' => bytes.get(n + 1) != Some(&b'\n'),
                _ => false,
            };
            let ends = bytes.iter().enumerate().filter(|at| ends_line(*at)).map(|(n, _)| n + 1);
            std::iter::once(0).chain(ends).collect()
        })
    }
}

/// All texts of a run, by the order of their paths.
#[derive(Debug, Default)]
pub struct Sources {
    sources: Vec<Source>,
    root: PathBuf,
}

impl Sources {
    /// Texts from memory, for tests and tools.
    #[must_use]
    pub fn from_texts(sources: Vec<Source>) -> Self {
        Self { sources, root: PathBuf::from(".") }
    }

    /// The folder that the lock file stands in, and that [`Source::name`] counts from.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Texts that were read below `root`.
    #[must_use]
    pub fn below(root: PathBuf, sources: Vec<Source>) -> Self {
        Self { sources, root }
    }

    /// The texts, in order.
    pub fn iter(&self) -> impl Iterator<Item = &Source> {
        self.sources.iter()
    }

    /// The BLAKE3 digest of every text, by its path from the root.
    #[must_use]
    pub fn digests(&self) -> BTreeMap<String, String> {
        let digest = |source: &Source| {
            let digest = blake3::hash(source.text().as_bytes());
            (source.name().to_owned(), digest.to_hex().to_string())
        };
        self.sources.iter().map(digest).collect()
    }

    /// Adds a text and returns its index.
    pub fn add(&mut self, source: Source) -> u32 {
        self.sources.push(source);
        u32::try_from(self.sources.len() - 1).unwrap_or(u32::MAX)
    }

    /// The path of a source as it was given.
    #[must_use]
    pub fn display(&self, source: u32) -> &str {
        self.sources.get(source as usize).map_or("<unknown>", |source| &source.display)
    }

    /// `file:line:col`, with the file's path from the root.
    #[must_use]
    pub fn position(&self, place: Place) -> String {
        let name = self.sources.get(place.source as usize).map_or("<unknown>", Source::name);
        format!("{name}:{}:{}", place.line, place.column)
    }

    /// The line of a place, without its end.
    #[must_use]
    pub fn line(&self, place: Place) -> &str {
        let Some(source) = self.sources.get(place.source as usize) else { return "" };
        let starts = source.line_starts();
        let line = (place.line as usize).saturating_sub(1);
        let Some(&start) = starts.get(line) else { return "" };
        let end = starts.get(line + 1).copied().unwrap_or(source.text.len());
        source.text[start..end].trim_end_matches(['\n', '\r'])
    }
}
