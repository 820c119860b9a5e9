//! Reading the desired state: files, directories and standard input become [`Sources`].

use std::io::{self, Read};
use std::path::{Path, PathBuf};

use crate::diagnostic::{Code, Diagnostic, Report, Source, Sources, reason};
use crate::files::{MAX_FILE_BYTES, read_bounded, read_file};

/// The most bytes of all files of a run together.
pub const MAX_TOTAL_BYTES: u64 = 256 << 20;

/// Reads `paths`: files, directories (their `*.yaml` and `*.yml`, hidden ones left out) and
/// `-` for standard input.
///
/// Input that can't be read is reported and the rest is read all the same.
pub fn read(paths: &[PathBuf], stdin: &mut dyn Read) -> (Sources, Report) {
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
    (Sources::below(root, sources), report)
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
