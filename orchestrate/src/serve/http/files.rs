//! Open files that come with a request, over a unix socket alone (`SCM_RIGHTS`, unix(7)). Those that no part of the
//! request names are closed with it.

use std::fs::File;
use std::sync::Arc;

use crate::handover::copies::COPIES_MAX;

/// Descriptors of one request: an image, and as many files as may be copied.
pub(crate) const FILES_MAX: usize = COPIES_MAX + 1;

/// See the module. Clones are the same files.
#[derive(Clone, Debug, Default)]
pub(crate) struct Files {
    open: Arc<Vec<Arc<File>>>,
    /// Who passed them; none where none came.
    user: Option<u32>,
}

impl PartialEq for Files {
    fn eq(&self, other: &Files) -> bool {
        Arc::ptr_eq(&self.open, &other.open) || self.is_empty() && other.is_empty()
    }
}

impl Eq for Files {}

impl Files {
    pub(crate) fn new(files: Vec<File>, user: Option<u32>) -> Files {
        Files { open: Arc::new(files.into_iter().map(Arc::new).collect()), user }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.open.is_empty()
    }

    pub(crate) fn count(&self) -> usize {
        self.open.len()
    }

    /// The one of this number, from 0.
    pub(crate) fn get(&self, number: usize) -> Option<&Arc<File>> {
        self.open.get(number)
    }

    /// Whether who passed them has all rights that this process, of user `own`, has: files beneath a directory are
    /// opened with this process's.
    pub(crate) fn is_of_our_rights(&self, own: u32) -> bool {
        self.user.is_some_and(|user| user == 0 || user == own)
    }
}
