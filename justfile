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

# All tests: the native ones, every scenario in the VM, and a short set on the suite's other kernel.
test: test-native e2e e2e-others

# The tests that need no VM, with the very flags of the static programs, so that nothing builds twice. Three at once
# for each processor: most of them wait for a server or a daemon most of their time.
test-native: static
    RUST_TEST_THREADS=${RUST_TEST_THREADS:-$((3 * $(nproc)))} cargo test --workspace --no-fail-fast {{ static }}

# Run scenarios in the VM: all, or those named (or whose names begin so); `--kernel 6.12` chooses its kernel.
e2e *NAMES: static
    {{ bin }}/e2e {{ NAMES }}

# The same on the other kernels that the suite has, if any: a short set, or those named.
e2e-others *NAMES: static
    {{ bin }}/e2e --others {{ NAMES }}

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

# A shell in the VM, with the programs in PATH; `--kernel 6.12` chooses its kernel.
vm *FLAGS: static
    {{ bin }}/e2e --vm {{ FLAGS }}

# Faults on the pool by the hundred, in the VM: minutes each (crash_ioctls in parts: VENEER_IOCTLS_STEP, _OFFSET).
soak-thin *NAMES: static
    {{ bin }}/e2e --soak {{ NAMES }}

# Fuzz unpack (parser and apply), and all that fetch and thin read of foreign bytes; seeded.
fuzz SECONDS="600" SEED="1":
    cargo run --release --package unpack --example fuzz -- {{ SECONDS }} {{ SEED }} both
    VENEER_FUZZ_ROUNDS=400000 VENEER_FUZZ_SEED={{ SEED }} cargo test --release --package fetch --lib fuzz
    VENEER_FUZZ_ROUNDS=200000 VENEER_FUZZ_SEED={{ SEED }} cargo test --release --package unpack --lib broken_anywhere
    VENEER_FUZZ_ROUNDS=1000000 VENEER_FUZZ_SEED={{ SEED }} cargo test --release --package thin --lib fuzz

# Fuzz the reader of ext4 images: images of mke2fs with bytes changed, checksums made right again or not; seeded.
fuzz-image SECONDS="600" SEED="1":
    cargo run --release --package unpack --example fuzz_image -- {{ SECONDS }} {{ SEED }}

# Random stacks of layers, each to a directory and to an image, which have to be equal
soak-images STACKS="10000" SEED="1":
    VENEER_STACKS={{ STACKS }} VENEER_SEED={{ SEED }} cargo test --release --package unpack --test stacks -- --nocapture

# A million names in an image's layer, in each shape: no more than 32 MiB of memory; the images take up to 5 GB of /dev/shm
soak-image-memory NAMES="1000000":
    VENEER_NAMES={{ NAMES }} cargo test --release --package unpack --test image_memory -- --nocapture

# The costliest layer of every kind that so many changes find, beside GNU tar: target/cost; seeded, an hour, needs root.
fuzz-cost SEED="1" CHANGES="12":
    cargo build --release --package unpack
    cargo run --release --package unpack --example cost -- {{ SEED }} {{ CHANGES }}

# Kill orchestrate before and after every call that changes anything, and again in the recovery; every STEPth.
soak-matrix STEP="1":
    VENEER_MATRIX_STEP={{ STEP }} cargo test --release --package orchestrate --test proofs killed_at_every -- --nocapture

# Fail each call of orchestrate once and then always; every STEPth, from OFFSET on.
soak-failures STEP="1" OFFSET="0":
    VENEER_SWEEP_STEP={{ STEP }} VENEER_SWEEP_OFFSET={{ OFFSET }} cargo test --release --package orchestrate --test proofs each_call -- --nocapture

# Real packages (crates, npm, PyPI, Debian sources) by unpack and by GNU tar: equal trees, or a refusal's rule; network, root.
corpus *FLAGS: static
    {{ bin }}/corpus {{ FLAGS }}

