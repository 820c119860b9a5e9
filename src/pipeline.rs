//! The walk of a packet through the bridge: table numbers, registers and port numbers.
//!
//! A bridge `br0` on every node connects the pods' ports, `tun0` (the node's own port, gateway of
//! its pods) and `vxlan0` (tunnels to all other nodes). A packet's source project is its VNID in
//! `reg0`, given at the port where it enters and carried between nodes as the VXLAN VNI. The
//! node of the destination loads the VNID of the destination into `reg1` and its port into
//! `reg2`, and table 80 compares. So isolation is checked exactly once, where the destination is,
//! for IP and for ARP alike.
//!
//! Where the uplink is a port of a gateway bridge, a pair of patch ports leads there, for the outside
//! interfaces of egress routers and nothing else: what such an interface sends leaves in table 20 with
//! the router's source, and what comes in goes through table 15 to that source only.
//!
//! ```text
//!            ┌ patch ──→ 15 to the source of an egress router: its outside interface, else drop
//!            ├ vxlan0 ─→ 10 known node? reg0 := VNI ─→ 31 to a local pod or tun0, else drop
//!            │                                         └→ 120 multicast to its members here
//! 0 classify ┤ tun0 ───→ 25 from the host, reg0 = 0 ┐
//!            └ pod ────→ 20 port, MAC, IP agree?     ├→ 30 route
//!                           reg0 := VNID ─→ 27 ──────┘   │
//!    ┌───────────┬───────────┬──────────┬────────────┬───┴────────┬──────────────┐
//!   40 ARP      50 ARP      60 service 70 IP to     90 IP to     110 multicast  99 leaves the
//!   local pod   other node     │       local pod    other node   members      cluster
//!    └─────┬─────┘ vxlan0      drop     └──┬──┘      vxlan0      local, vxlan0    │
//!          └──────────→ 80 reg0 = reg1? ←──┘                               100 egress policy
//!                          output reg2                                            │
//!                                                                          101 tun0
//! ```
//!
//! A packet to a service is translated on the node where it starts. Table 60 asks conntrack for
//! its connection; a new one goes to a select group, whose bucket commits the translation to one
//! pod. Table 61 and those behind it then treat it as if it had been sent to that pod. Replies
//! come to the same node again, and before table 70 whatever comes from a pod of a service passes
//! table 65, where conntrack gives a reply the service's address back. Direct traffic to other
//! pods never meets conntrack. What no pod takes, table 60 hands to `tun0` with the service's
//! address still on it: the node's ruleset refuses it there, since a bridge can't write a refusal.
//!
//! A service for hosts outside is translated likewise, and then leaves as if it had been sent there: so
//! the egress policy applies to it. The node's own processes are led there by the node's ruleset.
//!
//! A packet of a pod to a port at which nodes serve a service to the outside is translated like one
//! to the service itself, in table 55, whatever node it is for: so isolation applies to it. What
//! comes from the outside is translated to the service's address by the node's ruleset, and from
//! then on is as the node's own.
//!
//! What is for a node itself leaves by `tun0`, and the node's ruleset decides about it: only the node's
//! kernel knows what is a reply. What comes back from there has passed the same ruleset, which marks it;
//! where the bridge sees marks, table 25 takes nothing without, but for what the node itself sends.
//!
//! With network policies, nothing is compared in table 80. What a selected pod sends is tracked and held
//! against its policies in table 27, when it is known to whom it goes, and table 28 routes it; what a
//! selected pod gets passes tables 78 and 79 to those of the receiver in table 80, and 84 to 86 lead out.
//! `lower/network_policy.rs` tells how:
//!
//! ```text
//! 30, 55, 61 ─→ 27 let out? ─→ 28 ─→ 70, 90, 99
//! 70 ─→ 78 track ─→ 79 reply? ─→ 80 let in? ─→ 84 remember ─→ 85 service? ─→ 86 output reg2
//! ```
//!
//! The numbers are openshift-sdn's wherever the role is the same. Every table ends in an explicit
//! drop at priority 0, so that what nobody wanted is counted and can be seen.

use serde::{Deserialize, Serialize};

/// The conntrack zone that multicast packets pass on their way to table 121. Nothing is ever
/// committed to it.
pub const MULTICAST_ZONE: u16 = 110;
/// The mark of what the node's ruleset lets pass to `tun0`. On the kernel's datapath the bridge takes
/// nothing from elsewhere without it, so that nothing comes in where the ruleset is gone.
pub const PASSED_MARK: u32 = 0x7266_6e66;
/// The conntrack zone of the connections to services.
pub const SERVICE_ZONE: u16 = 60;

/// The conntrack zone of the connections of pods that a network policy selects. Apart from that of the
/// services, so that a connection has its real addresses here, whatever it was sent to.
pub const POLICY_ZONE: u16 = 27;

/// An OpenFlow port number of the bridge, fixed by `ofport_request`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct OfPort(u16);

impl OfPort {
    /// `vxlan0`.
    pub const VXLAN: Self = Self(1);
    /// `tun0`.
    pub const TUN: Self = Self(2);
    /// `patch-uplink`.
    pub const PATCH: Self = Self(3);
    /// The first of a pod; those before are kept for ports of the bridge itself.
    pub const FIRST_POD: u16 = 10;
    /// The last that OpenFlow leaves for real ports (`OFPP_MAX` is 0xff00).
    pub const LAST: u16 = 0xfeff;

