//! `q4_1`: blocks of 32 codes of four bits with a float16 scale and minimum, `w = d·q + m`.
//!
//! Layout: `d`, `m` (2 bytes each), 16 bytes with code `j` in the low half of byte `j` and code
//! `j + 16` in its high half. Source: `block_q4_1`, `quantize_row_q4_1_ref`.

use super::blocked::Blocked;
use super::small::{Ends, HALF, Line, SMALL, decode, half, inverse, join, put_half, split};
use crate::kernel::block::Block;
use crate::kernel::extremes::ends;
use crate::kernel::search::Units;
use crate::kernel::tile::Bounds;
use crate::lanes::Lanes;

pub(in crate::scheme) static Q4_1: Blocked<Q41> = Blocked::new("q4_1");

#[derive(Debug)]
pub(in crate::scheme) struct Q41;

impl Block for Q41 {
    const ELEMENTS: usize = SMALL;
    const BYTES: usize = 2 + 2 + HALF;
    const LIMIT: f32 = 65504.0;

    type Levels = Ends;

    #[inline(always)]
    fn fit<L: Lanes>(lanes: L, values: &[f32], bounds: &[Bounds]) -> Self::Levels {
        let (lo, hi) = ends(lanes, values, bounds[0]);
        Ends::of([lo, hi], 15.0)
    }

    #[inline(always)]
    fn search<L: Lanes>(lanes: L, units: &Units<'_, L>, levels: &mut [Self::Levels]) {
        Ends::search(lanes, units, 15.0, levels);
    }

    #[inline(always)]
    fn encode<L: Lanes>(lanes: L, values: &[f32], levels: Self::Levels, block: &mut [u8]) {
        let Ends { d, lo } = levels;
        put_half(lanes, block, 0, d);
        put_half(lanes, block, 2, lo);
        let line = Line { shift: -lo, inverse: inverse(d), half: 0.5, top: 15.0 };
        let mut codes = [0; SMALL];
        line.codes(lanes, values, &mut codes);
        join::<HALF>(&codes, &mut block[4..]);
    }

    #[inline(always)]
    fn decode<L: Lanes>(lanes: L, block: &[u8], values: &mut [f32]) {
        let mut codes = [0; SMALL];
        split::<HALF>(&block[4..], &mut codes);
        decode::<L, true>(lanes, &codes, [0.0, half(block, 0), -half(block, 2)], values);
    }

    fn scale(block: &[u8]) -> f32 {
        half(block, 0).abs()
    }
}
