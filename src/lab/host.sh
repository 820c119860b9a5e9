# Becomes a machine of the lab: process 1 of its own network, mount and process namespaces.
# host.sh READY-FILE ROLE HOLD
set -eu
ready=$1 role=$2 hold=$3

# /proc is still the outer one: this is the process's number out there.
read -r pid rest </proc/self/stat
exec 3>"$ready"

mount -t proc proc /proc
mount -t tmpfs -o mode=0755 tmpfs /run
mount -t tmpfs -o mode=1777 tmpfs /dev/shm
mkdir -p /run/netns /run/lock /run/openvswitch
ip link set lo up
# Keys that this machine pins are not for its guests.
if [ -d /etc/ringfence ]; then
	mount -t tmpfs tmpfs /etc/ringfence
fi

if [ "$role" = node ]; then
	# The name server of the lab, for proxies that have no other.
	echo nameserver 192.0.2.53 >/run/resolv.conf
	[ ! -f /etc/resolv.conf ] || mount --bind /run/resolv.conf /etc/resolv.conf
	mount -t tmpfs tmpfs /etc/openvswitch
	mount -t tmpfs tmpfs /var/log/openvswitch
	ovsdb-tool create /etc/openvswitch/conf.db /usr/share/openvswitch/vswitch.ovsschema
	ovsdb-server /etc/openvswitch/conf.db --remote=punix:/run/openvswitch/db.sock \
		--pidfile --detach --no-chdir --log-file -vconsole:off
	ovs-vsctl --no-wait init
	ovs-vswitchd unix:/run/openvswitch/db.sock \
		--pidfile --detach --no-chdir --log-file -vconsole:off
fi

echo "$pid" >&3
exec 3>&-

# The machine ends when its process 1 does, with everything on it.
case $hold in
	stdin) exec cat >/dev/null ;;
	forever) exec sleep infinity ;;
esac
