#!/bin/sh
# Installs what ringfence, its lab and its tests need on Debian 12 and the like; needs Rust only.
# The lab runs Open vSwitch of its own in network namespaces and leaves the machine's alone.
set -eu

packages='gcc libc6-dev openvswitch-switch nftables iproute2 ethtool iputils-arping procps util-linux
	openssh-client squid haproxy'

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
# The list is split into words on purpose.
# shellcheck disable=SC2086
$as_root apt-get install -y -qq --no-install-recommends $lacking >/dev/null

# The proxies run in namespaces of egress routers only; the distribution's own services are not
# wanted where they have just come with the packages.
for service in squid haproxy; do
	case " $lacking " in
		*" $service "*) ;;
		*) continue ;;
	esac
	if [ -d /run/systemd/system ]; then
		$as_root systemctl --quiet disable --now "$service.service"
	elif [ -x "/etc/init.d/$service" ]; then
		$as_root "/etc/init.d/$service" stop >/dev/null || true
		$as_root update-rc.d "$service" disable
	fi
done
