//! Open vSwitch takes the flows of generated clusters as they are written, and agrees with the policies.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::net::Ipv4Addr;

use super::meaning::{Try, clusters, tries};
use super::worlds::{self, Dice};
use crate::lab::{Live, example};
use crate::properties::Arrival;
use ringfence::diagnostic::Sources;
use ringfence::emit::Renderer;
use ringfence::intent::NodeId;
use ringfence::lower::{ClusterFlows, Plan};
use ringfence::model::Model;
use ringfence::pipeline::OfPort;
use ringfence::verify::evaluate::Body;

/// How many packets of a cluster are traced.
const PACKETS: usize = 60;

/// The mark of what the ruleset of a node lets pass to the bridge.
const MARK: &str = "pkt_mark=0x72666e66,";

/// The files of every node.
pub(super) fn files(
    model: &Model,
    sources: &Sources,
) -> BTreeMap<NodeId, BTreeMap<String, Vec<u8>>> {
    let common = ClusterFlows::new(model).unwrap();
    let renderer = Renderer::new(model, sources).unwrap();
    let nodes = model.intent().nodes();
    let files = |node| renderer.node(node, &Plan::of(&common, node).unwrap()).unwrap().files;
    nodes.map(|(node, _)| (node, files(node))).collect()
}

/// Puts the flows of a node on the bridge of a live one, which then has nothing else.
pub(super) fn load(live: &Live, files: &BTreeMap<String, Vec<u8>>) {
    let directory = live.lab.files(live.nodes()[0]);
    let flows = directory.join("generated.ofctl");
    fs::write(&flows, &files["flows.ofctl"]).unwrap();
    let mut script =
        "ovs-ofctl -O OpenFlow14 del-flows br0; ovs-ofctl -O OpenFlow15 del-groups br0\n"
            .to_owned();
    if let Some(groups) = files.get("groups.ofctl") {
        let path = directory.join("generated.groups");
        fs::write(&path, groups).unwrap();
        let _ = writeln!(script, "ovs-ofctl -O OpenFlow15 add-groups br0 {}", path.display());
    }
    let flows = flows.display();
    let _ = writeln!(
        script,
        "ovs-ofctl -O OpenFlow14 --bundle replace-flows br0 {flows} && ovs-ofctl -O OpenFlow14 \
         diff-flows br0 {flows}"
    );
    assert_eq!(live.on("node-1", &script), "", "a difference");
}

/// A packet in the words of `ofproto/trace`.
fn packet(attempt: &Try) -> String {
    let Body::Ip { src, dst, transport, .. } = attempt.frame.body else { unreachable!() };
    let transport = match transport {
        Some((protocol, port)) => format!("{protocol},{protocol}_dst={port}"),
        None => "icmp,icmp_type=8,icmp_code=0".to_owned(),
    };
    format!("{transport},nw_src={src},nw_dst={dst},dl_src={}", attempt.frame.source)
}

/// Traces many packets in one go.
pub(super) fn trace_all(live: &Live, packets: &[String]) -> Vec<String> {
    let directory = live.lab.files(live.nodes()[0]);
    let list = directory.join("packets");
    fs::write(&list, packets.join("\n") + "\n").unwrap();
    let script = format!(
        "while read packet; do echo '=== next'; ovs-appctl ofproto/trace br0 \"$packet\"; done < {}",
        list.display()
    );
    let text = live.on("node-1", &script);
    let traces: Vec<String> = text.split("=== next\n").skip(1).map(str::to_owned).collect();
    assert_eq!(traces.len(), packets.len());
    traces
}

/// Where a traced packet goes, whether there is such a port or not.
#[derive(Debug, PartialEq, Eq)]
enum Traced {
    Dropped,
    Port(u16),
    /// To a node.
    Tunnel(Ipv4Addr),
}

fn traced(text: &str) -> Traced {
    let (mut towards, mut found) = (None, Traced::Dropped);
    for line in text.lines().map(str::trim) {
        if let Some(set) = line.strip_prefix("set_field:")
            && let Some(address) = set.strip_suffix("->tun_dst")
        {
            towards = Some(address.parse().unwrap());
        }
        let port = line.strip_prefix("-> output port is ").or(line.strip_prefix("output:"));
        if let Some(port) = port.and_then(|port| port.parse::<u16>().ok()) {
            assert_eq!(found, Traced::Dropped, "two copies: {text}");
            found = if port == OfPort::VXLAN.get() {
                Traced::Tunnel(towards.unwrap())
            } else {
                Traced::Port(port)
            };
        }
    }
    found
}

