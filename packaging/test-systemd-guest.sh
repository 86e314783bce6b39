#!/bin/bash
# Runs inside the VM of test-systemd.sh, under the guest's systemd, once a boot; what it finds goes to
# the serial console. A line is "ok: ..", "figure: .." or "FAILED: .."; others are for who looks into it.
exec 2>&1
cd /test || exit 1
export PATH=/usr/sbin:/usr/bin:/sbin:/bin LANG=C.UTF-8
boot=$(cat boot 2>/dev/null || echo 1)
failures=$(cat failures 2>/dev/null || echo 0)
socket=/run/veneer/serve.sock

fail() {
    echo "FAILED: $1"
    failures=$((failures + 1))
    echo "$failures" >failures
    sed 's/^/# /' out 2>/dev/null | tail -12
}
# want WHAT COMMAND..: it ends well.
want() {
    local what=$1
    shift
    if "$@" >out 2>&1; then echo "ok: $what"; else fail "$what: $*"; fi
}
is() { [ "$2" = "$3" ] && echo "ok: $1 = $3" || fail "$1 is \"$2\", not \"$3\""; }
# soon SECONDS COMMAND..: it ends well in that time; asked again and again.
soon() {
    local end=$((SECONDS + $1))
    shift
    until "$@" >out 2>&1; do
        [ $SECONDS -lt $end ] || return 1
        sleep 0.5
    done
}
now_ms() { date +%s%3N; }
api() {
    local method=$1 path=$2
    curl -sS --max-time 120 --unix-socket $socket -X "$method" ${3:+-d "$3"} "http://v$path"
}
prop() { systemctl show -P "$1" "${2:-veneer.service}"; }
total_blocks() { thin --json pool status | grep -o '"total_data":[0-9]*' | cut -d: -f2; }
grown() { [ "$(total_blocks)" -gt "$1" ]; }
ready() { api GET /readyz | grep -q '"ready": *true'; }
running() { api GET '/v1/runs?status=live' | grep -qE '"state": *"running"'; }
# begin NAME WHERE: activates a new image and comes back when its run is at work and held there: in a
# request (fetch) or in the scanner (scan).
begin() {
    mkdir -p "/srv/s3/images/$1" "mark/$1"
    head -c 64 /dev/urandom | base64 >"mark/$1/mark"
    tar -C "/test/mark/$1" -cf "/srv/s3/images/$1/1.tar" mark -C / usr/share/zoneinfo/Europe usr/bin/tar
    case $2 in
    fetch) systemctl kill -s STOP s3.service ;;
    scan) touch hold ;;
    esac
    api POST /v1/activations "{\"id\":\"$1\",\"image\":\"s3://images/$1/\"}" >"$1.json"
    soon 60 running || fail "no run begins"
    [ "$2" = fetch ] || soon 300 pgrep -f /test/scanner || fail "no scanner begins"
}
let_go() {
    rm -f hold
    systemctl kill -s CONT s3.service
}
# Waits for the end of what was begun: done, and what was asked for is there.
ended() {
    soon 400 ready || fail "not ready after $1"
    soon 600 test -b "/dev/mapper/$1" || fail "$1 was not brought to its end"
    mkdir -p /mnt/$1
    want "$1 holds what its layer did" look "$1"
}
look() {
    mount -o ro /dev/mapper/$1 /mnt/$1 && cmp /mnt/$1/mark mark/$1/mark &&
        cmp /mnt/$1/usr/bin/tar /usr/bin/tar && umount /mnt/$1
}

