//! The same archives through other readers: where they all agree, we agree; where they differ, we
//! refuse or follow a rule that is written down. GNU tar, bsdtar and Python's tarfile as they are
//! on this machine, each applying one archive to an empty directory.

mod forge;

use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Command, Stdio};

use forge::{GNU, Head, V7, octal, tar};
use unpack::Limits;

/// Applies by another program; the tree it made if it was content.
fn other(program: &str, archive: &Path, to: &Path) -> Option<Vec<String>> {
    std::fs::create_dir(to).unwrap();
    let mut command = match program {
        "tar" => {
            let mut c = Command::new("tar");
            c.args(["-x", "-p", "--same-owner", "--numeric-owner", "-C"])
                .arg(to)
                .arg("-f")
                .arg(archive);
            c
        }
        "bsdtar" => {
            let mut c = Command::new("bsdtar");
            c.args(["-x", "-p", "--numeric-owner", "-C"]).arg(to).arg("-f").arg(archive);
            c
        }
        _ => {
            let mut c = Command::new("python3");
            let code = "import sys,tarfile\nt=tarfile.open(sys.argv[1])\nt.errorlevel=2\n\
                        t.extractall(sys.argv[2],numeric_owner=True,filter='fully_trusted')";
            c.args(["-c", code]).arg(archive).arg(to);
            c
        }
    };
    let status =
        command.stdout(Stdio::null()).stderr(Stdio::null()).status().unwrap_or_else(|e| {
            panic!("{program}: {e}: apt-get install tar libarchive-tools python3")
        });
    status.success().then(|| forge::lines(to))
}

/// Without what is documented to differ: times of directories nobody listed (we set the epoch).
fn comparable(lines: &[String], listed: &[&str]) -> Vec<String> {
    lines
        .iter()
        .map(|line| {
            let fields: Vec<&str> = line.split(' ').collect();
            if fields[1] == "dir" && !listed.contains(&fields[0]) {
                format!("{} dir", fields[0])
            } else {
                line.clone()
            }
        })
        .collect()
}

