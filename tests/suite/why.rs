//! `ringfence why`: the verdict and its line, and a way that the flows really go.

use std::fs;

use proptest::prelude::*;

use crate::generations::assert_valid;
use crate::network_policies::cluster;
use crate::support::{compiled, ringfence, root};
use crate::world::{model, worlds};
use ringfence::answer::path::Fabric;
use ringfence::answer::question::{Directory, Question, Target, decide, question};
use ringfence::cli::schema::Subject;
use ringfence::intent::{Endpoint, Workload};
use ringfence::lower::ClusterFlows;
use ringfence::model::Model;
use ringfence::value::{Port, Protocol};
use ringfence::verify::reach::{Destination, Source};

fn first_lines(words: &[&str], number: usize) -> String {
    let run = ringfence(root(), words);
    assert_eq!(run.status, 0, "{words:?}: {}", run.stderr);
    run.stdout.lines().take(number).collect::<Vec<_>>().join("\n")
}

#[test]
fn the_verdict_is_one_line_with_the_deciding_one_below() {
    for (words, wanted) in [
        (
            ["shop/web-0", "bank/core-0", "examples/quickstart"],
            "denied: shop/web-0 -> bank/core-0 (10.128.1.239) 80/tcp: the projects shop (VNID 14643950) and bank (VNID 11518613) are in different networks\n\
             \x20 at network.yaml:37:5: - name: bank",
        ),
        (
            ["bank/core-0", "198.51.100.7:443", "examples/quickstart"],
            "allowed: bank/core-0 -> 198.51.100.7 443/tcp: rule bank: allow 198.51.100.0/24 tcp/443\n\
             \x20 at network.yaml:64:9: - allow: {cidr: 198.51.100.0/24, ports: [{port: 443}]}",
        ),
        (
            ["bank/core-0", "outside:80", "examples/quickstart"],
            "denied: bank/core-0 -> outside (203.0.113.7) 80/tcp: rule bank: deny 0.0.0.0/0\n\
             \x20 at network.yaml:65:9: - deny: {cidr: 0.0.0.0/0}",
        ),
        (
            ["billing/api-0", "billing/reports", "examples/services"],
            "refused: billing/api-0 -> billing/reports (172.30.209.45) 80/tcp: no pod is behind reports\n\
             \x20 at network.yaml:62:17: ports: [{name: http, port: 80}, {name: stats, protocol: UDP, port: 8125}]",
        ),
        (
            ["outside", "node-1:30080", "examples/network-policies"],
            "allowed: outside -> node-1 (192.168.12.11) 30080/tcp: ingress of policy shop/front-for-all allows it\n\
             \x20 at network.yaml:54:9: - ports: [{port: http}]",
        ),
    ] {
        let [from, to, example] = words;
        let text = first_lines(&["why", from, to, example], 2);
        assert_eq!(text, wanted);
    }
}

#[test]
fn the_way_names_each_table_with_its_object_and_place() {
    let run =
        ringfence(root(), &["why", "shop/web-0", "billing/api-0:8080", "examples/quickstart"]);
    let way: Vec<Vec<&str>> = run
        .stdout
        .lines()
        .skip_while(|line| *line != "request")
        .skip(1)
        .take_while(|line| !line.is_empty())
        .map(|line| line.split("  ").map(str::trim).filter(|part| !part.is_empty()).collect())
        .collect();
    let tunnel = "-> through the tunnel to node-2 (192.168.12.12), VNI 14643950";
    assert_eq!(
        way[0],
        ["node-1", "table 0 Classify", "cluster", "network.yaml:7:3"],
        "{}",
        run.stdout
    );
    assert_eq!(
        way[3],
        ["node-1", "table 90 RemotePod", "node node-2", "network.yaml:17:5", tunnel]
    );
    assert_eq!(way.last().unwrap()[1], "table 80 Isolation");
    assert!(way.last().unwrap()[4].ends_with("to pod billing/api-0"), "{way:?}");
    let reply = run.stdout.split("\nreply\n").nth(1).unwrap();
    assert!(reply.trim_end().ends_with("to pod shop/web-0"), "{reply}");
}

