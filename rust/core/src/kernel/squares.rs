//! Sums of squares of float32 numbers in float32 arithmetic, in fewer instructions than widening
//! every number to float64 takes.

use crate::simd::Lanes;

/// After so many additions at most the lanes are moved into float64.
pub(crate) const SETTLE: usize = 32;

/// How many times a vector's mean part in a sum the anchor may be for the sum to be trusted.
///
/// What is rounded away adds up to a relative 6e-11 at the very most. With `u = 2⁻²⁴`, anchor `A`
/// and mean square `m`, an addition leaves at most `u·A` in `low` (more only as the sum outgrows the
/// anchor, with which its weight grows too), so that the `k`-th rounding of `low` is `u·k·u·A` at
/// most: over [`SETTLE`] additions `u²·SETTLE/2·A/m` of the sum, where `A/m ≤ 16·FARTHEST`. It takes
/// squares that are all alike and far below the anchor to come near; roundings that differ cancel,
/// and leave some 1e-13.
const FARTHEST: f64 = 64.0;

/// A power of two that is not below any of the squares to come; zero if they are all zero.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Anchor(f32);

impl Anchor {
    /// For numbers of at most this magnitude. Where squares would leave the numbers that float32
    /// has with all its digits it is not a number, and [`Squares::total`] then knows no sum.
    #[inline(always)]
    pub(crate) fn of(largest: f32) -> Self {
        const FRACTION: u32 = (1 << 23) - 1;
        let square = largest * largest;
        let up = f32::from_bits((square.to_bits() + FRACTION) & !FRACTION);
        Self(if (1e-30..=1e30).contains(&square) {
            up
        } else if largest == 0.0 {
            0.0
        } else {
            f32::NAN
        })
    }
}

#[cfg(test)]
impl Anchor {
    /// Whether a number of that magnitude must not be added; its own rounding aside.
    pub(crate) fn is_below_the_square_of(self, largest: f32) -> bool {
        self.0 < largest * largest * (1.0 - f32::EPSILON)
    }
}

/// Σx² in sixteen lanes.
///
/// A fused operation adds a square to its lane of `high`. What that rounds away, `x² − (high −
/// before)`, is summed in `low`; `high − before` is exact since `high` begins at the anchor, with
/// which no square can be larger than what it is added to. Sources: Dekker 1971, *A floating-point
/// technique for extending the available precision*, 4.2; Ogita, Rump and Oishi 2005, *Accurate sum
/// and dot product*, algorithm 5.3, here with a fused product.
#[derive(Clone, Copy)]
pub(crate) struct Squares<L: Lanes> {
    lanes: L,
    anchor: L::F32,
    high: L::F32,
    low: L::F32,
    wide: L::F64,
}

impl<L: Lanes> Squares<L> {
    #[inline(always)]
    pub(crate) fn new(lanes: L, Anchor(anchor): Anchor) -> Self {
        let (anchor, low) = (lanes.splat(anchor), lanes.splat(0.0));
        Self { lanes, anchor, high: anchor, low, wide: lanes.zero_f64() }
    }

    /// From zero on.
    #[inline(always)]
    pub(crate) fn begin(&mut self, Anchor(anchor): Anchor) {
        self.anchor = self.lanes.splat(anchor);
        (self.high, self.low) = (self.anchor, self.lanes.splat(0.0));
        self.wide = self.lanes.zero_f64();
    }

    /// Add the squares of sixteen numbers, at most [`SETTLE`] times before [`Squares::settle`].
    #[inline(always)]
    pub(crate) fn add(&mut self, numbers: L::F32) {
        let Self { lanes, high, low, .. } = *self;
        self.high = lanes.add_square(numbers, high);
        let added = lanes.sub(self.high, high);
        self.low = lanes.add(low, lanes.sub_from_square(numbers, added));
    }

    /// Move the lanes into float64.
    #[inline(always)]
    pub(crate) fn settle(&mut self) {
        let Self { lanes, anchor, high, low, wide } = *self;
        self.wide = lanes.add_wide(lanes.add_wide(wide, lanes.sub(high, anchor)), low);
        (self.high, self.low) = (anchor, lanes.splat(0.0));
    }

    /// The sum of what was settled, `vectors` times sixteen squares; nothing where they are so much
    /// smaller than the anchor that the digits of their sum may be too few.
    #[inline(always)]
    pub(crate) fn total(&self, Anchor(anchor): Anchor, vectors: usize) -> Option<f64> {
        let total = self.lanes.total(self.wide);
        (total * FARTHEST >= f64::from(anchor) * vectors as f64).then_some(total)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::simd::{LANES, Portable};
    use proptest::prelude::*;

    fn total(numbers: &[f32]) -> Option<f64> {
        let largest = numbers.iter().fold(0.0, |largest, x| f32::max(largest, x.abs()));
        let anchor = Anchor::of(largest);
        let mut squares = Squares::new(Portable, anchor);
        let (vectors, _) = numbers.as_chunks::<LANES>();
        for block in vectors.chunks(SETTLE) {
            block.iter().for_each(|vector| squares.add(*vector));
            squares.settle();
        }
        squares.total(anchor, vectors.len())
    }

    proptest! {
        #[test]
        fn sums_are_true_or_not_given(
            vectors in prop::collection::vec(prop::array::uniform16(-1.0f32..1.0), 1..200),
            exponents in prop::array::uniform16(-70..70),
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
            match total(&numbers) {
                Some(total) => prop_assert!((total - plain).abs() <= 1e-12 * plain, "{total} {plain}"),
                None => prop_assert!(spread > 4 || plain < 1e-27),
            }
        }
    }

    #[test]
    fn roundings_that_add_up_stay_within_the_bound() {
        for large in [3.0, 10.0, 30.0] {
            for step in 0..200 {
                let mut numbers = [1.0 + step as f32 / 1000.0; 64 * LANES];
                numbers[5] = large;
                let plain: f64 = numbers.iter().map(|&x| f64::from(x) * f64::from(x)).sum();
                let total = total(&numbers).unwrap_or(plain);
                assert!((total - plain).abs() <= 6e-11 * plain, "{total} {plain}");
            }
        }
    }

    #[test]
    fn squares_beyond_float32_are_not_summed() {
        assert_eq!(total(&[0.0; LANES]), Some(0.0));
        for number in [1e-38, 1e-16, 1e16, f32::MAX] {
            assert_eq!(total(&[number; LANES]), None);
        }
        let mut tiny_but_one = [1e-9f32; 64 * LANES];
        tiny_but_one[0] = 1.0;
        assert_eq!(Anchor::of(3.0), Anchor(16.0));
        assert!(total(&tiny_but_one).is_some());
        let mut squares = Squares::new(Portable, Anchor::of(1.0));
        squares.add([1e-9; LANES]);
        squares.settle();
        assert_eq!(squares.total(Anchor::of(1.0), 1), None);
    }
}
