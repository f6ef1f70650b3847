//! `iq4_nl`: blocks of 32 codes of four bits with a float16 scale, `w = d·table[q]`.
//!
//! Layout: as `q4_0`. The outermost value becomes −127, the table's own outermost one. Source:
//! `block_iq4_nl`, `kvalues_iq4nl`.

use super::blocked::Blocked;
use super::small::{HALF, SMALL, half, inverse, join, nearest, outermost, put_half, search, split};
use crate::kernel::block::Block;
use crate::kernel::search::{EIGHT, Rising, Units};
use crate::kernel::tile::Bounds;
use crate::lanes::{LANES, Lanes};

pub(in crate::scheme) static IQ4_NL: Blocked<Iq4Nl> = Blocked::new("iq4_nl");

#[derive(Debug)]
pub(in crate::scheme) struct Iq4Nl;

/// What codes stand for.
const NUMBERS: [f32; 16] = [
    -127.0, -104.0, -83.0, -65.0, -49.0, -35.0, -22.0, -10.0, 1.0, 13.0, 25.0, 38.0, 53.0, 69.0,
    89.0, 113.0,
];
/// As [`super::small::REACHES`]: the table has other numbers below zero than above.
pub(super) const REACHES: [f32; EIGHT] = [1.0, 0.88, 0.96, 1.08, 1.16, -0.88, -0.92, -1.0];
/// The code that stands for the largest magnitude.
pub(super) const LOWEST: f32 = NUMBERS[0];

/// The same by their places.
pub(super) const TABLE: Rising = Rising::new(NUMBERS);

impl Block for Iq4Nl {
    const ELEMENTS: usize = SMALL;
    const BYTES: usize = 2 + HALF;
    const LIMIT: f32 = 127.0 * 65504.0;

    type Levels = f32;

    #[inline(always)]
    fn fit<L: Lanes>(_: L, values: &[f32], bounds: &[Bounds]) -> Self::Levels {
        outermost(values, bounds[0]) / LOWEST
    }

    #[inline(always)]
    fn search<L: Lanes>(lanes: L, units: &Units<'_, L>, levels: &mut [Self::Levels]) {
        search(lanes, units, (&TABLE, &REACHES), levels);
    }

    #[inline(always)]
    fn encode<L: Lanes>(lanes: L, values: &[f32], d: Self::Levels, block: &mut [u8]) {
        let d = put_half(lanes, block, 0, d);
        let mut codes = [0; SMALL];
        nearest(lanes, values, inverse(d), &TABLE, &mut codes);
        join::<HALF>(&codes, &mut block[2..]);
    }

    #[inline(always)]
    fn decode<L: Lanes>(lanes: L, block: &[u8], values: &mut [f32]) {
        let mut codes = [0; SMALL];
        split::<HALF>(&block[2..], &mut codes);
        look_up(lanes, &codes, half(block, 0), values);
    }

    fn scale(block: &[u8]) -> f32 {
        half(block, 0).abs()
    }
}

/// What codes stand for, times a scale.
#[inline(always)]
pub(super) fn look_up<L: Lanes>(lanes: L, codes: &[u8], scale: f32, values: &mut [f32]) {
    let scale = lanes.splat(scale);
    for (codes, values) in codes.as_chunks::<LANES>().0.iter().zip(values.as_chunks_mut().0) {
        lanes.store(lanes.mul(lanes.look_up(codes, &NUMBERS), scale), values);
    }
}
