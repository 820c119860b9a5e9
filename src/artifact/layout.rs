//! The names of the files of a node, by their paths from its directory.

use std::path::{Component, Path};

use super::proxy::{self, Proxy};

/// Flows of the bridge.
pub const FLOWS: &str = "flows.ofctl";
/// Groups of the bridge, where there are any.
pub const GROUPS: &str = "groups.ofctl";
/// The ruleset of the node, and in its directory that of an egress router.
pub const RULESET: &str = "ruleset.nft";
/// What `apply` compares with the node.
pub const NODE: &str = "node.json";
/// The digests of the other files.
pub const MANIFEST: &str = "manifest.json";
/// The signature of the manifest.
pub const SIGNATURE: &str = "manifest.json.sig";
/// Where the objects are defined.
pub const PLACES: &str = "places.json";
/// The signature of the places.
pub const PLACES_SIGNATURE: &str = "places.json.sig";
/// Written by earlier versions in place of [`PLACES`].
pub const SOURCEMAP: &str = "sourcemap.json";
/// The node's kernel settings.
pub const SYSCTLS: &str = "sysctl.conf";
/// Makes links and addresses, by hand.
pub const LINKS: &str = "links.sh";
/// Makes the bridge and its ports, by hand.
pub const PORTS: &str = "ports.sh";
/// Makes the meters, by hand.
pub const METERS: &str = "meters.sh";
/// Makes the outside interface of a router that has it as a macvlan, by hand.
pub const MACVLAN: &str = "macvlan.sh";
/// Makes the outside interface of a router that has it as a port of the bridge, by hand.
pub const OUTSIDE: &str = "outside.sh";
/// Starts the proxy of a router, by hand.
pub const PROXY: &str = "proxy.sh";
/// The names that a node announces, as avahi takes them.
pub const AVAHI_HOSTS: &str = "avahi.hosts";
/// For people.
pub const NOTES: &str = "notes.md";

/// The directory of the egress routers.
const ROUTERS: &str = "routers";

/// What may stand in the directory of a node.
const OF_A_NODE: [&str; 13] = [
    FLOWS,
    GROUPS,
    RULESET,
    NODE,
    MANIFEST,
    PLACES,
    SOURCEMAP,
    AVAHI_HOSTS,
    LINKS,
    METERS,
    NOTES,
    PORTS,
    SYSCTLS,
];

/// What may stand in the directory of an egress router, beside its unit.
const OF_A_ROUTER: [&str; 6] =
    [Proxy::Haproxy.config(), Proxy::Squid.config(), MACVLAN, OUTSIDE, PROXY, RULESET];

/// The directory of an egress router below that of its node.
#[must_use]
pub fn router(name: &str) -> String {
    format!("{ROUTERS}/{name}")
}

/// Whether a file belongs into the repository, and is compared by `compile --check`. The others
/// follow from those.
#[must_use]
pub fn is_reviewed(path: &Path) -> bool {
    let unreviewed = [MANIFEST, SIGNATURE, PLACES, PLACES_SIGNATURE];
    !path.file_name().and_then(|name| name.to_str()).is_some_and(|name| unreviewed.contains(&name))
}

/// Whether a path below the directory of a node is one that ringfence writes, so that it may
/// replace what is there, and remove it when it makes it no longer.
#[must_use]
pub fn is_of_a_node(path: &Path) -> bool {
    let parts: Option<Vec<&str>> = path
        .components()
        .map(|part| match part {
            Component::Normal(name) => name.to_str(),
            _ => None,
        })
        .collect();
    match parts.as_deref() {
        Some([name]) => OF_A_NODE.contains(name),
        Some([ROUTERS, router, name]) => OF_A_ROUTER.contains(name) || *name == proxy::unit(router),
        _ => false,
    }
}
