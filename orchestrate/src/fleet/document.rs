//! The form of a fleet's document, version 1. Pure: which one is believed is decided in `belief`, what follows from
//! it in `converge`.
//!
//! ```text
//!   {"version": 1, "serial": 42, "fleet": "prod", "class": "worker", "paused": false,
//!    "catalog": {"serial_min": 17},
//!    "images": {"golang": {"image": "s3://bkt/images/golang-7/", "before": "s3://bkt/images/golang-6/",
//!               "where": {"site": ["fra", "ams"], "labels": {"disk": ["nvme"]}},
//!               "rollout": {"salt": "golang-7", "percent": 10, "by": "host"}}},
//!    "activations": {"web": {"image": "golang", "on_change": "keep"}},
//!    "remove": ["s3://bkt/images/golang-5/"],
//!    "pace": {"spread_s": 300, "max_used": 85}}
//! ```
//!
//! `version`, `serial` and `fleet` have to be there; everything else may be left out.

use std::collections::{BTreeMap, BTreeSet};

use fetch::{Place, Reference};
use serde_json::Value;

use crate::error::quote::quoted;
use crate::fleet::fault::Faults;
use crate::fleet::reader::{Object, Reader, at};
use crate::trust::catalog::SERIAL_MAX;
use crate::trust::strict;

/// Bytes of a document.
pub const BYTES_MAX: u64 = 1 << 20;

/// Bytes of its signature; minisign's are about 300.
pub const SIGNATURE_BYTES_MAX: u64 = 16 << 10;

/// Entries of `images`, `activations` and `remove`, of each.
pub const ENTRIES_MAX: usize = 1000;

/// Sites of one entry, and values of one label.
const CHOICES_MAX: usize = 1000;

/// Labels of one entry.
const LABELS_MAX: usize = 32;

/// Bytes of a reference.
const REFERENCE_MAX: usize = 1024;

/// The longest time over which the hosts of a class begin, seconds: a day.
const SPREAD_MAX: u64 = 86_400;

/// Parts of the whole that a roll-out is counted in: hundredths of a per cent.
pub const PARTS: u64 = 10_000;

/// What hosts of one class are to have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Document {
    /// Grows with each document.
    pub serial: u64,
    /// The fleet that it is for.
    pub fleet: String,
    /// The class of hosts that it is for; none: for hosts without a class.
    pub class: Option<String>,
    /// Whether hosts do nothing by it for now.
    pub paused: bool,
    /// The serial that the signed catalog has to have at least before anything is begun.
    pub catalog_min: Option<u64>,
    /// Images by the name that the document gives them.
    pub images: BTreeMap<String, Entry>,
    /// Activations by name.
    pub activations: BTreeMap<String, Wanted>,
    /// Images that are to go.
    pub remove: BTreeSet<String>,
    /// How fast.
    pub pace: Pace,
}

/// One image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its reference.
    pub image: String,
    /// The reference of what hosts have that the roll-out has not come to.
    pub before: Option<String>,
    /// Which hosts.
    pub only: Where,
    /// How many of them.
    pub rollout: Rollout,
}

/// Which hosts of the class have an image.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Where {
    /// Those of these sites; none: of all, and those without one.
    pub site: Option<BTreeSet<String>>,
    /// Those that have each of these labels with one of its values.
    pub labels: BTreeMap<String, BTreeSet<String>>,
}

/// How far an image is rolled out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rollout {
    /// Another salt is another choice of hosts.
    pub salt: String,
    /// Of [`PARTS`].
    pub parts: u64,
    /// What is chosen.
    pub by: By,
}

/// What a roll-out chooses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum By {
    /// Single hosts.
    Host,
    /// Whole sites.
    Site,
}

/// One activation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// The name of its image in `images`.
    pub image: String,
    /// What becomes of it when that image is another one.
    pub on_change: OnChange,
}

/// What becomes of an activation whose image is another one by now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnChange {
    /// It stays as it is.
    #[default]
    Keep,
    /// It is removed, with what was written to it, once nobody has it open, and made anew.
    Replace,
}

