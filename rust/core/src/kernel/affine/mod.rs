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
use group::{Ahead, Errors, Simple};
pub(crate) use parameters::exact_scale;
use run::{Kind, Run};

/// Source memory is asked for so many bytes ahead of its use.
const AHEAD: usize = 1 << 14;

/// See [`crate::scheme::Scheme::encode`].
#[inline(always)]
pub(crate) fn encode<L: Lanes>(
    lanes: L,
    bits: u32,
    tile: &Tile<'_>,
    out: Encoded<'_>,
    codes: &mut Vec<u8>,
    sums: &mut [Sums],
) {
    let Encoded { data, scales, zero_points } = out;
    let mut encoder = Encoder::new(lanes, bits, tile, scales, zero_points);
    if bits == 8 && data.len() == tile.values.len() {
        // A code a byte and no padding: the codes are the data.
        encoder.groups(data, sums);
    } else {
        codes.resize(tile.values.len(), 0);
        encoder.groups(codes, sums);
        pack::pack_rows(codes, tile.width, bits, data);
    }
}

/// A tile on its way through its groups.
struct Encoder<'a, L: Lanes> {
    kind: Kind,
    tile: &'a Tile<'a>,
    scales: std::slice::IterMut<'a, f32>,
    zero_points: std::slice::IterMut<'a, u8>,
    lanes: L,
}

impl<'a, L: Lanes> Encoder<'a, L> {
    #[inline(always)]
    fn new(
        lanes: L,
        bits: u32,
        tile: &'a Tile<'a>,
        scales: &'a mut [f32],
        zero_points: &'a mut [u8],
    ) -> Self {
        let Grouping { symmetric, scale_dtype, .. } = tile.grouping;
        Self {
            kind: Kind { bits, symmetric, scale_dtype },
            tile,
            scales: scales.iter_mut(),
            zero_points: zero_points.iter_mut(),
            lanes,
        }
    }

    /// Write the code of every value, a byte each, and the scales.
    #[inline(always)]
    fn groups(&mut self, codes: &mut [u8], sums: &mut [Sums]) {
        let Tile { source, values, .. } = *self.tile;
        let ahead = Ahead {
            address: source.as_ptr().wrapping_add(AHEAD),
            step: source.len() / values.len().max(1) * LANES,
        };
        let (mut errors, mut general) = (Errors::new(self.lanes, ahead), Sums::default());
        // Of a layer whose largest error is known so far, only larger ones are looked for.
        let mut known = if let [sums] = sums { Some(sums.max_abs_error as f32) } else { None };
        let part = self.tile.ranges.len() / sums.len().max(1);
        let (mut sums, mut left) = (sums.iter_mut(), part);
        let mut spans = spans(&self.tile.grouping, self.tile.width, self.tile.phase);
        for ranges in self.tile.ranges.chunks(LANES) {
            let mut run = Run::new(self.kind, ranges);
            let clamp = run.clamps();
            let track = known.is_none_or(|known| run.may_exceed(known));
            for (at, range) in ranges.iter().enumerate() {
                let span = spans();
                let (values, codes) = (&self.tile.values[span.clone()], &mut codes[span]);
                if run.is_simple(at) {
                    let group = Simple {
                        scale: run.scale[at],
                        inverse: run.inverse[at],
                        zero: run.zero[at],
                        reach: run.reach[at],
                    };
                    errors = match (clamp, track) {
                        (false, false) => errors.simple::<false, false>(group, values, codes),
                        (false, true) => errors.simple::<false, true>(group, values, codes),
                        (true, false) => errors.simple::<true, false>(group, values, codes),
                        (true, true) => errors.simple::<true, true>(group, values, codes),
                    };
                } else {
                    let group = run.general(self.kind, at, *range);
                    general += group::general(self.kind.bits, &group, values, codes);
                }
                left -= 1;
                if left == 0 {
                    if let Some(sums) = sums.next() {
                        general += errors.sums();
                        *sums += std::mem::take(&mut general);
                    }
                    errors = Errors::new(self.lanes, errors.ahead());
                    left = part;
                }
            }
            if let (Some(known), true) = (&mut known, track) {
                *known = known.max(errors.largest());
            }
            self.write(&run, ranges.len());
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
