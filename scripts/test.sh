#!/bin/sh
# Runs all tests, those with real Open vSwitch nodes and real packets included, which needs root:
# scripts/test.sh [WHAT CARGO TEST TAKES]
set -eu
cd "$(dirname "$0")/.."

scripts/install.sh

# Tests of labs mostly wait, for packets that don't come and for programs on their nodes: four of them
# keep one processor busy.
export RUST_TEST_THREADS="${RUST_TEST_THREADS:-$((4 * $(nproc)))}"

# Cargo builds as the caller; only the tests themselves run as root.
if [ "$(id -u)" = 0 ]; then
	exec cargo test "$@"
fi
exec cargo --config "target.'cfg(unix)'.runner = ['sudo', '--preserve-env']" test "$@"
