//! A page of a bucket's listing, and the layers among its keys. Pure; no requests are made here.
//!
//! Pages are those of ListObjectsV2 (S3 API reference). A page that contradicts itself is refused:
//! `IsTruncated` without a token would otherwise read as the end.

use crate::error::Error;
use crate::s3::object::{KEY_BYTES_MAX, Layer, Object, ObjectRef};
use crate::text::xml::{self, Fault};

/// A token for the next page is a key and little more; some servers encode it twice.
const TOKEN_BYTES_MAX: usize = 4096;

/// One page.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Page {
    pub(crate) objects: Vec<Object>,
    /// Where the next page starts; none on the last.
    pub(crate) next: Option<String>,
    /// The server says that keys are encoded, and they mean something else if they are not.
    pub(crate) doubtful: bool,
}

impl Page {
    /// Whether `plain`, the same page without a word of encoding, shows that this one was not encoded either.
    pub(crate) fn is_belied_by(&self, plain: &Page) -> bool {
        self.objects.iter().zip(&plain.objects).any(|(own, plain)| {
            let (own, plain) = (&own.object.key, &plain.object.key);
            own != plain && url_decoded(plain).is_ok_and(|decoded| decoded == *own)
        })
    }
}

#[derive(Default)]
struct Entry {
    key: Option<String>,
    size: Option<u64>,
    etag: Option<String>,
}

/// Reads a page of `s3://bucket/prefix`, for which `encoding` of keys was asked or not.
///
/// # Errors
/// [`Error::Xml`] and [`Error::Malformed`].
pub(crate) fn page(
    document: &[u8],
    bucket: &str,
    prefix: &str,
    encoding: bool,
) -> Result<Page, Error> {
    let subject = || format!("s3://{bucket}/{prefix}");
    let malformed =
        |why, got: &str| Error::Malformed { subject: subject(), why, got: got.to_owned() };
    let mut page = Page::default();
    let mut entry = Entry::default();
    let mut truncated = false;
    let mut outside: Option<String> = None;
    let mut encoded = false;
    let mut collect = |path: &[String], text: &str| -> Result<(), &'static str> {
        let names: Vec<&str> = path.iter().map(String::as_str).collect();
        match names[..] {
            [_, "IsTruncated"] => truncated = flag(text)?,
            [_, "NextContinuationToken"] if text.len() > TOKEN_BYTES_MAX => {
                outside = Some(cut(text));
                return Err("a token for the next page of more than 4096 bytes");
            }
            [_, "NextContinuationToken"] => page.next = Some(text.to_owned()),
            [_, "EncodingType"] => encoded = encoding && text == "url",
            // Each byte may be spelled as three.
            [_, "Contents", "Key"] if text.len() > 3 * KEY_BYTES_MAX => {
                outside = Some(cut(text));
                return Err(LONG_KEY);
            }
            [_, "Contents", "Key"] => once(&mut entry.key, text.to_owned())?,
            [_, "Contents", "Size"] => {
                let size = text.parse().map_err(|_| "a size is not a number")?;
                once(&mut entry.size, size)?;
            }
            [_, "Contents", "ETag"] => once(&mut entry.etag, text.to_owned())?,
            [_, "Contents"] => {
                let Entry { key, size, etag } = std::mem::take(&mut entry);
                let key = key.ok_or("an entry without a key")?;
                let size = size.ok_or("an entry without a size")?;
                let etag = etag.as_deref().map(entity_tag).transpose()?.flatten();
                let object = ObjectRef { bucket: bucket.to_owned(), key };
                page.objects.push(Object { object, size, etag });
            }
            _ => {}
        }
        Ok(())
    };
    match xml::walk(document, "ListBucketResult", &mut collect) {
        Ok(()) => {}
        Err(Fault::Syntax(source)) => return Err(Error::Xml { subject: subject(), source }),
        Err(Fault::Rule(why)) => return Err(malformed(why, outside.as_deref().unwrap_or(""))),
    }
    // Some servers say that they encode and do not. What no encoding leaves gives them away, and a key that is
    // below the prefix only as it stands.
    encoded &= page.objects.iter().all(|object| is_url_encoded(&object.object.key));
    let decoded: Vec<String> = match encoded {
        true => page
            .objects
            .iter()
            .map(|object| url_decoded(&object.object.key))
            .collect::<Result<_, _>>(),
        false => Ok(Vec::new()),
    }
    .map_err(|why| malformed(why, ""))?;
    let below = |key: &String| key.starts_with(prefix);
    let as_they_stand = page.objects.iter().all(|object| below(&object.object.key));
    if encoded && (decoded.iter().all(below) || !as_they_stand) {
        for (object, key) in page.objects.iter_mut().zip(decoded) {
            page.doubtful |= object.object.key != key;
            object.object.key = key;
        }
    }
    for object in &page.objects {
        let key = &object.object.key;
        if key.len() > KEY_BYTES_MAX {
            return Err(malformed(LONG_KEY, &cut(key)));
        }
        if !below(key) {
            return Err(malformed("a key outside the prefix", key));
        }
    }
    match (truncated, &page.next) {
        (true, None) => Err(malformed("truncated, but no token for the next page", "")),
        (true, Some(token)) if token.is_empty() => {
            Err(malformed("an empty token for the next page", ""))
        }
        (true, Some(_)) => Ok(page),
        (false, _) => Ok(Page { next: None, ..page }),
    }
}