/// Archives, with the directories that they list.
fn archives() -> Vec<(&'static str, Vec<u8>, Vec<&'static str>)> {
    let mut all = Vec::new();
    for (at, mode) in [0o644, 0o755, 0o4755, 0o2711, 0o1777, 0, 0o7777].into_iter().enumerate() {
        let names = ["mode0", "mode1", "mode2", "mode3", "mode4", "mode5", "mode6"];
        let layer = tar()
            .dir_mode("d", mode | 0o700)
            .with(Head::new("d/f", b'0', 3), "abc", |h| h.mode = octal(mode, 8))
            .end();
        all.push((names[at], layer, vec!["d"]));
    }
    for (name, uid, gid) in
        [("ids0", 0, 7), ("ids1", 7, 0), ("ids2", 65534, 65534), ("ids3", 2_097_151, 1)]
    {
        let layer = tar()
            .with(Head::new("f", b'0', 1), "x", |h| {
                h.uid = octal(uid, 8);
                h.gid = octal(gid, 8);
                h.mode = octal(0o6755, 8);
            })
            .with(Head::new("s", b'2', 0), "", |h| {
                h.uid = octal(uid, 8);
                h.link = b"f".to_vec();
            })
            .end();
        all.push((name, layer, vec![]));
    }
    for (name, time) in [("time0", "0"), ("time1", "1.5"), ("time2", "1700000000.123456789")] {
        all.push((name, tar().pax(&[("mtime", time.as_bytes())]).file("f", "x").end(), vec![]));
    }
    for (name, size) in [
        ("size0", 0),
        ("size1", 1),
        ("size2", 511),
        ("size3", 512),
        ("size4", 513),
        ("size5", 300_000),
    ] {
        all.push((name, tar().file("f", vec![b'x'; size]).file("g", "end").end(), vec![]));
    }
    let long = "l".repeat(120);
    let deep = format!("{}{}", "d/".repeat(60), "f");
    all.extend([
        ("absolute", tar().file("/x/y", "1").end(), vec![]),
        ("dots", tar().file("./a//b/./c", "1").end(), vec![]),
        ("pax path", tar().pax(&[("path", deep.as_bytes())]).file("f", "1").end(), vec![]),
        (
            "long name",
            tar().extension(b'L', format!("{long}\0").as_bytes()).file("f", "1").end(),
            vec![],
        ),
        (
            "long link",
            tar().extension(b'K', format!("{long}\0").as_bytes()).sym("f", "1").end(),
            vec![],
        ),
        (
            "prefix",
            tar().with(Head::new("c", b'0', 1), "1", |h| h.prefix = b"a/b".to_vec()).end(),
            vec![],
        ),
        ("gnu", tar().with(Head::new("f", b'0', 1), "1", |h| h.magic = GNU.to_vec()).end(), vec![]),
        ("v7", tar().with(Head::new("f", 0, 1), "1", |h| h.magic = V7.to_vec()).end(), vec![]),
        (
            "v7 directory",
            tar()
                .with(Head::new("d/", 0, 0), "", |h| {
                    h.magic = V7.to_vec();
                    h.mode = octal(0o755, 8);
                })
                .end(),
            vec!["d"],
        ),
        ("hard link", tar().file("a", "1").hard("b", "a").end(), vec![]),
        ("hard link to symlink", tar().sym("a", "x").hard("b", "a").end(), vec![]),
        ("symlinks", tar().sym("a", "b").sym("c", "/etc/passwd").sym("d", "../..").end(), vec![]),
        ("fifo", tar().node("p", b'6', 0, 0).end(), vec![]),
        ("character device", tar().node("null", b'3', 1, 3).end(), vec![]),
        (
            "directory time",
            tar().dir("d").file("d/f", "1").dir("d/e").file("d/e/g", "2").end(),
            vec!["d", "d/e"],
        ),
        ("duplicate file", tar().file("a", "1").file("a", "22").end(), vec![]),
        (
            "duplicate directory",
            tar().dir("d").file("d/f", "1").dir_mode("d", 0o700).end(),
            vec!["d"],
        ),
        (
            "usrmerge",
            tar().dir("usr").dir("usr/lib").sym("lib", "usr/lib").file("lib/f", "1").end(),
            vec!["usr", "usr/lib"],
        ),
        (
            "usrmerge absolute",
            tar().dir("usr").sym("lib", "/usr").file("lib/f", "1").end(),
            vec!["usr"],
        ),
        ("file over directory", tar().file("d/f", "1").file("d", "2").end(), vec![]),
        ("file over symlink", tar().sym("s", "x").file("s", "2").end(), vec![]),
        ("directory over file", tar().file("d", "1").dir("d").end(), vec!["d"]),
        ("missing parents", tar().file("a/b/c", "1").end(), vec![]),
        ("not utf-8", tar().file(b"\xff\xfe", "1").end(), vec![]),
        ("newline", tar().file("a\nb", "1").end(), vec![]),
        ("dotdot", tar().file("../x", "1").end(), vec![]),
        ("dotdot inside", tar().file("a/../x", "1").end(), vec![]),
        (
            "signed checksum",
            tar().with(Head::new(b"\xff", b'0', 0), "", |h| h.signed = true).end(),
            vec![],
        ),
        (
            "bad checksum",
            tar()
                .file("a", "1")
                .with(Head::new("b", b'0', 0), "", |h| {
                    h.checksum = Some(b"1\0\0\0\0\0\0\0".to_vec())
                })
                .end(),
            vec![],
        ),
        (
            "garbage mode",
            tar().with(Head::new("f", b'0', 0), "", |h| h.mode = b"abcdefg\0".to_vec()).end(),
            vec![],
        ),
        (
            "two pax",
            tar().pax(&[("path", b"a")]).pax(&[("path", b"b")]).file("f", "").end(),
            vec![],
        ),
        (
            "two long names",
            tar().extension(b'L', b"one\0").extension(b'L', b"two\0").file("f", "").end(),
            vec![],
        ),
        (
            "pax and long name",
            tar().pax(&[("path", b"a")]).extension(b'L', b"b\0").file("f", "").end(),
            vec![],
        ),
        (
            "long name and pax",
            tar().extension(b'L', b"b\0").pax(&[("path", b"a")]).file("f", "").end(),
            vec![],
        ),
        (
            "global path",
            tar().extension(b'g', &forge::record("path", "evil")).file("f", "").end(),
            vec![],
        ),
        (
            "pax size",
            tar().pax(&[("size", b"4")]).with(Head::new("f", b'0', 0), "1234", |_| {}).end(),
            vec![],
        ),
        (
            "duplicate size",
            tar().pax(&[("size", b"4"), ("size", b"512")]).file("f", [b'1'; 512]).end(),
            vec![],
        ),
        ("size with plus", tar().pax(&[("size", b"+4")]).file("f", "1234").end(), vec![]),
        ("empty pax path", tar().pax(&[("path", b"")]).file("f", "1").end(), vec![]),
        ("nul in pax path", tar().pax(&[("path", b"a\0b")]).file("f", "1").end(), vec![]),
        ("nul in long name", tar().extension(b'L', b"a\0b\0").file("f", "").end(), vec![]),
        (
            "pax in pax value",
            tar()
                .pax(&[("comment", b"x\n20 path=smuggled\n"), ("mtime", b"7")])
                .file("f", "1")
                .end(),
            vec![],
        ),
        (
            "nul ids and time",
            tar()
                .with(Head::new("f", b'0', 0), "", |h| {
                    h.uid = vec![0; 8];
                    h.gid = vec![0; 8];
                    h.mtime = vec![0; 12];
                })
                .end(),
            vec![],
        ),
        (
            "spaces and a nul",
            tar().with(Head::new("f", b'0', 0), "", |h| h.uid = b"       \0".to_vec()).end(),
            vec![],
        ),
        (
            "digits behind a nul",
            tar().with(Head::new("f", b'0', 0), "", |h| h.uid = b"\x000000007".to_vec()).end(),
            vec![],
        ),
        (
            "docker 2013",
            tar().with(Head::new("f", b'0', 0), "", |h| h.magic = b"ustar\0 \0".to_vec()).end(),
            vec![],
        ),
        (
            "maven",
            tar().with(Head::new("f", b'0', 0), "", |h| h.magic = b"ustar\0\0\0".to_vec()).end(),
            vec![],
        ),
        ("type 0 with a slash", tar().file("d/", "").end(), vec!["d"]),
        (
            "type nul with a slash",
            tar().with(Head::new("d/", 0, 0), "", |h| h.mode = octal(0o755, 8)).end(),
            vec!["d"],
        ),
        (
            "gnu prefix",
            tar()
                .with(Head::new("f", b'0', 0), "", |h| {
                    h.magic = GNU.to_vec();
                    h.prefix = b"a/b".to_vec();
                })
                .end(),
            vec![],
        ),
        (
            "gnu times",
            tar()
                .with(Head::new("f", b'0', 0), "", |h| {
                    h.magic = GNU.to_vec();
                    h.prefix = b"13371130000\x0013371130001".to_vec();
                })
                .end(),
            vec![],
        ),
        (
            "pax sparse",
            tar()
                .pax(&[
                    ("GNU.sparse.size", b"9000"),
                    ("GNU.sparse.numblocks", b"1"),
                    ("GNU.sparse.map", b"4096,5"),
                ])
                .file("f", "12345")
                .end(),
            vec![],
        ),
        (
            "sparse",
            tar().with(Head::new("f", b'S', 0), "", |h| h.magic = GNU.to_vec()).end(),
            vec![],
        ),
        ("unknown type", tar().with(Head::new("f", b'Z', 0), "", |_| {}).end(), vec![]),
        ("type 7", tar().with(Head::new("f", b'7', 1), "1", |_| {}).end(), vec![]),
        (
            "directory with a body",
            tar().with(Head::new("d", b'5', 512), [0; 512], |_| {}).file("e", "").end(),
            vec!["d"],
        ),
        ("uid minus one", tar().pax(&[("uid", b"4294967295")]).file("f", "").end(), vec![]),
        ("no end marker", tar().file("a", "1").0, vec![]),
        ("lone zero block", tar().file("a", "1").raw([0; 512]).file("b", "2").end(), vec![]),
        ("after the end", tar().file("a", "1").raw([0; 1024]).file("b", "2").end(), vec![]),
        ("empty", Vec::new(), vec![]),
        ("truncated body", tar().file("f", [b'x'; 2000]).0[..1200].to_vec(), vec![]),
        ("truncated header", tar().file("f", "1").raw([b'x'; 300]).0, vec![]),
        ("only zeros", vec![0; 10240], vec![]),
    ]);
    all
}

