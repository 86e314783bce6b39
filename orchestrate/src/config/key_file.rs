//! Files with public keys whose word counts here: nobody else may be able to change one.

use std::fs::Metadata;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use crate::error::Error;
use crate::error::quote::quoted;

/// What to do about a file that others may write to.
pub(super) const CLOSE: &str = "others may write to it; chown it to root and chmod go-w";

/// Whether only root and this user can change it.
pub(super) fn is_closed(meta: &Metadata) -> bool {
    let own = [0, nix::unistd::geteuid().as_raw()].contains(&meta.uid());
    own && meta.mode() & 0o022 == 0
}

/// That those of minisign's `keys` which are files are closed to others. What is no file, or cannot be read, is told when
/// the key is.
///
/// # Errors
/// [`Error::Usage`].
pub(super) fn are_closed(setting: &str, keys: &[String]) -> Result<(), Error> {
    for file in keys.iter().filter(|key| Path::new(key).is_absolute()) {
        if std::fs::metadata(file).is_ok_and(|meta| meta.is_file() && !is_closed(&meta)) {
            return Err(Error::Usage(format!("{setting} {}: {CLOSE}", quoted(file))));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::fs::Permissions;
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn a_key_that_others_may_change_is_none() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key.pub");
        std::fs::write(&path, "RWQ..").unwrap();
        let keys = ["RWQinline".to_owned(), path.to_str().unwrap().to_owned()];
        let with = |mode| {
            std::fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
            are_closed("catalog.keys", &keys).map_err(|error| error.to_string())
        };
        assert!(with(0o644).is_ok() && with(0o600).is_ok());
        for mode in [0o666, 0o664, 0o602] {
            let why = with(mode).unwrap_err();
            assert!(why.contains("catalog.keys") && why.contains("chmod go-w"), "{why}");
        }
        assert!(are_closed("catalog.keys", &["/nonexistent/key".to_owned()]).is_ok());
    }
}
