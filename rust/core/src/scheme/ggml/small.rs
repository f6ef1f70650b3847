//! What several of the formats share: float16 numbers in a block, and codes of some bits.

use crate::kernel::convert::f16_to_f32;
use crate::kernel::search::line::Line as Lines;
use crate::kernel::search::line::StoredLine;
use crate::kernel::search::{self, EIGHT, Numbers, Rising, Steps, Stored, Units};
use crate::kernel::tile::Bounds;
use crate::lanes::{LANES, Lanes};

/// Weights of a small block, or of each part of a large one that has a scale of its own.
pub(super) const SMALL: usize = 2 * HALF;
/// Half of them: two codes share a byte, one of each half.
pub(super) const HALF: usize = LANES;

/// The float16 number at byte `at`.
#[inline(always)]
pub(super) fn half(block: &[u8], at: usize) -> f32 {
    f16_to_f32(u16::from_le_bytes([block[at], block[at + 1]]))
}

/// The bits of the nearest float16 number, at most the largest one.
#[inline(always)]
pub(super) fn half_bits<L: Lanes>(lanes: L, value: f32) -> u16 {
    lanes.f16_bits(value.clamp(-LARGEST, LARGEST))
}

/// Write a float16 number at byte `at`, and what it became.
#[inline(always)]
pub(super) fn put_half<L: Lanes>(lanes: L, block: &mut [u8], at: usize, value: f32) -> f32 {
    let bits = half_bits(lanes, value);
    block[at..at + 2].copy_from_slice(&bits.to_le_bytes());
    f16_to_f32(bits)
}

/// `1/x`; 0 where that is no number.
#[inline(always)]
pub(super) fn inverse(x: f32) -> f32 {
    let inverse = 1.0 / x;
    if inverse.is_finite() { inverse } else { 0.0 }
}

/// The value of the largest magnitude, of two the first.
#[inline(always)]
pub(super) fn outermost(values: &[f32], Bounds { lo, hi }: Bounds) -> f32 {
    if hi != -lo {
        // Without a branch, of which half are mispredicted.
        return hi.max(-lo).copysign(hi + lo);
    }
    values.iter().copied().find(|value| value.abs() == hi).unwrap_or(0.0)
}

/// What the outermost value becomes, over what it becomes at the usual scale: above 1 it is cut off; below
/// zero it becomes the outermost number of the other sign.
pub(super) const REACHES: [f32; EIGHT] = [1.0, 0.88, 0.96, 1.04, 1.08, 1.12, 1.2, 1.36];

/// The largest float16 number.
const LARGEST: f32 = 65504.0;

/// Scales of float16, of any sign.
struct Half;

/// Numbers over the units' powers as float16 has them, at most its largest.
#[inline(always)]
fn halves<L: Lanes>(lanes: L, numbers: L::F32, units: &Units<'_, L>) -> L::F32 {
    units.over(nearest_halves(lanes, units.times(numbers)))
}

/// The nearest float16 numbers.
#[inline(always)]
pub(super) fn nearest_halves<L: Lanes>(lanes: L, numbers: L::F32) -> L::F32 {
    let least = lanes.larger(numbers, lanes.splat(-LARGEST));
    lanes.nearest_f16(lanes.min(least, lanes.splat(LARGEST)))
}

impl Stored for Half {
    #[inline(always)]
    fn stored<L: Lanes>(&self, lanes: L, scales: L::F32, units: &Units<'_, L>) -> L::F32 {
        halves(lanes, scales, units)
    }
}

impl StoredLine for Half {
    #[inline(always)]
    fn stored<L: Lanes>(&self, lanes: L, line: Lines<L>, units: &Units<'_, L>) -> Lines<L> {
        let scale = halves(lanes, line.scale, units);
        // None below zero
        let scale = lanes.larger(scale, lanes.splat(0.0));
        Lines { scale, offset: halves(lanes, line.offset, units) }
    }
}

/// The scales of blocks, given the usual ones.
#[inline(always)]
pub(super) fn search<L: Lanes>(
    lanes: L,
    units: &Units<'_, L>,
    (numbers, reaches): (&impl Numbers, &[f32; EIGHT]),
    scales: &mut [f32],
) {
    let mut each = [0.0; LANES];
    each[..scales.len()].copy_from_slice(scales);
    let usual = lanes.load(&each);
    let exact = units.over(usual);
    let first = Stored::stored(&Half, lanes, exact, units);
    // Codes are found with scales before these are rounded.
    let inverse = Steps::of_scales(lanes, exact).inverse;
    let steps = Steps { inverse, ..Steps::of_scales(lanes, first) };
    let candidates = search::beside(lanes, first, reaches);
    let found = search::scale(lanes, units, (usual, steps), candidates, &Half, numbers);
    lanes.store(found, &mut each);
    scales.copy_from_slice(&each[..scales.len()]);
}

/// A scale and an offset.
#[derive(Clone, Copy, Debug, Default)]
pub(in crate::scheme) struct Ends {
    pub(super) d: f32,
    pub(super) lo: f32,
}

impl Ends {
    /// Those of values between these, for codes up to `top`.
    #[inline(always)]
    pub(super) fn of([lo, hi]: [f32; 2], top: f32) -> Self {
        Self { d: (hi - lo) / top, lo }
    }

