//! An S3 object becomes a verified byte stream.
