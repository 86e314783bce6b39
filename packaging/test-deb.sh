#!/bin/sh
# Installs, upgrades, removes and purges the package of BIN in a fresh Debian (debootstrap; needs root and
# a mirror), and holds that what is in /var/lib/veneer is never touched.
# Usage: test-deb.sh BIN
set -eu
bin=$1
here=$(cd "$(dirname "$0")" && pwd)
fail() {
    echo "test-deb: failed: $1" >&2
    exit 1
}
[ "$(id -u)" = 0 ] || fail "run as root: sudo just test-deb"
command -v debootstrap >/dev/null || fail "no debootstrap: run apt-get install debootstrap"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
export DEB_COMPRESSION=gzip
first=$(sh "$here/deb.sh" "$bin" "$work/out" 0.0.1)
second=$(sh "$here/deb.sh" "$bin" "$work/out" 0.0.2)
debootstrap --variant=minbase bookworm "$work/debian" >"$work/log" 2>&1 || fail "debootstrap: $(tail -3 "$work/log")"
cp "$first" "$second" "$work/debian/root/"
in_it() {
    chroot "$work/debian" /usr/bin/env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin LANG=C.UTF-8 "$@"
}
first=/root/$(basename "$first") second=/root/$(basename "$second")

in_it dpkg -i "$first" >"$work/log" 2>&1 || fail "install: $(cat "$work/log")"
in_it getent group veneer >/dev/null || fail "no group veneer"
in_it orchestrate config | grep -q 'serve.socket = "/run/veneer/serve.sock"' || fail "its own settings are not read"
in_it bash -c 'source /usr/share/bash-completion/completions/orchestrate; COMP_WORDS=(orchestrate act); COMP_CWORD=1; _orchestrate; echo "${COMPREPLY[@]}"' |
    grep -qx activate || fail "bash does not complete"
for program in fetch unpack thin registry orchestrate; do
    in_it "$program" --version >/dev/null || fail "$program does not start"
    [ -s "$work/debian/usr/share/man/man1/$program.1.gz" ] || fail "no man page of $program"
done
for file in nginx/site-cache.conf nginx/sign.js examples/nomad.hcl examples/kubernetes.yaml grafana/veneer.json; do
    [ -s "$work/debian/usr/share/veneer/$file" ] || fail "no /usr/share/veneer/$file"
done
# As good as a pool: files that nobody may touch.
mkdir "$work/debian/var/lib/veneer/pool"
echo data >"$work/debian/var/lib/veneer/pool/data.img"
in_it orchestrate --store dir:/var/lib/veneer/store ls >/dev/null || fail "it does not work on a directory"
before=$(cd "$work/debian/var/lib/veneer" && find . -type f ! -name '*-shm' ! -name '*-wal' -exec sha256sum {} + | sort)
echo 'wait = 77' | cat - "$work/debian/etc/veneer/veneer.toml" >"$work/toml"
cp "$work/toml" "$work/debian/etc/veneer/veneer.toml"

in_it dpkg -i "$second" >"$work/log" 2>&1 || fail "upgrade: $(cat "$work/log")"
in_it orchestrate config | grep -q '^wait = 77 ' || fail "the upgrade has changed the settings"
in_it dpkg -r veneer >"$work/log" 2>&1 || fail "remove: $(cat "$work/log")"
[ ! -e "$work/debian/usr/bin/orchestrate" ] || fail "a program is left"
[ -e "$work/debian/etc/veneer/veneer.toml" ] || fail "a removal took the settings"
in_it dpkg -i "$second" >"$work/log" 2>&1 || fail "install again: $(cat "$work/log")"
in_it dpkg -P veneer >"$work/log" 2>&1 || fail "purge: $(cat "$work/log")"
grep -q "is kept" "$work/log" || fail "a purge does not say what it keeps"
[ ! -e "$work/debian/etc/veneer/veneer.toml" ] || fail "a purge left the settings"
after=$(cd "$work/debian/var/lib/veneer" && find . -type f ! -name '*-shm' ! -name '*-wal' -exec sha256sum {} + | sort)
[ "$before" = "$after" ] || fail "/var/lib/veneer is not as it was"
echo "test-deb: install, upgrade, remove, install, purge: good"
