//! Affine integers: `w ≈ (u − zero point)·scale`, a scale for each group.
//!
//! The symmetric form is that of compressed-tensors (`calculate_qparams`, `quantize` in its
//! `quantization` package), with codes stored as `u = q + 2^(b−1)`.

mod group;
mod parameters;
mod run;

use std::ops::Range as Span;

use crate::kernel::metrics::Sums;
use crate::kernel::pack;
use crate::scheme::{Codes, Encoded, Grouping, Tile};
use crate::simd::{LANES, Lanes};
use group::{Errors, Simple};
pub(crate) use parameters::exact_scale;
use run::{Kind, Run};

/// A line of the caches, in bytes.
const LINE: usize = 64;

/// See [`crate::scheme::Scheme::encode`].
#[inline(always)]
pub(crate) fn encode<L: Lanes>(
    lanes: L,
    bits: u32,
    tile: &Tile<'_>,
    out: Encoded<'_>,
    codes: &mut Vec<u8>,
    sums: &mut Sums,
) {
    let Encoded { data, scales, zero_points } = out;
    let mut encoder = Encoder::new(lanes, bits, tile, scales, zero_points, sums.max_abs_error);
    if bits == 8 && data.len() == tile.values.len() {
        // A code a byte and no padding: the codes are the data.
        encoder.groups(data);
    } else {
        codes.resize(tile.values.len(), 0);
        encoder.groups(codes);
        pack::pack_rows(codes, tile.width, bits, data);
    }
    encoder.errors.add_to(sums);
}

/// A tile on its way through its groups.
struct Encoder<'a, L: Lanes> {
    kind: Kind,
    tile: &'a Tile<'a>,
    scales: std::slice::IterMut<'a, f32>,
    zero_points: std::slice::IterMut<'a, u8>,
    errors: Errors<L>,
    /// The largest error of the layer as far as it is known: only larger ones are looked for.
    known: f32,
    lanes: L,
    /// Bytes of source that are asked for ahead, for each value.
    ahead: usize,
}

impl<'a, L: Lanes> Encoder<'a, L> {
    #[inline(always)]
    fn new(
        lanes: L,
        bits: u32,
        tile: &'a Tile<'a>,
        scales: &'a mut [f32],
        zero_points: &'a mut [u8],
        known: f64,
    ) -> Self {
        let Grouping { symmetric, scale_dtype, .. } = tile.grouping;
        Self {
            kind: Kind { bits, symmetric, scale_dtype },
            tile,
            scales: scales.iter_mut(),
            zero_points: zero_points.iter_mut(),
            errors: Errors::new(lanes),
            known: known as f32,
            lanes,
            ahead: tile.ahead.len() / tile.values.len().max(1),
        }
    }

    /// Write the code of every value, a byte each, and the scales.
    #[inline(always)]
    fn groups(&mut self, codes: &mut [u8]) {
        let mut spans = spans(&self.tile.grouping, self.tile.width, self.tile.phase);
        for ranges in self.tile.ranges.chunks(LANES) {
            let mut run = Run::new(self.kind, ranges);
            let (clamp, track) = (run.clamps(), run.may_exceed(self.known));
            for (at, range) in ranges.iter().enumerate() {
                let span = spans();
                self.fetch_ahead(&span);
                let (values, codes) = (&self.tile.values[span.clone()], &mut codes[span]);
                if run.is_simple(at) {
                    let group = Simple {
                        scale: run.scale[at],
                        inverse: run.inverse[at],
                        zero: run.zero[at],
                        reach: run.reach[at],
                    };
                    let errors = &mut self.errors;
                    match (clamp, track) {
                        (false, false) => errors.simple::<false, false>(group, values, codes),
                        (false, true) => errors.simple::<false, true>(group, values, codes),
                        (true, false) => errors.simple::<true, false>(group, values, codes),
                        (true, true) => errors.simple::<true, true>(group, values, codes),
                    }
                } else {
                    let group = run.general(self.kind, at, *range);
                    self.errors.general(self.kind.bits, &group, values, codes);
                }
            }
            if track {
                self.known = self.known.max(self.errors.largest());
            }
            self.write(&run, ranges.len());
        }
    }

    /// Ask for the source of a later tile, line by line, while this one is computed.
    #[inline(always)]
    fn fetch_ahead(&self, span: &Span<usize>) {
        let ahead = &self.tile.ahead[span.start * self.ahead..span.end * self.ahead];
        for line in ahead.chunks(LINE) {
            self.lanes.prefetch(&line[0]);
        }
    }

    #[inline(always)]
    fn write(&mut self, run: &Run, groups: usize) {
        for (from, scale) in run.scale[..groups].iter().zip(&mut self.scales) {
            *scale = *from;
        }
        for (from, zero_point) in run.zero[..groups].iter().zip(&mut self.zero_points) {
            *zero_point = *from as u8;
        }
    }
}

/// Where each group lies in a tile of rows of `width` elements, one call after the other.
#[inline(always)]
fn spans(grouping: &Grouping, width: usize, phase: usize) -> impl FnMut() -> Span<usize> {
    let group_size = grouping.group_size;
    let (mut row, mut column, mut size) = (0, 0, group_size - phase);
    move || {
        let end = (column + size).min(width);
        let span = row + column..row + end;
        (column, size) = (end, group_size);
        if column == width {
            (row, column) = (row + width, 0);
        }
        span
    }
}

/// See [`crate::scheme::Scheme::decode`].
#[inline(always)]
pub(crate) fn decode<L: Lanes>(
    lanes: L,
    bits: u32,
    tile: &Codes<'_>,
    codes: &mut Vec<u8>,
    values: &mut [f32],
) {
    let half = (1u32 << (bits - 1)) as f32;
    let codes = if bits == 8 && tile.data.len() == values.len() {
        tile.data
    } else {
        codes.resize(values.len(), 0);
        pack::unpack_rows(tile.data, tile.width, bits, codes);
        codes
    };
    let mut spans = spans(&tile.grouping, tile.width, tile.phase);
    for (at, scale) in tile.scales.iter().enumerate() {
        let zero = if tile.grouping.symmetric { half } else { f32::from(tile.zero_points[at]) };
        let span = spans();
        group::decode(lanes, *scale, zero, &codes[span.clone()], &mut values[span]);
    }
}
