//! `q8_0`: ggml's blocks of 32 int8 with a float16 scale, `w = d·q`.
//!
//! Layout: `d` (2 bytes), 32 codes. Source: `block_q8_0` and `quantize_row_q8_0_ref` in
//! <https://github.com/ggml-org/llama.cpp/blob/master/ggml/src/ggml-quants.c>.

use super::blocked::Blocked;
use crate::kernel::block::Block;
use crate::kernel::convert::{f16_from_f32, f16_to_f32, round_away};
use crate::kernel::tile::Bounds;
use crate::lanes::Lanes;

pub(super) static Q8_0: Blocked<Q80> = Blocked::new("q8_0");

#[derive(Debug)]
pub(super) struct Q80;

impl Block for Q80 {
    const ELEMENTS: usize = 32;
    const BYTES: usize = 34;
    const LIMIT: f32 = 127.0 * 65504.0;

    #[inline(always)]
    fn encode<L: Lanes>(_: L, values: &[f32], bounds: Bounds, block: &mut [u8]) {
        let d = bounds.absmax() / 127.0;
        let inverse = if d > 0.0 && (1.0 / d).is_finite() { 1.0 / d } else { 0.0 };
        let (scale, codes) = block.split_at_mut(2);
        scale.copy_from_slice(&f16_from_f32(d).to_le_bytes());
        for (code, value) in codes.iter_mut().zip(values) {
            *code = round_away(value * inverse) as i8 as u8;
        }
    }

    #[inline(always)]
    fn decode<L: Lanes>(_: L, block: &[u8], values: &mut [f32]) {
        let (scale, codes) = block.split_at(2);
        let d = f16_to_f32(u16::from_le_bytes([scale[0], scale[1]]));
        for (value, code) in values.iter_mut().zip(codes) {
            *value = d * f32::from(*code as i8);
        }
    }

    fn scale(block: &[u8]) -> f32 {
        f16_to_f32(u16::from_le_bytes([block[0], block[1]])).abs()
    }
}
