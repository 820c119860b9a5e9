//! Who reaches which service, at its address and at the nodes' ports.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

use super::pairs::said_to;
use super::units::Kind;
use super::{Both, Effect, Row, Side, Why};
use crate::answer::question::{Question, Target, decide};
use crate::diagnostic::Place;
use crate::intent::{BlockAt, NodeId, Service, ServiceId};
use crate::model::Model;
use crate::spec::Mode;
use crate::value::{Port, Protocol};
use crate::verify::reach::{Destination, Reach, Source};

/// Of each port that changed for somebody, who: by effect and the port's name.
type Clients = BTreeMap<(Effect, String, String), (BTreeSet<usize>, Why)>;

/// Services and node ports, each with those of its ports.
type Objects = BTreeMap<String, Vec<String>>;

pub(super) fn rows(both: &Both<'_>) -> Vec<Row> {
    let mut clients = Clients::new();
    let mut rows = Vec::new();
    let named = both.models().map(services);
    let mut changed = BTreeSet::new();
    let names: BTreeSet<&String> = named.iter().flat_map(BTreeMap::keys).collect();
    for name in names {
        let ids = [named[0].get(name).copied(), named[1].get(name).copied()];
        if service(both, name, ids, &mut clients) {
            changed.insert(name.clone());
        }
        rows.extend(backends(both, name, ids));
    }
    node_ports(both, &changed, &mut clients);
    // Who reaches several ports of one object reaches them together.
    let mut together: BTreeMap<(Effect, BTreeSet<usize>), (Objects, Why)> = BTreeMap::new();
    for ((effect, object, port), (units, why)) in clients {
        let entry = together.entry((effect, units));
        let (objects, _) = entry.or_insert_with(|| (Objects::new(), why));
        objects.entry(object).or_default().push(port);
    }
    let row = |((effect, units), (objects, why)): (_, (Objects, Why))| {
        if let [(object, ports)] = objects.iter().collect::<Vec<_>>().as_slice() {
            let (object, ports) = ((*object).clone(), ports.join(", "));
            let mut row = said_to(both, (effect, &units), object.clone(), ports, why);
            row.detail.receivers = vec![object];
            return row;
        }
        let words = objects.iter().map(|(object, ports)| format!("{object} {}", ports.join(", ")));
        let words: Vec<String> = words.collect();
        let to = super::text::listed(&words, "service", 4);
        let mut row = said_to(both, (effect, &units), to, String::new(), why);
        row.detail.receivers = objects.into_keys().collect();
        row
    };
    rows.extend(together.into_iter().map(row));
    rows
}

fn services(model: &Model) -> BTreeMap<String, ServiceId> {
    let intent = model.intent();
    intent.services().map(|(id, _)| (intent.service_name(id), id)).collect()
}

/// Who is behind a port, by names.
fn behind(model: &Model, service: &Service, protocol: Protocol, port: Port) -> Vec<String> {
    let found = service.ports.iter().find(|p| p.protocol == protocol && p.port == port);
    let Some(found) = found else { return Vec::new() };
    let intent = model.intent();
    let pods =
        found.backends.iter().map(|(who, port)| format!("{}:{port}", intent.workload_name(*who)));
    let hosts = found.endpoints.iter().map(|(host, port)| format!("{host}:{port}"));
    let mut all: Vec<String> = pods.chain(hosts).collect();
    all.sort();
    all
}

fn ports(both: &Both<'_>, ids: [Option<ServiceId>; 2]) -> BTreeSet<(Protocol, Port)> {
    let of = |side: usize| {
        let service = ids[side].map(|id| &both.models()[side].intent()[id]);
        service.into_iter().flat_map(|service| &service.ports)
    };
    of(0).chain(of(1)).map(|port| (port.protocol, port.port)).collect()
}

