//! The classes of the leaves' own errors, and how an error is told with its causes.

use std::io;

use crate::error::Error;
use crate::error::image::Unusable;

/// The error and its causes; a cause that the text before it names already is not said twice.
pub fn whole(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let said = cause.to_string();
        if !text.contains(&said) {
            text = format!("{text}: {said}");
        }
        next = cause.source();
    }
    text
}

/// What is wrong with a document of the place that is `shown`.
pub(crate) fn unusable(shown: impl Into<String>) -> impl Fn(fetch::image::Error) -> Error {
    let image = shown.into();
    move |source| Error::Image(Unusable::Document { image: image.clone(), source })
}

/// The fetch error inside an unpack error, where the stream and not the layer failed.
pub(crate) fn stream_error<'a>(
    error: &'a (dyn std::error::Error + 'static),
) -> Option<&'a fetch::Error> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(found) = error.downcast_ref::<fetch::Error>() {
            return Some(found);
        }
        // `io::Error::source` skips the error it wraps.
        next = match error.downcast_ref::<io::Error>().and_then(io::Error::get_ref) {
            Some(inner) => Some(inner),
            None => error.source(),
        };
    }
    None
}
