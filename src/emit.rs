//! From the plan of a node to the bytes of its files.
//!
//! Flows and rules print themselves; the templates beside this file are the skeletons around
//! them, without decisions of their own but for what a datapath or platform needs.

pub mod output;
mod places;
mod proxies;

use std::collections::BTreeMap;

use minijinja::syntax::SyntaxConfig;
use minijinja::{Environment, UndefinedBehavior, Value, context};

use crate::artifact::host::{self, PROTOCOLS};
use crate::artifact::layout;
use crate::artifact::manifest::Manifest;
use crate::artifact::node::{NodeConfig, Router, UplinkAttachment};
use crate::artifact::proxy::Proxy;
use crate::dataplane::nft::{self, Ruleset};
use crate::diagnostic::{Code, Diagnostic, Sources, json};
use crate::intent::{Direction, Node, NodeId, RouterId};
use crate::lower::{Plan, proxy};
use crate::model::{Model, Selection, Workload};
use crate::pipeline::{OfPort, Table};
use crate::spec::{Mode, Platform};
use crate::value::Datapath;
use places::NodePlaces;

/// The files of one node, by their paths from the node's directory.
#[derive(Debug)]
pub struct NodeFiles {
    /// The digest of everything that has an effect: what the node's bridge and ruleset will name.
    pub generation: blake3::Hash,
    /// The files, the manifest and the places among them.
    pub files: BTreeMap<String, Vec<u8>>,
    /// How many flows there are, without the note of the generation.
    pub flows: usize,
}

/// Renders the plans of a model. Holds the parsed templates, and what nodes have alike.
#[derive(Debug)]
pub struct Renderer<'m> {
    templates: Environment<'static>,
    model: &'m Model,
    places: NodePlaces<'m>,
}

impl<'m> Renderer<'m> {
    /// Parses the templates.
    pub fn new(model: &'m Model, sources: &'m Sources) -> Result<Self, Diagnostic> {
        let mut templates = Environment::new();
        templates.set_undefined_behavior(UndefinedBehavior::Strict);
        let syntax = SyntaxConfig::builder()
            .trim_blocks(true)
            .lstrip_blocks(true)
            .keep_trailing_newline(true)
            .build()
            .map_err(|error| internal(&error))?;
        templates.set_syntax(syntax);
        for (name, text) in [
            ("links.sh", include_str!("emit/templates/links.sh.j2")),
            ("ports.sh", include_str!("emit/templates/ports.sh.j2")),
            ("meters.sh", include_str!("emit/templates/meters.sh.j2")),
            ("outside.sh", include_str!("emit/templates/outside.sh.j2")),
            ("ruleset.nft", include_str!("emit/templates/ruleset.nft.j2")),
            ("squid.conf", include_str!("emit/templates/squid.conf.j2")),
            ("haproxy.cfg", include_str!("emit/templates/haproxy.cfg.j2")),
            ("proxy.sh", include_str!("emit/templates/proxy.sh.j2")),
            ("router.service", include_str!("emit/templates/router.service.j2")),
            ("sysctl.conf", include_str!("emit/templates/sysctl.conf.j2")),
            ("notes.md", include_str!("emit/templates/notes.md.j2")),
        ] {
            templates.add_template(name, text).map_err(|error| internal(&error))?;
        }
        Ok(Self { templates, model, places: NodePlaces::new(model, sources) })
    }

