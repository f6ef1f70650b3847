//! `q5_1`: blocks of 32 codes of five bits with a float16 scale and minimum, `w = d·q + m`.
//!
//! Layout: `d`, `m` (2 bytes each), the codes' fifth bits (4 bytes, code 0's the lowest), 16 bytes with
//! the rest of code `j` in the low half of byte `j` and that of code `j + 16` in its high half. Source:
//! `block_q5_1`, `quantize_row_q5_1_ref`.

use super::blocked::Blocked;
use super::small::{
    Ends, HALF, Line, SMALL, add_fifth_bits, decode, fifth_bits, half, inverse, join, put_half,
    split,
};
use crate::kernel::block::Block;
use crate::kernel::extremes::ends;
use crate::kernel::search::Units;
use crate::kernel::tile::Bounds;
use crate::lanes::Lanes;

pub(in crate::scheme) static Q5_1: Blocked<Q51> = Blocked::new("q5_1");

#[derive(Debug)]
pub(in crate::scheme) struct Q51;

impl Block for Q51 {
    const ELEMENTS: usize = SMALL;
    const BYTES: usize = 2 + 2 + 4 + HALF;
    const LIMIT: f32 = 65504.0;

    type Levels = Ends;

    #[inline(always)]
    fn fit<L: Lanes>(lanes: L, values: &[f32], bounds: &[Bounds]) -> Self::Levels {
        let (lo, hi) = ends(lanes, values, bounds[0]);
        Ends::of([lo, hi], 31.0)
    }

    #[inline(always)]
    fn search<L: Lanes>(lanes: L, units: &Units<'_, L>, levels: &mut [Self::Levels]) {
        Ends::search(lanes, units, 31.0, levels);
    }

    #[inline(always)]
    fn encode<L: Lanes>(lanes: L, values: &[f32], levels: Self::Levels, block: &mut [u8]) {
        let Ends { d, lo } = levels;
        put_half(lanes, block, 0, d);
        put_half(lanes, block, 2, lo);
        let line = Line { shift: -lo, inverse: inverse(d), half: 0.5, top: 31.0 };
        let mut codes = [0; SMALL];
        line.codes(lanes, values, &mut codes);
        block[4..8].copy_from_slice(&fifth_bits(&codes).to_le_bytes());
        join::<HALF>(&codes, &mut block[8..]);
    }

    #[inline(always)]
    fn decode<L: Lanes>(lanes: L, block: &[u8], values: &mut [f32]) {
        let mut codes = [0; SMALL];
        split::<HALF>(&block[8..], &mut codes);
        add_fifth_bits(u32::from_le_bytes([block[4], block[5], block[6], block[7]]), &mut codes);
        decode::<L, true>(lanes, &codes, [0.0, half(block, 0), -half(block, 2)], values);
    }

    fn scale(block: &[u8]) -> f32 {
        half(block, 0).abs()
    }
}
