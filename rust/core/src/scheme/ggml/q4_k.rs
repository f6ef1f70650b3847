//! `q4_k`: blocks of 256 codes of four bits; each 32 have a scale and a minimum of six bits, multiples
//! of two float16 numbers: `w = (d·s)·q − dmin·m`.
//!
//! Layout: `d`, `dmin` (2 bytes each), scales and minima (12 bytes), 128 bytes of codes: of each 64, 32
//! bytes with code `j` in the low half and code `j + 32` in the high half. Source: `block_q4_K`,
//! `dequantize_row_q4_K`.

use super::bits::{join_six_bits, split_six_bits};
use super::blocked::Blocked;
use super::levels::{Affine, LARGE};
use super::small::{SMALL, decode, half, join, split};
use crate::kernel::block::Block;
use crate::kernel::search::line::Candidates;
use crate::kernel::search::{FOUR, Units};
use crate::kernel::tile::Bounds;
use crate::lanes::Lanes;

pub(in crate::scheme) static Q4_K: Blocked<Q4K> = Blocked::new("q4_k").falling_back("q5_0");

#[derive(Debug)]
pub(in crate::scheme) struct Q4K;

const TOP: f32 = 15.0;
/// Lines that are tried: `bench/candidates.py` fitted them.
const CANDIDATES: Candidates<FOUR> =
    Candidates::new([[0.2, 0.0], [-0.8, -0.5], [0.4, -0.3], [0.4, 0.3]]);

impl Block for Q4K {
    const ELEMENTS: usize = LARGE;
    const BYTES: usize = 2 + 2 + 12 + LARGE / 2;
    const PART: usize = SMALL;
    const LIMIT: f32 = 63.0 * 65504.0;

    type Levels = Affine<8>;

    #[inline(always)]
    fn fit<L: Lanes>(lanes: L, _: &[f32], bounds: &[Bounds]) -> Self::Levels {
        Affine::fit(lanes, bounds, [TOP, 63.0])
    }

    #[inline(always)]
    fn search<L: Lanes>(lanes: L, units: &Units<'_, L>, levels: &mut [Self::Levels]) {
        Affine::search(lanes, units, &CANDIDATES, [TOP, 63.0], levels);
    }

    #[inline(always)]
    fn encode<L: Lanes>(lanes: L, values: &[f32], levels: Self::Levels, block: &mut [u8]) {
        levels.put(lanes, block, 0);
        join_six_bits(&levels.scales, &levels.minima, &mut block[4..16]);
        let mut codes = [0; LARGE];
        levels.codes(lanes, values, TOP, &mut codes);
        for (codes, out) in codes.chunks_exact(2 * SMALL).zip(block[16..].chunks_exact_mut(SMALL)) {
            join::<SMALL>(codes, out);
        }
    }

    #[inline(always)]
    fn decode<L: Lanes>(lanes: L, block: &[u8], values: &mut [f32]) {
        let (d, dmin) = (half(block, 0), half(block, 2));
        let (scales, minima) = split_six_bits(&block[4..16]);
        let mut codes = [0; LARGE];
        for (bytes, codes) in block[16..].chunks_exact(SMALL).zip(codes.chunks_exact_mut(2 * SMALL))
        {
            split::<SMALL>(bytes, codes);
        }
        let each = codes.chunks_exact(SMALL).zip(values.chunks_exact_mut(SMALL));
        for (part, (codes, values)) in each.enumerate() {
            let (scale, less) = (d * f32::from(scales[part]), dmin * f32::from(minima[part]));
            decode::<L, true>(lanes, codes, [0.0, scale, less], values);
        }
    }

    fn scale(block: &[u8]) -> f32 {
        half(block, 0).abs()
    }
}
