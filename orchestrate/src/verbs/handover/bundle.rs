//! `bundle`: a directory that a container runtime takes, with a `config.json` and the activation as its root.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use nix::libc;
use serde::Serialize;

use crate::error::Error;
use crate::handover::bundle::{self, Place, Put};
use crate::handover::program::{Instead, Of, Process, program};
use crate::handover::unfit::Unfit;
use crate::host::Host;
use crate::verbs::handover::mount::directory;
use crate::verbs::handover::{BUS_ID, shown};

/// The configuration.
const CONFIG: &str = "config.json";

/// No configuration of ours is longer.
const CONFIG_BYTES_MAX: u64 = 16 << 20;

/// What the caller wants of a bundle.
#[derive(Clone, Debug, Default)]
pub struct BundleOptions {
    /// Instead of the image's `Cmd`; empty: that of the image.
    pub command: Vec<String>,
    /// Instead of the image's `Entrypoint`, and then its `Cmd` does not count; empty: none.
    pub entrypoint: Option<String>,
    /// The name of the host, also in `/etc/hostname`; by default the activation's.
    pub host_name: Option<String>,
    /// A file to be seen as `/etc/hosts`.
    pub hosts: Option<PathBuf>,
    /// A file to be seen as `/etc/resolv.conf`.
    pub resolv_conf: Option<PathBuf>,
    /// Whether the machine is to have no id yet, so that clones do not share one.
    pub empty_machine_id: bool,
}

/// What `bundle` did.
#[derive(Clone, Debug, Serialize)]
pub struct Bundled {
    /// The activation's name.
    pub name: String,
    /// The bundle's directory.
    pub bundle: PathBuf,
    /// The root directory.
    pub root: PathBuf,
    /// Whether that is a mount, which `umount` takes away.
    pub mounted: bool,
    /// What is run.
    pub args: Vec<String>,
    /// As which user.
    pub uid: u32,
    /// As which group.
    pub gid: u32,
    /// Further groups.
    pub groups: Vec<u32>,
}

impl Host {
    /// Makes `dir` a bundle of the activation `name`. Where the store has devices, the activation is mounted at
    /// `dir/rootfs`, in the mount namespace of this process; else its directory is named as it is.
    ///
    /// # Errors
    /// [`Error::Unknown`]; [`Error::Unfit`] for what cannot be run, or a directory that is of something else;
    /// [`Error::Held`] where somebody has the device open.
    pub fn bundle(
        &mut self,
        name: &str,
        dir: &Path,
        options: &BundleOptions,
    ) -> Result<Bundled, Error> {
        let BundleOptions { command, entrypoint, host_name, .. } = options.clone();
        if let Some(name) = &host_name {
            bundle::check_host_name(name)?;
        }
        let row = self.ready(name)?;
        let (own, kept) = (self.own_of(&row)?, self.config_of(&row)?);
        let of = Of { image: &row.reference, config: kept.is_some() };
        let process = kept.map_or_else(Process::default, |kept| kept.process);
        let instead = Instead { entrypoint, command };
        let program = program(&process, own.tables(), &instead, of, false)?;
        let mut files = given(options)?;
        let dir = make(dir, name)?;
        files.extend(beside(&dir, options, own.bus_id)?);
        let (root, mounted) = match self.store.tree(row.id) {
            Some(tree) => (tree, false),
            None => (make_root(&dir)?, true),
        };
        let host = host_name.unwrap_or_else(|| bundle::host_name_of(name));
        let read_only = row.read_only;
        let place = Place { name, root: &root, host_name: &host, files: &files, read_only };
        let config = bundle::config(&process, &program, place)?;
        if mounted {
            self.mount_at(&row, &root)?;
        }
        write(&dir.join(CONFIG), &format!("{config:#}\n"))?;
        let who = program.who;
        Ok(Bundled {
            name: name.into(),
            bundle: dir,
            root,
            mounted,
            args: program.args,
            uid: who.uid,
            gid: who.gid,
            groups: who.groups,
        })
    }
}

