#!/bin/sh
# Node node-3: the network namespaces of pods and egress routers, each with a veth to the
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

attach 'pod monitoring/prometheus-1' monitoring.prometheus-1 rf-3dddcb569f84 0a:58:0a:80:05:f8 10.128.5.248/23 10.128.4.1
attach 'pod prices/feed-1' prices.feed-1 rf-927f6f254789 0a:58:0a:80:05:a5 10.128.5.165/23 10.128.4.1
attach 'pod traders/desk-1' traders.desk-1 rf-0e4425a6e859 0a:58:0a:80:05:92 10.128.5.146/23 10.128.4.1
