//! SHA-256 (FIPS 180-4) of two messages at once, which share their blocks: a tar stream and the
//! file in its body. Both start at multiples of 512 bytes, so that they have the same blocks, and
//! the message schedule, which depends on the block alone, is computed once for both and for
//! eight blocks abreast. Safe code for one processor family; who may call it is in `sys`, when it
//! is of use in `twin`.

use std::arch::x86_64::*;

use crate::sys::words;
use crate::twin::{Pair, ROUND};

/// Bytes that are scheduled together: eight SHA-256 blocks, one tar block.
const CHUNK: usize = 512;

/// Eight schedules with the round constants added, by round and block.
type Schedule = [[u32; 8]; 64];

/// Feeds the first `counts[lane]` blocks of `bytes` to each lane. `bytes` is whole chunks.
#[target_feature(enable = "avx512f,avx512vl,avx512bw,avx2")]
pub(crate) fn run(pair: &mut Pair, bytes: &[u8], counts: [usize; 2]) {
    let mut state: [__m128i; 8] = std::array::from_fn(|at| {
        _mm_setr_epi32(pair[0][at].cast_signed(), pair[1][at].cast_signed(), 0, 0)
    });
    let mut schedule: Schedule = [[0; 8]; 64];
    let total = counts[0].max(counts[1]);
    let mut done = 0;
    for chunk in bytes.as_chunks::<CHUNK>().0 {
        plan(chunk, &mut schedule);
        for block in 0..8 {
            for lane in 0..2 {
                if counts[lane] == done {
                    pair[lane] = take(&state, lane);
                }
            }
            if done == total {
                return;
            }
            rounds(&mut state, &schedule, block);
            done += 1;
        }
    }
    for lane in 0..2 {
        if counts[lane] == done {
            pair[lane] = take(&state, lane);
        }
    }
}

#[target_feature(enable = "avx512f,avx512vl,avx512bw,avx2")]
fn take(state: &[__m128i; 8], lane: usize) -> [u32; 8] {
    std::array::from_fn(|at| match lane {
        0 => _mm_extract_epi32::<0>(state[at]).cast_unsigned(),
        _ => _mm_extract_epi32::<1>(state[at]).cast_unsigned(),
    })
}

/// Half a block as big-endian words.
#[target_feature(enable = "avx512f,avx512vl,avx512bw,avx2")]
#[inline]
fn load(half: &[u8; 32]) -> __m256i {
    let quads = half.as_chunks::<8>().0;
    let quad = |at: usize| i64::from_le_bytes(quads[at]);
    let swap = _mm256_setr_epi8(
        3, 2, 1, 0, 7, 6, 5, 4, 11, 10, 9, 8, 15, 14, 13, 12, 3, 2, 1, 0, 7, 6, 5, 4, 11, 10, 9, 8,
        15, 14, 13, 12,
    );
    _mm256_shuffle_epi8(_mm256_setr_epi64x(quad(0), quad(1), quad(2), quad(3)), swap)
}

/// Rows of words by block become rows of blocks by word.
#[target_feature(enable = "avx512f,avx512vl,avx512bw,avx2")]
#[inline]
fn transpose(row: [__m256i; 8]) -> [__m256i; 8] {
    let two = |at: usize| {
        let (a, b) = (row[at], row[at + 1]);
        (_mm256_unpacklo_epi32(a, b), _mm256_unpackhi_epi32(a, b))
    };
    let four = |at: usize| {
        let ((a, b), (c, d)) = (two(at), two(at + 2));
        [
            _mm256_unpacklo_epi64(a, c),
            _mm256_unpackhi_epi64(a, c),
            _mm256_unpacklo_epi64(b, d),
            _mm256_unpackhi_epi64(b, d),
        ]
    };
    let (low, high) = (four(0), four(4));
    std::array::from_fn(|at| match at {
        0..4 => _mm256_permute2x128_si256::<0x20>(low[at], high[at]),
        _ => _mm256_permute2x128_si256::<0x31>(low[at - 4], high[at - 4]),
    })
}

