//! What codes leave of values.

use super::numbers::Numbers;
use super::unit::{Unit, runs, weigh};
use crate::lanes::Lanes;

/// How codes are found, and what they decode to: `v ≈ scale·c + offset`, where `c` is the number nearest to
/// `(v − origin)·inverse`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Steps {
    pub(crate) inverse: f32,
    pub(crate) origin: f32,
    pub(crate) scale: f32,
    pub(crate) offset: f32,
}

impl Steps {
    /// Those of a scale alone.
    #[inline(always)]
    pub(crate) fn of_scale(scale: f64) -> Self {
        let inverse = if scale == 0.0 { 0.0 } else { (1.0 / scale) as f32 };
        Self { inverse, origin: 0.0, scale: scale as f32, offset: 0.0 }
    }
}

/// `Σ(v − (scale·c + offset))²` of each: in the operations that decoding has, so that a small error is not
/// lost in large sums.
#[inline(always)]
pub(crate) fn residuals<L: Lanes, N: Numbers, const K: usize>(
    lanes: L,
    unit: &Unit<'_>,
    steps: [Steps; K],
    numbers: &N,
) -> [f64; K] {
    match unit.weights.is_empty() {
        true => squares::<L, N, K, false>(lanes, unit, &steps, numbers),
        false => squares::<L, N, K, true>(lanes, unit, &steps, numbers),
    }
}

#[inline(always)]
fn squares<L: Lanes, N: Numbers, const K: usize, const WEIGHED: bool>(
    lanes: L,
    unit: &Unit<'_>,
    steps: &[Steps; K],
    numbers: &N,
) -> [f64; K] {
    let mut sums = [lanes.zero_f64(); K];
    for (values, weights) in runs::<WEIGHED>(unit) {
        let mut squares = [lanes.splat(0.0); K];
        for (at, values) in values.iter().enumerate() {
            let values = lanes.load(values);
            for (squares, steps) in squares.iter_mut().zip(steps) {
                let above = lanes.sub(values, lanes.splat(steps.origin));
                let number = numbers.nearest(lanes, lanes.mul(above, lanes.splat(steps.inverse)));
                let decoded = lanes.mul(number, lanes.splat(steps.scale));
                let error = lanes.sub(values, lanes.add(decoded, lanes.splat(steps.offset)));
                let weighed = weigh::<L, WEIGHED>(lanes, error, weights, at);
                *squares = lanes.add(*squares, lanes.mul(weighed, error));
            }
        }
        for (sums, squares) in sums.iter_mut().zip(squares) {
            *sums = lanes.add_wide(*sums, squares);
        }
    }
    // What stands behind the last value is zero, which codes without an offset decode to.
    let mut found = [0.0; K];
    for (found, sums) in found.chunks_mut(2).zip(sums.chunks(2)) {
        let both = lanes.totals(sums[0], *sums.last().unwrap_or(&sums[0]));
        found.copy_from_slice(&both[..found.len()]);
    }
    found
}
