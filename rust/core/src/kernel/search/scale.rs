//! A scale alone.

use super::candidates::{Best, EIGHT, Sums, Trial, best_scales};
use super::numbers::Numbers;
use super::residuals::{Steps, gains, inverse};
use super::units::Units;
use crate::lanes::Lanes;

/// How a format stores scales.
pub(crate) trait Stored {
    /// Scales over the units' powers as the format has them; zero where it can't.
    fn stored<L: Lanes>(&self, lanes: L, scales: L::F32, units: &Units<'_, L>) -> L::F32;
}

/// The best scales that are found, where they leave a smaller squared error than the `usual` ones, which rounding
/// takes; else the usual ones. `steps` say how rounding finds and decodes codes. `candidates` are reciprocals of
/// scales; the first is that of the usual one. All are divided by the units' powers, but for `usual` and the
/// result.
#[inline(always)]
pub(crate) fn scale<L: Lanes, N: Numbers>(
    lanes: L,
    units: &Units<'_, L>,
    (usual, steps): (L::F32, Steps<L>),
    candidates: [L::F32; EIGHT],
    stored: &impl Stored,
    numbers: &N,
) -> L::F32 {
    let found = Trial::of_scales(lanes, units, numbers).inverses(lanes, candidates);
    let best = best_scales(lanes, &found);
    let refitted = stored.stored(lanes, best, units);
    let steps = [steps, Steps::of_scales(lanes, refitted)];
    let gains = gains(lanes, units, steps, [numbers; 2]);
    let zero = lanes.splat(0.0);
    // Nothing is gained where there is no scale.
    let gains = lanes.if_above(lanes.abs(refitted), zero, gains, zero);
    units.choose(gains, units.times(refitted), usual)
}

/// The reciprocals of the scales `usual / reach`.
#[inline(always)]
pub(crate) fn beside<L: Lanes, const N: usize>(
    lanes: L,
    usual: L::F32,
    reaches: &[f32; N],
) -> [L::F32; N] {
    let mut candidates = [lanes.div(lanes.splat(1.0), usual); N];
    for (candidate, reach) in candidates.iter_mut().zip(reaches) {
        *candidate = lanes.mul(*candidate, lanes.splat(*reach));
    }
    candidates
}

/// The element of `of` that belongs to the best of some scales, which can't be refitted: to the first one, unless
/// another leaves a smaller squared error.
#[inline(always)]
pub(crate) fn choose<L: Lanes, N: Numbers>(
    lanes: L,
    units: &Units<'_, L>,
    scales: &[L::F32; EIGHT],
    of: &[L::F32; EIGHT],
    numbers: &N,
) -> L::F32 {
    let mut candidates = *scales;
    for candidate in &mut candidates {
        *candidate = inverse(lanes, *candidate);
    }
    let found = Trial::of_scales(lanes, units, numbers).inverses(lanes, candidates);
    let mut best = Best::new(lanes, [scales[0], of[0]]);
    for ((Sums { cc, cv, .. }, scale), of) in found.iter().zip(scales).zip(of) {
        // Σv² less what the scale leaves
        let twice = lanes.add(*cv, *cv);
        let gain = lanes.mul(*scale, lanes.sub(twice, lanes.mul(*scale, *cc)));
        best.add(lanes, gain, [*scale, *of]);
    }
    let [scale, better] = best.of;
    let steps = [Steps::of_scales(lanes, scales[0]), Steps::of_scales(lanes, scale)];
    units.choose(gains(lanes, units, steps, [numbers; 2]), better, of[0])
}
