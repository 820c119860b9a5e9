//! What `apply` owns of a node, object by object and attribute by attribute.
//!
//! [`owned`] is the whole of it. The rows of links are here, with how each is observed and mended;
//! those of Open vSwitch's database are in `columns`. A test changes every one of them by hand, so a
//! row without one fails.

use super::columns;
use super::interface::ADDRESS;
use super::links::IPV6_MTU;
use super::switch::FLAGS;
use crate::system::netlink::{Discipline, Link};
use crate::system::{Command, Tool};
use crate::value::{Mac, NetnsName};

/// An attribute of an object that `apply` keeps as the plan has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Owned {
    /// The kind of object.
    pub object: &'static str,
    /// The attribute.
    pub attribute: &'static str,
    /// How it is observed.
    pub observed: &'static str,
    /// How it is mended.
    pub mended: &'static str,
    /// What notices that: `no`, or who.
    pub disrupts: &'static str,
}

/// All that `apply` owns.
#[must_use]
pub fn owned() -> Vec<Owned> {
    let columns = columns::all().map(|(object, column)| Owned {
        object,
        attribute: column.name,
        observed: "ovsdb-client transact",
        mended: "ovs-vsctl",
        disrupts: column.disrupts(),
    });
    let flags = FLAGS.iter().map(|flag| Owned {
        object: "port of the bridge",
        attribute: flag.word,
        observed: "ovs-ofctl show",
        mended: "ovs-ofctl mod-port",
        disrupts: "no",
    });
    let links = LINKS.iter().flat_map(|row| {
        row.of.iter().map(|role| Owned {
            object: role.object(),
            attribute: row.attribute,
            observed: "netlink",
            mended: match row.mend {
                Mend::Ip(_) | Mend::Mtu => "ip -batch",
                Mend::Tool(tool, _) => tool.name(),
            },
            disrupts: "no",
        })
    });
    columns.chain(flags).chain(links).chain(OTHERS).collect()
}

const fn other(
    object: &'static str,
    attribute: &'static str,
    [observed, mended, disrupts]: [&'static str; 3],
) -> Owned {
    Owned { object, attribute, observed, mended, disrupts }
}

const IP: [&str; 3] = ["netlink", "ip -batch", "no"];
const CONNECTIONS: [&str; 3] = ["netlink", "ip -batch", "its connections"];
const NFT: [&str; 3] = ["nft list table", "nft -f", "no"];
const FILE: [&str; 3] = ["its bytes and mode", "install", "no"];
const PROCESS: [&str; 3] = ["/proc", "proxy.sh", "its connections"];
const POD: &str = "interface of a pod";
const NODE: &str = "veth at the node";
const MACVLAN: &str = "outside interface of a router";
const TUN: &str = "tun0";

/// What has no table of its own.
const OTHERS: [Owned; 36] = [
    other("bridge", "row", ["ovsdb-client transact", "ovs-vsctl", "all traffic"]),
    other("port", "row", ["ovsdb-client transact", "ovs-vsctl", "its traffic"]),
    other("interface", "ofport", ["ovsdb-client transact", "ovs-vsctl", "its traffic"]),
    other("bridge", "fragment mode", ["ovs-ofctl show", "ovs-ofctl set-frags", "no"]),
    other("bridge", "flows", ["ovs-ofctl dump-flows", "ovs-ofctl bundle", "told by flow"]),
    other("bridge", "groups", ["ovs-ofctl dump-groups", "ovs-ofctl bundle", "no"]),
    other("bridge", "meters", ["ovs-ofctl dump-meters", "ovs-ofctl mod-meter", "no"]),
    other("queue discipline", "row", ["ovsdb-client transact", "ovs-vsctl", "no"]),
    other("queue discipline", "other_config", ["ovsdb-client transact", "ovs-vsctl", "no"]),
    other("queue discipline", "kernel", ["netlink", "ovs-vsctl", "no"]),
    other(NODE, "existence", CONNECTIONS),
    other(NODE, "state", IP),
    other(POD, "state", IP),
    other(POD, "address", CONNECTIONS),
    other(POD, "address attributes", CONNECTIONS),
    other(POD, "route", IP),
    other(POD, "route attributes", IP),
    other("namespace", "existence", CONNECTIONS),
    other(MACVLAN, "existence", CONNECTIONS),
    other(MACVLAN, "Ethernet address", CONNECTIONS),
    other(MACVLAN, "state", IP),
    other(MACVLAN, "address", CONNECTIONS),
    other(MACVLAN, "route", IP),
    other(TUN, "state", IP),
    other(TUN, "address", IP),
    other(TUN, "address attributes", IP),
    other(TUN, "route", IP),
    other(TUN, "route attributes", IP),
    other("egress IP", "address", IP),
    other("egress IP", "address attributes", IP),
    other("kernel setting", "value", ["/proc/sys", "sysctl", "no"]),
    other("router", "net.ipv4.ip_forward", ["/proc/sys", "sysctl", "no"]),
    other("ruleset", "tables", NFT),
    other("ruleset", "elements of sets", NFT),
    other("proxy", "files", FILE),
    other("proxy", "process", PROCESS),
];

/// What a link is to ringfence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    /// The end of a veth that is a port of the bridge.
    AtNode,
    /// The other end of it.
    InPod,
    /// A macvlan on the uplink.
    Macvlan,
    /// The loopback interface of a namespace that ringfence made.
    Loopback,
    /// The node's own port.
    Tun,
}

