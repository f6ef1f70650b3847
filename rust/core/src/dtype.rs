//! Element types by safetensors' names, and ggml's for types of blocks: how they are stored, what
//! others call them, and which of them are weights.

mod block;

use std::fmt;

pub use block::{Block, block, canonical, is_of_blocks};

/// The floating-point types that a kernel reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Float {
    /// IEEE binary64.
    F64,
    /// IEEE binary32.
    F32,
    /// IEEE binary16.
    F16,
    /// bfloat16: the upper half of a binary32.
    BF16,
    /// OCP 8-bit, 4 exponent bits, no infinity (`float8_e4m3fn`).
    F8E4M3,
    /// OCP 8-bit, 5 exponent bits.
    F8E5M2,
}

impl Float {
    /// Every type, in the order in which messages list them.
    pub const ALL: [Float; 6] =
        [Self::F64, Self::F32, Self::F16, Self::BF16, Self::F8E4M3, Self::F8E5M2];

    /// safetensors' name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::F64 => "F64",
            Self::F32 => "F32",
            Self::F16 => "F16",
            Self::BF16 => "BF16",
            Self::F8E4M3 => "F8_E4M3",
            Self::F8E5M2 => "F8_E5M2",
        }
    }

    /// The type of that safetensors name, if a kernel reads it.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|float| float.name() == name)
    }

    /// Bytes of one element.
    pub const fn width(self) -> usize {
        match self {
            Self::F64 => 8,
            Self::F32 => 4,
            Self::F16 | Self::BF16 => 2,
            Self::F8E4M3 | Self::F8E5M2 => 1,
        }
    }
}

impl fmt::Display for Float {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The type that scales are rounded to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ScaleDtype {
    /// IEEE binary32.
    F32,
    /// IEEE binary16.
    F16,
    /// bfloat16.
    BF16,
    /// OCP's E4M3, without infinities.
    F8E4M3,
    /// OCP's powers of two from 2⁻¹²⁷ to 2¹²⁷.
    F8E8M0,
}

impl ScaleDtype {
    /// Every type.
    pub const ALL: [ScaleDtype; 5] = [Self::F32, Self::F16, Self::BF16, Self::F8E4M3, Self::F8E8M0];

    /// The types that can be asked for; others belong to formats that have no choice.
    pub const CHOICES: [ScaleDtype; 3] = [Self::F32, Self::F16, Self::BF16];

    /// safetensors' name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::F32 => "F32",
            Self::F16 => "F16",
            Self::BF16 => "BF16",
            Self::F8E4M3 => "F8_E4M3",
            Self::F8E8M0 => "F8_E8M0",
        }
    }

    /// The type of that safetensors name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|dtype| dtype.name() == name)
    }

    /// Bits of one scale.
    pub const fn bits(self) -> u64 {
        match self {
            Self::F32 => 32,
            Self::F16 | Self::BF16 => 16,
            Self::F8E4M3 | Self::F8E8M0 => 8,
        }
    }

    /// What `scale_dtype="source"` means for weights of type `source`.
    pub const fn of_source(source: Float) -> Self {
        match source {
            Float::F16 => Self::F16,
            Float::BF16 => Self::BF16,
            Float::F64 | Float::F32 | Float::F8E4M3 | Float::F8E5M2 => Self::F32,
        }
    }

    /// Stored significand bits, smallest normal exponent, and the largest finite value.
    const fn parameters(self) -> (i32, i32, f64) {
        match self {
            Self::F32 => (23, -126, f32::MAX as f64),
            Self::F16 => (10, -14, 65504.0),
            Self::BF16 => (7, -126, 3.389_531_389_251_535_5e38),
            Self::F8E4M3 => (3, -6, 448.0),
            Self::F8E8M0 => (0, -127, power_of_two(127)),
        }
    }

    /// Stored significand bits.
    pub const fn fraction_bits(self) -> u32 {
        self.parameters().0 as u32
    }

    /// The smallest positive value, a subnormal.
    pub fn smallest(self) -> f64 {
        let (fraction, lowest, _) = self.parameters();
        power_of_two(lowest - fraction)
    }

    /// The spacing of this type's values around `x`, for a positive finite `x`, as the exponent of a
    /// power of two.
    #[inline(always)]
    fn spacing(self, x: f64) -> i32 {
        let (fraction, lowest, _) = self.parameters();
        // The exponent field of a float64; subnormal float64s are far below every type here.
        let exponent = ((x.to_bits() >> 52) as i32 - 1023).max(lowest);
        exponent - fraction
    }

    /// `x > 0` rounded once to this type, ties to even; infinite where it overflows.
    #[inline(always)]
    pub fn round(self, x: f64) -> f64 {
        let spacing = self.spacing(x);
        let rounded = (x * power_of_two(-spacing)).round_ties_even() * power_of_two(spacing);
        if rounded > self.parameters().2 { f64::INFINITY } else { rounded }
    }

    /// The largest value of this type that is at most `x`, for a positive finite `x`.
    pub fn round_down(self, x: f64) -> f64 {
        let spacing = self.spacing(x);
        ((x * power_of_two(-spacing)).floor() * power_of_two(spacing)).min(self.parameters().2)
    }
}