/// How fast hosts follow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pace {
    /// Hosts begin within so many seconds, each at its own moment.
    pub spread_s: u64,
    /// Per cent of the store that may be used for something to be begun.
    pub max_used: u64,
}

impl Default for Pace {
    fn default() -> Pace {
        Pace { spread_s: 0, max_used: 85 }
    }
}

impl Document {
    /// Reads a document, whoever has signed it.
    ///
    /// # Errors
    /// Everything that is wrong with it.
    pub fn parse(bytes: &[u8]) -> Result<Document, Faults> {
        let mut reader = Reader::default();
        if bytes.len() as u64 > BYTES_MAX {
            let why = format!("{} bytes, and a document has at most {BYTES_MAX}", bytes.len());
            reader.faults.put("document", why);
            return Err(reader.faults);
        }
        let document = match strict::parse(bytes) {
            Ok(value) => read(&mut reader, &value),
            Err(error) => {
                reader.faults.put("document", format!("no JSON that can be read: {error}"));
                None
            }
        };
        match (document, reader.faults.is_empty()) {
            (Some(document), true) => Ok(document),
            (None | Some(_), _) => Err(reader.faults),
        }
    }

    /// Whether an image is one that the document names for something else than its removal.
    pub fn names(&self, image: &str) -> bool {
        let is = |entry: &Entry| entry.image == image || entry.before.as_deref() == Some(image);
        self.images.values().any(is)
    }
}

const FIELDS: &[&str] = &[
    "version",
    "serial",
    "fleet",
    "class",
    "paused",
    "catalog",
    "images",
    "activations",
    "remove",
    "pace",
];

fn read(reader: &mut Reader, value: &Value) -> Option<Document> {
    let object = reader.object("document", value, FIELDS)?;
    if let Some(version) = reader.required("document", object, "version")
        && version.as_u64() != Some(1)
    {
        let shown = quoted(&version.to_string()).to_string();
        reader.faults.put("version", format!("{shown}, and 1 is what this program reads"));
    }
    let serial = reader
        .required("document", object, "serial")
        .and_then(|value| reader.whole("serial", value, (1, SERIAL_MAX)));
    let fleet =
        reader.required("document", object, "fleet").and_then(|value| reader.word("fleet", value));
    let field = |key: &str| object.map.get(key);
    let class = field("class").and_then(|value| reader.word("class", value));
    let paused = field("paused").and_then(|value| reader.switch("paused", value));
    let catalog_min = field("catalog").and_then(|value| catalog(reader, value));
    let images = field("images").map_or_else(BTreeMap::new, |value| images(reader, value));
    let activations =
        field("activations").map_or_else(BTreeMap::new, |value| activations(reader, value));
    let remove = field("remove").map_or_else(BTreeSet::new, |value| remove(reader, value));
    let pace = field("pace").map_or_else(Pace::default, |value| pace(reader, value));
    let document = Document {
        serial: serial?,
        fleet: fleet?,
        class,
        paused: paused.unwrap_or(false),
        catalog_min,
        images,
        activations,
        remove,
        pace,
    };
    agree(reader, &document, object);
    Some(document)
}

/// What contradicts itself.
fn agree(reader: &mut Reader, document: &Document, object: Object<'_>) {
    for (name, wanted) in &document.activations {
        // One that was refused itself is there all the same.
        let named = object.map.get("images").is_some_and(|all| all.get(&wanted.image).is_some());
        if !named {
            let why = format!("{} is no entry of `images`", quoted(&wanted.image));
            reader.faults.put(&at(&at("activations", name), "image"), why);
        }
    }
    for (name, entry) in &document.images {
        if entry.before.as_ref() == Some(&entry.image) {
            let why = format!("{} is the image itself", quoted(&entry.image));
            reader.faults.put(&at(&at("images", name), "before"), why);
        }
        for (key, reference) in [("image", Some(&entry.image)), ("before", entry.before.as_ref())] {
            if let Some(reference) = reference.filter(|image| document.remove.contains(*image)) {
                let why = format!(
                    "{} is wanted as `{}` too: take it out of one of them",
                    quoted(reference),
                    at(&at("images", name), key)
                );
                reader.faults.put("remove", why);
            }
        }
    }
}

