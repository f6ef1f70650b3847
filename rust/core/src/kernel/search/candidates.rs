//! Candidates for each group: what is known of the codes that each of them gives.

use super::narrow::Narrow;
use super::numbers::{Integers, NarrowNumbers, Numbers};
use super::units::{Totals, Units, weigh};
use crate::lanes::Lanes;

/// Candidates that most formats try.
pub(crate) const EIGHT: usize = 8;
/// Candidates that are tried in one pass over the values, so that their sums stay in registers. A format tries a
/// multiple of it.
pub(crate) const FOUR: usize = 4;

/// What is known of a group's codes as numbers `c`, and its values `v`. Each is weighed by how much its
/// value matters.
#[derive(Clone, Copy)]
pub(crate) struct Sums<L: Lanes> {
    /// `Σc`; zero in searches for a scale without an offset.
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
pub(crate) struct Lines<L: Lanes, const N: usize> {
    pub(crate) inverses: [L::F32; N],
    pub(crate) shifts: [L::F32; N],
    pub(crate) origins: L::F32,
}

/// Groups of values, and the numbers that codes stand for: candidates are tried of them.
pub(crate) struct Trial<'a, L: Lanes, T: Numbers> {
    units: Units<'a, L>,
    numbers: T,
    /// Both as int16, where all values matter alike and that is enough.
    narrow: Option<(Narrow<'a, L>, T::Narrow)>,
}

impl<'a, L: Lanes, T: Numbers> Trial<'a, L, T> {
    /// To search for scales without offsets.
    #[inline(always)]
    pub(crate) fn of_scales(lanes: L, units: &Units<'a, L>, numbers: T) -> Self {
        let narrow = if units.weights.is_empty() { numbers.narrow(lanes) } else { None };
        let narrow = match narrow {
            Some(numbers) => Some((Narrow::of_scales(lanes, units), numbers)),
            None => None,
        };
        Self { units: *units, numbers, narrow }
    }

    /// The sums of the numbers nearest to values times each of these.
    #[inline(always)]
    pub(crate) fn inverses<const N: usize>(&self, lanes: L, inverses: [L::F32; N]) -> [Sums<L>; N] {
        let zero = lanes.splat(0.0);
        self.sums::<false, N>(lanes, &Lines { inverses, shifts: [zero; N], origins: zero })
    }

    #[inline(always)]
    fn sums<const SHIFTED: bool, const N: usize>(
        &self,
        lanes: L,
        lines: &Lines<L, N>,
    ) -> [Sums<L>; N] {
        const { assert!(N.is_multiple_of(FOUR)) }
        let mut found = [Sums::none(lanes); N];
        let inverses = lines.inverses.as_chunks().0.iter();
        let these = inverses.zip(lines.shifts.as_chunks().0);
        for (at, (found, (inverses, shifts))) in
            found.as_chunks_mut().0.iter_mut().zip(these).enumerate()
        {
            let these = (*inverses, *shifts, lines.origins);
            self.some::<SHIFTED, FOUR>(lanes, these, at * FOUR, found);
        }
        found
    }

    /// Of lines with these inverses, shifts and origins, of which the first has that number.
    #[inline(always)]
    fn some<const SHIFTED: bool, const COUNT: usize>(
        &self,
        lanes: L,
        these: ([L::F32; COUNT], [L::F32; COUNT], L::F32),
        first: usize,
        found: &mut [Sums<L>; COUNT],
    ) {
        let Self { units, numbers, narrow } = self;
        match narrow {
            Some((values, numbers)) => {
                let values = (units, values);
                in_int16::<L, _, SHIFTED, COUNT>(lanes, values, these, first, numbers, found);
            }
            None if units.weights.is_empty() => {
                some::<L, T, false, SHIFTED, COUNT>(lanes, units, these, first, numbers, found);
            }
            None => some::<L, T, true, SHIFTED, COUNT>(lanes, units, these, first, numbers, found),
        }
    }
}

impl<'a, L: Lanes> Trial<'a, L, Integers> {
    /// For lines of values between these ends, and codes from 0 to `top`.
    #[inline(always)]
    pub(super) fn of_lines(lanes: L, units: &Units<'a, L>, ends: [L::F32; 2], top: f32) -> Self {
        let numbers = Integers { low: 0.0, high: top };
        let narrow = if units.weights.is_empty() { numbers.narrow(lanes) } else { None };
        let narrow = match narrow {
            Some(numbers) => Some((Narrow::between(lanes, units, ends), numbers)),
            None => None,
        };
        Self { units: *units, numbers, narrow }
    }

    /// The sums of values above `origin`, and of their weights.
    #[inline(always)]
    pub(super) fn totals(&self, lanes: L, origin: L::F32) -> Totals<L> {
        let Self { units, narrow, .. } = self;
        let Some((values, _)) = narrow else { return units.totals(origin) };
        let mass = lanes.splat(units.values.len() as f32);
        let above = lanes.mul(lanes.sub(values.origin, origin), mass);
        let sum = lanes.mul_add(values.total(lanes), values.step, above);
        Totals { sum: units.fold(sum), mass: units.fold(mass) }
    }

