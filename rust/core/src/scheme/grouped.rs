//! The codec of any format of groups, and what such formats share.

use std::marker::PhantomData;

use super::{Codec, Geometry, Layout, Said, Sums};
use crate::dtype::{Float, ScaleDtype};
use crate::error::Unfit;
use crate::kernel::dispatch;
use crate::kernel::grouped::{self, Grouped};
use crate::kernel::tile::{Bounds, Buffers, Codes, Encoded, Grouping, Next, Tile};
use crate::lanes::{LANES, Lanes, Level};

/// Encodes and decodes groups of some format.
#[derive(Debug)]
pub(super) struct OfGroups<F>(PhantomData<F>);

impl<F> OfGroups<F> {
    pub(super) const fn new() -> Self {
        Self(PhantomData)
    }
}

impl<F: Grouped> Codec for OfGroups<F> {
    fn limit(&self) -> f32 {
        F::LIMIT
    }

    /// Only binary16 has a range that a scale can exceed, and not where the source was binary16.
    fn fits(&self, layout: &Layout, source: Float, bounds: &[Bounds]) -> bool {
        let dtype = layout.grouping.scale_dtype;
        let fits = |bounds: &Bounds| match F::BIASED {
            true => dtype.round(f64::from(bounds.absmax()).max(dtype.smallest())).is_finite(),
            false => F::fit(&[], *bounds, dtype, 1.0).scale.is_finite(),
        };
        dtype != ScaleDtype::F16 || source == Float::F16 || bounds.iter().all(fits)
    }

    fn tensor_scale(&self, absmax: f32) -> f32 {
        F::tensor_scale(absmax)
    }

    fn fit(&self, grouping: &Grouping, bounds: &[Bounds], scales: &mut [f32]) {
        grouped::fit::<F>(grouping, bounds, scales);
    }

    fn apply(
        &self,
        level: Level,
        tile: &Tile<'_>,
        out: Encoded<'_>,
        buffers: &mut Buffers,
        sums: &mut [Sums],
    ) {
        dispatch::encode_groups::<F>(level, tile, out, true, buffers, sums);
    }

    fn encode(
        &self,
        level: Level,
        tile: &Tile<'_>,
        out: Encoded<'_>,
        buffers: &mut Buffers,
        sums: &mut [Sums],
        _: Option<&mut Next<'_>>,
    ) {
        dispatch::encode_groups::<F>(level, tile, out, false, buffers, sums);
    }

    fn decode(&self, level: Level, codes: &Codes<'_>, _: &mut Vec<u8>, values: &mut [f32]) {
        dispatch::decode_groups::<F>(level, codes, values);
    }
}

/// The layout of rows of whole groups of `size`, each of which is whole bytes.
pub(super) fn layout<F: Grouped>(
    name: &str,
    geometry: &Geometry,
    size: usize,
    said: Said,
    scale_dtype: ScaleDtype,
) -> Result<Layout, Unfit> {
    let Geometry { rows, columns, .. } = *geometry;
    if !columns.is_multiple_of(size) {
        return Err(Unfit::Shape(format!(
            "scheme '{name}' takes rows of a multiple of {size} elements, and these have {columns}"
        )));
    }
    let bytes = size * F::BITS / 8;
    let row_bytes = (columns / size).checked_mul(bytes);
    Ok(Layout {
        rows,
        grouping: Grouping { columns, group_size: size, symmetric: true, scale_dtype },
        group_rows: 1,
        block: (size, bytes),
        row_bytes: row_bytes
            .ok_or_else(|| Unfit::Shape(format!("rows of {columns} elements overflow")))?,
        has_scales: true,
        zero_point_bits: None,
        has_biases: F::BIASED,
        has_tensor_scale: false,
        said: Said { scale_dtype: Some(scale_dtype), ..said },
    })
}

/// Values that are divided by their scale together.
pub(super) const SOME: usize = 64;

/// At most [`SOME`] values over their scale, with zeros behind the last.
#[inline(always)]
pub(super) fn over(values: &[f32], scale: f32) -> [f32; SOME] {
    /// Where `1/scale` leaves these bounds, values are divided in float64.
    const USUAL: std::ops::Range<f32> = 1e-30..1e30;
    let mut scaled = [0.0; SOME];
    let inverse = 1.0 / scale;
    if USUAL.contains(&scale) {
        for (scaled, value) in scaled.iter_mut().zip(values) {
            *scaled = value * inverse;
        }
    } else {
        for (scaled, value) in scaled.iter_mut().zip(values) {
            *scaled = (f64::from(*value) / f64::from(scale)) as f32;
        }
    }
    scaled
}

/// The codes of four bits that [`Lanes::nibbles`] put in bytes, two in each, the first in the low half.
#[inline(always)]
pub(super) fn split_pairs(bytes: &[u8; LANES / 2]) -> [u8; LANES] {
    let mut codes = [0; LANES];
    for (pair, byte) in codes.as_chunks_mut::<2>().0.iter_mut().zip(bytes) {
        *pair = [byte & 15, byte >> 4];
    }
    codes
}

/// E2M1 codes of sixteen numbers, rounded to nearest, ties to even, at most 6. Source: OCP
/// Microscaling Formats Specification 1.0, table 5.
///
/// Up to 2 the codes of magnitudes are those of halves, up to 4 of ones, from there of twos: the least
/// of the three is the right one.
#[inline(always)]
fn fp4<L: Lanes>(lanes: L, numbers: &[f32; LANES]) -> L::U32 {
    let numbers = lanes.load(numbers);
    let magnitudes = lanes.min(lanes.abs(numbers), lanes.splat(8.0));
    let halves = lanes.round(lanes.add(magnitudes, magnitudes)).1;
    let ones = lanes.add(lanes.round(magnitudes).1, lanes.splat(2.0));
    let twos = lanes.round(lanes.mul(magnitudes, lanes.splat(0.5))).1;
    let twos = lanes.add(twos, lanes.splat(4.0));
    let least = lanes.min(lanes.min(halves, ones), lanes.min(twos, lanes.splat(7.0)));
    lanes.add_shifted::<3>(lanes.truncate(least), lanes.signs(lanes.bits(numbers)))
}

/// E2M1 codes of values over a scale, two in a byte; of one vector, or of pairs of them.
#[inline(always)]
pub(super) fn encode_fp4<L: Lanes>(lanes: L, values: &[f32], scale: f32, codes: &mut [u8]) {
    for (values, codes) in values.chunks(SOME).zip(codes.chunks_mut(SOME / 2)) {
        let scaled = over(values, scale);
        let vectors = scaled.as_chunks::<LANES>().0;
        for (pair, codes) in vectors.as_chunks::<2>().0.iter().zip(codes.chunks_mut(LANES)) {
            let found = [fp4(lanes, &pair[0]), fp4(lanes, &pair[1])];
            let mut bytes = [0; LANES];
            lanes.store_u8(lanes.nibbles(found, 0), &mut bytes);
            codes.copy_from_slice(&bytes[..codes.len()]);
        }
    }
}
