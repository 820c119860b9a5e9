//! The names that ringfence uses on a node: interfaces, labels, directories.

/// The bridge.
pub const BRIDGE: &str = "br0";
/// The node's own port on the bridge, gateway of its pods.
pub const TUN: &str = "tun0";
/// The tunnels' port.
pub const VXLAN: &str = "vxlan0";
/// The port that leads to the gateway bridge, where there is one.
pub const PATCH: &str = "patch-uplink";
/// The other end of it, a port of the gateway bridge.
pub const UPLINK_PATCH: &str = "patch-br0";
/// The name of the interface that a pod sees.
pub const POD_INTERFACE: &str = "eth0";
/// The name of the outside interface that an egress router sees.
pub const ROUTER_INTERFACE: &str = "net1";
/// The protocol number of ringfence's routes, by which it knows its own. `/etc/iproute2/rt_protos`
/// and the routing programs that are in use have other numbers.
pub const ROUTE_PROTOCOL: u8 = 82;
/// The label of egress IPs on `lo`, by which ringfence knows its own.
pub const EGRESS_LABEL: &str = "lo:ringfence";
/// Begins the names of the veths on the node's side.
pub const VETH_PREFIX: &str = "rf-";

/// Begins the names of the egress routers' network namespaces.
pub const ROUTER_NETNS_PREFIX: &str = "router_";

/// Where network namespaces have their names.
pub const NETNS: &str = "/run/netns";
/// Where what doesn't outlast a reboot is kept.
pub const RUN: &str = "/run";
/// Where systemd finds units that don't outlast a reboot.
pub const RUNTIME_UNITS: &str = "/run/systemd/system";
/// Begins the names of what belongs to the egress routers' proxies: units, and directories below
/// `/run`.
pub const ROUTER_SERVICE_PREFIX: &str = "ringfence-router-";

/// Whether a node has, or may get, an interface of this name from ringfence, Open vSwitch or the
/// kernel, or the name means no single one: `all` and `default` are settings of all of them.
#[must_use]
pub fn is_reserved_interface(name: &str) -> bool {
    const NAMES: [&str; 19] = [
        BRIDGE,
        TUN,
        VXLAN,
        PATCH,
        UPLINK_PATCH,
        "lo",
        "all",
        "default",
        "ovs-system",
        "ovs-netdev",
        "gre0",
        "gretap0",
        "erspan0",
        "ip6gre0",
        "ip6tnl0",
        "ip6_vti0",
        "ip_vti0",
        "sit0",
        "tunl0",
    ];
    const PREFIXES: [&str; 8] = [
        VETH_PREFIX,
        "vxlan_sys_",
        "genev_sys_",
        "gre_sys",
        "ip6gre_sys",
        "erspan_sys",
        "gtp_sys_",
        "bareudp_sys",
    ];
    NAMES.contains(&name) || PREFIXES.iter().any(|prefix| name.starts_with(prefix))
}

/// Whether an interface of this name is a bridge of the host, as people and programs name them,
/// rather than one of a workload.
#[must_use]
pub fn is_host_bridge(name: &str) -> bool {
    const NAMES: [&str; 6] = ["docker_gwbridge", "docker", "podman", "cni", "lxcbr", "lxdbr"];
    let numbered = |prefix: &str| {
        name.strip_prefix(prefix).is_some_and(|rest| rest.bytes().all(|byte| byte.is_ascii_digit()))
    };
    ["br-", "virbr", "ovn-k8s-"].iter().any(|prefix| name.starts_with(prefix))
        || ["br", "bridge", "xenbr", "vmbr"].into_iter().any(numbered)
        || NAMES.into_iter().any(numbered)
}

/// The map of the egress IPs in the node's ruleset, by the pods that leave with them.
pub const EGRESS_IP_MAP: &str = "rf_egress_ips";
/// The comment of a table that was loaded by hand, from the file; `apply` puts the generation there.
pub const TABLE_MARK: &str = "ringfence";
/// The set of the guarded interfaces in the node's rulesets.
pub const GUARDED_SET: &str = "rf_guarded";
/// The OpenFlow versions of the bridge. Bundles need 1.4; ringfence speaks it throughout.
pub const PROTOCOLS: &str = "OpenFlow13,OpenFlow14,OpenFlow15";
