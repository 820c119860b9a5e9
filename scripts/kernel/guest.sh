#!/bin/sh
# What the virtual machine of scripts/kernel.sh does at each boot.
set -eu
read -r repository </share/where
boot=first
[ ! -e /var/lib/ringfence/state.json ] || boot=second
exec >"/share/$boot.log" 2>&1
trap 'echo $? >"/share/$boot.status"; sync' EXIT

# Whether the bridge of this node works: a pod reaches the node, and no pod of another project.
prove() {
	ringfence status
	ip netns exec bank.core-0 ping -q -c 3 -i 0.2 -w 10 10.128.0.1
	ip netns exec bank.core-0 ping -q -c 3 -i 0.2 -w 3 10.128.1.144 && exit 1
	echo "the pods of this node reach what they may"
}

# Whether systemd runs the proxies of the egress routers, each in its router's namespace.
proxies() {
	for router in web names; do
		systemctl is-active --quiet ringfence-router-$router
		[ "$(ip netns identify "$(process $router)")" = router_$router ]
	done
	echo "systemd runs the proxies"
}

process() {
	systemctl show --property=MainPID --value "ringfence-router-$1"
}

# What the HTTP proxy says of a host: 403 where no rule allows it, something else otherwise.
ask() {
	address=$(sed -n '/^routers:/,$s/^  web: node-1 \([0-9.]*\) .*/\1/p' /srv/network/ringfence.lock)
	ip netns exec shop.web-0 curl -s -o /dev/null -m 20 -w '%{http_code}' -x "http://$address:8080" \
		"http://$1/" || true
}

# Compiles what is below /srv/network, and applies it.
update() {
	ringfence lock /srv/network
	ringfence compile /srv/network -o /srv/out
	ringfence apply /srv/out/node-1
}

uname -sr
if [ $boot = second ]; then
	systemctl is-active --wait ringfence
	journalctl --no-pager -o cat -u ringfence
	prove
	proxies
	[ "$(ask www.example.com)" = 403 ]
	[ "$(ask www.example.org)" != 403 ]
	exit 0
fi

modprobe openvswitch
mount -t 9p -o trans=virtio,version=9p2000.L,ro,msize=524288 repository /repository
read -r program </share/program
mkdir -p "$(dirname "$program")"
tar -C /repository --exclude=./target --exclude=./.git -c . | tar -C "$repository" -x
cp /share/ringfence "$program"
cp /share/ringfence /usr/local/sbin/
cp /share/suite /tmp/
cd "$repository"

# shellcheck disable=SC1091
. /share/environment
# The list of tests is split into words on purpose.
# shellcheck disable=SC2046
RINGFENCE_LAB_DATAPATH=system /tmp/suite --test-threads=1 $(cat /share/tests)

# This machine as a node.
cp systemd/ringfence.service /etc/systemd/system/
install -D -m 0644 systemd/after-flush.conf /etc/systemd/system/nftables.service.d/ringfence.conf
systemctl enable ringfence
systemctl is-active openvswitch-switch
mkdir /srv/network
cp examples/quickstart/network.yaml examples/quickstart/ringfence.lock scripts/kernel/proxies.yaml \
	/srv/network/
update
prove
proxies
[ "$(ask www.example.com)" != 403 ]
[ "$(ask www.example.org)" = 403 ]
ringfence apply --detailed-exitcode /srv/out/node-1

# Whoever flushes the tables of nft opens no pod to the segment, and gets ringfence's back.
ip netns add segment
ip link add segment0 type veth peer name eth0 netns segment
ip address add 198.18.0.1/30 dev segment0
ip link set segment0 up
ip -n segment address add 198.18.0.2/30 dev eth0
ip -n segment link set eth0 up
ip -n segment route add default via 198.18.0.1
closed() {
	! ip netns exec segment ping -q -c 3 -i 0.2 -w 3 10.128.0.254 || exit 1
}
nft flush ruleset
closed
ringfence apply /srv/out/node-1
for verb in start reload restart stop start; do
	systemctl $verb nftables
	closed
	sleep 10
	ringfence status
	closed
done
systemctl stop nftables
sleep 10
ip netns delete segment

# A proxy that ends by itself comes back, and one that gets other rules isn't ended for that.
systemctl kill --signal=KILL ringfence-router-web
sleep 10
proxies
before=$(process web)
sed -i 's/example.com/example.org/' /srv/network/proxies.yaml
update
[ "$(process web)" = "$before" ]
sleep 5
[ "$(ask www.example.com)" = 403 ]
[ "$(ask www.example.org)" != 403 ]

# Without their routers they go; and they come again.
mv /srv/network/proxies.yaml /srv/
update
for router in web names; do
	! systemctl is-active ringfence-router-$router || exit 1
done
mv /srv/proxies.yaml /srv/network/
update
prove
proxies
