//! Input made to hurt: it ends in a clear error, within bounded time and memory.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use proptest::prelude::*;
use ringfence::diagnostic::{Report, Source, Sources, human, sarif};
use ringfence::{allocate, input, lock, resolve};

use crate::support::{PROGRAM, directories, root, tree};

/// Address space that a run may take; a desired state of 100,000 pods needs a quarter of it.
const MEMORY: u64 = 4 << 30;
/// How much of a processor's time a run may take, and how long it may last beside other tests.
const TIME: Duration = Duration::from_mins(2);
const LONGEST: Duration = Duration::from_mins(20);

/// Runs ringfence within the limits. Returns its exit status and the first line it printed.
fn limited(directory: &Path, arguments: &[&str]) -> (Option<i32>, String) {
    let limits = [format!("--as={MEMORY}"), format!("--cpu={}", TIME.as_secs())];
    let words = limits.iter().map(String::as_str).chain([PROGRAM]).chain(arguments.iter().copied());
    let before = Instant::now();
    let output = duct::cmd("prlimit", words)
        .dir(directory)
        .stdin_null()
        .stderr_to_stdout()
        .stdout_capture()
        .unchecked()
        .run()
        .unwrap();
    assert!(before.elapsed() < LONGEST, "{arguments:?} took {:?}", before.elapsed());
    let printed = String::from_utf8(output.stdout).unwrap();
    assert!(printed.len() < 10_000, "{} bytes printed", printed.len());
    (output.status.code(), printed.lines().next().unwrap_or_default().to_owned())
}

/// A little more of one pattern than a text may have nodes, and less than a file may have bytes.
const REPEATED: usize = 8_100_000;

/// Repeats each pattern for megabytes and tells with what that has to end: a test each few, so that
/// they share the machine's processors.
macro_rules! megabytes_end_in_a_clear_error {
    ($($name:ident { $($pattern:literal => $expected:expr,)* })*) => {
        mod megabytes_end_in_a_clear_error {
            use super::*;

            $(
                #[test]
                fn $name() {
                    let directory = tempfile::tempdir().unwrap();
                    let path = directory.path().join("network.yaml");
                    for (pattern, expected) in [$(($pattern, String::from($expected)),)*] {
                        fs::write(&path, pattern.repeat(REPEATED)).unwrap();
                        let found = limited(directory.path(), &["validate", "network.yaml"]);
                        assert_eq!(found, (Some(1), expected), "{pattern:?}");
                    }
                }
            )*
        }
    };
}

const NODES: &str = "error[RF003]: more than 8000000 nodes";
const VERSION: &str = "error[RF006]: the key `version` is missing";

fn syntax(what: &str) -> String {
    format!("error[RF004]: not valid YAML: {what}")
}

fn long_string(bytes: usize) -> String {
    format!("error[RF003]: a string of {bytes} bytes, more than 4096")
}

megabytes_end_in_a_clear_error! {
    of_nothing {
        " " => VERSION,
        "\t" => VERSION,
        "#" => VERSION,
        "\0" => syntax("found unprintable character"),
        "\n" => NODES,
        "\r" => NODES,
    }
    of_openings {
        "[" => NODES,
        "{a: " => NODES,
        "\"" => syntax("invalid trailing content after double-quoted scalar"),
        "!!" => syntax("while parsing a tag, did not find expected tag URI"),
    }
    of_keys_and_documents {
        "? " => NODES,
        "---\n" => NODES,
    }
    of_entries {
        "- " => NODES,
        "- a\n" => NODES,
    }
    of_letters {
        "a" => long_string(REPEATED),
        "&a " => syntax("did not find expected <document start>"),
        "*a " => syntax("while parsing node, found unknown anchor"),
    }
}

#[test]
fn what_is_too_deep_or_too_long_ends_in_a_clear_error() {
    const DEEP: &str = "error[RF003]: nested deeper than 64 levels";
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("network.yaml");
    let staircase: String = (0..2000).map(|depth| " ".repeat(depth) + "a:\n").collect();
    fs::write(&path, staircase).unwrap();
    assert_eq!(limited(directory.path(), &["validate", "."]), (Some(1), DEEP.to_owned()));
    let key = "k".repeat(64 << 10);
    fs::write(&path, format!("version: 1\n{key}: 1\n")).unwrap();
    let expected = (Some(1), syntax("simple key expect ':'"));
    assert_eq!(limited(directory.path(), &["validate", "."]), expected);
    fs::write(&path, format!("version: 1\n? {key}\n: 1\n")).unwrap();
    assert_eq!(limited(directory.path(), &["validate", "."]), (Some(1), long_string(64 << 10)));
    fs::write(&path, vec![b' '; 100 << 20]).unwrap();
    let expected = "error[RF003]: `network.yaml` is too large: a file may have 64 MiB";
    assert_eq!(limited(directory.path(), &["validate", "."]), (Some(1), expected.to_owned()));
}

