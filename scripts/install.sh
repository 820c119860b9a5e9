#!/bin/sh
# Installs what ringfence, its lab and its tests need on Debian 12 and the like; needs Rust only.
# The lab runs Open vSwitch of its own in network namespaces and leaves the machine's alone.
set -eu

# Servers that the tests start themselves, in network namespaces: package and service.
servers='squid:squid haproxy:haproxy openssh-server:ssh'
packages="gcc libc6-dev openvswitch-switch nftables conntrack iproute2 ethtool iputils-arping procps util-linux
	openssh-client ansible-core curl git python3 rsync shellcheck $(echo "$servers" | sed 's/:[a-z]*//g')"

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

# Nothing that comes with this begins to serve on the machine itself, neither now nor at boot.
policy=/usr/sbin/policy-rc.d
if [ ! -e $policy ]; then
	printf '#!/bin/sh\nexit 101\n' | $as_root tee $policy >/dev/null
	$as_root chmod 0755 $policy
	# Expanded here on purpose: it isn't there later.
	# shellcheck disable=SC2064
	trap "$as_root rm -f $policy" EXIT
fi
# The list is split into words on purpose.
# shellcheck disable=SC2086
$as_root apt-get install -y -qq --no-install-recommends $lacking >/dev/null
for server in $servers; do
	case " $lacking " in
	*" ${server%:*} "*) ;;
	*) continue ;;
	esac
	if command -v systemctl >/dev/null; then
		$as_root systemctl --quiet disable "${server#*:}.service" || true
	else
		$as_root update-rc.d "${server#*:}" disable || true
	fi
done
