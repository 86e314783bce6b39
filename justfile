# veneer: every command a developer needs. `just` alone lists them.

triple := "x86_64-unknown-linux-gnu"
static := "--release --target " + triple + " --config 'target." + triple + ".rustflags=[\"-C\",\"target-feature=+crt-static\"]'"
target := env("CARGO_TARGET_DIR", "target")
bin := target / triple / "release"
shipped := target / triple / "dist"

# List the recipes.
default:
    @just --list --unsorted

# Build the five programs for this machine's own use (dynamic, release).
build:
    cargo build --release

# Build static release programs, and the harness with its guest.
static:
    cargo build --workspace {{ static }}

# Formatting and lints; licences and bans are held by tests/tests/architecture.rs.
check:
    cargo fmt --all --check
    cargo clippy --workspace --all-targets {{ static }} -- -D warnings

# All tests: the native ones, then every scenario in the VM.
test: test-native e2e

# The tests that need no VM, with the very flags of the static programs, so that nothing builds twice.
test-native: static
    cargo test --workspace --no-fail-fast {{ static }}

# Run scenarios in the VM: all, or those named (or whose names begin so).
e2e *NAMES: static
    {{ bin }}/e2e {{ NAMES }}

# The scenarios on full-size images (1.5 GiB of Debian packages, built at the first time).
e2e-full: static
    {{ bin }}/e2e --full

# Three image families from an S3 server to activated devices, in the VM, ending with a table.
demo: static
    {{ bin }}/e2e demo
    @echo "to look around in such a VM yourself: just vm"

# Build the image families for tests: small (every run) or full (e2e-full), kept under target/images.
images KIND="small" *FLAGS: static
    {{ bin }}/images {{ KIND }} --out {{ target }}/images {{ FLAGS }}

# A shell in the VM, with the programs in PATH.
vm: static
    {{ bin }}/e2e --vm

# Faults on the pool by the hundred, in the VM: minutes each.
soak-thin *NAMES: static
    {{ bin }}/e2e --soak {{ NAMES }}

# Fuzz unpack (parser and apply), and all that fetch and thin read of foreign bytes; seeded.
fuzz SECONDS="600" SEED="1":
    cargo run --release --package unpack --example fuzz -- {{ SECONDS }} {{ SEED }} both
    VENEER_FUZZ_ROUNDS=400000 VENEER_FUZZ_SEED={{ SEED }} cargo test --release --package fetch --lib fuzz
    VENEER_FUZZ_ROUNDS=1000000 VENEER_FUZZ_SEED={{ SEED }} cargo test --release --package thin --lib fuzz

# Kill orchestrate before and after every call that changes anything, and again in the recovery; every STEPth.
soak-matrix STEP="1":
    VENEER_MATRIX_STEP={{ STEP }} cargo test --release --package orchestrate --test proofs killed_at_every -- --nocapture

# Fail each call of orchestrate once and then always; every STEPth, from OFFSET on.
soak-failures STEP="1" OFFSET="0":
    VENEER_SWEEP_STEP={{ STEP }} VENEER_SWEEP_OFFSET={{ OFFSET }} cargo test --release --package orchestrate --test proofs each_call -- --nocapture

# Everything side by side with what one would use instead, medians and ratios: target/bench; needs root.
bench *FLAGS: static
    {{ bin }}/bench {{ FLAGS }}

# Random operations, each killed at a random time or not, on a directory store; one SEED gives the same again.
soak-kills RUNS="2000" SEED="1":
    VENEER_KILLS={{ RUNS }} VENEER_SEED={{ SEED }} cargo test --release --package orchestrate --test proofs killed_at_random -- --nocapture

# Many processes on one directory store: gc among others, and three killed together; that many ROUNDS.
soak-races ROUNDS="500" SEED="1":
    VENEER_ROUNDS={{ ROUNDS }} VENEER_SEED={{ SEED }} cargo test --release --package orchestrate --test proofs race:: -- --nocapture

# Build the five programs as they are shipped: static, and as small as may be; takes minutes.
dist:
    cargo build {{ replace(static, "--release", "--profile dist") }} -p fetch -p unpack -p thin -p registry -p orchestrate

# Install the static programs with man pages, completions and units below PREFIX.
install PREFIX="/usr/local": dist
    sh packaging/install.sh {{ shipped }} {{ PREFIX }} "${DESTDIR:-}"

# Make a Debian package of the static programs in target/deb.
deb: dist
    sh packaging/deb.sh {{ shipped }} {{ target }}/deb

# Install, upgrade, remove and purge that package in a fresh Debian (debootstrap).
test-deb: dist
    sh packaging/test-deb.sh {{ shipped }}

# The package's units under a real systemd with device-mapper: a Debian (debootstrap) in QEMU; needs root.
test-systemd: static
    sh packaging/test-systemd.sh {{ bin }} {{ target }}/systemd

# The daemon's page in a headless Chromium (Debian package chromium); with --shots DIR, pictures to look at.
page-test *FLAGS:
    cargo build --package orchestrate
    python3 orchestrate/tests/page/try.py {{ target }}/debug/orchestrate {{ FLAGS }}

# What an idle daemon costs, how fast it answers, and what ten thousand connections take: figures.
bench-serve:
    cargo test --release --package orchestrate --test serve -- --nocapture an_idle ten_thousand
