#!/bin/sh
# Node node-2: the network namespaces of pods and egress routers, each with a veth to the
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

attach 'pod lab/bench-0' lab.bench-0 rf-5e56fef6ae4a 0a:58:0a:80:02:84 10.128.2.132/23 10.128.2.1
attach 'pod monitoring/scraper-0' monitoring.scraper-0 rf-3debab8fb4fa 0a:58:0a:80:02:e4 10.128.2.228/23 10.128.2.1
attach 'pod shop/front-1' shop.front-1 rf-0abc99c2fb15 0a:58:0a:80:02:6b 10.128.2.107/23 10.128.2.1
attach 'pod shop/orders-0' shop.orders-0 rf-0a63ee142eb9 0a:58:0a:80:02:e3 10.128.2.227/23 10.128.2.1
