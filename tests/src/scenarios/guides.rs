//! Every command that docs/operations.md and docs/recovery.md print, typed as it stands there, in the
//! situation that it is for. A line that this does not know fails it, so that a guide cannot outgrow it;
//! lines for systemd are held by `tests/guides.rs`.

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use rustix::process::{Pid, Signal, kill_process};

use super::crash_host::{IMAGES, ONE, put_images};
use crate::guest::daemon::wait;
use crate::guest::{Cmd, Guest, Ran, Running, S3};
use crate::guides::{Line, lines};
use crate::layer;
use crate::scenario::{Needs, Report, Scenario};

/// See the module.
pub const SCENARIO: Scenario =
    Scenario { name: "guides", needs: Needs { timeout_s: 600, ..Needs::DEFAULT }, run };

/// Where an installed host has everything.
const HOME: &str = "/var/lib/veneer";

/// A catalog of no images, and who signed it: by minisign's own program, whose key is thrown away.
const CATALOG: &[u8] = br#"{"version":1,"serial":1,"images":{}}"#;
const CATALOG_KEY: &str = "RWRA/ycwC6PhdAtSVcsEfuAuYJcno4EJUloSXRz+hbNNNeIIVzBadj9s";
const CATALOG_SIGNATURE: &str = "untrusted comment: signature from minisign secret key
RURA/ycwC6PhdAxmgtAlGmJTXfC8V3qd+eHFO7ogJ5GPadeZKnhY1SvDUIB0yM/8s4SnZKAm8dG4lAQePvYAPWqyMyXDuxe6Rws=
trusted comment: for a test
i3ju09NRmspzozi40OESqKdWRcT0HGlpdnKmUQZwkJyl6t2pDXsV+j7AzkAwzn7k3mCVtjGE4mufjVqNaPwHBA==
";

/// Who types.
struct Typist {
    s3: S3,
    /// What stands for the words in capitals.
    means: BTreeMap<&'static str, String>,
    printed: BTreeSet<String>,
    typed: BTreeSet<String>,
    settings: Vec<(&'static str, String)>,
}

impl Typist {
    /// A program, with the environment that a service has of its file.
    fn cmd(&self, words: &[&str]) -> Cmd {
        let cmd = Cmd::new(words[0]).args(&words[1..]);
        let cmd = self.settings.iter().fold(cmd, |cmd, (name, value)| cmd.env(name, value));
        self.s3.environment(cmd)
    }

    /// What a reader does besides, which is in no guide.
    fn does(&self, line: &str) -> Result<Ran> {
        let words: Vec<&str> = line.split_whitespace().collect();
        self.cmd(&words).run()
    }

    fn words(&mut self, line: &str) -> Result<Vec<String>> {
        ensure!(self.printed.contains(line), "no guide has `{line}` any more");
        self.typed.insert(line.to_owned());
        let word = |word: &str| match self.means.get(word) {
            Some(meant) => meant.clone(),
            None => word.to_owned(),
        };
        Ok(line.split_whitespace().map(word).collect())
    }

    /// Types a line of a guide, which ends so.
    fn types(&mut self, line: &str, codes: &[i32]) -> Result<Ran> {
        let words = self.words(line)?;
        let ran = self.cmd(&words.iter().map(String::as_str).collect::<Vec<_>>()).run()?;
        ensure!(ran.code.is_some_and(|code| codes.contains(&code)), "`{line}`: {ran}");
        for wrong in ["Unrecognized", "Required ", "see orchestrate --help", "usage:"] {
            ensure!(!ran.stderr.contains(wrong), "`{line}` is not how it is used: {ran}");
        }
        Ok(ran)
    }

    /// Types a line that goes on until a signal.
    fn types_on(&mut self, line: &str) -> Result<Running> {
        let words = self.words(line)?;
        self.cmd(&words.iter().map(String::as_str).collect::<Vec<_>>()).spawn()
    }

