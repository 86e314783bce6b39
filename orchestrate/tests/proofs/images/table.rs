//! What has gone wrong elsewhere with layouts, archives, documents and platforms, a row each with its right outcome.

use std::fs;
use std::path::Path;

use serde_json::{Value, json};
use tests::layer;
use tests::tree::Tree;

use crate::bench::{Bench, Host};
use crate::images::layout::{
    CONFIG, Family, Image, Layout, MANIFEST, Member, Packing, Saved, archive, gzip, saved, sha,
    zstd,
};

/// A case writes what it needs below a directory and gives the words behind `ensure`.
type Write = fn(&Path) -> Vec<String>;

fn image() -> Image {
    Image::of(&[1, 2, 3])
}

fn at(dir: &Path, form: &str, rest: &str) -> Vec<String> {
    vec![format!("{form}:{}{rest}", dir.display())]
}

/// A layout whose only manifest is changed before it is put there.
fn with_manifest(dir: &Path, change: impl FnOnce(&mut Layout, &mut Value)) -> Vec<String> {
    let mut layout = Layout::default();
    let mut manifest = layout.manifest(&image(), Packing::Gzip, Family::Oci);
    change(&mut layout, &mut manifest);
    let described = layout.json(MANIFEST, &manifest);
    layout.tag(described, "v1");
    layout.write(dir);
    at(dir, "oci", ":v1")
}

fn with_config(dir: &Path, change: impl FnOnce(&mut Value)) -> Vec<String> {
    with_manifest(dir, |layout, manifest| {
        let mut config = image().config();
        change(&mut config);
        manifest["config"] = layout.json(CONFIG, &config);
    })
}

/// A good layout that is changed before it is written.
fn with_layout(dir: &Path, change: impl FnOnce(&mut Layout)) -> Vec<String> {
    let mut layout = Layout::one(&image(), Packing::Gzip, Family::Oci);
    change(&mut layout);
    layout.write(dir);
    at(dir, "oci", ":v1")
}

fn with_archive(
    dir: &Path,
    how: Saved,
    change: impl FnOnce(&mut Vec<(String, Member)>),
) -> Vec<String> {
    let mut members = saved(&image(), how, &["app:v1"]);
    change(&mut members);
    fs::write(dir.join("a.tar"), archive(&members)).unwrap();
    at(dir, "docker-archive", "/a.tar")
}

fn packed(dir: &Path, packing: Packing, family: Family) -> Vec<String> {
    Layout::one(&image(), packing, family).write(dir);
    at(dir, "oci", ":v1")
}

/// An image for another machine, which is not to be taken.
fn other(arch: &'static str, variant: Option<&'static str>) -> Image {
    Image { arch, variant, ..Image::of(&[4]) }
}

/// An index of these, and the words that ask for it.
fn choose(dir: &Path, images: &[Image], platform: Option<&str>) -> Vec<String> {
    let mut layout = Layout::default();
    let entries: Vec<Value> =
        images.iter().map(|image| layout.image(image, Packing::Gzip, Family::Oci)).collect();
    let index = layout.index(&entries, Family::Oci);
    layout.tag(index, "v1");
    layout.write(dir);
    let mut words = at(dir, "oci", ":v1");
    words.extend(platform.into_iter().flat_map(|platform| ["--platform".into(), platform.into()]));
    words
}

/// `manifest.json` of a list of members, read, changed and put back.
fn listed(members: &mut [(String, Member)], change: impl FnOnce(&mut Value)) {
    let (_, member) = members.iter_mut().find(|(name, _)| name == "manifest.json").unwrap();
    let Member::File(bytes) = member else { panic!("no file") };
    let mut value = serde_json::from_slice(bytes).unwrap();
    change(&mut value);
    *bytes = value.to_string().into_bytes();
}