/// The message schedules of eight blocks.
#[target_feature(enable = "avx512f,avx512vl,avx512bw,avx2")]
fn plan(chunk: &[u8; CHUNK], schedule: &mut Schedule) {
    let halves = chunk.as_chunks::<32>().0;
    let low = transpose(std::array::from_fn(|block| load(&halves[2 * block])));
    let high = transpose(std::array::from_fn(|block| load(&halves[2 * block + 1])));
    let mut w: [__m256i; 16] =
        std::array::from_fn(|at| if at < 8 { low[at] } else { high[at - 8] });
    let mut round = 0;
    while round < 64 {
        macro_rules! step {
            ($at:literal) => {
                if round > 0 {
                    let (near, far) = (w[($at + 14) & 15], w[($at + 1) & 15]);
                    let s0 = _mm256_ternarylogic_epi32::<0x96>(
                        _mm256_ror_epi32::<7>(far),
                        _mm256_ror_epi32::<18>(far),
                        _mm256_srli_epi32::<3>(far),
                    );
                    let s1 = _mm256_ternarylogic_epi32::<0x96>(
                        _mm256_ror_epi32::<17>(near),
                        _mm256_ror_epi32::<19>(near),
                        _mm256_srli_epi32::<10>(near),
                    );
                    w[$at] = _mm256_add_epi32(
                        _mm256_add_epi32(w[$at], s0),
                        _mm256_add_epi32(w[($at + 9) & 15], s1),
                    );
                }
                let constant = _mm256_set1_epi32(ROUND[round + $at].cast_signed());
                schedule[round + $at] = words(_mm256_add_epi32(w[$at], constant));
            };
        }
        step!(0);
        step!(1);
        step!(2);
        step!(3);
        step!(4);
        step!(5);
        step!(6);
        step!(7);
        step!(8);
        step!(9);
        step!(10);
        step!(11);
        step!(12);
        step!(13);
        step!(14);
        step!(15);
        round += 16;
    }
}

/// One block into all lanes.
#[target_feature(enable = "avx512f,avx512vl,avx512bw,avx2")]
#[inline]
fn rounds(state: &mut [__m128i; 8], schedule: &Schedule, block: usize) {
    let [mut a, mut b, mut c, mut d, mut e, mut f, mut g, mut h] = *state;
    macro_rules! round {
        ($a:ident $b:ident $c:ident $d:ident $e:ident $f:ident $g:ident $h:ident $at:expr) => {
            let word = _mm_set1_epi32(schedule[$at][block].cast_signed());
            let chosen = _mm_ternarylogic_epi32::<0xca>($e, $f, $g);
            let s1 = _mm_ternarylogic_epi32::<0x96>(
                _mm_ror_epi32::<6>($e),
                _mm_ror_epi32::<11>($e),
                _mm_ror_epi32::<25>($e),
            );
            let t1 = _mm_add_epi32(_mm_add_epi32(_mm_add_epi32($h, word), chosen), s1);
            let s0 = _mm_ternarylogic_epi32::<0x96>(
                _mm_ror_epi32::<2>($a),
                _mm_ror_epi32::<13>($a),
                _mm_ror_epi32::<22>($a),
            );
            let most = _mm_ternarylogic_epi32::<0xe8>($a, $b, $c);
            $d = _mm_add_epi32($d, t1);
            $h = _mm_add_epi32(t1, _mm_add_epi32(s0, most));
        };
    }
    let mut at = 0;
    while at < 64 {
        round!(a b c d e f g h at);
        round!(h a b c d e f g at + 1);
        round!(g h a b c d e f at + 2);
        round!(f g h a b c d e at + 3);
        round!(e f g h a b c d at + 4);
        round!(d e f g h a b c at + 5);
        round!(c d e f g h a b at + 6);
        round!(b c d e f g h a at + 7);
        at += 8;
    }
    let new = [a, b, c, d, e, f, g, h];
    for (old, new) in state.iter_mut().zip(new) {
        *old = _mm_add_epi32(*old, new);
    }
}
