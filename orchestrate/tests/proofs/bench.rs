//! A server with images, and hosts: a state directory and a store each, that can be copied as they
//! are, run, and compared.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use rusqlite::types::ValueRef;
use rusqlite::{Connection, OpenFlags};
use serde_json::Value;
use sha2::{Digest as _, Sha256};
use tests::guest::proxy::Proxy;
use tests::layer;
use tests::s3::{self, Server};
use tests::tree::Tree;

/// Where the objects are.
const BUCKET: &str = "bucket";

/// A server with images, and room for hosts beside it.
pub(crate) struct Bench {
    dir: tempfile::TempDir,
    _server: Server,
    /// Counts what is fetched.
    pub(crate) proxy: Proxy,
    /// Files in a layer.
    files: usize,
}

/// The S3 server.
pub(crate) fn server() -> PathBuf {
    if let Some(given) = std::env::var_os("VENEER_S3S_FS") {
        return given.into();
    }
    cached("tools/bin/s3s-fs")
}

/// A server that `./bootstrap` has got.
pub(crate) fn cached(name: &str) -> PathBuf {
    let cache = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
    let home = PathBuf::from(std::env::var_os("HOME").expect("HOME is set"));
    let path = cache.unwrap_or_else(|| home.join(".cache")).join("veneer").join(name);
    assert!(path.exists(), "no server at {}: run ./bootstrap", path.display());
    path
}

impl Bench {
    /// Images by name, each of these layers, of `files` files of `bytes` bytes.
    pub(crate) fn new(images: &[(&str, &[u8])], files: usize, bytes: usize) -> Bench {
        assert!(nix::unistd::geteuid().is_root(), "run as root: sudo -E just test-native");
        // Memory, where there is a file system in it: kills and errors do not need a disk.
        let base = [Path::new("/dev/shm"), &std::env::temp_dir()].map(Path::to_path_buf);
        let base = base.into_iter().find(|base| base.is_dir()).expect("a directory");
        Bench::below(&base, images, files, bytes)
    }

    /// The same, where what is written takes no memory of who writes it.
    #[allow(dead_code)]
    pub(crate) fn on_disk(images: &[(&str, &[u8])], files: usize, bytes: usize) -> Bench {
        Bench::below(&std::env::temp_dir(), images, files, bytes)
    }

    fn below(base: &Path, images: &[(&str, &[u8])], files: usize, bytes: usize) -> Bench {
        let dir = tempfile::Builder::new().prefix("veneer-proofs-").tempdir_in(base).unwrap();
        fs::create_dir(dir.path().join("s3")).unwrap();
        fs::write(dir.path().join("settings.toml"), "").unwrap();
        let server = Server::start(&server(), &dir.path().join("s3"), None).unwrap();
        s3::make_bucket(server.address, BUCKET).unwrap();
        for (image, numbers) in images {
            for (pos, number) in numbers.iter().enumerate() {
                let tar = layer::stacked(*number, files, bytes);
                let key = format!("{image}/{}.tar", pos + 1);
                s3::put(server.address, BUCKET, &key, &mut &*tar, tar.len() as u64).unwrap();
            }
        }
        let proxy = Proxy::start(server.address).unwrap();
        Bench { dir, _server: server, proxy, files }
    }

    /// The images `a` (layers 1, 2, 3) and `b` (layers 1, 2, 4), small.
    pub(crate) fn small() -> Bench {
        Bench::new(&[("a", &[1, 2, 3]), ("b", &[1, 2, 4])], 4, 2000)
    }

    /// Where the server itself listens.
    #[allow(dead_code)]
    pub(crate) fn server(&self) -> std::net::SocketAddr {
        self._server.address
    }

    pub(crate) fn put(&self, key: &str, content: &[u8]) {
        let size = content.len() as u64;
        s3::put(self._server.address, BUCKET, key, &mut &*content, size).unwrap();
    }