/// Forms of one image: each is the same stack. The number is that of the pitfall that it is about.
const ONE: &[(&str, Write)] = &[
    ("plain", |dir| packed(dir, Packing::Plain, Family::Oci)),
    ("gzip", |dir| packed(dir, Packing::Gzip, Family::Oci)),
    ("31: zstd", |dir| packed(dir, Packing::Zstd, Family::Oci)),
    ("zstd:chunked", |dir| packed(dir, Packing::Chunked, Family::Oci)),
    ("eStargz", |dir| packed(dir, Packing::Stargz, Family::Oci)),
    ("schema 2, plain", |dir| packed(dir, Packing::Plain, Family::Docker)),
    ("schema 2, gzip", |dir| packed(dir, Packing::Gzip, Family::Docker)),
    ("30: schema 2, zstd", |dir| packed(dir, Packing::Zstd, Family::Docker)),
    ("1: an attestation stands first", |dir| {
        let mut layout = Layout::default();
        let own = layout.image(&image(), Packing::Gzip, Family::Oci);
        let mut proof = layout.image(&other("unknown", None), Packing::Gzip, Family::Oci);
        proof["platform"]["os"] = "unknown".into();
        let mut marked = layout.image(&other("amd64", None), Packing::Gzip, Family::Oci);
        marked["annotations"] = json!({"vnd.docker.reference.type": "attestation-manifest"});
        let index = layout.index(&[proof, marked, own], Family::Oci);
        layout.tag(index, "v1");
        layout.write(dir);
        at(dir, "oci", ":v1")
    }),
    ("2: v6 and v7, and v7 is wanted", |dir| {
        let own = Image { arch: "arm", variant: Some("v7"), ..image() };
        choose(dir, &[other("arm", Some("v6")), own], Some("linux/arm/v7"))
    }),
    ("3: arm64/v8 is wanted, and no variant is named", |dir| {
        let own = Image { arch: "arm64", ..image() };
        choose(dir, &[other("amd64", None), own], Some("linux/arm64/v8"))
    }),
    ("nobody is given v3 who did not ask", |dir| {
        choose(dir, &[other("amd64", Some("v3")), image()], None)
    }),
    ("x86_64 is amd64", |dir| choose(dir, &[other("arm64", None), image()], Some("linux/x86_64"))),
    ("4: an index in an index, of both families", |dir| {
        let mut layout = Layout::default();
        let own = layout.image(&image(), Packing::Gzip, Family::Docker);
        let strange = layout.image(&other("s390x", None), Packing::Gzip, Family::Oci);
        let inner = layout.index(&[own], Family::Docker);
        let outer = layout.index(&[strange, inner], Family::Oci);
        layout.tag(outer, "v1");
        layout.write(dir);
        at(dir, "oci", ":v1")
    }),
    ("a bare manifest without a platform", |dir| {
        with_layout(dir, |layout| {
            layout.manifests[0].as_object_mut().unwrap().remove("platform");
        })
    }),
    ("without a platform it is last, and its config decides", |dir| {
        let mut layout = Layout::default();
        let mut none = layout.image(&other("arm64", None), Packing::Gzip, Family::Oci);
        none["platform"] = Value::Null;
        let mut own = layout.image(&image(), Packing::Gzip, Family::Oci);
        own["platform"] = Value::Null;
        let index = layout.index(&[none, own], Family::Oci);
        layout.tag(index, "v1");
        layout.write(dir);
        at(dir, "oci", ":v1")
    }),
    ("5: entries of unknown types and algorithms", |dir| {
        with_layout(dir, |layout| {
            layout
                .manifests
                .insert(0, json!({"mediaType": "text/plain", "digest": "x", "size": -1}));
            layout.manifests.insert(0, json!({
                "mediaType": MANIFEST, "digest": format!("sha512:{}", "0".repeat(128)), "size": 7,
            }));
            layout.manifests.insert(0, json!({}));
        })
    }),
    ("9: a manifest that the index does not list", |dir| {
        let mut layout = Layout::default();
        let own = layout.image(&image(), Packing::Gzip, Family::Oci);
        layout.write(dir);
        at(dir, "oci", &format!("@{}", own["digest"].as_str().unwrap()))
    }),
    ("11: the full name of containerd", |dir| {
        with_layout(dir, |layout| {
            layout.manifests[0]["annotations"]["io.containerd.image.name"] =
                "docker.io/library/a:1".into();
            let other = layout.image(&other("amd64", None), Packing::Gzip, Family::Oci);
            layout.tag(other, "1");
        });
        at(dir, "oci", ":docker.io/library/a:1")
    }),
    ("12: one of two without names, by digest", |dir| {
        let mut layout = Layout::default();
        let own = layout.image(&image(), Packing::Gzip, Family::Oci);
        let other = layout.image(&other("amd64", None), Packing::Gzip, Family::Oci);
        layout.manifests = vec![other, own.clone()];
        layout.write(dir);
        at(dir, "oci", &format!("@{}", own["digest"].as_str().unwrap()))
    }),
    ("the only one needs no name", |dir| {
        with_layout(dir, |_| ());
        at(dir, "oci", "")
    }),
    ("32: one tag for two platforms", |dir| {
        let mut layout = Layout::default();
        let other = layout.image(&other("arm64", None), Packing::Gzip, Family::Oci);
        let own = layout.image(&image(), Packing::Gzip, Family::Oci);
        layout.tag(other, "v1");
        layout.tag(own, "v1");
        layout.write(dir);
        at(dir, "oci", ":v1")
    }),
    ("35: twins of gzip and zstd", |dir| {
        let mut layout = Layout::default();
        let gzip = layout.image(&image(), Packing::Gzip, Family::Oci);
        let zstd = layout.image(&image(), Packing::Zstd, Family::Oci);
        let index = layout.index(&[gzip, zstd], Family::Oci);
        layout.tag(index, "v1");
        layout.write(dir);
        at(dir, "oci", ":v1")
    }),
    ("null is absent, and what is unknown is no error", |dir| {
        with_config(dir, |config| {
            config["config"] =
                json!({"Env": null, "Cmd": null, "Labels": {"a": null}, "New": [{}]});
            config["history"] = Value::Null;
            config["future"] = json!({"a": [1, 2.5e300, "\u{0}"]});
        })
    }),
    ("a type of layer that is not to be passed on", |dir| {
        with_manifest(dir, |_, manifest| {
            let media = "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip";
            manifest["layers"][0]["mediaType"] = media.into();
            manifest["layers"][0]["urls"] = json!(["http://192.0.2.1/never"]);
        })
    }),
    ("a layer of another compression than its type says", |dir| {
        with_manifest(dir, |_, manifest| {
            let media = "application/vnd.oci.image.layer.v1.tar+zstd";
            manifest["layers"][1]["mediaType"] = media.into();
        })
    }),
    ("a config of the one family and layers of the other", |dir| {
        with_manifest(dir, |_, manifest| {
            let media = "application/vnd.docker.container.image.v1+json";
            manifest["config"]["mediaType"] = media.into();
        })
    }),
    ("a manifest without its own type", |dir| {
        with_manifest(dir, |_, manifest| {
            manifest.as_object_mut().unwrap().remove("mediaType");
        })
    }),
    ("an archive of a layout", |dir| {
        let layout = Layout::one(&image(), Packing::Zstd, Family::Oci);
        fs::write(dir.join("a.tar"), layout.tar()).unwrap();
        at(dir, "oci-archive", "/a.tar:v1")
    }),
    ("an archive of a layout, compressed", |dir| {
        let layout = Layout::one(&image(), Packing::Plain, Family::Oci);
        fs::write(dir.join("a.tar.gz"), gzip(&layout.tar())).unwrap();
        at(dir, "oci-archive", "/a.tar.gz")
    }),
    ("docker before 25", |dir| with_archive(dir, Saved::Old, |_| ())),
    ("docker of 25 and later", |dir| with_archive(dir, Saved::Layout, |_| ())),
    ("docker of 25 and later, as a layout", |dir| {
        with_archive(dir, Saved::Layout, |_| ());
        at(dir, "oci-archive", "/a.tar:v1")
    }),
    ("13: podman, with links between members", |dir| with_archive(dir, Saved::Podman, |_| ())),
    ("skopeo", |dir| with_archive(dir, Saved::Skopeo, |_| ())),
    ("layers compressed in the archive", |dir| with_archive(dir, Saved::Packed, |_| ())),
    ("the whole archive compressed", |dir| {
        let archive = archive(&saved(&image(), Saved::Old, &["app:v1"]));
        fs::write(dir.join("a.tar.zst"), zstd(&archive)).unwrap();
        at(dir, "docker-archive", "/a.tar.zst")
    }),
    ("manifest.json first, and the layers last", |dir| {
        with_archive(dir, Saved::Podman, |members| members.reverse())
    }),
    ("hard links among members", |dir| {
        with_archive(dir, Saved::Podman, |members| {
            for (_, member) in members {
                if let Member::Soft(target) = member {
                    *member = Member::Hard(target.trim_start_matches("../").to_owned());
                }
            }
        })
    }),
    ("by name, as docker leaves it", |dir| {
        with_archive(dir, Saved::Skopeo, |members| {
            listed(members, |list| list[0]["RepoTags"] = json!(["docker.io/library/app:v1"]));
        });
        at(dir, "docker-archive", "/a.tar:app:v1")
    }),
    ("the second of two, by its place", |dir| {
        with_archive(dir, Saved::Skopeo, |members| {
            let other = saved(&other("amd64", None), Saved::Skopeo, &["app:v2"]);
            let Member::File(first) = other.last().unwrap().1.clone() else { panic!("no file") };
            let first: Value = serde_json::from_slice(&first).unwrap();
            members.splice(0..0, other[..other.len() - 1].to_vec());
            listed(members, |list| {
                list.as_array_mut().unwrap().insert(0, first[0].clone());
            });
        });
        at(dir, "docker-archive", "/a.tar@1")
    }),
    ("a member that is there twice: the last counts", |dir| {
        with_archive(dir, Saved::Skopeo, |members| {
            members.insert(0, ("manifest.json".into(), Member::File(b"[]".to_vec())));
            members.insert(0, (members[1].0.clone(), Member::File(b"not this".to_vec())));
        })
    }),
];

