#!/bin/sh
# Boots a Debian with the package of BIN, its own systemd and real device-mapper in QEMU, and runs
# test-systemd-guest.sh in it. What a run needs and leaves is in WORK; the Debian is made there once (debootstrap).
# Usage: test-systemd.sh BIN WORK       VENEER_ACCEL=kvm|tcg chooses how the guest's processor is made.
set -eu
bin=$1 work=$2
here=$(cd "$(dirname "$0")" && pwd)
cache=${XDG_CACHE_HOME:-$HOME/.cache}/veneer
limit=${VENEER_SYSTEMD_TIMEOUT:-1800}
PATH=$PATH:/usr/sbin:/sbin
fail() {
    echo "test-systemd: failed: $1" >&2
    exit 1
}
[ "$(id -u)" = 0 ] || fail "run as root: sudo just test-systemd"
for pair in debootstrap:debootstrap mkfs.ext4:e2fsprogs cpio:cpio qemu-system-x86_64:qemu-system-x86; do
    command -v "${pair%%:*}" >/dev/null || fail "no ${pair%%:*}: run apt-get install ${pair##*:}"
done
kernel=$cache/kernels/$(ls -v "$cache/kernels" 2>/dev/null | head -1)
busybox=$cache/guest/usr/bin/busybox
[ -e "$kernel/vmlinuz" ] && [ -e "$busybox" ] && [ -x "$cache/tools/bin/s3s-fs" ] ||
    fail "no guest kernel, no busybox or no S3 server: run ./bootstrap"
mkdir -p "$work"
tree=$work/tree
rm -rf "$tree"
mkdir "$tree"
trap 'rm -rf "$tree" "$work/initramfs" "$work/disk.img"' EXIT

# The Debian, as its packages make it.
if [ ! -e "$work/debian.tar" ]; then
    echo "test-systemd: making a Debian, once"
    debootstrap --variant=minbase \
        --include=systemd,systemd-sysv,udev,dbus,curl,e2fsprogs,dmsetup,thin-provisioning-tools,kmod,procps,libcap2-bin \
        bookworm "$tree" >"$work/debootstrap.log" 2>&1 || fail "debootstrap: $(tail -3 "$work/debootstrap.log")"
    tar -C "$tree" --exclude=./var/cache/apt --exclude=./var/lib/apt/lists -cf "$work/debian.tar.new" .
    mv "$work/debian.tar.new" "$work/debian.tar"
else
    tar -C "$tree" -xf "$work/debian.tar"
fi
in_it() {
    chroot "$tree" /usr/bin/env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin LANG=C.UTF-8 "$@"
}

# The package twice, so that the guest can upgrade, and the programs that are not ours.
first=$(DEB_COMPRESSION=gzip sh "$here/deb.sh" "$bin" "$work/deb" 0.0.1)
second=$(DEB_COMPRESSION=gzip sh "$here/deb.sh" "$bin" "$work/deb" 0.0.2)
mkdir "$tree/test"
cp "$first" "$tree/test/first.deb"
cp "$second" "$tree/test/second.deb"
cp "$cache/tools/bin/s3s-fs" "$tree/test/"
cp "$here/test-systemd-guest.sh" "$tree/test/guest.sh"
in_it dpkg -i /test/first.deb >"$work/log" 2>&1 || fail "install: $(cat "$work/log")"

# The kernel's modules, and the driver of the guest's disk as process 1 of the first stage loads it.
version=$(sed 's/^linux-image-//' "$kernel/package")
mkdir -p "$tree/lib/modules"
cp -a "$kernel/modules" "$tree/lib/modules/$version"
in_it depmod "$version" >"$work/log" 2>&1 || fail "depmod: $(tail -3 "$work/log")"
stage=$work/initramfs
rm -rf "$stage"
mkdir -p "$stage/modules" "$stage/bin" "$stage/proc" "$stage/dev" "$stage/root"
cp "$busybox" "$stage/bin/busybox"
in_it modprobe -S "$version" --show-depends virtio_pci >"$work/log"
in_it modprobe -S "$version" --show-depends virtio_blk >>"$work/log"
sed -n 's/^insmod \([^ ]*\).*/\1/p' "$work/log" | awk '!seen[$0]++' >"$work/modules"
while read -r module; do
    file=$(basename "$module" .xz)
    case $module in
    *.xz) xz -dc "$tree$module" >"$stage/modules/$file" ;;
    *) cp "$tree$module" "$stage/modules/" ;;
    esac
    echo "/bin/busybox insmod /modules/$file"
