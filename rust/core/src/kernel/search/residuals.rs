//! What codes leave of values.

use super::numbers::{Codes, Numbers};
use super::units::{Units, weigh};
use crate::lanes::Lanes;

/// How codes are found, and what they decode to: `v ≈ scale·c + offset`, where `c` is the number nearest to
/// `(v − origin)·inverse`.
#[derive(Clone, Copy)]
pub(crate) struct Steps<L: Lanes> {
    pub(crate) inverse: L::F32,
    pub(crate) origin: L::F32,
    pub(crate) scale: L::F32,
    pub(crate) offset: L::F32,
}

impl<L: Lanes> Steps<L> {
    /// Those of scales alone.
    #[inline(always)]
    pub(crate) fn of_scales(lanes: L, scale: L::F32) -> Self {
        let zero = lanes.splat(0.0);
        Self { inverse: inverse(lanes, scale), origin: zero, scale, offset: zero }
    }
}

/// `1/x`; zero of zero.
#[inline(always)]
pub(crate) fn inverse<L: Lanes>(lanes: L, x: L::F32) -> L::F32 {
    let zero = lanes.splat(0.0);
    lanes.if_above(lanes.abs(x), zero, lanes.div(lanes.splat(1.0), x), zero)
}

/// How much less of each group the second codes leave than the first ones, `Σ(v − scale·c)²`: in the operations
/// that decoding has, so that a small error is not lost in large sums.
#[inline(always)]
pub(crate) fn gains<L: Lanes, N: Numbers>(
    lanes: L,
    units: &Units<'_, L>,
    steps: [Steps<L>; 2],
    numbers: [&N; 2],
) -> L::F32 {
    let [first, second] = residuals(lanes, units, &steps, numbers);
    units.fold(lanes.difference(first, second))
}

/// The same of lines, for codes from 0 to `top`: `Σ(v − (scale·c + offset))²`.
#[inline(always)]
pub(crate) fn gains_of_lines<L: Lanes>(
    lanes: L,
    units: &Units<'_, L>,
    steps: [Steps<L>; 2],
    top: f32,
) -> L::F32 {
    let codes = Codes { top };
    let [first, second] = match units.weights.is_empty() {
        true => squares::<L, _, 2, true, false>(lanes, units, &steps, [&codes; 2]),
        false => squares::<L, _, 2, true, true>(lanes, units, &steps, [&codes; 2]),
    };
    units.fold(lanes.difference(first, second))
}

/// What codes leave of each lane.
#[inline(always)]
pub(crate) fn residuals<L: Lanes, N: Numbers, const K: usize>(
    lanes: L,
    units: &Units<'_, L>,
    steps: &[Steps<L>; K],
    numbers: [&N; K],
) -> [L::F64; K] {
    match units.weights.is_empty() {
        true => squares::<L, N, K, false, false>(lanes, units, steps, numbers),
        false => squares::<L, N, K, false, true>(lanes, units, steps, numbers),
    }
}

#[inline(always)]
fn squares<L: Lanes, N: Numbers, const K: usize, const LINES: bool, const WEIGHED: bool>(
    lanes: L,
    units: &Units<'_, L>,
    steps: &[Steps<L>; K],
    numbers: [&N; K],
) -> [L::F64; K] {
    // What stands behind the last value is zero, which codes without an offset decode to.
    let mut sums = [lanes.zero_f64(); K];
    for (values, weights) in units.runs::<WEIGHED>() {
        let mut squares = [lanes.splat(0.0); K];
        for (place, values) in values.iter().enumerate() {
            let values = lanes.load(values);
            for at in 0..K {
                let Steps { inverse, origin, scale, offset } = steps[at];
                let above = if LINES { lanes.sub(values, origin) } else { values };
                let number = numbers[at].nearest(lanes, lanes.mul(above, inverse));
                let decoded = lanes.mul(number, scale);
                let decoded = if LINES { lanes.add(decoded, offset) } else { decoded };
                let error = lanes.sub(values, decoded);
                let weighed = weigh::<L, WEIGHED>(lanes, error, weights, place);
                squares[at] = lanes.mul_add(weighed, error, squares[at]);
            }
        }
        for at in 0..K {
            sums[at] = lanes.add_wide(sums[at], squares[at]);
        }
    }
    sums
}
