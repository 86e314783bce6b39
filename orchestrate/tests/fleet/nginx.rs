//! The cache of a site: Debian's nginx with the configuration that is shipped, unchanged but for what stands in it
//! between angle brackets and for the paths of Debian's package.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tests::port::Port;
use tests::s3::KEYS;

use crate::bench::cached;
use crate::front::Front;

/// The folder of an nginx that is not installed.
fn unpacked() -> PathBuf {
    cached("nginx")
}

/// What of the shipped files stands for something of this site, and what that is here.
fn settled(
    text: &str,
    dir: &Path,
    (front, registry): (&Front, &Front),
    address: SocketAddr,
) -> String {
    let at = |name: &str| dir.join(name).display().to_string();
    let temp: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .map(|what| format!("  {what}_temp_path {};\n", at(&format!("temp/{what}"))))
        .concat();
    let mut text = text.to_owned();
    for (from, to) in [
        ("<s3.eu-central-1.amazonaws.com:443>", front.by_tls()),
        ("<registry.example.org:443>", registry.by_tls()),
        (
            "$registry_host \"<registry.example.org>\"",
            format!("$registry_host \"localhost:{}\"", registry.tls),
        ),
        ("$registry_name \"<registry.example.org>\"", "$registry_name \"localhost\"".into()),
        (
            "$registry_ns \"<registry.example.org>\"",
            format!("$registry_ns \"{}\"", registry.plain.to_string().replace(':', "%3A")),
        ),
        (
            "$s3_host \"<s3.eu-central-1.amazonaws.com>\"",
            format!("$s3_host \"localhost:{}\"", front.tls),
        ),
        ("$s3_name \"<s3.eu-central-1.amazonaws.com>\"", "$s3_name \"localhost\"".into()),
        ("<eu-central-1>", "us-east-1".into()),
        ("<key>", KEYS.access.into()),
        ("<secret>", KEYS.secret.into()),
        ("<10.0.0.1:8090>", address.to_string()),
        ("<200g>", "4g".into()),
        ("<20g>", "1m".into()),
        // Where Debian's package has things, and where it lets the program put them.
        ("/etc/nginx/", at("")),
        ("/var/log/nginx/", at("")),
        ("/var/cache/", at("cache/")),
        ("/etc/ssl/certs/ca-certificates.crt", at("authority.pem")),
        ("user www-data;", "user root;".into()),
        ("http {\n", format!("http {{\n{temp}")),
    ] {
        assert!(text.contains(from), "{from} is not in site-cache.conf");
        text = text.replace(from, &to);
    }
    let left: Vec<&str> = text.lines().filter(|line| line.contains('<')).collect();
    assert_eq!(left, [""; 0], "something is left to be set");
    text
}

/// The cache of one site; it goes with this.
#[derive(Debug)]
pub(crate) struct Cache {
    dir: PathBuf,
    pub(crate) address: SocketAddr,
    child: Option<Child>,
    /// The namespace that it runs in: its address there, and a process of it.
    space: Option<(Ipv4Addr, u32)>,
    _port: Port,
}

impl Cache {
    /// Starts one with nothing in it, below this folder.
    pub(crate) fn start(dir: &Path, front: &Front) -> Cache {
        Cache::start_for(dir, front, front, None)
    }

    /// The same, with a registry beside the bucket, and perhaps in a namespace of its own.
    pub(crate) fn start_for(
        dir: &Path,
        front: &Front,
        registry: &Front,
        space: Option<(Ipv4Addr, u32)>,
    ) -> Cache {
        let port = Port::claim().expect("a port of the loopback");
        let at = space.map_or(Ipv4Addr::LOCALHOST, |(address, _)| address);
        let address = SocketAddr::from((at, port.number));
        for part in ["cache", "temp"] {
            fs::create_dir_all(dir.join(part)).unwrap();
        }
        let shipped = Path::new(env!("CARGO_MANIFEST_DIR")).join("../packaging/nginx");
        fs::copy(shipped.join("sign.js"), dir.join("sign.js")).unwrap();
        let text = fs::read_to_string(shipped.join("site-cache.conf")).unwrap();
        fs::write(dir.join("nginx.conf"), settled(&text, dir, (front, registry), address)).unwrap();
        let authorities = format!("{}{}", front.authority, registry.authority);
        fs::write(dir.join("authority.pem"), authorities).unwrap();
        let modules = unpacked().join("usr/lib/nginx/modules");
        std::os::unix::fs::symlink(modules, dir.join("modules")).unwrap();
        let mut cache = Cache { dir: dir.to_owned(), address, child: None, space, _port: port };
        let judged = cache.command().arg("-t").output().unwrap();
        let said = String::from_utf8_lossy(&judged.stderr);
        assert!(judged.status.success() && !said.contains("[warn]"), "{said}");
        cache.rise();
        cache
    }

