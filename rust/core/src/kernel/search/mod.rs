//! Parameters of a group that leave a smaller squared error than its extremes do.
//!
//! A few candidates are tried. For each, codes are found and summed up: `Σc`, `Σc²`, `Σcv`. These say
//! what the best scale for such codes leaves of `Σv²` (least squares), so that a candidate is judged by
//! what a refit would make of it. The best one is refitted and rounded to what the format stores. What it
//! leaves, and what the extremes leave, is then computed as decoding does; the extremes stay unless the
//! other is smaller.
//!
//! Sums are in sixteen lanes and a fixed order, so that bytes are the same on any CPU.

mod importance;
pub(crate) mod integers;
pub(crate) mod line;

pub use importance::Importance;

use crate::lanes::{LANES, Lanes};

/// How parameters are chosen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Search {
    /// From each group's extremes.
    #[default]
    None,
    /// For the least squared error.
    Mse,
    /// For the least squared error, each weighed by how much it matters.
    Weighted,
}

impl Search {
    /// The words for the setting, of schemes that search.
    pub(crate) const WORDS: &'static [&'static str] = &["none", "mse", "weighted"];

    /// What such a word says.
    pub fn of(word: &str) -> Self {
        match word {
            "mse" => Self::Mse,
            "weighted" => Self::Weighted,
            _ => Self::None,
        }
    }
}

/// Room to search in.
#[derive(Debug, Default)]
pub struct Room {
    /// Values over a power of two.
    pub(crate) values: Vec<f32>,
    /// How much each matters.
    pub(crate) weights: Vec<f32>,
}

/// What to search with: room, and how much the values matter.
pub(crate) struct Searching<'a> {
    room: &'a mut Vec<f32>,
    /// Of each value; empty where all matter alike.
    weights: &'a [f32],
}

impl<'a> Searching<'a> {
    /// For some values of a tile, which begin at element `start` of it.
    #[inline(always)]
    pub(crate) fn new(
        importance: &Importance<'_>,
        values: &[f32],
        start: usize,
        room: &'a mut Room,
    ) -> Self {
        let Room { values: over, weights } = room;
        Self { room: over, weights: importance.weights(values, start, weights) }
    }
}

/// A group's values over a power of two, the largest magnitude from 1 to 2, and zeros behind the last
/// up to whole vectors.
#[derive(Clone, Copy)]
pub(crate) struct Unit<'a> {
    pub(crate) values: &'a [f32],
    /// How much each matters; empty where all matter alike. Those behind the last do not.
    pub(crate) weights: &'a [f32],
    /// The weights' sum; the number of values where all matter alike.
    pub(crate) mass: f64,
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
        searching: Searching<'a>,
    ) -> Option<Self> {
        if !absmax.is_normal() {
            return None;
        }
        let Searching { room, weights } = searching;
        let exponent = absmax.to_bits() & 0x7f80_0000;
        // Of the largest magnitudes the reciprocal is subnormal.
        let power = f32::from_bits(exponent);
        let inverse = 1.0 / power;
        let length = values.len().next_multiple_of(LANES);
        let all = if weights.is_empty() { length } else { 2 * length };
        if room.len() < all {
            room.resize(all, 0.0);
        }
        let (out, own) = room[..all].split_at_mut(length);
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
        if !weights.is_empty() {
            own[..weights.len()].copy_from_slice(weights);
            own[weights.len()..].fill(0.0);
        }
        let absmax = f64::from(absmax) / f64::from(power);
        let (values, weights, power) = (&*out, &*own, f64::from(power));
        let mass = mass(lanes, weights, vectors.len() * LANES + last.len());
        Some(Self { values, weights, mass, absmax, power })
    }

    /// `count` of its values from `at` on, whole vectors.
    #[inline(always)]
    pub(crate) fn part<L: Lanes>(&self, lanes: L, at: usize, count: usize) -> Self {
        let weights = self.weights.get(at..at + count).unwrap_or(&[]);
        let mass = mass(lanes, weights, count);
        Self { values: &self.values[at..at + count], weights, mass, ..*self }
    }
}

