//! Between the source's number types and float32.

use crate::dtype::Float;
pub(crate) use crate::lanes::f16_to_f32;
use crate::lanes::{LANES, Lanes, bf16_to_f32, narrow};

/// Read little-endian numbers of type `source` as float32 (F64 rounded to nearest), from an address
/// of any alignment.
#[inline(always)]
pub(crate) fn to_f32<L: Lanes>(lanes: L, source: Float, bytes: &[u8], values: &mut [f32]) {
    match source {
        Float::F64 => map::<8>(bytes, values, |b| f64::from_le_bytes(b) as f32),
        Float::F32 => map::<4>(bytes, values, f32::from_le_bytes),
        Float::F16 | Float::BF16 => halves(lanes, source, bytes, values),
        Float::F8E4M3 => map::<1>(bytes, values, |[b]| f8_e4m3_to_f32(b)),
        Float::F8E5M2 => map::<1>(bytes, values, |[b]| f16_to_f32(u16::from(b) << 8)),
    }
}

/// Whether little-endian float64 numbers are exactly these float32 ones.
#[inline(always)]
pub(crate) fn is_exact<L: Lanes>(_: L, bytes: &[u8], values: &[f32]) -> bool {
    let (elements, _) = bytes.as_chunks::<8>();
    let same = |(bytes, value): (&[u8; 8], &f32)| f64::from_le_bytes(*bytes) == f64::from(*value);
    elements.iter().zip(values).map(same).fold(true, |all, same| all & same)
}

/// binary16, for which there are instructions, or bfloat16.
#[inline(always)]
pub(crate) fn halves<L: Lanes>(lanes: L, source: Float, bytes: &[u8], values: &mut [f32]) {
    if source == Float::BF16 {
        return map::<2>(bytes, values, |b| bf16_to_f32(u16::from_le_bytes(b)));
    }
    let (elements, _) = bytes.as_chunks::<2>();
    let (whole, rest) = elements.as_chunks::<LANES>();
    let (whole_values, rest_values) = values.as_chunks_mut::<LANES>();
    for (halves, values) in whole.iter().zip(whole_values) {
        lanes.store(lanes.load_f16(halves), values);
    }
    for (value, half) in rest_values.iter_mut().zip(rest) {
        *value = f16_to_f32(u16::from_le_bytes(*half));
    }
}

#[inline(always)]
fn map<const WIDTH: usize>(bytes: &[u8], values: &mut [f32], convert: impl Fn([u8; WIDTH]) -> f32) {
    let (elements, _) = bytes.as_chunks::<WIDTH>();
    for (value, element) in values.iter_mut().zip(elements) {
        *value = convert(*element);
    }
}

/// OCP's E4M3 without infinities: bias 7, NaN where all bits below the sign are set. Without branches,
/// so that the compiler makes vectors of it. Source: OCP 8-bit Floating Point Specification 1.0, table 1.
#[inline(always)]
pub(crate) fn f8_e4m3_to_f32(code: u8) -> f32 {
    let bits = u32::from(code);
    let (magnitude, sign) = (bits & 0x7f, (bits & 0x80) << 24);
    let subnormal = (magnitude as f32 * (1.0 / 512.0)).to_bits();
    let normal = (magnitude << 20) + (120 << 23);
    let number = if magnitude < 8 { subnormal } else { normal };
    let number = if magnitude == 0x7f { f32::NAN.to_bits() } else { number };
    f32::from_bits(number | sign)
}

/// A finite float32 as E4M3, rounded to nearest, ties to even, at most 448.
#[inline(always)]
pub(crate) fn f8_e4m3_from_f32(value: f32) -> u8 {
    narrow::<4, 3>(value, 0x7e) as u8
}

/// What the codes of E2M1 stand for.
pub(crate) const F4_E2M1: [f32; 16] =
    [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, -0.0, -0.5, -1.0, -1.5, -2.0, -3.0, -4.0, -6.0];

