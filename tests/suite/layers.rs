//! The law of the rooms in `src/`: what may name what, so that the data flow can be read off the code and
//! `apply` stays apart from the compiler. Broken law is found in the text of the sources, where a
//! `use` or a path names a room.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// The rooms from the ground up: each may name those before it.
const LAYERS: &[&str] = &[
    "diagnostic",
    "value",
    "files",
    "pipeline",
    "dataplane",
    "artifact",
    "spec",
    "input",
    "intent",
    "resolve",
    "lock",
    "allocate",
    "model",
    "lower",
    "emit",
    "verify",
    "proof",
    "answer",
    "driver",
    "system",
    "apply",
    "lab",
    "cli",
];

/// Rooms that may name these only, whatever stands before them.
const APART: &[(&str, &[&str])] = &[
    // The compiler and what applies share the contract, and nothing else.
    ("apply", &["artifact", "dataplane", "diagnostic", "files", "pipeline", "system", "value"]),
    ("system", &["diagnostic", "value"]),
    // It reads the desired state and the emitted files by itself: what it shared with the compiler, both
    // could have wrong. Wire types, scalars and diagnostics are what both are given.
    ("proof", &["diagnostic", "files", "input", "spec", "value"]),
    ("artifact", &["dataplane", "diagnostic", "pipeline", "value"]),
];

/// What is wrong with the sources below a directory, a line each.
fn faults(source: &Path) -> Vec<String> {
    let mut names = BTreeMap::new();
    for file in rust_files(source) {
        let text = without_comments(&fs::read_to_string(&file).unwrap());
        let inside = file.strip_prefix(source).unwrap().to_owned();
        names.insert(inside, rooms_named(&text));
    }
    let place = |room: &str| LAYERS.iter().position(|layer| *layer == room);
    let mut faults = Vec::new();
    for (file, named) in &names {
        let room = room_of(file);
        if ["lib", "main"].contains(&room.as_str()) {
            continue;
        }
        let Some(own) = place(&room) else {
            faults.push(format!("{}: `{room}` is no room of the law", file.display()));
            continue;
        };
        for other in named.iter().filter(|other| **other != room) {
            let apart = APART.iter().find(|(apart, _)| *apart == room);
            let may = match (apart, place(other)) {
                (Some((_, few)), _) => few.contains(&other.as_str()),
                (None, Some(at)) => at < own,
                (None, None) => false,
            };
            if !may {
                faults.push(format!("{}: `{room}` may not name `{other}`", file.display()));
            }
        }
    }
    faults
}

fn rust_files(below: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(below).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(rust_files(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
    found.sort();
    found
}

/// The room of a file: the first part of its path.
fn room_of(file: &Path) -> String {
    let first = file.components().next().unwrap().as_os_str().to_str().unwrap();
    first.trim_end_matches(".rs").to_owned()
}

fn without_comments(text: &str) -> String {
    text.lines().map(|line| line.split("//").next().unwrap_or_default()).fold(
        String::new(),
        |mut all, line| {
            all.push_str(line);
            all.push('\n');
            all
        },
    )
}

/// The rooms that a text names behind `crate::`, in groups in braces too.
fn rooms_named(text: &str) -> BTreeSet<String> {
    let mut named = BTreeSet::new();
    for (at, prefix) in text.match_indices("crate::") {
        let rest = &text[at + prefix.len()..];
        if let Some(group) = rest.strip_prefix('{') {
            let mut depth = 0;
            let mut word = String::new();
            for character in group.chars() {
                match character {
                    '{' => depth += 1,
                    '}' if depth == 0 => break,
                    '}' => depth -= 1,
                    ',' if depth == 0 => named.extend(first_word(&std::mem::take(&mut word))),
                    _ => {}
                }
                if depth == 0 && character != ',' {
                    word.push(character);
                }
            }
            named.extend(first_word(&word));
        } else {
            named.extend(first_word(rest));
        }
    }
    named
}

fn first_word(text: &str) -> Option<String> {
    let word: String =
        text.trim_start().chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
    (!word.is_empty()).then_some(word)
}

#[test]
fn no_room_names_one_that_stands_behind_it() {
    let found = faults(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"));
    assert!(found.is_empty(), "the law of the rooms is broken:\n{}", found.join("\n"));
}

#[test]
fn the_law_is_seen_to_break() {
    let directory = tempfile::tempdir().unwrap();
    let put = |path: &str, text: &str| {
        let path = directory.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    };
    put("lib.rs", "pub mod apply;\n");
    put("apply.rs", "use crate::artifact::host;\nuse crate::model::Model; // and crate::lab\n");
    put("apply/links.rs", "fn f() { let x = crate::lower::Plan::of(); }\n");
    put("value.rs", "use crate::{\n    diagnostic::{Code, Report},\n    spec,\n};\n");
    put("extra/room.rs", "");
    assert_eq!(
        faults(directory.path()),
        [
            "apply/links.rs: `apply` may not name `lower`",
            "apply.rs: `apply` may not name `model`",
            "extra/room.rs: `extra` is no room of the law",
            "value.rs: `value` may not name `spec`",
        ]
    );
}

#[test]
fn every_room_has_a_line_on_the_front_page() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let front = fs::read_to_string(root.join("src/lib.rs")).unwrap();
    let map = fs::read_to_string(root.join("ARCHITECTURE.md")).unwrap();
    for layer in LAYERS {
        assert!(front.contains(&format!("[`{layer}`]")), "src/lib.rs does not name `{layer}`");
        assert!(map.contains(&format!("`{layer}`")), "ARCHITECTURE.md does not name `{layer}`");
        assert!(front.contains(&format!("pub mod {layer};")), "there is no room `{layer}`");
    }
}
