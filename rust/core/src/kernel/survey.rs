//! What must be known of a tile before it is encoded: the extremes of its groups, whether all
//! values are finite, and the sum of their squares.

use crate::scheme::Range;
use crate::simd::{LANES, Lanes};

/// The bits of infinity; those of a NaN are larger.
const INFINITY: u32 = 0x7f80_0000;
const SIGN: u32 = 0x8000_0000;

/// The range of every group of `values`, rows of `width` elements, into `ranges`, row after row, and
/// Σw² of parts with equally many groups into `squared`; whether every value is a finite number.
///
/// As integers, the bits of positive floats rise with their values, and so do those of negative
/// floats with their magnitudes, above those of all positive ones. So the largest int32 is the
/// largest value and the largest uint32 the smallest one, where there are values of that sign, and
/// infinities and NaNs are above all others in both. Extremes do not depend on the order in which
/// they are found.
#[inline(always)]
pub(crate) fn survey<L: Lanes>(
    lanes: L,
    values: &[f32],
    width: usize,
    group_size: usize,
    ranges: &mut [Range],
    squared: &mut [f64],
) -> bool {
    let zero = lanes.zero_u32();
    let part = ranges.len() / squared.len().max(1);
    let squares = [lanes.zero_f64(); 2];
    let squared = squared.iter_mut();
    let mut scan = Scan { lanes, squares, squared, part, left: part, largest: [zero; 2] };
    let mut groups = Groups { values, width, left: width, group_size };
    let (runs, rest) = ranges.as_chunks_mut::<LANES>();
    for run in runs {
        *run = scan.ranges(&mut groups, LANES);
    }
    if !rest.is_empty() {
        rest.copy_from_slice(&scan.ranges(&mut groups, rest.len())[..rest.len()]);
    }
    let [positive, negative] = scan.largest;
    let (positive, negative) = (lanes.largest(positive), lanes.largest(negative));
    positive < INFINITY && negative < SIGN | INFINITY
}

/// The groups of rows that follow each other.
struct Groups<'a> {
    values: &'a [f32],
    width: usize,
    left: usize,
    group_size: usize,
}

impl<'a> Groups<'a> {
    /// The next group; an empty one after the last.
    #[inline(always)]
    fn next(&mut self) -> &'a [f32] {
        let (group, rest) =
            self.values.split_at(self.group_size.min(self.left).min(self.values.len()));
        self.values = rest;
        self.left -= group.len();
        if self.left == 0 {
            self.left = self.width;
        }
        group
    }
}

struct Scan<'a, L: Lanes> {
    lanes: L,
    /// Σw² of every other vector of the part, so that no sum waits for the one before it.
    squares: [L::F64; 2],
    /// Where the sums of the parts go.
    squared: std::slice::IterMut<'a, f64>,
    /// Groups of a part, and how many of them are still to come.
    part: usize,
    left: usize,
    /// The largest bits of positive and of negative values.
    largest: [L::U32; 2],
}

