//! Network namespaces: an origin, a line of a width, a site's own network behind it, and a host of its own for each
//! program. All of it is below one namespace that the test itself runs in, so that nothing of this machine changes.

use std::fs;
use std::net::Ipv4Addr;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

/// Set in the test that runs in a namespace.
const INSIDE: &str = "VENEER_TEST_INSIDE";

/// Runs this test of this program once more, in a namespace of its own; false where it is in one.
pub(crate) fn again(test: &str) -> bool {
    if std::env::var_os(INSIDE).is_some() {
        return false;
    }
    let mut command = Command::new("unshare");
    command.args(["--net", "--"]).arg(std::env::current_exe().unwrap());
    command.args(["--exact", test, "--include-ignored", "--nocapture"]).env(INSIDE, "1");
    let ended = command.status().expect("no unshare: run ./bootstrap");
    assert!(ended.success(), "in its namespace: {ended}");
    true
}

/// A namespace, and the process that holds it.
#[derive(Debug)]
pub(crate) struct Space(Child);

impl Space {
    fn new() -> Space {
        let mut command = Command::new("unshare");
        command.args(["--net", "--", "sleep", "7200"]).stdin(Stdio::null());
        let space = Space(command.spawn().unwrap());
        let own = fs::read_link("/proc/self/ns/net").unwrap();
        let begun = Instant::now();
        while fs::read_link(format!("/proc/{}/ns/net", space.pid())).is_ok_and(|its| its == own) {
            assert!(begun.elapsed() < Duration::from_secs(30), "no namespace");
            thread::sleep(Duration::from_millis(5));
        }
        space.does("ip link set lo up");
        space
    }

    pub(crate) fn pid(&self) -> u32 {
        self.0.id()
    }

    /// A program in it.
    pub(crate) fn command(&self, program: &std::path::Path) -> Command {
        let mut command = Command::new("nsenter");
        command.args(["--net", "--target", &self.pid().to_string(), "--"]).arg(program);
        command
    }

    fn does(&self, script: &str) {
        let pid = self.pid().to_string();
        done(Command::new("nsenter").args(["--net", "--target", &pid, "--", "sh", "-euc", script]));
    }
}

impl Drop for Space {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

fn done(command: &mut Command) {
    let ran = command.output().expect("no such program: run ./bootstrap");
    let said = String::from_utf8_lossy(&ran.stderr);
    assert!(ran.status.success(), "{command:?}: {said} (ip and tc are of the package iproute2)");
}

/// An origin here, and a site behind a line.
#[derive(Debug)]
pub(crate) struct Net {
    pub(crate) site: Space,
    pub(crate) hosts: Vec<Space>,
}

impl Net {
    /// Where the origin listens.
    pub(crate) const ORIGIN: Ipv4Addr = Ipv4Addr::new(10, 99, 0, 1);
    /// Where the site's cache does.
    pub(crate) const CACHE: Ipv4Addr = Ipv4Addr::new(10, 99, 1, 1);

    /// So many hosts behind a line of 10^6 bits a second, which is all that they share with the origin.
    pub(crate) fn new(hosts: u64, mbit: u64) -> Net {
        let site = Space::new();
        let pid = site.pid();
        let here = format!(
            "ip link set lo up
             ip link add wan0 type veth peer name wan1
             ip link set wan1 netns {pid}
             ip address add 10.99.0.1/24 dev wan0
             ip link set wan0 up
             ip route add 10.99.1.0/24 via 10.99.0.2
             tc qdisc add dev wan0 root tbf rate {mbit}mbit burst 256kb latency 100ms"
        );
        done(Command::new("sh").args(["-euc", &here]));
        site.does(
            "ip address add 10.99.0.2/24 dev wan1
             ip link set wan1 up
             ip route add default via 10.99.0.1
             ip link add lan type bridge
             ip address add 10.99.1.1/24 dev lan
             ip link set lan up
             echo 1 > /proc/sys/net/ipv4/ip_forward",
        );
        let host = |number: u64| {
            let host = Space::new();
            site.does(&format!(
                "ip link add h{number} type veth peer name e{number}
                 ip link set e{number} netns {}
                 ip link set h{number} master lan
                 ip link set h{number} up",
                host.pid()
            ));
            host.does(&format!(
                "ip address add 10.99.1.{}/24 dev e{number}
                 ip link set e{number} up
                 ip route add default via 10.99.1.1",
                number + 10
            ));
            host
        };
        let hosts = (0..hosts).map(host).collect();
        Net { site, hosts }
    }
}
