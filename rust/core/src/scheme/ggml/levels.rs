//! Blocks of 256 whose parts have scales of few bits, multiples of the block's own.

use super::small::{Line, inverse, outermost, put_half};
use crate::kernel::tile::Bounds;
use crate::lanes::Lanes;

/// Weights of a large block.
pub(super) const LARGE: usize = 256;

/// The two levels of an affine block: each part's scale and minimum are whole multiples, up to `TOP`,
/// of `d` and `dmin`. Minima are zero or below.
pub(super) struct Affine<const PARTS: usize> {
    pub(super) scales: [u8; PARTS],
    pub(super) minima: [u8; PARTS],
    /// As they stand in the block.
    pub(super) d: f32,
    pub(super) dmin: f32,
}

impl<const PARTS: usize> Affine<PARTS> {
    /// For codes from 0 to `top`, each part's extremes are the ends of what it can hold. `d` and `dmin`
    /// are written at byte `at` of the block, one after the other.
    #[inline(always)]
    pub(super) fn fit(
        bounds: &[Bounds],
        [top, top_scale]: [f32; 2],
        at: usize,
        block: &mut [u8],
    ) -> Self {
        let (mut spans, mut depths) = ([0.0f32; PARTS], [0.0f32; PARTS]);
        for ((span, depth), bounds) in spans.iter_mut().zip(&mut depths).zip(bounds) {
            *depth = -bounds.lo;
            *span = (bounds.hi + *depth) / top;
        }
        let largest = |of: &[f32; PARTS]| of.iter().fold(0.0f32, |most, one| most.max(*one));
        let d = put_half(block, at, largest(&spans) / top_scale);
        let dmin = put_half(block, at + 2, largest(&depths) / top_scale);
        let multiples = |of: [f32; PARTS], unit: f32| {
            let inverse = inverse(unit);
            of.map(|one| (one * inverse + 0.5).min(top_scale) as u8)
        };
        Self { scales: multiples(spans, d), minima: multiples(depths, dmin), d, dmin }
    }

    /// The codes of all values.
    #[inline(always)]
    pub(super) fn codes<L: Lanes>(&self, lanes: L, values: &[f32], top: f32, codes: &mut [u8]) {
        let size = LARGE / PARTS;
        let each = values.chunks_exact(size).zip(codes.chunks_exact_mut(size));
        for (part, (values, codes)) in each.enumerate() {
            let scale = self.d * f32::from(self.scales[part]);
            let shift = self.dmin * f32::from(self.minima[part]);
            let line = Line { shift, inverse: inverse(scale), half: 0.5, top };
            line.codes(lanes, values, codes);
        }
    }
}

/// The two levels of a symmetric block: each part's scale is a whole multiple of `d`, with a sign.
pub(super) struct Symmetric<const PARTS: usize> {
    pub(super) scales: [i8; PARTS],
    pub(super) d: f32,
}

impl<const PARTS: usize> Symmetric<PARTS> {
    /// Each part's outermost value has the code `lowest`, which is the one of largest magnitude; the
    /// largest scale is `lowest_scale` times `d`, which is written at byte `at` of the block.
    #[inline(always)]
    pub(super) fn fit(
        values: &[f32],
        bounds: &[Bounds],
        [lowest, lowest_scale]: [f32; 2],
        at: usize,
        block: &mut [u8],
    ) -> Self {
        let mut spans = [0.0f32; PARTS];
        let each = values.chunks_exact(LARGE / PARTS).zip(bounds);
        for (span, (values, bounds)) in spans.iter_mut().zip(each) {
            *span = outermost(values, *bounds) / lowest;
        }
        let further = |most: f32, one: &f32| if one.abs() > most.abs() { *one } else { most };
        let d = put_half(block, at, spans.iter().fold(0.0, further) / lowest_scale);
        let inverse = inverse(d);
        let multiple = |span: f32| {
            let exact = span * inverse;
            let rounded = exact + 0.5f32.copysign(exact);
            rounded.clamp(lowest_scale, -1.0 - lowest_scale) as i8
        };
        Self { scales: spans.map(multiple), d }
    }

