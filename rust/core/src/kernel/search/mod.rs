//! Parameters of a group that leave a smaller squared error than its extremes do.
//!
//! A few candidates are tried. For each, codes are found and summed up: `Σc`, `Σc²`, `Σcv`. These say
//! what the best scale for such codes leaves of `Σv²` (least squares), so that a candidate is judged by
//! what a refit would make of it. The best one is refitted and rounded to what the format stores. Its
//! error and that of the extremes are then computed in the same way; the extremes stay unless the other
//! is smaller.
//!
//! Sums are in sixteen lanes and a fixed order, so that bytes are the same on any CPU.

pub(crate) mod integers;
pub(crate) mod line;

use crate::lanes::{LANES, Lanes};

/// How parameters are chosen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Search {
    /// From each group's extremes.
    #[default]
    None,
    /// For the least squared error.
    Mse,
}

impl Search {
    /// The words for the setting, of schemes that search.
    pub(crate) const WORDS: &'static [&'static str] = &["none", "mse"];

    /// What such a word says.
    pub fn of(word: &str) -> Self {
        if word == "mse" { Self::Mse } else { Self::None }
    }
}

/// A group's values over a power of two, the largest magnitude from 1 to 2, and zeros behind the last
/// up to whole vectors.
#[derive(Clone, Copy)]
pub(crate) struct Unit<'a> {
    pub(crate) values: &'a [f32],
    /// How many there are without those zeros.
    pub(crate) count: usize,
    /// The largest magnitude.
    pub(crate) absmax: f64,
    /// The power of two.
    pub(crate) power: f64,
}

impl<'a> Unit<'a> {
    /// Nothing for groups of zeros, and of magnitudes that have no such power.
    #[inline(always)]
    pub(crate) fn new<L: Lanes>(
        lanes: L,
        values: &[f32],
        absmax: f32,
        room: &'a mut Vec<f32>,
    ) -> Option<Self> {
        if !absmax.is_normal() {
            return None;
        }
        let exponent = absmax.to_bits() & 0x7f80_0000;
        // Of the largest magnitudes the reciprocal is subnormal.
        let power = f32::from_bits(exponent);
        let inverse = 1.0 / power;
        let length = values.len().next_multiple_of(LANES);
        if room.len() < length {
            room.resize(length, 0.0);
        }
        let out = &mut room[..length];
        let factor = lanes.splat(inverse);
        let (vectors, last) = values.as_chunks::<LANES>();
        for (values, out) in vectors.iter().zip(out.as_chunks_mut::<LANES>().0) {
            lanes.store(lanes.mul(lanes.load(values), factor), out);
        }
        if !last.is_empty() {
            let rest = &mut out[vectors.len() * LANES..];
            rest.fill(0.0);
            for (out, value) in rest.iter_mut().zip(last) {
                *out = value * inverse;
            }
        }
        let absmax = f64::from(absmax) / f64::from(power);
        Some(Self { values: out, count: values.len(), absmax, power: f64::from(power) })
    }
}

/// The numbers that codes stand for at a scale of 1.
///
/// Traits and plain functions, not closures: these would be compiled without the instructions that
/// [`Lanes`] stand for.
pub(crate) trait Numbers {
    /// The nearest ones.
    fn nearest<L: Lanes>(&self, lanes: L, x: L::F32) -> L::F32;
}

/// Integers between two of them.
#[derive(Clone, Copy)]
pub(crate) struct Integers {
    pub(crate) low: f32,
    pub(crate) high: f32,
}

impl Numbers for Integers {
    #[inline(always)]
    fn nearest<L: Lanes>(&self, lanes: L, x: L::F32) -> L::F32 {
        let least = lanes.larger(x, lanes.splat(self.low));
        lanes.round(lanes.min(least, lanes.splat(self.high))).1
    }
}

/// What is known of a group's codes as numbers `c`, and its values `v`.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Moments {
    /// `Σc`
    pub(crate) c: f64,
    /// `Σc²`
    pub(crate) cc: f64,
    /// `Σcv`
    pub(crate) cv: f64,
}

