//! `q3_k`: blocks of 256 codes of three bits; each 16 have a scale of six bits, a multiple of a float16
//! number: `w = (d·(s − 32))·(q − 4)`.
//!
//! Layout: the codes' third bits (32 bytes: bit `i` of byte `j` is code `32·i + j`'s), 64 bytes with
//! the rest as in `q2_k`, the scales (12 bytes: the low four bits of scale `j` in the low half of byte
//! `j` and those of scale `j + 8` in its high half; then the upper two bits of scales `j`, `j + 4`, `j + 8`
//! and `j + 12` in byte `j + 8`), `d` (2 bytes). Source: `block_q3_K`, `dequantize_row_q3_K`.

use super::bits::{join_bits, join_pairs, split_bits, split_pairs};
use super::blocked::Blocked;
use super::levels::{LARGE, Symmetric};
use super::small::{HALF, Line, decode, half, inverse, put_half};
use crate::kernel::block::Block;
use crate::kernel::search::{FOUR, Integers, Units};
use crate::kernel::tile::Bounds;
use crate::lanes::Lanes;

pub(in crate::scheme) static Q3_K: Blocked<Q3K> = Blocked::new("q3_k").falling_back("q4_0");

#[derive(Debug)]
pub(in crate::scheme) struct Q3K;

const PARTS: usize = LARGE / HALF;
const CODES: usize = LARGE / 8;
const SCALES: usize = CODES + LARGE / 4;
const D: usize = SCALES + 12;

const NUMBERS: Integers = Integers { low: -4.0, high: 3.0 };
/// As [`super::small::REACHES`], of three bits.
const REACHES: [f32; FOUR] = [1.0, 0.8, 1.12, 1.36];

impl Block for Q3K {
    const ELEMENTS: usize = LARGE;
    const BYTES: usize = D + 2;
    const PART: usize = HALF;
    const LIMIT: f32 = 4.0 * 32.0 * 65504.0;

    type Levels = Symmetric<PARTS>;

    #[inline(always)]
    fn fit<L: Lanes>(lanes: L, values: &[f32], bounds: &[Bounds]) -> Self::Levels {
        Symmetric::fit(lanes, values, bounds, [-4.0, -32.0])
    }

    #[inline(always)]
    fn search<L: Lanes>(lanes: L, units: &Units<'_, L>, levels: &mut [Self::Levels]) {
        Symmetric::search(lanes, units, (&NUMBERS, &REACHES), [-4.0, -32.0], levels);
    }

    #[inline(always)]
    fn encode<L: Lanes>(lanes: L, values: &[f32], levels: Self::Levels, block: &mut [u8]) {
        put_half(lanes, block, D, levels.d);
        let mut codes = [0; LARGE];
        let each = values.chunks_exact(HALF).zip(codes.chunks_exact_mut(HALF));
        for (part, (values, codes)) in each.enumerate() {
            let inverse = inverse(levels.scale(part));
            Line { shift: 0.0, inverse, half: 4.5, top: 7.0 }.codes(lanes, values, codes);
        }
        join_bits(&codes, 2, &mut block[..CODES]);
        join_pairs(&codes, 0, &mut block[CODES..SCALES]);
        let scales = levels.scales.map(|scale| (scale + 32) as u8);
        for at in 0..8 {
            block[SCALES + at] = (scales[at] & 15) | (scales[at + 8] << 4);
        }
        for at in 0..4 {
            let upper = |quarter: usize| (scales[at + 4 * quarter] >> 4) << (2 * quarter);
            block[SCALES + 8 + at] = upper(0) | upper(1) | upper(2) | upper(3);
        }
    }

    #[inline(always)]
    fn decode<L: Lanes>(lanes: L, block: &[u8], values: &mut [f32]) {
        let d = half(block, D);
        let mut codes = [0; LARGE];
        split_pairs(&block[CODES..SCALES], 0, &mut codes);
        split_bits(&block[..CODES], 2, &mut codes);
        let each = codes.chunks_exact(HALF).zip(values.chunks_exact_mut(HALF));
        for (part, (codes, values)) in each.enumerate() {
            let lower = (block[SCALES + part % 8] >> (4 * (part / 8))) & 15;
            let upper = (block[SCALES + 8 + part % 4] >> (2 * (part / 4))) & 3;
            let scale = d * (f32::from(lower | (upper << 4)) - 32.0);
            decode::<L, false>(lanes, codes, [4.0, scale, 0.0], values);
        }
    }

    fn scale(block: &[u8]) -> f32 {
        half(block, D).abs()
    }
}
