//! A side of `ringfence diff`: a directory or file, or a revision of Git.
//!
//! Git is run with its arguments one by one, never by a shell, and only reads.

use std::fs;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use crate::diagnostic::{Code, Diagnostic, quoted, reason};
use crate::lock;

/// Where the desired state of a side is.
#[derive(Debug)]
pub(super) struct Files {
    /// What to read.
    pub(super) path: PathBuf,
    /// What is removed behind it.
    _held: Option<TempDir>,
}

/// The files of a side. `below` is the directory in the repository, for revisions.
pub(super) fn files(side: &str, below: &Path) -> Result<Files, Diagnostic> {
    let path = PathBuf::from(side);
    if path.exists() {
        return Ok(Files { path, _held: None });
    }
    let commit = commit(side)?;
    let held = tempfile::Builder::new()
        .prefix("ringfence-diff-")
        .tempdir()
        .map_err(|error| bad(side, &format!("no directory for its files: {}", reason(&error))))?;
    check_out(side, &commit, below, held.path())?;
    let path = match below.file_name() {
        Some(name) if held.path().join(name).is_file() => held.path().join(name),
        _ => held.path().to_owned(),
    };
    Ok(Files { path, _held: Some(held) })
}

/// Both sides of `main..HEAD`.
pub(super) fn range(text: &str) -> Option<(&str, &str)> {
    if Path::new(text).exists() {
        return None;
    }
    // Three dots mean another state, which is in no revision.
    let (old, new) = text.split_once("..")?;
    let new = if new.is_empty() { "HEAD" } else { new };
    (!old.is_empty() && !new.starts_with('.')).then_some((old, new))
}

fn bad(side: &str, why: &str) -> Diagnostic {
    let message = format!("{} is no side of a difference: {why}", quoted(side));
    Diagnostic::new(Code::BadRevision, message)
        .help("name a directory, a file, or a revision of Git such as `main` or `v1.2`")
}

fn commit(side: &str) -> Result<String, Diagnostic> {
    if side.starts_with('-') || side.is_empty() || side.contains(char::is_control) {
        return Err(bad(side, "there is no such file, and no revision has such a name"));
    }
    let revision = format!("{side}^{{commit}}");
    let arguments = ["rev-parse", "--verify", "--quiet", "--end-of-options", &revision];
    let output = git(side, &arguments, None)?;
    let commit = String::from_utf8_lossy(&output).trim().to_owned();
    // With the option, old versions of Git print it too.
    let commit = commit.lines().last().unwrap_or_default().to_owned();
    if commit.len() < 40 || !commit.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return Err(bad(side, "there is no such file, and Git knows no such revision"));
    }
    Ok(commit)
}

fn git(side: &str, arguments: &[&str], input: Option<Vec<u8>>) -> Result<Vec<u8>, Diagnostic> {
    let mut command = duct::cmd("git", arguments).stderr_capture().stdout_capture().unchecked();
    command = match input {
        Some(bytes) => command.stdin_bytes(bytes),
        None => command.stdin_null(),
    };
    let output = command
        .run()
        .map_err(|error| bad(side, &format!("git cannot be run: {}", reason(&error))))?;
    if !output.status.success() {
        let told = String::from_utf8_lossy(&output.stderr);
        let told =
            told.lines().next().unwrap_or("there is no such file, and Git knows no such revision");
        return Err(bad(side, told));
    }
    Ok(output.stdout)
}

/// Writes the YAML files and the lock file that a directory has in a commit.
fn check_out(side: &str, commit: &str, below: &Path, to: &Path) -> Result<(), Diagnostic> {
    let below = below.to_str().filter(|text| !text.starts_with('-'));
    let below = below.ok_or_else(|| bad(side, "the path below it is not one of Git's"))?;
    let arguments = ["ls-tree", "-r", "-z", "--end-of-options", commit, below];
    let listed = git(side, &arguments, None)?;
    let listed = String::from_utf8_lossy(&listed).into_owned();
    let mut wanted: Vec<(String, PathBuf)> = Vec::new();
    for entry in listed.split('\0').filter(|entry| !entry.is_empty()) {
        let Some((about, path)) = entry.split_once('\t') else { continue };
        let mut words = about.split(' ');
        let (mode, kind, id) = (words.next(), words.next(), words.next());
        let is_file = matches!(mode, Some("100644" | "100755")) && kind == Some("blob");
        let inside = inside(path, below);
        let extension = inside.extension().and_then(|extension| extension.to_str());
        let is_lock = inside.file_name().is_some_and(|name| name == lock::FILE_NAME);
        if is_file && (matches!(extension, Some("yaml" | "yml")) || is_lock) && is_plain(&inside) {
            wanted.push((id.unwrap_or_default().to_owned(), inside));
        }
    }
    if wanted.is_empty() {
        let why = format!("it has no YAML files in `{below}`; name their directory with --path");
        return Err(bad(side, &why));
    }
    let ids: Vec<&str> = wanted.iter().flat_map(|(id, _)| [id.as_str(), "\n"]).collect();
    let blobs = git(side, &["cat-file", "--batch"], Some(ids.concat().into_bytes()))?;
    let mut rest = blobs.as_slice();
    for (_, path) in wanted {
        let text = next_blob(&mut rest).ok_or_else(|| bad(side, "git printed something else"))?;
        let file = to.join(path);
        let directory = file.parent().unwrap_or(to);
        fs::create_dir_all(directory).and_then(|()| fs::write(&file, text)).map_err(|error| {
            bad(side, &format!("its files cannot be written: {}", reason(&error)))
        })?;
    }
    Ok(())
}

/// The path of a file from the directory that was asked for. Git's paths are from where it runs.
fn inside(path: &str, below: &str) -> PathBuf {
    let below = below.trim_start_matches("./").trim_end_matches('/');
    let path = Path::new(path);
    match path.strip_prefix(below) {
        Ok(inside) if below != "." && !inside.as_os_str().is_empty() => inside.to_owned(),
        Ok(_) if below != "." && !below.is_empty() => {
            path.file_name().map(PathBuf::from).unwrap_or_default()
        }
        _ => path.to_owned(),
    }
}

/// Whether a path stays below where it begins.
fn is_plain(path: &Path) -> bool {
    path.components().all(|part| matches!(part, std::path::Component::Normal(_)))
}

/// The next content of `cat-file --batch`: `<id> blob <size>`, a line end, the bytes, a line end.
fn next_blob<'b>(rest: &mut &'b [u8]) -> Option<&'b [u8]> {
    let end = rest.iter().position(|byte| *byte == b'\n')?;
    let head = std::str::from_utf8(&rest[..end]).ok()?;
    let mut words = head.split(' ').skip(1);
    if words.next() != Some("blob") {
        return None;
    }
    let size: usize = words.next()?.parse().ok()?;
    let begin = end + 1;
    let text = rest.get(begin..begin.checked_add(size)?)?;
    *rest = rest.get(begin + size + 1..)?;
    Some(text)
}
