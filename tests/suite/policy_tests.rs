//! `ringfence test`: the tests of the desired state.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use proptest::prelude::*;

use crate::generations::assert_valid;
use crate::scale::{self, Services, Size};
use crate::support::{directories, ringfence, root, tree, written};
use crate::world::{locked, worlds};
use ringfence::answer::policy_test;
use ringfence::cli::schema::Subject;
use ringfence::intent::Workload;
use ringfence::lock;
use ringfence::model::Model;
use ringfence::value::{Port, Protocol};
use ringfence::verify::reach::{Destination, Packet, Source, reach};

const NETWORK: &str = "version: 1
nodes: [{name: a, address: 192.0.2.1}, {name: b, address: 192.0.2.2}]
projects:
  - name: shop
    labels: {team: retail}
    pods: [{name: web-0, node: a, labels: {app: web}}, {name: web-1, node: b, labels: {app: web}}]
    services: [{name: web, selector: {app: web}, ports: [{port: 80, targetPort: 8080}]}]
  - {name: bank, labels: {team: finance}, pods: [{name: core-0, node: a}]}
egressPolicies:
  - project: bank
    rules:
      - allow: {cidr: 198.51.100.0/24, ports: [{port: 443}]}
      - deny: {cidr: 0.0.0.0/0}
";

fn tested(tests: &str) -> (tempfile::TempDir, crate::support::Run) {
    let directory = written(&format!("{NETWORK}tests:\n{tests}"));
    let run = ringfence(directory.path(), &["test", "--junit", "report.xml"]);
    (directory, run)
}

