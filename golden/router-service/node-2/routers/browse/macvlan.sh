#!/bin/sh
# Egress router browse: its interface on the uplink. Run as root, after links.sh and ports.sh.
# Running it again changes nothing.
set -eu

if ! ip -n router_browse link show dev net1 >/dev/null 2>&1; then
	ip link add link eth0 name net1 netns router_browse address 0a:58:c0:a8:0c:62 \
		type macvlan mode private
fi
ip -n router_browse link set dev net1 address 0a:58:c0:a8:0c:62 up
ip -n router_browse address replace 192.168.12.98/24 dev net1
ip -n router_browse route replace default via 192.168.12.1 dev net1 proto 82
ip netns exec router_browse sysctl -qw net.ipv4.ip_forward=1
ip netns exec router_browse nft -f "$(dirname "$0")/ruleset.nft"
# Another node may have had the address: tell the segment where it is now.
ip netns exec router_browse arping -q -U -c 2 -I net1 -s 192.168.12.98 192.168.12.98
