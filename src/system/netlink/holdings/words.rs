//! Attributes of routes and rules in the words of `ip`.

use std::fmt::Write as _;

use netlink_packet_core::{DefaultNla, Nla as _};
use netlink_packet_route::route::{
    RouteAttribute, RouteMetric, RoutePreference, RouteRealm, RouteVia,
};
use netlink_packet_route::rule::{RuleAction, RuleAttribute, RuleFlags, RuleMessage};

use super::{Hop, Rule, ip};

/// `rta_type` of nexthop objects and encapsulations (`linux/rtnetlink.h`).
const NEXTHOP: u16 = 30;
const ENCAPSULATION: [u16; 2] = [21, 22];
/// The metric that is the algorithm of congestion control, and that which `ip` always locks.
const CONGESTION: u32 = 16;
const LEAST_TIMEOUT: u32 = 13;
/// `FRA_SPORT_MASK` and `FRA_DPORT_MASK` (`linux/fib_rules.h`).
const PORT_MASKS: [u16; 2] = [28, 29];
/// Explicit congestion notification, the one feature that `ip` names.
const ECN: u32 = 1;

/// What a route has that can't be said.
pub(super) fn missing(number: u16) -> String {
    match number {
        NEXTHOP => "the nexthop object that it uses".to_owned(),
        number if ENCAPSULATION.contains(&number) => "its encapsulation".to_owned(),
        number => super::kind("attribute", number),
    }
}

/// Adds an attribute of a next hop; `false` for any other.
pub(super) fn hop(attribute: &RouteAttribute, hop: &mut Hop) -> bool {
    match attribute {
        RouteAttribute::Gateway(address) => {
            let Some(address) = ip(address) else { return false };
            hop.via = format!(" via {address}");
        }
        RouteAttribute::Via(RouteVia::Inet(address)) => hop.via = format!(" via inet {address}"),
        RouteAttribute::Via(RouteVia::Inet6(address)) => hop.via = format!(" via inet6 {address}"),
        RouteAttribute::Realm(realm) => {
            let _ = write!(hop.words, " realms {}", realms(*realm));
        }
        _ => return false,
    }
    true
}

fn realms(realm: RouteRealm) -> String {
    format!("{}/{}", realm.source, realm.destination)
}

/// Adds an attribute of a route; `false` for one that has no words.
pub(super) fn route(attribute: &RouteAttribute, words: &mut String) -> bool {
    match attribute {
        RouteAttribute::Preference(preference) => {
            let word = match preference {
                RoutePreference::Low => "low",
                RoutePreference::Medium => "medium",
                RoutePreference::High => "high",
                _ => return false,
            };
            let _ = write!(words, " pref {word}");
        }
        RouteAttribute::Metrics(all) => return metrics(all, words),
        // It fills up to a multiple of eight.
        RouteAttribute::Other(other) => return other.kind() == 24,
        _ => return false,
    }
    true
}

fn metrics(all: &[RouteMetric], words: &mut String) -> bool {
    let locked = all.iter().find_map(|metric| match metric {
        RouteMetric::Lock(bits) => Some(*bits),
        _ => None,
    });
    let locked = |number: u32| locked.is_some_and(|bits| bits & (1 << number) != 0);
    for metric in all {
        let number = u32::from(metric.kind());
        let lock = if locked(number) { "lock " } else { "" };
        let (name, value) = match metric {
            RouteMetric::Lock(_) => continue,
            RouteMetric::Mtu(value) => ("mtu", value),
            RouteMetric::Window(value) => ("window", value),
            RouteMetric::Rtt(value) => ("rtt", value),
            RouteMetric::RttVar(value) => ("rttvar", value),
            RouteMetric::SsThresh(value) => ("ssthresh", value),
            RouteMetric::Cwnd(value) => ("cwnd", value),
            RouteMetric::Advmss(value) => ("advmss", value),
            RouteMetric::Reordering(value) => ("reordering", value),
            RouteMetric::Hoplimit(value) => ("hoplimit", value),
            RouteMetric::InitCwnd(value) => ("initcwnd", value),
            RouteMetric::InitRwnd(value) => ("initrwnd", value),
            RouteMetric::QuickAck(value) => ("quickack", value),
            RouteMetric::FastopenNoCookie(value) => ("fastopen_no_cookie", value),
            RouteMetric::RtoMin(value) if number == LEAST_TIMEOUT && locked(number) => {
                let _ = write!(words, " rto_min {value}ms");
                continue;
            }
            RouteMetric::Features(bits) if *bits == ECN => {
                words.push_str(" features ecn");
                continue;
            }
            RouteMetric::CcAlgo(name) if number == CONGESTION && plain(name) => {
                let _ = write!(words, " congctl {lock}{name}");
                continue;
            }
            _ => return false,
        };
        let _ = write!(words, " {name} {lock}{value}");
    }
    true
}

