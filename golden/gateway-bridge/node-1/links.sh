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
attach 'router partner' router_partner rf-0afadc647d78 0a:58:0a:80:01:d9 10.128.1.217/23 none
attach 'pod shop/web-0' shop.web-0 rf-0a277568ba88 0a:58:0a:80:00:fe 10.128.0.254/23 10.128.0.1

# outside OWNER NETNS HOST MAC: the outside interface of an egress router, with the uplink's MTU
outside() {
	netns=$2 host=$3
	mtu=$(ip -o link show dev eth0 | sed 's/.* mtu \([0-9]*\) .*/\1/')
	if ! ip link show dev "$host" >/dev/null 2>&1; then
		ip link add "$host" type veth peer name net1 netns "$netns"
	fi
	[ ! -e /proc/sys/net/ipv6 ] || [ "$mtu" -lt 1280 ] || ip link set dev "$host" addrgenmode none
	ip link set dev "$host" mtu "$mtu" alias "ringfence $1" up
	ip -n "$netns" link set dev net1 address "$4" mtu "$mtu" up
}

outside 'router partner' router_partner rf-530581651ad8 0a:58:c0:a8:0c:63

# Egress IPs: the kernel answers for addresses of lo on every interface. Tell the segment after a
# move: arping -U -c 2 -I UPLINK -s ADDRESS ADDRESS
for address in 192.168.12.130; do
	if ip -o -4 address show to "$address" | grep -v ' lo:ringfence\\'; then
		echo "$address is an address of somebody else's here" >&2
		exit 1
	fi
	ip address replace "$address/32" dev lo label lo:ringfence
done
