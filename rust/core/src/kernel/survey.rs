//! What must be known of a tile before it is encoded: the extremes of its groups, and whether all
//! values are finite.

mod along;
mod halves;

use crate::scheme::Range;
use crate::simd::{LANES, Lanes};
pub(crate) use along::Along;
pub(crate) use halves::{SHARE, survey_halves};

/// The bits of infinity; those of a NaN are larger.
const INFINITY: u32 = 0x7f80_0000;
const SIGN: u32 = 0x8000_0000;

/// The range of every group of `values`, rows of `width` elements, into `ranges`, row after row;
/// whether every value is a finite number.
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
) -> bool {
    if !width.is_multiple_of(group_size) {
        return scan(lanes, Groups { values, width, left: width, group_size }, ranges);
    }
    // The usual sizes have loops of their own, and without rests it makes no difference where rows
    // end.
    let (vectors, _) = values.as_chunks::<LANES>();
    let width = values.len();
    match group_size {
        32 => scan(lanes, Even::<2> { vectors }, ranges),
        64 => scan(lanes, Even::<4> { vectors }, ranges),
        128 => scan(lanes, Even::<8> { vectors }, ranges),
        _ => scan(lanes, Groups { values, width, left: width, group_size }, ranges),
    }
}

/// The largest bits of positive and of negative values.
pub(crate) type Extremes<L> = [<L as Lanes>::U32; 2];

/// Groups that follow each other.
trait Source<L: Lanes> {
    /// The bits of infinity.
    const INFINITY: u32 = INFINITY;

    /// Sixteen values from their bits.
    #[inline(always)]
    fn values(lanes: L, bits: &[u32; LANES]) -> [f32; LANES] {
        floats(lanes, bits)
    }

    /// Of the next group; zeros after the last.
    fn next(&mut self, lanes: L) -> Extremes<L>;
}

/// Groups of rows.
struct Groups<'a> {
    values: &'a [f32],
    width: usize,
    left: usize,
    group_size: usize,
}

impl<L: Lanes> Source<L> for Groups<'_> {
    #[inline(always)]
    fn next(&mut self, lanes: L) -> Extremes<L> {
        let (group, values) =
            self.values.split_at(self.group_size.min(self.left).min(self.values.len()));
        self.values = values;
        self.left -= group.len();
        if self.left == 0 {
            self.left = self.width;
        }
        let (vectors, rest) = group.as_chunks::<LANES>();
        let extremes = extremes(lanes, vectors, [lanes.zero_u32(); 2]);
        if rest.is_empty() {
            return extremes;
        }
        // Zeros belong to every range.
        let mut padded = [[0.0; LANES]];
        padded[0][..rest.len()].copy_from_slice(rest);
        self::extremes(lanes, &padded, extremes)
    }
}

/// Groups of `VECTORS` vectors each.
struct Even<'a, const VECTORS: usize> {
    vectors: &'a [[f32; LANES]],
}

impl<L: Lanes, const VECTORS: usize> Source<L> for Even<'_, VECTORS> {
    #[inline(always)]
    fn next(&mut self, lanes: L) -> Extremes<L> {
        let zeros = [lanes.zero_u32(); 2];
        let Some((group, vectors)) = self.vectors.split_first_chunk::<VECTORS>() else {
            return zeros;
        };
        self.vectors = vectors;
        extremes(lanes, group, zeros)
    }
}

#[inline(always)]
fn extremes<L: Lanes>(
    lanes: L,
    vectors: &[[f32; LANES]],
    mut extremes: Extremes<L>,
) -> Extremes<L> {
    for vector in vectors {
        extremes = extend(lanes, extremes, vector);
    }
    extremes
}

