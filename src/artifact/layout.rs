//! The names of the files of a node, by their paths from its directory.

use std::path::{Component, Path};

/// Flows of the bridge.
pub const FLOWS: &str = "flows.ofctl";
/// Groups of the bridge.
pub const GROUPS: &str = "groups.ofctl";
/// The ruleset of the node, and below `routers/NAME` that of an egress router.
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
    "avahi.hosts",
    "links.sh",
    "meters.sh",
    "notes.md",
    "ports.sh",
    "sysctl.conf",
];

/// What may stand in the directory of an egress router, beside its unit.
const OF_A_ROUTER: [&str; 6] =
    ["haproxy.cfg", "macvlan.sh", "outside.sh", "proxy.sh", RULESET, "squid.conf"];

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
        Some([ROUTERS, router, name]) => {
            OF_A_ROUTER.contains(name) || *name == format!("ringfence-router-{router}.service")
        }
        _ => false,
    }
}