fn io_error(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Error {
    let path = path.to_owned();
    move |source| Error::Io { doing, path, source }
}

/// Files of the caller's, which the container can read.
fn given(options: &BundleOptions) -> Result<Vec<Put>, Error> {
    let files = [
        ("--hosts", &options.hosts, "/etc/hosts"),
        ("--resolv-conf", &options.resolv_conf, "/etc/resolv.conf"),
    ];
    let mut put = Vec::new();
    for (what, file, destination) in files {
        let Some(file) = file else { continue };
        let bad = |why| Unfit::Place { what, path: shown(file), why };
        let source = file.canonicalize().map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => bad("there is no such file").into(),
            _ => io_error("find", file)(error),
        })?;
        if !source.is_file() {
            return Err(bad("not a file").into());
        }
        put.push(Put { source, destination, writable: false });
    }
    Ok(put)
}

/// The directory of the bundle of `name`, which nobody else enters where it was not there; what another program
/// has put there stays.
fn make(dir: &Path, name: &str) -> Result<PathBuf, Error> {
    match DirBuilder::new().mode(0o700).create(dir) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let why = "the directory above it is not there";
            return Err(Unfit::Place { what: "bundle", path: shown(dir), why }.into());
        }
        made => made.map_err(io_error("make", dir))?,
    }
    let dir = directory("bundle", dir)?;
    let path = dir.join(CONFIG);
    match read(&path)? {
        Some(config) if bundle::is_of(&config).as_deref() != Some(name) => {
            Err(Unfit::Foreign { path: shown(&path) }.into())
        }
        Some(_) | None => Ok(dir),
    }
}

/// What is in a file of the bundle's, as far as it may be ours; none where there is no file.
fn read(path: &Path) -> Result<Option<Vec<u8>>, Error> {
    let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK | libc::O_CLOEXEC;
    let file = match OpenOptions::new().read(true).custom_flags(flags).open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        // A link, which is not ours.
        Err(error) if error.raw_os_error() == Some(libc::ELOOP) => return Ok(Some(Vec::new())),
        Err(error) => return Err(io_error("open", path)(error)),
    };
    if !file.metadata().map_err(io_error("look at", path))?.is_file() {
        return Ok(Some(Vec::new()));
    }
    let mut content = Vec::new();
    file.take(CONFIG_BYTES_MAX).read_to_end(&mut content).map_err(io_error("read", path))?;
    Ok(Some(content))
}

/// The root directory's place; an image's root is mounted over it.
fn make_root(dir: &Path) -> Result<PathBuf, Error> {
    let root = dir.join("rootfs");
    match DirBuilder::new().mode(0o700).create(&root) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        made => made.map_err(io_error("make", &root))?,
    }
    let is = fs::symlink_metadata(&root).map_err(io_error("look at", &root))?;
    match is.is_dir() {
        true => Ok(root),
        false => {
            let (what, path) = ("bundle", shown(&root));
            Err(Unfit::Place { what, path, why: "not a directory" }.into())
        }
    }
}

/// Files of this bundle alone, which take the place of the image's.
fn beside(dir: &Path, options: &BundleOptions, bus_id: bool) -> Result<Vec<Put>, Error> {
    let mut put = Vec::new();
    if let Some(name) = &options.host_name {
        let source = dir.join("hostname");
        write(&source, &format!("{name}\n"))?;
        put.push(Put { source, destination: "/etc/hostname", writable: false });
    }
    if options.empty_machine_id {
        let source = dir.join("machine-id");
        write(&source, "")?;
        // What starts there finds no id, and may write the one that it makes.
        put.push(Put { source: source.clone(), destination: "/etc/machine-id", writable: true });
        if bus_id {
            put.push(Put { source, destination: BUS_ID, writable: true });
        }
    }
    Ok(put)
}