    /// Those of blocks, given the usual ones.
    #[inline(always)]
    pub(super) fn search<L: Lanes>(lanes: L, units: &Units<'_, L>, top: f32, blocks: &mut [Self]) {
        let [mut scales, mut offsets] = [[0.0; LANES]; 2];
        for (lane, Self { d, lo }) in blocks.iter().enumerate() {
            (scales[lane], offsets[lane]) = (*d, *lo);
        }
        let usual = Lines { scale: lanes.load(&scales), offset: lanes.load(&offsets) };
        let exact = Lines { scale: units.over(usual.scale), offset: units.over(usual.offset) };
        let first = StoredLine::stored(&Half, lanes, exact, units);
        // Codes are found with both before they are rounded.
        let Steps { scale, offset, .. } = first.steps(lanes);
        let steps = Steps { scale, offset, ..exact.steps(lanes) };
        let lines = (usual, first, steps);
        let found = search::line::line(lanes, units, top, units.ends(), lines, &Half);
        lanes.store(found.scale, &mut scales);
        lanes.store(found.offset, &mut offsets);
        for (lane, block) in blocks.iter_mut().enumerate() {
            *block = Self { d: scales[lane], lo: offsets[lane] };
        }
    }
}

/// How values become codes: `(w + shift)·inverse + half`, without the fraction, from 0 to `top`.
#[derive(Clone, Copy)]
pub(super) struct Line {
    pub(super) shift: f32,
    pub(super) inverse: f32,
    pub(super) half: f32,
    pub(super) top: f32,
}

impl Line {
    /// Write a code for each of the values, which are whole vectors.
    #[inline(always)]
    pub(super) fn codes<L: Lanes>(self, lanes: L, values: &[f32], codes: &mut [u8]) {
        let Self { shift, inverse, half, top } = self;
        let (shift, inverse) = (lanes.splat(shift), lanes.splat(inverse));
        let (half, top, zero) = (lanes.splat(half), lanes.splat(top), lanes.zero_u32());
        let vectors = codes.as_chunks_mut::<LANES>().0.iter_mut().zip(values.as_chunks().0);
        for (codes, values) in vectors {
            let shifted = lanes.add(lanes.load(values), shift);
            let scaled = lanes.add(lanes.mul(shifted, inverse), half);
            let numbers = lanes.max::<true>(lanes.truncate(lanes.min(scaled, top)), zero);
            lanes.store_u8(lanes.low_bytes(numbers, 0), codes);
        }
    }
}

/// Write `(code − middle)·scale − less` for each code, which are whole vectors.
#[inline(always)]
pub(super) fn decode<L: Lanes, const LESS: bool>(
    lanes: L,
    codes: &[u8],
    [middle, scale, less]: [f32; 3],
    values: &mut [f32],
) {
    let (middle, scale, less) = (lanes.splat(middle), lanes.splat(scale), lanes.splat(less));
    for (codes, values) in codes.as_chunks::<LANES>().0.iter().zip(values.as_chunks_mut().0) {
        let number = lanes.mul(lanes.sub(lanes.load_u8(codes), middle), scale);
        lanes.store(if LESS { lanes.sub(number, less) } else { number }, values);
    }
}

/// Two codes in each byte: the first half of them in its low half.
#[inline(always)]
pub(super) fn join<const N: usize>(codes: &[u8], out: &mut [u8]) {
    let (low, high) = codes[..2 * N].split_at(N);
    for (out, (low, high)) in out[..N].iter_mut().zip(low.iter().zip(high)) {
        *out = (low & 15) | (high << 4);
    }
}

/// The codes that [`join`] put together.
#[inline(always)]
pub(super) fn split<const N: usize>(bytes: &[u8], codes: &mut [u8]) {
    let (low, high) = codes[..2 * N].split_at_mut(N);
    for (byte, (low, high)) in bytes[..N].iter().zip(low.iter_mut().zip(high)) {
        (*low, *high) = (byte & 15, byte >> 4);
    }
}

/// The fifth bits of 32 codes, the first one's lowest.
#[inline(always)]
pub(super) fn fifth_bits(codes: &[u8; SMALL]) -> u32 {
    const ONES: u64 = 0x0101_0101_0101_0101;
    /// Moves the lowest bit of byte `i` to bit `56 + i`.
    const GATHER: u64 = 0x0102_0408_1020_4080;
    let mut bits = 0;
    for (at, eight) in codes.as_chunks::<8>().0.iter().enumerate() {
        let lowest = (u64::from_le_bytes(*eight) >> 4) & ONES;
        bits |= ((lowest.wrapping_mul(GATHER) >> 56) as u32) << (8 * at);
    }
    bits
}

/// Add the fifth bits to codes.
#[inline(always)]
pub(super) fn add_fifth_bits(bits: u32, codes: &mut [u8; SMALL]) {
    for (code, at) in codes.iter_mut().zip(0..) {
        *code |= ((bits >> at & 1) << 4) as u8;
    }
}

/// The code of each value over a scale in a table of sixteen rising numbers.
#[inline(always)]
pub(super) fn nearest<L: Lanes>(
    lanes: L,
    values: &[f32],
    inverse: f32,
    table: &Rising,
    codes: &mut [u8],
) {
    let inverse = lanes.splat(inverse);
    for (values, codes) in values.as_chunks::<LANES>().0.iter().zip(codes.as_chunks_mut().0) {
        let places = table.places(lanes, lanes.mul(lanes.load(values), inverse));
        lanes.store_u8(lanes.low_bytes(places, 0), codes);
    }
}
