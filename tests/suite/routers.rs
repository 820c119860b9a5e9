//! Egress routers on their segment, with real packets: hosts of it see the router itself.

use std::collections::BTreeSet;
use std::net::SocketAddrV4;

use crate::lab::{Live, live};
use crate::support::PROGRAM;
use ringfence::lab::{Host, Location};
use ringfence::value::Mac;

/// Two routers to a host of their own segment, one by macvlan and one by a gateway bridge, and one
/// that is told to send everything by its gateway.
const WORLD: &str = "\
version: 1
nodes:
  - name: node-1
    address: 192.168.12.11
    uplink: {interface: eth0, subnet: 192.168.12.0/24, gateway: 192.168.12.1}
  - name: node-2
    address: 192.168.12.12
    uplink: {interface: eth0, subnet: 192.168.12.0/24, gateway: 192.168.12.1, bridge: br-ex}
projects:
  - name: shop
    pods: [{name: web, node: node-1}]
egressRouters:
  - {name: macvlan, project: shop, source: 192.168.12.99, gateway: 192.168.12.1,
     destination: 192.168.12.50, node: node-1}
  - {name: bridged, project: shop, source: 192.168.12.98/24, gateway: 192.168.12.1,
     destination: 192.168.12.50, node: node-2}
  - {name: alone, project: shop, source: 192.168.12.97/32, gateway: 192.168.12.1,
     destination: 192.168.12.50, node: node-1}
";

