//! A tar on its way out, compressed or not: the other direction of `compression`.

use std::io::{self, Write};

use flate2::write::GzEncoder;

use crate::limits::Compression;

/// Takes a tar and passes it on, compressed. The same tar gives the same bytes: no time and no name is in them.
pub struct Packer<W: Write>(Inner<W>);

enum Inner<W: Write> {
    Plain(W),
    Gzip(GzEncoder<W>),
    Zstd(zstd::stream::write::Encoder<'static, W>),
}

impl<W: Write> std::fmt::Debug for Packer<W> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Packer(..)")
    }
}

impl<W: Write> Packer<W> {
    /// Passes on to `to`.
    ///
    /// # Errors
    /// What zstd says of its memory.
    pub fn new(to: W, compression: Compression) -> io::Result<Packer<W>> {
        Ok(Packer(match compression {
            Compression::Plain => Inner::Plain(to),
            Compression::Gzip => Inner::Gzip(GzEncoder::new(to, flate2::Compression::default())),
            Compression::Zstd => Inner::Zstd(zstd::stream::write::Encoder::new(to, 0)?),
        }))
    }

    /// Writes what is still held back, and the end.
    ///
    /// # Errors
    /// Those of `to`.
    pub fn finish(self) -> io::Result<W> {
        let mut to = match self.0 {
            Inner::Plain(to) => to,
            Inner::Gzip(encoder) => encoder.finish()?,
            Inner::Zstd(encoder) => encoder.finish()?,
        };
        to.flush()?;
        Ok(to)
    }
}

impl<W: Write> Write for Packer<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match &mut self.0 {
            Inner::Plain(to) => to.write(bytes),
            Inner::Gzip(encoder) => encoder.write(bytes),
            Inner::Zstd(encoder) => encoder.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match &mut self.0 {
            Inner::Plain(to) => to.flush(),
            Inner::Gzip(encoder) => encoder.flush(),
            Inner::Zstd(encoder) => encoder.flush(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_packed_is_what_is_unpacked() {
        let tar = vec![b'x'; 100_000];
        for compression in [Compression::Plain, Compression::Gzip, Compression::Zstd] {
            let packed = || {
                let mut packer = Packer::new(Vec::new(), compression).unwrap();
                packer.write_all(&tar).unwrap();
                packer.finish().unwrap()
            };
            let mut back = Vec::new();
            let limits = crate::limits::Limits::default();
            crate::plain(io::Cursor::new(packed()), &limits, &mut back).unwrap();
            assert!(back == tar, "{compression:?}");
            assert_eq!(packed().len() < tar.len(), compression != Compression::Plain);
            assert_eq!(packed(), packed());
        }
    }
}
