//! Integers from zero on, with a scale and an offset of any value: `v ≈ scale·c + offset`.

use super::candidates::{Best, EIGHT, Lines, Sums, Trial};
use super::numbers::Integers;
use super::residuals::{Steps, gains_of_lines, inverse};
use super::units::{Totals, Units};
use crate::lanes::Lanes;

/// Lines that are tried, of values from 0 to 1: how many steps these are, and how far they are shifted.
#[derive(Clone, Copy)]
pub(crate) struct Candidates<const N: usize> {
    /// How many steps of the span are cut off: it is divided into so many more than there are codes.
    cuts: [f32; N],
    /// Subtracted from numbers of steps before they are rounded to codes.
    shifts: [f32; N],
}

impl<const N: usize> Candidates<N> {
    /// Of each: steps that are cut off, as many at each end, and how many steps the line is then shifted up.
    /// Without either it goes from end to end.
    pub(crate) const fn new(lines: [[f32; 2]; N]) -> Self {
        let (mut cuts, mut shifts, mut at) = ([0.0; N], [0.0; N], 0);
        while at < N {
            let [cut, up] = lines[at];
            (cuts[at], shifts[at]) = (cut, cut / 2.0 + up);
            at += 1;
        }
        Self { cuts, shifts }
    }
}

/// Of short groups, then of others; so, too, of codes of fewer bits, which gain more by being cut off.
/// `bench/candidates.py` fitted them.
const CANDIDATES: [Candidates<EIGHT>; 2] = [
    Candidates::new([
        [0.0, 0.0],
        [-0.8, -0.5],
        [0.3, 0.3],
        [0.3, -0.3],
        [0.3, 0.2],
        [0.3, -0.2],
        [0.6, 0.0],
        [0.9, 0.4],
    ]),
    Candidates::new([
        [0.0, 0.0],
        [0.3, 0.2],
        [0.6, 0.4],
        [0.6, -0.2],
        [0.6, -0.4],
        [0.9, 0.1],
        [1.2, -0.1],
        [1.2, 0.3],
    ]),
];
const OF_THREE_BITS: Candidates<EIGHT> = Candidates::new([
    [0.0, 0.0],
    [0.6, 0.2],
    [0.9, -0.1],
    [1.2, 0.4],
    [1.2, -0.3],
    [1.2, 0.2],
    [1.5, 0.0],
    [1.5, -0.5],
]);
const OF_TWO_BITS: [Candidates<EIGHT>; 2] = [
    Candidates::new([
        [0.0, 0.0],
        [-0.8, -0.5],
        [0.6, 0.3],
        [0.6, -0.3],
        [0.9, -0.1],
        [0.9, 0.1],
        [0.9, 0.5],
        [1.5, -0.5],
    ]),
    Candidates::new([
        [0.0, 0.0],
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

/// The candidates for groups of so many values and codes up to `top`.
#[inline(always)]
fn candidates(count: usize, top: f32) -> &'static Candidates<EIGHT> {
    let length = usize::from(count > SHORT);
    match top as u32 {
        3 => &OF_TWO_BITS[length],
        7 => &OF_THREE_BITS,
        _ => &CANDIDATES[length],
    }
}

/// Scales and offsets.
#[derive(Clone, Copy)]
pub(crate) struct Line<L: Lanes> {
    pub(crate) scale: L::F32,
    pub(crate) offset: L::F32,
}

impl<L: Lanes> Line<L> {
    /// How their codes are found and decoded.
    #[inline(always)]
    pub(crate) fn steps(self, lanes: L) -> Steps<L> {
        let Self { scale, offset } = self;
        Steps { inverse: inverse(lanes, scale), origin: offset, scale, offset }
    }
}

/// How a format stores lines.
pub(crate) trait StoredLine {
    /// Lines over the units' powers as the format has them; of scale zero where it can't.
    fn stored<L: Lanes>(&self, lanes: L, line: Line<L>, units: &Units<'_, L>) -> Line<L>;
}

/// The least-squares lines for the codes of the best candidates. Codes go up to `top`; `lo` and `hi` are the ends
/// of the groups. `usual` lines, if given, replace the first candidate. A scale is zero where both ends are
/// equal, or all values have one code. The sums of the values come with them.
#[inline(always)]
pub(crate) fn best_line<'a, L: Lanes, const N: usize>(
    lanes: L,
    units: &Units<'a, L>,
    (candidates, top): (&Candidates<N>, f32),
    [lo, hi]: [L::F32; 2],
    usual: Option<Line<L>>,
) -> (Line<L>, Above<'a, L>) {
    let zero = lanes.splat(0.0);
    let over_span = inverse(lanes, lanes.sub(hi, lo));
    let mut lines = Lines { inverses: [zero; N], shifts: [zero; N], origins: lo };
    let Candidates { cuts, shifts } = candidates;
    for at in 0..N {
        lines.inverses[at] = lanes.mul(lanes.splat(top + cuts[at]), over_span);
        lines.shifts[at] = lanes.splat(-shifts[at]);
    }
    if let Some(Line { scale, offset }) = usual {
        lines.inverses[0] = inverse(lanes, scale);
        lines.shifts[0] = lanes.mul(lanes.sub(lo, offset), lines.inverses[0]);
    }
    let trial = Trial::of_lines(lanes, units, [lo, hi], top);
    let (found, totals) = (trial.lines(lanes, &lines), trial.totals(lanes, lo));
    let values = Above { trial, origin: lo, totals };
    let mut best = Best::new(lanes, [zero, zero, zero]);
    for sums in found {
        let [covariance, variance, c] = values.moments(lanes, sums);
        let gain = lanes.div(lanes.mul(covariance, covariance), variance);
        best.add(lanes, gain, [covariance, variance, c]);
    }
    (values.line(lanes, best.of), values)
}

/// What is known of values above some.
pub(crate) struct Above<'a, L: Lanes> {
    pub(crate) trial: Trial<'a, L, Integers>,
    origin: L::F32,
    totals: Totals<L>,
}

impl<L: Lanes> Above<'_, L> {
    /// The covariance of codes and values, the variance of codes, both times how many there are, and the sum
    /// of codes.
    #[inline(always)]
    fn moments(&self, lanes: L, Sums { c, cc, cv }: Sums<L>) -> [L::F32; 3] {
        let Totals { sum, mass } = self.totals;
        let over_mass = inverse(lanes, mass);
        let covariance = lanes.sub(cv, lanes.mul(c, lanes.mul(sum, over_mass)));
        let variance = lanes.sub(cc, lanes.mul(lanes.mul(c, c), over_mass));
        [covariance, variance, c]
    }

    /// The least-squares line of codes with these moments.
    #[inline(always)]
    fn line(&self, lanes: L, [covariance, variance, c]: [L::F32; 3]) -> Line<L> {
        let Totals { sum, mass } = self.totals;
        let scale = lanes.mul(covariance, inverse(lanes, variance));
        let offset = lanes.mul(lanes.sub(sum, lanes.mul(scale, c)), inverse(lanes, mass));
        Line { scale, offset: lanes.add(self.origin, offset) }
    }

    /// The line for the codes that a line gives.
    #[inline(always)]
    fn refitted(&self, lanes: L, line: Line<L>) -> Line<L> {
        let inverse = inverse(lanes, line.scale);
        let shift = lanes.mul(lanes.sub(self.origin, line.offset), inverse);
        let sums = self.trial.line(lanes, (inverse, shift, self.origin));
        self.line(lanes, self.moments(lanes, sums))
    }

    /// The sums of the values themselves.
    #[inline(always)]
    pub(crate) fn totals(&self, lanes: L) -> Totals<L> {
        let Totals { sum, mass } = self.totals;
        Totals { sum: lanes.add(sum, lanes.mul(self.origin, mass)), mass }
    }
}

/// Lines that leave less of groups of whole vectors with these ends than the usual ones, which the ends
/// give, and whose codes are found by the steps; these where none of those that are tried does. All are
/// over the units' powers, but for what comes out.
#[inline(always)]
pub(crate) fn line<L: Lanes>(
    lanes: L,
    units: &Units<'_, L>,
    top: f32,
    ends: [L::F32; 2],
    (usual, first, steps): (Line<L>, Line<L>, Steps<L>),
    stored: &impl StoredLine,
) -> Line<L> {
    let candidates = candidates(units.values.len(), top);
    let (best, values) = best_line(lanes, units, (candidates, top), ends, Some(first));
    let refitted = values.refitted(lanes, best);
    let refitted = stored.stored(lanes, refitted, units);
    let steps = [steps, refitted.steps(lanes)];
    let gains = gains_of_lines(lanes, units, steps, top);
    let zero = lanes.splat(0.0);
    // Nothing is gained where there is no scale.
    let gains = lanes.if_above(lanes.abs(refitted.scale), zero, gains, zero);
    Line {
        scale: units.choose(gains, units.times(refitted.scale), usual.scale),
        offset: units.choose(gains, units.times(refitted.offset), usual.offset),
    }
}