    pub(crate) fn delete(&self, key: &str) {
        s3::delete(self._server.address, BUCKET, key).unwrap();
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// A host of this name; nothing of it exists until it is used.
    pub(crate) fn host(&self, name: &str) -> Host<'_> {
        Host { bench: self, dir: self.path(name) }
    }

    /// The GETs of objects so far: the keys.
    pub(crate) fn gets(&self) -> Vec<String> {
        let exchanges = self.proxy.exchanges().into_iter();
        exchanges.filter(|one| one.is_object()).map(|one| one.target).collect()
    }

    /// Of the objects asked for since there had been `before` requests, those that were finished then.
    pub(crate) fn fetched_again(&self, before: usize, finished: &[String]) -> Vec<String> {
        let again = |key: &String| finished.iter().any(|done| key.ends_with(&format!("/{done}")));
        self.gets().split_off(before).into_iter().filter(again).collect()
    }
}

/// A state directory and a store.
pub(crate) struct Host<'b> {
    bench: &'b Bench,
    pub(crate) dir: PathBuf,
}

impl<'b> Host<'b> {
    pub(crate) fn bench(&self) -> &'b Bench {
        self.bench
    }

    /// Sets the text of the settings, which all hosts of a bench share.
    pub(crate) fn settings(&self, text: &str) {
        fs::write(self.bench.path("settings.toml"), text).unwrap();
    }

    pub(crate) fn state(&self) -> PathBuf {
        self.dir.join("state")
    }

    pub(crate) fn store(&self) -> PathBuf {
        self.dir.join("store")
    }

    pub(crate) fn command(&self, words: &[&str]) -> Command {
        self.command_on(&self.state(), &self.store(), words)
    }

    /// With this state directory and this store, which need not be its own.
    pub(crate) fn command_on(&self, state: &Path, store: &Path, words: &[&str]) -> Command {
        self.command_of(self.bench.proxy.address, state, store, words)
    }

    /// With a server of the caller's.
    #[allow(dead_code)]
    pub(crate) fn command_at(&self, server: std::net::SocketAddr, words: &[&str]) -> Command {
        self.command_of(server, &self.state(), &self.store(), words)
    }

    fn command_of(
        &self,
        server: std::net::SocketAddr,
        state: &Path,
        store: &Path,
        words: &[&str],
    ) -> Command {
        // Another build of it may be held against the same proofs.
        let program = std::env::var_os("VENEER_PROOFS_PROGRAM");
        let program = program.unwrap_or_else(|| env!("CARGO_BIN_EXE_orchestrate").into());
        let mut command = Command::new(program);
        let url = format!("http://{server}");
        command
            .args(["--json", "--anonymous", "--endpoint", &url, "--state"])
            .arg(state)
            .arg("--store")
            .arg(format!("dir:{}", store.display()))
            .args(words)
            // Not this machine's own settings.
            .env("VENEER_CONFIG", self.bench.path("settings.toml"))
            .stdin(Stdio::null());
        command
    }

    pub(crate) fn ok(&self, words: &[&str]) -> Value {
        json(words, &self.command(words).output().unwrap())
    }

    /// Exit code, and all that was said.
    pub(crate) fn said(&self, words: &[&str]) -> (i32, String) {
        let ran = self.command(words).output().unwrap();
        let text = String::from_utf8_lossy(&ran.stderr).into_owned();
        (ran.status.code().unwrap(), text + &String::from_utf8_lossy(&ran.stdout))
    }

    /// What has nothing to do with the damage can be made of `b`, used and removed, and nobody is waited for.
    pub(crate) fn others_go_on(&self) {
        self.ok(&["activate", "s3://bucket/b/", "--name", "other", "--wait", "0"]);
        self.check_tree("other", 4);
        self.ok(&["rm", "other", "--wait", "0"]);
    }

    /// The host as it stands, also in the middle of a run, under another name.
    pub(crate) fn copy_to(&self, name: &str) -> Host<'b> {
        let copy = self.bench.host(name);
        copy.wipe();
        if self.dir.exists() {
            let copied = Command::new("cp").arg("-a").args([&self.dir, &copy.dir]).status();
            assert!(copied.unwrap().success(), "cannot copy {}", self.dir.display());
        }
        copy
    }

    pub(crate) fn wipe(&self) {
        match fs::remove_dir_all(&self.dir) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                panic!("{}: {error}", self.dir.display())
            }
            Ok(()) | Err(_) => {}
        }
    }

    /// Rows and directories agree, nothing is half done, and nothing lies about.
    pub(crate) fn check(&self) {
        let recover = self.ok(&["recover", "--dry-run"]);
        assert_eq!(recover["repairs"], serde_json::json!([]), "recovery has left something");
        let registry = registry::Registry::open(&self.state().join("registry.db")).unwrap();
        assert_eq!(registry.check().unwrap(), []);
        let mut rows: Vec<u32> =
            registry.volumes().unwrap().iter().map(|row| row.id.get()).collect();
        rows.extend(registry.activations().unwrap().iter().map(|row| row.id.get()));
        rows.extend(registry.points().unwrap().iter().map(|row| row.id.get()));
        rows.sort_unstable();
        let mut dirs: Vec<u32> = names(&self.store().join("volumes"))
            .iter()
            .map(|name| name.parse().expect("a volume's name is its id"))
            .collect();
        dirs.sort_unstable();
        assert_eq!(rows, dirs, "rows and directories");
        let active: Vec<String> = registry
            .activations()
            .unwrap()
            .into_iter()
            .filter(|row| row.state == registry::ActivationState::Active)
            .map(|row| row.name)
            .collect();
        assert_eq!(active, names(&self.store().join("active")), "activations and links");
        let mut store = names(&self.store());
        // Where a signed catalog was believed.
        store.retain(|name| name != "serials");
        assert_eq!(store, ["active", "made", "notes", "transaction", "veneer-store", "volumes"]);
        let mut notes: Vec<u32> = names(&self.store().join("notes"))
            .iter()
            .map(|name| name.parse().expect("a note's name is its volume's id"))
            .collect();
        notes.sort_unstable();
        assert_eq!(rows, notes, "rows and notes");
        assert_eq!(names(&self.store().join("made")), names(&self.store().join("notes")));
    }

    pub(crate) fn check_tree(&self, name: &str, top: u8) {
        let srv = self.store().join("active").join(name).join("srv");
        let count = |number: u8| {
            fs::read_dir(srv.join(format!("layer-{number}"))).map_or(0, |entries| entries.count())
        };
        let files = self.bench.files;
        assert_eq!((count(1), count(top)), (files - 1, files), "the tree of {name}");
    }

    /// A connection to a copy of the registry: looking at the file itself would change it.
    fn aside(&self) -> Option<Aside> {
        if !self.state().join("registry.db").exists() {
            return None;
        }
        let dir = tempfile::tempdir_in(self.bench.dir.path()).unwrap();
        for part in ["registry.db", "registry.db-wal"] {
            let (from, to) = (self.state().join(part), dir.path().join(part));
            if from.exists() {
                fs::copy(from, to).unwrap();
            }
        }
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let conn = Connection::open_with_flags(dir.path().join("registry.db"), flags).unwrap();
        conn.pragma_update(None, "synchronous", "OFF").ok();
        Some(Aside { conn, _dir: dir })
    }

    /// The rows of a query, as text.
    pub(crate) fn rows(&self, sql: &str) -> Vec<String> {
        self.aside().map_or_else(Vec::new, |aside| aside.rows(sql))
    }

    /// Takes the registry away, with its log; what of it is not there is fine.
    pub(crate) fn lose_registry(&self) {
        for part in ["registry.db", "registry.db-wal", "registry.db-shm"] {
            drop(fs::remove_file(self.state().join(part)));
        }
    }

    /// Everything that recovery goes by, without times: two hosts of the same text are in the same
    /// state after a crash.
    pub(crate) fn state_text(&self) -> String {
        let mut text = String::new();
        let aside = self.aside();
        let rows = |sql: &str| aside.as_ref().map_or_else(Vec::new, |aside| aside.rows(sql));
        let tables = "SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT IN ('events', 'counters')
                      AND name NOT LIKE 'sqlite_%' ORDER BY name";
        for table in rows(tables) {
            let columns = format!(
                "SELECT name FROM pragma_table_info('{table}') WHERE name NOT LIKE '%\\_ms' ESCAPE '\\'
                 AND name NOT IN ('store_id', 'seal_key', 'result')"
            );
            let columns = rows(&columns).join(", ");
            writeln!(text, "{table}: {columns}").unwrap();
            for row in rows(&format!("SELECT {columns} FROM {table} ORDER BY 1, 2")) {
                writeln!(text, "  {row}").unwrap();
            }
        }
        let store = Path::new("transaction");
        let transaction = fs::read_to_string(self.store().join(store)).unwrap_or_default();
        writeln!(text, "transaction {transaction}").unwrap();
        for name in names(&self.store()) {
            writeln!(text, "{name}").unwrap();
        }
        for place in ["volumes", "active"] {
            for name in names(&self.store().join(place)) {
                let path = self.store().join(place).join(&name);
                writeln!(text, "{place} {name} {:x}", tree_digest(&path)).unwrap();
            }
        }
        text
    }

    /// What has to be the same however the host came here: everything but ids and times.
    pub(crate) fn end_text(&self) -> String {
        let mut text = String::new();
        let aside = self.aside();
        let rows = |sql: &str| aside.as_ref().map_or_else(Vec::new, |aside| aside.rows(sql));
        for (what, sql) in END {
            for row in rows(sql) {
                writeln!(text, "{what}: {row}").unwrap();
            }
        }
        // What the store itself keeps of catalogs, behind a head of 52 bytes.
        if let Ok(serials) = fs::read(self.store().join("serials")) {
            let kept: Value = serde_json::from_slice(&serials[52..]).unwrap();
            writeln!(text, "kept: {}", kept["catalogs"]).unwrap();
        }
        let trees = "SELECT ifnull(chain, role), id FROM volumes WHERE state = 'sealed'
                     UNION ALL SELECT 'activation ' || name, id FROM activations ORDER BY 1";
        for row in rows(trees) {
            let (name, id) = row.rsplit_once(" | ").unwrap();
            let tree = Tree::read(&self.store().join("volumes").join(id)).unwrap();
            writeln!(text, "tree {name}: {:x}", Sha256::digest(format!("{tree:?}"))).unwrap();
        }
        text
    }

    /// Keys of the objects whose blob was known and sealed in a layer when the host was left.
    pub(crate) fn finished(&self) -> Vec<String> {
        self.rows(
            "SELECT DISTINCT s.key FROM sources s JOIN volumes v ON v.blob = s.digest
             WHERE v.state = 'sealed'",
        )
    }
}