# Everything side by side with what one would use instead, medians and ratios: target/bench; needs root.
bench *FLAGS: static
    {{ bin }}/bench {{ FLAGS }}

# The state directory, or the store, becomes full at each change of each command; every STEPth, from OFFSET on.
soak-full STEP="1" OFFSET="0":
    VENEER_FULL_STEP={{ STEP }} VENEER_FULL_OFFSET={{ OFFSET }} cargo test --release --package orchestrate --test proofs full_at_any -- --nocapture

# Random operations, each killed at a random time or not, on a directory store; one SEED gives the same again.
soak-kills RUNS="2000" SEED="1":
    VENEER_KILLS={{ RUNS }} VENEER_SEED={{ SEED }} cargo test --release --package orchestrate --test proofs killed_at_random -- --nocapture

# Many processes on one directory store: gc among others, and three killed together; that many ROUNDS.
soak-races ROUNDS="500" SEED="1":
    VENEER_ROUNDS={{ ROUNDS }} VENEER_SEED={{ SEED }} cargo test --release --package orchestrate --test proofs race:: -- --nocapture

# A simulated fleet: the product's decisions for so many HOSTS, each scenario with so many SEEDS, twice each.
soak-fleet HOSTS="10000" SEEDS="3":
    VENEER_FLEET_HOSTS={{ HOSTS }} VENEER_FLEET_SEEDS={{ SEEDS }} cargo test --release --package orchestrate --test fleet_sim -- --nocapture

# The shipped cache in a real nginx before an origin of so many MBIT: HOSTS in network namespaces fetch MB at once, and the cache is killed
# for FAULT seconds, hung, rotten.
soak-cache HOSTS="20" MB="100" MBIT="200" FAULT="5":
    cargo build --release --package fetch
    VENEER_CACHE_HOSTS={{ HOSTS }} VENEER_CACHE_MB={{ MB }} VENEER_CACHE_MBIT={{ MBIT }} VENEER_CACHE_FAULT={{ FAULT }} VENEER_CACHE_STALL=5 cargo test --release --package orchestrate --test fleet cache::hosts_in_namespaces -- --ignored --nocapture

# HOSTS real daemons at so many SITES follow a document while caches, images, daemons and the origin break.
soak-sites HOSTS="20" SITES="3":
    VENEER_SITES_HOSTS={{ HOSTS }} VENEER_SITES={{ SITES }} cargo test --release --package orchestrate --test fleet sites:: -- --nocapture

# A few actors on one directory store, one step at a time as a seed has it: so many SCHEDULES, each of its seed from FIRST_SEED on.
soak-interleave SCHEDULES="10000" FIRST_SEED="1":
    VENEER_SCHEDULES={{ SCHEDULES }} VENEER_SEED={{ FIRST_SEED }} cargo test --release --package orchestrate --test proofs interleave -- --nocapture

# Damage a host on a directory store at random, STEPS of each of so many SEEDS from FIRST on; each tells its end.
soak-wedge SEEDS="20" STEPS="500" FIRST="1":
    VENEER_WEDGE_SEEDS={{ SEEDS }} VENEER_WEDGE_STEPS={{ STEPS }} VENEER_SEED={{ FIRST }} cargo test --release --package orchestrate --test proofs wedge -- --nocapture

# The same on a pool in the VM, a hundred steps of each of so many SEEDS from FIRST on, a boot for each.
soak-wedge-pool SEEDS="20" FIRST="1": static
    for seed in $(seq {{ FIRST }} $(({{ FIRST }} + {{ SEEDS }} - 1))); do VENEER_SEED=$seed {{ bin }}/e2e --soak wedge || exit; done

# Stop each kind of work by a signal and by `cancel` at so many random MOMENTS of it; figures.
soak-heard MOMENTS="50" SEED="1":
    VENEER_MOMENTS={{ MOMENTS }} VENEER_SEED={{ SEED }} cargo test --release --package orchestrate --test proofs heard -- --nocapture

