//! The survey of 16-bit numbers, which are not converted: their bits have the order of those of
//! float32, so twice as many are compared at once.

use std::marker::PhantomData;

use super::{Extremes, INFINITY, Source, scan};
use crate::dtype::Float;
use crate::scheme::{PAIRS, Range};
use crate::simd::{LANES, Lanes};

/// One part in so many of the halves behind those at hand is asked for during their survey, the rest
/// while they are encoded: memory would be idle during the one and late for the other.
pub(crate) const SHARE: usize = 4;

/// [`super::survey`] for binary16 or bfloat16 numbers, in groups of `group_size`, a multiple of
/// [`PAIRS`], whichever row they are of.
#[inline(always)]
pub(crate) fn survey_halves<L: Lanes>(
    lanes: L,
    source: Float,
    bytes: &[u8],
    group_size: usize,
    ranges: &mut [Range],
) -> bool {
    let (halves, _) = bytes.as_chunks::<2>();
    let (pairs, _) = halves.as_chunks::<PAIRS>();
    if source == Float::BF16 {
        halves_of::<_, Brain>(lanes, pairs, group_size, ranges)
    } else {
        halves_of::<_, Binary>(lanes, pairs, group_size, ranges)
    }
}

#[inline(always)]
fn halves_of<L: Lanes, H: Half>(
    lanes: L,
    pairs: &[[[u8; 2]; PAIRS]],
    group_size: usize,
    ranges: &mut [Range],
) -> bool {
    let half = PhantomData::<H>;
    let ahead = pairs.as_ptr_range().end.cast::<u8>();
    // The usual sizes have loops of their own.
    match group_size / PAIRS {
        count @ 1 => scan(lanes, Halves::<1, H> { pairs, count, ahead, half }, ranges),
        count @ 2 => scan(lanes, Halves::<2, H> { pairs, count, ahead, half }, ranges),
        count @ 4 => scan(lanes, Halves::<4, H> { pairs, count, ahead, half }, ranges),
        count => scan(lanes, Halves::<0, H> { pairs, count, ahead, half }, ranges),
    }
}

/// A type of 16-bit numbers, whose bits are the high half of a lane.
trait Half {
    /// The bits of infinity.
    const INFINITY: u32;

    fn load<L: Lanes>(lanes: L, halves: &[[u8; 2]; LANES]) -> L::F32;
}

struct Brain;
struct Binary;

impl Half for Brain {
    const INFINITY: u32 = INFINITY;

    #[inline(always)]
    fn load<L: Lanes>(lanes: L, halves: &[[u8; 2]; LANES]) -> L::F32 {
        lanes.load_bf16(halves)
    }
}

impl Half for Binary {
    const INFINITY: u32 = 0x7c00_0000;

    #[inline(always)]
    fn load<L: Lanes>(lanes: L, halves: &[[u8; 2]; LANES]) -> L::F32 {
        lanes.load_f16(halves)
    }
}

/// Groups of `count` times [`PAIRS`] halves; of `COUNT` times so many, where that is not zero.
struct Halves<'a, const COUNT: usize, H> {
    pairs: &'a [[[u8; 2]; PAIRS]],
    count: usize,
    /// Memory that will be wanted soon.
    ahead: *const u8,
    half: PhantomData<H>,
}

impl<L: Lanes, const COUNT: usize, H: Half> Source<L> for Halves<'_, COUNT, H> {
    const INFINITY: u32 = H::INFINITY;

    #[inline(always)]
    fn values(lanes: L, bits: &[u32; LANES]) -> [f32; LANES] {
        let (mut halves, mut values) = ([[0; 2]; LANES], [0.0; LANES]);
        for (half, bits) in halves.iter_mut().zip(bits) {
            *half = ((bits >> 16) as u16).to_le_bytes();
        }
        lanes.store(H::load(lanes, &halves), &mut values);
        values
    }

    #[inline(always)]
    fn next(&mut self, lanes: L) -> Extremes<L> {
        let count = if COUNT == 0 { self.count } else { COUNT };
        let (group, pairs) = self.pairs.split_at(count.min(self.pairs.len()));
        self.pairs = pairs;
        extremes_of_pairs(lanes, group, &mut self.ahead)
    }
}

#[inline(always)]
fn extremes_of_pairs<L: Lanes>(
    lanes: L,
    pairs: &[[[u8; 2]; PAIRS]],
    ahead: &mut *const u8,
) -> Extremes<L> {
    let [mut high, mut low] = [lanes.zero_u32(); 2];
    for pairs in pairs {
        lanes.prefetch(*ahead);
        *ahead = ahead.wrapping_add(size_of_val(pairs) / SHARE);
        let bits = lanes.load_pairs(pairs);
        high = lanes.max_of_pairs::<true>(high, bits);
        low = lanes.max_of_pairs::<false>(low, bits);
    }
    [lanes.larger_half::<true>(high), lanes.larger_half::<false>(low)]
}
