//! `q4_0`: ggml's blocks of 32 codes of four bits with a float16 scale, `w = d·(q − 8)`.
//!
//! Layout: `d` (2 bytes), 16 bytes with code `j` in the low half of byte `j` and code `j + 16` in its
//! high half. The value of the largest magnitude, of equal ones the first, has code 0. Source:
//! `block_q4_0` and `quantize_row_q4_0_ref` in
//! <https://github.com/ggml-org/llama.cpp/blob/master/ggml/src/ggml-quants.c>.

use super::blocked::Blocked;
use crate::kernel::block::Block;
use crate::kernel::convert::{f16_from_f32, f16_to_f32};
use crate::kernel::tile::Bounds;
use crate::lanes::{LANES, Lanes};

pub(super) static Q4_0: Blocked<Q40> = Blocked::new("q4_0");

const HALF: usize = LANES;

#[derive(Debug)]
pub(super) struct Q40;

impl Block for Q40 {
    const ELEMENTS: usize = 2 * HALF;
    const BYTES: usize = 2 + HALF;
    const LIMIT: f32 = 8.0 * 65504.0;

    #[inline(always)]
    fn encode<L: Lanes>(lanes: L, values: &[f32], bounds: Bounds, block: &mut [u8]) {
        let d = outermost(values, bounds) / -8.0;
        let inverse = if d != 0.0 && (1.0 / d).is_finite() { 1.0 / d } else { 0.0 };
        let (inverse, middle, top) = (lanes.splat(inverse), lanes.splat(8.5), lanes.splat(15.0));
        let (scale, codes) = block.split_at_mut(2);
        scale.copy_from_slice(&f16_from_f32(d).to_le_bytes());
        let mut halves = [[0; HALF]; 2];
        for (codes, values) in halves.iter_mut().zip(values.as_chunks().0) {
            // A number from 0.5 to 16.5, whose fraction is dropped.
            let shifted = lanes.add(lanes.mul(lanes.load(values), inverse), middle);
            let numbers = lanes.truncate(lanes.min(shifted, top));
            lanes.store_u8(lanes.low_bytes(numbers, 0), codes);
        }
        let [low, high] = halves;
        for (codes, (low, high)) in codes.iter_mut().zip(low.iter().zip(high)) {
            *codes = low | (high << 4);
        }
    }

    #[inline(always)]
    fn decode<L: Lanes>(lanes: L, block: &[u8], values: &mut [f32]) {
        let (scale, codes) = block.split_at(2);
        let d = lanes.splat(f16_to_f32(u16::from_le_bytes([scale[0], scale[1]])));
        let middle = lanes.splat(8.0);
        let Some(codes) = codes.first_chunk::<HALF>() else { return };
        let halves = [codes.map(|code| code & 15), codes.map(|code| code >> 4)];
        for (codes, values) in halves.iter().zip(values.as_chunks_mut().0) {
            lanes.store(lanes.mul(lanes.sub(lanes.load_u8(codes), middle), d), values);
        }
    }

    fn scale(block: &[u8]) -> f32 {
        f16_to_f32(u16::from_le_bytes([block[0], block[1]])).abs()
    }
}

/// The value of the largest magnitude, of two the first.
#[inline(always)]
fn outermost(values: &[f32], Bounds { lo, hi }: Bounds) -> f32 {
    if hi != -lo {
        return if hi > -lo { hi } else { lo };
    }
    values.iter().copied().find(|value| value.abs() == hi).unwrap_or(0.0)
}