/// The sum of weights; the count where there are none.
#[inline(always)]
fn mass<L: Lanes>(lanes: L, weights: &[f32], count: usize) -> f64 {
    if weights.is_empty() {
        return count as f64;
    }
    let mut sums = lanes.zero_f64();
    for vectors in weights.as_chunks::<LANES>().0.chunks(SETTLE) {
        let mut sum = lanes.splat(0.0);
        for weights in vectors {
            sum = lanes.add(sum, lanes.load(weights));
        }
        sums = lanes.add_wide(sums, sum);
    }
    lanes.totals(sums, lanes.zero_f64())[0]
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

/// Vectors after which sums go on in float64.
const SETTLE: usize = 64;

/// A unit's vectors with their weights, as many as are summed up in float32.
#[inline(always)]
fn runs<'a, const WEIGHED: bool>(
    unit: &Unit<'a>,
) -> impl Iterator<Item = (&'a [[f32; LANES]], &'a [[f32; LANES]])> + use<'a, WEIGHED> {
    let (values, weights) = (unit.values.as_chunks::<LANES>().0, unit.weights.as_chunks().0);
    (0..values.len()).step_by(SETTLE).map(move |start| {
        let some = start..(start + SETTLE).min(values.len());
        let weights = if WEIGHED { &weights[some.clone()] } else { &[][..] };
        (&values[some], weights)
    })
}

/// Numbers times their weights, where they have any.
#[inline(always)]
fn weigh<L: Lanes, const WEIGHED: bool>(
    lanes: L,
    numbers: L::F32,
    weights: &[[f32; LANES]],
    at: usize,
) -> L::F32 {
    if WEIGHED { lanes.mul(numbers, lanes.load(&weights[at])) } else { numbers }
}

/// What is known of a group's codes as numbers `c`, and its values `v` less an origin. Each is weighed by
/// how much its value matters.
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
        line: [f32; 3],
        numbers: &N,
    ) -> Self {
        match unit.weights.is_empty() {
            true => Self::summed::<L, N, false>(lanes, unit, line, numbers),
            false => Self::summed::<L, N, true>(lanes, unit, line, numbers),
        }
    }

    #[inline(always)]
    fn summed<L: Lanes, N: Numbers, const WEIGHED: bool>(
        lanes: L,
        unit: &Unit<'_>,
        [inverse, shift, origin]: [f32; 3],
        numbers: &N,
    ) -> Self {
        let [inverse, shift, origin] = [inverse, shift, origin].map(|number| lanes.splat(number));
        let mut found = Self::default();
        for (values, weights) in runs::<WEIGHED>(unit) {
            let zero = lanes.splat(0.0);
            let (mut c, mut cc, mut cv) = (zero, zero, zero);
            for (at, values) in values.iter().enumerate() {
                let values = lanes.load(values);
                let number = numbers.nearest(lanes, lanes.add(lanes.mul(values, inverse), shift));
                let weighed = weigh::<L, WEIGHED>(lanes, number, weights, at);
                c = lanes.add(c, weighed);
                cc = lanes.add(cc, lanes.mul(weighed, number));
                cv = lanes.add(cv, lanes.mul(weighed, lanes.sub(values, origin)));
            }
            let none = lanes.zero_f64();
            let [cc, cv] = lanes.totals(lanes.add_wide(none, cc), lanes.add_wide(none, cv));
            let [c, _] = lanes.totals(lanes.add_wide(none, c), none);
            found = Self { c: found.c + c, cc: found.cc + cc, cv: found.cv + cv };
        }
        found
    }

    /// The same over a scale alone, where `Σc` is not asked for.
    #[inline(always)]
    pub(crate) fn scaled<L: Lanes, N: Numbers>(
        lanes: L,
        unit: &Unit<'_>,
        scale: f64,
        numbers: &N,
    ) -> Self {
        match unit.weights.is_empty() {
            true => Self::summed_over::<L, N, false>(lanes, unit, scale, numbers),
            false => Self::summed_over::<L, N, true>(lanes, unit, scale, numbers),
        }
    }

    #[inline(always)]
    fn summed_over<L: Lanes, N: Numbers, const WEIGHED: bool>(
        lanes: L,
        unit: &Unit<'_>,
        scale: f64,
        numbers: &N,
    ) -> Self {
        let inverse = lanes.splat((1.0 / scale) as f32);
        let mut found = Self::default();
        for (values, weights) in runs::<WEIGHED>(unit) {
            let zero = lanes.splat(0.0);
            let (mut cc, mut cv) = (zero, zero);
            for (at, values) in values.iter().enumerate() {
                let values = lanes.load(values);
                let number = numbers.nearest(lanes, lanes.mul(values, inverse));
                let weighed = weigh::<L, WEIGHED>(lanes, number, weights, at);
                cc = lanes.add(cc, lanes.mul(weighed, number));
                cv = lanes.add(cv, lanes.mul(weighed, values));
            }
            let none = lanes.zero_f64();
            let [cc, cv] = lanes.totals(lanes.add_wide(none, cc), lanes.add_wide(none, cv));
            found = Self { c: 0.0, cc: found.cc + cc, cv: found.cv + cv };
        }
        found
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
}

