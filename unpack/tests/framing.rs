//! Frames, numbers, extensions and compression: every construct on which known readers disagree
//! is refused, with its class.

mod forge;

use forge::{GNU, Head, V7, base256, gzip, octal, record, tar};
use unpack::{Class, Compression, Limits};

/// A file whose header is changed.
fn odd(change: impl FnOnce(&mut Head)) -> Vec<u8> {
    tar().with(Head::new("f", b'0', 0), "", change).end()
}

/// A file after an `x` header of this raw body.
fn pax(body: &[u8]) -> Vec<u8> {
    tar().extension(b'x', body).file("f", "x").end()
}

/// A file after these PAX records.
fn said(key: &str, value: &[u8]) -> Vec<u8> {
    tar().pax(&[(key, value)]).file("f", "").end()
}

fn long(times: usize) -> forge::Tar {
    (0..times).fold(tar(), |tar, _| tar.extension(b'g', b""))
}

fn zstd(bytes: &[u8]) -> Vec<u8> {
    zstd::encode_all(bytes, 3).unwrap()
}

fn one() -> Vec<u8> {
    tar().file("f", "1").end()
}

refused! {
    n01_negative_size Number: odd(|h| h.size = base256(-512, 12));
    n02_size_of_2_to_the_62 Limit: odd(|h| h.size = base256(1 << 62, 12));
    n02b_size_of_2_to_the_63 Number: odd(|h| h.size = base256(1 << 63, 12));
    n03_pax_size_of_u64_max Number: said("size", b"18446744073709551615");
    n03b_pax_size_beyond_u64 Number: said("size", b"99999999999999999999999");
    n04_pax_size_with_plus Number: said("size", b"+4");
    n06_pax_size_negative Number: said("size", b"-1");
    n06b_pax_size_hex Number: said("size", b"0x10");
    n06c_pax_size_with_space Number: said("size", b" 4");
    n07_bad_checksum Frame: odd(|h| h.checksum = Some(b"000000\0 ".to_vec()));
    n07b_blank_checksum Frame: odd(|h| h.checksum = Some(b"        ".to_vec()));
    n10_uid_of_2_to_the_32 Number: odd(|h| h.uid = base256(1 << 32, 8));
    n10b_uid_of_minus_one Number: odd(|h| h.uid = base256(0xffff_ffff, 8));
    n10c_gid_of_minus_one Number: odd(|h| h.gid = base256(0xffff_ffff, 8));
    n10d_gid_negative Number: odd(|h| h.gid = base256(-1, 8));
    n10e_pax_uid_of_minus_one Number: said("uid", b"4294967295");
    n10f_pax_gid_of_2_to_the_32 Number: said("gid", b"4294967296");
    n16_mtime_of_year_3_million Number: odd(|h| h.mtime = base256(94_670_856_000_000, 12));
    n16b_pax_mtime_beyond_ext4 Number: said("mtime", b"15032385536");
    n16c_mtime_before_1901 Number: odd(|h| h.mtime = base256(-2_147_483_649, 12));
    n16d_pax_mtime_word Number: said("mtime", b"now");
    n16e_pax_mtime_exponent Number: said("mtime", b"1e9");
    n16f_pax_mtime_bare_dot Number: said("mtime", b"1.");
    n19_blank_mode Number: odd(|h| h.mode = b"        ".to_vec());
    n20_blank_size Number: odd(|h| h.size = vec![0; 12]);
    n21_garbage_mode Number: odd(|h| h.mode = b"rwxr-xr-".to_vec());
    n21b_digit_8_in_mode Number: odd(|h| h.mode = b"0000888\0".to_vec());
    n21c_garbage_after_the_number Number: odd(|h| h.uid = b"0\0abcde\0".to_vec());
    n22_unknown_type Type: odd(|h| h.typeflag = b'Z');
    n22b_multi_volume Type: odd(|h| h.typeflag = b'M');
    n22c_gnu_dumpdir Type: odd(|h| h.typeflag = b'D');
    n22d_volume_label Type: odd(|h| h.typeflag = b'V');
    n22e_solaris_x Type: odd(|h| h.typeflag = b'X');
    n24_ustar_with_another_version Frame: odd(|h| h.magic = b"ustar\x0001".to_vec());
    n24b_v7_with_pax Frame:
        tar().with(Head::new("f", b'x', 0), "", |h| h.magic = V7.to_vec()).end();
    n24c_unknown_magic Frame: odd(|h| h.magic = b"USTAR\x0000".to_vec());
    n24d_star_layout Frame: odd(|h| h.tail = b"\0\0\0\0\0\0\0\0tar\0".to_vec());
    n24e_v7_device Frame: odd(|h| { h.magic = V7.to_vec(); h.typeflag = b'3'; });
    n25_device_major_of_4096 Number: tar().node("n", b'3', 4096, 0).end();
    n25b_device_minor_of_2_to_the_20 Number: tar().node("n", b'3', 1, 1 << 20).end();
    n25c_device_blank_major Number:
        tar().with(Head::new("n", b'3', 0), "", |h| h.major = vec![0; 8]).end();
    n26_directory_with_a_body Frame:
        tar().with(Head::new("d", b'5', 512), [0; 512], |_| {}).end();
    n27_fifo_with_a_body Frame: tar().with(Head::new("p", b'6', 1), "x", |_| {}).end();
    n28_device_with_a_body Frame: tar().with(Head::new("p", b'3', 1), "x", |h| {
        h.major = octal(1, 8);
        h.minor = octal(3, 8);
    }).end();
    n29_pax_size_on_a_directory Frame: tar().pax(&[("size", b"512")]).dir("d").raw([0; 512]).end();

    d02_pax_size_then_long_name Extension:
        tar().pax(&[("size", b"3")]).extension(b'L', b"name\0").file("f", "abc").end();
    d06_long_name_then_pax_path Extension:
        tar().extension(b'L', b"one\0").pax(&[("path", b"two")]).file("f", "").end();
    d07_pax_path_then_long_name Extension:
        tar().pax(&[("path", b"two")]).extension(b'L', b"one\0").file("f", "").end();
    d07b_pax_linkpath_and_long_link Extension:
        tar().pax(&[("linkpath", b"two")]).extension(b'K', b"one\0").sym("f", "x").end();
    d08_two_pax_headers Extension: tar().pax(&[("path", b"a")]).pax(&[("path", b"b")]).file("f", "").end();
    d09_two_long_names Extension:
        tar().extension(b'L', b"one\0").extension(b'L', b"two\0").file("f", "").end();
    d09b_two_long_links Extension:
        tar().extension(b'K', b"one\0").extension(b'K', b"two\0").sym("f", "x").end();
    d10_pax_header_with_gnu_magic Extension:
        tar().with(Head::new("x", b'x', 9), "9 path=a\n", |h| h.magic = GNU.to_vec()).file("f", "").end();
    d11_global_path Extension: tar().extension(b'g', &record("path", "evil")).file("f", "").end();
    d11b_global_uid Extension: tar().extension(b'g', &record("uid", "0")).file("f", "").end();
    d11c_global_mtime Extension: tar().extension(b'g', &record("mtime", "0")).file("f", "").end();
    d11d_global_xattr Extension:
        tar().extension(b'g', &record("SCHILY.xattr.user.a", "0")).file("f", "").end();
    d12_global_size Extension: tar().extension(b'g', &record("size", "512")).file("f", "").end();
    d12b_global_between_extension_and_entry Extension:
        tar().pax(&[("path", b"a")]).extension(b'g', b"").file("f", "").end();
    d13_pax_at_the_end Extension: tar().pax(&[("path", b"a")]).end();
    d13b_long_name_at_the_end Extension: tar().extension(b'L', b"one\0").end();
    d13c_pax_at_the_bare_end Extension: tar().pax(&[("path", b"a")]).0;
    d14_empty_pax_path Extension: said("path", b"");
    d14b_empty_pax_size Extension: said("size", b"");
    d15_length_with_plus Extension: pax(b"+12 path=abc\n");
    d15b_length_too_long Extension: pax(b"99 path=abc\n");
    d15c_length_too_short Extension: pax(b"11 path=abc\n");
    d15d_no_equals_sign Extension: pax(b"10 pathab\n");
    d15e_no_newline Extension: pax(b"12 path=abcd");
    d15f_empty_key Extension: pax(b"6 =ab\n");
    d15g_leading_space Extension: pax(b" 12 path=abc\n");
    d15h_leading_zero Extension: pax(b"012 path=abc\n");
    d15i_length_zero Extension: pax(b"0 path=abc\n");
    d15j_trailing_garbage Extension: pax(b"12 path=abc\n\0\0");
    d15k_huge_length Extension: pax(b"99999999999999999999 path=abc\n");
    d15l_nul_in_key Extension: pax(&record(b"pa\0th", "a"));
    p18_nul_in_pax_path Extension: said("path", b"a\0b");
    p18b_nul_in_pax_linkpath Extension: tar().pax(&[("linkpath", b"a\0b")]).sym("f", "x").end();
    d18_nul_in_long_name Extension: tar().extension(b'L', b"a\0b\0").file("f", "").end();
    d18b_empty_long_name Extension: tar().extension(b'L', b"\0").file("f", "").end();
    d19_long_name_of_1_gib Limit:
        tar().with(Head::new("x", b'L', 1 << 30), "", |h| h.magic = GNU.to_vec()).end();
    d19b_pax_of_1_gib Limit: tar().with(Head::new("x", b'x', 1 << 30), "", |_| {}).end();
    d19c_pax_of_8_eib Limit:
        tar().with(Head::new("x", b'x', 0), "", |h| h.size = base256((1 << 63) - 1, 12)).end();
    d20_chain_of_17_extensions Limit: long(17).file("f", "").end();
    d20b_chain_of_100000_extensions Limit: long(100_000).file("f", "").end();
    d22_device_by_pax Extension: said("SCHILY.devmajor", b"8");

    f03_entries_after_a_lone_zero_block Frame: tar().file("a", "1").raw([0; 512]).file("b", "2").end();
    f04_entries_after_the_end Frame: tar().file("a", "1").raw([0; 1024]).file("b", "2").end();
    f05_truncated_header Frame: tar().file("a", "1").raw([b'a'; 100]).0;
    f06_truncated_body Frame: one()[..512].to_vec();
    f06b_truncated_inside_body Frame: tar().file("f", [b'x'; 1000]).0[..1000].to_vec();
    f07_truncated_padding Frame: one()[..700].to_vec();
    f07b_truncated_extension Frame: tar().pax(&[("path", b"a")]).0[..600].to_vec();
    f08b_one_byte Frame: vec![0];
    f09_garbage Frame: vec![b'x'; 4096];
    f09b_html Frame: b"<!DOCTYPE html><html>".repeat(100);
    f10_garbage_after_the_end Frame: [one(), b"hello".to_vec()].concat();
    f10b_garbage_far_after_the_end Frame: [one(), vec![0; 100_000], vec![1]].concat();

    z01_gnu_sparse Sparse: odd(|h| { h.typeflag = b'S'; h.magic = GNU.to_vec(); });
    z05_pax_sparse_0_1 Sparse: said("GNU.sparse.map", b"0,1");
    z06_star_sparse Sparse: said("SCHILY.realsize", b"1099511627776");
    z07_global_sparse Sparse: tar().extension(b'g', &record("GNU.sparse.size", "9")).file("f", "").end();

    c02_gzip_and_garbage Compression: [gzip(&one()), b"garbage".to_vec()].concat();
    c02b_gzip_padding_and_garbage Compression: [gzip(&one()), vec![0; 512], vec![1]].concat();
    c03_wrong_crc Compression: { let mut g = gzip(&one()); let n = g.len(); g[n - 8] ^= 1; g };
    c03b_wrong_isize Compression: { let mut g = gzip(&one()); let n = g.len(); g[n - 1] ^= 1; g };
    c03c_truncated_trailer Compression: { let g = gzip(&one()); g[..g.len() - 3].to_vec() };
    c03d_truncated_gzip Compression: { let g = gzip(&one()); g[..g.len() / 2].to_vec() };
    c03e_gzip_header_only Compression: vec![0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 3];
    c03f_zstd_truncated Compression: { let z = zstd(&one()); z[..z.len() - 4].to_vec() };
    c03g_zstd_and_garbage Compression: [zstd(&one()), b"garbage!".to_vec()].concat();
    c05_zstd_window_of_2_gib Limit: {
        // Frame header: window descriptor 0xa8 is 2^31 bytes.
        [&[0x28, 0xb5, 0x2f, 0xfd, 0x00, 0xa8][..], &[0x01, 0x00, 0x00]].concat()
    };
    c08_gzip_of_gzip Frame: gzip(&gzip(&one()));
    c09_xz Compression: b"\xfd7zXZ\0 and so on".to_vec();
    c09b_bzip2 Compression: b"BZh91AY&SY".to_vec();
}

