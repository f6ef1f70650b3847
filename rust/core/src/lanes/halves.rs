//! Floats of sixteen bits or fewer, one by one.

/// binary16 to binary32: shift the fields into place and multiply by 2^112, which corrects the
/// exponent's bias and normalizes subnormals, both exactly.
#[inline(always)]
pub(crate) fn f16_to_f32(half: u16) -> f32 {
    let bits = u32::from(half);
    let magnitude = (bits & 0x7fff) << 13;
    let scaled = (f32::from_bits(magnitude) * f32::from_bits(0x7780_0000)).to_bits();
    let special = if magnitude >= 0x0f80_0000 { 0x7f80_0000 } else { 0 };
    f32::from_bits(scaled | special | ((bits & 0x8000) << 16))
}

/// bfloat16 to binary32, of which it is the upper half.
#[inline(always)]
pub(crate) fn bf16_to_f32(half: u16) -> f32 {
    f32::from_bits(u32::from(half) << 16)
}

/// The nearest binary16 number, of two the even one; of magnitudes up to the largest of these.
///
/// Normal numbers are rounded on their bits, where a carry moves into the exponent as it should. Subnormal
/// ones are added to a number whose last bit has the weight of theirs, so that the addition itself rounds.
#[inline(always)]
pub(crate) fn nearest_f16(value: f32) -> f32 {
    const BELOW: u32 = 13;
    const SMALLEST_NORMAL: f32 = 1.0 / 16384.0;
    let (magnitude, sign) = (value.to_bits() & 0x7fff_ffff, value.to_bits() & 0x8000_0000);
    let odd = (magnitude >> BELOW) & 1;
    let normal = ((magnitude + (1 << (BELOW - 1)) - 1 + odd) >> BELOW) << BELOW;
    let exact = f32::from_bits(magnitude);
    let subnormal = ((exact + 0.5) - 0.5).to_bits();
    let rounded = if exact < SMALLEST_NORMAL { subnormal } else { normal };
    f32::from_bits(rounded | sign)
}

/// A finite float32 as a float of `EXPONENT` and `FRACTION` bits, at most `largest` in magnitude.
///
/// Normal numbers are rounded on their bits, where a carry moves into the exponent as it should.
/// Subnormal ones are added to a power of two whose last bit has the weight of the subnormals'
/// last bit, so that the addition itself rounds.
#[inline(always)]
pub(crate) fn narrow<const EXPONENT: u32, const FRACTION: u32>(value: f32, largest: u16) -> u16 {
    let bias = (1u32 << (EXPONENT - 1)) - 1;
    let shift = 23 - FRACTION;
    let magnitude = value.to_bits() & 0x7fff_ffff;
    let odd = (magnitude >> shift) & 1;
    let rounded = (magnitude + (1 << (shift - 1)) - 1 + odd) >> shift;
    let normal = rounded.wrapping_sub((127 - bias) << FRACTION);
    // bfloat16 has float32's own exponents, and its subnormals are rounded on their bits too.
    let code = if EXPONENT < 8 && magnitude < (128 - bias) << 23 {
        let anchor = (128 - bias + shift) << 23;
        (f32::from_bits(magnitude) + f32::from_bits(anchor)).to_bits() - anchor
    } else {
        normal
    };
    let sign = (value.to_bits() >> 31) << (EXPONENT + FRACTION);
    (code.min(u32::from(largest)) | sign) as u16
}

#[cfg(test)]
mod tests {
    use super::*;
    use half::f16;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn rounding_agrees_with_the_half_crate(bits in 0u32..=65504f32.to_bits(), negative: bool) {
            let value = f32::from_bits(bits | (u32::from(negative) << 31));
            prop_assert_eq!(nearest_f16(value).to_bits(), f16::from_f32(value).to_f32().to_bits());
        }
    }
}
