//! Probes of egress policies.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddrV4};

use ipnet::Ipv4Net;

use super::{ADDRESSES_SHOWN, ODD_PORT, OUTSIDE_PORT, Planner, port};
use crate::intent::EgressRule;
use crate::model::{Workload, rule_name};
use crate::value::Protocol;
use crate::verify::reach::Destination;

impl Planner<'_> {
    /// Every rule of every policy, from every node that has pods of the project, by every egress
    /// IP; what no rule
    /// matches; and one address outside for projects without a policy.
    pub(super) fn egress(&mut self) {
        let intent = self.model.intent();
        let mut first: BTreeMap<(usize, usize, Option<Ipv4Addr>), Workload> = BTreeMap::new();
        for (id, pod) in intent.pods() {
            let workload = Workload::Pod(id);
            let leaving = self.model.leaving(workload).map(|leaving| leaving.ip.address);
            let key = (pod.project.index(), pod.node.index(), leaving);
            first.entry(key).or_insert(workload);
        }
        for workload in first.into_values() {
            let project = self.model.project(workload);
            let name = self.name(workload);
            let rules: Vec<&EgressRule> =
                self.model.ranked_rules(project).map(|(rule, _, _)| rule).collect();
            for (index, rule) in rules.iter().enumerate() {
                let title = rule_name(rule);
                // A name is what it is called at each of its addresses.
                for &network in self.model.networks(rule).iter().take(ADDRESSES_SHOWN) {
                    let example = self.example(rule, network, &rules[..index]);
                    let covered =
                        if example.is_none() { ", but an earlier rule decides" } else { "" };
                    // What an earlier rule decides shows that the order of rules counts.
                    let example = example.or_else(|| self.example(rule, network, &[]));
                    let Some((address, protocol)) = example else { continue };
                    let title = format!("{name} to {address}/{protocol}: {title}{covered}");
                    self.push(
                        workload,
                        Destination::Outside(*address.ip()),
                        address,
                        protocol,
                        title,
                    );
                }
            }
            let (address, what) = match rules.last() {
                None => (Some(OUTSIDE_EXAMPLE), "no policy"),
                Some(_) => (self.unmatched(&rules), "no rule matches"),
            };
            if let Some(address) = address {
                let address = SocketAddrV4::new(address, port(OUTSIDE_PORT));
                let title = format!("{name} to {address}/tcp: {what}");
                self.push(
                    workload,
                    Destination::Outside(*address.ip()),
                    address,
                    Protocol::Tcp,
                    title,
                );
            }
        }
    }

    /// An address, port and protocol in a network of a rule that the rule is the first to match.
    fn example(
        &self,
        rule: &EgressRule,
        network: Ipv4Net,
        earlier: &[&EgressRule],
    ) -> Option<(SocketAddrV4, Protocol)> {
        let mut ports: Vec<(Protocol, u16)> = rule
            .ports
            .iter()
            .map(|ports| {
                let first = ports.range.as_ref().map_or(port(OUTSIDE_PORT), |range| *range.start());
                (ports.protocol, first)
            })
            .collect();
        if rule.ports.is_empty() {
            ports.extend([port(OUTSIDE_PORT), port(ODD_PORT)].map(|port| (Protocol::Tcp, port)));
        }
        let addresses = samples(network).filter(|address| self.can_be_outside(*address));
        addresses
            .flat_map(|address| {
                ports.iter().map(move |(protocol, port)| (address, *protocol, *port))
            })
            .find(|(address, protocol, port)| {
                !earlier.iter().any(|earlier| self.matches(earlier, *address, *protocol, *port))
            })
            .map(|(address, protocol, port)| (SocketAddrV4::new(address, port), protocol))
    }

    /// An address that no rule matches at the usual port.
    fn unmatched(&self, rules: &[&EgressRule]) -> Option<Ipv4Addr> {
        let candidates = (1..=223).map(|octet| Ipv4Addr::new(octet, 7, 7, 7));
        candidates.filter(|address| self.can_be_outside(*address)).find(|address| {
            !rules
                .iter()
                .any(|rule| self.matches(rule, *address, Protocol::Tcp, port(OUTSIDE_PORT)))
        })
    }

    fn matches(&self, rule: &EgressRule, address: Ipv4Addr, protocol: Protocol, port: u16) -> bool {
        self.model.networks(rule).iter().any(|network| network.contains(&address))
            && (rule.ports.is_empty()
                || rule.ports.iter().any(|ports| {
                    ports.protocol == protocol
                        && ports.range.as_ref().is_none_or(|range| range.contains(&port))
                }))
    }

    /// Whether a host of the outside can have the address: nobody else does.
    pub(super) fn can_be_outside(&self, address: Ipv4Addr) -> bool {
        let intent = self.model.intent();
        let octets = address.octets();
        let special = octets[0] == 0 || octets[0] == 127 || octets[0] >= 224;
        let link_local = octets[0] == 169 && octets[1] == 254;
        // In the nodes' own networks, other machines could have it.
        let near = intent.nodes().any(|(_, node)| {
            node.address == address
                || node.uplink.as_ref().is_some_and(|uplink| uplink.subnet.contains(&address))
        });
        !special && !link_local && !near && !intent.cluster().contains(address)
    }
}

/// TEST-NET-3 (RFC 5737).
pub(super) const OUTSIDE_EXAMPLE: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 7);

/// Some addresses of a network, from everywhere in it.
pub(super) fn samples(network: Ipv4Net) -> impl Iterator<Item = Ipv4Addr> {
    let inside = network.hosts().take(3).chain([network.broadcast(), OUTSIDE_EXAMPLE]);
    let spread = (1..64).filter_map(move |n| {
        let (first, last) = (u32::from(network.network()), u32::from(network.broadcast()));
        let offset = u32::try_from(u64::from(last - first) * n / 64).ok()?;
        Some(Ipv4Addr::from(first + offset))
    });
    inside.chain(spread).filter(move |address| network.contains(address))
}
