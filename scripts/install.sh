#!/bin/sh
# Installs what ringfence, its lab and its tests need on Debian 12 and the like; needs Rust only.
# The lab runs Open vSwitch of its own in network namespaces and leaves the machine's alone.
set -eu

packages='gcc libc6-dev openvswitch-switch nftables iproute2 ethtool iputils-arping procps util-linux
	ansible-core openssh-client openssh-server rsync'

lacking=
for package in $packages; do
	status=$(dpkg-query -W -f '${Status}' "$package" 2>/dev/null || true)
	[ "$status" = 'install ok installed' ] || lacking="$lacking $package"
done
[ -n "$lacking" ] || exit 0

as_root=
[ "$(id -u)" = 0 ] || as_root=sudo
echo "installing$lacking"
export DEBIAN_FRONTEND=noninteractive
$as_root apt-get update -qq

# The tests start SSH servers of their own in the lab's nodes. One that comes with this must not
# open the machine's own port: it isn't started now, nor at boot.
case $lacking in
*openssh-server*)
	policy=/usr/sbin/policy-rc.d
	if [ ! -e $policy ]; then
		printf '#!/bin/sh\nexit 101\n' | $as_root tee $policy >/dev/null
		$as_root chmod 0755 $policy
		# Expanded here on purpose: it isn't there later.
		# shellcheck disable=SC2064
		trap "$as_root rm -f $policy" EXIT
	fi
	;;
esac
# The list is split into words on purpose.
# shellcheck disable=SC2086
$as_root apt-get install -y -qq --no-install-recommends $lacking >/dev/null
case $lacking in
*openssh-server*)
	if command -v systemctl >/dev/null; then
		$as_root systemctl --quiet disable ssh.service ssh.socket || true
	fi
	;;
esac