    /// The files of one node.
    pub fn node(&self, node: NodeId, plan: &Plan<'_>) -> Result<NodeFiles, Diagnostic> {
        let wiring = &plan.wiring;
        let title = format!("Node {}: masquerading and guards.", wiring.node);
        let mut files = Files::default();
        files.add(layout::LINKS, self.links(wiring)?);
        files.add(layout::PORTS, self.ports(wiring)?);
        files.add(layout::SYSCTLS, self.sysctls(wiring)?);
        files.add(layout::NODE, node_json(wiring)?);
        if self.model.has_services() {
            files.add(layout::GROUPS, groups(plan));
        }
        if wiring.ports.iter().any(|port| port.meter.is_some()) {
            files.add(layout::METERS, self.meters(wiring)?);
        }
        files.add(layout::FLOWS, flows(plan));
        files.add(layout::RULESET, self.ruleset(&plan.ruleset, &title)?);
        let routers = wiring.routers.iter().zip(&plan.router_rulesets);
        for ((router, ruleset), id) in routers.zip(self.model.routers(node)) {
            let title = format!("Egress router {}.", router.name);
            let directory = layout::router(router.name.as_str());
            files.add(format!("{directory}/{}", outside_script(router)), self.outside(router)?);
            files.add(format!("{directory}/{}", layout::RULESET), self.ruleset(ruleset, &title)?);
            if let Some((proxy, config)) = router.proxy.zip(proxy::config(self.model, *id)) {
                for (name, bytes) in self.proxy(router, proxy, &config)? {
                    files.add(format!("{directory}/{name}"), bytes);
                }
            }
        }
        // What follows has no effect on the node, so it is no part of the generation.
        let generation = files.digest();
        if let Some(hosts) = self.avahi_hosts(node) {
            files.add(layout::AVAHI_HOSTS, hosts);
        }
        files.add(layout::NOTES, self.notes(node, wiring)?);
        let manifest = Manifest {
            version: Manifest::VERSION,
            ringfence: env!("CARGO_PKG_VERSION").to_owned(),
            node: wiring.node.to_string(),
            generation: generation.to_hex().to_string(),
            files: files.digests,
        };
        let mut files = files.files;
        files.insert(layout::PLACES.to_owned(), self.places.render(node, &manifest));
        files.insert(layout::MANIFEST.to_owned(), json::pretty(&manifest).into_bytes());
        Ok(NodeFiles { generation, files, flows: plan.flows.len() })
    }

    fn render(&self, name: &str, context: Value) -> Result<Vec<u8>, Diagnostic> {
        let template = self.templates.get_template(name).map_err(|error| internal(&error))?;
        template.render(context).map(String::into_bytes).map_err(|error| internal(&error))
    }

    fn links(&self, wiring: &NodeConfig) -> Result<Vec<u8>, Diagnostic> {
        let mut lines = Vec::with_capacity(wiring.netns.len());
        for netns in &wiring.netns {
            let gateway = netns.gateway.map_or_else(|| "none".to_owned(), |g| g.to_string());
            lines.push(command(
                "attach",
                &[
                    &netns.owner,
                    netns.name.as_str(),
                    netns.host.as_str(),
                    &netns.mac.to_string(),
                    &netns.address.to_string(),
                    &gateway,
                ],
            )?);
        }
        let outside = wiring.routers.iter().filter_map(Router::outside_veth).map(|veth| {
            let mac = veth.mac.to_string();
            command("outside", &[&veth.owner, veth.netns.as_str(), veth.host.as_str(), &mac])
        });
        let outside = outside.collect::<Result<Vec<_>, _>>()?;
        self.render(
            "links.sh",
            context! {
                node => wiring.node.as_str(),
                pod_interface => host::POD_INTERFACE,
                route_protocol => host::ROUTE_PROTOCOL,
                mtu => wiring.mtu,
                userspace => wiring.bridge.datapath == Datapath::Netdev,
                pod_networks => strings(&wiring.pod_networks),
                uplink => wiring.gateway().map(|(_, uplink)| uplink.interface.as_str()),
                router_interface => host::ROUTER_INTERFACE,
                outside => outside.join("\n"),
                lines => lines.join("\n"),
                egress_label => host::EGRESS_LABEL,
                egress_ips => wiring
                    .egress_ips
                    .iter()
                    .map(|ip| ip.address.to_string())
                    .collect::<Vec<_>>(),
            },
        )
    }