/// Write finite float32 values as little-endian numbers of type `target`, rounded to nearest, ties
/// to even. What rounds beyond the type's largest value becomes that value: the source was finite.
#[inline(always)]
pub(crate) fn from_f32<L: Lanes>(_: L, target: Float, values: &[f32], bytes: &mut [u8]) {
    match target {
        Float::F64 => write::<8>(values, bytes, |v| f64::from(v).to_le_bytes()),
        Float::F32 => write::<4>(values, bytes, f32::to_le_bytes),
        Float::F16 => write::<2>(values, bytes, |v| narrow::<5, 10>(v, 0x7bff).to_le_bytes()),
        Float::BF16 => write::<2>(values, bytes, |v| narrow::<8, 7>(v, 0x7f7f).to_le_bytes()),
        Float::F8E4M3 => write::<1>(values, bytes, |v| [f8_e4m3_from_f32(v)]),
        Float::F8E5M2 => write::<1>(values, bytes, |v| [narrow::<5, 2>(v, 0x7b) as u8]),
    }
}

#[inline(always)]
fn write<const WIDTH: usize>(
    values: &[f32],
    bytes: &mut [u8],
    convert: impl Fn(f32) -> [u8; WIDTH],
) {
    let (elements, _) = bytes.as_chunks_mut::<WIDTH>();
    for (element, value) in elements.iter_mut().zip(values) {
        *element = convert(*value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lanes::Portable;
    use half::{bf16, f16};
    use proptest::prelude::*;

    #[test]
    fn every_sixteen_bit_number_reads_as_the_half_crate_says() {
        for bits in 0..=u16::MAX {
            let (ours, theirs) = (f16_to_f32(bits), f16::from_bits(bits).to_f32());
            assert!(ours.to_bits() == theirs.to_bits() || (ours.is_nan() && theirs.is_nan()));
            let (ours, theirs) = (bf16_to_f32(bits), bf16::from_bits(bits).to_f32());
            assert!(ours.to_bits() == theirs.to_bits() || (ours.is_nan() && theirs.is_nan()));
        }
    }

    #[test]
    fn finite_numbers_survive_the_way_there_and_back() {
        for float in [Float::F16, Float::BF16, Float::F8E4M3, Float::F8E5M2] {
            let count = 1usize << (8 * float.width());
            let bytes: Vec<u8> =
                (0..count).flat_map(|code| code.to_le_bytes()[..float.width()].to_vec()).collect();
            let mut values = vec![0.0; count];
            to_f32(Portable, float, &bytes, &mut values);
            let mut back = vec![0; bytes.len()];
            from_f32(Portable, float, &values, &mut back);
            for (code, value) in values.iter().enumerate().filter(|(_, value)| value.is_finite()) {
                let span = code * float.width()..(code + 1) * float.width();
                assert_eq!(back[span.clone()], bytes[span], "{float} {value}");
            }
        }
    }

    #[test]
    fn e4m3_has_the_values_of_its_specification() {
        let e4m3: [f32; 256] = std::array::from_fn(|code| f8_e4m3_to_f32(code as u8));
        let largest = e4m3[0x7e];
        assert_eq!((largest, e4m3[0x01], e4m3[0x08]), (448.0, 2f32.powi(-9), 2f32.powi(-6)));
        assert!(e4m3[0x7f].is_nan() && e4m3[0xff].is_nan());
        assert_eq!(e4m3.iter().filter(|value| value.is_infinite()).count(), 0);
    }

    proptest! {
        #[test]
        fn narrowing_agrees_with_the_half_crate(bits in 0u32..0x7f80_0000, negative: bool) {
            let value = f32::from_bits(bits | (u32::from(negative) << 31));
            let saturate = |bits: u16, infinite: bool, largest: u16| {
                if infinite { (bits & 0x8000) | largest } else { bits }
            };
            let half = f16::from_f32(value);
            prop_assert_eq!(
                narrow::<5, 10>(value, 0x7bff),
                saturate(half.to_bits(), half.is_infinite(), 0x7bff)
            );
            let brain = bf16::from_f32(value);
            prop_assert_eq!(
                narrow::<8, 7>(value, 0x7f7f),
                saturate(brain.to_bits(), brain.is_infinite(), 0x7f7f)
            );
        }
    }
}
