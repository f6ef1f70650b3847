//! Scale and zero point of a group, from its range.

use crate::dtype::ScaleDtype;
use crate::kernel::tile::Bounds;
pub(super) use crate::lanes::MAGIC;

/// Where `1/scale` leaves these bounds, group and scale are first multiplied by a power of two.
const LARGEST_INVERSE: f32 = power_of_two(100);
const SMALLEST_INVERSE: f32 = power_of_two(-100);
const UP: f32 = power_of_two(64);
const DOWN: f32 = power_of_two(-64);

pub(super) const fn power_of_two(exponent: i32) -> f32 {
    f32::from_bits(((127 + exponent) as u32) << 23)
}

#[inline(always)]
pub(super) fn round(x: f32) -> f32 {
    (x + MAGIC) - MAGIC
}

/// A group's scale and zero point, and what its values are multiplied by.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Parameters {
    pub(super) scale: f32,
    /// The code of zero, as a float; `2^(b−1)` where symmetric.
    pub(super) zero: f32,
    /// Multiplies the group first, a power of two; mostly 1.
    pub(super) prescale: f32,
    pub(super) inverse: f32,
}

impl Parameters {
    /// Those of a scale and a zero point that were found elsewhere.
    pub(super) fn of(scale: f32, zero: f32) -> Self {
        let (prescale, inverse) = inverse(scale);
        Self { scale, zero, prescale, inverse }
    }
}

/// How the integers of a group stand for numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    /// Zero is any code.
    Asymmetric,
    /// Zero is the middle code.
    Symmetric,
    /// So it is, and the largest magnitude has the lowest code: scales may be negative.
    ///
    /// Source: `MlasQuantizeBlockwise` of ONNX Runtime, and `quantize_row_q4_0_ref` of llama.cpp.
    Signed,
}

impl Form {
    /// Of groups that are symmetric or not, and whose scales may be negative or not.
    pub(crate) fn of(symmetric: bool, signed_scales: bool) -> Self {
        match (symmetric, signed_scales) {
            (false, _) => Self::Asymmetric,
            (true, false) => Self::Symmetric,
            (true, true) => Self::Signed,
        }
    }
}

/// The scale of a group before rounding.
#[inline(always)]
pub(crate) fn exact_scale(bits: u32, range: Bounds, form: Form) -> f64 {
    let half = f64::from(1u32 << (bits - 1));
    let (lo, hi) = (f64::from(range.lo), f64::from(range.hi));
    match form {
        Form::Asymmetric => (hi - lo) / f64::from((1u32 << bits) - 1),
        Form::Symmetric => f64::from(range.absmax()) / (half - 0.5),
        Form::Signed => (if hi > -lo { hi } else { lo }) / -half,
    }
}

/// Scale and zero point of a group of that range, whatever the range.
pub(super) fn parameters(bits: u32, range: Bounds, form: Form, dtype: ScaleDtype) -> Parameters {
    let symmetric = form != Form::Asymmetric;
    let top = ((1u32 << bits) - 1) as f32;
    let half = (1u32 << (bits - 1)) as f32;
    let exact = exact_scale(bits, range, form);
    if exact == 0.0 {
        let zero = if symmetric { half } else { 0.0 };
        return Parameters { scale: 1.0, zero, prescale: 1.0, inverse: 1.0 };
    }
    let size = dtype.round(exact.abs()).max(dtype.smallest()) as f32;
    let scale = size.copysign(exact as f32);
    let (prescale, inverse) = inverse(scale);
    let zero =
        if symmetric { half } else { round((-range.lo * prescale) * inverse).clamp(0.0, top) };
    // Near float32's limit the outermost code may decode to infinity: cap the scale.
    let outermost = if symmetric { half } else { zero.max(top - zero) };
    if (outermost * scale).is_finite() {
        return Parameters { scale, zero, prescale, inverse };
    }
    let size = dtype.round_down(f64::from(f32::MAX) / f64::from(outermost)) as f32;
    let scale = size.copysign(scale);
    let (prescale, inverse) = self::inverse(scale);
    Parameters { scale, zero, prescale, inverse }
}

/// The power of two that group and scale are multiplied by, and one over the scale after that.
fn inverse(scale: f32) -> (f32, f32) {
    let plain = 1.0 / scale;
    let prescale = if plain.abs() > LARGEST_INVERSE {
        UP
    } else if plain.abs() < SMALLEST_INVERSE {
        DOWN
    } else {
        return (1.0, plain);
    };
    (prescale, 1.0 / (scale * prescale))
}

/// Any form.
#[cfg(test)]
pub(super) fn forms() -> impl proptest::strategy::Strategy<Value = Form> {
    proptest::sample::select(vec![Form::Asymmetric, Form::Symmetric, Form::Signed])
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
            a in 0u32..0x7f80_0000, b in 0u32..0x7f80_0000, form in forms(),
            bits in prop::sample::select(vec![2u32, 4, 8]),
            dtype in prop::sample::select(vec![ScaleDtype::F32, ScaleDtype::BF16]),
        ) {
            let range = Bounds { lo: -f32::from_bits(a), hi: f32::from_bits(b) };
            let group = parameters(bits, range, form, dtype);
            prop_assert!(group.scale != 0.0 && group.scale.is_finite());
            prop_assert_eq!(group.scale < 0.0, form == Form::Signed && b > a);
            prop_assert!((0.0..=((1u32 << bits) - 1) as f32).contains(&group.zero));
            for code in [0, (1u32 << bits) - 1] {
                prop_assert!(((code as f32 - group.zero) * group.scale).is_finite());
            }
        }
    }
}
