//! The configuration that a container runtime reads: `config.json` of a bundle (runtime-spec 1.0.2, and the
//! image-spec's conversion.md).

use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::handover::program::{Process, Program};
use crate::handover::unfit::Unfit;

/// By this a bundle is known again for what it is of; its value is the activation's name.
pub(crate) const OURS: &str = "veneer.activation";

/// What annotations of an image begin with.
const IMAGES: &str = "org.opencontainers.image.";

/// The longest name of a host (`__NEW_UTS_LEN`, uname(2)).
const HOST_NAME_MAX: usize = 64;

/// What root in a container may do, as container runtimes have it by default.
const CAPABILITIES: [&str; 14] = [
    "CAP_AUDIT_WRITE",
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_KILL",
    "CAP_MKNOD",
    "CAP_NET_BIND_SERVICE",
    "CAP_NET_RAW",
    "CAP_SETFCAP",
    "CAP_SETGID",
    "CAP_SETPCAP",
    "CAP_SETUID",
    "CAP_SYS_CHROOT",
];

/// What of /proc and /sys tells of the host, or changes it, and is hidden.
const MASKED: [&str; 10] = [
    "/proc/acpi",
    "/proc/asound",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/sys/firmware",
];

/// What of /proc can be read only.
const READ_ONLY: [&str; 5] =
    ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

/// A file of the host's, or beside the bundle, that takes the place of one in the container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Put {
    /// Where it is, absolute.
    pub(crate) source: PathBuf,
    /// Where it goes.
    pub(crate) destination: &'static str,
    /// Whether the container may write to it.
    pub(crate) writable: bool,
}

/// What of the bundle is not the image's.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place<'p> {
    /// The activation.
    pub(crate) name: &'p str,
    /// The root directory, absolute: a runtime may read a relative one from anywhere.
    pub(crate) root: &'p Path,
    pub(crate) host_name: &'p str,
    pub(crate) files: &'p [Put],
    /// Whether nobody may write to the root directory.
    pub(crate) read_only: bool,
}

/// The name of the host that an activation is by default: names of hosts have fewer characters.
pub(crate) fn host_name_of(activation: &str) -> String {
    let plain = |c: char| if c.is_ascii_alphanumeric() || c == '-' || c == '.' { c } else { '-' };
    let mut name: String = activation.chars().map(plain).take(HOST_NAME_MAX).collect();
    name.truncate(name.trim_end_matches(['-', '.']).len());
    name
}

/// A name that a host can have.
///
/// # Errors
/// [`Unfit::HostName`].
pub(crate) fn check_host_name(text: &str) -> Result<(), Unfit> {
    let bad = |why| Err(Unfit::HostName { text: text.to_owned(), why });
    match text {
        "" => bad("a name has at least one character"),
        long if long.len() > HOST_NAME_MAX => bad("at most 64 bytes"),
        odd if !odd.chars().all(|c| c.is_ascii_alphanumeric() || c == '-' || c == '.') => {
            bad("of A-Z a-z 0-9 - .")
        }
        odd if odd.starts_with(['-', '.']) => bad("a name begins with a letter or digit"),
        _ => Ok(()),
    }
}

/// What is said of the image beside what it runs.
///
/// Of its labels only those of the image's own vocabulary are there. A runtime takes orders from annotations (which
/// handler runs, what a service manager does, which hypervisor), and labels are the word of whoever made the image.
fn annotations(name: &str, process: &Process) -> Value {
    let mut ports = process.ports.clone();
    ports.sort_unstable();
    let own = [
        ("os", &process.os),
        ("architecture", &process.architecture),
        ("variant", &process.variant),
        ("created", &process.created),
        ("stopSignal", &process.stop_signal),
        ("exposedPorts", &ports.join(",")),
    ];
    let own = own.into_iter().filter(|(_, value)| !value.is_empty());
    let mut all: serde_json::Map<String, Value> =
        own.map(|(key, value)| (format!("{IMAGES}{key}"), json!(value))).collect();
    let labels = process.labels.iter().filter(|(key, _)| key.starts_with(IMAGES));
    all.extend(labels.map(|(key, value)| (key.clone(), json!(value))));
    // Last, whatever a label says.
    all.insert(OURS.to_owned(), json!(name));
    Value::Object(all)
}