/// A copy of a registry, to ask.
struct Aside {
    conn: Connection,
    _dir: tempfile::TempDir,
}

impl Aside {
    fn rows(&self, sql: &str) -> Vec<String> {
        // A file without tables yet has no rows.
        let Ok(mut statement) = self.conn.prepare(sql) else { return Vec::new() };
        let columns = statement.column_count();
        let mut rows = statement.query([]).unwrap();
        let mut lines = Vec::new();
        while let Some(row) = rows.next().unwrap() {
            let cells = (0..columns).map(|column| text(row.get_ref(column).unwrap()));
            lines.push(cells.collect::<Vec<_>>().join(" | "));
        }
        lines
    }
}

const END: &[(&str, &str)] = &[
    (
        "volume",
        "SELECT v.role, v.chain, v.diff, v.blob, v.tree, v.state, v.bytes, v.own_bytes, v.entries,
           v.content_bytes, p.chain FROM volumes v LEFT JOIN volumes p ON p.id = v.parent ORDER BY 1, 2",
    ),
    ("blob", "SELECT digest, diff, size, diff_size FROM blobs ORDER BY 1"),
    ("source", "SELECT bucket, key, etag, size, digest FROM sources ORDER BY 1, 2"),
    ("image", "SELECT reference, chain FROM images ORDER BY 1"),
    (
        "image layer",
        "SELECT l.reference, l.pos, l.key, l.etag, l.size, l.digest, v.chain FROM image_layers l
         JOIN volumes v ON v.id = l.volume ORDER BY 1, 2",
    ),
    (
        "activation",
        "SELECT a.name, a.reference, v.chain, a.bytes, a.state FROM activations a
         JOIN volumes v ON v.id = a.origin ORDER BY 1",
    ),
    ("attempt", "SELECT build, begun FROM attempts"),
    ("refused", "SELECT digest, below, unpacker, size, key, message FROM quarantine ORDER BY 1, 2"),
    ("scan", "SELECT chain, command, scanner, policy, format FROM scans ORDER BY 1, 2"),
    ("catalog", "SELECT url, serial, digest, stored FROM catalogs ORDER BY 1"),
    ("listed", "SELECT url, image, content FROM catalog_images ORDER BY 1, 2"),
    ("label", "SELECT a.name, l.key, l.value FROM labels l JOIN activations a ON a.id = l.activation ORDER BY 1, 2"),
    ("point", "SELECT activation, name, state FROM points ORDER BY 1, 2"),
    ("pinned", "SELECT reference FROM images WHERE pinned = 1 ORDER BY 1"),
    ("ttl", "SELECT name, ttl_s FROM activations WHERE ttl_s IS NOT NULL ORDER BY 1"),
];

