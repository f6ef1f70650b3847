//! What must be known of a tile before it is encoded: the extremes of its groups, and whether all
//! values are finite.

mod along;
mod extremes;

pub(crate) use super::stored::Extremes;
use super::stored::{BFloat16, Float16, Float32, Stored};
use crate::dtype::Float;
use crate::kernel::tile::{Bounds, Values};
use crate::lanes::{LANES, Lanes};
pub(crate) use along::Along;
use extremes::{are_finite, extremes, quarter, write};

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
    ranges: &mut [Bounds],
) -> bool {
    if width.is_multiple_of(group_size) && group_size.is_multiple_of(LANES) {
        // Without rests it makes no difference where rows end.
        return survey_lines::<L, Float32>(lanes, Values::Float32(values), group_size, ranges);
    }
    scan(lanes, Groups { values, width, left: width, group_size }, ranges)
}

/// The same for binary16 or bfloat16 numbers, in groups of `group_size`, a multiple of
/// [`crate::kernel::tile::PAIRS`], whichever row they are of.
#[inline(always)]
pub(crate) fn survey_halves<L: Lanes>(
    lanes: L,
    source: Float,
    bytes: &[u8],
    group_size: usize,
    ranges: &mut [Bounds],
) -> bool {
    let values = Values::Halves(source, bytes);
    if source == Float::BF16 {
        survey_lines::<L, BFloat16>(lanes, values, group_size, ranges)
    } else {
        survey_lines::<L, Float16>(lanes, values, group_size, ranges)
    }
}

#[inline(always)]
fn survey_lines<L: Lanes, S: Stored>(
    lanes: L,
    values: Values<'_>,
    group_size: usize,
    ranges: &mut [Bounds],
) -> bool {
    let lines = S::lines(values);
    // The usual sizes have loops of their own.
    match group_size / (S::VECTORS * LANES) {
        count @ 1 => scan(lanes, Lines::<S, 1> { lines, count }, ranges),
        count @ 2 => scan(lanes, Lines::<S, 2> { lines, count }, ranges),
        count @ 4 => scan(lanes, Lines::<S, 4> { lines, count }, ranges),
        count @ 8 => scan(lanes, Lines::<S, 8> { lines, count }, ranges),
        count => scan(lanes, Lines::<S, 0> { lines, count }, ranges),
    }
}

/// Groups that follow each other.
trait Source<L: Lanes> {
    /// What their weights are.
    type Stored: Stored;

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
    type Stored = Float32;

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
        let extremes = extremes::<L, Float32>(lanes, vectors, [lanes.zero_u32(); 2]);
        if rest.is_empty() {
            return extremes;
        }
        // Zeros belong to every range.
        let mut padded = [[0.0; LANES]];
        padded[0][..rest.len()].copy_from_slice(rest);
        self::extremes::<L, Float32>(lanes, &padded, extremes)
    }
}

/// Groups of `count` lines; of `COUNT`, where that is not zero.
struct Lines<'a, S: Stored, const COUNT: usize> {
    lines: &'a [S::Line],
    count: usize,
}

impl<L: Lanes, S: Stored, const COUNT: usize> Source<L> for Lines<'_, S, COUNT> {
    type Stored = S;

    #[inline(always)]
    fn next(&mut self, lanes: L) -> Extremes<L> {
        let count = if COUNT == 0 { self.count } else { COUNT };
        let (group, lines) = self.lines.split_at(count.min(self.lines.len()));
        self.lines = lines;
        extremes::<L, S>(lanes, group, [lanes.zero_u32(); 2])
    }
}

/// The ranges of all groups, up to sixteen of them together, since their lanes are compared
/// together.
#[inline(always)]
fn scan<L: Lanes, S: Source<L>>(lanes: L, mut groups: S, ranges: &mut [Bounds]) -> bool {
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
            *high = quarter::<L, S::Stored, true>(lanes, [high_a, high_b, high_c, high_d]);
            *low = quarter::<L, S::Stored, false>(lanes, [low_a, low_b, low_c, low_d]);
        }
        write::<L, S::Stored>(lanes, highs, lows, &mut largest, ranges);
    }
    are_finite::<L, S::Stored>(lanes, largest)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::dispatch;
    use crate::lanes::Level;
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
            let mut out = vec![Bounds::ZERO; groups.len()];
            let finite = dispatch::survey(Level::best(), &values, width, group_size, &mut out);
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
            let mut ranges = vec![Bounds::ZERO; values.len().div_ceil(7)];
            let width = values.len();
            let mut survey = |values: &[f32]| {
                dispatch::survey(Level::best(), values, width, 7, &mut ranges)
            };
            prop_assert!(survey(&values));
            values[at] = bad;
            prop_assert!(!survey(&values));
        }
    }
}
