//! What is written to a bucket, as requests, and the documents of uploads in parts (S3 API reference: PutObject,
//! CreateMultipartUpload, UploadPart, ListMultipartUploads, ListParts, CompleteMultipartUpload). Nothing is sent here.

use ureq::http::Method;

use crate::text::xml::{self, Fault, walk};

/// Parts of one upload (S3 user guide, "Amazon S3 multipart upload limits").
pub(crate) const PARTS_MAX: u32 = 10_000;

/// Bytes of a part of an object that has no more than 10,000 of them: 156 GiB. A part is kept in memory while it is
/// sent, because its digest is signed.
pub(crate) const PART_BYTES: u64 = 16 << 20;

/// Bytes of a part of the largest object that can be written: 625 GiB.
const PART_BYTES_MAX: u64 = 64 << 20;

/// Bytes of each part but the last, of an object of this size; none where it is too large. It goes by the size alone,
/// so that whoever goes on with an upload cuts the object as the one before did.
pub(crate) fn part_bytes(size: u64) -> Option<u64> {
    let least = size.div_ceil(u64::from(PARTS_MAX)).next_multiple_of(1 << 20);
    Some(least.max(PART_BYTES)).filter(|bytes| *bytes <= PART_BYTES_MAX)
}

/// The largest object that can be written, bytes.
pub(crate) const OBJECT_BYTES_MAX: u64 = PART_BYTES_MAX * 10_000;

/// What has to hold for an object to be written; else the server answers 412 and nothing is changed (RFC 9110 13.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Condition<'a> {
    /// The object has this strong entity tag (If-Match).
    Match(&'a str),
    /// There is no such object (If-None-Match: *).
    Absent,
}

/// Bytes that go out with a request.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Content<'a> {
    pub(crate) bytes: &'a [u8],
    /// Their digest; it is signed, and the server compares it.
    pub(crate) sha256: &'a [u8; 32],
    /// What they are.
    pub(crate) media: &'static str,
}

/// A request that writes, or looks after what is written in parts.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Write<'a> {
    Put {
        key: &'a str,
        content: Content<'a>,
        condition: Option<Condition<'a>>,
    },
    Delete {
        key: &'a str,
    },
    /// The unfinished uploads of keys that begin so.
    Uploads {
        prefix: &'a str,
    },
    Create {
        key: &'a str,
        media: &'static str,
    },
    Part {
        key: &'a str,
        upload: &'a str,
        number: u32,
        content: Content<'a>,
    },
    /// The parts that are there, from the one after this on.
    Parts {
        key: &'a str,
        upload: &'a str,
        after: u32,
    },
    Complete {
        key: &'a str,
        upload: &'a str,
        content: Content<'a>,
    },
    Abort {
        key: &'a str,
        upload: &'a str,
    },
}

impl Write<'_> {
    pub(crate) fn method(&self) -> Method {
        match self {
            Write::Put { .. } | Write::Part { .. } => Method::PUT,
            Write::Delete { .. } | Write::Abort { .. } => Method::DELETE,
            Write::Create { .. } | Write::Complete { .. } => Method::POST,
            Write::Uploads { .. } | Write::Parts { .. } => Method::GET,
        }
    }

    pub(crate) fn key(&self) -> &str {
        match self {
            Write::Put { key, .. }
            | Write::Delete { key }
            | Write::Create { key, .. }
            | Write::Part { key, .. }
            | Write::Parts { key, .. }
            | Write::Complete { key, .. }
            | Write::Abort { key, .. } => key,
            Write::Uploads { .. } => "",
        }
    }

    /// What it is about, as a message has it.
    pub(crate) fn subject(&self, bucket: &str) -> String {
        match self {
            Write::Uploads { prefix } => format!("s3://{bucket}/{prefix}"),
            _ => format!("s3://{bucket}/{}", self.key()),
        }
    }

    /// Names and values of the query, as they are before they are spelled for a URL.
    pub(crate) fn queries(&self) -> Vec<(&'static str, String)> {
        let upload = |upload: &str| ("uploadId", upload.to_owned());
        match self {
            Write::Put { .. } | Write::Delete { .. } => Vec::new(),
            Write::Uploads { prefix } => {
                vec![("prefix", (*prefix).to_owned()), ("uploads", String::new())]
            }
            Write::Create { .. } => vec![("uploads", String::new())],
            Write::Part { upload: id, number, .. } => {
                vec![("partNumber", number.to_string()), upload(id)]
            }
            Write::Parts { upload: id, after: 0, .. } => vec![upload(id)],
            Write::Parts { upload: id, after, .. } => {
                vec![("part-number-marker", after.to_string()), upload(id)]
            }
            Write::Complete { upload: id, .. } | Write::Abort { upload: id, .. } => {
                vec![upload(id)]
            }
        }
    }

    pub(crate) fn content(&self) -> Option<Content<'_>> {
        match self {
            Write::Put { content, .. }
            | Write::Part { content, .. }
            | Write::Complete { content, .. } => Some(*content),
            Write::Delete { .. }
            | Write::Uploads { .. }
            | Write::Create { .. }
            | Write::Parts { .. }
            | Write::Abort { .. } => None,
        }
    }

    /// Headers of its own.
    pub(crate) fn headers(&self) -> Vec<(&'static str, String)> {
        let mut headers = Vec::new();
        let media = match self {
            Write::Create { media, .. } => Some(*media),
            _ => self.content().map(|content| content.media),
        };
        headers.extend(media.map(|media| ("content-type", media.to_owned())));
        if let Write::Put { condition: Some(condition), .. } = self {
            headers.push(match condition {
                Condition::Match(etag) => ("if-match", (*etag).to_owned()),
                Condition::Absent => ("if-none-match", "*".to_owned()),
            });
        }
        headers
    }
}

