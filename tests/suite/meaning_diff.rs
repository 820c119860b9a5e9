//! `ringfence diff`: what it says is so, and what it leaves out is equal.

use std::fs;
use std::net::Ipv4Addr;
use std::path::Path;

use proptest::prelude::*;

use crate::generations::assert_valid;
use crate::network_policies::cluster;
use crate::scale::{self, Services, Size};
use crate::support::{ringfence, written};
use crate::world::{Network, fresh, locked, model, worlds};
use ringfence::answer::diff::{Effect, Row, diff};
use ringfence::answer::question::{Directory, Holder};
use ringfence::cli::schema::Subject;
use ringfence::intent::{Endpoint, Workload};
use ringfence::model::Model;
use ringfence::value::{Port, Protocol};
use ringfence::verify::reach::{Destination, Packet, Source, reach};

const NETWORK: &str = "version: 1
nodes: [{name: a, address: 192.0.2.1}, {name: b, address: 192.0.2.2}]
projects:
  - name: shop
    pods:
      - {name: web-0, node: a, labels: {app: web}}
      - {name: web-1, node: b, labels: {app: web}}
    services: [{name: web, selector: {app: web}, ports: [{port: 80, targetPort: 8080}]}]
  - {name: billing, pods: [{name: api-0, node: b}]}
  - {name: bank, pods: [{name: core-0, node: a}]}
egressPolicies:
  - project: bank
    rules:
      - allow: {cidr: 198.51.100.0/24, ports: [{port: 443}]}
      - deny: {cidr: 0.0.0.0/0}
";

/// What diff prints of a change, with its exit status.
fn changed(change: impl Fn(&str) -> String, words: &[&str]) -> (String, i32) {
    let old = written(NETWORK);
    let new = written(NETWORK);
    // The lock file stays, as in a repository.
    fs::write(new.path().join("network.yaml"), change(NETWORK)).unwrap();
    let run = ringfence(new.path(), &["lock"]);
    assert_eq!(run.status, 0, "{}", run.stderr);
    let sides = [old.path().to_str().unwrap(), new.path().to_str().unwrap()];
    let run = ringfence(old.path(), &[&["diff", sides[0], sides[1]], words].concat());
    assert_eq!(run.stderr, "");
    (run.stdout, run.status)
}

#[test]
fn a_join_is_two_rows() {
    let (text, status) =
        changed(|text| format!("{text}joins: [{{to: shop, projects: [billing]}}]\n"), &[]);
    assert_eq!(status, 2);
    let rows: Vec<&str> = text.lines().collect();
    assert_eq!(rows.len(), 2, "{text}");
    assert!(
        rows[0].starts_with(
            "opens      project billing (1 pod) -> service shop/web: tcp/80 (both have VNID "
        ),
        "{text}"
    );
    assert!(
        rows[1].starts_with(
            "opens      project billing (1 pod) <-> project shop (2 pods) (both have VNID "
        ),
        "{text}"
    );
}

#[test]
fn a_rule_is_what_it_opens_and_by_which_line() {
    let wider = |text: &str| text.replace("{port: 443}", "{port: 443, endPort: 445}");
    let (text, _) = changed(wider, &[]);
    assert_eq!(
        text,
        "opens      project bank (1 pod) -> 198.51.100.0/24: tcp/444-445 (rule bank: allow \
         198.51.100.0/24 tcp/443-445, network.yaml:14:9)\n"
    );
    let (text, status) = changed(wider, &["--fail-on", "closed"]);
    assert_eq!((text.lines().count(), status), (1, 0));
    let (_, status) = changed(wider, &["--fail-on", "opened"]);
    assert_eq!(status, 2);
}

#[test]
fn a_rule_that_goes_is_named_where_it_was() {
    let (text, _) = changed(
        |text| text.replace("      - allow: {cidr: 198.51.100.0/24, ports: [{port: 443}]}\n", ""),
        &[],
    );
    assert_eq!(
        text,
        "closes     project bank (1 pod) -> 198.51.100.0/24: tcp/443 (rule bank: deny 0.0.0.0/0, \
         network.yaml:14:9)\n"
    );
}

#[test]
fn other_words_for_the_same_are_no_difference() {
    let same = |text: &str| {
        text.replace(
            "      - allow: {cidr: 198.51.100.0/24, ports: [{port: 443}]}\n",
            "      # In two halves.\n      - allow: {cidr: 198.51.100.0/25, ports: [{port: 443}]}\n      \
             - allow: {cidr: 198.51.100.128/25, ports: [{port: 443, endPort: 443}]}\n",
        )
    };
    assert_eq!(changed(same, &[]), ("both states mean the same\n".to_owned(), 0));
    let tests = |text: &str| {
        format!("{text}tests: [{{name: apart, from: shop/web-0, to: bank/core-0, expect: deny}}]\n")
    };
    assert_eq!(changed(tests, &["--fail-on", "opened"]).1, 0);
}