#[test]
fn marks_and_line_ends_of_other_systems_are_read() {
    let directory = tempfile::tempdir().unwrap();
    let text = "version: 1\nnodes:\n  - {name: node-1, address: 192.168.12.11}\n";
    for text in [format!("\u{feff}{text}"), text.replace('\n', "\r\n"), text.replace('\n', "\r")] {
        fs::write(directory.path().join("network.yaml"), &text).unwrap();
        let found = limited(directory.path(), &["validate", "."]);
        assert_eq!(found, (Some(0), "valid: 1 node, 0 projects, 0 pods".to_owned()), "{text:?}");
    }
}

#[test]
fn a_hostile_lock_file_ends_in_a_clear_error() {
    let directory = tempfile::tempdir().unwrap();
    let lock = directory.path().join("ringfence.lock");
    let text = "version: 1\nnodes:\n  - {name: node-1, address: 192.168.12.11}\n";
    fs::write(directory.path().join("network.yaml"), text).unwrap();
    let mut bomb = "a0: &a0 x\n".to_owned();
    for level in 1..9 {
        let inner = vec![format!("*a{}", level - 1); 10].join(", ");
        let _ = writeln!(bomb, "a{level}: &a{level} [{inner}]");
    }
    let unreadable = |why: &str| format!("error[RF102]: the lock file is not readable: {why}");
    let cases = [
        (
            b"\xff".to_vec(),
            "error[RF102]: cannot read `ringfence.lock`: it is not UTF-8".to_owned(),
        ),
        (
            vec![b' '; 100 << 20],
            "error[RF102]: cannot read `ringfence.lock`: it has more than 64 MiB".to_owned(),
        ),
        (b"\0".to_vec(), unreadable("control characters are not allowed")),
        (vec![b'['; 1 << 20], unreadable("invalid type: sequence, expected struct Wire")),
        (bomb.into_bytes(), unreadable("unknown field `a0`")),
        (
            format!("version: 1\nvnids: {{{}: 20}}\n", "k".repeat(64 << 10)).into_bytes(),
            unreadable("invalid type: unit value, expected a VNID"),
        ),
    ];
    for (bytes, expected) in cases {
        fs::write(&lock, &bytes).unwrap();
        let (status, line) = limited(directory.path(), &["compile", ".", "-o", "out"]);
        assert_eq!(status, Some(1), "{line}");
        assert!(line.starts_with(&expected), "{line}");
        assert!(!directory.path().join("out").exists());
    }
    fs::remove_file(&lock).unwrap();
    let directory = directory.path();
    duct::cmd!("mkfifo", &lock).run().unwrap();
    let expected = "error[RF102]: cannot read `ringfence.lock`: not a regular file";
    assert_eq!(limited(directory, &["lock", "."]), (Some(1), expected.to_owned()));
    duct::cmd!("mkfifo", directory.join("more.yaml")).run().unwrap();
    let expected = "error[RF001]: cannot read `more.yaml`: not a regular file";
    assert_eq!(limited(directory, &["validate", "."]), (Some(1), expected.to_owned()));
}

#[test]
fn a_hostile_output_ends_in_a_clear_error() {
    let directory = tempfile::tempdir().unwrap();
    let example = root().join("examples/quickstart");
    let example = example.to_str().unwrap();
    let old = directory.path().join("manifest.json");
    let file = directory.path().join("node-1/node.json");
    std::fs::create_dir(directory.path().join("node-1")).unwrap();
    let deep = "[".repeat(1 << 20);
    let other = "{\"version\": 1, \"files\": {\"../../etc/passwd\": \"00\"}}".to_owned();
    for text in [deep, "\0".repeat(1 << 20), other] {
        fs::write(&old, &text).unwrap();
        fs::write(&file, text).unwrap();
        let (status, line) = limited(directory.path(), &["compile", example, "-o", "."]);
        assert_eq!(status, Some(1), "{line}");
        assert!(line.starts_with("error[RF110]: "), "{line}");
        assert!(line.ends_with("node-1/node.json` is not a file of ringfence"), "{line}");
    }
}

/// Validates some texts, as far as it goes.
fn validate(texts: &[String]) -> Report {
    let named = texts.iter().zip(["a.yaml", "b.yaml"]);
    let sources = named.map(|(text, name)| Source::new(name, name, text.clone())).collect();
    let sources = Sources::from_texts(sources);
    let (documents, mut report) = input::parse(&sources);
    let (intent, found) = resolve::resolve(&documents, !report.has_errors());
    report.extend(found);
    if let Some(intent) = intent {
        let lock = lock::Lock::default();
        if let Err(found) = allocate::allocate(&intent, &lock, false, None, &sources) {
            report.extend(found);
        }
    }
    // What is found is printed somewhere, in whatever form.
    let _ = human::render(&report, &sources, true);
    let _ = sarif::render(&report, &sources);
    report
}

/// Every text that the project has: examples, and what goes wrong.
fn corpus() -> Vec<String> {
    let mut texts = Vec::new();
    for folder in directories(&root().join("examples"))
        .into_iter()
        .chain(directories(&root().join("tests/diagnostics")))
    {
        for (path, bytes) in tree(&folder) {
            let yaml = path.extension().is_some_and(|e| e == "yaml" || e == "lock");
            if yaml && let Ok(text) = String::from_utf8(bytes) {
                texts.push(text);
            }
        }
    }
    texts
}

