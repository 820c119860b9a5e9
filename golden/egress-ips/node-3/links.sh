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

attach 'pod bank/core-1' bank.core-1 rf-d0ff65a62792 0a:58:0a:80:05:f2 10.128.5.242/23 10.128.4.1
attach 'pod shop/web-2' shop.web-2 rf-0a954cfcd752 0a:58:0a:80:04:ae 10.128.4.174/23 10.128.4.1
attach 'pod shop/web-3' shop.web-3 rf-0a3b626f8f81 0a:58:0a:80:04:22 10.128.4.34/23 10.128.4.1

# Egress IPs: the kernel answers for addresses of lo on every interface. Tell the segment after a
# move: arping -U -c 2 -I UPLINK -s ADDRESS ADDRESS
for address in 192.168.12.131; do
	if ip -o -4 address show to "$address" | grep -v ' lo:ringfence\\'; then
		echo "$address is an address of somebody else's here" >&2
		exit 1
	fi
	ip address replace "$address/32" dev lo label lo:ringfence
done