accepted! {
    n05_last_size_counts: tar().pax(&[("size", b"4"), ("size", b"512")]).file("f", [b'1'; 512]).end()
        => [&format!("f file 0644 0:0 1000 {}", "1".repeat(512))];
    n08_signed_checksum: tar().with(Head::new(b"\xff\xfe", b'0', 0), "", |h| h.signed = true).end()
        => ["\\xff\\xfe file 0644 0:0 1000"];
    n11_uid_in_base_256: odd(|h| h.uid = base256(3_000_000, 8)) => ["f file 0644 3000000:0 1000"];
    n11b_pax_uid_beyond_octal: said("uid", b"2097152") => ["f file 0644 2097152:0 1000"];
    n11c_largest_id: said("gid", b"4294967294") => ["f file 0644 0:4294967294 1000"];
    n12_size_in_base_256: tar().with(Head::new("f", b'0', 0), "1", |h| h.size = base256(1, 12)).end()
        => ["f file 0644 0:0 1000 1"];
    n13_negative_mtime: odd(|h| h.mtime = base256(-100, 12)) => ["f file 0644 0:0 -100"];
    n14_mtime_ns: said("mtime", b"5.123456789") => ["f file 0644 0:0 5.123456789"];
    n14b_mtime_finer_than_ns: said("mtime", b"5.1234567899") => ["f file 0644 0:0 5.123456789"];
    n15_mtime_below_zero: said("mtime", b"-1.5") => ["f file 0644 0:0 -2.500000000"];
    n17_mtime_zero: odd(|h| h.mtime = octal(0, 12)) => ["f file 0644 0:0 0"];
    n17b_latest_mtime: said("mtime", b"15032385535") => ["f file 0644 0:0 15032385535"];
    n18_type_bits_in_mode: odd(|h| h.mode = octal(0o104755, 8)) => ["f file 4755 0:0 1000"];
    n23_type_7: tar().with(Head::new("f", b'7', 1), "1", |_| {}).end() => ["f file 0644 0:0 1000 1"];
    n23b_type_nul: tar().with(Head::new("f", 0, 1), "1", |_| {}).end() => ["f file 0644 0:0 1000 1"];
    n30_numbers_with_spaces: odd(|h| { h.mode = b"   644 \0".to_vec(); h.uid = b" 7\0".to_vec(); })
        => ["f file 0644 7:0 1000"];
    d01_pax_size_over_header_size:
        tar().pax(&[("size", b"1536")])
            .with(Head::new("f", b'0', 0), &forge::tar().file("smuggled", "x").0.repeat(2)[..1536], |_| {})
            .end()
        => [&format!("f file 0644 0:0 1000 {}",
            unpack::escaped_whole(&forge::tar().file("smuggled", "x").0.repeat(2)[..1536]))];
    d03_a_record_inside_an_xattr: tar().pax(&[("SCHILY.xattr.user.a", b"x\n20 path=smuggled\n"), ("size", b"1")])
        .file("f", "1").end() => ["f file 0644 0:0 1000 1"];
    d05_last_path_counts: tar().pax(&[("path", b"one"), ("path", b"two")]).file("f", "").end()
        => ["two file 0644 0:0 1000"];
    d12c_global_comment: tar().extension(b'g', &record("comment", "0123456789abcdef")).file("f", "").end()
        => ["f file 0644 0:0 1000"];
    d17_empty_pax: tar().extension(b'x', b"").file("f", "").end() => ["f file 0644 0:0 1000"];
    d17b_unknown_keys: tar().pax(&[("VENDOR.thing", b""), ("atime", b"1"), ("ctime", b"x"), ("hdrcharset", b"BINARY")])
        .file("f", "").end() => ["f file 0644 0:0 1000"];
    d18c_long_name_and_link: tar().extension(b'K', &[b'k'; 200]).extension(b'L', &[b'l'; 200])
        .sym("short", "short").end()
        => [&format!("{} symlink 0777 0:0 1000 {}", "l".repeat(200), "k".repeat(200))];
    d18d_pax_times_beside_a_long_name: tar().pax(&[("mtime", b"7")]).extension(b'L', b"long\0").file("f", "").end()
        => ["long file 0644 0:0 7"];
    d20c_sixteen_extensions: long(16).file("f", "").end() => ["f file 0644 0:0 1000"];
    f11_only_zeros: vec![0; 1024] => [];
    f11b_much_zero_padding: [one(), vec![0; 1 << 20]].concat() => ["f file 0644 0:0 1000 1"];
    c01_two_gzip_members: { let t = one(); [gzip(&t[..700]), gzip(&t[700..])].concat() }
        => ["f file 0644 0:0 1000 1"];
    c01b_empty_gzip_members: { let t = one(); [gzip(b""), gzip(&t), gzip(b"")].concat() }
        => ["f file 0644 0:0 1000 1"];
    c01c_member_per_byte: one().chunks(1).flat_map(gzip).collect() => ["f file 0644 0:0 1000 1"];
    c02c_gzip_and_zero_padding: [gzip(&one()), vec![0; 10_000]].concat() => ["f file 0644 0:0 1000 1"];
    c04b_zstd_frames: { let t = one(); [zstd(&t[..700]), zstd(&t[700..])].concat() }
        => ["f file 0644 0:0 1000 1"];
    c04c_zstd_skippable_frames: {
        let skip = [&[0x5e, 0x2a, 0x4d, 0x18, 3, 0, 0, 0][..], b"xyz"].concat();
        [skip.clone(), zstd(&one()), skip].concat()
    } => ["f file 0644 0:0 1000 1"];
}

