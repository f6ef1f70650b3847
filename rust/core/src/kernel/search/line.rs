//! Integers from zero on, with a scale and an offset of any value: `v ≈ scale·c + offset`.

use super::{Integers, Moments, REFITS, Unit, residual};
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

/// Moments of codes up to some top on a line, with what the values' own sum says of lines.
#[derive(Clone, Copy)]
pub(crate) struct Fit {
    pub(crate) moments: Moments,
    /// `Σ(v − origin)`.
    sum: f64,
    mass: f64,
    origin: f64,
}

impl Fit {
    #[inline(always)]
    fn covariance(&self) -> (f64, f64) {
        let Moments { c, cc, cv } = self.moments;
        (cv - c * self.sum / self.mass, cc - c * c / self.mass)
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
        let offset = self.origin + (self.sum - scale * self.moments.c) / self.mass;
        (variance > 0.0 && scale.is_finite()).then_some(Line { scale, offset })
    }
}

/// How a format stores lines.
pub(crate) trait StoredLine {
    /// A line over a unit's power as the format has it; nothing where it can't.
    fn stored(&self, line: Line, power: f64) -> Option<Line>;
}

/// What values are multiplied by and what is added, to become codes on a line.
#[inline(always)]
fn to_codes(Line { scale, offset }: Line) -> [f32; 2] {
    let inverse = if scale == 0.0 { 0.0 } else { 1.0 / scale };
    [inverse as f32, (-offset * inverse) as f32]
}

#[inline(always)]
fn codes_to(top: f32) -> Integers {
    Integers { low: 0.0, high: top }
}

/// The moments of values less an origin, whose sum is known.
#[inline(always)]
pub(crate) fn fit<L: Lanes>(
    lanes: L,
    unit: &Unit<'_>,
    line: Line,
    top: f32,
    (sum, origin): (f64, f32),
) -> Fit {
    let [inverse, shift] = to_codes(line);
    let moments = Moments::of(lanes, unit, [inverse, shift, origin], &codes_to(top));
    Fit { moments, sum, mass: unit.mass, origin: f64::from(origin) }
}

/// What a line leaves.
#[inline(always)]
pub(crate) fn residual_of_line<L: Lanes>(lanes: L, unit: &Unit<'_>, line: Line, top: f32) -> f64 {
    let decoded = [line.scale as f32, line.offset as f32];
    residual(lanes, unit, to_codes(line), decoded, &codes_to(top))
}

/// `Σ(v − origin)`
#[inline(always)]
pub(crate) fn sum<L: Lanes>(lanes: L, unit: &Unit<'_>, origin: f32) -> f64 {
    let ones = Integers { low: 1.0, high: 1.0 };
    Moments::of(lanes, unit, [0.0, 1.0, origin], &ones).cv
}

/// A line that leaves less of a group of whole vectors with these ends than the usual one, which the ends
/// give, and leaves the residual `least`; nothing where none of those that are tried does. All are over
/// the unit's power.
#[inline(always)]
pub(crate) fn line<L: Lanes>(
    lanes: L,
    unit: &Unit<'_>,
    top: f32,
    [lo, hi]: [f64; 2],
    (usual, mut least): (Line, f64),
    stored: &impl StoredLine,
) -> Option<Line> {
    if least == 0.0 {
        return None;
    }
    let origin = lo as f32;
    let known = (sum(lanes, unit, origin), origin);
    let mut start = fit(lanes, unit, usual, top, known);
    let candidates: &[[f64; 2]] = if top == 3.0 { &CANDIDATES_OF_TWO } else { &CANDIDATES };
    for [cut, beside] in candidates {
        let scale = (hi - lo) / (f64::from(top) + cut);
        let offset = lo + scale * (cut / 2.0 + beside);
        let found = fit(lanes, unit, Line { scale, offset }, top, known);
        if found.best() > start.best() {
            start = found;
        }
    }
    let mut best = None;
    for refit in 0..REFITS {
        let refitted = start.line().and_then(|line| stored.stored(line, unit.power));
        let Some(refitted) = refitted else { break };
        let left = residual_of_line(lanes, unit, refitted, top);
        if left < least {
            (best, least) = (Some(refitted), left);
        }
        if refit + 1 < REFITS {
            start = fit(lanes, unit, refitted, top, known);
        }
    }
    best
}
