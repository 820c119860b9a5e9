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
	ip -n "$netns" address replace "$5" dev eth0
	ip -n "$netns" route replace 10.128.0.0/14 dev eth0 proto 82
	if [ "$6" != none ]; then
		ip -n "$netns" route replace default via "$6" dev eth0 proto 82
	fi
}

attach 'pod shop/web-1' shop.web-1 rf-0a1e358804ee 0a:58:0a:80:03:c9 10.128.3.201/23 10.128.2.1
attach 'pod tools/shell-0' tools.shell-0 rf-522d62289100 0a:58:0a:80:03:35 10.128.3.53/23 10.128.2.1

# Egress IPs: the kernel answers for addresses of lo on every interface. Tell the segment after a
# move: arping -U -c 2 -I UPLINK -s ADDRESS ADDRESS
for address in 192.168.12.130; do
	if ip -o -4 address show to "$address" | grep -v ' lo:ringfence\\'; then
		echo "$address is an address of somebody else's here" >&2
		exit 1
	fi
	ip address replace "$address/32" dev lo label lo:ringfence
done
