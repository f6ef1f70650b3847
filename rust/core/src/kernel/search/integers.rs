//! Integers with a scale, and with a zero point that is an integer, too.

use super::{Integers, Moments, REFITS, Stored, Unit, residual_of_scale, scale};
use crate::dtype::ScaleDtype;
use crate::lanes::Lanes;

/// What the largest magnitude becomes in codes, over the largest one that is rounded to nearest: above 1
/// it is cut off.
const REACHES: [f64; 5] = [0.95, 1.08, 1.17, 1.29, 1.46];
/// The same of two bits, which gain more by it.
const REACHES_OF_TWO: [f64; 5] = [0.8, 1.2, 1.5, 1.9, 2.4];

/// Positive scales of a type, whose outermost code decodes to a float32.
struct Positive {
    dtype: ScaleDtype,
    outermost: f32,
}

impl Stored for Positive {
    #[inline(always)]
    fn stored(&self, scale: f64, power: f64) -> Option<f64> {
        if scale <= 0.0 {
            return None;
        }
        let rounded = self.dtype.round(scale * power).max(self.dtype.smallest());
        let fits = rounded * f64::from(self.outermost) <= f64::from(f32::MAX);
        fits.then_some(rounded / power)
    }
}

/// The scale of a symmetric group whose codes are from `-half` to `half - 1`, and which the extremes
/// give the scale `usual`.
#[inline(always)]
pub(crate) fn symmetric<L: Lanes>(
    lanes: L,
    unit: &Unit<'_>,
    bits: u32,
    usual: f32,
    dtype: ScaleDtype,
) -> f32 {
    let half = (1u32 << (bits - 1)) as f32;
    let reaches = if bits == 2 { REACHES_OF_TWO } else { REACHES };
    let top = unit.absmax / (f64::from(half) - 0.5);
    let mut candidates = reaches;
    for candidate in &mut candidates {
        *candidate = top / *candidate;
    }
    let numbers = Integers { low: -half, high: half - 1.0 };
    let stored = Positive { dtype, outermost: half };
    let first = f64::from(usual) / unit.power;
    let least = residual_of_scale(lanes, unit, first, &numbers);
    let found = scale(lanes, unit, (first, least), candidates, &stored, &numbers);
    found.map_or(usual, |scale| (scale * unit.power) as f32)
}

/// Steps that are cut off, in all.
const CUTS: [f64; 4] = [0.0, 0.7, 1.4, 2.4];
/// The same of codes of two bits.
const CUTS_OF_TWO: [f64; 4] = [0.5, 1.2, 1.8, 2.6];

/// The scale and zero point of a group with these ends, zero among them, which the extremes give the
/// scale and zero point `usual`.
#[inline(always)]
pub(crate) fn asymmetric<L: Lanes>(
    lanes: L,
    unit: &Unit<'_>,
    bits: u32,
    [lo, hi]: [f32; 2],
    usual: (f32, f32),
    dtype: ScaleDtype,
) -> (f32, f32) {
    let top = ((1u32 << bits) - 1) as f32;
    let (lo, hi) = (f64::from(lo) / unit.power, f64::from(hi) / unit.power);
    let first = f64::from(usual.0) / unit.power;
    let mut least = residual_of_scale(lanes, unit, first, &around(usual.1, top));
    if least == 0.0 {
        return usual;
    }
    let mut found = Moments::scaled(lanes, unit, first, &around(usual.1, top));
    let mut zero = usual.1;
    let cuts = if bits == 2 { CUTS_OF_TWO } else { CUTS };
    for cut in cuts {
        let scale = (hi - lo) / (f64::from(top) + cut);
        let exact = (-lo / scale - cut / 2.0).floor();
        for point in [exact, exact + 1.0] {
            let point = point.clamp(0.0, f64::from(top)) as f32;
            let other = Moments::scaled(lanes, unit, scale, &around(point, top));
            if other.best() > found.best() {
                (found, zero) = (other, point);
            }
        }
    }
    let numbers = around(zero, top);
    let stored = Positive { dtype, outermost: zero.max(top - zero) };
    let mut best = usual;
    for refit in 0..REFITS {
        let Some(scale) = stored.stored(found.scale(), unit.power) else { break };
        let left = residual_of_scale(lanes, unit, scale, &numbers);
        if left < least {
            (best, least) = (((scale * unit.power) as f32, zero), left);
        }
        if refit + 1 < REFITS {
            found = Moments::scaled(lanes, unit, scale, &numbers);
        }
    }
    best
}

/// Codes from 0 to `top` less a zero point.
#[inline(always)]
fn around(zero: f32, top: f32) -> Integers {
    Integers { low: -zero, high: top - zero }
}
