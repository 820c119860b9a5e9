//! A change shows what changed: how much of what `compile` emits differs in Git, and what merges.

use std::fs;
use std::path::{Path, PathBuf};

use ringfence::lock;

use crate::scale::{self, Services, Size};
use crate::support::{Run, ringfence, tree};

/// 200 nodes, 400 projects, 2,000 pods.
const SIZE: Size =
    Size { nodes: 200, projects: 400, pods_per_node: 10, rules: 20, services: Services::None };

/// As much as it takes for objects to have others between them.
const SMALL: Size =
    Size { nodes: 12, projects: 60, pods_per_node: 10, rules: 3, services: Services::None };

/// A repository with a network and its output, all committed.
struct Repository {
    directory: tempfile::TempDir,
}

impl Repository {
    fn new(size: Size) -> Self {
        let repository = Self { directory: tempfile::tempdir().unwrap() };
        scale::write(&repository.path("network"), size);
        repository.git(&["init", "-q", "-b", "main"]);
        repository.compile();
        repository.commit();
        repository
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn run(&self, words: &[&str]) -> Run {
        ringfence(self.directory.path(), words)
    }

    fn done(&self, words: &[&str]) -> Run {
        let run = self.run(words);
        assert_eq!(run.status, 0, "{words:?}: {}", run.stderr);
        run
    }

    fn compile(&self) {
        self.done(&["lock", "network"]);
        self.done(&["compile", "network"]);
    }

    /// Whether git was content.
    fn try_git(&self, words: &[&str]) -> (bool, String) {
        let fixed = ["-c", "user.name=A", "-c", "user.email=a@example.com", "-C"];
        let directory = self.directory.path().to_str().unwrap();
        let words = fixed.into_iter().chain([directory]).chain(words.iter().copied());
        let run = duct::cmd("git", words)
            .env("GIT_CONFIG_GLOBAL", "/dev/null")
            .env("GIT_CONFIG_SYSTEM", "/dev/null")
            .stderr_to_stdout()
            .stdout_capture()
            .unchecked()
            .run()
            .unwrap();
        (run.status.success(), String::from_utf8(run.stdout).unwrap())
    }

    fn git(&self, words: &[&str]) -> String {
        let (done, text) = self.try_git(words);
        assert!(done, "{words:?}: {text}");
        text
    }

    fn commit(&self) {
        self.git(&["add", "-A"]);
        self.git(&["commit", "-q", "-m", "a change"]);
    }

    /// The files that differ from the last commit, each with the lines that come and go.
    fn differing(&self) -> Vec<(usize, usize, String)> {
        self.git(&["add", "-A"]);
        let text = self.git(&["diff", "--cached", "--numstat"]);
        let line = |line: &str| {
            let words: Vec<&str> = line.split('\t').collect();
            (words[0].parse().unwrap(), words[1].parse().unwrap(), words[2].to_owned())
        };
        text.lines().map(line).collect()
    }

    /// Puts a line into the file of a project, behind the one line that contains a text.
    fn insert(&self, project: usize, behind: &str, line: &str) {
        let path = self.path(&format!("network/projects-{:03}.yaml", project / 100));
        let text = fs::read_to_string(&path).unwrap();
        let lines: Vec<String> =
            text.lines()
                .map(|old| {
                    if old.contains(behind) {
                        format!("{old}\n{line}\n")
                    } else {
                        format!("{old}\n")
                    }
                })
                .collect();
        let new = lines.concat();
        assert_eq!(new.lines().count(), text.lines().count() + 1, "{behind}");
        fs::write(path, new).unwrap();
    }

    /// Adds a pod to a project on a node.
    fn add_pod(&self, project: usize, node: usize) {
        let labels = format!("labels: {{team: team-{}}}", project % 50);
        let path = self.path(&format!("network/projects-{:03}.yaml", project / 100));
        let text = fs::read_to_string(&path).unwrap();
        let head = format!("  - name: project-{project}\n    {labels}\n    pods:\n");
        assert_eq!(text.matches(&head).count(), 1);
        let pod = format!("{head}      - {{name: one-more, node: node-{node}}}\n");
        fs::write(path, text.replace(&head, &pod)).unwrap();
    }

    /// A branch of main with one more pod.
    fn branch_with_pod(&self, name: &str, project: usize, node: usize) {
        self.git(&["switch", "-q", "-c", name, "main"]);
        self.add_pod(project, node);
        self.compile();
        self.commit();
    }

    /// The files with conflicts after two branches were merged.
    fn merge(&self, one: &str, other: &str) -> Vec<String> {
        self.git(&["switch", "-q", "-C", "merged", one]);
        self.try_git(&["merge", "-q", other]);
        let files = self.git(&["diff", "--name-only", "--diff-filter=U"]);
        files.lines().map(str::to_owned).collect()
    }

    /// What is in Git is what would be made.
    fn is_right(&self) {
        self.done(&["lock", "--check", "network"]);
        let run = self.run(&["compile", "--check", "network"]);
        assert_eq!((run.status, run.stdout.as_str()), (0, ""), "{}", run.stderr);
    }
}

fn lines(files: &[(usize, usize, String)]) -> usize {
    files.iter().map(|(added, removed, _)| added + removed).sum()
}

#[test]
fn a_comment_changes_nothing_that_is_reviewed() {
    let repository = Repository::new(SIZE);
    let path = repository.path("network/nodes.yaml");
    let text = fs::read_to_string(&path).unwrap();
    fs::write(&path, format!("# A comment.\n{text}")).unwrap();
    let run = repository.run(&["compile", "network"]);
    assert!(run.stderr.ends_with(", nothing changed\n"), "{}", run.stderr);
    assert_eq!(repository.differing(), [(1, 0, "network/nodes.yaml".to_owned())]);
    // The places on their way to the nodes are those of now.
    let places = fs::read_to_string(repository.path("out/node-3/places.json")).unwrap();
    let line = text.lines().position(|line| line == "  - name: node-3").unwrap() + 2;
    assert!(places.contains(&format!("\"node node-3\": \"nodes.yaml:{line}:5\",\n")), "{places}");
}

#[test]
fn a_pod_changes_what_its_node_has_of_it() {
    let repository = Repository::new(SIZE);
    repository.add_pod(7, 3);
    repository.compile();
    let files = repository.differing();
    let names: Vec<&str> = files.iter().map(|(.., name)| name.as_str()).collect();
    let node = |name: &str| format!("out/node-3/{name}");
    let expected = [
        "network/projects-000.yaml".to_owned(),
        "network/ringfence.lock".to_owned(),
        node("flows.ofctl"),
        node("links.sh"),
        node("node.json"),
        node("ports.sh"),
    ];
    assert_eq!(names, expected);
    println!("a pod more: {} files, {} lines", files.len(), lines(&files));
    assert!(lines(&files) <= 40, "{files:?}");
}

#[test]
fn a_rule_changes_one_line_of_the_nodes_of_its_project() {
    let repository = Repository::new(SIZE);
    let rule = "      - allow: {cidr: 203.0.113.0/24}";
    repository.insert(7, "cidr: 100.27.0.0/24}", rule);
    repository.compile();
    let mut files = repository.differing();
    assert_eq!(files.remove(0), (1, 0, "network/projects-000.yaml".to_owned()));
    let text = fs::read_to_string(repository.path("network/projects-000.yaml")).unwrap();
    let (_, project) = text.split_once("- name: project-7\n").unwrap();
    let (project, _) = project.split_once("  - name:").unwrap();
    let pods = project.lines().filter_map(|line| line.split_once("node: ")?.1.split(',').next());
    let mut expected: Vec<_> = pods.map(|node| (1, 0, format!("out/{node}/flows.ofctl"))).collect();
    expected.sort();
    expected.dedup();
    assert!(!expected.is_empty());
    assert_eq!(files, expected);
}

#[test]
fn changes_of_different_projects_merge() {
    let repository = Repository::new(SMALL);
    repository.branch_with_pod("one", 7, 3);
    repository.branch_with_pod("elsewhere", 30, 9);
    repository.branch_with_pod("same-node", 42, 3);
    for other in ["elsewhere", "same-node"] {
        assert_eq!(repository.merge("one", other), Vec::<String>::new(), "{other}");
        repository.is_right();
    }
}

#[test]
fn compile_repairs_what_could_not_be_merged() {
    let repository = Repository::new(SMALL);
    // Two pods at the same place of one project, on one node.
    repository.branch_with_pod("one", 7, 3);
    repository.git(&["switch", "-q", "-c", "other", "main"]);
    repository.add_pod(7, 3);
    let path = repository.path("network/projects-000.yaml");
    let text = fs::read_to_string(&path).unwrap().replace("one-more", "other-more");
    fs::write(&path, text).unwrap();
    repository.compile();
    repository.commit();
    let conflicts = repository.merge("one", "other");
    assert!(conflicts.iter().any(|file| file == "out/node-3/links.sh"), "{conflicts:?}");
    assert!(conflicts.iter().any(|file| file == "network/ringfence.lock"), "{conflicts:?}");
    // As the README has it: both sides of the input are kept, and of the lock file.
    for file in ["network/projects-000.yaml", "network/ringfence.lock"] {
        let text = fs::read_to_string(repository.path(file)).unwrap();
        if file.ends_with("lock") {
            let run = repository.run(&["lock", "--check", "network"]);
            assert!(run.stderr.contains("the lock file has a merge conflict"), "{}", run.stderr);
        }
        let marker = |line: &&str| {
            !["<<<<<<<", "=======", ">>>>>>>"].iter().any(|marker| line.starts_with(marker))
        };
        let lines = text.lines().filter(marker).map(|line| format!("{line}\n"));
        fs::write(repository.path(file), lines.collect::<String>()).unwrap();
    }
    repository.compile();
    repository.is_right();
    let marked = |bytes: &[u8]| String::from_utf8_lossy(bytes).contains("<<<<<<<");
    let left: Vec<PathBuf> = tree(&repository.path("out"))
        .into_iter()
        .filter(|(_, bytes)| marked(bytes))
        .map(|(path, _)| path)
        .collect();
    assert_eq!(left, Vec::<PathBuf>::new());
}

#[test]
fn a_table_tells_how_much_of_each_node_differs() {
    let repository = Repository::new(SMALL);
    repository.add_pod(7, 3);
    repository.done(&["lock", "network"]);
    let run = repository.run(&["compile", "--check", "--stat", "network"]);
    assert_eq!(run.status, 2);
    let expected = "node    files  flows +  flows -  lines +  lines -\n\
                    node-3      4        8        0       13        1\n\
                    total       4        8        0       13        1\n";
    assert_eq!(run.stdout, expected);
}

#[test]
fn services_are_where_somebody_can_use_them() {
    for (services, everywhere) in
        [(Services::OfProjects, false), (Services::OfProjectsAndNodes, true)]
    {
        let repository = Repository::new(Size { services, ..SMALL });
        let mut fewer = 0;
        for node in 0..SMALL.nodes {
            let read = |file: &str| {
                fs::read_to_string(repository.path(&format!("out/node-{node}/{file}"))).unwrap()
            };
            let (description, groups, flows) =
                (read("node.json"), read("groups.ofctl"), read("flows.ofctl"));
            for project in 0..SMALL.projects {
                let here = description.contains(&format!("\"owner\":\"pod project-{project}/"));
                let name = format!("# service project-{project}/web:443/tcp\n");
                // Some projects have no pods anywhere, so nobody is behind their services.
                let deserted = !flows_anywhere(&repository, project);
                let expected = (here || everywhere) && !deserted;
                assert_eq!(groups.contains(&name), expected, "node-{node}, project-{project}");
                assert_eq!(flows.contains(&name), expected, "node-{node}, project-{project}");
                fewer += usize::from(!expected && !deserted);
            }
            // No flow leads to a group that isn't there.
            for flow in flows.lines() {
                let Some((_, group)) = flow.split_once("actions=group:") else { continue };
                let number = group.split(' ').next().unwrap();
                assert!(groups.contains(&format!("group_id={number},")), "{flow}");
            }
        }
        assert_eq!(fewer > 0, !everywhere);
    }
}

/// Whether a project has a pod on any node.
fn flows_anywhere(repository: &Repository, project: usize) -> bool {
    let lock = fs::read_to_string(repository.path("network/ringfence.lock")).unwrap();
    lock.contains(&format!("\n  project-{project}/pod-"))
}

#[test]
fn files_that_others_put_there_stay() {
    let directory = tempfile::tempdir().unwrap();
    let out = directory.path().join("out");
    let example = crate::support::root().join("examples/flat");
    let compile = || {
        let words = ["compile", example.to_str().unwrap(), "-o", out.to_str().unwrap()];
        ringfence(directory.path(), &words)
    };
    // A directory that has a file of the same name, but is no node's.
    fs::create_dir_all(out.join("docs")).unwrap();
    fs::write(out.join("docs/notes.md"), "mine").unwrap();
    fs::create_dir_all(out.join("node-1")).unwrap();
    fs::write(out.join("node-1/notes.md"), "mine").unwrap();
    let run = compile();
    assert_eq!(run.status, 1);
    let message = format!("`{}/node-1/notes.md` is not a file of ringfence", out.display());
    assert!(run.stderr.contains(&message), "{}", run.stderr);
    fs::remove_file(out.join("node-1/notes.md")).unwrap();
    // Git's own files are made once, and belong to whoever changes them.
    fs::write(out.join(".gitignore"), "/secrets\n").unwrap();
    let run = compile();
    assert_eq!(run.status, 0, "{}", run.stderr);
    assert!(run.stderr.contains("docs/notes.md` is not a file of ringfence"), "{}", run.stderr);
    assert_eq!(fs::read_to_string(out.join(".gitignore")).unwrap(), "/secrets\n");
    assert!(out.join(".gitattributes").exists());
    // A node that is gone goes as a whole.
    fs::create_dir_all(out.join("node-9")).unwrap();
    for (path, bytes) in tree(&out.join("node-1")) {
        let text = String::from_utf8(bytes).unwrap().replace("node-1", "node-9");
        fs::write(out.join("node-9").join(path), text).unwrap();
    }
    fs::write(out.join("node-9/manifest.json.sig"), "a signature").unwrap();
    assert_eq!(compile().status, 0);
    assert_left(&out.join("node-9"));
    assert_eq!(fs::read_to_string(out.join("docs/notes.md")).unwrap(), "mine");
}

/// Only what others put there is left.
fn assert_left(directory: &Path) {
    let left: Vec<PathBuf> = tree(directory).into_keys().collect();
    assert_eq!(left, [PathBuf::from("manifest.json.sig")]);
}

proptest::proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig::with_cases(256))]

    /// What is read line by line is what YAML reads, whatever has happened to the text.
    #[test]
    fn lock_files_read_line_by_line_as_by_yaml(
        changes in proptest::collection::vec((0..CHANGES.len(), 0..60_usize, 0..60_usize), 0..4),
    ) {
        let mut lines: Vec<String> = LOCK.lines().map(|line| format!("{line}\n")).collect();
        for (change, from, to) in changes {
            let (from, to) = (from % lines.len(), to % lines.len());
            let (what, by) = CHANGES[change];
            match what {
                "drop" => drop(lines.remove(from)),
                "move" => lines.swap(from, to),
                "copy" => lines.insert(to, lines[from].clone()),
                "insert" => lines.insert(from, by.to_owned()),
                _ => lines[from] = lines[from].replacen(what, by, 1),
            }
            if lines.is_empty() {
                break;
            }
        }
        let text = lines.concat();
        proptest::prop_assert_eq!(lock::parse(&text), lock::parse_yaml(&text), "{}", text);
    }
}