/// Where we are alone: the rule.
const RULES: &[(&str, &str)] = &[
    ("directory with a body", "refused: some readers skip the body and some do not"),
    ("type 7", "POSIX: a contiguous file is a regular file"),
    ("no end marker", "only a digest can vouch for it"),
    ("after the end", "nothing may hide behind the end"),
    ("lone zero block", "nothing may hide behind the end"),
    ("uid minus one", "chown(-1) changes nothing: the file would silently stay root's"),
    ("truncated header", "a truncated archive is refused"),
    ("unknown type", "unknown types are refused, not taken for files"),
    (
        "usrmerge",
        "parents are resolved inside the root, and directories keep the time they were given",
    ),
    ("usrmerge absolute", "parents are resolved inside the root"),
    ("file over directory", "OCI layer.md: remove, then create"),
    ("pax and long name", "refused: readers differ about the other order"),
    ("nul in long name", "refused: the cut name is not the name"),
    ("type 0 with a slash", "refused: Go makes a file of it"),
    ("gnu prefix", "as Go reads it, since Go wrote it"),
    ("sparse", "OCI layer.md: sparse files should not be used"),
];

#[test]
fn where_all_others_agree_so_do_we() {
    let dir = forge::scratch();
    let mut counts: BTreeMap<&str, u32> = BTreeMap::new();
    let mut wrong = Vec::new();
    for (at, (name, layer, listed)) in archives().into_iter().enumerate() {
        let archive = dir.path().join("layer.tar");
        std::fs::write(&archive, &layer).unwrap();
        let others: Vec<Option<Vec<String>>> = ["tar", "bsdtar", "python"]
            .iter()
            .map(|program| {
                let to = dir.path().join(format!("{program}{at}"));
                other(program, &archive, &to).map(|lines| comparable(&lines, &listed))
            })
            .collect();
        let pen = forge::Pen::new();
        let ours = pen.apply(&layer, &Limits::default()).ok();
        let ours = ours.map(|_| comparable(&pen.tree(), &listed));
        let agree = others.windows(2).all(|pair| pair[0] == pair[1]);
        let verdict = match (agree, ours == others[0]) {
            (true, true) => "all agree",
            (false, _) if ours.is_none() => "they differ, we refuse",
            (false, _) if others.contains(&ours) => "they differ, we are with some",
            _ if RULES.iter().any(|(rule, _)| *rule == name) => "we are alone, by a rule",
            _ => {
                wrong.push(format!("{name}: alone: {others:?}, we {ours:?}"));
                "wrong"
            }
        };
        *counts.entry(verdict).or_default() += 1;
    }
    println!("differential: {counts:?}");
    assert!(wrong.is_empty(), "{wrong:#?}");
}
