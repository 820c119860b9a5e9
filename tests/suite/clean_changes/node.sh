# shellcheck disable=SC2086
# Words are split on purpose: a command may stand before another.
# Prints all of a node that may be ringfence's, each line with where it belongs.
show() {
	"$@" 2>&1 | sed "s|^|$where |"
}
network() {
	# Without the number at the beginning and the index of the other end.
	$within ip -o -d link | sed -e 's/^[0-9]*: \([^:@]*\)[@:][^ ]* /link \1 /' -e 's/\\//g' -e "s|^|$where |"
	$within ip -o address | sed -e 's/^[0-9]*: //' -e 's/\\.*//' -e "s|^|$where address |"
	show $within ip route show table all
	show $within ip -6 route show table all
	show $within ip rule
	show $within ip -6 rule
	show $within ip neigh show nud permanent
	show $within tc qdisc
	$within sysctl -a -r '^net\.ipv[46]\.' 2>/dev/null | sed "s|^|$where |"
	show $within nft -s list ruleset
	for device in $($within ip -o link | sed 's/^[0-9]*: \([^:@]*\)[:@].*/\1/'); do
		$within ethtool -k "$device" | grep checksum | sed "s|^|$where $device |"
		$within tc class show dev "$device" | sed "s|^|$where $device |"
	done
}

where=node within=
network
show ovs-vsctl list-br
for bridge in $(ovs-vsctl list-br); do
	where="ports of $bridge:"
	show ovs-vsctl list-ports "$bridge"
	where="$bridge:"
	[ "$bridge" = br-phy ] || {
		show ovs-ofctl -O OpenFlow15 dump-flows --no-stats "$bridge"
		show ovs-ofctl -O OpenFlow15 dump-groups "$bridge"
		show ovs-ofctl -O OpenFlow15 dump-meters "$bridge"
		show ovs-ofctl -O OpenFlow14 get-frags "$bridge"
	}
done
list() {
	where="$1:"
	show ovs-vsctl -f csv --no-headings --columns="$2" list "$1"
}
list Bridge name,datapath_type,fail_mode,protocols,external_ids,other_config,controller,mirrors,netflow,sflow,ipfix,stp_enable,rstp_enable,mcast_snooping_enable
list Port name,external_ids,other_config,tag,trunks,vlan_mode,bond_mode
list Interface name,type,options,ofport,ofport_request,mac,mtu,mtu_request,admin_state,link_state,error,external_ids,other_config,ingress_policing_rate,ingress_policing_burst
list QoS type,external_ids,other_config
list Queue external_ids,other_config
list Open_vSwitch external_ids,other_config
for netns in $(ip netns list | cut -d' ' -f1); do
	where="netns $netns" within="ip netns exec $netns"
	network
	for pid in $(ip netns pids "$netns"); do
		echo "$where process $(cat "/proc/$pid/comm" 2>/dev/null)"
	done
done
where='file'
cd /run || exit
find . \( -path ./openvswitch -o -path ./netns -o -name generations \) -prune -o -print | while read -r path; do
	case $path in
		*/pid | */state.json) echo "file $path" ;;
		*) [ -f "$path" ] && echo "file $path $(md5sum <"$path")" || echo "file $path" ;;
	esac
done
where=state
show sed 's/"applied": [0-9]*//' /run/ringfence/state.json
where=generations
show ls /run/ringfence/generations
where=etc
show ls -A /etc/netns
where=shm
show ls -A /dev/shm
true