# Two tenants whose objects share ETags, sizes and bytes: the acts of one, with and without the other's, of so many SEEDS.
soak-tenants SEEDS="500" FIRST="1":
    VENEER_ROUNDS={{ SEEDS }} VENEER_SEED={{ FIRST }} cargo test --release --package orchestrate --test proofs tenants -- --nocapture

# A daemon under 256 MiB and half a processor, MINUTES among hostile servers and layers: good images arrive; needs root.
soak-small MINUTES="10" SEED="1":
    VENEER_SMALL_SECONDS=$(({{ MINUTES }} * 60)) VENEER_SEED={{ SEED }} cargo test --release --package orchestrate --test serve a_small_daemon -- --nocapture

# A year of a busy host in so many ACTS (runs), hours; DIR, in memory best, keeps the host, the figures and a plot, and goes on.
soak-year ACTS DIR:
    mkdir -p {{ DIR }}
    VENEER_YEAR_ACTS={{ ACTS }} VENEER_YEAR_DIR={{ DIR }} cargo test --release --package orchestrate --test serve a_year -- --nocapture

# Readers of the registry that stay for MINUTES, beside a daemon under steady load: how long its log becomes.
soak-reader MINUTES="60":
    VENEER_READER_SECONDS=$(({{ MINUTES }} * 60)) cargo test --release --package orchestrate --test serve whoever_reads_on -- --nocapture

# Images by umoci, in each form that skopeo writes: one stack, and the tree of `umoci unpack`; needs root and both programs.
test-peers-images:
    @command -v umoci > /dev/null && command -v skopeo > /dev/null || { echo "umoci and skopeo are needed: apt-get install umoci skopeo" >&2; exit 1; }
    cargo test --package orchestrate --test proofs images::peers -- --ignored --nocapture

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

# README's commands to the letter on a fresh Debian 12 or 13 (debootstrap), as root and as a user with sudo; needs root.
test-fresh SUITE *ONLY:
    sh packaging/test-fresh.sh {{ SUITE }} {{ target }}/fresh {{ ONLY }}

# Bundles of a directory store under a real container runtime; needs root and runc (apt-get install runc).
test-bundle:
    cargo test --package orchestrate --test proofs runtime:: -- --ignored --nocapture

# The daemon's page in a headless Chromium (Debian package chromium); with --shots DIR, pictures to look at.
page-test *FLAGS:
    cargo build --package orchestrate
    python3 orchestrate/tests/page/try.py {{ target }}/debug/orchestrate {{ FLAGS }}

# What an idle daemon costs, how fast it answers, and what ten thousand connections take: figures.
bench-serve:
    cargo test --release --package orchestrate --test serve -- --nocapture an_idle ten_thousand

# Ask boto3 (in a Python environment of its own in the cache; PyPI) anew whose keys each shape of configuration sends where.
boto-table:
    sh packaging/aws-python.sh
    "${XDG_CACHE_HOME:-$HOME/.cache}"/veneer/aws-python/bin/python fetch/tests/boto/table.py

# fetch and `orchestrate --store dir:` against every S3 server that a package brings (PyPI, npm, crates, Debian); the table of docs/fetch.md.
servers *FLAGS="--write":
    sh packaging/aws-python.sh
    mkdir -p "${XDG_CACHE_HOME:-$HOME/.cache}/veneer/s3rver"
    cd "${XDG_CACHE_HOME:-$HOME/.cache}/veneer/s3rver" && { [ -e node_modules ] || npm install --silent --no-fund --no-audit s3rver@3.7.1 || true; }
    packaging/radosgw.sh get || true
    cargo build -p fetch -p orchestrate
    "${XDG_CACHE_HOME:-$HOME/.cache}"/veneer/aws-python/bin/python packaging/servers.py {{ FLAGS }}
