//! Cases of others, read from a directory that `RINGFENCE_CASES` names: manifests of Kubernetes with what
//! another program says of them. They are no part of this repository; what they show is in `recipes`.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::world;
use ringfence::diagnostic::{Source, Sources};
use ringfence::input;
use ringfence::intent::Direction;
use ringfence::model::{Model, Workload};
use ringfence::resolve::resolve;
use ringfence::value::{Port, Protocol};
use ringfence::verify::reach::{Other, policies};

fn directory() -> PathBuf {
    PathBuf::from(std::env::var("RINGFENCE_CASES").expect("RINGFENCE_CASES names the cases"))
}

fn documents(paths: &[PathBuf]) -> Vec<Value> {
    let mut all = Vec::new();
    for path in paths {
        let text = fs::read_to_string(path).unwrap();
        for document in serde_yaml::Deserializer::from_str(&text) {
            let value: Value = serde::Deserialize::deserialize(document).unwrap();
            match value {
                Value::Object(ref object) if object.contains_key("items") => {
                    all.extend(object["items"].as_array().unwrap().clone());
                }
                value => all.push(without_nulls(value)),
            }
        }
    }
    all.into_iter().filter(Value::is_object).collect()
}

fn without_nulls(value: Value) -> Value {
    match value {
        Value::Object(map) => Value::Object(
            map.into_iter()
                .filter(|(_, value)| !value.is_null())
                .map(|(key, value)| (key, without_nulls(value)))
                .collect(),
        ),
        Value::Array(items) => Value::Array(items.into_iter().map(without_nulls).collect()),
        other => other,
    }
}

fn text<'v>(value: &'v Value, pointer: &str) -> &'v str {
    value.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

fn namespace(object: &Value) -> String {
    match text(object, "/metadata/namespace") {
        "" => "default".to_owned(),
        name => name.to_owned(),
    }
}

/// The manifests as a desired state.
fn desired_state(objects: &[Value]) -> String {
    let mut projects: BTreeMap<String, (Value, Vec<Value>)> = BTreeMap::new();
    let mut network_policies = Vec::new();
    let mut nodes: BTreeSet<String> = BTreeSet::from(["node-1".to_owned()]);
    for object in objects {
        let name = text(object, "/metadata/name").replace('.', "-");
        let labels = object.pointer("/metadata/labels").cloned().unwrap_or_else(|| json!({}));
        match text(object, "/kind") {
            "Namespace" => {
                projects.entry(name).or_insert_with(|| (json!({}), Vec::new())).0 = labels;
            }
            "Pod" => {
                let node = match text(object, "/spec/nodeName") {
                    "" => "node-1".to_owned(),
                    node => node.to_owned(),
                };
                nodes.insert(node.clone());
                let mut seen = BTreeSet::new();
                let containers = object.pointer("/spec/containers").and_then(Value::as_array);
                let ports = containers.into_iter().flatten().filter_map(|c| c["ports"].as_array());
                let ports: Vec<Value> = ports
                    .flatten()
                    .filter(|port| port["name"].is_string())
                    .map(|port| {
                        let protocol = port["protocol"].as_str().unwrap_or("TCP");
                        json!({"name": port["name"], "port": port["containerPort"], "protocol": protocol})
                    })
                    .filter(|port| seen.insert(port.to_string()))
                    .collect();
                let pod = json!({"name": name, "node": node, "labels": labels, "ports": ports});
                let entry = projects.entry(namespace(object));
                entry.or_insert_with(|| (json!({}), Vec::new())).1.push(pod);
            }
            "NetworkPolicy" => {
                let mut policy = object["spec"].clone();
                policy["project"] = json!(namespace(object));
                policy["name"] = json!(text(object, "/metadata/name"));
                projects.entry(namespace(object)).or_insert_with(|| (json!({}), Vec::new()));
                network_policies.push(policy);
            }
            _ => {}
        }
    }
    let nodes: Vec<Value> = nodes
        .iter()
        .enumerate()
        .map(|(n, name)| json!({"name": name, "address": format!("192.168.12.{}", 11 + n)}))
        .collect();
    let projects: Vec<Value> = projects
        .iter()
        .map(|(name, (labels, pods))| json!({"name": name, "labels": labels, "pods": pods}))
        .collect();
    json!({
        "version": 1,
        "cluster": {"mode": "networkpolicy"},
        "nodes": nodes,
        "projects": projects,
        "networkPolicies": network_policies,
    })
    .to_string()
}