/// A part that a server has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Part {
    pub(crate) number: u32,
    pub(crate) size: u64,
    /// As the server writes it; empty where it does not.
    pub(crate) etag: String,
}

/// The id of a new upload.
pub(crate) fn created(document: &[u8]) -> Result<String, Fault> {
    let found = xml::texts(document, "InitiateMultipartUploadResult", &["UploadId"])?;
    let id = found.into_iter().flatten().next().filter(|id| !id.is_empty());
    id.ok_or(Fault::Rule("an upload without an id"))
}

/// The ids of the unfinished uploads of exactly this key, in the server's order: the oldest first.
pub(crate) fn uploads(document: &[u8], key: &str) -> Result<Vec<String>, Fault> {
    let (mut found, mut own, mut id) = (Vec::new(), String::new(), String::new());
    walk(document, "ListMultipartUploadsResult", &mut |path, text| {
        match path.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
            [_, "Upload", "Key"] => own = text.to_owned(),
            [_, "Upload", "UploadId"] => id = text.to_owned(),
            [_, "Upload"] => {
                let (own, id) = (std::mem::take(&mut own), std::mem::take(&mut id));
                if own == key && !id.is_empty() {
                    found.push(id);
                }
            }
            _ => {}
        }
        Ok(())
    })?;
    Ok(found)
}

/// The parts of one page, and after which number the next page begins.
pub(crate) fn parts(document: &[u8]) -> Result<(Vec<Part>, Option<u32>), Fault> {
    let mut found = Vec::new();
    let (mut number, mut size, mut etag) = (None, None, String::new());
    let (mut more, mut next) = (false, None);
    walk(document, "ListPartsResult", &mut |path, text| {
        match path.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
            [_, "IsTruncated"] => more = text == "true",
            [_, "NextPartNumberMarker"] => next = text.parse().ok(),
            [_, "Part", "PartNumber"] => number = text.parse().ok(),
            [_, "Part", "Size"] => size = text.parse().ok(),
            [_, "Part", "ETag"] => etag = text.to_owned(),
            [_, "Part"] => {
                let etag = std::mem::take(&mut etag);
                if let (Some(number), Some(size)) = (number.take(), size.take()) {
                    found.push(Part { number, size, etag });
                }
            }
            _ => {}
        }
        Ok(())
    })?;
    Ok((found, next.filter(|_| more)))
}

/// The document that ends an upload.
pub(crate) fn complete(parts: &[Part]) -> String {
    let mut text =
        "<CompleteMultipartUpload xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\">".to_owned();
    for Part { number, etag, .. } in parts {
        let etag = etag.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
        text.push_str(&format!(
            "<Part><PartNumber>{number}</PartNumber><ETag>{etag}</ETag></Part>"
        ));
    }
    text + "</CompleteMultipartUpload>"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_cut_by_the_size_alone() {
        assert_eq!(part_bytes(PART_BYTES + 1), Some(PART_BYTES));
        assert_eq!(part_bytes(PART_BYTES * 10_000), Some(PART_BYTES));
        assert_eq!(part_bytes(PART_BYTES * 10_000 + 1), Some(17 << 20));
        assert_eq!(part_bytes(OBJECT_BYTES_MAX), Some(PART_BYTES_MAX));
        assert_eq!(part_bytes(OBJECT_BYTES_MAX + 1), None);
        for size in [1, 170 << 30, OBJECT_BYTES_MAX] {
            assert!(size.div_ceil(part_bytes(size).unwrap()) <= u64::from(PARTS_MAX), "{size}");
        }
    }

    #[test]
    fn unfinished_uploads_of_this_very_key_are_found() {
        let listed = b"<ListMultipartUploadsResult xmlns=\"x\"><Bucket>b</Bucket><KeyMarker/>\
            <Upload><Key>p/ab</Key><UploadId>other</UploadId></Upload>\
            <Upload><Key>p/a</Key><UploadId>old</UploadId><Owner><ID>i</ID></Owner></Upload>\
            <Upload><UploadId>new</UploadId><Key>p/a</Key></Upload>\
            <Upload><Key>p/a</Key></Upload></ListMultipartUploadsResult>";
        assert_eq!(uploads(listed, "p/a").unwrap(), ["old", "new"]);
        assert!(uploads(b"<Error/>", "p/a").is_err());
        assert!(created(b"<InitiateMultipartUploadResult/>").is_err());
        let made = b"<InitiateMultipartUploadResult><Key>k</Key><UploadId>a&amp;b</UploadId></InitiateMultipartUploadResult>";
        assert_eq!(created(made).unwrap(), "a&b");
    }

    #[test]
    fn parts_come_in_pages_and_are_named_again_at_the_end() {
        let listed = b"<ListPartsResult><NextPartNumberMarker>2</NextPartNumberMarker>\
            <Part><PartNumber>1</PartNumber><Size>9</Size><ETag>&quot;e&amp;1&quot;</ETag></Part>\
            <Part><PartNumber>2</PartNumber><Size>3</Size></Part><Part><Size>3</Size></Part>\
            <IsTruncated>true</IsTruncated></ListPartsResult>";
        let (found, next) = parts(listed).unwrap();
        assert_eq!(next, Some(2));
        let due = Part { number: 1, size: 9, etag: "\"e&1\"".into() };
        assert_eq!((found.len(), &found[0]), (2, &due));
        assert_eq!(found[1].etag, "");
        let last =
            b"<ListPartsResult><NextPartNumberMarker>2</NextPartNumberMarker></ListPartsResult>";
        assert_eq!(parts(last).unwrap(), (vec![], None));
        let text = complete(&found[..1]);
        assert!(text.contains("<PartNumber>1</PartNumber><ETag>\"e&amp;1\"</ETag>"), "{text}");
    }
}
