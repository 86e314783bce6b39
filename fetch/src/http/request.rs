//! A request, ready to be sent.

use ureq::http::HeaderMap;

use crate::error::answer::Api;

/// How it is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Method {
    Get,
    Head,
    /// A form, `application/x-www-form-urlencoded`. It may hold a secret.
    Post(String),
    /// Bytes that go along become the object.
    Put,
    /// A POST of bytes that go along, or of none.
    Send,
    Delete,
}

/// What is asked, of whom, with which headers.
pub(crate) struct Request {
    pub(crate) method: Method,
    pub(crate) url: String,
    pub(crate) headers: HeaderMap,
    /// What whoever is asked speaks, which says how its errors are read.
    pub(crate) api: Api,
}

/// Its headers and its form may hold secrets.
impl std::fmt::Debug for Request {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Request").field("url", &self.url).finish_non_exhaustive()
    }
}
