#!/bin/sh
# Node node-1: the bridge, its tunnel port, the node's own port, and the ports of pods. Run as
# root, after links.sh. Running it again changes nothing.
set -eu

# Routes to these networks and addresses in them are not taken from others.
for network in 10.128.0.0/14; do
	taken=$(
		ip route show root "$network" | grep -Ev ' dev tun0( |$)' || true
		ip -o -4 address show to "$network" | grep -Ev '^[0-9]+: tun0 ' || true
	)
	if [ -n "$taken" ]; then
		printf 'something of others is in %s:\n%s\n' "$network" "$taken" >&2
		exit 1
	fi
done

ovs-vsctl -- --may-exist add-br br0 \
	-- set Bridge br0 datapath_type=system fail_mode=secure \
	protocols=OpenFlow13,OpenFlow14,OpenFlow15 'external_ids:ringfence="node-1"'
# First fragments have their ports. It is to be set anew whenever ovs-vswitchd has been restarted.
ovs-ofctl -O OpenFlow14 set-frags br0 nx-match
ovs-vsctl -- --may-exist add-port br0 vxlan0 \
	-- set Port vxlan0 'external_ids:ringfence="node-1"' \
	-- set Interface vxlan0 type=vxlan options:remote_ip=flow options:key=flow \
	options:local_ip=192.168.12.11 options:dst_port=4789 ofport_request=1
ovs-vsctl -- --may-exist add-port br0 tun0 \
	-- set Port tun0 'external_ids:ringfence="node-1"' \
	-- set Interface tun0 type=internal 'mac="0a:58:0a:80:00:01"' ofport_request=2 \
	mtu_request=1450

# port INTERFACE OFPORT OWNER
port() {
	ovs-vsctl -- --may-exist add-port br0 "$1" \
		-- set Port "$1" "external_ids:ringfence=\"$3\"" \
		-- set Interface "$1" "ofport_request=$2"
}

port rf-0a277568ba88 264 'pod shop/web-0'
port rf-d0d53516787d 505 'pod bank/core-0'

ip link set dev tun0 up
ip address replace 10.128.0.1/23 dev tun0
ip route replace 10.128.0.0/14 dev tun0 proto 82
