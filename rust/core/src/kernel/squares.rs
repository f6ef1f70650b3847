//! Sums of squares of float32 numbers in float32 arithmetic, to some thirteen digits: half the
//! instructions that widening every number to float64 takes.

use crate::simd::Lanes;

/// After so many additions the lanes are moved into float64, so that little is ever rounded away.
pub(crate) const SETTLE: usize = 32;

/// How many times a vector's mean part in a sum the anchor may be for the sum to be trusted.
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

    /// Add the squares of sixteen numbers. [`SETTLE`] times, or little more, before
    /// [`Squares::settle`].
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
        fn sums_have_thirteen_digits_or_are_not_given(
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
