//! What comes from outside by a node port: its source is an address that stands for the outside at that
//! node, and that no machine has. Only conntrack of the node's kernel knows it: it gives it to what it
//! sends to the bridge, and takes it back from replies. A packet for it that is no reply goes to nobody.

use super::super::{Builder, entry, host, ip, ip_to};
use crate::dataplane::openflow::{Action, ArpMatch, IpMatch, Match, Packet};
use crate::pipeline::{OfPort, Table};
use crate::resolve::last_host;
use crate::value::Mac;

use super::node_addresses;

/// Tables 25 to 31, 65 and 70.
pub(super) fn lower(builder: &mut Builder<'_>) {
    let model = builder.model;
    if model.node_ports().is_empty() {
        return;
    }
    let own = model.node_subject(builder.node);
    let cluster = model.cluster_subject();
    let source = host(model.node_port_source(builder.node));
    let from = ip(IpMatch { src: Some(source), ..IpMatch::default() });
    entry::passed_from(builder, own, 300, from);
    // Pods ask for each other's addresses, and think this one's owner among them.
    let gateway = Mac::of_ipv4(model.gateway(builder.node));
    let last = |bits: &crate::dataplane::openflow::MaskedAddress| {
        let subnets = model.intent().nodes().map(|(id, _)| model.subnet(id));
        subnets.into_iter().any(|subnet| bits.contains(last_host(subnet)))
    };
    for bits in node_addresses(model).into_iter().filter(last) {
        let request = ArpMatch { tpa_bits: Some(bits), request: true, ..ArpMatch::default() };
        let matches = Match { packet: Packet::Arp(request), ..Match::default() };
        let answer = vec![Action::ArpReply(gateway)];
        builder.flow(cluster, Table::Route, 250, matches, answer);
    }
    for table in [Table::Route, Table::RouteFromVxlan] {
        builder.flow(own, table, 300, ip_to(source), vec![Action::Goto(Table::ServiceReply)]);
    }
    let replies = vec![Action::Track(Table::LocalPod)];
    builder.flow(own, Table::ServiceReply, 50, ip_to(source), replies);
    let out = vec![Action::SetEthDst(gateway), Action::Output(OfPort::TUN)];
    builder.flow(own, Table::LocalPod, 300, ip_to(source), out);
}