impl Moments {
    /// Of the numbers nearest to values times `inverse`, plus `shift`.
    #[inline(always)]
    pub(crate) fn of<L: Lanes, N: Numbers>(
        lanes: L,
        unit: &Unit<'_>,
        [inverse, shift]: [f32; 2],
        numbers: &N,
    ) -> Self {
        let (inverse, shift) = (lanes.splat(inverse), lanes.splat(shift));
        let zero = lanes.splat(0.0);
        let (mut c, mut cc, mut cv) = (zero, zero, zero);
        for values in unit.values.as_chunks::<LANES>().0 {
            let values = lanes.load(values);
            let number = numbers.nearest(lanes, lanes.add(lanes.mul(values, inverse), shift));
            c = lanes.add(c, number);
            cc = lanes.add(cc, lanes.mul(number, number));
            cv = lanes.add(cv, lanes.mul(number, values));
        }
        let none = lanes.zero_f64();
        let [cc, cv] = lanes.totals(lanes.add_wide(none, cc), lanes.add_wide(none, cv));
        let [c, _] = lanes.totals(lanes.add_wide(none, c), none);
        Self { c, cc, cv }
    }

    /// The same without an offset, where `Σc` is not asked for.
    #[inline(always)]
    pub(crate) fn scaled<L: Lanes, N: Numbers>(
        lanes: L,
        unit: &Unit<'_>,
        scale: f64,
        numbers: &N,
    ) -> Self {
        let inverse = lanes.splat((1.0 / scale) as f32);
        let zero = lanes.splat(0.0);
        let (mut cc, mut cv) = (zero, zero);
        for values in unit.values.as_chunks::<LANES>().0 {
            let values = lanes.load(values);
            let number = numbers.nearest(lanes, lanes.mul(values, inverse));
            cc = lanes.add(cc, lanes.mul(number, number));
            cv = lanes.add(cv, lanes.mul(number, values));
        }
        let none = lanes.zero_f64();
        let [cc, cv] = lanes.totals(lanes.add_wide(none, cc), lanes.add_wide(none, cv));
        Self { c: 0.0, cc, cv }
    }

    /// By how much the best scale lessens `Σv²`.
    #[inline(always)]
    pub(crate) fn best(&self) -> f64 {
        if self.cc > 0.0 { self.cv * self.cv / self.cc } else { 0.0 }
    }

    /// The best scale.
    #[inline(always)]
    pub(crate) fn scale(&self) -> f64 {
        if self.cc > 0.0 { self.cv / self.cc } else { 0.0 }
    }

    /// By how much a scale lessens `Σv²`.
    #[inline(always)]
    pub(crate) fn gain(&self, scale: f64) -> f64 {
        scale * (2.0 * self.cv - scale * self.cc)
    }
}

/// Refits of the best candidate.
pub(crate) const REFITS: usize = 2;

/// How a format stores scales.
pub(crate) trait Stored {
    /// A scale over a unit's power as the format has it; nothing where it can't.
    fn stored(&self, scale: f64, power: f64) -> Option<f64>;
}

/// The scale of a group, given the one that its extremes give, and others that are tried; all over the
/// unit's power.
#[inline(always)]
pub(crate) fn scale<L: Lanes, N: Numbers, const K: usize>(
    lanes: L,
    unit: &Unit<'_>,
    usual: f64,
    candidates: [f64; K],
    stored: &impl Stored,
    numbers: &N,
) -> f64 {
    let mut start = Moments::scaled(lanes, unit, usual, numbers);
    let (mut best, mut gain) = (usual, start.gain(usual));
    for candidate in candidates {
        let found = Moments::scaled(lanes, unit, candidate, numbers);
        if found.best() > start.best() {
            start = found;
        }
    }
    for _ in 0..REFITS {
        let Some(rounded) = stored.stored(start.scale(), unit.power) else { break };
        start = Moments::scaled(lanes, unit, rounded, numbers);
        let found = start.gain(rounded);
        if found > gain {
            (best, gain) = (rounded, found);
        }
    }
    best
}

/// The first best of some scales, which can't be refitted.
#[inline(always)]
pub(crate) fn choose<L: Lanes, N: Numbers, const K: usize>(
    lanes: L,
    unit: &Unit<'_>,
    scales: [f64; K],
    numbers: &N,
) -> f64 {
    let mut best = (scales[0], f64::NEG_INFINITY);
    for scale in scales {
        let found = Moments::scaled(lanes, unit, scale, numbers).gain(scale);
        if found > best.1 {
            best = (scale, found);
        }
    }
    best.0
}