/// The ranges of all groups, up to sixteen of them together, since their lanes are compared
/// together.
#[inline(always)]
fn scan<L: Lanes, S: Source<L>>(lanes: L, mut groups: S, ranges: &mut [Range]) -> bool {
    let zero = lanes.zero_u32();
    let mut largest = [zero; 2];
    for ranges in ranges.chunks_mut(LANES) {
        let (mut highs, mut lows) = ([zero; 4], [zero; 4]);
        for (high, low) in highs.iter_mut().zip(&mut lows).take(ranges.len().div_ceil(4)) {
            // Spelled out: through a closure, vectors would be passed in memory.
            let [high_a, low_a] = groups.next(lanes);
            let [high_b, low_b] = groups.next(lanes);
            let [high_c, low_c] = groups.next(lanes);
            let [high_d, low_d] = groups.next(lanes);
            *high = lanes.quarter::<true>([high_a, high_b, high_c, high_d]);
            *low = lanes.quarter::<false>([low_a, low_b, low_c, low_d]);
        }
        write(lanes, highs, lows, &mut largest, S::values, ranges);
    }
    are_finite(lanes, largest, S::INFINITY)
}

/// The ranges of up to sixteen groups from their lanes' extremes, which are then part of `largest`.
#[inline(always)]
fn write<L: Lanes>(
    lanes: L,
    highs: [L::U32; 4],
    lows: [L::U32; 4],
    largest: &mut Extremes<L>,
    values: impl Fn(L, &[u32; LANES]) -> [f32; LANES],
    ranges: &mut [Range],
) {
    let (highs, lows) = (lanes.maxima::<true>(highs), lanes.maxima::<false>(lows));
    let [positive, negative] = *largest;
    *largest = [lanes.max::<false>(positive, highs), lanes.max::<false>(negative, lows)];
    let (mut high, mut low) = ([0; LANES], [0; LANES]);
    lanes.store_u32(highs, &mut high);
    lanes.store_u32(lows, &mut low);
    // Minus zero is zero, and so is what is left where no value is negative.
    for low in &mut low {
        *low = if *low > SIGN { *low } else { 0 };
    }
    let (high, low) = (values(lanes, &high), values(lanes, &low));
    for ((range, hi), lo) in ranges.iter_mut().zip(high).zip(low) {
        *range = Range { lo, hi };
    }
}

#[inline(always)]
fn floats<L: Lanes>(_: L, bits: &[u32; LANES]) -> [f32; LANES] {
    bits.map(f32::from_bits)
}

#[inline(always)]
fn are_finite<L: Lanes>(lanes: L, [positive, negative]: Extremes<L>, infinity: u32) -> bool {
    lanes.largest(positive) < infinity && lanes.largest(negative) < SIGN | infinity
}

/// The extremes with those of sixteen more values.
#[inline(always)]
pub(crate) fn extend<L: Lanes>(
    lanes: L,
    [high, low]: Extremes<L>,
    values: &[f32; LANES],
) -> Extremes<L> {
    let bits = lanes.bits(lanes.load(values));
    [lanes.max::<true>(high, bits), lanes.max::<false>(low, bits)]
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
            mut values in prop::collection::vec(-1e3f32..1e3, 1..600),
            width in 1usize..200,
            group_size in prop_oneof![1usize..80, prop::sample::select(vec![32, 64, 128])],
        ) {
            // Whole rows.
            let width = width.min(values.len());
            values.truncate(values.len() / width * width);
            let rows = values.chunks(width);
            let groups: Vec<&[f32]> = rows.flat_map(|row| row.chunks(group_size)).collect();
            let mut out = vec![Range::ZERO; groups.len()];
            let finite = simd::survey(Level::best(), &values, width, group_size, &mut out);
            for (range, group) in out.iter().zip(groups) {
                prop_assert_eq!(range.lo, group.iter().copied().fold(0.0, f32::min));
                prop_assert_eq!(range.hi, group.iter().copied().fold(0.0, f32::max));
            }
            prop_assert!(finite);
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
                simd::survey(Level::best(), values, width, 7, &mut ranges)
            };
            prop_assert!(survey(&values));
            values[at] = bad;
            prop_assert!(!survey(&values));
        }
    }
}
