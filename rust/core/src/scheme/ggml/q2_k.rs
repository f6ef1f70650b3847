//! `q2_k`: blocks of 256 codes of two bits; each 16 have a scale and a minimum of four bits, multiples
//! of two float16 numbers: `w = (d·s)·q − dmin·m`.
//!
//! Layout: 16 bytes with scale `i` in the low half of byte `i` and minimum `i` in its high half; 64
//! bytes of codes: of each 128, 32 bytes, of which byte `j` has the codes `j`, `j + 32`, `j + 64` and
//! `j + 96`; `d`, `dmin` (2 bytes each). Source: `block_q2_K`, `dequantize_row_q2_K`.

use super::bits::{join_pairs, split_pairs};
use super::blocked::Blocked;
use super::levels::{Affine, LARGE};
use super::small::{HALF, decode, half};
use crate::kernel::block::Block;
use crate::kernel::search::line::Candidates;
use crate::kernel::search::{FOUR, Units};
use crate::kernel::tile::Bounds;
use crate::lanes::Lanes;

pub(in crate::scheme) static Q2_K: Blocked<Q2K> = Blocked::new("q2_k").falling_back("q4_0");

#[derive(Debug)]
pub(in crate::scheme) struct Q2K;

const PARTS: usize = LARGE / HALF;
const CODES: usize = PARTS;
const D: usize = CODES + LARGE / 4;
const TOP: f32 = 3.0;
/// Lines that are tried: `bench/candidates.py` fitted them.
const CANDIDATES: Candidates<FOUR> =
    Candidates::new([[0.8, 0.0], [0.8, -0.3], [0.6, 0.3], [0.0, -0.1]]);

impl Block for Q2K {
    const ELEMENTS: usize = LARGE;
    const BYTES: usize = D + 4;
    const PART: usize = HALF;
    const LIMIT: f32 = 15.0 * 65504.0;

    type Levels = Affine<PARTS>;

    #[inline(always)]
    fn fit<L: Lanes>(lanes: L, _: &[f32], bounds: &[Bounds]) -> Self::Levels {
        Affine::fit(lanes, bounds, [TOP, 15.0])
    }

    #[inline(always)]
    fn search<L: Lanes>(lanes: L, units: &Units<'_, L>, levels: &mut [Self::Levels]) {
        Affine::search(lanes, units, &CANDIDATES, [TOP, 15.0], levels);
    }

    #[inline(always)]
    fn encode<L: Lanes>(lanes: L, values: &[f32], levels: Self::Levels, block: &mut [u8]) {
        levels.put(lanes, block, D);
        for (out, (scale, minimum)) in block.iter_mut().zip(levels.scales.iter().zip(levels.minima))
        {
            *out = scale | (minimum << 4);
        }
        let mut codes = [0; LARGE];
        levels.codes(lanes, values, TOP, &mut codes);
        join_pairs(&codes, 0, &mut block[CODES..D]);
    }

    #[inline(always)]
    fn decode<L: Lanes>(lanes: L, block: &[u8], values: &mut [f32]) {
        let (d, dmin) = (half(block, D), half(block, D + 2));
        let mut codes = [0; LARGE];
        split_pairs(&block[CODES..D], 0, &mut codes);
        let each = codes.chunks_exact(HALF).zip(values.chunks_exact_mut(HALF));
        for ((codes, values), levels) in each.zip(block) {
            let (scale, less) = (d * f32::from(levels & 15), dmin * f32::from(levels >> 4));
            decode::<L, true>(lanes, codes, [0.0, scale, less], values);
        }
    }

    fn scale(block: &[u8]) -> f32 {
        half(block, D).abs()
    }
}
