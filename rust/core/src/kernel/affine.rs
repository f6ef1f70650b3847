//! Affine integers: `w ≈ (u − zero point)·scale`, a scale for each group.
//!
//! The symmetric form is that of compressed-tensors (`calculate_qparams`, `quantize` in its
//! `quantization` package), with codes stored as `u = q + 2^(b−1)`.

use crate::dtype::ScaleDtype;
use crate::kernel::pack;
use crate::scheme::{Codes, Encoded, Range, Tile};

/// Adding and subtracting this rounds a float32 below 2^22 in magnitude to an integer, ties to
/// even: the sum's last bit weighs one. Its low mantissa bits then are that integer's.
const MAGIC: f32 = 12_582_912.0;

/// Where `1/scale` leaves these bounds, group and scale are first multiplied by a power of two.
const LARGEST_INVERSE: f32 = f32::from_bits((127 + 100) << 23);
const SMALLEST_INVERSE: f32 = f32::from_bits((127 - 100) << 23);
const UP: f32 = f32::from_bits((127 + 64) << 23);
const DOWN: f32 = f32::from_bits((127 - 64) << 23);

#[inline(always)]
fn round(x: f32) -> f32 {
    (x + MAGIC) - MAGIC
}

/// A group's scale and zero point, and what its values are multiplied by.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Parameters {
    scale: f32,
    /// The code of zero, as a float; `2^(b−1)` where symmetric.
    zero: f32,
    /// Multiplies the group first, a power of two; mostly 1.
    prescale: f32,
    inverse: f32,
}

/// The scale of a group before rounding.
pub(crate) fn exact_scale(bits: u32, range: Range, symmetric: bool) -> f64 {
    if symmetric {
        f64::from(range.absmax()) / (f64::from(1u32 << (bits - 1)) - 0.5)
    } else {
        (f64::from(range.hi) - f64::from(range.lo)) / f64::from((1u32 << bits) - 1)
    }
}

/// Scale and zero point of a group of that range.
#[inline]
fn parameters(bits: u32, range: Range, symmetric: bool, dtype: ScaleDtype) -> Parameters {
    let top = ((1u32 << bits) - 1) as f32;
    let half = (1u32 << (bits - 1)) as f32;
    let exact = exact_scale(bits, range, symmetric);
    if exact == 0.0 {
        let zero = if symmetric { half } else { 0.0 };
        return Parameters { scale: 1.0, zero, prescale: 1.0, inverse: 1.0 };
    }
    let scale = dtype.round(exact).max(dtype.smallest()) as f32;
    let (prescale, inverse) = inverse(scale);
    let zero =
        if symmetric { half } else { round((-range.lo * prescale) * inverse).clamp(0.0, top) };
    // Near float32's limit the outermost code may decode to infinity: cap the scale.
    let outermost = if symmetric { half } else { zero.max(top - zero) };
    if (outermost * scale).is_finite() {
        return Parameters { scale, zero, prescale, inverse };
    }
    let scale = dtype.round_down(f64::from(f32::MAX) / f64::from(outermost)) as f32;
    let (prescale, inverse) = self::inverse(scale);
    Parameters { scale, zero, prescale, inverse }
}

/// The power of two that group and scale are multiplied by, and one over the scale after that.
#[inline]
fn inverse(scale: f32) -> (f32, f32) {
    let plain = 1.0 / scale;
    let prescale = if plain > LARGEST_INVERSE {
        UP
    } else if plain < SMALLEST_INVERSE {
        DOWN
    } else {
        return (1.0, plain);
    };
    (prescale, 1.0 / (scale * prescale))
}

/// See [`crate::scheme::Scheme::encode`].
#[inline(always)]
pub(crate) fn encode(bits: u32, tile: &Tile<'_>, out: Encoded<'_>, decoded: &mut [f32]) {
    let grouping = tile.grouping;
    let mut codes = vec![0u8; tile.width];
    let mut ranges = tile.ranges.iter();
    // A group that began in another tile has its scale written there.
    let mut foreign = usize::from(tile.phase > 0);
    let mut scales = out.scales.iter_mut();
    let mut zero_points = out.zero_points.iter_mut();
    let rows = tile.values.chunks_exact(tile.width).zip(decoded.chunks_exact_mut(tile.width));
    let packed = out.data.chunks_exact_mut(pack::row_bytes(tile.width, bits).max(1));
    for ((values, decoded), packed) in rows.zip(packed) {
        let mut start = 0;
        let mut end = (grouping.group_size - tile.phase).min(tile.width);
        while start < end {
            let Some(range) = ranges.next() else { break };
            let group = parameters(bits, *range, grouping.symmetric, grouping.scale_dtype);
            let span = start..end;
            encode_group(bits, &group, &values[span.clone()], &mut codes[span.clone()]);
            decode_group(&group, &codes[span.clone()], &mut decoded[span]);
            if foreign > 0 {
                foreign -= 1;
            } else {
                if let Some(scale) = scales.next() {
                    *scale = group.scale;
                }
                if let Some(zero_point) = zero_points.next() {
                    *zero_point = group.zero as u8;
                }
            }
            start = end;
            end = (end + grouping.group_size).min(tile.width);
        }
        pack::pack(&codes, bits, packed);
    }
}