    fn ports(&self, wiring: &NodeConfig) -> Result<Vec<u8>, Diagnostic> {
        let mut lines = Vec::with_capacity(wiring.ports.len());
        let mut limits = Vec::new();
        for port in &wiring.ports {
            let number = port.ofport.get().to_string();
            lines.push(command("port", &[port.interface.as_str(), &number, &port.owner])?);
            if let Some(rate) = port.ingress {
                let words = [port.interface.as_str(), &rate.to_string(), &port.owner];
                limits.push(command("limit", &words)?);
            }
        }
        self.render(
            "ports.sh",
            context! {
                node => wiring.node.as_str(),
                bridge => wiring.bridge.name.as_str(),
                datapath => wiring.bridge.datapath.as_str(),
                protocols => PROTOCOLS,
                vxlan => host::VXLAN,
                vxlan_port => wiring.bridge.vxlan_port,
                vxlan_ofport => OfPort::VXLAN.get(),
                address => wiring.address.to_string(),
                route_protocol => host::ROUTE_PROTOCOL,
                tun => host::TUN,
                tun_mac => wiring.tun.mac.to_string(),
                tun_ofport => OfPort::TUN.get(),
                gateway => wiring.gateway().map(|(bridge, _)| bridge.as_str()),
                patch => host::PATCH,
                patch_ofport => OfPort::PATCH.get(),
                uplink_patch => host::UPLINK_PATCH,
                tun_address => wiring.tun.address.to_string(),
                mtu => wiring.mtu,
                userspace => wiring.bridge.datapath == Datapath::Netdev,
                networks => strings(
                    &wiring.pod_networks.iter().chain(&wiring.tun.services).collect::<Vec<_>>()
                ),
                lines => lines.join("\n"),
                limits => limits.join("\n"),
            },
        )
    }

    fn meters(&self, wiring: &NodeConfig) -> Result<Vec<u8>, Diagnostic> {
        let mut lines = Vec::new();
        for (port, meter) in wiring.ports.iter().filter_map(|port| Some((port, port.meter?))) {
            let line = command("meter", &[&meter.to_string()])?;
            lines.push(format!("{line} # {}", port.owner));
        }
        let (node, bridge) = (wiring.node.as_str(), wiring.bridge.name.as_str());
        self.render("meters.sh", context! { node, bridge, lines => lines.join("\n") })
    }

    fn outside(&self, router: &Router) -> Result<Vec<u8>, Diagnostic> {
        self.render(
            "outside.sh",
            context! {
                name => router.name.as_str(),
                netns => router.netns.as_str(),
                route_protocol => host::ROUTE_PROTOCOL,
                interface => host::ROUTER_INTERFACE,
                parent => match &router.outside.via {
                    UplinkAttachment::Macvlan { parent } => Some(parent.as_str()),
                    UplinkAttachment::Veth { .. } => None,
                },
                mac => router.outside.mac.to_string(),
                source => router.outside.source.to_string(),
                address => router.source().to_string(),
                to_gateway => router.to_gateway().map(|route| route.to_string()),
                gateway => router.outside.gateway.to_string(),
            },
        )
    }

    fn sysctls(&self, wiring: &NodeConfig) -> Result<Vec<u8>, Diagnostic> {
        let settings: Vec<String> =
            wiring.sysctls.iter().map(|(name, value)| format!("{name} = {value}")).collect();
        self.render("sysctl.conf", context! { node => wiring.node.as_str(), settings })
    }

    fn ruleset(&self, ruleset: &Ruleset<'_>, title: &str) -> Result<Vec<u8>, Diagnostic> {
        let tables: Vec<Value> = ruleset.tables.iter().map(nft_table).collect();
        let families: Vec<&str> = nft::Family::ALL.iter().map(|family| family.as_str()).collect();
        self.render(
            "ruleset.nft",
            context! {
                title,
                families,
                table_name => nft::TABLE,
                table_mark => host::TABLE_MARK,
                tables,
            },
        )
    }

    /// The names that the node announces, in the form of `/etc/avahi/hosts`.
    fn avahi_hosts(&self, node: NodeId) -> Option<Vec<u8>> {
        let intent = self.model.intent();
        let Node { name, address, .. } = &intent[node];
        let records: Vec<String> =
            intent.mdns(node).map(|record| format!("{address} {}\n", record.name)).collect();
        let head =
            format!("# What node {name} announces by multicast DNS, for /etc/avahi/hosts.\n");
        (!records.is_empty()).then(|| (head + &records.concat()).into_bytes())
    }

