# veneer: every command a developer needs. `just` alone lists them.

triple := "x86_64-unknown-linux-gnu"
static := "--release --target " + triple + " --config 'target." + triple + ".rustflags=[\"-C\",\"target-feature=+crt-static\"]'"
target := env("CARGO_TARGET_DIR", "target")
bin := target / triple / "release"

# List the recipes.
default:
    @just --list --unsorted

# Build the five programs for this machine's own use (dynamic, release).
build:
    cargo build --release

# Build static release programs, and the harness with its guest.
static:
    cargo build --workspace {{ static }}

# Run scenarios in the VM: all, or those named (or whose names begin so).
e2e *NAMES: static
    {{ bin }}/e2e {{ NAMES }}

# Build the image families for tests: small (every run) or full (e2e-full), kept under target/images.
images KIND="small" *FLAGS: static
    {{ bin }}/images {{ KIND }} --out {{ target }}/images {{ FLAGS }}

# A shell in the VM, with the programs in PATH.
vm: static
    {{ bin }}/e2e --vm
