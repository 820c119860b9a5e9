//! The section `projects[].services`, with the names that Kubernetes has for it.

use std::fmt;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::Deserialize;
use serde::de::{self, Visitor};

use super::Selector;
use crate::value::{Address, ClusterIp, Name, NodePort, Port, Protocol, StringValue as _};

/// A stable address in front of some pods of the project, of its egress routers, or of hosts
/// outside: it has either `selector`, `egressRouter` or `endpoints`.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Service {
    /// Its name, unique in its project.
    pub name: Name,
    /// Who reaches it: the cluster, or the outside too. Default: `ClusterIP`.
    #[serde(default, rename = "type")]
    pub kind: ServiceType,
    /// The pods and egress routers of the project that it is for, by label.
    pub selector: Option<Selector>,
    /// The egress router of the project that it is for, by name. The address of the service stays
    /// where that of the router changes with its node.
    pub egress_router: Option<Name>,
    /// The hosts outside of the cluster that it is for, by address. The egress policy of whoever
    /// uses the service decides about them.
    #[serde(default)]
    pub endpoints: Vec<Address>,
    /// Its ports. Only a service with `clusterIP: None` can do without.
    #[serde(default)]
    pub ports: Vec<ServicePort>,
    /// Its address, or None for a service without one. Default: allocated from the service
    /// network, and kept in the lock file.
    #[serde(rename = "clusterIP")]
    pub cluster_ip: Option<ClusterIp>,
    /// Whether a client address always gets the same pod. Default: None.
    #[serde(default)]
    pub session_affinity: SessionAffinity,
}

/// A port of a service.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ServicePort {
    /// Its name. Needed where the service has several.
    pub name: Option<Name>,
    /// Its protocol. Default: TCP.
    #[serde(default)]
    pub protocol: ServiceProtocol,
    /// The port at the service's address.
    pub port: Port,
    /// The port of the pods, by number or by name. Default: the same as `port`.
    pub target_port: Option<TargetPort>,
    /// The port at every node, of a service with `type: NodePort` or `LoadBalancer`. Default:
    /// allocated from 30000 to 32767, and kept in the lock file.
    pub node_port: Option<NodePort>,
}

/// Who reaches a service.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
pub enum ServiceType {
    /// The cluster.
    #[default]
    #[serde(rename = "ClusterIP")]
    ClusterIp,
    /// The outside too, at a port of every node.
    NodePort,
    /// As `NodePort`, and at the service's own ports at every node.
    LoadBalancer,
}

impl ServiceType {
    /// The name in YAML.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::ClusterIp => "ClusterIP",
            Self::NodePort => "NodePort",
            Self::LoadBalancer => "LoadBalancer",
        }
    }
}

/// A named port of a pod.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PodPort {
    /// The name by which a service's `targetPort` may call it, unique in the pod.
    pub name: Name,
    /// The number.
    pub port: Port,
    /// Its protocol. Default: TCP.
    #[serde(default)]
    pub protocol: ServiceProtocol,
}

/// Whether a client address always gets the same pod.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
pub enum SessionAffinity {
    /// Every connection may get another pod.
    #[default]
    None,
    /// All connections of one client address get the same pod, as long as it is there.
    #[serde(rename = "ClientIP")]
    ClientIp,
}

/// A transport protocol, as Kubernetes spells it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
pub enum ServiceProtocol {
    /// TCP (RFC 9293).
    #[default]
    #[serde(rename = "TCP")]
    Tcp,
    /// UDP (RFC 768).
    #[serde(rename = "UDP")]
    Udp,
    /// SCTP (RFC 9260).
    #[serde(rename = "SCTP")]
    Sctp,
}

impl From<ServiceProtocol> for Protocol {
    fn from(protocol: ServiceProtocol) -> Self {
        match protocol {
            ServiceProtocol::Tcp => Self::Tcp,
            ServiceProtocol::Udp => Self::Udp,
            ServiceProtocol::Sctp => Self::Sctp,
        }
    }
}

/// A port of a pod, by number or by name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TargetPort {
    /// By number.
    Number(Port),
    /// By the name that the pod gives it.
    Named(Name),
}

impl<'de> Deserialize<'de> for TargetPort {
    fn deserialize<D: de::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Either;

        impl Visitor<'_> for Either {
            type Value = TargetPort;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a port, or the name of one")
            }

            fn visit_u64<E: de::Error>(self, number: u64) -> Result<TargetPort, E> {
                Port::new(number)
                    .map(TargetPort::Number)
                    .map_err(|invalid| E::custom(invalid.message))
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<TargetPort, E> {
                Name::parse(text)
                    .map(TargetPort::Named)
                    .map_err(|invalid| E::custom(invalid.message))
            }
        }
        deserializer.deserialize_any(Either)
    }
}

impl JsonSchema for TargetPort {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "TargetPort".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let number = generator.subschema_for::<Port>();
        let name = generator.subschema_for::<Name>();
        json_schema!({
            "description": "A port of a pod, by number or by name.",
            "anyOf": [number, name],
        })
    }
}
