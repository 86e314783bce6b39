//! `manifest.json` of `docker save` (moby's tarexport): which members of the archive are an image.

use serde::Deserialize;

use crate::image::digest::Digest;
use crate::image::error::{Document, Error};
use crate::image::json::{self, Few};
use crate::image::manifest::LAYERS_MAX;

/// Images of an archive.
const IMAGES_MAX: usize = 1024;

/// Names that a message has.
const SHOWN_MAX: usize = 8;

/// Bytes of a member's name (PATH_MAX of Linux).
const NAME_BYTES_MAX: usize = 4096;

/// Which of the images of an archive.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum ArchivePick {
    /// The only one.
    Only,
    /// The one that was saved under this name, such as `app:v1`.
    Name(String),
    /// By its place, from 0.
    At(u32),
}

/// The images of an archive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Archives(Vec<Archived>);

/// One image of an archive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Archived {
    /// The member that is its config.
    pub config: String,
    /// The names it was saved under.
    pub names: Vec<String>,
    /// The members that are its layers, from the lowest up.
    pub layers: Vec<String>,
}

impl Archived {
    /// The digest of these bytes, which are those of its config. A name of 64 digits is the image's id, and so has
    /// to be that digest.
    ///
    /// # Errors
    /// [`Error::Other`].
    pub fn id(&self, config: &[u8]) -> Result<Digest, Error> {
        let found = Digest::of(config);
        let name = self.config.rsplit('/').next().unwrap_or_default();
        let name = name.strip_suffix(".json").unwrap_or(name);
        match Digest::parse(&format!("sha256:{name}")) {
            Ok(expected) if expected != found => {
                Err(Error::Other { document: Document::Config, expected, found })
            }
            Ok(_) | Err(_) => Ok(found),
        }
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Raw {
    #[serde(default)]
    config: Option<String>,
    #[serde(default)]
    repo_tags: Option<Vec<String>>,
    #[serde(default)]
    layers: Option<Few<String, LAYERS_MAX>>,
}

impl Archives {
    /// Reads `manifest.json`.
    ///
    /// # Errors
    /// [`Error::Json`], [`Error::Field`], [`Error::TooMany`].
    pub fn read(bytes: &[u8]) -> Result<Archives, Error> {
        let document = Document::Archive;
        let raw: Few<Raw, IMAGES_MAX> = json::read(document, bytes)?;
        let raw = raw.all(document, "images")?;
        let images = raw.into_iter().map(|raw| {
            let layers = raw.layers.unwrap_or_default().all(document, "layers")?;
            let config = member("Config", raw.config.unwrap_or_default())?;
            let layers = layers.into_iter().map(|name| member("Layers", name));
            let layers = layers.collect::<Result<_, _>>()?;
            Ok(Archived { config, names: raw.repo_tags.unwrap_or_default(), layers })
        });
        Ok(Archives(images.collect::<Result<_, _>>()?))
    }

    /// The image that is meant.
    ///
    /// # Errors
    /// [`Error::Empty`], [`Error::NoName`], [`Error::Several`].
    pub fn pick(&self, pick: &ArchivePick) -> Result<&Archived, Error> {
        let document = Document::Archive;
        let names = self.0.iter().flat_map(|image| &image.names);
        let have = || names.clone().take(SHOWN_MAX).cloned().collect();
        match (pick, self.0.as_slice()) {
            (_, []) => Err(Error::Empty { document }),
            (ArchivePick::Only, [one]) => Ok(one),
            (ArchivePick::Only, _) => Err(Error::Several { document, have: have() }),
            (ArchivePick::Name(name), images) => images
                .iter()
                .find(|image| image.names.iter().any(|own| familiar(own) == familiar(name)))
                .ok_or_else(|| Error::NoName { document, name: name.clone(), have: have() }),
            (ArchivePick::At(at), images) => images
                .get(usize::try_from(*at).unwrap_or(usize::MAX))
                .ok_or_else(|| Error::NoName { document, name: format!("@{at}"), have: have() }),
        }
    }
}

/// The name of a member, which is looked up among the names of the archive and nowhere else.
fn member(field: &'static str, name: String) -> Result<String, Error> {
    let refused = |why| Error::Field { document: Document::Archive, field, got: name.clone(), why };
    match name.len() {
        0 => Err(refused("an empty name is no member of the archive")),
        1..=NAME_BYTES_MAX => Ok(name),
        _ => Err(refused("no member of an archive has so long a name")),
    }
}

/// Docker leaves out what it takes for granted; podman and skopeo write it.
fn familiar(name: &str) -> &str {
    let rest = name.strip_prefix("docker.io/").unwrap_or(name);
    rest.strip_prefix("library/").unwrap_or(rest)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TWO: &str = r#"[
        {"Config":"a.json","RepoTags":["a:v1","b:v1"],"Layers":["x/layer.tar"]},
        {"Config":"b.json","RepoTags":null,"Layers":["y/layer.tar","x/layer.tar"],"Parent":"z"}]"#;

    #[test]
    fn an_image_is_chosen_by_name_or_place() {
        let two = Archives::read(TWO.as_bytes()).unwrap();
        let config = |pick| two.pick(&pick).map(|image| image.config.clone());
        for name in ["a:v1", "b:v1", "docker.io/library/a:v1"] {
            assert_eq!(config(ArchivePick::Name(name.into())).unwrap(), "a.json", "{name}");
        }
        assert_eq!(config(ArchivePick::At(1)).unwrap(), "b.json");
        assert!(matches!(config(ArchivePick::At(2)), Err(Error::NoName { .. })));
        assert!(matches!(config(ArchivePick::Name("a".into())), Err(Error::NoName { .. })));
        assert!(matches!(config(ArchivePick::Only), Err(Error::Several { .. })));
    }

    #[test]
    fn a_config_is_what_its_name_says() {
        let id = Digest::of(b"{}");
        for (name, good) in [
            (format!("{}.json", id.hex()), true),
            (format!("blobs/sha256/{}", id.hex()), true),
            ("config.json".to_owned(), true),
            (format!("{}.json", Digest::of(b"[]").hex()), false),
            (format!("blobs/sha256/{}", Digest::of(b"[]").hex()), false),
        ] {
            let one = Archived { config: name, names: vec![], layers: vec![] };
            assert_eq!(one.id(b"{}").ok(), good.then_some(id), "{}", one.config);
        }
    }

    #[test]
    fn what_is_no_list_of_images_is_refused() {
        for text in [
            "{}",
            r#"[{"Config":"","Layers":["x"]}]"#,
            r#"[{"Config":"c","Layers":[""]}]"#,
            r#"[{"Layers":["x"]}]"#,
        ] {
            assert!(Archives::read(text.as_bytes()).is_err(), "{text}");
        }
        let none = Archives::read(b"[]").unwrap();
        assert_eq!(
            none.pick(&ArchivePick::Only),
            Err(Error::Empty { document: Document::Archive })
        );
    }
}