first_boot() {
    echo "# kernel $(uname -r), systemd $(systemctl --version | head -1), $(nproc) processors"
    systemctl start s3.service
    echo 2 >boot
    want "units verify" systemd-analyze --man=no verify veneer.service veneer.socket veneer-pool.service
    # A scanner that every image has to pass, since it works in namespaces of its own.
    printf '%s\n' '#!/bin/sh' 'test -s "$1/two" || test -s "$1/mark" || exit 9' \
        'while test -e /test/hold; do sleep 0.2; done' \
        "echo '{\"SchemaVersion\":2,\"Results\":[]}'" >scanner
    chmod 755 scanner
    sed -i -e 's|^#endpoint = .*|endpoint = "http://127.0.0.1:9000"|' -e 's|^#policy = .*|policy = "required"|' \
        -e 's|^#command = .*|command = ["/test/scanner", "{}"]|' /etc/veneer/veneer.toml
    (umask 077 && printf 'AWS_ACCESS_KEY_ID=KEY-OF-TEST\nAWS_SECRET_ACCESS_KEY=SECRET-OF-TEST\n' >/etc/veneer/environment)

    # What a layer may hold: owners, a device, a file with a capability, a setuid one, attributes.
    mkdir -p l1/d /srv/s3/images/app
    echo hello >l1/d/file
    cp /usr/bin/true l1/suid
    cp /usr/bin/true l1/capable
    chown 1234:4321 l1/d/file
    chmod 4755 l1/suid
    setcap cap_net_raw+ep l1/capable
    mknod l1/null c 1 3
    mkfifo l1/pipe
    tar -C l1 --xattrs --xattrs-include='*' -cf /srv/s3/images/app/1.tar .
    mkdir -p l2/d
    : >l2/d/.wh.file
    echo second >l2/two
    tar -C l2 -cf /srv/s3/images/app/2.tar .

    # Small, with a bound beyond it: see below how it grows.
    sed -i -e 's|^#grow_to = .*|grow_to = 1073741824|' -e 's|^#grow_by = .*|grow_by = 268435456|' /etc/veneer/veneer.toml
    want "thin pool init" thin pool init /var/lib/veneer/pool --data 256M
    want "veneer-pool.service takes a pool on that is up" systemctl enable --now veneer-pool.service

    # Socket activation.
    want "the socket's unit starts" systemctl enable --now veneer.socket
    is "the service before anybody asks" "$(systemctl is-active veneer.service)" inactive
    is "the socket" "$(stat -c '%a %U %G' $socket)" "660 root veneer"
    local begun=$(now_ms)
    want "somebody asks" api GET /healthz
    echo "figure: first answer by socket activation, ms: $(($(now_ms) - begun))"
    is "the service then" "$(systemctl is-active veneer.service)" active
    is "how it tells" "$(prop Type) $(prop NotifyAccess)" "notify main"
    want "it is ready" soon 60 ready
    api GET /readyz | head -c 1500 | sed 's/^/# /'; echo
    want "others do not get in" bash -c "! setpriv --reuid=65534 --regid=65534 --clear-groups curl -sS --unix-socket $socket http://v/healthz"
    local group=$(getent group veneer | cut -d: -f3)
    want "the group does" setpriv --reuid=65534 --regid="$group" --clear-groups curl -sSf --unix-socket $socket http://v/healthz
    is "the capabilities it has left" "$(grep CapBnd /proc/$(prop MainPID)/status | cut -f2)" "$(grep CapEff /proc/$(prop MainPID)/status | cut -f2)"
    grep -E 'Cap(Eff|Bnd)|NoNewPrivs|Seccomp:' /proc/$(prop MainPID)/status | sed 's/^/# /'

    # A whole activation, by the daemon, under all that hardening.
    begun=$(now_ms)
    want "an activation" orchestrate activate s3://images/app/ --name app-1
    echo "figure: activation of two small layers, ms: $(($(now_ms) - begun))"
    mkdir -p /mnt/app
    want "its device can be mounted" mount /dev/mapper/app-1 /mnt/app
    is "a whiteout" "$(ls /mnt/app/d)" ""
    is "a later layer" "$(cat /mnt/app/two)" second
    is "a device" "$(stat -c '%t:%T %F' /mnt/app/null)" "1:3 character special file"
    is "setuid" "$(stat -c %a /mnt/app/suid)" 4755
    is "a capability" "$(getcap /mnt/app/capable | sed 's/.* //')" cap_net_raw=ep
    want "something is written" bash -c 'echo mine >/mnt/app/mine && sync'
    is "the run was the daemon's" "$(journalctl -u veneer.service -o cat | grep -c 'image=\?.*s3://images/app/' | sed 's/^[1-9].*/some/')" some

    # A pool that fills grows by itself, with its files, loop devices and header behind that hardening. What
    # fills it is a thin of nobody's.
    local was=$(total_blocks)
    want "a thin of another's" bash -c "thin create 9000000 && thin activate 9000000 filler --size 1G"
    dd if=/dev/zero of=/dev/mapper/filler bs=1M count=220 conv=fsync status=none
    want "the daemon makes the pool larger" soon 90 grown "$was"
    want "it says so" soon 20 bash -c "journalctl -u veneer.service -o cat | grep 'the pool grew' | grep -q to_bytes"
    want "and keeps it in its history" bash -c "curl -sS --unix-socket $socket 'http://v/v1/events?after=0' | grep -q 'data grew from'"
    want "the file is as large" [ "$(stat -c %s /var/lib/veneer/pool/data)" -ge 536870912 ]
    want "what was added can be written" dd if=/dev/zero of=/dev/mapper/filler bs=1M seek=220 count=100 conv=fsync status=none
    thin deactivate filler && thin delete 9000000

    # Every fence of unpack stands below the unit's own.
    sed -e 's|^ExecStart=.*|ExecStart=/bin/sh -c "mkdir -p /var/lib/veneer/fenced \&\& exec unpack --root /var/lib/veneer/fenced --sandbox require </srv/s3/images/app/1.tar"|' \
        -e 's/^Type=.*/Type=oneshot/' -e '/^Requires=\|^Watchdog\|^Restart=\|^ExecReload/d' /lib/systemd/system/veneer.service >/run/systemd/system/fenced.service
    systemctl daemon-reload
    want "all fences stand" systemctl start fenced.service
    journalctl -u fenced.service -o cat | tail -5 | sed 's/^/# /'

    # The watchdog, as shipped.
    is "watchdog" "$(prop WatchdogUSec)" 1min
    local fed=$(prop WatchdogTimestampMonotonic)
    want "the watchdog is fed" soon 90 bash -c "[ \$(systemctl show -P WatchdogTimestampMonotonic veneer) -gt $fed ]"

    # Restarted, stopped and killed while it works.
    begin restarted fetch
    begun=$(now_ms)
    want "restart under a run" systemctl restart veneer.service
    echo "figure: restart under a run whose request gets no answer, ms: $(($(now_ms) - begun))"
    is "it was not killed for that" "$(journalctl -u veneer.service -o cat | grep -c "Failed with result")" 0
    let_go
    ended restarted
    begin stopped scan
    begun=$(now_ms)
    want "stop under a run" systemctl stop veneer.service
    echo "figure: stop under a run, ms: $(($(now_ms) - begun))"
    is "how it stopped" "$(prop Result) $(prop ExecMainCode) $(prop ExecMainStatus)" "success 1 0"
    is "what is left of its processes" "$(pgrep -c 'orchestrate|unpack|mkfs')" 0
    want "the socket is still there" systemctl is-active veneer.socket
    want "who asks starts it again" soon 60 ready
    let_go
    ended stopped
    systemctl reset-failed veneer.service
    begin killed scan
    local pid=$(prop MainPID)
    kill -9 "$pid"
    want "killed, it comes again" soon 60 bash -c "[ \$(systemctl show -P NRestarts veneer) = 1 ] && systemctl is-active veneer"
    let_go
    ended killed
    want "reload" systemctl reload veneer.service
    want "it goes on after that" soon 30 ready

    # One that hangs.
    pid=$(prop MainPID)
    kill -STOP "$pid"
    begun=$(now_ms)
    want "the watchdog ends one that hangs" soon 300 bash -c "p=\$(systemctl show -P MainPID veneer); [ \$p != 0 ] && [ \$p != $pid ] && systemctl is-active veneer"
    echo "figure: from SIGSTOP to the next daemon, ms: $(($(now_ms) - begun))"
    is "for that reason" "$(journalctl -u veneer.service -o cat | grep -c "Failed with result 'watchdog'")" 1
    want "ready again" soon 60 ready

    # The journal.
    journalctl -u veneer.service -o json _COMM=orchestrate >journal.json
    journalctl -u veneer.service -o short-monotonic | tail -60 | sed 's/^/# /'
    echo "# priorities: $(grep -o '"PRIORITY":"[0-9]"' journal.json | sort | uniq -c | tr '\n' ' ')"
    want "priorities come through" bash -c "grep -q '\"PRIORITY\":\"6\"' journal.json"
    want "fields come through" bash -c "grep -q 'run=[0-9]* image=' journal.json"
    want "no clock, no priority in the text" bash -c "! grep -oE '\"MESSAGE\":\"[^\"]*' journal.json | grep -E 'ts=|MESSAGE\":\"<'"
    api GET /v1/activations/no-such-one >/dev/null
    orchestrate activate s3://images/nothing/ --name nothing >out 2>&1
    is "an image that is not there" "$?" 100
    want "a failure has a priority of its own" soon 20 bash -c "journalctl -u veneer.service -p warning -o cat | grep 'why=' | grep -q nothing"

    systemd-analyze security --no-pager veneer.service | sed 's/^/# /'
    echo "figure: $(systemd-analyze security --no-pager veneer.service | tail -1 | tr -cd '[:print:]')"

    # The package's own hands.
    pid=$(prop MainPID)
    want "upgrade" dpkg -i /test/second.deb
    want "upgraded, the daemon is another one" soon 60 bash -c "p=\$(systemctl show -P MainPID veneer); [ \$p != 0 ] && [ \$p != $pid ] && systemctl is-active veneer"
    is "what was mounted" "$(cat /mnt/app/mine)" mine
    want "enable" systemctl enable veneer.service
    want "an order to end" orchestrate deactivate stopped
    date +%s >rebooted
    sync
    systemctl reboot
}