    /// What the notes say of a gateway bridge.
    fn gateway(&self, node: NodeId, wiring: &NodeConfig) -> Option<Value> {
        let (bridge, uplink) = wiring.gateway()?;
        let node = &self.model.intent()[node];
        let declared = node.uplink.as_ref()?;
        Some(context! {
            bridge => bridge.as_str(),
            interface => uplink.interface.as_str(),
            disable_init => uplink.disable_init,
            patch => host::UPLINK_PATCH,
            datapath => wiring.bridge.datapath.as_str(),
            address => format!("{}/{}", node.address, declared.subnet.prefix_len()),
            gateway => declared.gateway.map(|gateway| gateway.to_string()),
        })
    }

    /// The services in front of a router, by their addresses, which stay where it moves.
    fn in_front_of(&self, router: RouterId) -> Vec<String> {
        let intent = self.model.intent();
        let workload = Workload::Router(router);
        let services =
            self.model.services().filter(|(id, _)| intent[*id].workloads.contains(&workload));
        services.map(|(id, to)| format!("{to} (service {})", intent[id].name)).collect()
    }

    /// The names of the pods and egress routers of a node that network policies select.
    fn selected(&self, node: NodeId) -> Vec<String> {
        let workloads =
            self.model.workloads(node).filter(|workload| self.model.is_selected(*workload));
        let names = workloads.map(|workload| {
            let name = &self.model.workload_subject(workload).name;
            let directions = Direction::BOTH.into_iter().filter(|direction| {
                self.model.selection(workload, *direction) == Selection::Isolated
            });
            let directions: Vec<&str> = directions.map(Direction::as_str).collect();
            format!("{name}: {}", directions.join(" and "))
        });
        names.collect()
    }

    fn notes(&self, node: NodeId, wiring: &NodeConfig) -> Result<Vec<u8>, Diagnostic> {
        let intent = self.model.intent();
        let routers: Vec<Value> = self
            .model
            .routers(node)
            .iter()
            .zip(&wiring.routers)
            .map(|(id, router)| {
                context! {
                    name => router.name.as_str(),
                    project => intent[intent[*id].project].name.as_str(),
                    address => self.model.endpoint(Workload::Router(*id)).address.to_string(),
                    services => self.in_front_of(*id),
                    source => router.outside.source.to_string(),
                    segment => router.outside.segment.map(|segment| segment.to_string()),
                    gateway => router.outside.gateway.to_string(),
                    mac => router.outside.mac.to_string(),
                    script => outside_script(router),
                    uplink => match &router.outside.via {
                        UplinkAttachment::Macvlan { parent: uplink } | UplinkAttachment::Veth { uplink, .. } => uplink.as_str(),
                    },
                    ports => proxy::ports(&intent[*id].mode).iter().map(|p| p.get()).collect::<Vec<_>>(),
                    proxy => router.proxy.map(Proxy::program),
                }
            })
            .collect();
        let addresses = &intent[node].node_port_addresses;
        let served = !self.model.node_ports().is_empty();
        let node_port_addresses =
            addresses.iter().filter(|_| served).map(ToString::to_string).collect::<Vec<_>>();
        let platform = match intent.cluster().platform {
            Platform::Baremetal => "baremetal",
            Platform::Openstack => "openstack",
            Platform::Rhv => "rhv",
            Platform::Vsphere => "vsphere",
            Platform::Aws => "aws",
        };
        self.render(
            "notes.md",
            context! {
                node => wiring.node.as_str(),
                address => wiring.address.to_string(),
                tun => host::TUN,
                vxlan_port => wiring.bridge.vxlan_port,
                bridge => wiring.bridge.name.as_str(),
                services => self.model.has_services(),
                node_port_addresses => node_port_addresses,
                routers,
                egress_ips => wiring
                    .egress_ips
                    .iter()
                    .map(|ip| ip.address.to_string())
                    .collect::<Vec<_>>(),
                platform,
                gateway => self.gateway(node, wiring),
                meters => wiring.ports.iter().any(|port| port.meter.is_some()),
                policies => self.selected(node),
                network_policy_mode => self.model.mode() == Mode::Networkpolicy,
                node_port_source => self.model.node_port_source(node).to_string(),
                mdns => intent.mdns(node).map(|r| r.name.to_string()).collect::<Vec<_>>(),
                userspace => wiring.bridge.datapath == Datapath::Netdev,
            },
        )
    }
}