    fn command(&self) -> Command {
        let nginx = unpacked().join("usr/sbin/nginx");
        // Its workers outlive it, so it has processes of its own, which end with it; it ends with us.
        let mut command = Command::new("unshare");
        if let Some((_, pid)) = self.space {
            command = Command::new("nsenter");
            command.args(["--net", "--target", &pid.to_string(), "--", "unshare"]);
        }
        command.args(["--pid", "--fork", "--kill-child=SIGKILL", "--"]).arg(nginx);
        command.arg("-p").arg(&self.dir).arg("-c").arg(self.dir.join("nginx.conf"));
        let own = format!("daemon off; pid {};", self.dir.join("pid").display());
        command.args(["-g", &own]).arg("-e").arg(self.dir.join("error.log"));
        command.stdin(Stdio::null());
        command
    }

    /// Starts it again, with what it has on its disk.
    pub(crate) fn rise(&mut self) {
        let mut child = self.command().spawn().unwrap();
        let begun = Instant::now();
        while TcpStream::connect(self.address).is_err() {
            let over = child.try_wait().unwrap();
            let late = begun.elapsed() > Duration::from_secs(60);
            assert!(over.is_none() && !late, "{over:?}: {}", self.errors());
            std::thread::sleep(Duration::from_millis(10));
        }
        self.child = Some(child);
    }

    pub(crate) fn errors(&self) -> String {
        fs::read_to_string(self.dir.join("error.log")).unwrap_or_default()
    }

    /// Its log of requests.
    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.dir.join("site-cache.log")).unwrap_or_default()
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// All its processes at once, without a word.
    pub(crate) fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().unwrap();
            child.wait().unwrap();
            // Whoever waited for it has not seen the last of its children.
            while TcpStream::connect(self.address).is_ok() {
                std::thread::sleep(Duration::from_millis(5));
            }
        }
    }

    /// It holds its connections and does nothing, until [`Cache::goes_on`].
    pub(crate) fn hangs(&self) {
        self.signal(Signal::SIGSTOP);
    }

    pub(crate) fn goes_on(&self) {
        self.signal(Signal::SIGCONT);
    }

    fn signal(&self, signal: Signal) {
        let mut pids = vec![self.child.as_ref().expect("it runs").id()];
        let mut at = 0;
        while let Some(pid) = pids.get(at) {
            let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"));
            let children = children.unwrap_or_default();
            pids.extend(children.split_whitespace().map(|pid| pid.parse::<u32>().unwrap()));
            at += 1;
        }
        assert!(pids.len() > 2, "master and workers: {pids:?}");
        // The first is not nginx: who ends it ends all.
        for pid in &pids[1..] {
            kill(Pid::from_raw(i32::try_from(*pid).unwrap()), signal).ok();
        }
    }

    /// The files of its disk.
    fn entries(&self) -> Vec<PathBuf> {
        let (mut found, mut open) = (Vec::new(), vec![self.dir.join("cache")]);
        while let Some(dir) = open.pop() {
            for entry in fs::read_dir(dir).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() { open.push(path) } else { found.push(path) }
            }
        }
        found
    }

    /// Whether this stands somewhere on its disk.
    pub(crate) fn holds(&self, text: &str) -> bool {
        let has = |path: &PathBuf| {
            let bytes = fs::read(path).unwrap_or_default();
            bytes.windows(text.len()).any(|part| part == text.as_bytes())
        };
        self.entries().iter().any(has)
    }

    /// Changes one bit of what it keeps under keys that begin so: the last of the largest entry.
    pub(crate) fn rots(&self, key: &str) {
        let mark = format!("\nKEY: {key}");
        let is_its = |bytes: &Vec<u8>| {
            let head = &bytes[..bytes.len().min(1000)];
            head.windows(mark.len()).any(|part| part == mark.as_bytes())
        };
        let found = self.entries().into_iter().filter_map(|path| {
            let bytes = fs::read(&path).unwrap();
            is_its(&bytes).then_some((path, bytes))
        });
        let (path, bytes) =
            found.max_by_key(|(_, bytes)| bytes.len()).expect("an entry of the object");
        let last = bytes.len() - 1;
        // In its place: nginx goes by the file that it has open.
        use std::os::unix::fs::FileExt as _;
        let file = fs::OpenOptions::new().write(true).open(path).unwrap();
        file.write_all_at(&[bytes[last] ^ 1], last as u64).unwrap();
    }
}

impl Drop for Cache {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let (errors, log) = (self.errors(), self.log());
            let last = |text: &str| text.lines().rev().take(5).collect::<Vec<_>>().join("\n");
            eprintln!("the last of the cache:\n{}\n{}", last(&errors), last(&log));
        }
        if let Some(child) = &mut self.child {
            drop(child.kill());
            drop(child.wait());
        }
    }
}