fn text(path: &Path) -> Result<&str, Unfit> {
    path.to_str().ok_or_else(|| Unfit::Path { path: path.to_string_lossy().into() })
}

fn mounts(files: &[Put]) -> Result<Vec<Value>, Unfit> {
    let mount = |destination: &str, kind: &str, source: &str, options: &[&str]| json!({"destination": destination, "type": kind, "source": source, "options": options});
    let quiet = ["nosuid", "noexec", "nodev"];
    let read_only = ["nosuid", "noexec", "nodev", "ro"];
    let mut all = vec![
        mount("/proc", "proc", "proc", &quiet),
        mount("/dev", "tmpfs", "tmpfs", &["nosuid", "strictatime", "mode=755", "size=65536k"]),
        mount(
            "/dev/pts",
            "devpts",
            "devpts",
            &["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"],
        ),
        mount(
            "/dev/shm",
            "tmpfs",
            "shm",
            &["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"],
        ),
        mount("/dev/mqueue", "mqueue", "mqueue", &quiet),
        mount("/sys", "sysfs", "sysfs", &read_only),
        mount("/sys/fs/cgroup", "cgroup", "cgroup", &read_only),
    ];
    for file in files {
        let how = if file.writable { "rw" } else { "ro" };
        let options = ["bind", "nosuid", "noexec", "nodev", how];
        all.push(mount(file.destination, "bind", text(&file.source)?, &options));
    }
    Ok(all)
}

/// The configuration of a bundle. No limits of resources are in it: setting one needs a right that many hosts
/// do not give, and a runtime hands on those that it has.
///
/// # Errors
/// [`Unfit::Path`].
pub(crate) fn config(
    process: &Process,
    program: &Program,
    place: Place<'_>,
) -> Result<Value, Unfit> {
    let who = &program.who;
    let of_root: &[&str] = if who.uid == 0 { &CAPABILITIES } else { &[] };
    let namespaces = ["pid", "network", "ipc", "uts", "mount"].map(|kind| json!({"type": kind}));
    Ok(json!({
        "ociVersion": "1.0.2",
        "hostname": place.host_name,
        "root": {"path": text(place.root)?, "readonly": place.read_only},
        "process": {
            "terminal": false,
            "user": {"uid": who.uid, "gid": who.gid, "additionalGids": who.groups},
            "args": program.args,
            "env": program.env,
            "cwd": program.cwd,
            "noNewPrivileges": false,
            "capabilities": {
                "bounding": CAPABILITIES, "permitted": of_root, "effective": of_root,
            },
        },
        "mounts": mounts(place.files)?,
        "annotations": annotations(place.name, process),
        "linux": {
            "namespaces": namespaces,
            "resources": {"devices": [{"allow": false, "access": "rwm"}]},
            "maskedPaths": MASKED,
            "readonlyPaths": READ_ONLY,
        },
    }))
}