fn pod(model: &Model, name: &str) -> Option<Workload> {
    let name = name.replace('.', "-");
    let mut pods = model.intent().pods().map(|(id, _)| (model.intent().pod_name(id), id));
    pods.find(|(other, _)| *other == name).map(|(_, id)| Workload::Pod(id))
}

/// A pod by its name, or an address.
fn other(model: &Model, name: &str) -> Other {
    match name.strip_prefix("external:") {
        Some(address) => Other::Address(address.parse().unwrap()),
        None => Other::Workload(pod(model, name).unwrap()),
    }
}

fn allowed(model: &Model, from: Other, to: Other, transport: (Protocol, u16)) -> bool {
    let transport = Some((transport.0, Port::new(transport.1.into()).unwrap()));
    let sends = match from {
        Other::Workload(from) => policies(model, Direction::Egress, from, to, transport).allowed(),
        _ => true,
    };
    let takes = match to {
        Other::Workload(to) => policies(model, Direction::Ingress, to, from, transport).allowed(),
        _ => true,
    };
    sends && takes
}

fn protocol(name: &str) -> Protocol {
    Protocol::ALL.into_iter().find(|p| p.as_str() == name.to_lowercase()).unwrap()
}

#[test]
#[ignore = "reads cases that RINGFENCE_CASES names"]
fn recipes_come_out_as_they_say() {
    let mut probes = 0;
    for case in crate::support::directories(&directory().join("network-policy-recipes")) {
        let expected: Value =
            serde_json::from_slice(&fs::read(case.join("expected.json")).unwrap()).unwrap();
        let objects = documents(&[case.join("objects.yaml"), case.join("policy.yaml")]);
        let (model, _) = world::model(vec![desired_state(&objects)]);
        for probe in expected["probes"].as_array().unwrap() {
            let [from, to] = ["from", "to"].map(|key| other(&model, probe[key].as_str().unwrap()));
            let port = u16::try_from(probe["port"].as_u64().unwrap()).unwrap();
            let transport = (protocol(probe["protocol"].as_str().unwrap()), port);
            let found = allowed(&model, from, to, transport);
            assert_eq!(found, probe["expect"] == "allow", "{}: {probe}", case.display());
            probes += 1;
        }
    }
    assert_eq!(probes, 48);
}

/// Whether a connection is in what the other program lists.
fn listed(conn: Option<&Value>, (protocol, port): (Protocol, u16)) -> bool {
    let Some(conn) = conn else { return false };
    if conn["all"] == true {
        return true;
    }
    let ranges = conn[protocol.as_str().to_uppercase()].as_array();
    ranges.into_iter().flatten().any(|range| {
        let [first, last] = [0, 1].map(|n| range[n].as_u64().unwrap());
        (first..=last).contains(&u64::from(port))
    })
}

fn borders(conns: &[Value]) -> BTreeSet<(Protocol, u16)> {
    let mut all: BTreeSet<(Protocol, u16)> =
        Protocol::ALL.into_iter().map(|protocol| (protocol, 4444)).collect();
    for conn in conns {
        for protocol in Protocol::ALL {
            let ranges = conn["conn"][protocol.as_str().to_uppercase()].as_array();
            for number in ranges.into_iter().flatten().flat_map(|r| r.as_array().unwrap()) {
                let number = u16::try_from(number.as_u64().unwrap()).unwrap();
                for near in [number.saturating_sub(1), number, number.saturating_add(1)] {
                    all.extend((near > 0).then_some((protocol, near)));
                }
            }
        }
    }
    all
}

