//! The `cluster` section: parts of several documents unite, and everything has a default.

use ipnet::Ipv4Net;

use super::{Context, Wire, network_policies, node_access};
use crate::diagnostic::{Code, Diagnostic, Place};
use crate::input::Cursor;
use crate::intent::{Cluster, Dns, PodNetwork};
use crate::spec::{self, Mode};
use crate::value::{NameServer, Port, TimeSpan, ipv4};

const DEFAULT_POD_NETWORK: ([u8; 4], u8, u8) = ([10, 128, 0, 0], 14, 23);
const DEFAULT_SERVICE_NETWORK: ([u8; 4], u8) = ([172, 30, 0, 0], 16);
const DEFAULT_VXLAN_PORT: u64 = 4789;
const DEFAULT_MTU: u32 = 1450;
const DEFAULT_MAX_AGE: TimeSpan = TimeSpan::hours(24);
const DEFAULT_KEEP: TimeSpan = TimeSpan::hours(6);
/// The smallest MTU that every IPv4 host must take (RFC 791), and what VXLAN leaves of 65535.
const MTU: std::ops::RangeInclusive<u32> = 576..=65485;

pub(super) type Sections<'a> = Vec<(Cursor<'a>, &'a spec::Cluster)>;

pub(super) fn resolve(wire: &Wire<'_>, context: &mut Context) -> Cluster {
    let sections: Sections<'_> = wire.values("cluster", |state| state.cluster.as_ref()).collect();
    let mut networks = pod_networks(&sections, context);
    let service = one(&sections, "serviceNetwork", |c| c.service_network.as_ref(), context)
        .and_then(|(place, cidr)| context.take(ipv4(cidr), place).map(|net| (net, place)));
    let (address, prefix) = DEFAULT_SERVICE_NETWORK;
    let (service_network, service_place) = match service {
        Some((network, place)) => (network, Some(place)),
        None => (net(address, prefix), None),
    };
    if networks.is_empty() {
        let (address, prefix, host_prefix) = DEFAULT_POD_NETWORK;
        networks.push((PodNetwork { cidr: net(address, prefix), host_prefix }, None));
    }
    networks_overlap(&networks, service_network, service_place, context);
    let mtu = one(&sections, "mtu", |c| c.mtu.as_ref(), context);
    if let Some((place, mtu)) = mtu
        && !MTU.contains(mtu)
    {
        context.push(
            Diagnostic::new(Code::BadValue, format!("{mtu} is out of range"))
                .at(place)
                .help(format!("choose a number from {} to {}", MTU.start(), MTU.end())),
        );
    }
    let mode = one(&sections, "mode", |c| c.mode.as_ref(), context);
    mode_cannot(wire, mode, context);
    let vxlan_port = one(&sections, "vxlanPort", |c| c.vxlan_port.as_ref(), context);
    let platform = one(&sections, "platform", |c| c.platform.as_ref(), context);
    let vxlan_port = vxlan_port.map_or_else(default_vxlan_port, |(_, port)| *port);
    Cluster {
        mode: mode.map(|(_, mode)| *mode).unwrap_or_default(),
        pod_networks: networks.into_iter().map(|(network, _)| network).collect(),
        service_network,
        vxlan_port,
        mtu: mtu.map_or(DEFAULT_MTU, |(_, mtu)| *mtu),
        platform: platform.map(|(_, platform)| *platform).unwrap_or_default(),
        dns: dns(&sections, context),
        node_access: node_access::resolve(&sections, vxlan_port, context),
        place: sections.first().map(|(at, _)| at.place()),
    }
}

/// RF034: a flat network has nothing to join, to isolate or to make global, and no policies. Network
/// policies are for a mode of their own, which has nothing else to keep projects apart.
fn mode_cannot(wire: &Wire<'_>, mode: Option<(Place, &Mode)>, context: &mut Context) {
    if mode.is_none_or(|(_, mode)| *mode != Mode::Networkpolicy) {
        let name = mode.map_or_else(Mode::default, |(_, mode)| *mode).as_str();
        for section in wire.section_keys("networkPolicies") {
            let diagnostic = Diagnostic::new(
                Code::ModeCannot,
                format!("the mode `{name}` has no `networkPolicies`"),
            );
            let diagnostic = diagnostic.at(section).help(
                "set `cluster: {mode: networkpolicy}`; pods that no policy selects then take and send \
                 everything, also between projects",
            );
            context.push(match mode {
                Some((place, _)) => diagnostic.related(place, "the mode"),
                None => diagnostic,
            });
        }
    }
    match mode {
        Some((place, Mode::Networkpolicy)) => {
            for key in ["joins", "isolate", "global"] {
                for (section, help) in wire.section_keys_with(key, network_policies::instead_of) {
                    context.push(
                        Diagnostic::new(
                            Code::ModeCannot,
                            format!("the mode `networkpolicy` has no `{key}`"),
                        )
                        .at(section)
                        .related(place, "the mode")
                        .help(help),
                    );
                }
            }
        }
        Some((place, Mode::Subnet)) => {
            for key in ["joins", "isolate", "global", "nodeServices", "egressPolicies", "egressIPs"]
            {
                for section in wire.section_keys(key) {
                    context.push(
                        Diagnostic::new(
                            Code::ModeCannot,
                            format!("the mode `subnet` has no `{key}`"),
                        )
                        .at(section)
                        .related(place, "the mode")
                        .help(
                            "in a flat network all pods reach each other; for tenants choose \
                               `multitenant`",
                        ),
                    );
                }
            }
        }
        _ => {}
    }
}