/// `Σ(v − (scale·c + offset))²` of the numbers nearest to values times `inverse`, plus `shift`: in the
/// operations that decoding has, so that a small error is not lost in large sums.
#[inline(always)]
pub(crate) fn residual<L: Lanes, N: Numbers>(
    lanes: L,
    unit: &Unit<'_>,
    [inverse, shift]: [f32; 2],
    [scale, offset]: [f32; 2],
    numbers: &N,
) -> f64 {
    match unit.weights.is_empty() {
        true => squares::<L, N, false>(lanes, unit, [inverse, shift], [scale, offset], numbers),
        false => squares::<L, N, true>(lanes, unit, [inverse, shift], [scale, offset], numbers),
    }
}

#[inline(always)]
fn squares<L: Lanes, N: Numbers, const WEIGHED: bool>(
    lanes: L,
    unit: &Unit<'_>,
    [inverse, shift]: [f32; 2],
    [scale, offset]: [f32; 2],
    numbers: &N,
) -> f64 {
    let [inverse, shift] = [inverse, shift].map(|number| lanes.splat(number));
    let [scale, offset] = [scale, offset].map(|number| lanes.splat(number));
    let mut sums = lanes.zero_f64();
    for (values, weights) in runs::<WEIGHED>(unit) {
        let mut squares = lanes.splat(0.0);
        for (at, values) in values.iter().enumerate() {
            let values = lanes.load(values);
            let number = numbers.nearest(lanes, lanes.add(lanes.mul(values, inverse), shift));
            let decoded = lanes.add(lanes.mul(number, scale), offset);
            let error = lanes.sub(values, decoded);
            let weighed = weigh::<L, WEIGHED>(lanes, error, weights, at);
            squares = lanes.add(squares, lanes.mul(weighed, error));
        }
        sums = lanes.add_wide(sums, squares);
    }
    // What stands behind the last value is zero, which codes without an offset decode to.
    lanes.totals(sums, lanes.zero_f64())[0]
}

/// The same of a scale alone.
#[inline(always)]
pub(crate) fn residual_of_scale<L: Lanes, N: Numbers>(
    lanes: L,
    unit: &Unit<'_>,
    scale: f64,
    numbers: &N,
) -> f64 {
    let inverse = if scale == 0.0 { 0.0 } else { (1.0 / scale) as f32 };
    residual(lanes, unit, [inverse, 0.0], [scale as f32, 0.0], numbers)
}

/// Refits of the best candidate.
pub(crate) const REFITS: usize = 2;

/// How a format stores scales.
pub(crate) trait Stored {
    /// A scale over a unit's power as the format has it; nothing where it can't.
    fn stored(&self, scale: f64, power: f64) -> Option<f64>;
}

/// A scale that leaves less than the usual one, which the extremes give, and leaves the residual
/// `least`; nothing where none of those that are tried does. All are over the unit's power.
#[inline(always)]
pub(crate) fn scale<L: Lanes, N: Numbers, const K: usize>(
    lanes: L,
    unit: &Unit<'_>,
    (usual, mut least): (f64, f64),
    candidates: [f64; K],
    stored: &impl Stored,
    numbers: &N,
) -> Option<f64> {
    if least == 0.0 {
        return None;
    }
    let mut start = Moments::scaled(lanes, unit, usual, numbers);
    for candidate in candidates {
        let found = Moments::scaled(lanes, unit, candidate, numbers);
        if found.best() > start.best() {
            start = found;
        }
    }
    let mut best = None;
    for refit in 0..REFITS {
        let Some(rounded) = stored.stored(start.scale(), unit.power) else { break };
        let found = residual_of_scale(lanes, unit, rounded, numbers);
        if found < least {
            (best, least) = (Some(rounded), found);
        }
        if refit + 1 < REFITS {
            start = Moments::scaled(lanes, unit, rounded, numbers);
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
    let mut best = (scales[0], f64::INFINITY);
    for scale in scales {
        let found = residual_of_scale(lanes, unit, scale, numbers);
        if found < best.1 {
            best = (scale, found);
        }
    }
    best.0
}
