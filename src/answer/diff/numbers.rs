//! What changes without opening or closing anything: numbers, nodes, and what the outside sees.

use std::collections::BTreeMap;

use super::{Both, Effect, Row, Side, text};
use crate::diagnostic::{Place, counted};
use crate::intent::{Pod, PodId, Workload};
use crate::model::Model;

/// Something by its name, with what it is in a state.
type Named = BTreeMap<String, (String, Place)>;

pub(super) fn rows(both: &Both<'_>) -> Vec<Row> {
    let mut rows = Vec::new();
    let mut compare = |effect, noun: &'static str, of: &dyn Fn(&Model) -> Named| {
        let [old, new] = both.models().map(of);
        rows.extend(differences(effect, noun, &old, &new));
    };
    let renumbers = Effect::Renumbers;
    compare(renumbers, "project", &vnids);
    compare(renumbers, "pod", &addresses);
    compare(renumbers, "egress router", &router_addresses);
    compare(renumbers, "node subnet", &subnets);
    compare(renumbers, "service", &service_addresses);
    compare(renumbers, "node port", &node_ports);
    let changes = Effect::Changes;
    compare(changes, "cluster", &cluster);
    compare(changes, "node", &nodes);
    compare(changes, "pod", &homes);
    compare(changes, "bandwidth of pod", &bandwidths);
    compare(changes, "egress router", &routers);
    rows.extend(seen_as(both));
    rows
}

/// What both have and say otherwise; many of a kind are one row.
fn differences(effect: Effect, noun: &str, old: &Named, new: &Named) -> Vec<Row> {
    const EACH: usize = 3;
    let changed: Vec<(&String, &String, &(String, Place))> = new
        .iter()
        .filter_map(|(name, now)| {
            let (was, _) = old.get(name)?;
            (*was != now.0).then_some((name, was, now))
        })
        .collect();
    let one = |(name, was, now): &(&String, &String, &(String, Place))| {
        Row::about(
            effect,
            format!("{noun} {name}"),
            format!("{was} -> {}", now.0),
            Some((Side::New, now.1)),
        )
    };
    if changed.len() <= EACH {
        return changed.iter().map(one).collect();
    }
    let words: Vec<String> =
        changed.iter().map(|(name, was, now)| format!("{name} {was} -> {}", now.0)).collect();
    let place = Some((Side::New, changed[0].2.1));
    vec![Row::about(
        effect,
        counted(changed.len(), noun),
        text::listed(&words, "change", EACH),
        place,
    )]
}

fn vnids(model: &Model) -> Named {
    let projects = model.intent().projects();
    // Who joins or leaves a network has its VNID; that is told as such.
    let own = projects.filter(|(_, p)| p.membership == crate::intent::Membership::Own);
    own.map(|(id, project)| {
        (project.name.to_string(), (format!("VNID {}", model.vnid(id)), project.place))
    })
    .collect()
}

fn addresses(model: &Model) -> Named {
    pods(model, |id, _| {
        let own = model.endpoint(Workload::Pod(id));
        format!("{} port {}", own.address, own.port.get())
    })
}

fn homes(model: &Model) -> Named {
    pods(model, |_, pod| format!("on {}, {:?}", model.intent()[pod.node].name, pod.attachment))
}

fn bandwidths(model: &Model) -> Named {
    pods(model, |_, pod| {
        let most = |limit: Option<crate::value::Bandwidth>| {
            limit.map_or("no limit".to_owned(), |limit| format!("{} bit/s", limit.get()))
        };
        format!("receives {}, sends {}", most(pod.ingress), most(pod.egress))
    })
}

fn pods(model: &Model, what: impl Fn(PodId, &Pod) -> String) -> Named {
    let intent = model.intent();
    intent.pods().map(|(id, pod)| (intent.pod_name(id), (what(id, pod), pod.place))).collect()
}

fn router_addresses(model: &Model) -> Named {
    let routers = model.intent().routers();
    routers
        .map(|(id, router)| {
            let address = model.endpoint(Workload::Router(id)).address;
            (router.name.to_string(), (address.to_string(), router.place))
        })
        .collect()
}

fn routers(model: &Model) -> Named {
    let intent = model.intent();
    intent
        .routers()
        .map(|(id, router)| {
            let leads = leads(model, id);
            let node = &intent[router.node].name;
            let text = format!("on {node}, seen as {}, {leads}", router.source);
            (router.name.to_string(), (text, router.place))
        })
        .collect()
}

fn leads(model: &Model, id: crate::intent::RouterId) -> String {
    use crate::intent::RouterMode;
    match &model.intent()[id].mode {
        RouterMode::Redirect { destinations, fallback } => {
            let to = destinations
                .iter()
                .map(|d| format!("{}/{} to {}:{}", d.protocol, d.port, d.to, d.to_port))
                .chain(fallback.map(|to| format!("to {to}")));
            to.collect::<Vec<_>>().join(", ")
        }
        RouterMode::HttpProxy { rules, name_servers } => {
            let rules = rules.iter().map(|rule| format!("{:?} {}", rule.verdict, rule.site));
            format!("{} {name_servers:?}", rules.collect::<Vec<_>>().join(", ").to_lowercase())
        }
        RouterMode::DnsProxy { ports, name_servers } => {
            let ports = ports.iter().map(|p| format!("tcp/{} to {}:{}", p.port, p.to, p.to_port));
            format!("{} {name_servers:?}", ports.collect::<Vec<_>>().join(", "))
        }
    }
}