/// Whether a name is one word that ends no line.
fn plain(name: &str) -> bool {
    !name.is_empty()
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_-.".contains(&byte))
}

/// Whether it is the mask of a port, and has all bits, as one without a mask has it.
fn is_whole(mask: &DefaultNla) -> bool {
    let mut bytes = vec![0; mask.value_len()];
    mask.emit_value(&mut bytes);
    PORT_MASKS.contains(&mask.kind()) && bytes == [0xff, 0xff]
}

/// A rule.
pub(super) fn rule(message: &RuleMessage) -> Rule {
    let header = &message.header;
    let v6 = header.family == netlink_packet_route::AddressFamily::Inet6;
    let (mut matches, mut does) = (String::new(), String::new());
    let mut table = u32::from(header.table);
    let (mut iif, mut oif, mut unknown, mut priority) = (None, None, None, 0);
    let (mut mark, mut mask, mut goto) = (None, None, None);
    for attribute in &message.attributes {
        let _ = match attribute {
            RuleAttribute::Destination(to) => write!(matches, " to {to}/{}", header.dst_len),
            RuleAttribute::Source(from) => write!(matches, " from {from}/{}", header.src_len),
            RuleAttribute::TunId(id) => write!(matches, " tun_id {id}"),
            RuleAttribute::UidRange(range) => {
                write!(matches, " uidrange {}-{}", range.start, range.end)
            }
            RuleAttribute::IpProtocol(protocol) => {
                write!(matches, " ipproto {}", u8::from(*protocol))
            }
            RuleAttribute::SourcePortRange(range) => {
                write!(matches, " sport {}-{}", range.start, range.end)
            }
            RuleAttribute::DestinationPortRange(range) => {
                write!(matches, " dport {}-{}", range.start, range.end)
            }
            RuleAttribute::Protocol(by) => write!(does, " protocol {}", u8::from(*by)),
            RuleAttribute::Realm(realm) => write!(does, " realms {}", realms(*realm)),
            RuleAttribute::L3MDev(true) => write!(does, " l3mdev"),
            RuleAttribute::SuppressPrefixLen(length) if *length != u32::MAX => {
                write!(does, " suppress_prefixlength {length}")
            }
            RuleAttribute::SuppressIfGroup(group) if *group != u32::MAX => {
                write!(does, " suppress_ifgroup {group}")
            }
            other => {
                match other {
                    RuleAttribute::Iifname(name) => iif = Some(name.clone()),
                    RuleAttribute::Oifname(name) => oif = Some(name.clone()),
                    RuleAttribute::Priority(number) => priority = *number,
                    RuleAttribute::Table(number) => table = *number,
                    RuleAttribute::FwMark(bits) => mark = Some(*bits),
                    RuleAttribute::FwMask(bits) => mask = Some(*bits),
                    RuleAttribute::Goto(to) => goto = Some(*to),
                    RuleAttribute::Other(mask) if is_whole(mask) => {}
                    RuleAttribute::L3MDev(false)
                    | RuleAttribute::SuppressPrefixLen(_)
                    | RuleAttribute::SuppressIfGroup(_) => {}
                    other => {
                        let number = other.kind();
                        unknown = Some(super::kind("attribute", number));
                    }
                }
                Ok(())
            }
        };
    }
    if header.tos != 0 {
        let _ = write!(matches, " tos {:#x}", header.tos);
    }
    if mark.is_some() || mask.is_some() {
        let (mark, mask) = (mark.unwrap_or_default(), mask.unwrap_or(u32::MAX));
        let _ = write!(matches, " fwmark {mark:#x}/{mask:#x}");
    }
    let action = match (header.action, goto) {
        (RuleAction::ToTable, _) if does.contains(" l3mdev") => String::new(),
        (RuleAction::ToTable, _) => format!(" lookup {table}"),
        (RuleAction::Goto, Some(to)) => format!(" goto {to}"),
        (RuleAction::Nop, _) => " nop".to_owned(),
        (RuleAction::Blackhole, _) => " blackhole".to_owned(),
        (RuleAction::Unreachable, _) => " unreachable".to_owned(),
        (RuleAction::Prohibit, _) => " prohibit".to_owned(),
        (other, _) => {
            unknown = Some(format!("its action {}", u8::from(other)));
            String::new()
        }
    };
    does.push_str(&action);
    if header.flags.contains(RuleFlags::Invert) {
        matches.insert_str(0, " not");
    }
    Rule { v6, priority, iif, oif, words: (matches, does), unknown }
}