/// One thing that happens to a text in an editor, a merge or on the wire.
#[derive(Clone, Debug)]
enum Mutation {
    Cut(usize, usize),
    Repeat(usize, usize),
    Insert(usize, String),
    /// The same word as elsewhere in the corpus.
    Graft(usize, usize, usize),
}

fn mutations() -> impl Strategy<Value = Vec<Mutation>> {
    let odd = prop::sample::select(vec![
        "0",
        "-1",
        "4294967296",
        "1e99",
        "~",
        "{}",
        "[]",
        "''",
        "\"",
        "*a",
        "&a ",
        "!!binary ",
        ": ",
        "- ",
        "\n",
        "\t",
        "#",
        "\u{feff}",
        "\u{2028}",
        "é",
        "💥",
        "../",
        "$(reboot)",
        "::",
        "/33",
        "0.0.0.0/0",
        "255.255.255.255",
        "\r",
        "---\n",
        "<<: ",
        "? ",
        "| ",
        "%",
    ]);
    let mutation = prop_oneof![
        (any::<usize>(), 0..40_usize).prop_map(|(at, length)| Mutation::Cut(at, length)),
        (any::<usize>(), 0..80_usize).prop_map(|(at, length)| Mutation::Repeat(at, length)),
        (any::<usize>(), odd).prop_map(|(at, text)| Mutation::Insert(at, text.to_owned())),
        (any::<usize>(), any::<usize>(), 1..60_usize)
            .prop_map(|(at, from, length)| Mutation::Graft(at, from, length)),
    ];
    prop::collection::vec(mutation, 1..6)
}

/// The text with the mutations done to it, counted in characters.
fn mutate(text: &str, mutations: &[Mutation], other: &str) -> String {
    let mut chars: Vec<char> = text.chars().collect();
    let other: Vec<char> = other.chars().collect();
    for mutation in mutations {
        let place = |at: &usize| at % (chars.len() + 1);
        match mutation {
            Mutation::Cut(at, length) => {
                let at = place(at);
                chars.drain(at..(at + length).min(chars.len()));
            }
            Mutation::Repeat(at, length) => {
                let at = place(at);
                let piece: Vec<char> = chars[at..(at + length).min(chars.len())].to_vec();
                chars.splice(at..at, piece);
            }
            Mutation::Insert(at, text) => {
                let at = place(at);
                chars.splice(at..at, text.chars());
            }
            Mutation::Graft(at, from, length) => {
                let (at, from) = (place(at), from % (other.len() + 1));
                let piece = &other[from..(from + length).min(other.len())];
                chars.splice(at..at, piece.iter().copied());
            }
        }
    }
    chars.into_iter().collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 3000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn whatever_is_written_validation_ends(
        picks in any::<[prop::sample::Index; 2]>(),
        first in mutations(),
        second in prop::option::of(mutations()),
    ) {
        let corpus = corpus_once();
        let [a, b] = picks.map(|pick| &corpus[pick.index(corpus.len())]);
        let mut texts = vec![mutate(a, &first, b)];
        texts.extend(second.map(|second| mutate(b, &second, a)));
        let report = validate(&texts);
        // The schema, which editors and other people's tools hold the file to, refuses nothing
        // that is accepted.
        if !report.has_errors() {
            for text in &texts {
                for document in serde_yaml::Deserializer::from_str(text) {
                    use serde::Deserialize as _;
                    let value = Option::<serde_json::Value>::deserialize(document).unwrap();
                    let Some(value) = value else { continue };
                    let errors = schema_once().iter_errors(&value);
                    let errors: Vec<String> = errors.map(|error| error.to_string()).collect();
                    prop_assert!(errors.is_empty(), "{errors:?} in\n{text}");
                }
            }
        }
    }

    #[test]
    fn whatever_a_lock_file_says_reading_it_ends(
        pick in any::<prop::sample::Index>(),
        changes in mutations(),
    ) {
        let corpus = corpus_once();
        let locks: Vec<&String> = corpus.iter().filter(|text| text.starts_with("# What")).collect();
        let text = mutate(locks[pick.index(locks.len())], &changes, &corpus[0]);
        if let Ok(lock) = lock::parse(&text) {
            // It is written as it was read.
            prop_assert_eq!(lock::parse(&lock.render()), Ok(lock));
        }
    }
}

fn corpus_once() -> &'static [String] {
    static CORPUS: std::sync::OnceLock<Vec<String>> = std::sync::OnceLock::new();
    CORPUS.get_or_init(corpus)
}

fn schema_once() -> &'static jsonschema::Validator {
    static SCHEMA: std::sync::OnceLock<jsonschema::Validator> = std::sync::OnceLock::new();
    SCHEMA.get_or_init(|| {
        jsonschema::validator_for(&ringfence::spec::schema::desired_state()).unwrap()
    })
}