/// Written aside and renamed, so that a runtime sees the old one or the new one.
fn write(path: &Path, text: &str) -> Result<(), Error> {
    let fail = || io_error("write", path);
    let mut aside = path.as_os_str().to_owned();
    aside.push(".new");
    let aside = PathBuf::from(aside);
    match fs::remove_file(&aside) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(fail()(error)),
        Ok(()) | Err(_) => {}
    }
    let mut file: File =
        OpenOptions::new().write(true).create_new(true).mode(0o644).open(&aside).map_err(fail())?;
    file.write_all(text.as_bytes()).and_then(|()| fs::rename(&aside, path)).map_err(|source| {
        // Half a file helps nobody; the error is the news.
        drop(fs::remove_file(&aside));
        fail()(source)
    })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    use super::*;

    fn is<T>(done: Result<T, Error>, unfit: &str) -> bool {
        matches!(done, Err(Error::Unfit(why)) if why.to_string().contains(unfit))
    }

    #[test]
    fn a_directory_of_something_else_is_left_alone() {
        let top = tempfile::tempdir().unwrap();
        let (dir, config) = (top.path().join("b"), top.path().join("b/config.json"));
        let made = make(&dir, "web").unwrap();
        assert_eq!(made, dir.canonicalize().unwrap());
        assert_eq!(fs::metadata(&dir).unwrap().permissions().mode() & 0o777, 0o700);
        let foreign = |content: &str| {
            fs::write(&config, content).unwrap();
            let refused = make(&dir, "web").unwrap_err().to_string();
            assert!(refused.contains("is not of this activation"), "{refused}");
            assert_eq!(fs::read_to_string(&config).unwrap(), content);
        };
        foreign("{}");
        foreign("no JSON");
        foreign(r#"{"annotations":{"veneer.activation":"other"}}"#);
        fs::write(&config, r#"{"annotations":{"veneer.activation":"web"}}"#).unwrap();
        assert!(make(&dir, "web").is_ok());
        for odd in ["link", "fifo"] {
            fs::remove_file(&config).unwrap();
            match odd {
                "link" => symlink("/dev/null", &config).unwrap(),
                _ => nix::unistd::mkfifo(&config, nix::sys::stat::Mode::S_IRWXU).unwrap(),
            }
            assert!(is(make(&dir, "web"), "is not of this activation"), "{odd}");
        }
        let (under, file) = (top.path().join("no/b"), top.path().join("f"));
        fs::write(&file, "").unwrap();
        for bad in [under, file] {
            assert!(is(make(&bad, "web"), "bundle \""), "{bad:?}");
        }
    }

    #[test]
    fn files_of_one_bundle_lie_beside_it_and_only_when_asked_for() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(beside(dir.path(), &BundleOptions::default(), true).unwrap(), []);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
        let host_name = Some("web".to_owned());
        let options =
            BundleOptions { host_name, empty_machine_id: true, ..BundleOptions::default() };
        let places = |bus_id| -> Vec<&str> {
            let put = beside(dir.path(), &options, bus_id).unwrap();
            put.iter().map(|put| put.destination).collect()
        };
        assert_eq!(places(false), ["/etc/hostname", "/etc/machine-id"]);
        assert_eq!(places(true), ["/etc/hostname", "/etc/machine-id", BUS_ID]);
        assert_eq!(fs::read_to_string(dir.path().join("hostname")).unwrap(), "web\n");
        assert_eq!(fs::read(dir.path().join("machine-id")).unwrap(), b"");
    }

    #[test]
    fn a_file_of_the_callers_is_a_file() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("hosts");
        let of = |hosts: &Path| {
            given(&BundleOptions { hosts: Some(hosts.into()), ..BundleOptions::default() })
        };
        assert!(of(&file).unwrap_err().to_string().starts_with("--hosts "));
        assert!(is(of(dir.path()), "not a file"));
        fs::write(&file, "127.0.0.1 localhost\n").unwrap();
        let put = of(&file).unwrap();
        assert_eq!((put[0].destination, put[0].writable), ("/etc/hosts", false));
        assert!(put[0].source.is_absolute());
    }
}
