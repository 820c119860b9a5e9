#!/bin/sh
# Egress router partner: its interface on the uplink. Run as root, after links.sh and ports.sh.
# Running it again changes nothing.
set -eu

ip -n router_partner link set dev net1 address 0a:58:c0:a8:0c:63 up
ip -n router_partner address replace 192.168.12.99/24 dev net1
ip -n router_partner route replace default via 192.168.12.1 dev net1 proto 82
ip netns exec router_partner sysctl -qw net.ipv4.ip_forward=1
ip netns exec router_partner nft -f "$(dirname "$0")/ruleset.nft"
# Another node may have had the address: tell the segment where it is now.
ip netns exec router_partner arping -q -U -c 2 -I net1 -s 192.168.12.99 192.168.12.99
