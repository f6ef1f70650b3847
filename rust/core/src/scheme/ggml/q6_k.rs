//! `q6_k`: blocks of 256 codes of six bits; each 16 have a scale of eight bits, a multiple of a float16
//! number: `w = (d·s)·(q − 32)`.
//!
//! Layout: the codes' lower four bits (128 bytes: of each 128 codes, 64 bytes with code `j` in the low
//! half and code `j + 64` in the high half), their upper two bits (64 bytes, as codes of `q2_k`), the
//! scales (16 int8), `d` (2 bytes). Source: `block_q6_K`, `dequantize_row_q6_K`.

use super::bits::{join_pairs, split_pairs};
use super::blocked::Blocked;
use super::levels::{LARGE, Symmetric};
use super::small::{HALF, Line, decode, half, inverse, join, put_half, split};
use crate::kernel::block::Block;
use crate::kernel::search::{FOUR, Integers, Units};
use crate::kernel::tile::Bounds;
use crate::lanes::Lanes;

pub(in crate::scheme) static Q6_K: Blocked<Q6K> = Blocked::new("q6_k").falling_back("q8_0");

#[derive(Debug)]
pub(in crate::scheme) struct Q6K;

const PARTS: usize = LARGE / HALF;
const UPPER: usize = LARGE / 2;
const SCALES: usize = UPPER + LARGE / 4;
const D: usize = SCALES + PARTS;
/// Codes of which 64 bytes hold the lower bits.
const LINE: usize = 128;

const NUMBERS: Integers = Integers { low: -32.0, high: 31.0 };
/// As [`super::small::REACHES`], of six bits.
const REACHES: [f32; FOUR] = [1.0, 0.88, 0.92, 0.96];

impl Block for Q6K {
    const ELEMENTS: usize = LARGE;
    const BYTES: usize = D + 2;
    const PART: usize = HALF;
    const LIMIT: f32 = 32.0 * 128.0 * 65504.0;

    type Levels = Symmetric<PARTS>;

    #[inline(always)]
    fn fit<L: Lanes>(lanes: L, values: &[f32], bounds: &[Bounds]) -> Self::Levels {
        Symmetric::fit(lanes, values, bounds, [-32.0, -128.0])
    }

    #[inline(always)]
    fn search<L: Lanes>(lanes: L, units: &Units<'_, L>, levels: &mut [Self::Levels]) {
        Symmetric::search(lanes, units, (&NUMBERS, &REACHES), [-32.0, -128.0], levels);
    }

    #[inline(always)]
    fn encode<L: Lanes>(lanes: L, values: &[f32], levels: Self::Levels, block: &mut [u8]) {
        put_half(lanes, block, D, levels.d);
        let mut codes = [0; LARGE];
        let each = values.chunks_exact(HALF).zip(codes.chunks_exact_mut(HALF));
        for (part, (values, codes)) in each.enumerate() {
            let inverse = inverse(levels.scale(part));
            Line { shift: 0.0, inverse, half: 32.5, top: 63.0 }.codes(lanes, values, codes);
            block[SCALES + part] = levels.scales[part].cast_unsigned();
        }
        for (codes, out) in codes.chunks_exact(LINE).zip(block.chunks_exact_mut(LINE / 2)) {
            join::<{ LINE / 2 }>(codes, out);
        }
        join_pairs(&codes, 4, &mut block[UPPER..SCALES]);
    }

    #[inline(always)]
    fn decode<L: Lanes>(lanes: L, block: &[u8], values: &mut [f32]) {
        let d = half(block, D);
        let mut codes = [0; LARGE];
        for (bytes, codes) in block.chunks_exact(LINE / 2).zip(codes.chunks_exact_mut(LINE)) {
            split::<{ LINE / 2 }>(bytes, codes);
        }
        split_pairs(&block[UPPER..SCALES], 4, &mut codes);
        let each = codes.chunks_exact(HALF).zip(values.chunks_exact_mut(HALF));
        for ((codes, values), scale) in each.zip(&block[SCALES..D]) {
            let scale = d * f32::from(scale.cast_signed());
            decode::<L, false>(lanes, codes, [32.0, scale, 0.0], values);
        }
    }

    fn scale(block: &[u8]) -> f32 {
        half(block, D).abs()
    }
}
