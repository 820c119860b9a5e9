//! From the plan of a node to the bytes of its files.
//!
//! Flows and rules print themselves; the templates beside this file are the skeletons around
//! them, without decisions of their own but for what a datapath or platform needs.

use std::collections::BTreeMap;

use minijinja::syntax::SyntaxConfig;
use minijinja::{Environment, UndefinedBehavior, Value, context};

use crate::diagnostic::{Code, Diagnostic, json};
use crate::flow::Action;
use crate::intent::NodeId;
use crate::model::{Model, Tenant};
use crate::nft::{self, Ruleset};
use crate::pipeline::{self, OfPort, Table};
use crate::plan::{Plan, Wiring};
use crate::source::Sources;
use crate::spec::{Datapath, Platform};
use crate::subject::Subject;

/// The OpenFlow versions of the bridge. Bundles need 1.4; ringfence speaks it throughout.
pub const PROTOCOLS: &str = "OpenFlow13,OpenFlow14,OpenFlow15";

/// The files of one node, by their paths from the node's directory.
#[derive(Debug)]
pub struct NodeFiles {
    /// The digest of everything that has an effect: what the node's bridge and ruleset name.
    pub generation: blake3::Hash,
    /// The files, `manifest.json` among them.
    pub files: BTreeMap<String, Vec<u8>>,
    /// How many flows there are, without the note of the generation.
    pub flows: usize,
}

/// Renders plans. Holds the parsed templates.
#[derive(Debug)]
pub struct Renderer {
    templates: Environment<'static>,
}

