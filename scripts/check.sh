#!/bin/sh
# Everything that must hold before a test runs: format, lints, documentation, shell scripts (those that
# ringfence emits too) and, where cargo-deny is installed, licences and advisories.
set -eu
cd "$(dirname "$0")/.."

cargo fmt --check
cargo clippy --quiet --all-targets -- -D warnings
RUSTDOCFLAGS='-D warnings' cargo doc --quiet --no-deps --document-private-items

emitted='^golden/|^tests/diagnostics/.*/out/'
git ls-files '*.sh' .ci/run | grep -vE "$emitted" | xargs shellcheck --shell=sh
# What is emitted has loops over lists that may have one item (SC2043), patterns that end in a backslash
# (SC1003), and runs where `test` knows -ef (SC3013).
git ls-files '*.sh' | grep -E "$emitted" | xargs shellcheck --exclude=SC2043,SC1003,SC3013

if cargo deny --version >/dev/null 2>&1; then
	cargo deny --offline check
else
	echo 'cargo deny is not installed: licences and advisories are not checked' >&2
fi
