//! A group's values as they are searched through, and sums of them.

use super::importance::Importance;
use crate::lanes::{LANES, Lanes};

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
    /// Of each value, and zeros up to whole vectors; empty where all matter alike.
    weights: &'a [f32],
}

impl<'a> Searching<'a> {
    /// For some values of a tile, which begin at element `start` of it.
    #[inline(always)]
    pub(crate) fn new<L: Lanes>(
        lanes: L,
        importance: &Importance<'_>,
        values: &[f32],
        start: usize,
        room: &'a mut Room,
    ) -> Self {
        let Room { values: over, weights } = room;
        Self { room: over, weights: importance.weights(lanes, values, start, weights) }
    }
}

/// A group's values over a power of two, the largest magnitude from 1 to 2, and zeros behind the last
/// up to whole vectors.
#[derive(Clone, Copy)]
pub(crate) struct Unit<'a> {
    pub(crate) values: &'a [f32],
    /// How much each matters; empty where all matter alike. Those behind the last do not.
    pub(crate) weights: &'a [f32],
    /// The power of two, and one over it.
    pub(crate) power: f64,
    pub(crate) inverse: f64,
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
        let (power, inverse) = (f64::from(power), f64::from(inverse));
        Some(Self { values: out, weights, power, inverse })
    }

    /// `count` of its values from `at` on, whole vectors.
    #[inline(always)]
    pub(crate) fn part(&self, at: usize, count: usize) -> Self {
        let weights = self.weights.get(at..at + count).unwrap_or(&[]);
        Self { values: &self.values[at..at + count], weights, ..*self }
    }

    /// A number over the power.
    #[inline(always)]
    pub(crate) fn over(&self, number: f32) -> f64 {
        f64::from(number) * self.inverse
    }

    /// A number times the power.
    #[inline(always)]
    pub(crate) fn times(&self, number: f64) -> f32 {
        (number * self.power) as f32
    }

    /// The sums of values and of their weights; the number of values where all matter alike. Those behind
    /// the last count, too.
    #[inline(always)]
    pub(crate) fn totals<L: Lanes>(&self, lanes: L) -> Totals {
        match self.weights.is_empty() {
            true => totals::<L, false>(lanes, self),
            false => totals::<L, true>(lanes, self),
        }
    }
}

/// The weights of a unit's vector; where all matter alike, ones that nobody asks for.
#[inline(always)]
pub(crate) fn weights_at<L: Lanes, const WEIGHED: bool>(
    lanes: L,
    unit: &Unit<'_>,
    at: usize,
) -> L::F32 {
    match unit.weights.as_chunks().0.get(at) {
        Some(weights) if WEIGHED => lanes.load(weights),
        _ => lanes.splat(1.0),
    }
}

/// The sums of four vectors' lanes.
#[inline(always)]
pub(crate) fn totals_of<L: Lanes>(lanes: L, [a, b, c, d]: [L::F32; 4]) -> [f64; 4] {
    let none = lanes.zero_f64();
    let [a, b] = lanes.totals(lanes.add_wide(none, a), lanes.add_wide(none, b));
    let [c, d] = lanes.totals(lanes.add_wide(none, c), lanes.add_wide(none, d));
    [a, b, c, d]
}

/// Sums of a unit's values.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Totals {
    /// `Σv`
    pub(crate) sum: f64,
    /// `Σ1`
    pub(crate) mass: f64,
}

#[inline(always)]
fn totals<L: Lanes, const WEIGHED: bool>(lanes: L, unit: &Unit<'_>) -> Totals {
    let (mut sums, mut masses) = (lanes.zero_f64(), lanes.zero_f64());
    for (values, weights) in runs::<WEIGHED>(unit) {
        let (mut sum, mut mass) = (lanes.splat(0.0), lanes.splat(0.0));
        for (at, values) in values.iter().enumerate() {
            let weight = weigh::<L, WEIGHED>(lanes, lanes.splat(1.0), weights, at);
            sum = lanes.add(sum, lanes.mul(weight, lanes.load(values)));
            mass = lanes.add(mass, weight);
        }
        (sums, masses) = (lanes.add_wide(sums, sum), lanes.add_wide(masses, mass));
    }
    let [sum, mass] = lanes.totals(sums, masses);
    Totals { sum, mass }
}

/// Vectors that are summed up before their sum joins those before it.
pub(super) const SETTLE: usize = 64;

/// A unit's vectors with their weights, as many as are summed up in float32.
#[inline(always)]
pub(super) fn runs<'a, const WEIGHED: bool>(
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
pub(super) fn weigh<L: Lanes, const WEIGHED: bool>(
    lanes: L,
    numbers: L::F32,
    weights: &[[f32; LANES]],
    at: usize,
) -> L::F32 {
    if WEIGHED { lanes.mul(numbers, lanes.load(&weights[at])) } else { numbers }
}
