//! Integers from zero on, with a scale and an offset of any value: `v ≈ scale·c + offset`.

use super::{Integers, Moments, REFITS, Unit};
use crate::lanes::Lanes;

/// Steps that are cut off in all, and how far the line is shifted up, in steps.
const CANDIDATES: [[f64; 2]; 9] = [
    [-0.4, 0.0],
    [0.0, 0.25],
    [0.0, -0.25],
    [0.6, 0.0],
    [0.8, 0.25],
    [0.8, -0.25],
    [1.5, 0.2],
    [1.5, -0.2],
    [2.4, 0.0],
];
/// The same of codes of two bits, which gain more by being cut off.
const CANDIDATES_OF_TWO: [[f64; 2]; 7] =
    [[0.4, 0.0], [1.0, 0.25], [1.0, -0.25], [1.6, 0.2], [1.6, -0.2], [2.2, 0.0], [3.0, 0.0]];

/// A scale and an offset.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Line {
    pub(crate) scale: f64,
    pub(crate) offset: f64,
}

/// Moments of codes with what `Σv` and the count say of lines.
#[derive(Clone, Copy)]
pub(crate) struct Fit {
    pub(crate) moments: Moments,
    sum: f64,
    count: f64,
}

impl Fit {
    #[inline(always)]
    fn covariance(&self) -> (f64, f64) {
        let Moments { c, cc, cv } = self.moments;
        (cv - c * self.sum / self.count, cc - c * c / self.count)
    }

    /// By how much the best line lessens `Σ(v − mean)²`.
    #[inline(always)]
    fn best(&self) -> f64 {
        let (covariance, variance) = self.covariance();
        if variance > 0.0 { covariance * covariance / variance } else { 0.0 }
    }

    #[inline(always)]
    fn line(&self) -> Option<Line> {
        let (covariance, variance) = self.covariance();
        let scale = covariance / variance;
        let offset = (self.sum - scale * self.moments.c) / self.count;
        (variance > 0.0 && scale.is_finite()).then_some(Line { scale, offset })
    }

    /// By how much a line lessens `Σv²`.
    #[inline(always)]
    pub(crate) fn gain(&self, Line { scale, offset }: Line) -> f64 {
        let Moments { c, cc, cv } = self.moments;
        2.0 * (scale * cv + offset * self.sum)
            - (scale * scale * cc + 2.0 * scale * offset * c + offset * offset * self.count)
    }
}

/// How a format stores lines.
pub(crate) trait StoredLine {
    /// A line over a unit's power as the format has it; nothing where it can't.
    fn stored(&self, line: Line, power: f64) -> Option<Line>;
}

/// What codes up to `top` on a line leave, of values whose sum is known.
#[inline(always)]
pub(crate) fn fit<L: Lanes>(
    lanes: L,
    unit: &Unit<'_>,
    Line { scale, offset }: Line,
    top: f32,
    sum: f64,
) -> Fit {
    let inverse = if scale == 0.0 { 0.0 } else { 1.0 / scale };
    let shift = [inverse as f32, (-offset * inverse) as f32];
    let moments = Moments::of(lanes, unit, shift, &Integers { low: 0.0, high: top });
    Fit { moments, sum, count: unit.count as f64 }
}

/// `Σv`
#[inline(always)]
pub(crate) fn sum<L: Lanes>(lanes: L, unit: &Unit<'_>) -> f64 {
    Moments::of(lanes, unit, [0.0, 1.0], &Integers { low: 1.0, high: 1.0 }).cv
}

/// The line of a group of whole vectors with these ends, given the one that the ends give; all over the
/// unit's power.
#[inline(always)]
pub(crate) fn line<L: Lanes>(
    lanes: L,
    unit: &Unit<'_>,
    top: f32,
    [lo, hi]: [f64; 2],
    usual: Line,
    stored: &impl StoredLine,
) -> Line {
    let sum = sum(lanes, unit);
    let mut start = fit(lanes, unit, usual, top, sum);
    let (mut best, mut gain) = (usual, start.gain(usual));
    let candidates: &[[f64; 2]] = if top == 3.0 { &CANDIDATES_OF_TWO } else { &CANDIDATES };
    for [cut, beside] in candidates {
        let scale = (hi - lo) / (f64::from(top) + cut);
        let offset = lo + scale * (cut / 2.0 + beside);
        let found = fit(lanes, unit, Line { scale, offset }, top, sum);
        if found.best() > start.best() {
            start = found;
        }
    }
    for _ in 0..REFITS {
        let refitted = start.line().and_then(|line| stored.stored(line, unit.power));
        let Some(refitted) = refitted else { break };
        start = fit(lanes, unit, refitted, top, sum);
        let new = start.gain(refitted);
        if new > gain {
            (best, gain) = (refitted, new);
        }
    }
    best
}
