//! The codec of any format of groups, and what such formats share.

use std::marker::PhantomData;

use super::{Codec, Geometry, Layout, Said, Sums};
use crate::dtype::{Float, ScaleDtype};
use crate::error::Unfit;
use crate::kernel::dispatch;
use crate::kernel::grouped::{self, Grouped};
use crate::kernel::search::Floats;
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
        is_nested: false,
        said: Said { scale_dtype: Some(scale_dtype), ..said },
    })
}

/// Where a scale leaves these bounds, values are divided by it in float64.
const USUAL: std::ops::Range<f32> = 1e-30..1e30;

/// Values that are divided by their scale together.
pub(super) const SOME: usize = 64;

/// At most [`SOME`] values over their scale, with zeros behind the last.
#[inline(always)]
pub(super) fn over(values: &[f32], scale: f32) -> [f32; SOME] {
    let mut scaled = [0.0; SOME];
    let inverse = 1.0 / scale;
    if USUAL.contains(&scale.abs()) {
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

/// `1/scale`, where that is a number that values can be multiplied with.
#[inline(always)]
pub(super) fn usual_inverse(scale: f32) -> Option<f32> {
    USUAL.contains(&scale.abs()).then_some(1.0 / scale)
}

/// E2M1 codes of sixteen numbers, rounded to nearest, ties to even, at most 6. Source: OCP
/// Microscaling Formats Specification 1.0, table 5.
///
/// Up to 2 the codes of magnitudes are those of halves, up to 4 of ones, from there of twos: the least
/// of the three is the right one.
#[inline(always)]
fn fp4<L: Lanes>(lanes: L, numbers: L::F32) -> L::U32 {
    let magnitudes = lanes.min(lanes.abs(numbers), lanes.splat(8.0));
    let halves = lanes.round(lanes.add(magnitudes, magnitudes)).1;
    let ones = lanes.add(lanes.round(magnitudes).1, lanes.splat(2.0));
    let twos = lanes.round(lanes.mul(magnitudes, lanes.splat(0.5))).1;
    let twos = lanes.add(twos, lanes.splat(4.0));
    let least = lanes.min(lanes.min(halves, ones), lanes.min(twos, lanes.splat(7.0)));
    lanes.add_shifted::<3>(lanes.truncate(least), lanes.signs(lanes.bits(numbers)))
}

/// The numbers of E2M1; of two that are as near, the one whose code is even.
pub(super) const E2M1: Floats = Floats::new(6.0, 1.0, 1);

/// E2M1 codes of values over a scale, two in a byte, the first in the low half; of whole vectors.
#[inline(always)]
pub(super) fn encode_fp4<L: Lanes>(lanes: L, values: &[f32], scale: f32, codes: &mut [u8]) {
    let Some(inverse) = usual_inverse(scale) else {
        for (values, codes) in values.chunks(SOME).zip(codes.chunks_mut(SOME / 2)) {
            pairs_of_fp4(lanes, &over(values, scale)[..values.len()], 1.0, codes);
        }
        return;
    };
    pairs_of_fp4(lanes, values, inverse, codes);
}

#[inline(always)]
fn pairs_of_fp4<L: Lanes>(lanes: L, values: &[f32], inverse: f32, codes: &mut [u8]) {
    let inverse = lanes.splat(inverse);
    let (pairs, last) = values.as_chunks::<{ 2 * LANES }>();
    let (bytes, last_bytes) = codes.as_chunks_mut::<LANES>();
    for (values, bytes) in pairs.iter().zip(bytes) {
        if let ([first, second], []) = values.as_chunks() {
            let first = fp4(lanes, lanes.mul(lanes.load(first), inverse));
            let second = fp4(lanes, lanes.mul(lanes.load(second), inverse));
            lanes.store_u8(lanes.nibbles([first, second], 0), bytes);
        }
    }
    if let ([values], Some(bytes)) =
        (last.as_chunks().0, last_bytes.first_chunk_mut::<{ LANES / 2 }>())
    {
        let (found, mut both) = (fp4(lanes, lanes.mul(lanes.load(values), inverse)), [0; LANES]);
        lanes.store_u8(lanes.nibbles([found, found], 0), &mut both);
        bytes.copy_from_slice(&both[..LANES / 2]);
    }
}
