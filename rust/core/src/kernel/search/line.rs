//! Integers from zero on, with a scale and an offset of any value: `v ≈ scale·c + offset`.

use super::eight::{EIGHT, Eight, first_largest};
use super::numbers::Integers;
use super::residuals::{Steps, residuals};
use super::unit::{Totals, Unit};
use crate::lanes::Lanes;

/// Lines that are tried, of values from 0 to 1: how many steps these are, and how far they are shifted.
#[derive(Clone, Copy)]
struct Candidates {
    /// Steps that are cut off in all: a line has so many more than codes.
    cuts: [f32; EIGHT],
    /// Steps that codes are lower.
    shifts: [f32; EIGHT],
}

impl Candidates {
    /// From end to end, and others: steps that are cut off, as many at each end, and how many steps the
    /// line is then shifted up.
    const fn beside(others: [[f32; 2]; EIGHT - 1]) -> Self {
        let (mut cuts, mut shifts, mut at) = ([0.0; EIGHT], [0.0; EIGHT], 0);
        while at < EIGHT - 1 {
            let [cut, up] = others[at];
            (cuts[at + 1], shifts[at + 1]) = (cut, cut / 2.0 + up);
            at += 1;
        }
        Self { cuts, shifts }
    }
}

/// Of short groups, then of others; so, too, of codes of fewer bits, which gain more by being cut off.
/// `bench/candidates.py` fitted them.
const CANDIDATES: [Candidates; 2] = [
    Candidates::beside([
        [-0.8, -0.5],
        [0.3, 0.3],
        [0.3, -0.3],
        [0.3, 0.2],
        [0.3, -0.2],
        [0.6, 0.0],
        [0.9, 0.4],
    ]),
    Candidates::beside([
        [0.3, 0.2],
        [0.6, 0.4],
        [0.6, -0.2],
        [0.6, -0.4],
        [0.9, 0.1],
        [1.2, -0.1],
        [1.2, 0.3],
    ]),
];
const OF_THREE_BITS: Candidates = Candidates::beside([
    [0.6, 0.2],
    [0.9, -0.1],
    [1.2, 0.4],
    [1.2, -0.3],
    [1.2, 0.2],
    [1.5, 0.0],
    [1.5, -0.5],
]);
const OF_TWO_BITS: [Candidates; 2] = [
    Candidates::beside([
        [-0.8, -0.5],
        [0.6, 0.3],
        [0.6, -0.3],
        [0.9, -0.1],
        [0.9, 0.1],
        [0.9, 0.5],
        [1.5, -0.5],
    ]),
    Candidates::beside([
        [1.2, 0.1],
        [1.5, -0.1],
        [1.8, 0.0],
        [1.8, 0.3],
        [1.8, -0.3],
        [1.8, 0.5],
        [1.8, -0.5],
    ]),
];
/// Values of a short group at most.
const SHORT: usize = 32;
/// Values of a group at most.
const LONGEST: usize = 256;

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
            origin: offset as f32,
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

/// The least-squares line for the codes of the best candidate, up to `top`, of a group of at most
/// [`LONGEST`] values with these ends: the `usual` line, or else the one from end to end, and others. Nothing
/// where the ends are one, or all values have one code. With it come the sums of the values.
#[inline(always)]
pub(crate) fn best_line<L: Lanes>(
    lanes: L,
    unit: &Unit<'_>,
    top: f32,
    [lo, hi]: [f64; 2],
    usual: Option<Line>,
) -> (Option<Line>, Totals) {
    let (low, span) = (lo as f32, (hi - lo) as f32);
    // From 0 to 1, so that all groups have the same candidates.
    let mut room = [0.0; LONGEST];
    let over = &mut room[..unit.values.len()];
    let (origin, inverse) = (lanes.splat(low), lanes.splat(1.0 / span));
    for (values, over) in unit.values.as_chunks().0.iter().zip(over.as_chunks_mut().0) {
        lanes.store(lanes.mul(lanes.sub(lanes.load(values), origin), inverse), over);
    }
    let own = Unit { values: over, ..*unit };
    let Totals { sum, mass } = own.totals(lanes);
    let (low, span) = (f64::from(low), f64::from(span));
    let known = Totals { sum: sum * span + low * mass, mass };
    let Candidates { cuts, shifts } = candidates(own.values.len(), top);
    let (mut inverses, mut offsets) = ([0.0; EIGHT], [0.0; EIGHT]);
    for at in 0..EIGHT {
        (inverses[at], offsets[at]) = (top + cuts[at], -shifts[at]);
    }
    if let Some(Line { scale, offset }) = usual {
        inverses[0] = (span / scale) as f32;
        offsets[0] = ((low - offset) / scale) as f32;
    }
    let found = Eight::of_lines(lanes, &own, (inverses, offsets), top);
    let over_mass = 1.0 / mass;
    let (own_mean, own_over) = ((sum * over_mass) as f32, over_mass as f32);
    let mut gains = [0.0; EIGHT];
    for (at, gain) in gains.iter_mut().enumerate() {
        let covariance = found.cv[at] - found.c[at] * own_mean;
        let variance = found.cc[at] - found.c[at] * found.c[at] * own_over;
        *gain = covariance * covariance / variance;
    }
    let [c, cc, cv] = found.at(first_largest(&gains));
    let slope = (cv - c * sum * over_mass) / (cc - c * c * over_mass);
    let scale = slope * span;
    let offset = low + (sum - slope * c) * over_mass * span;
    let fits = scale.is_finite() && scale != 0.0;
    (fits.then_some(Line { scale, offset }), known)
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
    let best = best_line(lanes, unit, top, ends, Some(usual)).0?;
    let refitted = stored.stored(best, unit)?;
    let numbers = Integers { low: 0.0, high: top };
    let [least, left] = residuals(lanes, unit, [steps, refitted.steps()], &numbers);
    (left < least).then_some(refitted)
}
