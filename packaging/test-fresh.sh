#!/bin/sh
# What README tells a stranger to type, to the letter, on a fresh Debian (debootstrap; needs root, a mirror and a
# Rust of rustup's): once as root, once as a user with sudo. Half an hour and more for each.
# Usage: test-fresh.sh 12|13 WORK [root|user [NUMBER]]    only as that one; only the NUMBERth command.
# WORK keeps the Debian, made once, and a log of each. VENEER_MIRROR names another mirror; VENEER_FRESH_TOOLS a
# folder with bin/s3s-fs, which saves its build.
set -eu
fail() {
    echo "test-fresh: failed: $1" >&2
    exit 1
}

# In a mount namespace of its own: the tree becomes the root, and the README's command runs in the clone. Not by
# chroot, in which the kernel lets nobody make a user namespace.
if [ "$1" = --inside ]; then
    tree=$2 user=$3 home=$4 rustup=$5 command=$6
    mount --bind "$tree" "$tree"
    mount --rbind /dev "$tree/dev"
    mount --rbind /sys "$tree/sys"
    mount -t proc proc "$tree/proc"
    # Each toolchain for itself, since one may be a link to another, by a name that only this host has.
    for toolchain in "$rustup"/toolchains/*; do
        inside=$tree$home/.rustup/toolchains/${toolchain##*/}
        mkdir -p "$inside"
        mount --bind "$toolchain" "$inside"
        mount -o remount,bind,ro "$inside"
    done
    mkdir -p "$tree/mnt/host"
    cd "$tree"
    pivot_root . mnt/host
    umount -l /mnt/host
    id=$(id -u "$user")
    cd "$home/veneer"
    exec setpriv --reuid="$id" --regid="$id" --init-groups /usr/bin/env -i HOME="$home" USER="$user" LANG=C.UTF-8 \
        PATH="$home/.cargo/bin:/usr/local/bin:/usr/bin:/bin" ${VENEER_ACCEL:+"VENEER_ACCEL=$VENEER_ACCEL"} \
        ${http_proxy:+"http_proxy=$http_proxy"} ${https_proxy:+"https_proxy=$https_proxy"} \
        ${no_proxy:+"no_proxy=$no_proxy"} bash -c "$command"
fi

suite=$1 work=$2 only=${3:-} number=${4:-}
case $suite in
12) name=bookworm ;;
13) name=trixie ;;
*) fail "Debian $suite is not among 12 and 13" ;;
esac
here=$(cd "$(dirname "$0")/.." && pwd)
mirror=${VENEER_MIRROR:-http://deb.debian.org/debian}
rustup=${RUSTUP_HOME:-$HOME/.rustup}
cargo=${CARGO_HOME:-$HOME/.cargo}
[ "$(id -u)" = 0 ] || fail "run as root: sudo just test-fresh $suite"
command -v debootstrap >/dev/null || fail "no debootstrap: run apt-get install debootstrap"
[ -d "$rustup/toolchains" ] && [ -x "$cargo/bin/rustup" ] || fail "no rustup in $rustup and $cargo: see https://rustup.rs"
mkdir -p "$work"
work=$(cd "$work" && pwd)
tree=$work/tree
base=$work/debian-$suite.tar
trap 'rm -rf "$tree"' EXIT

in_it() {
    chroot "$tree" /usr/bin/env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin LANG=C.UTF-8 DEBIAN_FRONTEND=noninteractive "$@"
}

# A small Debian with git: its three suites, the proxy and the authorities of this host.
if [ ! -e "$base" ]; then
    echo "test-fresh: making a Debian $suite, once"
    rm -rf "$tree"
    debootstrap --variant=minbase --include=ca-certificates,git,sudo "$name" "$tree" "$mirror" >"$work/log" 2>&1 ||
        fail "debootstrap: $(tail -3 "$work/log")"
    printf '%s\n' "deb $mirror $name main" "deb $mirror $name-updates main" "deb $mirror-security $name-security main" \
        >"$tree/etc/apt/sources.list"
    apt-config dump | grep -iE '^Acquire::[a-z]+::Proxy' >"$tree/etc/apt/apt.conf.d/90host" || true
    find /usr/local/share/ca-certificates -name '*.crt' -exec cp {} "$tree/usr/local/share/ca-certificates/" \;
    in_it update-ca-certificates >"$work/log" 2>&1 || fail "update-ca-certificates: $(tail -3 "$work/log")"
    in_it useradd --create-home --shell /bin/bash tester
    echo 'tester ALL=(ALL) NOPASSWD: ALL' >"$tree/etc/sudoers.d/tester"
    rm -rf "$tree"/var/cache/apt/archives/*.deb
    tar -C "$tree" -cf "$base.new" .
    mv "$base.new" "$base"
fi

# The commands of its first block of code, without their comments.
commands=$(sed -n '/^```sh$/,/^```$/p;/^```$/q' "$here/README.md" | sed '/^```/d; s/  *#.*//')
[ "$(echo "$commands" | wc -l)" = 2 ] || fail "README does not begin with two commands any more: $commands"

failed=0
for who in root user; do
    [ -z "$only" ] || [ "$only" = "$who" ] || continue
    if [ "$who" = root ]; then user=root home=/root; else user=tester home=/home/tester; fi
    rm -rf "$tree"
    mkdir "$tree"
    tar -C "$tree" -xf "$base"
    cp /etc/resolv.conf "$tree/etc/resolv.conf"
    git clone --quiet --no-hardlinks "$here" "$tree$home/veneer"
    mkdir -p "$tree$home/.cargo/bin"
    for program in rustup cargo rustc rustdoc rustfmt cargo-fmt cargo-clippy clippy-driver; do
        cp -L "$cargo/bin/$program" "$tree$home/.cargo/bin/"
    done
    mkdir "$tree$home/.rustup"
    cp "$rustup/settings.toml" "$tree$home/.rustup/"
    if [ -e "$cargo/config.toml" ]; then cp "$cargo/config.toml" "$tree$home/.cargo/"; fi
    if [ -n "${VENEER_FRESH_TOOLS:-}" ]; then
        mkdir -p "$tree$home/.cache/veneer"
        cp -a "$VENEER_FRESH_TOOLS" "$tree$home/.cache/veneer/tools"
    fi
    in_it chown -R "$user:$user" "$home"
    at=0
    while read -r command; do
        at=$((at + 1))
        [ -z "$number" ] || [ "$number" = "$at" ] || continue
        log=$work/$suite-$who-$at.log
        begun=$(date +%s)
        if unshare --mount --propagation private --pid --fork --kill-child \
            sh "$0" --inside "$tree" "$user" "$home" "$rustup" "$command" >"$log" 2>&1 </dev/null; then
            good=good
        else
            good=FAILED failed=1
            tail -n 30 "$log"
        fi
        echo "test-fresh: Debian $suite, $who: $command: $good, $(($(date +%s) - begun)) s, see $log"
    done <<END
$commands
END
done
exit "$failed"
