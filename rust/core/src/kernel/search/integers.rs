//! Integers with a scale, and with a zero point that is an integer, too.

use super::candidates::{Best, EIGHT, Sums, Trial};
use super::numbers::{Integers, LessZeros};
use super::residuals::{Steps, gains, inverse};
use super::scale::{Stored, beside, scale};
use super::units::{Each, Units};
use crate::dtype::ScaleDtype;
use crate::lanes::{LANES, Lanes};

/// The candidates: the scale of rounding over each candidate's scale. Above 1, the largest magnitude is cut off.
const REACHES: [f32; EIGHT] = [1.0, 0.96, 1.04, 1.09, 1.15, 1.23, 1.36, 1.6];
/// The same for two bits, which gain more by cutting off.
const REACHES_OF_TWO: [f32; EIGHT] = [1.0, 1.24, 1.44, 1.6, 1.8, 2.04, 2.4, 2.96];

/// The same for scales that may be negative: rounding then gives the largest magnitude the lowest code.
const SIGNED_REACHES: [f32; EIGHT] = [1.0, 1.05, 1.1, 1.16, 1.24, 1.36, 1.6, 0.9];
/// The same for two bits.
const SIGNED_REACHES_OF_TWO: [f32; EIGHT] = [1.0, 1.48, -1.36, 1.96, 1.24, -1.8, -1.12, 2.68];

/// Scales of a type, whose outermost codes decode to float32.
struct Scales {
    dtype: ScaleDtype,
    outermost: Each,
    may_be_negative: bool,
}

impl Stored for Scales {
    #[inline(always)]
    fn stored<L: Lanes>(&self, lanes: L, scales: L::F32, units: &Units<'_, L>) -> L::F32 {
        let mut found = [0.0; LANES];
        lanes.store(units.times(scales), &mut found);
        for (scale, outermost) in found.iter_mut().zip(&self.outermost) {
            let size = if self.may_be_negative { scale.abs() } else { *scale };
            if size > 0.0 {
                let rounded = self.dtype.round(f64::from(size)).max(self.dtype.smallest());
                let fits = rounded * f64::from(*outermost) <= f64::from(f32::MAX);
                *scale = if fits { (rounded as f32).copysign(*scale) } else { 0.0 };
            } else {
                *scale = 0.0;
            }
        }
        units.over(lanes.load(&found))
    }
}

/// The scales of symmetric groups of such bits, which the extremes give the scales `usual`; and whether
/// they may be negative.
#[inline(always)]
pub(crate) fn symmetric<L: Lanes>(
    lanes: L,
    units: &Units<'_, L>,
    (bits, dtype, may_be_negative): (u32, ScaleDtype, bool),
    usual: &Each,
) -> Each {
    let half = (1u32 << (bits - 1)) as f32;
    let reaches = match (bits, may_be_negative) {
        (2, false) => &REACHES_OF_TWO,
        (_, false) => &REACHES,
        (2, true) => &SIGNED_REACHES_OF_TWO,
        (_, true) => &SIGNED_REACHES,
    };
    let numbers = Integers { low: -half, high: half - 1.0 };
    let stored = Scales { dtype, outermost: [half; LANES], may_be_negative };
    let usual = lanes.load(usual);
    let first = units.over(usual);
    let candidates = beside(lanes, first, reaches);
    let usual = (usual, Steps::of_scales(lanes, first));
    let mut found = [0.0; LANES];
    lanes.store(scale(lanes, units, usual, candidates, &stored, &numbers), &mut found);
    found
}

/// How many steps of a group's span are cut off: its scale is `(hi − lo)/(largest code + cut)`. For two bits, four
/// and eight.
const CUTS: [[f32; 3]; 3] = [[1.3, 2.1, 3.3], [0.7, 1.4, 2.6], [-0.6, 1.0, 2.0]];