done <"$work/modules" >"$work/insmod"
{
    echo '#!/bin/busybox sh'
    cat "$work/insmod"
    echo '/bin/busybox mount -t devtmpfs devtmpfs /dev'
    echo '/bin/busybox mount -t ext4 -o rw /dev/vda /root || exec /bin/busybox poweroff -f'
    echo 'exec /bin/busybox switch_root /root /sbin/init'
} >"$stage/init"
chmod 755 "$stage/init"
(cd "$stage" && find . | cpio --quiet -o -H newc >"$work/initramfs.cpio")

cat >"$tree/etc/systemd/system/test.service" <<EOF
[Unit]
Description=What is tested
# Not before the boot is through: what it starts must not wait for it.
After=multi-user.target
[Service]
Type=simple
ExecStart=/bin/bash /test/guest.sh
StandardOutput=file:/dev/ttyS0
StandardError=inherit
[Install]
WantedBy=graphical.target
EOF
cat >"$tree/etc/systemd/system/s3.service" <<EOF
[Service]
ExecStart=/test/s3s-fs --host 127.0.0.1 --port 9000 --access-key KEY-OF-TEST --secret-key SECRET-OF-TEST /srv/s3
EOF
mkdir -p "$tree/srv/s3/images"
in_it systemctl --quiet enable test.service
in_it systemctl --quiet set-default graphical.target
in_it systemctl --quiet mask serial-getty@ttyS0.service getty@tty1.service apt-daily.timer apt-daily-upgrade.timer \
    e2scrub_all.timer e2scrub_reap.service fstrim.timer dpkg-db-backup.timer systemd-networkd-wait-online.service
mkdir -p "$tree/var/log/journal"
echo guest >"$tree/etc/hostname"
truncate -s 4G "$work/disk.img"
mkfs.ext4 -q -F -d "$tree" "$work/disk.img"
rm -rf "$tree"

if [ -z "${VENEER_ACCEL:-}" ]; then
    VENEER_ACCEL=tcg
    if [ -w /dev/kvm ] && grep -qE '^flags.* (vmx|svm)' /proc/cpuinfo; then VENEER_ACCEL=kvm; fi
fi
accel=$VENEER_ACCEL
[ "$accel" = kvm ] || accel=tcg,thread=multi
timeout --foreground -k 5 "$limit" qemu-system-x86_64 -nodefaults -no-user-config -display none \
    -machine q35 -cpu max -smp 2 -m 1536 -rtc base=utc -accel "$accel" \
    -kernel "$kernel/vmlinuz" -initrd "$work/initramfs.cpio" \
    -append "console=ttyS0 quiet loglevel=4 systemd.show_status=0 panic=-1 oops=panic mitigations=off random.trust_cpu=on no_timer_check" \
    -drive "file=$work/disk.img,format=raw,if=none,id=d0,discard=unmap,cache=unsafe" -device virtio-blk-pci,drive=d0 \
    -serial stdio -monitor none </dev/null >"$work/console.log" 2>&1 ||
    fail "QEMU did not end well within $limit s: see $work/console.log"
tr -d '\r' <"$work/console.log" | grep -aE '^(ok|FAILED|figure): ' || true
grep -aq '^FAILED: ' "$work/console.log" && fail "see $work/console.log"
grep -aq '^ok: all' "$work/console.log" || fail "it did not come to its end: see $work/console.log"
# Shut down in order, the guest's own file system has nothing to mend.
e2fsck -fn "$work/disk.img" >"$work/log" 2>&1 || fail "the guest's disk after the shutdown: $(tail -3 "$work/log")"
echo "test-systemd: good ($VENEER_ACCEL)"
