//! What a scanner that was taken over cannot do, and what becomes of a scan without its walls.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::process::{Command, Output};

use crate::bench::{Bench, Host};

const IMAGE: &str = "s3://bucket/a/";

/// Each line says what it got; nothing is good news but what begins with `may`.
const HOSTILE: &str = r#"
exec 3>$XDG_CACHE_HOME/told
say() { echo "$@" >&3; }
touch $BENCH/escaped 2>/dev/null && say wrote beside the store
echo x >> $STORE/veneer-store 2>/dev/null && say wrote into the store
echo x >> $STATE/registry.db 2>/dev/null && say wrote into the registry
touch /tmp/veneer-escaped /var/tmp/veneer-escaped /dev/shm/veneer-escaped 2>/dev/null
for f in /tmp /var/tmp /dev/shm; do test -e $f/veneer-escaped && say wrote into $f; done
mount -o remount,rw / 2>/dev/null && say remounted
mount -t tmpfs none /mnt 2>/dev/null && say mounted
unshare -Ur true 2>/dev/null && say made a user namespace
mknod $XDG_CACHE_HOME/node c 1 3 2>/dev/null && say made a node
true <> /dev/ptmx 2>/dev/null && say opened a device
perl -e 'use Socket; exit !socket(my $s, PF_UNIX, SOCK_STREAM, 0)' && say made a unix socket
kill -9 $VICTIM 2>/dev/null && say killed
grep -aq 'veneer-victi[m]' /proc/[0-9]*/cmdline 2>/dev/null && say saw a process
echo c > /proc/sys/kernel/core_pattern 2>/dev/null && say wrote into /proc
echo x > $TMPDIR/x && rm $TMPDIR/x && say may write to its cache
cat $STATE/registry.db >/dev/null && head -c1 /dev/urandom >/dev/null && say may read
perl -e 'use Socket; exit !socket(my $s, PF_INET, SOCK_STREAM, 0)' && say may have a network
say may be: $(grep -E '^(CapEff|CapBnd|NoNewPrivs|Seccomp):' /proc/self/status | tr -d '\t' | tr '\n' ' ')
say may net: $(readlink /proc/self/ns/net)
echo '{"SchemaVersion": 2, "Results": []}'
"#;

fn script(bench: &Bench, text: &str) {
    let path = bench.path("scanner");
    fs::write(&path, format!("#!/bin/sh\n{text}")).unwrap();
    fs::set_permissions(&path, Permissions::from_mode(0o755)).unwrap();
}

fn scan(host: &Host<'_>, before: &[&str], words: &[&str], settings: &[(&str, &str)]) -> Output {
    let words = [words, &["scan", IMAGE]].concat();
    let inner = host.command(&words);
    let mut command = Command::new(before[0]);
    command.args(&before[1..]).arg(inner.get_program()).args(inner.get_args());
    command.env("VENEER_CONFIG", host.bench().path("settings.toml"));
    command.env("VENEER_SCAN_COMMAND", format!("{} {{}}", host.bench().path("scanner").display()));
    command.envs(settings.iter().copied()).output().unwrap()
}

#[test]
fn a_scanner_reads_and_writes_to_its_cache_and_nothing_else() {
    let bench = Bench::small();
    let host = bench.host("host");
    host.ok(&["ensure", IMAGE]);
    let mut victim = Command::new("sleep").arg0("veneer-victim").arg("600").spawn().unwrap();
    let text = HOSTILE
        .replace("$BENCH", &bench.path("").display().to_string())
        .replace("$STORE", &host.store().display().to_string())
        .replace("$STATE", &host.state().display().to_string())
        .replace("$VICTIM", &victim.id().to_string());
    script(&bench, &text);
    let net = fs::read_link("/proc/self/ns/net").unwrap().display().to_string();
    let elsewhere = bench.path("cache");
    for (network, cache) in [("yes", None), ("no", Some(&elsewhere))] {
        let mut settings = vec![("VENEER_SCAN_NETWORK", network)];
        if let Some(cache) = cache {
            settings.push(("VENEER_SCAN_CACHE", cache.to_str().unwrap()));
        }
        let done = scan(&host, &["env"], &[], &settings);
        assert!(done.status.success(), "{done:?}");
        let cache = cache.cloned().unwrap_or_else(|| host.state().join("scan-cache"));
        let told = fs::read_to_string(cache.join("told")).unwrap();
        let bad: Vec<&str> = told.lines().filter(|line| !line.starts_with("may ")).collect();
        assert!(bad.is_empty(), "{told}");
        for word in [
            "may write to its cache",
            "may read",
            "may have a network",
            // CAP_DAC_READ_SEARCH.
            "CapEff:0000000000000004 CapBnd:0000000000000004 NoNewPrivs:1 Seccomp:2",
        ] {
            assert!(told.contains(word), "{word} in {told}");
        }
        assert_eq!(told.contains(&net), network == "yes", "{told}");
    }
    assert!(victim.try_wait().unwrap().is_none(), "the host's process is dead");
    victim.kill().unwrap();
    victim.wait().unwrap();
    host.check();
}

#[test]
fn a_scan_without_its_walls_is_refused_unless_that_is_relaxed() {
    let bench = Bench::small();
    let host = bench.host("host");
    host.ok(&["ensure", IMAGE]);
    script(
        &bench,
        "ls $1/srv/layer-3 >/dev/null && echo '{\"SchemaVersion\": 2, \"Results\": []}'\n",
    );
    let lacking = ["setpriv", "--bounding-set", "-sys_admin", "--inh-caps", "-sys_admin"];
    let refused = scan(&host, &lacking, &[], &[]);
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert_eq!(refused.status.code(), Some(100), "{refused:?}");
    assert!(said.contains("CAP_SYS_ADMIN") && said.contains("sandbox = \\\"on\\\""), "{said}");
    // On a directory store the tree is looked at where it is, and what lacks is said.
    let relaxed = scan(&host, &lacking, &["--sandbox", "on"], &[]);
    assert!(relaxed.status.success(), "{relaxed:?}");
    let said = String::from_utf8_lossy(&relaxed.stderr).into_owned();
    assert!(said.contains("a scanner runs without all walls"), "{said}");
    assert!(scan(&host, &["env"], &["--sandbox", "off"], &[]).status.success());
    host.check();
}
