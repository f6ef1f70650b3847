//! `q5_0`: blocks of 32 codes of five bits with a float16 scale, `w = d·(q − 16)`.
//!
//! Layout: `d` (2 bytes), the codes' fifth bits (4 bytes, code 0's the lowest), 16 bytes with the rest
//! of code `j` in the low half of byte `j` and that of code `j + 16` in its high half. Source:
//! `block_q5_0`, `quantize_row_q5_0_ref`.

use super::blocked::Blocked;
use super::small::{
    HALF, Line, REACHES, SMALL, add_fifth_bits, decode, fifth_bits, half, inverse, join, outermost,
    put_half, search, split,
};
use crate::kernel::block::Block;
use crate::kernel::search::{Integers, Units};
use crate::kernel::tile::Bounds;
use crate::lanes::Lanes;

pub(in crate::scheme) static Q5_0: Blocked<Q50> = Blocked::new("q5_0");

#[derive(Debug)]
pub(in crate::scheme) struct Q50;

const NUMBERS: Integers = Integers { low: -16.0, high: 15.0 };

impl Block for Q50 {
    const ELEMENTS: usize = SMALL;
    const BYTES: usize = 2 + 4 + HALF;
    const LIMIT: f32 = 16.0 * 65504.0;

    type Levels = f32;

    #[inline(always)]
    fn fit<L: Lanes>(_: L, values: &[f32], bounds: &[Bounds]) -> Self::Levels {
        outermost(values, bounds[0]) / -16.0
    }

    #[inline(always)]
    fn search<L: Lanes>(lanes: L, units: &Units<'_, L>, levels: &mut [Self::Levels]) {
        search(lanes, units, (&NUMBERS, &REACHES), levels);
    }

    #[inline(always)]
    fn encode<L: Lanes>(lanes: L, values: &[f32], d: Self::Levels, block: &mut [u8]) {
        put_half(lanes, block, 0, d);
        let line = Line { shift: 0.0, inverse: inverse(d), half: 16.5, top: 31.0 };
        let mut codes = [0; SMALL];
        line.codes(lanes, values, &mut codes);
        block[2..6].copy_from_slice(&fifth_bits(&codes).to_le_bytes());
        join::<HALF>(&codes, &mut block[6..]);
    }

    #[inline(always)]
    fn decode<L: Lanes>(lanes: L, block: &[u8], values: &mut [f32]) {
        let mut codes = [0; SMALL];
        split::<HALF>(&block[6..], &mut codes);
        add_fifth_bits(u32::from_le_bytes([block[2], block[3], block[4], block[5]]), &mut codes);
        decode::<L, false>(lanes, &codes, [16.0, half(block, 0), 0.0], values);
    }

    fn scale(block: &[u8]) -> f32 {
        half(block, 0).abs()
    }
}
