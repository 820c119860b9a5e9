//! Network policies: selectors as they are written, since labels decide whom they mean.

use std::fmt;
use std::ops::RangeInclusive;

use ipnet::Ipv4Net;

use super::ProjectId;
use crate::diagnostic::Place;
use crate::spec::{Operator, Selector};
use crate::value::{LabelValue, Port, PortName, Protocol, SubdomainName};

/// What some pods of a project take and send.
#[derive(Debug)]
pub struct NetworkPolicy {
    /// The project.
    pub project: ProjectId,
    /// Its name, unique in the project.
    pub name: SubdomainName,
    /// The pods and egress routers of the project that it is about; an empty one means all.
    pub selector: Selector,
    /// What they take; `None` where the policy doesn't speak of that.
    pub ingress: Option<Vec<PolicyRule>>,
    /// What they send; `None` where the policy doesn't speak of that.
    pub egress: Option<Vec<PolicyRule>>,
    /// Where it is defined.
    pub place: Place,
}

/// A direction, as the pods of a policy see it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Direction {
    /// What comes to them.
    Ingress,
    /// What they send.
    Egress,
}

impl Direction {
    /// Both.
    pub const BOTH: [Self; 2] = [Self::Ingress, Self::Egress];

    /// The name in YAML.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ingress => "ingress",
            Self::Egress => "egress",
        }
    }
}

/// What a policy allows: with any of the peers, at any of the ports.
#[derive(Debug)]
pub struct PolicyRule {
    /// The other ends; `None` for everybody.
    pub peers: Option<Vec<Peer>>,
    /// The ports of the destination; `None` for all, and for protocols without ports.
    pub ports: Option<Vec<PolicyPorts>>,
    /// Where it is defined.
    pub place: Place,
}

/// Other ends of connections.
#[derive(Clone, Debug)]
pub enum Peer {
    /// Pods and egress routers, never nodes.
    Pods {
        /// The projects whose they are; `None` for that of the policy.
        projects: Option<Selector>,
        /// Which of those; an empty one means all.
        pods: Selector,
    },
    /// Whoever has these addresses.
    Block {
        /// The network.
        cidr: Ipv4Net,
        /// Parts of it that are not meant, each smaller than it.
        except: Vec<Ipv4Net>,
    },
}

/// Ports of the destination.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct PolicyPorts {
    /// The protocol.
    pub protocol: Protocol,
    /// Which of it.
    pub ports: PortSet,
}

/// Ports of a protocol.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum PortSet {
    /// All of them.
    All,
    /// Some that follow each other.
    Range(u16, u16),
    /// The one to which the pod gives this name, where it gives it to any.
    Named(PortName),
}

impl NetworkPolicy {
    /// What it allows in a direction; `None` where it doesn't speak of that.
    #[must_use]
    pub fn rules(&self, direction: Direction) -> Option<&[PolicyRule]> {
        match direction {
            Direction::Ingress => self.ingress.as_deref(),
            Direction::Egress => self.egress.as_deref(),
        }
    }
}

impl PolicyPorts {
    /// The ports as a range; `None` for all, and where a pod has to say it.
    #[must_use]
    pub fn range(&self) -> Option<RangeInclusive<u16>> {
        match self.ports {
            PortSet::Range(first, last) => Some(first..=last),
            PortSet::All | PortSet::Named(_) => None,
        }
    }

    /// Whether a port of a destination is meant. `named` tells the port to which it gives a name.
    #[must_use]
    pub fn take(
        &self,
        protocol: Protocol,
        port: Port,
        named: impl Fn(Protocol, &PortName) -> Option<Port>,
    ) -> bool {
        self.protocol == protocol
            && match &self.ports {
                PortSet::All => true,
                PortSet::Range(first, last) => (*first..=*last).contains(&port.get()),
                PortSet::Named(name) => named(protocol, name) == Some(port),
            }
    }
}

/// A selector in words that no other selector has: `{app=web, tier notin (db)}`.
pub(crate) fn selector_name(selector: &Selector) -> String {
    let labels = selector.labels.iter().map(|(key, value)| format!("{key}={value}"));
    let expressions = selector.expressions.iter().map(|expression| {
        let key = &expression.key;
        let values = || {
            let mut values: Vec<&str> = expression.values.iter().map(LabelValue::as_str).collect();
            values.sort_unstable();
            values.dedup();
            values.join(",")
        };
        match expression.operator {
            Operator::In => format!("{key} in ({})", values()),
            Operator::NotIn => format!("{key} notin ({})", values()),
            Operator::Exists => key.to_string(),
            Operator::DoesNotExist => format!("!{key}"),
        }
    });
    let mut all: Vec<String> = labels.chain(expressions).collect();
    all.sort();
    all.dedup();
    format!("{{{}}}", all.join(", "))
}

/// Whether a selector means everything, as it is written.
pub(crate) fn is_empty(selector: &Selector) -> bool {
    selector.labels.is_empty() && selector.expressions.is_empty()
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pods { projects: None, pods } if is_empty(pods) => f.write_str("its project"),
            Self::Pods { projects: None, pods } => write!(f, "pods {}", selector_name(pods)),
            Self::Pods { projects: Some(projects), pods } => {
                if !is_empty(pods) {
                    write!(f, "pods {} of ", selector_name(pods))?;
                }
                if is_empty(projects) {
                    f.write_str("all projects")
                } else {
                    write!(f, "projects {}", selector_name(projects))
                }
            }
            Self::Block { cidr, except } => {
                write!(f, "{cidr}")?;
                let mut except: Vec<&Ipv4Net> = except.iter().collect();
                except.sort();
                except.dedup();
                for (number, part) in except.into_iter().enumerate() {
                    write!(f, "{}{part}", if number == 0 { " except " } else { " and " })?;
                }
                Ok(())
            }
        }
    }
}

impl fmt::Display for PolicyPorts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.protocol)?;
        match &self.ports {
            PortSet::All => Ok(()),
            PortSet::Range(first, last) if first == last => write!(f, "/{first}"),
            PortSet::Range(first, last) => write!(f, "/{first}-{last}"),
            PortSet::Named(name) => write!(f, "/{name}"),
        }
    }
}
