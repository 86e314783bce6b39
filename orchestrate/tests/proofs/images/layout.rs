//! Layouts and archives of images, written by the proofs themselves: nothing here is a file from elsewhere. Layers
//! are wrapped without being made smaller, so that no compressor decides what is proven.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use tests::layer;

use crate::bench::Bench;

/// How a layer's tar is wrapped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Packing {
    Plain,
    Gzip,
    Zstd,
    /// zstd with skippable frames behind it, as `zstd:chunked` has them.
    Chunked,
    /// A gzip member for each piece, and an empty one at the end, as eStargz has them.
    Stargz,
}

/// Whose media types.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Family {
    Oci,
    Docker,
}

pub(crate) fn sha(bytes: &[u8]) -> String {
    format!("{:x}", Sha256::digest(bytes))
}

fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| {
            if crc & 1 == 1 { crc >> 1 ^ 0xedb8_8320 } else { crc >> 1 }
        })
    })
}

/// One member of stored blocks (RFC 1951, RFC 1952).
pub(crate) fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut out = vec![0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255];
    let mut pieces = bytes.chunks(0xffff).peekable();
    if pieces.peek().is_none() {
        out.extend([1, 0, 0, 0xff, 0xff]);
    }
    while let Some(piece) = pieces.next() {
        let len = u16::try_from(piece.len()).unwrap();
        out.push(u8::from(pieces.peek().is_none()));
        out.extend(len.to_le_bytes());
        out.extend((!len).to_le_bytes());
        out.extend(piece);
    }
    out.extend(crc32(bytes).to_le_bytes());
    out.extend(u32::try_from(bytes.len()).unwrap().to_le_bytes());
    out
}

/// One frame of raw blocks (RFC 8878).
pub(crate) fn zstd(bytes: &[u8]) -> Vec<u8> {
    let mut out = vec![0x28, 0xb5, 0x2f, 0xfd, 0b1010_0000];
    out.extend(u32::try_from(bytes.len()).unwrap().to_le_bytes());
    let mut pieces = bytes.chunks(1 << 16).peekable();
    if pieces.peek().is_none() {
        out.extend([1, 0, 0]);
    }
    while let Some(piece) = pieces.next() {
        let last = u32::from(pieces.peek().is_none());
        let head = u32::try_from(piece.len()).unwrap() << 3 | last;
        out.extend(&head.to_le_bytes()[..3]);
        out.extend(piece);
    }
    out
}

pub(crate) fn packed(tar: &[u8], packing: Packing) -> Vec<u8> {
    match packing {
        Packing::Plain => tar.to_vec(),
        Packing::Gzip => gzip(tar),
        Packing::Zstd => zstd(tar),
        Packing::Chunked => {
            let mut out = zstd(tar);
            for frame in [&b"a table of contents"[..], b"and where it is"] {
                out.extend(0x184d_2a50u32.to_le_bytes());
                out.extend(u32::try_from(frame.len()).unwrap().to_le_bytes());
                out.extend(frame);
            }
            out
        }
        Packing::Stargz => {
            let mut out: Vec<u8> = tar.chunks(512).flat_map(gzip).collect();
            let mut last = gzip(b"");
            // FLG.FEXTRA, with one subfield.
            last[3] = 4;
            last.splice(10..10, [6, 0, b'S', b'G', 2, 0, b'x', b'y']);
            out.extend(last);
            out
        }
    }
}

/// What an archive of images is made of.
#[derive(Clone, Debug)]
pub(crate) enum Member {
    File(Vec<u8>),
    Soft(String),
    Hard(String),
    Fifo,
}

