//! The largest bits of sixteen groups' values, and the bounds that they say.

use crate::kernel::stored::{Extremes, Stored};
use crate::kernel::tile::Bounds;
use crate::lanes::{LANES, Lanes};

const SIGN: u32 = 0x8000_0000;

/// The extremes with those of some lines more.
#[inline(always)]
pub(super) fn extremes<L: Lanes, S: Stored>(
    lanes: L,
    lines: &[S::Line],
    mut extremes: Extremes<L>,
) -> Extremes<L> {
    for line in lines {
        extremes = S::extend(lanes, extremes, line);
    }
    extremes
}

#[inline(always)]
pub(super) fn quarter<L: Lanes, S: Stored, const SIGNED: bool>(
    lanes: L,
    vectors: [L::U32; 4],
) -> L::U32 {
    if S::PAIRS {
        lanes.quarter::<SIGNED, true>(vectors)
    } else {
        lanes.quarter::<SIGNED, false>(vectors)
    }
}

/// The ranges of up to sixteen groups from their lanes' extremes, which are then part of `largest`.
#[inline(always)]
pub(super) fn write<L: Lanes, S: Stored>(
    lanes: L,
    highs: [L::U32; 4],
    lows: [L::U32; 4],
    largest: &mut Extremes<L>,
    ranges: &mut [Bounds],
) {
    let [highs, lows] = if S::PAIRS {
        [lanes.maxima::<true, true>(highs), lanes.maxima::<false, true>(lows)]
    } else {
        [lanes.maxima::<true, false>(highs), lanes.maxima::<false, false>(lows)]
    };
    let [highs, lows] = S::finish(lanes, [highs, lows]);
    let [positive, negative] = *largest;
    *largest = [lanes.max::<false>(positive, highs), lanes.max::<false>(negative, lows)];
    let (mut high, mut low) = ([0; LANES], [0; LANES]);
    lanes.store_u32(highs, &mut high);
    lanes.store_u32(lows, &mut low);
    // Minus zero is zero, and so is what is left where no value is negative.
    for low in &mut low {
        *low = if *low > SIGN { *low } else { 0 };
    }
    let (high, low) = (S::values(lanes, &high), S::values(lanes, &low));
    for ((range, hi), lo) in ranges.iter_mut().zip(high).zip(low) {
        *range = Bounds { lo, hi };
    }
}

#[inline(always)]
pub(super) fn are_finite<L: Lanes, S: Stored>(lanes: L, [positive, negative]: Extremes<L>) -> bool {
    lanes.largest(positive) < S::INFINITY && lanes.largest(negative) < SIGN | S::INFINITY
}
