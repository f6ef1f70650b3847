//! The extremes of each group.

use crate::scheme::Range;

/// Independent minima and maxima, so that no comparison waits for the one before it. Extremes do
/// not depend on the order in which they are found.
const LANES: usize = 16;

/// The range of every group of `values`, rows of `columns` elements, into `out`, row after row.
#[inline(always)]
pub(crate) fn ranges(values: &[f32], columns: usize, group_size: usize, out: &mut [Range]) {
    let groups = values.chunks(columns).flat_map(|row| row.chunks(group_size));
    for (range, group) in out.iter_mut().zip(groups) {
        *range = extremes(group);
    }
}

#[inline(always)]
fn extremes(group: &[f32]) -> Range {
    let (mut lo, mut hi) = ([0f32; LANES], [0f32; LANES]);
    let (chunks, rest) = group.as_chunks::<LANES>();
    for chunk in chunks {
        for lane in 0..LANES {
            lo[lane] = if chunk[lane] < lo[lane] { chunk[lane] } else { lo[lane] };
            hi[lane] = if chunk[lane] > hi[lane] { chunk[lane] } else { hi[lane] };
        }
    }
    let lo = lo.iter().chain(rest).fold(0f32, |lo, &value| if value < lo { value } else { lo });
    let hi = hi.iter().chain(rest).fold(0f32, |hi, &value| if value > hi { value } else { hi });
    Range { lo, hi }
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
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn ranges_are_the_extremes_with_zero(
            values in prop::collection::vec(-1e3f32..1e3, 1..200),
            group_size in 1usize..80,
        ) {
            let mut out = vec![Range::ZERO; values.len().div_ceil(group_size)];
            ranges(&values, values.len(), group_size, &mut out);
            for (range, group) in out.iter().zip(values.chunks(group_size)) {
                prop_assert_eq!(range.lo, group.iter().copied().fold(0.0, f32::min));
                prop_assert_eq!(range.hi, group.iter().copied().fold(0.0, f32::max));
            }
        }
    }
}
