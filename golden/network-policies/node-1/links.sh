#!/bin/sh
# Node node-1: the network namespaces of pods and egress routers, each with a veth to the
# bridge. Run as root, before ports.sh. Running it again changes nothing.
set -eu

# attach OWNER NETNS HOST MAC ADDRESS GATEWAY
attach() {
	netns=$2 host=$3
	if [ ! -e "/run/netns/$netns" ]; then
		ip netns add "$netns"
		ip -n "$netns" link set lo up alias 'ringfence'
	fi
	if ! ip link show dev "$host" >/dev/null 2>&1; then
		ip link add "$host" type veth peer name eth0 netns "$netns"
	fi
	[ ! -e /proc/sys/net/ipv6 ] || ip link set dev "$host" addrgenmode none
	ip link set dev "$host" mtu 1450 alias "ringfence $1" up
	ip -n "$netns" link set dev eth0 address "$4" mtu 1450 up
	ip -n "$netns" address replace "$5" dev eth0
	ip -n "$netns" route replace 10.128.0.0/14 dev eth0
	if [ "$6" != none ]; then
		ip -n "$netns" route replace default via "$6" dev eth0
	fi
}

attach 'pod monitoring/console-0' monitoring.console-0 rf-3de413d3ab33 0a:58:0a:80:01:31 10.128.1.49/23 10.128.0.1
attach 'pod names/resolver-0' names.resolver-0 rf-43bc5b0372a8 0a:58:0a:80:01:ce 10.128.1.206/23 10.128.0.1
attach 'pod shop/db-0' shop.db-0 rf-0a0994e60278 0a:58:0a:80:01:de 10.128.1.222/23 10.128.0.1
attach 'pod shop/front-0' shop.front-0 rf-0a93e59b2825 0a:58:0a:80:01:d7 10.128.1.215/23 10.128.0.1