/// The scales and zero points of groups with these ends, zero among them, which the extremes give the
/// `usual` ones.
#[inline(always)]
pub(crate) fn asymmetric<L: Lanes>(
    lanes: L,
    units: &Units<'_, L>,
    bits: u32,
    [lo, hi]: [&Each; 2],
    usual: [&Each; 2],
    dtype: ScaleDtype,
) -> [Each; 2] {
    let top = ((1u32 << bits) - 1) as f32;
    let (lo, hi) = (units.over(lanes.load(lo)), units.over(lanes.load(hi)));
    let (usual_scales, usual_zeros) = (lanes.load(usual[0]), lanes.load(usual[1]));
    let first = units.over(usual_scales);
    let (zero, one) = (lanes.splat(0.0), lanes.splat(1.0));
    let cuts = &CUTS[bits.ilog2() as usize - 1];
    // The usual ones, the zero point on the other side of where zero lies exactly, and two for each cut.
    let (mut scales, mut zeros) = ([first; EIGHT], [usual_zeros; EIGHT]);
    let exact = floor(lanes, lanes.div(lanes.sub(zero, lo), first), top);
    let other = lanes.if_above(usual_zeros, exact, exact, lanes.add(exact, one));
    zeros[1] = inside(lanes, other, top);
    for (at, cut) in cuts.iter().enumerate() {
        let scale = lanes.mul(lanes.sub(hi, lo), lanes.splat(1.0 / (top + cut)));
        let exact = lanes.sub(lanes.div(lanes.sub(zero, lo), scale), lanes.splat(cut / 2.0));
        let exact = floor(lanes, exact, top);
        (scales[2 + 2 * at], scales[3 + 2 * at]) = (scale, scale);
        zeros[2 + 2 * at] = inside(lanes, exact, top);
        zeros[3 + 2 * at] = inside(lanes, lanes.add(exact, one), top);
    }
    let mut inverses = scales;
    for scale in &mut inverses {
        *scale = inverse(lanes, *scale);
    }
    // Codes less the zero point, so that sums are of small numbers, and what stands behind the last value
    // does not count.
    let trial = Trial::of_scales(lanes, units, LessZeros::new(lanes, zeros, top));
    let found = trial.inverses(lanes, inverses);
    let mut best = Best::new(lanes, [zero, zero, usual_zeros]);
    for (Sums { cc, cv, .. }, zeros) in found.iter().zip(zeros) {
        best.add(lanes, lanes.div(lanes.mul(*cv, *cv), *cc), [*cc, *cv, zeros]);
    }
    let [cc, cv, zeros] = best.of;
    let fitted = lanes.mul(cv, inverse(lanes, cc));
    let (mut outermost, others) = ([0.0; LANES], lanes.sub(lanes.splat(top), zeros));
    lanes.store(lanes.larger(zeros, others), &mut outermost);
    let stored = Scales { dtype, outermost, may_be_negative: false };
    let stored = stored.stored(lanes, fitted, units);
    let steps = [Steps::of_scales(lanes, first), Steps::of_scales(lanes, stored)];
    let of_usual = LessZeros::new(lanes, [usual_zeros], top);
    let of_found = LessZeros::new(lanes, [zeros], top);
    let gains = gains(lanes, units, steps, [&of_usual, &of_found]);
    // Nothing is gained where there is no scale.
    let gains = lanes.if_above(stored, zero, gains, zero);
    let mut chosen = [[0.0; LANES]; 2];
    lanes.store(units.choose(gains, units.times(stored), usual_scales), &mut chosen[0]);
    lanes.store(units.choose(gains, zeros, usual_zeros), &mut chosen[1]);
    chosen
}

/// The largest integers that are not above numbers, or one beyond the codes on either side.
#[inline(always)]
fn floor<L: Lanes>(lanes: L, numbers: L::F32, top: f32) -> L::F32 {
    let least = lanes.larger(numbers, lanes.splat(-1.0));
    let inside = lanes.min(least, lanes.splat(top + 1.0));
    let nearest = lanes.nearest_integer(inside);
    lanes.if_above(nearest, inside, lanes.sub(nearest, lanes.splat(1.0)), nearest)
}

/// Numbers from zero to `top`.
#[inline(always)]
fn inside<L: Lanes>(lanes: L, numbers: L::F32, top: f32) -> L::F32 {
    lanes.min(lanes.larger(numbers, lanes.splat(0.0)), lanes.splat(top))
}
