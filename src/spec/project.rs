//! The sections `projects`, `joins`, `isolate` and `global`.

use std::fmt;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::Deserialize;
use serde::de::{self, MapAccess, SeqAccess, Visitor, value};

use super::{Labels, PodPort, Selector, Service};
use crate::value::{Address, Bandwidth, InterfaceName, Mac, Name, NetnsName, Vnid};

/// A tenant.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Project {
    /// Its name.
    pub name: Name,
    /// For selectors.
    #[serde(default)]
    pub labels: Labels,
    /// Its own VNID. Default: allocated, and kept in the lock file.
    pub vnid: Option<Vnid>,
    /// Whether its pods may send to multicast groups. All projects that share its VNID must say
    /// so too. Default: false.
    #[serde(default)]
    pub multicast: bool,
    /// Its pods.
    #[serde(default)]
    pub pods: Vec<Pod>,
    /// Its services: stable addresses in front of pods.
    #[serde(default)]
    pub services: Vec<Service>,
}

/// A workload with one interface on the pod network: a container, a virtual machine, a
/// namespace. It has either `netns` or `interface`; without either, `netns` is
/// `<project>.<pod>`.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Pod {
    /// Its name, unique in its project.
    pub name: Name,
    /// The node it runs on.
    pub node: Name,
    /// The network namespace that gets a veth as `eth0`. Made where it doesn't exist.
    pub netns: Option<NetnsName>,
    /// An existing interface of the node, such as a virtual machine's tap, to use instead.
    pub interface: Option<InterfaceName>,
    /// Its address. Default: allocated from the node's subnet, and kept in the lock file.
    pub address: Option<Address>,
    /// Its Ethernet address. Default: `0a:58` and the bytes of the IP address.
    pub mac: Option<Mac>,
    /// For selectors.
    #[serde(default)]
    pub labels: Labels,
    /// Ports that services may call by name.
    #[serde(default)]
    pub ports: Vec<PodPort>,
    /// The most that it sends and receives. Default: no limit.
    pub bandwidth: Option<PodBandwidth>,
    /// Whether services lead new connections to it. They lead none to pods of nodes that are
    /// `unavailable`. Default: true.
    pub ready: Option<bool>,
}

/// The most that a pod sends and receives.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PodBandwidth {
    /// What it receives, in bits a second.
    pub ingress: Option<Bandwidth>,
    /// What it sends, in bits a second.
    pub egress: Option<Bandwidth>,
}

/// Projects that take the VNID of another.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Join {
    /// The project whose network the others share.
    pub to: Name,
    /// The others, by name.
    #[serde(default)]
    pub projects: Vec<Name>,
    /// The others, by label.
    pub selector: Option<Selector>,
}

/// Some projects: a list of names, or `projects`, `selector` or both.
#[derive(Debug, Default)]
pub struct ProjectSet {
    /// Whether it is written as a list, which has no keys.
    pub is_list: bool,
    /// By name.
    pub projects: Vec<Name>,
    /// By label.
    pub selector: Option<Selector>,
}

#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct ProjectSetKeys {
    /// By name.
    #[serde(default)]
    projects: Vec<Name>,
    /// By label.
    selector: Option<Selector>,
}

impl<'de> Deserialize<'de> for ProjectSet {
    fn deserialize<D: de::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Either;

        impl<'de> Visitor<'de> for Either {
            type Value = ProjectSet;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a list of project names, or a mapping with `projects` or `selector`")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, items: A) -> Result<ProjectSet, A::Error> {
                let projects = Vec::deserialize(value::SeqAccessDeserializer::new(items))?;
                Ok(ProjectSet { is_list: true, projects, selector: None })
            }

            fn visit_map<A: MapAccess<'de>>(self, entries: A) -> Result<ProjectSet, A::Error> {
                let keys = ProjectSetKeys::deserialize(value::MapAccessDeserializer::new(entries))?;
                let ProjectSetKeys { projects, selector } = keys;
                Ok(ProjectSet { is_list: false, projects, selector })
            }
        }
        deserializer.deserialize_any(Either)
    }
}

impl JsonSchema for ProjectSet {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "ProjectSet".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let list = generator.subschema_for::<Vec<Name>>();
        let keys = generator.subschema_for::<ProjectSetKeys>();
        json_schema!({
            "description": "Some projects: a list of names, or `projects`, `selector` or both.",
            "anyOf": [list, keys],
        })
    }
}
