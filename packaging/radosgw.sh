#!/usr/bin/env bash
# Ceph's S3 gateway with a monitor and one object store in memory, out of Debian's packages, which are only unpacked into the cache.
# `radosgw.sh get` gets them (130 MB); `radosgw.sh run PORT DIR` is the server, until it is ended. Both as root, for the chroot.
set -euo pipefail

cache="${XDG_CACHE_HOME:-$HOME/.cache}/veneer"
root="$cache/radosgw"

get() {
    [ -e "$root/usr/bin/radosgw" ] && return
    mkdir -p "$cache"
    work="$(mktemp -d "$cache/radosgw-XXXXXX")"
    trap 'rm -rf "$work"' EXIT
    mkdir -p "$work/apt/archives/partial"
    # For apt nothing is installed, so that it gets everything.
    apt-get install -y -q --download-only --no-install-recommends -o Dir::State::status=/dev/null \
        -o Dir::Cache="$work/apt" -o Debug::NoLocking=1 -o APT::Sandbox::User=root \
        radosgw ceph-mon ceph-osd ceph-common >"$work/log" 2>&1
    for dir in bin sbin lib lib64; do
        mkdir -p "$work/root/usr/$dir"
        ln -s "usr/$dir" "$work/root/$dir"
    done
    for package in "$work"/apt/archives/*.deb; do
        dpkg-deb --fsys-tarfile "$package" |
            tar -C "$work/root" -x --keep-directory-symlink --no-same-owner --no-same-permissions
    done
    mkdir -p "$work/root/dev" "$work/root/proc" "$work/root/tmp" "$work/root/c"
    mv "$work/root" "$root"
}

# A program of it, with a /proc and a folder of its own.
inside() {
    # shellcheck disable=SC2016 -- the inner shell's
    LD_LIBRARY_PATH=/usr/lib/x86_64-linux-gnu/ceph unshare -m sh -c '
        root="$1"; dir="$2"; shift 2
        mount -t proc proc "$root/proc" && mount --rbind /dev "$root/dev" && mount --bind "$dir" "$root/c" &&
            exec chroot "$root" "$@"' sh "$root" "$dir" "$@"
}

run() {
    port="$1" dir="$2"
    monitor=$((port > 40000 ? port - 20000 : port + 20000))
    fsid=6a2b6d3e-0d3b-4f6e-9a53-0f5b9f0f2c11 osd=7c2b6d3e-0d3b-4f6e-9a53-0f5b9f0f2c22
    mkdir -p "$dir/mon" "$dir/osd" "$dir/run"
    cat >"$dir/ceph.conf" <<CONF
[global]
fsid = $fsid
mon host = [v2:127.0.0.1:$monitor]
public network = 127.0.0.0/8
auth cluster required = none
auth service required = none
auth client required = none
osd pool default size = 1
osd pool default min size = 1
osd pool default pg num = 1
osd pool default pgp num = 1
osd pool default pg autoscale mode = off
osd crush chooseleaf type = 0
mon allow pool size one = true
mon max pg per osd = 1000
osd objectstore = memstore
memstore device bytes = 1073741824
run dir = /c/run
log file = /c/run/\$name.log
admin socket = /c/run/\$name.asok
pid file = /c/run/\$name.pid
mon data = /c/mon
osd data = /c/osd
ms bind ipv6 = false
mon data avail crit = 0
mon data avail warn = 0
ms mon client mode = crc
rgw frontends = beast endpoint=127.0.0.1:$port
rgw data = /c/run
CONF
    # All of this group: whoever runs it gives it one of its own, as a shell does.
    trap 'trap - TERM INT EXIT; kill 0' TERM INT EXIT
    conf=(-c /c/ceph.conf)
    inside monmaptool --create --fsid "$fsid" --addv a "[v2:127.0.0.1:$monitor]" /c/monmap >/dev/null
    inside ceph-mon "${conf[@]}" --mkfs -i a --monmap /c/monmap
    inside ceph-mon "${conf[@]}" -i a -f &
    inside ceph "${conf[@]}" osd new "$osd" >/dev/null
    inside ceph-osd "${conf[@]}" -i 0 --mkfs --osd-uuid "$osd" 2>/dev/null
    inside ceph-osd "${conf[@]}" -i 0 -f &
    inside radosgw-admin "${conf[@]}" user create --uid=u --display-name=u \
        --access-key=AKIA --secret-key=secret >/dev/null
    inside radosgw "${conf[@]}" -n client.rgw.a -f &
    wait
}

"$@"