#[test]
fn tests_pass_and_fail_with_a_packet_and_the_line_that_decides() {
    let (directory, run) = tested(
        "  - {name: the shop has its web, from: {projects: [shop]}, to: shop/web, expect: allow}
  - {name: 'apart, <always>', from: {selector: {team: retail}}, to: bank/core-0, expect: deny}
  - {name: the bank pays, from: {projects: [bank]}, to: 198.51.100.0/24, port: 443, expect: allow}
  - {name: nothing else, from: bank/core-0, to: outside, expect: deny}
",
    );
    assert_eq!(run.status, 2, "{}{}", run.stdout, run.stderr);
    let wanted = "passed  the shop has its web (1 packet)
passed  apart, <always> (3 packets)
passed  the bank pays (1 packet)
FAILED  nothing else (";
    assert!(run.stdout.starts_with(wanted), "{}", run.stdout);
    assert!(run.stdout.ends_with("4 tests: 3 passed, 1 failed\n"), "{}", run.stdout);
    for part in [
        "error[RF316]: the test `nothing else` fails: allowed: bank/core-0 -> 198.51.100.0 443/tcp: rule \
         bank: allow 198.51.100.0/24 tcp/443, but it must not arrive",
        "network.yaml:18:12",
        "- allow: {cidr: 198.51.100.0/24, ports: [{port: 443}]}",
        "----- this decides",
        "= help: `ringfence why bank/core-0 198.51.100.0:443/tcp` shows the whole way",
    ] {
        assert!(run.stderr.contains(part), "{part}\n{}", run.stderr);
    }
    let report = fs::read_to_string(directory.path().join("report.xml")).unwrap();
    assert!(
        report.contains("name=\"apart, &lt;always&gt;\" file=\"network.yaml\" line=\"16\"/>"),
        "{report}"
    );
    assert!(report.contains("<testsuites tests=\"4\" failures=\"1\">"), "{report}");
    assert!(
        report.contains("but it must not arrive\">decided at network.yaml:12:9</failure>"),
        "{report}"
    );
}

#[test]
fn results_as_json_are_as_their_schema_says() {
    let directory = written(&format!(
        "{NETWORK}tests: [{{name: apart, from: shop/web-0, to: bank/core-0, expect: allow}}]\n"
    ));
    let run = ringfence(directory.path(), &["test", "--json"]);
    assert_eq!(run.status, 2);
    let document: serde_json::Value = serde_json::from_str(&run.stdout).unwrap();
    assert_valid(Subject::Test, &document);
    assert_eq!(document["tests"][0]["decides"], "network.yaml:8:5");
}

#[test]
fn the_tests_of_every_example_pass() {
    let mut tested = 0;
    for example in directories(&root().join("examples")) {
        let has = tree(&example).iter().any(|(path, text)| {
            path.extension().is_some_and(|extension| extension == "yaml")
                && String::from_utf8_lossy(text).contains("\ntests:")
        });
        if !has {
            continue;
        }
        tested += 1;
        let run = ringfence(&example, &["test"]);
        assert_eq!(run.status, 0, "{}: {}{}", example.display(), run.stdout, run.stderr);
    }
    assert!(tested >= 5, "{tested}");
}

#[test]
fn tests_change_no_file_of_any_node() {
    let compiled = |directory: &Path| {
        let run = ringfence(directory, &["compile", ".", "-o", "out"]);
        assert_eq!(run.status, 0, "{}", run.stderr);
        let mut files = tree(&directory.join("out"));
        // It has the digests of the texts, no effect, and is not kept in Git.
        files.retain(|path, _| path.file_name().is_some_and(|name| name != "places.json"));
        files
    };
    let without = written(NETWORK);
    let with = written(NETWORK);
    let tests = "tests: [{name: apart, from: shop/web-0, to: bank/core-0, expect: deny}]\n";
    fs::write(with.path().join("tests.yaml"), tests).unwrap();
    assert_eq!(compiled(without.path()), compiled(with.path()));
}

#[test]
fn via_is_a_part_of_the_outcome() {
    let network = "version: 1
nodes:
  - name: a
    address: 192.168.12.11
    uplink: {interface: eth0, subnet: 192.168.12.0/24, gateway: 192.168.12.1}
    egressCIDRs: [192.168.12.128/25]
projects:
  - {name: shop, pods: [{name: web-0, node: a}]}
  - {name: bank, pods: [{name: core-0, node: a}]}
egressIPs: [{project: bank, addresses: [192.168.12.200]}]
egressRouters:
  - {name: supplier, project: shop, node: a, source: 192.168.12.99, gateway: 192.168.12.1, destination: 203.0.113.25}
tests:
  - {name: one, from: bank/core-0, to: outside, expect: allow, via: 192.168.12.200}
  - {name: two, from: shop/web-0, to: 198.51.100.1, expect: allow, via: a}
  - {name: three, from: shop/web-0, to: 203.0.113.25, port: 443, expect: allow, via: supplier}
  - {name: four, from: shop/web-0, to: 203.0.113.26, port: 443, expect: allow, via: supplier}
  - {name: five, from: shop/web-0, to: outside, port: 443, expect: allow, via: 192.168.12.200}
";
    let directory = written(network);
    let run = ringfence(directory.path(), &["test"]);
    let failed: Vec<&str> = run.stdout.lines().filter(|line| line.starts_with("FAILED")).collect();
    assert_eq!(failed.len(), 2, "{}{}", run.stdout, run.stderr);
    for part in [
        "the egress router leads to 203.0.113.25:443, not to 203.0.113.26",
        "the other side sees 192.168.12.11, not 192.168.12.200",
    ] {
        assert!(run.stderr.contains(part), "{}", run.stderr);
    }
}

/// Sets as tests have them, and the numbers of the projects that they mean.
fn sets(projects: usize) -> Vec<(String, Vec<usize>)> {
    let mut sets: Vec<(String, Vec<usize>)> = (0..projects)
        .map(|number| (format!("{{projects: [project-{number}]}}"), vec![number]))
        .collect();
    sets.push(("{}".to_owned(), (0..projects).collect()));
    sets.push((
        format!("[{{projects: [project-0]}}, {{projects: [project-{}]}}]", projects - 1),
        vec![0, projects - 1],
    ));
    sets
}

/// What a test of pods says, asked for every pair.
fn brute_force(model: &Model, from: &[usize], to: &[usize], allow: bool) -> Option<bool> {
    let intent = model.intent();
    let of = |numbers: &[usize]| -> Vec<Workload> {
        let fits = |project: &str| numbers.iter().any(|n| project == format!("project-{n}"));
        let pods = intent.pods().filter(|(_, pod)| fits(intent[pod.project].name.as_str()));
        pods.map(|(id, _)| Workload::Pod(id)).collect()
    };
    let (from, to) = (of(from), of(to));
    let mut any = false;
    let mut passes = true;
    for sender in &from {
        for receiver in to.iter().filter(|receiver| *receiver != sender) {
            any = true;
            let (from, to) = (Source::Workload(*sender), Destination::Workload(*receiver));
            let packet = Packet { from, to, protocol: Protocol::Tcp, port: Port::HTTP };
            passes &= reach(model, &packet).allowed() == allow;
        }
    }
    any.then_some(passes)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 32, failure_persistence: None, ..ProptestConfig::default() })]

    /// One of those that are alike is asked for all of them, and misses none.
    #[test]
    fn sets_mean_every_pair(world in worlds()) {
        let sets = sets(world.projects.len());
        let mut text = format!("{}tests:\n", world.yaml());
        let mut meant = Vec::new();
        for (from, senders) in &sets {
            for (to, receivers) in &sets {
                for expect in ["allow", "deny"] {
                    let number = meant.len();
                    let _ = writeln!(
                        text,
                        "  - {{name: t{number}, from: {from}, to: {to}, port: 80, expect: {expect}}}"
                    );
                    meant.push((senders, receivers, expect == "allow"));
                }
            }
        }
        // Sets without pods are an error, which has its own test.
        if world.projects.iter().all(|project| !project.pods.is_empty()) {
            let names = crate::world::fresh();
            let (found, _) = locked(vec![text], &names, false);
            let (model, _): (Model, lock::Lock) = found.unwrap();
            let outcomes = policy_test::run(&model);
            for ((from, to, allow), outcome) in meant.into_iter().zip(outcomes) {
                let passed = outcome.failure.is_none();
                match brute_force(&model, from, to, allow) {
                    Some(passes) => prop_assert_eq!(passed, passes, "{:?} {:?} {}", from, to, allow),
                    None => prop_assert!(!passed, "a test without packets passed"),
                }
            }
        }
    }
}