second_boot() {
    echo "figure: from reboot to the next test, s: $(($(date +%s) - $(cat rebooted)))"
    systemctl start s3.service
    is "pool and daemon after a boot" "$(systemctl is-active veneer-pool.service veneer.service veneer.socket | tr '\n' ' ')" "active active active "
    is "failed units" "$(systemctl --failed --no-legend | tr '\n' ' ')" ""
    want "the pool came first" [ "$(prop ExecMainExitTimestampMonotonic veneer-pool.service)" -le "$(prop ExecMainStartTimestampMonotonic)" ]
    want "ready" soon 60 ready
    want "what was active is mapped" test -b /dev/mapper/app-1 -a -b /dev/mapper/killed
    want "what was not is not" test ! -e /dev/mapper/stopped
    mkdir -p /mnt/app
    want "it can be mounted" mount /dev/mapper/app-1 /mnt/app
    is "what was written" "$(cat /mnt/app/mine)" mine
    journalctl -b -1 -o short-monotonic | tail -25 | sed 's/^/# /'
    journalctl -b -u veneer-pool.service -u veneer.service -o short-monotonic | tail -30 | sed 's/^/# /'

    want "verify" orchestrate --no-daemon verify
    want "remove the package" dpkg -r veneer
    is "units after that" "$(systemctl is-active veneer.service veneer.socket | tr '\n' ' ')" "inactive inactive "
    is "devices after that" "$(cat /mnt/app/mine; test -b /dev/mapper/killed && echo there)" "mine
there"
    # Of its own slowness, on a busy host, it may say what it likes.
    want "the kernel has nothing to say of disks" bash -c "! dmesg --level=emerg,alert,crit,err,warn | grep -E 'device-mapper|dm-[0-9]|EXT4-fs (error|warning)|I/O error|loop[0-9]: .*error'"
    [ "$failures" = 0 ] && echo "ok: all" || echo "FAILED: $failures"
    # With a device mounted and the pool up, it has to come to its end all the same.
    systemctl poweroff
}

trap 'echo "# the script ended"' EXIT
case $boot in
1) first_boot ;;
2) echo 3 >boot && second_boot ;;
*) echo "FAILED: a boot too many" && systemctl poweroff ;;
esac
