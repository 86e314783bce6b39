#!/bin/sh
# Makes a Debian package of the programs of BIN in OUT, and prints its path.
# Usage: deb.sh BIN OUT [VERSION]
set -eu
bin=$1 out=$2
here=$(cd "$(dirname "$0")" && pwd)
version=${3:-$("$bin/orchestrate" --version | cut -d' ' -f2)}
arch=$(dpkg --print-architecture)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
root=$work/root
umask 022
mkdir "$root"
chmod 755 "$root"
sh "$here/install.sh" "$bin" /usr "$root"
gzip -9n "$root"/usr/share/man/man1/*.1
install -d "$root/DEBIAN" "$root/usr/share/doc/veneer"
cat "$here/../LICENSE-APACHE" "$here/../LICENSE-MIT" >"$root/usr/share/doc/veneer/copyright"
gzip -9nc "$here/../CHANGELOG.md" >"$root/usr/share/doc/veneer/changelog.gz"
echo /etc/veneer/veneer.toml >"$root/DEBIAN/conffiles"
for script in postinst prerm postrm; do
    install -m 755 "$here/debian/$script" "$root/DEBIAN/"
done
size=$(du -sk --exclude=DEBIAN "$root" | cut -f1)
sed -e "s/@VERSION@/$version/" -e "s/@ARCH@/$arch/" -e "s/@SIZE@/$size/" \
    "$here/debian/control" >"$root/DEBIAN/control"
mkdir -p "$out"
deb=$out/veneer_${version}_$arch.deb
dpkg-deb --root-owner-group -Z"${DEB_COMPRESSION:-xz}" --build "$root" "$deb" >/dev/null
echo "$deb"
