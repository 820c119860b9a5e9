#!/bin/sh
# Egress router partners: its interface on the uplink. Run as root, after links.sh and ports.sh.
# Running it again changes nothing.
set -eu

if ! ip -n router_partners link show dev net1 >/dev/null 2>&1; then
	ip link add link eth0 name net1 netns router_partners address 0a:58:c0:a8:0c:61 \
		type macvlan mode private
fi
ip -n router_partners link set dev net1 address 0a:58:c0:a8:0c:61 up
ip -n router_partners address replace 192.168.12.97/24 dev net1
ip -n router_partners route replace default via 192.168.12.1 dev net1 proto 82
ip netns exec router_partners sysctl -qw net.ipv4.ip_forward=1
ip netns exec router_partners nft -f "$(dirname "$0")/ruleset.nft"
# Another node may have had the address: tell the segment where it is now.
ip netns exec router_partners arping -q -U -c 2 -I net1 -s 192.168.12.97 192.168.12.97
