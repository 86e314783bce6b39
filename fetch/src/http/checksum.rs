//! The checksum that S3 may keep with an object, checked against the bytes that came. Pure.
//!
//! S3 user guide, "Checking object integrity". Only checksums of the full object count: those of
//! multipart uploads may be checksums of checksums. They come from the same server as the bytes, so
//! they find accidents, not lies; against lies there is `Expect::sha256`.

use ureq::http::HeaderMap;

use crate::http::head;
use crate::text::base64;

/// The algorithms, the strongest first. The other ones of S3 (sha1, md5) cost more than the sha256
/// that is computed anyway.
const HEADERS: [(&str, Algorithm); 4] = [
    ("x-amz-checksum-sha256", Algorithm::Sha256),
    ("x-amz-checksum-crc64nvme", Algorithm::Crc(CRC64_NVME)),
    ("x-amz-checksum-crc32c", Algorithm::Crc(CRC32C)),
    ("x-amz-checksum-crc32", Algorithm::Crc(CRC32)),
];

#[derive(Clone, Copy, Debug)]
enum Algorithm {
    Sha256,
    Crc(&'static Polynomial),
}

/// A reflected CRC whose start value and final inversion are all ones.
#[derive(Debug)]
struct Polynomial {
    name: &'static str,
    bytes: usize,
    tables: [[u64; 256]; 8],
}

static CRC64_NVME: &Polynomial =
    &Polynomial { name: "crc64nvme", bytes: 8, tables: tables(0x9a6c_9329_ac4b_c9b5) };
static CRC32C: &Polynomial = &Polynomial { name: "crc32c", bytes: 4, tables: tables(0x82f6_3b78) };
static CRC32: &Polynomial = &Polynomial { name: "crc32", bytes: 4, tables: tables(0xedb8_8320) };

/// Tables for eight bytes at a time (Kounavis and Berry, "Novel Table Lookup-Based Algorithms for
/// High-Performance CRC Generation").
const fn tables(reflected: u64) -> [[u64; 256]; 8] {
    let mut tables = [[0; 256]; 8];
    let mut byte = 0;
    while byte < 256 {
        let mut crc = byte as u64;
        let mut bit = 0;
        while bit < 8 {
            crc = if crc & 1 == 1 { crc >> 1 ^ reflected } else { crc >> 1 };
            bit += 1;
        }
        tables[0][byte] = crc;
        byte += 1;
    }
    let mut row = 1;
    while row < 8 {
        let mut byte = 0;
        while byte < 256 {
            let crc = tables[row - 1][byte];
            tables[row][byte] = crc >> 8 ^ tables[0][(crc & 0xff) as usize];
            byte += 1;
        }
        row += 1;
    }
    tables
}

impl Polynomial {
    fn update(&self, mut crc: u64, bytes: &[u8]) -> u64 {
        let mut eights = bytes.chunks_exact(8);
        for eight in &mut eights {
            let mut word = [0; 8];
            word.copy_from_slice(eight);
            let mixed = (crc ^ u64::from_le_bytes(word)).to_le_bytes();
            crc = 0;
            for (row, byte) in self.tables.iter().rev().zip(mixed) {
                crc ^= row[usize::from(byte)];
            }
        }
        for byte in eights.remainder() {
            crc = crc >> 8 ^ self.tables[0][usize::from(crc.to_le_bytes()[0] ^ byte)];
        }
        crc
    }
}

/// A promised checksum and what the bytes so far give.
#[derive(Clone, Debug)]
pub(crate) struct Checksum {
    algorithm: Algorithm,
    want: Vec<u8>,
    crc: u64,
}

/// What did not agree.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Mismatch {
    pub(crate) algorithm: &'static str,
    pub(crate) want: Vec<u8>,
    pub(crate) got: Vec<u8>,
}

impl Checksum {
    /// The strongest checksum of the full object among the headers.
    pub(crate) fn of(headers: &HeaderMap) -> Option<Checksum> {
        match head::text(headers, "x-amz-checksum-type") {
            Some(kind) if !kind.eq_ignore_ascii_case("FULL_OBJECT") => return None,
            Some(_) => {}
            // Not every server tells the type, or marks the value: the entity tag tells of parts, too.
            None if head::text(headers, "etag").is_some_and(|etag| is_of_parts(&etag)) => {
                return None;
            }
            None => {}
        }
        HEADERS.iter().find_map(|(name, algorithm)| {
            // One of several parts has a "-<parts>" at its end and does not decode.
            let told = head::text(headers, name)?;
            let want = base64::decoded(&told).filter(|_| told.len() <= 64)?;
            let bytes = match algorithm {
                Algorithm::Sha256 => 32,
                Algorithm::Crc(polynomial) => polynomial.bytes,
            };
            let crc = match algorithm {
                Algorithm::Crc(polynomial) if polynomial.bytes == 4 => 0xffff_ffff,
                Algorithm::Crc(_) | Algorithm::Sha256 => u64::MAX,
            };
            (want.len() == bytes).then_some(Checksum { algorithm: *algorithm, want, crc })
        })
    }

