//! What the node's own processes take from pods, and at egress IPs.
//!
//! Replies need a connection's state, which only the node's kernel has: so the bridge hands what is for
//! the node to `tun0`, and the node's ruleset decides.

use std::net::Ipv4Addr;
use std::ops::RangeInclusive;

use super::guard::lo;
use super::host;
use super::wiring::interface;
use crate::artifact::host;
use crate::dataplane::nft::{Condition, Rule, Statement};
use crate::dataplane::origin::ObjectRef;
use crate::diagnostic::Diagnostic;
use crate::intent::NodeId;
use crate::model::Model;
use crate::value::{Port, Protocol};

/// The rules of the chain for what is for the node itself.
pub(super) fn rules(model: &Model, node: NodeId) -> Result<Vec<Rule<'_>>, Diagnostic> {
    let tun = || interface(host::TUN).map(Condition::Iif);
    let cluster = model.cluster_subject();
    let own = model.node_subject(node);
    let of = |subject, conditions, statement| Rule { conditions, statement, subject };
    let mut rules = vec![of(cluster, vec![tun()?, Condition::CtEstablished], Statement::Accept)];
    // An egress IP is an address of the node, but only for what pods began.
    let mut held: Vec<(Ipv4Addr, &ObjectRef)> =
        model.egress_ips_on(node).map(|(ip, subject)| (ip.address, subject)).collect();
    held.sort_by_key(|(address, _)| *address);
    for (address, subject) in held {
        let to = vec![Condition::NotIif(lo()?), Condition::Destination(host(address))];
        let known = to.iter().cloned().chain([Condition::CtEstablished]).collect();
        rules.push(of(subject, known, Statement::Accept));
        rules.push(of(subject, to, Statement::CountedDrop));
    }
    let gateway = Condition::Destination(host(model.gateway(node)));
    let elsewhere = Condition::NotSource(model.subnet(node));
    rules.push(of(own, vec![tun()?, elsewhere, gateway], Statement::CountedDrop));
    rules.push(of(cluster, vec![tun()?, Condition::EchoRequest], Statement::Accept));
    for protocol in [Protocol::Tcp, Protocol::Udp, Protocol::Sctp] {
        let ports = open(model, protocol);
        if !ports.is_empty() {
            let conditions = vec![tun()?, Condition::Ports(protocol, ports)];
            rules.push(of(cluster, conditions, Statement::Accept));
        }
    }
    rules.push(of(cluster, vec![tun()?], Statement::CountedDrop));
    Ok(rules)
}

/// The open ports of a protocol, in order and apart.
fn open(model: &Model, protocol: Protocol) -> Vec<RangeInclusive<u16>> {
    let declared = &model.intent().cluster().node_access;
    let dns = (protocol != Protocol::Sctp).then(|| Port::DNS.get()..=Port::DNS.get());
    let mut ranges: Vec<RangeInclusive<u16>> = declared
        .iter()
        .filter(|access| access.protocol == protocol)
        .map(|access| access.ports.clone())
        .chain(dns)
        .collect();
    ranges.sort_by_key(|range| (*range.start(), *range.end()));
    let mut apart: Vec<RangeInclusive<u16>> = Vec::new();
    for range in ranges {
        match apart.last_mut() {
            // What touches is one range too.
            Some(last) if u32::from(*range.start()) <= u32::from(*last.end()) + 1 => {
                *last = *last.start()..=*last.end().max(range.end());
            }
            _ => apart.push(range),
        }
    }
    apart
}