impl Role {
    fn object(self) -> &'static str {
        match self {
            Self::AtNode => NODE,
            Self::InPod => POD,
            Self::Macvlan => MACVLAN,
            Self::Loopback => "loopback of a namespace",
            Self::Tun => TUN,
        }
    }
}

/// What a link is to be.
#[derive(Clone, Debug)]
#[expect(clippy::struct_excessive_bools, reason = "each is an independent fact")]
pub(super) struct Wanted<'a> {
    pub(super) role: Role,
    pub(super) name: &'a str,
    pub(super) netns: Option<&'a NetnsName>,
    pub(super) alias: Option<String>,
    pub(super) mac: Option<Mac>,
    pub(super) mtu: u32,
    /// Whether its frames go to a datapath in userspace.
    pub(super) userspace: bool,
    /// Whether the kernel has IPv6, which must not begin on this end of a veth.
    pub(super) ipv6: bool,
    /// Whether what comes in by it is forwarded.
    pub(super) forwards: bool,
    /// Whether Open vSwitch limits what goes out by it.
    pub(super) limited: bool,
    /// The index of the kernel's datapath, if there is one.
    pub(super) datapath: Option<u32>,
}

/// What mends a link.
#[derive(Debug, Default)]
pub(super) struct Mending {
    /// Lines of `ip -batch`.
    pub(super) lines: Vec<String>,
    /// Commands of other tools.
    pub(super) commands: Vec<Command>,
    /// In which respects.
    pub(super) details: Vec<&'static str>,
}

/// That a link has another Ethernet address.
pub(super) const ETHERNET_ADDRESS: &str = "Ethernet address";

/// Whether its neighbours know an interface by what it no longer has.
pub(super) fn addresses_change(details: &[&str]) -> bool {
    details.iter().any(|detail| [ADDRESS, ETHERNET_ADDRESS].contains(detail))
}