/// `2^exponent` for an exponent of a normal float64.
const fn power_of_two(exponent: i32) -> f64 {
    f64::from_bits(((exponent + 1023) as u64) << 52)
}

#[cfg(test)]
mod tests {
    use super::*;
    use half::{bf16, f16};
    use proptest::prelude::*;

    #[test]
    fn smallest_are_the_smallest_subnormals() {
        assert_eq!(ScaleDtype::F32.smallest(), f64::from(f32::from_bits(1)));
        assert_eq!(ScaleDtype::F16.smallest(), f64::from(f16::from_bits(1)));
        assert_eq!(ScaleDtype::BF16.smallest(), f64::from(bf16::from_bits(1)));
    }

    proptest! {
        #[test]
        fn rounding_agrees_with_the_cpu(bits in 1u64..0x7ff0_0000_0000_0000) {
            let x = f64::from_bits(bits);
            prop_assert_eq!(ScaleDtype::F32.round(x), f64::from(x as f32));
        }

        /// Not all that the half crate gives, which by way of float32 rounds twice.
        #[test]
        fn rounding_to_binary16_picks_the_nearest(
            any in 1u64..0x7ff0_0000_0000_0000,
            between in prop::option::of((0u16..0x7c00, -1i64..=1)),
        ) {
            // Infinity is as far from the largest number as another one would be.
            let value = |bits: u16| if bits == 0x7c00 { 65536.0 } else { f16::from_bits(bits).to_f64() };
            // Often a hair beside the middle of two numbers.
            let x = between.map_or(f64::from_bits(any), |(bits, beside)| {
                let middle = f64::midpoint(value(bits), value(bits + 1));
                f64::from_bits(middle.to_bits().wrapping_add_signed(beside))
            });
            let near = f16::from_f64(x).to_bits();
            let candidates = near.saturating_sub(1)..=(near + 1).min(0x7c00);
            let distance = |bits: &u16| ((value(*bits) - x).abs(), bits % 2);
            let nearest = candidates.min_by(|a, b| distance(a).partial_cmp(&distance(b)).unwrap());
            let nearest = f16::from_bits(nearest.unwrap());
            prop_assert_eq!(ScaleDtype::F16.round(x), nearest.to_f64());
        }

        #[test]
        fn rounding_to_bfloat16_picks_the_nearest(bits in 1u32..0x7f00_0000) {
            let x = f64::from(f32::from_bits(bits)) * (1.0 + 1e-12);
            let below = f64::from(bf16::from_bits((f32::from_bits(bits).to_bits() >> 16) as u16));
            let above = f64::from(bf16::from_bits((f32::from_bits(bits).to_bits() >> 16) as u16 + 1));
            let nearest = if x - below < above - x { below } else { above };
            prop_assert_eq!(ScaleDtype::BF16.round(x), nearest);
            prop_assert_eq!(ScaleDtype::BF16.round_down(x), below);
        }
    }
}