fn check_connections(case: &Path) -> usize {
    let read = |name: &str| -> Value {
        serde_json::from_slice(&fs::read(case.join(name)).unwrap()).unwrap()
    };
    let objects = documents(&[case.join("expanded.yaml")]);
    let (model, _) = world::model(vec![desired_state(&objects)]);
    let (expected, pods) = (read("expected.json"), read("pods.json"));
    let expected = expected.as_array().unwrap();
    let end = |value: &Value| match value["type"].as_str() {
        Some("external") => value["ranges"][0].as_str().unwrap().to_owned(),
        _ => format!(
            "{}/{}[{}]",
            value["namespace"].as_str().unwrap_or_default(),
            value["name"].as_str().unwrap_or_default(),
            value["kind"].as_str().unwrap_or_default()
        ),
    };
    let conns: BTreeMap<(String, String), &Value> = expected
        .iter()
        .map(|line| ((end(&line["src"]), end(&line["dst"])), &line["conn"]))
        .collect();
    let workloads: Vec<(String, Workload)> = pods["pods"]
        .as_array()
        .unwrap()
        .iter()
        .filter_map(|p| {
            let workload = pod(&model, p["pod"].as_str().unwrap())?;
            Some((p["workload"].as_str().unwrap().to_owned(), workload))
        })
        .collect();
    let mut compared = 0;
    let borders = borders(expected);
    for (from_name, from) in &workloads {
        for (to_name, to) in workloads.iter().filter(|(name, _)| name != from_name) {
            let conn = conns.get(&(from_name.clone(), to_name.clone())).copied();
            for transport in &borders {
                let found =
                    allowed(&model, Other::Workload(*from), Other::Workload(*to), *transport);
                let wanted = listed(conn, *transport);
                assert_eq!(
                    found,
                    wanted,
                    "{}: {from_name} {to_name} {transport:?}",
                    case.display()
                );
                compared += 1;
            }
        }
        let outside = Other::Address(Ipv4Addr::new(198, 18, 7, 7));
        let ranges = "0.0.0.0-255.255.255.255".to_owned();
        for transport in &borders {
            let out = conns.get(&(from_name.clone(), ranges.clone())).copied();
            let found = allowed(&model, Other::Workload(*from), outside, *transport);
            assert_eq!(found, listed(out, *transport), "{}: {from_name} out", case.display());
            let into = conns.get(&(ranges.clone(), from_name.clone())).copied();
            let found = allowed(&model, outside, Other::Workload(*from), *transport);
            assert_eq!(found, listed(into, *transport), "{}: into {from_name}", case.display());
            compared += 2;
        }
    }
    compared
}

#[test]
#[ignore = "reads cases that RINGFENCE_CASES names"]
fn clusters_of_another_analyser_come_out_as_it_says() {
    let (mut cases, mut compared) = (0, 0);
    for kind in ["pure", "ingress"] {
        for case in crate::support::directories(&directory().join("netpol-analyzer").join(kind)) {
            compared += check_connections(&case);
            cases += 1;
        }
    }
    for case in crate::support::directories(&directory().join("netpol-analyzer/errors")) {
        let mut paths: Vec<PathBuf> =
            fs::read_dir(case.join("input")).unwrap().map(|e| e.unwrap().path()).collect();
        paths.sort();
        let text = desired_state(&documents(&paths));
        let source = Source::new("0.yaml".to_owned(), "0.yaml".to_owned(), text);
        let (parsed, report) = input::parse(&Sources::from_texts(vec![source]));
        let (intent, resolved) = resolve(&parsed, report.is_empty());
        assert!(report.has_errors() || resolved.has_errors(), "{}", case.display());
        assert!(intent.is_none());
        println!("{}: {report:?} {resolved:?}", case.display());
        cases += 1;
    }
    println!("{cases} cases, {compared} comparisons");
    assert_eq!(cases, 12);
}