const LONG_KEY: &str = "a key of more than 1024 bytes";

/// Whether a key can be one that is url-encoded: no blank, no control, nothing beyond ASCII, and each `%` with
/// its two digits.
fn is_url_encoded(key: &str) -> bool {
    let hex = |byte: Option<&u8>| byte.is_some_and(u8::is_ascii_hexdigit);
    let bytes = key.as_bytes();
    bytes.iter().enumerate().all(|(at, byte)| match byte {
        b'%' => hex(bytes.get(at + 1)) && hex(bytes.get(at + 2)),
        byte => byte.is_ascii_graphic(),
    })
}

/// A key out of `encoding-type=url`, where a plus is a blank, as boto3 reads it.
fn url_decoded(key: &str) -> Result<String, &'static str> {
    let mut bytes = Vec::with_capacity(key.len());
    let mut rest = key.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'+' => b' ',
            b'%' => {
                let mut digit = || char::from(rest.next()?).to_digit(16);
                let both = digit().and_then(|high| Some(high * 16 + digit()?));
                both.and_then(|both| u8::try_from(both).ok()).ok_or("a key with a broken escape")?
            }
            byte => byte,
        });
    }
    String::from_utf8(bytes).map_err(|_| "a key that is not UTF-8")
}

/// The beginning of what is too long to be told whole.
fn cut(text: &str) -> String {
    let end = (0..=64).rev().find(|end| text.is_char_boundary(*end)).unwrap_or(0);
    format!("{}...", text.get(..end).unwrap_or(text))
}

fn flag(text: &str) -> Result<bool, &'static str> {
    match text {
        "true" => Ok(true),
        "false" => Ok(false),
        _ => Err("IsTruncated is neither true nor false"),
    }
}

fn once<T>(place: &mut Option<T>, value: T) -> Result<(), &'static str> {
    match place.replace(value) {
        None => Ok(()),
        Some(_) => Err("an entry has an element twice"),
    }
}

/// An entity tag in the header's form (RFC 9110 8.8.3); some listings leave the quotes out. Empty
/// is none. One that no header can carry back is refused, since it could not be pinned.
pub(crate) fn entity_tag(text: &str) -> Result<Option<String>, &'static str> {
    let bare = text.strip_prefix("W/").unwrap_or(text);
    let inner = bare.strip_prefix('"').and_then(|t| t.strip_suffix('"')).unwrap_or(bare);
    if inner.is_empty() {
        return Ok(None);
    }
    if inner.len() > 1024 || !inner.bytes().all(|b| b.is_ascii_graphic() && b != b'"') {
        return Err("an ETag with odd characters");
    }
    let weak = if text.starts_with("W/") { "W/" } else { "" };
    Ok(Some(format!("{weak}\"{inner}\"")))
}

