//! Objects of the bench's bucket that somebody has signed, by minisign itself.

use std::fs;
use std::process::Command;

use crate::bench::Bench;

pub(crate) fn minisign(words: &[&str]) {
    let done = Command::new("minisign").args(words).output().expect("no minisign: run ./bootstrap");
    assert!(done.status.success(), "minisign {words:?}: {done:?}");
}

/// A file of the bench, as text.
pub(crate) fn path(bench: &Bench, name: &str) -> String {
    bench.path(name).to_string_lossy().into_owned()
}

/// Keys of this name: `NAME.pub` and `NAME.key`.
pub(crate) fn keys(bench: &Bench, name: &str) {
    let (public, secret) = (format!("{name}.pub"), format!("{name}.key"));
    minisign(&["-G", "-W", "-p", &path(bench, &public), "-s", &path(bench, &secret)]);
}

/// The signature of these bytes by the key of this name.
pub(crate) fn signature(bench: &Bench, key: &str, bytes: &[u8]) -> Vec<u8> {
    let file = path(bench, "to-sign");
    fs::write(&file, bytes).unwrap();
    minisign(&["-S", "-W", "-s", &path(bench, &format!("{key}.key")), "-m", &file]);
    fs::read(format!("{file}.minisig")).unwrap()
}

/// Signs these bytes and puts them there, the signature last: in between there is no good pair, and nothing is believed.
pub(crate) fn publish(bench: &Bench, key: &str, object: &str, bytes: &[u8]) {
    let signed = signature(bench, key, bytes);
    bench.put(object, bytes);
    bench.put(&format!("{object}.minisig"), &signed);
}