#[test]
fn captures_are_for_both_ends_and_the_tunnel() {
    let run = ringfence(
        root(),
        &["why", "shop/web-0", "billing/api-0:8080", "examples/quickstart", "--capture"],
    );
    let capture = run.stdout.split("\ncapture\n").nth(1).unwrap();
    let commands: Vec<&str> =
        capture.lines().filter(|line| !line.contains('#')).map(str::trim).collect();
    assert_eq!(commands.len(), 6, "{capture}");
    assert!(commands[0].starts_with("ip netns exec shop.web-0 tcpdump -nni eth0 'tcp and host "));
    assert_eq!(commands[1], "tcpdump -nni eth0 'udp port 4789 and host 192.168.12.12'");
    assert_eq!(commands[2], "tcpdump -nni eth0 'udp port 4789 and host 192.168.12.11'");
    assert!(
        commands[3].starts_with("ip netns exec billing.api-0 tcpdump -nni eth0 'tcp and host ")
    );
    assert_eq!(commands[4], "ip netns exec billing.api-0 iperf3 -s -1 -p 8080");
    assert!(commands[5].starts_with("ip netns exec shop.web-0 iperf3 -c "));
    // What it filters by is a filter of tcpdump's.
    for command in &commands[..4] {
        let filter = command.split('\'').nth(1).unwrap();
        let compiled =
            duct::cmd!("tcpdump", "-d", "-y", "EN10MB", filter).stdout_null().stderr_null();
        if let Ok(output) = compiled.unchecked().run() {
            assert!(output.status.success(), "{filter}");
        }
    }
}

#[test]
fn the_answer_as_json_is_as_its_schema_says() {
    let out = compiled("services");
    let out = out.path().to_str().unwrap();
    let run = ringfence(
        root(),
        &[
            "why",
            "shop/web-0",
            "shop/web",
            "examples/services",
            "--json",
            "--out",
            out,
            "--capture",
        ],
    );
    assert_eq!(run.status, 0, "{}", run.stderr);
    let document: serde_json::Value = serde_json::from_str(&run.stdout).unwrap();
    assert_valid(Subject::Why, &document);
    assert_eq!(document["verdict"], "allowed");
    assert_eq!(document["filesAgree"], true);
    assert_eq!(document["files"][0]["place"], "network.yaml:9:3");
}

#[test]
fn files_that_do_something_else_are_noticed() {
    let out = compiled("quickstart");
    let words = [
        "why",
        "shop/web-0",
        "billing/api-0",
        "examples/quickstart",
        "--out",
        out.path().to_str().unwrap(),
    ];
    let run = ringfence(root(), &words);
    assert_eq!(run.status, 0, "{}", run.stderr);
    assert!(run.stdout.contains("files (as the desired state says)"), "{}", run.stdout);
    let file = out.path().join("node-1/flows.ofctl");
    let text = fs::read_to_string(&file).unwrap();
    let without =
        text.lines().filter(|line| !(line.contains("table=90,") && line.contains("node-2")));
    fs::write(&file, without.collect::<Vec<_>>().join("\n") + "\n").unwrap();
    let run = ringfence(root(), &words);
    assert_eq!(run.status, 2, "{}", run.stdout);
    assert!(run.stdout.contains("files (DIFFERENT)"), "{}", run.stdout);
    assert!(run.stderr.contains("[RF318]"), "{}", run.stderr);
}

/// Everybody who sends.
fn senders(model: &Model) -> Vec<Source> {
    let intent = model.intent();
    let pods = intent.pods().map(|(id, _)| Source::Workload(Workload::Pod(id)));
    let nodes = intent.nodes().map(|(id, _)| Source::Node(id));
    pods.chain(nodes).chain([Source::Outside]).collect()
}

