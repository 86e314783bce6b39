//! The jobs that need no device-mapper. What each asks for is in the aim; the lines are for bash.

use std::path::Path;

use anyhow::{Context, Result};

use super::{Against, Contender, Job, On, Setup, layers, peers};
use crate::s3::Server;

/// GNU tar as an extractor of layers: owners, modes, attributes as they are.
const TAR: &str = "tar -x -p --numeric-owner --xattrs '--xattrs-include=*' -C \"$OUT\"";

/// Names of all jobs here, in order.
pub const NAMES: [&str; 12] = [
    "fetch",
    "unpack",
    "unpack-bare",
    "image",
    "image-bare",
    "stream",
    "stages",
    "stages-once",
    "gzip",
    "zstd",
    "start-up",
    "no-op",
];

/// How ours unpacks, from stdin.
fn applied(setup: &Setup, digests: bool) -> String {
    let unpack = setup.programs.join("unpack");
    let none = if digests { "" } else { " --digests none" };
    format!("{} -q --sandbox require --sync{none} --root \"$OUT\"", unpack.display())
}

/// Collects the contenders of a job that are installed.
pub(super) struct Columns<'a> {
    setup: &'a Setup,
    pub(super) there: Vec<Contender>,
    missing: Vec<&'static str>,
    on: On,
}

impl<'a> Columns<'a> {
    /// Begins with ours.
    pub(super) fn ours(setup: &'a Setup, name: &'static str, line: String) -> Columns<'a> {
        Columns {
            setup,
            there: vec![Contender { name, line }],
            missing: Vec::new(),
            on: On::Scratch,
        }
    }

    /// `$OUT` is a new ext4 each time.
    fn onto_ext4(self) -> Columns<'a> {
        self.onto(On::Ext4)
    }

    /// `$OUT` is on this.
    pub(super) fn onto(self, on: On) -> Columns<'a> {
        Columns { on, ..self }
    }

    /// One more, if all the `programs` are there; `line` gets their paths.
    pub(super) fn peer(
        mut self,
        name: &'static str,
        programs: &[&'static str],
        line: &str,
    ) -> Columns<'a> {
        let mut line = line.to_owned();
        for program in programs {
            let Some(path) = peers::find(&self.setup.peers, program) else {
                self.missing.push(name);
                return self;
            };
            line = line.replace(&format!("{{{program}}}"), &path.display().to_string());
        }
        self.there.push(Contender { name, line });
        self
    }

    pub(super) fn job(self, name: &'static str, what: String, aim: Option<f64>) -> Job {
        let Columns { there, missing, on, .. } = self;
        Job { name, what, aim, against: Against::Best, times: 1, on, contenders: there, missing }
    }
}

/// `fetch`: an object to nowhere, its sha256 checked.
///
/// # Errors
/// The object cannot be made.
pub fn fetch(setup: &Setup, s3: &Store) -> Result<Job> {
    let (key, digest, mib) = &s3.object;
    let Store { server, .. } = s3;
    let (at, url) = (server.address, format!("http://{}/bench/{key}", server.address));
    let fetch = setup.programs.join("fetch");
    let ours = format!(
        "{} -q --anonymous --endpoint http://{at} --digest sha256:{digest} s3://bench/{key}",
        fetch.display()
    );
    let sum = format!("sha256sum | grep -q ^{digest}");
    let keys = "AWS_ACCESS_KEY_ID= AWS_EC2_METADATA_DISABLED=true AWS_REGION=us-east-1";
    let columns = Columns::ours(setup, "fetch", ours)
        .peer("curl + sha256sum", &["curl"], &format!("{{curl}} -sf {url} | {sum}"))
        .peer(
            "s5cmd + sha256sum",
            &["s5cmd"],
            &format!("{keys} {{s5cmd}} --no-sign-request --endpoint-url http://{at} cat s3://bench/{key} | {sum}"),
        )
        .peer(
            "aws + sha256sum",
            &["aws"],
            &format!("{keys} {{aws}} --no-sign-request --endpoint-url http://{at} s3 cp s3://bench/{key} - | {sum}"),
        );
    Ok(columns.job(
        "fetch",
        format!("an object of {mib} MiB over loopback, sha256 checked"),
        Some(0.8),
    ))
}

