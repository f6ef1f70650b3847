//! Integers with a scale, and with a zero point that is an integer, too.

use super::eight::{EIGHT, Eight, first_largest, inverses};
use super::numbers::Integers;
use super::residuals::{Steps, residuals};
use super::scale::{Stored, beside, scale};
use super::unit::{Totals, Unit};
use crate::dtype::ScaleDtype;
use crate::lanes::Lanes;

/// What the largest magnitude becomes in codes, over the largest one that is rounded to nearest: above 1
/// it is cut off.
const REACHES: [f32; EIGHT - 1] = [0.96, 1.04, 1.09, 1.15, 1.23, 1.36, 1.6];
/// The same of two bits, which gain more by it.
const REACHES_OF_TWO: [f32; EIGHT - 1] = [1.24, 1.44, 1.6, 1.8, 2.04, 2.4, 2.96];

/// Positive scales of a type, whose outermost code decodes to a float32.
struct Positive {
    dtype: ScaleDtype,
    outermost: f32,
}

impl Stored for Positive {
    #[inline(always)]
    fn stored(&self, scale: f64, unit: &Unit<'_>) -> Option<f64> {
        if scale.is_nan() || scale <= 0.0 {
            return None;
        }
        let rounded = self.dtype.round(scale * unit.power).max(self.dtype.smallest());
        let fits = rounded * f64::from(self.outermost) <= f64::from(f32::MAX);
        fits.then_some(rounded * unit.inverse)
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
    let reaches = if bits == 2 { &REACHES_OF_TWO } else { &REACHES };
    let numbers = Integers { low: -half, high: half - 1.0 };
    let stored = Positive { dtype, outermost: half };
    let first = unit.over(usual);
    let candidates = beside(first, reaches);
    let found = scale(lanes, unit, Steps::of_scale(first), candidates, &stored, &numbers);
    found.map_or(usual, |scale| unit.times(scale))
}

/// Steps that are cut off, in all.
const CUTS: [f64; 3] = [0.7, 1.4, 2.4];
/// The same of codes of two bits.
const CUTS_OF_TWO: [f64; 3] = [0.7, 1.4, 2.3];

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
    let (lo, hi) = (unit.over(lo), unit.over(hi));
    let first = unit.over(usual.0);
    let cuts = if bits == 2 { &CUTS_OF_TWO } else { &CUTS };
    // The usual ones, the zero point on the other side of where zero lies exactly, and two for each cut.
    let exact = (-lo / first).floor() as f32;
    let other = if usual.1 > exact { exact } else { exact + 1.0 };
    let (mut scales, mut zeros) = ([first; EIGHT], [usual.1; EIGHT]);
    zeros[1] = other.clamp(0.0, top);
    for (at, cut) in cuts.iter().enumerate() {
        let scale = (hi - lo) * (1.0 / (f64::from(top) + cut));
        let exact = (-lo / scale - cut / 2.0).floor() as f32;
        for side in 0..2 {
            let place = 2 + 2 * at + side;
            (scales[place], zeros[place]) = (scale, (exact + side as f32).clamp(0.0, top));
        }
    }
    let found = Eight::of_lines(lanes, unit, (inverses(&scales), zeros), top);
    let Totals { sum, mass } = unit.totals(lanes);
    let (own_sum, own_mass) = (sum as f32, mass as f32);
    let mut gains = [0.0; EIGHT];
    for (at, gain) in gains.iter_mut().enumerate() {
        // Codes less the zero point
        let cc = found.cc[at] + zeros[at] * (zeros[at] * own_mass - 2.0 * found.c[at]);
        let cv = found.cv[at] - zeros[at] * own_sum;
        *gain = cv * cv / cc;
    }
    let best = first_largest(&gains);
    let zero = zeros[best];
    let ([c, cc, cv], exact) = (found.at(best), f64::from(zero));
    let fitted = (cv - exact * sum) / (cc + exact * (exact * mass - 2.0 * c));
    let stored = Positive { dtype, outermost: zero.max(top - zero) };
    let Some(scale) = stored.stored(fitted, unit) else { return usual };
    let least = residuals(lanes, unit, [Steps::of_scale(first)], &of_zero(usual.1, top))[0];
    let left = residuals(lanes, unit, [Steps::of_scale(scale)], &of_zero(zero, top))[0];
    if left < least { (unit.times(scale), zero) } else { usual }
}

/// Codes from 0 to `top` less a zero point.
#[inline(always)]
fn of_zero(zero: f32, top: f32) -> Integers {
    Integers { low: -zero, high: top - zero }
}
