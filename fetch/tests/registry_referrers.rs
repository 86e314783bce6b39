//! What a registry lists of what refers to an image. Each fault through a socket.

mod fault;
mod registry;

use fault::Reply;
use fetch::image::{DOCUMENT_BYTES_MAX, Digest};
use fetch::{Kind, Which};
use registry::{asked, client, options, sent, start, unknown};

const INDEX: &str = "application/vnd.oci.image.index.v1+json";

#[test]
fn the_list_is_asked_for_by_the_digest_and_comes_whole() {
    let list = br#"{"schemaVersion":2,"manifests":[]}"#;
    // A registry may say that there is another page; the first is what is read.
    let server = start(list, |_, reply| {
        let next = "</v2/team/app/referrers/sha256:00?n=1&last=x>; rel=\"next\"";
        reply.with("Content-Type", INDEX).with("Link", next)
    });
    let image = Digest::of(b"an image");
    let client = client(&server, &options());
    assert_eq!(client.referrers(&image).unwrap().as_deref(), Some(&list[..]));
    assert_eq!(asked(&server), [format!("GET /v2/team/app/referrers/{image}")]);
    assert!(sent(&server, "accept")[0].as_ref().unwrap().contains(INDEX));
}

#[test]
fn a_registry_that_knows_no_such_list_has_none_and_one_that_fails_is_an_error() {
    let image = Digest::of(b"an image");
    for status in [400, 404, 405, 406, 501] {
        let server = start(b"", move |_, _| unknown(status, "UNSUPPORTED", "no such thing"));
        assert_eq!(client(&server, &options()).referrers(&image).unwrap(), None, "{status}");
    }
    for (status, kind) in [(403, Kind::Denied), (503, Kind::Throttled)] {
        let server = start(b"", move |_, _| unknown(status, "DENIED", "not you"));
        let quick = fetch::Options { tries_max: Some(1), ..options() };
        let error = client(&server, &quick).referrers(&image).unwrap_err();
        assert_eq!(error.kind(), kind, "{error}");
    }
    let endless = start(b"", |_, _| {
        Reply::new(200, &vec![b' '; usize::try_from(DOCUMENT_BYTES_MAX + 1).unwrap()])
    });
    let error = client(&endless, &options()).referrers(&image).unwrap_err();
    assert!(error.to_string().contains("4194304"), "{error}");
}

#[test]
fn a_tag_that_is_not_there_is_no_error_where_it_need_not_be() {
    let server = start(b"", |_, _| unknown(404, "MANIFEST_UNKNOWN", "manifest unknown"));
    let client = client(&server, &options());
    let tag = format!("sha256-{}.sig", Digest::of(b"an image").hex());
    assert_eq!(client.manifest_if_there(&Which::Tag(tag.clone())).unwrap(), None);
    assert_eq!(asked(&server), [format!("GET /v2/team/app/manifests/{tag}")]);
}
