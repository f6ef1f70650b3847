//! A survey beside other work, so that waiting for memory costs nothing.

use std::ops::Range as Span;

use super::extremes::{are_finite, extremes, write};
use crate::kernel::stored::{Extremes, Float32};
use crate::kernel::tile::Bounds;
use crate::lanes::{LANES, Lanes};

/// A survey that goes along with other work, a vector at a time: groups of equally many whole
/// vectors.
pub(crate) struct Along<'a, L: Lanes> {
    lanes: L,
    vectors: &'a [[f32; LANES]],
    ranges: &'a mut [Bounds],
    /// Extremes of the groups at hand, behind which others may be left.
    groups: [Extremes<L>; LANES],
    largest: Extremes<L>,
}

impl<'a, L: Lanes> Along<'a, L> {
    #[inline(always)]
    pub(crate) fn new(lanes: L, values: &'a [f32], ranges: &'a mut [Bounds]) -> Self {
        let zeros = [lanes.zero_u32(); 2];
        let (vectors, _) = values.as_chunks();
        Self { lanes, vectors, ranges, groups: [zeros; LANES], largest: zeros }
    }

    /// The next values of up to sixteen groups of as many vectors, and where their extremes go.
    #[inline(always)]
    pub(crate) fn next(
        &mut self,
        vectors: usize,
        groups: Span<usize>,
    ) -> (&'a [[f32; LANES]], &mut [Extremes<L>]) {
        let (these, others) = self.vectors.split_at(vectors * groups.len());
        self.vectors = others;
        (these, &mut self.groups[groups])
    }

    /// Survey groups without other work.
    #[inline(always)]
    pub(crate) fn groups(&mut self, vectors: usize, groups: Span<usize>) {
        let lanes = self.lanes;
        let (these, out) = self.next(vectors, groups);
        for (group, out) in these.chunks_exact(vectors).zip(out) {
            *out = extremes::<L, Float32>(lanes, group, [lanes.zero_u32(); 2]);
        }
    }

    /// Write down the ranges of `count` groups.
    #[inline(always)]
    pub(crate) fn write(&mut self, count: usize) {
        let Self { lanes, groups, .. } = *self;
        let (mut highs, mut lows) = ([lanes.zero_u32(); 4], [lanes.zero_u32(); 4]);
        for (at, four) in groups.as_chunks::<4>().0.iter().enumerate() {
            let [[high_a, low_a], [high_b, low_b], [high_c, low_c], [high_d, low_d]] = *four;
            highs[at] = lanes.quarter::<true, false>([high_a, high_b, high_c, high_d]);
            lows[at] = lanes.quarter::<false, false>([low_a, low_b, low_c, low_d]);
        }
        let (ranges, rest) = std::mem::take(&mut self.ranges).split_at_mut(count);
        self.ranges = rest;
        // Groups left from before were counted then.
        write::<L, Float32>(lanes, highs, lows, &mut self.largest, ranges);
    }

    /// Whether all values were finite.
    #[inline(always)]
    pub(crate) fn finite(&self) -> bool {
        are_finite::<L, Float32>(self.lanes, self.largest)
    }
}