impl Renderer {
    /// Parses the templates.
    pub fn new() -> Result<Self, Diagnostic> {
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
            ("links.sh", include_str!("render/templates/links.sh.j2")),
            ("ports.sh", include_str!("render/templates/ports.sh.j2")),
            ("macvlan.sh", include_str!("render/templates/macvlan.sh.j2")),
            ("ruleset.nft", include_str!("render/templates/ruleset.nft.j2")),
            ("sysctl.conf", include_str!("render/templates/sysctl.conf.j2")),
            ("notes.md", include_str!("render/templates/notes.md.j2")),
        ] {
            templates.add_template(name, text).map_err(|error| internal(&error))?;
        }
        Ok(Self { templates })
    }

    /// The files of one node.
    pub fn node(
        &self,
        model: &Model,
        node: NodeId,
        plan: &Plan<'_>,
        sources: &Sources,
    ) -> Result<NodeFiles, Diagnostic> {
        let wiring = &plan.wiring;
        let title = format!("Node {}: masquerading and guards.", wiring.node);
        let mut files = BTreeMap::new();
        files.insert("links.sh".to_owned(), self.links(wiring)?);
        files.insert("ports.sh".to_owned(), self.ports(wiring)?);
        files.insert("sysctl.conf".to_owned(), self.sysctls(wiring)?);
        files.insert("node.json".to_owned(), json::pretty(wiring).into_bytes());
        files.insert("flows.ofctl".to_owned(), flows(plan));
        files.insert("ruleset.nft".to_owned(), self.ruleset(&plan.ruleset, &title, None)?);
        for (router, ruleset) in wiring.routers.iter().zip(&plan.router_rulesets) {
            let title = format!("Egress router {}.", router.name);
            let directory = format!("routers/{}", router.name);
            files.insert(format!("{directory}/macvlan.sh"), self.macvlan(router)?);
            let rendered = self.ruleset(ruleset, &title, None)?;
            files.insert(format!("{directory}/ruleset.nft"), rendered);
        }
        // The generation stands in two of the files whose digest it is, so it comes last.
        let generation = digest_of(&files);
        if let Some(flows) = files.get_mut("flows.ofctl") {
            note(flows, generation, model.cluster_subject());
        }
        let ruleset = self.ruleset(&plan.ruleset, &title, Some(generation))?;
        files.insert("ruleset.nft".to_owned(), ruleset);
        // What follows has no effect on the node.
        files.insert("sourcemap.json".to_owned(), sourcemap(plan, sources));
        files.insert("notes.md".to_owned(), self.notes(model, node, wiring)?);
        let manifest = manifest(wiring, generation, &files);
        files.insert("manifest.json".to_owned(), manifest.into_bytes());
        Ok(NodeFiles { generation, files, flows: plan.flows.iter().len() })
    }

    fn render(&self, name: &str, context: Value) -> Result<Vec<u8>, Diagnostic> {
        let template = self.templates.get_template(name).map_err(|error| internal(&error))?;
        template.render(context).map(String::into_bytes).map_err(|error| internal(&error))
    }

    fn links(&self, wiring: &Wiring) -> Result<Vec<u8>, Diagnostic> {
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
        self.render(
            "links.sh",
            context! {
                node => wiring.node.as_str(),
                pod_interface => pipeline::POD_INTERFACE,
                mtu => wiring.mtu,
                userspace => wiring.bridge.datapath == Datapath::Netdev,
                pod_networks => strings(&wiring.pod_networks),
                lines => lines.join("\n"),
            },
        )
    }

    fn ports(&self, wiring: &Wiring) -> Result<Vec<u8>, Diagnostic> {
        let mut lines = Vec::with_capacity(wiring.ports.len());
        for port in &wiring.ports {
            let number = port.ofport.get().to_string();
            lines.push(command("port", &[port.interface.as_str(), &number, &port.owner])?);
        }
        self.render(
            "ports.sh",
            context! {
                node => wiring.node.as_str(),
                bridge => wiring.bridge.name.as_str(),
                datapath => wiring.bridge.datapath.as_str(),
                protocols => PROTOCOLS,
                vxlan => pipeline::VXLAN,
                vxlan_port => wiring.bridge.vxlan_port,
                vxlan_ofport => OfPort::VXLAN.get(),
                address => wiring.address.to_string(),
                tun => pipeline::TUN,
                tun_mac => wiring.tun.mac.to_string(),
                tun_ofport => OfPort::TUN.get(),
                tun_address => wiring.tun.address.to_string(),
                mtu => wiring.mtu,
                userspace => wiring.bridge.datapath == Datapath::Netdev,
                pod_networks => strings(&wiring.pod_networks),
                lines => lines.join("\n"),
            },
        )
    }

    fn macvlan(&self, router: &crate::plan::Router) -> Result<Vec<u8>, Diagnostic> {
        self.render(
            "macvlan.sh",
            context! {
                name => router.name.as_str(),
                netns => router.netns.as_str(),
                interface => pipeline::ROUTER_INTERFACE,
                parent => router.macvlan.parent.as_str(),
                mac => router.macvlan.mac.to_string(),
                source => router.macvlan.source.to_string(),
                gateway => router.macvlan.gateway.to_string(),
            },
        )
    }

    fn sysctls(&self, wiring: &Wiring) -> Result<Vec<u8>, Diagnostic> {
        let settings: Vec<String> =
            wiring.sysctls.iter().map(|(name, value)| format!("{name} = {value}")).collect();
        self.render("sysctl.conf", context! { node => wiring.node.as_str(), settings })
    }

    fn ruleset(
        &self,
        ruleset: &Ruleset<'_>,
        title: &str,
        generation: Option<blake3::Hash>,
    ) -> Result<Vec<u8>, Diagnostic> {
        let tables: Vec<Value> = ruleset.tables.iter().map(nft_table).collect();
        let families: Vec<&str> = nft::Family::ALL.iter().map(|family| family.as_str()).collect();
        self.render(
            "ruleset.nft",
            context! {
                title,
                families,
                table_name => nft::TABLE,
                tables,
                generation => generation.map(|hash| hash.to_hex().to_string()),
            },
        )
    }

    fn notes(&self, model: &Model, node: NodeId, wiring: &Wiring) -> Result<Vec<u8>, Diagnostic> {
        let intent = model.intent();
        let routers: Vec<Value> = model
            .routers(node)
            .iter()
            .zip(&wiring.routers)
            .map(|(id, router)| {
                context! {
                    name => router.name.as_str(),
                    project => intent[intent[*id].project].name.as_str(),
                    address => model.endpoint(Tenant::Router(*id)).address.to_string(),
                    source => router.macvlan.source.to_string(),
                    mac => router.macvlan.mac.to_string(),
                    parent => router.macvlan.parent.as_str(),
                }
            })
            .collect();
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
                bridge => wiring.bridge.name.as_str(),
                routers,
                platform,
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
                let (protocol, port): (&crate::spec::Protocol, &crate::value::Port) =
                    (protocol, port);
                let (to, to_port): (&std::net::Ipv4Addr, &crate::value::Port) = (to, to_port);
                format!("{protocol} . {port} : {to} . {to_port}")
            };
            let elements: Vec<String> = map.elements.iter().map(element).collect();
            context! { name => map.name, elements }
        })
        .collect();
    let chains: Vec<Value> = table
        .chains
        .iter()
        .map(|chain| {
            context! {
                name => chain.name,
                head => chain.to_string(),
                policy => chain.policy,
                rules => strings(&chain.rules),
            }
        })
        .collect();
    let set = |set: &nft::InterfaceSet| {
        context! { name => set.name, elements => strings(&set.elements) }
    };
    let sets: Vec<Value> = table.sets.iter().map(set).collect();
    context! { family => table.family.as_str(), sets, maps, chains }
}