/// Both readers of a stream that just stops see the same entries, so only a digest can tell.
#[test]
fn f01_f02_no_end_marker() {
    use sha2::{Digest, Sha256};
    for layer in [tar().file("f", "1").0, tar().file("f", "1").raw([0; 512]).0] {
        forge::refuse(std::slice::from_ref(&layer), &Limits::default(), Class::Digest);
        let told = forge::Pen::new().apply(&layer, &Limits::default()).unwrap_err().to_string();
        assert!(told.contains(&format!("entry 1 \"\" at byte {}", layer.len())), "{told}");
        let right = Limits { diff_id: Some(Sha256::digest(&layer).into()), ..Limits::default() };
        assert_eq!(forge::Pen::new().apply(&layer, &right).unwrap().entries, 1);
        let vouched = Limits { reader_verifies: true, ..Limits::default() };
        assert_eq!(forge::Pen::new().apply(&layer, &vouched).unwrap().entries, 1);
        let wrong = Limits { diff_id: Some([7; 32]), ..Limits::default() };
        forge::refuse(&[layer], &wrong, Class::Digest);
    }
}

#[test]
fn c06_digests() {
    use sha2::{Digest, Sha256};
    let (plain, packed) = (one(), gzip(&one()));
    let blob = Limits { blob_digest: Some(Sha256::digest(&packed).into()), ..Limits::default() };
    let applied = forge::Pen::new().apply(&packed, &blob).unwrap();
    assert_eq!(applied.diff_id, <[u8; 32]>::from(Sha256::digest(&plain)));
    assert_eq!(applied.blob_digest, <[u8; 32]>::from(Sha256::digest(&packed)));
    assert_eq!((applied.blob_bytes, applied.diff_bytes), (packed.len() as u64, plain.len() as u64));
    forge::refuse(&[plain], &blob, Class::Digest);
    // Trailing padding belongs to the blob too.
    forge::refuse(&[[packed, vec![0]].concat()], &blob, Class::Digest);
}