/// `unpack`: one large layer onto a new ext4, synced.
///
/// # Errors
/// The layer cannot be made.
pub fn unpack(setup: &Setup) -> Result<Job> {
    let (layer, what) = layers::large(setup)?;
    let image = setup.scratch.join("oci");
    if !image.exists() {
        peers::oci_layout(&layer, &image)?;
    }
    let from = layer.display();
    let ours = format!("{} < {from}", applied(setup, true));
    let sync = "sync -f \"$OUT\"";
    let columns = Columns::ours(setup, "unpack", ours)
        .onto_ext4()
        .peer("GNU tar", &["tar"], &format!("{TAR} -f {from}; {sync}"))
        .peer(
            "bsdtar",
            &["bsdtar"],
            &format!("{{bsdtar}} -x -p --numeric-owner --xattrs -C \"$OUT\" -f {from}; {sync}"),
        )
        .peer(
            "umoci",
            &["umoci"],
            &format!(
                "{{umoci}} raw unpack --image {}:latest \"$OUT/rootfs\"; {sync}",
                image.display()
            ),
        );
    Ok(columns.job(
        "unpack",
        format!("{what}, every fence required, onto a new ext4 on loop, synced at the end"),
        Some(0.8),
    ))
}

/// `unpack-bare`: the same where somebody has checked the layer before, so that no digest is made; nor
/// do the others make one.
///
/// # Errors
/// The layer cannot be made.
pub fn unpack_bare(setup: &Setup) -> Result<Job> {
    let mut job = unpack(setup)?;
    job.contenders[0] = Contender {
        name: "unpack --digests none",
        line: format!("{} < {}", applied(setup, false), layers::large(setup)?.0.display()),
    };
    job.contenders.retain(|contender| contender.name != "umoci");
    job.missing.retain(|name| *name != "umoci");
    Ok(Job { name: "unpack-bare", what: format!("{}, no digest made", job.what), ..job })
}

/// `image` and `image-bare`: the same layer written into an ext4 image, which is made as well and not mounted;
/// in parts of what GNU tar takes, as in `unpack` and `unpack-bare`.
///
/// # Errors
/// The layer cannot be made.
pub fn image(setup: &Setup, name: &'static str) -> Result<Job> {
    let (mut job, aim, ours) = match name {
        "image" => (unpack(setup)?, 0.55, "unpack --image"),
        _ => (unpack_bare(setup)?, 0.4, "unpack --image --digests none"),
    };
    let (from, unpack) = (layers::large(setup)?.0, setup.programs.join("unpack"));
    let none = if name == "image" { "" } else { " --digests none" };
    // Beside the file system that the others write into, on the same disk.
    let (to, unpack) = ("\"$OUT/../../image\"", unpack.display());
    let line = format!(
        "rm -f {to}; {unpack} -q --image {to} --blank 8G && \
         {unpack} -q --sandbox require --sync{none} --image {to} < {}; code=$?; rm -f {to}; exit $code",
        from.display()
    );
    job.contenders[0] = Contender { name: ours, line };
    job.contenders.retain(|contender| [ours, "GNU tar"].contains(&contender.name));
    job.missing.clear();
    let what = format!("{}; ours into an image that is not mounted", job.what);
    Ok(Job { name, what, aim: Some(aim), ..job })
}

/// `stream`: from S3 to a tree.
///
/// # Errors
/// The layer cannot be made.
pub fn stream(setup: &Setup, s3: &Store) -> Result<Job> {
    let fetch = setup.programs.join("fetch");
    let at = s3.server.address;
    let url = format!("http://{at}/bench/{}", s3.layer);
    let ours = format!(
        "{} -q --anonymous --endpoint http://{at} s3://bench/{} | {}",
        fetch.display(),
        s3.layer,
        applied(setup, true)
    );
    let sync = "sync -f \"$OUT\"";
    let columns = Columns::ours(setup, "fetch | unpack", ours).onto_ext4()
        .peer("curl | GNU tar", &["curl", "tar"], &format!("{{curl}} -sf {url} | {TAR}; {sync}"))
        .peer(
            "curl, then GNU tar",
            &["curl", "tar"],
            &format!("{{curl}} -sf -o \"$OUT/../down.tar\" {url}; {TAR} -f \"$OUT/../down.tar\"; rm \"$OUT/../down.tar\"; {sync}"),
        );
    Ok(columns.job("stream", "fetch and unpack of that layer, streamed, synced".into(), None))
}