/// The activation that a `config.json` is of; none where another program has written it.
pub(crate) fn is_of(config: &[u8]) -> Option<String> {
    let value: Value = serde_json::from_slice(config).ok()?;
    Some(value.get("annotations")?.get(OURS)?.as_str()?.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::handover::accounts::Identity;

    fn program(uid: u32) -> Program {
        let who = Identity { uid, gid: 6, groups: vec![7, 8], home: "/h".into() };
        let (args, env) = (vec!["/init".into(), "a b".into()], vec!["PATH=/bin".into()]);
        Program { args, env, cwd: "/srv".into(), who }
    }

    fn made(process: &Process, uid: u32, files: &[Put]) -> Value {
        let (name, root) = ("web_1", Path::new("/srv/store/volumes/7"));
        let place = Place { name, root, host_name: "web-1", files, read_only: false };
        config(process, &program(uid), place).unwrap()
    }

    #[test]
    fn a_bundle_says_all_that_a_runtime_needs() {
        let of_root = made(&Process::default(), 0, &[]);
        assert_eq!(of_root["root"], json!({"path": "/srv/store/volumes/7", "readonly": false}));
        assert_eq!(of_root["hostname"], "web-1");
        assert_eq!(of_root["process"]["args"], json!(["/init", "a b"]));
        assert_eq!(of_root["process"]["cwd"], "/srv");
        assert_eq!(of_root["process"]["terminal"], false);
        assert_eq!(
            of_root["process"]["user"],
            json!({"uid": 0, "gid": 6, "additionalGids": [7, 8]})
        );
        assert_eq!(of_root["process"].get("rlimits"), None);
        assert_eq!(of_root["process"]["capabilities"]["effective"], json!(CAPABILITIES));
        let places: Vec<&str> = of_root["mounts"]
            .as_array()
            .unwrap()
            .iter()
            .map(|mount| mount["destination"].as_str().unwrap())
            .collect();
        let expected =
            ["/proc", "/dev", "/dev/pts", "/dev/shm", "/dev/mqueue", "/sys", "/sys/fs/cgroup"];
        assert_eq!(places, expected);
        // One who is not root has what root could give, and nothing by itself.
        let of_app = made(&Process::default(), 5, &[]);
        assert_eq!(of_app["process"]["capabilities"]["bounding"], json!(CAPABILITIES));
        assert_eq!(of_app["process"]["capabilities"]["effective"], json!([]));
        assert_eq!(
            of_app["linux"]["resources"]["devices"],
            json!([{"allow": false, "access": "rwm"}])
        );
    }

    #[test]
    fn files_of_the_activation_are_bound_over_those_of_the_image() {
        let files = [
            Put { source: "/etc/hosts".into(), destination: "/etc/hosts", writable: false },
            Put { source: "/b/machine-id".into(), destination: "/etc/machine-id", writable: true },
        ];
        let made = made(&Process::default(), 0, &files);
        let last = &made["mounts"].as_array().unwrap()[7..];
        assert_eq!(last[0]["options"], json!(["bind", "nosuid", "noexec", "nodev", "ro"]));
        assert_eq!(last[0]["source"], "/etc/hosts");
        assert_eq!(last[1]["destination"], "/etc/machine-id");
        assert_eq!(last[1]["options"][4], "rw");
    }

    #[test]
    fn annotations_are_of_the_image_and_give_no_runtime_orders() {
        let label = |key: &str, value: &str| (key.to_owned(), value.to_owned());
        let labels = [
            label("org.opencontainers.image.title", "Web"),
            label("org.opencontainers.image.os", "plan9"),
            label("org.systemd.property.ExecStopPost", "evil"),
            label("run.oci.handler", "evil"),
            label(OURS, "other"),
            label("", "x"),
        ];
        let process = Process {
            labels: labels.into_iter().collect(),
            os: "linux".into(),
            architecture: "amd64".into(),
            ports: vec!["8080/tcp".into(), "53/udp".into()],
            stop_signal: "SIGQUIT".into(),
            ..Process::default()
        };
        let made = made(&process, 0, &[]);
        assert_eq!(
            made["annotations"],
            json!({
                "org.opencontainers.image.os": "plan9",
                "org.opencontainers.image.architecture": "amd64",
                "org.opencontainers.image.exposedPorts": "53/udp,8080/tcp",
                "org.opencontainers.image.stopSignal": "SIGQUIT",
                "org.opencontainers.image.title": "Web",
                "veneer.activation": "web_1",
            })
        );
        assert_eq!(is_of(made.to_string().as_bytes()).as_deref(), Some("web_1"));
        for foreign in ["", "{}", "[]", r#"{"annotations":{"veneer.activation":7}}"#] {
            assert_eq!(is_of(foreign.as_bytes()), None, "{foreign}");
        }
    }

    #[test]
    fn a_host_has_a_name_that_hosts_can_have() {
        for (name, expected) in [
            ("web-1", "web-1"),
            ("web_1+b.c", "web-1-b.c"),
            ("x__", "x"),
            (&"y".repeat(100), &"y".repeat(64)),
        ] {
            assert_eq!(host_name_of(name), expected);
            assert!(check_host_name(expected).is_ok(), "{expected}");
        }
        for bad in ["", "-a", ".a", "a b", "a_b", "ä", "a\n", &"y".repeat(65)] {
            assert!(check_host_name(bad).is_err(), "{bad:?}");
        }
    }
}
