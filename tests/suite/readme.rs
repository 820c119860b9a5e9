//! What the README shows is so.

use std::fs;

use crate::support::{ringfence, root};

/// The blocks of the README in a language.
fn blocks(language: &str) -> Vec<String> {
    let text = fs::read_to_string(root().join("README.md")).unwrap();
    let fence = format!("```{language}\n");
    let blocks = text.split(&fence).skip(1);
    blocks.map(|rest| rest.split("```").next().unwrap().to_owned()).collect()
}

#[test]
fn the_desired_state_of_the_readme_is_valid() {
    let [block] = &blocks("yaml")[..] else { panic!("one block of YAML") };
    let directory = tempfile::tempdir().unwrap();
    fs::write(directory.path().join("network.yaml"), block).unwrap();
    let run = ringfence(directory.path(), &["validate", "network.yaml"]);
    assert_eq!(
        (run.stderr.as_str(), run.stdout.as_str()),
        ("valid: 2 nodes, 2 projects, 3 pods\n", "")
    );
}

#[test]
fn the_commands_of_the_readme_print_what_it_says() {
    let mut shown = 0;
    for block in blocks("console") {
        for session in block.split("$ ringfence ").skip(1) {
            let (command, output) = session.split_once('\n').unwrap();
            if command.contains(" #") {
                continue; // a list of commands, without what they print
            }
            let words: Vec<&str> = command.split_whitespace().collect();
            let run = ringfence(root(), &words);
            assert_eq!(run.stdout + &run.stderr, output, "$ ringfence {command}");
            shown += 1;
        }
    }
    assert_eq!(shown, 2);
}

#[test]
fn the_scripts_of_the_readme_can_be_run() {
    use std::os::unix::fs::PermissionsExt as _;

    let text = fs::read_to_string(root().join("README.md")).unwrap();
    let words = text.split(|c: char| c.is_whitespace() || c == '`');
    let mut scripts: Vec<&str> = words.filter(|word| word.starts_with("scripts/")).collect();
    scripts.sort_unstable();
    scripts.dedup();
    assert_eq!(scripts, ["scripts/demo.sh", "scripts/kernel.sh", "scripts/test.sh"]);
    for script in scripts {
        let mode = root().join(script).metadata().unwrap().permissions().mode();
        assert_eq!(mode & 0o111, 0o111, "{script}");
    }
}
