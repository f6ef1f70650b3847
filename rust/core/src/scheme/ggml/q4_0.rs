//! `q4_0`: blocks of 32 codes of four bits with a float16 scale, `w = d·(q − 8)`.
//!
//! Layout: `d` (2 bytes), 16 bytes with code `j` in the low half of byte `j` and code `j + 16` in its
//! high half. The value of the largest magnitude, of equal ones the first, has code 0. Source:
//! `block_q4_0`, `quantize_row_q4_0_ref`.

use super::blocked::Blocked;
use super::small::{
    HALF, Line, REACHES, SMALL, decode, half, inverse, join, outermost, put_half, search, split,
};
use crate::kernel::block::Block;
use crate::kernel::search::{Integers, Units};
use crate::kernel::tile::Bounds;
use crate::lanes::Lanes;

pub(in crate::scheme) static Q4_0: Blocked<Q40> = Blocked::new("q4_0");

#[derive(Debug)]
pub(in crate::scheme) struct Q40;

const NUMBERS: Integers = Integers { low: -8.0, high: 7.0 };

impl Block for Q40 {
    const ELEMENTS: usize = SMALL;
    const BYTES: usize = 2 + HALF;
    const LIMIT: f32 = 8.0 * 65504.0;

    type Levels = f32;

    #[inline(always)]
    fn fit<L: Lanes>(_: L, values: &[f32], bounds: &[Bounds]) -> Self::Levels {
        outermost(values, bounds[0]) / -8.0
    }

    #[inline(always)]
    fn search<L: Lanes>(lanes: L, units: &Units<'_, L>, levels: &mut [Self::Levels]) {
        search(lanes, units, (&NUMBERS, &REACHES), levels);
    }

    #[inline(always)]
    fn encode<L: Lanes>(lanes: L, values: &[f32], d: Self::Levels, block: &mut [u8]) {
        put_half(lanes, block, 0, d);
        let line = Line { shift: 0.0, inverse: inverse(d), half: 8.5, top: 15.0 };
        let mut codes = [0; SMALL];
        line.codes(lanes, values, &mut codes);
        join::<HALF>(&codes, &mut block[2..]);
    }

    #[inline(always)]
    fn decode<L: Lanes>(lanes: L, block: &[u8], values: &mut [f32]) {
        let mut codes = [0; SMALL];
        split::<HALF>(&block[2..], &mut codes);
        decode::<L, false>(lanes, &codes, [8.0, half(block, 0), 0.0], values);
    }

    fn scale(block: &[u8]) -> f32 {
        half(block, 0).abs()
    }
}