/// `RINGFENCE_FULL_WORLD=1` takes 500 nodes with 100,000 pods, and prints how long 1,000 tests take.
#[test]
fn many_tests_of_a_large_network_end() {
    let full = std::env::var_os("RINGFENCE_FULL_WORLD").is_some();
    let (nodes, projects, pods_per_node, tests) =
        if full { (500, 5000, 200, 1000) } else { (20, 200, 200, 200) };
    let directory = tempfile::tempdir().unwrap();
    let size = Size { nodes, projects, pods_per_node, rules: 20, services: Services::None };
    scale::write(directory.path(), size);
    let mut text = "tests:\n".to_owned();
    for number in 0..tests {
        let (a, b) = (number % projects, (number * 7 + 1) % projects);
        let to = match number % 4 {
            0 => format!("to: {{selector: {{team: team-{}}}}}, expect: deny", (a + 1) % 50),
            1 => format!("to: {{projects: [project-{b}]}}, expect: deny"),
            2 => "to: outside, protocol: sctp, port: 9, expect: deny".to_owned(),
            _ => format!("to: 100.{}.0.0/24, port: 443, expect: allow", a % 200 + 20),
        };
        let _ = writeln!(text, "  - {{name: t{number}, from: {{projects: [project-{a}]}}, {to}}}");
    }
    fs::write(directory.path().join("tests.yaml"), text).unwrap();
    let begin = std::time::Instant::now();
    let run = ringfence(directory.path(), &["test"]);
    if full {
        eprintln!("{tests} tests in {:?}", begin.elapsed());
    }
    let end = run.stdout.lines().last().unwrap_or_default();
    assert!(end.starts_with(&format!("{tests} tests: ")), "{end} {}", run.stderr);
    // What the rules allow is seen.
    assert!(run.stdout.contains("passed  t3 ("), "{}", run.stderr);
    assert!(run.stdout.contains("FAILED  t2 ("), "{}", run.stderr);
    assert!(run.stdout.contains("passed  t1 ("), "{}", run.stderr);
}