/// Adds who reaches a service or no longer does. Returns whether the service itself is another.
fn service(
    both: &Both<'_>,
    name: &str,
    ids: [Option<ServiceId>; 2],
    clients: &mut Clients,
) -> bool {
    let models = both.models();
    let signature = |side: usize| {
        let id = ids[side]?;
        let service = &models[side].intent()[id];
        let ports = service.ports.iter().map(|port| {
            let behind = behind(models[side], service, port.protocol, port.port);
            (port.protocol, port.port, behind)
        });
        let ports: Vec<_> = ports.collect();
        let by_nodes = models[side].nodes_reach(id);
        Some((models[side].service_address(id).is_some(), ports, by_nodes))
    };
    let itself = signature(0) != signature(1);
    // Of whom the project is touched, so is whoever shares its network.
    let project = |side: usize| {
        ids[side].map(|id| {
            let intent = models[side].intent();
            let project = intent[id].project;
            let global = super::units::network(models[side], project);
            let apart = models[side].mode().compares_vnids();
            (
                intent[project].name.as_str(),
                global,
                apart,
                models[side].mode() == Mode::Networkpolicy,
            )
        })
    };
    let whole = itself || project(0) != project(1) || backend_touched(both, ids);
    let outside = [0, 1].iter().any(|side| {
        let service = ids[*side].map(|id| &models[*side].intent()[id]);
        service.is_some_and(|found| found.ports.iter().any(|port| !port.endpoints.is_empty()))
    });
    for (protocol, port) in ports(both, ids) {
        for (index, unit) in both.units.iter().enumerate() {
            if matches!(unit.kind, Kind::Outside | Kind::Router)
                || both.as_its_project(index).is_some()
            {
                continue;
            }
            // Hosts outside are reached as the egress policy says.
            let leaves = outside && super::outside::is_touched(both, index);
            if !whole && !unit.touched && !leaves {
                continue;
            }
            let ask = |side: usize| {
                let (from, _) = unit.members[side]?;
                let to = Target::One(Destination::Service(ids[side]?));
                let address = Ipv4Addr::UNSPECIFIED;
                Some(decide(models[side], &Question { from, to, address, protocol, port }))
            };
            let object = format!("service {name}{}", mark(ids));
            note(index, &[ask(0), ask(1)], (object, format!("{protocol}/{port}")), clients);
        }
    }
    whole
}

/// Whether the policies of anybody behind a service may differ.
fn backend_touched(both: &Both<'_>, ids: [Option<ServiceId>; 2]) -> bool {
    if both.models().iter().all(|model| model.mode() != Mode::Networkpolicy) {
        return false;
    }
    let Some(id) = ids[1] else { return true };
    let intent = both.models()[1].intent();
    let project = intent[intent[id].project].name.as_str();
    both.units.iter().any(|unit| unit.touched && unit.project.as_deref() == Some(project))
}

fn mark<T: Copy>(ids: [Option<T>; 2]) -> &'static str {
    match ids {
        [None, Some(_)] => " (new)",
        [Some(_), None] => " (gone)",
        _ => "",
    }
}

/// How much of a service somebody reaches.
fn rank(reach: Option<&Reach>) -> u8 {
    match reach {
        Some(reach) if reach.allowed() => 2,
        Some(reach) if reach.sometimes => 1,
        _ => 0,
    }
}

fn note(
    unit: usize,
    reaches: &[Option<Reach>; 2],
    (object, port): (String, String),
    clients: &mut Clients,
) {
    let [old, new] = reaches;
    let ranks = [rank(old.as_ref()), rank(new.as_ref())];
    let effect = match ranks[0].cmp(&ranks[1]) {
        std::cmp::Ordering::Less => Effect::Opens,
        std::cmp::Ordering::Greater => Effect::Closes,
        std::cmp::Ordering::Equal => return,
    };
    let port = if ranks.contains(&1) { format!("{port} (for some behind it)") } else { port };
    let why = || {
        let sides = [(Side::New, new.as_ref()), (Side::Old, old.as_ref())];
        let found = sides.iter().find_map(|(side, reach)| Some((*side, (*reach)?)));
        let place = sides.iter().find_map(|(side, reach)| Some((*side, reach.as_ref()?.place?)));
        let because = found.map(|(_, reach)| reach.because.clone()).unwrap_or_default();
        Why { because, place }
    };
    clients
        .entry((effect, object, port))
        .or_insert_with(|| (BTreeSet::new(), why()))
        .0
        .insert(unit);
}

/// What is behind a service that both states have.
fn backends(both: &Both<'_>, name: &str, ids: [Option<ServiceId>; 2]) -> Vec<Row> {
    let [Some(old), Some(new)] = ids else { return Vec::new() };
    let [before, after] = both.models();
    let (first, second) = (&before.intent()[old], &after.intent()[new]);
    let mut by_change: BTreeMap<String, (Vec<String>, Place)> = BTreeMap::new();
    for port in &second.ports {
        let had = behind(before, first, port.protocol, port.port);
        let has = behind(after, second, port.protocol, port.port);
        if had == has || had.is_empty() || has.is_empty() {
            continue;
        }
        let more = has.iter().filter(|one| !had.contains(one)).map(|one| format!("+{one}"));
        let less = had.iter().filter(|one| !has.contains(one)).map(|one| format!("-{one}"));
        let all: Vec<String> = more.chain(less).collect();
        let text = super::text::listed(&all, "backend", 4);
        let ports = by_change.entry(text).or_insert_with(|| (Vec::new(), port.place));
        ports.0.push(format!("{}/{}", port.protocol, port.port));
    }
    let row = |(text, (ports, place)): (String, (Vec<String>, Place))| {
        let what = format!("{}: {text}", ports.join(", "));
        Row::about(Effect::Changes, format!("service {name}"), what, Some((Side::New, place)))
    };
    let mut rows: Vec<Row> = by_change.into_iter().map(row).collect();
    if first.affinity != second.affinity {
        let what = format!("session affinity {:?}, was {:?}", second.affinity, first.affinity);
        let place = Some((Side::New, second.place));
        rows.push(Row::about(Effect::Changes, format!("service {name}"), what, place));
    }
    rows
}

