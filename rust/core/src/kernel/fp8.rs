//! Floats of eight bits with scales beside them: `w = code·scale`.

use super::convert;
use super::measure::{Measure, in_full, is_usual};
use super::metrics::Sums;
use super::spans::{Spans, floats};
use super::tile::{Bounds, Buffers, Codes, Tile};
use crate::dtype::{Float, ScaleDtype};
use crate::lanes::Lanes;

/// The largest E4M3 number.
pub(crate) const LARGEST: f32 = 448.0;

/// Where `1/scale` leaves these bounds, values are divided in float64.
const USUAL: std::ops::Range<f32> = 1e-30..1e30;

/// The scale of a group: its largest magnitude becomes the largest number. A group of zeros has
/// scale 1; one whose scale rounds to zero, the smallest that there is.
#[inline(always)]
pub(crate) fn scale(bounds: Bounds, dtype: ScaleDtype) -> f32 {
    let absmax = bounds.absmax();
    if absmax == 0.0 {
        return 1.0;
    }
    let exact = f64::from(absmax) / f64::from(LARGEST);
    let scale = dtype.round(exact).max(dtype.smallest()) as f32;
    // Near float32's limit the largest code may decode to infinity.
    if (scale * LARGEST).is_finite() || !scale.is_finite() {
        scale
    } else {
        dtype.round_down(exact) as f32
    }
}

/// Write the codes of a tile whose groups have these scales.
#[inline(always)]
pub(crate) fn apply<L: Lanes>(
    lanes: L,
    tile: &Tile<'_>,
    scales: &[f32],
    data: &mut [u8],
    buffers: &mut Buffers,
    sums: &mut [Sums],
) {
    let Buffers { values: buffer, decoded, .. } = buffers;
    let mut spans = Spans::new(&tile.grouping, tile.width, tile.phase);
    let part = (scales.len() / sums.len().max(1)).max(1);
    for (sums, scales) in sums.iter_mut().zip(scales.chunks_exact(part)) {
        let (start, mut measure, mut usual) = (spans.clone(), Measure::new(lanes), true);
        for &scale in scales {
            let span = spans.next();
            let values = floats(lanes, tile.values, span.clone(), buffer);
            let codes = &mut data[span];
            encode(lanes, scale, values, codes);
            usual &= is_usual(scale * LARGEST);
            // In stretches that stay in the first-level cache.
            for (values, codes) in values.chunks(STRETCH).zip(codes.chunks(STRETCH)) {
                let decoded = room(decoded, values.len());
                multiply(lanes, scale, codes, decoded);
                measure.add(values, decoded);
            }
        }
        *sums += measure.sums().filter(|_| usual).unwrap_or_else(|| {
            let mut sums = Sums::default();
            let mut spans = start;
            for &scale in scales {
                let span = spans.next();
                let decoded = room(decoded, span.len());
                multiply(lanes, scale, &data[span.clone()], decoded);
                sums += in_full(floats(lanes, tile.values, span, buffer), decoded);
            }
            sums
        });
    }
}

/// Values that are decoded and measured together, a multiple of what [`Measure`] settles.
const STRETCH: usize = 1 << 10;

#[inline(always)]
fn room(buffer: &mut Vec<f32>, len: usize) -> &mut [f32] {
    if buffer.len() < len {
        buffer.resize(len, 0.0);
    }
    &mut buffer[..len]
}

/// The codes of a group: its values over the scale, rounded to nearest, ties to even.
#[inline(always)]
fn encode<L: Lanes>(lanes: L, scale: f32, values: &[f32], codes: &mut [u8]) {
    if !USUAL.contains(&scale) {
        for (code, value) in codes.iter_mut().zip(values) {
            let scaled = (f64::from(*value) / f64::from(scale)) as f32;
            convert::from_f32(lanes, Float::F8E4M3, &[scaled], std::slice::from_mut(code));
        }
        return;
    }
    let inverse = 1.0 / scale;
    let mut scaled = [0.0; 64];
    for (codes, values) in codes.chunks_mut(scaled.len()).zip(values.chunks(scaled.len())) {
        let scaled = &mut scaled[..values.len()];
        for (scaled, value) in scaled.iter_mut().zip(values) {
            *scaled = value * inverse;
        }
        convert::from_f32(lanes, Float::F8E4M3, scaled, codes);
    }
}

#[inline(always)]
fn multiply<L: Lanes>(lanes: L, scale: f32, codes: &[u8], values: &mut [f32]) {
    convert::to_f32(lanes, Float::F8E4M3, codes, values);
    for value in values {
        *value *= scale;
    }
}

/// See `Codec::decode`. A code that is no number decodes to one, as from any damaged file.
#[inline(always)]
pub(crate) fn decode<L: Lanes>(lanes: L, tile: &Codes<'_>, values: &mut [f32]) {
    let mut spans = Spans::new(&tile.grouping, tile.width, tile.phase);
    for &scale in tile.scales {
        let span = spans.next();
        multiply(lanes, scale, &tile.data[span.clone()], &mut values[span]);
    }
}
