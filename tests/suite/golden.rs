//! The output of every example, compared byte for byte with `golden/`.

use std::collections::BTreeSet;
use std::fs;

use crate::support::{UPDATE, assert_none, compare, directories, ringfence, root, tree};

#[test]
fn examples_compile_to_the_golden_files() {
    let mut wrong = Vec::new();
    for example in directories(&root().join("examples")) {
        if !example.join("ringfence.lock").exists() {
            continue;
        }
        let name = example.file_name().unwrap().to_str().unwrap();
        let out = tempfile::tempdir().unwrap();
        let run = ringfence(&example, &["compile", ".", "-o", out.path().to_str().unwrap()]);
        assert_eq!(run.status, 0, "{name}: {}", run.stderr);
        let golden = root().join("golden").join(name);
        let made = tree(out.path());
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