/// What the intent says of a packet is what becomes of it on its way, and the answer comes back.
fn check_ways(model: &Model) -> Result<(), TestCaseError> {
    let intent = model.intent();
    let directory = Directory::new(model);
    let common = ClusterFlows::new(model).unwrap();
    let mut fabric = Fabric::new(&common);
    let mut ends: Vec<Endpoint> = senders(model)
        .into_iter()
        .filter_map(|from| match from {
            Source::Workload(workload) => Some(Endpoint::Workload(workload)),
            Source::Node(node) => Some(Endpoint::Node(node)),
            Source::Outside => None,
        })
        .collect();
    ends.extend(model.services().map(|(id, _)| Endpoint::Service(id)));
    ends.extend(
        ["198.51.100.7", "203.0.113.1"].map(|host| Endpoint::Address(host.parse().unwrap())),
    );
    ends.extend(intent.nodes().map(|(id, _)| Endpoint::Address(model.gateway(id))));
    let mut transports = vec![(Protocol::Tcp, Port::HTTP), (Protocol::Udp, Port::DNS)];
    transports.extend(model.node_ports().iter().take(2).map(|port| (port.protocol, port.port)));
    for from in senders(model) {
        for end in &ends {
            for transport in &transports {
                let Ok(question) = question(model, &directory, from, *end, *transport) else {
                    continue;
                };
                check_way(model, &mut fabric, &question)?;
            }
        }
    }
    Ok(())
}

fn check_way(
    model: &Model,
    fabric: &mut Fabric<'_>,
    question: &Question,
) -> Result<(), TestCaseError> {
    let reach = decide(model, question);
    let way = fabric.request(question, &reach).unwrap();
    let pod = way.arrival.and_then(|arrival| arrival.workload);
    match (question.from, question.to) {
        // Of a service, one choice is followed, and of what a ruleset decides, no more is known.
        _ if reach.sometimes => return Ok(()),
        (_, Target::One(Destination::Workload(to))) => {
            let refused = reach.refused && matches!(to, Workload::Router(_));
            prop_assert_eq!(
                pod == Some(to),
                reach.allowed() || refused,
                "{:?}: {:?} {:?}",
                question,
                reach,
                way
            );
        }
        (Source::Workload(_), Target::One(Destination::Service(_) | Destination::NodePort(..)))
            if reach.allowed() =>
        {
            prop_assert!(way.arrival.is_some(), "{:?}: {:?} {:?}", question, reach, way);
        }
        (Source::Workload(_), Target::One(Destination::Service(_) | Destination::NodePort(..))) => {
            prop_assert!(pod.is_none(), "{:?}: {:?} {:?}", question, reach, way);
        }
        (Source::Workload(_), Target::One(Destination::Outside(_))) if reach.allowed() => {
            prop_assert!(way.arrival.is_some() && pod.is_none(), "{:?}: {:?}", question, way);
        }
        (_, Target::Nobody) => prop_assert!(way.arrival.is_none(), "{:?}: {:?}", question, way),
        _ => {}
    }
    if !reach.allowed() {
        let text = way.steps.last().and_then(|step| step.effect.clone());
        prop_assert!(text.is_some() || way.steps.is_empty(), "{:?}: {:?}", question, way);
        return Ok(());
    }
    let reply = fabric.reply(question, &way).unwrap();
    let (Source::Workload(from), Some(reply)) = (question.from, reply) else { return Ok(()) };
    let got = reply.arrival.and_then(|arrival| arrival.workload);
    prop_assert_eq!(got, Some(from), "{:?}: {:?}", question, reply);
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn ways_end_where_the_intent_says(world in worlds()) {
        let (model, _) = model(vec![world.yaml()]);
        check_ways(&model)?;
    }

    #[test]
    fn ways_end_where_policies_say(seed in any::<u64>()) {
        check_ways(&cluster(seed))?;
    }
}
