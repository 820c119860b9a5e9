//! Reading the desired state: files, directories and standard input become [`Sources`].

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use rustix::fs::{Mode, OFlags};

use crate::diagnostic::{Code, Diagnostic, Report, reason};

/// The most bytes of one file, and of standard input.
pub const MAX_FILE_BYTES: u64 = 64 << 20;
/// The most bytes of all files of a run together.
pub const MAX_TOTAL_BYTES: u64 = 256 << 20;

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

    /// Reads `paths`: files, directories (their `*.yaml` and `*.yml`, hidden ones left out) and
    /// `-` for standard input.
    ///
    /// Input that can't be read is reported and the rest is read all the same.
    pub fn read(paths: &[PathBuf], stdin: &mut dyn Read) -> (Self, Report) {
        let mut report = Report::new();
        let root = root_of(paths);
        let mut files: Vec<PathBuf> = Vec::new();
        for path in paths {
            list(path, &mut files, &mut report);
        }
        files.sort();
        files.dedup();
        let mut sources = Vec::new();
        let mut left = MAX_TOTAL_BYTES;
        for path in files {
            // `./` says nothing, and annotations of a pull request don't match with it.
            let shown = path.strip_prefix(".").unwrap_or(&path);
            let display = shown.to_string_lossy().into_owned();
            let (bytes, name) = if is_stdin(&path) {
                (read_bounded(stdin), "stdin".to_owned())
            } else {
                let name = path.strip_prefix(&root).unwrap_or(&path).to_string_lossy().into_owned();
                (read_file(&path), name)
            };
            let display = if is_stdin(&path) { "<stdin>".to_owned() } else { display };
            match bytes.map_err(|error| unreadable(&display, &error)) {
                Ok(bytes) => {
                    let length = bytes.len() as u64;
                    if length > MAX_FILE_BYTES || length > left {
                        report.push(too_large(&display, length > MAX_FILE_BYTES));
                        continue;
                    }
                    left -= length;
                    match String::from_utf8(bytes) {
                        Ok(text) => sources.push(Source::new(display, name, without_bom(text))),
                        Err(error) => report.push(not_utf8(&display, &error)),
                    }
                }
                Err(diagnostic) => report.push(diagnostic),
            }
        }
        (Self { sources, root }, report)
    }

    /// The folder that the lock file stands in, and that [`Source::name`] counts from.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
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

fn is_stdin(path: &Path) -> bool {
    path.as_os_str() == "-"
}

/// The folder of the first path: itself where it is a directory.
fn root_of(paths: &[PathBuf]) -> PathBuf {
    let Some(first) = paths.iter().find(|path| !is_stdin(path)) else { return PathBuf::from(".") };
    if first.is_dir() {
        return first.clone();
    }
    match first.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
        _ => PathBuf::from("."),
    }
}

fn list(path: &Path, files: &mut Vec<PathBuf>, report: &mut Report) {
    if !path.is_dir() {
        files.push(path.to_owned());
        return;
    }
    let before = files.len();
    if let Err(error) = list_directory(path, files) {
        report.push(unreadable(&path.to_string_lossy(), &error));
    } else if files.len() == before {
        let message = format!("no *.yaml or *.yml file in `{}`", path.display());
        report.push(
            Diagnostic::new(Code::Unreadable, message)
                .help("name the directory or the files that hold the desired state"),
        );
    }
}

fn list_directory(directory: &Path, files: &mut Vec<PathBuf>) -> io::Result<()> {
    for entry in directory.read_dir()? {
        let entry = entry?;
        let name = entry.file_name();
        if name.to_string_lossy().starts_with('.') {
            continue;
        }
        let path = entry.path();
        // A link to a directory could lead in a circle; a link to a file can't.
        if entry.file_type()?.is_dir() {
            list_directory(&path, files)?;
        } else if path.extension().is_some_and(|e| e == "yaml" || e == "yml") && !path.is_dir() {
            files.push(path);
        }
    }
    Ok(())
}

/// The bytes of a file, or the first of them where it has more than [`MAX_FILE_BYTES`].
pub(crate) fn read_file(path: &Path) -> io::Result<Vec<u8>> {
    // A pipe without a writer would never open.
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let mut file = File::from(rustix::fs::open(path, flags, Mode::empty())?);
    if file.metadata()?.is_file() {
        read_bounded(&mut file)
    } else {
        Err(io::Error::other("not a regular file"))
    }
}

fn read_bounded(reader: &mut dyn Read) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    reader.take(MAX_FILE_BYTES + 1).read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn without_bom(mut text: String) -> String {
    if text.starts_with('\u{feff}') {
        text.drain(..'\u{feff}'.len_utf8());
    }
    text
}

fn unreadable(display: &str, error: &io::Error) -> Diagnostic {
    Diagnostic::new(Code::Unreadable, format!("cannot read `{display}`: {}", reason(error)))
}

fn too_large(display: &str, file: bool) -> Diagnostic {
    let limit = if file { MAX_FILE_BYTES } else { MAX_TOTAL_BYTES } >> 20;
    let what = if file { "a file" } else { "all files together" };
    Diagnostic::new(
        Code::TooLarge,
        format!("`{display}` is too large: {what} may have {limit} MiB"),
    )
    .help("a desired state of 100,000 pods takes about 10 MiB; is this the right file?")
}

fn not_utf8(display: &str, error: &std::string::FromUtf8Error) -> Diagnostic {
    let valid = error.utf8_error().valid_up_to();
    let bytes = error.as_bytes();
    let before = String::from_utf8_lossy(&bytes[..valid]);
    let line = before.matches('\n').count() + 1;
    let column = before.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
    let byte = bytes[valid];
    Diagnostic::new(
        Code::NotUtf8,
        format!("`{display}` is not UTF-8: byte 0x{byte:02x} at line {line}, column {column}"),
    )
    .help("save the file as UTF-8")
}