fn text(value: ValueRef<'_>) -> String {
    match value {
        ValueRef::Null => "-".into(),
        ValueRef::Integer(number) => number.to_string(),
        ValueRef::Real(number) => number.to_string(),
        ValueRef::Text(bytes) => String::from_utf8_lossy(bytes).into_owned(),
        ValueRef::Blob(bytes) => format!("{bytes:?}"),
    }
}

/// Whether a command has done what it can. No collection makes the file system of a directory store
/// empty, since others use it too: then `gc` with that bound says no.
pub(crate) fn is_good(words: &[&str], code: Option<i32>) -> bool {
    let bound = words.contains(&"gc") && words.contains(&"--keep-bytes");
    code == Some(if bound { 1 } else { 0 })
}

/// Names in a directory, sorted; none where it is not there.
pub(crate) fn names(dir: &Path) -> Vec<String> {
    let Ok(entries) = fs::read_dir(dir) else { return Vec::new() };
    let mut names: Vec<String> =
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// A tree without its times: a directory that was being filled has that of the moment.
pub(crate) fn tree_digest(path: &Path) -> sha2::digest::Output<Sha256> {
    let mut lines: BTreeMap<PathBuf, String> = BTreeMap::new();
    let mut open = vec![PathBuf::new()];
    while let Some(at) = open.pop() {
        let whole = if at.as_os_str().is_empty() { path.to_owned() } else { path.join(&at) };
        let Ok(found) = fs::symlink_metadata(&whole) else { continue };
        let content = if found.is_dir() {
            open.extend(names(&whole).into_iter().map(|name| at.join(name)));
            String::new()
        } else if found.is_symlink() {
            fs::read_link(&whole).unwrap().display().to_string()
        } else {
            format!("{:x}", Sha256::digest(fs::read(&whole).unwrap()))
        };
        use std::os::unix::fs::MetadataExt as _;
        lines.insert(at, format!("{:o} {} {content}", found.mode(), found.uid()));
    }
    Sha256::digest(format!("{lines:?}"))
}

pub(crate) fn json(words: &[&str], output: &Output) -> Value {
    let said = String::from_utf8_lossy(&output.stderr);
    let told = String::from_utf8_lossy(&output.stdout);
    assert!(is_good(words, output.status.code()), "{words:?}: {}: {said}{told}", output.status);
    serde_json::from_slice(&output.stdout).unwrap()
}