#[inline(always)]
fn encode_group(bits: u32, group: &Parameters, values: &[f32], codes: &mut [u8]) {
    if group.prescale == 1.0 {
        encode_values(bits, group, codes, values.iter().copied());
    } else {
        encode_values(bits, group, codes, values.iter().map(|value| value * group.prescale));
    }
}

/// Branch-free, and the low byte is taken from the magic sum's own bits, so that this loop
/// vectorizes without a conversion to integers.
#[inline(always)]
fn encode_values(
    bits: u32,
    group: &Parameters,
    codes: &mut [u8],
    values: impl Iterator<Item = f32>,
) {
    let top = ((1u32 << bits) - 1) as f32;
    for (code, value) in codes.iter_mut().zip(values) {
        let shifted = round(value * group.inverse) + group.zero;
        let clamped = if shifted > 0.0 { shifted } else { 0.0 };
        let clamped = if clamped < top { clamped } else { top };
        *code = (clamped + MAGIC).to_bits() as u8;
    }
}

#[inline(always)]
fn decode_group(group: &Parameters, codes: &[u8], decoded: &mut [f32]) {
    decode_values(group.scale, group.zero, codes, decoded);
}

#[inline(always)]
fn decode_values(scale: f32, zero: f32, codes: &[u8], decoded: &mut [f32]) {
    for (value, code) in decoded.iter_mut().zip(codes) {
        *value = (f32::from(*code) - zero) * scale;
    }
}

/// See [`crate::scheme::Scheme::decode`].
#[inline(always)]
pub(crate) fn decode(bits: u32, tile: &Codes<'_>, values: &mut [f32]) {
    let grouping = tile.grouping;
    let half = (1u32 << (bits - 1)) as f32;
    let mut codes = vec![0u8; tile.width];
    let mut scales = tile.scales.iter();
    let mut zero_points = tile.zero_points.iter();
    let packed = tile.data.chunks_exact(pack::row_bytes(tile.width, bits).max(1));
    for (values, packed) in values.chunks_exact_mut(tile.width).zip(packed) {
        pack::unpack(packed, bits, &mut codes);
        let mut start = 0;
        let mut end = (grouping.group_size - tile.phase).min(tile.width);
        while start < end {
            let Some(scale) = scales.next() else { break };
            let zero = if grouping.symmetric {
                half
            } else {
                zero_points.next().map_or(0.0, |zero| f32::from(*zero))
            };
            decode_values(*scale, zero, &codes[start..end], &mut values[start..end]);
            start = end;
            end = (end + grouping.group_size).min(tile.width);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn rounding_is_to_nearest_even() {
        for (x, rounded) in [(0.5, 0.0), (1.5, 2.0), (2.5, 2.0), (-0.5, 0.0), (-1.5, -2.0)] {
            assert_eq!(round(x), rounded);
        }
    }

    proptest! {
        #[test]
        fn every_code_decodes_to_a_finite_value(
            a in 0u32..0x7f80_0000, b in 0u32..0x7f80_0000, symmetric: bool,
            bits in prop::sample::select(vec![2u32, 4, 8]),
            dtype in prop::sample::select(vec![ScaleDtype::F32, ScaleDtype::BF16]),
        ) {
            let range = Range { lo: -f32::from_bits(a), hi: f32::from_bits(b) };
            let group = parameters(bits, range, symmetric, dtype);
            prop_assert!(group.scale > 0.0 && group.scale.is_finite());
            prop_assert!((0.0..=((1u32 << bits) - 1) as f32).contains(&group.zero));
            for code in [0, (1u32 << bits) - 1] {
                prop_assert!(((code as f32 - group.zero) * group.scale).is_finite());
            }
        }
    }
}
