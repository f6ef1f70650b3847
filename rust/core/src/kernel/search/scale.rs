//! A scale alone.

use super::eight::{EIGHT, Eight, first_largest, inverses};
use super::numbers::Numbers;
use super::residuals::{Steps, residuals};
use super::unit::Unit;
use crate::lanes::Lanes;

/// How a format stores scales.
pub(crate) trait Stored {
    /// A scale over the unit's power as the format has it; nothing where it can't.
    fn stored(&self, scale: f64, unit: &Unit<'_>) -> Option<f64>;
}

/// A scale that leaves less than the `usual` one, which the extremes give; nothing where none of those that
/// are tried does. The candidates are what values are multiplied by; the first is that one's. All are over
/// the unit's power.
#[inline(always)]
pub(crate) fn scale<L: Lanes, N: Numbers>(
    lanes: L,
    unit: &Unit<'_>,
    usual: Steps,
    candidates: [f32; EIGHT],
    stored: &impl Stored,
    numbers: &N,
) -> Option<f64> {
    let best = Eight::of_inverses(lanes, unit, candidates, numbers).best_scale();
    let refitted = stored.stored(best, unit)?;
    let [least, left] = residuals(lanes, unit, [usual, Steps::of_scale(refitted)], numbers);
    (left < least).then_some(refitted)
}

/// What values are multiplied by for a usual scale, and for others that are `usual / reach`.
#[inline(always)]
pub(crate) fn beside(usual: f64, reaches: &[f32; EIGHT - 1]) -> [f32; EIGHT] {
    let mut candidates = [(1.0 / usual) as f32; EIGHT];
    for (candidate, reach) in candidates[1..].iter_mut().zip(reaches) {
        *candidate *= reach;
    }
    candidates
}

/// The best of some scales, which can't be refitted: the first one unless another leaves less.
#[inline(always)]
pub(crate) fn choose<L: Lanes, N: Numbers>(
    lanes: L,
    unit: &Unit<'_>,
    scales: &[f64; EIGHT],
    numbers: &N,
) -> f64 {
    let found = Eight::of_inverses(lanes, unit, inverses(scales), numbers);
    let mut gains = [0.0; EIGHT];
    for (at, gain) in gains.iter_mut().enumerate() {
        // Σv² less what the scale leaves
        let scale = scales[at] as f32;
        *gain = scale * (2.0 * found.cv[at] - scale * found.cc[at]);
    }
    let best = scales[first_largest(&gains)];
    let both = [scales[0], best].map(Steps::of_scale);
    let [least, left] = residuals(lanes, unit, both, numbers);
    if left < least { best } else { scales[0] }
}
