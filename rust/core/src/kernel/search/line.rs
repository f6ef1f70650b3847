//! Integers from zero on, with a scale and an offset of any value: `v ≈ scale·c + offset`.

use super::eight::{EIGHT, Eight, first_largest};
use super::numbers::Integers;
use super::residuals::{Steps, residuals};
use super::unit::{Totals, Unit};
use crate::lanes::Lanes;

/// Steps that are cut off in all, and how far the line is shifted up, in steps.
type Candidates = [[f32; 2]; EIGHT - 1];

/// Of short groups, then of others; so, too, of codes of fewer bits, which gain more by being cut off.
/// `bench/candidates.py` fitted them.
const CANDIDATES: [Candidates; 2] = [
    [[-0.8, -0.5], [0.3, 0.3], [0.3, -0.3], [0.3, 0.2], [0.3, -0.2], [0.6, 0.0], [0.9, 0.4]],
    [[0.3, 0.2], [0.6, 0.4], [0.6, -0.2], [0.6, -0.4], [0.9, 0.1], [1.2, -0.1], [1.2, 0.3]],
];
const OF_THREE_BITS: Candidates =
    [[0.6, 0.2], [0.9, -0.1], [1.2, 0.4], [1.2, -0.3], [1.2, 0.2], [1.5, 0.0], [1.5, -0.5]];
const OF_TWO_BITS: [Candidates; 2] = [
    [[-0.8, -0.5], [0.6, 0.3], [0.6, -0.3], [0.9, -0.1], [0.9, 0.1], [0.9, 0.5], [1.5, -0.5]],
    [[1.2, 0.1], [1.5, -0.1], [1.8, 0.0], [1.8, 0.3], [1.8, -0.3], [1.8, 0.5], [1.8, -0.5]],
];
/// Values of a short group at most.
const SHORT: usize = 32;

/// The candidates for groups of so many values and codes up to `top`.
#[inline(always)]
fn candidates(count: usize, top: f32) -> &'static Candidates {
    let length = usize::from(count > SHORT);
    match top as u32 {
        3 => &OF_TWO_BITS[length],
        7 => &OF_THREE_BITS,
        _ => &CANDIDATES[length],
    }
}

/// A scale and an offset.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Line {
    pub(crate) scale: f64,
    pub(crate) offset: f64,
}

impl Line {
    /// How its codes are found and decoded.
    #[inline(always)]
    pub(crate) fn steps(self) -> Steps {
        let Self { scale, offset } = self;
        let inverse = if scale == 0.0 { 0.0 } else { 1.0 / scale };
        Steps {
            inverse: inverse as f32,
            shift: (-offset * inverse) as f32,
            scale: scale as f32,
            offset: offset as f32,
        }
    }
}

/// How a format stores lines.
pub(crate) trait StoredLine {
    /// A line over the unit's power as the format has it; nothing where it can't.
    fn stored(&self, line: Line, unit: &Unit<'_>) -> Option<Line>;
}

/// The least-squares line for the codes of the best candidate: the `usual` line and others between these
/// ends, for codes up to `top`. The sums are those of values less the lower end. Nothing where all values
/// have one code.
#[inline(always)]
pub(crate) fn best_line<L: Lanes>(
    lanes: L,
    unit: &Unit<'_>,
    top: f32,
    [lo, hi]: [f64; 2],
    usual: Line,
    Totals { sum, mass }: Totals,
) -> Option<Line> {
    let mut scales = [usual.scale as f32; EIGHT];
    let mut offsets = [usual.offset as f32; EIGHT];
    let (low, span) = (lo as f32, (hi - lo) as f32);
    for (at, [cut, beside]) in candidates(unit.values.len(), top).iter().enumerate() {
        let scale = span / (top + cut);
        (scales[at + 1], offsets[at + 1]) = (scale, low + scale * (cut / 2.0 + beside));
    }
    let (mut inverses, mut shifts) = ([0.0; EIGHT], [0.0; EIGHT]);
    for at in 0..EIGHT {
        inverses[at] = 1.0 / scales[at];
        shifts[at] = -offsets[at] * inverses[at];
    }
    let found = Eight::of_lines(lanes, unit, (inverses, shifts, low), top);
    let over_mass = 1.0 / mass;
    let (own_mean, own_over) = ((sum * over_mass) as f32, over_mass as f32);
    let mut gains = [0.0; EIGHT];
    for (at, gain) in gains.iter_mut().enumerate() {
        let covariance = found.cv[at] - found.c[at] * own_mean;
        let variance = found.cc[at] - found.c[at] * found.c[at] * own_over;
        *gain = covariance * covariance / variance;
    }
    let [c, cc, cv] = found.at(first_largest(&gains));
    let scale = (cv - c * sum * over_mass) / (cc - c * c * over_mass);
    let offset = f64::from(lo as f32) + (sum - scale * c) * over_mass;
    (scale.is_finite() && scale != 0.0).then_some(Line { scale, offset })
}

/// A line that leaves less of a group of whole vectors with these ends than the usual one, which the ends
/// give, and whose codes are found by the steps; nothing where none of those that are tried does. All are
/// over the unit's power.
#[inline(always)]
pub(crate) fn line<L: Lanes>(
    lanes: L,
    unit: &Unit<'_>,
    top: f32,
    ends: [f64; 2],
    (usual, steps): (Line, Steps),
    stored: &impl StoredLine,
) -> Option<Line> {
    let known = unit.totals(lanes, ends[0] as f32);
    let best = best_line(lanes, unit, top, ends, usual, known)?;
    let refitted = stored.stored(best, unit)?;
    let numbers = Integers { low: 0.0, high: top };
    let [least, left] = residuals(lanes, unit, [steps, refitted.steps()], &numbers);
    (left < least).then_some(refitted)
}
