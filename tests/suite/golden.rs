//! The output of every example, compared byte for byte with `golden/`.

use std::collections::BTreeSet;
use std::fs;

use ringfence::artifact::generation::names;
use ringfence::artifact::layout::is_reviewed;
use ringfence::dataplane::origin::Cookie;

use crate::support::{UPDATE, assert_none, compare, compiled, directories, ringfence, root, tree};

#[test]
fn examples_compile_to_the_golden_files() {
    let mut wrong = Vec::new();
    for example in directories(&root().join("examples")) {
        if !example.join("ringfence.lock").exists() {
            continue;
        }
        let name = example.file_name().unwrap().to_str().unwrap();
        let out = compiled(name);
        let golden = root().join("golden").join(name);
        let mut made = tree(out.path());
        made.retain(|path, _| is_reviewed(path));
        for (path, bytes) in &made {
            wrong.extend(compare(&golden.join(path), bytes));
        }
        for path in tree(&golden).into_keys().filter(|path| !made.contains_key(path)) {
            if std::env::var_os(UPDATE).is_some() {
                fs::remove_file(golden.join(path)).unwrap();
            } else {
                wrong.push(format!("golden/{name}/{} is stale", path.display()));
            }
        }
    }
    assert_none(&wrong);
}

#[test]
fn every_golden_directory_belongs_to_an_example() {
    let names = |directory: &str| -> BTreeSet<String> {
        directories(&root().join(directory))
            .iter()
            .map(|path| path.file_name().unwrap().to_str().unwrap().to_owned())
            .collect()
    };
    let stale: Vec<_> = names("golden").difference(&names("examples")).cloned().collect();
    assert_eq!(stale, Vec::<String>::new());
}

#[test]
fn compile_check_finds_the_golden_files_up_to_date() {
    if std::env::var_os(UPDATE).is_some() {
        return; // another test is just rewriting them
    }
    for example in directories(&root().join("examples")) {
        if !example.join("ringfence.lock").exists() {
            continue;
        }
        let name = example.file_name().unwrap().to_str().unwrap();
        let golden = root().join("golden").join(name);
        let run = ringfence(&example, &["compile", ".", "-o", golden.to_str().unwrap(), "--check"]);
        assert_eq!((run.status, run.stdout.as_str()), (0, ""), "{name}: {}", run.stderr);
    }
}

#[test]
fn every_cookie_leads_to_the_object_in_the_example() {
    let mut wrong = Vec::new();
    for example in directories(&root().join("golden")) {
        let name = example.file_name().unwrap().to_str().unwrap();
        let sources = root().join("examples").join(name);
        let out = compiled(name);
        for node in directories(out.path()) {
            let flows = fs::read_to_string(node.join("flows.ofctl")).unwrap();
            let names = names(&flows);
            let mut used = 0;
            for (path, bytes) in tree(&node) {
                let text = String::from_utf8(bytes).unwrap();
                for line in text.lines() {
                    let Some((cookie, comment)) = cookie(line) else { continue };
                    used += 1;
                    let name = Cookie::parse(cookie).and_then(|cookie| names.get(&cookie));
                    // What else a flow serves stands behind the object.
                    let object = comment.map(|comment| comment.split(" | ").next().unwrap());
                    if name.is_none() || object.is_some_and(|object| name != Some(&object)) {
                        wrong.push(format!("{}: {name:?} for {line}", path.display()));
                    }
                }
            }
            assert!(used > 0, "{} has no cookies", node.display());
            let places = fs::read(node.join("places.json")).unwrap();
            let places: serde_json::Value = serde_json::from_slice(&places).unwrap();
            let places = places["places"].as_object().unwrap();
            let unplaced = names.values().filter(|name| !places.contains_key(**name));
            wrong.extend(unplaced.map(|name| format!("{}: {name} has no place", node.display())));
            // A cluster without its section stands nowhere.
            let places = places.iter().map(|(name, place)| (name, place.as_str().unwrap()));
            for (name, place) in places.filter(|(_, place)| *place != "by default") {
                let mut parts = place.rsplitn(3, ':');
                let column: usize = parts.next().unwrap().parse().unwrap();
                let line: usize = parts.next().unwrap().parse().unwrap();
                let text = fs::read_to_string(sources.join(parts.next().unwrap())).unwrap();
                // A mapping may begin with another key than its name.
                let lines: Vec<&str> = text.lines().skip(line - 1).take(2).collect();
                let from = lines.join(" ").split_off(column - 1);
                if !describes(name, &from) {
                    wrong.push(format!("{}: {name} is not at {place}: {from}", node.display()));
                }
            }
        }
    }
    assert_eq!(wrong, Vec::<String>::new());
}

/// The cookie of a flow with the object in its comment, or that of a rule of nft.
fn cookie(line: &str) -> Option<(&str, Option<&str>)> {
    if let Some(flow) = line.strip_prefix("cookie=") {
        let comment = line.rsplit_once(" # ").map(|(_, comment)| comment);
        return Some((flow.split(',').next()?, comment));
    }
    let (_, comment) = line.rsplit_once(" comment \"0x")?;
    let digits = comment.strip_suffix('"')?;
    let start = line.len() - digits.len() - "0x\"".len();
    Some((&line[start..line.len() - 1], None))
}

/// Whether a text of the input is about an object.
fn describes(name: &str, text: &str) -> bool {
    let (kind, name) = name.split_once(' ').unwrap_or((name, ""));
    let words: Vec<&str> = name.split([' ', '/', ':']).collect();
    match (kind, words.as_slice()) {
        ("cluster", _) => true,
        ("node" | "project" | "router" | "egress-ip", [name])
        | ("pod" | "service", [_, name])
        // A port of a service, by its number.
        | ("service", [_, _, name, _]) => text.contains(name),
        ("rule", [_, _, verdict, cidr, ..]) => text.starts_with(verdict) && text.contains(cidr),
        // A policy by its project, its rules by what they have.
        ("policy", [project, _]) => text.contains(project),
        ("policy", [_, _, _, "ingress" | "egress", ..]) => {
            ["from:", "to:", "ports:", "{}"].iter().any(|key| text.contains(key))
        }
        ("policies", ["of", project]) => text.contains(project),
        _ => false,
    }
}