    /// One of each kind that has to see the bytes as they come, with nothing to compare with yet.
    pub(crate) fn running() -> [Checksum; 3] {
        [CRC64_NVME, CRC32C, CRC32].map(|polynomial| {
            let algorithm = Algorithm::Crc(polynomial);
            let crc = if polynomial.bytes == 4 { 0xffff_ffff } else { u64::MAX };
            Checksum { algorithm, want: Vec::new(), crc }
        })
    }

    /// The same with what one of `running` has seen.
    pub(crate) fn taken_from(mut self, running: &[Checksum]) -> Checksum {
        for other in running {
            if let (Algorithm::Crc(own), Algorithm::Crc(other_own)) =
                (self.algorithm, other.algorithm)
                && own.name == other_own.name
            {
                self.crc = other.crc;
            }
        }
        self
    }

    pub(crate) fn update(&mut self, bytes: &[u8]) {
        if let Algorithm::Crc(polynomial) = self.algorithm {
            self.crc = polynomial.update(self.crc, bytes);
        }
    }

    /// Compares at the end; `sha256` is the digest of all bytes, which is known anyway.
    ///
    /// # Errors
    /// [`Mismatch`].
    pub(crate) fn check(&self, sha256: &[u8; 32]) -> Result<(), Mismatch> {
        let (algorithm, got) = match self.algorithm {
            Algorithm::Sha256 => ("sha256", sha256.to_vec()),
            Algorithm::Crc(polynomial) => {
                let crc = (!self.crc).to_be_bytes();
                (polynomial.name, crc[8 - polynomial.bytes..].to_vec())
            }
        };
        if got == self.want {
            return Ok(());
        }
        Err(Mismatch { algorithm, want: self.want.clone(), got })
    }
}

/// Whether an entity tag is that of an upload in parts: a digest of digests, and their number.
fn is_of_parts(etag: &str) -> bool {
    let bare = etag.trim_start_matches("W/").trim_matches('"');
    bare.rsplit_once('-').is_some_and(|(_, parts)| {
        !parts.is_empty() && parts.len() <= 5 && parts.bytes().all(|b| b.is_ascii_digit())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        pairs.iter().map(|(n, v)| (n.parse().unwrap(), v.parse().unwrap())).collect()
    }

    /// The check values of the catalogue of parametrised CRC algorithms: "123456789".
    #[test]
    fn check_values_of_the_catalogue() {
        for (name, value) in [
            ("x-amz-checksum-crc64nvme", "rosUhgp5mIg="),
            ("x-amz-checksum-crc32c", "4waSgw=="),
            ("x-amz-checksum-crc32", "y/Q5Jg=="),
        ] {
            for cut in 0..9 {
                let mut checksum = Checksum::of(&headers(&[(name, value)])).unwrap();
                checksum.update(&b"123456789"[..cut]);
                checksum.update(&b"123456789"[cut..]);
                checksum.check(&[0; 32]).unwrap();
                checksum.update(b"!");
                assert!(checksum.check(&[0; 32]).is_err(), "{name}");
            }
        }
    }

    #[test]
    fn eight_bytes_at_a_time_are_as_one_by_one() {
        let bytes: Vec<u8> = (0..=255).cycle().take(1000).collect();
        for polynomial in [CRC64_NVME, CRC32C, CRC32] {
            let slow = bytes.chunks(1).fold(7, |crc, byte| polynomial.update(crc, byte));
            assert_eq!(polynomial.update(7, &bytes), slow, "{}", polynomial.name);
        }
    }

    #[test]
    fn checksums_of_parts_do_not_count() {
        let parts = [("x-amz-checksum-crc32c", "4waSgw==-3")];
        assert!(Checksum::of(&headers(&parts)).is_none());
        let typed = [("x-amz-checksum-crc32c", "4waSgw=="), ("x-amz-checksum-type", "COMPOSITE")];
        assert!(Checksum::of(&headers(&typed)).is_none());
        assert!(Checksum::of(&headers(&[("x-amz-checksum-crc32c", "4waSg===")])).is_none());
        assert!(Checksum::of(&headers(&[("x-amz-checksum-sha256", "4waSgw==")])).is_none());
        assert!(Checksum::of(&headers(&[])).is_none());
        for (etag, of_parts) in [
            ("\"ab-5\"", true),
            ("W/\"ab-5\"", true),
            ("ab-10000", true),
            ("\"ab\"", false),
            ("\"ab-\"", false),
            ("\"ab-5x\"", false),
            ("\"5f3e-5f3e5f3e5f3e5\"", false),
        ] {
            let untyped = [("x-amz-checksum-crc32c", "4waSgw=="), ("etag", etag)];
            assert_eq!(Checksum::of(&headers(&untyped)).is_none(), of_parts, "{etag}");
        }
    }

    #[test]
    fn the_strongest_is_taken() {
        let zeros = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=";
        let both = [("x-amz-checksum-crc32c", "4waSgw=="), ("x-amz-checksum-sha256", zeros)];
        let checksum = Checksum::of(&headers(&both)).unwrap();
        checksum.check(&[0; 32]).unwrap();
        assert_eq!(checksum.check(&[1; 32]).unwrap_err().algorithm, "sha256");
    }
}
