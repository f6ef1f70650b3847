//! Eight candidates for each group: what is known of the codes that each of them gives.

use super::numbers::{Integers, Numbers};
use super::units::{Units, weigh};
use crate::lanes::Lanes;

/// Candidates that are tried.
pub(crate) const EIGHT: usize = 8;
/// Of which as many together: their sums stay in registers.
const FOUR: usize = 4;

/// What is known of a group's codes as numbers `c`, and its values `v`. Each is weighed by how much its
/// value matters.
#[derive(Clone, Copy)]
pub(crate) struct Sums<L: Lanes> {
    /// `Σc`; not of scales alone.
    pub(crate) c: L::F32,
    /// `Σc²`
    pub(crate) cc: L::F32,
    /// `Σcv`
    pub(crate) cv: L::F32,
}

impl<L: Lanes> Sums<L> {
    /// Of no values.
    #[inline(always)]
    fn none(lanes: L) -> Self {
        let zero = lanes.splat(0.0);
        Self { c: zero, cc: zero, cv: zero }
    }
}

/// Codes are those of the numbers nearest to `(v − origin)·inverse + shift`.
pub(crate) struct Lines<L: Lanes> {
    pub(crate) inverses: [L::F32; EIGHT],
    pub(crate) shifts: [L::F32; EIGHT],
    pub(crate) origins: L::F32,
}

/// Of the numbers nearest to values times each of these.
#[inline(always)]
pub(crate) fn of_inverses<L: Lanes, N: Numbers>(
    lanes: L,
    units: &Units<'_, L>,
    inverses: [L::F32; EIGHT],
    numbers: &N,
) -> [Sums<L>; EIGHT] {
    let zero = lanes.splat(0.0);
    let lines = Lines { inverses, shifts: [zero; EIGHT], origins: zero };
    match units.weights.is_empty() {
        true => sums::<L, N, false, false>(lanes, units, &lines, numbers),
        false => sums::<L, N, true, false>(lanes, units, &lines, numbers),
    }
}

/// Of codes from 0 to `top`; `v` is then what values are above the origin.
#[inline(always)]
pub(crate) fn of_lines<L: Lanes>(
    lanes: L,
    units: &Units<'_, L>,
    lines: &Lines<L>,
    top: f32,
) -> [Sums<L>; EIGHT] {
    let numbers = Integers { low: 0.0, high: top };
    match units.weights.is_empty() {
        true => sums::<L, _, false, true>(lanes, units, lines, &numbers),
        false => sums::<L, _, true, true>(lanes, units, lines, &numbers),
    }
}

/// The same of one line.
#[inline(always)]
pub(crate) fn of_line<L: Lanes>(
    lanes: L,
    units: &Units<'_, L>,
    (inverse, shift, origin): (L::F32, L::F32, L::F32),
    top: f32,
) -> Sums<L> {
    let numbers = Integers { low: 0.0, high: top };
    let (line, mut found) = (([inverse], [shift], origin), [Sums::none(lanes)]);
    match units.weights.is_empty() {
        true => some::<L, _, false, true, 1>(lanes, units, line, 0, &numbers, &mut found),
        false => some::<L, _, true, true, 1>(lanes, units, line, 0, &numbers, &mut found),
    }
    let [found] = found;
    found
}

#[inline(always)]
fn sums<L: Lanes, N: Numbers, const WEIGHED: bool, const SHIFTED: bool>(
    lanes: L,
    units: &Units<'_, L>,
    lines: &Lines<L>,
    numbers: &N,
) -> [Sums<L>; EIGHT] {
    let mut found = [Sums::none(lanes); EIGHT];
    let inverses = lines.inverses.as_chunks().0.iter();
    let these = inverses.zip(lines.shifts.as_chunks().0);
    for (at, (found, (inverses, shifts))) in
        found.as_chunks_mut().0.iter_mut().zip(these).enumerate()
    {
        let these = (*inverses, *shifts, lines.origins);
        some::<L, N, WEIGHED, SHIFTED, FOUR>(lanes, units, these, at * FOUR, numbers, found);
    }
    found
}

