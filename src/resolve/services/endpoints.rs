//! Services for hosts outside: `endpoints`.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use super::{Context, Outside};
use crate::diagnostic::{Code, Diagnostic, Place};
use crate::input::Cursor;
use crate::intent::{EgressPolicy, Target, Verdict};
use crate::spec::{self, ServiceType, TargetPort};
use crate::value::{Address, ClusterIp, Port, Protocol, ipv4};

/// The hosts outside that a service is for, sorted.
pub(super) struct Endpoints(BTreeMap<Ipv4Addr, Place>);

impl Endpoints {
    /// RF006 and RF035: a service is for pods or for hosts outside. RF144 and RF146: for such that
    /// it can lead to.
    pub(super) fn resolve(
        wire: &[Address],
        (at, service): (Cursor<'_>, &spec::Service),
        outside: &Outside<'_>,
        context: &mut Context,
    ) -> Self {
        let name = &service.name;
        let Some(list) = at.find("endpoints") else {
            if service.selector.is_none() && service.egress_router.is_none() {
                let message = format!("the service `{name}` is for nobody");
                context.push(Diagnostic::new(Code::MissingKey, message).at(at.place()).help(
                    "add a `selector` for pods of the project, `egressRouter` for a router of it, or \
                     `endpoints` for hosts outside",
                ));
            }
            return Self(BTreeMap::new());
        };
        let contradicts = |key: &str, what: &str, help: &str| {
            let message = format!("the service `{name}` has both `endpoints` and {what}");
            Diagnostic::new(Code::ConflictingKeys, message)
                .at(list.key_place())
                .related(at.key(key).key_place(), "the other")
                .help(help)
        };
        if service.selector.is_some() {
            let help = "make two services of it: one for pods, one for hosts outside";
            context.push(contradicts("selector", "`selector`", help));
        }
        if service.cluster_ip == Some(ClusterIp::None) {
            let help = "remove `clusterIP: None`: without an address, nothing leads to the hosts";
            context.push(contradicts("clusterIP", "no address", help));
        }
        if wire.is_empty() {
            let message = format!("the service `{name}` is for nobody");
            context.push(
                Diagnostic::new(Code::MissingKey, message)
                    .at(list.place())
                    .help("list the address of a host outside"),
            );
        }
        if service.kind != ServiceType::ClusterIp {
            let kind = service.kind.as_str();
            let message = format!("the service `{name}` of type {kind} leads outside again");
            context.push(
                Diagnostic::new(Code::ServiceEndpointType, message)
                    .at(list.key_place())
                    .related(at.key("type").place(), "the type")
                    .help("remove the type: clients outside reach the hosts themselves"),
            );
        }
        let mut found: BTreeMap<Ipv4Addr, Place> = BTreeMap::new();
        for (address, at) in wire.iter().zip(list.children()) {
            let Some(address) = context.take(ipv4(address), at.place()) else { continue };
            if let Some(first) = found.get(&address) {
                let message = format!("the service `{name}` has the endpoint {address} twice");
                context.push(
                    Diagnostic::new(Code::AddressTwice, message)
                        .at(at.place())
                        .related(*first, "the other")
                        .help("remove one of the two"),
                );
                continue;
            }
            is_outside(address, at.place(), outside, context);
            found.insert(address, at.place());
        }
        Self(found)
    }

    /// The same with a port of the service, which they can't have by name.
    pub(super) fn at_port(
        &self,
        wire: &spec::ServicePort,
        at: Cursor<'_>,
        context: &mut Context,
    ) -> Vec<(Ipv4Addr, Port)> {
        let Self(found) = self;
        let port = match &wire.target_port {
            None => wire.port,
            Some(TargetPort::Number(port)) => *port,
            Some(TargetPort::Named(_)) if found.is_empty() => return Vec::new(),
            Some(TargetPort::Named(name)) => {
                let message = format!("hosts outside have no port with the name `{name}`");
                context.push(
                    Diagnostic::new(Code::ServiceTargetPort, message)
                        .at(at.key("targetPort").place())
                        .help("write the number of the port"),
                );
                return Vec::new();
            }
        };
        found.keys().map(|address| (*address, port)).collect()
    }

    /// RF145: a service leads round no egress policy. A rule for a name may be about any address, so
    /// it decides nothing here.
    pub(super) fn denied(
        &self,
        port: Port,
        protocol: Protocol,
        policy: Option<&EgressPolicy>,
        context: &mut Context,
    ) {
        let Self(found) = self;
        let rules = policy.map_or(&[][..], |policy| &policy.rules);
        for (address, place) in found {
            let decides = |verdict: Verdict, to: &Target| match to {
                Target::Network(network) => network.contains(address),
                Target::Name(_) => verdict == Verdict::Allow,
            };
            let mut rules = rules.iter().filter(|rule| rule.takes(protocol, port));
            let first = rules.find(|rule| decides(rule.verdict, &rule.to));
            let Some(rule) = first.filter(|rule| rule.verdict == Verdict::Deny) else { continue };
            let message = format!(
                "the egress policy of the project denies the endpoint {address} at {port}/{protocol}"
            );
            context.push(
                Diagnostic::new(Code::ServiceEndpointDenied, message)
                    .at(*place)
                    .related(rule.place, "this rule decides")
                    .help("allow it in a rule before that, or remove the endpoint"),
            );
        }
    }
}

/// RF144: an endpoint is a host outside of the cluster, and no node.
fn is_outside(address: Ipv4Addr, place: Place, outside: &Outside<'_>, context: &mut Context) {
    let mut networks = outside.cluster.networks();
    let (what, related, help) = if let Some(network) = networks.find(|n| n.contains(&address)) {
        (
            format!("is in the cluster network {network}"),
            None,
            "give the service a `selector` for pods; those of other projects are out of its reach",
        )
    } else if address.is_loopback() || matches!(address.octets()[0], 0 | 224..) {
        let help = "write the address of the host on its network";
        ("is no host that others can reach".to_owned(), None, help)
    } else if let Some(inside) = outside.inside(address) {
        let help = "endpoints are hosts outside; what nodes serve, pods reach without a service";
        (inside.what, inside.place, help)
    } else {
        return;
    };
    let message = format!("the endpoint {address} {what}");
    let diagnostic = Diagnostic::new(Code::ServiceEndpoint, message).at(place).help(help);
    context.push(match related {
        Some(said) => diagnostic.related(said, "said here"),
        None => diagnostic,
    });
}
