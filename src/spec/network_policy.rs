//! The `networkPolicies` section: the specification of Kubernetes' `NetworkPolicy`
//! (networking.k8s.io/v1), with the project in place of the namespace.

use std::fmt;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::Deserialize;
use serde::de::{self, Visitor};

use super::{Selector, ServiceProtocol};
use crate::value::{Cidr, Name, Port, PortName, StringValue as _, SubdomainName};

/// What some pods of a project take and send. A pod that no policy selects takes and sends
/// everything; one that some policy selects, only what one of its policies allows. Needs
/// `cluster.mode: networkpolicy`.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct NetworkPolicy {
    /// The project whose pods it is about.
    pub project: Name,
    /// Its name, unique in the project.
    pub name: SubdomainName,
    /// The pods that it is about, by their labels. Default, and `{}`: all of the project.
    #[serde(default)]
    pub pod_selector: Selector,
    /// The directions in which its pods may do only what policies allow. Default: `Ingress`, and
    /// `Egress` where it has egress rules.
    #[serde(default)]
    pub policy_types: Vec<PolicyType>,
    /// What its pods take. No rule allows nothing.
    #[serde(default)]
    pub ingress: Vec<NetworkPolicyIngressRule>,
    /// What its pods send. No rule allows nothing.
    #[serde(default)]
    pub egress: Vec<NetworkPolicyEgressRule>,
}

/// A direction, as its pods see it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
pub enum PolicyType {
    /// What comes to them.
    Ingress,
    /// What they send.
    Egress,
}

/// What the pods of a policy take: from any of the peers, at any of the ports.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct NetworkPolicyIngressRule {
    /// Who may send. Default, and `[]`: everybody, nodes and the outside too.
    #[serde(default)]
    pub from: Vec<NetworkPolicyPeer>,
    /// The ports of the pods. Default, and `[]`: all of every protocol, and protocols without ports.
    #[serde(default)]
    pub ports: Vec<NetworkPolicyPort>,
}

/// What the pods of a policy send: to any of the peers, at any of the ports.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct NetworkPolicyEgressRule {
    /// Who may get it. Default, and `[]`: everybody, nodes and the outside too.
    #[serde(default)]
    pub to: Vec<NetworkPolicyPeer>,
    /// The ports of the destination: of a pod behind a service, its own. Default, and `[]`: all of
    /// every protocol, and protocols without ports.
    #[serde(default)]
    pub ports: Vec<NetworkPolicyPort>,
}

/// The other end: either pods, by `podSelector`, `namespaceSelector` or both, or an `ipBlock`.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct NetworkPolicyPeer {
    /// Pods by their labels, `{}` for all: of the policy's own project, or of the projects of
    /// `namespaceSelector`.
    pub pod_selector: Option<Selector>,
    /// Projects by their labels, `{}` for all. Each has the label `kubernetes.io/metadata.name` with
    /// its name. Without `podSelector`: all of their pods.
    pub namespace_selector: Option<Selector>,
    /// Addresses, whoever has them.
    pub ip_block: Option<IpBlock>,
}

/// Addresses: a network without some parts of it.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct IpBlock {
    /// The network.
    pub cidr: Cidr,
    /// Parts of it that are not meant.
    #[serde(default)]
    pub except: Vec<Cidr>,
}

/// Ports of the destination.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct NetworkPolicyPort {
    /// The protocol. Default: TCP.
    #[serde(default)]
    pub protocol: ServiceProtocol,
    /// The port, the first of a range, or the name that a pod gives it. Default: all of the protocol.
    pub port: Option<PolicyPort>,
    /// The last of a range. Default: the port alone.
    pub end_port: Option<Port>,
}

/// A port, by number or by the name that a pod gives it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PolicyPort {
    /// By number.
    Number(Port),
    /// By name.
    Named(PortName),
}

impl<'de> Deserialize<'de> for PolicyPort {
    fn deserialize<D: de::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Either;

        impl Visitor<'_> for Either {
            type Value = PolicyPort;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a port, or the name of one")
            }

            fn visit_u64<E: de::Error>(self, number: u64) -> Result<PolicyPort, E> {
                Port::new(number)
                    .map(PolicyPort::Number)
                    .map_err(|invalid| E::custom(invalid.message))
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<PolicyPort, E> {
                PortName::parse(text)
                    .map(PolicyPort::Named)
                    .map_err(|invalid| E::custom(invalid.message))
            }
        }
        deserializer.deserialize_any(Either)
    }
}

impl JsonSchema for PolicyPort {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "PolicyPort".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let number = generator.subschema_for::<Port>();
        let name = generator.subschema_for::<PortName>();
        json_schema!({
            "description": "A port, by number or by the name that a pod gives it.",
            "anyOf": [number, name],
        })
    }
}