fn internal(error: &minijinja::Error) -> Diagnostic {
    Diagnostic::new(Code::Internal, format!("a template was refused: {error}"))
}

fn strings(values: &[impl ToString]) -> Vec<String> {
    values.iter().map(ToString::to_string).collect()
}

/// A line of a shell script: a command with its words, quoted where they need it.
fn command(name: &str, words: &[&str]) -> Result<String, Diagnostic> {
    let mut line = name.to_owned();
    for word in words {
        let quoted = shlex::try_quote(word).map_err(|_| {
            Diagnostic::new(Code::Internal, "a word of a script has a NUL byte".to_owned())
        })?;
        line.push(' ');
        line.push_str(&quoted);
    }
    Ok(line)
}

fn nft_table(table: &nft::Table<'_>) -> Value {
    let maps: Vec<Value> = table
        .maps
        .iter()
        .map(|map| {
            let element = |((protocol, port), (to, to_port)): &(_, _)| {
                let (protocol, port): (&crate::value::Protocol, &crate::value::Port) =
                    (protocol, port);
                let (to, to_port): (&std::net::Ipv4Addr, &crate::value::Port) = (to, to_port);
                format!("{protocol} . {port} : {to} . {to_port}")
            };
            let elements: Vec<String> = map.elements.iter().map(element).collect();
            let kind = "inet_proto . inet_service : ipv4_addr . inet_service";
            context! { name => map.name, kind, elements }
        })
        .chain(table.address_maps.iter().map(|map| {
            let elements = map.elements.iter().map(|(from, to)| format!("{from} : {to}"));
            let elements: Vec<String> = elements.collect();
            context! { name => map.name, kind => "ipv4_addr : ipv4_addr", elements }
        }))
        .collect();
    let chains: Vec<Value> = table
        .chains
        .iter()
        .map(|chain| {
            context! {
                name => chain.name,
                head => chain.to_string(),
                policy => chain.policy.to_string(),
                rules => strings(&chain.rules),
            }
        })
        .collect();
    let set = |set: &nft::Set| {
        context! {
            name => set.name,
            kind => set.elements.kind(),
            elements => set.elements.lines(),
        }
    };
    let sets: Vec<Value> = table.sets.iter().map(set).collect();
    context! { family => table.family.as_str(), sets, maps, chains }
}

/// The text of the flows: a comment before each table, the object behind each flow.
fn flows(plan: &Plan<'_>) -> Vec<u8> {
    const LINE: usize = 210;
    let mut out = Vec::with_capacity(plan.flows.len() * LINE);
    let bridge = plan.wiring.bridge.name.as_str();
    out.extend_from_slice(
        format!(
            "# Node {}: flows of the bridge {bridge}. To load them by hand:\n\
             #   ovs-ofctl -O OpenFlow14 --bundle replace-flows {bridge} flows.ofctl\n",
            plan.wiring.node
        )
        .as_bytes(),
    );
    let policies = plan.flows.table(Table::PolicyCommit).next().is_some();
    plan.flows.write(&mut out, |out, table| match table {
        Table::Isolation if policies => {
            comment(out, table, "What the network policies of the receiver let in.");
        }
        _ => table_comment(out, table),
    });
    out
}

/// The name of the script that makes a router's outside interface.
fn outside_script(router: &Router) -> &'static str {
    match router.outside.via {
        UplinkAttachment::Macvlan { .. } => layout::MACVLAN,
        UplinkAttachment::Veth { .. } => layout::OUTSIDE,
    }
}