fn catalog(reader: &mut Reader, value: &Value) -> Option<u64> {
    let object = reader.object("catalog", value, &["serial_min"])?;
    let value = reader.required("catalog", object, "serial_min")?;
    reader.whole("catalog.serial_min", value, (0, SERIAL_MAX))
}

fn images(reader: &mut Reader, value: &Value) -> BTreeMap<String, Entry> {
    let mut all = BTreeMap::new();
    for (place, name, value) in reader.entries("images", value, ENTRIES_MAX) {
        reader.is_word(&place, name);
        let Some(object) = reader.object(&place, value, &["image", "before", "where", "rollout"])
        else {
            continue;
        };
        let image = reader
            .required(&place, object, "image")
            .and_then(|value| reference(reader, &at(&place, "image"), value));
        let field = |key: &str| object.map.get(key).map(|value| (at(&place, key), value));
        let before = field("before").and_then(|(place, value)| reference(reader, &place, value));
        let only = field("where")
            .map_or_else(Where::default, |(place, value)| only(reader, &place, value));
        let everybody = Rollout { salt: String::new(), parts: PARTS, by: By::Host };
        let rollout = match field("rollout") {
            Some((place, value)) => rollout(reader, &place, value),
            None => Some(everybody),
        };
        if let (Some(image), Some(rollout)) = (image, rollout) {
            all.insert(name.to_owned(), Entry { image, before, only, rollout });
        }
    }
    all
}

/// An image that every host can ask for alike: nothing of its own files, and of a registry what cannot move.
fn reference(reader: &mut Reader, place: &str, value: &Value) -> Option<String> {
    let text = reader.text(place, value, REFERENCE_MAX)?;
    let why = match text.parse::<Reference>() {
        Ok(found) => match &found.place {
            Place::Numbered(_) | Place::Bucket { .. } => return Some(found.to_string()),
            Place::Registry(at) if at.digest.is_some() => return Some(found.to_string()),
            Place::Registry(_) => {
                "a tag of a registry may be another image an hour later: name it with @sha256:.."
                    .to_owned()
            }
            Place::Layout { .. }
            | Place::Archive { .. }
            | Place::DockerArchive { .. }
            | Place::Here(_) => {
                "a document names images that every host can fetch: s3://bucket/prefix/, \
                 oci:s3://bucket/prefix/:TAG, docker://host/name@sha256:.."
                    .to_owned()
            }
        },
        Err(error) => error.to_string(),
    };
    reader.faults.put(place, format!("{}: {why}", quoted(text)));
    None
}

fn only(reader: &mut Reader, place: &str, value: &Value) -> Where {
    let mut found = Where::default();
    let Some(object) = reader.object(place, value, &["site", "labels"]) else { return found };
    if let Some(value) = object.map.get("site") {
        found.site = Some(words(reader, &at(place, "site"), value));
    }
    if let Some(value) = object.map.get("labels") {
        for (place, label, value) in reader.entries(&at(place, "labels"), value, LABELS_MAX) {
            reader.is_word(&place, label);
            let values = words(reader, &place, value);
            found.labels.insert(label.to_owned(), values);
        }
    }
    found
}

fn words(reader: &mut Reader, place: &str, value: &Value) -> BTreeSet<String> {
    let list = reader.list(place, value, CHOICES_MAX);
    if value.as_array().is_some_and(Vec::is_empty) {
        reader.faults.put(
            place,
            "the list is empty, so no host would be meant: leave the field out for all",
        );
    }
    let words = list.iter().enumerate();
    words.filter_map(|(n, value)| reader.word(&format!("{place}[{n}]"), value)).collect()
}