    /// The sums of some lines' codes; `v` is what values are above the origin.
    #[inline(always)]
    pub(crate) fn lines<const N: usize>(&self, lanes: L, lines: &Lines<L, N>) -> [Sums<L>; N] {
        self.sums::<true, N>(lanes, lines)
    }

    /// The same of one line.
    #[inline(always)]
    pub(super) fn line(
        &self,
        lanes: L,
        (inverse, shift, origin): (L::F32, L::F32, L::F32),
    ) -> Sums<L> {
        let mut found = [Sums::none(lanes)];
        self.some::<true, 1>(lanes, ([inverse], [shift], origin), 0, &mut found);
        let [found] = found;
        found
    }
}

/// As [`some`], of values as int16.
#[inline(always)]
fn in_int16<L: Lanes, T: NarrowNumbers, const SHIFTED: bool, const COUNT: usize>(
    lanes: L,
    (units, narrow): (&Units<'_, L>, &Narrow<'_, L>),
    (inverses, mut shifts, origins): ([L::F32; COUNT], [L::F32; COUNT], L::F32),
    first: usize,
    numbers: &T,
    found: &mut [Sums<L>; COUNT],
) {
    // What the values' own origin is above the lines'.
    let above = lanes.sub(narrow.origin, origins);
    if SHIFTED {
        for (shift, inverse) in shifts.iter_mut().zip(&inverses) {
            *shift = lanes.mul_add(above, *inverse, *shift);
        }
    }
    let factors = narrow.factors::<T, COUNT>(lanes, (inverses, shifts));
    let [c, cc, cv] = narrow.sums::<T, SHIFTED, COUNT>(lanes, factors, first, numbers);
    for at in 0..COUNT {
        let cv = lanes.mul(cv[at], narrow.step);
        let cv = if SHIFTED { lanes.mul_add(above, c[at], cv) } else { cv };
        let (c, cc, cv) = (units.fold(c[at]), units.fold(cc[at]), units.fold(cv));
        found[at] = Sums { c, cc, cv };
    }
}

/// Of lines with these inverses, shifts and origins, of which the first has that number.
#[inline(always)]
fn some<L: Lanes, T: Numbers, const WEIGHED: bool, const SHIFTED: bool, const COUNT: usize>(
    lanes: L,
    units: &Units<'_, L>,
    (inverses, shifts, origins): ([L::F32; COUNT], [L::F32; COUNT], L::F32),
    first: usize,
    numbers: &T,
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

/// For each lane, what belongs to the candidate of the largest gain, the first of several; to the first
/// candidate where no gain is above zero.
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
pub(crate) fn best_scales<L: Lanes>(lanes: L, found: &[Sums<L>]) -> L::F32 {
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
    use crate::kernel::search::importance::Importance;
    use crate::kernel::search::units::{Room, Rows};
    use crate::lanes::{LANES, Portable};
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn sums_in_int16_are_those_in_float32(
            values in prop::collection::vec(-1f32..1.0, 32..600), power in -20i32..20,
            inverse in 3f32..9.0, shift in -1f32..1.0,
        ) {
            let length = values.len() / LANES * LANES;
            let values: Vec<f32> = values.iter().map(|v| v * 2f32.powi(power)).collect();
            let most = values.iter().fold(0f32, |most, v| most.max(v.abs()));
            prop_assume!(most.is_normal());
            let rows = Rows::of_groups((&values, 0), &[(0, length)], &[most], 1);
            let mut room = Room::default();
            let units = Units::new(Portable, &rows, &Importance::default(), &mut room);
            // A few values lie so near the middle of two numbers that they become the other one: that
            // makes such a difference.
            let others = 2.0 + 0.03 * length as f32;
            let near = |narrow: [f32; LANES], wide: [f32; LANES], other: f32| {
                (narrow[0] - wide[0]).abs() <= others * other
            };
            let numbers = Integers { low: -8.0, high: 7.0 };
            let inverses = [[inverse; LANES]; FOUR];
            // As a trial that has no int16.
            let wide = Trial { units, numbers, narrow: None }.inverses(Portable, inverses)[3];
            let narrow = Trial::of_scales(Portable, &units, numbers).inverses(Portable, inverses)[3];
            prop_assert!(near(narrow.cc, wide.cc, 15.0));
            prop_assert!(near(narrow.cv, wide.cv, 2.0));
            let ends = units.ends();
            let trial = Trial::of_lines(Portable, &units, ends, 15.0);
            let (totals, known) = (trial.totals(Portable, ends[0]), units.totals(ends[0]));
            prop_assert!(near(totals.sum, known.sum, 0.01));
            prop_assert_eq!(totals.mass[0], known.mass[0]);
            let shifts = [[shift; LANES]; FOUR];
            let lines = Lines { inverses, shifts, origins: ends[0] };
            let narrow = trial.lines(Portable, &lines)[0];
            let wide = Trial { narrow: None, ..trial }.lines(Portable, &lines)[0];
            prop_assert!(near(narrow.c, wide.c, 1.0));
            prop_assert!(near(narrow.cc, wide.cc, 29.0));
            prop_assert!(near(narrow.cv, wide.cv, 4.0));
        }
    }

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