/// Of lines with these inverses, shifts and origins, of which the first has that number.
#[inline(always)]
fn some<L: Lanes, N: Numbers, const WEIGHED: bool, const SHIFTED: bool, const COUNT: usize>(
    lanes: L,
    units: &Units<'_, L>,
    (inverses, shifts, origins): ([L::F32; COUNT], [L::F32; COUNT], L::F32),
    first: usize,
    numbers: &N,
    found: &mut [Sums<L>; COUNT],
) {
    let zero = lanes.splat(0.0);
    for (values, weights) in units.runs::<WEIGHED>() {
        let (mut c, mut cc, mut cv) = ([zero; COUNT], [zero; COUNT], [zero; COUNT]);
        for (place, values) in values.iter().enumerate() {
            let values = lanes.load(values);
            let values = if SHIFTED { lanes.sub(values, origins) } else { values };
            for at in 0..COUNT {
                let scaled = match SHIFTED {
                    true => lanes.mul_add(values, inverses[at], shifts[at]),
                    false => lanes.mul(values, inverses[at]),
                };
                let number = numbers.nearest_of(lanes, first + at, scaled);
                let weighed = weigh::<L, WEIGHED>(lanes, number, weights, place);
                if SHIFTED {
                    c[at] = lanes.add(c[at], weighed);
                }
                cc[at] = lanes.mul_add(weighed, number, cc[at]);
                cv[at] = lanes.mul_add(weighed, values, cv[at]);
            }
        }
        for at in 0..COUNT {
            found[at].c = lanes.add(found[at].c, c[at]);
            found[at].cc = lanes.add(found[at].cc, cc[at]);
            found[at].cv = lanes.add(found[at].cv, cv[at]);
        }
    }
    for sums in found {
        (sums.c, sums.cc, sums.cv) = (units.fold(sums.c), units.fold(sums.cc), units.fold(sums.cv));
    }
}

/// Of each lane, what belongs to the first of the largest gains above zero; to the first of all where none
/// is.
#[derive(Clone, Copy)]
pub(crate) struct Best<L: Lanes, const N: usize> {
    gain: L::F32,
    pub(crate) of: [L::F32; N],
}

impl<L: Lanes, const N: usize> Best<L, N> {
    /// Nothing yet but what stays where no gain is above zero.
    #[inline(always)]
    pub(crate) fn new(lanes: L, of: [L::F32; N]) -> Self {
        Self { gain: lanes.splat(0.0), of }
    }

    /// One more candidate.
    #[inline(always)]
    pub(crate) fn add(&mut self, lanes: L, gain: L::F32, of: [L::F32; N]) {
        for (own, other) in self.of.iter_mut().zip(of) {
            *own = lanes.if_above(gain, self.gain, other, *own);
        }
        self.gain = lanes.if_above(gain, self.gain, gain, self.gain);
    }
}

/// The least-squares scales of the candidates whose codes leave the least with theirs; zero where there is
/// none.
#[inline(always)]
pub(crate) fn best_scales<L: Lanes>(lanes: L, found: &[Sums<L>; EIGHT]) -> L::F32 {
    let mut best = Best::new(lanes, [found[0].cc, found[0].cv]);
    for Sums { cc, cv, .. } in found {
        best.add(lanes, lanes.div(lanes.mul(*cv, *cv), *cc), [*cc, *cv]);
    }
    let [cc, cv] = best.of;
    let zero = lanes.splat(0.0);
    lanes.if_above(cc, zero, lanes.div(cv, cc), zero)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lanes::{LANES, Portable};

    #[test]
    fn the_first_of_the_largest_is_found() {
        let best = |gains: [f32; EIGHT]| {
            let mut best = Best::new(Portable, [[0.0; LANES]]);
            for (at, gain) in (0u8..).zip(gains) {
                best.add(Portable, [gain; LANES], [[f32::from(at); LANES]]);
            }
            best.of[0][3]
        };
        assert_eq!(best([1.0, 3.0, 2.0, 3.0, 0.0, -1.0, 0.5, 2.5]), 1.0);
        assert_eq!(best([-1.0; EIGHT]), 0.0);
        assert_eq!(best([f32::NAN; EIGHT]), 0.0);
        let mut of = [f32::NAN; EIGHT];
        of[7] = 1.0;
        assert_eq!(best(of), 7.0);
    }
}
