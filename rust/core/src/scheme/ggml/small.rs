//! What several of the formats share: float16 numbers in a block, and codes of some bits.

use crate::kernel::convert::{f16_from_f32, f16_to_f32};
use crate::kernel::search::line::StoredLine;
use crate::kernel::search::{self, EIGHT, Numbers, Rising, Searching, Steps, Stored, Unit};
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

/// Write a float16 number at byte `at`, and what it became.
#[inline(always)]
pub(super) fn put_half(block: &mut [u8], at: usize, value: f32) -> f32 {
    let bits = f16_from_f32(value);
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
        return if hi > -lo { hi } else { lo };
    }
    values.iter().copied().find(|value| value.abs() == hi).unwrap_or(0.0)
}

/// What the outermost value becomes, over what it becomes at the usual scale: above 1 it is cut off; below
/// zero it becomes the outermost number of the other sign.
pub(super) const REACHES: [f32; EIGHT - 1] = [0.88, 0.96, 1.04, 1.08, 1.12, 1.2, 1.36];

/// Scales of float16, of any sign.
struct Half;

impl Half {
    #[inline(always)]
    fn number(x: f64, unit: &Unit<'_>) -> f64 {
        unit.over(f16_to_f32(f16_from_f32(unit.times(x))))
    }
}

impl Stored for Half {
    #[inline(always)]
    fn stored(&self, scale: f64, unit: &Unit<'_>) -> Option<f64> {
        let rounded = Self::number(scale, unit);
        (rounded != 0.0 && rounded.is_finite()).then_some(rounded)
    }
}

impl StoredLine for Half {
    #[inline(always)]
    fn stored(&self, line: search::line::Line, unit: &Unit<'_>) -> Option<search::line::Line> {
        let line = search::line::Line {
            scale: Self::number(line.scale, unit),
            offset: Self::number(line.offset, unit),
        };
        (line.scale > 0.0 && line.scale.is_finite() && line.offset.is_finite()).then_some(line)
    }
}

/// The scale of a block, given the usual one; itself where there is nothing to search with.
#[inline(always)]
pub(super) fn searched<L: Lanes>(
    lanes: L,
    (values, bounds): (&[f32], &[Bounds]),
    usual: f32,
    (numbers, reaches): (&impl Numbers, &[f32; EIGHT - 1]),
    searching: Option<Searching<'_>>,
) -> f32 {
    let Some(searching) = searching else { return usual };
    let Some(unit) = Unit::new(lanes, values, bounds[0].absmax(), searching) else { return usual };
    let exact = unit.over(usual);
    let Some(first) = Stored::stored(&Half, exact, &unit) else { return usual };
    // Codes are found with the scale before it is rounded.
    let steps = Steps { inverse: (1.0 / exact) as f32, ..Steps::of_scale(first) };
    let candidates = search::beside(first, reaches);
    let found = search::scale(lanes, &unit, steps, candidates, &Half, numbers);
    found.map_or(usual, |scale| unit.times(scale))
}

/// The scale and the offset of a block with these ends, for codes up to `top`.
#[inline(always)]
pub(super) fn searched_line<L: Lanes>(
    lanes: L,
    values: &[f32],
    [lo, hi]: [f32; 2],
    top: f32,
    searching: Option<Searching<'_>>,
) -> (f32, f32) {
    let usual = ((hi - lo) / top, lo);
    let Some(searching) = searching else { return usual };
    let Some(unit) = Unit::new(lanes, values, hi.max(-lo), searching) else { return usual };
    let exact = search::line::Line { scale: unit.over(usual.0), offset: unit.over(lo) };
    let Some(first) = StoredLine::stored(&Half, exact, &unit) else { return usual };
    // Codes are found with both before they are rounded.
    let steps = Steps { scale: first.scale as f32, offset: first.offset as f32, ..exact.steps() };
    let ends = [unit.over(lo), unit.over(hi)];
    let found = search::line::line(lanes, &unit, top, ends, (first, steps), &Half);
    found.map_or(usual, |line| (unit.times(line.scale), unit.times(line.offset)))
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