fn check(live: &Live, seed: u64) -> (usize, usize) {
    let (model, sources) = crate::world::model(vec![worlds::yaml(seed)]);
    let files = files(&model, &sources);
    let mut all = tries(&model);
    // A trace ends at the choice of a group; real packets show what is behind.
    all.retain(|attempt| !attempt.what.contains("service") && !attempt.what.contains("node port"));
    let dice = &mut Dice::new(seed);
    let mut chosen: BTreeMap<NodeId, Vec<Try>> = BTreeMap::new();
    for _ in 0..PACKETS.min(all.len()) {
        let attempt = all.swap_remove(dice.roll(all.len()));
        chosen.entry(attempt.node).or_default().push(attempt);
    }
    let mut through: BTreeMap<NodeId, Vec<(String, &Try)>> = BTreeMap::new();
    let (mut traces, mut passed) = (0, 0);
    let mut judge = |attempt: &Try, arrival: Arrival| {
        traces += 1;
        passed += usize::from(arrival != Arrival::Nowhere);
        let fits = attempt.expected.contains(&arrival);
        assert!(fits, "cluster {seed}: {}: {arrival:?}\n{}", attempt.what, worlds::yaml(seed));
    };
    for (node, tries) in &chosen {
        load(live, &files[node]);
        let packets: Vec<String> = tries
            .iter()
            .map(|t| {
                // The node's ruleset marks what it lets pass.
                let mark = if t.frame.in_port == OfPort::TUN { MARK } else { "" };
                format!("in_port={},{mark}{}", t.frame.in_port.get(), packet(t))
            })
            .collect();
        for (attempt, text) in tries.iter().zip(trace_all(live, &packets)) {
            match traced(&text) {
                Traced::Dropped => judge(attempt, Arrival::Nowhere),
                Traced::Port(port) => judge(attempt, arrival(*node, port)),
                Traced::Tunnel(to) => {
                    let mut nodes = model.intent().nodes();
                    let (other, _) = nodes.find(|(_, node)| node.address == to).unwrap();
                    let source = model.intent()[*node].address;
                    let inner = packet(attempt);
                    let entry = format!(
                        "in_port={},tun_id={},tun_src={source},{inner}",
                        OfPort::VXLAN.get(),
                        attempt.vni
                    );
                    through.entry(other).or_default().push((entry, attempt));
                }
            }
        }
    }
    for (node, tries) in &through {
        load(live, &files[node]);
        let packets: Vec<String> = tries.iter().map(|(packet, _)| packet.clone()).collect();
        for ((_, attempt), text) in tries.iter().zip(trace_all(live, &packets)) {
            match traced(&text) {
                Traced::Dropped => judge(attempt, Arrival::Nowhere),
                Traced::Port(port) => judge(attempt, arrival(*node, port)),
                Traced::Tunnel(..) => panic!("back into a tunnel: {text}"),
            }
        }
    }
    (traces, passed)
}

fn arrival(node: NodeId, port: u16) -> Arrival {
    if port == OfPort::TUN.get() {
        Arrival::Host(node)
    } else {
        Arrival::Workload(node, OfPort::pod(port).unwrap())
    }
}

/// Bounded; `RINGFENCE_CLUSTERS` says how many clusters to trace.
#[test]
fn traces_of_generated_clusters_agree_with_the_policies() {
    let live = example("flat");
    live.apply_all();
    let number = clusters(24);
    let results: Vec<(usize, usize)> = (0..number).map(|seed| check(&live, seed)).collect();
    let traces: usize = results.iter().map(|(traces, _)| traces).sum();
    let passed: usize = results.iter().map(|(_, passed)| passed).sum();
    println!("{number} clusters, {traces} traces, {passed} of them arrive");
    assert!(passed > traces / 10 && passed < traces * 9 / 10, "{passed} of {traces}");
}