/// A machine on the segment, in a namespace beside the gateway, with an agent that answers at a port.
fn peer(outside: &Host) -> duct::Handle {
    let run = |command: &str| outside.run(None, &["sh", "-ec", command]).unwrap();
    run("ip netns add peer
         ip link add wp type veth peer name eth0 address 02:00:00:00:00:50 netns peer
         ip link set wp master lan0 up
         ip -n peer link set lo up
         ip -n peer address add 192.168.12.50/24 dev eth0
         ip -n peer link set eth0 up
         ethtool -K wp tx off >/dev/null
         ip netns exec peer ethtool -K eth0 tx off >/dev/null
         ip netns exec peer nft -f - <<'END'
table inet seen {
    set senders {
        type ipv4_addr . ether_addr
        flags dynamic
        timeout 1h
    }
    chain pre {
        type filter hook prerouting priority raw
        iifname \"eth0\" ip protocol tcp update @senders { ip saddr . ether saddr }
    }
}
END");
    let listen = "{\"Listen\":[\"Tcp\",\"192.168.12.50:80\"]}";
    let words = format!("(echo '{listen}'; exec sleep 600) | exec {PROGRAM} lab-agent");
    let agent = outside.command(Some("peer"), &["sh", "-c", &words]).stdout_null().start().unwrap();
    let listens = "for _ in $(seq 600); do ss -ltn | grep -q 192.168.12.50:80 && exit; sleep 0.1; \
                   done; exit 1";
    outside.run(Some("peer"), &["sh", "-c", listens]).unwrap();
    agent
}

/// What an agent in a pod tells of a connection.
fn connect(live: &Live, from: &str, to: SocketAddrV4) -> String {
    let (host, netns) = live.lab.place(Location::Workload(live.workload(from))).unwrap();
    let request = format!(
        "{{\"Probe\":{{\"id\":0,\"transport\":\"Tcp\",\"to\":\"{to}\",\"milliseconds\":9000}}}}\n"
    );
    let agent = host.command(netns.as_deref(), &[PROGRAM, "lab-agent"]);
    let output = agent.stdin_bytes(request).stdout_capture().run().unwrap();
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn a_router_reaches_hosts_of_its_own_segment_directly() {
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("network.yaml"), WORLD).unwrap();
    let live = live(directory.path());
    live.apply_all();
    assert_eq!(live.apply_all(), [false, false]);
    let outside = live.lab.outside();
    let peer = peer(outside);
    let through = |router: &str, source: &str| {
        let to = SocketAddrV4::new(live.address(router), 80);
        let answer = connect(&live, "shop/web", to);
        assert!(answer.contains(source) && answer.contains("192.168.12.50:80"), "{answer}");
    };
    let sources =
        [("macvlan", "192.168.12.99"), ("bridged", "192.168.12.98"), ("alone", "192.168.12.97")];
    for (router, source) in sources {
        through(router, source);
    }
    let senders = outside.run(Some("peer"), &["nft", "list", "set", "inet", "seen", "senders"]);
    let senders = senders.unwrap();
    let seen = |source: &str| -> BTreeSet<String> {
        let words: Vec<&str> = senders.split_whitespace().collect();
        let macs = words.windows(3).filter(|words| words[0] == source && words[1] == ".");
        macs.map(|words| words[2].trim_end_matches(',').to_owned()).collect()
    };
    for (_, source) in &sources[..2] {
        let mac = Mac::of_ipv4(source.parse().unwrap()).to_string();
        assert_eq!(seen(source), BTreeSet::from([mac]), "{senders}");
    }
    let link = outside.run(None, &["ip", "-br", "link", "show", "dev", "lan0"]).unwrap();
    let gateway = link.split_whitespace().nth(2).unwrap();
    assert!(seen("192.168.12.97").contains(gateway), "{senders}");

    // Without the gateway, whoever needs none goes on.
    outside.run(None, &["sysctl", "-qw", "net.ipv4.ip_forward=0"]).unwrap();
    through("macvlan", "192.168.12.99");
    through("bridged", "192.168.12.98");
    // The host gets another network card and says so.
    outside
        .run(
            Some("peer"),
            &[
                "sh",
                "-ec",
                "ip link set eth0 address 02:00:00:00:00:51; sleep 1; arping -q -U -c 2 \
                            -I eth0 -s 192.168.12.50 192.168.12.50",
            ],
        )
        .unwrap();
    for (node, router) in [("node-1", "macvlan"), ("node-2", "bridged")] {
        let table = live.on(
            node,
            &format!(
                "for _ in $(seq 100); do ip -n router_{router} neigh show 192.168.12.50 | grep \
                 02:00:00:00:00:51 && exit; sleep 0.2; done; ip -n router_{router} neigh"
            ),
        );
        assert!(table.contains("02:00:00:00:00:51"), "{router}: {table}");
    }
    through("macvlan", "192.168.12.99");
    through("bridged", "192.168.12.98");
    peer.kill().unwrap();
}

#[test]
fn the_way_to_the_segment_is_mended_and_made_of_that_of_earlier_versions() {
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("network.yaml"), WORLD).unwrap();
    let live = live(directory.path());
    live.apply_all();
    let routes =
        |router: &str| live.on("node-1", &format!("ip -n router_{router} route show dev net1"));
    let direct = "default via 192.168.12.1 proto 82 \n\
                  192.168.12.0/24 proto kernel scope link src 192.168.12.99 \n";
    assert_eq!(routes("macvlan"), direct);
    assert_eq!(
        routes("alone"),
        "default via 192.168.12.1 proto 82 \n192.168.12.1 proto 82 scope link \n"
    );
    live.on("node-1", "ip -n router_macvlan route del 192.168.12.0/24 dev net1");
    assert!(live.lab.apply(live.node("node-1")).unwrap().changed);
    assert!(
        routes("macvlan").contains("192.168.12.0/24 proto 82 scope link"),
        "{}",
        routes("macvlan")
    );
    assert!(!live.lab.apply(live.node("node-1")).unwrap().changed);
    live.on(
        "node-1",
        "ip -n router_macvlan address flush dev net1
         ip -n router_macvlan address add 192.168.12.99/32 dev net1
         ip -n router_macvlan route add 192.168.12.1/32 dev net1
         ip -n router_macvlan route add default via 192.168.12.1 dev net1",
    );
    assert!(live.lab.apply(live.node("node-1")).unwrap().changed);
    assert_eq!(routes("macvlan"), direct);
    assert!(!live.lab.apply(live.node("node-1")).unwrap().changed);
}