#[test]
fn c07_declared_compression() {
    let declared = |compression| Limits { compression: Some(compression), ..Limits::default() };
    forge::refuse(&[one()], &declared(Compression::Gzip), Class::Compression);
    forge::refuse(&[gzip(&one())], &declared(Compression::Plain), Class::Compression);
    forge::refuse(&[zstd(&one())], &declared(Compression::Gzip), Class::Compression);
    forge::accept(&[zstd(&one())], &declared(Compression::Zstd), &["f file 0644 0:0 1000 1"]);
}

#[test]
fn c04_bombs() {
    let zeros = vec![0u8; 64 << 20];
    let limits = Limits { bytes_max: 8 << 20, ..Limits::default() };
    let head = tar().head(&Head::new("f", b'0', 64 << 20)).0;
    for packed in
        [gzip(&[&head, zeros.as_slice()].concat()), zstd(&[&head, zeros.as_slice()].concat())]
    {
        let pen = forge::refuse(&[packed], &limits, Class::Limit);
        assert!(pen.tree().is_empty(), "refused before any effect");
    }
    // Zeros after the end marker count as well.
    forge::refuse(&[gzip(&[one(), zeros].concat())], &limits, Class::Limit);
}

/// What costs nobody anything but its reader, as a hole in a file, is not read to its end.
#[test]
fn c04c_zeros_without_an_end() {
    struct Counted<R>(R, std::sync::Arc<std::sync::atomic::AtomicU64>);
    impl<R: std::io::Read> std::io::Read for Counted<R> {
        fn read(&mut self, to: &mut [u8]) -> std::io::Result<usize> {
            let read = self.0.read(to)?;
            self.1.fetch_add(read as u64, std::sync::atomic::Ordering::Relaxed);
            Ok(read)
        }
    }
    const MAX: u64 = 64 << 20;
    for (layer, class, why) in [
        (one(), Class::Frame, "zeros after the end marker"),
        (gzip(&one()), Class::Compression, "gzip padding"),
    ] {
        let with = |zeros: u64| {
            use std::io::Read as _;
            let count = std::sync::Arc::default();
            let bytes = std::io::Cursor::new(layer.clone()).chain(std::io::repeat(0).take(zeros));
            let listed = unpack::list(
                Counted(bytes, std::sync::Arc::clone(&count)),
                &Limits::default(),
                |_| {},
            );
            (listed, count.load(std::sync::atomic::Ordering::Relaxed))
        };
        assert!(with(MAX).0.is_ok(), "{why}: as much as there may be");
        let (listed, read) = with(4 * MAX);
        let error = listed.unwrap_err();
        assert_eq!(error.class(), Some(class), "{error}");
        assert!(error.to_string().contains(why), "{error}");
        assert!(read < 2 * MAX, "{why}: {read} bytes were read");
    }
}