/// A tar of these members, with the marker of its end.
pub(crate) fn tar<'m>(members: impl IntoIterator<Item = (&'m str, Member)>) -> Vec<u8> {
    let mut out = Vec::new();
    for (name, member) in members {
        let (kind, link, body) = match &member {
            Member::File(body) => (b'0', "", &body[..]),
            Member::Hard(target) => (b'1', target.as_str(), &b""[..]),
            Member::Soft(target) => (b'2', target.as_str(), &b""[..]),
            Member::Fifo => (b'6', "", &b""[..]),
        };
        let mut head = [0u8; 512];
        let mut put = |at: usize, text: &str| {
            head[at..at + text.len()].copy_from_slice(text.as_bytes());
        };
        put(0, name);
        put(100, "0000644\0");
        put(108, "0000000\0");
        put(116, "0000000\0");
        put(124, &format!("{:011o}\0", body.len()));
        put(136, "00000000000\0");
        put(148, "        ");
        put(157, link);
        put(257, "ustar\x0000");
        head[156] = kind;
        let sum: u32 = head.iter().map(|byte| u32::from(*byte)).sum();
        head[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        out.extend(head);
        out.extend(body);
        out.resize(out.len().next_multiple_of(512), 0);
    }
    out.resize(out.len() + 1024, 0);
    out
}

/// An image, before anybody has packed it.
#[derive(Clone, Debug)]
pub(crate) struct Image {
    /// From the lowest up.
    pub(crate) layers: Vec<Vec<u8>>,
    pub(crate) arch: &'static str,
    pub(crate) variant: Option<&'static str>,
    /// What its config says, where that is not the truth.
    pub(crate) diffs: Option<Vec<String>>,
}

pub(crate) const OWN: &str = "amd64";

impl Image {
    pub(crate) fn of(numbers: &[u8]) -> Image {
        let layers = numbers.iter().map(|number| layer::stacked(*number, 4, 2000)).collect();
        Image { layers, arch: OWN, variant: None, diffs: None }
    }

    pub(crate) fn diffs(&self) -> Vec<String> {
        let own = || self.layers.iter().map(|tar| format!("sha256:{}", sha(tar))).collect();
        self.diffs.clone().unwrap_or_else(own)
    }

    /// The chain id, from the diff ids alone (image-spec, config.md), as the program prints it.
    pub(crate) fn chain(&self) -> String {
        let diffs = self.diffs();
        let above = |below: String, diff: &String| {
            format!("sha256:{}", sha(format!("{below} {diff}").as_bytes()))
        };
        diffs[1..].iter().fold(diffs[0].clone(), above)
    }

    pub(crate) fn config(&self) -> Value {
        let mut config = json!({
            "architecture": self.arch, "os": "linux", "created": "2026-01-01T00:00:00Z",
            "config": {"User": "1000:50", "Env": ["PATH=/bin"], "Cmd": ["/bin/sh"], "Labels": null},
            "rootfs": {"type": "layers", "diff_ids": self.diffs()},
            // More of it than layers, and less: nobody joins them.
            "history": [{"created_by": "a"}, {"empty_layer": true}, {}, {}, {}, {}, {}],
        });
        if let Some(variant) = self.variant {
            config["variant"] = variant.into();
        }
        config
    }
}

/// A layout that is not written anywhere yet.
#[derive(Clone, Debug, Default)]
pub(crate) struct Layout {
    pub(crate) files: BTreeMap<String, Vec<u8>>,
    pub(crate) manifests: Vec<Value>,
}

impl Layout {
    /// One image under the tag `v1`.
    pub(crate) fn one(image: &Image, packing: Packing, family: Family) -> Layout {
        let mut layout = Layout::default();
        let manifest = layout.image(image, packing, family);
        layout.tag(manifest, "v1");
        layout
    }

    /// Puts a blob there and describes it.
    pub(crate) fn blob(&mut self, media: &str, bytes: &[u8]) -> Value {
        let digest = sha(bytes);
        self.files.insert(format!("blobs/sha256/{digest}"), bytes.to_vec());
        json!({"mediaType": media, "digest": format!("sha256:{digest}"), "size": bytes.len()})
    }

    pub(crate) fn json(&mut self, media: &str, value: &Value) -> Value {
        self.blob(media, value.to_string().as_bytes())
    }

    /// The manifest of an image whose blobs are put there, not put there itself.
    pub(crate) fn manifest(&mut self, image: &Image, packing: Packing, family: Family) -> Value {
        let (media, config, layer) = types(packing, family);
        let config = self.json(config, &image.config());
        let layers = image.layers.iter().map(|tar| self.blob(layer, &packed(tar, packing)));
        let layers: Vec<Value> = layers.collect();
        json!({"schemaVersion": 2, "mediaType": media, "config": config, "layers": layers})
    }

    /// Puts an image there; gives the descriptor of its manifest.
    pub(crate) fn image(&mut self, image: &Image, packing: Packing, family: Family) -> Value {
        let manifest = self.manifest(image, packing, family);
        let mut described = self.json(types(packing, family).0, &manifest);
        described["platform"] = json!({"os": "linux", "architecture": image.arch});
        if let Some(variant) = image.variant {
            described["platform"]["variant"] = variant.into();
        }
        described
    }

    /// Puts an index there; gives its descriptor.
    pub(crate) fn index(&mut self, manifests: &[Value], family: Family) -> Value {
        let media = match family {
            Family::Oci => INDEX,
            Family::Docker => "application/vnd.docker.distribution.manifest.list.v2+json",
        };
        self.json(media, &json!({"schemaVersion": 2, "mediaType": media, "manifests": manifests}))
    }

    pub(crate) fn tag(&mut self, mut described: Value, name: &str) {
        described["annotations"][NAME] = name.into();
        self.manifests.push(described);
    }

    /// Every file of it, with those that make it a layout.
    pub(crate) fn all(&self) -> BTreeMap<String, Vec<u8>> {
        let mut all = self.files.clone();
        let index = json!({"schemaVersion": 2, "manifests": self.manifests}).to_string();
        all.entry("index.json".into()).or_insert(index.into());
        all.entry("oci-layout".into()).or_insert(br#"{"imageLayoutVersion":"1.0.0"}"#.to_vec());
        all
    }

    pub(crate) fn write(&self, dir: &Path) {
        fs::create_dir_all(dir.join("blobs/sha256")).unwrap();
        for (name, bytes) in self.all() {
            fs::write(dir.join(name), bytes).unwrap();
        }
    }

    /// In the bucket of a bench, below `prefix/`.
    pub(crate) fn put(&self, bench: &Bench, prefix: &str) {
        for (name, bytes) in self.all() {
            bench.put(&format!("{prefix}/{name}"), &bytes);
        }
    }

    pub(crate) fn tar(&self) -> Vec<u8> {
        let all = self.all();
        tar(all.iter().map(|(name, bytes)| (name.as_str(), Member::File(bytes.clone()))))
    }
}

pub(crate) const NAME: &str = "org.opencontainers.image.ref.name";
pub(crate) const INDEX: &str = "application/vnd.oci.image.index.v1+json";
pub(crate) const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub(crate) const CONFIG: &str = "application/vnd.oci.image.config.v1+json";

/// Of a manifest, a config and a layer.
fn types(packing: Packing, family: Family) -> (&'static str, &'static str, &'static str) {
    let (manifest, config) = match family {
        Family::Oci => (MANIFEST, CONFIG),
        Family::Docker => (
            "application/vnd.docker.distribution.manifest.v2+json",
            "application/vnd.docker.container.image.v1+json",
        ),
    };
    let layer = match (family, packing) {
        (Family::Oci, Packing::Plain) => "application/vnd.oci.image.layer.v1.tar",
        (Family::Oci, Packing::Gzip | Packing::Stargz) => {
            "application/vnd.oci.image.layer.v1.tar+gzip"
        }
        (Family::Oci, Packing::Zstd | Packing::Chunked) => {
            "application/vnd.oci.image.layer.v1.tar+zstd"
        }
        (Family::Docker, Packing::Plain) => "application/vnd.docker.image.rootfs.diff.tar",
        (Family::Docker, Packing::Gzip | Packing::Stargz) => {
            "application/vnd.docker.image.rootfs.diff.tar.gzip"
        }
        (Family::Docker, Packing::Zstd | Packing::Chunked) => {
            "application/vnd.docker.image.rootfs.diff.tar.zstd"
        }
    };
    (manifest, config, layer)
}

/// Who wrote an archive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Saved {
    /// docker before 25: `<id>/layer.tar`, a repeated layer as a link.
    Old,
    /// docker of 25 and later: a layout with `manifest.json` beside it.
    Layout,
    /// podman: `<digest>.tar`, `<id>/layer.tar` linked to it, `manifest.json` last.
    Podman,
    /// skopeo: `<digest>.tar` alone.
    Skopeo,
    /// Packed layers under names of their own.
    Packed,
}

/// What `docker save` and its like write of an image.
pub(crate) fn saved(image: &Image, how: Saved, names: &[&str]) -> Vec<(String, Member)> {
    let config = image.config().to_string();
    let id = sha(config.as_bytes());
    let mut members: Vec<(String, Member)> = Vec::new();
    let mut layers = Vec::new();
    let mut config_name = format!("{id}.json");
    for (at, tar) in image.layers.iter().enumerate() {
        let digest = sha(tar);
        let folder = sha(format!("{at} {digest}").as_bytes());
        let name = match how {
            Saved::Old => format!("{folder}/layer.tar"),
            Saved::Layout => format!("blobs/sha256/{digest}"),
            Saved::Podman => format!("{folder}/layer.tar"),
            Saved::Skopeo => format!("{digest}.tar"),
            Saved::Packed => format!("{at}.tar.gz"),
        };
        let earlier = image.layers[..at].iter().position(|below| below == tar);
        match (how, earlier) {
            (Saved::Old, Some(earlier)) => {
                let first: &String = &layers[earlier];
                members.push((name.clone(), Member::Soft(format!("../{first}"))));
            }
            (Saved::Podman, earlier) => {
                if earlier.is_none() {
                    members.push((format!("{digest}.tar"), Member::File(tar.clone())));
                }
                members.push((name.clone(), Member::Soft(format!("../{digest}.tar"))));
            }
            (Saved::Packed, _) => members.push((name.clone(), Member::File(gzip(tar)))),
            (Saved::Layout | Saved::Skopeo, Some(_)) => {}
            (_, _) => members.push((name.clone(), Member::File(tar.clone()))),
        }
        layers.push(name);
    }
    if how == Saved::Layout {
        config_name = format!("blobs/sha256/{id}");
        let layout = Layout::one(image, Packing::Plain, Family::Oci);
        let all = layout.all().into_iter().map(|(name, bytes)| (name, Member::File(bytes)));
        members = all.collect();
    } else {
        members.push((config_name.clone(), Member::File(config.into_bytes())));
    }
    let listed = json!([{"Config": config_name, "RepoTags": names, "Layers": layers}]);
    members.push(("manifest.json".into(), Member::File(listed.to_string().into_bytes())));
    members
}

pub(crate) fn archive(members: &[(String, Member)]) -> Vec<u8> {
    tar(members.iter().map(|(name, member)| (name.as_str(), member.clone())))
}
