//! Sums of squares of float32 numbers in few instructions: short sums in float32, long ones in
//! float64.

use crate::lanes::Lanes;

/// After so many additions at most the lanes are moved into float64.
pub(crate) const SETTLE: usize = 32;

/// How far a sum is from the true one at most, relative to it: each addition rounds once, and the
/// last of [`SETTLE`] carries all those before it.
#[cfg(test)]
pub(crate) const PRECISION: f64 = SETTLE as f64 * (f32::EPSILON / 2.0) as f64;

/// Smaller sums may lack what float32 rounds to zero: up to 2⁻¹⁵⁰ for each square.
const FAINTEST: f64 = f32::MIN_POSITIVE as f64 * (1u64 << 26) as f64;

/// Σx² in sixteen lanes.
///
/// A fused operation adds a square to its lane, rounding once. At worst [`SETTLE`] roundings of
/// 2⁻²⁴ add up to a relative 2e-6. Those of numbers that differ mostly cancel, but not all of those
/// with few digits, whose ties go to even: of 16-bit weights some 5e-8 remains, however many there are.
#[derive(Clone, Copy)]
pub(crate) struct Squares<L: Lanes> {
    lanes: L,
    narrow: L::F32,
    wide: L::F64,
}

impl<L: Lanes> Squares<L> {
    #[inline(always)]
    pub(crate) fn new(lanes: L) -> Self {
        Self { lanes, narrow: lanes.splat(0.0), wide: lanes.zero_f64() }
    }

    /// Add the squares of sixteen numbers, at most [`SETTLE`] times before [`Squares::settle`].
    /// Their magnitude must be below 2⁶¹.
    #[inline(always)]
    pub(crate) fn add(&mut self, numbers: L::F32) {
        self.narrow = self.lanes.add_square(numbers, self.narrow);
    }

    /// Move the lanes into float64.
    #[inline(always)]
    pub(crate) fn settle(&mut self) {
        self.wide = self.lanes.add_wide(self.wide, self.narrow);
        self.narrow = self.lanes.splat(0.0);
    }

    /// The sums of what was settled here and there.
    #[inline(always)]
    pub(crate) fn totals(&self, other: &Self) -> [f64; 2] {
        self.lanes.totals(self.wide, other.wide)
    }
}

/// Whether a sum is so small that squares of numbers which are not zero may be missing.
#[inline(always)]
pub(crate) fn is_faint(total: f64) -> bool {
    total < FAINTEST
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lanes::{LANES, Portable};
    use proptest::prelude::*;

    fn total(numbers: &[f32]) -> f64 {
        let mut squares = Squares::new(Portable);
        for block in numbers.as_chunks::<LANES>().0.chunks(SETTLE) {
            block.iter().for_each(|vector| squares.add(*vector));
            squares.settle();
        }
        let [total, again] = squares.totals(&squares);
        assert_eq!(total, again);
        total
    }

    proptest! {
        #[test]
        fn sums_are_true_or_faint(
            vectors in prop::collection::vec(prop::array::uniform16(-1.0f32..1.0), 1..200),
            exponents in prop::array::uniform16(-70..60),
            spread in prop::sample::select(vec![0, 4, 70]),
            same: bool,
        ) {
            let mut numbers = vectors.as_flattened().to_vec();
            if same {
                // Where all roundings go the same way they add up.
                let first = numbers[0];
                numbers.fill(first);
            }
            for (number, exponent) in numbers.iter_mut().zip(exponents.iter().cycle()) {
                *number *= 2f32.powi(exponent % (spread + 1));
            }
            let plain: f64 = numbers.iter().map(|&x| f64::from(x) * f64::from(x)).sum();
            let total = total(&numbers);
            prop_assert!(is_faint(total) || (total - plain).abs() <= PRECISION * plain, "{total} {plain}");
        }
    }

    #[test]
    fn of_many_numbers_more_digits_are_true() {
        let numbers: Vec<f32> = (0..1 << 20).map(|at| (at as f32 * 0.7).sin()).collect();
        let plain: f64 = numbers.iter().map(|&x| f64::from(x) * f64::from(x)).sum();
        assert!((total(&numbers) - plain).abs() <= 1e-9 * plain);
        let few = &numbers[..1 << 10];
        let plain: f64 = few.iter().map(|&x| f64::from(x) * f64::from(x)).sum();
        assert!((total(few) - plain).abs() <= 1e-7 * plain);
    }

    #[test]
    fn what_float32_rounds_to_zero_is_faint() {
        for number in [0.0, 1e-38, 1e-23, 1e-16] {
            assert!(is_faint(total(&[number; LANES])), "{number}");
        }
        for number in [1e-15, 1.0, 1e18] {
            assert!(!is_faint(total(&[number; LANES])), "{number}");
        }
    }
}