impl<L: Lanes> Scan<'_, L> {
    /// Up to sixteen groups together, since their lanes are compared together.
    #[inline(always)]
    fn ranges(&mut self, groups: &mut Groups<'_>, count: usize) -> [Range; LANES] {
        let (lanes, zero) = (self.lanes, self.lanes.zero_u32());
        let (mut highs, mut lows) = ([zero; 4], [zero; 4]);
        for (high, low) in highs.iter_mut().zip(&mut lows).take(count.div_ceil(4)) {
            // Spelled out: through a closure, vectors would be passed in memory.
            let [high_a, low_a] = self.extremes(groups.next());
            let [high_b, low_b] = self.extremes(groups.next());
            let [high_c, low_c] = self.extremes(groups.next());
            let [high_d, low_d] = self.extremes(groups.next());
            *high = lanes.quarter::<true>([high_a, high_b, high_c, high_d]);
            *low = lanes.quarter::<false>([low_a, low_b, low_c, low_d]);
        }
        let (highs, lows) = (lanes.maxima::<true>(highs), lanes.maxima::<false>(lows));
        let [positive, negative] = self.largest;
        self.largest = [lanes.max::<false>(positive, highs), lanes.max::<false>(negative, lows)];
        let (mut high, mut low) = ([0; LANES], [0; LANES]);
        lanes.store_u32(highs, &mut high);
        lanes.store_u32(lows, &mut low);
        let mut ranges = [Range::ZERO; LANES];
        for ((range, high), low) in ranges.iter_mut().zip(high).zip(low) {
            // Minus zero is zero, and so is what is left where no value is negative.
            let low = if low > SIGN { low } else { 0 };
            *range = Range { lo: f32::from_bits(low), hi: f32::from_bits(high) };
        }
        ranges
    }

    #[inline(always)]
    fn extremes(&mut self, group: &[f32]) -> [L::U32; 2] {
        let mut extremes = [self.lanes.zero_u32(); 2];
        let (pairs, rest) = group.as_chunks::<{ 2 * LANES }>();
        for pair in pairs {
            let ([even, odd], _) = pair.as_chunks::<LANES>() else { unreachable!() };
            self.vector(even, 0, &mut extremes);
            self.vector(odd, 1, &mut extremes);
        }
        for (at, rest) in rest.chunks(LANES).enumerate() {
            // Zeros belong to every range and add nothing.
            let mut padded = [0.0; LANES];
            padded[..rest.len()].copy_from_slice(rest);
            self.vector(&padded, at, &mut extremes);
        }
        // Behind the last group there may be empty ones.
        self.left -= usize::from(!group.is_empty());
        if self.left == 0 {
            self.end_part();
        }
        extremes
    }

    #[inline(always)]
    fn end_part(&mut self) {
        let [even, odd] = self.squares;
        if let Some(squared) = self.squared.next() {
            *squared = self.lanes.total(even) + self.lanes.total(odd);
        }
        self.squares = [self.lanes.zero_f64(); 2];
        self.left = self.part;
    }

    #[inline(always)]
    fn vector(&mut self, values: &[f32; LANES], parity: usize, [high, low]: &mut [L::U32; 2]) {
        let values = self.lanes.load(values);
        let bits = self.lanes.bits(values);
        *high = self.lanes.max::<true>(*high, bits);
        *low = self.lanes.max::<false>(*low, bits);
        self.squares[parity] = self.lanes.add_squares(self.squares[parity], values);
    }
}

impl Range {
    /// Of no values: zero alone.
    pub const ZERO: Self = Self { lo: 0.0, hi: 0.0 };

    /// The range of both together.
    #[must_use]
    pub fn union(self, other: Self) -> Self {
        Self { lo: self.lo.min(other.lo), hi: self.hi.max(other.hi) }
    }

    /// The largest magnitude.
    pub fn absmax(self) -> f32 {
        self.hi.max(-self.lo)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::simd::{self, Level};
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn ranges_are_the_extremes_with_zero(
            values in prop::collection::vec(-1e3f32..1e3, 1..600),
            width in 1usize..200,
            group_size in 1usize..80,
        ) {
            let rows = values.chunks(width);
            let groups: Vec<&[f32]> = rows.flat_map(|row| row.chunks(group_size)).collect();
            let mut out = vec![Range::ZERO; groups.len()];
            let mut found = [0.0];
            let finite =
                simd::survey(Level::best(), &values, width, group_size, &mut out, &mut found);
            for (range, group) in out.iter().zip(groups) {
                prop_assert_eq!(range.lo, group.iter().copied().fold(0.0, f32::min));
                prop_assert_eq!(range.hi, group.iter().copied().fold(0.0, f32::max));
            }
            let squared: f64 = values.iter().map(|&value| f64::from(value).powi(2)).sum();
            prop_assert!((found[0] - squared).abs() <= 1e-13 * squared && finite);
        }

        #[test]
        fn values_that_are_not_finite_are_seen(
            mut values in prop::collection::vec(-1e38f32..1e38, 1..300),
            at: prop::sample::Index,
            bad in prop::sample::select(vec![f32::NAN, -f32::NAN, f32::INFINITY, f32::NEG_INFINITY]),
        ) {
            let at = at.index(values.len());
            let mut ranges = vec![Range::ZERO; values.len().div_ceil(7)];
            let width = values.len();
            let mut survey = |values: &[f32]| {
                simd::survey(Level::best(), values, width, 7, &mut ranges, &mut [])
            };
            prop_assert!(survey(&values));
            values[at] = bad;
            prop_assert!(!survey(&values));
        }
    }
}