/// The text of the flows: a comment before each table, the object behind each flow.
fn flows(plan: &Plan<'_>) -> Vec<u8> {
    const LINE: usize = 200;
    let mut out = Vec::with_capacity(plan.flows.iter().len() * LINE);
    let bridge = plan.wiring.bridge.name.as_str();
    out.extend_from_slice(
        format!(
            "# Node {}: flows of the bridge {bridge}. To load them by hand:\n\
             #   ovs-ofctl -O OpenFlow14 --bundle replace-flows {bridge} flows.ofctl\n",
            plan.wiring.node
        )
        .as_bytes(),
    );
    let mut table: Option<Table> = None;
    for flow in plan.flows.iter() {
        if table != Some(flow.table) {
            table = Some(flow.table);
            table_comment(&mut out, flow.table);
        }
        flow.write(&mut out);
        out.extend_from_slice(b" # ");
        out.extend_from_slice(flow.subject.name.as_bytes());
        out.push(b'\n');
    }
    out
}

fn table_comment(out: &mut Vec<u8>, table: Table) {
    out.extend_from_slice(b"\n# table ");
    out.extend_from_slice(table.number().to_string().as_bytes());
    out.extend_from_slice(b": ");
    out.extend_from_slice(table.purpose().as_bytes());
    out.push(b'\n');
}

fn note(flows: &mut Vec<u8>, generation: blake3::Hash, subject: &Subject) {
    let flow = crate::flow::Flow {
        table: Table::Generation,
        priority: 0,
        matches: crate::flow::Match::default(),
        actions: vec![Action::Note(*generation.as_bytes())],
        subject,
    };
    table_comment(flows, Table::Generation);
    flow.write(flows);
    flows.push(b'\n');
}

/// The digest of all files together, their names included.
fn digest_of(files: &BTreeMap<String, Vec<u8>>) -> blake3::Hash {
    let mut hasher = blake3::Hasher::new();
    for (name, bytes) in files {
        for part in [name.as_bytes(), bytes] {
            hasher.update(&(part.len() as u64).to_le_bytes());
            hasher.update(part);
        }
    }
    hasher.finalize()
}

/// From every cookie to the object and its place, one line a cookie, in the order of the cookies.
fn sourcemap(plan: &Plan<'_>, sources: &Sources) -> Vec<u8> {
    const LINE: usize = 90;
    let rulesets = plan.router_rulesets.iter().chain([&plan.ruleset]);
    let chains = rulesets.flat_map(|ruleset| &ruleset.tables).flat_map(|table| &table.chains);
    let rules = chains.flat_map(|chain| &chain.rules).map(|rule| rule.subject);
    let mut subjects: Vec<&Subject> =
        plan.flows.iter().map(|flow| flow.subject).chain(rules).collect();
    subjects.sort_unstable_by_key(|subject| subject.cookie);
    subjects.dedup_by_key(|subject| subject.cookie);
    let mut out = Vec::with_capacity(subjects.len() * LINE);
    let mut separator: &[u8] = b"{\n";
    for subject in subjects {
        out.extend_from_slice(separator);
        separator = b",\n";
        out.extend_from_slice(b"\"");
        crate::flow::write_hex(&mut out, subject.cookie.get());
        out.extend_from_slice(b"\": [");
        // Paths may hold any character.
        out.extend_from_slice(quoted(&subject.name).as_bytes());
        out.extend_from_slice(b", ");
        out.extend_from_slice(quoted(&subject.position(sources)).as_bytes());
        out.extend_from_slice(b"]");
    }
    out.extend_from_slice(b"\n}\n");
    out
}

fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

fn manifest(
    wiring: &Wiring,
    generation: blake3::Hash,
    files: &BTreeMap<String, Vec<u8>>,
) -> String {
    json::pretty(&Manifest {
        version: Manifest::VERSION,
        node: wiring.node.to_string(),
        generation: generation.to_hex().to_string(),
        files: files
            .iter()
            .map(|(name, bytes)| (name.clone(), blake3::hash(bytes).to_hex().to_string()))
            .collect(),
    })
}

/// `manifest.json` of a node: what `apply` checks the files against.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// The version of this format.
    pub version: u32,
    /// The node's name.
    pub node: String,
    /// The digest of everything that has an effect, as 64 hexadecimal digits.
    pub generation: String,
    /// The BLAKE3 digest of every other file, by its path.
    pub files: BTreeMap<String, String>,
}

impl Manifest {
    /// The version of the format that this ringfence writes and reads.
    pub const VERSION: u32 = 1;
}