/// `stages`: the streamed job against each of its stages alone, ours all three.
///
/// # Errors
/// The layer cannot be made.
pub fn stages(setup: &Setup, s3: &Store) -> Result<Job> {
    let mut job = stream(setup, s3)?;
    job.contenders.truncate(1);
    job.missing.clear();
    let (at, key) = (s3.server.address, &s3.layer);
    let fetch = setup.programs.join("fetch");
    let alone =
        format!("{} -q --anonymous --endpoint http://{at} s3://bench/{key}", fetch.display());
    let whole = unpack(setup)?.contenders.swap_remove(0);
    job.contenders.push(Contender { name: "unpack alone", line: whole.line });
    job.contenders.push(Contender { name: "fetch alone", line: alone });
    Ok(Job {
        name: "stages",
        aim: Some(1.15),
        against: Against::Slowest,
        what: "streamed, against its slower stage alone".into(),
        ..job
    })
}

/// `stages-once`: the same where `fetch` checks the layer's digest and `unpack` makes none.
///
/// # Errors
/// The layer cannot be made.
pub fn stages_once(setup: &Setup, s3: &Store) -> Result<Job> {
    let job = stages(setup, s3)?;
    let (fetch, unpack) = (setup.programs.join("fetch"), applied(setup, false));
    let fetched = format!(
        "{} -q --anonymous --endpoint http://{} --digest sha256:{} s3://bench/{}",
        fetch.display(),
        s3.server.address,
        s3.layer_digest,
        s3.layer
    );
    let from = layers::large(setup)?.0;
    let contenders = vec![
        Contender {
            name: "fetch --digest | unpack --digests none",
            line: format!("{fetched} | {unpack}"),
        },
        Contender {
            name: "unpack --digests none alone",
            line: format!("{unpack} < {}", from.display()),
        },
        Contender { name: "fetch --digest alone", line: fetched },
    ];
    let what = "streamed with one digest, against its slower stage alone".into();
    Ok(Job { name: "stages-once", what, contenders, ..job })
}

/// `gzip` and `zstd`: a compressed layer.
///
/// # Errors
/// The layer cannot be compressed.
pub fn compressed(setup: &Setup, name: &'static str) -> Result<Job> {
    let (layer, what) = layers::large(setup)?;
    let (end, how, programs, pipe) = match name {
        "gzip" => ("gz", "gzip -6", ["pigz", "tar"], "{pigz} -dc"),
        _ => ("zst", "zstd -3", ["zstd", "tar"], "{zstd} -dcq"),
    };
    let packed = setup.scratch.join(format!("large.tar.{end}"));
    if !packed.exists() {
        let how = if peers::find(&setup.peers, "pigz").is_some() {
            how.replace("gzip", "pigz")
        } else {
            how.into()
        };
        let status = std::process::Command::new("bash")
            .args(["-c", &format!("{how} -c < {} > {}", layer.display(), packed.display())])
            .status()
            .context(how.clone())?;
        anyhow::ensure!(status.success(), "{how}: {status}");
    }
    let from = packed.display();
    let ours = format!("{} < {from}", applied(setup, true));
    let theirs = format!("{pipe} < {from} | {TAR}; sync -f \"$OUT\"");
    let columns = Columns::ours(setup, "unpack", ours).onto_ext4();
    let columns = match name {
        "gzip" => columns.peer("pigz | GNU tar", &programs, &theirs),
        _ => columns.peer("zstd | GNU tar", &programs, &theirs),
    };
    Ok(columns.job(name, format!("{what} as {name}, synced"), Some(1.0)))
}