#[test]
fn another_number_is_a_renumbering() {
    let (text, _) = changed(
        |text| {
            text.replace("{name: core-0, node: a}", "{name: core-0, node: a, address: 10.128.0.77}")
        },
        &[],
    );
    assert_eq!(text.lines().count(), 1, "{text}");
    assert!(text.starts_with("renumbers  pod bank/core-0: "), "{text}");
    assert!(text.contains(" -> 10.128.0.77 port "), "{text}");
}

#[test]
fn markdown_and_json_say_the_same() {
    let wider = |text: &str| text.replace("{port: 443}", "{port: 443, endPort: 445}");
    let (text, _) = changed(wider, &["--format", "markdown", "--flows"]);
    assert!(
        text.contains(
            "| **opens** | project bank (1 pod) | -&gt; | 198.51.100.0/24 | tcp/444-445 | "
        ),
        "{text}"
    );
    assert!(
        text.contains("| Node | Flows added | removed | of |\n| --- | --- | --- | --- |\n| a | "),
        "{text}"
    );
    let (text, _) = changed(wider, &["--format", "json"]);
    let document: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_valid(Subject::Diff, &document);
    assert_eq!(document["rows"][0]["effect"], "opens");
    assert_eq!(document["rows"][0]["place"], "network.yaml:14:9");
}