fn subnets(model: &Model) -> Named {
    let nodes = model.intent().nodes();
    nodes
        .map(|(id, node)| (node.name.to_string(), (model.subnet(id).to_string(), node.place)))
        .collect()
}

fn service_addresses(model: &Model) -> Named {
    let intent = model.intent();
    let named = model
        .services()
        .map(|(id, address)| (intent.service_name(id), (address.to_string(), intent[id].place)));
    named.collect()
}

fn node_ports(model: &Model) -> Named {
    let intent = model.intent();
    let port = |p: &crate::model::NodePort| {
        let (to, ..) = model.service_port_of(p);
        let name = format!("{}:{}/{}", intent.service_name(p.service), to.port, to.protocol);
        (name, (p.port.to_string(), to.place))
    };
    model.node_ports().iter().map(port).collect()
}

fn cluster(model: &Model) -> Named {
    let cluster = model.intent().cluster();
    let place = cluster.place.unwrap_or(Place { source: 0, line: 1, column: 1, length: 0 });
    let networks: Vec<String> = cluster
        .pod_networks
        .iter()
        .map(|network| format!("{} (/{} a node)", network.cidr, network.host_prefix))
        .collect();
    let values = [
        ("mode", format!("{:?}", cluster.mode).to_lowercase()),
        ("podNetworks", networks.join(", ")),
        ("serviceNetwork", cluster.service_network.to_string()),
        ("vxlanPort", cluster.vxlan_port.to_string()),
        ("mtu", cluster.mtu.to_string()),
        ("platform", format!("{:?}", cluster.platform)),
    ];
    values.into_iter().map(|(key, value)| (key.to_owned(), (value, place))).collect()
}

fn nodes(model: &Model) -> Named {
    let text = |node: &crate::intent::Node| {
        let uplink = node.uplink.as_ref().map(|uplink| {
            let bridge = uplink.bridge.as_ref().map(|b| format!(" on {b}")).unwrap_or_default();
            let gateway = uplink.gateway.map(|to| format!(" by {to}")).unwrap_or_default();
            let filter = uplink.rp_filter.map(|f| format!(" rp_filter {}", f.value()));
            let mtu = uplink.mtu.map(|mtu| format!(" mtu {mtu}")).unwrap_or_default();
            let init = if uplink.disable_init { " made by others" } else { "" };
            let (interface, subnet) = (&uplink.interface, uplink.subnet);
            let filter = filter.unwrap_or_default();
            format!(", {interface} {subnet}{gateway}{bridge}{init}{mtu}{filter}")
        });
        let own: Vec<String> = node.node_port_addresses.iter().map(ToString::to_string).collect();
        let state = if node.unavailable { ", unavailable" } else { "" };
        format!(
            "{} ({}), {}{}{state}",
            node.address,
            own.join(" "),
            format!("{:?}", node.datapath).to_lowercase(),
            uplink.unwrap_or_default()
        )
    };
    let nodes = model.intent().nodes();
    nodes.map(|(_, node)| (node.name.to_string(), (text(node), node.place))).collect()
}

/// The addresses by which the outside knows the pods of a project.
fn seen_as(both: &Both<'_>) -> Vec<Row> {
    let of = |model: &Model| -> BTreeMap<String, (String, String, Place)> {
        let intent = model.intent();
        let pod = |(id, pod): (PodId, &Pod)| {
            let seen = match model.leaving(Workload::Pod(id)) {
                Some(leaving) => format!("egress IP {}", leaving.ip.address),
                None => "the node's address".to_owned(),
            };
            let place = match model.leaving(Workload::Pod(id)) {
                Some(leaving) => leaving.ip.place,
                None => intent[pod.project].place,
            };
            (intent.pod_name(id), (seen, intent[pod.project].name.to_string(), place))
        };
        intent.pods().map(pod).collect()
    };
    if both.models().iter().all(|model| model.intent().egress_ips().is_empty()) {
        return Vec::new();
    }
    let [old, new] = both.models().map(of);
    let mut changed: BTreeMap<(String, String, String), (Vec<String>, Place)> = BTreeMap::new();
    for (name, (now, project, place)) in new {
        let Some((was, ..)) = old.get(&name).filter(|(was, ..)| *was != now) else { continue };
        let entry = changed.entry((project, was.clone(), now));
        entry.or_insert_with(|| (Vec::new(), place)).0.push(name);
    }
    let row =
        |((project, was, now), (pods, place)): ((String, String, String), (Vec<String>, Place))| {
            let who = match pods.len() {
                1 => pods[0].clone(),
                many => format!("{} of {project}", counted(many, "pod")),
            };
            let what = format!("seen outside as {now}, was {was}");
            Row::about(Effect::Changes, who, what, Some((Side::New, place)))
        };
    changed.into_iter().map(row).collect()
}
