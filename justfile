# The commands of daily work. Each is one line that works without just, too.

# What is there
default:
    @just --list

# Checks and all tests, as CI runs them
test *WHAT:
    scripts/test.sh {{WHAT}}

# Format, lints, documentation, scripts
check:
    scripts/check.sh

# The main job on an example, with its proof
demo EXAMPLE="examples/quickstart":
    scripts/demo.sh {{EXAMPLE}}

# Rewrites golden files, expected messages and schemas; look at the diff
golden:
    RINGFENCE_UPDATE=1 cargo test --test suite -- golden:: diagnostics:: schema::

# The tests named, on the kernel's datapath in a virtual machine
kernel *WHAT:
    scripts/kernel.sh {{WHAT}}

# Compile and apply, timed
bench:
    cargo bench --bench scale

# The documentation of the library
doc:
    cargo doc --no-deps --document-private-items --open