/// What may happen to a line of a lock file.
const CHANGES: [(&str, &str); 24] = [
    ("drop", ""),
    ("move", ""),
    ("copy", ""),
    ("insert", "<<<<<<< HEAD\n"),
    ("insert", "---\n"),
    ("insert", "\n"),
    ("insert", "#comment\n"),
    ("insert", "  # comment\n"),
    ("insert", "  true: 12\n"),
    ("insert", "  1: 2\n"),
    ("insert", "resolvedNames:\n"),
    ("insert", "  a: {}\n"),
    (": ", ":"),
    (": ", ":  "),
    (" ", "\t"),
    ("\n", " # why\n"),
    ("\n", " \n"),
    ("\n", "\r\n"),
    ("1", "0"),
    ("1", "0x1"),
    ("shop", "null"),
    ("shop", "'shop'"),
    ("shop", "7"),
    ("1", "1_0"),
];

/// Every section.
const LOCK: &str = "# What ringfence allocated. Written by `ringfence lock`; commit it.
version: 1
# project: VNID
vnids:
  bank: 11518613
  shop: 14643950
# VNIDs of projects that are gone, until `ringfence lock --prune`
retiredVnids:
  12: shop
# addresses of what is gone, until `ringfence lock --prune`
retiredAddresses:
  10.128.0.9: pod/shop/web-0