    /// The scale of a part.
    #[inline(always)]
    pub(super) fn scale(&self, part: usize) -> f32 {
        self.d * f32::from(self.scales[part])
    }
}

/// Codes of two bits, four in a byte: of 128 codes, byte `j` has those at `j`, `j + 32`, `j + 64` and
/// `j + 96`, the first the lowest.
#[inline(always)]
pub(super) fn join_pairs(codes: &[u8; LARGE], shift: u32, out: &mut [u8]) {
    for (codes, out) in codes.as_chunks::<128>().0.iter().zip(out.as_chunks_mut::<32>().0) {
        for (at, out) in out.iter_mut().enumerate() {
            let pair = |quarter: usize| (codes[at + 32 * quarter] >> shift) & 3;
            *out = pair(0) | (pair(1) << 2) | (pair(2) << 4) | (pair(3) << 6);
        }
    }
}

/// The codes that [`join_pairs`] put together, `shift` bits up and above what is there.
#[inline(always)]
pub(super) fn split_pairs(bytes: &[u8], shift: u32, codes: &mut [u8; LARGE]) {
    for (codes, bytes) in codes.as_chunks_mut::<128>().0.iter_mut().zip(bytes.as_chunks::<32>().0) {
        for (quarter, codes) in codes.as_chunks_mut::<32>().0.iter_mut().enumerate() {
            for (code, byte) in codes.iter_mut().zip(bytes) {
                *code |= ((byte >> (2 * quarter)) & 3) << shift;
            }
        }
    }
}

/// One bit of each code: byte `j` has those of codes `j`, `j + 32` and so on, the first the lowest.
#[inline(always)]
pub(super) fn join_bits(codes: &[u8; LARGE], shift: u32, out: &mut [u8]) {
    let (lines, _) = codes.as_chunks::<32>();
    for (at, out) in out[..32].iter_mut().enumerate() {
        let bit = |line: usize| ((lines[line][at] >> shift) & 1) << line;
        *out = (0..8).fold(0, |bits, line| bits | bit(line));
    }
}

/// The bits that [`join_bits`] put together, `shift` bits up and above what is there.
#[inline(always)]
pub(super) fn split_bits(bytes: &[u8], shift: u32, codes: &mut [u8; LARGE]) {
    for (line, codes) in codes.as_chunks_mut::<32>().0.iter_mut().enumerate() {
        for (code, byte) in codes.iter_mut().zip(bytes) {
            *code |= ((byte >> line) & 1) << shift;
        }
    }
}

/// Eight scales and minima of six bits in twelve bytes. Source: `get_scale_min_k4`.
#[inline(always)]
pub(super) fn join_six_bits(scales: &[u8; 8], minima: &[u8; 8], out: &mut [u8]) {
    for at in 0..4 {
        out[at] = scales[at] | ((scales[at + 4] >> 4) << 6);
        out[at + 4] = minima[at] | ((minima[at + 4] >> 4) << 6);
        out[at + 8] = (scales[at + 4] & 15) | (minima[at + 4] << 4);
    }
}

/// The scales and minima that [`join_six_bits`] put together.
#[inline(always)]
pub(super) fn split_six_bits(bytes: &[u8]) -> ([u8; 8], [u8; 8]) {
    let (mut scales, mut minima) = ([0; 8], [0; 8]);
    for at in 0..4 {
        (scales[at], minima[at]) = (bytes[at] & 63, bytes[at + 4] & 63);
        scales[at + 4] = (bytes[at + 8] & 15) | ((bytes[at] >> 6) << 4);
        minima[at + 4] = (bytes[at + 8] >> 4) | ((bytes[at + 4] >> 6) << 4);
    }
    (scales, minima)
}