#[test]
fn c04d_ratio() {
    let zeros = zstd(&vec![0; 64 << 20]);
    let mut blob = zstd(&tar().head(&Head::new("f", b'0', 5 << 28)).0);
    for _ in 0..20 {
        blob.extend_from_slice(&zeros);
    }
    let error = unpack::list(blob.as_slice(), &Limits::default(), |_| {}).unwrap_err();
    assert_eq!(error.class(), Some(Class::Limit), "{error}");
    assert!(error.to_string().contains("--ratio-max 200"), "{error}");
}

/// What a reader says when it fails has to arrive at its owner, whatever it passed through.
#[test]
fn the_readers_own_error_comes_back() {
    #[derive(Debug)]
    struct Lost(u32);
    impl std::fmt::Display for Lost {
        fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            write!(f, "lost {}", self.0)
        }
    }
    impl std::error::Error for Lost {}
    struct Breaks(std::io::Cursor<Vec<u8>>);
    impl std::io::Read for Breaks {
        fn read(&mut self, to: &mut [u8]) -> std::io::Result<usize> {
            match self.0.read(to)? {
                0 => Err(std::io::Error::new(std::io::ErrorKind::UnexpectedEof, Lost(7))),
                len => Ok(len),
            }
        }
    }
    for layer in
        [one()[..600].to_vec(), one(), gzip(&one()), zstd(&one())[..20].to_vec(), vec![0x1f]]
    {
        let pen = forge::Pen::new();
        let root = unpack::Root::open(&pen.root()).unwrap();
        let reader = Breaks(std::io::Cursor::new(layer));
        let error = unpack::apply(reader, &root, &Limits::default()).unwrap_err();
        assert_eq!(error.kind(), unpack::Kind::Stream, "{error}");
        let unpack::Error::Stream { source } = error else { panic!("{error:?}") };
        let lost = source.get_ref().and_then(|e| e.downcast_ref::<Lost>()).expect("the reader's");
        assert_eq!(lost.0, 7);
    }
}

/// Where the entry's own name is not known yet, its extension header's is said.
#[test]
fn a_refused_extension_is_named() {
    let layer = tar().file("ok", "").pax(&[("GNU.sparse.major", b"1")]).file("f", "").end();
    let error = unpack::list(layer.as_slice(), &Limits::default(), |_| {}).unwrap_err();
    let place = error.place().unwrap();
    assert_eq!((place.index, place.offset, place.name.as_slice()), (1, 512, &b"ext"[..]));
}
