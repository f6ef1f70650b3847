//! Eight candidates at once: each lane has one of them, and the values pass by, two at a time.
//!
//! So no sum is taken across lanes, however short a group is.

use super::numbers::{Integers, Numbers};
use super::unit::{SETTLE, Unit};
use crate::lanes::{LANES, Lanes};

/// Candidates that are tried together.
pub(crate) const EIGHT: usize = LANES / 2;

/// For each candidate, what is known of a group's codes as numbers `c`, and its values `v`.
/// Each is weighed by how much its value matters.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Eight {
    /// `Σc`; not of scales alone.
    pub(crate) c: [f32; EIGHT],
    /// `Σc²`
    pub(crate) cc: [f32; EIGHT],
    /// `Σcv`
    pub(crate) cv: [f32; EIGHT],
}

impl Eight {
    /// Of the numbers nearest to values times each of these.
    #[inline(always)]
    pub(crate) fn of_inverses<L: Lanes, N: Numbers>(
        lanes: L,
        unit: &Unit<'_>,
        inverses: [f32; EIGHT],
        numbers: &N,
    ) -> Self {
        let lines = (inverses, [0.0; EIGHT]);
        match unit.weights.is_empty() {
            true => Self::sum::<L, N, false, false>(lanes, unit, lines, numbers),
            false => Self::sum::<L, N, true, false>(lanes, unit, lines, numbers),
        }
    }

    /// Of the codes from 0 to `top` nearest to values times `inverse`, plus `shift`.
    #[inline(always)]
    pub(crate) fn of_lines<L: Lanes>(
        lanes: L,
        unit: &Unit<'_>,
        lines: ([f32; EIGHT], [f32; EIGHT]),
        top: f32,
    ) -> Self {
        let numbers = Integers { low: 0.0, high: top };
        match unit.weights.is_empty() {
            true => Self::sum::<L, _, false, true>(lanes, unit, lines, &numbers),
            false => Self::sum::<L, _, true, true>(lanes, unit, lines, &numbers),
        }
    }

    #[inline(always)]
    fn sum<L: Lanes, N: Numbers, const WEIGHED: bool, const SHIFTED: bool>(
        lanes: L,
        unit: &Unit<'_>,
        (inverses, shifts): ([f32; EIGHT], [f32; EIGHT]),
        numbers: &N,
    ) -> Self {
        let (inverses, shifts) = (twice(lanes, &inverses), twice(lanes, &shifts));
        let none = [0.0; EIGHT];
        let mut found = Self { c: none, cc: none, cv: none };
        let mut weights = unit.weights.as_chunks::<2>().0.iter();
        for pairs in unit.values.as_chunks::<2>().0.chunks(SETTLE * EIGHT) {
            let zero = lanes.splat(0.0);
            let (mut c, mut cc, mut cv) = (zero, zero, zero);
            for pair in pairs {
                let values = lanes.splat_pair(pair);
                let scaled = lanes.mul(values, inverses);
                let scaled = if SHIFTED { lanes.add(scaled, shifts) } else { scaled };
                let number = numbers.nearest(lanes, scaled);
                let weighed = match weights.next() {
                    Some(weights) if WEIGHED => lanes.mul(number, lanes.splat_pair(weights)),
                    _ => number,
                };
                if SHIFTED {
                    c = lanes.add(c, weighed);
                }
                cc = lanes.add(cc, lanes.mul(weighed, number));
                cv = lanes.add(cv, lanes.mul(weighed, values));
            }
            if SHIFTED {
                settle(lanes, c, &mut found.c);
            }
            settle(lanes, cc, &mut found.cc);
            settle(lanes, cv, &mut found.cv);
        }
        found
    }

    /// `Σc`, `Σc²` and `Σcv` of one of them.
    #[inline(always)]
    pub(crate) fn at(&self, candidate: usize) -> [f64; 3] {
        [&self.c, &self.cc, &self.cv].map(|of| f64::from(of[candidate]))
    }

    /// The least-squares scale of the first candidate whose codes leave the least with theirs.
    #[inline(always)]
    pub(crate) fn best_scale(&self) -> f64 {
        let mut gains = [0.0; EIGHT];
        for (gain, (cc, cv)) in gains.iter_mut().zip(self.cc.iter().zip(&self.cv)) {
            *gain = cv * cv / cc;
        }
        let [_, cc, cv] = self.at(first_largest(&gains));
        if cc > 0.0 { cv / cc } else { 0.0 }
    }
}

/// `1/x` of each as float32.
#[inline(always)]
pub(crate) fn inverses(of: &[f64; EIGHT]) -> [f32; EIGHT] {
    of.map(|one| 1.0 / one as f32)
}

/// The first of the largest numbers above zero; the first of all where none is.
///
/// Without branches, which nobody could foresee.
#[inline(always)]
pub(crate) fn first_largest(of: &[f32; EIGHT]) -> usize {
    let larger = |a: f32, b: f32| if a > b { a } else { b };
    let mut positive = [0.0; EIGHT];
    for (positive, one) in positive.iter_mut().zip(of) {
        *positive = if *one > 0.0 { *one } else { 0.0 };
    }
    let [a, b, c, d, e, f, g, h] = positive;
    let (left, right) = (larger(larger(a, b), larger(c, d)), larger(larger(e, f), larger(g, h)));
    let most = larger(left, right);
    let places = positive.iter().enumerate();
    places.fold(0u32, |bits, (at, one)| bits | u32::from(*one == most) << at).trailing_zeros()
        as usize
}

#[inline(always)]
fn twice<L: Lanes>(lanes: L, eight: &[f32; EIGHT]) -> L::F32 {
    let mut sixteen = [0.0; LANES];
    sixteen[..EIGHT].copy_from_slice(eight);
    sixteen[EIGHT..].copy_from_slice(eight);
    lanes.load(&sixteen)
}

/// Add both halves of the lanes.
#[inline(always)]
fn settle<L: Lanes>(lanes: L, sums: L::F32, totals: &mut [f32; EIGHT]) {
    let mut sixteen = [0.0; LANES];
    lanes.store(sums, &mut sixteen);
    for (at, total) in totals.iter_mut().enumerate() {
        *total += sixteen[at] + sixteen[at + EIGHT];
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_of_the_largest_is_found() {
        assert_eq!(first_largest(&[1.0, 3.0, 2.0, 3.0, 0.0, -1.0, 0.5, 2.5]), 1);
        assert_eq!(first_largest(&[-1.0; EIGHT]), 0);
        assert_eq!(first_largest(&[f32::NAN; EIGHT]), 0);
        let mut of = [f32::NAN; EIGHT];
        of[7] = 1.0;
        assert_eq!(first_largest(&of), 7);
    }
}
