#!/bin/sh
# Node node-2: the network namespaces of pods and egress routers, each with a veth to the
# bridge. Run as root, before ports.sh. Running it again changes nothing.
set -eu

# attach OWNER NETNS HOST MAC ADDRESS GATEWAY
attach() {
	netns=$2 host=$3
	if [ ! -e "/run/netns/$netns" ]; then
		ip netns add "$netns"
		ip -n "$netns" link set lo up alias "ringfence $netns"
	fi
	if ! ip link show dev "$host" >/dev/null 2>&1; then
		ip link add "$host" type veth peer name eth0 netns "$netns"
	fi
	[ ! -e /proc/sys/net/ipv6 ] || ip link set dev "$host" addrgenmode none
	ip link set dev "$host" mtu 1450 alias "ringfence $1" up
	ip -n "$netns" link set dev eth0 address "$4" mtu 1450 up
	# A userspace datapath takes frames as they are: their checksums must be complete.
	ethtool -K "$host" tx off >/dev/null
	ip netns exec "$netns" ethtool -K eth0 tx off >/dev/null
	ip -n "$netns" address replace "$5" dev eth0
	ip -n "$netns" route replace 10.128.0.0/14 dev eth0 proto 82
	if [ "$6" != none ]; then
		ip -n "$netns" route replace default via "$6" dev eth0 proto 82
	fi
}

attach 'pod bank/core-1' bank.core-1 rf-d0ff65a62792 0a:58:0a:80:03:f2 10.128.3.242/23 10.128.2.1
attach 'pod shop/web-1' shop.web-1 rf-0a1e358804ee 0a:58:0a:80:03:c9 10.128.3.201/23 10.128.2.1