/// The `dns` part, which one document has. An address can't be kept for longer than it may be
/// used.
fn dns(sections: &Sections<'_>, context: &mut Context) -> Dns {
    let found = one(sections, "dns", |c| c.dns.as_ref(), context).map(|(_, dns)| dns);
    let default = spec::Dns::default();
    let spec::Dns { servers, max_age, keep } = found.unwrap_or(&default);
    let max_age = max_age.unwrap_or(DEFAULT_MAX_AGE);
    let at = sections.iter().find(|(_, section)| section.dns.is_some());
    if let (Some(keep), Some((at, _))) = (keep.filter(|keep| *keep > max_age), at) {
        let at = at.key("dns");
        let message = format!("addresses can't be kept for {keep} where they last {max_age}");
        let diagnostic = Diagnostic::new(Code::BadValue, message)
            .at(at.key("keep").place())
            .help("choose `keep` no longer than `maxAge`, which is 1d by default");
        context.push(match at.find("maxAge") {
            Some(max_age) => diagnostic.related(max_age.place(), "how long they last"),
            None => diagnostic,
        });
    }
    let mut unique: Vec<NameServer> = Vec::with_capacity(servers.len());
    for server in servers {
        if !unique.contains(server) {
            unique.push(*server);
        }
    }
    Dns { servers: unique, max_age, keep: keep.unwrap_or(DEFAULT_KEEP).min(max_age) }
}

fn default_vxlan_port() -> Port {
    Port::new(DEFAULT_VXLAN_PORT).unwrap_or(Port::DNS)
}

fn net(address: [u8; 4], prefix: u8) -> Ipv4Net {
    Ipv4Net::new_assert(address.into(), prefix)
}

/// The value of a key that at most one document has.
fn one<'a, T>(
    sections: &Sections<'a>,
    key: &str,
    value: impl Fn(&'a spec::Cluster) -> Option<&'a T>,
    context: &mut Context,
) -> Option<(Place, &'a T)> {
    let mut found: Option<(Place, &T)> = None;
    for (at, section) in sections {
        let Some(value) = value(section) else { continue };
        let place = at.key(key).place();
        if let Some((first, _)) = found {
            context.push(
                Diagnostic::new(Code::DefinedTwice, format!("`cluster.{key}` is defined twice"))
                    .at(place)
                    .related(first, "first defined here")
                    .help("remove one of the two"),
            );
        } else {
            found = Some((place, value));
        }
    }
    found
}

fn pod_networks(
    sections: &Sections<'_>,
    context: &mut Context,
) -> Vec<(PodNetwork, Option<Place>)> {
    let mut networks = Vec::new();
    for (at, section) in sections {
        let items = at.find("podNetworks").into_iter().flat_map(Cursor::children);
        for (at, network) in items.zip(&section.pod_networks) {
            let spec::PodNetwork { cidr, host_prefix } = *network;
            let place = at.key("cidr").place();
            let Some(cidr) = context.take(ipv4(&cidr), place) else { continue };
            if host_prefix < cidr.prefix_len() || host_prefix > 30 {
                let message = format!("a node's part of {cidr} can't be a /{host_prefix}");
                context.push(
                    Diagnostic::new(Code::HostPrefix, message)
                        .at(at.key("hostPrefix").place())
                        .help(format!("choose hostPrefix from {} to 30", cidr.prefix_len())),
                );
                continue;
            }
            networks.push((PodNetwork { cidr, host_prefix }, Some(place)));
        }
    }
    networks
}

/// Ranges that no network of ours can be in (RFC 6890).
pub(crate) fn special_ranges() -> [(&'static str, Ipv4Net); 4] {
    [
        ("the range of this host", net([0, 0, 0, 0], 8)),
        ("the loopback range", net([127, 0, 0, 0], 8)),
        ("the multicast range", net([224, 0, 0, 0], 4)),
        ("the reserved range", net([240, 0, 0, 0], 4)),
    ]
}

/// RF040: pod networks, the service network and the special ranges of RFC 6890 are disjoint.
fn networks_overlap(
    pods: &[(PodNetwork, Option<Place>)],
    service: Ipv4Net,
    service_place: Option<Place>,
    context: &mut Context,
) {
    type Named = (&'static str, Ipv4Net, Option<Place>);
    let mut named: Vec<Named> =
        special_ranges().map(|(what, network)| (what, network, None)).to_vec();
    let fixed = named.len();
    named.extend(pods.iter().map(|(network, place)| ("the pod network", network.cidr, *place)));
    named.push(("the service network", service, service_place));
    for (number, (what, network, place)) in named.iter().enumerate().skip(fixed) {
        for (other_number, (other_what, other, other_place)) in named[..number].iter().enumerate() {
            if !network.contains(other) && !other.contains(network) {
                continue;
            }
            let by_default = |number: usize, place: &Option<Place>| {
                if number >= fixed && place.is_none() { " (by default)" } else { "" }
            };
            let message = format!(
                "{what} {network}{} overlaps {other_what} {other}{}",
                by_default(number, place),
                by_default(other_number, other_place)
            );
            let mut diagnostic = Diagnostic::new(Code::NetworksOverlap, message)
                .help("choose networks that have no address in common");
            match (place, other_place) {
                (Some(place), Some(other)) => {
                    diagnostic = diagnostic.at(*place).related(*other, "overlaps this");
                }
                (Some(place), None) | (None, Some(place)) => diagnostic = diagnostic.at(*place),
                (None, None) => {}
            }
            context.push(diagnostic);
        }
    }
}
