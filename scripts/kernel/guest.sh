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

uname -sr
if [ $boot = second ]; then
	systemctl is-active --wait ringfence
	journalctl --no-pager -o cat -u ringfence
	prove
	exit 0
fi

modprobe openvswitch
mount -t 9p -o trans=virtio,version=9p2000.L,ro,msize=524288 repository /repository
mkdir -p "$repository/target/release"
tar -C /repository --exclude=./target --exclude=./.git -c . | tar -C "$repository" -x
cp /share/ringfence "$repository/target/release/"
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
systemctl enable ringfence
systemctl is-active openvswitch-switch
ringfence compile examples/quickstart -o /srv/out
ringfence apply /srv/out/node-1
prove