/// The text of the groups.
fn groups(plan: &Plan<'_>) -> Vec<u8> {
    const HEAD: usize = 300;
    let groups = plan.flows.groups();
    let size: usize = groups.iter().map(|printed| printed.line.len()).sum();
    let mut out = Vec::with_capacity(HEAD + size);
    let bridge = plan.wiring.bridge.name.as_str();
    out.extend_from_slice(
        format!(
            "# Node {}: groups of the bridge {bridge}, which its flows need. To load them by hand:\n\
             #   ovs-ofctl -O OpenFlow15 add-groups {bridge} groups.ofctl\n\n",
            plan.wiring.node
        )
        .as_bytes(),
    );
    for printed in groups {
        out.extend_from_slice(&printed.line);
    }
    out
}

fn table_comment(out: &mut Vec<u8>, table: Table) {
    comment(out, table, table.purpose());
}

fn comment(out: &mut Vec<u8>, table: Table, purpose: &str) {
    out.extend_from_slice(b"\n# table ");
    out.extend_from_slice(table.number().to_string().as_bytes());
    out.extend_from_slice(b": ");
    out.extend_from_slice(purpose.as_bytes());
    out.push(b'\n');
}

/// Files with their digests.
#[derive(Default)]
struct Files {
    files: BTreeMap<String, Vec<u8>>,
    digests: BTreeMap<String, String>,
}

impl Files {
    fn add(&mut self, name: impl Into<String>, bytes: Vec<u8>) {
        let name = name.into();
        self.digests.insert(name.clone(), blake3::hash(&bytes).to_hex().to_string());
        self.files.insert(name, bytes);
    }

    /// The digest of all files together, their names included.
    fn digest(&self) -> blake3::Hash {
        let mut all = blake3::Hasher::new();
        for (name, digest) in &self.digests {
            all.update(&(name.len() as u64).to_le_bytes());
            all.update(name.as_bytes());
            all.update(digest.as_bytes());
        }
        all.finalize()
    }
}

/// `node.json`, one line for each port, namespace and router.
fn node_json(wiring: &NodeConfig) -> Result<Vec<u8>, Diagnostic> {
    let NodeConfig {
        version,
        node,
        address,
        mtu,
        pod_networks,
        bridge,
        tun,
        ports,
        netns,
        routers,
        egress_ips,
        draining,
        uplink,
        sysctls,
    } = wiring;
    let mut lines = vec![
        ("version", one_line(version)?),
        ("node", one_line(node)?),
        ("address", one_line(address)?),
        ("mtu", one_line(mtu)?),
        ("podNetworks", one_line(pod_networks)?),
        ("bridge", one_line(bridge)?),
        ("tun", one_line(tun)?),
        ("ports", line_each(ports)?),
        ("netns", line_each(netns)?),
        ("routers", line_each(routers)?),
        ("egressIps", line_each(egress_ips)?),
    ];
    if !draining.is_empty() {
        lines.push(("draining", one_line(draining)?));
    }
    if let Some(uplink) = uplink {
        lines.push(("uplink", one_line(uplink)?));
    }
    lines.push(("sysctls", one_line(sysctls)?));
    let lines: Vec<String> =
        lines.into_iter().map(|(key, value)| format!("\"{key}\": {value}")).collect();
    Ok(format!("{{\n{}\n}}\n", lines.join(",\n")).into_bytes())
}

fn one_line(value: &impl serde::Serialize) -> Result<String, Diagnostic> {
    serde_json::to_string(value).map_err(|error| {
        Diagnostic::new(Code::Internal, format!("`node.json` could not be written: {error}"))
    })
}

fn line_each(values: &[impl serde::Serialize]) -> Result<String, Diagnostic> {
    if values.is_empty() {
        return Ok("[]".to_owned());
    }
    let lines = values.iter().map(one_line).collect::<Result<Vec<_>, _>>()?;
    Ok(format!("[\n{}\n]", lines.join(",\n")))
}
