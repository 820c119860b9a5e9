#!/bin/sh
# Made by ringfence: egress router browse, its proxy where systemd doesn't run it. Run as root:
#   proxy.sh        starts it; where it runs, loads a changed configuration. After macvlan.sh.
#   proxy.sh stop   ends it
# Running it again changes nothing.
set -eu

here=$(dirname "$0")
run=/run/ringfence-router-browse
conf=$run/squid.conf

# Whether a process is this proxy: numbers come again, and others may read its configuration.
is_proxy() {
	[ "$(cat "/proc/$1/comm" 2>/dev/null)" = squid ] &&
		tr '\0' '\n' <"/proc/$1/cmdline" 2>/dev/null | grep -qxF -e "$conf"
}

# The process of the pid file, where it is this proxy.
ours() {
	pid=$(cat "$run/pid" 2>/dev/null) && [ -n "$pid" ] && is_proxy "$pid"
}

# A process of this proxy that no pid file names any more.
stray() {
	for pid in $(ip netns pids router_browse 2>/dev/null); do
		! is_proxy "$pid" || return 0
	done
	return 1
}

# Whether it is in the router's namespace, which may have been made anew.
in_place() {
	[ "$(ip netns identify "$pid")" = router_browse ]
}

stop() {
	waited=0
	while ours || stray; do
		case $waited in
			0) kill -TERM "$pid" ;;
			100) kill -KILL "$pid" ;;
			200) echo "the proxy browse does not end" >&2 && exit 1 ;;
		esac
		waited=$((waited + 1))
		sleep 0.1
	done
}

start() {
	# Where another process has the number, squid would take itself to run already.
	rm -f "$run/pid"
	ip netns exec router_browse \
		squid -n rf1afb0a262c62f5e0 -f "$conf" </dev/null >/dev/null
	waited=0
	until ours; do
		[ "$waited" != 100 ] || { echo "the proxy browse does not start" >&2 && exit 1; }
		waited=$((waited + 1))
		sleep 0.1
	done
}

if [ "${1-start}" = stop ]; then
	stop
	exit 0
fi
mkdir -p "$run"
[ "$here" -ef "$run" ] || cp "$here/squid.conf" "$here/proxy.sh" "$run/"
if ours && in_place; then
	cmp -s "$conf" "$run/loaded" && exit 0
	kill -HUP "$pid"
else
	stop
	start
fi
# What it has loaded, so that a change is seen.
cp "$conf" "$run/loaded"
