//! `q8_0`: blocks of 32 int8 with a float16 scale, `w = d·q`.
//!
//! Layout: `d` (2 bytes), 32 codes. Source: `block_q8_0`, `quantize_row_q8_0_ref`.

use super::blocked::Blocked;
use super::small::{half, inverse, put_half, search};
use crate::kernel::block::Block;
use crate::kernel::search::{EIGHT, Integers, Units};
use crate::kernel::tile::Bounds;
use crate::lanes::{LANES, Lanes};

pub(in crate::scheme) static Q8_0: Blocked<Q80> = Blocked::new("q8_0");

#[derive(Debug)]
pub(in crate::scheme) struct Q80;

const NUMBERS: Integers = Integers { low: -127.0, high: 127.0 };

/// As [`super::small::REACHES`], of eight bits: a value that is cut off costs more.
const REACHES: [f32; EIGHT] = [1.0, 0.96, 0.97, 0.98, 0.985, 0.99, 0.995, 1.005];

impl Block for Q80 {
    const ELEMENTS: usize = 32;
    const BYTES: usize = 34;
    const LIMIT: f32 = 127.0 * 65504.0;

    type Levels = f32;

    #[inline(always)]
    fn fit<L: Lanes>(_: L, _: &[f32], bounds: &[Bounds]) -> Self::Levels {
        bounds[0].absmax() / 127.0
    }

    #[inline(always)]
    fn search<L: Lanes>(lanes: L, units: &Units<'_, L>, levels: &mut [Self::Levels]) {
        search(lanes, units, (&NUMBERS, &REACHES), levels);
    }

    #[inline(always)]
    fn encode<L: Lanes>(lanes: L, values: &[f32], d: Self::Levels, block: &mut [u8]) {
        let inverse = lanes.splat(inverse(d));
        let (low, high) = (lanes.splat(NUMBERS.low), lanes.splat(NUMBERS.high));
        put_half(lanes, block, 0, d);
        let vectors = block[2..].as_chunks_mut::<LANES>().0.iter_mut().zip(values.as_chunks().0);
        for (codes, values) in vectors {
            let scaled = lanes.mul(lanes.load(values), inverse);
            let numbers = lanes.round_away(lanes.min(lanes.larger(scaled, low), high));
            lanes.store_u8(lanes.low_bytes(numbers, 0), codes);
        }
    }

    #[inline(always)]
    fn decode<L: Lanes>(lanes: L, block: &[u8], values: &mut [f32]) {
        let d = lanes.splat(half(block, 0));
        let zero = lanes.splat(128.0);
        let vectors = block[2..].as_chunks::<LANES>().0.iter().zip(values.as_chunks_mut().0);
        for (codes, values) in vectors {
            // With 128 added, a code is a number without a sign.
            let shifted = codes.map(|code| code ^ 0x80);
            lanes.store(lanes.mul(lanes.sub(lanes.load_u8(&shifted), zero), d), values);
        }
    }

    fn scale(block: &[u8]) -> f32 {
        half(block, 0).abs()
    }
}