/// An attribute of a link.
struct Row {
    attribute: &'static str,
    of: &'static [Role],
    differs: fn(&Link, &Wanted<'_>) -> bool,
    mend: Mend,
}

enum Mend {
    /// The end of a line `link set dev NAME ...`.
    Ip(fn(&Wanted<'_>) -> String),
    /// Commands of another tool, by its arguments.
    Tool(Tool, fn(&Link, &Wanted<'_>) -> Vec<Vec<String>>),
    /// What a new MTU takes.
    Mtu,
}

/// What mends a link that is there.
pub(super) fn mend(link: &Link, wanted: &Wanted<'_>) -> Mending {
    let mut mending = Mending::default();
    let rows = LINKS.iter().filter(|row| row.of.contains(&wanted.role));
    for row in rows.filter(|row| (row.differs)(link, wanted)) {
        mending.details.push(row.attribute);
        match row.mend {
            Mend::Ip(words) => {
                mending.lines.push(format!("link set dev {} {}", wanted.name, words(wanted)));
            }
            Mend::Mtu => {
                let words = new_mtu(link, wanted).into_iter();
                let lines = words.map(|words| format!("link set dev {} {words}", wanted.name));
                mending.lines.extend(lines);
            }
            Mend::Tool(tool, arguments) => {
                let commands = arguments(link, wanted).into_iter();
                let commands = commands.map(|words| Command::change(tool, words));
                mending.commands.extend(commands.map(|command| command.within(wanted.netns)));
            }
        }
    }
    mending
}

fn new_mtu(link: &Link, wanted: &Wanted<'_>) -> Vec<String> {
    let mtu = format!("mtu {}", wanted.mtu);
    let begins = link.mtu < IPV6_MTU && wanted.mtu >= IPV6_MTU;
    if !(wanted.ipv6 && begins && wanted.role == AtNode) {
        return vec![mtu];
    }
    // IPv6 begins on this end, and would give it an address if it were up.
    let mut words = vec!["down".to_owned(), mtu, "addrgenmode none".to_owned()];
    words.extend(link.up.then(|| "up".to_owned()));
    words
}

/// The queue disciplines of a link that are not Open vSwitch's.
fn unwanted<'a>(link: &'a Link, wanted: &Wanted<'_>) -> impl Iterator<Item = &'a Discipline> {
    let Wanted { limited, userspace, role, .. } = *wanted;
    link.traits.disciplines.iter().filter(move |discipline| match discipline.at {
        // Those below another go with it.
        "" => false,
        "root" => !limited,
        // With `hw-offload`, Open vSwitch has its own there.
        _ => userspace || role != AtNode,
    })
}

use Role::{AtNode, InPod, Loopback, Macvlan, Tun};

const LINKS: [Row; 15] = [
    ip("state", &[Loopback], |link, _| !link.up, |_| "up".to_owned()),
    ip(
        "alias",
        &[AtNode],
        |link, wanted| link.alias != wanted.alias,
        |wanted| format!("alias \"{}\"", wanted.alias.as_deref().unwrap_or_default()),
    ),
    ip(
        ETHERNET_ADDRESS,
        &[InPod, Tun],
        |link, wanted| wanted.mac.is_some_and(|mac| link.mac != mac.bytes()),
        |wanted| wanted.mac.map_or_else(String::new, |mac| format!("address {mac}")),
    ),
    Row {
        attribute: "MTU",
        of: &[AtNode, InPod, Macvlan, Tun],
        differs: |link, wanted| link.mtu != wanted.mtu,
        mend: Mend::Mtu,
    },
    ip(
        "ARP",
        &[AtNode, InPod, Macvlan, Tun],
        |link, _| link.traits.no_arp,
        |_| "arp on".to_owned(),
    ),
    ip(
        "multicast",
        &[AtNode, InPod, Macvlan, Tun],
        |link, _| !link.traits.multicast,
        |_| "multicast on".to_owned(),
    ),
    ip(
        "all multicast",
        &[AtNode, InPod, Macvlan, Tun],
        |link, _| link.traits.all_multicast,
        |_| "allmulticast off".to_owned(),
    ),
    ip(
        // Open vSwitch sets it on its own ports.
        "promiscuous",
        &[InPod, Macvlan],
        |link, _| link.traits.told_promiscuous,
        |_| "promisc off".to_owned(),
    ),
    ip(
        // It bounds the queue of a discipline too.
        "queue length",
        &[AtNode, InPod],
        |link, _| link.traits.queue_length != QUEUE_LENGTH,
        |_| format!("txqueuelen {QUEUE_LENGTH}"),
    ),
    ip(
        "master",
        &[AtNode, InPod, Macvlan, Tun],
        |link, wanted| link.traits.master.is_some_and(|master| Some(master) != wanted.datapath),
        |_| "nomaster".to_owned(),
    ),
    ip(
        // Nobody speaks to this end, and Open vSwitch would read two routes more for it.
        "address generation",
        &[AtNode],
        |link, wanted| link.traits.no_ipv6 == Some(false) && wanted.mtu >= IPV6_MTU,
        |_| "addrgenmode none".to_owned(),
    ),
    ip(
        "macvlan mode",
        &[Macvlan],
        |link, _| link.traits.shared,
        |_| "type macvlan mode private".to_owned(),
    ),
    Row {
        attribute: "checksums",
        of: &[AtNode, InPod, Tun],
        differs: |link, wanted| wanted.userspace && link.traits.lacks_checksums == Some(true),
        mend: Mend::Tool(Tool::Ethtool, |_, wanted| {
            vec![["-K", wanted.name, "tx", "off"].map(str::to_owned).to_vec()]
        }),
    },
    Row {
        attribute: "queue discipline",
        of: &[AtNode, InPod, Macvlan, Tun],
        differs: |link, wanted| unwanted(link, wanted).next().is_some(),
        mend: Mend::Tool(Tool::Tc, |link, wanted| {
            let words = |discipline: &Discipline| {
                ["qdisc", "del", "dev", wanted.name, discipline.at].map(str::to_owned).to_vec()
            };
            unwanted(link, wanted).map(words).collect()
        }),
    },
    Row {
        attribute: "forwarding",
        of: &[InPod, Macvlan, Tun],
        differs: |link, wanted| wanted.forwards && !link.traits.forwards,
        mend: Mend::Tool(Tool::Sysctl, |_, wanted| {
            let setting = format!("net.ipv4.conf.{}.forwarding=1", wanted.name);
            vec![vec!["-qw".to_owned(), setting]]
        }),
    },
];

const fn ip(
    attribute: &'static str,
    of: &'static [Role],
    differs: fn(&Link, &Wanted<'_>) -> bool,
    words: fn(&Wanted<'_>) -> String,
) -> Row {
    Row { attribute, of, differs, mend: Mend::Ip(words) }
}

/// The kernel's default.
const QUEUE_LENGTH: u32 = 1000;
