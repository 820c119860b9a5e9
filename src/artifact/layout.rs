//! The names of the files in a node's directory.

/// Lists the others with their digests; the tree has one too.
pub const MANIFEST: &str = "manifest.json";
/// The signature of a node's manifest.
pub const SIGNATURE: &str = "manifest.json.sig";
/// The flows of the bridge.
pub const FLOWS: &str = "flows.ofctl";
/// The groups of the bridge, where there are any.
pub const GROUPS: &str = "groups.ofctl";
/// The node's nft ruleset, and that of a router in its directory.
pub const RULESET: &str = "ruleset.nft";
/// Everything that isn't a flow or a ruleset.
pub const NODE: &str = "node.json";
/// From cookies to objects.
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
/// For people.
pub const NOTES: &str = "notes.md";

/// The directory of an egress router below that of its node.
#[must_use]
pub fn router(name: &str) -> String {
    format!("routers/{name}")
}
