//! `ringfence snapshot` on a live node: what is in it, and what must not be.

use crate::lab::example;

/// What stands in every place where people keep secrets.
const SECRET: &str = "kJ3s8vQz";

#[test]
fn a_snapshot_has_what_a_report_needs_and_no_secrets() {
    let live = example("quickstart");
    live.apply_all();
    let node = "node-1";
    live.on(node, "ovs-vsctl add-br br-other -- set bridge br-other datapath_type=netdev");
    live.on(
        node,
        &format!(
            "ovs-vsctl set bridge br0 external_ids:owner={SECRET} other_config:token={SECRET} \
             -- add-port br-other gre0 -- set interface gre0 type=gre options:remote_ip=192.0.2.9 \
             options:psk={SECRET} external_ids:vm={SECRET} \
             -- set-ssl /{SECRET}.key /{SECRET}.crt /{SECRET}.ca -- set-manager ptcp:6640:127.0.0.1 \
             -- set Open_vSwitch . external_ids:system-id={SECRET} other_config:private={SECRET}"
        ),
    );
    live.on(node, "ovs-ofctl add-flow br-other 'cookie=0x5ec2e7,actions=drop'");
    live.on(node, &format!("nft 'add table inet filter {{ comment \"{SECRET}\"; }}'"));
    live.on(node, &format!("nft 'add chain inet filter x {{ comment \"{SECRET}\"; }}'"));
    live.on(node, "ip link add mine type veth peer name mine2");
    live.on(node, &format!("ip link set mine alias {SECRET}"));
    live.on(node, &format!("ip netns add theirs-{SECRET}"));
    let snapshot = |words: &[&str]| {
        let words = [&["snapshot", "--now", "2026-11-21T12:00:00Z"], words].concat();
        let output = live.lab.ringfence(live.node(node), &words).unwrap();
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    let take = || snapshot(&[]);
    let text = take();
    assert!(!text.contains(SECRET), "{text}");
    assert!(!text.contains("5ec2e7"), "a foreign bridge's flows");
    for present in [
        "# Taken at 2026-11-21T12:00:00Z by ringfence 0.1.0.\n",
        "\n== status\n{\n",
        "\"drift\": []",
        "\n== generations\n",
        "\novs-vsctl: ovs-vsctl (Open vSwitch) ",
        "\nnft: nftables v",
        "\nnet.ipv4.ip_forward = 1\n",
        "\nnet.ipv4.conf.tun0.rp_filter = ",
        "\nBridge br0\n  datapath_id: ",
        "owner=(left out)",
        "\nInterface vxlan0\n  ofport: 1\n",
        "options: dst_port=4789 key=flow local_ip=192.168.12.11 remote_ip=flow\n",
        "options: psk=(left out) remote_ip=192.0.2.9\n",
        "\n== ovs-ofctl --timeout=60 -O OpenFlow14 --no-names show br0\n",
        "\n== ovs-ofctl --timeout=60 -O OpenFlow14 --no-names dump-flows br0\n",
        " table=80, n_packets=",
        "\n== ovs-ofctl --timeout=60 -O OpenFlow15 --no-names dump-groups br0\n",
        "\n== ip -details -statistics address show\n",
        "\n    alias ringfence pod shop/web-0\n",
        "\n== ip route show table all\n",
        "\n10.128.0.0/14 dev tun0 ",
        "\n== nft list tables\n",
        "table inet filter, left out\n",
        "\n== nft list table inet ringfence\ntable inet ringfence {\n\tcomment \"generation ",
        "\n== network namespace shop.web-0\nforwards: false\nlink eth0: veth up mtu 1450 0a:58:0a:80:",
        "route 0.0.0.0/0 via 10.128.0.1 dev eth0 metric 0\n",
        "dnat ip to",
    ] {
        assert!(text.contains(present), "{present:?} is not in\n{text}");
    }
    // The same node makes the same text, but for what counts and ages.
    let steady = |text: &str| -> Vec<String> {
        let moving = ["n_packets", "statistics", "neigh", "bytes", "lladdr"];
        let lines = text.lines().filter(|line| {
            let counters = line.split_whitespace().all(|word| word.parse::<u64>().is_ok());
            !counters && !moving.iter().any(|word| line.contains(word))
        });
        lines.map(str::to_owned).collect()
    };
    // New addresses of IPv6 are tentative for a second or two.
    let mut texts = std::iter::repeat_with(|| steady(&take())).take(100);
    let mut last = steady(&text);
    let same = texts.any(|next| {
        std::thread::sleep(std::time::Duration::from_millis(300));
        let same = next == last;
        last = next;
        same
    });
    assert!(same, "every text differs from the one before");
    // A file is its owner's alone.
    assert_eq!(snapshot(&["--output", "/run/report.txt"]), "");
    assert_eq!(live.on(node, "stat -c %a /run/report.txt").trim(), "600");
    // What can't be read doesn't stop the rest.
    live.on(node, "ovs-appctl -t ovsdb-server exit; while pidof ovsdb-server; do sleep 0.05; done");
    let text = take();
    assert!(text.contains("\n== Open vSwitch\n(could not be read: `ovsdb-client "), "{text}");
    assert!(text.contains("\n== status\n(could not be read: "), "{text}");
    assert!(text.contains("\n== nft list table inet ringfence\ntable inet ringfence {"), "{text}");
}