memberships:
  bank: shop
formerMembers:
  bank/shop: 77
subnets:
  node-1: 10.128.0.0/23
pods:
  shop/web-0: node-1 10.128.0.254 0a:58:0a:80:00:fe 264
routers:
  supplier: node-1 10.128.0.95 0a:58:0a:80:00:5f 105
outsidePorts:
  supplier: node-1 106
services:
  shop/web: 172.30.1.1
nodePorts:
  shop/web/80/tcp: 30080
resolvedNames:
  api.example.com 198.51.100.7: 2026-11-21T12:00:00Z 300
";

#[test]
fn lock_files_with_the_earlier_names_of_sections_are_taken_over() {
    let mut earlier = LOCK.to_owned();
    for (now, before) in [
        ("retiredVnids:", "retired:"),
        ("memberships:", "joined:"),
        ("formerMembers:", "left:"),
        ("resolvedNames:", "names:"),
    ] {
        assert!(earlier.contains(&format!("\n{now}\n")), "{now}");
        earlier = earlier.replace(&format!("\n{now}\n"), &format!("\n{before}\n"));
    }
    assert_eq!(lock::parse(&earlier), lock::parse(LOCK));
    // Both at once are not one of them.
    let twice = LOCK.replace("memberships:", "joined:\n  shop: bank\nmemberships:");
    assert!(lock::parse(&twice).unwrap_err().message.contains("duplicate field"), "{twice}");

    let directory = tempfile::tempdir().unwrap();
    let example = crate::support::root().join("examples/quickstart");
    fs::copy(example.join("network.yaml"), directory.path().join("network.yaml")).unwrap();
    let now = fs::read_to_string(example.join(lock::FILE_NAME)).unwrap();
    let path = directory.path().join(lock::FILE_NAME);
    fs::write(&path, now.replace("\nmemberships:\n", "\njoined:\n")).unwrap();
    assert_eq!(ringfence(directory.path(), &["validate", "."]).status, 0);
    assert_eq!(ringfence(directory.path(), &["lock", "--check", "."]).status, 2);
    assert_eq!(ringfence(directory.path(), &["lock", "."]).status, 0);
    assert_eq!(fs::read_to_string(&path).unwrap(), now);
}
