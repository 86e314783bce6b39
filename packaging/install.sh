#!/bin/sh
# Installs the programs of BIN below PREFIX, with man pages, completions, units and examples.
# Usage: install.sh BIN PREFIX [DESTDIR]
set -eu
bin=$1 prefix=$2 root=${3:-}
here=$(cd "$(dirname "$0")" && pwd)
version=$("$bin/orchestrate" --version | cut -d' ' -f2)
share=$root$prefix/share
# Units of a package are the system's; those of /usr/local are the operator's.
units=$root$prefix/lib/systemd/system
conf=$root$prefix/lib
if [ "$prefix" = /usr ]; then units=$root/lib/systemd/system; fi

install -d "$root$prefix/bin" "$share/veneer/prometheus" "$share/veneer/grafana" "$share/veneer/nginx" "$share/veneer/examples" "$units" \
    "$conf/sysusers.d" "$conf/tmpfiles.d"
for program in fetch unpack thin registry orchestrate; do
    install -m 755 "$bin/$program" "$root$prefix/bin/"
done
for unit in veneer.service veneer.socket veneer-pool.service; do
    sed "s|/usr/bin/|$prefix/bin/|" "$here/systemd/$unit" >"$units/$unit"
    chmod 644 "$units/$unit"
done
install -m 644 "$here/systemd/sysusers.conf" "$conf/sysusers.d/veneer.conf"
install -m 644 "$here/systemd/tmpfiles.conf" "$conf/tmpfiles.d/veneer.conf"
install -m 644 "$here/prometheus/veneer.rules.yml" "$share/veneer/prometheus/"
install -m 644 "$here/grafana/veneer.json" "$share/veneer/grafana/"
install -m 644 "$here/nginx/site-cache.conf" "$here/nginx/sign.js" "$share/veneer/nginx/"
for example in "$here"/../examples/*; do
    install -m "$([ -x "$example" ] && echo 755 || echo 644)" "$example" "$share/veneer/examples/"
done
python3 "$here/shell.py" "$bin" "$share" "$version"
# The settings that the units go by, then all the others, commented out. One that is there stays.
if [ ! -e "$root/etc/veneer/veneer.toml" ]; then
    install -d "$root/etc/veneer"
    "$bin/orchestrate" config --sample | sed \
        -e 's|^#socket = .*|socket = "/run/veneer/serve.sock"|' \
        -e 's|^#allow = .*|allow = ["group:veneer"]|' >"$root/etc/veneer/veneer.toml"
    chmod 644 "$root/etc/veneer/veneer.toml"
fi
