//! The hash of a name in a directory's index: half-MD4 (`fs/ext4/hash.c`, `ext4fs_dirhash`).
//!
//! The bytes of a name count as signed, as mke2fs on x86 chooses and `s_flags` says.

/// The seed of the index's hash: a constant too, since a layer goes on in its parent's indexes.
pub(crate) const HASH_SEED: [u32; 4] = [0x656e_6576, 0x7265_6572, 0x3474_7865, 0x3130_3030];

/// What the kernel keeps for the end of a directory (`EXT4_HTREE_EOF_32BIT`, shifted).
const END: u32 = 0xffff_fffe;

/// A seed of zeros stands for MD4's own numbers.
const MD4: [u32; 4] = [0x6745_2301, 0xefcd_ab89, 0x98ba_dcfe, 0x1032_5476];

/// Square roots of 2 and 3, as MD4 has them.
const K2: u32 = 0x5a82_7999;
const K3: u32 = 0x6ed9_eba1;

/// The hash of `name`: its lowest bit is 0, and it is never the kernel's end mark.
pub(crate) fn half_md4(name: &[u8], seed: [u32; 4]) -> u32 {
    let mut state = if seed == [0; 4] { MD4 } else { seed };
    let mut rest = name;
    loop {
        transform(&mut state, words(rest));
        if rest.len() <= 32 {
            break;
        }
        rest = &rest[32..];
    }
    match state[1] & !1 {
        END => END - 2,
        hash => hash,
    }
}

/// The next 32 bytes as the kernel packs them (`str2hashbuf_signed`): what is missing is the length
/// that is left, in every byte.
fn words(rest: &[u8]) -> [u32; 8] {
    // A name has at most 255 bytes.
    let len = u32::try_from(rest.len()).unwrap_or(255);
    let pad = len | (len << 8);
    let pad = pad | (pad << 16);
    let mut words = [pad; 8];
    let chunk = &rest[..rest.len().min(32)];
    for (word, bytes) in words.iter_mut().zip(chunk.chunks(4)) {
        *word = bytes.iter().fold(pad, |word, &byte| {
            let signed = i32::from(byte.cast_signed()).cast_unsigned();
            signed.wrapping_add(word << 8)
        });
    }
    words
}

fn transform(state: &mut [u32; 4], input: [u32; 8]) {
    let [mut a, mut b, mut c, mut d] = *state;
    let choose = |x: u32, y: u32, z: u32| z ^ (x & (y ^ z));
    let majority = |x: u32, y: u32, z: u32| (x & y).wrapping_add((x ^ y) & z);
    let parity = |x: u32, y: u32, z: u32| x ^ y ^ z;
    let mut round =
        |mix: &dyn Fn(u32, u32, u32) -> u32, k: u32, order: [usize; 8], turn: [u32; 4]| {
            for (step, &at) in order.iter().enumerate() {
                let sum = a.wrapping_add(mix(b, c, d)).wrapping_add(input[at]).wrapping_add(k);
                let turned = sum.rotate_left(turn[step % 4]);
                (a, b, c, d) = (d, turned, b, c);
            }
        };
    round(&choose, 0, [0, 1, 2, 3, 4, 5, 6, 7], [3, 7, 11, 19]);
    round(&majority, K2, [1, 3, 5, 7, 0, 2, 4, 6], [3, 5, 9, 13]);
    round(&parity, K3, [3, 7, 2, 6, 1, 5, 0, 4], [3, 9, 11, 15]);
    for (word, add) in state.iter_mut().zip([a, b, c, d]) {
        *word = word.wrapping_add(add);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As `debugfs -R "dx_hash -h half_md4 -s SEED NAME"` (e2fsprogs 1.47) says them.
    #[test]
    fn hashes_are_those_of_e2fsprogs() {
        let seed = [0x0403_0201, 0x0807_0605, 0x0c0b_0a09, 0x100f_0e0d];
        let long = [b'x'; 255];
        let said: [(&[u8], u32, u32); 4] = [
            (b"a", 0x8d08_ec4c, 0xd5fa_7d7a),
            (b"hello", 0xe2dd_f968, 0x1746_da32),
            (b"0123456789012345678901234567890123456789", 0x62a8_048c, 0x3aae_8528),
            (&long, 0xac45_f49a, 0x2aa7_169e),
        ];
        for (name, seeded, plain) in said {
            assert_eq!(half_md4(name, seed), seeded, "{}", name.escape_ascii());
            assert_eq!(half_md4(name, [0; 4]), plain, "{}", name.escape_ascii());
        }
    }
}