/// Endings of a layer's key.
const ENDINGS: [&str; 4] = [".tar", ".tar.gz", ".tgz", ".tar.zst"];

/// The number of a layer out of what follows the prefix: `12` of `12.tar`. No sign, no leading
/// zero (else `1.tar` and `01.tar` were both layer 1), no subfolder.
fn number(child: &str) -> Option<u64> {
    let digits = ENDINGS.iter().find_map(|ending| child.strip_suffix(ending))?;
    if digits.starts_with('0') || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    digits.parse().ok()
}

/// The layers among the objects under a prefix, in numeric order: 1, 2, ..., 10.
///
/// # Errors
/// [`Error::EmptyPrefix`], [`Error::Stranger`], [`Error::Layout`], [`Error::Duplicate`], [`Error::Gap`].
pub(crate) fn layers(
    bucket: &str,
    prefix: &str,
    objects: Vec<Object>,
) -> Result<Vec<Layer>, Error> {
    let subject = || format!("s3://{bucket}/{prefix}");
    // The files that an image layout has (image-spec, image-layout.md).
    let of_layout = |object: &Object| {
        let child = object.object.key.get(prefix.len()..).unwrap_or("");
        matches!(child, "index.json" | "oci-layout") || child.starts_with("blobs/")
    };
    let marked = format!("{prefix}oci-layout");
    let is_layout = objects.iter().any(|object| object.object.key == marked);
    let mut layers: Vec<Layer> = Vec::with_capacity(objects.len());
    for object in objects {
        let child = object.object.key.get(prefix.len()..).unwrap_or("");
        // What a console makes when somebody presses "create folder".
        if child.is_empty() && object.size == 0 {
            continue;
        }
        match number(child) {
            Some(number) => layers.push(Layer { number, object }),
            None if is_layout || of_layout(&object) => {
                return Err(Error::Layout { subject: subject() });
            }
            None => return Err(Error::Stranger { subject: object.object.to_string() }),
        }
    }
    layers.sort_by_key(|layer| layer.number);
    if layers.is_empty() {
        return Err(Error::EmptyPrefix { subject: subject() });
    }
    for (due, layer) in (1..).zip(&layers) {
        if layer.number < due {
            let first = layers.iter().find(|l| l.number == layer.number).unwrap_or(layer);
            return Err(Error::Duplicate {
                number: layer.number,
                first: first.object.object.to_string(),
                second: layer.object.object.to_string(),
            });
        }
        if layer.number > due {
            return Err(Error::Gap { subject: subject(), missing: due, next: layer.number });
        }
    }
    Ok(layers)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn objects(keys: &[&str]) -> Vec<Object> {
        let object = |key: &&str| Object {
            object: ObjectRef { bucket: "bkt".into(), key: (*key).into() },
            size: 1,
            etag: None,
        };
        keys.iter().map(object).collect()
    }

    fn numbers(keys: &[&str]) -> Result<Vec<u64>, Error> {
        Ok(layers("bkt", "p/", objects(keys))?.iter().map(|l| l.number).collect())
    }

    #[test]
    fn ten_comes_after_nine() {
        let keys: Vec<String> = (1..=11).map(|n| format!("p/{n}.tar")).collect();
        let mut keys: Vec<&str> = keys.iter().map(String::as_str).collect();
        keys.sort_unstable();
        assert_eq!(numbers(&keys).unwrap(), (1..=11).collect::<Vec<_>>());
        assert_eq!(numbers(&["p/2.tar.gz", "p/1.tgz", "p/3.tar.zst"]).unwrap(), [1, 2, 3]);
    }

    #[test]
    fn what_is_no_layer_is_named() {
        for key in [
            "p/1.zip",
            "p/01.tar",
            "p/x.tar",
            "p/.tar",
            "p/1.tar.bak",
            "p/sub/1.tar",
            "p/+1.tar",
            "p/0.tar",
            "p/99999999999999999999.tar",
            "p/",
            "p/-1.tar",
            "p/1.tar/",
        ] {
            let got = numbers(&["p/1.tar", key]);
            assert!(
                matches!(&got, Err(Error::Stranger { subject }) if subject.ends_with(key)),
                "{got:?}"
            );
        }
    }

    #[test]
    fn a_layout_is_told_by_its_own_form() {
        for keys in [
            &["p/index.json"][..],
            &["p/blobs/sha256/0", "p/1.tar"],
            &["p/1.tar", "p/README", "p/oci-layout"],
        ] {
            let got = numbers(keys);
            assert!(
                matches!(&got, Err(Error::Layout { subject }) if subject == "s3://bkt/p/"),
                "{got:?}"
            );
        }
        let said = numbers(&["p/oci-layout"]).unwrap_err().to_string();
        assert!(said.contains("oci:s3://bkt/p/:TAG"), "{said}");
        assert!(matches!(numbers(&["p/x/index.json"]), Err(Error::Stranger { .. })));
    }

    #[test]
    fn holes_and_twins_are_errors() {
        assert!(matches!(numbers(&[]), Err(Error::EmptyPrefix { .. })));
        assert!(matches!(numbers(&["p/2.tar"]), Err(Error::Gap { missing: 1, next: 2, .. })));
        assert!(matches!(numbers(&["p/1.tar", "p/3.tar"]), Err(Error::Gap { missing: 2, .. })));
        let twins = numbers(&["p/1.tar", "p/2.tar", "p/2.tgz", "p/3.tar"]);
        assert!(matches!(twins, Err(Error::Duplicate { number: 2, .. })), "{twins:?}");
    }

    const HEAD: &str = "<ListBucketResult><IsTruncated>";

    #[test]
    fn a_page_gives_keys_sizes_and_tags() {
        let text = format!(
            "<?xml version=\"1.0\"?>{HEAD}true</IsTruncated><NextContinuationToken>t+/=\
             </NextContinuationToken><Contents><Key>p/a &amp; b </Key><Size>7</Size>\
             <ETag>&quot;e&quot;</ETag></Contents><Contents><Key>p/c</Key><Size>0</Size>\
             </Contents></ListBucketResult>"
        );
        let page = page(text.as_bytes(), "bkt", "p/", true).unwrap();
        assert_eq!(page.next.as_deref(), Some("t+/="));
        assert_eq!(page.objects[0].object.key, "p/a & b ");
        assert_eq!(page.objects[0].etag.as_deref(), Some("\"e\""));
        assert_eq!((page.objects[1].size, &page.objects[1].etag), (0, &None));
    }

    #[test]
    fn a_page_that_lies_is_refused() {
        let entry = |inside: &str| {
            format!("{HEAD}false</IsTruncated><Contents>{inside}</Contents></ListBucketResult>")
        };
        for text in [
            format!("{HEAD}true</IsTruncated></ListBucketResult>"),
            format!("{HEAD}maybe</IsTruncated></ListBucketResult>"),
            entry("<Key>p/a</Key>"),
            entry("<Size>1</Size>"),
            entry("<Key>p/a</Key><Size>-1</Size>"),
            entry("<Key>p/a</Key><Size>18446744073709551616</Size>"),
            entry("<Key>p/a</Key><Key>p/b</Key><Size>1</Size>"),
            entry("<Key>other/a</Key><Size>1</Size>"),
            entry("<Key>p/a</Key><Size>1</Size><ETag>a\nb</ETag>"),
            "<Error><Code>NoSuchBucket</Code></Error>".to_owned(),
            "<html></html>".to_owned(),
            String::new(),
        ] {
            assert!(page(text.as_bytes(), "bkt", "p/", true).is_err(), "{text}");
        }
    }

    #[test]
    fn tags_take_the_form_of_the_header() {
        assert_eq!(entity_tag("abc").unwrap().as_deref(), Some("\"abc\""));
        assert_eq!(entity_tag("\"abc\"").unwrap().as_deref(), Some("\"abc\""));
        assert_eq!(entity_tag("W/\"abc\"").unwrap().as_deref(), Some("W/\"abc\""));
        assert_eq!(entity_tag("").unwrap(), None);
        assert!(entity_tag("a\"b").is_err() && entity_tag("a b").is_err());
    }
}
