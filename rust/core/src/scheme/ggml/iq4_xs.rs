//! `iq4_xs`: blocks of 256 codes of four bits; each 32 have a scale of six bits, a multiple of a float16
//! number: `w = (d·(s − 32))·table[q]`, with the table of `iq4_nl`.
//!
//! Layout: `d` (2 bytes), the upper two bits of the scales (2 bytes, scale 0's the lowest), their lower
//! four bits (4 bytes, two each, the first in the low half), 128 bytes of codes: of each 32, 16 bytes as
//! in `q4_0`. Source: `block_iq4_xs`, `dequantize_row_iq4_xs`.

use super::blocked::Blocked;
use super::iq4_nl::{LOWEST, REACHES, TABLE, look_up};
use super::levels::{LARGE, Symmetric};
use super::small::{HALF, SMALL, half, inverse, join, nearest, put_half, split};
use crate::kernel::block::Block;
use crate::kernel::search::Units;
use crate::kernel::tile::Bounds;
use crate::lanes::Lanes;

pub(in crate::scheme) static IQ4_XS: Blocked<Iq4Xs> = Blocked::new("iq4_xs").falling_back("iq4_nl");

#[derive(Debug)]
pub(in crate::scheme) struct Iq4Xs;

const PARTS: usize = LARGE / SMALL;
const LOWER: usize = 4;
const CODES: usize = LOWER + PARTS / 2;

impl Block for Iq4Xs {
    const ELEMENTS: usize = LARGE;
    const BYTES: usize = CODES + LARGE / 2;
    const PART: usize = SMALL;
    const LIMIT: f32 = 127.0 * 32.0 * 65504.0;

    type Levels = Symmetric<PARTS>;

    #[inline(always)]
    fn fit<L: Lanes>(lanes: L, values: &[f32], bounds: &[Bounds]) -> Self::Levels {
        Symmetric::fit(lanes, values, bounds, [LOWEST, -32.0])
    }

    #[inline(always)]
    fn search<L: Lanes>(lanes: L, units: &Units<'_, L>, levels: &mut [Self::Levels]) {
        Symmetric::search(lanes, units, (&TABLE, &REACHES), [LOWEST, -32.0], levels);
    }

    #[inline(always)]
    fn encode<L: Lanes>(lanes: L, values: &[f32], levels: Self::Levels, block: &mut [u8]) {
        put_half(lanes, block, 0, levels.d);
        let scales = levels.scales.map(|scale| (scale + 32) as u8);
        let upper = scales.iter().zip(0..).map(|(scale, at)| u16::from(scale >> 4) << (2 * at));
        block[2..LOWER].copy_from_slice(&upper.fold(0, |all, one| all | one).to_le_bytes());
        for (out, [low, high]) in block[LOWER..CODES].iter_mut().zip(scales.as_chunks::<2>().0) {
            *out = (low & 15) | (high << 4);
        }
        let each = values.chunks_exact(SMALL).zip(block[CODES..].chunks_exact_mut(HALF));
        for (part, (values, out)) in each.enumerate() {
            let mut codes = [0; SMALL];
            nearest(lanes, values, inverse(levels.scale(part)), &TABLE, &mut codes);
            join::<HALF>(&codes, out);
        }
    }

    #[inline(always)]
    fn decode<L: Lanes>(lanes: L, block: &[u8], values: &mut [f32]) {
        let d = half(block, 0);
        let upper = u16::from_le_bytes([block[2], block[3]]);
        let each = block[CODES..].chunks_exact(HALF).zip(values.chunks_exact_mut(SMALL));
        for (part, (bytes, values)) in each.enumerate() {
            let lower = (block[LOWER + part / 2] >> (4 * (part % 2))) & 15;
            let scale = u16::from(lower) | ((upper >> (2 * part)) & 3) << 4;
            let mut codes = [0; SMALL];
            split::<HALF>(bytes, &mut codes);
            look_up(lanes, &codes, d * (f32::from(scale) - 32.0), values);
        }
    }

    fn scale(block: &[u8]) -> f32 {
        half(block, 0).abs()
    }
}