    fn means(&mut self, word: &'static str, meant: impl Into<String>) {
        self.means.insert(word, meant.into());
    }
}

fn run(guest: &mut Guest) -> Result<Report> {
    let s3 = guest.s3()?;
    put_images(&s3)?;
    let home = guest.scratch().join("veneer");
    std::fs::create_dir_all(&home)?;
    // Above the notes that other scenarios' pools have left there.
    std::fs::create_dir_all(HOME)?;
    rustix::mount::mount_bind(&home, HOME)?;
    let lines = lines();
    for line in lines.iter().filter(|line| !line.is_command()) {
        is_no_command(line)?;
    }
    let printed: Vec<&Line> =
        lines.iter().filter(|line| line.is_command() && !line.is_systemds()).collect();
    let mut typist = Typist {
        s3,
        means: BTreeMap::new(),
        printed: printed.iter().map(|line| line.text.clone()).collect(),
        typed: BTreeSet::new(),
        settings: Vec::new(),
    };
    typist.means("DIR", format!("{HOME}/pool"));
    typist.means("FILE", guest.scratch().join("backup.db").display().to_string());
    typist.means("NAME", "web-1");
    typist.means("IMAGE", IMAGES[1]);
    typist.means("REFERENCE", format!("{}1.tar", IMAGES[0]));

    // Sparse, so that there is room for what the guide grows it to.
    typist.does(&format!("thin pool init {HOME}/pool --data 256M --sparse"))?.expect(0)?;
    typist.does(&format!("orchestrate activate {} --name web-1", IMAGES[0]))?.expect(0)?;
    typist.does(&format!("orchestrate ensure {}", IMAGES[1]))?.expect(0)?;
    every_day(&mut typist).context("every day")?;
    room(&mut typist, guest.scratch()).context("room")?;
    activations(&mut typist, guest.scratch()).context("activations")?;
    runs(&mut typist).context("runs")?;
    trust(&mut typist, guest.scratch()).context("trust")?;
    registry(&mut typist).context("the registry")?;
    pool(&mut typist).context("the pool")?;

    let left: Vec<&&Line> =
        printed.iter().filter(|line| !typist.typed.contains(&line.text)).collect();
    ensure!(left.is_empty(), "printed, and not typed by this scenario: {left:#?}");
    for reference in IMAGES.iter().chain(&[ONE, "s3://crash/once/", "s3://crash/stuck/"]) {
        typist.does(&format!("orchestrate rm {reference}"))?;
    }
    typist.does(&format!("thin pool down {HOME}/pool"))?.expect(0)?;
    rustix::mount::unmount(HOME, rustix::mount::UnmountFlags::empty())?;
    Ok(Report::new().figure("lines", printed.len()).figure("distinct", typist.typed.len()))
}

/// What stands as code and is no command must not begin with a program of this machine.
fn is_no_command(line: &Line) -> Result<()> {
    let Some((first, _)) = line.text.split_once(' ') else { return Ok(()) };
    // A message may begin with a word that is also a program's name.
    if ["which", "id"].contains(&first) {
        return Ok(());
    }
    let path = std::env::var("PATH")?;
    let there = path.split(':').any(|dir| Path::new(dir).join(first).exists());
    ensure!(!there, "{}: `{}` looks like a command", line.guide, line.text);
    Ok(())
}

fn signal(running: &Running, signal: Signal) -> Result<()> {
    let pid = Pid::from_raw(i32::try_from(running.id())?).context("a process")?;
    Ok(kill_process(pid, signal)?)
}

fn every_day(typist: &mut Typist) -> Result<()> {
    for line in [
        "orchestrate health",
        "orchestrate runs",
        "orchestrate runs --all",
        "orchestrate events",
        "orchestrate ls",
        "orchestrate df",
        "orchestrate metrics",
        "orchestrate config",
        "orchestrate verify",
        "registry check",
        "thin pool status DIR",
    ] {
        typist.types(line, &[0])?;
    }
    let follow = typist.types_on("orchestrate events --follow")?;
    std::thread::sleep(Duration::from_secs(2));
    signal(&follow, Signal::INT)?;
    let told = follow.wait()?.expect(0)?;
    ensure!(told.text()?.contains("web-1"), "nothing was told: {told}");
    // The next day as well.
    for _ in 0..2 {
        typist.types("registry backup FILE", &[0])?;
    }
    let mut daemon = typist.types_on("orchestrate serve")?;
    let socket = Path::new(HOME).join("serve.sock");
    wait(|| {
        ensure!(daemon.running()?, "the daemon ended");
        Ok(crate::guest::daemon::get(&socket, "/healthz").is_ok())
    })?;
    signal(&daemon, Signal::TERM)?;
    daemon.wait()?.expect(0)?;
    typist.means("REFERENCE/", IMAGES[0]);
    typist.types("fetch --list REFERENCE/", &[0])?;
    typist.types("fetch -v REFERENCE -o /dev/null", &[0])?;
    let null = std::fs::symlink_metadata("/dev/null")?.file_type();
    ensure!(null.is_char_device(), "/dev/null is a file now");
    Ok(())
}

fn room(typist: &mut Typist, scratch: &Path) -> Result<()> {
    typist.types("thin usage", &[0])?;
    typist.types("orchestrate gc --max-used 70%", &[0])?;
    typist.types("orchestrate gc", &[0])?;
    typist.types("thin pool grow DIR --data 40G", &[0])?;
    // Whoever has it mounted is let go, and what the pool holds of it stays.
    let holder = mounted(scratch)?;
    typist.types("thin rescue", &[0])?;
    close(holder)?;
    typist.does("orchestrate deactivate web-1")?.expect(0)?;
    activate(typist)
}

fn activate(typist: &Typist) -> Result<()> {
    typist.does(&format!("orchestrate activate {} --name web-1", IMAGES[0]))?.expect(0)?;
    Ok(())
}

/// The activation, mounted by somebody in a mount namespace of their own.
fn mounted(scratch: &Path) -> Result<Running> {
    let point = scratch.join("mounted");
    std::fs::create_dir_all(&point)?;
    let script = format!(
        "mount -t ext4 /dev/mapper/web-1 {point} && echo y > {point}.is && exec sleep 1000000",
        point = point.display()
    );
    let sign = point.with_extension("is");
    drop(std::fs::remove_file(&sign));
    let holder = Cmd::new("unshare").args(["-m", "sh", "-c", &script]).spawn()?;
    wait(|| Ok(sign.exists()))?;
    Ok(holder)
}

fn close(mut holder: Running) -> Result<()> {
    holder.kill()?;
    holder.wait()?;
    // The namespace goes after the process that was the last in it.
    std::thread::sleep(Duration::from_millis(200));
    Ok(())
}

fn activations(typist: &mut Typist, scratch: &Path) -> Result<()> {
    // In use: it goes when it is closed.
    let holder = mounted(scratch)?;
    typist.does("orchestrate rm web-1")?.expect_message(111, "in use: mounted at ")?;
    typist.types("orchestrate rm --when-closed NAME", &[0])?;
    close(holder)?;
    typist.does("orchestrate recover")?.expect(0)?;
    activate(typist)?;

    // Its name is somebody else's.
    typist.does("dmsetup remove web-1")?.expect(0)?;
    Cmd::new("dmsetup").args(["create", "web-1", "--table", "0 8 error"]).run()?.expect(0)?;
    let again = typist.does(&format!("orchestrate activate {} --name web-1", IMAGES[0]))?;
    again.expect_message(100, "which is not ours and is left alone")?;
    typist.types("dmsetup info NAME", &[0])?;
    typist.types("orchestrate rm NAME", &[0])?;
    typist.does("dmsetup remove web-1")?.expect(0)?;
    activate(typist)?;

    // Its thin is gone.
    let shown = typist.does("orchestrate show web-1 --json")?.expect(0)?.json()?;
    let volume = shown["activation"]["volume"].to_string();
    typist.does("dmsetup remove web-1")?.expect(0)?;
    let message = format!("delete {volume}");
    Cmd::new("dmsetup").args(["message", "veneer", "0", &message]).run()?.expect(0)?;
    let told = typist.does("orchestrate health")?.expect(1)?;
    ensure!(told.text()?.contains("gone from the store"), "{told}");
    typist.types("orchestrate rm NAME", &[0])?;
    activate(typist)?;

    // Somebody looks at a layer.
    let origin = &typist.does("orchestrate show web-1 --json")?.expect(0)?.json()?;
    let origin = origin["activation"]["origin"].to_string();
    typist.does(&format!("thin activate {origin} looked-at --size 4G --ro"))?.expect(0)?;
    let told = typist.does("orchestrate ls")?.expect(0)?;
    ensure!(told.text()?.contains("mapped read-only"), "{told}");
    typist.types("thin ls", &[0])?;
    typist.means("DEVICE", "looked-at");
    typist.types("thin deactivate DEVICE", &[0])?;

    // A look that is safe, and room.
    typist.means("ID", origin);
    typist.types("thin look ID", &[0])?;
    typist.means("POOL-seen-ID", format!("veneer-seen-{}", typist.means["ID"]));
    typist.types("thin run --name POOL-seen-ID --ro -- ls -l", &[0])?;
    typist.types("thin deactivate POOL-seen-ID", &[0])?;
    typist.types("thin grow NAME --size 20G", &[0])?;

    // Another size, and what is checked after a power cut: as the guide has it, and nothing is wrong here.
    typist.types("orchestrate show NAME", &[0])?;
    typist.means("/dev/mapper/NAME", "/dev/mapper/web-1");
    typist.types("chown 65534 /dev/mapper/NAME", &[0])?;
    let check = "setpriv --reuid 65534 --regid 65534 --clear-groups e2fsck -fp /dev/mapper/NAME";
    typist.types(check, &[0, 1])?;
    typist.types("orchestrate checked NAME", &[0])?;
    Ok(())
}

/// An image whose first layer is held back in the middle.
fn stuck(typist: &Typist, image: &str) -> Result<(Running, String)> {
    let words = ["orchestrate", "ensure", image];
    typist.s3.proxy.hold("/1.tar", 4096);
    let running = typist.cmd(&words).spawn()?;
    let mut id = None;
    wait(|| {
        let runs = typist.does("orchestrate runs --json")?.expect(0)?.json_lines()?;
        let run = runs.iter().find(|run| run["subject"] == words[2] && run["step"] != "");
        id = run.filter(|run| run["interrupted"] == false).map(|run| run["id"].to_string());
        Ok(id.is_some())
    })?;
    typist.s3.proxy.wait_held(Duration::from_secs(60))?;
    Ok((running, id.context("no run")?))
}

fn runs(typist: &mut Typist) -> Result<()> {
    for number in [1, 2] {
        let layer = layer::stacked(7 + number, 12, 20_000);
        typist.s3.put("crash", &format!("stuck/{number}.tar"), &layer)?;
    }
    let (one, two) = ("s3://crash/once/", "s3://crash/stuck/");
    typist.s3.put("crash", "once/1.tar", &layer::stacked(7, 12, 20_000))?;
    let (running, run) = stuck(typist, two)?;
    typist.means("N", run);
    typist.types("orchestrate show N", &[0])?;
    // It stops at its next safe point, which is after the layer that its server is silent about.
    let cancel = typist.types_on("orchestrate cancel N")?;
    std::thread::sleep(Duration::from_secs(1));
    typist.s3.proxy.cut();
    cancel.wait()?.expect(0)?;
    running.wait()?.expect(111)?;

    let (mut running, _) = stuck(typist, one)?;
    running.kill()?;
    running.wait()?;
    typist.s3.proxy.release();
    typist.types("orchestrate recover -n", &[0])?;
    typist.types("orchestrate recover", &[0])?;
    typist.does(&format!("orchestrate rm {one}"))?.expect(0)?;

    let mut last = 0;
    for _ in 0..5 {
        let (mut running, _) = stuck(typist, one)?;
        // Its bytes may come before the build is begun, which is what is counted.
        wait(|| {
            let volumes = typist.does("registry ls volumes --json")?.expect(0)?.json_lines()?;
            let building = volumes.iter().filter(|volume| volume["state"] == "building");
            let id = building.filter_map(|volume| volume["id"].as_u64()).max().unwrap_or(0);
            let begun = id > last;
            last = last.max(id);
            Ok(begun)
        })?;
        running.kill()?;
        running.wait()?;
        typist.s3.proxy.release();
    }
    let given_up = typist.does("orchestrate recover")?;
    ensure!(given_up.code == Some(100), "five times killed: {given_up}");
    typist.types("orchestrate recover --retry", &[0])?;
    typist.does(&format!("orchestrate ensure {one}"))?.expect(0)?;
    Ok(())
}

fn trust(typist: &mut Typist, scratch: &Path) -> Result<()> {
    typist.s3.put("crash", "evil/1.tar", &layer::named("../../evil"))?;
    typist.does("orchestrate ensure s3://crash/evil/")?.expect(100)?;
    typist.types("orchestrate quarantine", &[0])?;
    let kept = typist.does("orchestrate quarantine --json")?.expect(0)?.json_lines()?;
    let digest = kept.first().and_then(|one| one["digest"].as_str()).context("a digest")?;
    typist.means("sha256:..", digest);
    typist.types("orchestrate quarantine --release sha256:..", &[0])?;

    let script: PathBuf = scratch.join("scanner");
    std::fs::write(&script, "#!/bin/sh\necho '{\"SchemaVersion\": 2, \"Results\": []}'\n")?;
    std::fs::set_permissions(&script, std::fs::Permissions::from_mode(0o755))?;
    typist.settings = vec![("VENEER_SCAN_COMMAND", format!("{} {{}}", script.display()))];
    typist.does(&format!("orchestrate scan {}", IMAGES[1]))?.expect(0)?;
    typist.types("orchestrate scan --show IMAGE", &[0])?;

    typist.s3.put("crash", "catalog.json", CATALOG)?;
    typist.s3.put("crash", "catalog.json.minisig", CATALOG_SIGNATURE.as_bytes())?;
    typist.settings = vec![
        ("VENEER_CATALOG_URL", "s3://crash/catalog.json".into()),
        ("VENEER_CATALOG_KEYS", CATALOG_KEY.into()),
    ];
    typist.types("orchestrate catalog", &[0])?;
    typist.settings.clear();
    Ok(())
}

fn lose(parts: &[&str]) {
    for part in parts {
        drop(std::fs::remove_file(Path::new(HOME).join(part)));
    }
}

fn there_as_before(typist: &Typist) -> Result<()> {
    let listing = typist.does("orchestrate ls --json")?.expect(0)?.json()?;
    ensure!(listing["activations"][0]["name"] == "web-1", "after the rebuild: {listing}");
    Ok(())
}

/// A thin of somebody else's.
fn foreign(id: u32) -> Result<()> {
    let message = format!("create_thin {id}");
    Cmd::new("dmsetup").args(["message", "veneer", "0", &message]).run()?.expect(0)?;
    Ok(())
}

fn registry(typist: &mut Typist) -> Result<()> {
    lose(&["registry.db", "registry.db-wal", "registry.db-shm"]);
    typist.does("orchestrate ls")?.expect_message(100, "orchestrate rebuild")?;
    typist.types("orchestrate rebuild -n", &[0])?;
    typist.types("orchestrate rebuild", &[0])?;
    there_as_before(typist)?;
    // And with all that was beside it.
    for entry in std::fs::read_dir(HOME)? {
        let path = entry?.path();
        match path.ends_with("pool") {
            true => {}
            false if path.is_dir() => std::fs::remove_dir_all(&path)?,
            false => std::fs::remove_file(&path)?,
        }
    }
    typist.does("orchestrate rebuild")?.expect(100)?;
    typist.types("orchestrate rebuild --take-over -n", &[0])?;
    typist.types("orchestrate rebuild --take-over", &[0])?;
    there_as_before(typist)?;

    for ids in ["ID,ID", "254,255"] {
        foreign(254)?;
        foreign(255)?;
        let listed = typist.types("orchestrate gc --purge-foreign", &[0])?;
        ensure!(listed.text()?.contains("254"), "{listed}");
        typist.means("ID,ID", "254,255");
        typist.types(&format!("orchestrate gc --purge-foreign {ids}"), &[0])?;
    }
    condemned(typist)
}

/// A layer that somebody deleted: found, built anew under another id, and the bad one goes.
fn condemned(typist: &mut Typist) -> Result<()> {
    let listing = typist.does("orchestrate ls --json")?.expect(0)?.json()?;
    let images = listing["images"].as_array().context("images")?;
    let image = images.iter().find(|line| line["image"] == IMAGES[1]).context("the image")?;
    let layer = image["layers"].as_array().and_then(|layers| layers.last()).context("a layer")?;
    let message = format!("delete {}", layer["volume"]);
    Cmd::new("dmsetup").args(["message", "veneer", "0", &message]).run()?.expect(0)?;
    typist.types("orchestrate verify", &[1])?;
    typist.types("orchestrate ensure IMAGE", &[0])?;
    typist.types("orchestrate gc", &[0])?;
    typist.types("orchestrate verify", &[0])?;
    typist.does(&format!("orchestrate pin {}", IMAGES[1]))?.expect(0)?;
    typist.types("orchestrate unpin IMAGE", &[0])?;
    typist.types("orchestrate rm IMAGE", &[0])?;
    Ok(())
}

fn pool(typist: &mut Typist) -> Result<()> {
    typist.does("orchestrate rm web-1")?.expect(0)?;
    typist.types("thin pool down DIR", &[0])?;
    typist.types("thin doctor DIR", &[1])?;
    typist.types("thin pool repair DIR --dry-run", &[0])?;
    typist.types("thin pool repair DIR", &[0])?;
    typist.types("thin pool up DIR", &[0])?;
    typist.types("thin doctor DIR", &[0, 1])?;
    typist.types("thin pool down DIR", &[0])?;
    typist.types("thin pool up DIR --rescue", &[0])?;
    typist.types("thin pool down DIR", &[0])?;
    let (there, moved) = (format!("{HOME}/pool"), format!("{HOME}/moved"));
    for line in ["thin pool up DIR --moved", "thin pool repair DIR --moved"] {
        // As a restore does, with its holes.
        let copy = format!("mkdir {moved} && tar -cS -C {there} . | tar -xS -C {moved}");
        Cmd::new("sh").args(["-c", &copy]).run()?.expect(0)?;
        std::fs::remove_dir_all(&there)?;
        std::fs::rename(&moved, &there)?;
        typist.does(&format!("thin pool up {there}"))?.expect_message(100, "--moved")?;
        typist.types(line, &[0])?;
        typist.types("thin pool up DIR", &[0])?;
        typist.types("thin pool down DIR", &[0])?;
    }
    typist.types("thin pool up DIR", &[0])?;
    typist.types("thin pool grow DIR --metadata 64M", &[0])?;
    typist.means("COPY", format!("{HOME}/copy"));
    typist.types("thin pool backup COPY", &[0])?;
    typist.types("thin pool restore DIR COPY", &[100])?;
    typist.types("thin pool down DIR", &[0])?;
    typist.types("thin pool backup COPY --dir DIR", &[0])?;
    typist.types("thin pool restore DIR COPY --dry-run", &[0])?;
    typist.types("thin pool restore DIR COPY", &[0])?;
    typist.types("thin pool up DIR", &[0])?;
    Ok(())
}