    /// The number.
    #[must_use]
    pub fn get(self) -> u16 {
        self.0
    }

    /// A pod's port number.
    #[must_use]
    pub fn pod(number: u16) -> Option<Self> {
        (Self::FIRST_POD..=Self::LAST).contains(&number).then_some(Self(number))
    }
}

macro_rules! tables {
    ($($(#[doc = $doc:literal])* $table:ident = $number:literal,)*) => {
        /// The tables of the pipeline, by what they decide.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        #[repr(u8)]
        pub enum Table { $($(#[doc = $doc])* $table = $number,)* }

        impl Table {
            /// All tables, in the order in which packets meet them.
            pub const ALL: &[Self] = &[$(Self::$table,)*];

            /// The table's purpose, for the documentation that is made from here.
            #[must_use]
            pub fn purpose(self) -> &'static str {
                match self { $(Self::$table => concat!($($doc,)*).trim_ascii(),)* }
            }
        }
    };
}

tables! {
    /// Classifies by the port of entry.
    Classify = 0,
    /// From the tunnels: takes only known nodes and loads the VNI into reg0.
    FromVxlan = 10,
    /// From the gateway bridge: only to the sources of this node's egress routers.
    FromUplink = 15,
    /// From a pod: port, Ethernet and IP address must agree; loads the project's VNID into reg0.
    FromPod = 20,
    /// From the host by tun0: replies from outside and the node's own traffic, reg0 = 0.
    FromHost = 25,
    /// Mode networkpolicy: what the network policies of the sender let out.
    PolicyEgress = 27,
    /// Mode networkpolicy: routes what they let out.
    PolicyRoute = 28,
    /// Routes what enters the network on this node.
    Route = 30,
    /// Routes what comes from another node: only to this node's pods and to tun0.
    RouteFromVxlan = 31,
    /// ARP for a pod of this node: loads its VNID into reg1 and its port into reg2.
    ArpLocal = 40,
    /// ARP for a pod of another node.
    ArpRemote = 50,
    /// IP to a node: to a service, where it is to a port that nodes serve one at.
    NodePort = 55,
    /// IP to a service.
    Service = 60,
    /// Translated to a pod of a service: back to where it came from, or on as for direct traffic.
    ServicePod = 61,
    /// A pod's answer to itself by a service.
    ServiceLoop = 62,
    /// Refused: the host does it, by its ruleset.
    ServiceRefusal = 63,
    /// From a pod of a service to this node: the address of the service again, if it was used.
    ServiceReply = 65,
    /// IP to a pod of this node: loads its VNID into reg1 and its port into reg2.
    LocalPod = 70,
    /// Mode networkpolicy: tracks what is for a pod that a policy selects, unless its own node sends it.
    PolicyTrack = 78,
    /// Mode networkpolicy: replies and errors pass, and so does what no policy isolates.
    PolicyReply = 79,
    /// Isolation: the VNIDs of source and destination are equal, or one of them is 0.
    Isolation = 80,
    /// Mode networkpolicy: remembers a connection that all checks of this node let through.
    PolicyCommit = 84,
    /// Mode networkpolicy: from a pod of a service, the address of the service again, if it was used.
    PolicyServiceReply = 85,
    /// Mode networkpolicy: out of the port of the pod.
    PolicyOut = 86,
    /// IP to a pod of another node.
    RemotePod = 90,
    /// Leaves the cluster: what no egress policy can change.
    Leave = 99,
    /// Leaves the cluster: the egress policy of the project, first match first.
    EgressPolicy = 100,
    /// Leaves the cluster by tun0.
    EgressOut = 101,
    /// Multicast from a pod of this node: to the members here and to the nodes that have others.
    Multicast = 110,
    /// Multicast from another node: only to the members on this one.
    MulticastFromVxlan = 120,
    /// Multicast with more copies than one flow can make: those of the part that reg3 names.
    MulticastPart = 121,
    /// Holds the generation of these flows as a note; no packet comes here.
    Generation = 253,
}

impl Table {
    /// The number in OpenFlow.
    #[must_use]
    pub fn number(self) -> u8 {
        self as u8
    }
}

/// A register of the pipeline.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Register {
    /// reg0: the VNID of the source.
    Source,
    /// reg1: the VNID of the destination.
    Destination,
    /// reg2: the port of the destination.
    Port,
    /// reg3: which part of the copies of a multicast packet is next.
    Part,
    /// reg3: the address of the service that the packet was sent to.
    Service,
    /// reg4: what network policies have to do with the sender: 0 nothing, 1 its packets are tracked,
    /// 3 and it may only send what a policy lets out.
    Sender,
    /// reg5: the same of the receiver, and of what policies let in.
    Receiver,
    /// reg6: 1 once the packet was tracked on this node for network policies.
    Tracked,
    /// reg7: 1 where the other end is a node's own address on the pod network, which no selector of
    /// pods means.
    NotPod,
}

impl Register {
    /// The number in Open vSwitch.
    #[must_use]
    pub fn number(self) -> u8 {
        match self {
            Self::Source => 0,
            Self::Destination => 1,
            Self::Port => 2,
            // No packet is both.
            Self::Part | Self::Service => 3,
            Self::Sender => 4,
            Self::Receiver => 5,
            Self::Tracked => 6,
            Self::NotPod => 7,
        }
    }
}