/// The ports of nodes: who comes by them.
fn node_ports(both: &Both<'_>, changed: &BTreeSet<String>, clients: &mut Clients) {
    let models = both.models();
    let served = models.map(served);
    let all: BTreeSet<(Protocol, Port)> = served.iter().flat_map(|s| s.keys().copied()).collect();
    let nodes: Vec<usize> =
        (0..both.units.len()).filter(|unit| both.units[*unit].kind == Kind::Node).collect();
    for key in all {
        let differs = served[0].get(&key) != served[1].get(&key);
        let name = |side: usize| served[side].get(&key).map(|(name, _)| name.as_str());
        let service = name(1).or(name(0)).unwrap_or_default();
        let whole = differs || changed.contains(service);
        let senders = (0..both.units.len()).filter(|index| match both.units[*index].kind {
            Kind::Outside => true,
            Kind::Pods => differs && both.as_its_project(*index).is_none(),
            Kind::Router | Kind::Node => false,
        });
        let senders: Vec<usize> = senders.collect();
        let mut found: BTreeMap<(Effect, usize), (BTreeSet<String>, Why)> = BTreeMap::new();
        for (number, index) in nodes.iter().enumerate() {
            let node = &both.units[*index];
            if !whole && !node.touched && blocks(both, *index, 0) == blocks(both, *index, 1) {
                continue;
            }
            // Pods reach node ports of all nodes alike.
            let here =
                senders.iter().filter(|s| number == 0 || both.units[**s].kind == Kind::Outside);
            for client in here {
                let ask = |side: usize| {
                    let (from, _) = both.units[*client].members[side]?;
                    let (Source::Node(at), _) = node.members[side]? else { return None };
                    served[side].get(&key)?;
                    open_at(models[side], at, from, key)
                };
                let mut one = Clients::new();
                note(*client, &[ask(0), ask(1)], (String::new(), String::new()), &mut one);
                for ((effect, ..), (_, why)) in one {
                    let entry = found.entry((effect, *client));
                    let set = entry.or_insert_with(|| (BTreeSet::new(), why));
                    set.0.insert(node.names[0].clone());
                }
            }
        }
        for ((effect, client), (names, why)) in found {
            let side = usize::from(effect != Effect::Closes);
            let every = models[side].intent().nodes().len();
            let by = if names.len() == every || both.units[client].kind == Kind::Pods {
                "all nodes".to_owned()
            } else {
                super::text::listed(&names.into_iter().collect::<Vec<_>>(), "node", 3)
            };
            let object = format!("service {service} by {by}");
            let key = (effect, object, format!("{}/{}", key.0, key.1));
            clients.entry(key).or_insert_with(|| (BTreeSet::new(), why)).0.insert(client);
        }
    }
}

/// The services that nodes serve, each with its port, by the ports of nodes.
fn served(model: &Model) -> BTreeMap<(Protocol, Port), (String, Port)> {
    let intent = model.intent();
    let port = |p: &crate::model::NodePort| {
        let (to, ..) = model.service_port_of(p);
        ((p.protocol, p.port), (intent.service_name(p.service), to.port))
    };
    model.node_ports().iter().map(port).collect()
}

/// Where a node serves ports and what of them it doesn't, without places.
fn blocks(both: &Both<'_>, node: usize, side: usize) -> String {
    let Some((Source::Node(id), _)) = both.units[node].members[side] else { return String::new() };
    let node = &both.models()[side].intent()[id];
    let blocks: Vec<_> = node.blocks.iter().map(|b| (b.port, b.protocol, &b.at)).collect();
    format!("{:?} {blocks:?}", node.node_port_addresses)
}

/// What becomes of a packet to a node port, at whichever address of the node lets it in.
fn open_at(
    model: &Model,
    node: NodeId,
    from: Source,
    (protocol, port): (Protocol, Port),
) -> Option<Reach> {
    let declared = &model.intent()[node];
    let mut addresses = declared.node_port_addresses.clone();
    addresses.retain(|address| {
        let blocked = declared.blocks.iter();
        let mut blocked = blocked.filter(|block| block.at == BlockAt::Address(*address));
        !blocked.any(|block| block.covers(protocol, port))
    });
    let address = *addresses.first().or(declared.node_port_addresses.first())?;
    let to = Target::One(Destination::NodePort(node, address));
    Some(decide(model, &Question { from, to, address, protocol, port }))
}
