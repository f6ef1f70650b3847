//! `q5_1`: ggml's blocks of 32 codes of five bits with a float16 scale and minimum, `w = d·q + m`.
//!
//! Layout: `d`, `m` (2 bytes each), the codes' fifth bits (4 bytes, code 0's the lowest), 16 bytes with
//! the rest of code `j` in the low half of byte `j` and that of code `j + 16` in its high half. Source:
//! `block_q5_1` and `quantize_row_q5_1_ref` in
//! <https://github.com/ggml-org/llama.cpp/blob/master/ggml/src/ggml-quants.c>.

use super::blocked::Blocked;
use crate::kernel::block::Block;
use crate::kernel::convert::{f16_from_f32, f16_to_f32};
use crate::kernel::tile::Bounds;
use crate::lanes::Lanes;

pub(super) static Q5_1: Blocked<Q51> = Blocked::new("q5_1");

const HALF: usize = 16;

#[derive(Debug)]
pub(super) struct Q51;

impl Block for Q51 {
    const ELEMENTS: usize = 2 * HALF;
    const BYTES: usize = 2 + 2 + 4 + HALF;
    const LIMIT: f32 = 65504.0;

    #[inline(always)]
    fn encode<L: Lanes>(_: L, values: &[f32], _: Bounds, block: &mut [u8]) {
        let (mut lo, mut hi) = (f32::MAX, f32::MIN);
        for &value in values {
            lo = if value < lo { value } else { lo };
            hi = if value > hi { value } else { hi };
        }
        let d = (hi - lo) / 31.0;
        let inverse = if d > 0.0 && (1.0 / d).is_finite() { 1.0 / d } else { 0.0 };
        let mut codes = [0u32; 2 * HALF];
        for (code, value) in codes.iter_mut().zip(values) {
            *code = ((value - lo) * inverse + 0.5) as u32;
        }
        let fifth = codes.iter().zip(0..).fold(0, |bits, (code, at)| bits | (code >> 4) << at);
        block[..2].copy_from_slice(&f16_from_f32(d).to_le_bytes());
        block[2..4].copy_from_slice(&f16_from_f32(lo).to_le_bytes());
        block[4..8].copy_from_slice(&u32::to_le_bytes(fifth));
        let (low, high) = codes.split_at(HALF);
        for (out, (low, high)) in block[8..].iter_mut().zip(low.iter().zip(high)) {
            *out = ((low & 15) | ((high & 15) << 4)) as u8;
        }
    }

    #[inline(always)]
    fn decode<L: Lanes>(_: L, block: &[u8], values: &mut [f32]) {
        let half = |at: usize| f16_to_f32(u16::from_le_bytes([block[at], block[at + 1]]));
        let (d, m) = (half(0), half(2));
        let fifth = u32::from_le_bytes([block[4], block[5], block[6], block[7]]);
        let value = |code: u32| code as f32 * d + m;
        let (low, high) = values.split_at_mut(HALF);
        let codes = block[8..].iter().map(|&codes| u32::from(codes));
        for ((codes, at), (low, high)) in codes.zip(0..).zip(low.iter_mut().zip(high)) {
            *low = value((codes & 15) | ((fifth >> at & 1) << 4));
            *high = value((codes >> 4) | ((fifth >> (at + 16) & 1) << 4));
        }
    }

    fn scale(block: &[u8]) -> f32 {
        f16_to_f32(u16::from_le_bytes([block[0], block[1]])).abs()
    }
}
