//! What the tests share: running the program, comparing with committed files.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Set to rewrite the committed files that differ, instead of failing.
pub(crate) const UPDATE: &str = "RINGFENCE_UPDATE";

/// What time it is in every test, so that the addresses of names in committed lock files don't age:
/// 2026-11-21T12:00:00Z.
pub(crate) const NOW: &str = "1795262400";

/// The program under test.
pub(crate) const PROGRAM: &str = env!("CARGO_BIN_EXE_ringfence");

pub(crate) fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// What a run printed, and its exit status.
#[derive(Debug)]
pub(crate) struct Run {
    pub(crate) stdout: String,
    pub(crate) stderr: String,
    pub(crate) status: i32,
}

/// Runs ringfence in a directory.
pub(crate) fn ringfence(directory: &Path, arguments: &[&str]) -> Run {
    let output = duct::cmd(PROGRAM, arguments)
        .dir(directory)
        .env("SOURCE_DATE_EPOCH", NOW)
        .stdin_null()
        .stdout_capture()
        .stderr_capture()
        .unchecked()
        .run()
        .unwrap();
    Run {
        stdout: String::from_utf8(output.stdout).unwrap(),
        stderr: String::from_utf8(output.stderr).unwrap(),
        status: output.status.code().unwrap(),
    }
}

/// The directory of a desired state, with its lock file.
pub(crate) fn written(text: &str) -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    fs::write(directory.path().join("network.yaml"), text).unwrap();
    let run = ringfence(directory.path(), &["lock"]);
    assert_eq!(run.status, 0, "{}", run.stderr);
    directory
}

/// The output of an example, with what is not kept in Git.
pub(crate) fn compiled(example: &str) -> tempfile::TempDir {
    let out = tempfile::tempdir().unwrap();
    let sources = root().join("examples").join(example);
    let run = ringfence(&sources, &["compile", ".", "-o", out.path().to_str().unwrap()]);
    assert_eq!(run.status, 0, "{example}: {}", run.stderr);
    out
}

/// Waits until something is so: for minutes, since the machine may have other things to do.
pub(crate) fn until(what: &str, mut ready: impl FnMut() -> bool) {
    const PATIENCE: Duration = Duration::from_mins(5);
    let begin = Instant::now();
    while !ready() {
        assert!(begin.elapsed() < PATIENCE, "{what}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// The directories below `directory`, by name.
pub(crate) fn directories(directory: &Path) -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> = fs::read_dir(directory)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.is_dir())
        .collect();
    found.sort();
    found
}

/// All files below `directory`, by their paths from it.
pub(crate) fn tree(directory: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    fn walk(root: &Path, at: &Path, files: &mut BTreeMap<PathBuf, Vec<u8>>) {
        let Ok(entries) = fs::read_dir(at) else { return };
        for path in entries.map(|entry| entry.unwrap().path()) {
            if path.is_dir() {
                walk(root, &path, files);
            } else {
                files.insert(path.strip_prefix(root).unwrap().to_owned(), fs::read(&path).unwrap());
            }
        }
    }
    let mut files = BTreeMap::new();
    walk(directory, directory, &mut files);
    files
}

/// Compares what was made with a committed file, byte for byte. Returns what is wrong; rewrites
/// the file where that was asked for.
pub(crate) fn compare(path: &Path, made: &[u8]) -> Option<String> {
    let committed = fs::read(path).ok();
    if committed.as_deref() == Some(made) {
        return None;
    }
    if std::env::var_os(UPDATE).is_some() {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, made).unwrap();
        return None;
    }
    let name = path.strip_prefix(root()).unwrap_or(path).display().to_string();
    let Some(committed) = committed else { return Some(format!("{name} is missing")) };
    let (old, new) = (String::from_utf8_lossy(&committed), String::from_utf8_lossy(made));
    let diff = similar::TextDiff::from_lines(old.as_ref(), new.as_ref());
    let diff = diff.unified_diff().header(&name, "made now").to_string();
    Some(diff)
}

/// Fails with everything that is wrong at once.
pub(crate) fn assert_none(wrong: &[String]) {
    assert!(
        wrong.is_empty(),
        "{}\n{} differ; with {UPDATE}=1 the committed files are rewritten",
        wrong.join("\n"),
        wrong.len()
    );
}