fn git(directory: &Path, words: &[&str]) {
    let name =
        ["-c", "user.name=A", "-c", "user.email=a@example.com", "-c", "commit.gpgsign=false"];
    let output = duct::cmd("git", [&name[..], words].concat())
        .dir(directory)
        .env("GIT_CONFIG_GLOBAL", "/dev/null")
        .stdout_null()
        .stderr_capture()
        .unchecked()
        .run()
        .unwrap();
    assert!(output.status.success(), "{words:?}: {}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn revisions_of_git_are_states() {
    let directory = written(NETWORK);
    let path = directory.path();
    git(path, &["init", "-q", "-b", "main"]);
    git(path, &["add", "."]);
    git(path, &["commit", "-q", "-m", "one"]);
    git(path, &["switch", "-q", "-c", "wider"]);
    let text = NETWORK.replace("{port: 443}", "{port: 443, endPort: 445}");
    fs::write(path.join("network.yaml"), text).unwrap();
    git(path, &["commit", "-q", "-a", "-m", "two"]);
    for words in [&["diff", "main..HEAD"][..], &["diff", "main", "wider"], &["diff", "main", "."]] {
        let run = ringfence(path, words);
        assert_eq!(run.status, 2, "{words:?}: {}{}", run.stdout, run.stderr);
        assert!(run.stdout.starts_with("opens      project bank (1 pod) -> "), "{}", run.stdout);
    }
    assert_eq!(ringfence(path, &["diff", "main..main"]).status, 0);
    // Below a directory of the repository.
    fs::create_dir(path.join("net")).unwrap();
    git(path, &["mv", "network.yaml", "ringfence.lock", "net"]);
    git(path, &["commit", "-q", "-m", "three"]);
    let run = ringfence(path, &["diff", "HEAD", "net", "--path", "net"]);
    assert_eq!(
        (run.status, run.stdout.as_str()),
        (0, "both states mean the same\n"),
        "{}",
        run.stderr
    );
    for bad in ["--upload-pack=x", "no-such-branch", ""] {
        let run = ringfence(path, &["diff", "main", "--", bad]);
        assert_eq!(run.status, 1, "{bad}: {}", run.stderr);
        assert!(run.stderr.contains("[RF320]"), "{bad}: {}", run.stderr);
    }
}

/// `RINGFENCE_FULL_WORLD=1` takes 5,000 projects with 100,000 pods, and prints how long it takes.
#[test]
fn one_pod_more_is_three_lines_at_most() {
    let full = std::env::var_os("RINGFENCE_FULL_WORLD").is_some();
    let (nodes, projects, pods_per_node) = if full { (500, 5000, 200) } else { (20, 200, 20) };
    let size = Size { nodes, projects, pods_per_node, rules: 20, services: Services::None };
    let (old, new) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    scale::write(old.path(), size);
    scale::write(new.path(), size);
    assert_eq!(ringfence(old.path(), &["lock"]).status, 0);
    fs::copy(old.path().join("ringfence.lock"), new.path().join("ringfence.lock")).unwrap();
    let file = new.path().join("projects-001.yaml");
    let text = fs::read_to_string(&file).unwrap();
    let begin = "  - name: project-150\n    labels: {team: team-0}\n    pods:\n";
    assert!(text.contains(begin));
    let more = format!("{begin}      - {{name: brand-new, node: node-3, labels: {{app: web}}}}\n");
    fs::write(&file, text.replace(begin, &more)).unwrap();
    assert_eq!(ringfence(new.path(), &["lock"]).status, 0);
    let begin = std::time::Instant::now();
    let sides = [old.path().to_str().unwrap(), new.path().to_str().unwrap()];
    let run = ringfence(old.path(), &["diff", sides[0], sides[1]]);
    if full {
        eprintln!("one pod more: {:?}\n{}", begin.elapsed(), run.stdout);
    }
    assert_eq!(run.status, 2, "{}", run.stderr);
    let rows: Vec<&str> = run.stdout.lines().collect();
    assert!((1..=3).contains(&rows.len()), "{}", run.stdout);
    assert!(rows[0].contains("project-150/brand-new (new)"), "{}", run.stdout);
}

/// Whether any row of an effect is about such a packet.
fn says(rows: &[Row], effect: Effect, fits: impl Fn(&Row) -> bool) -> bool {
    rows.iter().any(|row| row.effect == effect && fits(row))
}

fn has_port(row: &Row, (protocol, port): (Protocol, Port)) -> bool {
    let ports = &row.detail.ports;
    let here = |(of, first, last): &(Protocol, u16, u16)| {
        *of == protocol && (*first..=*last).contains(&port.get())
    };
    ports.is_empty() || ports.iter().any(here)
}

fn pods(model: &Model) -> Vec<(String, Workload)> {
    let intent = model.intent();
    intent.pods().map(|(id, _)| (intent.pod_name(id), Workload::Pod(id))).collect()
}

fn find(model: &Model, name: &str) -> Option<Workload> {
    match Endpoint::find(model.intent(), name, true) {
        Ok(Endpoint::Workload(workload)) => Some(workload),
        _ => None,
    }
}

const TRANSPORTS: [(Protocol, u64); 7] = [
    (Protocol::Tcp, 80),
    (Protocol::Tcp, 8080),
    (Protocol::Tcp, 443),
    (Protocol::Udp, 53),
    (Protocol::Udp, 8080),
    (Protocol::Sctp, 80),
    (Protocol::Tcp, 65_535),
];

/// What rows say of packets between pods, to the outside and to services is what both states say, and
/// what no row speaks of is equal.
fn check(old: &Model, new: &Model) -> Result<(), TestCaseError> {
    let rows = diff(old, new);
    let models = [old, new];
    let mut names: Vec<String> =
        models.iter().flat_map(|m| pods(m)).map(|(name, _)| name).collect();
    names.sort();
    names.dedup();
    let transports = TRANSPORTS.map(|(protocol, port)| (protocol, Port::new(port).unwrap()));
    for from in &names {
        for transport in transports {
            for to in names.iter().filter(|to| *to != from) {
                let ask = |model: &Model| {
                    let (from, to) = (find(model, from)?, find(model, to)?);
                    Some((Source::Workload(from), Destination::Workload(to)))
                };
                compare(models, &rows, ask, transport, &|row: &Row| {
                    let detail = &row.detail;
                    let there = |a: &String, b: &String| {
                        detail.senders.contains(a) && detail.receivers.contains(b)
                    };
                    row.what != "multicast"
                        && has_port(row, transport)
                        && (there(from, to) || (row.arrow == "<->" && there(to, from)))
                })?;
            }
            check_outside(models, &rows, from, transport)?;
            check_services(models, &rows, from, transport)?;
        }
    }
    Ok(())
}

fn compare(
    models: [&Model; 2],
    rows: &[Row],
    ask: impl Fn(&Model) -> Option<(Source, Destination)>,
    (protocol, port): (Protocol, Port),
    fits: &dyn Fn(&Row) -> bool,
) -> Result<(), TestCaseError> {
    let [old, new] = models.map(|model| {
        ask(model)
            .is_some_and(|(from, to)| reach(model, &Packet { from, to, protocol, port }).allowed())
    });
    let what = || format!("{:?} {protocol}/{port}: {old} and {new}\n{rows:#?}", ask(models[1]));
    prop_assert_eq!(says(rows, Effect::Opens, fits), !old && new, "opens {}", what());
    prop_assert_eq!(says(rows, Effect::Closes, fits), old && !new, "closes {}", what());
    Ok(())
}

fn check_outside(
    models: [&Model; 2],
    rows: &[Row],
    from: &str,
    transport: (Protocol, Port),
) -> Result<(), TestCaseError> {
    let directories = models.map(Directory::new);
    // Who came or went beside others of its project does as these.
    let as_others = rows.iter().any(|row| {
        row.to == "outside and services" && row.detail.senders.iter().any(|name| name == from)
    });
    for host in [
        "8.8.8.8",
        "198.51.100.7",
        "198.51.100.200",
        "203.0.113.1",
        "203.0.113.200",
        "192.0.2.128",
        "223.255.255.255",
    ] {
        let host: Ipv4Addr = host.parse().unwrap();
        let free = |side: usize| directories[side].holder(models[side], host) == Holder::Outside;
        if as_others || !free(0) || !free(1) {
            continue;
        }
        let ask = |model: &Model| {
            Some((Source::Workload(find(model, from)?), Destination::Outside(host)))
        };
        let number = u32::from(host);
        compare(models, rows, ask, transport, &|row: &Row| {
            let detail = &row.detail;
            has_port(row, transport)
                && detail.senders.iter().any(|name| name == from)
                && detail.addresses.iter().any(|(first, last)| (*first..=*last).contains(&number))
        })?;
    }
    Ok(())
}

fn check_services(
    models: [&Model; 2],
    rows: &[Row],
    from: &str,
    (protocol, port): (Protocol, Port),
) -> Result<(), TestCaseError> {
    let as_others = rows.iter().any(|row| {
        row.to == "outside and services" && row.detail.senders.iter().any(|name| name == from)
    });
    let names = models.iter().flat_map(|model| {
        model.services().map(|(id, _)| model.intent().service_name(id)).collect::<Vec<_>>()
    });
    for name in names.collect::<std::collections::BTreeSet<_>>() {
        let rank = |model: &Model| {
            let from = find(model, from)?;
            let Ok(Endpoint::Service(id)) =
                Endpoint::find(model.intent(), &format!("service/{name}"), false)
            else {
                return None;
            };
            let packet = Packet {
                from: Source::Workload(from),
                to: Destination::Service(id),
                protocol,
                port,
            };
            let found = reach(model, &packet);
            Some(u8::from(found.allowed()) * 2 + u8::from(found.sometimes))
        };
        let [old, new] = models.map(|model| rank(model).unwrap_or(0));
        if as_others || old == new {
            continue;
        }
        let effect = if new > old { Effect::Opens } else { Effect::Closes };
        let object = format!("service {name}");
        let said = says(rows, effect, |row| {
            row.detail.senders.iter().any(|sender| sender == from)
                && row.detail.receivers.iter().any(|to| to.split(" (").next() == Some(&object))
        });
        prop_assert!(said, "{} to {}: {} and {}\n{:#?}", from, name, old, new, rows);
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn rows_and_silence_are_right(old in worlds(), new in worlds()) {
        let (old, _) = model(vec![old.yaml()]);
        let (new, _) = model(vec![new.yaml()]);
        check(&old, &new)?;
    }

    /// One thing is another, as in most changes.
    #[test]
    fn rows_of_small_changes_are_right(world in worlds(), other in worlds(), at in 0..6_usize) {
        let mut changed = world.clone();
        let at = at % changed.projects.len();
        changed.projects[at] = other.projects[0].clone();
        let (old, _) = model(vec![world.yaml()]);
        let (new, _) = model(vec![changed.yaml()]);
        check(&old, &new)?;
    }

    #[test]
    fn rows_of_policies_are_right(seed in any::<u64>(), other in any::<u64>()) {
        check(&cluster(seed), &cluster(other))?;
    }

    /// Another order, and other numbers, open and close nothing.
    #[test]
    fn equal_meaning_is_no_difference(world in worlds(), order in any::<u64>()) {
        let mut seed = order;
        let shuffled = world.shuffled(|| {
            seed = scale::mixed(seed);
            usize::try_from(seed % 1000).unwrap()
        });
        let (found, _) = locked(vec![world.yaml()], &fresh(), false);
        let (old, lock) = found.unwrap();
        let (found, _) = locked(shuffled, &lock, false);
        let (new, _) = found.unwrap();
        prop_assert_eq!(diff(&old, &new), Vec::new());
        let renumbered = world.yaml().replace("name: project-0,", "name: project-0, vnid: 77,");
        // Who shares the network of another has no number of its own.
        let alone = world.projects[0].network == Network::Own && !world.subnet_mode;
        if alone && let (Ok((new, _)), _) = locked(vec![renumbered], &lock, false) {
            let rows = diff(&old, &new);
            let only = rows.iter().all(|row| row.effect == Effect::Renumbers);
            prop_assert!(only, "{rows:#?}");
        }
    }
}