/// `start-up`: each of our programs, fifty times.
#[must_use]
pub fn start_up(setup: &Setup) -> Job {
    let line =
        |program: &Path| format!("for n in {{1..50}}; do {} --version; done", program.display());
    let contenders = ["fetch", "unpack", "thin", "registry", "orchestrate"]
        .map(|name| Contender { name, line: line(&setup.programs.join(name)) })
        .to_vec();
    let truth = Contender { name: "/bin/true", line: line(Path::new("/bin/true")) };
    Job {
        name: "start-up",
        what: "one start, with --version".into(),
        aim: None,
        against: Against::Best,
        times: 50,
        on: On::Scratch,
        contenders: contenders.into_iter().chain([truth]).collect(),
        missing: Vec::new(),
    }
}

/// `no-op`: `activate` of what is active, twenty times, on a store of directories.
///
/// # Errors
/// The image cannot be activated.
pub fn no_op(setup: &Setup, s3: &Store) -> Result<Job> {
    let line = no_op_line(setup, s3)?;
    let again =
        Contender { name: "orchestrate", line: format!("for n in {{1..20}}; do {line}; done") };
    Ok(Job {
        name: "no-op",
        what: "`activate` of what is active, on a store of directories".into(),
        aim: None,
        against: Against::Best,
        times: 20,
        on: On::Scratch,
        contenders: vec![again],
        missing: Vec::new(),
    })
}

/// The line that does nothing, once its activation is there, which this makes.
///
/// # Errors
/// The image cannot be activated.
pub fn no_op_line(setup: &Setup, s3: &Store) -> Result<String> {
    let base = setup.scratch.join("no-op");
    let line = format!(
        "{} -q --state {} --store dir:{} --anonymous --endpoint http://{} activate s3://bench/image/ --name one",
        setup.programs.join("orchestrate").display(),
        base.join("state").display(),
        base.join("store").display(),
        s3.server.address,
    );
    super::measure::run(&line, &setup.scratch, false)?;
    Ok(line)
}

/// An S3 server with what the jobs read.
#[derive(Debug)]
pub struct Store {
    /// It ends when this is dropped.
    pub server: Server,
    /// The plain object: key, sha256 in hex, MiB.
    object: (&'static str, String, u64),
    /// The key of the large layer, and its sha256 in hex.
    layer: String,
    layer_digest: String,
}

impl Store {
    /// Starts it, with the object, the large layer and a small image in bucket `bench`.
    ///
    /// # Errors
    /// The server does not start, or files cannot be written.
    pub fn start(setup: &Setup, program: &Path) -> Result<Store> {
        let root = setup.scratch.join("s3");
        std::fs::create_dir_all(&root)?;
        let server = Server::start(program, &root, None)?;
        crate::s3::make_bucket(server.address, "bench")?;
        let put = |key: &str, path: &Path| -> Result<()> {
            let mut file = std::fs::File::open(path)?;
            let length = file.metadata()?.len();
            crate::s3::put(server.address, "bench", key, &mut file, length)
        };
        let (path, mib) = (setup.scratch.join("object"), 512);
        let noise = layers::noise(16 << 20);
        let mut object = std::fs::File::create(&path)?;
        let mut hash = <sha2::Sha256 as sha2::Digest>::new();
        for _ in 0..mib / 16 {
            std::io::Write::write_all(&mut object, &noise)?;
            sha2::Digest::update(&mut hash, &noise);
        }
        let digest = format!("{:x}", sha2::Digest::finalize(hash));
        put("object", &path)?;
        std::fs::remove_file(&path)?;
        let (large, _) = layers::large(setup)?;
        put("layer/1.tar", &large)?;
        let (layer_digest, _) = crate::oci::sum(&large)?;
        let small = setup.scratch.join("small.tar");
        for number in 1..=3u64 {
            layers::made(&small, 20 * number, 8)?;
            put(&format!("image/{number}.tar"), &small)?;
        }
        Ok(Store {
            server,
            object: ("object", digest, mib),
            layer: "layer/1.tar".into(),
            layer_digest,
        })
    }
}
