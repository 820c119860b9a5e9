#!/bin/sh
# Checks the sources, then runs all tests, those with real Open vSwitch nodes and real packets included,
# which needs root: scripts/test.sh. With arguments, which cargo test gets, it runs those tests alone.
set -eu
cd "$(dirname "$0")/.."

scripts/install.sh
[ $# -gt 0 ] || scripts/check.sh

# Tests of labs mostly wait, for packets that don't come and for programs on their nodes: four of them
# keep one processor busy.
export RUST_TEST_THREADS="${RUST_TEST_THREADS:-$((4 * $(nproc)))}"

# Cargo builds as the caller; only the tests themselves run as root.
if [ "$(id -u)" = 0 ]; then
	exec cargo test "$@"
fi
exec cargo --config "target.'cfg(unix)'.runner = ['sudo', '--preserve-env']" test "$@"
