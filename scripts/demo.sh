#!/bin/sh
# Compiles the example, applies it to a network of three Open vSwitch nodes on this machine, and
# proves with real packets that it does what the example says: scripts/demo.sh [EXAMPLE]
set -eu
cd "$(dirname "$0")/.."
example=${1:-examples/quickstart}

scripts/install.sh
cargo build --release --quiet
ringfence=target/release/ringfence
out=$(mktemp -d)
trap 'rm -rf "$out"' EXIT

as_root=
[ "$(id -u)" = 0 ] || as_root=sudo

show() {
	printf '\n$ %s\n' "$*"
	"$@"
}
show "$ringfence" validate "$example"
show "$ringfence" compile "$example" -o "$out"
show $as_root "$ringfence" lab run "$example"
