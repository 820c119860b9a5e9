#!/bin/sh
# Node node-1: the network namespaces of pods and egress routers, each with a veth to the
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
	ip -n "$netns" address replace "$5" dev eth0
	ip -n "$netns" route replace 10.128.0.0/14 dev eth0 proto 82
	if [ "$6" != none ]; then
		ip -n "$netns" route replace default via "$6" dev eth0 proto 82
	fi
}

attach 'pod bank/core-0' bank.core-0 rf-d0d53516787d 0a:58:0a:80:01:ef 10.128.1.239/23 10.128.0.1
attach 'pod shop/web-0' shop.web-0 rf-0a277568ba88 0a:58:0a:80:00:fe 10.128.0.254/23 10.128.0.1