fn words<'w>(verb: &'w [&'w str], given: &'w [String]) -> Vec<&'w str> {
    verb.iter().copied().chain(given.iter().map(String::as_str)).collect()
}

fn bench() -> Bench {
    let bench = Bench::new(&[], 4, 2000);
    for (tar, number) in image().layers.iter().zip(1..) {
        bench.put(&format!("a/{number}.tar"), tar);
    }
    bench
}

fn built(done: &Value) -> usize {
    done["layers"].as_array().unwrap().iter().filter(|layer| layer["how"] == "built").count()
}

/// Cases of which `VENEER_CASE` is in the name.
fn wanted(name: &str) -> bool {
    name.contains(&std::env::var("VENEER_CASE").unwrap_or_default())
}

#[test]
fn every_form_of_one_image_is_one_stack() {
    let bench = bench();
    let host = bench.host("host");
    let (mut sum, chain) = (0, image().chain());
    let mut wrong = Vec::new();
    for (name, write) in ONE.iter().filter(|(name, _)| wanted(name)) {
        let dir = bench.path("case");
        drop(fs::remove_dir_all(&dir));
        fs::create_dir(&dir).unwrap();
        let given = write(&dir);
        let ran = host.command(&words(&["ensure"], &given)).output().unwrap();
        let done: Value = serde_json::from_slice(&ran.stdout).unwrap_or_default();
        sum += if done.is_null() { 0 } else { built(&done) };
        if done["chain"] != chain.as_str() {
            wrong.push(format!(
                "{name}: {} {}",
                done["chain"],
                String::from_utf8_lossy(&ran.stderr)
            ));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    // Numbered twins come over the network and are found to be there.
    let done = host.ok(&["ensure", "s3://bucket/a/"]);
    assert_eq!((&done["chain"], sum + built(&done)), (&chain.into(), 3));
    let last = host.rows("SELECT reference FROM images ORDER BY used DESC LIMIT 1");
    host.ok(&["activate", &last[0], "--name", "a-1"]);
    host.check_tree("a-1", 3);
    host.check();
    assert_eq!(crate::bench::names(&host.state().join("archives")), [""; 0]);
}

/// On a host of its own each form is unpacked itself.
#[test]
fn every_form_unpacks_to_the_same_tree() {
    let bench = bench();
    let tree = |host: &Host<'_>| Tree::read(&host.store().join("active/a-1")).unwrap();
    let numbered = bench.host("numbered");
    numbered.ok(&["activate", "s3://bucket/a/", "--name", "a-1"]);
    let due = tree(&numbered);
    let forms = ["plain", "gzip", "zstd", "zstd:chunked", "eStargz", "docker before 25", "podman"];
    for (name, write) in
        ONE.iter().filter(|(name, _)| forms.iter().any(|form| name.ends_with(form)))
    {
        let (dir, host) = (bench.path("case"), bench.host("host"));
        drop(fs::remove_dir_all(&dir));
        fs::create_dir(&dir).unwrap();
        host.wipe();
        let given = write(&dir);
        let done = host.ok(&words(&["activate", "--name", "a-1"], &given));
        assert_eq!(built(&done["ensured"]), 3, "{name}");
        let differences = due.differences(&tree(&host));
        assert!(differences.is_empty(), "{name}: {differences:?}");
        host.check();
    }
}

/// What is refused: with this exit code, and these words in what is said.
const REFUSED: &[(&str, i32, &str, Write)] = &[
    ("6: more layers than diff ids", 100, "2 diff ids for the 3 layers", |dir| {
        with_config(dir, |config| {
            config["rootfs"]["diff_ids"].as_array_mut().unwrap().pop();
        })
    }),
    ("6: more diff ids than layers", 100, "3 diff ids for the 2 layers", |dir| {
        with_manifest(dir, |_, manifest| {
            manifest["layers"].as_array_mut().unwrap().pop();
        })
    }),
    ("7: a diff id that is not the layer's", 100, "the image is refused", |dir| {
        with_config(dir, |config| {
            config["rootfs"]["diff_ids"][2] = format!("sha256:{}", sha(b"no")).into();
        })
    }),
    ("7: the same in an archive", 100, "the image is refused", |dir| {
        let mut lies = image();
        lies.diffs = Some(lies.diffs().into_iter().rev().collect());
        fs::write(dir.join("a.tar"), archive(&saved(&lies, Saved::Old, &[]))).unwrap();
        at(dir, "docker-archive", "/a.tar")
    }),
    ("7: no layers, and diff ids", 100, "at least one layer", |dir| {
        with_manifest(dir, |_, manifest| manifest["layers"] = json!([]))
    }),
    ("8: no manifests at all", 100, "no image in it", |dir| {
        with_layout(dir, |layout| {
            let index = json!({"schemaVersion": 2, "manifests": null}).to_string();
            layout.files.insert("index.json".into(), index.into());
        })
    }),
    ("12: two without names, and none is named", 100, "choose one by its digest", |dir| {
        let mut layout = Layout::default();
        let own = layout.image(&image(), Packing::Gzip, Family::Oci);
        let other = layout.image(&other("amd64", None), Packing::Gzip, Family::Oci);
        layout.manifests = vec![other, own];
        layout.write(dir);
        at(dir, "oci", "")
    }),
    ("a name that nothing has", 100, "has no image \"v2\"; it has \"v1\"", |dir| {
        with_layout(dir, |_| ());
        at(dir, "oci", ":v2")
    }),
    ("13: a link that leads out of the archive", 100, "has no member", |dir| {
        with_archive(dir, Saved::Podman, |members| {
            for (_, member) in members {
                if let Member::Soft(target) = member {
                    *target = "../../../../etc/passwd".to_owned();
                }
            }
        })
    }),
    ("13: links in a circle", 100, "links that lead on and on", |dir| {
        with_archive(dir, Saved::Podman, |members| {
            let first = members[1].0.clone();
            let (folder, _) = first.split_once('/').unwrap();
            members[1].1 = Member::Soft(format!("../{folder}/layer.tar"));
        })
    }),
    ("15: an empty name among the layers", 100, "an empty name", |dir| {
        with_archive(dir, Saved::Skopeo, |members| {
            listed(members, |list| list[0]["Layers"][1] = "".into());
        })
    }),
    ("a name out of the archive among the layers", 100, "has no member ../", |dir| {
        with_archive(dir, Saved::Skopeo, |members| {
            listed(members, |list| list[0]["Layers"][1] = "../../../etc/shadow".into());
        })
    }),
    ("what docker wrote before 1.10", 100, "has no member manifest.json", |dir| {
        with_archive(dir, Saved::Old, |members| {
            members.last_mut().unwrap().0 = "repositories".into()
        })
    }),
    ("a config that is not what its name says", 100, "config", |dir| {
        with_archive(dir, Saved::Old, |members| {
            let config = members.iter_mut().find(|(name, _)| name.ends_with(".json")).unwrap();
            let Member::File(bytes) = &mut config.1 else { panic!("no file") };
            bytes.push(b' ');
        })
    }),
    ("17: bytes after the end of the gzip", 100, "", |dir| {
        with_manifest(dir, |layout, manifest| {
            let mut bytes = gzip(&image().layers[2]);
            bytes.extend(b"more");
            let media = "application/vnd.oci.image.layer.v1.tar+gzip";
            manifest["layers"][2] = layout.blob(media, &bytes);
        })
    }),
    ("19: a manifest that is an index too", 100, "both, index and manifest", |dir| {
        with_manifest(dir, |_, manifest| manifest["manifests"] = json!([]))
    }),
    ("19: an index that is a manifest too", 100, "both, index and manifest", |dir| {
        with_layout(dir, |layout| {
            let index = json!({"schemaVersion": 2, "manifests": layout.manifests, "layers": []});
            layout.files.insert("index.json".into(), index.to_string().into());
        })
    }),
    ("34: a layer with a digest of another algorithm", 100, "only sha256 is supported", |dir| {
        with_manifest(dir, |_, manifest| {
            manifest["layers"][0]["digest"] = format!("sha512:{}", "0".repeat(128)).into();
        })
    }),
    ("a digest that is a path", 100, "digits of 0-9 and a-f", |dir| {
        with_manifest(dir, |_, manifest| {
            manifest["layers"][0]["digest"] = "sha256:../../../../../../etc/shadow".into();
        })
    }),
    ("an encrypted layer", 100, "encrypted", |dir| {
        with_manifest(dir, |_, manifest| {
            let media = "application/vnd.oci.image.layer.v1.tar+gzip+encrypted";
            manifest["layers"][0]["mediaType"] = media.into();
        })
    }),
    ("an artifact", 100, "this is an artifact", |dir| {
        with_manifest(dir, |_, manifest| {
            manifest["config"]["mediaType"] = "application/vnd.oci.empty.v1+json".into();
        })
    }),
    ("1: an attestation that is named by its digest", 100, "this is no type of a layer", |dir| {
        with_manifest(dir, |_, manifest| {
            manifest["layers"][0]["mediaType"] = "application/vnd.in-toto+json".into();
        })
    }),
    ("schema 1", 100, "schema 1", |dir| {
        with_manifest(dir, |_, manifest| {
            let media = "application/vnd.docker.distribution.manifest.v1+prettyjws";
            manifest["mediaType"] = media.into();
        })
    }),
    (
        "a platform that is not there",
        100,
        "no image for the platform linux/amd64; it has \"linux/arm64\"",
        |dir| choose(dir, &[other("arm64", None)], None),
    ),
    ("v3 alone, and nobody asked for it", 100, "no image for the platform", |dir| {
        choose(dir, &[other("amd64", Some("v3"))], None)
    }),
    ("windows", 100, "images for linux", |dir| {
        with_config(dir, |config| config["os"] = "windows".into())
    }),
    ("another kind of root", 100, "has to be \"layers\"", |dir| {
        with_config(dir, |config| config["rootfs"]["type"] = "base".into())
    }),
    ("indexes inside of indexes without an end", 100, "deep", |dir| {
        let mut layout = Layout::default();
        let mut entry = layout.image(&image(), Packing::Gzip, Family::Oci);
        for _ in 0..6 {
            entry = layout.index(&[entry], Family::Oci);
        }
        layout.tag(entry, "v1");
        layout.write(dir);
        at(dir, "oci", ":v1")
    }),
    ("indexes that name one another a thousand times", 100, "at most 64 are taken", |dir| {
        let mut layout = Layout::default();
        let mut entry = layout.index(&[], Family::Oci);
        for level in 0..2 {
            let entries: Vec<Value> = (0..2000)
                .map(|at| {
                    let mut entry = entry.clone();
                    entry["annotations"] = json!({"at": format!("{level} {at}")});
                    entry
                })
                .collect();
            entry = layout.index(&entries, Family::Oci);
        }
        layout.tag(entry, "v1");
        layout.write(dir);
        at(dir, "oci", ":v1")
    }),
    ("a config of another size than promised", 100, "were promised", |dir| {
        with_manifest(dir, |_, manifest| manifest["config"]["size"] = 7.into())
    }),
    ("a negative size", 100, "0 or more", |dir| {
        with_manifest(dir, |_, manifest| manifest["layers"][0]["size"] = (-1).into())
    }),
    ("a layer of another size than promised", 100, "promised", |dir| {
        with_manifest(dir, |_, manifest| manifest["layers"][0]["size"] = i64::MAX.into())
    }),
    ("a config that is other bytes", 100, "has other bytes", |dir| {
        with_manifest(dir, |layout, manifest| {
            let digest = manifest["config"]["digest"].as_str().unwrap()[7..].to_owned();
            let bytes = layout.files.get_mut(&format!("blobs/sha256/{digest}")).unwrap();
            let at = bytes.len() - 1;
            bytes[at] = b' ';
        })
    }),
    ("a layer that is other bytes", 100, "sha256:", |dir| {
        with_layout(dir, |layout| {
            let digest = sha(&gzip(&image().layers[2]));
            let bytes = layout.files.get_mut(&format!("blobs/sha256/{digest}")).unwrap();
            // The comment of the gzip header's time: it unpacks to the same.
            bytes[4] ^= 1;
        })
    }),
    ("a layer that is not there", 100, "has no blob sha256:", |dir| {
        with_layout(dir, |layout| {
            let digest = sha(&gzip(&image().layers[2]));
            layout.files.remove(&format!("blobs/sha256/{digest}"));
        })
    }),
    ("a manifest that is not there", 100, "has no blob sha256:", |dir| {
        with_layout(dir, |layout| {
            let digest = layout.manifests[0]["digest"].as_str().unwrap()[7..].to_owned();
            layout.files.remove(&format!("blobs/sha256/{digest}"));
        })
    }),
    ("no layout", 100, "no file oci-layout", |dir| {
        with_layout(dir, |_| ());
        fs::remove_file(dir.join("oci-layout")).unwrap();
        at(dir, "oci", ":v1")
    }),
    ("a layout of another world", 100, "oci-layout", |dir| {
        with_layout(dir, |layout| {
            layout.files.insert("oci-layout".into(), b"hello".to_vec());
        })
    }),
    ("no directory", 100, "there is nothing of this name", |dir| at(dir, "oci", "/nowhere:v1")),
    ("no archive", 100, "there is nothing of this name", |dir| {
        at(dir, "docker-archive", "/nowhere.tar")
    }),
    ("a layout of docker's older form", 100, "docker-archive: is the form", |dir| {
        with_archive(dir, Saved::Old, |_| ());
        at(dir, "oci-archive", "/a.tar")
    }),
    ("no tar", 100, "no tar", |dir| {
        fs::write(dir.join("a.tar"), "BZh91AY&SY").unwrap();
        at(dir, "docker-archive", "/a.tar")
    }),
    ("an empty file", 100, "", |dir| {
        fs::write(dir.join("a.tar"), "").unwrap();
        at(dir, "docker-archive", "/a.tar")
    }),
    ("a manifest of more than 4 MiB", 100, "at most 4194304", |dir| {
        with_manifest(dir, |_, manifest| manifest["padding"] = " ".repeat(5 << 20).into())
    }),
    ("the list of an archive of more than 4 MiB", 100, "at most 4194304", |dir| {
        with_archive(dir, Saved::Old, |members| {
            listed(members, |list| list[0]["padding"] = " ".repeat(5 << 20).into());
        })
    }),
    ("a member that is no file", 100, "no regular file", |dir| {
        with_archive(dir, Saved::Old, |members| members[0].1 = Member::Fifo)
    }),
];

/// Kept apart: a layer of nothing, which is one.
#[test]
fn layers_that_are_empty_are_layers() {
    let bench = Bench::new(&[], 4, 2000);
    let nuls = vec![0u8; 1024];
    let first = layer::stacked(1, 4, 2000);
    let twice = Image { layers: vec![first.clone(), nuls.clone(), nuls], ..Image::of(&[]) };
    let none = Image { layers: vec![first.clone(), Vec::new()], ..Image::of(&[]) };
    // 36 and 37: whiteouts, of what is there and of what is not.
    let gone = layer::of(&[("srv/.wh..wh..opq".into(), vec![]), ("srv/.wh.never".into(), vec![])]);
    let white = Image { layers: vec![first, gone], ..Image::of(&[]) };
    let host = bench.host("host");
    let dir = bench.path("case");
    for (name, image) in [("twice", &twice), ("14", &none), ("36", &white)] {
        drop(fs::remove_dir_all(&dir));
        Layout::one(image, Packing::Gzip, Family::Oci).write(&dir);
        let archived = archive(&saved(image, Saved::Old, &["app:v1"]));
        fs::write(dir.join("a.tar"), archived).unwrap();
        for reference in
            [format!("docker-archive:{}/a.tar", dir.display()), format!("oci:{}", dir.display())]
        {
            let done = host.ok(&["ensure", &reference]);
            assert_eq!(done["chain"], image.chain(), "{name} {reference}");
        }
    }
    host.check();
}

#[test]
fn every_document_that_lies_is_refused_and_nothing_stays() {
    let bench = bench();
    let host = bench.host("host");
    host.ok(&["ensure", "s3://bucket/a/"]);
    // The layers are not here: each has to be read.
    host.ok(&["rm", "s3://bucket/a/"]);
    let before = host.rows("SELECT id FROM volumes");
    let mut known: Vec<String> = Vec::new();
    let mut wrong = Vec::new();
    for (name, code, said, write) in REFUSED.iter().filter(|(name, ..)| wanted(name)) {
        let dir = bench.path("case");
        drop(fs::remove_dir_all(&dir));
        fs::create_dir(&dir).unwrap();
        let given = write(&dir);
        let begun = std::time::Instant::now();
        let (got, text) = host.said(&words(&["ensure"], &given));
        let slow = begun.elapsed().as_secs() > 20;
        if got != *code || !text.contains(said) || text.contains("panicked") || slow {
            wrong.push(format!("{name}: {got}, {:?}: {text}", begun.elapsed()));
        }
        for (what, sql) in [
            ("an image", "SELECT reference FROM images"),
            ("a quarantine", "SELECT digest FROM quarantine"),
        ] {
            let rows = host.rows(sql);
            // Only bytes that do not unpack are kept from being tried again.
            if what == "a quarantine" && name.starts_with("17") {
                known.clone_from(&rows);
            }
            if rows != (if what == "a quarantine" { known.clone() } else { Vec::new() }) {
                wrong.push(format!("{name}: leaves {what}: {rows:?}"));
            }
        }
        host.ok(&["gc", "--keep-bytes", "0"]);
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    host.check();
    assert_eq!(host.rows("SELECT id FROM volumes"), before);
    assert_eq!(crate::bench::names(&host.state().join("archives")), [""; 0]);
}
