//! What the settings of cosign's signatures mean: which keys are trusted, and which images they must have signed.

use std::fs::File;
use std::io::Read as _;
use std::path::Path;

use fetch::image::cosign::{KEY_BYTES_MAX, PublicKey};

use crate::config::{Config, key_file};
use crate::error::Error;
use crate::error::quote::quoted;
use crate::trust::cosign::{Cosign, Key, Prefix};

/// More keys than that would make each signature of a stranger's cost too much.
const KEYS_MAX: usize = 16;

impl Config {
    /// The keys of cosign's, and what they are for.
    ///
    /// # Errors
    /// [`Error::Usage`] for what is missing, is no key, or may be changed by others.
    pub(super) fn cosign(&self) -> Result<Cosign, Error> {
        let files = self.list("trust.cosign_keys");
        let required = self.list("trust.cosign_required").iter().map(|text| {
            Prefix::parse(text).map_err(|why| {
                Error::Usage(format!("trust.cosign_required {}: {why}", quoted(text)))
            })
        });
        let required: Vec<Prefix> = required.collect::<Result<_, _>>()?;
        // One without the other would look like a protection and be none, or let nothing through.
        match (files.len(), required.is_empty()) {
            (0, false) => Err(Error::Usage(
                "trust.cosign_required is set, and no trust.cosign_keys: name the public keys that sign these images".into(),
            )),
            (1.., true) => Err(Error::Usage(
                "trust.cosign_keys is set, and no trust.cosign_required: name the images that must be signed, as \
                 \"docker://registry.example/\", or \"*\" for all"
                    .into(),
            )),
            (count, _) if count > KEYS_MAX => Err(Error::Usage(format!(
                "trust.cosign_keys: {count} keys; at most {KEYS_MAX} are taken"
            ))),
            (_, _) => {
                let keys = files.iter().map(|file| key(file)).collect::<Result<_, _>>()?;
                Ok(Cosign { keys, required })
            }
        }
    }
}

/// A key, out of a file that nobody else can change.
fn key(file: &str) -> Result<Key, Error> {
    let refused = |why: &str| Error::Usage(format!("trust.cosign_keys {}: {why}", quoted(file)));
    let path = Path::new(file);
    if !path.is_absolute() {
        return Err(refused(
            "expected the absolute path of a public key, as \"/etc/veneer/cosign.pub\"",
        ));
    }
    let fail = |source| Error::Io { doing: "read the key", path: path.into(), source };
    let opened = match File::open(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            return Err(refused("there is no such file"));
        }
        opened => opened.map_err(fail)?,
    };
    let meta = opened.metadata().map_err(fail)?;
    if !meta.is_file() {
        return Err(refused("it is no regular file"));
    }
    if !key_file::is_closed(&meta) {
        return Err(refused(key_file::CLOSE));
    }
    let mut text = Vec::new();
    opened.take(KEY_BYTES_MAX + 1).read_to_end(&mut text).map_err(fail)?;
    if text.len() as u64 > KEY_BYTES_MAX {
        return Err(refused(&format!("it is longer than {KEY_BYTES_MAX} bytes, so no key")));
    }
    let text = String::from_utf8_lossy(&text);
    let key = PublicKey::from_pem(&text).map_err(|why| refused(&why.to_string()))?;
    Ok(Key { file: file.to_owned(), key })
}