fn rollout(reader: &mut Reader, place: &str, value: &Value) -> Option<Rollout> {
    let object = reader.object(place, value, &["salt", "percent", "by"])?;
    let salt = reader
        .required(place, object, "salt")
        .and_then(|value| reader.word(&at(place, "salt"), value));
    let parts = reader
        .required(place, object, "percent")
        .and_then(|value| percent(reader, &at(place, "percent"), value));
    let by = match object.map.get("by") {
        Some(value) => {
            let words = [("host", By::Host), ("site", By::Site)];
            reader.one_of(&at(place, "by"), value, &words)
        }
        None => Some(By::Host),
    };
    Some(Rollout { salt: salt?, parts: parts?, by: by? })
}

/// Per cent with at most two decimals, as parts of [`PARTS`].
fn percent(reader: &mut Reader, place: &str, value: &Value) -> Option<u64> {
    let found = value.as_number().and_then(|number| hundredths(&number.to_string()));
    let found = found.filter(|parts| *parts <= PARTS);
    if found.is_none() {
        let shown = quoted(&value.to_string()).to_string();
        reader.faults.put(
            place,
            format!("expected a number from 0 to 100 with at most two decimals, found {shown}"),
        );
    }
    found
}

/// `12.5` is 1250: by its text, for 0.07 times 100 is not 7.
fn hundredths(text: &str) -> Option<u64> {
    let (whole, decimals) = text.split_once('.').unwrap_or((text, ""));
    let digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    let decimals = decimals.trim_end_matches('0');
    if whole.is_empty()
        || whole.len() > 9
        || decimals.len() > 2
        || !digits(whole)
        || !digits(decimals)
    {
        return None;
    }
    format!("{whole}{decimals:0<2}").parse().ok()
}

fn activations(reader: &mut Reader, value: &Value) -> BTreeMap<String, Wanted> {
    let mut all = BTreeMap::new();
    for (place, name, value) in reader.entries("activations", value, ENTRIES_MAX) {
        if !is_name(name) {
            let rule = "1 to 100 of A-Z a-z 0-9 - _ . +, the first a letter or digit";
            reader.faults.put(&place, format!("{}: {rule}", quoted(name)));
        }
        let Some(object) = reader.object(&place, value, &["image", "on_change"]) else { continue };
        let image = reader
            .required(&place, object, "image")
            .and_then(|value| reader.word(&at(&place, "image"), value));
        let on_change = match object.map.get("on_change") {
            Some(value) => {
                let words = [("keep", OnChange::Keep), ("replace", OnChange::Replace)];
                reader.one_of(&at(&place, "on_change"), value, &words)
            }
            None => Some(OnChange::Keep),
        };
        if let (Some(image), Some(on_change)) = (image, on_change) {
            all.insert(name.to_owned(), Wanted { image, on_change });
        }
    }
    all
}

/// As `verbs::named::check_name` has it, which a test there compares.
pub(crate) fn is_name(name: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | '+');
    name.len() <= 100
        && name.starts_with(|c: char| c.is_ascii_alphanumeric())
        && name.chars().all(plain)
        && name != "control"
}

fn remove(reader: &mut Reader, value: &Value) -> BTreeSet<String> {
    let list = reader.list("remove", value, ENTRIES_MAX).iter().enumerate();
    list.filter_map(|(n, value)| reference(reader, &format!("remove[{n}]"), value)).collect()
}

fn pace(reader: &mut Reader, value: &Value) -> Pace {
    let mut pace = Pace::default();
    let Some(object) = reader.object("pace", value, &["spread_s", "max_used"]) else { return pace };
    if let Some(value) = object.map.get("spread_s") {
        let found = reader.whole("pace.spread_s", value, (0, SPREAD_MAX));
        pace.spread_s = found.unwrap_or(pace.spread_s);
    }
    if let Some(value) = object.map.get("max_used") {
        let found = reader.whole("pace.max_used", value, (1, 100));
        pace.max_used = found.unwrap_or(pace.max_used);
    }
    pace
}
